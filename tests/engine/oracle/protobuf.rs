//! Random conditions on random, often broken messages: the engine, the contract's words in Rust, and prost-reflect.

use std::path::Path;

use prost_reflect::{DescriptorPool, DynamicMessage, Kind, MessageDescriptor};
use protocg::policy;
use protocg_oracle::condition::Cond;
use protocg_oracle::message::{Bad, Node, decode, get, get_dynamic, wire_of};

use crate::fixtures::UNARY;
use crate::rig::{Random, fixture, run_here, seed};
use crate::wire::*;

const TEXTS: [&str; 6] =
    ["text", "outer.name", "outer.middle.inner.name", "choice_text", "maybe_text", "choice_inner.name"];
const WHOLE: [&str; 10] =
    ["i32", "i64", "s32", "s64", "sf32", "sf64", "outer.level", "outer.middle.count", "choice_number", "maybe_number"];
const SETS: [&str; 12] = [
    "text",
    "i32",
    "d",
    "flag",
    "payload",
    "outer",
    "outer.middle",
    "outer.middle.inner",
    "choice_text",
    "choice_number",
    "choice_inner",
    "maybe_number",
];
const ORDER: [&str; 6] = ["==", "!=", "<", "<=", ">", ">="];
const VALUES: [&str; 8] = ["", "a", "ab", "b", "aba", "é", "xaby", "abé"];
const NUMBERS: [i64; 9] = [0, 1, -1, 2, 7, 127, 128, 2_147_483_647, -2_147_483_648];
const REALS: [f64; 8] = [0.0, -0.0, 1.5, -1.5, 2.25, 1e-40, f64::INFINITY, f64::NAN];

fn condition(random: &mut Random, depth: usize) -> Cond {
    if depth > 0 && !random.one_in(4) {
        let a = Box::new(condition(random, depth - 1));
        return match random.below(3) {
            0 => Cond::Not(a),
            1 => Cond::And(a, Box::new(condition(random, depth - 1))),
            _ => Cond::Or(a, Box::new(condition(random, depth - 1))),
        };
    }
    let order = random.pick(&ORDER);
    match random.below(9) {
        0 => Cond::Has(random.pick(&SETS)),
        1 => Cond::True(random.pick(&["flag", "outer.middle.inner.flag", "choice_inner.flag"])),
        2 => Cond::Whole(random.pick(&WHOLE), order, i128::from(random.pick(&NUMBERS))),
        3 => Cond::Whole(random.pick(&["u32", "u64", "f32", "f64"]), order, i128::from(random.pick(&[0, 1, 7, 128]))),
        4 => Cond::Whole("color", random.pick(&["==", "!="]), i128::from(random.pick(&[0, 1, -1, 77]))),
        5 => Cond::Real(random.pick(&["d", "f"]), order, random.pick(&[0.0, 1.5, -1.5, 1e-40])),
        6 => Cond::Size(random.pick(&["text", "payload", "outer.name", "choice_text"]), order, random.below(4)),
        7 => Cond::Text(
            "payload",
            random.pick(&["==", "contains", "startsWith"]),
            random.pick(&["a", "ab", "b"]).to_owned(),
        ),
        _ => {
            let op = random.pick(&["==", "contains", "startsWith", "endsWith"]);
            Cond::Text(random.pick(&TEXTS), op, random.pick(&VALUES[1..]).to_owned())
        }
    }
}

fn number(random: &mut Random) -> u64 {
    let n = random.pick(&NUMBERS);
    match random.below(6) {
        0 => ((n << 1) ^ (n >> 63)) as u64,
        1 => n as u64 | random.draw() << 32,
        2 => random.draw(),
        _ => n as u64,
    }
}

fn any_varint(random: &mut Random, value: u64) -> Vec<u8> {
    if random.one_in(8) {
        let most = random.pick(&[10, 10, 10, 10, 10, 11]);
        long_varint(value, 1 + random.below(most))
    } else {
        varint(value)
    }
}

/// Fields one after the other: known, unread, unknown; well-formed, most of them.
fn wire(random: &mut Random, descriptor: &MessageDescriptor, depth: usize) -> Vec<u8> {
    let fields: Vec<_> = descriptor.fields().collect();
    let mut out = Vec::new();
    for _ in 0..random.below(9) {
        let field = random.pick(&fields);
        let (mut number_of, mut kind) = (field.number(), wire_of(&field.kind()));
        if random.one_in(12) {
            kind = random.pick(&[0, 1, 2, 3, 5]);
        }
        if random.one_in(12) {
            number_of = random.pick(&[900, 29, (1 << 29) - 1]);
        }
        if random.one_in(40) {
            (number_of, kind) = (random.pick(&[0, 17, 50]), random.pick(&[0, 4, 6, 7]));
        }
        out.extend(any_varint(random, u64::from(number_of) << 3 | kind));
        match kind {
            0 => {
                let value = number(random);
                out.extend(any_varint(random, value));
            }
            1 if matches!(field.kind(), Kind::Double) => out.extend(random.pick(&REALS).to_bits().to_le_bytes()),
            1 => out.extend(number(random).to_le_bytes()),
            5 if matches!(field.kind(), Kind::Float) => {
                out.extend((random.pick(&REALS) as f32).to_bits().to_le_bytes())
            }
            5 => out.extend((number(random) as u32).to_le_bytes()),
            2 => {
                let value = match field.kind() {
                    Kind::Message(inner) if depth > 0 => wire(random, &inner, depth - 1),
                    _ if random.one_in(20) => vec![0xff],
                    _ => random.pick(&VALUES).as_bytes().to_vec(),
                };
                let length = if random.one_in(60) { random.draw() >> random.below(64) } else { value.len() as u64 };
                out.extend(any_varint(random, length));
                out.extend(value);
            }
            3 => {
                let nested = if random.one_in(10) { 18 } else { random.below(4) };
                let inside = wire(random, descriptor, 0);
                out.extend((0..nested).fold(inside, |inside, _| group(50, &inside)));
                let end = if random.one_in(10) { 51 } else { number_of };
                out.extend(tag(end, 4));
            }
            _ => {}
        }
    }
    if random.one_in(15) && !out.is_empty() {
        let at = random.below(out.len());
        out[at] ^= 1 << random.below(8);
    }
    if random.one_in(30) {
        out.truncate(random.below(out.len() + 1));
    }
    out
}

