//! Published bypasses, with the servers that have them: what reaches a handler without the enforcer, and that it does not
//! with it.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use protocg_peers::h2raw::{self, Encoder, Headers, Reader, Style, frame};
use protocg_peers::harness::{Calls, Cgroup, Place, Protocg, Server, Stack, patience};
use protocg_peers::wire::Message;
use serde_json::{Value, json};

use crate::stage::{BINARY, check, make, ok, policy, policy_with, skip, texts_until, unary, with};

/// Makes a unary call with a path exactly as it is, and reads its answer.
fn raw(to: SocketAddr, path: &str, text: &str) -> h2raw::Answer {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(patience(Duration::from_millis(100)))).unwrap();
    let block = Encoder::default().encode(&h2raw::call(path, &[]), Style::SMALL);
    let mut bytes = h2raw::open(&[]);
    bytes.extend(Headers::new(false).write(1, &block));
    bytes.extend(frame::data(1, &h2raw::grpc(&Message::new().bytes(1, text).bytes), true, None));
    stream.write_all(&bytes).unwrap();
    let mut reader = Reader::default();
    let mut buffer = [0; 4096];
    let bound = Instant::now() + patience(Duration::from_secs(5));
    while !reader.answer(1).over() {
        assert!(Instant::now() < bound, "{path}: an answer");
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => reader.feed(&buffer[..n]).unwrap(),
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            Err(e) => panic!("{path}: {e}"),
        }
        stream.write_all(&reader.replies()).unwrap();
    }
    reader.answer(1)
}

/// The first value of a header field: what a server says after the policy's answer, clients ignore.
fn first<'a>(answer: &'a h2raw::Answer, name: &str) -> Option<&'a str> {
    answer.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
}

fn texts(server: &Server) -> Vec<String> {
    let seen = server.seen();
    let texts =
        seen.iter().filter(|e| e["event"] == "message").map(|e| e["fields"]["text"].as_str().unwrap().to_owned());
    texts.collect()
}

fn serve(name: &str, stack: Stack) -> (Cgroup, Server) {
    let cgroup = Cgroup::new(&format!("{name}-{stack:?}").to_lowercase());
    let server = Server::start(stack, Place { cgroup: Some(&cgroup), net: None }, "127.0.0.1:0".parse().unwrap());
    (cgroup, server)
}

/// A `:path` without its first slash: grpc-go took it for the method's, where rules on the method's name did not meet it.
#[test]
fn cve_2026_33186_a_path_without_its_slash() {
    const PATH: &str = "echo.Echo/Unary";
    let deny = "[[deny]]\nname = \"no-unary\"\nmethods = [\"/echo.Echo/Unary\"]\n";
    let field = "[[deny]]\nname = \"no-b\"\nmethods = [\"/echo.Echo/*\"]\nwhen = 'request.text == \"b\"'\n";
    for stack in Stack::ALL {
        if skip("cve-2026-33186", &[stack]) {
            continue;
        }
        let (_cgroup, server) = serve("slash", stack);
        let answer = raw(server.address, PATH, "off");
        let answered = answer.status() == Some(0);
        let reached = if answered { texts_until(&server, "off") } else { texts(&server) };
        println!("{stack:?} alone: {} {:?}, handlers got {reached:?}", answer.status().unwrap_or(-1), answer.reset);
        // The others refuse it by themselves.
        let vulnerable = stack == Stack::Go;
        assert_eq!((answered, reached), if vulnerable { (true, vec!["off".to_owned()]) } else { (false, vec![]) });
        // Denied for the path, whatever the policy says of the method, and whatever its default is.
        for (rules, text) in [(deny, "a"), (field, "b"), ("", "c")] {
            // A server of its own: what TCP sends again after an enforcer's end meets no other's.
            let (cgroup, server) = serve("slash", stack);
            let to = server.address;
            let agent = Protocg::run(BINARY, &[&cgroup], &policy(to.port(), rules), &[]);
            let answer = raw(to, PATH, text);
            let message = "denied by policy live: malformed (the :path is not /service/method)";
            let got = (first(&answer, "grpc-status"), first(&answer, "grpc-message"));
            assert_eq!(got, (Some("7"), Some(message)), "{stack:?} {text}");
            let event = agent.wait_for("the denial", |e| e["type"] == "decision");
            assert_eq!((&event["cause"], &event["reason"]), (&json!("malformed"), &json!("path")));
            // With its slash the method's rule decides.
            let answer = raw(to, "/echo.Echo/Unary", if text == "b" { "b" } else { "fine" });
            let status = if rules.is_empty() { "0" } else { "7" };
            assert_eq!(first(&answer, "grpc-status"), Some(status), "{stack:?} {text}");
            let seen = if rules.is_empty() { texts_until(&server, "fine") } else { texts(&server) };
            assert_eq!(seen, if rules.is_empty() { &["fine"][..] } else { &[] }, "{stack:?} {text}");
        }
    }
}

