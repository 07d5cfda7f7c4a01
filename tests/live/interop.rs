//! gRPC's interoperability cases (grpc/doc/interop-test-descriptions.md), each stack's client with each stack's server: they
//! pass without the enforcer, and give the very same under one that reads every field and all metadata.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use protocg_peers::harness::{Calls, Cgroup, Place, Protocg, Server, Session, Stack};
use protocg_peers::json;
use serde_json::{Value, json};

use crate::stage::{BINARY, skip, with};

/// Rules that read all that they can of every message, and the metadata, and are never met. Nothing is denied.
/// `@@@@` is in no payload: the numbers that fill them are too small.
fn inspecting(port: u16) -> String {
    const FIELDS: [(&str, &[&str]); 4] = [
        (
            "UnaryCall",
            &[
                "request.payload.body.contains(b\"@@@@\")",
                "request.response_status.message == \"@@@@\"",
                "request.response_size == -1",
                "request.fill_username",
            ],
        ),
        ("StreamingOutputCall", &["request.payload.body.contains(b\"@@@@\")", "request.response_status.code == 99"]),
        ("StreamingInputCall", &["request.payload.body.contains(b\"@@@@\")", "request.payload.type == 7"]),
        (
            "FullDuplexCall",
            &[
                "request.payload.body.contains(b\"@@@@\")",
                "request.response_status.message.contains(\"@@@@\")",
                "request.response_status.code == 99",
            ],
        ),
    ];
    let mut rules = String::new();
    for (method, fields) in FIELDS {
        for (index, field) in fields.iter().enumerate() {
            rules += &format!(
                "[[deny]]\nname = \"{}-{index}\"\nmethods = [\"/grpc.testing.TestService/{method}\"]\nwhen = '{field}'\n",
                method.to_lowercase()
            );
        }
    }
    for (index, key) in ["x-grpc-test-echo-initial", "user-agent", "x-absent"].iter().enumerate() {
        rules += &format!("[[deny]]\nname = \"metadata-{index}\"\nwhen = 'metadata[\"{key}\"].contains(\"@@@@\")'\n");
    }
    format!("name = \"interop\"\nproto = [\"interop.proto\"]\nports = [{port}]\ndefault = \"allow\"\n\n{rules}")
}

fn call(method: &str, messages: Value) -> Value {
    crate::stage::call(&format!("/grpc.testing.{method}"), messages)
}

fn bytes(size: u32) -> Value {
    json!({ "body": { "@bytes": size } })
}

fn duplex(sizes: &[(u32, u32)]) -> Value {
    let message = |(request, reply): &(u32, u32)| json!({ "response_parameters": [{ "size": reply }], "payload": bytes(*request) });
    call("TestService/FullDuplexCall", sizes.iter().map(message).collect())
}

const WHITESPACE: &str = "\t\ntest with whitespace\r\nand Unicode BMP \u{263a} and non-BMP \u{1f608}\t\n";
const SIZES: [(u32, u32); 4] = [(27182, 31415), (8, 9), (1828, 2653), (45904, 58979)];

