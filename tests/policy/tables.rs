//! The tables of small policies, in full where that is short.

use std::time::Instant;

use protocg::abi::*;
use protocg::cli::check;
use protocg::policy::{MethodInfo, Policy};

use crate::{Folder, eval, with_rules};

const PROTO: &str = r#"
syntax = "proto3"; package t;
message M { string s = 1; int32 n = 2; oneof o { string a = 3; int32 b = 4; } }
message N { string s = 1; }
service S { rpc R(M) returns (M); rpc Q(N) returns (M); rpc P(M) returns (M); }
"#;

fn compile(rules: &str) -> Policy {
    Folder::new(&[("t.proto", PROTO)]).compile(&with_rules(rules)).map_err(miette::Report::new).unwrap()
}

#[test]
fn a_policy_without_rules_has_its_described_methods() {
    let policy = compile("");
    let tables = &policy.tables;
    let paths: Vec<Option<&str>> = policy.methods.iter().map(|method| method.path.as_deref()).collect();
    assert_eq!(paths, [None, Some("/t.S/P"), Some("/t.S/Q"), Some("/t.S/R")]);
    assert_eq!(eval::method(tables, "/t.S/Q"), 2);
    assert_eq!(eval::method(tables, "/t.S/Qx"), 0);
    assert!(
        tables
            .methods
            .iter()
            .all(|method| method.flags & !PG_METHOD_UNARY == PG_METHOD_REFUSED && method.header_tests == 0)
    );
    assert_ne!(tables.config.generation, 0);
    assert_eq!(tables.config.ports[50051 / 64], 1 << (50051 % 64));
    assert_eq!(tables.config.default_action, PG_DENY);
    assert_eq!((tables.nodes.len(), tables.fields.len(), tables.keys.len(), tables.peers.len()), (1, 1, 1, 1));
}

#[test]
fn the_verifier_is_told_what_no_rule_needs() {
    let proto = "syntax = \"proto3\"; package t; message M { string s = 1; repeated string many = 2; map<string, string> map = 3; }\n\
                 message N { repeated int32 n = 1; string s = 2; } service S { rpc R(M) returns (M); rpc Q(N) returns (M); }\n";
    let needs = |rules: &str| {
        let policy =
            Folder::new(&[("t.proto", proto)]).compile(&with_rules(rules)).map_err(miette::Report::new).unwrap();
        let config = policy.tables.config;
        (config.elements, config.packed, config.audits)
    };
    let rule =
        |method: &str, when: &str| format!("[[deny]]\nname = \"r\"\nmethods = [\"/t.S/{method}\"]\nwhen = '{when}'\n");
    assert_eq!(needs(""), (0, 0, 0));
    assert_eq!(needs(&rule("R", "request.s == \"x\"")), (0, 0, 0));
    assert_eq!(needs(&rule("R", "\"x\" in request.many")), (1, 0, 0));
    assert_eq!(needs(&rule("R", "request.map[\"x\"] == \"y\"")), (1, 0, 0));
    assert_eq!(needs(&rule("R", "size(request.map) > 3")), (1, 0, 0));
    assert_eq!(needs(&rule("Q", "request.s == \"x\"")), (0, 1, 0));
    assert_eq!(needs(&(rule("R", "request.s == \"x\"") + "mode = \"audit\"\n")), (0, 0, 1));
}

