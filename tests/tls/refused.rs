//! TLS that no hook reads is refused, and said to be.

use std::path::Path;

use protocg_peers::harness::{Place, Watched};
use serde_json::json;

use crate::stage::{Net, Stage, make, python, refused, skip, unary};

#[test]
fn without_hooks_tls_is_refused() {
    if skip("tls-none") {
        return;
    }
    let stage = Stage::serving("tls-none", Net::V4, "");
    let mut session = stage.session();
    refused(&make(&mut session, &unary("hello")));
    let event = stage.agent.wait_for("the refusal", |e| e["type"] == "connection");
    assert_eq!((&event["cause"], &event["reason"], &event["detail"]), (&json!("tls"), &json!("tls"), &json!(null)));
    assert_eq!(stage.server.messages(), 0);
}

/// A client in the cgroup that writes plaintext past the hooks: its connection ends before any of it leaves.
fn goes_past_the_hooks(name: &str, way: &str, reason: &str, detail: &str) {
    if skip(name) {
        return;
    }
    let stage = Stage::calling(name, "[tls]\n");
    if stage.rung(name).is_none() {
        return;
    }
    let Some(mut command) = python() else { return println!("SKIPPED {name}: python3 has no h2") };
    let target = stage.server.address;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls/ways.py");
    command.arg(script).args([way, &target.ip().to_string(), &target.port().to_string()]);
    Place { cgroup: Some(&stage.cgroup), net: None }.enter(&mut command);
    let client = Watched::start(command);
    let event = stage.agent.wait_for("the refusal", |e| e["type"] == "connection");
    assert_eq!((&event["verdict"], &event["reason"]), (&json!("deny"), &json!(reason)), "{event:#}");
    assert!(event["detail"].as_str().unwrap_or_default().contains(detail), "{event:#}");
    client.wait_for("ended", |lines| lines.iter().any(|line| line == "ended").then_some(()));
    assert_eq!(stage.server.messages(), 0);
}

#[test]
fn a_client_whose_connection_is_a_bio() {
    goes_past_the_hooks("tls-bio", "bio", "tls", "BIO_f_ssl");
}

#[test]
fn a_client_whose_connection_becomes_a_bio() {
    goes_past_the_hooks("tls-latebio", "late_bio", "tls_call", "");
}

#[test]
fn a_client_whose_first_write_makes_the_handshake() {
    goes_past_the_hooks("tls-implicit", "implicit", "tls", "");
}
