//! Calls into OpenSSL and GnuTLS of every shape: tests/tls/shapes.py makes them, as a server and as a client.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use protocg_peers::harness::{Calls, Cgroup, Place, Protocg, Server, Stack, Watched};
use serde_json::{Value, json};

use crate::stage::{BINARY, certificate, make, make_until_ok, policy, python, refused, skip, unary};

/// What runs it.
pub fn script(test: &str, role: &str, shape: &str) -> Option<Command> {
    let Some(mut command) = python() else {
        println!("SKIPPED {test}: python3 has no h2");
        return None;
    };
    if shape.contains("gnutls") && !has_library("libgnutls.so.30", test) {
        return None;
    }
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls/shapes.py")).args([role, shape]);
    Some(command)
}

/// Whether Python can load a library.
pub fn has_library(name: &str, test: &str) -> bool {
    let load = format!("import ctypes; ctypes.CDLL('{name}')");
    let has = python().is_some_and(|mut it| it.args(["-c", &load]).output().is_ok_and(|out| out.status.success()));
    if !has {
        println!("SKIPPED {test}: there is no {name}");
    }
    has
}

/// A server of it in a cgroup, with the key in a folder, and where it listens.
pub fn started(mut command: Command, folder: &Path, cgroup: &Cgroup) -> (Watched, SocketAddr) {
    command.arg(folder);
    Place { cgroup: Some(cgroup), net: None }.enter(&mut command);
    let server = Watched::start(command);
    let target = listening(&server);
    (server, target)
}

/// Where a server of it listens.
fn listening(server: &Watched) -> SocketAddr {
    server.wait_for("listening", |lines| lines.iter().find_map(|line| line.strip_prefix("listening ")?.parse().ok()))
}

/// What the handler got: how long the texts are, and how they end.
fn seen(server: &Watched, count: usize) -> Vec<(u64, String)> {
    server.wait_for("the requests", |lines| {
        let seen: Vec<Value> = lines.iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let told = |e: &Value| (e["size"].as_u64().unwrap(), e["end"].as_str().unwrap().to_owned());
        (seen.len() >= count).then(|| seen.iter().map(told).collect())
    })
}

fn told(text: &str) -> (u64, String) {
    (text.len() as u64, text[text.len().saturating_sub(16)..].to_owned())
}

/// Texts of 1 B to `most`; the sizes are those of TLS records, one less and one more, among others.
fn texts(most: usize) -> Vec<String> {
    let sizes = [1, 2, 100, 4000, 16_383, 16_384, 16_385, 65_536, 300_000, 1 << 20];
    sizes.into_iter().filter(|size| *size <= most).map(|size| "x".repeat(size - 1) + "y").collect()
}

