//! What cannot be inspected: denied with its cause, or let pass by its switch.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use protocg_peers::harness::{Calls, Cgroup, Place, Protocg, Server, Stack, patience};
use serde_json::{Value, json};

use crate::stage::{
    BINARY, Net, SECRET, SECRET_CODE, Stage, call, check, eventually, free_port, make, ok, policy, policy_with, skip,
    texts_until, unary, with,
};

/// A rule on requests under a prefix, with one switch set.
fn rules(port: u16, cause: &str, switch: &str) -> String {
    let rule = SECRET.replace("\"/echo.Echo/*\"", "\"/echo.*\"");
    policy_with(port, &format!("[uninspectable]\n{cause} = \"{switch}\""), &rule)
}

/// A call that cannot be decided, as one of a list of calls; what it gets where its switch says allow.
fn one_rpc(name: &str, client: Stack, odd: &Value, cause: &str, text: &str, allowed: i32) {
    if skip(name, &[client]) {
        return;
    }
    for switch in ["deny", "allow"] {
        let net = Net::Loopback4;
        let stage = Stage::new(name, Stack::Tonic, net, |port| rules(port, cause, switch), &["--events-allowed"]);
        let results = stage.make(client, &[unary("fine"), odd.clone(), unary("the last")]);
        ok(&results[0]);
        ok(&results[2]);
        let seen = stage.texts_until("the last");
        if switch == "deny" {
            check(&results[1], 7, &format!("denied by policy live: {cause} ({text})"));
            assert_eq!(seen, ["fine", "the last"]);
            let event = &stage.decisions("deny", 1)[0];
            assert_eq!((&event["cause"], &event["reason_text"]), (&json!(cause), &json!(text)));
            assert_eq!((event.get("rule"), &event["rpc.grpc.status_code"]), (None, &json!(7)));
        } else {
            assert_eq!(results[1]["code"], allowed, "{:#}", results[1]);
            let event = stage.agent.wait_for("the switch's event", |e| e["cause"] == cause);
            assert_eq!(event["verdict"], "allow");
            assert_eq!(seen.len(), if allowed == 0 { 3 } else { 2 }, "{seen:?}");
        }
    }
}

const COMPRESSED: &str = "a rule needs the fields of a compressed message";

#[test]
fn compressed_messages_of_grpcio() {
    let odd = with(call("/echo.Echo/Unary", json!([{ "text": { "@text": 5000 } }])), "gzip", true);
    one_rpc("gzip-grpcio", Stack::Grpcio, &odd, "compressed", COMPRESSED, 0);
}

#[test]
fn compressed_messages_of_tonic() {
    let odd = with(call("/echo.Echo/Unary", json!([{ "text": { "@text": 5000 } }])), "gzip", true);
    one_rpc("gzip-tonic", Stack::Tonic, &odd, "compressed", COMPRESSED, 0);
}

#[test]
fn methods_that_no_proto_describes() {
    let odd = call("/echo.Echo/Undescribed", json!([{ "@hex": "0a0178" }]));
    let text = "a rule on messages covers the method and no proto describes it";
    one_rpc("unknown", Stack::Tonic, &odd, "unknown_method", text, 12);
}

#[test]
fn protobuf_that_does_not_parse() {
    let odd = call("/echo.Echo/Unary", json!([{ "@hex": "0a7f78" }]));
    let text = "a protobuf field is longer than what holds it";
    one_rpc("malformed", Stack::Tonic, &odd, "malformed", text, 13);
}

#[test]
fn messages_that_are_nested_too_deep() {
    // EchoRequest.outer.middle.inner, then unknown groups: 40 of them.
    let odd = call("/echo.Echo/Unary", json!([{ "@hex": format!("{}{}", "fb01".repeat(40), "fc01".repeat(40)) }]));
    let text = "a message is nested deeper than the limit";
    one_rpc("deep", Stack::Tonic, &odd, "too_large", text, 0);
}

