//! What the server says, on its way out: a response that a rule denies never becomes complete at the client, however TCP cuts,
//! loses and repeats it, and however the server says it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use protocg_peers::h2raw::{self, Reader, frame};
use protocg_peers::harness::net::End;
use protocg_peers::harness::process::{Place, Watched};
use protocg_peers::harness::{self, Calls, Cgroup, Protocg, Stack, Veth, patience};
use protocg_peers::raw::Raw;
use protocg_peers::wire::Message;
use serde_json::{Value, json};

use crate::field::{Field, PORT, eventually};
use crate::loss_program::loss;

const POLICY: &str = r#"
name = "tcp"
proto = ["echo.proto"]
ports = [50051]
default = "allow"
[[deny]]
name = "kept"
methods = ["/echo.Echo/*"]
when = 'response.text.contains("SECRET")'
status = "DATA_LOSS"
message = "this stays here"
"#;
const DATA_LOSS: i32 = 15;
const PERMISSION_DENIED: i32 = 7;
const PUSH_PROMISE: u8 = 5;

fn reply(text: &str) -> Vec<u8> {
    h2raw::grpc(&Message::new().bytes(1, text).bytes)
}

fn data(stream: u32, body: &[u8]) -> Vec<u8> {
    frame::data(stream, body, false, None)
}

/// SETTINGS, and the headers of the first call's answer.
fn opening() -> Vec<u8> {
    [frame::frame(4, 0, 0, &[]), frame::frame(1, 4, 1, &[0x88])].concat()
}