/// The cases: their names, and their calls.
fn cases() -> Vec<(&'static str, Vec<Value>)> {
    let unary = |message: Value| call("TestService/UnaryCall", json!([message]));
    let large = || json!({ "response_size": 314_159, "payload": bytes(271_828) });
    let failing = |message: &str| json!({ "response_status": { "code": 2, "message": message } });
    let echo =
        json!([["x-grpc-test-echo-initial", "test_initial_metadata_value"], ["x-grpc-test-echo-trailing-bin", "q6ur"]]);
    let parameters: Vec<Value> = SIZES.iter().map(|(_, size)| json!({ "size": size })).collect();
    let inputs: Vec<Value> = SIZES.iter().map(|(size, _)| json!({ "payload": bytes(*size) })).collect();
    vec![
        ("empty_unary", vec![call("TestService/EmptyCall", json!([{}]))]),
        ("large_unary", vec![unary(large())]),
        ("client_streaming", vec![call("TestService/StreamingInputCall", json!(inputs))]),
        (
            "server_streaming",
            vec![call("TestService/StreamingOutputCall", json!([{ "response_parameters": parameters }]))],
        ),
        ("ping_pong", vec![with(duplex(&SIZES), "lockstep", true)]),
        ("empty_stream", vec![duplex(&[])]),
        (
            "cancel_after_begin",
            vec![with(with(call("TestService/StreamingInputCall", json!([])), "hold", true), "cancel_after", 0)],
        ),
        ("cancel_after_first_response", vec![with(with(duplex(&SIZES[..1]), "hold", true), "cancel_after", 1)]),
        (
            "timeout_on_sleeping_server",
            vec![with(
                with(call("TestService/FullDuplexCall", json!([{ "payload": bytes(27182) }])), "hold", true),
                "deadline_ms",
                1,
            )],
        ),
        (
            "custom_metadata",
            vec![with(unary(large()), "metadata", echo.clone()), with(duplex(&[(271_828, 314_159)]), "metadata", echo)],
        ),
        (
            "status_code_and_message",
            vec![
                unary(failing("test status message")),
                call("TestService/FullDuplexCall", json!([failing("test status message")])),
            ],
        ),
        ("special_status_message", vec![unary(failing(WHITESPACE))]),
        ("unimplemented_method", vec![call("TestService/UnimplementedCall", json!([{}]))]),
        ("unimplemented_service", vec![call("UnimplementedService/UnimplementedCall", json!([{}]))]),
    ]
}

/// What a caller can tell of a call.
type Told = Vec<BTreeMap<&'static str, Value>>;

fn told(results: &[Value]) -> Told {
    const KEYS: [&str; 9] =
        ["method", "code", "message", "responses", "response_bytes", "fields", "digests", "headers", "trailers"];
    let told = |result: &Value| {
        let mut told = BTreeMap::from(KEYS.map(|key| (key, result[key].clone())));
        for key in ["headers", "trailers"] {
            if let Some(pairs) = told.get_mut(key).and_then(Value::as_array_mut) {
                pairs.retain(|pair| pair[0] != "date");
            }
        }
        told
    };
    results.iter().map(told).collect()
}

struct Pair {
    server: Stack,
    client: Stack,
    /// By case: without the enforcer, and with it.
    results: BTreeMap<&'static str, [Told; 2]>,
    connections: [u64; 2],
    /// How calls end that the rules are met by.
    met: Told,
}

fn talk(server: &Server, client: Stack) -> (BTreeMap<&'static str, Told>, u64) {
    let mut session = Calls { stack: client, place: Place::default(), target: server.address }.session();
    // A deadline of a millisecond is for the call, not for the connection.
    warm(&mut session);
    let results = cases().into_iter().map(|(name, calls)| (name, told(&session.make(&json!(calls))))).collect();
    (results, session.connections)
}

fn warm(session: &mut Session) {
    crate::stage::ok(&session.make(&json!([call("TestService/EmptyCall", json!([{}]))])).remove(0));
}

/// All cases over all pairs, once for all tests of this file.
fn pairs() -> &'static [Pair] {
    static PAIRS: OnceLock<Option<Vec<Pair>>> = OnceLock::new();
    let all = || {
        let here: Vec<Stack> = Stack::ALL.into_iter().filter(|stack| !skip("interop", &[*stack])).collect();
        std::thread::scope(|scope| {
            let servers: Vec<_> = here.iter().map(|server| scope.spawn(|| with_server(*server, &here))).collect();
            let ended: Vec<_> = servers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
            ended
                .into_iter()
                .map(Result::ok)
                .collect::<Option<Vec<_>>>()
                .map(|pairs| pairs.into_iter().flatten().collect())
        })
    };
    PAIRS.get_or_init(all).as_ref().expect("the cases could be run: see the first test that failed")
}

