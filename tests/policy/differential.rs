//! Random conditions on random messages: the tables' verdict is the CEL interpreter's.

use std::sync::Arc;

use cel::extractors::This;
use cel::{Context, Program, Value};
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, Kind, MessageDescriptor, Syntax, Value as Field};
use protocg_oracle::cel::{has, map};

use crate::{Folder, Random, eval, with_rules};

const PROTO3: &str = r#"
syntax = "proto3";
package t;
enum Color { ZERO = 0; RED = 1; BLUE = 5; DARK = -3; }
message Inner { string s = 1; int64 n = 2; optional int32 p = 3; Inner deep = 4; }
message M {
  string s = 1; bytes b = 2; bool f = 3; int32 i32 = 4; uint32 u32 = 5; sint32 s32 = 6; int64 i64 = 7; uint64 u64 = 8;
  sint64 s64 = 9; fixed32 f32 = 10; sfixed32 sf32 = 11; float fl = 12; fixed64 f64 = 13; sfixed64 sf64 = 14;
  double d = 15; Color c = 16; Inner sub = 20; optional string ps = 21; optional sint64 pn = 22;
  oneof o { string o_s = 30; int32 o_n = 31; Inner o_m = 32; bool o_f = 33; }
  repeated string ignored = 40;
}
service S { rpc R(M) returns (M); }
"#;

const PROTO2: &str = r#"
syntax = "proto2";
package t;
enum Color { RED = 1; BLUE = 5; }
message Inner { optional string s = 1 [default = "in\303\251"]; optional int64 n = 2 [default = 9]; optional int32 p = 3; optional Inner deep = 4; }
message M {
  optional string s = 1 [default = "abc"]; optional bytes b = 2 [default = "xy"]; optional bool f = 3 [default = true];
  optional int32 i32 = 4 [default = -7]; optional uint32 u32 = 5 [default = 7]; optional sint32 s32 = 6;
  optional int64 i64 = 7 [default = 100]; optional uint64 u64 = 8; optional sint64 s64 = 9; optional fixed32 f32 = 10;
  optional sfixed32 sf32 = 11; optional float fl = 12 [default = nan]; optional fixed64 f64 = 13;
  optional sfixed64 sf64 = 14; optional double d = 15 [default = 1.5]; optional Color c = 16 [default = BLUE];
  optional Inner sub = 20; optional string ps = 21; optional sint64 pn = 22;
  oneof o { string o_s = 30 [default = "ab"]; int32 o_n = 31 [default = 3]; Inner o_m = 32; bool o_f = 33; }
  repeated string ignored = 40;
}
service S { rpc R(M) returns (M); }
"#;

/// A condition as the policy says it, and as the interpreter can read it.
type Both = (String, String);

fn same(text: String) -> Both {
    (text.clone(), text)
}

const STRINGS: [&str; 9] = ["", "a", "ab", "abc", "b", "éa", "xaby", "a\nb", "inéab"];
const INTS: [&str; 8] = ["0", "1", "-1", "7", "-7", "100", "2147483647", "-2147483648"];
const UINTS: [&str; 5] = ["0u", "1u", "7u", "100u", "4294967295u"];
const DOUBLES: [&str; 5] = ["0.0", "1.5", "-1.5", "2.25", "1e300"];
const ORDER: [&str; 6] = ["==", "!=", "<", "<=", ">", ">="];
const PATTERNS: [&str; 10] =
    ["^a", "b$", "a.?b", "^(ab|b)+$", "[^a]", "^.{1,3}$", r"\\bab", "(?i)AB", "^[a-c]{2,9}$", "(?s)^a.b$"];

