//! Floods of segments that no connection comes of, from thousands of addresses, beside clients that are served.

use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use protocg_peers::harness::net::End;
use protocg_peers::harness::{self, Place, Veth};
use protocg_peers::raw::{ACK, Odd, PSH, RST, Raw, SYN};

use crate::client::{Client, DENIED_TEXT, Tally};
use crate::load::Chance;
use crate::stage::{Stage, seconds, turn};

const PORT: u16 = 50051;
/// Connections whose client goes silent in the middle of a call.
const SILENT: usize = 200;

/// SYNs, some with data; acknowledgements and data of connections that were never made.
fn flood(veth: &Veth, over: &AtomicBool, sent: &AtomicU64) {
    let mut raw = Raw::new(veth, false, PORT);
    let mut chance = Chance::new(1);
    while !over.load(Ordering::Relaxed) {
        for _ in 0..100 {
            raw.from = [10, 78, chance.below(256) as u8, 1 + chance.below(254) as u8];
            raw.sport = 1024 + chance.below(60_000) as u16;
            let at = chance.below(1 << 31) as u32;
            let (flags, payload) = match chance.below(8) {
                0 => (PSH | ACK, DENIED_TEXT.as_bytes()),
                1 => (ACK, &b""[..]),
                2 => (SYN, DENIED_TEXT.as_bytes()),
                _ => (SYN, &b""[..]),
            };
            raw.segment(flags, at, payload, &Odd { ack: (flags & ACK != 0).then_some(at), ..Odd::default() });
            sent.fetch_add(1, Ordering::Relaxed);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn floods_of_half_open_connections() {
    if harness::skip("floods") {
        return;
    }
    let _turn = turn();
    let veth = Veth::new();
    let place = Place { cgroup: None, net: Some((&veth, End::B)) };
    let stage = Stage::new("floods", place, SocketAddr::from(([0, 0, 0, 0], PORT)), &[]);
    let (tally, over, sent) = (Tally::default(), AtomicBool::new(false), AtomicU64::new(0));
    let silent: Vec<Raw> = (0..SILENT)
        .map(|index| {
            let mut raw = Raw::new(&veth, false, PORT);
            raw.from = [10, 78, 255, index as u8];
            raw.connect();
            let opening = protocg_peers::h2raw::open(&[]);
            raw.send(&opening[..index % opening.len()]);
            raw.at(10, DENIED_TEXT.as_bytes()); // ahead of a hole that is never filled
            raw
        })
        .collect();
    std::thread::scope(|scope| {
        scope.spawn(|| flood(&veth, &over, &sent));
        for thread in 0..3 {
            let (veth, tally, over) = (&veth, &tally, &over);
            scope.spawn(move || {
                let mut chance = Chance::new(thread);
                while !over.load(Ordering::Relaxed) {
                    let connect = || TcpStream::connect((Veth::SERVER4, PORT));
                    let Ok(mut client) = veth.run(End::A, connect).and_then(|s| Client::on(s, tally)) else { continue };
                    for _ in 0..20 {
                        if !client.calls(&chance.calls(8)) {
                            break;
                        }
                    }
                }
            });
        }
        stage.progress(seconds(0.25), &tally, &over);
    });
    let stat = |name| protocg_peers::harness::net::stat(&veth, End::B, name);
    println!(
        "{} segments of nobody, {} cookies sent, {SILENT} silent connections",
        sent.load(Ordering::Relaxed),
        stat("SyncookiesSent")
    );
    assert!(tally.sum().allowed > 100, "{:?}", tally.sum());
    for raw in &silent {
        raw.segment(RST | ACK, raw.seq, &[], &Odd::default());
    }
    stage.over(&tally);
}
