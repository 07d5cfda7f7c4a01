//! `[validate]`: which constraints become which rules, and which are refused by the name of their field.

use std::path::Path;

use protocg::policy::{Errors, Policy};

use crate::{Folder, eval, with_rules};

const HEAD: &str = "package t;\nimport \"buf/validate/validate.proto\";\nimport \"google/protobuf/wrappers.proto\";\n\
    import \"google/protobuf/timestamp.proto\";\nimport \"google/protobuf/any.proto\";\n\
    service S { rpc R(M) returns (M); }\n";

fn folder(body: &str) -> Folder {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies/protovalidate/buf/validate/validate.proto");
    let validate = std::fs::read_to_string(own).unwrap();
    let proto = format!("syntax = \"proto3\";\n{HEAD}{body}");
    Folder::new(&[("t.proto", &proto), ("buf/validate/validate.proto", &validate)])
}

fn compile(body: &str, skip: &str) -> Result<Policy, Errors> {
    folder(body).compile(&with_rules(&format!("[validate]\nskip = [{skip}]\n")))
}

/// What a message violates, in the order of the rules.
fn violated(policy: &Policy, wire: &[u8]) -> Vec<String> {
    let method = eval::method(&policy.tables, "/t.S/R");
    let bits = eval::message(&policy.tables, method, &[0; 32], wire).unwrap();
    let rules = eval::message_rules(&policy.tables, method, &bits);
    rules
        .into_iter()
        .map(|rule| policy.rules[rule as usize].name.trim_start_matches("validate t.M").to_owned())
        .collect()
}

#[test]
fn a_constraint_is_a_rule_with_the_name_and_text_that_protovalidate_has() {
    let body = r#"
    message M {
      string s = 1 [(buf.validate.field).string = { min_len: 2 max_bytes: 5 }];
      repeated In ins = 2 [(buf.validate.field).repeated.min_items = 1];
      google.protobuf.Int32Value w = 3 [(buf.validate.field).int32 = { gt: 5 lt: 1 }];
      map<string, In> by = 4;
      optional string o = 5 [(buf.validate.field).string.min_len = 1];
      oneof pick { option (buf.validate.oneof).required = true; int32 a = 6 [(buf.validate.field).int32.const = 7]; string b = 7; }
      In in = 8;
    }
    message In { sint32 n = 1 [(buf.validate.field).sint32.not_in = 4, (buf.validate.field).sint32.not_in = 0]; }
    "#;
    let policy = compile(body, "").map_err(miette::Report::new).unwrap();
    let rules: Vec<String> = policy
        .rules
        .iter()
        .map(|rule| format!("{} | {}", rule.name.trim_start_matches("validate t.M"), rule.message))
        .collect();
    let expected = [
        "pick required | pick: exactly one field is required in oneof [required]",
        "s string.min_len | s: must be at least 2 characters [string.min_len]",
        "s string.max_bytes | s: must be at most 5 bytes [string.max_bytes]",
        "ins repeated.min_items | ins: must contain at least 1 item(s) [repeated.min_items]",
        "ins[].n sint32.not_in | ins[].n: must not be in list [4, 0] [sint32.not_in]",
        "w int32.gt_lt_exclusive | w: must be greater than 5 or less than 1 [int32.gt_lt_exclusive]",
        "by[].n sint32.not_in | by[].n: must not be in list [4, 0] [sint32.not_in]",
        "o string.min_len | o: must be at least 1 characters [string.min_len]",
        "a int32.const | a: must equal 7 [int32.const]",
        "in.n sint32.not_in | in.n: must not be in list [4, 0] [sint32.not_in]",
    ];
    assert_eq!(rules.iter().map(|rule| rule.trim_start_matches('.')).collect::<Vec<_>>(), expected);
    assert!(policy.rules.iter().all(|rule| rule.status == 3));

    let fine = b"\x0a\x02ab\x12\x02\x08\x02\x30\x07".to_vec();
    let all = |more: &[u8]| violated(&policy, &[&fine, more].concat());
    assert_eq!(all(b""), Vec::<String>::new());
    assert_eq!(violated(&policy, b""), [".pick required", ".s string.min_len", ".ins repeated.min_items"]);
    // characters and bytes are counted apart
    assert_eq!(all("\n\u{2}é".as_bytes()), [".s string.min_len"], "one character");
    assert_eq!(all("\n\u{6}ééé".as_bytes()), [".s string.max_bytes"], "three characters of two bytes");
    // elements, values, wrappers: those that are there
    assert_eq!(all(b"\x12\x02\x08\x08"), [".ins[].n sint32.not_in"]);
    assert_eq!(all(b"\x12\x00"), [".ins[].n sint32.not_in"]);
    assert_eq!(all(b"\x22\x03\x0a\x01k"), [".by[].n sint32.not_in"]);
    assert_eq!(all(b"\x1a\x02\x08\x03"), [".w int32.gt_lt_exclusive"]);
    assert_eq!(all(b"\x1a\x00"), Vec::<String>::new());
    assert_eq!(all(b"\x2a\x00"), [".o string.min_len"]);
    assert_eq!(all(b"\x30\x01"), [".a int32.const"]);
    assert_eq!(all(b"\x3a\x01x"), Vec::<String>::new());
    assert_eq!(all(b"\x42\x00"), [".in.n sint32.not_in"]);
}

