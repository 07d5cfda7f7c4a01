//! What is not refused as ambiguous is read alike: random and broken messages, through a model of protobuf.js 7's decoder
//! and through prost-reflect. And what an encoder writes is never refused.

use std::collections::BTreeMap;

use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, ExtensionDescriptor, FieldDescriptor, Kind, MapKey};
use prost_reflect::{MessageDescriptor, ReflectMessage as _, Value};
use protocg::policy::{self, Policy};
use protocg_oracle::message::wire_of;

use crate::rig::{Random, fixture, run_here, seed};
use crate::wire::*;

const PROTO: &str = r#"
syntax = "proto2"; package t;
enum E { A = 0; B = 1; }
message Leaf {
  optional string s = 1; optional int32 n = 2; optional bool f = 3; repeated sint32 ns = 4; optional Leaf leaf = 5;
  optional bytes b = 6; repeated fixed32 fxs = 7; repeated double ds = 8;
}
message M {
  optional string s = 1; optional int32 n = 2; optional bool f = 3; optional uint64 u = 4; optional sint32 z = 5; optional E e = 6;
  optional float fl = 7; optional fixed64 fx = 8; optional Leaf leaf = 9; repeated Leaf leaves = 10; map<string, int32> m = 11;
  map<int32, Leaf> by = 12; map<bool, bytes> bb = 13;
  oneof o { string o_s = 14; int32 o_n = 15; Leaf o_m = 16; Leaf o_k = 17; }
  optional group G = 18 { optional string s = 1; optional Leaf leaf = 2; optional M m = 3; }
  repeated group H = 19 { optional int32 n = 1; }
  repeated int32 ns = 20; repeated uint64 us = 21; repeated bool fs = 22; repeated E es = 23 [packed = true];
  repeated fixed32 fxs = 24; repeated string ss = 25; optional M self = 26;
  extensions 100 to 200;
}
extend M { optional Leaf x_leaf = 100; optional int32 x_n = 101; repeated sint64 x_ns = 102; }
service S { rpc R(M) returns (M); }
"#;

const CONDITIONS: [&str; 6] = [
    r#"request.s == "x""#,
    "request.leaf.leaf.n == 1 || request.f",
    "request.ns.exists(n, n == 1) || request.us.size() > 2",
    r#"request.m["a"] == 1 || request.by[1].n == 1"#,
    r#"request.o_s == "a" || request.o_m.n == 1"#,
    r#"request.leaves.exists(l, l.s == "a" && l.f) || request.self.leaf.b == b"a""#,
];

/// A field, or an extension.
enum Member {
    Field(FieldDescriptor),
    Extension(ExtensionDescriptor),
}

impl Member {
    fn of(message: &MessageDescriptor, number: u32) -> Option<Member> {
        let extension = || message.get_extension(number).map(Member::Extension);
        message.get_field(number).map(Member::Field).or_else(extension)
    }

    fn kind(&self) -> Kind {
        match self {
            Member::Field(it) => it.kind(),
            Member::Extension(it) => it.kind(),
        }
    }

    fn is(&self, field: fn(&FieldDescriptor) -> bool, extension: fn(&ExtensionDescriptor) -> bool) -> bool {
        match self {
            Member::Field(it) => field(it),
            Member::Extension(it) => extension(it),
        }
    }

    fn is_list(&self) -> bool {
        self.is(FieldDescriptor::is_list, ExtensionDescriptor::is_list)
    }

    fn is_map(&self) -> bool {
        self.is(FieldDescriptor::is_map, |_| false)
    }

    fn is_group(&self) -> bool {
        self.is(FieldDescriptor::is_group, ExtensionDescriptor::is_group)
    }
}

/// What was read: values by field, with all members of a oneof.
type Tree = BTreeMap<u32, Vec<Read>>;

#[derive(Debug, Clone, PartialEq)]
enum Read {
    Number(u64),
    Bytes(Vec<u8>),
    Message(Tree),
    Entry(Box<Read>, Box<Read>),
}

fn default(kind: &Kind) -> Read {
    match kind {
        Kind::String | Kind::Bytes => Read::Bytes(Vec::new()),
        Kind::Message(_) => Read::Message(Tree::new()),
        _ => Read::Number(0),
    }
}

/// It throws.
#[derive(Debug)]
struct Thrown;
type Js<T> = Result<T, Thrown>;

/// protobuf.js 7.5, src/reader.js and src/decoder.js.
struct Reader<'b> {
    buf: &'b [u8],
    pos: usize,
}

