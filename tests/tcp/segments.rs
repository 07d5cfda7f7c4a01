//! What an attacker can do with TCP segments. Each attack tries to get a message to the handler that the policy denies;
//! raw packets over a veth pair between network namespaces.

use std::time::Duration;

use protocg_peers::h2raw::{self, Encoder, Style};
use protocg_peers::harness;
use protocg_peers::harness::net::End;
use protocg_peers::raw::{ACK, FIN, Odd, PSH, RST, Raw, SYN, URG};

use crate::field::{Field, PATH, POLICY, PORT, SHORT, conversation, fd, query};

#[test]
fn a_call_in_one_segment_passes_and_a_denied_one_does_not() {
    if harness::skip("one_segment") {
        return;
    }
    let field = Field::new("one");
    for v6 in [false, true] {
        let mut raw = Raw::new(&field.veth, v6, PORT);
        raw.connect();
        raw.send(&conversation(if v6 { "six" } else { "four" }));
        field.seen(if v6 { "six" } else { "four" });
        let mut raw = Raw::new(&field.veth, v6, PORT);
        raw.connect();
        raw.send(&conversation("bAd"));
        raw.wait(SHORT, |r| r.finished || r.reset);
    }
    field.unharmed();
}

#[test]
fn one_byte_segments_are_judged_like_one_segment() {
    if harness::skip("one_byte") {
        return;
    }
    let field = Field::new("byte");
    for text in ["good", "bAd"] {
        let mut raw = field.client();
        raw.connect();
        for byte in conversation(text) {
            raw.send(&[byte]);
        }
        raw.wait(SHORT, |r| r.finished || r.reset);
    }
    field.seen("good");
    field.unharmed();
}

#[test]
fn data_on_the_last_ack_of_the_handshake_is_judged() {
    if harness::skip("third_ack") {
        return;
    }
    let field = Field::new("third");
    let mut raw = field.client();
    assert!(raw.connect_with(&conversation("early")));
    field.seen("early");
    // split between the last ACK and the next segment
    let bytes = conversation("split");
    for cut in [1, 24, 40, bytes.len() - 1] {
        let mut raw = field.client();
        assert!(raw.connect_with(&bytes[..cut]));
        raw.send(&bytes[cut..]);
        field.seen("split");
    }
    let mut raw = field.client();
    assert!(raw.connect_with(&conversation("eArly")));
    raw.wait(SHORT, |r| r.reset);
    // the client repeats itself after the handshake was completed by a plain ACK
    raw.segment(ACK, raw.isn.wrapping_add(1), &[], &Odd::default());
    raw.segment(PSH | ACK, raw.isn.wrapping_add(1), &conversation("eArly"), &Odd::default());
    raw.wait(SHORT, |r| r.reset);
    field.unharmed();
}

#[test]
fn segments_out_of_order_pass_once_the_hole_is_filled() {
    if harness::skip("reordering") {
        return;
    }
    let field = Field::new("order");
    let bytes = conversation("ordered");
    let mut raw = field.client();
    raw.connect();
    for part in (0..bytes.len()).step_by(7).collect::<Vec<_>>().into_iter().rev() {
        raw.at(part as u32, &bytes[part..(part + 7).min(bytes.len())]);
    }
    field.seen("ordered");
    field.unharmed();
}

#[test]
fn a_denied_message_ahead_of_a_hole_is_not_delivered_when_it_fills() {
    if harness::skip("held_denied") {
        return;
    }
    let field = Field::new("held");
    let bytes = conversation("heldA");
    let mut raw = field.client();
    raw.connect();
    raw.at(10, &bytes[10..]);
    raw.at(0, &bytes[..10]);
    field.enforcer.wait_for("denied", |e| e["type"] == "decision" && e["verdict"] == "deny");
    assert_eq!(raw.acked, raw.isn.wrapping_add(1).min(raw.acked), "the hole stays open");
    field.unharmed();
}

#[test]
fn other_bytes_for_a_waiting_segment_are_dropped() {
    if harness::skip("held_other_bytes") {
        return;
    }
    let field = Field::new("other");
    let (good, evil) = (conversation("goood"), conversation("gAood"));
    let mut raw = field.client();
    raw.connect();
    raw.at(10, &good[10..]);
    raw.at(10, &evil[10..]);
    raw.at(20, &evil[20..]);
    raw.at(0, &good[..10]);
    field.seen("goood");
    let mut raw = field.client();
    raw.connect();
    raw.at(10, &evil[10..]);
    raw.at(10, &good[10..]);
    raw.at(0, &good[..10]);
    raw.wait(SHORT, |r| r.reset);
    field.unharmed();
}

