//! The h2 crate's client.

use bytes::Bytes;
use http::{HeaderMap, Request};
use protocg_fuzz::dice::Random;
use protocg_oracle::policies::{BIDI, CLIENT_STREAM, LOGIN, SEARCH, SLOW, UNARY};
use protocg_oracle::wire::{ACK, SETTINGS_FRAME, WINDOW_UPDATE, bytes as text, frame, message, number};
use protocg_peers::harness;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{Recording, judge};

fn body(random: &mut Random) -> Vec<u8> {
    let texts = ["", "a", "xAy", "no", "bad", "abcd", "a longer text"];
    let one = |random: &mut Random| match random.below(4) {
        0 => number(4, [0, 7, u64::MAX][random.below(3)]),
        1 => text(15, vec![0; random.below(900)]),
        _ => text(1, texts[random.below(7)]),
    };
    (0..random.below(4))
        .flat_map(|_| message(&(0..random.below(4)).flat_map(|_| one(random)).collect::<Vec<_>>()))
        .collect()
}

fn request(random: &mut Random) -> Request<()> {
    let path = [UNARY, CLIENT_STREAM, BIDI, SEARCH, LOGIN, SLOW, "/t.T/M", "/health.Health/Check"][random.below(8)];
    let mut request = Request::post(format!("http://localhost{path}")).header("te", "trailers");
    request = request.header("content-type", ["application/grpc", "application/grpc+proto"][random.below(2)]);
    for _ in 0..random.below(5) {
        let name = ["x-role", "x-tenant", "x-trace", "user-agent"][random.below(4)];
        let value = ["admin", "guest", "red", "blue", "watched", "rooted", "bad", ""][random.below(8)];
        request = request.header(name, value);
    }
    // now and then a block that needs CONTINUATION
    if random.below(40) == 0 {
        request = request.header("x-long", "v".repeat(20_000));
    }
    request.body(()).unwrap()
}

/// Whatever the client writes for random calls; the server says SETTINGS, and gives window.
async fn record(random: &mut Random) -> Recording {
    let (ours, theirs) = tokio::io::duplex(1 << 22);
    let (mut read, mut write) = tokio::io::split(theirs);
    let table = [0u32, 100, 1000, 4096, 8192][random.below(5)];
    let settings = [&[0, 4, 0x3f, 0xff, 0xff, 0xff, 0, 1][..], &table.to_be_bytes()].concat();
    let server = [
        frame(SETTINGS_FRAME, 0, 0, &settings),
        frame(SETTINGS_FRAME, ACK, 0, &[]),
        frame(WINDOW_UPDATE, 0, 0, &[0x3f, 0, 0, 0]),
    ]
    .concat();
    write.write_all(&server).await.unwrap();
    let mut builder = h2::client::Builder::new();
    builder.initial_max_send_streams(1000).header_table_size([4096, 100][random.below(2)]).initial_window_size(70_000);
    let (sender, connection) = builder.handshake::<_, Bytes>(ours).await.unwrap();
    let recorder = tokio::spawn(async move {
        let mut all = Vec::new();
        let _ = read.read_to_end(&mut all).await;
        all
    });
    let driver = tokio::spawn(connection);
    let mut sender = sender.ready().await.unwrap();
    let mut live = Vec::new();
    let mut kept = Vec::new();
    for _ in 0..10 + random.below(100) {
        if live.is_empty() || random.below(2) == 0 {
            sender = sender.ready().await.unwrap();
            let (response, stream) = sender.send_request(request(random), false).unwrap();
            kept.push(response);
            live.push(stream);
        } else {
            let at = random.below(live.len());
            let (mut body, end) = (body(random), random.below(3) == 0);
            while !body.is_empty() {
                let rest = body.split_off(1 + random.below(body.len()));
                live[at].send_data(Bytes::from(std::mem::replace(&mut body, rest)), false).unwrap();
            }
            if end {
                let mut stream = live.swap_remove(at);
                match random.below(4) {
                    0 => stream
                        .send_trailers(HeaderMap::from_iter([("x-end".parse().unwrap(), "yes".parse().unwrap())]))
                        .unwrap(),
                    1 => stream.send_reset(h2::Reason::CANCEL),
                    _ => stream.send_data(Bytes::new(), true).unwrap(),
                }
            }
        }
        for _ in 0..random.below(3) {
            tokio::task::yield_now().await;
        }
    }
    // all is written once the client has nothing to do
    for _ in 0..5000 {
        tokio::task::yield_now().await;
    }
    driver.abort();
    let _ = driver.await;
    drop((live, kept, sender, write));
    Recording { server, client: recorder.await.unwrap() }
}

#[test]
fn what_the_h2_crate_sends_is_judged_the_same_by_three() {
    if harness::skip("oracles_h2") {
        return;
    }
    let seed = std::env::var("PROTOCG_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut random = Random(seed);
    let recordings: Vec<Recording> = (0..40).map(|_| runtime.block_on(record(&mut random))).collect();
    judge(&format!("h2, PROTOCG_SEED={seed}"), &recordings);
}
