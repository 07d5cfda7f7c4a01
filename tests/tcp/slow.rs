//! Receivers that read slowly: zero windows and their probes, windows that are not kept to, a buffer that overflows.

use std::time::Duration;

use protocg_peers::harness;
use protocg_peers::raw::{ACK, Odd, PSH, Raw};
use serde_json::json;

use crate::field::{Off, SHORT, conversation, eventually};
use crate::maps;
use crate::wall::{Wall, walls};

/// A listener that accepts late, with a buffer of a few kilobytes.
fn late() -> serde_json::Value {
    json!({ "wait": true, "options": [[libc::SOL_SOCKET, libc::SO_RCVBUF, 2048]] })
}

/// A call that fills the buffer and more, and the same with other bytes at its end: the second is denied.
fn long() -> (Vec<u8>, Vec<u8>) {
    let filler = "filling".repeat(2000);
    (conversation(&format!("{filler}good-")), conversation(&format!("{filler}evilA")))
}

/// Sends bytes from `from` on for as long as the window has room, and returns how far it came.
fn fill(raw: &mut Raw, bytes: &[u8], from: usize) -> usize {
    let first = raw.seq.wrapping_sub(from as u32);
    let mut at = from;
    loop {
        let room = (raw.acked.wrapping_add(u32::from(raw.offered))).wrapping_sub(raw.seq).cast_signed();
        if at == bytes.len() || room <= 0 {
            return at;
        }
        let n = (room as usize).min(500).min(bytes.len() - at);
        raw.at(0, &bytes[at..at + n]);
        at += n;
        raw.seq = first.wrapping_add(at as u32);
        raw.wait(harness::patience(SHORT), |r| r.acked == r.seq);
        if raw.acked != raw.seq {
            return at;
        }
    }
}

/// Sends the rest as the window opens.
fn finish(wall: &Wall, raw: &mut Raw, bytes: &[u8], mut at: usize) {
    eventually("the rest is taken, or refused for good", || {
        raw.wait(Duration::from_millis(50), |_| false);
        at = fill(raw, bytes, at);
        // what TCP has not acknowledged comes again
        let missing = raw.seq.wrapping_sub(raw.acked) as usize;
        if missing > 0 && missing <= at {
            raw.segment(PSH | ACK, raw.acked, &bytes[at - missing..at.min(at - missing + 500)], &Odd::default());
        }
        at == bytes.len() && (raw.acked == raw.seq || wall.enforcer.is_some()) || raw.reset
    });
}

/// The window is zero. A probe of one byte beyond it is refused (BSD sends such); then other bytes come in its place.
#[test]
fn window_probes_with_other_bytes_after() {
    walls("zero_window", Off::Succeeds, &late(), &[], |wall| {
        let (good, evil) = long();
        let mut raw = wall.client();
        raw.connect();
        raw.offered = 1000;
        raw.acked = raw.seq;
        let at = fill(&mut raw, &evil, 0);
        assert!(at < evil.len() - 10, "the window never closed: {at} of {}", evil.len());
        for _ in 0..3 {
            raw.segment(PSH | ACK, raw.seq, &good[at..=at], &Odd::default());
            raw.segment(PSH | ACK, raw.seq, &good[at..good.len().min(at + 1400)], &Odd::default());
            raw.wait(SHORT / 3, |_| false);
        }
        wall.go_on();
        finish(wall, &mut raw, &evil, at);
        wall.denied();
    });
}

/// A client that does not keep to the window: what its end refuses, comes again with other content.
#[test]
fn more_than_a_slow_receiver_takes_and_other_bytes_after() {
    walls("overflow", Off::Succeeds, &late(), &[], |wall| {
        let (good, evil) = long();
        let mut raw = wall.client();
        raw.connect();
        raw.acked = raw.seq;
        let first = raw.seq;
        raw.send(&good[..good.len() - 8]);
        raw.wait(SHORT, |_| false);
        let at = raw.acked.wrapping_sub(first) as usize;
        assert!(at < evil.len() - 8, "all of it was taken: {at} of {}", evil.len());
        raw.seq = raw.acked;
        wall.go_on();
        finish(wall, &mut raw, &evil, at);
        wall.denied();
    });
}

