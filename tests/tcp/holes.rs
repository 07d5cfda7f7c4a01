//! Holes that denied segments leave, and the copies that fill them: what a client can do about them, and with a segment of
//! many denied calls.

use std::time::Duration;

use protocg_peers::h2raw::{self, Encoder, Headers, Indexing, Style, frame};
use protocg_peers::harness;
use protocg_peers::harness::net::End;
use protocg_peers::harness::patience;
use protocg_peers::raw::{ACK, FIN, Odd, PSH, Raw};

use crate::client::{CLIENT_STREAM, Client, LONG, POLICY, UNARY, call, head, text, unharmed};
use crate::field::{Field, PORT, SHORT};

fn scene(name: &str) -> Field {
    Field::under(name, POLICY)
}

/// A segment with a denied call, and the copy that takes its place: the call's frames are of an unknown type.
fn denied_and_copy(stream: u32) -> (Vec<u8>, Vec<u8>) {
    let frames = [head(stream, UNARY), frame::data(stream, &text("an A, to be taken out"), true, None)];
    let blank = |f: &Vec<u8>| frame::frame(0x2a, 0, 0, &vec![0; f.len() - 9]);
    (frames.concat(), frames.iter().flat_map(blank).collect())
}

/// Stops the agent, so that holes stay open.
fn stopped(scene: &mut Field, what: impl FnOnce()) {
    scene.signal(nix::sys::signal::Signal::SIGSTOP);
    what();
    scene.signal(nix::sys::signal::Signal::SIGCONT);
}

/// Whatever touches the hole but is not the copy is dropped: earlier, later, shorter, longer, forged, or with a FIN.
#[test]
fn only_the_copy_fills_a_hole() {
    if harness::skip("mending_hole") {
        return;
    }
    let mut scene = scene("hole");
    let (denied, copy) = denied_and_copy(3);
    let n = denied.len() as u32;
    let tries: [(&str, u32, Vec<u8>, u8); 8] = [
        ("again", 0, denied.clone(), PSH | ACK),
        ("its first part", 0, denied[..90].to_vec(), PSH | ACK),
        ("its end", 90, denied[90..].to_vec(), PSH | ACK),
        ("more than it", 0, [denied.clone(), call(5, UNARY, "another")].concat(), PSH | ACK),
        ("with a FIN", 0, denied.clone(), PSH | ACK | FIN),
        ("the copy with a FIN", 0, copy.clone(), PSH | ACK | FIN),
        ("the copy's first part", 0, copy[..90].to_vec(), PSH | ACK),
        ("the copy, changed", 0, [&copy[..n as usize - 1], b"A"].concat(), PSH | ACK),
    ];
    for (what, at, bytes, flags) in tries {
        let mut client = Client::of(&scene);
        let (base, denied) = (client.raw.seq, denied.clone());
        stopped(&mut scene, || {
            client.bytes(&denied);
            client.bytes(&call(7, UNARY, "behind"));
            for _ in 0..3 {
                client.raw.segment(flags, base.wrapping_add(at), &bytes, &Odd::default());
            }
            client.raw.wait(SHORT, |_| false);
            assert_eq!(client.raw.acked, base, "{what}");
        });
        assert_eq!((client.status(3), client.status(7)), (Some(7), Some(0)), "{what}");
        assert!(client.taken());
    }
    unharmed(scene);
}

/// A client may send the copy itself: then nothing is left to fill. Refused by TCP, it does not open the way for others, and the agent
/// sends its own.
#[test]
fn a_copy_that_the_client_sends_is_as_good() {
    if harness::skip("mending_own_copy") {
        return;
    }
    let mut scene = scene("own");
    for refused in [false, true] {
        let mut client = Client::of(&scene);
        let (base, (denied, copy)) = (client.raw.seq, denied_and_copy(3));
        stopped(&mut scene, || {
            client.bytes(&denied);
            let odd = Odd { bad_checksum: refused, ..Odd::default() };
            client.raw.segment(PSH | ACK, base, &copy, &odd);
            for _ in 0..8 {
                client.raw.segment(PSH | ACK, base, &denied, &Odd::default());
                client.raw.wait(Duration::from_millis(150), |_| false);
            }
            assert_eq!(client.raw.acked == base, refused);
        });
        assert_eq!(client.status(3), Some(7));
        client.bytes(&call(5, UNARY, "next"));
        assert_eq!(client.status(5), Some(0));
    }
    unharmed(scene);
}