#[test]
fn rules_of_wider_patterns_are_merged_into_narrower_entries() {
    let policy = compile(
        "[[allow]]\nname = \"all\"\n[[deny]]\nname = \"pkg\"\nmethods = [\"/t.*\"]\n\
         [[deny]]\nname = \"one\"\nmethods = [\"/t.S/R\", \"/x.Y/Z\"]\n\
         [[deny]]\nname = \"req\"\nmethods = [\"/t.S/*\"]\nwhen = 'request.s == \"x\"'\n",
    );
    let tables = &policy.tables;
    let rules = |path: &str| {
        let method = eval::method(tables, path);
        let header: Vec<u32> = eval::header_rules(tables, method, &[0; 32]).into_iter().collect();
        (header, tables.methods[method].flags & !PG_METHOD_UNARY)
    };
    assert_eq!(rules("/other.A/B"), (vec![0], 0));
    assert_eq!(rules("/t.Other/B"), (vec![0, 1], PG_METHOD_REFUSED));
    assert_eq!(rules("/t.S/Unheard"), (vec![0, 1], PG_METHOD_UNKNOWN | PG_METHOD_REFUSED));
    assert_eq!(rules("/t.S/R"), (vec![0, 1, 2], PG_METHOD_MESSAGES | PG_METHOD_REFUSED));
    assert_eq!(rules("/t.S/Q"), (vec![0, 1], PG_METHOD_MESSAGES | PG_METHOD_REFUSED));
    assert_eq!(rules("/x.Y/Z"), (vec![0, 2], PG_METHOD_REFUSED));
    let first = tables.methods[eval::method(tables, "/t.S/R")].header_test as usize;
    let order: Vec<u32> = tables.tests[first..first + 3].iter().map(|test| test.rule).collect();
    assert_eq!(order, [1, 2, 0], "deny rules come first");
    assert_eq!(policy.methods[1], MethodInfo { path: Some("/t.*".to_owned()), exact: false, response: false });
    // methods with the same request and rules share their plan
    let at = |path: &str| &tables.methods[eval::method(tables, path)];
    assert_eq!(at("/t.S/P").plan, at("/t.S/R").plan);
    assert_eq!(at("/t.S/P").message_test, at("/t.S/R").message_test);
}

#[test]
fn methods_whose_responses_are_read_have_a_second_entry() {
    let policy = compile(
        "[[deny]]\nname = \"r\"\nmethods = [\"/t.*\"]\nwhen = 'response.a == \"x\"'\n\
         [[allow]]\nname = \"all\"\n",
    );
    let tables = &policy.tables;
    let at = eval::method(tables, "/t.S/R");
    let own = tables.methods[at].response as usize;
    assert_eq!((tables.methods[at].flags & PG_METHOD_MESSAGES, tables.config.responses), (0, 1));
    assert_eq!(tables.methods[own].flags, PG_METHOD_MESSAGES);
    assert_eq!((policy.methods[own].path.as_deref(), policy.methods[own].response), (Some("/t.S/R"), true));
    assert!(tables.methods[own].message_tests > 0 && tables.methods[own].header_tests == 0);
    // nobody knows what these answer
    assert_ne!(tables.methods[eval::method(tables, "/t.S/Unheard")].flags & PG_METHOD_UNKNOWN, 0);
    assert_eq!(tables.methods[eval::method(tables, "/other.A/B")].response, 0);
    let without = compile("[[allow]]\nname = \"all\"\n");
    assert_eq!(without.tables.config.responses, 0);
    assert!(without.tables.methods.iter().all(|method| method.response == 0));
}

#[test]
fn a_oneof_member_that_no_rule_reads_clears_one_that_a_rule_reads() {
    let policy = compile(
        "[uninspectable]\nambiguous = \"allow\"\n[[deny]]\nname = \"r\"\nmethods = [\"/t.S/R\"]\nwhen = 'request.a == \"x\" && has(request.a)'\n",
    );
    let tables = &policy.tables;
    let method = eval::method(tables, "/t.S/R");
    let holds = |wire: &[u8]| {
        let bits = eval::message(tables, method, &[0; 32], wire).unwrap();
        !eval::message_rules(tables, method, &bits).is_empty()
    };
    assert_eq!(tables.fields.iter().map(|field| field.number).collect::<Vec<_>>(), [3, 4]);
    assert!(holds(b"\x1a\x01x"));
    assert!(!holds(b"\x1a\x01x\x20\x01"));
    assert!(holds(b"\x20\x01\x1a\x01x"));
    assert!(holds(b"\x1a\x01x\x25\x01\x00\x00\x00"), "another wire type is an unknown field");
    assert!(!holds(b"\x1a\x01x\x1a\x01y"), "the last one wins");
    assert!(eval::message(tables, method, &[0; 32], b"\x1a\x01\xff").is_err());
}

