//! Repeated fields, maps and well-known types through the tables: closed enums, editions, what `check` shows.

use prost::Message as _;
use protocg::abi::*;
use protocg::cli::check;
use protocg::policy::Policy;

use crate::{Folder, eval, with_rules};

const BODY: &str = r#"
enum Color { RED = 0; BLUE = 5; }
message In { #string s = 1; #bool f = 2; repeated string tags = 3; }
message M {
  #Color c = 1; repeated Color cs = 2; map<string, Color> mc = 3; repeated In ins = 4; map<string, In> by = 5;
  oneof o { Color oc = 6; string os = 7; } #google.protobuf.Timestamp at = 8; #google.protobuf.Duration span = 9;
  #google.protobuf.Int32Value w = 10; #string s = 11; #int32 n = 12; map<string, string> m = 13; repeated int32 ns = 14;
}
service S { rpc R(M) returns (M); }
"#;

fn proto(syntax: &str) -> String {
    let imports = ["timestamp", "duration", "wrappers"].map(|name| format!("import \"google/protobuf/{name}.proto\";"));
    let body = BODY.replace('#', if syntax == "proto2" { "optional " } else { "" });
    format!("syntax = \"{syntax}\"; package t; {}\n{body}", imports.concat())
}

fn rule(when: &str) -> String {
    format!("[[deny]]\nname = \"r\"\nmethods = [\"/t.S/R\"]\nwhen = '''{when}'''\n")
}

/// Whether the condition holds; none where the message is refused.
fn says(policy: &Policy, wire: &[u8]) -> Option<bool> {
    let method = eval::method(&policy.tables, "/t.S/R");
    let bits = eval::message(&policy.tables, method, &[0; 32], wire).ok()?;
    Some(!eval::message_rules(&policy.tables, method, &bits).is_empty())
}

fn compile(syntax: &str, when: &str) -> Policy {
    let folder = Folder::new(&[("t.proto", &proto(syntax))]);
    folder.compile(&with_rules(&rule(when))).map_err(miette::Report::new).unwrap()
}

#[test]
fn unknown_numbers_of_closed_enums_are_refused_wherever_a_rule_reads_them() {
    type Case = (&'static str, &'static [u8], Option<bool>, Option<bool>);
    let cases: [Case; 9] = [
        ("request.c == 5", b"\x08\x05", Some(true), Some(true)),
        ("request.c == 5", b"\x08\x4d", Some(false), None),
        ("request.c == 5", b"\x08\x05\x08\x4d", Some(false), None),
        ("5 in request.cs", b"\x12\x02\x05\x4d", Some(true), None),
        ("size(request.cs) == 2", b"\x12\x02\x05\x4d", Some(true), None),
        ("\"k\" in request.mc", b"\x1a\x05\x0a\x01k\x10\x4d", Some(true), None),
        ("size(request.mc) > 0", b"\x1a\x05\x0a\x01k\x10\x4d", Some(true), None),
        ("request.os == \"x\"", b"\x3a\x01x\x30\x4d", Some(false), None),
        ("request.s == \"x\"", b"\x08\x4d\x5a\x01x", Some(true), Some(true)),
    ];
    for (when, wire, open, closed) in cases {
        assert_eq!(says(&compile("proto3", when), wire), open, "proto3: {when}");
        assert_eq!(says(&compile("proto2", when), wire), closed, "proto2: {when}");
    }
}

#[test]
fn timestamps_durations_and_wrappers_are_compared_with_literals() {
    // at, span: {1: seconds, 2: nanos}
    let cases: [(&str, &[u8], Option<bool>); 19] = [
        ("request.at == timestamp(\"1970-01-01T00:00:00Z\")", b"", Some(true)),
        ("request.at < timestamp(\"1970-01-01T00:00:05.5Z\")", b"\x42\x02\x08\x05", Some(true)),
        (
            "request.at < timestamp(\"1970-01-01T00:00:05.5Z\")",
            b"\x42\x08\x08\x05\x10\x80\xca\xb5\xee\x01",
            Some(false),
        ),
        (
            "request.at <= timestamp(\"1970-01-01T00:00:05.5Z\")",
            b"\x42\x08\x08\x05\x10\x80\xca\xb5\xee\x01",
            Some(true),
        ),
        (
            "request.at != timestamp(\"1970-01-01T00:00:05.5Z\")",
            b"\x42\x08\x08\x05\x10\x80\xca\xb5\xee\x01",
            Some(false),
        ),
        ("request.at > timestamp(\"1970-01-01T01:00:05+01:00\")", b"\x42\x04\x08\x05\x10\x01", Some(true)),
        ("request.at > timestamp(\"1970-01-01T00:00:05Z\")", b"\x42\x02\x08\x05", Some(false)),
        // nanos of a second and more: Go adds them, Java refuses them
        ("request.at >= timestamp(\"1970-01-01T00:00:05Z\")", b"\x42\x08\x08\x04\x10\x80\x94\xeb\xdc\x03", None),
        (
            "request.at >= timestamp(\"1970-01-01T00:00:05Z\")",
            b"\x42\x0d\x08\x04\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            None,
        ),
        ("request.span < duration(\"1.5s\")", b"\x4a\x02\x08\x01", Some(true)),
        ("request.span < duration(\"1.5s\")", b"\x4a\x02\x08\x02", Some(false)),
        // 2 s - 0.6 s
        (
            "request.span < duration(\"1.5s\")",
            b"\x4a\x0d\x08\x02\x10\x80\xf4\xf2\xe1\xfd\xff\xff\xff\xff\x01",
            Some(true),
        ),
        (
            "request.span == duration(\"1400ms\")",
            b"\x4a\x0d\x08\x02\x10\x80\xf4\xf2\xe1\xfd\xff\xff\xff\xff\x01",
            Some(true),
        ),
        ("request.span in [duration(\"1s\"), duration(\"1m\")]", b"\x4a\x02\x08\x3c", Some(true)),
        ("has(request.span)", b"\x4a\x00", Some(true)),
        ("request.w == 0", b"", Some(false)),
        ("request.w == 0", b"\x52\x00", Some(true)),
        ("request.w != 0", b"", Some(true)),
        ("request.w.value == 0", b"", Some(true)),
    ];
    for syntax in ["proto2", "proto3"] {
        for (when, wire, wanted) in cases {
            assert_eq!(says(&compile(syntax, when), wire), wanted, "{syntax}: {when}");
        }
    }
}

/// A set in which the file is of edition 2023, with these features.
fn edition(source: &str, features: &[u8]) -> Vec<u8> {
    let folder = Folder::new(&[("t.proto", source)]);
    let mut set = protox::compile(["t.proto"], [folder.path()]).unwrap();
    let mut file = set.file.pop().unwrap();
    assert_eq!(file.name(), "t.proto");
    for field in file.message_type.iter_mut().flat_map(|message| &mut message.field) {
        field.proto3_optional = None;
    }
    file.syntax = Some("editions".to_owned());
    let mut file = file.encode_to_vec();
    file.extend([0x70, 0xe8, 0x07]); // edition 1000
    let options = [&[0x92, 0x03, u8::try_from(features.len()).unwrap()][..], features].concat();
    file.extend([0x42, u8::try_from(options.len()).unwrap()]);
    file.extend(options);
    let mut out = set.encode_to_vec();
    out.push(0x0a);
    prost::encoding::encode_varint(file.len() as u64, &mut out);
    out.extend(file);
    out
}

#[test]
fn files_of_editions_are_read_by_their_features() {
    let (explicit, implicit, closed, delimited): (&[u8], &[u8], &[u8], &[u8]) =
        (b"", b"\x08\x02", b"\x10\x02", b"\x28\x02");
    let compile = |features: &[u8], when: &str| {
        let folder = Folder::new(&[]);
        std::fs::write(folder.path().join("t.binpb"), edition(&proto("proto3"), features)).unwrap();
        folder.compile(&with_rules(&rule(when)).replace("t.proto", "t.binpb"))
    };
    let says = |features: &[u8], when: &str, wire: &[u8]| {
        says(&compile(features, when).map_err(miette::Report::new).unwrap(), wire)
    };
    // n: 0
    assert_eq!(says(explicit, "has(request.n)", b"\x60\x00"), Some(true));
    assert_eq!(says(implicit, "has(request.n)", b"\x60\x00"), Some(false));
    assert_eq!(says(explicit, "request.c == 5", b"\x08\x4d"), Some(false));
    assert_eq!(says(closed, "request.c == 5", b"\x08\x4d"), None);
    assert_eq!(says(&[implicit, closed].concat(), "request.mc[\"k\"] == 5", b"\x1a\x05\x0a\x01k\x10\x4d"), None);
    assert_eq!(says(explicit, "request.ins.exists(x, x.s == \"a\" && x.f)", b"\x22\x05\x0a\x01a\x10\x01"), Some(true));
    let error = compile(delimited, "request.ins.exists(x, x.f)").unwrap_err();
    assert!(error.to_string().contains("groups (`request.ins`)"), "{error}");
    let folder = Folder::new(&[("t.proto", "edition = \"2023\"; message M { int32 n = 1; }")]);
    let error = folder.compile(&with_rules("")).unwrap_err();
    let help = error.problems().next().unwrap().fault().help.clone().unwrap();
    assert!(help.contains("compile it with protoc or buf"), "{error} {help}");
}

#[test]
fn proto2_defaults_are_those_of_elements_and_values_too() {
    let source = r#"syntax = "proto2"; package t; message In { optional string s = 1 [default = "abc"]; optional int32 n = 2; }
        message M { repeated In ins = 1; map<string, In> m = 2; optional In one = 3; } service S { rpc R(M) returns (M); }"#;
    let folder = Folder::new(&[("t.proto", source)]);
    let says = |when: &str, wire: &[u8]| says(&folder.compile(&with_rules(&rule(when))).unwrap(), wire);
    assert_eq!(says("request.ins.exists(x, x.s == \"abc\")", b"\x0a\x00"), Some(true));
    assert_eq!(says("request.ins.exists(x, x.s == \"abc\" && !has(x.s))", b"\x0a\x05\x0a\x03abc"), Some(false));
    assert_eq!(says("request.m[\"\"].s == \"abc\"", b"\x12\x00"), Some(true));
    assert_eq!(says("request.m[\"\"].s == \"abc\"", b""), Some(false));
    assert_eq!(says("request.one.s == \"abc\"", b""), Some(true));
}

#[test]
fn check_shows_conditions_on_elements_as_they_were_written() {
    let report = |when: &str| {
        let mut out = Vec::new();
        check::report(&compile("proto3", when), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    };
    let costs = report(r#"request.ins.exists(x, x.s == "a" && x.f)"#);
    assert!(costs.contains("\nelements     1 test at the end of each at most\n"), "{costs}");
    let shown = |when: &str| {
        let text = report(when);
        let line = text.lines().find(|line| line.starts_with("  when")).unwrap().to_owned();
        line.trim_start_matches("  when").trim().to_owned()
    };
    for when in [
        r#"request.ins.exists(x, x.s == "a" && x.f)"#,
        r#"request.ins.exists(x, x.f && x.tags.exists(t, t.startsWith("a")))"#,
        r#"request.m["k"] == "v""#,
        r#"request.by["k"].s == "v""#,
        r#"request.by["k"].tags.exists(t, t.startsWith("a"))"#,
        r#""k" in request.m"#,
        "5 in request.ns",
        "size(request.ns) > 0",
        "size(request.ns) >= 3",
        "size(request.m) == 2",
        r#"request.m.exists(k, k.startsWith("x-"))"#,
    ] {
        assert_eq!(shown(when), when);
    }
    assert_eq!(shown(r#"request.ns.all(n, n > 5)"#), "!(request.ns.exists(n, !(n >= 6)))");
    assert_eq!(
        shown(r#"request.ins.exists(x, x.f && request.s == "a")"#),
        r#"request.s == "a" && request.ins.exists(x, x.f)"#
    );
}

#[test]
fn scalars_need_no_program_and_counters_no_more_bits_than_their_sizes() {
    let field = |when: &str, number: u32| {
        let policy = compile("proto3", when);
        *policy.tables.fields.iter().find(|field| field.number == number).unwrap()
    };
    for when in ["7 in request.ns", "request.ns.all(n, n > 5 && n != 7)", "size(request.ns) > 0"] {
        assert_eq!(field(when, 14).tests, 0, "{when}");
    }
    let it = field("request.ins.exists(x, x.s == \"a\" && x.f)", 4);
    assert_eq!((it.tests, it.flags), (1, PG_FIELD_ELEMENTS), "the bits of an element share a word");
    assert_eq!(field("request.m[\"k\"] == \"v\"", 13).tests, 2);
    assert_eq!(field("request.m[\"k\"] == \"v\" || request.m[\"k\"] == \"w\"", 13).tests, 3);
    let counted = compile("proto3", "size(request.ns) == 3");
    let it = counted.tables.fields.iter().find(|field| field.number == 14).unwrap();
    assert_eq!((it.tests, counted.tables.ops[it.counter as usize].mask.count_ones()), (2, 3));
    let keys = compile("proto3", "size(request.m) <= 32");
    let it = keys.tables.fields.iter().find(|field| field.number == 13).unwrap();
    assert_eq!((it.flags, it.keys), (PG_FIELD_ELEMENTS | PG_FIELD_DISTINCT | PG_FIELD_MAP, PG_MAX_MAP_KEYS));
}

#[test]
fn what_needs_as_many_keys_as_there_are_compiles() {
    let when = "size(request.m) <= 16 || size(request.by) <= 16";
    assert!(says(&compile("proto3", when), b"").unwrap());
}
