//! Rules on responses in egress policies: what a client in the cgroup is not given, and what it gets instead.

use std::time::Duration;

use protocg_peers::harness::net::End;
use protocg_peers::harness::{Calls, Cgroup, Place, Protocg, Server, Stack, Veth, patience, pause_ms};
use serde_json::{Value, json};

use crate::loss_program::loss;
use crate::maps;
use crate::stage::{BINARY, Net, call, eventually, make, ok, policy_with, skip, unary, with};

const KEPT: &str = r#"
[[deny]]
name = "kept"
methods = ["/echo.Echo/*"]
when = 'response.text.contains("SECRET")'
status = "DATA_LOSS"
message = "this does not come in"
"#;
const UNAVAILABLE: i64 = 14;
/// What tonic makes of a connection that is reset while a call waits.
const UNKNOWN: i64 = 2;

/// A server outside, and the cgroup of its clients under a policy.
struct Outside {
    agent: Protocg,
    server: Server,
    cgroup: Cgroup,
    veth: Option<Veth>,
}

impl Outside {
    fn new(name: &str, server: Stack, net: Net, top: &str, rules: &str) -> Self {
        let cgroup = Cgroup::new(name);
        let veth = net.veth();
        let place = Place { cgroup: None, net: veth.as_ref().map(|veth| (veth, End::B)) };
        let server = Server::start(server, place, (net.server(), 0).into());
        let top = format!("direction = \"egress\"\n{top}");
        let agent = Protocg::run(BINARY, &[&cgroup], &policy_with(server.address.port(), &top, rules), &[]);
        Self { agent, server, cgroup, veth }
    }

    fn calls(&self, stack: Stack) -> Calls<'_> {
        let place = Place { cgroup: Some(&self.cgroup), net: self.veth.as_ref().map(|veth| (veth, End::A)) };
        Calls { stack, place, target: self.server.address }
    }

    /// Live RPCs.
    fn streams(&self) -> usize {
        let [conns, table] = ["conns", "streams"].map(|name| maps::of(self.cgroup.path(), name));
        maps::streams(&conns, &table)
    }

    /// Whether nothing is left of connections and RPCs.
    fn is_empty(&self) -> bool {
        let left = maps::entries(self.cgroup.path());
        ["conns", "streams", "held", "berths"].iter().all(|name| left[*name] == 0)
    }
}

/// The caller hears of it at once, as of a connection that has ended, and is given nothing but what came before.
#[track_caller]
fn cut(result: &Value, before: &[&str], pauses: f64) {
    // which of the two depends on whether tonic reads or writes as the connection ends
    let ends = |cause: &str| cause.ends_with("connection reset") || cause.ends_with("broken pipe");
    let reset = result["cause"].as_str().is_some_and(ends);
    assert!(result["code"] == UNAVAILABLE || (result["code"] == UNKNOWN && reset), "{result:#}");
    let texts: Vec<&str> = result["fields"].as_array().unwrap().iter().map(|it| it["text"].as_str().unwrap()).collect();
    assert_eq!(texts, before, "{result:#}");
    let bound = patience(Duration::from_secs(1)).as_secs_f64() * 1000.0 + pauses;
    assert!(result["latency_ms"].as_f64().unwrap() < bound, "{result:#}");
}

/// A call right behind a denial may meet the end of its connection; then one on a new connection succeeds.
#[track_caller]
fn goes_on(session: &mut protocg_peers::harness::Session, call: &Value) -> Value {
    let mut result = Value::Null;
    eventually("an allowed call", || {
        result = make(session, call);
        result["code"] == 0
    });
    result
}

