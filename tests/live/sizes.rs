//! Messages of all sizes, and many streams at once.

use prost::Message;
use protocg_peers::harness::Stack;
use protocg_peers::json;
use protocg_peers::proto::echo::{EchoReply, EchoRequest};
use serde_json::{Value, json};

use crate::stage::{Net, SECRET, SECRET_CODE, SECRET_MESSAGE, Stage, call, check, make, ok, policy, skip, unary, with};

const SIZES: [usize; 6] = [1, 100, 16 << 10, 64 << 10, 1 << 20, 4 << 20];

/// A rule on a field that stands behind the payload.
const LAST: &str = r#"
[[deny]]
name = "no-secrets"
methods = ["/echo.Echo/*"]
when = 'request.choice_text == "SECRET"'
status = "INVALID_ARGUMENT"
message = "keep your secrets"
"#;

fn sizes(name: &str, server: Stack, client: Stack) {
    if skip(name, &[server, client]) {
        return;
    }
    let stage = Stage::new(name, server, Net::Loopback4, |port| policy(port, LAST), &[]);
    let mut session = stage.calls(client).session();
    let mut expected = Vec::new();
    for size in SIZES {
        for method in ["/echo.Echo/Unary", "/echo.Echo/Bidi"] {
            let text = format!("{size}{method}");
            // reflect: the payload comes back inside the answer.
            let message = |last: &str| {
                json!([{
                    "text": text, "payload": { "@bytes": size }, "choice_text": last, "reply_bytes": size,
                    "reflect": true,
                }])
            };
            let result = make(&mut session, &call(method, message("none")));
            ok(&result);
            let request = EchoRequest::decode(&encode(method, &message("none")[0])[..]).unwrap();
            let reply = EchoReply {
                text: text.clone(),
                payload: vec![0; size],
                index: 0,
                received: 1,
                received_bytes: size as u64,
                request: Some(request.clone()),
            };
            let reply = reply.encode_to_vec();
            assert_eq!(result["response_bytes"], reply.len());
            assert_eq!(result["digests"], json!([json::digest(&reply)]), "{size} back");
            expected.push((text.clone(), request.encode_to_vec()));
            check(&make(&mut session, &call(method, message("SECRET"))), SECRET_CODE, SECRET_MESSAGE);
        }
    }
    ok(&make(&mut session, &unary("the last")));
    expected.push(("the last".to_owned(), encode("/echo.Echo/Unary", &json!({ "text": "the last" }))));
    let texts: Vec<&String> = expected.iter().map(|(text, _)| text).collect();
    assert_eq!(stage.texts_until("the last").iter().collect::<Vec<_>>(), texts);
    assert_eq!(stage.decisions("deny", 2 * SIZES.len()).len(), 2 * SIZES.len());
    // What the handlers have got is what was sent, byte for byte: its length and a digest say so.
    let seen = stage.server.seen();
    let got: Vec<(Option<u64>, Option<&str>)> =
        seen.iter().filter(|e| e["event"] == "message").map(|e| (e["size"].as_u64(), e["digest"].as_str())).collect();
    let sent: Vec<(u64, String)> = expected.iter().map(|(_, m)| (m.len() as u64, json::digest(m))).collect();
    assert_eq!(got, sent.iter().map(|(size, digest)| (Some(*size), Some(&digest[..]))).collect::<Vec<_>>());
}

fn encode(method: &str, message: &Value) -> Vec<u8> {
    json::encode(message, Some(json::method(method).unwrap().input())).unwrap()
}

#[test]
fn messages_of_all_sizes_from_tonic_to_tonic() {
    sizes("sizes-tonic-tonic", Stack::Tonic, Stack::Tonic);
}

#[test]
fn messages_of_all_sizes_from_grpcio_to_tonic() {
    sizes("sizes-tonic-grpcio", Stack::Tonic, Stack::Grpcio);
}

#[test]
fn messages_of_all_sizes_from_tonic_to_grpcio() {
    sizes("sizes-grpcio-tonic", Stack::Grpcio, Stack::Tonic);
}

#[test]
fn messages_of_all_sizes_from_go_to_js() {
    sizes("sizes-js-go", Stack::Js, Stack::Go);
}

#[test]
fn messages_of_all_sizes_from_js_to_go() {
    sizes("sizes-go-js", Stack::Go, Stack::Js);
}

fn at_once(name: &str, client: Stack) {
    if skip(name, &[client]) {
        return;
    }
    let stage = Stage::simple(name, SECRET);
    // All of them are open at the same time: the first pauses until the last has begun.
    let calls: Vec<Value> = (0..64)
        .map(|i| {
            let messages = json!([{ "text": format!("{i}-1") }, { "text": format!("{i}-2"), "delay_ms": 50 }]);
            with(with(call("/echo.Echo/Bidi", messages), "group", 1), "interval_ms", 200)
        })
        .collect();
    let mut session = stage.calls(client).session();
    let results = session.make(&json!(calls));
    assert_eq!(results.iter().filter(|r| r["code"] == 0 && r["responses"] == 2).count(), 64, "{results:#?}");
    assert_eq!(session.connections, 1);
    let mut texts: Vec<String> = Vec::new();
    crate::stage::eventually("128 messages", || {
        texts = stage.server.seen().iter().filter_map(|e| e["fields"]["text"].as_str().map(str::to_owned)).collect();
        texts.len() >= 128
    });
    texts.sort();
    let mut expected: Vec<String> = (0..64).flat_map(|i| [format!("{i}-1"), format!("{i}-2")]).collect();
    expected.sort();
    assert_eq!(texts, expected);
    assert!(stage.agent.of_type("decision").is_empty());
}

#[test]
fn sixty_four_streams_at_once_from_tonic() {
    at_once("at-once-tonic", Stack::Tonic);
}

#[test]
fn sixty_four_streams_at_once_from_grpcio() {
    at_once("at-once-grpcio", Stack::Grpcio);
}

#[test]
fn sixty_four_streams_at_once_from_go() {
    at_once("at-once-go", Stack::Go);
}

#[test]
fn sixty_four_streams_at_once_from_js() {
    at_once("at-once-js", Stack::Js);
}
