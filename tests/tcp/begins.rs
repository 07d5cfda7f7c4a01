//! How connections begin: data on the handshake's own segments, ports that come again. What needs the server's options or
//! the namespace's is in stack.rs.

use protocg_peers::h2raw::{self, frame};
use protocg_peers::harness;
use protocg_peers::raw::{ACK, Odd, PSH, RST, Raw, SYN};

use crate::field::{Field, Off, PORT, SHORT, attack, conversation};

#[test]
fn data_on_the_last_ack_of_the_handshake() {
    attack("third_ack", Off::Succeeds, |field| {
        let mut raw = field.client();
        assert!(raw.connect_with(&conversation("early")));
        raw.settle();
        field.seen("early");
        let mut raw = field.client();
        assert!(raw.connect_with(&conversation("eArly")));
        field.sent("eArly");
        raw.wait(SHORT, |r| r.reset);
        // the client repeats itself after the handshake was completed by a plain ACK
        raw.segment(ACK, raw.isn.wrapping_add(1), &[], &Odd::default());
        raw.segment(PSH | ACK, raw.isn.wrapping_add(1), &conversation("eArly"), &Odd::default());
        raw.wait(SHORT, |r| r.reset);
    });
}

/// Data on the handshake's last ACK that is ahead of a gap: TCP keeps it, and delivers it when the gap is filled. Read as a
/// connection's first bytes it is harmless; where it stands it is the end of a denied message.
#[test]
fn data_ahead_of_a_gap_on_the_last_ack_of_the_handshake() {
    attack("third_ack_ahead", Off::Succeeds, |field| {
        let harmless = [h2raw::open(&[]), frame::frame(0x2a, 0, 0, b"an A")].concat();
        let text = format!("the text has {}", String::from_utf8(harmless.clone()).unwrap());
        let bytes = conversation(&text);
        assert!(bytes.ends_with(&harmless));
        let gap = bytes.len() - harmless.len();
        let mut raw = field.client();
        raw.segment(SYN, raw.isn, &[], &Odd::default());
        raw.seq = raw.isn.wrapping_add(1);
        assert!(raw.wait(harness::patience(SHORT * 5), |r| r.ack != 0), "no SYN-ACK");
        raw.at(gap as u32, &bytes[gap..]);
        raw.at(0, &bytes[..gap]);
        raw.settle();
        field.dropped(protocg::abi::PG_R_LISTENER_LOST);
        field.denials(1);
    });
}

/// The same from before the connection's first byte: TCP cuts off what it takes for old, and delivers the rest.
#[test]
fn data_from_before_the_first_byte_on_the_last_ack_of_the_handshake() {
    attack("third_ack_behind", Off::Succeeds, |field| {
        let evil = conversation("eArly");
        let cut_off = [h2raw::open(&[]), frame::frame_claiming(evil.len() as u32, 0x2a, 0, 0, b"")].concat();
        let mut raw = field.client();
        raw.segment(SYN, raw.isn, &[], &Odd::default());
        raw.seq = raw.isn.wrapping_add(1);
        assert!(raw.wait(harness::patience(SHORT * 5), |r| r.ack != 0), "no SYN-ACK");
        let first = raw.seq.wrapping_sub(cut_off.len() as u32);
        raw.segment(PSH | ACK, first, &[cut_off, evil].concat(), &Odd::default());
        field.sent("eArly");
        field.dropped(protocg::abi::PG_R_LISTENER_LOST);
    });
}

/// Part of a call on the handshake's last ACK, the rest behind it: each place of the cut.
#[test]
fn a_call_split_between_the_last_ack_and_the_next_segment() {
    attack("third_ack_split", Off::Succeeds, |field| {
        let length = conversation("split-000-A").len();
        let cuts = || (1..length).step_by(3);
        let mut clients = Vec::new();
        for cut in cuts() {
            for mark in ["A", "good"] {
                let bytes = conversation(&format!("split-{cut:03}-{mark}"));
                let mut raw = field.client();
                assert!(raw.connect_with(&bytes[..cut]));
                raw.send(&bytes[cut..]);
                clients.push(raw);
            }
        }
        for raw in &mut clients {
            raw.settle();
        }
        for cut in cuts() {
            field.seen(&format!("split-{cut:03}-good"));
            field.sent(&format!("split-{cut:03}-A"));
        }
        field.denials(cuts().count());
    });
}

