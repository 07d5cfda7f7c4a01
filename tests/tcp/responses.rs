//! Denied responses on the way out: whatever TCP loses and repeats, and whatever clients reset, they never become complete at the
//! client. What servers can say is in `answers`.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use protocg_peers::h2raw::{self, frame};
use protocg_peers::harness::net::End;
use protocg_peers::harness::process::Place;
use protocg_peers::harness::{self, Calls, Stack, Veth, patience};
use protocg_peers::wire::Message;
use serde_json::json;

use crate::client::{self, Client};
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

/// The last words of a connection are said again until the client has acknowledged them, also by one that sends nothing else
/// and keeps its side open: then no more often than for the loss that nobody could see.
#[test]
fn a_client_that_only_acknowledges_is_not_told_for_ever() {
    if harness::skip("heard_responses") {
        return;
    }
    let field = Field::under("heard-responses", POLICY);
    let mut client = Client::of(&field);
    client.bytes(&client::call(3, "/echo.Echo/Unary", "a SECRET"));
    assert!(client.raw.wait(patience(Duration::from_secs(10)), |raw| raw.reset), "the connection stays");
    let (at, words) = client.raw.came.last().expect("words");
    let told = client.raw.came.iter().filter(|(seq, payload)| (seq, payload) == (at, words)).count();
    println!("told {told} times");
    assert!((2..8).contains(&told), "told {told} times");
    assert_eq!(client.status(3), Some(DATA_LOSS));
    field.stop();
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