fn leaf(random: &mut Random) -> Both {
    let string = ["s", "sub.s", "ps", "o_s", "sub.deep.s", "o_m.s"];
    let int = ["i32", "s32", "i64", "s64", "sf32", "sf64", "pn", "o_n", "sub.n", "sub.p", "sub.deep.n", "o_m.n"];
    let has = ["ps", "pn", "sub", "o_s", "o_n", "o_m", "o_f", "sub.deep", "sub.p", "s", "i32", "d", "f", "sub.s", "b"];
    match random.below(12) {
        0 | 1 => {
            let (path, order, value) = (random.pick(&int), random.pick(&ORDER), random.pick(&INTS));
            same(format!("request.{path} {order} {value}"))
        }
        2 => {
            let (path, order) = (random.pick(&["u32", "u64", "f32", "f64"]), random.pick(&ORDER));
            same(format!("request.{path} {order} {}", random.pick(&UINTS)))
        }
        3 => {
            let (path, order) = (random.pick(&["fl", "d"]), random.pick(&ORDER));
            let ours = format!("{} {order} request.{path}", random.pick(&DOUBLES));
            // the interpreter refuses to order NaN, which in CEL is false
            let theirs = if order.ends_with("=") && order.starts_with(['=', '!']) {
                ours.clone()
            } else {
                format!("(request.{path} == request.{path} && {ours})")
            };
            (ours, theirs)
        }
        4 => same(format!("request.{}", random.pick(&["f", "o_f"]))),
        5 => {
            let path = random.pick(&has);
            (format!("has(request.{path})"), format!("has_{}", path.replace('.', "_")))
        }
        6 => {
            let (path, order) = (random.pick(&string), random.pick(&["==", "!="]));
            same(format!("request.{path} {order} {:?}", random.pick(&STRINGS)))
        }
        7 => {
            let literals: Vec<String> = (0..3).map(|_| format!("{:?}", random.pick(&STRINGS))).collect();
            same(format!("request.{} in [{}]", random.pick(&string), literals.join(", ")))
        }
        8 => {
            let (path, function) = (random.pick(&string), random.pick(&["contains", "startsWith", "endsWith"]));
            same(format!("request.{path}.{function}({:?})", random.pick(&STRINGS[1..])))
        }
        9 => {
            let (path, pattern) = (random.pick(&string), random.pick(&PATTERNS));
            same(format!("request.{path}.matches(\"{pattern}\")"))
        }
        10 => {
            let (path, order) = (random.pick(&["s", "sub.s", "o_s", "b"]), random.pick(&ORDER));
            same(format!("size(request.{path}) {order} {}", random.below(5)))
        }
        _ => match random.below(3) {
            0 => same(format!("request.b {} b\"{}\"", random.pick(&["==", "!="]), random.pick(&["", "xy", "\\xff"]))),
            1 => same(format!("request.i32 in [{}, {}, 5]", random.pick(&INTS), random.pick(&INTS))),
            _ => (format!("request.c {} t.Color.BLUE", random.pick(&["==", "!="])), String::new()),
        },
    }
}

fn condition(random: &mut Random, depth: usize) -> Both {
    if depth == 0 || random.below(4) == 0 {
        let (ours, theirs) = leaf(random);
        let theirs = if theirs.is_empty() { ours.replace("t.Color.BLUE", "5") } else { theirs };
        return (ours, theirs);
    }
    let (a, b) = (condition(random, depth - 1), condition(random, depth - 1));
    let join = |f: &dyn Fn(&str, &str) -> String| (f(&a.0, &b.0), f(&a.1, &b.1));
    match random.below(6) {
        0 | 1 => join(&|a, b| format!("({a}) && ({b})")),
        2 | 3 => join(&|a, b| format!("({a}) || ({b})")),
        4 => join(&|a, _| format!("!({a})")),
        _ => {
            let (c, d) = condition(random, 0);
            (format!("({}) ? ({}) : ({c})", a.0, b.0), format!("({}) ? ({}) : ({d})", a.1, b.1))
        }
    }
}

fn scalar(random: &mut Random, kind: &Kind) -> Field {
    let int = || [0i64, 1, -1, 7, -7, 100, 5, i64::from(i32::MAX), i64::from(i32::MIN)];
    let double = || [0.0, -0.0, 1.5, -1.5, f64::NAN, f64::INFINITY, 2.25, f64::NEG_INFINITY];
    let signed = int()[random.below(9)];
    match kind {
        Kind::Bool => Field::Bool(random.below(2) == 0),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Field::I32(signed as i32),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Field::I64(signed),
        Kind::Uint32 | Kind::Fixed32 => Field::U32(signed as u32),
        Kind::Uint64 | Kind::Fixed64 => Field::U64(signed as u64),
        Kind::Float => Field::F32(double()[random.below(8)] as f32),
        Kind::Double => Field::F64(double()[random.below(8)]),
        Kind::String => Field::String(random.pick(&STRINGS).to_owned()),
        Kind::Bytes => Field::Bytes([&b""[..], b"xy", b"\xff", b"a\0b"][random.below(4)].to_vec().into()),
        // a closed enum's other numbers are refused
        Kind::Enum(it) if it.parent_file().syntax() == Syntax::Proto2 => Field::EnumNumber([1, 5][random.below(2)]),
        Kind::Enum(_) => Field::EnumNumber([0, 1, 5, 77, -3][random.below(5)]),
        Kind::Message(_) => unreachable!(),
    }
}

fn random_message(random: &mut Random, descriptor: &MessageDescriptor, depth: usize) -> DynamicMessage {
    let mut message = DynamicMessage::new(descriptor.clone());
    for field in descriptor.fields() {
        if random.below(3) != 0 {
            continue;
        }
        let value = match field.kind() {
            _ if field.is_list() => Field::List(vec![Field::String("no rule reads it".to_owned())]),
            Kind::Message(inner) if depth > 0 => Field::Message(random_message(random, &inner, depth - 1)),
            Kind::Message(_) => continue,
            kind => scalar(random, &kind),
        };
        message.set_field(&field, value);
    }
    message
}

