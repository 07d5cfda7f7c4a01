//! Ring 1: what a client can make of mending. Each attack tries to get what the policy denies to a handler, or to make a
//! neighbour pay; raw packets over a veth pair between network namespaces.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

#[path = "support/maps.rs"]
mod maps;

use std::net::SocketAddr;
use std::time::Duration;

use libbpf_rs::MapCore;
use protocg_peers::h2raw::{self, Encoder, Field, Headers, Indexing, Name, Reader, Str, Style, frame, hpack};
use protocg_peers::harness::net::End;
use protocg_peers::harness::process::Place;
use protocg_peers::harness::{self, Cgroup, Protocg, Server, Stack, Veth};
use protocg_peers::raw::{ACK, FIN, Odd, PSH, RST, Raw};
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
    cgroup: Cgroup,
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
        Self { enforcer, server, veth, cgroup }
    }

    /// A connection on which one call has been answered; its next stream is 3.
    fn client(&self) -> Client {
        let mut client = Client::new(Raw::new(&self.veth, false, PORT));
        client.open();
        client
    }

    /// No handler has been given what the policy denies, the server still serves, and every slot is free again.
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
        drop(probe);
        self.all_free();
        assert!(self.enforcer.stop().success());
    }

    fn all_free(&self) {
        let [conns, held, small, large] =
            ["conns", "held", "free_small", "free_large"].map(|name| maps::of(self.cgroup.path(), name));
        let bound = std::time::Instant::now() + LONG;
        while maps::count(&conns) > 0 {
            assert!(std::time::Instant::now() < bound, "connections close");
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(maps::count(&held), 0);
        for queue in [small, large] {
            let mut free = maps::queued(&queue);
            free.sort_unstable();
            assert!(free.into_iter().eq(0..queue.max_entries()), "each slot is free, once");
        }
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

/// Wherever TCP stands, the connection ends.
impl Drop for Client {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        self.raw.wait(Duration::from_millis(20), |r| r.reset);
        self.raw.segment(RST | ACK, self.raw.acked, &[], &Odd::default());
    }
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
        let bound = std::time::Instant::now() + harness::patience(time);
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

// ---- what the tables know ----

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
    drop(client);
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
    drop(client);
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
    drop(client);
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
        client
            .bytes(&[Headers::new(false).write(stream, &block), frame::data(stream, &text("x"), true, None)].concat());
        assert_eq!(client.status(stream), Some(0), "entry {index}");
    }
    drop(client);
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

// ---- what waits in TCP's own queue ----

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

// ---- switches ----

/// What a switch lets pass unread does not take a denied call along.
#[test]
fn a_segment_that_ends_unread_takes_no_denied_call_along() {
    if harness::skip("mending_blind") {
        return;
    }
    let policy = POLICY
        .replace("[[deny]]\nname = \"no-a\"", "[uninspectable]\nmalformed = \"allow\"\n[[deny]]\nname = \"no-a\"");
    let scene = Scene::under("blind", &policy);
    let mut client = scene.client();
    // the head of a PING of the wrong size: the server waits for the rest before it minds
    client.bytes(&[call(3, UNARY, "an A"), frame::frame_claiming(4, 6, 0, 0, b"")].concat());
    client.raw.wait(SHORT, |r| r.reset);
    drop(client);
    scene.unharmed();
}

// ---- streams that mending has ended ----

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

// ---- holes ----

/// A segment with a denied call, and the copy that takes its place: the call's frames are of an unknown type.
fn denied_and_copy(stream: u32) -> (Vec<u8>, Vec<u8>) {
    let frames = [head(stream, UNARY), frame::data(stream, &text("an A, to be taken out"), true, None)];
    let blank = |f: &Vec<u8>| frame::frame(0x2a, 0, 0, &vec![0; f.len() - 9]);
    (frames.concat(), frames.iter().flat_map(blank).collect())
}

/// Stops the agent, so that holes stay open.
fn stopped(scene: &mut Scene, what: impl FnOnce(&Scene)) {
    scene.enforcer.process().signal(nix::sys::signal::Signal::SIGSTOP);
    what(scene);
    scene.enforcer.process().signal(nix::sys::signal::Signal::SIGCONT);
}

/// Whatever touches the hole but is not the copy is dropped: earlier, later, shorter, longer, forged, or with a FIN.
#[test]
fn only_the_copy_fills_a_hole() {
    if harness::skip("mending_hole") {
        return;
    }
    let mut scene = Scene::new("hole");
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
        let mut client = scene.client();
        let (base, denied) = (client.raw.seq, denied.clone());
        stopped(&mut scene, |_| {
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
    scene.unharmed();
}

/// A client may send the copy itself: then nothing is left to fill. Refused by TCP, it does not open the way for others.
#[test]
fn a_copy_that_the_client_sends_is_as_good() {
    if harness::skip("mending_own_copy") {
        return;
    }
    let mut scene = Scene::new("own");
    for refused in [false, true] {
        let mut client = scene.client();
        let (base, (denied, copy)) = (client.raw.seq, denied_and_copy(3));
        stopped(&mut scene, |_| {
            client.bytes(&denied);
            let odd = Odd { bad_checksum: refused, ..Odd::default() };
            client.raw.segment(PSH | ACK, base, &copy, &odd);
            for _ in 0..8 {
                client.raw.segment(PSH | ACK, base, &denied, &Odd::default());
                client.raw.wait(Duration::from_millis(150), |_| false);
            }
            assert_eq!(client.raw.acked == base, refused);
        });
        if !refused {
            assert_eq!(client.status(3), Some(7));
            client.bytes(&call(5, UNARY, "next"));
            assert_eq!(client.status(5), Some(0));
        }
    }
    scene.unharmed();
}

/// Sequence numbers wrap inside the hole, before it and behind it.
#[test]
fn holes_stand_where_sequence_numbers_wrap() {
    if harness::skip("mending_wrap") {
        return;
    }
    let scene = Scene::new("wrap");
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
    scene.unharmed();
}

/// Every place of a cut through two denied calls and their neighbours: the connection goes on, or ends whole.
#[test]
fn wherever_segments_end_neighbours_are_served_or_told() {
    if harness::skip("mending_cuts") {
        return;
    }
    let scene = Scene::new("cuts");
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
        let mut client = scene.client();
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
    scene.unharmed();
}

/// Out of order, after a denial: withheld segments come as copies, whole and in their place.
#[test]
fn withheld_segments_come_in_their_place() {
    if harness::skip("mending_withheld") {
        return;
    }
    let scene = Scene::new("withheld");
    let mut client = scene.client();
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
    scene.unharmed();
}

/// A segment of many denied calls, their HEADERS before their DATA, costs time in proportion to its length.
#[test]
fn many_denied_calls_in_one_segment_take_no_long_time() {
    if harness::skip("mending_quadratic") {
        return;
    }
    let scene = Scene::new("quadratic");
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
    assert!(began.elapsed() < Duration::from_millis(150), "{:?} for {} bytes", began.elapsed(), bytes.len());
    drop(stream);
    scene.unharmed();
}
