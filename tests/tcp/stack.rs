//! Ways of the stack to set up and end connections. Each test runs twice: without the enforcer the denied message gets
//! through, so the attack is one; with it, it does not.

use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use libc::{IPPROTO_MPTCP, IPPROTO_TCP, SOL_TCP};
use protocg_peers::harness;
use protocg_peers::harness::net::End;
use protocg_peers::raw::{ACK, FIN, Odd, PSH, Raw, SYN};
use serde_json::json;

use crate::field::{SHORT, conversation, eventually, fd, next_call};
use crate::wall::{Wall, address, socket};

/// A good conversation, and one that goes on with a denied call.
fn both() -> (Vec<u8>, Vec<u8>) {
    (conversation("good"), conversation("evilA"))
}

/// Whether this kernel has Multipath TCP; says so if not.
pub fn no_mptcp(test: &str) -> bool {
    // SAFETY: plain system calls; the descriptor is new.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM, IPPROTO_MPTCP) };
    if fd < 0 {
        println!("SKIPPED {test}: the kernel offers no Multipath TCP: {}", std::io::Error::last_os_error());
        return true;
    }
    // SAFETY: as above.
    unsafe { libc::close(fd) };
    false
}

/// Multipath TCP on both sides: the data has an order of its own, which the filter does not follow, so all of it is
/// refused. With one side only, the connection is plain TCP, and is judged as such.
#[test]
fn multipath_tcp_is_cut_and_its_fallback_judged() {
    if harness::skip("mptcp") || no_mptcp("mptcp") {
        return;
    }
    let (good, evil) = both();
    for (client, server) in [(IPPROTO_MPTCP, IPPROTO_MPTCP), (IPPROTO_MPTCP, IPPROTO_TCP), (IPPROTO_TCP, IPPROTO_MPTCP)]
    {
        let multipath = client == server;
        for enforced in [false, true] {
            let wall = Wall::new("mptcp", enforced, &json!({ "protocol": server }), &[]);
            let mut stream = wall.connect(client);
            stream.write_all(&good).unwrap();
            if multipath && enforced {
                wall.said("mptcp");
                std::thread::sleep(SHORT);
                assert!(wall.got().iter().all(|got| got.bytes == 0), "{:?}", wall.got());
            } else {
                assert_eq!(wall.whole(good.len()).mptcp, multipath);
            }
            let mut stream = wall.connect(client);
            stream.write_all(&evil).unwrap();
            wall.denied();
            wall.over();
        }
    }
}

/// With SYN cookies the kernel keeps nothing of a handshake until its last ACK, which may carry data.
#[test]
fn connections_made_of_syn_cookies_are_judged_from_their_first_byte() {
    if harness::skip("syn_cookies") {
        return;
    }
    let (good, evil) = both();
    for enforced in [false, true] {
        let wall = Wall::new("cookies", enforced, &json!({}), &[("ipv4/tcp_syncookies", "2")]);
        let before = wall.stat("SyncookiesRecv");
        let mut stream = wall.connect(IPPROTO_TCP);
        stream.write_all(&good).unwrap();
        wall.whole(good.len());
        // On the last ACK: all, and a part.
        let longer = conversation("good-good");
        assert!(wall.client().connect_with(&longer));
        wall.whole(longer.len());
        let longest = conversation("good-good-good");
        let mut raw = wall.client();
        assert!(raw.connect_with(&longest[..40]));
        raw.send(&longest[40..]);
        wall.whole(longest.len());
        for cut in [0, 40, evil.len()] {
            let mut raw = wall.client();
            assert!(raw.connect_with(&evil[..cut]));
            raw.send(&evil[cut..]);
            // What was refused on the last ACK comes again, behind a plain one and with it.
            for _ in 0..3 {
                raw.segment(ACK, raw.isn.wrapping_add(1), &[], &Odd::default());
                raw.segment(PSH | ACK, raw.isn.wrapping_add(1), &evil, &Odd::default());
            }
        }
        wall.denied();
        assert!(wall.stat("SyncookiesRecv") >= before + 4, "no cookies");
        wall.over();
    }
}

/// TCP_DEFER_ACCEPT: the kernel ignores the plain last ACK, and the first data comes as if on it.
#[test]
fn data_of_deferred_connections_is_judged() {
    if harness::skip("defer_accept") {
        return;
    }
    let (good, evil) = both();
    let options = json!({ "options": [[SOL_TCP, libc::TCP_DEFER_ACCEPT, 3]] });
    for enforced in [false, true] {
        let wall = Wall::new("defer", enforced, &options, &[]);
        let mut stream = wall.connect(IPPROTO_TCP);
        stream.write_all(&good).unwrap();
        wall.whole(good.len());
        // In two parts, of which the second comes to a connection.
        let longer = conversation("good-good");
        let mut raw = wall.client();
        raw.connect();
        raw.send(&longer[..40]);
        raw.send(&longer[40..]);
        raw.segment(PSH | ACK, raw.isn.wrapping_add(41), &longer[40..], &Odd::default());
        wall.whole(longer.len());
        let mut stream = wall.connect(IPPROTO_TCP);
        let began = Instant::now();
        stream.write_all(&evil).unwrap();
        if enforced {
            // Nobody is left waiting: the handshake is completed without the data, which is denied then.
            stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
            // A signal of another test's child may come in between.
            let end = std::iter::repeat_with(|| stream.read(&mut [0; 64]))
                .find(|end| !matches!(end, Err(e) if e.kind() == ErrorKind::Interrupted))
                .unwrap();
            println!("a denied client of a deferred connection hears of it after {:.1?}: {end:?}", began.elapsed());
            assert!(!matches!(&end, Err(e) if e.kind() != ErrorKind::ConnectionReset), "{end:?}");
        }
        let mut raw = wall.client();
        raw.connect();
        for part in evil.chunks(40) {
            raw.send(part);
        }
        for _ in 0..4 {
            raw.segment(PSH | ACK, raw.isn.wrapping_add(1), &evil, &Odd::default());
            raw.segment(PSH | ACK, raw.isn.wrapping_add(41), &evil[40..], &Odd::default());
            raw.wait(SHORT, |r| r.reset);
        }
        wall.denied();
        wall.over();
    }
}

