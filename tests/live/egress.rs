//! Policies on the calls that a cgroup's clients make.

use std::time::Duration;

use protocg_peers::harness::net::End;
use protocg_peers::harness::{Calls, Cgroup, Place, Protocg, Server, Stack, patience, pause_ms};
use serde_json::{Value, json};

use crate::stage::{BINARY, Net, SECRET, call, eventually, make, ok, policy_with, skip, texts_until, unary, with};

const MORE: &str = r#"
[[deny]]
name = "by-method"
methods = ["/search.SearchService/Search"]

[[deny]]
name = "by-metadata"
when = 'metadata["x-role"] == "intruder"'
"#;

fn judged(name: &str, server: Stack, client: Stack, net: Net) {
    if skip(name, &[server, client]) {
        return;
    }
    let cgroup = Cgroup::new(name);
    let veth = net.veth();
    let end = |end| veth.as_ref().map(|v| (v, end));
    let server = Server::start(server, Place { cgroup: None, net: end(End::B) }, (net.server(), 0).into());
    let text = policy_with(server.address.port(), "direction = \"egress\"", &format!("{SECRET}{MORE}"));
    let agent = Protocg::run(BINARY, &[&cgroup], &text, &[]);
    let place = Place { cgroup: Some(&cgroup), net: end(End::A) };
    let mut session = Calls { stack: client, place, target: server.address }.session();
    let slowly = |method: &str, messages| with(call(method, messages), "interval_ms", pause_ms(60));
    let secret = json!({ "text": "a SECRET" });
    let denied = [
        (unary("a SECRET"), "no-secrets", 1, vec![]),
        (slowly("/echo.Echo/ClientStream", json!([{ "text": "c1" }, secret])), "no-secrets", 2, vec!["c1"]),
        (
            slowly("/echo.Echo/Bidi", json!([{ "text": "b1" }, { "text": "b2" }, secret])),
            "no-secrets",
            3,
            vec!["b1", "b2"],
        ),
        (call("/echo.Echo/ServerStream", json!([secret])), "no-secrets", 1, vec![]),
        (call("/search.SearchService/Search", json!([{ "query": "x" }])), "by-method", 0, vec![]),
        (with(unary("m"), "metadata", json!([["x-role", "intruder"]])), "by-metadata", 0, vec![]),
    ];
    let mut expected = Vec::new();
    if veth.is_some() {
        // A link that has just been made may lose the first SYN; on loopback the very first call is denied.
        ok(&make(&mut session, &unary("link")));
        expected.push("link".to_owned());
    }
    for (index, (call, _, _, before)) in denied.iter().enumerate() {
        let result = make(&mut session, call);
        assert_ne!(result["code"], 0, "{result:#}");
        assert_ne!(result["code"], 4, "not by its deadline: {result:#}");
        let pauses = call["interval_ms"].as_f64().unwrap_or(0.0) * 2.0;
        assert!(
            result["latency_ms"].as_f64().unwrap() < patience(Duration::from_secs(1)).as_secs_f64() * 1000.0 + pauses,
            "{result:#}"
        );
        expected.extend(before.iter().map(|t| (*t).to_owned()));
        // A call right behind may meet the end of the connection; within a second they succeed.
        let fine = format!("fine {index}");
        let mut result = Value::Null;
        eventually("an allowed call", || {
            result = make(&mut session, &unary(&fine));
            result["code"] == 0
        });
        expected.push(fine);
    }
    ok(&make(&mut session, &unary("the last")));
    expected.push("the last".to_owned());
    assert_eq!(texts_until(&server, "the last"), expected);
    eventually("the events", || agent.of_type("decision").len() >= denied.len());
    let events = agent.of_type("decision");
    assert_eq!(events.len(), denied.len(), "{events:#?}");
    for (event, (call, rule, message, _)) in events.iter().zip(&denied) {
        assert_eq!(
            (&event["verdict"], &event["rule"], &event["message"]),
            (&json!("deny"), &json!(rule), &json!(message))
        );
        let method = format!("/{}/{}", event["rpc.service"].as_str().unwrap(), event["rpc.method"].as_str().unwrap());
        assert_eq!(call["method"], method.as_str());
        assert_eq!(event["network.peer.address"], server.address.ip().to_string().as_str());
        assert_eq!(event["server.port"], server.address.port());
        assert_eq!(event["cgroup"], cgroup.path().to_str().unwrap());
    }
}

#[test]
fn calls_of_tonic() {
    judged("egress-tonic", Stack::Tonic, Stack::Tonic, Net::Loopback4);
}

#[test]
fn calls_of_grpcio() {
    judged("egress-grpcio", Stack::Tonic, Stack::Grpcio, Net::Loopback6);
}

#[test]
fn calls_of_tonic_between_namespaces() {
    judged("egress-tonic-veth", Stack::Tonic, Stack::Tonic, Net::Veth6);
}

#[test]
fn calls_of_grpcio_between_namespaces() {
    judged("egress-grpcio-veth", Stack::Grpcio, Stack::Grpcio, Net::Veth4);
}
