//! Stacks that have their TLS in their own program: node's OpenSSL and grpcio's BoringSSL, over buffers that they fill themselves, and Go's
//! crypto/tls.

use std::process::Command;

use protocg_peers::harness::stack::like;
use protocg_peers::harness::{Stack, Watched};
use serde_json::json;

use crate::judged::judged;
use crate::stage::{HOOKS, Net, Stage, lacks, python, skip, way_of};

fn serving(test: &str, stack: Stack, net: Net, library: &str) {
    if skip(test) || lacks(stack, test) {
        return;
    }
    let stage = Stage::serving_as(test, stack, stack.server(), net, HOOKS);
    judged(&stage, test, library, Some(stage.server.process().pid()));
}

fn calling(test: &str, stack: Stack, library: &str) {
    if skip(test) || lacks(stack, test) {
        return;
    }
    judged(&Stage::calling(test, stack, HOOKS), test, library, None);
}

#[test]
fn calls_to_a_server_of_node() {
    serving("tls-js-server", Stack::Js, Net::V4, "node");
}

#[test]
fn calls_of_a_client_of_node() {
    calling("tls-js-client", Stack::Js, "node");
}

#[test]
fn calls_to_a_server_of_go() {
    serving("tls-go-server", Stack::Go, Net::V4, "pg-go");
}

#[test]
fn calls_to_a_server_of_go_over_ipv6() {
    serving("tls-go-server6", Stack::Go, Net::V6, "pg-go");
}

#[test]
fn calls_of_a_client_of_go() {
    calling("tls-go-client", Stack::Go, "pg-go");
}

#[test]
fn calls_to_a_server_of_grpcio() {
    serving("tls-grpcio-server", Stack::Grpcio, Net::V4, "cygrpc");
}

#[test]
fn calls_to_a_server_of_grpcio_over_ipv6() {
    serving("tls-grpcio-server6", Stack::Grpcio, Net::V6, "cygrpc");
}

#[test]
fn calls_of_a_client_of_grpcio() {
    calling("tls-grpcio-client", Stack::Grpcio, "cygrpc");
}

/// Without symbols, only what Go itself needs for its traces is left.
#[test]
fn calls_to_a_stripped_server_of_go() {
    let test = "tls-go-stripped";
    if skip(test) || lacks(Stack::Go, test) {
        return;
    }
    let whole = Stack::Go.server();
    let folder = tempfile::tempdir().unwrap();
    let bare = folder.path().join("bare-go");
    let stripped = Command::new("strip").args(["-s", "-o"]).arg(&bare).arg(whole.get_program()).status();
    if !stripped.is_ok_and(|status| status.success()) {
        return println!("SKIPPED {test}: there is no strip");
    }
    let stage = Stage::serving_as(test, Stack::Go, like(&whole, &bare), Net::V4, HOOKS);
    judged(&stage, test, "bare-go", Some(stage.server.process().pid()));
}

/// A client's first bytes come in segments of a byte each.
fn split(test: &str, stack: Stack) {
    if skip(test) || lacks(stack, test) {
        return;
    }
    let stage = Stage::serving_as(test, stack, stack.server(), Net::V4, HOOKS);
    if stage.rung(test).is_none() {
        return;
    }
    for (text, outcome) in [("fine", "answered"), ("a SECRET", "ended")] {
        let Some(mut python) = python() else { return println!("SKIPPED {test}: python3 has no h2") };
        way_of(&mut python, "split", stage.server.address, text);
        let client = Watched::start(python);
        client.wait_for(outcome, |lines| lines.iter().any(|line| line == outcome).then_some(()));
    }
    let event = stage.agent.wait_for("the denial", |e| e["type"] == "decision");
    assert_eq!((&event["plane"], &event["rule"]), (&json!("tls"), &json!("no-secrets")), "{event:#}");
    assert_eq!(stage.server.messages(), 1);
}

#[test]
fn a_split_handshake_to_a_server_that_reads_the_socket() {
    split("tls-split", Stack::Tonic);
}

#[test]
fn a_split_handshake_to_a_server_that_is_fed() {
    split("tls-split-js", Stack::Js);
}

#[test]
fn a_split_handshake_to_a_server_of_grpcio() {
    split("tls-split-grpcio", Stack::Grpcio);
}