fn with_server(stack: Stack, clients: &[Stack]) -> Vec<Pair> {
    let cgroup = Cgroup::new(&format!("interop-{stack:?}").to_lowercase());
    let server = Server::start(stack, Place { cgroup: Some(&cgroup), net: None }, "127.0.0.1:0".parse().unwrap());
    let round = || -> Vec<_> { clients.iter().map(|client| talk(&server, *client)).collect() };
    let without = round();
    let agent = Protocg::run(BINARY, &[&cgroup], &inspecting(server.address.port()), &[]);
    let with = round();
    for kind in ["decision", "connection"] {
        assert_eq!(agent.of_type(kind), [Value::Null; 0], "nothing is denied, no connection ended");
    }
    let mut pairs = Vec::new();
    for ((client, (mut off, before)), (on, after)) in clients.iter().zip(without).zip(with) {
        let results = on.into_iter().map(|(name, told)| (name, [off.remove(name).unwrap(), told])).collect();
        let calls = Calls { stack: *client, place: Place::default(), target: server.address };
        let met = told(&calls.make(&json!(met())));
        pairs.push(Pair { server: stack, client: *client, results, connections: [before, after], met });
    }
    pairs
}

/// Calls that a rule of [`inspecting`] is met by, each for another input.
fn met() -> Vec<Value> {
    let body = json!({ "payload": { "body": "eEBAQEB4" } });
    let mut calls: Vec<Value> = ["UnaryCall", "StreamingOutputCall", "StreamingInputCall", "FullDuplexCall"]
        .iter()
        .map(|method| call(&format!("TestService/{method}"), json!([body])))
        .collect();
    let second = with(call("TestService/FullDuplexCall", json!([{}, body])), "interval_ms", 20);
    calls.push(second);
    calls.push(call("TestService/UnaryCall", json!([{ "response_size": -1 }])));
    calls.push(call("TestService/FullDuplexCall", json!([{ "response_status": { "code": 99 } }])));
    let metadata = json!([["x-grpc-test-echo-initial", "@@@@"]]);
    calls.push(with(call("TestService/EmptyCall", json!([{}])), "metadata", metadata));
    calls
}

/// A case passes over every pair, and is the same with the enforcer as without.
fn case(name: &'static str, check: impl Fn(&Told, Stack)) {
    if skip(name, &[]) {
        return;
    }
    for pair in pairs() {
        let [off, on] = &pair.results[name];
        println!("{name}: {:?} to {:?}", pair.client, pair.server);
        check(off, pair.client);
        check(on, pair.client);
        if name != "timeout_on_sleeping_server" {
            assert_eq!(off, on, "the same with the enforcer");
        }
    }
}

fn status(told: &BTreeMap<&'static str, Value>, code: i32, message: &str) {
    assert_eq!((&told["code"], &told["message"]), (&json!(code), &json!(message)), "{told:#?}");
}

/// An OK with these replies, by their JSON.
fn replies(told: &BTreeMap<&'static str, Value>, messages: &[Value]) {
    status(told, 0, "");
    let kind = json::method(told["method"].as_str().unwrap()).unwrap().output();
    let whole = |message| json::encode(message, Some(kind.clone())).unwrap();
    let digests: Vec<String> = messages.iter().map(|message| json::digest(&whole(message))).collect();
    assert_eq!((&told["responses"], &told["digests"]), (&json!(messages.len()), &json!(digests)), "{told:#?}");
}

/// What `payload: {body: SIZE}` of zeros is.
fn payload(size: usize) -> Value {
    json!({ "@hex": json::hex(&zeros(size)) })
}

