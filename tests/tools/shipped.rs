//! `protocg test`: outcomes, reports; and every policy in `policies/` with its cases.

use std::fs;
use std::path::PathBuf;

use crate::{folder, root, run};

#[test]
fn every_policy_that_is_shipped_does_what_its_cases_say() {
    let (mut policies, mut passed) = (Vec::new(), 0);
    for entry in fs::read_dir(root().join("policies")).unwrap() {
        let folder = entry.unwrap().path();
        if !folder.is_dir() {
            continue;
        }
        let files: Vec<PathBuf> = fs::read_dir(&folder).unwrap().map(|it| it.unwrap().path()).collect();
        let stem = |path: &PathBuf| path.file_stem().unwrap().to_str().unwrap().to_owned();
        let (cases, rest): (Vec<_>, Vec<_>) = files.iter().partition(|path| stem(path) == "cases");
        let policy = rest.iter().find(|path| path.extension().is_some_and(|it| it == "toml")).unwrap();
        let own = rest.iter().any(|path| path.extension().is_some_and(|it| it == "proto"));
        assert!(own || stem(policy) == "demo", "{}: a worked policy has its own proto", folder.display());
        assert_eq!(cases.len(), 1, "{}", folder.display());
        let (status, out, err) = run(root(), &["check", policy.to_str().unwrap()], "");
        assert_eq!((status, err.as_str(), out.contains("warning")), (0, "", false), "{out}{err}");
        let (status, out, err) = run(root(), &["test", policy.to_str().unwrap(), cases[0].to_str().unwrap()], "");
        assert_eq!((status, err.as_str()), (0, ""), "{out}{err}");
        assert!(!out.contains("no case is decided by"), "{}: a rule without a case: {out}", folder.display());
        passed += out.lines().filter(|line| line.starts_with("ok    ")).count();
        policies.push(folder.file_name().unwrap().to_str().unwrap().to_owned());
    }
    policies.sort();
    println!("{passed} cases of {}", policies.join(", "));
    let expected = [
        "admin-from-inside",
        "demo",
        "egress-allow-list",
        "login-hardening",
        "per-client-limits",
        "pii-in-responses",
        "protovalidate",
        "read-only-replica",
        "roles",
        "tenant-isolation",
    ];
    assert_eq!(policies, expected);
    assert!(
        fs::read_to_string(root().join("policies/README.md"))
            .is_ok_and(|text| expected.iter().all(|it| text.contains(it)))
    );
}

const CASES: &str = r#"
[[case]]
name = "short"
method = "/t.Search/Find"
metadata = { x-a = ["0", "1"] }
message = { query = "abcde" }
verdict = "allow"
rule = "all"
audited = ["seen"]
at = 1

[[case]]
name = "long"
method = "/t.Search/Feed"
messages = [{ query = "abcde" }, '{"query": "abcdef"}', {}]
verdict = "deny"
rule = "short"
status = "INVALID_ARGUMENT"
status_message = "too long"
audited = []
at = 2

[[case]]
name = "no message at all"
method = "/t.Search/Feed"
messages = []
verdict = "allow"
at = 0

[[case]]
name = "elsewhere"
method = "/t.Other/Find"
verdict = "deny"
rule = "default"
at = 0

[[case]]
name = "a path that is none"
method = "no path"
verdict = "deny"
cause = "malformed"

[[case]]
name = "a header block that ends its connection"
method = "/t.Search/Find"
metadata = { x-long = "LONG" }
verdict = "deny"
cause = "too_large"
"#;

#[test]
fn cases_say_everything_that_an_outcome_has() {
    let folder = folder();
    folder.write("c.toml", &CASES.replace("LONG", &"x".repeat(70_000)));
    let (status, out, err) = folder.run(&["test", "p.toml", "c.toml"]);
    assert_eq!((status, err.as_str()), (0, ""), "{out}");
    assert!(out.ends_with("6 passed, 0 failed\n"), "{out}");
}