fn kept(name: &str, server: Stack, client: Stack, net: Net) {
    if skip(name, &[server, client]) {
        return;
    }
    let outside = Outside::new(name, server, net, "", KEPT);
    let mut session = outside.calls(client).session();
    let sized = |text: &str, bytes: u32| call("/echo.Echo/Unary", json!([{ "text": text, "reply_bytes": bytes }]));
    goes_on(&mut session, &unary("first"));
    for bytes in [1_000, 16_000, 100_000, 1_000_000] {
        goes_on(&mut session, &sized("fine", bytes));
    }
    let streamed = call("/echo.Echo/ServerStream", json!([{ "text": "s", "replies": 50, "reply_bytes": 3000 }]));
    assert_eq!(goes_on(&mut session, &streamed)["responses"], 50);
    // an RPC that is over leaves nothing, though its connection is there
    eventually("no stream is left", || outside.streams() == 0);

    let pause = pause_ms(60);
    let bidi = call("/echo.Echo/Bidi", json!([{ "text": "b1" }, { "text": "b2" }, { "text": "a SECRET" }]));
    let denied = [
        (unary("a SECRET"), vec![], 1),
        (sized("a SECRET", 1_000), vec![], 1),
        (sized("a SECRET", 40_000), vec![], 1),
        (sized("a SECRET", 1_000_000), vec![], 1),
        (call("/echo.Echo/ServerStream", json!([{ "text": "a SECRET", "replies": 3 }])), vec![], 1),
        (with(bidi, "interval_ms", pause), vec!["b1", "b2"], 3),
    ];
    for (call, before, _) in &denied {
        let result = make(&mut session, call);
        cut(&result, before, f64::from(pause) * 2.0);
        goes_on(&mut session, &unary("fine"));
    }
    ok(&make(&mut session, &unary("the last")));
    drop(session);
    eventually("the events", || outside.agent.of_type("decision").len() >= denied.len());
    let events = outside.agent.of_type("decision");
    assert_eq!(events.len(), denied.len(), "{events:#?}");
    for (event, (_, _, message)) in events.iter().zip(&denied) {
        assert_eq!(
            (&event["verdict"], &event["rule"], &event["rpc.message.type"], &event["message"]),
            (&json!("deny"), &json!("kept"), &json!("RECEIVED"), &json!(message))
        );
        assert_eq!((&event["rpc.grpc.status_code"], &event["rpc.service"]), (&json!(15), &json!("echo.Echo")));
        assert_eq!(event["server.port"], outside.server.address.port());
        assert_eq!(event["cgroup"], outside.cgroup.path().to_str().unwrap());
    }
    assert_eq!(outside.agent.of_type("connection"), Vec::<Value>::new());
    eventually("nothing is left", || outside.is_empty());
}

#[test]
fn tonic_is_not_given_what_tonic_says() {
    kept("received-tonic-tonic", Stack::Tonic, Stack::Tonic, Net::Loopback4);
}

#[test]
fn tonic_is_not_given_what_grpcio_says_between_namespaces() {
    kept("received-grpcio-tonic", Stack::Grpcio, Stack::Tonic, Net::Veth6);
}

#[test]
fn grpcio_is_not_given_what_tonic_says() {
    kept("received-tonic-grpcio", Stack::Tonic, Stack::Grpcio, Net::Loopback6);
}

#[test]
fn grpcio_is_not_given_what_grpcio_says_between_namespaces() {
    kept("received-grpcio-grpcio", Stack::Grpcio, Stack::Grpcio, Net::Veth4);
}

#[test]
fn go_is_not_given_what_go_says() {
    kept("received-go-go", Stack::Go, Stack::Go, Net::Veth4);
}

#[test]
fn js_is_not_given_what_js_says() {
    kept("received-js-js", Stack::Js, Stack::Js, Net::Loopback4);
}

/// Where no rule reads responses the server's side is followed all the same: RPCs that are over leave nothing.
#[test]
fn rpcs_that_are_over_leave_nothing() {
    let name = "received-leak";
    if skip(name, &[Stack::Grpcio]) {
        return;
    }
    let outside = Outside::new(name, Stack::Tonic, Net::Loopback4, "", crate::stage::SECRET);
    for client in [Stack::Tonic, Stack::Grpcio] {
        let mut session = outside.calls(client).session();
        for _ in 0..20 {
            ok(&make(&mut session, &unary("fine")));
        }
        ok(&make(&mut session, &call("/echo.Echo/ServerStream", json!([{ "text": "s", "replies": 50 }]))));
        eventually("no stream is left", || outside.streams() == 0);
        assert!(maps::count(&maps::of(outside.cgroup.path(), "conns")) > 0, "the connection is there");
    }
}