fn zeros(size: usize) -> Vec<u8> {
    use prost::Message;
    use protocg_peers::proto::testing::{Payload, SimpleResponse};
    // SimpleResponse and StreamingOutputCallResponse begin alike.
    SimpleResponse { payload: Some(Payload { r#type: 0, body: vec![0; size] }), ..Default::default() }.encode_to_vec()
}

#[test]
fn empty_unary() {
    case("empty_unary", |told, _| replies(&told[0], &[json!({})]));
}

#[test]
fn large_unary() {
    case("large_unary", |told, _| replies(&told[0], &[payload(314_159)]));
}

#[test]
fn client_streaming() {
    case("client_streaming", |told, _| replies(&told[0], &[json!({ "aggregated_payload_size": 74_922 })]));
}

fn four() -> [Value; 4] {
    SIZES.map(|(_, size)| payload(size as usize))
}

#[test]
fn server_streaming() {
    case("server_streaming", |told, _| replies(&told[0], &four()));
}

#[test]
fn ping_pong() {
    case("ping_pong", |told, _| replies(&told[0], &four()));
}

#[test]
fn empty_stream() {
    case("empty_stream", |told, _| replies(&told[0], &[]));
}

#[test]
fn cancel_after_begin() {
    case("cancel_after_begin", |told, _| assert_eq!((&told[0]["code"], &told[0]["responses"]), (&json!(1), &json!(0))));
}

#[test]
fn cancel_after_first_response() {
    case("cancel_after_first_response", |told, _| {
        assert_eq!((&told[0]["code"], &told[0]["responses"]), (&json!(1), &json!(1)), "{told:#?}");
    });
}

#[test]
fn timeout_on_sleeping_server() {
    // What else callers are told depends on how far the call came; grpc-js's message says how long it took.
    case("timeout_on_sleeping_server", |told, client| {
        // tonic's own deadline ends a call with CANCELLED, the server's with DEADLINE_EXCEEDED.
        let code = told[0]["code"].as_i64().unwrap();
        assert!(code == 4 || client == Stack::Tonic && code == 1, "{told:#?}");
        assert_eq!(told[0]["responses"], 0);
    });
}

#[test]
fn custom_metadata() {
    case("custom_metadata", |told, _| {
        for call in told {
            replies(call, &[payload(314_159)]);
            let has = |pairs: &Value, key: &str, value: &str| {
                let found: Vec<&Value> = pairs.as_array().unwrap().iter().filter(|pair| pair[0] == key).collect();
                assert_eq!(found, [&json!([key, value])], "{told:#?}");
            };
            has(&call["headers"], "x-grpc-test-echo-initial", "test_initial_metadata_value");
            has(&call["trailers"], "x-grpc-test-echo-trailing-bin", "q6ur");
        }
    });
}

#[test]
fn status_code_and_message() {
    case("status_code_and_message", |told, _| {
        assert_eq!(told.len(), 2);
        told.iter().for_each(|call| status(call, 2, "test status message"));
    });
}

#[test]
fn special_status_message() {
    case("special_status_message", |told, _| status(&told[0], 2, WHITESPACE));
}

#[test]
fn unimplemented_method() {
    case("unimplemented_method", |told, _| assert_eq!(told[0]["code"], 12, "{told:#?}"));
}

#[test]
fn unimplemented_service() {
    case("unimplemented_service", |told, _| assert_eq!(told[0]["code"], 12, "{told:#?}"));
}

/// The policy reads what the cases carry: with other contents the very calls are denied.
#[test]
fn the_policy_reads_every_message() {
    if skip("the_policy_reads_every_message", &[]) {
        return;
    }
    for pair in pairs() {
        println!("{:?} to {:?}", pair.client, pair.server);
        assert_eq!(pair.connections, [1, 1]);
        assert_eq!(pair.met.len(), met().len());
        for told in &pair.met {
            assert_eq!(told["code"], 7, "{told:#?}");
            assert!(told["message"].as_str().unwrap().starts_with("denied by policy interop: "), "{told:#?}");
        }
    }
}
