//! `[[limit]]`: exact counts under load on all CPUs, and what a caller reads that finds no token.

use protocg_peers::harness::Stack;
use serde_json::{Value, json};

use crate::denial::number;
use crate::stage::{Net, Stage, eventually, make, ok, policy, skip, unary, with};

const BURST: usize = 60;
const CLIENTS: usize = 6;
const TURNS: usize = 8;
const AT_ONCE: usize = 5;
const RESOURCE_EXHAUSTED: i64 = 8;
const MESSAGE: &str = "denied by policy live: per-tenant";

fn rules() -> String {
    format!(
        "[[limit]]\nname = \"per-tenant\"\nmethods = [\"/echo.Echo/*\"]\nrate = \"1/h\"\nburst = {BURST}\n\
         per = 'metadata[\"x-tenant\"]'\n"
    )
}

fn of(tenant: &str, text: &str) -> Value {
    with(unary(text), "metadata", json!([["x-tenant", tenant]]))
}

fn trailer<'r>(result: &'r Value, key: &str) -> &'r str {
    let pairs = result["trailers"].as_array().unwrap();
    let found = pairs.iter().find(|pair| pair[0] == key).unwrap_or_else(|| panic!("no {key}: {result:#}"));
    found[1].as_str().unwrap()
}

/// Clients that call at once, over connections of their own, for one tenant: so many calls pass as there are tokens, and every
/// other is told when to come again.
fn counted(name: &str, server: Stack, client: Stack) {
    if skip(name, &[server, client]) {
        return;
    }
    let stage = Stage::new(name, server, Net::Loopback4, |port| policy(port, &rules()), &[]);
    let calls = stage.calls(client);
    let results: Vec<Value> = std::thread::scope(|scope| {
        let one = |which: usize| {
            let calls = &calls;
            move || {
                let mut session = calls.session();
                ok(&make(&mut session, &of(&format!("warm {which}"), "warm")));
                let turn: Vec<Value> = (0..AT_ONCE).map(|_| with(of("a", "a"), "group", 1)).collect();
                (0..TURNS).flat_map(|_| session.make(&json!(turn))).collect::<Vec<Value>>()
            }
        };
        let clients: Vec<_> = (0..CLIENTS).map(|which| scope.spawn(one(which))).collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    let passed = results.iter().filter(|result| result["code"] == 0).count();
    let denied: Vec<&Value> = results.iter().filter(|result| result["code"] != 0).collect();
    println!("{client:?} to {server:?}: {} calls at once, {passed} passed, {} denied", results.len(), denied.len());
    assert_eq!((passed, denied.len()), (BURST, CLIENTS * TURNS * AT_ONCE - BURST));
    for result in &denied {
        assert_eq!(
            (result["code"].as_i64(), result["message"].as_str()),
            (Some(RESOURCE_EXHAUSTED), Some(MESSAGE)),
            "{result:#}"
        );
        // one token an hour
        let after: u32 = trailer(result, "grpc-retry-pushback-ms").parse().unwrap();
        assert!((3_500_000..=3_600_000).contains(&after), "{result:#}");
        // tonic and grpc-go keep it with the status
        if client == Stack::Grpcio {
            assert!(trailer(result, "grpc-status-details-bin").len() > 40, "{result:#}");
        }
    }
    // other tenants are not concerned; a client whose very first call is denied is told the same
    let mut fresh = calls.session();
    let first = make(&mut fresh, &of("a", "a"));
    assert_eq!(
        (first["code"].as_i64(), first["message"].as_str()),
        (Some(RESOURCE_EXHAUSTED), Some(MESSAGE)),
        "{first:#}"
    );
    ok(&make(&mut calls.session(), &of("b", "the last")));
    let texts = stage.texts_until("the last");
    assert_eq!(texts.iter().filter(|text| *text == "a").count(), BURST, "handlers have seen no more");
    eventually("all events", || {
        let printed = stage.agent.of_type("decision");
        assert!(printed.iter().all(|it| it["rule"] == "per-tenant" && number(it, "retry_ms") > 0), "{printed:#?}");
        let summed: u64 = stage.agent.of_type("lost").iter().filter_map(|e| e["count"].as_u64()).sum();
        printed.len() as u64 + summed == denied.len() as u64 + 1
    });
}

#[test]
fn tokens_are_counted_exactly_for_tonic() {
    counted("limit-tonic", Stack::Tonic, Stack::Tonic);
}

#[test]
fn tokens_are_counted_exactly_for_grpcio() {
    counted("limit-grpcio", Stack::Grpcio, Stack::Grpcio);
}

#[test]
fn tokens_are_counted_exactly_for_go() {
    counted("limit-go", Stack::Go, Stack::Go);
}

/// A caller that waits as long as it is told finds a token.
#[test]
fn who_waits_as_told_is_served() {
    if skip("limit-wait", &[]) {
        return;
    }
    let rules = "[[limit]]\nname = \"slow\"\nrate = \"4/s\"\nburst = 2\nper = \"peer.ip\"\n";
    let stage = Stage::simple("limit-wait", rules);
    let mut session = stage.calls(Stack::Tonic).session();
    let (mut passed, mut denied) = (0, 0);
    let started = std::time::Instant::now();
    while passed < 8 {
        let result = make(&mut session, &unary("x"));
        if result["code"] == 0 {
            passed += 1;
            continue;
        }
        denied += 1;
        assert_eq!(result["code"].as_i64(), Some(RESOURCE_EXHAUSTED), "{result:#}");
        let after: u64 = trailer(&result, "grpc-retry-pushback-ms").parse().unwrap();
        assert!((1..=250).contains(&after), "{result:#}");
        std::thread::sleep(std::time::Duration::from_millis(after));
        ok(&make(&mut session, &unary("x")));
        passed += 1;
    }
    // two at once, then four a second: no sooner
    assert!(started.elapsed() >= std::time::Duration::from_millis(6 * 250 - 250), "{:?}", started.elapsed());
    println!("{passed} passed, {denied} denied in {:?}", started.elapsed());
    assert!(denied >= 1);
}

/// A limit that only audits says what it would deny.
#[test]
fn a_limit_that_audits_denies_nothing() {
    if skip("limit-audit", &[]) {
        return;
    }
    let stage = Stage::simple("limit-audit", "[[limit]]\nname = \"spy\"\nrate = \"1/h\"\nmode = \"audit\"\n");
    let mut session = stage.calls(Stack::Tonic).session();
    (0..3).for_each(|_| ok(&make(&mut session, &unary("x"))));
    let events = stage.decisions("audit-deny", 2);
    assert_eq!(events.len(), 2, "{events:#?}");
    assert!(events.iter().all(|it| it["rule"] == "spy" && it["rpc.grpc.status_code"] == 8), "{events:#?}");
}