#[test]
fn a_case_that_fails_shows_each_difference() {
    let folder = folder();
    let wrong = [
        ("rule = \"all\"\naudited = [\"seen\"]\nat = 1", "rule = \"default\"\naudited = []\nat = 0"),
        ("status_message = \"too long\"", "status_message = \"longer\""),
        ("status = \"INVALID_ARGUMENT\"", "status = \"ABORTED\""),
        ("cause = \"malformed\"", "rule = \"default\""),
        ("rule = \"default\"\nat = 0", "cause = \"tls\"\nat = 0"),
    ];
    let mut text = CASES.replace("LONG", "x");
    for (right, wrong) in wrong {
        assert!(text.contains(right));
        text = text.replacen(right, wrong, 1);
    }
    folder.write("c.toml", &text);
    let (status, out, _) = folder.run(&["test", "p.toml", "c.toml", "--junit", "report.xml"]);
    assert_eq!(status, 9);
    let all = [
        "FAIL  short (c.toml:3)\n        - rule = \"default\"\n        +        \"all\"\n        - at = 0\n        +      1\n        - audited = []\n        +           [\"seen\"]\n",
        "        - status = \"ABORTED\"\n        +          \"INVALID_ARGUMENT\"\n",
        "        - status_message = \"longer\"\n        +                  \"too long\"\n",
        "        + no rule: the cause \"malformed\" (path)".trim_start_matches("        + "),
        "no cause: the rule \"default\"",
        "        - verdict = \"deny\"\n        +           \"allow\"\n",
        "        why: protocg explain p.toml c.toml --case 'short'\n",
        "ok    no message at all\n",
        "1 passed, 5 failed\n",
    ];
    for part in all {
        assert!(out.contains(part), "{part}\n---\n{out}");
    }
    let report = fs::read_to_string(folder.path("report.xml")).unwrap();
    let read = quick_junit::Report::deserialize_from_str(&report).unwrap();
    assert_eq!((read.tests, read.failures, read.errors), (6, 5, 0), "{report}");
    let suite = &read.test_suites[0];
    assert_eq!((suite.name.as_str(), suite.test_cases[0].name.as_str()), ("c.toml", "short"));
    assert!(report.contains("rule is &quot;all&quot;, and not &quot;default&quot;; at is 1, and not 0"), "{report}");
}

#[test]
fn reports_and_choices() {
    let folder = folder();
    folder.write(
        "c.toml",
        &CASES.replace("LONG", "x").replace("verdict = \"deny\"\ncause = \"too_large\"", "verdict = \"allow\""),
    );
    let (status, out, _) = folder.run(&["test", "p.toml", "c.toml", "--case", "long"]);
    assert_eq!((status, out.as_str()), (0, "ok    long\n1 passed, 0 failed\n"));
    let (status, out, _) = folder.run(&["test", "-q", "p.toml", "c.toml", "c.toml"]);
    assert_eq!((status, out.as_str()), (0, "12 passed, 0 failed\n"));
    let (status, _, err) = folder.run(&["test", "p.toml", "c.toml", "--case", "nothing"]);
    assert_eq!((status, err.contains("no case has a name that contains `nothing`")), (10, true), "{err}");
    let (status, _, err) = folder.run(&["test", "p.toml", "c.toml", "--junit", "no/such/folder.xml"]);
    assert_eq!((status, err.contains("cannot write `no/such/folder.xml`")), (1, true), "{err}");
    folder.write("one.toml", "[[case]]\nname = \"c\"\nmethod = \"/t.X/Y\"\nverdict = \"deny\"\n");
    let (status, out, _) = folder.run(&["test", "p.toml", "one.toml"]);
    assert_eq!((status, out.as_str()), (0, "ok    c\nno case is decided by `short`, `all`\n1 passed, 0 failed\n"));
}

#[test]
fn under_an_auditing_policy_cases_say_what_would_be_denied() {
    let folder = folder();
    folder.write("audit.toml", &crate::POLICY.replacen("default", "mode = \"audit\"\ndefault", 1));
    let case = |name: &str, rest: &str| format!("[[case]]\nname = \"{name}\"\n{rest}\n");
    let text = [
        case(
            "long",
            "method = \"/t.Search/Find\"\nmessage = { query = \"abcdef\" }\nverdict = \"audit-deny\"\nrule = \"short\"\nat = 1",
        ),
        case("none", "method = \"/t.Other/Find\"\nverdict = \"audit-deny\"\nrule = \"default\""),
        case("path", "method = \"x\"\nverdict = \"audit-deny\"\ncause = \"malformed\""),
        case(
            "fine",
            "method = \"/t.Search/Find\"\nmetadata = { x-a = \"1\" }\nverdict = \"allow\"\naudited = [\"seen\"]",
        ),
    ];
    folder.write("c.toml", &text.concat());
    let (status, out, err) = folder.run(&["test", "audit.toml", "c.toml"]);
    assert_eq!(status, 0, "{out}{err}");
}

#[test]
fn help_says_what_statuses_there_are() {
    let (status, out, _) = folder().run(&["test", "--help"]);
    assert_eq!(status, 0);
    for part in ["[[case]]", "9    a case has another outcome", "10   the cases have an error", "--kernel", "--junit"] {
        assert!(out.contains(part), "{part}: {out}");
    }
}

#[test]
fn the_readmes_policy_is_the_demos() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let demo = fs::read_to_string(root().join("policies/demo/demo.toml")).unwrap();
    let shown = readme.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    assert!(demo.contains(shown), "README.md shows another policy than policies/demo/demo.toml");
}
