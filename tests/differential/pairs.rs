//! Random conditions on repeated fields, maps and all else, on random messages: what the engine decides of prost-reflect's
//! reading is what CEL's interpreter does, of requests and of responses. `PROTOCG_PAIRS` asks for more pairs.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use cel::objects::Key;
use cel::{Context, Program, Value};
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, Kind, MapKey, MessageDescriptor, ReflectMessage, Value as Field};
use protocg::policy::{self, Policy};
use protocg_oracle::cel::scalar;

use crate::grammar::{Both, Grammar, Tally, has_name, time, wire, wrapped};
use crate::kernel::Kernel;
use crate::patterns::Patterns;
use crate::python;
use crate::rig::{Random, fixture, run_here_both, seed};
use crate::wire::{SETTINGS, data, message as message_of, unary};

const BODY: &str = r#"
message Leaf { #string s = 1; #int32 n = 2; repeated sint32 ns = 3; #bool f = 4; }
message Inner {
  #string s = 1; #int32 n = 2; #bool f = 3; repeated string ss = 4; repeated Leaf ls = 5; map<string, string> m = 6;
  oneof o { string o_s = 7; Leaf o_m = 8; int32 o_n = 9; }
  #Leaf one = 10; repeated int32 ns = 11; map<int32, Leaf> by = 12; #double d = 13; #Color c = 14;
}
message M {
  repeated string ss = 1; repeated bytes bs = 2; repeated bool fs = 3; repeated int32 i32s = 4; repeated int64 i64s = 5;
  repeated uint32 u32s = 6; repeated uint64 u64s = 7; repeated sint32 s32s = 8; repeated sint64 s64s = 9;
  repeated fixed32 f32s = 10; repeated fixed64 f64s = 11; repeated sfixed32 sf32s = 12; repeated sfixed64 sf64s = 13;
  repeated float fls = 14; repeated double ds = 15; repeated Color cs = 16; repeated Inner ins = 17;
  repeated Leaf ls = 18; repeated Inner more = 19;
  map<string, string> m_ss = 20; map<int32, Inner> m_im = 21; map<bool, int64> m_bi = 22; map<uint64, bytes> m_ub = 23;
  map<string, Color> m_sc = 24; map<sint32, double> m_sd = 25; map<string, Leaf> m_sl = 26; map<fixed32, float> m_ff = 27;
  map<sfixed64, bool> m_sb = 28; map<int64, uint32> m_iu = 29;
  #Inner sub = 30; oneof pick { Inner p_m = 31; string p_s = 32; sint64 p_n = 33; }
  #google.protobuf.Timestamp at = 40; #google.protobuf.Duration span = 41;
  repeated google.protobuf.Timestamp ats = 42; repeated google.protobuf.Duration spans = 43;
  #google.protobuf.StringValue w_s = 44; #google.protobuf.Int64Value w_i = 45; #google.protobuf.BoolValue w_b = 46;
  #google.protobuf.DoubleValue w_d = 47; #google.protobuf.UInt32Value w_u = 48; #google.protobuf.BytesValue w_y = 49;
  repeated google.protobuf.StringValue w_ss = 50; map<string, google.protobuf.Timestamp> m_st = 51;
  map<string, google.protobuf.Int32Value> m_sw = 52;
  #string s = 60; #int32 n = 61; #uint64 u = 62; #double d = 63; #bool f = 64; #Color c = 65; #bytes b = 66;
}
service S { rpc R(M) returns (M); }
"#;

/// The same file in either syntax.
fn proto(syntax: &str) -> String {
    let body = BODY.replace('#', if syntax == "proto2" { "optional " } else { "" });
    format!(
        "syntax = \"{syntax}\";\npackage t;\nimport \"google/protobuf/timestamp.proto\";\nimport \"google/protobuf/duration.proto\";\n\
         import \"google/protobuf/wrappers.proto\";\nenum Color {{ ZERO = 0; RED = 1; BLUE = 5; }}\n{body}"
    )
}

fn value(kind: &Kind, value: &Field) -> Value {
    match value {
        Field::Message(message) if time(kind).is_some() => {
            let part = |number| match &*message.get_field_by_number(number).unwrap() {
                Field::I64(value) => *value,
                Field::I32(value) => i64::from(*value),
                other => panic!("{other:?}"),
            };
            Value::Int(part(1) * 1_000_000_000 + part(2))
        }
        Field::Message(inner) => match wrapped(kind) {
            Some(field) => self::value(&field.kind(), &inner.get_field(&field)),
            None => message(inner),
        },
        Field::List(list) => Value::List(list.iter().map(|one| self::value(kind, one)).collect::<Vec<_>>().into()),
        Field::Map(map) => {
            let Kind::Message(entry) = kind else { panic!() };
            let of = entry.map_entry_value_field().kind();
            let entries = map.iter().map(|(key, one)| (map_key(key), self::value(&of, one)));
            Value::from(entries.collect::<HashMap<Key, Value>>())
        }
        value => scalar(value).unwrap(),
    }
}

fn map_key(key: &MapKey) -> Key {
    match key {
        MapKey::Bool(key) => Key::from(*key),
        MapKey::I32(key) => Key::from(*key),
        MapKey::I64(key) => Key::from(*key),
        MapKey::U32(key) => Key::from(*key),
        MapKey::U64(key) => Key::from(*key),
        MapKey::String(key) => Key::from(key.as_str()),
    }
}

fn message(message: &DynamicMessage) -> Value {
    let mut out: HashMap<Key, Value> = HashMap::new();
    for field in message.descriptor().fields() {
        out.insert(Key::from(field.name()), value(&field.kind(), &message.get_field(&field)));
        out.insert(Key::from(has_name(field.name())), Value::Bool(message.has_field(&field)));
    }
    Value::from(out)
}

/// Compiles the conditions that can be; of the others the compiler must say that they are constant, or past a limit.
/// `ambiguous` is the switch: random messages repeat what may come once, and are read as protobuf is defined.
fn compile(folder: &Path, direction: &str, ambiguous: &str, conditions: &mut Vec<Both>, tally: &mut Tally) -> Policy {
    let one = |(i, (ours, _)): (usize, &Both)| {
        format!("[[deny]]\nname = \"r{i}\"\nmethods = [\"/t.S/R\"]\nmode = \"audit\"\nwhen = '''{ours}'''\n")
    };
    let known = [
        "always",
        "matches every text",
        "limit AUTOMATON_BYTES",
        "limit UNION_BYTES",
        "limit CLAUSE_TESTS",
        "limit ELEMENT_TESTS",
        "limit MAP_KEYS",
        "too many cases",
    ];
    loop {
        let head = format!(
            "name = \"t\"\nproto = [\"t.binpb\"]\nports = [50051]\ndefault = \"allow\"\n\
             direction = \"{direction}\"\n[uninspectable]\nambiguous = \"{ambiguous}\"\n"
        );
        let rules: String = conditions.iter().enumerate().map(one).collect();
        let text = format!("{head}{rules}");
        let error = match policy::compile(&text, &folder.join("t.toml")) {
            Ok(policy) => return policy,
            Err(error) => error,
        };
        let mut gone = Vec::new();
        for problem in error.problems() {
            let why = problem.to_string();
            let known = known.into_iter().find(|known| why.contains(known));
            tally.add(format!("refused: {}", known.unwrap_or_else(|| panic!("{why}\n{text}"))));
            // those that are too much together have no place
            gone.push(problem.position().map_or(conditions.len() - 1, |(line, _)| (line - 8) / 5));
        }
        gone.sort_unstable();
        gone.dedup();
        for i in gone.into_iter().rev() {
            conditions.remove(i);
        }
    }
}

#[derive(Default)]
struct Counts {
    pairs: usize,
    held: usize,
    in_kernel: usize,
    encoded: usize,
}

/// What CEL lacks and the policy language has, and RE2's word on patterns.
fn functions(context: &mut Context, patterns: &Arc<Patterns>) {
    let patterns = Arc::clone(patterns);
    let matches = move |text: Arc<String>, pattern: i64| patterns.matches(usize::try_from(pattern).unwrap(), &text);
    context.add_function("re2", matches).unwrap();
    let starts = |text: Arc<Vec<u8>>, part: Arc<Vec<u8>>| text.starts_with(&part);
    context.add_function("bytes_startsWith", starts).unwrap();
    let ends = |text: Arc<Vec<u8>>, part: Arc<Vec<u8>>| text.ends_with(&part);
    context.add_function("bytes_endsWith", ends).unwrap();
    let contains = |text: Arc<Vec<u8>>, part: Arc<Vec<u8>>| text.windows(part.len()).any(|it| it == part.as_slice());
    context.add_function("bytes_contains", contains).unwrap();
}

/// Every so many policies one goes through the kernel, too.
const TO_KERNEL: u64 = 10;
/// Every so many policies one is about responses.
const TO_RESPONSES: u64 = 5;
/// Every so many policies one refuses ambiguous messages, too: what an encoder writes is none.
const TO_STRICT: u64 = 2;

fn differ(syntax: &str, seed: u64, patterns: &Arc<Patterns>, tally: &mut Tally, counts: &mut Counts) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("t.proto"), proto(syntax)).unwrap();
    let set = protox::compile(["t.proto"], [folder.path()]).unwrap();
    std::fs::write(folder.path().join("t.binpb"), set.encode_to_vec()).unwrap();
    let pool = DescriptorPool::from_file_descriptor_set(set).unwrap();
    let descriptor: MessageDescriptor = pool.get_message_by_name("t.M").unwrap();
    let mut random = Random(seed << 20);
    let mut conditions: Vec<Both> =
        (0..10).map(|_| Grammar::new(&mut random, tally, patterns, &descriptor).condition(3)).collect();
    // the same message goes either way
    let responds = seed % TO_RESPONSES == 1;
    if responds {
        conditions.iter_mut().for_each(|(ours, _)| *ours = ours.replace("request", "response"));
        tally.add("policies on responses");
    }
    // what leaves a server is what comes to a client
    let direction = if responds && seed / TO_KERNEL % 2 == 1 { "egress" } else { "ingress" };
    if direction == "egress" {
        tally.add("of them, egress policies");
    }
    let policy = compile(folder.path(), direction, "allow", &mut conditions, tally);
    let kept = conditions.len();
    let strict = (seed % TO_STRICT == 1).then(|| compile(folder.path(), direction, "deny", &mut conditions, tally));
    assert_eq!(conditions.len(), kept, "PROTOCG_SEED={seed}: the switch refuses a condition");
    let programs: Vec<Program> = conditions
        .iter()
        .map(|(_, theirs)| Program::compile(theirs).unwrap_or_else(|error| panic!("{error:?}\n{theirs}")))
        .collect();
    let kernel = if seed % TO_KERNEL == 1 { Kernel::new(&policy) } else { None };
    for turn in 0..100 {
        let wire = if turn == 0 { Vec::new() } else { wire(&mut random, tally, &descriptor, 3) };
        let read = DynamicMessage::decode(descriptor.clone(), wire.as_slice()).unwrap();
        let mut context = Context::default();
        functions(&mut context, patterns);
        context.add_variable_from_value("request", message(&read));
        let mut expected = Vec::new();
        for (i, program) in programs.iter().enumerate() {
            let result = program.execute(&context);
            let Ok(Value::Bool(holds)) = result else { panic!("{}\n{result:?}", conditions[i].1) };
            if holds {
                expected.push(format!("audit r{i} on 1#{}1", if responds { ">" } else { "" }));
            }
        }
        let call = [unary(1, "/t.S/R", if responds { &[] } else { &wire })];
        let says = if responds { [SETTINGS, &data(1, &message_of(&wire))].concat() } else { SETTINGS.to_vec() };
        let it = fixture("", "", &call, &[]).server(&call, 1, &says);
        if let Some(strict) = &strict {
            let again = read.encode_to_vec();
            let call = [unary(1, "/t.S/R", if responds { &[] } else { &again })];
            let says = if responds { [SETTINGS, &data(1, &message_of(&again))].concat() } else { SETTINGS.to_vec() };
            let (mut said, _) = run_here_both(strict, &fixture("", "", &call, &[]).server(&call, 1, &says), &[], &[]);
            let mut expected = expected.clone();
            said.sort();
            expected.sort();
            assert_eq!(said, expected, "PROTOCG_SEED={seed} {syntax}, as it is encoded: {again:02x?}");
            counts.encoded += 1;
        }
        let (cuts, server_cuts) = (random.cuts(it.bytes.len(), 6), random.cuts(says.len(), 6));
        let mut said = [(Vec::new(), Vec::new()), (cuts, server_cuts)]
            .map(|(a, b)| run_here_both(&policy, &it, &a, &b).0)
            .to_vec();
        if let Some(kernel) = &kernel {
            let (events, passes) = kernel.run(&policy, &it.bytes, &says);
            assert!(passes, "PROTOCG_SEED={seed}: the kernel drops what only audit rules hold of");
            said.push(events);
            counts.in_kernel += programs.len();
        }
        for (engine, events) in ["host", "host, cut", "kernel"].iter().zip(said) {
            let wrong: Vec<&String> = expected
                .iter()
                .filter(|event| !events.contains(event))
                .chain(events.iter().filter(|event| !expected.contains(event)))
                .collect();
            let Some(first) = wrong.first() else { continue };
            let rule = policy.rules.iter().position(|rule| first.contains(&format!(" {} ", rule.name)));
            let said = rule.map(|i| format!("{}\n{}\n{}", conditions[i].0, conditions[i].1, policy.rules[i].compiled));
            panic!(
                "PROTOCG_SEED={seed} {syntax}, {engine}: {wrong:?}\n{}\n{read}\n{wire:02x?}",
                said.unwrap_or_default()
            );
        }
        counts.pairs += programs.len();
        counts.held += expected.len();
    }
}