#[test]
fn bytes_judged_but_refused_by_tcp_do_not_come_back_changed() {
    if harness::skip("bad_checksum") {
        return;
    }
    let field = Field::new("checksum");
    // padded, so that veth leaves the checksum to TCP (57 bytes of payload and more)
    let (good, evil) = (conversation("good-good-good-good"), conversation("good-goAd-good-good"));
    let refusals: [(u8, Odd); 3] = [
        (PSH | ACK, Odd { bad_checksum: true, ..Odd::default() }),
        (PSH | ACK, Odd { ack: Some(77), ..Odd::default() }),
        (PSH, Odd::default()),
    ];
    for (flags, odd) in refusals {
        let mut raw = field.client();
        raw.connect();
        raw.segment(flags, raw.seq, &good, &odd);
        for _ in 0..3 {
            raw.at(0, &evil);
            raw.at(30, &evil[30..]);
        }
        raw.wait(SHORT, |r| r.reset);
    }
    field.unharmed();
}

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

#[test]
fn old_bytes_with_other_content_change_nothing() {
    if harness::skip("retransmission") {
        return;
    }
    let field = Field::new("again");
    let (good, evil) = (conversation("first"), conversation("fArst"));
    let mut raw = field.client();
    raw.connect();
    raw.send(&good[..60]);
    assert!(raw.wait(harness::patience(SHORT), |r| r.acked == r.seq));
    raw.segment(PSH | ACK, raw.isn.wrapping_add(1), &evil[..60], &Odd::default());
    // what overlaps accepted bytes is cut off by TCP, and so it is by the judge
    raw.segment(PSH | ACK, raw.isn.wrapping_add(21), &good[20..], &Odd::default());
    field.seen("first");
    let mut raw = field.client();
    raw.connect();
    raw.send(&good[..60]);
    assert!(raw.wait(harness::patience(SHORT), |r| r.acked == r.seq));
    raw.segment(PSH | ACK, raw.isn.wrapping_add(21), &evil[20..], &Odd::default());
    raw.wait(SHORT, |r| r.reset);
    field.unharmed();
}

#[test]
fn urgent_data_cuts_the_connection() {
    if harness::skip("urgent") {
        return;
    }
    let field = Field::new("urgent");
    let bytes = conversation("bAd");
    let at = bytes.iter().position(|&b| b == b'A').unwrap();
    let mut raw = field.client();
    raw.connect();
    raw.segment(PSH | ACK | URG, raw.seq, &bytes, &Odd { urgent: at as u16, ..Odd::default() });
    field.cause("urgent");
    let mut raw = field.client();
    raw.connect();
    raw.segment(ACK | URG, raw.seq, &[], &Odd { urgent: 50, ..Odd::default() });
    raw.at(0, &conversation("after-urgent"));
    raw.wait(SHORT, |r| r.reset);
    assert!(!field.server.process().lines().iter().any(|l| l.contains("after-urgent")));
    field.unharmed();
}

#[test]
fn audit_mode_cuts_nothing() {
    if harness::skip("audit") {
        return;
    }
    let field = Field::under("audit", &POLICY.replace("default =", "mode = \"audit\"\ndefault ="));
    let bytes = conversation("by-file-A");
    let mut file = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut file, &bytes).unwrap();
    let socket = field.veth.run(End::A, || std::net::TcpStream::connect(("10.77.0.2", PORT)).unwrap());
    let mut at = 0;
    // SAFETY: both descriptors are open, and `at` is valid for the call.
    assert!(unsafe { libc::sendfile(fd(&socket), fd(&file), &raw mut at, bytes.len()) } > 0);
    if harness::pages_can_be_told() {
        field.enforcer.wait_for("shared", |e| e["reason"] == "shared_pages" && e["verdict"] == "audit-deny");
    }
    field.seen("by-file-A");
    assert!(field.enforcer.stop().success());
}

#[test]
fn data_on_a_syn_is_dropped() {
    if harness::skip("syn_data") {
        return;
    }
    let field = Field::new("syn");
    let mut raw = field.client();
    raw.segment(SYN, raw.isn, &conversation("synA"), &Odd::default());
    assert!(!raw.wait(SHORT, |r| r.ack != 0), "answered");
    raw.connect();
    raw.segment(SYN | ACK, raw.seq, &conversation("synA"), &Odd::default());
    raw.send(&conversation("plain"));
    field.seen("plain");
    field.unharmed();
}

