//! What a server says to a client that asks, without the enforcer and with it: the stage of `answers`.

use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use protocg_peers::h2raw::{self, Encoder, Field, Headers, Reader, Style, frame, hpack};
use protocg_peers::harness::net::End;
use protocg_peers::harness::process::{Place, Watched};
use protocg_peers::harness::{self, Calls, Cgroup, Protocg, Stack, Veth, patience};
use protocg_peers::raw::{ACK, FIN, Odd, Raw};
use protocg_peers::wire::Message;
use serde_json::{Value, json};

use crate::field::eventually;

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
pub const BIDI: &str = "/echo.Echo/Bidi";

// ---- where ----

/// Two networks, with the enforcer in one of them; every test has a server and a port of its own. The last cgroup is one of clients,
/// under an egress policy.
struct Arena {
    enforcer: Protocg,
    at_clients: Protocg,
    cgroups: [Cgroup; 3],
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
        let cgroups = [Cgroup::new("answers-off"), Cgroup::new("answers-on"), Cgroup::new("answers-clients")];
        let run = |at: usize, policy: &str| Protocg::run(env!("CARGO_BIN_EXE_protocg"), &[&cgroups[at]], policy, &[]);
        let enforcer = run(1, POLICY);
        let at_clients = run(2, &POLICY.replace("default =", "direction = \"egress\"\ndefault ="));
        Arc::new(Arena { enforcer, at_clients, cgroups, veths: [Veth::new(), Veth::new()] })
    });
    Arc::clone(made)
}

// ---- what ----

