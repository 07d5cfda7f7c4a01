//! tonic over the installed OpenSSL.

use protocg_peers::harness::Stack;
use serde_json::json;

use crate::judged::judged;
use crate::stage::{HOOKS, Net, Stage, make, refused, skip, unary};

const LIBSSL: &str = "libssl.so";

#[test]
fn calls_to_a_server_are_judged_in_its_process() {
    if skip("tls-server") {
        return;
    }
    let stage = Stage::serving("tls-server", Net::V4, HOOKS);
    judged(&stage, "tls-server", LIBSSL, Some(stage.server.process().pid()));
}

#[test]
fn calls_to_a_server_over_ipv6() {
    if skip("tls-server6") {
        return;
    }
    let stage = Stage::serving("tls-server6", Net::V6, HOOKS);
    judged(&stage, "tls-server6", LIBSSL, Some(stage.server.process().pid()));
}

#[test]
fn calls_of_a_client_are_judged_in_its_process() {
    if skip("tls-client") {
        return;
    }
    judged(&Stage::calling("tls-client", Stack::Tonic, HOOKS), "tls-client", LIBSSL, None);
}

#[test]
fn calls_are_counted_for_limits() {
    let test = "tls-limit";
    if skip(test) {
        return;
    }
    let limit = "[[limit]]\nname = \"few\"\nmethods = [\"/echo.Echo/*\"]\nrate = \"1/h\"\nburst = 2\n";
    let stage = Stage::serving(test, Net::V4, &format!("{HOOKS}{limit}"));
    if stage.rung(test).is_none() {
        return;
    }
    let mut session = stage.session();
    for text in ["one", "two"] {
        assert_eq!(make(&mut session, &unary(text))["code"], 0, "{:#?}", stage.agent.events());
    }
    refused(&make(&mut session, &unary("three")));
    let event = stage.agent.wait_for("the denial", |e| e["type"] == "decision");
    assert_eq!((&event["plane"], &event["rule"], &event["verdict"]), (&json!("tls"), &json!("few"), &json!("deny")));
    assert_eq!(stage.server.messages(), 2);
}
