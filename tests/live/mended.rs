//! A denial ends its RPC and nothing else: the connection goes on, and so does all that shares it.

use protocg_peers::harness::{Stack, pause_ms};
use serde_json::{Value, json};

use crate::denial::number;
use crate::stage::{
    Net, SECRET, SECRET_CODE, SECRET_MESSAGE, Stage, call, check, eventually, ok, policy, policy_with, skip, unary,
    with,
};

/// Server and client: all of the first two, and the others with themselves and with tonic. tests/live/matrix.rs has all
/// pairs, with fewer calls.
const PAIRS: [(Stack, Stack); 10] = [
    (Stack::Tonic, Stack::Tonic),
    (Stack::Tonic, Stack::Grpcio),
    (Stack::Grpcio, Stack::Tonic),
    (Stack::Grpcio, Stack::Grpcio),
    (Stack::Go, Stack::Go),
    (Stack::Go, Stack::Tonic),
    (Stack::Tonic, Stack::Go),
    (Stack::Js, Stack::Js),
    (Stack::Js, Stack::Tonic),
    (Stack::Tonic, Stack::Js),
];

/// Half of the calls on one channel are denied: all the others succeed.
fn storm(name: &str, policy: impl Fn(u16) -> String, denied: &Value, code: i32, message: &str, concurrency: u32) {
    const CALLS: u32 = 1000;
    for (server, client) in PAIRS {
        let name = format!("{name}-{server:?}-{client:?}").to_lowercase();
        if skip(&name, &[server, client]) {
            continue;
        }
        let stage = Stage::new(&name, server, Net::Loopback4, &policy, &[]);
        let sum = stage.calls(client).storm(denied, &unary("fine"), CALLS, concurrency, code, message);
        println!(
            "| {name} | {} denied, {} exact | {} allowed, {} failed | unavailable {} | reconnects {} | p50 {:.1} ms | \
             p99 {:.1} ms | {:.1} s | {} |",
            number(&sum, "denials"),
            number(&sum, "exact"),
            CALLS / 2,
            number(&sum, "allowed_failed"),
            number(&sum, "unavailable"),
            number(&sum, "reconnects"),
            sum["p50_ms"].as_f64().unwrap(),
            sum["p99_ms"].as_f64().unwrap(),
            sum["elapsed_ms"].as_f64().unwrap() / 1000.0,
            sum["others"],
        );
        let half = u64::from(CALLS / 2);
        let cuts = stage.agent.of_type("connection");
        assert_eq!((number(&sum, "exact"), number(&sum, "allowed_ok")), (half, half), "{sum:#} {cuts:#?}");
        assert_eq!(number(&sum, "reconnects"), 0, "{sum:#}");
        eventually("all messages", || stage.server.messages() as u64 >= half);
        let seen = stage.server.seen();
        let texts: Vec<_> = seen.iter().filter(|e| e["event"] == "message").map(|e| &e["fields"]["text"]).collect();
        assert!(texts.iter().all(|text| *text == "fine"), "no handler has seen a denied message");
        assert_eq!(texts.len() as u64, half);
    }
}

#[test]
fn denied_messages_harm_no_neighbour() {
    storm("fields", |port| policy(port, SECRET), &unary("a SECRET"), SECRET_CODE, SECRET_MESSAGE, 16);
}

#[test]
fn denied_messages_too_short_for_a_reset_harm_no_neighbour() {
    let rule = "[[deny]]\nname = \"no-a\"\nmethods = [\"/echo.Echo/*\"]\nwhen = 'request.text == \"A\"'\n";
    storm("short", |port| policy(port, rule), &unary("A"), 7, "denied by policy live: no-a", 16);
}

#[test]
fn denied_methods_harm_no_neighbour() {
    let rule = "[[allow]]\nname = \"unary\"\nmethods = [\"/echo.Echo/Unary\"]\n";
    let policy = |port| policy_with(port, "default = \"deny\"", rule);
    let denied = call("/echo.Echo/Slow", json!([{ "text": "slow" }]));
    storm("methods", policy, &denied, 7, "denied by policy live: default", 16);
}

#[test]
fn denied_metadata_harms_no_neighbour() {
    let rule = "[[deny]]\nname = \"intruder\"\nwhen = 'metadata[\"x-role\"] == \"intruder\"'\n";
    let denied = with(unary("a denied one"), "metadata", json!([["x-role", "intruder"]]));
    for (server, client) in PAIRS {
        let name = format!("metadata-{server:?}-{client:?}").to_lowercase();
        if skip(&name, &[server, client]) {
            continue;
        }
        let stage = Stage::new(&name, server, Net::Loopback4, |port| policy(port, rule), &[]);
        let sum = stage.calls(client).storm(&denied, &unary("fine"), 400, 4, 7, "denied by policy live: intruder");
        println!("| {name} | {sum} |");
        // The first call on a connection puts its path into the HPACK table: denied, it ends the connection.
        assert_eq!((number(&sum, "exact"), number(&sum, "code_only"), number(&sum, "hung")), (200, 0, 0), "{sum:#}");
        assert!(stage.server.seen().iter().all(|e| e["fields"]["text"] != "a denied one"));
    }
}