/// A server that reads so, and its judged clients.
fn serving(test: &str, shape: &str, most: usize) {
    if skip(test) {
        return;
    }
    let Some(command) = script(test, "server", shape) else { return };
    let folder = certificate();
    let cgroup = Cgroup::new(test);
    let (server, target) = started(command, folder.path(), &cgroup);
    let agent = Protocg::run(BINARY, &[&cgroup], &policy(target.port(), "", "[tls]\n"), &[]);
    if agent.of_type("ready")[0]["tls"] == "none" {
        return println!("SKIPPED {test}: {:?}", agent.of_type("warning"));
    }
    let calls = Calls { stack: Stack::Tonic, place: Place::default(), target };
    let mut sessions = [calls.session_with(&["--tls"]), calls.session_with(&["--tls"])];
    let mut expected = Vec::new();
    for (turn, text) in texts(most).iter().enumerate() {
        make_until_ok(&mut sessions[turn % 2], &unary(text));
        expected.push(told(text));
    }
    let long = "x".repeat(most.min(100_000));
    for (turn, text) in ["SECRET".to_owned(), format!("{long}SECRET"), format!("SECRET{long}")].iter().enumerate() {
        refused(&make(&mut sessions[turn % 2], &unary(text)));
        // the other connection is not harmed
        make_until_ok(&mut sessions[(turn + 1) % 2], &unary("fine"));
        expected.push(told("fine"));
    }
    assert_eq!(seen(&server, expected.len()), expected);
    agent.process_lines(|lines| lines.iter().filter(|line| line.contains(r#""type":"decision""#)).count() >= 3);
    let events = agent.of_type("decision");
    assert_eq!(events.len(), 3, "{events:#?}");
    assert!(events.iter().all(|e| e["plane"] == "tls" && e["rule"] == "no-secrets"), "{events:#?}");
    assert!(agent.of_type("connection").is_empty(), "{:#?}", agent.of_type("connection"));
}

/// A client that writes so, and is judged.
fn calling(test: &str, shape: &str, most: usize) {
    if skip(test) || script(test, "client", shape).is_none() {
        return;
    }
    let cgroup = Cgroup::new(test);
    let server = Server::start_with(Stack::Tonic, Place::default(), "127.0.0.1:0".parse().unwrap(), &["--tls"]);
    called(test, shape, most, &cgroup, server.address);
    let expected = 3 * (texts(most).len() + 1);
    let messages = |lines: &[String]| lines.iter().filter(|line| line.contains(r#""event":"message""#)).count();
    server.process().wait_for("the messages", |lines| (messages(lines) >= expected).then_some(()));
    assert_eq!(server.messages(), expected);
}

/// Three clients, and how they fare.
fn called(test: &str, shape: &str, most: usize, cgroup: &Cgroup, target: SocketAddr) {
    let agent = Protocg::run(BINARY, &[cgroup], &policy(target.port(), "direction = \"egress\"", "[tls]\n"), &[]);
    if agent.of_type("ready")[0]["tls"] == "none" {
        return println!("SKIPPED {test}: {:?}", agent.of_type("warning"));
    }
    let sizes: Vec<String> = texts(most).iter().map(|text| format!("{}*y", text.len() - 1)).collect();
    let long = most.min(100_000);
    for (count, secret) in (1..).zip(["SECRET".to_owned(), format!("{long}*SECRET"), format!("{long}*aSECRETb")]) {
        let Some(mut command) = script(test, "client", shape) else { return };
        command.arg(target.to_string()).args(&sizes).args(["fine", &secret, "after"]);
        Place { cgroup: Some(cgroup), net: None }.enter(&mut command);
        let client = Watched::start(command);
        let lines = client.wait_for("its end", |lines| lines.iter().any(|l| l == "ended").then(|| lines.to_vec()));
        assert_eq!(lines.len(), sizes.len() + 2, "{lines:?} {:#?}", agent.events());
        assert!(lines[..=sizes.len()].iter().all(|line| line == "answered"), "{lines:?}");
        agent.process_lines(|lines| lines.iter().filter(|l| l.contains(r#""type":"decision""#)).count() >= count);
    }
    let events = agent.of_type("decision");
    assert_eq!(events.len(), 3, "{events:#?}");
    assert!(events.iter().all(|e| e["plane"] == json!("tls") && e["process.name"] == json!("python3")), "{events:#?}");
    assert!(agent.of_type("connection").is_empty(), "{:#?}", agent.of_type("connection"));
}

macro_rules! shapes {
    ($way:ident: $($name:ident $shape:literal $most:expr;)*) => {$(
        #[test]
        fn $name() {
            $way(concat!("tls-shape-", stringify!($way), "-", $shape), $shape, $most);
        }
    )*};
}

shapes! { serving:
    a_server_that_reads "plain" 1 << 20;
    a_server_that_reads_ex "ex" 1 << 20;
    a_server_that_reads_byte_by_byte "tiny-ex" 4000;
    a_server_that_peeks_first "peek" 1 << 20;
    a_server_that_peeks_first_ex "peek-ex" 1 << 20;
    a_server_that_never_blocks "waiting" 1 << 20;
    a_server_that_never_blocks_ex "waiting-ex" 1 << 20;
    a_server_that_is_fed "fed" 1 << 20;
    a_server_that_is_fed_and_peeks "fed-peek-ex" 1 << 20;
    a_server_whose_callbacks_call "nested" 300_000;
    a_server_of_two_threads_a_connection "threads" 300_000;
    a_server_that_asks_for_new_keys "update" 300_000;
    a_server_that_asks_for_new_keys_and_is_fed "fed-update" 300_000;
    a_server_of_gnutls "gnutls" 1 << 20;
    a_server_of_gnutls_that_reads_with_numbers "gnutls-seq" 1 << 20;
    a_server_of_gnutls_that_reads_byte_by_byte "gnutls-tiny" 4000;
    a_server_of_gnutls_that_never_blocks "gnutls-waiting" 1 << 20;
    a_server_of_gnutls_that_is_fed "gnutls-fed" 1 << 20;
    a_server_of_gnutls_of_two_threads_a_connection "gnutls-threads" 300_000;
    a_server_of_gnutls_that_asks_for_new_keys "gnutls-update" 300_000;
}

shapes! { calling:
    a_client_that_writes "plain" 1 << 20;
    a_client_that_writes_ex "ex" 1 << 20;
    a_client_that_writes_byte_by_byte "tiny" 4000;
    a_client_whose_writes_are_partial_and_repeated "partial" 1 << 20;
    a_client_whose_writes_are_partial_and_repeated_ex "partial-ex" 1 << 20;
    a_client_that_is_fed "fed" 1 << 20;
    a_client_of_several_connections_a_thread "many" 300_000;
    a_client_of_several_threads_a_connection "threads" 300_000;
    a_client_that_asks_for_new_keys "update" 300_000;
    a_client_of_gnutls "gnutls" 1 << 20;
    a_client_of_gnutls_that_pads_what_is_short "gnutls-send2" 1 << 20;
    a_client_of_gnutls_that_writes_byte_by_byte "gnutls-tiny" 4000;
    a_client_of_gnutls_that_never_blocks "gnutls-waiting" 1 << 20;
    a_client_of_gnutls_that_flushes_what_was_left "gnutls-waiting-flush" 1 << 20;
    a_client_of_gnutls_that_corks "gnutls-cork" 1 << 20;
    a_client_of_gnutls_that_corks_and_never_blocks "gnutls-waiting-cork" 1 << 20;
    a_client_of_gnutls_that_is_fed "gnutls-fed" 1 << 20;
    a_client_of_gnutls_of_several_connections_a_thread "gnutls-many" 300_000;
    a_client_of_gnutls_that_asks_for_new_keys "gnutls-update" 300_000;
}

/// The client begins the handshake anew, on a server that lets it.
#[test]
fn a_client_that_renegotiates() {
    for shape in ["renegotiate", "fed-renegotiate"] {
        let test = "tls-shape-calling-renegotiate";
        if skip(test) {
            return;
        }
        let Some(mut command) = script(test, "server", "tls12") else { return };
        let folder = certificate();
        command.arg(folder.path());
        let server = Watched::start(command);
        let cgroup = Cgroup::new(test);
        called(test, shape, 300_000, &cgroup, listening(&server));
        let expected = 3 * (texts(300_000).len() + 1);
        assert_eq!(seen(&server, expected).len(), expected);
    }
}

/// The server does. tonic's client would not take part.
#[test]
fn a_server_that_renegotiates() {
    for shape in ["renegotiate", "fed-renegotiate"] {
        let test = "tls-shape-serving-renegotiate";
        if skip(test) {
            return;
        }
        let Some(command) = script(test, "server", shape) else { return };
        let folder = certificate();
        let cgroup = Cgroup::new(test);
        let (server, target) = started(command, folder.path(), &cgroup);
        let agent = Protocg::run(BINARY, &[&cgroup], &policy(target.port(), "", "[tls]\n"), &[]);
        if agent.of_type("ready")[0]["tls"] == "none" {
            return println!("SKIPPED {test}: {:?}", agent.of_type("warning"));
        }
        let Some(mut client) = script(test, "client", "tls12") else { return };
        client.arg(target.to_string()).args(["one", "299999*y", "fine", "100000*SECRET", "after"]);
        let client = Watched::start(client);
        let lines = client.wait_for("its end", |lines| lines.iter().any(|l| l == "ended").then(|| lines.to_vec()));
        assert_eq!(lines, ["answered", "answered", "answered", "ended"], "{:#?}", agent.events());
        let event = agent.wait_for("the denial", |e| e["type"] == "decision");
        assert_eq!((&event["plane"], &event["rule"]), (&json!("tls"), &json!("no-secrets")), "{event:#}");
        assert_eq!(seen(&server, 3).len(), 3);
        assert!(agent.of_type("connection").is_empty(), "{:#?}", agent.of_type("connection"));
    }
}
