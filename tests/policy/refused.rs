//! What the compiler refuses: the text says why, and where.

use std::path::Path;

use protocg::policy;

use crate::{Folder, with_rules};

const PROTO: &str = r#"
syntax = "proto3"; package t;
import "google/protobuf/timestamp.proto"; import "google/protobuf/duration.proto";
import "google/protobuf/wrappers.proto";
enum Color { RED = 0; BLUE = 1; } enum Other { X = 0; }
message In { string s = 1; In deep = 2; }
message M { string s = 1; bytes b = 2; bool f = 3; int32 n = 4; uint32 u = 5; double d = 6; Color c = 7; In sub = 8;
  repeated string xs = 9; map<string, string> m = 10; repeated In ins = 11; map<int32, In> by = 12;
  repeated int32 ns = 13; google.protobuf.Timestamp t = 14; google.protobuf.Duration du = 15;
  google.protobuf.StringValue w = 16; map<string, Nest> nest = 17; }
message Nest { map<string, string> m = 1; }
message N { string s = 1; int64 n = 4; }
service S { rpc R(M) returns (M); rpc Q(N) returns (M); }
"#;

fn refusal(text: &str) -> String {
    let folder = Folder::new(&[("t.proto", PROTO)]);
    match folder.compile(text) {
        Ok(_) => panic!("compiled: {text}"),
        Err(errors) => errors.problems().map(|problem| format!("{problem}\n")).collect(),
    }
}

fn refuses(text: &str, why: &str) {
    let got = refusal(text);
    assert!(got.contains(why), "{text}\nsaid: {got}\nnot: {why}");
}

#[test]
fn files_that_are_wrong_are_refused() {
    let head = "name = \"p\"\nproto = [\"t.proto\"]\nports = [50051]\ndefault = \"deny\"\n";
    let cases = [
        ("", "missing field `name`"),
        ("name = \"p\"\nname = \"q\"", "duplicate key"),
        (&format!("{head}colour = 1"), "unknown field `colour`"),
        (&format!("{head}[uninspectable]\ntls = \"maybe\""), "neither \"deny\" nor \"allow\""),
        (&format!("{head}[uninspectable]\nquic = \"deny\""), "unknown field `quic`"),
        (&format!("{head}[[limit]]\nname = \"l\""), "missing field `rate`"),
        (&format!("{head}[guard]\nquic = \"deny\""), "unknown field `quic`"),
        (&format!("{head}[guard]\nbpf = \"no\""), "`no` is none of \"deny\", \"report\" and \"allow\""),
        (&format!("{head}[guard]\nlisten = [0]"), "`0` is not a port"),
        (&format!("{head}[guard]\nlisten = [\"1-9\", 5]"), "overlap"),
        (&format!("{head}[guard]\nconnect = [\"10.0.0.1/8\"]"), "bits set past its prefix"),
        (&format!("{head}[guard]\nconnect = [\"10.0.0.0/8:x\"]"), "neither a port nor a range"),
        (&format!("{head}[guard]\nundeclared_connect = \"deny\""), "no effect without `connect`"),
        (
            &format!("{head}[validate]\nmethods = [\"*\"]"),
            "none of the requests that `[validate]` covers has constraints",
        ),
        (&format!("{head}[validate]\nmethods = []"), "`methods` is empty"),
        (&format!("{head}[validate]\nskip = [\"t.Nope.x\"]"), "the protos have no field `t.Nope.x`"),
        (&format!("{head}[validate]\nfields = []"), "unknown field `fields`"),
        (&head.replace("\"p\"", "\"P!\""), "not a policy name"),
        (&head.replace("\"p\"", "\"\""), "not a policy name"),
        (&head.replace("\"p\"", "7"), "invalid type"),
        (&head.replace("\"deny\"", "\"drop\""), "neither \"deny\" nor \"allow\""),
        (&head.replace("[50051]", "[]"), "`ports` is empty"),
        (&head.replace("[50051]", "[0]"), "`0` is not a port"),
        (&head.replace("[50051]", "[65536]"), "not a port"),
        (&head.replace("[50051]", "[\"9-1\"]"), "runs backwards"),
        (&head.replace("[50051]", "[\"1-9\", 5]"), "overlap"),
        (&head.replace("[50051]", "[true]"), "invalid type"),
    ];
    for (text, why) in cases {
        refuses(text, why);
    }
}

