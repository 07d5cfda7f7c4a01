//! What a server can say: a response that a rule denies never becomes complete at the client, whatever frames and segments it comes
//! in. Each is a row of docs/threat-model.md, and succeeds without the enforcer. `PROTOCG_WRITE_TABLES=1` writes the table anew.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use protocg_peers::h2raw::{self, Encoder, Field, Headers, Indexing, Name, Reader, Str, Style, frame, hpack};
use protocg_peers::harness::net::End;
use protocg_peers::harness::process::{Place, Watched};
use protocg_peers::harness::{self, Calls, Cgroup, Protocg, Stack, Veth, patience};
use protocg_peers::raw::{ACK, FIN, Odd, Raw};
use protocg_peers::wire::Message;
use serde_json::{Value, json};

const POLICY: &str = r#"
name = "answers"
proto = ["echo.proto"]
ports = ["50100-50999"]
default = "allow"
[[deny]]
name = "asked"
methods = ["/echo.Echo/*"]
when = 'request.text.contains("BAD")'
[[deny]]
name = "slow"
methods = ["/echo.Echo/Slow"]
[[deny]]
name = "kept"
methods = ["/echo.Echo/*"]
when = 'response.text.contains("SECRET")'
status = "DATA_LOSS"
message = "this stays here"
[[deny]]
name = "merged"
methods = ["/echo.Echo/*"]
when = 'response.request.text == "SECRET" && response.request.flag'
status = "DATA_LOSS"
"#;
const DATA_LOSS: i32 = 15;
const PERMISSION_DENIED: i32 = 7;
const BIDI: &str = "/echo.Echo/Bidi";

// ---- where ----

/// Two networks, with the enforcer in one of them; every test has a server and a port of its own.
struct Arena {
    enforcer: Protocg,
    cgroups: [Cgroup; 2],
    veths: [Veth; 2],
}

static ARENA: Mutex<Option<Arc<Arena>>> = Mutex::new(None);
static PORTS: AtomicU16 = AtomicU16::new(50100);

extern "C" fn end() {
    drop(ARENA.lock().unwrap_or_else(PoisonError::into_inner).take());
}

fn arena() -> Arc<Arena> {
    let mut arena = ARENA.lock().unwrap_or_else(PoisonError::into_inner);
    let made = arena.get_or_insert_with(|| {
        // SAFETY: the function takes nothing and may run at any time.
        unsafe { libc::atexit(end) };
        let cgroups = [Cgroup::new("answers-off"), Cgroup::new("answers-on")];
        let enforcer = Protocg::run(env!("CARGO_BIN_EXE_protocg"), &[&cgroups[1]], POLICY, &[]);
        Arc::new(Arena { enforcer, cgroups, veths: [Veth::new(), Veth::new()] })
    });
    Arc::clone(made)
}

// ---- what ----

