//! Rules on responses: what stays in the server, what its caller gets instead, and what comes of the connection.

use std::time::Duration;

use protocg_peers::harness::{Stack, patience, pause_ms};
use serde_json::{Value, json};

use crate::maps;
use crate::stage::{Net, Stage, call, check, eventually, make, ok, policy, policy_with, skip, unary, with};

const KEPT: &str = r#"
[[deny]]
name = "kept"
methods = ["/echo.Echo/*"]
when = 'response.text.contains("SECRET")'
status = "DATA_LOSS"
message = "this stays here"
"#;
const CODE: i32 = 15;
const MESSAGE: &str = "this stays here";
const UNAVAILABLE: i64 = 14;

/// No reply was given to the caller, and it did not wait for one.
#[track_caller]
fn prompt_and_without(result: &Value, pauses: f64) {
    assert_eq!(result["fields"], json!([]), "{result:#}");
    in_time(result, pauses);
}

#[track_caller]
fn in_time(result: &Value, pauses: f64) {
    let bound = patience(Duration::from_secs(2)).as_secs_f64() * 1000.0 + pauses;
    assert!(result["latency_ms"].as_f64().unwrap() < bound, "{result:#}");
}

/// A call right behind a denial may meet the end of its connection; then one on a new connection succeeds.
#[track_caller]
fn goes_on(session: &mut protocg_peers::harness::Session, text: &str) {
    eventually("an allowed call", || make(session, &unary(text))["code"] == 0);
}

/// Nothing is left of responses once their connections are gone.
#[track_caller]
fn nothing_is_left(stage: &Stage) {
    let [conns, table] = ["conns", "streams"].map(|name| maps::of(stage.cgroup.path(), name));
    eventually("no stream is left", || maps::streams(&conns, &table) == 0);
    eventually("no berth is left", || maps::entries(stage.cgroup.path())["berths"] == 0);
}

fn kept(name: &str, server: Stack, client: Stack, net: Net) {
    if skip(name, &[server, client]) {
        return;
    }
    let stage = Stage::new(name, server, net, |port| policy(port, KEPT), &[]);
    let mut session = stage.calls(client).session();
    goes_on(&mut session, "first");
    for turn in 0..3 {
        let result = make(&mut session, &unary("a SECRET"));
        check(&result, CODE, MESSAGE);
        prompt_and_without(&result, 0.0);
        goes_on(&mut session, &format!("fine {turn}"));
    }
    let many = make(&mut session, &call("/echo.Echo/ServerStream", json!([{ "text": "a SECRET", "replies": 3 }])));
    check(&many, CODE, MESSAGE);
    prompt_and_without(&many, 0.0);
    goes_on(&mut session, "fine");
    let pause = pause_ms(60);
    let bidi = call("/echo.Echo/Bidi", json!([{ "text": "b1" }, { "text": "b2" }, { "text": "a SECRET" }]));
    let bidi = make(&mut session, &with(bidi, "interval_ms", pause));
    check(&bidi, CODE, MESSAGE);
    let texts: Vec<&str> = bidi["fields"].as_array().unwrap().iter().map(|it| it["text"].as_str().unwrap()).collect();
    assert_eq!(texts, ["b1", "b2"], "{bidi:#}");
    in_time(&bidi, f64::from(pause) * 2.0);
    goes_on(&mut session, "the last");
    drop(session);
    let events = stage.decisions("deny", 5);
    assert_eq!(events.len(), 5, "{events:#?}");
    for (event, message) in events.iter().zip([1, 1, 1, 1, 3]) {
        assert_eq!(
            (&event["rule"], &event["rpc.message.type"], &event["message"], &event["rpc.grpc.status_code"]),
            (&json!("kept"), &json!("SENT"), &json!(message), &json!(CODE))
        );
    }
    nothing_is_left(&stage);
}

#[test]
fn tonic_is_answered_for_tonic() {
    kept("responses-tonic-tonic", Stack::Tonic, Stack::Tonic, Net::Loopback4);
}