/// The filter runs for the listener, and again for the packet once TCP has found the acknowledgement wrong: TCP answers with
/// a reset, and nothing of it stays.
#[test]
fn data_on_a_last_ack_with_a_wrong_acknowledgement() {
    attack("third_ack_wrong", Off::StackRefuses, |field| {
        for wrong in [1_u32, 1 << 20, 1 << 31] {
            let mut raw = field.client();
            raw.segment(SYN, raw.isn, &[], &Odd::default());
            assert!(raw.wait(harness::patience(SHORT * 5), |r| r.ack != 0), "no SYN-ACK");
            raw.seq = raw.isn.wrapping_add(1);
            let odd = Odd { ack: Some(raw.ack.wrapping_add(wrong)), ..Odd::default() };
            raw.segment(PSH | ACK, raw.seq, &conversation("wrong-A"), &odd);
            raw.wait(SHORT, |r| r.reset);
            // the handshake is still open, or begins again: the right data is served
            let mut raw = Raw::with(&field.veth, false, 45_000 + wrong.trailing_zeros() as u16, PORT, 7_000_000);
            assert!(raw.connect_with(&conversation(&format!("right-{wrong}"))));
            raw.settle();
            field.seen(&format!("right-{wrong}"));
        }
    });
}

/// Without TCP Fast Open the kernel ignores data on a SYN; the filter drops the packet.
#[test]
fn data_on_a_syn() {
    attack("syn_data", Off::StackRefuses, |field| {
        let mut raw = field.client();
        raw.segment(SYN, raw.isn, &conversation("synA"), &Odd::default());
        assert_eq!(raw.wait(SHORT, |r| r.ack != 0), !field.enforced(), "answered");
        let mut raw = field.client();
        raw.connect();
        raw.segment(SYN | ACK, raw.seq, &conversation("synA"), &Odd::default());
        raw.send(&conversation("plain"));
        raw.settle();
        field.seen("plain");
        field.dropped(protocg::abi::PG_R_SYN_DATA);
    });
}

#[test]
fn a_port_used_again_right_after_a_reset() {
    attack("port_reuse", Off::Succeeds, |field| {
        for (isn, text) in [(1_000, "one"), (500_000, "two"), (900_000, "three")] {
            let mut raw = Raw::with(&field.veth, false, 33333, PORT, isn);
            raw.connect();
            raw.send(&conversation(text));
            raw.settle();
            field.seen(text);
            raw.segment(RST | ACK, raw.seq, &[], &Odd::default());
        }
        let mut raw = Raw::with(&field.veth, false, 33333, PORT, 1_500_000);
        raw.connect();
        raw.send(&conversation("fourA"));
        raw.settle();
        field.sent("fourA");
        field.denials(1);
    });
}

/// However a connection ends, its state goes: by a reset, a FIN of either side, the server's process.
#[test]
fn every_end_of_a_connection_is_noticed() {
    use protocg_peers::raw::FIN;
    if harness::skip("ends") {
        return;
    }
    let field = Field::new("ends");
    let conns = crate::maps::of(field.cgroup.path(), "conns");
    let before = crate::maps::count(&conns);
    let mut cookies: std::collections::HashSet<Vec<u8>> = libbpf_rs::MapCore::keys(&conns).collect();
    for (round, flags) in [RST | ACK, FIN | ACK, RST | ACK].into_iter().enumerate() {
        // the same ports each time: the cookie is another
        let mut raw = Raw::with(&field.veth, false, 33333, PORT, 1_000_000 * round as u32);
        raw.connect();
        raw.send(&conversation(&format!("round-{round}")));
        raw.settle();
        field.seen(&format!("round-{round}"));
        let fresh = libbpf_rs::MapCore::keys(&conns).filter(|key| cookies.insert(key.clone())).count();
        assert_eq!((fresh, crate::maps::count(&conns)), (1, before + 1));
        raw.segment(flags, raw.seq, &[], &Odd::default());
        if flags & FIN != 0 {
            raw.seq = raw.seq.wrapping_add(1);
            raw.wait(harness::patience(SHORT * 10), |r| r.finished);
        }
        crate::field::eventually("its state goes", || crate::maps::count(&conns) == before);
    }
    field.unharmed();
}