impl Reader<'_> {
    fn byte(&mut self) -> Js<u8> {
        let byte = *self.buf.get(self.pos).ok_or(Thrown)?;
        self.pos += 1;
        Ok(byte)
    }

    /// Five bytes, or ten of which the last five are not looked at.
    fn uint32(&mut self) -> Js<u32> {
        let mut value = 0;
        for i in 0..5 {
            let byte = self.byte()?;
            value |= u32::from(byte & if i == 4 { 15 } else { 127 }) << (7 * i);
            if byte < 128 {
                return Ok(value);
            }
        }
        self.skip(5)?;
        Ok(value)
    }

    fn int64(&mut self) -> Js<u64> {
        let mut value = 0u64;
        if self.buf.len() - self.pos <= 4 {
            for i in 0..4 {
                let byte = self.byte()?;
                value |= u64::from(byte & 127) << (7 * i);
                if byte < 128 || i == 3 {
                    return Ok(value);
                }
            }
        }
        for i in 0..10 {
            let byte = self.byte()?;
            value |= u64::from(byte & 127) << (7 * i);
            if byte < 128 {
                return Ok(value);
            }
        }
        Err(Thrown)
    }

    fn skip(&mut self, count: usize) -> Js<()> {
        if count > self.buf.len() - self.pos {
            return Err(Thrown);
        }
        self.pos += count;
        Ok(())
    }

    fn take(&mut self, count: usize) -> Js<&[u8]> {
        let from = self.pos;
        self.skip(count)?;
        Ok(&self.buf[from..self.pos])
    }

    fn skip_type(&mut self, wire: u32) -> Js<()> {
        match wire {
            0 => while self.byte()? >= 128 {},
            1 => self.skip(8)?,
            2 => {
                let count = self.uint32()? as usize;
                self.skip(count)?;
            }
            3 => loop {
                match self.uint32()? & 7 {
                    4 => return Ok(()),
                    inner => self.skip_type(inner)?,
                }
            },
            5 => self.skip(4)?,
            _ => return Err(Thrown),
        }
        Ok(())
    }

    /// A value that is no message.
    fn scalar(&mut self, kind: &Kind) -> Js<Read> {
        let signed = |n: u32| i64::from(n.cast_signed()).cast_unsigned();
        Ok(Read::Number(match kind {
            Kind::Bool => u64::from(self.uint32()? != 0),
            Kind::Int32 | Kind::Enum(_) => signed(self.uint32()?),
            Kind::Uint32 => self.uint32()?.into(),
            Kind::Sint32 => {
                let n = self.uint32()?;
                signed((n >> 1) ^ (n & 1).wrapping_neg())
            }
            Kind::Int64 | Kind::Uint64 => self.int64()?,
            Kind::Sint64 => {
                let n = self.int64()?;
                (n >> 1) ^ (n & 1).wrapping_neg()
            }
            Kind::Fixed32 | Kind::Float => u32::from_le_bytes(self.take(4)?.try_into().unwrap()).into(),
            Kind::Sfixed32 => signed(u32::from_le_bytes(self.take(4)?.try_into().unwrap())),
            Kind::Fixed64 | Kind::Sfixed64 | Kind::Double => u64::from_le_bytes(self.take(8)?.try_into().unwrap()),
            Kind::String | Kind::Bytes => {
                let mut count = self.uint32()? as usize;
                if matches!(kind, Kind::String) {
                    count = count.min(self.buf.len() - self.pos); // src/reader_buffer.js
                }
                return Ok(Read::Bytes(self.take(count)?.to_vec()));
            }
            Kind::Message(_) => unreachable!(),
        }))
    }

    fn value(&mut self, kind: &Kind) -> Js<Read> {
        let Kind::Message(inner) = kind else { return self.scalar(kind) };
        let length = self.uint32()? as usize;
        let end = self.pos + length;
        Ok(Read::Message(self.message(inner, end, None)?))
    }

    fn message(&mut self, descriptor: &MessageDescriptor, end: usize, ends_with: Option<u32>) -> Js<Tree> {
        let mut tree = Tree::new();
        while self.pos < end {
            let tag = self.uint32()?;
            if Some(tag) == ends_with {
                break;
            }
            let number = tag >> 3;
            let Some(member) = Member::of(descriptor, number) else {
                self.skip_type(tag & 7)?;
                continue;
            };
            let kind = member.kind();
            let numeric = !matches!(kind, Kind::String | Kind::Bytes | Kind::Message(_));
            let values = tree.entry(number).or_default();
            match &kind {
                Kind::Message(entry) if member.is_map() => {
                    let entry = self.entry(entry)?;
                    values.push(entry);
                }
                Kind::Message(inner) if member.is_group() => {
                    let group = self.message(inner, self.buf.len(), Some(tag & !7 | 4))?;
                    if !member.is_list() {
                        values.clear();
                    }
                    values.push(Read::Message(group));
                }
                _ if member.is_list() && numeric && tag & 7 == 2 => {
                    let length = self.uint32()? as usize;
                    let end = self.pos + length;
                    while self.pos < end {
                        values.push(self.scalar(&kind)?);
                    }
                }
                _ => {
                    let value = self.value(&kind)?;
                    if !member.is_list() {
                        values.clear();
                    }
                    values.push(value);
                }
            }
        }
        Ok(tree)
    }

    fn entry(&mut self, entry: &MessageDescriptor) -> Js<Read> {
        let (key_kind, kind) = (entry.map_entry_key_field().kind(), entry.map_entry_value_field().kind());
        let (mut key, mut value) = (default(&key_kind), default(&kind));
        let length = self.uint32()? as usize;
        let end = self.pos + length;
        while self.pos < end {
            let tag = self.uint32()?;
            match tag >> 3 {
                1 => key = self.scalar(&key_kind)?,
                2 => value = self.value(&kind)?,
                _ => self.skip_type(tag & 7)?,
            }
        }
        Ok(Read::Entry(Box::new(key), Box::new(value)))
    }
}