/// The same metadata key twice: an enforcer that joins the values with a comma compares a value that no server sees.
#[test]
fn cve_2026_26308_duplicate_metadata() {
    let deny = "[[deny]]\nname = \"intruder\"\nwhen = 'metadata[\"x-role\"] == \"intruder\"'\n";
    let allow = "[[allow]]\nname = \"admins\"\nwhen = 'metadata[\"x-role\"] == \"admin\"'\n";
    let roles = |values: &[&str]| -> Value { values.iter().map(|value| json!(["x-role", value])).collect() };
    let call = |text: &str, values: &[&str]| with(unary(text), "metadata", roles(values));
    for stack in Stack::ALL {
        if skip("cve-2026-26308", &[stack]) {
            continue;
        }
        let (cgroup, server) = serve("twice", stack);
        let to = server.address;
        let client = |stack| Calls { stack, place: Place::default(), target: to }.session();
        let mut session = client(stack);
        ok(&make(&mut session, &call("off", &["guest", "intruder"])));
        texts_until(&server, "off");
        // The handler has both values, apart or joined: what it makes of them is its affair.
        let seen = server.seen();
        let metadata = &seen.iter().find(|e| e["event"] == "start").unwrap()["metadata"];
        let values: Vec<&str> =
            metadata.as_array().unwrap().iter().filter(|p| p[0] == "x-role").map(|p| p[1].as_str().unwrap()).collect();
        println!("{stack:?}: a handler sees {values:?}");
        assert_eq!(values.join(", "), "guest, intruder");
        drop(session);

        let agent = Protocg::run(BINARY, &[&cgroup], &policy(to.port(), deny), &[]);
        let mut session = client(stack);
        let denied = (7, "denied by policy live: intruder");
        for values in [
            &["guest", "intruder"][..],
            &["intruder", "guest"],
            &["guest", "x", "intruder", "guest"],
            &["intruder", "intruder"],
        ] {
            check(&make(&mut session, &call("denied", values)), denied.0, denied.1);
        }
        ok(&make(&mut session, &call("fine", &["guest", "guest"])));
        assert_eq!(texts_until(&server, "fine"), ["off", "fine"], "{stack:?}");
        drop((session, agent));

        let (cgroup, server) = serve("allowed-twice", stack);
        let to = server.address;
        let client = |stack| Calls { stack, place: Place::default(), target: to }.session();
        let policy = policy_with(to.port(), "default = \"deny\"", allow);
        let _agent = Protocg::run(BINARY, &[&cgroup], &policy, &[]);
        let mut session = client(stack);
        for values in [&["guest", "admin"][..], &["admin", "guest"], &["admin,guest"], &[]] {
            check(&make(&mut session, &call("denied", values)), 7, "denied by policy live: default");
        }
        ok(&make(&mut session, &call("admins", &["admin", "admin"])));
        assert_eq!(texts_until(&server, "admins"), ["admins"], "{stack:?}");
    }
}
