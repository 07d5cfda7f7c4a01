//! Egress policies with rules on responses: a hostile server, made of raw packets, towards a client in the cgroup. Each attack
//! runs twice. Without the enforcer the client gets the denied message; with it, it never does, its socket ends at once, and
//! another client of the cgroup is served.

use std::io::{Read, Write};
use std::process::Command;
use std::time::{Duration, Instant};

use protocg_peers::h2raw::{self, frame};
use protocg_peers::harness::net::End;
use protocg_peers::harness::process::{Place, Watched};
use protocg_peers::harness::{self, Cgroup, Protocg, Veth, patience};
use protocg_peers::raw::{ACK, FIN, Odd, PSH, RST, Raw, SYN, URG};
use serde_json::{Value, json};

use crate::field::{Off, PORT, SHORT, eventually};
use crate::scene::{Caller, asks, bad, call, data, fine, hex, opening, reply, secret, settings};
use crate::slots::Slots;

const POLICY: &str = r#"
name = "servers"
proto = ["echo.proto"]
ports = [50051]
direction = "egress"
default = "allow"
[[deny]]
name = "kept"
methods = ["/echo.Echo/*"]
when = 'response.text.contains("SECRET")'
status = "DATA_LOSS"
"#;
const LONG: Duration = Duration::from_secs(5);
const UNARY: &str = "/echo.Echo/Bidi";

/// What no client may be given.
const SECRET: &[u8] = b"SECRET";

fn ask() -> Vec<u8> {
    asks(&[&call(1, UNARY, "x")])
}

/// Clients in a cgroup, and the enforcer, if there is one.
struct Ground {
    enforcer: Option<Protocg>,
    cgroup: Cgroup,
    veth: Veth,
}

impl Ground {
    fn new(name: &str, policy: Option<&str>) -> Self {
        let (cgroup, veth) = (Cgroup::new(name), Veth::new());
        let mut ground = Self { enforcer: None, cgroup, veth };
        if let Some(policy) = policy {
            ground.enforce(policy);
        }
        ground
    }

    fn enforce(&mut self, policy: &str) {
        self.enforcer = Some(Protocg::run(env!("CARGO_BIN_EXE_protocg"), &[&self.cgroup], policy, &[]));
    }

    /// A client in the cgroup, and the server that it has asked.
    fn asked(&self, options: Value) -> Talk {
        self.asked_by([10, 77, 0, 9], options, Raw::accept)
    }

    fn asked_by(&self, server: [u8; 4], options: Value, accept: impl FnOnce(&mut Raw)) -> Talk {
        let mut raw = Raw::listen(&self.veth, PORT);
        raw.from = server;
        let client = self.caller(&format!("{}.{}.{}.{}", server[0], server[1], server[2], server[3]), options);
        accept(&mut raw);
        assert!(raw.wait(patience(LONG), |raw| raw.received.len() >= ask().len()), "no question");
        Talk { client, server: raw }
    }

    fn caller(&self, server: &str, options: Value) -> Caller {
        let mut given = json!({ "to": [server, PORT], "asks": hex(&ask()) });
        given.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
        Caller::start(Place { cgroup: Some(&self.cgroup), net: Some((&self.veth, End::B)) }, &given)
    }

    /// Nothing is left of connections that are gone.
    fn nothing_is_left(&self) {
        for name in ["conns", "streams", "held", "berths"] {
            eventually(name, || crate::maps::entries(self.cgroup.path())[name] == 0);
        }
        Slots::of(&self.cgroup).all_free();
    }
}

/// A client and its server.
struct Talk {
    client: Caller,
    server: Raw,
}

impl Talk {
    fn got(&self) -> Vec<u8> {
        self.client.got()
    }

    fn has(&self, bytes: &[u8]) -> bool {
        self.got().windows(bytes.len()).any(|window| window == bytes)
    }