#[test]
fn protobuf_that_libraries_read_differently() {
    let name = "ambiguous";
    if skip(name, &[Stack::Tonic]) {
        return;
    }
    // EchoRequest.outer twice, which is merged or replaced
    let odd = call("/echo.Echo/Unary", json!([{ "@hex": "8a01008a0100" }]));
    for switch in ["deny", "allow"] {
        let stage = Stage::new(name, Stack::Tonic, Net::Loopback4, |port| rules(port, name, switch), &[]);
        let results = stage.make(Stack::Tonic, &[unary("fine"), odd.clone(), unary("SECRET"), unary("the last")]);
        ok(&results[0]);
        ok(&results[3]);
        assert_eq!(results[2]["code"], SECRET_CODE);
        let seen = stage.texts_until("the last");
        if switch == "deny" {
            let text = "a protobuf sub-message that is not repeated comes twice";
            check(&results[1], 7, &format!("denied by policy live: ambiguous ({text})"));
            let event = &stage.decisions("deny", 2)[0];
            assert_eq!((&event["cause"], &event["reason"]), (&json!(name), &json!("protobuf_repeated")));
            assert_eq!(seen.len(), 2, "{seen:?}");
        } else {
            // read as protobuf is defined
            ok(&results[1]);
            assert_eq!(stage.decisions("deny", 1).len(), 1);
            assert_eq!(seen.len(), 3, "{seen:?}");
        }
    }
}

/// Sends bytes to a server that answers lines, and says what came back: lines, or the reset, and when.
fn raw(address: SocketAddr, bytes: &[u8], lines: usize) -> Result<Vec<String>, (ErrorKind, Duration)> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(patience(Duration::from_secs(5)))).unwrap();
    let started = Instant::now();
    stream.write_all(bytes).unwrap();
    let mut got = Vec::new();
    while got.iter().filter(|b| **b == b'\n').count() < lines {
        let mut buffer = [0; 1024];
        match stream.read(&mut buffer) {
            Ok(0) => return Err((ErrorKind::UnexpectedEof, started.elapsed())),
            Ok(n) => got.extend(&buffer[..n]),
            Err(e) => return Err((e.kind(), started.elapsed())),
        }
    }
    Ok(String::from_utf8_lossy(&got).lines().map(str::to_owned).collect())
}

/// Bytes that are no HTTP/2 go to a server that answers lines: `mark ID` makes it print ID.
fn raw_bytes(name: &str, bytes: &[u8], lines: usize, cause: &str) {
    if skip(name, &[]) {
        return;
    }
    for switch in ["deny", "allow"] {
        let cgroup = Cgroup::new(name);
        let control = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let place = Place { cgroup: Some(&cgroup), net: None };
        let more = ["--control", &control.to_string()];
        let server = Server::start_with(Stack::Tonic, place, "127.0.0.1:0".parse().unwrap(), &more);
        let agent = Protocg::run(BINARY, &[&cgroup], &rules(control.port(), cause, switch), &[]);
        let answer = raw(control, bytes, lines);
        let event = agent.wait_for("its event", |e| e["type"] == "connection");
        assert_eq!((&event["cause"], &event["verdict"]), (&json!(cause), &json!(switch)));
        assert_eq!(event["cgroup"], cgroup.path().to_str().unwrap());
        assert_eq!(agent.of_type("connection").len(), 1);
        let marks = || server.seen().iter().filter(|e| e["event"] == "mark").count();
        if switch == "deny" {
            let (kind, after) = answer.unwrap_err();
            assert_eq!(kind, ErrorKind::ConnectionReset);
            assert!(after < patience(Duration::from_secs(1)), "{after:?}");
            // The server is alive and has seen nothing.
            assert_eq!(marks(), 0);
        } else {
            assert_eq!(answer.unwrap().len(), lines);
            eventually("the mark", || marks() == 1);
        }
    }
}