/// Maps in the order of their keys, the last entry of a key; no empty lists.
fn tidy(tree: &mut Tree) {
    for values in tree.values_mut() {
        let mut map: Vec<(String, Read)> = Vec::new();
        for value in values.iter_mut() {
            match value {
                Read::Message(inner) => tidy(inner),
                Read::Entry(key, value) => {
                    if let Read::Message(inner) = &mut **value {
                        tidy(inner);
                    }
                    let name = format!("{key:?}");
                    map.retain(|(other, _)| *other != name);
                    map.push((name, Read::Entry(key.clone(), value.clone())));
                }
                _ => {}
            }
        }
        if !map.is_empty() {
            map.sort_by(|a, b| a.0.cmp(&b.0));
            *values = map.into_iter().map(|(_, entry)| entry).collect();
        }
    }
    tree.retain(|_, values| !values.is_empty());
}

fn javascript(descriptor: &MessageDescriptor, wire: &[u8]) -> Js<Tree> {
    let mut tree = Reader { buf: wire, pos: 0 }.message(descriptor, wire.len(), None)?;
    tidy(&mut tree);
    Ok(tree)
}

fn read(value: &Value) -> Vec<Read> {
    let one = |number: u64| vec![Read::Number(number)];
    match value {
        Value::Bool(it) => one(u64::from(*it)),
        Value::I32(it) | Value::EnumNumber(it) => one(i64::from(*it).cast_unsigned()),
        Value::I64(it) => one(it.cast_unsigned()),
        Value::U32(it) => one(u64::from(*it)),
        Value::U64(it) => one(*it),
        Value::F32(it) => one(u64::from(it.to_bits())),
        Value::F64(it) => one(it.to_bits()),
        Value::String(it) => vec![Read::Bytes(it.clone().into_bytes())],
        Value::Bytes(it) => vec![Read::Bytes(it.to_vec())],
        Value::Message(it) => vec![Read::Message(by_definition(it))],
        Value::List(it) => it.iter().flat_map(read).collect(),
        Value::Map(it) => {
            let key = |key: &MapKey| read(&Value::from(key.clone())).remove(0);
            it.iter().map(|(name, value)| Read::Entry(Box::new(key(name)), Box::new(read(value).remove(0)))).collect()
        }
    }
}

fn by_definition(message: &DynamicMessage) -> Tree {
    let fields = message.fields().map(|(field, value)| (field.number(), read(value)));
    let mut tree: Tree = fields.chain(message.extensions().map(|(it, value)| (it.number(), read(value)))).collect();
    tidy(&mut tree);
    tree
}

const TEXTS: [&str; 5] = ["", "a", "x", "\n\u{1}a", "\u{12}\u{2}xx"];

fn small(random: &mut Random) -> u64 {
    match random.below(8) {
        0 => random.draw(),
        1 => random.draw() & 0xffff_ffff,
        2 => u64::MAX,
        _ => random.pick(&[0, 1, 2, 7, 200]),
    }
}

/// A varint, now and then longer than it need be; `odd` of a hundred.
fn any_varint(random: &mut Random, value: u64, odd: usize) -> Vec<u8> {
    if random.below(100) < odd { long_varint(value, 1 + random.below(10)) } else { varint(value) }
}