    fn ended(&self) -> Option<String> {
        self.client.ended()
    }

    /// The server's bytes at a distance from its next.
    fn at(&self, distance: usize, bytes: &[u8]) {
        self.odd(distance, bytes, PSH | ACK, &Odd::default());
    }

    fn odd(&self, distance: usize, bytes: &[u8], flags: u8, odd: &Odd) {
        self.server.segment(flags, self.server.seq.wrapping_add(distance as u32), bytes, odd);
    }

    /// In order, and acknowledged.
    fn says(&mut self, bytes: &[u8]) {
        self.server.send(bytes);
        let taken = self.server.wait(patience(LONG), |raw| raw.acked == raw.seq);
        assert!(taken, "not taken");
    }
}

/// Wherever TCP stands, the connection ends.
impl Drop for Talk {
    fn drop(&mut self) {
        self.client.kill();
        self.server.wait(Duration::from_millis(20), |_| false);
        let acked = self.server.acked;
        self.server.segment(RST | ACK, acked, &[], &Odd::default());
    }
}

/// `on`: the rule or the reason that the enforcer names.
fn attack(name: &str, on: &str, act: impl Fn(&mut Talk)) {
    attack_with(name, Off::Succeeds, on, json!({}), Raw::accept, act);
}

fn attack_with(name: &str, off: Off, on: &str, options: Value, accept: impl Fn(&mut Raw), act: impl Fn(&mut Talk)) {
    if harness::skip(&format!("servers_{name}")) {
        return;
    }
    for enforced in [false, true] {
        let ground = Ground::new(name, enforced.then_some(POLICY));
        let mut neighbour = ground.asked_by([10, 78, 0, 1], json!({}), Raw::accept);
        neighbour.says(&[opening(), fine()].concat());
        let mut talk = ground.asked_by([10, 77, 0, 9], options.clone(), &accept);
        act(&mut talk);
        let Some(enforcer) = &ground.enforcer else {
            match off {
                Off::Succeeds => eventually("the attack succeeds", || talk.has(SECRET)),
                Off::StackRefuses => {
                    std::thread::sleep(SHORT);
                    assert!(!talk.has(SECRET), "the stack lets it through");
                }
            }
            continue;
        };
        if !on.is_empty() {
            let began = Instant::now();
            let event = enforcer.wait_for(on, |e| e["rule"] == on || e["reason"] == on);
            assert_eq!(event["network.peer.address"], "10.77.0.9", "{event:#}");
            assert_eq!(event["server.port"], PORT, "{event:#}");
            if on == "kept" {
                let expected = (&json!("RECEIVED"), &json!(15), &json!("deny"));
                let said = (&event["rpc.message.type"], &event["rpc.grpc.status_code"], &event["verdict"]);
                assert_eq!(said, expected, "{event:#}");
            }
            eventually("the client's end", || talk.ended().is_some());
            assert!(began.elapsed() < patience(Duration::from_secs(2)), "{:?}", began.elapsed());
        }
        std::thread::sleep(SHORT);
        assert!(!talk.has(SECRET), "it got through: {}", String::from_utf8_lossy(&talk.got()));
        neighbour.says(&fine());
        eventually("the neighbour is served", || neighbour.has(&[fine(), fine()].concat()));
        assert_eq!(neighbour.ended(), None);
        drop((talk, neighbour));
        ground.nothing_is_left();
        let told = enforcer.events().iter().filter(|e| e["verdict"] == "deny").count();
        assert_eq!(told, usize::from(!on.is_empty()), "{:#?}", enforcer.events());
    }
}

/// Linux looks at the checksum of a shorter segment before the filter is run (`CHECKSUM_BREAK`).
const LATE_CHECKSUM: usize = 80;