#[test]
fn the_static_table_is_read_under_the_policy() {
    let policy = compile(
        "[[deny]]\nname = \"r\"\nwhen = 'metadata[\"accept-encoding\"].contains(\"gzip\") || metadata[\"accept\"] == \"\"'\n",
    );
    let fixed = &policy.tables.config.fixed;
    assert_eq!(u32::from(fixed[1].name), PG_NAME_AUTHORITY);
    assert_eq!((u32::from(fixed[3].name), fixed[3].name_size, fixed[3].value_size), (PG_NAME_METHOD, 7, 4));
    for path in [4, 5] {
        assert_eq!(u32::from(fixed[path].name), PG_NAME_PATH);
        assert_eq!(u32::from(fixed[path].reason), PG_R_PATH);
    }
    assert_eq!(u32::from(fixed[31].name), PG_NAME_CONTENT_TYPE);
    assert_eq!(fixed[31].out0, policy.tables.automata[0].start);
    assert_eq!(u32::from(fixed[57].name), PG_NAME_CONNECTION);
    assert_eq!((u32::from(fixed[19].name), u32::from(fixed[16].name)), (PG_NAME_KEY0, PG_NAME_KEY0 + 1));
    assert_eq!(u32::from(fixed[58].name), PG_NAME_OTHER);
    let key = &policy.tables.keys[1];
    let automaton = &policy.tables.automata[key.automaton as usize];
    let end = policy.tables.outs[(automaton.out + (fixed[16].out0 >> automaton.stride_log2)) as usize].end;
    assert_ne!(end, 0, "`gzip, deflate` contains gzip");
    let (id, _) = eval::find(&policy.tables, policy.tables.config.name_root, b"keep-alive");
    assert_eq!(id, PG_NAME_CONNECTION + 1);
}

#[test]
fn the_engines_own_automata_know_grpc() {
    let policy = compile("");
    let grpc = |text: &str| eval::engine_says(&policy.tables, PG_AUTOMATON_CONTENT_TYPE, text.as_bytes());
    for yes in
        ["application/grpc", "application/grpc+proto", "Application/gRPC;charset=utf-8", "application/grpc+\u{e9}"]
    {
        assert!(grpc(yes), "{yes}");
    }
    for no in ["", "application/grp", "application/grpc-web", "application/json", "xapplication/grpc"] {
        assert!(!grpc(no), "{no}");
    }
    let identity = |text: &str| eval::engine_says(&policy.tables, PG_AUTOMATON_IDENTITY, text.as_bytes());
    assert!(identity("identity") && !identity("gzip") && !identity("") && !identity("identity "));
}

#[test]
fn audit_ports_and_causes_reach_the_tables() {
    let text = "name = \"p\"\nports = [\"9000-9010\"]\ndefault = \"allow\"\nmode = \"audit\"\ndirection = \"egress\"\n\
                [uninspectable]\ntls = \"allow\"\n[[deny]]\nname = \"r\"\nmode = \"audit\"\nstatus = \"ABORTED\"\n";
    let policy = Folder::new(&[]).compile(text).unwrap();
    let config = &policy.tables.config;
    assert_eq!((config.audit, config.direction, config.default_action), (1, PG_EGRESS, PG_ALLOW));
    assert_eq!(config.cause[PG_CAUSE_TLS as usize], 1);
    assert_eq!(config.cause.iter().map(|cause| u32::from(*cause)).sum::<u32>(), 1);
    assert_eq!(config.ports.iter().map(|word| word.count_ones()).sum::<u32>(), 11);
    assert_eq!((policy.tables.rules[0].flags, policy.tables.rules[0].status), (PG_RULE_AUDIT, 10));
    assert!(policy.ports.contains(9010) && !policy.ports.contains(9011));
    assert_eq!(policy.rules[0].message, "denied by policy p: r");
}

#[test]
fn compiling_twice_gives_the_same_generation_and_another_policy_another() {
    let rule = |text: &str| {
        format!("[[deny]]\nname = \"r\"\nmethods = [\"/t.S/R\"]\nwhen = 'request.s.contains(\"{text}\")'\n")
    };
    assert_eq!(compile(&rule("a")).tables.config.generation, compile(&rule("a")).tables.config.generation);
    assert_ne!(compile(&rule("a")).tables.config.generation, compile(&rule("b")).tables.config.generation);
}

