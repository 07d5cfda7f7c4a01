//! What servers answer over TLS, under rules on responses.

use protocg_peers::harness::{Calls, Place, Stack};
use serde_json::{Value, json};

use crate::stage::{HOOKS, Net, Stage, call, lacks, make, make_until_ok, refused, skip, unary};

const HIDDEN: &str = r#"
[[deny]]
name = "nothing-hidden"
methods = ["/echo.Echo/*"]
when = 'response.text.contains("HIDDEN")'
status = "DATA_LOSS"
"#;

fn stream(texts: &[&str]) -> Value {
    call("/echo.Echo/Bidi", json!(texts.iter().map(|text| json!({ "text": text })).collect::<Vec<Value>>()))
}

/// Answers of a server in the cgroup.
fn answered(test: &str, stack: Stack, library: &str) {
    if skip(test) || lacks(stack, test) {
        return;
    }
    let stage = Stage::serving_as(test, stack, stack.server(), Net::V4, &format!("{HOOKS}{HIDDEN}"));
    judged(&stage, test, library, "SENT");
    assert_eq!(stage.agent.of_type("connection"), Vec::<Value>::new());
    let process = stage.server.process().pid();
    assert!(stage.agent.of_type("decision").iter().all(|event| event["process.pid"] == process));
}

/// Answers to a client in the cgroup.
fn received(test: &str, stack: Stack, library: &str) {
    if skip(test) || lacks(stack, test) {
        return;
    }
    judged(&Stage::calling(test, stack, &format!("{HOOKS}{HIDDEN}")), test, library, "RECEIVED");
}

/// Denied answers and allowed ones in turn: the handler has answered, and the caller has not got it.
fn judged(stage: &Stage, test: &str, library: &str, kind: &str) {
    let Some(rung) = stage.rung(test) else { return };
    let mut session = stage.session();
    make_until_ok(&mut session, &unary("first")); // a client may be faster than the hooks in its program
    let long = "x".repeat(100_000);
    let denied = [
        (unary("HIDDEN"), 1),
        (unary(&format!("{long}HIDDEN")), 1),
        (unary(&format!("HIDDEN{long}")), 1),
        (stream(&["one", "two HIDDEN", "three"]), 2),
    ];
    for (call, _) in &denied {
        let result = make(&mut session, call);
        refused(&result);
        assert!(!result.to_string().contains("HIDDEN"), "{result:#}");
        make_until_ok(&mut session, &unary("fine"));
    }
    make_until_ok(&mut session, &unary(&long));
    make_until_ok(&mut session, &stream(&["four", "five", "six"]));

    let decisions = |lines: &[String]| lines.iter().filter(|line| line.contains(r#""type":"decision""#)).count();
    stage.agent.process_lines(|lines| decisions(lines) >= denied.len());
    let events = stage.agent.of_type("decision");
    assert_eq!(events.len(), denied.len(), "{events:#?}");
    for (event, (_, message)) in events.iter().zip(&denied) {
        assert_eq!((&event["verdict"], &event["rule"]), (&json!("deny"), &json!("nothing-hidden")), "{event:#}");
        assert_eq!((&event["plane"], &event["enforcement"]), (&json!("tls"), &json!(rung)));
        assert_eq!((&event["rpc.message.type"], &event["message"]), (&json!(kind), &json!(message)));
        assert!(event["tls.library"].as_str().unwrap().contains(library), "{event:#}");
    }
}

#[test]
fn answers_of_tonic() {
    answered("tls-answers", Stack::Tonic, "libssl.so");
}

#[test]
fn answers_of_node() {
    answered("tls-answers-js", Stack::Js, "node");
}

#[test]
fn answers_of_go() {
    answered("tls-answers-go", Stack::Go, "pg-go");
}

#[test]
fn answers_of_grpcio() {
    answered("tls-answers-grpcio", Stack::Grpcio, "cygrpc");
}

#[test]
fn answers_to_tonic() {
    received("tls-received", Stack::Tonic, "libssl.so");
}

#[test]
fn answers_to_node() {
    received("tls-received-js", Stack::Js, "node");
}

#[test]
fn answers_to_go() {
    received("tls-received-go", Stack::Go, "pg-go");
}

#[test]
fn answers_to_grpcio() {
    received("tls-received-grpcio", Stack::Grpcio, "cygrpc");
}

/// In audit mode they are given, and told.
#[test]
fn answers_are_given_where_nothing_is_enforced() {
    let test = "tls-answers-audit";
    if skip(test) {
        return;
    }
    let stage = Stage::serving(test, Net::V4, &format!("{HOOKS}{HIDDEN}mode = \"audit\"\n"));
    if stage.rung(test).is_none() {
        return;
    }
    let mut session = stage.session();
    let result = make(&mut session, &stream(&["one", "two HIDDEN", "three"]));
    assert_eq!(result["code"], 0, "{result:#}");
    let event = stage.agent.wait_for("what would be denied", |e| e["type"] == "decision");
    assert_eq!((&event["verdict"], &event["message"]), (&json!("audit-deny"), &json!(2)), "{event:#}");
}

/// What is not encrypted is judged on the wire as ever, where the caller is told the rule's status.
#[test]
fn answers_in_plain_beside_hooks() {
    let test = "tls-answers-plain";
    if skip(test) {
        return;
    }
    let stage = Stage::plain(test, &format!("{HOOKS}{HIDDEN}"));
    let place = Place::default();
    let mut session = Calls { stack: Stack::Tonic, place, target: stage.server.address }.session_with(&[]);
    assert_eq!(make(&mut session, &unary("first"))["code"], 0, "{:#?}", stage.agent.events());
    let result = make(&mut session, &unary("HIDDEN"));
    assert_eq!(result["code"], 15, "{result:#}");
    make_until_ok(&mut session, &unary("last"));
}
