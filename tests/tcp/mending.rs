//! What a client can make of mending: the HPACK tables, and streams that mending has ended. Each attack tries to get what
//! the policy denies to a handler, or to make a neighbour pay.

use std::collections::HashSet;

use protocg_peers::h2raw::{self, Encoder, Field as Header, Headers, Indexing, Name, Str, Style, frame, hpack};
use protocg_peers::harness;
use protocg_peers::wire::Message;

use crate::client::{CLIENT_STREAM, Client, POLICY, SLOW, UNARY, call, head, incremental, plain, text, unharmed};
use crate::field::{Field, SHORT, eventually};

fn scene(name: &str) -> Field {
    Field::under(name, POLICY)
}

// ---- what the tables know ----

/// Trailers may insert into the HPACK table: with the frames of a denied RPC they must not be taken out.
#[test]
fn trailers_of_a_denied_call_keep_their_place_in_the_table() {
    if harness::skip("mending_trailers") {
        return;
    }
    let scene = scene("trailers");
    let mut client = Client::of(&scene);
    let insert = |name, value| hpack::block(&[incremental(name, value)]);
    let second = frame::data(3, &text("fine"), true, None);
    let mut block = plain(&h2raw::call(UNARY, &[("x-user", "friend")]));
    block.extend(insert("x-other", "one"));
    client.bytes(&[Headers::new(false).write(3, &block), second].concat());
    assert_eq!(client.status(3), Some(0));
    let trailers = Headers::new(true).write(5, &insert("x-other", "two"));
    client.bytes(&[head(5, UNARY), frame::data(5, b"\0\0", false, None), trailers].concat());
    scene.denials(1);
    let mut block = plain(&h2raw::call(UNARY, &[]));
    Header::Indexed(62).write(&mut block);
    client.bytes(&[Headers::new(false).write(7, &block), frame::data(7, &text("role"), true, None)].concat());
    client.until(SHORT, |r| r.answer(7).over());
    let one = scene.server.seen().iter().filter(|e| e["metadata"].to_string().contains("\"one\"")).count();
    assert_eq!(one, 1, "the second time \"two\" was meant");
    drop(client);
    unharmed(scene);
}

/// Some servers (tonic) add a request's trailers to its metadata.
#[test]
fn metadata_that_a_rule_reads_does_not_come_in_trailers() {
    if harness::skip("trailers_metadata") {
        return;
    }
    let scene = scene("behind");
    let mut client = Client::of(&scene);
    let trailers = Headers::new(true).write(3, &plain(&[("x-role", "intruder")]));
    client.bytes(&[head(3, UNARY), frame::data(3, &text("fine"), false, None)].concat());
    client.bytes(&trailers);
    scene.denials(1);
    assert_ne!(client.status(3), Some(0));
    drop(client);
    unharmed(scene);
}

/// A denial at another stream's trailers must not change the path of whoever stands before them.
#[test]
fn a_denial_in_trailers_changes_no_neighbours_path() {
    if harness::skip("mending_trailers_path") {
        return;
    }
    let scene = scene("neighbour");
    let mut client = Client::of(&scene);
    client.bytes(&[head(3, CLIENT_STREAM), frame::data(3, b"\0\0", false, None)].concat());
    assert!(client.taken());
    let trailers = Headers::new(true).write(3, &plain(&[("x-end", "now")]));
    client.bytes(&[call(5, UNARY, "neighbour"), trailers].concat());
    scene.denials(1);
    client.until(SHORT, |r| r.answer(5).over());
    assert_ne!(client.reader.answer(5).status(), Some(12), "the neighbour's path was changed");
    drop(client);
    unharmed(scene);
}

/// The byte behind a path of one character belongs to the next field.
#[test]
fn a_path_of_one_character_is_not_changed() {
    if harness::skip("mending_short_path") {
        return;
    }
    let scene = scene("short");
    for root in [Str::raw("/"), Str::huffman("/")] {
        let mut client = Client::of(&scene);
        let slow = Message::new().bytes(1, "delivered").varint(100, 300).bytes;
        client.bytes(&[head(3, UNARY), frame::data(3, &h2raw::grpc(&slow), true, None)].concat());
        assert!(client.taken());
        let block = hpack::block(&[
            Header::plain(":method", "POST"),
            Header::plain(":scheme", "http"),
            Header::Literal(Indexing::Without, Name::Index(4), root),
            incremental("x-next", "field"),
            Header::plain("content-type", "application/grpc"),
        ]);
        client.bytes(&Headers::new(true).write(5, &block));
        scene.denials(1);
        assert_eq!(client.status(3), Some(0), "a delivered call gets its answer");
    }
    unharmed(scene);
}

