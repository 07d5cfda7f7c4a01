//! Every server stack with every client stack, on every network: all kinds of calls, allowed, and denied by all that
//! a rule can look at.

use protocg_peers::harness::{Stack, pause_ms};
use serde_json::{Value, json};

use crate::stage::{Net, Stage, call, ok, policy_with, skip, with};

/// A call that is denied.
struct Denied {
    call: Value,
    rule: &'static str,
    code: i32,
    message: &'static str,
    /// The denied message's index, 0 for the header block.
    index: u32,
    /// The texts that the handler gets before.
    before: &'static [&'static str],
    /// The answers that the caller gets before.
    replies: usize,
}

fn rules(client: &str) -> String {
    format!(
        r#"
[[deny]]
name = "by-method"
methods = ["/search.SearchService/Search"]
status = "UNIMPLEMENTED"
message = "no search: 100 % of it, ü"

[[deny]]
name = "by-field"
methods = ["/echo.Echo/*"]
when = 'request.text.contains("SECRET") && request.outer.level >= 3'
status = "INVALID_ARGUMENT"
message = "keep your secrets"

[[deny]]
name = "by-metadata"
when = 'metadata["x-role"] == "intruder"'
status = "UNAUTHENTICATED"

[[deny]]
name = "by-peer"
methods = ["/echo.Echo/Slow"]
when = 'peer.ip == ip("{client}")'
status = "FAILED_PRECONDITION"
message = "not from there"

[[deny]]
name = "by-another-peer"
when = 'peer.ip == ip("192.0.2.1") || peer.ip == ip("2001:db8::1")'

[[allow]]
name = "echo"
methods = ["/echo.Echo/*"]
"#
    )
}

fn secret() -> Value {
    json!({ "text": "a SECRET", "outer": { "level": 3 } })
}

fn text(text: &str) -> Value {
    json!({ "text": text })
}

fn denied() -> Vec<Denied> {
    let by_field = |call, index, before, replies| {
        let (rule, code, message) = ("by-field", 3, "keep your secrets");
        Denied { call, rule, code, message, index, before, replies }
    };
    let by_header = |call, rule, code, message| Denied { call, rule, code, message, index: 0, before: &[], replies: 0 };
    let by_metadata = |call| {
        let call = with(call, "metadata", json!([["x-role", "guest"], ["x-role", "intruder"]]));
        by_header(call, "by-metadata", 16, "denied by policy live: by-metadata")
    };
    // A pause lets each message travel alone; what shares a segment with a denied one is not delivered.
    let slowly = |method, messages| with(call(method, messages), "interval_ms", pause_ms(60));
    vec![
        by_header(
            call("/search.SearchService/Search", json!([{ "query": "x" }])),
            "by-method",
            12,
            "no search: 100 % of it, ü",
        ),
        by_header(
            call("/login.LoginService/Login", json!([{ "user": "x" }])),
            "default",
            7,
            "denied by policy live: default",
        ),
        by_field(call("/echo.Echo/Unary", json!([secret()])), 1, &[], 0),
        by_field(call("/echo.Echo/ServerStream", json!([secret()])), 1, &[], 0),
        by_field(slowly("/echo.Echo/ClientStream", json!([text("c1"), secret(), text("c3")])), 2, &["c1"], 0),
        by_field(slowly("/echo.Echo/Bidi", json!([text("b1"), text("b2"), secret(), text("b4")])), 3, &["b1", "b2"], 2),
        by_metadata(call("/echo.Echo/Unary", json!([text("m")]))),
        by_metadata(call("/echo.Echo/ClientStream", json!([text("m"), text("m")]))),
        by_metadata(call("/echo.Echo/ServerStream", json!([text("m")]))),
        by_metadata(call("/echo.Echo/Bidi", json!([text("m"), text("m")]))),
        by_header(call("/echo.Echo/Slow", json!([text("p")])), "by-peer", 9, "not from there"),
    ]
}

/// Allowed calls of each kind, with what the handler gets, and the fields of the answers.
fn allowed() -> Vec<(Value, Vec<&'static str>, Vec<Value>)> {
    let message = |text: &str, bytes: usize| json!({ "text": text, "payload": { "@bytes": bytes } });
    let guest = json!([["x-role", "guest"], ["x-blob-bin", "AAEC/w=="]]);
    vec![
        (
            call("/echo.Echo/Unary", json!([{ "text": "a1", "i32": -5, "outer": { "level": 4 }, "reflect": true }])),
            vec!["a1"],
            vec![json!({
                "text": "a1", "received": 1,
                "request": { "text": "a1", "i32": -5, "outer": { "level": 4 }, "reflect": true },
            })],
        ),
        (
            with(call("/echo.Echo/ClientStream", json!([message("a2", 3), message("a3", 4)])), "metadata", guest),
            vec!["a2", "a3"],
            vec![json!({ "text": "a3", "received": 2, "received_bytes": "7" })],
        ),
        (
            call("/echo.Echo/ServerStream", json!([{ "text": "SECRET but low", "replies": 3, "reply_bytes": 2 }])),
            vec!["SECRET but low"],
            vec![
                json!({ "text": "SECRET but low", "payload": "AAA=", "received": 1 }),
                json!({ "text": "SECRET but low", "payload": "AAA=", "index": 1, "received": 1 }),
                json!({ "text": "SECRET but low", "payload": "AAA=", "index": 2, "received": 1 }),
            ],
        ),
        (
            call("/echo.Echo/Bidi", json!([message("a4", 1), message("a5", 1), message("a6", 1)])),
            vec!["a4", "a5", "a6"],
            // The count of what has been received depends on who is faster.
            vec![json!({ "text": "a4" }), json!({ "text": "a5", "index": 1 }), json!({ "text": "a6", "index": 2 })],
        ),
    ]
}

