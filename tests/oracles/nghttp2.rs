//! nghttp2's client `nghttp`, to a server that answers every request with nothing.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use protocg_fuzz::dice::Random;
use protocg_oracle::policies::{BIDI, CLIENT_STREAM, LOGIN, SEARCH, SLOW, UNARY};
use protocg_oracle::wire::{
    ACK, DATA, END_STREAM, HEADERS, PREFACE, SETTINGS_FRAME, WINDOW_UPDATE, bytes, frame, headers, message, number,
};
use protocg_peers::h2raw::Frame;
use protocg_peers::harness;

use crate::{Recording, judge};

/// Takes one connection, answers what ends, and returns all that came.
fn serve(mut stream: TcpStream, server: &[u8]) -> Vec<u8> {
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(server).unwrap();
    let (mut all, mut rest) = (Vec::new(), Vec::new());
    let mut buffer = [0; 65536];
    while let Ok(n) = stream.read(&mut buffer) {
        if n == 0 {
            break;
        }
        let before = all.len();
        all.extend(&buffer[..n]);
        rest.extend(&all[before.max(PREFACE.len()).min(all.len())..]);
        while let Some(frame) = Frame::take(&mut rest) {
            let mut says = Vec::new();
            if frame.kind == SETTINGS_FRAME && !frame.has(ACK) {
                says = protocg_oracle::wire::frame(SETTINGS_FRAME, ACK, 0, &[]);
            }
            if frame.has(END_STREAM) && [DATA, HEADERS].contains(&frame.kind) {
                says =
                    [headers(frame.stream, &[0x88]), protocg_oracle::wire::frame(DATA, END_STREAM, frame.stream, &[])]
                        .concat();
            }
            // it may have left: what it wrote is what counts
            let _ = stream.write_all(&says);
        }
    }
    all
}

/// One run of the client with random options.
fn record(listener: &TcpListener, random: &mut Random, folder: &std::path::Path) -> Recording {
    let texts = ["", "a", "xAy", "no", "bad", "abcd", "a longer text"];
    let mut body = Vec::new();
    for _ in 0..random.below(4) {
        let text = bytes(1, texts[random.below(7)]);
        body.extend(message(&[text, number(4, 7), bytes(15, vec![0; random.below(2000)])].concat()));
    }
    let data = folder.join("body");
    std::fs::write(&data, &body).unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut command = Command::new("nghttp");
    command.args(["--null-out", "--no-push", "--timeout=15"]);
    command.arg(format!("--data={}", data.display()));
    command.args(["-H:method: POST", "-Hcontent-type: application/grpc", "-Hte: trailers"]);
    for _ in 0..random.below(4) {
        let name = ["x-role", "x-tenant", "x-trace"][random.below(3)];
        let value = ["admin", "guest", "red", "blue", "watched", "rooted"][random.below(6)];
        command.arg(format!("-H{name}: {value}"));
    }
    // No --padding: it pads HEADERS too, and these are refused.
    if random.below(3) == 0 {
        command.arg("--trailer=x-end: yes");
    }
    // which makes each header block larger than 16 KiB
    let large = random.below(4) == 0;
    if large {
        command.arg("--continuation");
    }
    if random.below(3) == 0 {
        command.arg(format!("--encoder-header-table-size={}", [0, 100, 1000, 4096][random.below(4)]));
    }
    if random.below(3) == 0 {
        command.arg("--no-dep");
    }
    command.arg(format!("--weight={}", 1 + random.below(256)));
    command.arg(format!("--multiply={}", 1 + random.below(if large { 2 } else { 20 })));
    for path in [UNARY, CLIENT_STREAM, BIDI, SEARCH, LOGIN, SLOW, "/t.T/M"] {
        if random.below(2) == 0 || path == UNARY {
            command.arg(format!("http://127.0.0.1:{port}{path}"));
        }
    }
    let table = [100u32, 1000, 4096, 8192][random.below(4)];
    let settings = [&[0, 4, 0x3f, 0xff, 0xff, 0xff, 0, 1][..], &table.to_be_bytes()].concat();
    let server = [frame(SETTINGS_FRAME, 0, 0, &settings), frame(WINDOW_UPDATE, 0, 0, &[0x3f, 0, 0, 0])].concat();
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let client = serve(listener.accept().unwrap().0, &server);
    child.wait().unwrap();
    Recording { server, client }
}

#[test]
fn what_nghttp2_sends_is_judged_the_same_by_three() {
    if harness::skip("oracles_nghttp2") {
        return;
    }
    if Command::new("nghttp").arg("--version").output().is_err() {
        println!("SKIPPED oracles_nghttp2: there is no nghttp (Debian: nghttp2-client)");
        return;
    }
    let seed = std::env::var("PROTOCG_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let mut random = Random(seed);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let recordings: Vec<Recording> = (0..24).map(|_| record(&listener, &mut random, folder.path())).collect();
    judge(&format!("nghttp2, PROTOCG_SEED={seed}"), &recordings);
}