#[test]
fn limits_that_are_wrong_are_refused() {
    let head = "name = \"p\"\nproto = [\"t.proto\"]\nports = [50051]\ndefault = \"deny\"\n[[limit]]\nname = \"l\"\n";
    let cases = [
        ("rate = \"5\"", "`5` is not a rate"),
        ("rate = \"5/d\"", "`5/d` is not a rate"),
        ("rate = \"/s\"", "`/s` is not a rate"),
        ("rate = \"-5/s\"", "`-5/s` is not a rate"),
        ("rate = \"1.5/s\"", "`1.5/s` is not a rate"),
        ("rate = 5", "invalid type"),
        ("rate = \"0/s\"", "`0/s` is not a rate"),
        ("rate = \"05/s\"", "`05/s` is not a rate"),
        ("rate = \"1000001/s\"", "limit RATE"),
        ("rate = \"99999999999999999999/s\"", "is not a rate"),
        ("rate = \"5/s\"\nburst = 0", "limit BURST"),
        ("rate = \"5/s\"\nburst = 1000001", "limit BURST"),
        ("rate = \"5/s\"\nburst = \"5\"", "invalid type"),
        ("rate = \"5/s\"\nper = \"call\"", "`call` has no buckets"),
        ("rate = \"5/s\"\nper = \"peer.port\"", "`peer.port` has no buckets"),
        ("rate = \"5/s\"\nper = 'metadata[x-a]'", "has no buckets"),
        ("rate = \"5/s\"\nper = 'metadata[\"X-A\"]'", "upper-case"),
        ("rate = \"5/s\"\nper = 'metadata[\"a-bin\"]'", "binary metadata"),
        ("rate = \"5/s\"\nper = 'metadata[\"grpc-timeout\"]'", "belongs to the protocol"),
        ("rate = \"5/s\"\nper = 'metadata[\"accept-encoding\"]'", "belongs to the protocol"),
        ("rate = \"5/s\"\nstatus = \"UNAVAILABLE\"", "unknown field `status`"),
        ("rate = \"5/s\"\nmode = \"off\"", "neither \"enforce\" nor \"audit\""),
        ("rate = \"5/s\"\nmethods = [\"/t.S/M\"]\nwhen = 'request.s == \"\"'", "before there is a message"),
        ("rate = \"5/s\"\nwhen = 'response.s == \"\"'", "before there is a message"),
    ];
    for (text, why) in cases {
        refuses(&format!("{head}{text}"), why);
    }
    let many = |count: usize, per: &dyn Fn(usize) -> String| -> String {
        let rules = (0..count).map(|i| format!("[[limit]]\nname = \"l{i}\"\nrate = \"1/s\"\nper = '{}'\n", per(i)));
        format!("name = \"p\"\nports = [50051]\ndefault = \"deny\"\n{}", rules.collect::<String>())
    };
    refuses(&many(9, &|i| format!("metadata[\"k{i}\"]")), "limit BUCKET_KEYS");
    refuses(&many(33, &|_| "policy".to_owned()), "limit METHOD_LIMITS");
}

#[test]
fn rules_that_are_wrong_are_refused() {
    let cases = [
        ("name = \"a\"\nstatus = \"OK\"", "cannot have the status `OK`"),
        ("name = \"a\"\nstatus = \"NOPE\"", "not a gRPC status"),
        ("name = \"a\"\nmessage = \"\"", "not a message for callers"),
        ("name = \"a\"\nmessage = \"a\\nb\"", "not a message for callers"),
        ("name = \"\"", "not a rule name"),
        ("name = \"a\"\nmode = \"off\"", "neither \"enforce\" nor \"audit\""),
        ("name = \"a\"\nmethods = []", "`methods` is empty"),
        ("name = \"a\"\nmethods = [\"/a.B/*/c\"]", "`*` that is not at its end"),
        ("name = \"a\"\nmethods = [\"/a.B\"]", "is not `/` service `/` method"),
        ("name = \"a\"\nmethods = [\"a.B/C\"]", "does not begin with `/`"),
        ("name = \"a\"\nmethods = [\"/a.B/C*\"]", "right after a `/` or `.`"),
        ("name = \"a\"\nmethods = [\"/a.B/C?x\"]", "a character that no method path has"),
        ("name = \"a\"\nmethods = [\"//*\"]", "covers no path"),
        ("name = \"a\"\nwhen = \"\"", "`when` is empty"),
        ("name = \"a\"\n[[deny]]\nname = \"a\"", "another rule named `a`"),
        ("name = \"a\"\n[[allow]]\nname = \"b\"\nstatus = \"ABORTED\"", "an allow rule has no `status`"),
    ];
    for (rule, why) in cases {
        refuses(&with_rules(&format!("[[deny]]\n{rule}\n")), why);
    }
    let long = "x".repeat(201);
    refuses(&with_rules(&format!("[[deny]]\nname = \"a\"\nmessage = \"{long}\"\n")), "not a message for callers");
}