/// The entry of a denied path: pushed out of the table by the same block, its place in the ring is another's.
#[test]
fn the_place_of_an_evicted_path_is_anothers() {
    if harness::skip("mending_evicted_path") {
        return;
    }
    let scene = scene("evicted");
    let mut client = Client::of(&scene);
    let mut fields = vec![
        Header::plain(":method", "POST"),
        Header::plain(":scheme", "http"),
        Header::Literal(Indexing::Incremental, Name::Index(4), Str::raw(SLOW)),
        Header::plain("content-type", "application/grpc"),
    ];
    fields.extend((0..128).map(|_| incremental("x", "")));
    fields.extend(std::iter::once(incremental("y", "")));
    client.bytes(&Headers::new(false).write(3, &hpack::block(&fields)));
    assert_eq!(client.status(3), Some(7));
    // every entry of the table is an "x" or "y" on both sides
    for index in 62..62 + 120 {
        let mut block = plain(&h2raw::call(UNARY, &[]));
        Header::Indexed(index).write(&mut block);
        let stream = 5 + 2 * (index as u32 - 62);
        client
            .bytes(&[Headers::new(false).write(stream, &block), frame::data(stream, &text("x"), true, None)].concat());
        assert_eq!(client.status(stream), Some(0), "entry {index}");
    }
    drop(client);
    unharmed(scene);
}

/// A call that is denied for its metadata must not put its path into the server's table under another name, nor out of step with the
/// client's: so it ends the connection if it makes the entry, and does not if it refers to one.
#[test]
fn a_path_that_a_denied_call_puts_into_the_table_ends_the_connection() {
    if harness::skip("mending_new_path") {
        return;
    }
    let scene = scene("new-path");
    let call = |stream, path: Header, role: &str| {
        let block = hpack::block(&[
            Header::plain(":method", "POST"),
            Header::plain(":scheme", "http"),
            path,
            Header::plain("content-type", "application/grpc"),
            Header::plain("x-role", role),
        ]);
        [Headers::new(false).write(stream, &block), frame::data(stream, &text("fine"), true, None)].concat()
    };
    let new = || Header::Literal(Indexing::Incremental, Name::Index(4), Str::raw(UNARY));
    let mut client = Client::of(&scene);
    client.bytes(&call(3, new(), "intruder"));
    assert_eq!(client.status(3), Some(7));
    scene.denials(1);
    assert!(!client.is_open());
    drop(client);
    let mut client = Client::of(&scene);
    client.bytes(&call(3, new(), "friend"));
    assert_eq!(client.status(3), Some(0));
    for (stream, role, status) in [(5, "intruder", 7), (7, "friend", 0), (9, "intruder", 7)] {
        client.bytes(&call(stream, Header::Indexed(62), role));
        assert_eq!(client.status(stream), Some(status), "{stream}");
    }
    assert!(client.is_open());
    drop(client);
    unharmed(scene);
}

/// A path that was changed is the server's, with whatever metadata; a new literal with its name is whole.
#[test]
fn a_changed_path_stays_denied_and_its_name_stays_useful() {
    if harness::skip("mending_changed_path") {
        return;
    }
    let scene = scene("changed");
    for huffman in [false, true] {
        let mut client = Client::of(&scene);
        let mut encoder = Encoder::default();
        let style = Style { huffman, ..Style::SMALL };
        let slow = |encoder: &mut Encoder, stream| {
            let block = encoder.encode(&h2raw::call(SLOW, &[]), style);
            [Headers::new(false).write(stream, &block), frame::data(stream, &text("slow"), true, None)].concat()
        };
        for stream in [3, 5, 7] {
            client.bytes(&slow(&mut encoder, stream));
            assert_eq!(client.status(stream), Some(7));
        }
        let block = encoder.encode(&h2raw::call(UNARY, &[]), style);
        client.bytes(&[Headers::new(false).write(9, &block), frame::data(9, &text("fine"), true, None)].concat());
        assert_eq!(client.status(9), Some(0));
        assert!(client.is_open());
    }
    unharmed(scene);
}

// ---- what waits in TCP's own queue ----

/// A denied call waits in TCP's queue; the segment before it has a denied call, too, that could be taken out.
#[test]
fn no_copy_is_passed_before_a_denied_segment_that_waits() {
    if harness::skip("mending_held") {
        return;
    }
    let scene = scene("held");
    for malformed in [false, true] {
        let mut client = Client::of(&scene);
        let first = call(3, UNARY, "an A that is taken out");
        let bad = if malformed { frame::frame(6, 0, 0, b"ping") } else { Vec::new() };
        let second = [bad, call(5, UNARY, "an A that waits")].concat();
        client.raw.at(first.len() as u32, &second);
        client.raw.at(0, &first);
        client.raw.wait(SHORT, |r| r.reset);
    }
    unharmed(scene);
}

// ---- switches ----

