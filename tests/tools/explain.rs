//! `protocg explain`: the rule that decides, and each predicate of each rule.

use crate::{Folder, folder, run};

const POLICY: &str = r#"name = "p"
proto = ["t.proto"]
ports = [50051]
default = "deny"

[[deny]]
name = "several"
methods = ["/t.Search/Find"]
when = '''
request.query.startsWith("a") && request.per_page > 5 &&
(request.flag || !(request.color in [1, 2]) || request.inner.number == 7)
'''

[[deny]]
name = "forged"
when = 'metadata["x-role"] == "root" || peer.port < 1024 || !cidr("10.0.0.0/8").containsIP(peer.ip)'

[[deny]]
name = "by-kind"
methods = ["/t.Search/Find"]
when = 'request.flag ? request.ratio >= 1.5 : has(request.inner)'

[[deny]]
name = "absorbed"
methods = ["/t.Search/Find"]
when = 'request.big == 9 || (request.big == 9 && request.data == b"x")'

[[allow]]
name = "roles"
methods = ["/t.Search/*"]
when = 'metadata["x-role"] != "guest" && "x-role" in metadata'
"#;

fn explained(arguments: &[&str]) -> String {
    let folder = Folder::new(&[("t.proto", crate::PROTO), ("p.toml", POLICY)]);
    let (status, out, err) = folder.run(&[&["explain", "p.toml"], arguments].concat());
    assert_eq!((status, err.as_str()), (0, ""), "{out}");
    out
}

/// Columns are as wide as what is in them: two spaces stand between.
fn narrow(text: &str) -> String {
    let line = |line: &str| {
        let start = line.len() - line.trim_start().len();
        let words: Vec<&str> = line[start..].split("  ").map(str::trim).filter(|word| !word.is_empty()).collect();
        format!("{}{}", &line[..start], words.join("  "))
    };
    text.split('\n').map(line).collect::<Vec<_>>().join("\n")
}

fn says(out: &str, parts: &[&str]) {
    for part in parts {
        assert!(narrow(out).contains(&narrow(part)), "missing: {part}\n{out}");
    }
}

#[test]
fn every_predicate_is_shown_with_its_result_and_its_input() {
    let message = r#"{"query": "abc", "perPage": 6, "color": "COLOR_RED", "inner": {"number": 7}}"#;
    let call =
        ["--method", "/t.Search/Find", "--peer", "10.0.0.1:2000", "--metadata", "x-role=user", "--message", message];
    let out = explained(&call);
    says(
        &out,
        &[
            "denied by `several`, on message 1\nPERMISSION_DENIED: denied by policy p: several\n",
            "  deny `forged` does not hold (p.toml:15)\n    any of\n",
            "      no   metadata[\"x-role\"] == \"root\"               x-role is \"user\"\n",
            "      no   peer.port < 1024                           peer.port is 2000\n",
            "      no   !cidr(\"10.0.0.0/8\").containsIP(peer.ip)    peer.ip is 10.0.0.1\n",
            "  allow `roles` holds (p.toml:29)\n    all of\n      yes  metadata[\"x-role\"] != \"guest\"  x-role is \"user\"\n",
            "  deny `several` holds, and decides (p.toml:7)\n    all of\n      yes  request.query.startsWith(\"a\")",
            "request.query is \"abc\"\n      yes  request.per_page > 5",
            "      any of\n        no   request.flag",
            "        no   !(request.color in [1, 2])",
            "request.color is COLOR_RED (1)\n        yes  request.inner.number == 7",
            "  deny `by-kind` holds (p.toml:19)\n    any of\n      all of\n        no   request.flag",
            "        no   request.ratio >= 1.5",
            "      all of\n        yes  !request.flag",
            "        yes  has(request.inner)",
        ],
    );
}

const LISTS: &str = r#"name = "p"
proto = ["t.proto"]
ports = [50051]
default = "allow"

[[deny]]
name = "lists"
methods = ["/t.Search/Find"]
when = '''
request.items.exists(x, x.number == 7 && x.text == "a") && !request.items.all(x, x.number > 0) &&
(size(request.items) > 2 || "k" in request.by_name || request.by_name["m"].number == 1 || size(request.by_name) == 2)
'''
"#;

#[test]
fn lists_and_maps_are_explained_by_what_the_engine_keeps_of_them() {
    let folder = Folder::new(&[("t.proto", crate::PROTO), ("p.toml", LISTS)]);
    let message = r#"{"items": [{"number": 7, "text": "a"}, {}], "byName": {"l": {}, "m": {"number": 1}}}"#;
    let (status, out, err) = folder.run(&["explain", "p.toml", "--method", "/t.Search/Find", "--message", message]);
    assert_eq!((status, err.as_str()), (0, ""), "{out}");
    says(
        &out,
        &[
            "denied by `lists`, on message 1",
            "  deny `lists` holds, and decides (p.toml:7)\n    all of\n",
            "      yes  request.items.exists(x, x.number == 7 && x.text == \"a\")",
            "request.items is [a message, {}]\n",
            "      yes  !(request.items.all(x, x.number > 0))",
            "      any of\n        no   size(request.items) > 2",
            "        no   \"k\" in request.by_name",
            "request.by_name is a map with \"l\", \"m\"\n",
            "        yes  request.by_name[\"m\"].number == 1",
            "        yes  size(request.by_name) == 2",
        ],
    );
}