#[test]
fn conditions_that_are_wrong_are_refused() {
    let cases = [
        ("request.nope == 1", "`t.M` has no field `nope`"),
        ("request.s", "is a string, not a condition"),
        ("request.s == 1", "`request.s` is a string, and this is not"),
        ("request.n == \"1\"", "is an int32, and this is not"),
        ("request.n == 3000000000", "out of the range"),
        ("request.u == -1", "out of the range"),
        ("request.n == 1.5", "is an int32, and this is not"),
        ("request.b == \"x\"", "write b\"x\""),
        ("request.s < \"x\"", "texts have no order"),
        ("request.f < true", "booleans have no order"),
        ("request.c == t.Other.X", "is a `t.Color`, not a `t.Other`"),
        ("request.c == t.Color.GREEN", "has no value `GREEN`"),
        ("request.c == nowhere.GREEN", "neither a variable nor an enum value"),
        ("request.sub == 1", "which is not compared"),
        ("request.n + 1 == 2", "no arithmetic"),
        ("request.s + \"a\" == \"b\"", "no arithmetic and builds no strings"),
        ("request.n == request.u", "compares `request.n`"),
        ("1 == 1", "compares two literals"),
        ("now() > 5", "time is not an input"),
        ("response.s == \"a\" && request.s == \"a\"", "the condition reads `request` and `response`"),
        ("response == \"a\"", "`response` is a message, not a value"),
        ("response.nope == \"a\"", "has no field `nope`"),
        ("request.s in []", "the list is empty"),
        ("request.s in [request.s]", "literals only"),
        ("request.s.contains(\"\")", "always true"),
        ("request.s.matches(\"(\")", "the pattern is wrong"),
        ("request.s.matches(\"a*\")", "matches every text"),
        ("request.b.matches(\"a\")", "`request.b` is bytes"),
        ("request.s.matches(\"(?x)a\")", "not RE2"),
        ("request.s.matches(\"(a|b|é)[ab]{40}c.{60}\")", "limit AUTOMATON_BYTES"),
        ("request.s.contains(request.s)", "takes a literal"),
        ("true", "always true"),
        ("request.n < 5 && request.n > 7", "always false"),
        ("request.n < 5 || request.n >= 5", "always true"),
        ("request.u >= 0", "always true"),
        ("request.f || !request.f", "always true"),
        ("request.s == \"a\" && request.s.startsWith(\"b\")", "always false"),
        ("request.s == \"a\" && request.s == \"b\"", "always false"),
        ("size(request.s) < 0", "always false"),
        ("metadata[\"X\"] == \"a\"", "upper-case"),
        ("metadata[\":path\"] == \"a\"", "is not metadata"),
        ("metadata[\"host\"] == \"a\"", "is not metadata"),
        ("metadata[\"grpc-timeout\"] == \"a\"", "belongs to the protocol"),
        ("metadata[\"te\"] == \"a\"", "belongs to the protocol"),
        ("metadata[\"x-bin\"] == \"a\"", "binary metadata"),
        ("metadata[\"a b\"] == \"a\"", "not a metadata key"),
        ("metadata.a == \"a\"", "metadata has no fields"),
        ("peer.ip == \"10.0.0.1\"", "`peer.ip` is an address"),
        ("cidr(\"10.0.0.0/33\").containsIP(peer.ip)", "prefix longer than its address"),
        ("cidr(\"10.0.0.1/8\").containsIP(peer.ip)", "write `10.0.0.0/8`"),
        ("cidr(\"ten\").containsIP(peer.ip)", "not an address block"),
        ("peer.port > 70000", "a port is 0 to 65535"),
        ("request.s ==", "this is not CEL"),
        ("request.s.upper() == \"A\"", "not a function"),
        ("request.sub.deep.deep.deep.deep.deep.deep.deep.s == \"\"", "limit FIELD_PATH"),
    ];
    for (when, why) in cases {
        refuses(&with_rules(&format!("[[deny]]\nname = \"a\"\nmethods = [\"/t.S/R\"]\nwhen = '''{when}'''\n")), why);
    }
}