/// While the agent is busy the client says again what the server has: TCP refuses older timestamps than those
/// (RFC 7323, section 5), and so the copy, whose timestamp is the dropped segment's, at first.
#[test]
fn a_copy_is_not_too_old_for_tcp() {
    if harness::skip("mending_old") {
        return;
    }
    let mut scene = scene("old");
    let (denied, _) = denied_and_copy(3);
    let sport = 40_000 + (harness::unique() % 20_000) as u16;
    let mut raw = Raw::with(&scene.veth, false, sport, PORT, harness::unique());
    raw.timestamp = Some(1_000);
    let mut client = Client::new(raw);
    client.open();
    stopped(&mut scene, || {
        client.bytes(&denied);
        let had = client.raw.seq.wrapping_sub(denied.len() as u32 + 1);
        client.raw.segment(ACK, had, b"x", &Odd { timestamp: Some(2_000), ..Odd::default() });
        client.raw.wait(SHORT, |_| false);
    });
    client.raw.timestamp = Some(2_000);
    assert_eq!(client.status(3), Some(7));
    assert!(client.taken());
    client.bytes(&call(5, UNARY, "next"));
    assert_eq!(client.status(5), Some(0));
    drop(client);
    unharmed(scene);
}

/// Sequence numbers wrap inside the hole, before it and behind it.
#[test]
fn holes_stand_where_sequence_numbers_wrap() {
    if harness::skip("mending_wrap") {
        return;
    }
    let scene = scene("wrap");
    let opening = [h2raw::open(&[]), frame::settings_ack(), call(1, UNARY, "first")].concat().len() as u32;
    let (denied, _) = denied_and_copy(3);
    for back in [0, 1, 60, denied.len() as u32 - 1, denied.len() as u32] {
        let isn = 0_u32.wrapping_sub(1 + opening + back);
        let sport = 40_000 + (harness::unique() % 20_000) as u16;
        let mut client = Client::new(Raw::with(&scene.veth, false, sport, PORT, isn));
        client.open();
        client.bytes(&denied);
        client.bytes(&call(5, UNARY, "behind"));
        assert_eq!((client.status(3), client.status(5)), (Some(7), Some(0)), "{back}");
        assert!(client.taken() && client.is_open());
    }
    unharmed(scene);
}

/// Every place of a cut through two denied calls and their neighbours: the connection goes on, or ends whole.
#[test]
fn wherever_segments_end_neighbours_are_served_or_told() {
    if harness::skip("mending_cuts") {
        return;
    }
    let scene = scene("cuts");
    let bytes = [
        call(3, UNARY, "one"),
        call(5, UNARY, "an A"),
        [head(7, CLIENT_STREAM), frame::data(7, &text("A"), false, Some(3))].concat(),
        call(9, UNARY, "two"),
        frame::data(7, &text("A again"), true, None),
        call(11, UNARY, "three"),
    ]
    .concat();
    for cut in (1..bytes.len()).step_by(7) {
        let mut client = Client::of(&scene);
        client.bytes(&bytes[..cut]);
        client.bytes(&bytes[cut..]);
        client.until(LONG, |r| [3, 5, 7, 9, 11].iter().all(|&s| r.answer(s).over()));
        for stream in [5, 7] {
            assert_ne!(client.reader.answer(stream).status(), Some(0), "cut at {cut}");
        }
        for stream in [3, 9, 11] {
            let answered = client.reader.answer(stream).status();
            let retried = client.reader.goaway.is_some_and(|(last, _)| last < stream);
            assert!(answered == Some(0) || retried, "cut at {cut}: {stream} {answered:?} {:?}", client.reader.goaway);
        }
    }
    unharmed(scene);
}

/// Out of order, after a denial: withheld segments come as copies, whole and in their place.
#[test]
fn withheld_segments_come_in_their_place() {
    if harness::skip("mending_withheld") {
        return;
    }
    let scene = scene("withheld");
    let mut client = Client::of(&scene);
    client.bytes(&denied_and_copy(3).0);
    assert_eq!(client.status(3), Some(7));
    let mut parts = Vec::new();
    let mut length = 0;
    for stream in (5..45).step_by(2) {
        let says = if stream % 4 == 1 { "A" } else { "a good one" };
        let part =
            [head(stream, UNARY), frame::data(stream, &text(says), false, None), frame::data(stream, &[], true, None)];
        parts.push((length, part.concat()));
        length += part.concat().len() as u32;
    }
    for (at, part) in parts.iter().rev() {
        client.raw.at(*at, part);
    }
    client.raw.seq = client.raw.seq.wrapping_add(length);
    for stream in (5..45).step_by(2) {
        let expected = if stream % 4 == 1 { 7 } else { 0 };
        assert_eq!(client.status(stream), Some(expected), "{stream}");
    }
    assert!(client.taken() && client.is_open());
    drop(client);
    unharmed(scene);
}