#[test]
fn what_the_kernel_does_not_decide_is_refused_by_the_name_of_its_field() {
    let cases = [
        ("string s = 1 [(buf.validate.field).string.email = true];", "`t.M.s`", "`string.email`"),
        ("string s = 1 [(buf.validate.field).string.hostname = true];", "`t.M.s`", "`string.hostname`"),
        ("string s = 1 [(buf.validate.field).string.tuuid = true];", "`t.M.s`", "`string.tuuid`"),
        (
            "string s = 1 [(buf.validate.field).string.well_known_regex = KNOWN_REGEX_HTTP_HEADER_NAME];",
            "`t.M.s`",
            "`string.well_known_regex`",
        ),
        ("string s = 1 [(buf.validate.field).string.pattern = \"(?x)a\"];", "`t.M.s`", "is not RE2"),
        ("string s = 1 [(buf.validate.field).int32.gt = 1];", "`t.M.s`", "`int32` on a field of type string"),
        ("string s = 1 [(buf.validate.field).string.max_bytes = 100000];", "t.M.s", "are compared up to 4096"),
        ("bytes b = 1 [(buf.validate.field).bytes.pattern = \"a\"];", "`t.M.b`", "`bytes.pattern`"),
        ("bytes b = 1 [(buf.validate.field).bytes.ipv6 = true];", "`t.M.b`", "`bytes.ipv6`"),
        ("repeated int32 n = 1 [(buf.validate.field).repeated.unique = true];", "`t.M.n`", "`repeated.unique`"),
        (
            "repeated int32 n = 1 [(buf.validate.field).repeated.items.required = true];",
            "`t.M.n`",
            "`required` of an element",
        ),
        ("map<int32, int32> m = 1 [(buf.validate.field).map.min_pairs = 90];", "`t.M.m`", "limit MAP_KEYS"),
        (
            "google.protobuf.Timestamp at = 1 [(buf.validate.field).timestamp.lt_now = true];",
            "`t.M.at`",
            "`timestamp.lt_now`",
        ),
        ("google.protobuf.Any any = 1 [(buf.validate.field).any.in = \"x\"];", "`t.M.any`", "`any.in`"),
        (
            "int32 n = 1 [(buf.validate.field).cel = { id: \"n\" expression: \"this * 2 < 9\" }];",
            "`t.M.n`",
            "no arithmetic",
        ),
        (
            "string s = 1 [(buf.validate.field).cel = { id: \"s\" expression: \"this.isEmail()\" }];",
            "`t.M.s`",
            "not a function",
        ),
        (
            "int32 n = 1 [(buf.validate.field).cel = { id: \"n\" expression: \"this < now\" }];",
            "`t.M.n`",
            "`now` is not an input",
        ),
        (
            "option (buf.validate.message).oneof = { fields: [\"a\"] }; int32 a = 1;",
            "`t.M`",
            "`oneof` of `(buf.validate.message)`",
        ),
        ("M m = 1; int32 n = 2 [(buf.validate.field).int32.gt = 1];", "`t.M.m`", "may lie in itself"),
    ];
    for (fields, name, why) in cases {
        let errors =
            compile(&format!("message M {{ {fields} }}"), "").err().unwrap_or_else(|| panic!("compiled: {fields}"));
        let said: String = errors.problems().map(|problem| format!("{problem}\n")).collect();
        assert!(said.contains(name) && said.contains(why), "{fields}\nsaid {said}\nnot {name} {why}");
    }
}

#[test]
fn a_zero_is_ignored_where_it_is_no_more_than_an_absent_field() {
    let body = r#"
    message M {
      int32 n = 1 [(buf.validate.field) = { ignore: IGNORE_IF_ZERO_VALUE int32: { gt: 3 } }];
      optional int32 o = 2 [(buf.validate.field) = { ignore: IGNORE_IF_ZERO_VALUE int32: { gt: 3 } }];
      oneof pick { string a = 3 [(buf.validate.field) = { ignore: IGNORE_IF_ZERO_VALUE string: { min_len: 2 } }]; }
      google.protobuf.Int32Value w = 4 [(buf.validate.field) = { ignore: IGNORE_IF_ZERO_VALUE int32: { gt: 3 } }];
      repeated int32 all = 5 [(buf.validate.field).repeated.items = { ignore: IGNORE_IF_ZERO_VALUE int32: { gt: 3 } }];
    }
    "#;
    let policy = compile(body, "").map_err(miette::Report::new).unwrap();
    let all = |wire: &[u8]| violated(&policy, wire);
    assert_eq!(all(b""), Vec::<String>::new());
    assert_eq!(all(b"\x08\x00\x28\x00"), Vec::<String>::new(), "a zero without presence, and an element");
    assert_eq!(all(b"\x08\x02\x28\x02"), [".n int32.gt", ".all[] int32.gt"]);
    assert_eq!(all(b"\x10\x00"), [".o int32.gt"], "a zero with presence");
    assert_eq!(all(b"\x1a\x00"), [".a string.min_len"], "of a oneof");
    assert_eq!(all(b"\x22\x00"), [".w int32.gt"], "a wrapper");
}

#[test]
fn fields_oneofs_and_messages_are_skipped_by_name() {
    let body = r#"
    message M {
      option (buf.validate.message).cel = { id: "m" expression: "this.n % 2 == 0" };
      string s = 1 [(buf.validate.field).string.email = true];
      In in = 2;
      oneof pick { option (buf.validate.oneof).required = true; int32 a = 3; }
      int32 n = 4 [(buf.validate.field).int32.gt = 1];
    }
    message In { string s = 1 [(buf.validate.field).string.uri = true]; }
    "#;
    let policy = compile(body, r#""t.M", "t.M.s", "t.In.s", "t.M.pick""#).map_err(miette::Report::new).unwrap();
    let names: Vec<&str> = policy.rules.iter().map(|rule| rule.name.as_str()).collect();
    assert_eq!(names, ["validate t.M.n int32.gt"]);
}