/// What a client asks, what its server says then, and what of it the caller must not have.
pub struct Scene {
    /// Else one call.
    pub asks: Option<Vec<u8>>,
    /// The client closes its side.
    pub closes: bool,
    pub says: Vec<(&'static str, Value)>,
    /// The denied message with its prefix.
    pub message: Vec<u8>,
    pub stream: u32,
    /// How much DATA the caller gets before.
    pub before: usize,
    /// A denial that comes before, of a request.
    pub also: Option<&'static str>,
}

pub fn hex(bytes: &[u8]) -> Value {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into()
}

/// Bytes that are sent at once.
pub fn send(parts: &[&[u8]]) -> (&'static str, Value) {
    ("send", hex(&parts.concat()))
}

/// Bytes in a segment each.
pub fn bytes(bytes: &[u8]) -> (&'static str, Value) {
    ("bytes", hex(bytes))
}

pub fn wait() -> (&'static str, Value) {
    ("wait", json!(0.2))
}

pub fn reply(text: &str) -> Vec<u8> {
    h2raw::grpc(&Message::new().bytes(1, text).bytes)
}

pub fn secret() -> Vec<u8> {
    reply("a SECRET")
}

pub fn fine() -> Vec<u8> {
    data(1, &reply("fine"))
}

pub fn data(stream: u32, body: &[u8]) -> Vec<u8> {
    frame::data(stream, body, false, None)
}

pub fn bad() -> Vec<u8> {
    data(1, &secret())
}

pub fn settings() -> Vec<u8> {
    frame::settings(&[])
}

/// `:status 200`.
pub fn answered(stream: u32) -> Vec<u8> {
    Headers::new(false).write(stream, &[0x88])
}

/// SETTINGS, and the headers of the first call's answer.
pub fn opening() -> Vec<u8> {
    [settings(), answered(1)].concat()
}

pub fn trailers() -> Vec<u8> {
    Headers::new(true).write(1, &hpack::block(&[Field::plain("grpc-status", "0")]))
}

pub fn call(stream: u32, path: &str, text: &str) -> Vec<u8> {
    h2raw::unary(&mut Encoder::default(), Style::PLAIN, stream, path, &Message::new().bytes(1, text).bytes)
}

pub fn asks(parts: &[&[u8]]) -> Vec<u8> {
    [&h2raw::open(&[]), parts.concat().as_slice()].concat()
}

pub fn says(says: &[(&'static str, Value)]) -> Scene {
    Scene { asks: None, closes: false, says: says.to_vec(), message: secret(), stream: 1, before: 0, also: None }
}

/// The answer of one call, in one segment, with this in it.
pub fn whole(parts: &[&[u8]]) -> Scene {
    says(&[send(&[&opening(), parts.concat().as_slice()])])
}

/// A message that is not [`secret`], in one segment.
pub fn message(message: &[u8]) -> Scene {
    Scene { message: message.to_vec(), ..whole(&[&data(1, message)]) }
}

impl Scene {
    pub fn asking(self, asks: Vec<u8>) -> Self {
        Self { asks: Some(asks), ..self }
    }

    pub fn before(self, before: usize) -> Self {
        Self { before, ..self }
    }

    pub fn on(self, stream: u32) -> Self {
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

    fn is_in(&self, bytes: &[u8]) -> bool {
        bytes.windows(self.message.len()).any(|window| window == self.message)
    }

    /// Whether the denied message is in these bytes as a whole, or in the DATA of a stream.
    fn is_said_by(&self, received: &[u8]) -> bool {
        let mut reader = Reader::default();
        let _ = reader.feed(received);
        self.is_in(received) || reader.answers.values().any(|answer| self.is_in(&answer.data))
    }

    /// Whether the denied message has come as a whole: in its bytes, in order or not, or in the stream's DATA.
    fn has_come(&self, client: &Raw) -> bool {
        self.is_said_by(&client.received) || client.came.iter().any(|(_, payload)| self.is_in(payload))
    }

    /// What a client in a cgroup gets of a server anywhere, under an egress policy.
    fn to_a_client(&self, arena: &Arena, why: &str) {
        let port = PORTS.fetch_add(1, Ordering::Relaxed);
        let _server = self.server(arena, 0, port, false, &[]);
        let asks = self.asks.clone().unwrap_or_else(|| asks(&[&call(1, BIDI, "x")]));
        let given = json!({ "to": [Veth::SERVER4.to_string(), port], "asks": hex(&asks), "closes": self.closes });
        let caller =
            Caller::start(Place { cgroup: Some(&arena.cgroups[2]), net: Some((&arena.veths[0], End::A)) }, &given);
        let here = |event: &Value| event["server.port"] == port && event["verdict"] == "deny";
        // a denied request ends its connection before there is a response
        let why = self.also.unwrap_or(why);
        arena.at_clients.wait_for(why, |event| here(event) && cause(event).as_deref() == Some(why));
        let started = Instant::now();
        eventually("the client's end", || caller.ended().is_some());
        assert!(started.elapsed() < patience(Duration::from_secs(1)), "{:?}", started.elapsed());
        assert!(!self.is_said_by(&caller.got()), "{:?}", String::from_utf8_lossy(&caller.got()));
        let denials: Vec<_> = arena.at_clients.events().iter().filter(|event| here(event)).filter_map(cause).collect();
        assert_eq!(denials, [why]);
    }
}

/// The rule or the reason of an event.
fn cause(event: &Value) -> Option<String> {
    event["rule"].as_str().or(event["reason"].as_str()).map(str::to_owned)
}

/// A client that says what it gets (caller.py).
pub struct Caller(Watched);

impl Caller {
    pub fn start(place: Place, given: &Value) -> Self {
        let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tcp/caller.py");
        let mut command = Command::new("python3");
        command.arg(script).arg(given.to_string());
        place.enter(&mut command);
        Self(Watched::start(command))
    }

    fn said(&self, key: &str) -> Option<String> {
        let of = |line: &String| serde_json::from_str::<Value>(line).ok()?[key].as_str().map(str::to_owned);
        self.0.lines().iter().filter_map(of).next_back()
    }

    pub fn got(&self) -> Vec<u8> {
        let all = self.said("got").unwrap_or_default();
        (0..all.len() / 2).map(|at| u8::from_str_radix(&all[2 * at..2 * at + 2], 16).unwrap()).collect()
    }

    /// How its socket ended.
    pub fn ended(&self) -> Option<String> {
        self.said("ended")
    }

    pub fn kill(&self) {
        self.0.signal(nix::sys::signal::Signal::SIGKILL);
    }
}

/// Without the enforcer the message comes, and real clients make `off` of it. With it, what `on` says: the rule or the reason, and
/// whether the caller is told. So says an egress policy at the client, too.
pub fn check(name: &str, off: &str, on: &str, scene: &Scene) {
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
    let status = if why == "kept" { DATA_LOSS } else { PERMISSION_DENIED };
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
    arena.enforcer.wait_for(why, |event| here(event) && cause(event).as_deref() == Some(why));
    let denials: Vec<_> = arena.enforcer.events().iter().filter(|event| here(event)).filter_map(cause).collect();
    assert_eq!(denials, scene.also.into_iter().chain([why]).collect::<Vec<_>>());
    scene.to_a_client(&arena, why);
}