#[test]
fn random_conditions_are_decided_as_the_interpreter_does() {
    if python::skip("differential_pairs") {
        return;
    }
    // the interpreter's parser wants more stack than a test has
    std::thread::Builder::new().stack_size(256 << 20).spawn(pairs).unwrap().join().unwrap();
}

/// Pairs of an ordinary run.
const ORDINARY: usize = 4_000;

fn pairs() {
    let wanted: usize = std::env::var("PROTOCG_PAIRS").map_or(ORDINARY, |text| text.parse().unwrap());
    let (mut tally, mut counts) = (Tally::default(), Counts::default());
    let first = seed(1);
    let patterns = Arc::new(Patterns::new(7, 600));
    for seed in first.. {
        let syntax = if seed % 3 == 0 { "proto2" } else { "proto3" };
        differ(syntax, seed, &patterns, &mut tally, &mut counts);
        if counts.pairs >= wanted || (std::env::var_os("PROTOCG_SEED").is_some() && wanted == ORDINARY) {
            break;
        }
    }
    let Counts { pairs, held, in_kernel, encoded } = counts;
    println!("{pairs} pairs, {held} held, {in_kernel} of them in the kernel, too; of each:\n{}", tally.show());
    println!("{encoded} messages as an encoder has them, where ambiguous ones are refused");
    if in_kernel == 0 {
        println!("SKIPPED differential: the programs cannot be loaded here");
    }
    if counts.pairs >= ORDINARY {
        assert!(tally.kinds() > 100, "{}", tally.kinds());
        assert!(counts.held > counts.pairs / 10 && counts.held < counts.pairs * 9 / 10);
    }
}
