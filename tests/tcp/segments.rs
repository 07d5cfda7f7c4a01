//! How a client may cut, order and repeat its bytes. Each attack tries to get a message to the handler that the policy
//! denies; raw packets over a veth pair between network namespaces.

use protocg_peers::h2raw::{self, Encoder, Style};
use protocg_peers::harness;
use protocg_peers::raw::{ACK, Odd, PSH, Raw};

use crate::field::{Field, Off, PATH, PORT, SHORT, attack, conversation, eventually, next_call, query};

/// The server has what each has sent, or has ended the connection.
fn settle(clients: Vec<Raw>) {
    for mut raw in clients {
        raw.settle();
    }
}

#[test]
fn a_call_in_one_segment() {
    attack("one_segment", Off::Succeeds, |field| {
        for v6 in [false, true] {
            let (good, evil) = if v6 { ("six", "sixA") } else { ("four", "fourA") };
            let mut raw = Raw::new(&field.veth, v6, PORT);
            raw.connect();
            raw.send(&conversation(good));
            raw.settle();
            field.seen(good);
            let mut raw = Raw::new(&field.veth, v6, PORT);
            raw.connect();
            raw.send(&conversation(evil));
            raw.settle();
            field.sent(evil);
        }
        field.denials(2);
    });
}

#[test]
fn one_byte_segments() {
    attack("one_byte", Off::Succeeds, |field| {
        for (text, backwards) in [("good", false), ("bAd", false), ("good-backwards", true), ("bAd-backwards", true)] {
            let bytes = conversation(text);
            let mut raw = field.client();
            raw.connect();
            let places: Vec<usize> =
                if backwards { (0..bytes.len()).rev().collect() } else { (0..bytes.len()).collect() };
            for at in places {
                raw.at(at as u32, &bytes[at..=at]);
            }
            raw.settle();
            if text.contains('A') { field.sent(text) } else { field.seen(text) }
        }
        field.denials(2);
    });
}

/// Every place of a cut between two segments, in order and the second first; a connection for each.
#[test]
fn every_split_of_a_conversation_in_two() {
    attack("every_split", Off::Succeeds, |field| {
        let cuts = conversation("split-000-A").len();
        let mut clients = Vec::new();
        for cut in 1..cuts {
            for (mark, behind) in [("A", cut % 2 == 0), ("good", cut % 2 == 1)] {
                let bytes = conversation(&format!("split-{cut:03}-{mark}"));
                let mut raw = field.client();
                raw.connect();
                let parts = [(0, &bytes[..cut]), (cut as u32, &bytes[cut..])];
                for (at, part) in if behind { [parts[1], parts[0]] } else { parts } {
                    raw.at(at, part);
                }
                clients.push(raw);
            }
        }
        settle(clients);
        for cut in 1..cuts {
            field.seen(&format!("split-{cut:03}-good"));
            field.sent(&format!("split-{cut:03}-A"));
        }
        field.denials(cuts - 1);
    });
}

/// Numbers that follow from a seed.
struct Seeded(u32);

impl Seeded {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.0 >> 8) as usize % bound
    }
}

/// Several calls in up to a dozen segments, cut and ordered by chance.
#[test]
fn many_splits_of_a_conversation_in_any_order() {
    const ROUNDS: u32 = 80;
    attack("many_splits", Off::Succeeds, |field| {
        let mut clients = Vec::new();
        for round in 0..ROUNDS {
            let mut chance = Seeded(round);
            let last = if round % 2 == 0 { "good" } else { "A" };
            let mut bytes = conversation(&format!("first-{round}"));
            bytes.extend(next_call(3, &format!("second-{round}")));
            // The denied call comes last: what waits ahead of a hole together with it would be lost with it.
            bytes.extend(next_call(5, &format!("last-{round}-{last}")));
            let mut cuts: Vec<usize> = (0..1 + chance.below(11)).map(|_| 1 + chance.below(bytes.len() - 1)).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            cuts.dedup();
            let mut parts: Vec<(usize, usize)> = cuts.windows(2).map(|w| (w[0], w[1])).collect();
            for i in (1..parts.len()).rev() {
                parts.swap(i, chance.below(i + 1));
            }
            let mut raw = field.client();
            raw.connect();
            for (from, to) in parts {
                raw.at(from as u32, &bytes[from..to]);
            }
            clients.push(raw);
        }
        settle(clients);
        for round in 0..ROUNDS {
            if round % 2 == 0 {
                field.seen(&format!("last-{round}-good"));
            } else {
                field.sent(&format!("last-{round}-A"));
            }
        }
        field.denials(ROUNDS as usize / 2);
    });
}