/// What a server says, and what must come of it.
struct Says {
    name: &'static str,
    says: Vec<(&'static str, Value)>,
    /// The rule, or the reason, that the enforcer names.
    why: &'static str,
    /// The status that the caller is told, if any.
    told: Option<i32>,
    /// Whole messages that the caller gets before.
    before: usize,
}

fn hex(bytes: &[u8]) -> Value {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into()
}

/// A client that has asked, of a server that says this.
fn asked(veth: &Veth, cgroup: &Cgroup, says: &[(&'static str, Value)]) -> (Watched, Raw) {
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tcp/says.py");
    let mut command = Command::new("python3");
    command.arg(script).arg(json!({ "port": PORT, "says": says }).to_string());
    Place { cgroup: Some(cgroup), net: Some((veth, End::B)) }.enter(&mut command);
    let server = Watched::start(command);
    server.wait_for("listening", |lines| lines.iter().any(|line| line == "listening").then_some(()));
    let mut client = Raw::new(veth, false, PORT);
    client.connect();
    let mut encoder = h2raw::Encoder::default();
    let call =
        h2raw::unary(&mut encoder, h2raw::Style::PLAIN, 1, "/echo.Echo/Bidi", &Message::new().bytes(1, "x").bytes);
    client.send(&[h2raw::open(&[]), call].concat());
    (server, client)
}

/// Whether the bytes of a denied message have come as a whole, in order or not.
fn has_come(client: &Raw) -> bool {
    holds_secret(&client.received) || client.came.iter().any(|(_, payload)| holds_secret(payload))
}

fn check(says: &Says) {
    for enforced in [false, true] {
        let (cgroup, veth) = (Cgroup::new("says"), Veth::new());
        let enforcer = enforced.then(|| Protocg::run(env!("CARGO_BIN_EXE_protocg"), &[&cgroup], POLICY, &[]));
        let (_server, mut client) = asked(&veth, &cgroup, &says.says);
        let Some(enforcer) = enforcer else {
            assert!(
                client.wait(patience(Duration::from_secs(5)), has_come),
                "{}: it comes without the enforcer",
                says.name
            );
            continue;
        };
        let started = std::time::Instant::now();
        let ended = client.wait(patience(Duration::from_secs(5)), |raw| raw.finished || raw.reset);
        assert!(ended, "{}: the connection ends", says.name);
        let took = started.elapsed();
        println!("{}: over after {took:?}", says.name);
        assert!(took < patience(Duration::from_secs(1)), "{}: {took:?}", says.name);
        // what TCP sends again
        client.wait(Duration::from_millis(300), has_come);
        assert!(!has_come(&client), "{}: {:?}", says.name, String::from_utf8_lossy(&client.received));
        let mut reader = Reader::default();
        let read = reader.feed(&client.received);
        let answer = reader.answer(1);
        if let Some(status) = says.told {
            assert!(read.is_ok(), "{}", says.name);
            assert_eq!(answer.status(), Some(status), "{}: {answer:?}", says.name);
            assert_eq!(answer.data.len(), says.before * reply("fine").len(), "{}: {answer:?}", says.name);
            assert!(client.finished && reader.goaway.is_some(), "{}", says.name);
        } else {
            // none but what the server itself has said before
            assert!(matches!(answer.status(), None | Some(0)), "{}: {answer:?}", says.name);
        }
        enforcer.wait_for(says.why, |e| e["rule"] == says.why || e["reason"] == says.why);
        let denials = enforcer.events().into_iter().filter(|e| e["verdict"] == "deny").count();
        assert_eq!(denials, 1, "{}: {:#?}", says.name, enforcer.events());
        assert!(enforcer.stop().success());
    }
}

#[test]
fn servers_say_it_in_every_way() {
    if harness::skip("says") {
        return;
    }
    let bad = data(1, &reply("a SECRET"));
    let good = data(1, &reply("fine"));
    let send = |bytes: &[&[u8]]| ("send", hex(&bytes.concat()));
    let trailers =
        frame::frame(1, 5, 1, &[0, 11, b'g', b'r', b'p', b'c', b'-', b's', b't', b'a', b't', b'u', b's', 1, b'0']);
    let secret = Message::new().bytes(1, "a SECRET").bytes;
    let flagged = h2raw::grpc_claiming(1, u32::try_from(secret.len()).unwrap(), &secret);
    let many = good.repeat(20_000 / good.len());
    let wait = ("wait", json!(0.2));
    let all = [
        Says {
            name: "all at once",
            says: vec![send(&[&opening(), &bad, &trailers])],
            why: "kept",
            told: Some(DATA_LOSS),
            before: 0,
        },
        Says {
            name: "headers first",
            says: vec![send(&[&opening()]), wait.clone(), send(&[&bad])],
            why: "kept",
            told: Some(DATA_LOSS),
            before: 0,
        },
        Says {
            name: "no headers at all",
            says: vec![send(&[&frame::frame(4, 0, 0, &[]), &bad])],
            why: "kept",
            told: Some(DATA_LOSS),
            before: 0,
        },
        Says {
            name: "behind another message",
            says: vec![send(&[&opening(), &good, &good, &bad, &good])],
            why: "kept",
            told: Some(DATA_LOSS),
            before: 2,
        },
        Says {
            name: "behind a long segment of messages",
            says: vec![send(&[&opening(), &many, &bad, &many])],
            why: "kept",
            told: Some(DATA_LOSS),
            before: 20_000 / good.len(),
        },
        Says {
            name: "a segment a byte",
            says: vec![send(&[&opening()]), ("bytes", hex(&bad))],
            why: "kept",
            told: None,
            before: 0,
        },
        Says {
            name: "cut in the message",
            says: vec![send(&[&opening(), &bad[..16]]), wait.clone(), send(&[&bad[16..]])],
            why: "kept",
            told: None,
            before: 0,
        },
        Says {
            name: "cut in the frame's head",
            says: vec![send(&[&opening(), &bad[..4]]), wait.clone(), send(&[&bad[4..]])],
            why: "kept",
            told: None,
            before: 0,
        },
        Says {
            name: "padded",
            says: vec![send(&[&opening(), &frame::data(1, &reply("a SECRET"), false, Some(40))])],
            why: "kept",
            told: Some(DATA_LOSS),
            before: 0,
        },
        Says {
            name: "marked as compressed",
            says: vec![send(&[&opening(), &data(1, &flagged)])],
            why: "compressed",
            told: Some(PERMISSION_DENIED),
            before: 0,
        },
        Says {
            name: "on a stream that nobody opened",
            says: vec![send(&[&opening(), &data(3, &reply("a SECRET"))])],
            why: "response_stream",
            told: None,
            before: 0,
        },
        Says {
            name: "on a stream that is over",
            says: vec![send(&[&opening(), &trailers]), wait.clone(), send(&[&bad])],
            why: "response_stream",
            told: None,
            before: 0,
        },
        Says {
            name: "pushed",
            says: vec![send(&[
                &opening(),
                &frame::frame(PUSH_PROMISE, 4, 1, &[0, 0, 0, 2, 0x82]),
                &data(2, &reply("a SECRET")),
            ])],
            why: "frame_order",
            told: None,
            before: 0,
        },
        Says {
            name: "urgent",
            says: vec![send(&[&opening()]), ("urgent", hex(&bad)), send(&[&good])],
            why: "urgent",
            told: None,
            before: 0,
        },
        Says {
            name: "behind a frame that is none",
            says: vec![send(&[&opening(), &frame::frame(6, 0, 0, &[0; 7]), &bad])],
            why: "frame_size",
            told: None,
            before: 0,
        },
    ];
    all.iter().for_each(check);
}

/// Pages that the server can write after the filter has seen them: sendfile() refers to the file's own.
#[test]
fn responses_in_pages_that_can_still_be_written() {
    if harness::skip_pages("says_pages") {
        return;
    }
    let bad = data(1, &reply("a SECRET"));
    let says = vec![("send", hex(&opening())), ("file", hex(&bad))];
    check(&Says { name: "sendfile", says, why: "shared_pages", told: None, before: 0 });
}

/// Segments are lost in both directions, and TCP sends them again: what is denied never comes, and nobody waits for it.
#[test]
fn lost_segments_of_denied_responses() {
    if harness::skip("lost_responses") {
        return;
    }
    const CALLS: usize = 30;
    for percent in [0_u32, 5, 15] {
        let field = Field::under("lost-responses", POLICY);
        for end in [End::A, End::B] {
            loss(&field.veth, end, percent * 10_000);
        }
        let place = Place { cgroup: None, net: Some((&field.veth, End::A)) };
        let calls = Calls { stack: Stack::Grpcio, place, target: SocketAddr::from((Veth::SERVER4, PORT)) };
        let mut session = calls.session();
        let (mut exact, mut others) = (0, 0);
        for turn in 0..CALLS {
            let deadline = u64::try_from(patience(Duration::from_secs(15)).as_millis()).unwrap();
            let text = if turn % 2 == 0 { "a SECRET" } else { "fine" };
            let call = json!({ "method": "/echo.Echo/Unary", "messages": [{ "text": text, "reply_bytes": 3000 }], "deadline_ms": deadline });
            let result = session.make(&json!([call])).remove(0);
            if turn % 2 == 1 {
                assert!(result["code"] == 0 || result["code"] == 14, "{result:#}");
                continue;
            }
            assert_ne!(result["code"], 0, "{result:#}");
            assert_eq!(result["fields"], json!([]), "{result:#}");
            assert_ne!(result["code"], 4, "it hangs: {result:#}");
            *(if result["code"] == DATA_LOSS { &mut exact } else { &mut others }) += 1;
        }
        println!("{percent} % lost: {exact} denied responses told exactly, {others} by the connection's end");
        assert!(percent > 0 || others == 0);
        drop(session);
        let denials = || field.enforcer().of_type("decision").len();
        eventually("the events", || denials() >= exact);
    }
}

/// A client that cancels its calls while they are answered, and reads on all the same: a response is judged though its call is
/// gone.
#[test]
fn calls_that_are_reset_while_they_are_answered() {
    if harness::skip("reset_responses") {
        return;
    }
    const ROUNDS: u64 = 60;
    for enforced in [false, true] {
        let field = Field::maybe("reset-responses", enforced, POLICY, &[]);
        let mut came = 0;
        for round in 0..ROUNDS {
            let socket = field.veth.run(End::A, || TcpStream::connect((Veth::SERVER4, PORT)).unwrap());
            let bytes = race(socket, Duration::from_micros(round * 40));
            came += u64::from(holds_secret(&bytes));
        }
        println!("enforced {enforced}: {came} of {ROUNDS} calls that were reset had their response");
        if enforced {
            assert_eq!(came, 0);
            field.neighbour_is_served();
            field.stop();
        } else {
            assert!(came > 0, "the attack succeeds");
        }
    }
}

fn holds_secret(bytes: &[u8]) -> bool {
    let whole = Message::new().bytes(1, "a SECRET").bytes;
    bytes.windows(whole.len()).any(|window| window == whole)
}

/// Calls, and after a while resets; everything that comes until nothing does.
fn race(mut socket: TcpStream, after: Duration) -> Vec<u8> {
    socket.set_nodelay(true).unwrap();
    socket.set_read_timeout(Some(patience(Duration::from_millis(150)))).unwrap();
    let message = Message::new().bytes(1, "a SECRET").varint(102, 20).bytes;
    let mut encoder = h2raw::Encoder::default();
    let _ = socket.write_all(&h2raw::open(&[]));
    for stream in [1, 3, 5] {
        let call = h2raw::unary(&mut encoder, h2raw::Style::PLAIN, stream, "/echo.Echo/ServerStream", &message);
        let _ = socket.write_all(&call);
        std::thread::sleep(after);
        let _ = socket.write_all(&frame::rst_stream(stream, 8));
    }
    let mut all = Vec::new();
    let _ = socket.read_to_end(&mut all);
    all
}