/// Every other byte of a call in a segment of its own: that needs far more memory than a small receive buffer has, so TCP throws
/// out again what waits. Then the others: all of it is judged, and TCP has the beginning only. Returns a client that
/// may go on there, and how far TCP is.
fn thrown_out(wall: &Wall, good: &[u8]) -> (Raw, usize) {
    let mut raw = wall.client();
    raw.connect();
    raw.acked = raw.seq;
    let first = raw.seq;
    for odd in [1, 0] {
        for at in (odd..good.len()).step_by(2) {
            raw.at(at as u32, &good[at..=at]);
        }
    }
    raw.wait(SHORT, |_| false);
    let [dropped, pruned] = ["TCPOFODrop", "OfoPruned"].map(|name| wall.stat(name));
    println!("{dropped} segments found no room, {pruned} times what waited was thrown out");
    assert!(dropped + pruned > 0, "there was room for all");
    let at = raw.acked.wrapping_sub(first) as usize;
    assert!(at < good.len() - 8, "all of it was taken: {at} of {}", good.len());
    (raw, at)
}

/// What was judged, TCP has thrown out for want of memory, and other bytes come in its place.
#[test]
fn a_buffer_that_overflows_and_other_bytes_after() {
    walls("prune", Off::Succeeds, &late(), &[], |wall| {
        let (good, evil) = (conversation("good-"), conversation("evilA"));
        let (mut raw, _) = thrown_out(wall, &good);
        let first = raw.seq;
        wall.go_on();
        for _ in 0..14 {
            let at = (raw.acked.wrapping_sub(first) as usize).min(evil.len() - 1);
            raw.at(at as u32, &evil[at..]);
            raw.wait(Duration::from_millis(120), |_| false);
        }
        wall.sent(evil.len());
        if wall.enforcer.is_some() {
            // Judged bytes that are not in their place, and nothing that could be compared with what comes.
            wall.said("retransmit_unverified");
            assert!(raw.wait(harness::patience(Duration::from_secs(2)), |r| r.reset), "not reset");
        }
    });
}

/// The same, and the client sends what it sent before: the filter kept no copy of what it has judged, so that ends the
/// connection too. It takes a receive buffer as small as no server has; the honest client of such a server sends again
/// within the second in which nothing is cut.
#[test]
fn bytes_thrown_out_and_sent_again_end_the_connection() {
    if harness::skip("prune_honest") {
        return;
    }
    let wall = Wall::new("pruned", true, &late(), &[]);
    let good = conversation("good-");
    let (mut raw, at) = thrown_out(&wall, &good);
    wall.go_on();
    for _ in 0..14 {
        raw.at(at as u32, &good[at..]);
        if raw.wait(Duration::from_millis(120), |r| r.reset) {
            break;
        }
    }
    wall.said("retransmit_unverified");
    assert!(raw.wait(harness::patience(Duration::from_secs(2)), |r| r.reset), "not reset");
    assert!(wall.got().iter().all(|got| got.bytes < good.len()), "{:?}", wall.got());
    wall.stop();
}

/// An honest client of a slow receiver loses nothing, in whatever sizes it sends, though TCP's numbers lag behind.
#[test]
fn an_honest_client_of_a_slow_receiver_is_served() {
    if harness::skip("slow_honest") {
        return;
    }
    let (good, _) = long();
    let wall = Wall::new("slow", true, &late(), &[]);
    let mut crowd: Vec<_> = (0..4).map(|_| wall.connect(libc::IPPROTO_TCP)).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_secs(1));
            wall.go_on();
        });
        for (index, stream) in crowd.iter_mut().enumerate() {
            let good = &good;
            scope.spawn(move || {
                stream.set_nodelay(true).unwrap();
                for part in good.chunks([1, 100, 1400, 1 << 20][index]) {
                    std::io::Write::write_all(stream, part).unwrap();
                }
            });
        }
    });
    eventually("all four", || wall.got().iter().filter(|got| got.bytes == good.len()).count() == 4);
    let events = wall.enforcer.as_ref().unwrap().events();
    assert!(events.iter().all(|e| e["verdict"] != "deny"), "{events:#?}");
    let conns = maps::of(wall.cgroup.path(), "conns");
    drop(crowd);
    eventually("the connections close", || maps::count(&conns) == 0);
    wall.stop();
}
