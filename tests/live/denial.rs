//! How good denials are: many at once, many a second, and RPCs beside them.

use std::time::{Duration, Instant};

use protocg_peers::harness::{Stack, patience, pause_ms};
use serde_json::{Value, json};

use crate::stage::{
    Net, SECRET, SECRET_CODE, SECRET_MESSAGE, Stage, call, check, eventually, make, ok, policy, skip, unary, with,
};

pub fn number(table: &Value, key: &str) -> u64 {
    table[key].as_u64().unwrap_or_else(|| panic!("{key}: {table}"))
}

fn quality(name: &str, server: Stack, client: Stack) {
    if skip(name, &[server, client]) {
        return;
    }
    let stage = Stage::new(name, server, Net::Loopback4, |port| policy(port, SECRET), &[]);
    let denials = |call: &Value| stage.calls(client).denials(call, 1000, 16, SECRET_CODE, SECRET_MESSAGE);
    let sum = denials(&unary("a SECRET"));
    println!(
        "| {client:?} to {server:?} | {} denials over 16 streams | exact {} | code only {} | unavailable {} | resets {} | \
         hung {} | reconnects {} | p50 {:.1} ms | p99 {:.1} ms | max {:.1} ms | {:.1} s | {} |",
        number(&sum, "denials"),
        number(&sum, "exact"),
        number(&sum, "code_only"),
        number(&sum, "unavailable"),
        number(&sum, "resets"),
        number(&sum, "hung"),
        number(&sum, "reconnects"),
        sum["p50_ms"].as_f64().unwrap(),
        sum["p99_ms"].as_f64().unwrap(),
        sum["max_ms"].as_f64().unwrap(),
        sum["elapsed_ms"].as_f64().unwrap() / 1000.0,
        sum["others"],
    );
    assert_eq!((number(&sum, "denials"), number(&sum, "hung")), (1000, 0), "{sum:#}");
    assert_eq!((number(&sum, "exact"), number(&sum, "reconnects")), (1000, 0), "{sum:#}");
    let mut session = stage.calls(client).session();
    ok(&make(&mut session, &unary("the last")));
    assert_eq!(stage.texts_until("the last"), ["the last"], "no handler has seen a denied message");
}

#[test]
fn a_thousand_denials_of_tonic_by_tonic() {
    quality("quality-tonic-tonic", Stack::Tonic, Stack::Tonic);
}

#[test]
fn a_thousand_denials_of_grpcio_by_tonic() {
    quality("quality-tonic-grpcio", Stack::Tonic, Stack::Grpcio);
}

#[test]
fn a_thousand_denials_of_tonic_by_grpcio() {
    quality("quality-grpcio-tonic", Stack::Grpcio, Stack::Tonic);
}

#[test]
fn a_thousand_denials_of_grpcio_by_grpcio() {
    quality("quality-grpcio-grpcio", Stack::Grpcio, Stack::Grpcio);
}

#[test]
fn a_thousand_denials_of_go_by_go() {
    quality("quality-go-go", Stack::Go, Stack::Go);
}

#[test]
fn a_thousand_denials_of_js_by_js() {
    quality("quality-js-js", Stack::Js, Stack::Js);
}

