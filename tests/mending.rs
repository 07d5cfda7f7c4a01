//! Ring 1: what a client can make of mending. Each attack tries to get what the policy denies to a handler, or to make a
//! neighbour pay; raw packets over a veth pair between network namespaces.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::net::SocketAddr;
use std::time::Duration;

use protocg_peers::h2raw::{self, Encoder, Field, Headers, Indexing, Name, Reader, Str, Style, frame, hpack};
use protocg_peers::harness::net::End;
use protocg_peers::harness::process::Place;
use protocg_peers::harness::{self, Cgroup, Protocg, Server, Stack, Veth};
use protocg_peers::raw::Raw;
use protocg_peers::wire::Message;

const PORT: u16 = 50051;
const UNARY: &str = "/echo.Echo/Unary";
const SLOW: &str = "/echo.Echo/Slow";
const CLIENT_STREAM: &str = "/echo.Echo/ClientStream";
const POLICY: &str = r#"
name = "mending"
proto = ["echo.proto"]
ports = [50051]
default = "allow"
[[deny]]
name = "no-a"
methods = ["/echo.Echo/*"]
when = 'request.text.contains("A")'
[[deny]]
name = "slow"
methods = ["/echo.Echo/Slow"]
[[deny]]
name = "intruder"
when = 'metadata["x-role"] == "intruder"'
"#;
const SHORT: Duration = Duration::from_millis(300);
const LONG: Duration = Duration::from_secs(5);

/// A server in a cgroup behind a veth pair, and the enforcer.
struct Scene {
    enforcer: Protocg,
    server: Server,
    veth: Veth,
    _cgroup: Cgroup,
}

impl Scene {
    fn new(name: &str) -> Self {
        Self::under(name, POLICY)
    }

    fn under(name: &str, policy: &str) -> Self {
        let cgroup = Cgroup::new(name);
        let veth = Veth::new();
        let enforcer = Protocg::run(env!("CARGO_BIN_EXE_protocg"), &[&cgroup], policy, &[]);
        let place = Place { cgroup: Some(&cgroup), net: Some((&veth, End::B)) };
        let server = Server::start(Stack::Tonic, place, SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, PORT)));
        Self { enforcer, server, veth, _cgroup: cgroup }
    }

    /// A connection on which one call has been answered; its next stream is 3.
    fn client(&self) -> Client {
        let mut client = Client::new(Raw::new(&self.veth, false, PORT));
        client.open();
        client
    }

    /// No handler has been given what the policy denies, and the server still serves.
    fn unharmed(self) {
        let mut probe = self.client();
        probe.bytes(&call(3, UNARY, "still-there"));
        assert_eq!(probe.status(3), Some(0));
        let denied: Vec<_> = self
            .server
            .seen()
            .into_iter()
            .filter(|e| {
                e["fields"]["text"].as_str().is_some_and(|t| t.contains('A'))
                    || e["method"] == SLOW
                    || e["metadata"].to_string().contains("intruder")
            })
            .collect();
        assert!(denied.is_empty(), "{denied:#?}");
        assert!(self.enforcer.stop().success());
    }

    fn denials(&self, count: usize) {
        let denied = |l: &&String| l.contains("\"type\":\"decision\"") && l.contains("\"verdict\":\"deny\"");
        self.enforcer.process_lines(|lines| lines.iter().filter(denied).count() >= count);
    }
}

struct Client {
    raw: Raw,
    reader: Reader,
    fed: usize,
}

impl Client {
    fn new(raw: Raw) -> Self {
        Self { raw, reader: Reader::default(), fed: 0 }
    }

    fn open(&mut self) {
        self.raw.connect();
        self.bytes(&[h2raw::open(&[]), frame::settings_ack(), call(1, UNARY, "first")].concat());
        assert_eq!(self.status(1), Some(0));
    }

    /// Sends bytes as one segment.
    fn bytes(&mut self, bytes: &[u8]) {
        self.raw.at(0, bytes);
        self.raw.seq = self.raw.seq.wrapping_add(bytes.len() as u32);
    }

    /// Reads until what has come is so.
    fn until(&mut self, time: Duration, so: impl Fn(&Reader) -> bool) -> bool {
        let bound = std::time::Instant::now() + time;
        loop {
            let left = bound.saturating_duration_since(std::time::Instant::now());
            let had = self.raw.received.len();
            self.raw.wait(left.min(Duration::from_millis(20)), |r| r.received.len() > had || r.reset || r.finished);
            self.reader.feed(&self.raw.received[self.fed..]).unwrap();
            self.fed = self.raw.received.len();
            if so(&self.reader) {
                return true;
            }
            if left.is_zero() || self.raw.reset || self.raw.finished {
                return false;
            }
        }
    }