fn policy_of(condition: &Cond) -> String {
    format!(
        "default = \"allow\"\n[uninspectable]\nambiguous = \"allow\"\n[[deny]]\nname = \"r\"\nmethods = [\"{UNARY}\"]\nwhen = '''{}'''\n",
        condition.show()
    )
}

/// The request without its maps: prost-reflect reads a map of any wire type as if it were bytes.
fn without_maps(folder: &Path) -> MessageDescriptor {
    let text = std::fs::read_to_string(folder.join("echo.proto")).unwrap();
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("map<")).collect();
    let copy = tempfile::tempdir().unwrap();
    std::fs::write(copy.path().join("echo.proto"), lines.join("\n")).unwrap();
    request_of(copy.path())
}

fn request_of(folder: &Path) -> MessageDescriptor {
    let set = protox::compile(["echo.proto"], [folder]).unwrap();
    DescriptorPool::from_file_descriptor_set(set).unwrap().get_message_by_name("echo.EchoRequest").unwrap()
}

#[test]
fn random_messages_are_decided_as_the_contract_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/proto");
    let descriptor = request_of(&folder);
    let library = without_maps(&folder);
    let first = seed(1);
    let (mut pairs, mut denied, mut malformed, mut by_library) = (0, 0, 0, 0);
    for seed in first..first + 250 {
        let mut random = Random(seed << 20);
        let condition = condition(&mut random, 3);
        let rules = policy_of(&condition);
        let text = format!("name = \"t\"\nproto = [\"echo.proto\"]\nports = [50051]\n{rules}");
        let policy = match policy::compile(&text, &folder.join("t.toml")) {
            Ok(policy) => policy,
            Err(error) => {
                assert!(error.to_string().contains("always"), "{error}: {}", condition.show());
                continue;
            }
        };
        let mut paths = Vec::new();
        condition.paths(&mut paths);
        // what always holds is not read
        paths.retain(|path| policy.rules[0].compiled.contains(&format!("request.{path}")));
        for _ in 0..30 {
            let wire = wire(&mut random, &descriptor, 3);
            let context = || format!("PROTOCG_SEED={seed}\n{}\n{wire:02x?}", condition.show());
            let mut node = Node::default();
            let expected = decode(&descriptor, &wire, wire.len(), &paths, &mut node)
                .map(|()| condition.holds(&|path| get(&descriptor, Some(&node), path)));
            if let Ok(message) = DynamicMessage::decode(library.clone(), wire.as_slice()) {
                let read = condition.holds(&|path| get_dynamic(&message, path));
                let refused = matches!(expected, Err(Bad::TooDeep | Bad::Map));
                assert!(refused || expected == Ok(read), "{expected:?}, the library reads {message}\n{}", context());
                by_library += 1;
            }
            let it = fixture("", &rules, &[unary(1, UNARY, &wire)], &[]);
            let cuts = random.cuts(it.bytes.len(), 6);
            for cuts in [Vec::new(), cuts] {
                let (events, _) = run_here(&policy, &it, &cuts);
                let got = match events.iter().map(String::as_str).collect::<Vec<_>>()[..] {
                    [] => Ok(false),
                    ["deny r on 1#1"] => Ok(true),
                    ["deny !message_depth on 1#1"] => Err(Bad::TooDeep),
                    ["deny !protobuf_map on 1#1"] => Err(Bad::Map),
                    [event] if event.starts_with("deny !") => Err(Bad::Malformed),
                    _ => panic!("{events:?}\n{}", context()),
                };
                assert_eq!(got, expected, "{events:?}\n{}\n{}", context(), policy.rules[0].compiled);
            }
            pairs += 1;
            denied += usize::from(expected == Ok(true));
            malformed += usize::from(expected.is_err());
        }
    }
    println!("{pairs} pairs: {denied} denied, {malformed} malformed, {by_library} decoded by the library, too");
    assert!(pairs > 5000 && denied > pairs / 8 && malformed > pairs / 20 && by_library > pairs / 4);
}