/// What a client asks, what its server says then, and what of it the caller must not have.
struct Scene {
    /// Else one call.
    asks: Option<Vec<u8>>,
    /// The client closes its side.
    closes: bool,
    says: Vec<(&'static str, Value)>,
    /// The denied message with its prefix.
    message: Vec<u8>,
    stream: u32,
    /// How much DATA the caller gets before.
    before: usize,
    /// A denial that comes before, of a request.
    also: Option<&'static str>,
}

fn hex(bytes: &[u8]) -> Value {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into()
}

/// Bytes that are sent at once.
fn send(parts: &[&[u8]]) -> (&'static str, Value) {
    ("send", hex(&parts.concat()))
}

/// Bytes in a segment each.
fn bytes(bytes: &[u8]) -> (&'static str, Value) {
    ("bytes", hex(bytes))
}

fn wait() -> (&'static str, Value) {
    ("wait", json!(0.2))
}

fn reply(text: &str) -> Vec<u8> {
    h2raw::grpc(&Message::new().bytes(1, text).bytes)
}

fn secret() -> Vec<u8> {
    reply("a SECRET")
}

fn fine() -> Vec<u8> {
    data(1, &reply("fine"))
}

fn data(stream: u32, body: &[u8]) -> Vec<u8> {
    frame::data(stream, body, false, None)
}

fn bad() -> Vec<u8> {
    data(1, &secret())
}

fn settings() -> Vec<u8> {
    frame::settings(&[])
}

/// `:status 200`.
fn answered(stream: u32) -> Vec<u8> {
    Headers::new(false).write(stream, &[0x88])
}

/// SETTINGS, and the headers of the first call's answer.
fn opening() -> Vec<u8> {
    [settings(), answered(1)].concat()
}

fn trailers() -> Vec<u8> {
    Headers::new(true).write(1, &hpack::block(&[Field::plain("grpc-status", "0")]))
}

fn call(stream: u32, path: &str, text: &str) -> Vec<u8> {
    h2raw::unary(&mut Encoder::default(), Style::PLAIN, stream, path, &Message::new().bytes(1, text).bytes)
}

fn asks(parts: &[&[u8]]) -> Vec<u8> {
    [&h2raw::open(&[]), parts.concat().as_slice()].concat()
}

fn says(says: &[(&'static str, Value)]) -> Scene {
    Scene { asks: None, closes: false, says: says.to_vec(), message: secret(), stream: 1, before: 0, also: None }
}

/// The answer of one call, in one segment, with this in it.
fn whole(parts: &[&[u8]]) -> Scene {
    says(&[send(&[&opening(), parts.concat().as_slice()])])
}

/// A message that is not [`secret`], in one segment.
fn message(message: &[u8]) -> Scene {
    Scene { message: message.to_vec(), ..whole(&[&data(1, message)]) }
}

impl Scene {
    fn asking(self, asks: Vec<u8>) -> Self {
        Self { asks: Some(asks), ..self }
    }

    fn before(self, before: usize) -> Self {
        Self { before, ..self }
    }

    fn on(self, stream: u32) -> Self {
        Self { stream, ..self }
    }

    fn server(&self, arena: &Arena, at: usize, port: u16, greets: bool, then: &[(&str, Value)]) -> Watched {
        let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tcp/says.py");
        let mut command = Command::new("python3");
        let says = [&self.says[..], then].concat();
        command.arg(script).arg(json!({ "port": port, "greets": greets, "says": says }).to_string());
        Place { cgroup: Some(&arena.cgroups[at]), net: Some((&arena.veths[at], End::B)) }.enter(&mut command);
        let server = Watched::start(command);
        server.wait_for("listening", |lines| lines.iter().any(|line| line == "listening").then_some(()));
        server
    }

    /// What real clients make of it, where they can ask like that: `given`, if they hand the message on.
    fn real(&self, arena: &Arena) -> Option<[(&'static str, &'static str); 2]> {
        if self.asks.is_some() || self.closes {
            return None;
        }
        let one = |(stack, name): (Stack, &'static str)| {
            let port = PORTS.fetch_add(1, Ordering::Relaxed);
            let _server = self.server(arena, 0, port, true, &[wait(), send(&[&trailers()])]);
            let place = Place { cgroup: None, net: Some((&arena.veths[0], End::A)) };
            let calls = Calls { stack, place, target: (Veth::SERVER4, port).into() };
            let deadline = u64::try_from(patience(Duration::from_secs(4)).as_millis()).unwrap();
            let call = json!({ "method": BIDI, "messages": [{ "text": "x" }], "deadline_ms": deadline });
            let result = calls.session().make(&json!([call])).remove(0);
            let given = result["fields"].to_string().contains("SECRET");
            (name, if given { "given" } else { "refused" })
        };
        Some([(Stack::Tonic, "tonic"), (Stack::Grpcio, "grpcio")].map(one))
    }

    /// A client that asks, of a server that says this.
    fn client(&self, arena: &Arena, enforced: bool, port: u16) -> (Watched, Raw) {
        let at = usize::from(enforced);
        let server = self.server(arena, at, port, false, &[]);
        let mut client = Raw::new(&arena.veths[at], false, port);
        client.connect();
        client.send(&self.asks.clone().unwrap_or_else(|| asks(&[&call(1, BIDI, "x")])));
        if self.closes {
            client.segment(ACK | FIN, client.seq, &[], &Odd::default());
            client.seq = client.seq.wrapping_add(1);
        }
        (server, client)
    }

    /// Whether the denied message has come as a whole: in its bytes, in order or not, or in the stream's DATA.
    fn has_come(&self, client: &Raw) -> bool {
        let holds = |bytes: &[u8]| bytes.windows(self.message.len()).any(|window| window == self.message);
        let mut reader = Reader::default();
        let _ = reader.feed(&client.received);
        holds(&client.received)
            || client.came.iter().any(|(_, payload)| holds(payload))
            || reader.answers.values().any(|answer| holds(&answer.data))
    }
}

/// Without the enforcer the message comes, and real clients make `off` of it. With it, what `on` says: the rule or the reason, and
/// whether the caller is told.
fn check(name: &str, off: &str, on: &str, scene: &Scene) {
    if harness::skip(&format!("answers_{name}")) {
        return;
    }
    let arena = arena();
    let port = PORTS.fetch_add(1, Ordering::Relaxed);
    let (_server, mut client) = scene.client(&arena, false, port);
    let came = client.wait(patience(Duration::from_secs(5)), |raw| scene.has_come(raw));
    assert!(came, "it comes without the enforcer: {:?}", String::from_utf8_lossy(&client.received));

    if [Stack::Tonic, Stack::Grpcio].iter().all(|stack| stack.lacks().is_none()) {
        // C-core's own threads race at the end of a stream
        let real = scene.real(&arena);
        assert_eq!(real.is_none(), off.is_empty(), "whether real clients can ask like that");
        for (client, is) in real.into_iter().flatten() {
            let own = off.split(", ").find_map(|it| it.strip_prefix(client)?.strip_prefix(": ")).unwrap_or(off);
            assert!(own == is || own == "either", "{client}: {is}, not {own}");
        }
    }

    let (why, told) = on.split_once(", ").unwrap_or((on, ""));
    let (_server, mut client) = scene.client(&arena, true, port);
    let started = Instant::now();
    let ended = client.wait(patience(Duration::from_secs(5)), |raw| raw.finished || raw.reset);
    assert!(ended, "the connection ends");
    let took = started.elapsed();
    assert!(took < patience(Duration::from_secs(1)), "{took:?}");
    // what TCP sends again
    client.wait(Duration::from_millis(300), |raw| scene.has_come(raw));
    assert!(!scene.has_come(&client), "{:?}", String::from_utf8_lossy(&client.received));
    let mut reader = Reader::default();
    let read = reader.feed(&client.received);
    let answer = reader.answer(scene.stream);
    let status = if matches!(why, "kept" | "merged") { DATA_LOSS } else { PERMISSION_DENIED };
    match told {
        "told" => {
            assert!(read.is_ok(), "{answer:?}");
            assert_eq!(answer.status(), Some(status), "{answer:?}");
            assert_eq!(answer.data.len(), scene.before, "{answer:?}");
            assert!(client.finished && reader.goaway.is_some());
        }
        "told or not" => assert!(answer.status().is_none_or(|it| it == status), "{answer:?}"),
        // no more than what the server itself has said before, or a denied request got
        _ => assert!(answer.status().is_none_or(|it| it == 0 || scene.also.is_some()), "{answer:?}"),
    }
    let here = |event: &Value| event["server.port"] == port && event["verdict"] == "deny";
    let cause = |event: &Value| event["rule"].as_str().or(event["reason"].as_str()).map(str::to_owned);
    arena.enforcer.wait_for(why, |event| here(event) && cause(event).as_deref() == Some(why));
    let denials: Vec<_> = arena.enforcer.events().iter().filter(|event| here(event)).filter_map(cause).collect();
    assert_eq!(denials, scene.also.into_iter().chain([why]).collect::<Vec<_>>());
}

/// One test an attack, and a row of the table: what is tried, what real clients make of it, and what the enforcer does.
macro_rules! answers {
    ($($name:ident: $tried:literal, $off:literal, $on:literal, $scene:expr;)*) => {
        const ROWS: &[(&str, &str, &str, &str)] = &[$((stringify!($name), $tried, $off, $on)),*];
        $(
            #[test]
            fn $name() {
                check(stringify!($name), $off, $on, &$scene);
            }
        )*
    };
}

answers! {
    // ---- segments ----
    at_once: "an answer in one segment", "given", "kept, told", whole(&[&bad(), &trailers()]);
    behind_its_headers: "a segment behind the headers'", "given", "kept, told", says(&[send(&[&opening()]), wait(), send(&[&bad()])]);
    a_segment_a_byte: "a segment a byte", "given", "kept", says(&[send(&[&opening()]), bytes(&bad())]);
    cut_in_the_message: "cut in the message", "given", "kept", says(&[send(&[&opening(), &bad()[..16]]), wait(), send(&[&bad()[16..]])]);
    cut_in_the_frames_head: "cut in the frame's head", "given", "kept",
        says(&[send(&[&opening(), &bad()[..4]]), wait(), send(&[&bad()[4..]])]);
    behind_20_kb: "behind 20 KB of allowed messages in one segment", "given", "kept, told", {
        let long = reply(&"fine ".repeat(400));
        let many = data(1, &long).repeat(10);
        whole(&[&many, &bad(), &many]).before(10 * long.len())
    };
    a_frame_of_40_kb: "at the end of a frame of 40 KB, as the client's settings allow", "", "kept, told or not", {
        let long = h2raw::grpc(&Message::new().bytes(2, vec![7; 40_000]).bytes(1, "a SECRET").bytes);
        let open = h2raw::open(&[(5, 1 << 20), (4, 1 << 20)]);
        message(&long).asking([open, call(1, BIDI, "x")].concat())
    };
    urgent: "as urgent data", "refused", "urgent", says(&[send(&[&opening()]), ("urgent", hex(&bad())), send(&[&fine()])]);
    behind_the_clients_fin: "after the client has closed its side", "", "kept, told",
        Scene { closes: true, ..says(&[wait(), send(&[&opening(), &bad()])]) };

    // ---- frames ----
    a_frame_a_byte: "a DATA frame a byte, in one segment", "given", "kept, told",
        whole(&[&frame::data_in_pieces(1, &secret(), false, 1)]).before(secret().len() - 1);
    a_frame_a_byte_in_segments: "a DATA frame a byte, cut into segments", "given", "kept, told", {
        let all = secret();
        let (most, last) = all.split_at(all.len() - 1);
        let most = frame::data_in_pieces(1, most, false, 1);
        says(&[send(&[&opening()]), bytes(&most), wait(), send(&[&data(1, last)])]).before(secret().len() - 1)
    };
    several_messages_in_a_frame: "between two allowed messages, in one frame", "given", "kept, told",
        whole(&[&data(1, &[reply("fine"), secret(), reply("fine")].concat())]);
    behind_other_messages: "behind allowed messages of the stream", "given", "kept, told",
        whole(&[&fine(), &fine(), &bad(), &fine()]).before(2 * reply("fine").len());
    behind_empty_messages: "behind messages and frames of no length", "given", "kept, told",
        whole(&[&data(1, &h2raw::grpc(&[])), &data(1, &[]).repeat(50), &bad()]).before(5);
    interleaved: "another stream's frames inside the message", "", "kept, told", {
        let all = secret();
        let (a, b) = all.split_at(6);
        let says = whole(&[&data(1, a), &answered(3), &data(3, &reply("fine")), &data(1, b)]);
        says.asking(asks(&[&call(1, BIDI, "x"), &call(3, BIDI, "x")])).before(6)
    };
    padded: "padding", "tonic: given, grpcio: refused", "kept, told", whole(&[&frame::data(1, &secret(), false, Some(40))]);
    end_stream_without_trailers: "END_STREAM on the message, and no trailers", "tonic: given, grpcio: either", "kept, told",
        whole(&[&frame::data(1, &secret(), true, None)]);
    without_headers: "DATA before any headers", "tonic: refused, grpcio: given", "kept, told", says(&[send(&[&settings(), &bad()])]);
    behind_interim_headers: "behind headers of 103, a hundred times", "tonic: given, grpcio: refused", "kept, told", {
        let interim = hpack::block(&[Field::Literal(Indexing::Without, Name::Index(8), Str::raw("103"))]);
        let interim = Headers::new(false).write(1, &interim).repeat(100);
        says(&[send(&[&settings(), &interim, &answered(1), &bad()])])
    };
    behind_continuations: "behind headers in a hundred frames", "tonic: refused, grpcio: given", "kept, told", {
        let empty = frame::frame(9, 0, 1, &[]).repeat(100);
        says(&[send(&[&settings(), &frame::frame(1, 0, 1, &[0x88]), &empty, &frame::frame(9, 4, 1, &[]), &bad()])])
    };
    undefined_flags: "flags that DATA does not have", "tonic: given, grpcio: refused", "kept, told", whole(&[&frame::frame(0, 0xf6, 1, &secret())]);
    the_reserved_bit: "the reserved bit of the stream's number", "given", "kept, told",
        whole(&[&frame::frame(0, 0, 0x8000_0001, &secret())]);
    behind_goaway: "behind GOAWAY", "given", "kept, told", whole(&[&frame::goaway(1, 0), &bad()]);
    behind_unknown_frames: "behind frames of unknown types", "given", "kept, told",
        whole(&[&frame::frame(0x2a, 0xff, 1, &secret()[..9]), &frame::frame(0xfe, 0, 0, &[1; 99]), &bad()]);
    inside_a_header_block: "DATA inside a header block", "refused", "frame_order",
        says(&[send(&[&settings(), &frame::frame(1, 0, 1, &[0x88]), &bad()])]);
    pushed: "PUSH_PROMISE, and DATA on its stream", "refused", "frame_order",
        whole(&[&frame::frame(5, 4, 1, &[0, 0, 0, 2, 0x82]), &data(2, &secret())]);
    behind_a_broken_frame: "behind a PING of 7 bytes", "refused", "frame_size", whole(&[&frame::frame(6, 0, 0, &[0; 7]), &bad()]);

    // ---- streams ----
    on_a_stream_that_nobody_opened: "DATA on a stream that nobody opened", "refused", "response_stream", whole(&[&data(3, &secret())]);
    on_a_servers_stream: "DATA on a stream of the server's, which it has not promised", "refused", "response_stream",
        whole(&[&data(2, &secret())]);
    behind_trailers: "DATA behind the trailers", "refused", "response_stream", says(&[send(&[&opening(), &trailers()]), wait(), send(&[&bad()])]);
    behind_rst_stream: "DATA behind the server's own RST_STREAM", "refused", "response_stream", whole(&[&frame::rst_stream(1, 8), &bad()]);
    before_the_request_is_whole: "before the client has ended its side", "", "kept, told", {
        let block = Encoder::default().encode(&h2raw::call(BIDI, &[]), Style::PLAIN);
        whole(&[&bad()]).asking(asks(&[&Headers::new(false).write(1, &block)]))
    };
    behind_the_clients_reset: "after the client has reset the call, and reads on", "", "kept, told or not",
        says(&[wait(), send(&[&opening(), &bad()])]).asking(asks(&[&call(1, BIDI, "x"), &frame::rst_stream(1, 8)]));
    of_a_request_that_was_denied: "DATA on a stream whose request was denied", "", "kept",
        Scene { also: Some("asked"), ..whole(&[&bad()]).asking(asks(&[&call(1, BIDI, "BAD"), &call(3, BIDI, "x")])) };
    of_a_method_that_was_denied: "DATA on a stream whose method was denied", "", "response_stream", {
        let asks = asks(&[&call(1, "/echo.Echo/Slow", "x"), &call(3, BIDI, "x")]);
        Scene { also: Some("slow"), ..whole(&[&bad()]).asking(asks) }
    };
    beside_a_request_that_was_denied: "on the stream next to one whose request was denied", "", "kept, told", {
        let says = says(&[send(&[&settings(), &answered(3), &data(3, &secret())])]);
        Scene { also: Some("asked"), ..says.asking(asks(&[&call(1, BIDI, "BAD"), &call(3, BIDI, "x")])).on(3) }
    };

    // ---- messages ----
    marked_as_compressed: "a message that is marked as compressed, and is not", "refused", "compressed, told", {
        let text = Message::new().bytes(1, "a SECRET").bytes;
        message(&h2raw::grpc_claiming(1, u32::try_from(text.len()).unwrap(), &text))
    };
    compressed: "gzip", "given", "compressed, told", {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gzip.write_all(&Message::new().bytes(1, "a SECRET").bytes).unwrap();
        let gzip = gzip.finish().unwrap();
        let gzip = h2raw::grpc_claiming(1, u32::try_from(gzip.len()).unwrap(), &gzip);
        let block = hpack::block(&[Field::Indexed(8), Field::plain("grpc-encoding", "gzip")]);
        let says = says(&[send(&[&settings(), &Headers::new(false).write(1, &block), &data(1, &gzip)])]);
        Scene { message: gzip, ..says }
    };
    no_grpc: "a page of text, with a content-type of its own", "refused", "grpc_flag, told", {
        let block = hpack::block(&[Field::Indexed(8), Field::plain("content-type", "text/html")]);
        let says = says(&[send(&[&settings(), &Headers::new(false).write(1, &block), &data(1, b"<p>a SECRET</p>")])]);
        Scene { message: b"a SECRET".to_vec(), ..says }
    };
    not_utf8: "text that is not UTF-8", "refused", "utf8, told", message(&h2raw::grpc(&Message::new().bytes(1, b"a SECRET\xff").bytes));
    the_last_wins: "an allowed text, and then the denied one", "given", "kept, told",
        message(&h2raw::grpc(&Message::new().bytes(1, "fine").bytes(1, "a SECRET").bytes));
    behind_unknown_fields: "behind fields of higher numbers, unknown ones, groups, and its own with another type", "tonic: refused, grpcio: given", "kept, told", {
        let group = Message::new().bytes(1, "fine").group(7, &Message::new().varint(1, 1));
        let before = Message::new().bytes(2, [7; 90]).varint(1, 5).fixed64(3000, [1; 8]).group(900, &group);
        message(&h2raw::grpc(&before.bytes(1, "a SECRET").bytes))
    };
    over_long_varints: "over-long varints in tag and length", "given", "kept, told",
        message(&h2raw::grpc(&Message::new().long_tag(1, 2, 3).raw(&[0x88, 0x80, 0x00]).raw(b"a SECRET").bytes));
    merged: "a message in two halves, neither of which is denied", "given", "merged, told", {
        let (a, b) = (Message::new().bytes(1, "SECRET"), Message::new().varint(3, 1));
        message(&h2raw::grpc(&Message::new().message(6, &a).message(6, &b).bytes))
    };
}

/// Pages that the server can write after the filter has seen them: sendfile() refers to the file's own.
#[test]
fn in_pages_that_can_still_be_written() {
    if harness::skip_pages("answers_pages") {
        return;
    }
    check("pages", PAGES.2, PAGES.3, &says(&[send(&[&opening()]), ("file", hex(&bad()))]));
}

const PAGES: (&str, &str, &str, &str) =
    ("in_pages_that_can_still_be_written", "by sendfile()", "given", "shared_pages");

#[test]
fn the_table_in_the_docs_is_this() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/threat-model.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let mut table =
        "| what the server says | test | off | off: tonic, grpcio | on |\n|---|---|---|---|---|\n".to_owned();
    for (name, tried, off, on) in ROWS.iter().chain([&PAGES]) {
        let (why, told) = on.split_once(", ").unwrap_or((on, ""));
        let told = if told.is_empty() { String::new() } else { format!("; the caller is {told}") };
        let _ = writeln!(table, "| {tried} | `answers::{name}` | delivered | {off} | `{why}`{told} |");
    }
    let begin = "<!-- attacks: answers -->\n";
    let from = text.find(begin).expect("the table's beginning") + begin.len();
    let to = from + text[from..].find("<!-- end -->").unwrap();
    let mut new = text.clone();
    new.replace_range(from..to, &format!("\n{table}\n"));
    if std::env::var_os("PROTOCG_WRITE_TABLES").is_some() {
        std::fs::write(&path, &new).unwrap();
    } else {
        assert!(
            text == new,
            "docs/threat-model.md is not what the rows say: run this test with PROTOCG_WRITE_TABLES=1"
        );
    }
}