/// Each with the text that the caret stands under.
#[test]
fn conditions_on_elements_that_are_wrong_are_refused_with_their_place() {
    let distinct = "size(request.m) > 20 || size(request.by) > 20";
    let cases = [
        ("request.xs == 1", "compared", "request.xs == 1"),
        ("request.xs == [\"a\"]", "lists and maps are no operands", "[\"a\"]"),
        ("request.xs", "`request.xs` (repeated string) is not a condition", "request.xs"),
        ("request.xs[0] == \"a\"", "doesn't count to an element's place", "request.xs[0]"),
        ("request.ins.s == \"a\"", "its elements have fields", "request.ins.s"),
        ("request.m.a == \"b\"", "it has keys, not fields", "request.m.a"),
        ("has(request.m.a)", "it has keys, not fields", "request.m.a"),
        ("request.m[request.s] == \"b\"", "a key of a map is a literal", "request.s"),
        ("request.m[1] == \"b\"", "is a string, and this is not", "1"),
        ("request.by[\"a\"].s == \"b\"", "is an int32, and this is not", "\"a\""),
        ("request.by[3000000000].s == \"b\"", "out of the range", "3000000000"),
        ("request.m[\"a\"] == 1", "`request.m[\"a\"]` is a string, and this is not", "1"),
        ("request.by[1] == 1", "which is not compared", "1"),
        ("request.by[1].nope == 1", "has no field `nope`", "request.by[1].nope"),
        ("request.m[\"a\"].s == \"b\"", "is not a message", "request.m[\"a\"].s"),
        ("1 in request.xs", "is a string, and this is not", "1"),
        ("\"a\" in request.ns", "is an int32, and this is not", "\"a\""),
        ("1 in request.m", "is a string, and this is not", "1"),
        ("request.s in request.xs", "literals only", "request.s"),
        ("\"a\" in request.s", "`in` takes a list of literals", "request.s"),
        ("request.xs.exists(x, x)", "is a string, not a condition", "x"),
        ("request.xs.exists(x, x == 1)", "`x` is a string, and this is not", "1"),
        ("request.xs.exists(x, x.s == \"a\")", "`x` is not a message", "x.s"),
        ("request.ins.exists(x, x.nope == 1)", "`t.In` has no field `nope`", "x.nope"),
        ("request.ins.exists(x, x.s == x.deep.s)", "compares `x.s`", "x.s == x.deep.s"),
        ("request.ins.exists(x, x.s == request.s)", "compares `x.s`", "x.s == request.s"),
        ("request.xs.exists(x, y == \"a\")", "neither a variable nor an enum value", "y"),
        ("request.xs.exists(request, request == \"a\")", "is a variable already", "*"),
        ("request.xs.exists_one(x, x == \"a\")", "`exists`, `all` and `has`", "*"),
        ("size(request.xs.filter(x, x == \"a\")) > 1", "`exists`, `all` and `has`", "*"),
        ("request.xs.map(x, x) == 1", "`exists`, `all` and `has`", "*"),
        ("request.xs.exists(x) == true", "is not called like this", "*"),
        ("request.s.exists(x, x == \"a\")", "has no elements", "request.s"),
        ("request.n.all(x, x == 1)", "has no elements", "request.n"),
        ("metadata.exists(k, k == \"a\")", "metadata has no elements here", "metadata"),
        ("[1, 2].exists(x, x == 1)", "lists and maps are no operands", "*"),
        ("request.m.exists(k, request.m[k] == \"a\")", "a key of a map is a literal", "k"),
        ("size(request.ns) < -1", "never negative", "*"),
        ("size(request.ns) < 0", "always false", "*"),
        ("request.ns.exists(x, x < 1 && x > 2)", "always false", "*"),
        ("request.ns.exists(x, x > 1) && size(request.ns) == 0", "always false", "*"),
        ("size(request.m) > 33", "limit MAP_KEYS", "*"),
        (distinct, "limit MAP_KEYS", "*"),
        ("request.t == 5", "compare it with `timestamp(\"...\")`", "5"),
        ("request.t < duration(\"5s\")", "compare it with `timestamp(\"...\")`", "*"),
        ("request.t < timestamp(\"soon\")", "is not a time", "\"soon\""),
        ("request.du < duration(\"5\")", "is not a duration", "\"5\""),
        ("request.t", "is a message, not a condition", "request.t"),
        ("request.w == 1", "is a string, and this is not", "1"),
        ("request.w.nope == 1", "has no field `nope`", "request.w.nope"),
    ];
    let folder = Folder::new(&[("t.proto", PROTO)]);
    for (when, why, caret) in cases {
        let text = with_rules(&format!("[[deny]]\nname = \"a\"\nmethods = [\"/t.S/R\"]\nwhen = '''{when}'''\n"));
        let Err(errors) = folder.compile(&text) else { panic!("compiled: {when}") };
        let problem = errors.problems().next().unwrap();
        let message = problem.to_string();
        assert!(message.contains(why), "{when}\nsaid: {message}\nnot: {why}");
        let span = problem.fault().span.clone().unwrap_or_else(|| panic!("{when}: {message} stands nowhere"));
        let under = &text[span];
        assert!(if caret == "*" { text.contains(under) } else { under == caret }, "{when}: under {under:?}");
    }
    let nested = "size(request.nest) > 2 && size(request.nest[\"a\"].m) > 2";
    let text = with_rules(&format!("[[deny]]\nname = \"a\"\nmethods = [\"/t.S/R\"]\nwhen = '''{nested}'''\n"));
    assert!(folder.compile(&text).unwrap_err().to_string().contains("whose size is compared, too"));
}

