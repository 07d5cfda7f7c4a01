//! GnuTLS, beyond the calls of tests/tls/shapes.rs.

use std::fs;
use std::process::Command;

use protocg_peers::harness::{Calls, Cgroup, Place, Protocg, Stack, Watched};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::shapes::{has_library, script, started};
use crate::stage::{BINARY, HOOKS, Stage, certificate, make, policy, python, refused, skip, unary, way_of};

const CURL: &str = "libcurl-gnutls.so.4";
const USUAL: [&str; 2] = ["/usr/lib/x86_64-linux-gnu/libgnutls.so.30", "/lib/x86_64-linux-gnu/libgnutls.so.30"];

/// libcurl's HTTP/2, over GnuTLS.
#[test]
fn calls_of_a_client_of_curl() {
    let test = "tls-gnutls-curl";
    if skip(test) || !has_library(CURL, test) {
        return;
    }
    let stage = Stage::calling(test, Stack::Tonic, HOOKS);
    if stage.rung(test).is_none() {
        return;
    }
    for (text, outcome) in [("fine", "answered"), ("a SECRET", "ended"), ("fine too", "answered")] {
        let Some(mut command) = python() else { return println!("SKIPPED {test}: python3 has no h2") };
        way_of(&mut command, "curl", stage.server.address, text);
        Place { cgroup: Some(&stage.cgroup), net: None }.enter(&mut command);
        let client = Watched::start(command);
        let lines = client.wait_for("its end", |lines| {
            let over = |line: &String| line == "answered" || line == "ended";
            lines.iter().any(over).then(|| lines.to_vec())
        });
        assert!(lines.iter().any(|line| line == outcome), "{lines:?} {:#?}", stage.agent.events());
    }
    let event = stage.agent.wait_for("the denial", |e| e["type"] == "decision");
    assert_eq!((&event["plane"], &event["rule"]), (&json!("tls"), &json!("no-secrets")), "{event:#}");
    assert!(event["tls.library"].as_str().unwrap().contains("libgnutls"), "{event:#}");
    assert_eq!(stage.texts_until("fine too"), ["fine", "fine too"]);
}

/// A copy of GnuTLS one of whose functions has another name.
fn gnutls_unknown() -> Option<TempDir> {
    let library = USUAL.iter().find_map(|path| fs::read(path).ok())?;
    let copy = tempfile::tempdir().unwrap();
    let mut bytes = library.clone();
    let places: Vec<usize> = memchr::memmem::find_iter(&library, "gnutls_record_recv_packet\0").collect();
    assert!(!places.is_empty());
    places.iter().for_each(|at| bytes[at + "gnutls_record_recv_packe".len()] = b'x');
    fs::write(copy.path().join("libgnutls.so.30"), bytes).unwrap();
    Some(copy)
}

/// A server of tests/tls/shapes.py that is not to be judged, and how its first judged call ends.
fn server_that_is_not_judged(test: &str, shape: &str, change: impl FnOnce(&mut Command)) -> Option<(Value, Watched)> {
    if skip(test) {
        return None;
    }
    let mut command = script(test, "server", shape)?;
    change(&mut command);
    let folder = certificate();
    let cgroup = Cgroup::new(test);
    let (server, target) = started(command, folder.path(), &cgroup);
    let agent = Protocg::run(BINARY, &[&cgroup], &policy(target.port(), "", HOOKS), &[]);
    if agent.of_type("ready")[0]["tls"] == "none" {
        println!("SKIPPED {test}: {:?}", agent.of_type("warning"));
        return None;
    }
    let mut session = Calls { stack: Stack::Tonic, place: Place::default(), target }.session_with(&["--tls"]);
    refused(&make(&mut session, &unary("hello")));
    let event = agent.wait_for("the refusal", |e| e["type"] == "connection");
    assert_eq!(server.lines().len(), 1, "{:?}", server.lines());
    Some((event, server))
}

#[test]
fn gnutls_that_is_not_known_is_refused_by_name() {
    let test = "tls-gnutls-unknown";
    let Some(copy) = gnutls_unknown() else { return println!("SKIPPED {test}: no libgnutls.so.30") };
    let change = |command: &mut Command| {
        command.env("LD_LIBRARY_PATH", copy.path());
    };
    let Some((event, server)) = server_that_is_not_judged(test, "gnutls", change) else { return };
    assert_eq!((&event["cause"], &event["reason"]), (&json!("tls"), &json!("tls")), "{event:#}");
    let detail = event["detail"].as_str().unwrap();
    assert!(detail.starts_with(&format!("process {} (`python3`)", server.pid())), "{detail}");
    assert!(detail.contains("GnuTLS") && detail.contains("libgnutls.so.30"), "{detail}");
}

/// It takes its plaintext in a way that is not followed.
#[test]
fn a_server_of_gnutls_that_takes_packets() {
    let Some((event, _server)) = server_that_is_not_judged("tls-gnutls-packet", "gnutls-packet", |_| ()) else {
        return;
    };
    assert_eq!((&event["verdict"], &event["reason"]), (&json!("deny"), &json!("tls_call")), "{event:#}");
}
