//! A server or a client whose calls are judged.

use serde_json::json;

use crate::stage::{Stage, call, make, make_until_ok, refused, unary};

/// Denied calls and allowed ones in turn: handlers see the allowed ones only, callers hear at once.
pub fn judged(stage: &Stage, test: &str, library: &str, process: Option<u32>) {
    let Some(rung) = stage.rung(test) else { return };
    let mut session = stage.session();
    if process.is_some() {
        assert_eq!(make(&mut session, &unary("first"))["code"], 0, "{:#?}", stage.agent.events());
    } else {
        // a client may be faster than the hooks in its program, which is refused then
        make_until_ok(&mut session, &unary("first"));
    }
    let mut expected = vec!["first".to_owned()];
    let secret = json!({ "text": "a SECRET" });
    let long = "x".repeat(100_000);
    let denied = [
        (unary("a SECRET"), 1),
        (call("/echo.Echo/Unary", json!([{ "text": format!("{long}SECRET") }])), 1),
        (call("/echo.Echo/Unary", json!([{ "text": format!("SECRET{long}") }])), 1),
        (call("/echo.Echo/ServerStream", json!([secret])), 1),
    ];
    for (index, (call, _)) in denied.iter().enumerate() {
        refused(&make(&mut session, call));
        let fine = format!("fine {index}");
        make_until_ok(&mut session, &unary(&fine));
        expected.push(fine);
    }
    make_until_ok(&mut session, &unary(&long));
    expected.push(format!("{}...({})", "x".repeat(16), long.len())); // as the server shows long texts
    make_until_ok(&mut session, &unary("the last"));
    expected.push("the last".to_owned());
    assert_eq!(stage.texts_until("the last"), expected);

    // said by the agent, in its own time
    let decisions = |lines: &[String]| lines.iter().filter(|line| line.contains(r#""type":"decision""#)).count();
    stage.agent.process_lines(|lines| decisions(lines) >= denied.len());
    let events = stage.agent.of_type("decision");
    assert_eq!(events.len(), denied.len(), "{events:#?}");
    for (event, (call, message)) in events.iter().zip(&denied) {
        let method = format!("/{}/{}", event["rpc.service"].as_str().unwrap(), event["rpc.method"].as_str().unwrap());
        assert_eq!(call["method"], method.as_str());
        assert_eq!(event["message"], *message);
        assert_eq!((&event["verdict"], &event["rule"]), (&json!("deny"), &json!("no-secrets")));
        assert_eq!((&event["plane"], &event["enforcement"]), (&json!("tls"), &json!(rung)));
        assert!(event["tls.library"].as_str().unwrap().contains(library), "{event:#}");
        assert_eq!(event["server.port"], stage.server.address.port());
        assert_eq!(event["cgroup"], stage.cgroup.path().to_str().unwrap());
        if let Some(process) = process {
            assert_eq!(event["process.pid"], process);
        }
    }
    // Those that came before the hooks. The kernel's events come in order, so they stand before the first denial.
    let told = stage.agent.events();
    let others =
        told.iter().skip_while(|event| event["type"] != "decision").filter(|event| event["type"] == "connection");
    assert_eq!(others.count(), 0, "{told:#?}");
    let early = stage.agent.of_type("connection");
    assert!(early.iter().all(|event| event["reason"] == "tls"), "{early:#?}");
}