#[test]
fn bytes_that_are_no_http2() {
    raw_bytes("not-http2", b"mark here\n", 1, "not_http2");
}

#[test]
fn bytes_that_are_no_http2_only_at_the_end_of_the_preface() {
    raw_bytes("near-http2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\nmark here\n", 5, "not_http2");
}

#[test]
fn a_tls_client_hello() {
    // Its head, and text that the server may read as a line.
    raw_bytes("tls", b"\x16\x03\x01\x00\x40\x01\x00\x00\x3c\x03\x03ClientHello\nmark here\n", 2, "tls");
}

fn midstream(name: &str, client: Stack) {
    if skip(name, &[client]) {
        return;
    }
    for switch in ["deny", "allow"] {
        let cgroup = Cgroup::new(name);
        let place = Place { cgroup: Some(&cgroup), net: None };
        let server = Server::start(Stack::Tonic, place, "127.0.0.1:0".parse().unwrap());
        let mut session = Calls { stack: client, place: Place::default(), target: server.address }.session();
        ok(&make(&mut session, &unary("before a SECRET")));
        let agent = Protocg::run(BINARY, &[&cgroup], &rules(server.address.port(), "midstream", switch), &[]);
        let started = Instant::now();
        if switch == "deny" {
            agent.wait_for("the warning", |e| e["warning"] == "midstream");
            let mut result = Value::Null;
            eventually("the client reconnects", || {
                result = make(&mut session, &unary("after"));
                result["code"] == 0
            });
            assert!(started.elapsed() < patience(Duration::from_secs(1)), "{:?}", started.elapsed());
            assert_eq!(make(&mut session, &unary("a SECRET"))["code"], 3);
            ok(&make(&mut session, &unary("the last")));
            assert_eq!(texts_until(&server, "the last"), ["before a SECRET", "after", "the last"]);
        } else {
            // Nothing is known of the connection: it passes unread. New ones are judged.
            ok(&make(&mut session, &unary("an old SECRET")));
            assert_eq!(session.connections, 1);
            let calls = Calls { stack: client, place: Place::default(), target: server.address };
            assert_eq!(make(&mut calls.session(), &unary("a SECRET"))["code"], 3);
            ok(&make(&mut session, &unary("the last")));
            assert_eq!(texts_until(&server, "the last"), ["before a SECRET", "an old SECRET", "the last"]);
            assert_eq!(agent.of_type("warning").len(), 0);
        }
    }
}

#[test]
fn a_connection_of_tonic_that_is_older() {
    midstream("midstream-tonic", Stack::Tonic);
}

#[test]
fn a_connection_of_grpcio_that_is_older() {
    midstream("midstream-grpcio", Stack::Grpcio);
}

#[test]
fn a_frame_that_breaks_http2_ends_the_connection() {
    if skip("broken-frame", &[]) {
        return;
    }
    let stage = Stage::new("broken-frame", Stack::Tonic, Net::Loopback4, |port| policy(port, SECRET), &[]);
    use protocg_peers::h2raw;
    let mut bytes = h2raw::open(&[]);
    bytes.extend(h2raw::frame::frame(h2raw::kind::DATA, 0, 2, b"x"));
    let mut stream = TcpStream::connect(stage.server.address).unwrap();
    stream.set_read_timeout(Some(patience(Duration::from_secs(5)))).unwrap();
    stream.write_all(&bytes).unwrap();
    let started = Instant::now();
    let mut rest = Vec::new();
    let end = stream.read_to_end(&mut rest).unwrap_err();
    assert_eq!(end.kind(), ErrorKind::ConnectionReset);
    assert!(started.elapsed() < patience(Duration::from_secs(1)));
    let event = stage.agent.wait_for("its event", |e| e["type"] == "connection");
    assert_eq!((&event["cause"], &event["reason"]), (&json!("malformed"), &json!("stream_id")));
    assert_eq!(stage.server.messages(), 0);
}