/// What a message needs of the bounds, and whether the policy compiles: as it is, and read by definition.
fn bounded(body: &str, limit: &str) {
    let proto = format!("syntax = \"proto3\"; package t; service S {{ rpc R(M) returns (M); }} message In {{}} {body}");
    let folder = Folder::new(&[("t.proto", &proto)]);
    let rule = "[[deny]]\nname = \"r\"\nmethods = [\"/t.S/R\"]\nwhen = 'request.s == \"x\"'\n";
    let error = folder.compile(&with_rules(rule)).unwrap_err().to_string();
    assert!(error.contains(limit) && error.contains("set `ambiguous = \"allow\"` under [uninspectable]"), "{error}");
    folder.compile(&with_rules(&format!("[uninspectable]\nambiguous = \"allow\"\n{rule}"))).unwrap();
}

#[test]
fn messages_that_are_too_large_to_be_looked_through_are_refused() {
    let fields =
        |kind: &str, count: usize| (0..count).map(|i| format!("{kind} f{i} = {};", i + 10)).collect::<String>();
    bounded(&format!("message M {{ string s = 1; {} }}", fields("In", 1025)), "limit ONCE_WORDS");
    bounded(
        &format!("message M {{ string s = 1; B b = 2; }} message B {{ {} }}", fields("In", 1025)),
        "limit ONCE_WORDS",
    );
    let many: String = (0..132)
        .map(|i| format!("message B{i} {{ B{} next = 1; {} }}", (i + 1) % 132, fields("int32", 2000)))
        .collect();
    bounded(&format!("message M {{ string s = 1; B0 b = 2; }} {many}"), "limit FIELDS");
}

#[test]
fn a_program_that_is_too_long_is_refused() {
    let rules = |count: usize| {
        let one = |i| {
            format!(
                "[[deny]]\nname = \"r{i}\"\nmethods = [\"/t.S/R\"]\nwhen = 'request.ins.exists(x, x.s == \"k{i}\" && has(x.deep))'\n"
            )
        };
        with_rules(&(0..count).map(one).collect::<String>())
    };
    let folder = Folder::new(&[("t.proto", PROTO)]);
    assert!(folder.compile(&rules(100)).is_ok());
    let error = folder.compile(&rules(300)).unwrap_err().to_string();
    assert!(error.contains("limit ELEMENT_TESTS"), "{error}");
}