#[test]
fn tonic_is_answered_for_tonic_between_namespaces() {
    kept("responses-tonic-veth4", Stack::Tonic, Stack::Tonic, Net::Veth4);
}

#[test]
fn tonic_is_answered_for_tonic_between_namespaces_over_ipv6() {
    kept("responses-tonic-veth6", Stack::Tonic, Stack::Tonic, Net::Veth6);
}

#[test]
fn grpcio_is_answered_for_tonic() {
    kept("responses-tonic-grpcio", Stack::Tonic, Stack::Grpcio, Net::Loopback4);
}

#[test]
fn go_is_answered_for_tonic() {
    kept("responses-tonic-go", Stack::Tonic, Stack::Go, Net::Loopback6);
}

#[test]
fn js_is_answered_for_tonic() {
    kept("responses-tonic-js", Stack::Tonic, Stack::Js, Net::Loopback4);
}

#[test]
fn tonic_is_answered_for_grpcio() {
    kept("responses-grpcio-tonic", Stack::Grpcio, Stack::Tonic, Net::Loopback4);
}

#[test]
fn grpcio_is_answered_for_grpcio_between_namespaces() {
    kept("responses-grpcio-veth4", Stack::Grpcio, Stack::Grpcio, Net::Veth4);
}

#[test]
fn tonic_is_answered_for_go() {
    kept("responses-go-tonic", Stack::Go, Stack::Tonic, Net::Loopback4);
}

#[test]
fn go_is_answered_for_go() {
    kept("responses-go-go", Stack::Go, Stack::Go, Net::Veth4);
}

#[test]
fn tonic_is_answered_for_js() {
    kept("responses-js-tonic", Stack::Js, Stack::Tonic, Net::Loopback4);
}

/// A message of many segments: where its last frame began in an earlier one there is no place for an answer, and the caller
/// hears of the connection's end. Nobody is given the message.
fn long(name: &str, server: Stack, client: Stack, net: Net) {
    if skip(name, &[server, client]) {
        return;
    }
    let stage = Stage::new(name, server, net, |port| policy(port, KEPT), &[]);
    let mut session = stage.calls(client).session();
    goes_on(&mut session, "first");
    let mut exact = 0;
    let sizes = [100, 1_000, 10_000, 16_000, 40_000, 100_000, 1_000_000];
    for bytes in sizes {
        let message = |text: &str| json!([{ "text": text, "reply_bytes": bytes }]);
        let result = make(&mut session, &call("/echo.Echo/Unary", message("a SECRET")));
        assert_ne!(result["code"], 0, "{result:#}");
        assert_ne!(result["code"], 4, "not by its deadline: {result:#}");
        prompt_and_without(&result, 0.0);
        exact += u32::from(result["code"] == CODE && result["message"] == MESSAGE);
        eventually("an allowed call", || make(&mut session, &call("/echo.Echo/Unary", message("fine")))["code"] == 0);
    }
    println!("{client:?} of {server:?}, {net:?}: {exact} of {} long responses were answered exactly", sizes.len());
    assert!(exact >= 2, "short ones are");
    let events = stage.decisions("deny", sizes.len());
    assert_eq!(events.len(), sizes.len(), "{events:#?}");
}

#[test]
fn long_responses_of_tonic_stay() {
    long("responses-long-tonic", Stack::Tonic, Stack::Tonic, Net::Loopback4);
}

#[test]
fn long_responses_of_tonic_stay_between_namespaces() {
    long("responses-long-veth", Stack::Tonic, Stack::Grpcio, Net::Veth4);
}

#[test]
fn long_responses_of_grpcio_stay() {
    long("responses-long-grpcio", Stack::Grpcio, Stack::Grpcio, Net::Loopback4);
}

#[test]
fn long_responses_of_go_stay() {
    long("responses-long-go", Stack::Go, Stack::Go, Net::Veth6);
}

