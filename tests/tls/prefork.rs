//! A server of several processes over Python's ssl, which gives OpenSSL the socket itself and reads in pieces of any size.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::Path;

use protocg_peers::harness::{Calls, Cgroup, Place, Protocg, Stack, Watched};
use serde_json::{Value, json};

use crate::stage::{BINARY, make, make_until_ok, policy, python, refused, skip, unary};

fn judged(name: &str, size: usize) {
    if skip(name) {
        return;
    }
    let Some(mut command) = python() else { return println!("SKIPPED {name}: python3 has no h2") };
    let folder = tempfile::tempdir().unwrap();
    protocg_peers::tls::write_certificate(folder.path()).unwrap();
    let cgroup = Cgroup::new(name);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls/prefork.py");
    command.arg(script).arg(folder.path()).arg(size.to_string());
    let place = Place { cgroup: Some(&cgroup), net: None };
    place.enter(&mut command);
    let server = Watched::start(command);
    let target = server.wait_for("listening", |lines| {
        lines.iter().find_map(|line| line.strip_prefix("listening ")?.parse::<SocketAddr>().ok())
    });
    let agent = Protocg::run(BINARY, &[&cgroup], &policy(target.port(), "", "[tls]\n"), &[]);
    if agent.of_type("ready")[0]["tls"] == "none" {
        return println!("SKIPPED {name}: {:?}", agent.of_type("warning"));
    }

    let calls = Calls { stack: Stack::Tonic, place: Place::default(), target };
    let mut expected = Vec::new();
    for round in 0..4 {
        let mut session = calls.session_with(&["--tls"]);
        let (before, after) = (format!("before {round}"), format!("after {round}"));
        make_until_ok(&mut session, &unary(&before));
        refused(&make(&mut session, &unary("a SECRET")));
        make_until_ok(&mut session, &unary(&after));
        expected.extend([before, after]);
    }
    let requests = |lines: &[String]| -> Vec<Value> {
        lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok()).collect()
    };
    let seen = server.wait_for("the requests", |lines| {
        let seen = requests(lines);
        (seen.len() >= expected.len()).then_some(seen)
    });
    let bodies: Vec<String> = seen.iter().map(|e| e["body"].as_str().unwrap().to_owned()).collect();
    assert_eq!(bodies.len(), expected.len(), "{bodies:?}");
    for (body, text) in bodies.iter().zip(&expected) {
        assert!(body.ends_with(text.as_str()), "{body:?} {text}");
    }
    let events = agent.of_type("decision");
    assert_eq!(events.len(), 4, "{events:#?}");
    let who: HashSet<u64> = events.iter().map(|e| e["process.pid"].as_u64().unwrap()).collect();
    let had: HashSet<u64> = seen.iter().map(|e| e["pid"].as_u64().unwrap()).collect();
    assert!(who.is_subset(&had), "{who:?} {had:?}");
    assert!(events.iter().all(|e| e["plane"] == json!("tls") && e["process.name"] == json!("python3")), "{events:#?}");
}

#[test]
fn a_prefork_server_that_reads_byte_by_byte() {
    judged("tls-prefork1", 1);
}

#[test]
fn a_prefork_server_that_reads_large_pieces() {
    judged("tls-prefork", 65536);
}
