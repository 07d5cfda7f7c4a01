//! Traffic of h2's own client.

use std::net::Ipv6Addr;

use bytes::Bytes;
use protocg::engine::{Connection, Outcome};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::hpack::{fields, reference};
use crate::rig::{Random, compile, seed, show};
use crate::wire::{bytes as field, message};

const POLICY: &str = r#"
default = "allow"
[[deny]]
name = "role"
when = 'metadata["x-role"] == "admin" || metadata["x-role"].startsWith("root")'
mode = "audit"
[[deny]]
name = "no-a"
methods = ["/echo.Echo/Bidi"]
when = 'request.text.contains("A")'
mode = "audit"
"#;

/// Everything that the client writes while `server` answers with SETTINGS and window.
async fn record(calls: Vec<(http::Request<()>, Vec<u8>)>) -> Vec<u8> {
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    let (mut read, mut write) = tokio::io::split(theirs);
    // SETTINGS, its acknowledgement, a wide window for the connection
    write
        .write_all(
            b"\0\0\x06\x04\0\0\0\0\0\0\x04\x3f\xff\xff\xff\0\0\0\x04\x01\0\0\0\0\0\0\x04\x08\0\0\0\0\0\x3f\0\0\0",
        )
        .await
        .unwrap();
    let (sender, connection) =
        h2::client::Builder::new().initial_max_send_streams(1000).handshake::<_, Bytes>(ours).await.unwrap();
    let recorder = tokio::spawn(async move {
        let mut all = Vec::new();
        let _ = read.read_to_end(&mut all).await;
        all
    });
    let driver = tokio::spawn(connection);
    let mut sender = sender.ready().await.unwrap();
    let mut streams = Vec::new();
    for (request, body) in calls {
        sender = sender.ready().await.unwrap();
        let (response, mut stream) = sender.send_request(request, false).unwrap();
        // DATA frames that end anywhere
        let middle = body.len() / 2;
        stream.send_data(Bytes::copy_from_slice(&body[..middle]), false).unwrap();
        tokio::task::yield_now().await;
        stream.send_data(Bytes::copy_from_slice(&body[middle..]), true).unwrap();
        streams.push((response, stream));
        tokio::task::yield_now().await;
    }
    // all is written once the client has nothing to do
    for _ in 0..10_000 {
        tokio::task::yield_now().await;
    }
    driver.abort();
    let _ = driver.await;
    drop(streams);
    drop(sender);
    drop(write);
    recorder.await.unwrap()
}

#[test]
fn what_h2_sends_is_decided_as_it_was_meant() {
    let policy = compile(POLICY);
    let first = seed(7);
    for seed in first..first + 10 {
        let mut random = Random(seed);
        let (mut calls, mut expected) = (Vec::new(), Vec::new());
        for i in 0..60 {
            let echo = random.one_in(2);
            let list: Vec<(String, String)> =
                fields(&mut random).into_iter().filter(|(name, _)| name != "x-long").collect();
            let path = if echo { "/echo.Echo/Bidi" } else { "/s.S/M3" };
            let mut request = http::Request::post(format!("http://a{path}"));
            for (name, value) in list.iter().filter(|(name, _)| !name.starts_with(':')) {
                request = request.header(name, value);
            }
            let stream = 2 * i + 1;
            let texts: Vec<&str> =
                (0..1 + random.below(3)).map(|_| random.pick(&["x", "A", "", "a longer text"])).collect();
            let body: Vec<u8> = texts.iter().flat_map(|text| message(&field(1, text))).collect();
            if reference(&list).contains(&"role") {
                expected.push(format!("audit role on {stream}#0"));
            }
            for (k, _) in texts.iter().enumerate().filter(|(_, text)| echo && text.contains('A')) {
                expected.push(format!("audit no-a on {stream}#{}", k + 1));
            }
            calls.push((request.body(()).unwrap(), body));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let bytes = runtime.block_on(record(calls));
        expected.sort();
        for about in [1, 7, 500, 100_000] {
            let mut connection = Connection::new(&policy.tables, Ipv6Addr::LOCALHOST, 1);
            let (mut events, mut from) = (Vec::new(), 0);
            for to in random.cuts(bytes.len(), about).into_iter().chain([bytes.len()]) {
                assert_eq!(connection.request(&bytes[from..to]), Outcome::Pass, "PROTOCG_SEED={seed}");
                events.extend(connection.events().iter().map(|event| show(&policy, event)));
                from = to;
            }
            events.sort();
            assert_eq!(events, expected, "PROTOCG_SEED={seed}");
        }
    }
}