#[test]
fn segments_in_reverse_order() {
    attack("reordering", Off::Succeeds, |field| {
        for text in ["ordered", "ordered-A"] {
            let bytes = conversation(text);
            let mut raw = field.client();
            raw.connect();
            for part in (0..bytes.len()).step_by(7).collect::<Vec<_>>().into_iter().rev() {
                raw.at(part as u32, &bytes[part..(part + 7).min(bytes.len())]);
            }
            raw.settle();
            if text.contains('A') { field.sent(text) } else { field.seen(text) }
        }
        field.denials(1);
    });
}

#[test]
fn a_denied_message_that_waits_ahead_of_a_hole() {
    attack("held_denied", Off::Succeeds, |field| {
        let bytes = conversation("heldA");
        let mut raw = field.client();
        raw.connect();
        raw.at(10, &bytes[10..]);
        raw.at(0, &bytes[..10]);
        raw.settle();
        field.sent("heldA");
        field.denials(1);
        if field.enforced() {
            assert_eq!(raw.acked, raw.isn.wrapping_add(1).min(raw.acked), "the hole stays open");
        }
    });
}

/// One hole has filled, a segment has come in order, and there is another hole: what waits is asked for again.
#[test]
fn a_denied_message_that_waits_ahead_of_a_second_hole() {
    attack("held_denied_again", Off::Succeeds, |field| {
        let calls = [conversation("held"), next_call(3, "plain"), next_call(5, "heldA")];
        let bytes = calls.concat();
        let (second, third) = (calls[0].len(), calls[0].len() + calls[1].len());
        let mut raw = field.client();
        raw.connect();
        raw.at(10, &bytes[10..second]);
        raw.at(0, &bytes[..10]);
        field.seen("held");
        raw.at(second as u32, &bytes[second..third]);
        field.seen("plain");
        raw.at(third as u32 + 10, &bytes[third + 10..]);
        raw.at(third as u32, &bytes[third..third + 10]);
        raw.settle();
        field.sent("heldA");
        field.denials(1);
    });
}

/// What waits in TCP's queue and what comes later have other bytes for the same place: TCP keeps the first, unless what comes
/// covers it.
#[test]
fn overlaps_with_other_bytes_ahead_of_a_hole() {
    attack("held_other_bytes", Off::Succeeds, |field| {
        let good = conversation("goood");
        type Part = (bool, usize, usize);
        let cases: [(&str, &[Part]); 4] = [
            // who (evil?), from, to; in the end the hole is filled from 0 on
            ("gAo-1", &[(true, 10, 999), (false, 10, 999)]),
            ("gAo-2", &[(false, 30, 40), (true, 10, 999)]),
            ("gAo-3", &[(false, 10, 60), (true, 20, 999)]),
            ("gAo-4", &[(true, 60, 999), (false, 10, 100)]),
        ];
        for (text, segments) in cases {
            let evil = conversation(text);
            assert_eq!(evil.len(), good.len());
            let mut raw = field.client();
            raw.connect();
            for (bad, from, to) in segments {
                let bytes = if *bad { &evil } else { &good };
                raw.at(*from as u32, &bytes[*from..(*to).min(bytes.len())]);
            }
            raw.at(0, &good[..10]);
            field.sent(text);
            raw.wait(SHORT / 3, |r| r.reset);
        }
    });
}

