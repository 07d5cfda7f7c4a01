//! How connections end: a FIN with data, before it, twice, from both sides. Each test runs twice: without the enforcer the
//! server reads what is denied, or TCP refuses it.

use std::time::Duration;

use protocg_peers::harness;
use protocg_peers::raw::{ACK, FIN, Odd, PSH, RST};
use serde_json::json;

use crate::field::{Off, SHORT, conversation, eventually, next_call};
use crate::maps;
use crate::wall::walls;

#[test]
fn a_fin_with_data() {
    walls("fin_data", Off::Succeeds, &json!({}), &[], |wall| {
        let good = conversation("last");
        let mut raw = wall.client();
        raw.connect();
        raw.send(&good[..30]);
        raw.carry(PSH | ACK | FIN, raw.seq, &good[30..]);
        assert!(raw.settle(), "{}", raw.acked.wrapping_sub(raw.isn));
        wall.whole(good.len());
        let evil = conversation("evilA");
        for cut in [0, 30, evil.len() - 1] {
            let mut raw = wall.client();
            raw.connect();
            raw.send(&evil[..cut]);
            raw.carry(PSH | ACK | FIN, raw.seq, &evil[cut..]);
            raw.settle();
            wall.sent(evil.len());
        }
        wall.denied();
    });
}

/// A FIN that waits ahead of a hole, and then the bytes before it.
#[test]
fn a_fin_ahead_of_the_data() {
    walls("fin_ahead", Off::Succeeds, &json!({}), &[], |wall| {
        let evil = conversation("evilA");
        let mut raw = wall.client();
        raw.connect();
        raw.carry(ACK | FIN, raw.seq.wrapping_add(evil.len() as u32), &[]);
        raw.at(0, &evil);
        raw.settle();
        wall.sent(evil.len());
        wall.denied();
    });
}

/// Where the FIN is, is where the client's bytes end: another FIN, or data behind it, is nothing to TCP.
#[test]
fn data_after_a_fin_and_a_second_fin() {
    walls("fin_after", Off::StackRefuses, &json!({}), &[], |wall| {
        let (good, evil) = (conversation("good"), next_call(3, "evilA"));
        let mut raw = wall.client();
        raw.connect();
        raw.carry(PSH | ACK | FIN, raw.seq, &good);
        raw.settle();
        wall.whole(good.len());
        raw.seq = raw.seq.wrapping_add(good.len() as u32);
        for distance in [0, 1] {
            raw.at(distance, &evil);
            raw.segment(PSH | ACK | FIN, raw.seq.wrapping_add(distance), &evil, &Odd::default());
            raw.wait(SHORT / 3, |r| r.reset);
        }
        // two FINs at different places, before any data
        let mut raw = wall.client();
        raw.connect();
        raw.segment(ACK | FIN, raw.seq.wrapping_add(30), &[], &Odd::default());
        raw.segment(ACK | FIN, raw.seq.wrapping_add(31), &[], &Odd::default());
        raw.at(0, &conversation("evilA")[..30]);
        raw.at(30, &conversation("evilA")[30..]);
        raw.wait(SHORT, |r| r.reset);
    });
}

/// The server has said its FIN and reads on.
#[test]
fn a_call_to_a_server_that_has_closed_its_side() {
    let good = conversation("good");
    walls("half_closed", Off::Succeeds, &json!({ "shut": good.len() }), &[], |wall| {
        let mut raw = wall.client();
        raw.connect();
        raw.send(&good);
        raw.settle();
        assert!(raw.wait(harness::patience(Duration::from_secs(2)), |r| r.finished), "no FIN");
        raw.send(&next_call(3, "fine"));
        wall.whole(good.len() + next_call(3, "fine").len());
        raw.send(&next_call(5, "evilA"));
        wall.denied();
    });
}

/// Both FINs are under way at once, and the client's comes with a denied call.
#[test]
fn a_simultaneous_close_with_data() {
    let (good, evil) = (conversation("good"), next_call(3, "evilA"));
    walls("simultaneous", Off::Succeeds, &json!({ "shut": good.len() }), &[], |wall| {
        for _ in 0..3 {
            let mut raw = wall.client();
            raw.connect();
            raw.send(&good[..good.len() - 1]);
            // The server closes its side at the last byte; the client has not heard of it when it sends the rest.
            let old = Odd { ack: Some(raw.ack), ..Odd::default() };
            raw.segment(PSH | ACK, raw.seq, &good[good.len() - 1..], &old);
            raw.segment(PSH | ACK | FIN, raw.seq.wrapping_add(1), &evil, &old);
            wall.sent(good.len() + evil.len());
            raw.wait(SHORT, |r| r.finished || r.reset);
        }
        wall.denied();
    });
}

/// Both sides have closed: what the client sends behind its FIN is nothing to TCP, and the state of all connections goes.
#[test]
fn data_after_both_sides_have_closed() {
    let good = conversation("good");
    walls("closed", Off::StackRefuses, &json!({ "close": good.len() }), &[], |wall| {
        for _ in 0..5 {
            let mut raw = wall.client();
            raw.connect();
            raw.send(&good[..good.len() - 1]);
            // The FIN comes with the last byte that the server waits for.
            let old = Odd { ack: Some(raw.ack), ..Odd::default() };
            raw.segment(PSH | ACK | FIN, raw.seq, &good[good.len() - 1..], &old);
            raw.wait(SHORT, |r| r.finished || r.reset);
            raw.segment(PSH | ACK, raw.seq.wrapping_add(2), &next_call(3, "evilA"), &old);
            raw.segment(RST | ACK, raw.seq.wrapping_add(2), &[], &Odd::default());
        }
        wall.whole(good.len());
        eventually("five conversations", || wall.got().iter().filter(|got| got.bytes == good.len()).count() == 5);
        if wall.enforcer.is_some() {
            let conns = maps::of(wall.cgroup.path(), "conns");
            eventually("the connections close", || maps::count(&conns) == 0);
        }
    });
}