/// Many clients, each of which waits for the answer to one denied call before it makes the next: every one is answered with
/// the rule's status and message, whatever the others do. The rate is printed; a busy machine may be slower.
fn rate(name: &str, client: Stack) {
    const CLIENTS: u64 = 10;
    const EACH: u64 = 100;
    if skip(name, &[client]) {
        return;
    }
    let stage = Stage::simple(name, SECRET);
    let calls = stage.calls(client);
    let sums: Vec<Value> = std::thread::scope(|scope| {
        let client = || calls.denials(&unary("a SECRET"), EACH as u32, 1, SECRET_CODE, SECRET_MESSAGE);
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        clients.into_iter().map(|c| c.join().unwrap()).collect()
    });
    // The clients' own clock: a process takes longer to start than to be denied.
    let took = sums.iter().map(|s| s["elapsed_ms"].as_f64().unwrap()).fold(0.0, f64::max) / 1000.0;
    println!(
        "{CLIENTS} {client:?} clients, {EACH} denials each in turn: {took:.2} s, {:.0} a second",
        (CLIENTS * EACH) as f64 / took
    );
    for sum in &sums {
        assert_eq!((number(sum, "denials"), number(sum, "exact")), (EACH, EACH), "{sum:#}");
    }
    ok(&make(&mut calls.session(), &unary("the last")));
    assert_eq!(stage.texts_until("the last"), ["the last"]);
    // Events: each is printed, or summed up.
    eventually("all events", || {
        let printed = stage.agent.of_type("decision").len() as u64;
        let summed: u64 = stage.agent.of_type("lost").iter().filter_map(|e| e["count"].as_u64()).sum();
        printed + summed == CLIENTS * EACH
    });
}

#[test]
fn a_thousand_denials_of_ten_tonic_clients_are_answered_exactly() {
    rate("rate-tonic", Stack::Tonic);
}

#[test]
fn a_thousand_denials_of_ten_grpcio_clients_are_answered_exactly() {
    rate("rate-grpcio", Stack::Grpcio);
}

fn slow_beside(name: &str, server: Stack, client: Stack) {
    if skip(name, &[server, client]) {
        return;
    }
    let stage = Stage::new(name, server, Net::Loopback4, |port| policy(port, SECRET), &[]);
    let mut session = stage.calls(client).session();
    ok(&make(&mut session, &unary("first")));
    // One channel: the slow one is under way when the other is denied, 100 ms later.
    let slow = with(call("/echo.Echo/Slow", json!([{ "text": "slow", "delay_ms": pause_ms(300) }])), "group", 1);
    let denied = call("/echo.Echo/Bidi", json!([{ "text": "quick" }, { "text": "a SECRET" }]));
    let denied = with(with(denied, "interval_ms", pause_ms(100)), "group", 1);
    let results = session.make(&json!([slow, denied]));
    assert_eq!(results.len(), 2);
    ok(&results[0]);
    assert_eq!(results[0]["fields"][0]["text"], "slow");
    check(&results[1], SECRET_CODE, SECRET_MESSAGE);
    let latency = |i: usize| results[i]["latency_ms"].as_f64().unwrap();
    assert!(latency(0) >= f64::from(pause_ms(300)));
    assert!(latency(1) < latency(0), "the denial does not wait for the slow one: {results:#?}");
    let alone = Instant::now();
    ok(&make(&mut session, &unary("the last")));
    assert!(alone.elapsed() < patience(Duration::from_secs(1)));
    let mut texts = stage.texts_until("the last");
    texts.sort();
    assert_eq!(texts, ["first", "quick", "slow", "the last"]);
}

#[test]
fn a_slow_rpc_beside_a_denial_finishes_tonic_to_tonic() {
    slow_beside("slow-tonic-tonic", Stack::Tonic, Stack::Tonic);
}

#[test]
fn a_slow_rpc_beside_a_denial_finishes_grpcio_to_tonic() {
    slow_beside("slow-tonic-grpcio", Stack::Tonic, Stack::Grpcio);
}

#[test]
fn a_slow_rpc_beside_a_denial_finishes_tonic_to_grpcio() {
    slow_beside("slow-grpcio-tonic", Stack::Grpcio, Stack::Tonic);
}

#[test]
fn a_slow_rpc_beside_a_denial_finishes_grpcio_to_grpcio() {
    slow_beside("slow-grpcio-grpcio", Stack::Grpcio, Stack::Grpcio);
}

#[test]
fn a_slow_rpc_beside_a_denial_finishes_go_to_js() {
    slow_beside("slow-js-go", Stack::Js, Stack::Go);
}

#[test]
fn a_slow_rpc_beside_a_denial_finishes_js_to_go() {
    slow_beside("slow-go-js", Stack::Go, Stack::Js);
}