#[test]
fn what_no_verdict_depends_on_is_said_to_be_so() {
    let out = explained(&["--method", "/t.Search/Find", "--peer", "10.0.0.1", "--metadata", "x-role=a"]);
    says(&out, &["allowed by `roles`", "-    request.data == b\"x\"", "(no verdict depends on it)"]);
}

#[test]
fn the_header_block_alone_may_decide() {
    let out = explained(&["--method", "/t.Search/Find", "--peer", "11.0.0.1"]);
    says(
        &out,
        &[
            "denied by `forged`, when its headers end",
            "message 1  {} (0 bytes)",
            "peer.ip is 11.0.0.1",
            "x-role is absent",
        ],
    );
    assert!(!out.contains("on message 1\n  deny"), "{out}");
    let out = explained(&["--method", "/t.Else/Where", "--peer", "10.0.0.1"]);
    says(
        &out,
        &[
            "denied by the policy's default",
            "no rule decides: the policy's default is deny",
            "rules for other methods: several, by-kind, absorbed, roles",
        ],
    );
}

#[test]
fn two_values_of_a_key_are_both_shown() {
    let call =
        ["--method", "/t.Search/Find", "--peer", "10.0.0.1", "--metadata", "x-role=user", "--metadata", "x-role=guest"];
    let out = explained(&call);
    says(
        &out,
        &["denied by the policy's default", "no   metadata[\"x-role\"] != \"guest\"", "x-role is \"user\", \"guest\""],
    );
}

#[test]
fn each_message_of_a_stream_is_shown_up_to_the_one_that_decides() {
    let folder = folder();
    folder.write("call.yaml", "method: /t.Search/Feed\nmessages: [{query: a}, {query: abcdef}, {query: b}]\n");
    let (status, out, _) = folder.run(&["explain", "p.toml", "call.yaml"]);
    assert_eq!(status, 0);
    says(
        &out,
        &[
            "denied by `short`, on message 2",
            "on message 1\n  deny `short` does not hold",
            "on message 2\n  deny `short` holds, and decides",
        ],
    );
    assert!(!out.contains("on message 3\n"), "{out}");
}

#[test]
fn what_cannot_be_known_has_its_cause() {
    let folder = folder();
    for (call, parts) in [
        (
            "method = \"/t.Search/Find\"\nraw = \"0a ff\"",
            ["denied for the cause `malformed` (protobuf_length", "no rule decides: it cannot be read"],
        ),
        (
            "method = \"/t.Search/Find\"\ncompressed = true",
            ["denied for the cause `compressed`", "no rule decides: it cannot be read"],
        ),
        ("method = \"t\"", ["denied for the cause `malformed` (path", "when its headers end"]),
        ("method = \"/t.Search/None\"", ["denied for the cause `unknown_method`", "when its headers end"]),
    ] {
        folder.write("call.toml", call);
        let (status, out, err) = folder.run(&["explain", "p.toml", "call.toml"]);
        assert_eq!(status, 0, "{err}");
        says(&out, &parts);
    }
}

#[test]
fn the_call_is_named_in_one_way() {
    let folder = folder();
    let case = |name: &str| format!("[[case]]\nname = \"{name}\"\nmethod = \"/t.Search/Find\"\nverdict = \"deny\"\n");
    folder.write("two.toml", &(case("one") + &case("two")));
    folder.write("one.toml", &case("one"));
    let refused = |arguments: &[&str], status: i32, why: &str| {
        let (got, _, err) = folder.run(&[&["explain", "p.toml"], arguments].concat());
        assert!(got == status && err.contains(why), "{arguments:?}: {got}\n{err}");
    };
    refused(&["two.toml"], 10, "choose one with --case NAME");
    refused(&["two.toml", "--case", "tow"], 10, "did you mean `two`?");
    refused(&[], 2, "required arguments");
    refused(&["two.toml", "--method", "/a.B/C"], 2, "cannot be used with");
    refused(&["--method", "/t.Search/Find", "--message", "{\"quer\": 1}"], 10, "did you mean `query`?");
    refused(&["--method", "/t.Search/Find", "--metadata", "novalue"], 2, "KEY=VALUE");
    refused(&["--method", "/t.Search/Find", "--peer", "here"], 10, "`here` is not an address");
    let (status, out, _) = folder.run(&["explain", "p.toml", "two.toml", "--case", "two"]);
    assert_eq!((status, out.contains("allowed by `all`")), (0, true), "{out}");
    let (status, ..) = folder.run(&["explain", "p.toml", "one.toml"]);
    assert_eq!(status, 0);
    let (status, out, err) = run(folder.path("").as_path(), &["explain", "p.toml", "-"], "method = \"/t.Search/Find\"");
    assert_eq!((status, out.contains("allowed by `all`")), (0, true), "{out}{err}");
}