/// Random fields; `odd` of a hundred things are not as an encoder has them.
fn wire(random: &mut Random, descriptor: &MessageDescriptor, depth: usize, odd: usize) -> Vec<u8> {
    let numbers: Vec<u32> =
        descriptor.fields().map(|it| it.number()).chain(descriptor.extensions().map(|it| it.number())).collect();
    let mut out = Vec::new();
    for _ in 0..random.below(5) {
        let mut number = random.pick(&numbers);
        let member = Member::of(descriptor, number).unwrap();
        let kind = member.kind();
        let mut wire_type = if member.is_group() { 3 } else { wire_of(&kind) };
        let packed = member.is_list() && wire_type != 2 && wire_type != 3 && random.one_in(2);
        let own = wire_type;
        if packed {
            wire_type = 2;
        }
        if random.below(100) < odd {
            wire_type = random.pick(&[0, 1, 2, 3, 5]);
        }
        if random.one_in(12) {
            number = 900;
        }
        out.extend(any_varint(random, u64::from(number) << 3 | wire_type, odd));
        let inside = match (&kind, wire_type) {
            (Kind::Message(inner), 2 | 3) if depth > 0 => wire(random, inner, depth - 1, odd),
            (Kind::Message(_), 3) => Vec::new(),
            (_, 2) if packed => {
                let mut list = Vec::new();
                for _ in 0..random.below(4) {
                    match own {
                        0 => {
                            let value = small(random);
                            list.extend(any_varint(random, value, odd));
                        }
                        1 => list.extend(small(random).to_le_bytes()),
                        _ => list.extend((small(random) as u32).to_le_bytes()),
                    }
                }
                list
            }
            _ => random.pick(&TEXTS).as_bytes().to_vec(),
        };
        match wire_type {
            0 => {
                let value = small(random);
                out.extend(any_varint(random, value, odd));
            }
            1 => out.extend(small(random).to_le_bytes()),
            5 => out.extend((small(random) as u32).to_le_bytes()),
            3 => {
                out.extend(if matches!(kind, Kind::Message(_)) { inside } else { bytes(1, "a") });
                out.extend(tag(number, 4));
            }
            _ => {
                let off = if random.below(100) < odd { random.below(5) } else { 0 };
                let length = if random.one_in(2) { inside.len() + off } else { inside.len().saturating_sub(off) };
                out.extend(any_varint(random, length as u64, odd));
                out.extend(inside);
            }
        }
    }
    if random.below(300) < odd && !out.is_empty() {
        let at = random.below(out.len());
        out[at] ^= 1 << random.below(8);
    }
    out
}

/// More sub-messages and members of a oneof than a word has bits.
#[test]
fn what_has_come_is_remembered_of_large_messages() {
    let fields: String = (1..=300).map(|i| format!("In f{i} = {i};")).collect();
    let members: String = (301..=400).map(|i| format!("int32 m{i} = {i};")).collect();
    let proto = format!(
        "syntax = \"proto3\"; package t; message In {{ M m = 1; }} service S {{ rpc R(M) returns (M); }} \
         message M {{ {fields} oneof o {{ {members} }} string s = 500; }}"
    );
    let policy = compile(&proto, r#"request.s == "x""#);
    let mut random = Random(1);
    let mut is = |wire: &[u8], reason: Option<&str>| {
        assert_eq!(judge(&policy, &mut random, wire).as_deref(), reason, "{wire:02x?}");
    };
    let all: Vec<u8> = (1..=300).rev().flat_map(|i| bytes(i, "")).collect();
    is(&all, None);
    // five words a message and one for what it is in: five of them fit, inside each other
    let inside = |depth: usize| (0..depth).fold(all.clone(), |inner, _| bytes(7, bytes(1, inner)));
    is(&inside(4), None);
    is(&inside(5), Some("message_depth"));
    is(&[inside(3), bytes(7, "")].concat(), Some("protobuf_repeated"));
    for i in 1..=300 {
        is(&[bytes(i, ""), bytes(i % 300 + 1, ""), number(333, 1)].concat(), None);
        is(&[bytes(i, ""), bytes(i % 300 + 1, ""), bytes(i, "")].concat(), Some("protobuf_repeated"));
        is(&bytes(i, bytes(1, [bytes(i, ""), number(333, 1)].concat())), None);
    }
    for i in 301..=400 {
        is(&[number(i, 0), number(i, 1)].concat(), None);
        is(&[number(i, 0), number(if i == 400 { 301 } else { i + 1 }, 0)].concat(), Some("protobuf_oneof"));
    }
}

struct World {
    policies: Vec<(String, Policy)>,
    descriptor: MessageDescriptor,
}

fn compile(proto: &str, condition: &str) -> Policy {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("t.proto"), proto).unwrap();
    let text = format!(
        "name = \"t\"\nproto = [\"t.proto\"]\nports = [50051]\ndefault = \"allow\"\n\
         [[deny]]\nname = \"r\"\nmethods = [\"/t.S/R\"]\nwhen = '''{condition}'''\n"
    );
    let policy = policy::compile(&text, &folder.path().join("t.toml"));
    policy.unwrap_or_else(|error| panic!("{:?}", miette::Report::new(error)))
}