/// Calls that the client cancels leave nothing, and cost no connection.
#[test]
fn cancelled_calls_leave_nothing_at_the_client() {
    let name = "received-cancelled";
    if skip(name, &[]) {
        return;
    }
    let outside = Outside::new(name, Stack::Tonic, Net::Loopback4, "", KEPT);
    let mut session = outside.calls(Stack::Tonic).session();
    ok(&make(&mut session, &unary("first")));
    let stream = json!([{ "text": "x", "replies": 1000, "delay_ms": 1 }]);
    let cancelled = with(with(call("/echo.Echo/ServerStream", stream), "cancel_after", 1), "group", 1);
    for _ in 0..3 {
        let results = session.make(&Value::Array(vec![cancelled.clone(); 60]));
        assert_eq!(results.iter().filter(|it| it["code"] == 1).count(), 60, "{results:#?}");
    }
    ok(&make(&mut session, &unary("the last")));
    drop(session);
    eventually("nothing is left", || outside.is_empty());
    assert_eq!(outside.agent.of_type("connection"), Vec::<Value>::new());
}

/// Segments are lost in both directions, and TCP sends them again: what is denied never comes, what is allowed does, and
/// nobody waits for ever.
#[test]
fn lost_segments_of_what_comes_in() {
    let name = "received-loss";
    if skip(name, &[Stack::Grpcio]) {
        return;
    }
    for percent in [1_u32, 5] {
        let outside = Outside::new(name, Stack::Tonic, Net::Veth4, "", KEPT);
        for end in [End::A, End::B] {
            loss(outside.veth.as_ref().unwrap(), end, percent * 10_000);
        }
        let mut session = outside.calls(Stack::Grpcio).session();
        let deadline = u64::try_from(patience(Duration::from_secs(15)).as_millis()).unwrap();
        for turn in 0..40 {
            let text = if turn % 4 == 0 { "a SECRET" } else { "fine" };
            let call = json!({ "method": "/echo.Echo/Unary", "messages": [{ "text": text, "reply_bytes": 30_000 }], "deadline_ms": deadline });
            if turn % 4 == 0 {
                let result = session.make(&json!([call])).remove(0);
                assert_eq!(result["code"], UNAVAILABLE, "{result:#}");
                assert_eq!(result["fields"], json!([]), "{result:#}");
            } else {
                goes_on(&mut session, &call);
            }
        }
        drop(session);
        assert_eq!(outside.agent.of_type("connection"), Vec::<Value>::new());
        eventually("the events", || outside.agent.of_type("decision").len() == 10);
    }
}

/// Audit mode says what would not have come, and lets it come.
#[test]
fn audit_mode_lets_responses_come() {
    let name = "received-audit";
    if skip(name, &[]) {
        return;
    }
    let outside = Outside::new(name, Stack::Tonic, Net::Loopback4, "mode = \"audit\"", KEPT);
    let mut session = outside.calls(Stack::Tonic).session();
    let result = make(&mut session, &unary("a SECRET"));
    ok(&result);
    assert_eq!(result["fields"][0]["text"], "a SECRET");
    ok(&make(&mut session, &unary("the last")));
    eventually("the event", || outside.agent.of_type("decision").iter().any(|e| e["verdict"] == "audit-deny"));
    assert_eq!(outside.agent.of_type("decision").len(), 1);
}

/// Sixteen at once on one connection, half of them denied: those that are allowed are given, or end with their connection.
#[test]
fn denied_and_allowed_responses_at_once() {
    let name = "received-at-once";
    if skip(name, &[Stack::Grpcio]) {
        return;
    }
    let outside = Outside::new(name, Stack::Tonic, Net::Loopback4, "", KEPT);
    let mut session = outside.calls(Stack::Grpcio).session();
    for _ in 0..20 {
        let calls: Vec<Value> =
            (0..16).map(|at| with(unary(if at % 2 == 0 { "a SECRET" } else { "fine" }), "group", 1)).collect();
        for (at, result) in session.make(&Value::Array(calls)).iter().enumerate() {
            assert!(result["code"] == UNAVAILABLE || (at % 2 == 1 && result["code"] == 0), "{result:#}");
            assert!(!result["fields"].to_string().contains("SECRET"), "{result:#}");
        }
        goes_on(&mut session, &unary("fine"));
    }
    drop(session);
    eventually("nothing is left", || outside.is_empty());
}