/// What a switch lets pass unread does not take a denied call along.
#[test]
fn a_segment_that_ends_unread_takes_no_denied_call_along() {
    if harness::skip("mending_blind") {
        return;
    }
    let policy = POLICY
        .replace("[[deny]]\nname = \"no-a\"", "[uninspectable]\nmalformed = \"allow\"\n[[deny]]\nname = \"no-a\"");
    let scene = crate::field::Field::under("blind", &policy);
    let mut client = Client::of(&scene);
    // the head of a PING of the wrong size: the server waits for the rest before it minds
    client.bytes(&[call(3, UNARY, "an A"), frame::frame_claiming(4, 6, 0, 0, b"")].concat());
    client.raw.wait(SHORT, |r| r.reset);
    drop(client);
    unharmed(scene);
}

// ---- streams that mending has ended ----

/// A unary call whose message was emptied is open at the server: nothing else may fill it, however late.
#[test]
fn an_emptied_call_stays_empty() {
    if harness::skip("mending_emptied") {
        return;
    }
    let scene = scene("emptied");
    for others in [0_u32, 20, 200, 2000] {
        let mut client = Client::of(&scene);
        client.bytes(&head(3, UNARY));
        assert!(client.taken());
        client.bytes(&frame::data(3, &text("A"), false, None));
        assert_eq!(client.status(3), Some(7));
        for other in 0..others {
            let stream = 5 + 2 * other;
            client.bytes(&call(stream, UNARY, "A"));
            assert_eq!(client.status(stream), Some(7));
        }
        client.bytes(&frame::data(3, &text("late A"), true, None));
        client.until(SHORT, |_| false);
    }
    unharmed(scene);
}

/// Frames that were under way when many calls were denied at once reach nobody.
#[test]
fn what_follows_many_denied_calls_harms_no_neighbour() {
    if harness::skip("mending_many") {
        return;
    }
    let scene = scene("many");
    let follows: [fn(u32) -> Vec<u8>; 3] = [
        |stream| frame::data(stream, &[], true, None),
        |stream| frame::rst_stream(stream, 8),
        |stream| [frame::window_update(stream, 5), frame::data(stream, b"more", false, None)].concat(),
    ];
    for follow in follows {
        let mut client = Client::of(&scene);
        let streams = || (0..100_u32).map(|i| 3 + 2 * i);
        let begin = |stream| [head(stream, UNARY), frame::data(stream, &text("A"), false, None)].concat();
        for stream in streams() {
            client.bytes(&begin(stream));
            assert_eq!(client.status(stream), Some(7));
        }
        client.raw.send(&streams().flat_map(follow).collect::<Vec<u8>>());
        client.bytes(&call(1001, UNARY, "neighbour"));
        assert_eq!(client.status(1001), Some(0));
        assert!(client.is_open());
    }
    unharmed(scene);
}

/// What mending is there for: each of these reaches a handler where nobody enforces; with the enforcer it does not, and the
/// connection goes on.
#[test]
fn denied_calls_on_one_connection() {
    if harness::skip("mending_off") {
        return;
    }
    for enforced in [false, true] {
        let scene = Field::maybe("off", enforced, POLICY, &[]);
        let mut client = Client::of(&scene);
        let mut encoder = Encoder::default();
        let indexed = |encoder: &mut Encoder, stream, path, says| {
            let block = encoder.encode(&h2raw::call(path, &[]), Style::SMALL);
            [Headers::new(false).write(stream, &block), frame::data(stream, &text(says), true, None)].concat()
        };
        let with_metadata = plain(&h2raw::call(UNARY, &[("x-role", "intruder")]));
        let calls = [
            // a message; a method; a message and a method whose HEADERS change the table; metadata; a message behind its HEADERS
            vec![call(3, UNARY, "an A")],
            vec![call(5, SLOW, "slow")],
            vec![indexed(&mut encoder, 7, UNARY, "an indexed A")],
            vec![indexed(&mut encoder, 9, SLOW, "indexed and slow")],
            vec![[Headers::new(false).write(11, &with_metadata), frame::data(11, &text("x"), true, None)].concat()],
            vec![head(13, UNARY), frame::data(13, &text("a later A, long enough"), true, None)],
        ];
        for (index, parts) in calls.iter().enumerate() {
            let stream = 3 + 2 * index as u32;
            for part in parts {
                client.bytes(part);
                assert!(scene.enforced() || client.taken());
            }
            let status = client.status(stream);
            assert_eq!(status, Some(if enforced { 7 } else { 0 }), "call {index}");
        }
        client.bytes(&call(15, UNARY, "fine"));
        assert_eq!(client.status(15), Some(0));
        if enforced {
            drop(client);
            unharmed(scene);
        } else {
            // Each is told of twice, when its handler begins and when it gets the message, unless only one of them tells. The
            // server's lines may come after its answers.
            let calls = || scene.breaches().iter().map(|e| e["call"].to_string()).collect::<HashSet<_>>().len();
            eventually("all six", || calls() == 6);
        }
    }
}