/// TCP Fast Open without cookies: data on the SYN itself. It is dropped, and the client sends it again behind the handshake.
#[test]
fn data_of_fast_open_is_judged_after_the_handshake() {
    if harness::skip("fast_open") {
        return;
    }
    let (good, evil) = both();
    let options = json!({ "options": [[SOL_TCP, libc::TCP_FASTOPEN, 16]] });
    for enforced in [false, true] {
        // Client and server: on, for every listener that asks for it, no cookie needed.
        let wall = Wall::new("fastopen", enforced, &options, &[("ipv4/tcp_fastopen", "519")]);
        let send = |bytes: &[u8]| {
            wall.veth.run(End::A, || {
                let stream = socket(IPPROTO_TCP);
                let to = address();
                // SAFETY: the bytes and the address are valid for their sizes.
                let sent = unsafe {
                    let size = size_of_val(&to) as u32;
                    let (bytes, length) = (bytes.as_ptr().cast(), bytes.len());
                    libc::sendto(fd(&stream), bytes, length, libc::MSG_FASTOPEN, (&raw const to).cast(), size)
                };
                assert_eq!(sent, bytes.len().cast_signed(), "{}", std::io::Error::last_os_error());
                stream
            })
        };
        let one = send(&good);
        wall.whole(good.len());
        let two = send(&evil);
        wall.denied();
        let opened = wall.stat("TCPFastOpenPassive");
        assert_eq!(opened, if enforced { 0 } else { 2 });
        drop((one, two));
        wall.over();
    }
}

/// The server closes first, so the old connection waits in TIME_WAIT when its ports come again.
#[test]
fn ports_that_come_again_in_time_wait_are_a_new_connection() {
    if harness::skip("time_wait") {
        return;
    }
    let (good, evil) = both();
    for enforced in [false, true] {
        let wall = Wall::new("timewait", enforced, &json!({ "close": good.len() }), &[]);
        let mut isn = 1_000_000;
        let mut again = |first: &[u8], rest: &[u8]| {
            let mut raw = Raw::with(&wall.veth, false, 33333, crate::field::PORT, isn);
            assert!(raw.connect_with(first), "refused in TIME_WAIT");
            raw.send(rest);
            isn += 1_000_000;
            raw
        };
        for round in 1..=3 {
            // Each way of the first data; the connection before it is in TIME_WAIT.
            let cut = [0, good.len(), 30][round - 1];
            let mut raw = again(&good[..cut], &good[cut..]);
            eventually("the connection", || wall.got().len() == round);
            assert!(raw.wait(harness::patience(Duration::from_secs(2)), |r| r.finished), "no FIN");
            raw.segment(ACK | FIN, raw.seq, &[], &Odd::default());
            raw.wait(SHORT, |r| r.acked == r.seq.wrapping_add(1));
            // The old connection's number space: too late for it, too early for the next.
            raw.segment(PSH | ACK, raw.seq.wrapping_add(1), &next_call(3, "evilA"), &Odd::default());
        }
        assert!(!wall.breached());
        let mut raw = again(&[], &evil);
        raw.wait(SHORT, |r| r.reset);
        wall.denied();
        wall.over();
    }
}

/// With a full accept queue TCP refuses the handshake's last ACK and its data after they were judged; other bytes come in
/// their place.
#[test]
fn data_that_a_full_accept_queue_refused_does_not_come_back_changed() {
    if harness::skip("accept_queue") {
        return;
    }
    let (good, evil) = (conversation("good-"), conversation("evilA"));
    for enforced in [false, true] {
        let wall = Wall::new("queue", enforced, &json!({ "backlog": 0, "pause": 2.5 }), &[]);
        let mut raw = wall.client();
        raw.segment(SYN, raw.isn, &[], &Odd::default());
        raw.seq = raw.isn.wrapping_add(1);
        assert!(raw.wait(harness::patience(SHORT), |r| r.ack != 0), "no SYN-ACK");
        // Another takes the only place in the queue before the handshake ends.
        let mut other = wall.client();
        other.connect();
        raw.segment(PSH | ACK, raw.seq, &good, &Odd::default());
        raw.wait(SHORT, |r| r.reset);
        assert!(wall.stat("ListenOverflows") > 0, "the queue is not full");
        for _ in 0..20 {
            raw.segment(PSH | ACK, raw.isn.wrapping_add(1), &evil, &Odd::default());
            raw.segment(ACK, raw.isn.wrapping_add(1), &[], &Odd::default());
            raw.segment(PSH | ACK, raw.isn.wrapping_add(1), &evil, &Odd::default());
            raw.wait(Duration::from_millis(200), |r| r.reset);
        }
        other.send(&good);
        wall.whole(good.len());
        wall.denied();
        raw.wait(Duration::from_secs(2), |r| r.reset);
        wall.over();
    }
}