/// Two messages one after the other (fields merge), with an unknown field between them.
fn random_wire(random: &mut Random, descriptor: &MessageDescriptor) -> Vec<u8> {
    let mut wire = random_message(random, descriptor, 2).encode_to_vec();
    if random.below(2) == 0 {
        wire.extend([0xa8, 0x06, 0x01]); // field 101, varint
    }
    if random.below(2) == 0 {
        wire.extend(random_message(random, descriptor, 2).encode_to_vec());
    }
    wire
}

fn context(message: &DynamicMessage) -> Context<'static, 'static> {
    let mut context = Context::default();
    context.add_variable_from_value("request", map(message, 4));
    let paths =
        ["ps", "pn", "sub", "o_s", "o_n", "o_m", "o_f", "sub.deep", "sub.p", "s", "i32", "d", "f", "sub.s", "b"];
    for path in paths {
        context.add_variable_from_value(format!("has_{}", path.replace('.', "_")), has(message, path));
    }
    let matches = |This(text): This<Arc<String>>, pattern: Arc<String>| -> bool {
        let pattern = pattern.replace("\\b", "(?-u:\\b)");
        regex_automata::meta::Regex::new(&pattern).unwrap().is_match(text.as_str())
    };
    context.add_function("matches", matches).unwrap();
    context
}

/// Compiles all of the conditions that the compiler accepts; it may refuse only those that are constant.
fn compile(folder: &Folder, conditions: &mut Vec<Both>) -> protocg::policy::Policy {
    loop {
        let rules: Vec<String> = conditions
            .iter()
            .enumerate()
            .map(|(i, (ours, _))| format!("[[deny]]\nname = \"r{i}\"\nmethods = [\"/t.S/R\"]\nwhen = '''{ours}'''\n"))
            .collect();
        let text = with_rules(&rules.concat());
        let error = match folder.compile(&text) {
            Ok(policy) => return policy,
            Err(error) => error,
        };
        let mut gone = Vec::new();
        for problem in error.problems() {
            let message = &problem.fault().message;
            assert!(message.contains("always"), "{message}\n{:?}", miette::Report::new(error.clone()));
            let (line, _) = problem.position().unwrap();
            gone.push((line - 5) / 4);
        }
        gone.sort_unstable();
        for i in gone.into_iter().rev() {
            conditions.remove(i);
        }
    }
}

fn differ(proto: &str, seed: u64, rounds: usize) -> usize {
    let folder = Folder::new(&[("t.proto", proto)]);
    let pool: DescriptorPool = {
        let set = protox::compile(["t.proto"], [folder.path()]).unwrap();
        DescriptorPool::from_file_descriptor_set(set).unwrap()
    };
    let descriptor = pool.get_message_by_name("t.M").unwrap();
    let (mut random, mut pairs, mut held) = (Random(seed), 0, 0);
    for _ in 0..rounds {
        let mut conditions: Vec<Both> = (0..24).map(|_| condition(&mut random, 3)).collect();
        let policy = compile(&folder, &mut conditions);
        let tables = &policy.tables;
        let method = eval::method(tables, "/t.S/R");
        let programs: Vec<Program> = conditions.iter().map(|(_, cel)| Program::compile(cel).unwrap()).collect();
        let header = eval::headers(tables, &eval::Call::default());
        for turn in 0..12 {
            let wire = if turn == 0 { Vec::new() } else { random_wire(&mut random, &descriptor) };
            let message = DynamicMessage::decode(descriptor.clone(), wire.as_slice()).unwrap();
            let context = context(&message);
            let bits = eval::message(tables, method, &header, &wire).unwrap();
            let holding = eval::message_rules(tables, method, &bits);
            for (i, program) in programs.iter().enumerate() {
                let Ok(Value::Bool(want)) = program.execute(&context) else {
                    panic!("{}: {:?}", conditions[i].1, program.execute(&context))
                };
                let got = holding.contains(&(i as u32));
                assert_eq!(got, want, "{}\n{}\n{message:?}", conditions[i].0, policy.rules[i].compiled);
                pairs += 1;
                held += usize::from(want);
            }
        }
    }
    assert!(held > pairs / 10 && held < pairs * 9 / 10, "{held} of {pairs}");
    pairs
}

#[test]
fn tables_decide_proto3_messages_as_the_interpreter_does() {
    assert!(differ(PROTO3, 1, 16) > 3000);
}

#[test]
fn tables_decide_proto2_messages_as_the_interpreter_does() {
    assert!(differ(PROTO2, 2, 16) > 3000);
}