#[test]
fn a_fin_with_data_and_data_after_a_fin() {
    if harness::skip("fin") {
        return;
    }
    let field = Field::new("fin");
    let bytes = conversation("last");
    let mut raw = field.client();
    raw.connect();
    raw.send(&bytes[..30]);
    raw.segment(PSH | ACK | FIN, raw.seq, &bytes[30..], &Odd::default());
    // whether the handler still runs is the server's affair: TCP has the data and the FIN
    let end = raw.isn.wrapping_add(bytes.len() as u32 + 2);
    assert!(
        raw.wait(harness::patience(SHORT), |r| r.acked == end),
        "acknowledged up to {}",
        raw.acked.wrapping_sub(raw.isn)
    );
    let evil = conversation("lAst");
    let mut raw = field.client();
    raw.connect();
    raw.send(&evil[..30]);
    raw.segment(PSH | ACK | FIN, raw.seq, &evil[30..], &Odd::default());
    let mut raw = field.client();
    raw.connect();
    raw.segment(ACK | FIN, raw.seq, &[], &Odd::default());
    raw.at(1, &evil);
    raw.at(0, &evil);
    raw.wait(SHORT, |r| r.reset);
    let mut raw = field.client();
    raw.connect();
    raw.segment(ACK | FIN, raw.seq.wrapping_add(30), &[], &Odd::default());
    raw.segment(ACK | FIN, raw.seq.wrapping_add(31), &[], &Odd::default());
    raw.at(0, &evil);
    raw.wait(SHORT, |r| r.reset);
    field.unharmed();
}

#[test]
fn a_port_used_again_at_once_is_a_new_connection() {
    if harness::skip("port_reuse") {
        return;
    }
    let field = Field::new("reuse");
    for (isn, text) in [(1_000, "one"), (500_000, "two"), (900_000, "three")] {
        let mut raw = Raw::with(&field.veth, false, 33333, PORT, isn);
        raw.connect();
        raw.send(&conversation(text));
        field.seen(text);
        raw.segment(RST | ACK, raw.seq, &[], &Odd::default());
    }
    let mut raw = Raw::with(&field.veth, false, 33333, PORT, 1_500_000);
    raw.connect();
    raw.send(&conversation("fourA"));
    raw.wait(SHORT, |r| r.finished || r.reset);
    field.unharmed();
}

#[test]
fn beyond_the_window_nothing_is_judged_or_delivered() {
    if harness::skip("window") {
        return;
    }
    let field = Field::new("window");
    let bytes = conversation("inside");
    let mut raw = field.client();
    raw.connect();
    raw.at(1 << 24, &conversation("outsideA"));
    raw.send(&bytes);
    field.seen("inside");
    field.unharmed();
}

#[test]
fn ipv6_extension_headers_hide_nothing() {
    if harness::skip("extension_headers") {
        return;
    }
    let field = Field::new("extension");
    let options = vec![6, 0, 1, 4, 0, 0, 0, 0];
    let two = [vec![60, 0, 1, 4, 0, 0, 0, 0], options.clone()].concat();
    let many: Vec<u8> =
        (0..12).flat_map(|i| if i == 11 { options.clone() } else { vec![60, 0, 1, 4, 0, 0, 0, 0] }).collect();
    for (chain, text, arrives) in [(options, "options", true), (two, "chain", true), (many, "endless", false)] {
        let odd = Odd { extension: Some((60, chain)), ..Odd::default() };
        let mut raw = Raw::new(&field.veth, true, PORT);
        raw.connect();
        raw.segment(PSH | ACK, raw.seq, &conversation(text), &odd);
        if arrives {
            field.seen(text);
        }
        let mut raw = Raw::new(&field.veth, true, PORT);
        raw.connect();
        raw.segment(PSH | ACK, raw.seq, &conversation("hiddenA"), &odd);
        raw.wait(SHORT, |r| r.finished || r.reset);
    }
    assert!(!field.server.process().lines().iter().any(|l| l.contains("endless")));
    field.unharmed();
}

#[test]
fn keep_alives_and_window_probes_with_data_change_nothing() {
    if harness::skip("probes") {
        return;
    }
    let field = Field::new("probes");
    let (good, evil) = (conversation("probed"), conversation("prAbed"));
    let mut raw = field.client();
    raw.connect();
    raw.send(&good[..80]);
    assert!(raw.wait(harness::patience(SHORT), |r| r.acked == r.seq));
    raw.segment(ACK, raw.seq.wrapping_sub(1), &evil[79..80], &Odd::default());
    raw.segment(ACK, raw.seq.wrapping_sub(1), &[], &Odd::default());
    raw.send(&good[80..81]);
    raw.segment(ACK, raw.seq.wrapping_sub(1), b"A", &Odd::default());
    raw.send(&good[81..]);
    field.seen("probed");
    field.unharmed();
}