fn pair(name: &str, server: Stack, client: Stack, net: Net) {
    if skip(name, &[server, client]) {
        return;
    }
    let rules = |port| policy_with(port, "default = \"deny\"", &rules(net.client()));
    let stage = Stage::new(name, server, net, rules, &[]);
    let (allowed, denied) = (allowed(), denied());
    // Allowed ones first, between, and last.
    let mut calls: Vec<Value> = allowed.iter().map(|(call, ..)| call.clone()).collect();
    for (index, denied) in denied.iter().enumerate() {
        calls.push(denied.call.clone());
        calls.push(allowed[index % allowed.len()].0.clone());
    }
    calls.push(call("/echo.Echo/Unary", json!([text("the last")])));
    let results = stage.make(client, &calls);
    assert_eq!(results.len(), calls.len());
    let mut expected_texts = Vec::new();
    let mut results = results.iter();
    let good = |result: &Value, (_, texts, replies): &(Value, Vec<&'static str>, Vec<Value>)| -> Vec<&str> {
        ok(result);
        assert_eq!(result["responses"], replies.len());
        for (got, wanted) in result["fields"].as_array().unwrap().iter().zip(replies) {
            for (key, value) in wanted.as_object().unwrap() {
                assert_eq!(&got[key], value, "{key} of {result:#}");
            }
        }
        texts.clone()
    };
    for case in &allowed {
        expected_texts.extend(good(results.next().unwrap(), case));
    }
    for (index, denied) in denied.iter().enumerate() {
        let result = results.next().unwrap();
        let got = (&result["code"], &result["message"], &result["responses"]);
        assert_eq!(got, (&json!(denied.code), &json!(denied.message), &json!(denied.replies)), "{result:#}");
        expected_texts.extend(denied.before);
        expected_texts.extend(good(results.next().unwrap(), &allowed[index % allowed.len()]));
    }
    ok(results.next().unwrap());
    expected_texts.push("the last");
    assert_eq!(stage.texts_until("the last"), expected_texts, "each allowed message once, nothing else");

    let events = stage.decisions("deny", denied.len());
    assert_eq!(stage.agent.of_type("decision").len(), denied.len(), "{events:#?}");
    for (event, denied) in events.iter().zip(&denied) {
        let (service, method) = denied.call["method"].as_str().unwrap()[1..].split_once('/').unwrap();
        let wanted = json!({
            "type": "decision", "verdict": "deny", "policy": "live", "rule": denied.rule, "rpc.system": "grpc",
            "rpc.service": service, "rpc.method": method, "rpc.grpc.status_code": denied.code,
            "network.peer.address": net.client(), "server.address": stage.server.address.ip().to_string(),
            "server.port": stage.server.address.port(), "cgroup": stage.cgroup.path().to_str().unwrap(),
            "message": denied.index,
        });
        for (key, value) in wanted.as_object().unwrap() {
            assert_eq!(&event[key], value, "{key} of {event:#}");
        }
        assert_eq!(event.get("cause"), None);
        assert_eq!(event["stream"].as_u64().unwrap() % 2, 1);
        assert!(event["network.peer.port"].as_u64().unwrap() > 1023);
    }
}

macro_rules! pairs {
    ($($name:ident: $server:ident <- $client:ident;)*) => {$(
        mod $name {
            use super::*;
            #[test]
            fn over_ipv4() {
                pair(concat!(stringify!($name), "-4"), Stack::$server, Stack::$client, Net::Loopback4);
            }
            #[test]
            fn over_ipv6() {
                pair(concat!(stringify!($name), "-6"), Stack::$server, Stack::$client, Net::Loopback6);
            }
            #[test]
            fn between_namespaces_over_ipv4() {
                pair(concat!(stringify!($name), "-veth4"), Stack::$server, Stack::$client, Net::Veth4);
            }
            #[test]
            fn between_namespaces_over_ipv6() {
                pair(concat!(stringify!($name), "-veth6"), Stack::$server, Stack::$client, Net::Veth6);
            }
        }
    )*};
}

pairs! {
    tonic_serves_tonic: Tonic <- Tonic;
    tonic_serves_grpcio: Tonic <- Grpcio;
    grpcio_serves_tonic: Grpcio <- Tonic;
    grpcio_serves_grpcio: Grpcio <- Grpcio;
}

/// Pairs with the other stacks, each over one network: all together meet all of them.
macro_rules! more_pairs {
    ($($name:ident: $server:ident <- $client:ident over $net:ident;)*) => {$(
        #[test]
        fn $name() {
            pair(stringify!($name), Stack::$server, Stack::$client, Net::$net);
        }
    )*};
}

more_pairs! {
    go_serves_go: Go <- Go over Loopback4;
    go_serves_js: Go <- Js over Loopback6;
    go_serves_tonic: Go <- Tonic over Veth4;
    go_serves_grpcio: Go <- Grpcio over Veth6;
    js_serves_js: Js <- Js over Loopback4;
    js_serves_go: Js <- Go over Loopback6;
    js_serves_tonic: Js <- Tonic over Veth4;
    js_serves_grpcio: Js <- Grpcio over Veth6;
    tonic_serves_go: Tonic <- Go over Loopback4;
    tonic_serves_js: Tonic <- Js over Veth4;
    grpcio_serves_go: Grpcio <- Go over Veth6;
    grpcio_serves_js: Grpcio <- Js over Loopback6;
}