/// TCP has not got what is withheld ahead of a gap. Its client hears all the same that it came, and that something before it did not:
/// without that it would learn of every loss by a timeout, and each would be longer than the last.
#[test]
fn what_is_withheld_is_acknowledged() {
    if harness::skip("mending_sack") {
        return;
    }
    let scene = scene("sack");
    for (v6, sack, timestamp) in [
        (false, true, None),
        (true, true, Some(1_000)),
        (false, true, Some(1_000)),
        (false, false, None),
        (true, false, Some(1_000)),
    ] {
        let mut raw = Raw::new(&scene.veth, v6, PORT);
        (raw.sack, raw.timestamp) = (sack, timestamp);
        let mut client = Client::new(raw);
        client.open();
        client.bytes(&denied_and_copy(3).0);
        assert_eq!(client.status(3), Some(7));
        assert!(client.taken());
        let parts = [call(5, UNARY, "one"), call(7, UNARY, "an A"), call(9, UNARY, "two")];
        let (gap, first) = (client.raw.seq, parts[0].len() as u32);
        let (mut at, mut places) = (first, Vec::new());
        for part in &parts[1..] {
            let place = (gap.wrapping_add(at), gap.wrapping_add(at + part.len() as u32));
            places.insert(0, place);
            client.raw.acknowledgements.clear();
            client.raw.segment(PSH | ACK, place.0, part, &Odd::default());
            let said = if sack { &places[..] } else { &[] };
            let heard = client.raw.wait(patience(LONG), |raw| {
                let is_next = |seq: u32| raw.ack.wrapping_sub(seq) < 1_000;
                raw.acknowledgements.iter().any(|it| is_next(it.seq) && it.ack == gap && it.blocks == said)
            });
            assert!(heard, "{said:?} {gap}: {:?}", client.raw.acknowledgements);
            at += part.len() as u32;
        }
        client.bytes(&parts[0]);
        client.raw.seq = gap.wrapping_add(at);
        for (stream, status) in [(5, 0), (7, 7), (9, 0)] {
            assert_eq!(client.status(stream), Some(status), "{stream}");
        }
        assert!(client.taken() && client.is_open());
    }
    unharmed(scene);
}

/// A segment of many denied calls, their HEADERS before their DATA, costs time in proportion to its length.
#[test]
fn many_denied_calls_in_one_segment_take_no_long_time() {
    if harness::skip("mending_quadratic") {
        return;
    }
    let scene = scene("quadratic");
    let mut stream = scene.veth.run(End::A, || std::net::TcpStream::connect(("10.77.0.2", PORT)).unwrap());
    let mut encoder = Encoder::default();
    let style = Style { indexing: Indexing::Incremental, huffman: false, references: true };
    let opening = [h2raw::open(&[]), frame::settings_ack(), h2raw::unary(&mut encoder, style, 1, UNARY, b"")].concat();
    std::io::Write::write_all(&mut stream, &opening).unwrap();
    // frames that nobody reads, until TCP's windows are wide
    let ignored = frame::frame(0x2a, 0, 0, &[0; 16_000]);
    (0..200).for_each(|_| std::io::Write::write_all(&mut stream, &ignored).unwrap());
    std::thread::sleep(SHORT);
    let block = encoder.encode(&h2raw::call(UNARY, &[]), style);
    const CALLS: u32 = 1500;
    let streams = || (0..CALLS).map(|i| 3 + 2 * i);
    let mut bytes: Vec<u8> = streams().flat_map(|s| Headers::new(false).write(s, &block)).collect();
    bytes.extend(streams().flat_map(|s| frame::data(s, &text("A"), true, None)));
    assert!(bytes.len() < 65_000);
    let began = std::time::Instant::now();
    std::io::Write::write_all(&mut stream, &bytes).unwrap();
    assert!(
        began.elapsed() < harness::patience(Duration::from_millis(150)),
        "{:?} for {} bytes",
        began.elapsed(),
        bytes.len()
    );
    drop(stream);
    unharmed(scene);
}