/// What begins a denied message, and what ends it, behind what has been judged and taken; neither says what it is.
fn halves(talk: &mut Talk) -> (Vec<u8>, Vec<u8>) {
    talk.says(&opening());
    let whole = data(1, &reply(&format!("{} a SECRET{}", "x".repeat(40), "y".repeat(LATE_CHECKSUM))));
    let (first, last) = whole.split_at(whole.len() - LATE_CHECKSUM - 4);
    (first.to_vec(), last.to_vec())
}

/// As long as the second of [`halves`], and allowed.
fn other() -> Vec<u8> {
    vec![b'z'; LATE_CHECKSUM + 4]
}

#[test]
fn a_denied_response_in_one_segment() {
    attack("one", "kept", |talk| talk.at(0, &[opening(), bad()].concat()));
}

#[test]
fn a_denied_response_a_byte_a_segment() {
    attack("bytes", "kept", |talk| {
        for (at, byte) in [opening(), bad()].concat().iter().enumerate() {
            talk.at(at, &[*byte]);
        }
    });
}

#[test]
fn the_second_half_before_the_first() {
    attack("reordered", "kept", |talk| {
        let (first, last) = halves(talk);
        talk.at(first.len(), &last);
        talk.at(0, &first);
    });
}

#[test]
fn three_parts_in_every_order() {
    for order in [[0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        attack("parts", "kept", |talk| {
            talk.says(&opening());
            let whole = bad();
            for part in order {
                let from = part * 8;
                talk.at(from, &whole[from..if part == 2 { whole.len() } else { from + 8 }]);
            }
        });
    }
}

/// Sequence numbers wrap in the hole.
#[test]
fn a_hole_where_sequence_numbers_wrap() {
    let wraps = |raw: &mut Raw| {
        raw.isn = 0_u32.wrapping_sub(opening().len() as u32 + 10);
        (raw.seq, raw.acked) = (raw.isn, raw.isn);
        raw.accept();
    };
    attack_with("wrap", Off::Succeeds, "kept", json!({}), wraps, |talk| {
        let (first, last) = halves(talk);
        talk.at(first.len(), &last);
        talk.at(4, &first[4..]);
        talk.at(0, &first[..4]);
    });
}

/// TCP refuses the first, and the filter must not take it for what the client gets.
#[test]
fn other_bytes_after_a_bad_checksum() {
    attack("checksum", "retransmit_unverified", |talk| {
        let (first, last) = halves(talk);
        talk.says(&first);
        talk.odd(0, &other(), PSH | ACK, &Odd { bad_checksum: true, ..Odd::default() });
        again(talk, &last);
    });
}

#[test]
fn other_bytes_after_an_acknowledgement_of_what_was_not_sent() {
    attack("ack", "retransmit_unverified", |talk| {
        let (first, last) = halves(talk);
        talk.says(&first);
        let ack = talk.server.ack.wrapping_add(100_000);
        talk.odd(0, &other(), PSH | ACK, &Odd { ack: Some(ack), ..Odd::default() });
        again(talk, &last);
    });
}

/// A segment without ACK is dropped unjudged: what comes then is judged.
#[test]
fn other_bytes_after_a_segment_without_ack() {
    attack("no-ack", "kept", |talk| {
        let (first, last) = halves(talk);
        talk.says(&first);
        talk.odd(0, &other(), PSH, &Odd::default());
        again(talk, &last);
    });
}

/// Longer, shorter, and beginning before.
#[test]
fn other_bytes_with_other_boundaries_after_a_bad_checksum() {
    attack("boundaries", "retransmit_unverified", |talk| {
        let (first, last) = halves(talk);
        talk.says(&first[..10]);
        let others = [&first[10..], &other()].concat();
        talk.odd(0, &others, PSH | ACK, &Odd { bad_checksum: true, ..Odd::default() });
        for _ in 0..3 {
            talk.at(0, &first[10..14]);
            talk.at(0, &[&first[10..], &last[..], &fine()].concat());
            talk.server.wait(Duration::from_millis(400), |raw| raw.reset);
        }
        again_at(talk, first.len() - 10, &last);
    });
}

/// A segment ahead of a hole, which TCP refuses, then another in its place, then what fills the hole.
#[test]
fn other_bytes_ahead_of_a_hole() {
    attack("ahead", "retransmit_unverified", |talk| {
        let (first, last) = halves(talk);
        talk.odd(first.len(), &other(), PSH | ACK, &Odd { bad_checksum: true, ..Odd::default() });
        talk.at(first.len(), &last);
        talk.at(0, &first);
        talk.server.wait(SHORT, |raw| raw.reset);
        again_at(talk, first.len(), &last);
    });
}

/// TCP keeps the first of two that wait in the same place.
#[test]
fn an_allowed_copy_ahead_of_a_hole() {
    attack("copy", "kept", |talk| {
        let (first, last) = halves(talk);
        talk.at(first.len(), &last);
        talk.at(first.len(), &other());
        talk.at(0, &first);
    });
}

/// The segment that fills the hole reaches into what waits.
#[test]
fn a_fill_that_overlaps_what_waits() {
    attack("fill", "kept", |talk| {
        let (first, last) = halves(talk);
        talk.at(first.len(), &last);
        talk.at(0, &[&first[..], &last[..2]].concat());
    });
}

#[test]
fn a_denied_response_that_ends_with_fin() {
    attack("fin", "kept", |talk| {
        let (first, last) = halves(talk);
        talk.says(&first);
        talk.odd(0, &last, PSH | ACK | FIN, &Odd::default());
    });
}

/// A FIN ahead of the hole, and what is denied before it.
#[test]
fn a_fin_that_waits() {
    attack("fin-waits", "kept", |talk| {
        let (first, last) = halves(talk);
        talk.odd(first.len(), &last, PSH | ACK | FIN, &Odd::default());
        talk.at(0, &first);
    });
}

/// A FIN that TCP refuses takes no byte out of the comparison: another place of the FIN is no honest one.
#[test]
fn a_fin_in_two_places() {
    attack("two-fins", "kept", |talk| {
        let (first, last) = halves(talk);
        talk.says(&first);
        talk.odd(0, &[], ACK | FIN, &Odd { bad_checksum: true, ..Odd::default() });
        talk.odd(0, &last, PSH | ACK | FIN, &Odd::default());
        again(talk, &last);
    });
}

/// recv() skips the urgent byte: what the filter reads is not what the client reads.
#[test]
fn urgent_data() {
    attack("urgent", "urgent", |talk| {
        let (first, last) = halves(talk);
        talk.says(&first);
        let extra = [&last[..1], b"x", &last[1..]].concat();
        talk.odd(0, &extra, PSH | ACK | URG, &Odd { urgent: 2, ..Odd::default() });
    });
}

/// The urgent pointer stands on an empty segment before the data.
#[test]
fn an_urgent_pointer_without_data() {
    attack("urgent-empty", "urgent", |talk| {
        let (first, last) = halves(talk);
        talk.says(&first);
        talk.odd(0, &[], ACK | URG, &Odd { urgent: 2, ..Odd::default() });
        let extra = [&last[..1], b"x", &last[1..]].concat();
        talk.at(0, &extra);
    });
}

/// TCP ignores data on a SYN-ACK, and other bytes come in its place.
#[test]
fn data_on_the_syn_ack() {
    let early = |raw: &mut Raw| {
        raw.asked();
        let innocent = vec![b'x'; opening().len()];
        raw.segment(SYN | ACK, raw.isn, &innocent, &Odd::default());
        raw.seq = raw.isn.wrapping_add(1);
    };
    let act = |talk: &mut Talk| talk.at(0, &[opening(), bad()].concat());
    attack_with("syn-ack", Off::Succeeds, "kept", json!({}), early, act);
    let whole = |raw: &mut Raw| {
        raw.asked();
        raw.segment(SYN | ACK, raw.isn, &[opening(), bad()].concat(), &Odd::default());
        raw.seq = raw.isn.wrapping_add(1);
    };
    attack_with("syn-ack-whole", Off::StackRefuses, "", json!({}), whole, |_| ());
}

/// What comes before the handshake is over waits nowhere.
#[test]
fn data_before_the_syn_ack() {
    let early = |raw: &mut Raw| {
        raw.asked();
        for _ in 0..20 {
            raw.segment(PSH | ACK, raw.isn.wrapping_add(1), &[opening(), bad()].concat(), &Odd::default());
        }
        raw.segment(SYN | ACK, raw.isn, &[], &Odd::default());
        raw.segment(PSH | ACK, raw.isn.wrapping_add(1), &[opening(), bad()].concat(), &Odd::default());
        raw.seq = raw.isn.wrapping_add(1);
        let known = raw.wait(patience(LONG), |raw| raw.acked != raw.isn || raw.reset);
        assert!(known, "no ACK");
    };
    if harness::skip("servers_early") {
        return;
    }
    for enforced in [false, true] {
        for _ in 0..20 {
            let ground = Ground::new("early", enforced.then_some(POLICY));
            let mut raw = Raw::listen(&ground.veth, PORT);
            let client = ground.caller("10.77.0.9", json!({}));
            early(&mut raw);
            let talk = Talk { client, server: raw };
            if enforced {
                talk.server.segment(PSH | ACK, talk.server.seq, &[opening(), bad()].concat(), &Odd::default());
                eventually("the client's end", || talk.ended().is_some());
                assert!(!talk.has(SECRET));
            } else {
                eventually("the attack succeeds", || talk.has(SECRET));
                break;
            }
        }
    }
}

/// The client resets the call, and reads on all the same.
#[test]
fn a_response_to_a_call_that_was_reset() {
    let reset = frame::rst_stream(1, 8);
    attack_with(
        "reset",
        Off::Succeeds,
        "kept",
        json!({ "then": [[settings().len(), hex(&reset)]] }),
        Raw::accept,
        |talk| {
            talk.says(&settings());
            assert!(talk.server.wait(patience(LONG), |raw| raw.received.len() >= ask().len() + reset.len()));
            talk.says(&opening());
            talk.at(0, &bad());
        },
    );
}

#[test]
fn data_on_a_stream_that_nobody_opened() {
    attack("unasked", "response_stream", |talk| talk.at(0, &[opening(), data(3, &secret())].concat()));
}

/// Multipath TCP has another stream that carries the order. A client's socket does not say whether its server speaks it: both are cut.
#[test]
fn multipath_tcp_of_a_client() {
    if harness::skip("servers_mptcp") || crate::stack::no_mptcp("servers_mptcp") {
        return;
    }
    for (enforced, server) in [(false, libc::IPPROTO_MPTCP), (true, libc::IPPROTO_MPTCP), (true, libc::IPPROTO_TCP)] {
        let ground = Ground::new("mptcp", enforced.then_some(POLICY));
        let listener = ground.veth.run(End::A, || crate::wall::listener(server));
        let client = ground.caller("10.77.0.1", json!({ "protocol": libc::IPPROTO_MPTCP }));
        let (mut socket, _) = listener.accept().unwrap();
        let mut had = vec![0; ask().len()];
        socket.read_exact(&mut had).unwrap();
        socket.write_all(&[opening(), bad()].concat()).unwrap();
        let talk = Talk { client, server: Raw::listen(&ground.veth, PORT) };
        let Some(enforcer) = &ground.enforcer else {
            eventually("the attack succeeds", || talk.has(SECRET));
            continue;
        };
        enforcer.wait_for("mptcp", |e| e["reason"] == "mptcp");
        std::thread::sleep(SHORT);
        assert!(talk.got().is_empty(), "{:?}", talk.got());
    }
}

/// What a local server sends by file it can still write.
#[test]
fn a_local_server_that_sends_by_file() {
    if harness::skip_pages("servers_pages") {
        return;
    }
    for enforced in [false, true] {
        let ground = Ground::new("pages", enforced.then_some(POLICY));
        let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tcp/says.py");
        let mut command = Command::new("python3");
        let says = json!([["send", hex(&opening())], ["file", hex(&fine())]]);
        command.arg(script).arg(json!({ "port": PORT, "greets": false, "says": says }).to_string());
        Place { cgroup: None, net: Some((&ground.veth, End::B)) }.enter(&mut command);
        let server = Watched::start(command);
        server.wait_for("listening", |lines| lines.iter().any(|line| line == "listening").then_some(()));
        let client = ground.caller("127.0.0.1", json!({}));
        let talk = Talk { client, server: Raw::listen(&ground.veth, PORT) };
        match &ground.enforcer {
            None => eventually("it comes", || talk.has(&fine())),
            Some(enforcer) => {
                enforcer.wait_for("shared_pages", |e| e["reason"] == "shared_pages");
                eventually("the client's end", || talk.ended().is_some());
                assert!(!talk.has(&fine()));
            }
        }
    }
}

/// The retransmissions of the last bytes, which are other bytes than those judged: dropped until the connection is cut.
fn again(talk: &mut Talk, bytes: &[u8]) {
    again_at(talk, 0, bytes);
}

fn again_at(talk: &mut Talk, distance: usize, bytes: &[u8]) {
    for _ in 0..12 {
        talk.at(distance, bytes);
        if talk.server.wait(Duration::from_millis(200), |raw| raw.reset) {
            return;
        }
    }
}

/// A connection that is older than the enforcer is not guessed at.
#[test]
fn a_connection_that_is_older_than_the_enforcer() {
    if harness::skip("servers_midstream") {
        return;
    }
    for midstream in ["deny", "allow"] {
        let mut ground = Ground::new("midstream", None);
        let mut talk = ground.asked(json!({}));
        let mut idle = ground.asked_by([10, 78, 0, 2], json!({}), Raw::accept);
        talk.says(&opening());
        ground.enforce(&format!("{POLICY}[uninspectable]\nmidstream = \"{midstream}\"\n"));
        talk.at(0, &bad());
        if midstream == "allow" {
            eventually("it passes", || talk.has(SECRET));
        } else {
            // the agent has closed it when it began
            eventually("the client's end", || talk.ended().is_some());
            assert!(!talk.has(SECRET));
        }
        // what has received nothing could be a new one: it is not let pass by the switch
        idle.server.send(&[opening(), bad()].concat());
        eventually("the client's end", || idle.ended().is_some());
        assert!(!idle.has(SECRET));
    }
}

/// In audit mode all is delivered, and told.
#[test]
fn audit_mode_delivers_responses() {
    if harness::skip("servers_audit") {
        return;
    }
    let ground = Ground::new("audit", Some(&POLICY.replace("default", "mode = \"audit\"\ndefault")));
    let mut talk = ground.asked(json!({}));
    talk.says(&[opening(), bad(), fine()].concat());
    eventually("it passes", || talk.has(&[bad(), fine()].concat()));
    let enforcer = ground.enforcer.as_ref().unwrap();
    enforcer.wait_for("kept", |e| e["rule"] == "kept" && e["verdict"] == "audit-deny");
    // what cannot be followed is told, and passes from then on
    talk.odd(0, b"u", PSH | ACK | URG, &Odd { urgent: 1, ..Odd::default() });
    enforcer.wait_for("urgent", |e| e["reason"] == "urgent" && e["verdict"] == "audit-deny");
    talk.server.seq = talk.server.seq.wrapping_add(1);
    talk.says(&bad());
    assert_eq!(talk.ended(), None);
}

/// A switch lets pass unread what it names, and all that follows.
#[test]
fn a_switch_lets_a_malformed_response_pass() {
    if harness::skip("servers_switch") {
        return;
    }
    let ground = Ground::new("switch", Some(&format!("{POLICY}[uninspectable]\nmalformed = \"allow\"\n")));
    let mut talk = ground.asked(json!({}));
    let pushed = frame::frame(5, 4, 1, &[0, 0, 0, 2, 0x88]);
    talk.says(&[opening(), pushed].concat());
    talk.says(&bad());
    eventually("it passes", || talk.has(SECRET));
    let enforcer = ground.enforcer.as_ref().unwrap();
    enforcer.wait_for("frame_order", |e| e["reason"] == "frame_order" && e["verdict"] == "allow");
}

/// What the server allows the client's HPACK table is known, also where nothing is judged of responses.
#[test]
fn a_client_whose_server_allows_a_larger_hpack_table() {
    if harness::skip("servers_hpack") {
        return;
    }
    let without = POLICY.split("[[deny]]").next().unwrap();
    let by_method = format!("{without}[[deny]]\nname = \"slow\"\nmethods = [\"/echo.Echo/Slow\"]\n");
    for policy in [by_method.as_str(), POLICY] {
        let ground = Ground::new("hpack", Some(policy));
        let allowed = frame::settings(&[(1, 16384)]);
        // a dynamic table size update to 16,384 (RFC 7541, section 6.3)
        let larger = [&[0x3f, 0xe1, 0x7f][..], &crate::client::plain(&h2raw::call(UNARY, &[]))].concat();
        let second = h2raw::Headers::new(true).write(3, &larger);
        let mut talk = ground.asked(json!({ "then": [[allowed.len(), hex(&second)]] }));
        // in two segments, the second first
        talk.at(11, &allowed[11..]);
        talk.at(0, &allowed[..11]);
        talk.server.seq = talk.server.seq.wrapping_add(allowed.len() as u32);
        let all = ask().len() + second.len();
        let came = talk.server.wait(patience(LONG), |raw| raw.received.len() >= all);
        assert!(came, "{:#?}", ground.enforcer.as_ref().unwrap().events());
        talk.says(&[opening(), fine()].concat());
        eventually("an answer", || talk.has(&fine()));
        assert_eq!(talk.ended(), None);
    }
}

/// RPCs that are over leave nothing behind while their connection lives, also where nothing is judged of responses.
#[test]
fn rpcs_that_are_over_leave_nothing_on_a_connection_that_lives() {
    if harness::skip("servers_leak") {
        return;
    }
    let without = POLICY.split("[[deny]]").next().unwrap();
    let asked =
        format!("{without}[[deny]]\nname = \"no\"\nmethods = [\"/echo.Echo/*\"]\nwhen = 'request.text == \"no\"'\n");
    for policy in [asked.as_str(), POLICY] {
        let ground = Ground::new("leak", Some(policy));
        let more: Vec<u8> = (1..40).flat_map(|at| call(2 * at + 1, UNARY, "x")).collect();
        let mut talk = ground.asked(json!({ "then": [[settings().len(), hex(&more)]] }));
        talk.says(&settings());
        let all = ask().len() + more.len();
        assert!(talk.server.wait(patience(LONG), |raw| raw.received.len() >= all));
        let [conns, table] = ["conns", "streams"].map(|name| crate::maps::of(ground.cgroup.path(), name));
        assert!(crate::maps::streams(&conns, &table) >= 40);
        for at in 0..40 {
            let stream = 2 * at + 1;
            let over = h2raw::Headers::new(true).write(stream, &[0x88]);
            let answer = [crate::scene::answered(stream), data(stream, &reply("fine")), over].concat();
            talk.says(&answer);
        }
        eventually("no stream is left", || crate::maps::streams(&conns, &table) == 0);
        assert_eq!(talk.ended(), None);
    }
}