    /// The status of a stream, once it is over.
    fn status(&mut self, stream: u32) -> Option<i32> {
        self.until(LONG, |r| r.answer(stream).over());
        self.reader.answer(stream).status()
    }

    /// TCP has all that was sent.
    fn taken(&mut self) -> bool {
        self.raw.wait(LONG, |r| r.acked == r.seq || r.reset || r.finished);
        self.raw.acked == self.raw.seq
    }

    fn is_open(&mut self) -> bool {
        self.until(SHORT, |_| false);
        !self.raw.reset && !self.raw.finished && self.reader.goaway.is_none()
    }
}

fn text(text: &str) -> Vec<u8> {
    h2raw::grpc(&Message::new().bytes(1, text).bytes)
}

fn plain(fields: &[(&str, &str)]) -> Vec<u8> {
    Encoder::default().encode(fields, Style::PLAIN)
}

/// HEADERS that touch no table.
fn head(stream: u32, path: &str) -> Vec<u8> {
    Headers::new(false).write(stream, &plain(&h2raw::call(path, &[])))
}

/// A whole call that touches no table.
fn call(stream: u32, path: &str, says: &str) -> Vec<u8> {
    [head(stream, path), frame::data(stream, &text(says), true, None)].concat()
}

fn incremental(name: &str, value: &str) -> Field {
    Field::Literal(Indexing::Incremental, Name::Literal(Str::raw(name)), Str::raw(value))
}

/// ---- what the tables know ----

/// Trailers may insert into the HPACK table: with the frames of a denied RPC they must not be taken out.
#[test]
fn trailers_of_a_denied_call_keep_their_place_in_the_table() {
    if harness::skip("mending_trailers") {
        return;
    }
    let scene = Scene::new("trailers");
    let mut client = scene.client();
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
    Field::Indexed(62).write(&mut block);
    client.bytes(&[Headers::new(false).write(7, &block), frame::data(7, &text("role"), true, None)].concat());
    client.until(SHORT, |r| r.answer(7).over());
    let one = scene.server.seen().iter().filter(|e| e["metadata"].to_string().contains("\"one\"")).count();
    assert_eq!(one, 1, "the second time \"two\" was meant");
    scene.unharmed();
}

/// Some servers (tonic) add a request's trailers to its metadata.
#[test]
fn metadata_that_a_rule_reads_does_not_come_in_trailers() {
    if harness::skip("trailers_metadata") {
        return;
    }
    let scene = Scene::new("behind");
    let mut client = scene.client();
    let trailers = Headers::new(true).write(3, &plain(&[("x-role", "intruder")]));
    client.bytes(&[head(3, UNARY), frame::data(3, &text("fine"), false, None)].concat());
    client.bytes(&trailers);
    scene.denials(1);
    assert_ne!(client.status(3), Some(0));
    scene.unharmed();
}

/// A denial at another stream's trailers must not change the path of whoever stands before them.
#[test]
fn a_denial_in_trailers_changes_no_neighbours_path() {
    if harness::skip("mending_trailers_path") {
        return;
    }
    let scene = Scene::new("neighbour");
    let mut client = scene.client();
    client.bytes(&[head(3, CLIENT_STREAM), frame::data(3, b"\0\0", false, None)].concat());
    assert!(client.taken());
    let trailers = Headers::new(true).write(3, &plain(&[("x-end", "now")]));
    client.bytes(&[call(5, UNARY, "neighbour"), trailers].concat());
    scene.denials(1);
    client.until(SHORT, |r| r.answer(5).over());
    assert_ne!(client.reader.answer(5).status(), Some(12), "the neighbour's path was changed");
    scene.unharmed();
}

/// The byte behind a path of one character belongs to the next field.
#[test]
fn a_path_of_one_character_is_not_changed() {
    if harness::skip("mending_short_path") {
        return;
    }
    let scene = Scene::new("short");
    for root in [Str::raw("/"), Str::huffman("/")] {
        let mut client = scene.client();
        let slow = Message::new().bytes(1, "delivered").varint(100, 300).bytes;
        client.bytes(&[head(3, UNARY), frame::data(3, &h2raw::grpc(&slow), true, None)].concat());
        assert!(client.taken());
        let block = hpack::block(&[
            Field::plain(":method", "POST"),
            Field::plain(":scheme", "http"),
            Field::Literal(Indexing::Without, Name::Index(4), root),
            incremental("x-next", "field"),
            Field::plain("content-type", "application/grpc"),
        ]);
        client.bytes(&Headers::new(true).write(5, &block));
        scene.denials(1);
        assert_eq!(client.status(3), Some(0), "a delivered call gets its answer");
    }
    scene.unharmed();
}