#[test]
fn check_says_how_each_rule_was_compiled() {
    let policy = compile(
        "[[deny]]\nname = \"long\"\nmethods = [\"/t.S/R\"]\nwhen = '!request.s.matches(\"^.{1,256}$\")'\nstatus = \"INVALID_ARGUMENT\"\n\
         [[allow]]\nname = \"admins\"\nwhen = 'metadata[\"x-role\"] == \"admin\"'\n",
    );
    let mut out = Vec::new();
    check::report(&policy, &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    let rules: Vec<&str> = text.lines().skip(1).take_while(|line| !line.starts_with("methods")).collect();
    assert_eq!(
        rules,
        [
            "",
            "deny long: decided on each request message",
            "  methods    /t.S/R",
            "  when       !((size(request.s) >= 1 && size(request.s) <= 256))",
            "          || request.s.contains(\"\\n\")",
            "  answer     INVALID_ARGUMENT: denied by policy p: long",
            "  costs      2 predicates, 2 clauses; texts in 2 states, 16 bytes",
            "",
            "allow admins: decided when the headers end",
            "  methods    *",
            "  when       \"x-role\" in metadata && !(some !(metadata[\"x-role\"] == \"admin\"))",
            "  costs      2 predicates, 1 clause; texts in 7 states, 224 bytes",
            "",
        ]
    );
}

#[test]
fn a_thousand_field_rules_and_ten_thousand_methods_compile() {
    let methods: String = (0..10_000)
        .map(|i| format!("[[deny]]\nname = \"m{i}\"\nmethods = [\"/pkg{}.Service{i}/Method\"]\n", i % 100))
        .collect();
    let fields: String = (0..1000)
        .map(|i| {
            format!("[[deny]]\nname = \"f{i}\"\nmethods = [\"/t.S/R\"]\nwhen = 'request.s.contains(\"needle{i}x\")'\n")
        })
        .collect();
    let started = Instant::now();
    let policy = compile(&format!("{methods}{fields}"));
    println!("10,000 method rules and 1,000 field rules: {:?}, {} bytes", started.elapsed(), policy.tables.bytes());
    let tables = &policy.tables;
    assert_eq!(tables.methods[eval::method(tables, "/pkg7.Service1307/Method")].header_tests, 1);
    let method = eval::method(tables, "/t.S/R");
    let mut wire = vec![0x0a, 24];
    wire.extend(b"...needle999xneedle17x..");
    let bits = eval::message(tables, method, &[0; 32], &wire).unwrap();
    let holding: Vec<u32> = eval::message_rules(tables, method, &bits).into_iter().collect();
    assert_eq!(holding, [10_017, 10_999]);

    let literals: Vec<String> = (0..1000).map(|i| format!("\"tenant-{i}\"")).collect();
    let started = Instant::now();
    let policy =
        compile(&format!("[[allow]]\nname = \"r\"\nwhen = 'metadata[\"x-tenant\"] in [{}]'\n", literals.join(", ")));
    println!("1,000 literals in a list: {:?}, {} bytes", started.elapsed(), policy.tables.bytes());
}

#[test]
fn methods_are_refused_that_no_metadata_can_allow() {
    let refused = |rules: &str, path: &str| {
        let policy = compile(rules);
        policy.tables.methods[eval::method(&policy.tables, path)].flags & PG_METHOD_REFUSED != 0
    };
    let on_header = "when = '\"x\" in metadata'\n";
    assert!(refused("", "/t.S/R") && refused("", "/unheard.Of/It"));
    let allow = format!("[[allow]]\nname = \"a\"\nmethods = [\"/t.S/R\"]\n{on_header}");
    assert!(!refused(&allow, "/t.S/R") && refused(&allow, "/t.S/Q"));
    let deny = "[[allow]]\nname = \"a\"\n[[deny]]\nname = \"d\"\nmethods = [\"/t.S/R\"]\n";
    assert!(refused(deny, "/t.S/R") && !refused(deny, "/t.S/Q"));
    assert!(!refused(&format!("{deny}{on_header}"), "/t.S/R"));
    assert!(!refused(&format!("{deny}when = 'request.s == \"x\"'\n"), "/t.S/R"));
    assert!(!refused(&format!("{deny}mode = \"audit\"\n"), "/t.S/R"));
}