/// Others on the connection end with it, and hear of that at once.
#[test]
fn a_slow_call_beside_a_denied_response_ends_with_its_connection() {
    let name = "responses-beside";
    if skip(name, &[Stack::Grpcio]) {
        return;
    }
    let stage = Stage::new(name, Stack::Tonic, Net::Loopback4, |port| policy(port, KEPT), &[]);
    let mut session = stage.calls(Stack::Grpcio).session();
    ok(&make(&mut session, &unary("first")));
    let slow = with(call("/echo.Echo/Slow", json!([{ "text": "slow", "delay_ms": pause_ms(5000) }])), "group", 1);
    let denied = call("/echo.Echo/Bidi", json!([{ "text": "quick" }, { "text": "a SECRET" }]));
    let denied = with(with(denied, "interval_ms", pause_ms(200)), "group", 1);
    let results = session.make(&json!([slow, denied]));
    check(&results[1], CODE, MESSAGE);
    assert_eq!(results[0]["code"], UNAVAILABLE, "{results:#?}");
    in_time(&results[0], f64::from(pause_ms(200)));
    goes_on(&mut session, "the last");
}

/// A request that is denied on a connection whose responses are judged is mended as ever.
#[test]
fn denied_requests_leave_their_connection_beside_response_rules() {
    let name = "responses-requests";
    if skip(name, &[Stack::Grpcio]) {
        return;
    }
    let rules = format!("{KEPT}{}", crate::stage::SECRET.replace("contains(\"SECRET\")", "contains(\"BAD\")"));
    let stage = Stage::new(name, Stack::Tonic, Net::Loopback4, |port| policy(port, &rules), &[]);
    for client in [Stack::Tonic, Stack::Grpcio] {
        let bad = unary("a BAD one");
        let sum = stage.calls(client).denials(&bad, 200, 8, crate::stage::SECRET_CODE, crate::stage::SECRET_MESSAGE);
        assert_eq!((sum["exact"].as_u64(), sum["reconnects"].as_u64()), (Some(200), Some(0)), "{sum:#}");
        let mut session = stage.calls(client).session();
        check(&make(&mut session, &bad), crate::stage::SECRET_CODE, crate::stage::SECRET_MESSAGE);
        check(&make(&mut session, &unary("a SECRET")), CODE, MESSAGE);
        goes_on(&mut session, "fine");
    }
    nothing_is_left(&stage);
}

/// Calls that their clients cancel, more than are remembered, cost no connection and leave nothing behind.
#[test]
fn cancelled_calls_leave_nothing_behind() {
    let name = "responses-cancelled";
    if skip(name, &[]) {
        return;
    }
    let stage = Stage::simple(name, KEPT);
    let mut session = stage.calls(Stack::Tonic).session();
    ok(&make(&mut session, &unary("first")));
    let stream = json!([{ "text": "x", "replies": 1000, "delay_ms": 1 }]);
    let cancelled = with(with(call("/echo.Echo/ServerStream", stream), "cancel_after", 1), "group", 1);
    for _ in 0..3 {
        let results = session.make(&Value::Array(vec![cancelled.clone(); 60]));
        assert_eq!(results.iter().filter(|it| it["code"] == 1).count(), 60, "{results:#?}");
    }
    ok(&make(&mut session, &unary("the last")));
    drop(session);
    nothing_is_left(&stage);
    assert_eq!(stage.agent.of_type("connection"), Vec::<Value>::new());
}

/// Audit mode says what would have stayed, and keeps nothing.
#[test]
fn audit_mode_lets_responses_leave() {
    let name = "responses-audit";
    if skip(name, &[]) {
        return;
    }
    let stage = Stage::new(name, Stack::Tonic, Net::Loopback4, |port| policy_with(port, "mode = \"audit\"", KEPT), &[]);
    let mut session = stage.calls(Stack::Tonic).session();
    let result = make(&mut session, &unary("a SECRET"));
    ok(&result);
    assert_eq!(result["fields"][0]["text"], "a SECRET");
    ok(&make(&mut session, &unary("the last")));
    let events = stage.decisions("audit-deny", 1);
    assert_eq!((events.len(), &events[0]["rpc.message.type"]), (1, &json!("SENT")), "{events:#?}");
}