/// The entry of a denied path: pushed out of the table by the same block, its place in the ring is another's.
#[test]
fn the_place_of_an_evicted_path_is_anothers() {
    if harness::skip("mending_evicted_path") {
        return;
    }
    let scene = Scene::new("evicted");
    let mut client = scene.client();
    let mut fields = vec![
        Field::plain(":method", "POST"),
        Field::plain(":scheme", "http"),
        Field::Literal(Indexing::Incremental, Name::Index(4), Str::raw(SLOW)),
        Field::plain("content-type", "application/grpc"),
    ];
    fields.extend((0..128).map(|_| incremental("x", "")));
    fields.extend(std::iter::once(incremental("y", "")));
    client.bytes(&Headers::new(false).write(3, &hpack::block(&fields)));
    assert_eq!(client.status(3), Some(7));
    // every entry of the table is an "x" or "y" on both sides
    for index in 62..62 + 120 {
        let mut block = plain(&h2raw::call(UNARY, &[]));
        Field::Indexed(index).write(&mut block);
        let stream = 5 + 2 * (index as u32 - 62);
        client.bytes(&[Headers::new(false).write(stream, &block), frame::data(stream, &text("x"), true, None)].concat());
        assert_eq!(client.status(stream), Some(0), "entry {index}");
    }
    scene.unharmed();
}

/// A path that was changed is the server's, with whatever metadata; a new literal with its name is whole.
#[test]
fn a_changed_path_stays_denied_and_its_name_stays_useful() {
    if harness::skip("mending_changed_path") {
        return;
    }
    let scene = Scene::new("changed");
    for huffman in [false, true] {
        let mut client = scene.client();
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
    scene.unharmed();
}

/// ---- what waits in TCP's own queue ----

/// A denied call waits in TCP's queue; the segment before it has a denied call, too, that could be taken out.
#[test]
fn no_copy_is_passed_before_a_denied_segment_that_waits() {
    if harness::skip("mending_held") {
        return;
    }
    let scene = Scene::new("held");
    for malformed in [false, true] {
        let mut client = scene.client();
        let first = call(3, UNARY, "an A that is taken out");
        let bad = if malformed { frame::frame(6, 0, 0, b"ping") } else { Vec::new() };
        let second = [bad, call(5, UNARY, "an A that waits")].concat();
        client.raw.at(first.len() as u32, &second);
        client.raw.at(0, &first);
        client.raw.wait(SHORT, |r| r.reset);
    }
    scene.unharmed();
}

/// ---- switches ----

/// What a switch lets pass unread does not take a denied call along.
#[test]
fn a_segment_that_ends_unread_takes_no_denied_call_along() {
    if harness::skip("mending_blind") {
        return;
    }
    let policy = POLICY.replace("[[deny]]\nname = \"no-a\"", "[uninspectable]\nmalformed = \"allow\"\n[[deny]]\nname = \"no-a\"");
    let scene = Scene::under("blind", &policy);
    let mut client = scene.client();
    // the head of a PING of the wrong size: the server waits for the rest before it minds
    client.bytes(&[call(3, UNARY, "an A"), frame::frame_claiming(4, 6, 0, 0, b"")].concat());
    client.raw.wait(SHORT, |r| r.reset);
    scene.unharmed();
}

/// ---- streams that mending has ended ----

/// A unary call whose message was emptied is open at the server: nothing else may fill it, however late.
#[test]
fn an_emptied_call_stays_empty() {
    if harness::skip("mending_emptied") {
        return;
    }
    let scene = Scene::new("emptied");
    for others in [0_u32, 20, 200, 2000] {
        let mut client = scene.client();
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
    scene.unharmed();
}

/// Frames that were under way when many calls were denied at once reach nobody.
#[test]
fn what_follows_many_denied_calls_harms_no_neighbour() {
    if harness::skip("mending_many") {
        return;
    }
    let scene = Scene::new("many");
    let follows: [fn(u32) -> Vec<u8>; 3] = [
        |stream| frame::data(stream, &[], true, None),
        |stream| frame::rst_stream(stream, 8),
        |stream| [frame::window_update(stream, 5), frame::data(stream, b"more", false, None)].concat(),
    ];
    for follow in follows {
        let mut client = scene.client();
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
    scene.unharmed();
}
