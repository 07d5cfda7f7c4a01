//! Bytes that the filter sees and TCP refuses: other bytes come in their place. The filter runs before TCP, so it may have
//! judged the first ones, and must not take the second ones for them.

use std::time::Duration;

use protocg_peers::h2raw::frame;
use protocg_peers::harness;
use protocg_peers::raw::{ACK, Odd, PSH, Raw, SYN, URG};

use crate::field::{Field, Off, SHORT, attack, conversation, eventually};

/// Sends harmless bytes in a segment that TCP refuses, then a denied call in their place.
fn refused_first(name: &str, timestamps: bool, refused: impl Fn(&Raw, &[u8])) {
    attack(name, Off::Succeeds, |field| {
        // long enough that veth leaves the checksum to TCP (57 bytes of payload and more)
        let (good, evil) = (conversation("good-good-good-good"), conversation("good-goAd-good-good"));
        let mut raw = field.client();
        raw.timestamp = timestamps.then_some(2_000_000);
        raw.connect();
        refused(&raw, &good);
        raw.wait(SHORT / 3, |_| false);
        assert!(raw.acked.wrapping_sub(raw.seq).cast_signed() <= 0, "TCP took what it should refuse");
        for _ in 0..3 {
            raw.at(0, &evil);
            raw.at(30, &evil[30..]);
        }
        field.sent("good-goAd-good-good");
        raw.wait(SHORT, |r| r.reset);
    });
}

#[test]
fn a_bad_checksum_first_and_other_bytes_after() {
    refused_first("bad_checksum", false, |raw, good| {
        raw.segment(PSH | ACK, raw.seq, good, &Odd { bad_checksum: true, ..Odd::default() });
    });
}

#[test]
fn an_acknowledgement_too_old_first_and_other_bytes_after() {
    refused_first("old_ack", false, |raw, good| {
        // of a segment like the one before Linux asks only that it acknowledges nothing that was not sent ("header prediction")
        let (ack, window) = (Some(raw.ack.wrapping_sub(1 << 30)), Some(raw.window - 1));
        raw.segment(PSH | ACK, raw.seq, good, &Odd { ack, window, ..Odd::default() });
    });
}

#[test]
fn an_acknowledgement_too_high_first_and_other_bytes_after() {
    refused_first("high_ack", false, |raw, good| {
        raw.segment(PSH | ACK, raw.seq, good, &Odd { ack: Some(raw.ack.wrapping_add(1 << 20)), ..Odd::default() });
    });
}

#[test]
fn no_acknowledgement_first_and_other_bytes_after() {
    refused_first("no_ack", false, |raw, good| raw.segment(PSH, raw.seq, good, &Odd::default()));
}

#[test]
fn a_syn_flag_first_and_other_bytes_after() {
    refused_first("syn_flag", false, |raw, good| raw.segment(SYN | PSH | ACK, raw.seq, good, &Odd::default()));
}

/// Protection against wrapped sequence numbers: a timestamp that goes back (RFC 7323, section 5).
#[test]
fn a_timestamp_too_old_first_and_other_bytes_after() {
    refused_first("paws", true, |raw, good| {
        raw.segment(PSH | ACK, raw.seq, good, &Odd { timestamp: Some(1_000_000), ..Odd::default() });
    });
}

/// A segment whose end is beyond the window is refused whole: nothing of it is judged.
#[test]
fn a_segment_beyond_the_window_first_and_other_bytes_after() {
    refused_first("window", false, |raw, good| {
        // no window reaches as far: without scaling it has 64 KiB at most
        for at in [65_000, 70_000, 1 << 24] {
            raw.at(at, &[good; 6].concat());
        }
    });
}

#[test]
fn beyond_the_window_an_honest_connection_goes_on() {
    if harness::skip("window_honest") {
        return;
    }
    let field = Field::new("window");
    let mut raw = field.client();
    raw.connect();
    raw.segment(PSH | ACK, raw.seq.wrapping_add(1 << 24), &conversation("outsideA"), &Odd::default());
    raw.send(&conversation("inside"));
    raw.settle();
    field.seen("inside");
    field.unharmed();
}

/// Refused bytes come again as they were: nothing can be said for them, and the connection ends.
#[test]
fn a_connection_that_cannot_be_verified_is_cut_with_its_reason() {
    if harness::skip("retransmit_unverified") {
        return;
    }
    let field = Field::new("unverified");
    let bytes = conversation("good-good-good-good");
    let mut raw = field.client();
    raw.connect();
    raw.segment(PSH | ACK, raw.seq, &bytes, &Odd { bad_checksum: true, ..Odd::default() });
    for _ in 0..14 {
        raw.at(0, &bytes);
        if raw.wait(Duration::from_millis(120), |r| r.reset) {
            break;
        }
    }
    field.cause("retransmit_unverified");
    assert!(raw.wait(harness::patience(Duration::from_secs(2)), |r| r.reset), "not reset");
    field.unharmed();
}

/// recv() passes over the byte that the urgent pointer means, so the handler reads another conversation than was sent.
fn one_byte_urgent(name: &str, ahead: bool) {
    attack(name, Off::Succeeds, |field| {
        let text = "without-the-urgent-byte-A";
        let evil = conversation(text);
        let at = evil.len() - 4;
        // one byte more than the handler gets: read whole, the frame's length and the message's are wrong
        let sent = [&evil[..at], b"x", &evil[at..]].concat();
        let urgent = Odd { urgent: at as u16 + 1, ..Odd::default() };
        let mut raw = field.client();
        raw.connect();
        if ahead {
            raw.segment(ACK | URG, raw.seq, &[], &urgent);
            raw.segment(PSH | ACK, raw.seq, &sent, &Odd::default());
        } else {
            raw.segment(PSH | ACK | URG, raw.seq, &sent, &urgent);
        }
        raw.seq = raw.seq.wrapping_add(sent.len() as u32);
        // recv() ends at the urgent byte, and tokio takes a read that ends early for all there is: something has to wake it
        if !field.enforced() {
            eventually(text, || {
                raw.send(&frame::ping([0; 8], false));
                raw.wait(SHORT / 10, |_| false);
                !field.breaches().is_empty()
            });
        }
        field.cause("urgent");
        raw.wait(SHORT, |r| r.reset);
    });
}

#[test]
fn urgent_data() {
    one_byte_urgent("urgent", false);
}

#[test]
fn an_urgent_pointer_without_data_ahead_of_them() {
    one_byte_urgent("urgent_ahead", true);
}

/// A keep-alive repeats the last byte, with whatever content: TCP has it already.
#[test]
fn keep_alives_with_other_bytes() {
    attack("keep_alives", Off::StackRefuses, |field| {
        let (good, evil) = (conversation("probed"), conversation("prAbed"));
        let place = evil.iter().position(|&b| b == b'A').unwrap();
        let mut raw = field.client();
        raw.connect();
        raw.send(&good[..=place]);
        assert!(raw.settle());
        raw.segment(ACK, raw.seq.wrapping_sub(1), &evil[place..=place], &Odd::default());
        raw.segment(ACK, raw.seq.wrapping_sub(1), &[], &Odd::default());
        raw.send(&good[place + 1..place + 2]);
        raw.segment(ACK, raw.seq.wrapping_sub(1), b"A", &Odd::default());
        raw.send(&good[place + 2..]);
        raw.settle();
        field.seen("probed");
    });
}