#[test]
fn rules_over_several_requests_need_the_same_fields() {
    let rule = |methods: &str, when: &str| {
        with_rules(&format!("[[deny]]\nname = \"a\"\nmethods = [\"{methods}\"]\nwhen = '{when}'\n"))
    };
    refuses(&rule("/t.S/*", "request.n == 1"), "has another type in");
    refuses(&rule("/t.S/*", "request.f"), "`t.N` has no field `f`");
    refuses(&rule("/t.S/Nope", "request.f"), "no proto describes `/t.S/Nope`");
    refuses(&rule("/other.*", "request.f"), "no proto describes a method under `/other.*`");
    let folder = Folder::new(&[("t.proto", PROTO)]);
    assert!(folder.compile(&rule("/t.S/*", "request.s == \"a\"")).is_ok());
}

#[test]
fn rules_on_responses_that_are_wrong_are_refused() {
    let rule = |action: &str, methods: &str, when: &str| {
        with_rules(&format!("[[{action}]]\nname = \"r\"\nmethods = [{methods}]\nwhen = '{when}'\n"))
    };
    let deny = |when: &str| rule("deny", "\"/t.S/R\"", when);
    let secret = "response.s == \"x\"";
    let cases = [
        (rule("allow", "\"/t.S/R\"", secret), "an allow rule cannot read `response`"),
        (rule("deny", "\"/t.S/None\"", secret), "no proto describes `/t.S/None`, and the condition reads its response"),
        (rule("deny", "\"/u.*\"", secret), "no proto describes a method under `/u.*`"),
        (deny("response.s == \"x\" || request.s == \"y\""), "the condition reads `request` and `response`"),
        (deny("response.xs.exists(x, x == \"a\" && request.f)"), "the condition reads `request` and `response`"),
        (deny("response.s == \"x\" || response.s != \"x\""), "always true"),
        (deny("response.xs.exists(response, response == \"a\")"), "`response` is a variable already"),
        (rule("deny", "\"/t.*\"", "response.zs == \"x\""), "has no field `zs`"),
    ];
    for (text, why) in cases {
        refuses(&text, why);
    }
}

#[test]
fn a_caret_stands_under_the_word_that_is_wrong() {
    let text = with_rules(
        "[[deny]]\nname = \"a\"\nmethods = [\"/t.S/R\"]\nwhen = 'request.s == \"é\" && request.nope == 1'\n",
    );
    let folder = Folder::new(&[("t.proto", PROTO)]);
    let error = folder.compile(&text).unwrap_err();
    let problem = error.problems().next().unwrap();
    let span = problem.fault().span.clone().unwrap();
    assert_eq!(&text[span], "request.nope");
    assert_eq!(problem.position(), Some((8, 29)));
    let wrong = text.replace("request.nope == 1", "request.n == 3000000000");
    let error = folder.compile(&wrong).unwrap_err();
    assert_eq!(&wrong[error.problems().next().unwrap().fault().span.clone().unwrap()], "3000000000");
}

#[test]
fn protos_that_are_wrong_are_refused() {
    let policy = |proto: &str| format!("name = \"p\"\nproto = {proto}\nports = [1]\ndefault = \"deny\"\n");
    let message = "syntax = \"proto3\"; message A {}";
    let folder = Folder::new(&[
        ("missing.proto", "syntax = \"proto3\"; import \"gone.proto\";"),
        ("a.proto", "syntax = \"proto3\"; import \"b.proto\";"),
        ("b.proto", "syntax = \"proto3\"; import \"a.proto\";"),
        ("one.proto", message),
        ("two.proto", message),
        ("bad.proto", "message {"),
        ("bad.binpb", "no descriptor"),
        ("folder.proto/x", ""),
    ]);
    let set = |name: &str, imports: &[&str]| {
        use prost::Message as _;
        use prost_reflect::prost_types::{FileDescriptorProto, FileDescriptorSet};
        let dependency = imports.iter().map(|import| (*import).to_owned()).collect();
        let file = FileDescriptorProto { name: Some("x.proto".to_owned()), dependency, ..Default::default() };
        std::fs::write(folder.path().join(name), FileDescriptorSet { file: vec![file] }.encode_to_vec()).unwrap();
    };
    set("lonely.binpb", &["gone.proto"]);
    set("fine.binpb", &[]);
    let cases = [
        ("[\"nowhere.proto\"]", "neither in the policy's folder nor in an import root"),
        ("[\"missing.proto\"]", "'gone.proto' not found"),
        ("[\"a.proto\"]", "cycle"),
        ("[\"one.proto\", \"two.proto\"]", "'A'"),
        ("[\"bad.proto\"]", "bad.proto"),
        ("[\"folder.proto\"]", "is not a file"),
        ("[\"bad.binpb\"]", "not a FileDescriptorSet"),
        ("[\"nowhere.binpb\"]", "cannot read"),
        ("[\"lonely.binpb\"]", "lacks `gone.proto`"),
    ];
    for (proto, why) in cases {
        let got = folder.compile(&policy(proto)).unwrap_err().to_string();
        assert!(got.contains(why), "{proto}: {got}");
    }
    assert!(folder.compile(&policy("[\"fine.binpb\"]")).is_ok());
    let include = format!("include = [\"nowhere\"]\n{}", policy("[\"one.proto\"]"));
    assert!(folder.compile(&include).unwrap_err().to_string().contains("is not a folder"));
}