#[test]
fn pages_that_the_sender_can_still_write_are_refused() {
    if harness::skip_pages("shared_pages") {
        return;
    }
    let field = Field::new("pages");
    let bytes = conversation("shAred");
    let mut file = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut file, &bytes).unwrap();
    for (end, address) in [(End::A, "10.77.0.2"), (End::B, "127.0.0.1"), (End::B, "::1")] {
        for splice in [false, true] {
            let before = field.enforcer.events().iter().filter(|e| e["reason"] == "shared_pages").count();
            let socket = field.veth.run(end, || std::net::TcpStream::connect((address, PORT)).unwrap());
            if splice {
                vmsplice_into(&bytes, &socket);
            } else {
                let mut at = 0;
                // SAFETY: both descriptors are open, and `at` is valid for the call.
                let n = unsafe { libc::sendfile(fd(&socket), fd(&file), &raw mut at, bytes.len()) };
                assert_eq!(n, bytes.len().cast_signed());
            }
            field.enforcer.process_lines(|lines| lines.iter().filter(|l| l.contains("shared_pages")).count() > before);
            drop(socket);
        }
    }
    // what send() copied is frozen, however long
    let mut socket = field.veth.run(End::A, || std::net::TcpStream::connect(("10.77.0.2", PORT)).unwrap());
    std::io::Write::write_all(&mut socket, &conversation(&"copied".repeat(2000))).unwrap();
    field.seen("copiedcopiedcopi...(12000)");
    field.unharmed();
}

/// Receive offload merges segments into one: the mark of pages that can still be written must survive it.
#[test]
fn merged_segments_keep_the_mark_of_shared_pages() {
    if harness::skip_pages("shared_pages_merged") {
        return;
    }
    let field = Field::new("merged");
    for (end, device, features) in
        [(End::A, "pga0", ["tso", "off", "gso", "off"]), (End::B, "pgb0", ["gro", "on", "rx", "on"])]
    {
        let mut ethtool = std::process::Command::new("ethtool");
        ethtool.arg("-K").arg(device).args(features);
        field.veth.enter(end, &mut ethtool);
        assert!(ethtool.status().unwrap().success());
    }
    let bytes = conversation(&"shAred".repeat(20_000));
    let mut file = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut file, &bytes).unwrap();
    for round in 1..=5 {
        let socket = field.veth.run(End::A, || std::net::TcpStream::connect(("10.77.0.2", PORT)).unwrap());
        let mut at = 0;
        // SAFETY: both descriptors are open, and `at` is valid for the call.
        assert!(unsafe { libc::sendfile(fd(&socket), fd(&file), &raw mut at, bytes.len()) } > 0);
        field.enforcer.process_lines(|lines| lines.iter().filter(|l| l.contains("shared_pages")).count() == round);
    }
    field.unharmed();
}

/// The filter runs for one connection on two CPUs at once, without the socket's lock.
#[test]
fn two_cpus_on_one_connection_lose_nothing_and_let_nothing_past() {
    if harness::skip("two_cpus") {
        return;
    }
    const CALLS: u32 = 150;
    const SIZE: usize = 200;
    let field = Field::new("cpus");
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
                let mut set = nix::sched::CpuSet::new();
                let _ = set.set(cpu).and_then(|()| nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set));
                segments.iter().skip(cpu).step_by(2).for_each(|(at, part)| raw.at(*at, part));
            });
        }
    });
    // what was dropped comes again, as TCP would send it
    let first = raw.seq;
    for _ in 0..400 {
        raw.wait(Duration::from_millis(20), |_| false);
        let missing = raw.acked.wrapping_sub(first);
        let Some((at, part)) = segments.iter().rev().find(|(at, _)| *at <= missing) else { break };
        raw.at(*at, part);
        if field.server.messages() as u32 == CALLS {
            break;
        }
    }
    assert_eq!(field.server.messages() as u32, CALLS, "acknowledged {}", raw.acked.wrapping_sub(first));
    raw.at(bytes.len() as u32, &evil);
    field.enforcer.wait_for("denied", |e| e["type"] == "decision" && e["verdict"] == "deny");
    assert!(field.enforcer.events().iter().all(|e| e["reason"] != "unjudged" && e["reason"] != "lock"));
    field.unharmed();
}

/// Hands the pages of `bytes` to the socket through a pipe.
fn vmsplice_into(bytes: &[u8], socket: &std::net::TcpStream) {
    let mut pipe = [0; 2];
    let vector = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: the pipe's descriptors are valid, the vector describes `bytes`, which outlives the splice.
    unsafe {
        assert_eq!(libc::pipe(pipe.as_mut_ptr()), 0);
        assert_eq!(libc::vmsplice(pipe[1], &raw const vector, 1, 0), bytes.len().cast_signed());
        let n = libc::splice(pipe[0], std::ptr::null_mut(), fd(socket), std::ptr::null_mut(), bytes.len(), 0);
        assert_eq!(n, bytes.len().cast_signed());
        libc::close(pipe[0]);
        libc::close(pipe[1]);
    }
}