/// Segments that were dropped for their overlap come again, as TCP sends them: nothing is lost.
#[test]
fn honest_segments_beside_an_overlap_are_delivered() {
    if harness::skip("held_honest") {
        return;
    }
    let field = Field::new("honest");
    let (good, evil) = (conversation("goood"), conversation("gAood"));
    let mut raw = field.client();
    raw.connect();
    raw.at(10, &good[10..]);
    raw.at(10, &evil[10..]);
    raw.at(20, &evil[20..]);
    raw.at(0, &good[..10]);
    raw.settle();
    field.seen("goood");
    field.unharmed();
}

/// Bytes that TCP has are sent again with other content: it has no use for them.
#[test]
fn old_bytes_again_with_other_content() {
    attack("retransmission", Off::StackRefuses, |field| {
        let (good, evil) = (conversation("first"), conversation("fArst"));
        let mut raw = field.client();
        raw.connect();
        raw.send(&good[..60]);
        assert!(raw.settle());
        raw.segment(PSH | ACK, raw.isn.wrapping_add(1), &evil[..60], &Odd::default());
        // what overlaps accepted bytes is cut off by TCP, and so it is by the judge
        raw.carry(PSH | ACK, raw.isn.wrapping_add(21), &good[20..]);
        raw.settle();
        field.seen("first");
        raw.segment(PSH | ACK, raw.isn.wrapping_add(1), &evil, &Odd::default());
        raw.wait(SHORT, |r| r.reset);
    });
}

/// A retransmission that begins in bytes that TCP has, and goes on with a denied call.
#[test]
fn a_retransmission_that_goes_on_with_other_bytes() {
    attack("retransmission_on", Off::Succeeds, |field| {
        let (good, evil) = (conversation("first"), conversation("fArst"));
        let mut raw = field.client();
        raw.connect();
        raw.send(&good[..60]);
        assert!(raw.settle());
        raw.carry(PSH | ACK, raw.isn.wrapping_add(21), &evil[20..]);
        raw.settle();
        field.sent("fArst");
        field.denials(1);
    });
}

/// The filter runs for one connection on two CPUs at once, without the socket's lock.
#[test]
fn two_cpus_on_one_connection() {
    const CALLS: u32 = 150;
    const SIZE: usize = 200;
    attack("two_cpus", Off::Succeeds, |field| {
        let before = field.server.messages() as u32;
        let mut encoder = Encoder::default();
        let mut bytes = h2raw::open(&[]);
        for call in 0..CALLS {
            let text = format!("call-{call:03}");
            bytes.extend(h2raw::unary(&mut encoder, Style::PLAIN, 2 * call + 1, PATH, &query(&text)));
        }
        // The denied call comes last and alone: whatever waits ahead of a hole together with it would be lost with it.
        let evil = h2raw::unary(&mut encoder, Style::PLAIN, 2 * CALLS + 1, PATH, &query("lAst"));
        let mut raw = field.client();
        raw.connect();
        let segments: Vec<(u32, &[u8])> =
            bytes.chunks(SIZE).enumerate().map(|(i, part)| ((SIZE * i) as u32, part)).collect();
        std::thread::scope(|scope| {
            for cpu in 0..2 {
                let (raw, segments) = (&raw, &segments);
                scope.spawn(move || {
                    use nix::sched::{CpuSet, sched_setaffinity};
                    let mut set = CpuSet::new();
                    let _ = set.set(cpu).and_then(|()| sched_setaffinity(nix::unistd::Pid::from_raw(0), &set));
                    segments.iter().skip(cpu).step_by(2).for_each(|(at, part)| raw.at(*at, part));
                });
            }
        });
        assert!(raw.settle(), "acknowledged {}", raw.acked.wrapping_sub(raw.seq));
        eventually("all calls", || field.server.messages() as u32 - before == CALLS);
        raw.at(bytes.len() as u32, &evil);
        raw.settle();
        field.sent("lAst");
        field.denials(1);
        if field.enforced() {
            let events = field.enforcer().events();
            assert!(events.iter().all(|e| e["reason"] != "unjudged" && e["reason"] != "lock"), "{events:#?}");
        }
    });
}
