//! TLS that no hook reads is refused, and said to be.

use serde_json::json;

use crate::stage::{Net, Stage, make, refused, skip, unary};

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