fn world() -> World {
    let policies = CONDITIONS.map(|condition| (condition.to_owned(), compile(PROTO, condition)));
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("t.proto"), PROTO).unwrap();
    let set = protox::compile(["t.proto"], [folder.path()]).unwrap();
    let pool = DescriptorPool::from_file_descriptor_set(set).unwrap();
    World { policies: policies.into(), descriptor: pool.get_message_by_name("t.M").unwrap() }
}

/// Why it is refused, if it is.
fn judge(policy: &Policy, random: &mut Random, wire: &[u8]) -> Option<String> {
    let it = fixture("", "", &[unary(1, "/t.S/R", wire)], &[]);
    let (whole, _) = run_here(policy, &it, &[]);
    let cuts = random.cuts(it.bytes.len(), 6);
    assert_eq!(run_here(policy, &it, &cuts).0, whole);
    match whole.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] | ["deny r on 1#1"] => None,
        [event] => Some(event.strip_prefix("deny !").and_then(|it| it.strip_suffix(" on 1#1")).unwrap().to_owned()),
        _ => panic!("{whole:?}"),
    }
}

#[test]
fn what_is_not_ambiguous_is_read_alike() {
    let world = world();
    let first = seed(1);
    let (mut alike, mut apart, mut by_reason) = (0, 0, BTreeMap::<String, usize>::new());
    for seed in first..first + 100_000 {
        let mut random = Random(seed << 20);
        let odd = random.pick(&[1, 3, 10]);
        let wire = wire(&mut random, &world.descriptor, 4, odd);
        let (condition, policy) = &world.policies[random.below(world.policies.len())];
        let refused = judge(policy, &mut random, &wire);
        let ours = DynamicMessage::decode(world.descriptor.clone(), wire.as_slice());
        let theirs = javascript(&world.descriptor, &wire);
        let context = || format!("PROTOCG_SEED={seed} {condition} {wire:02x?}\n{refused:?}");
        match (&refused, ours, theirs) {
            (None, Err(error), _) if error.to_string().contains("UTF-8") => {}
            (None, ours, theirs) => {
                let ours = by_definition(&ours.unwrap_or_else(|error| panic!("{error}\n{}", context())));
                let theirs = theirs.unwrap_or_else(|_| panic!("it throws\n{}", context()));
                assert_eq!(ours, theirs, "{}", context());
                alike += 1;
            }
            (Some(reason), ours, Ok(theirs)) => {
                *by_reason.entry(reason.clone()).or_default() += 1;
                apart += usize::from(ours.map_or(true, |ours| by_definition(&ours) != theirs));
            }
            (Some(reason), ..) => *by_reason.entry(reason.clone()).or_default() += 1,
        }
    }
    println!("{alike} read alike; {apart} of the refused are not; {by_reason:?}");
    assert!(alike > 50_000 && apart > 5000, "{alike} {apart} {by_reason:?}");
}

#[test]
fn what_an_encoder_writes_is_not_ambiguous() {
    let world = world();
    let first = seed(1);
    let (mut count, mut bytes) = (0, 0);
    for seed in first..first + 10_000 {
        let mut random = Random(seed << 20 | 1);
        let wire = wire(&mut random, &world.descriptor, 4, 0);
        let Ok(message) = DynamicMessage::decode(world.descriptor.clone(), wire.as_slice()) else { continue };
        let wire = message.encode_to_vec();
        let (condition, policy) = &world.policies[random.below(world.policies.len())];
        let refused = judge(policy, &mut random, &wire);
        assert_eq!(refused, None, "PROTOCG_SEED={seed} {condition} {}", message.descriptor().full_name());
        count += 1;
        bytes += wire.len();
    }
    println!("{count} messages, {bytes} bytes");
    assert!(count > 9000 && bytes > 150_000, "{count} {bytes}");
}
