//! Audit mode: of a whole policy, of a rule.

use protocg_peers::harness::{Stack, pause_ms};
use serde_json::{Value, json};

use crate::stage::{Net, SECRET, SECRET_CODE, SECRET_MESSAGE, Stage, call, check, ok, policy_with, skip, unary, with};

fn audited(client: Stack, name: &str) {
    if skip(name, &[client]) {
        return;
    }
    let rules = |port| policy_with(port, "mode = \"audit\"", SECRET);
    let stage = Stage::new(name, Stack::Tonic, Net::Loopback4, rules, &[]);
    let secret = |text: &str| json!({ "text": format!("SECRET {text}") });
    let calls = [
        unary("fine"),
        unary("SECRET 1"),
        call("/echo.Echo/ClientStream", json!([secret("2"), { "text": "fine" }, secret("3")])),
        with(call("/echo.Echo/Bidi", json!([{ "text": "fine" }, secret("4")])), "interval_ms", pause_ms(20)),
        // What cannot be decided passes too.
        with(call("/echo.Echo/Unary", json!([{ "text": { "@text": 1000 } }])), "gzip", true),
        unary("the last"),
    ];
    stage.make(client, &calls).iter().for_each(ok);
    let texts = stage.texts_until("the last");
    let shown = "xxxxxxxxxxxxxxxx...(1000)";
    let expected = ["fine", "SECRET 1", "SECRET 2", "fine", "SECRET 3", "fine", "SECRET 4", shown, "the last"];
    assert_eq!(texts, expected);
    // Once a call: what it would have been denied for.
    let events = stage.decisions("audit-deny", 4);
    let said: Vec<(&Value, &Value)> = events.iter().map(|e| (&e["rule"], &e["message"])).collect();
    let rule = json!("no-secrets");
    let (one, two) = (json!(1), json!(2));
    assert_eq!(said, [(&rule, &one), (&rule, &one), (&rule, &two), (&Value::Null, &one)]);
    assert_eq!(events[3]["cause"], "compressed");
    assert_eq!(stage.agent.of_type("decision").len(), 4);
}

#[test]
fn an_audited_policy_denies_nothing_to_tonic() {
    audited(Stack::Tonic, "audit-tonic");
}

#[test]
fn an_audited_policy_denies_nothing_to_grpcio() {
    audited(Stack::Grpcio, "audit-grpcio");
}

#[test]
fn an_audited_rule_beside_one_in_force() {
    if skip("audit-rule", &[]) {
        return;
    }
    let audited = SECRET.replace("no-secrets", "watched").replace("SECRET", "WATCHED") + "mode = \"audit\"\n";
    let stage = Stage::simple("audit-rule", &format!("{audited}{SECRET}"));
    let texts = ["fine", "WATCHED", "a SECRET", "WATCHED SECRET", "the last"];
    let results = stage.make(Stack::Tonic, &texts.map(unary));
    for index in [0, 1, 4] {
        ok(&results[index]);
    }
    for index in [2, 3] {
        check(&results[index], SECRET_CODE, SECRET_MESSAGE);
    }
    assert_eq!(stage.texts_until("the last"), ["fine", "WATCHED", "the last"]);
    stage.decisions("deny", 2);
    let said: Vec<(String, String)> = stage
        .agent
        .of_type("decision")
        .iter()
        .map(|e| (e["verdict"].as_str().unwrap().to_owned(), e["rule"].as_str().unwrap().to_owned()))
        .collect();
    let pair = |verdict: &str, rule: &str| (verdict.to_owned(), rule.to_owned());
    let expected = [
        pair("audit-deny", "watched"),
        pair("deny", "no-secrets"),
        pair("audit-deny", "watched"),
        pair("deny", "no-secrets"),
    ];
    assert_eq!(said, expected);
}