#[test]
fn sixty_four_streams_share_a_connection_with_denials() {
    storm("wide", |port| policy(port, SECRET), &unary("a SECRET"), SECRET_CODE, SECRET_MESSAGE, 64);
}

/// What the server never sees it does not give back to the client's flow-control window: the agent does. 64 KiB are
/// the window that HTTP/2 begins with; 4 MiB are denied.
#[test]
fn denied_bytes_come_back_to_the_connections_window() {
    for (server, client) in PAIRS {
        let name = format!("window-{server:?}-{client:?}").to_lowercase();
        if skip(&name, &[server, client]) {
            continue;
        }
        let stage = Stage::new(&name, server, Net::Loopback4, |port| policy(port, SECRET), &[]);
        let mut session = stage.calls(client).session();
        let large = call("/echo.Echo/Unary", json!([{ "text": "a SECRET", "payload": { "@bytes": 8000 } }]));
        for _ in 0..512 {
            check(&session.make(&json!([large])).remove(0), SECRET_CODE, SECRET_MESSAGE);
        }
        let fine = call("/echo.Echo/Unary", json!([{ "text": "fine", "payload": { "@bytes": 1_000_000 } }]));
        ok(&session.make(&json!([fine])).remove(0));
        assert_eq!(session.connections, 1, "{name}");
    }
}

/// A stream is denied in its middle, again and again; another on the same connection never notices.
#[test]
fn a_stream_beside_denied_streams_goes_on() {
    for (server, client) in PAIRS {
        let name = format!("beside-{server:?}-{client:?}").to_lowercase();
        if skip(&name, &[server, client]) {
            continue;
        }
        let stage = Stage::new(&name, server, Net::Loopback4, |port| policy(port, SECRET), &[]);
        let mut session = stage.calls(client).session();
        ok(&session.make(&json!([unary("first")])).remove(0));
        let texts: Vec<Value> = (0..12).map(|i| json!({ "text": format!("long {i}") })).collect();
        let long = with(with(call("/echo.Echo/Bidi", Value::Array(texts)), "interval_ms", pause_ms(20)), "group", 1);
        let denied = json!([{ "text": "one" }, { "text": "two" }, { "text": "a SECRET" }, { "text": "four" }]);
        let denied = with(with(call("/echo.Echo/Bidi", denied), "interval_ms", pause_ms(20)), "group", 1);
        let mut calls = vec![long];
        calls.extend(std::iter::repeat_n(denied, 8));
        let results = session.make(&Value::Array(calls));
        ok(&results[0]);
        assert_eq!(results[0]["fields"].as_array().unwrap().len(), 12);
        for result in &results[1..] {
            check(result, SECRET_CODE, SECRET_MESSAGE);
        }
        assert_eq!(session.connections, 1, "{name}");
        assert!(stage.server.seen().iter().all(|e| e["fields"]["text"] != "a SECRET"));
    }
}

/// A stream that is denied in its middle ends with RST_STREAM at the server. node's servers end a connection that has
/// more of them than 1,000 and 33 a second (`streamResetBurst`, `streamResetRate`); the others take any number that they
/// have read.
#[test]
fn a_thousand_streams_denied_in_their_middle_end_no_connection() {
    for (server, client) in PAIRS {
        let name = format!("streams-{server:?}-{client:?}").to_lowercase();
        if skip(&name, &[server, client]) {
            continue;
        }
        let stage = Stage::new(&name, server, Net::Loopback4, |port| policy(port, SECRET), &[]);
        let denied = call("/echo.Echo/Bidi", json!([{ "text": "fine" }, { "text": "a SECRET" }]));
        // The second message goes when the first is answered: the server has the stream by then.
        let denied = with(denied, "lockstep", true);
        let sum = stage.calls(client).denials(&denied, 1000, 16, SECRET_CODE, SECRET_MESSAGE);
        println!("| {name} | {sum} |");
        assert_eq!((number(&sum, "exact"), number(&sum, "reconnects")), (1000, 0), "{name}: {sum:#}");
        eventually("all messages", || stage.server.messages() >= 1000);
        assert!(stage.server.seen().iter().all(|e| e["fields"]["text"] != "a SECRET"));
        assert_eq!(stage.server.messages(), 1000);
    }
}