#[test]
fn files_that_are_no_policy_are_refused() {
    let folder = Folder::new(&[("p.toml", "")]);
    let refused = |path: &Path| policy::load(path).unwrap_err().to_string();
    assert!(refused(folder.path()).contains("is not a file"));
    assert!(refused(&folder.path().join("gone.toml")).contains("cannot read the policy"));
    let path = folder.path().join("p.toml");
    std::fs::write(&path, b"name = \"\xff\"").unwrap();
    assert!(refused(&path).contains("not UTF-8"));
    std::fs::File::create(&path).unwrap().set_len(100 << 20).unwrap();
    assert!(refused(&path).contains("longer than"));
}

#[test]
fn several_faults_are_reported_at_once() {
    let got = refusal(&with_rules("[[deny]]\nname = \"a\"\nstatus = \"OK\"\n[[deny]]\nname = \"a\"\nmessage = \"\"\n"));
    assert_eq!(got.lines().count(), 3, "{got}");
}

#[test]
fn conditions_as_deep_as_an_attacker_likes_are_refused_and_do_not_overflow_the_stack() {
    let rule = |when: &str| with_rules(&format!("[[deny]]\nname = \"a\"\nmethods = [\"/t.S/R\"]\nwhen = '{when}'\n"));
    for when in [
        format!("request{}", ".a".repeat(20_000)),
        format!("{}request.f{}", "(".repeat(20_000), ")".repeat(20_000)),
        format!("{}request.f", "!(".repeat(20_000)),
        format!("request.n == {}1", "-".repeat(20_001)),
        format!("request.f{}", " ? request.f : request.f".repeat(2_000)),
        format!("request.f{}", "[0]".repeat(20_000)),
        format!("request.n{} == 1", " + 1".repeat(20_000)),
    ] {
        assert!(!refusal(&rule(&when)).is_empty());
    }
}

/// The section's switches are the ABI's list of ways; what stands behind a wrong one is a caret under it.
#[test]
fn every_way_around_has_a_switch() {
    let ways: Vec<_> = protocg::names::ways().map(|way| way.name).collect();
    let switches: String = ways.iter().map(|way| format!("{way} = \"report\"\n")).collect();
    let folder = Folder::new(&[("t.proto", PROTO)]);
    let guard = folder.compile(&with_rules(&format!("[guard]\nconnect = []\n{switches}"))).unwrap().guard.unwrap();
    assert_eq!(guard.ways, vec![policy::Switch::Report; ways.len()]);
    let errors = folder.compile(&with_rules("[guard]\nraw = \"denied\"\n")).unwrap_err();
    assert_eq!(errors.problems().map(|problem| problem.position()).collect::<Vec<_>>(), [Some((6, 7))]);
    let defaults = folder.compile(&with_rules("[guard]\n")).unwrap().guard.unwrap();
    let allowed = |ways: &[policy::Switch]| ways.iter().filter(|it| **it == policy::Switch::Allow).count();
    assert_eq!(allowed(&defaults.ways), 2, "connecting where no place is named, and TLS libraries");
    let egress = with_rules("[guard]\n").replace("ports", "direction = \"egress\"\nports");
    assert_eq!(
        allowed(&folder.compile(&egress).unwrap().guard.unwrap().ways),
        3,
        "an egress policy declares no listeners"
    );
    assert!(folder.compile(&with_rules("")).unwrap().guard.is_none());
}
