//! What the agent says never stands inside of a frame of the server's.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, connect, setsockopt, socket, sockopt};
use protocg_peers::h2raw::{self, Encoder, Reader, Style, frame, setting};
use protocg_peers::harness::{Stack, patience};
use protocg_peers::wire::Message;

use crate::stage::{Net, SECRET, Stage, policy, skip};

const LARGE: u32 = 700_000;

/// How a client reads, and which windows it gives.
struct Manner {
    window: u32,
    receive: usize,
    piece: usize,
    pause: Duration,
    stall: Duration,
}

fn connection(to: SocketAddr, receive: usize) -> TcpStream {
    let SocketAddr::V4(to) = to else { panic!("an IPv4 address") };
    let fd: OwnedFd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    setsockopt(&fd, sockopt::RcvBuf, &receive).unwrap();
    connect(fd.as_raw_fd(), &SockaddrIn::from(to)).unwrap();
    TcpStream::from(fd)
}

/// What a client has got.
#[derive(Default)]
struct Got {
    reader: Reader,
    ended: bool,
    reset: bool,
}

/// Asks for a large answer, has another RPC denied while it comes, and reads until both are answered.
fn talk(to: SocketAddr, manner: &Manner) -> Got {
    let mut stream = connection(to, manner.receive);
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(patience(Duration::from_millis(200)))).unwrap();
    let mut encoder = Encoder::default();
    let mut bytes = h2raw::open(&[(setting::INITIAL_WINDOW_SIZE, manner.window)]);
    bytes.extend(frame::window_update(0, 1 << 30));
    // EchoRequest: text = 1, reply_bytes = 101.
    let large = Message::new().bytes(1, "large").varint(101, LARGE.into()).bytes;
    bytes.extend(h2raw::unary(&mut encoder, Style::SMALL, 1, "/echo.Echo/Unary", &large));
    stream.write_all(&bytes).unwrap();
    let mut got = Got::default();
    let mut buffer = vec![0; manner.piece];
    // The answer has begun.
    let bound = Instant::now() + patience(Duration::from_secs(10));
    while got.reader.answer(1).data.is_empty() {
        assert!(Instant::now() < bound, "the answer begins in time");
        match stream.read(&mut buffer) {
            Ok(n) => got.reader.feed(&buffer[..n]).unwrap(),
            Err(e) => assert_eq!(e.kind(), ErrorKind::WouldBlock),
        }
    }
    let secret = Message::new().bytes(1, "a SECRET").bytes;
    stream.write_all(&h2raw::unary(&mut encoder, Style::SMALL, 3, "/echo.Echo/Unary", &secret)).unwrap();
    std::thread::sleep(manner.stall);
    let slowly = manner.pause * (LARGE / u32::try_from(manner.piece).unwrap());
    let bound = Instant::now() + patience(Duration::from_secs(10) + slowly);
    let mut cut = false;
    while !(got.reader.answer(1).ended && got.reader.answer(3).ended) {
        assert!(Instant::now() < bound, "answers come in time");
        match stream.read(&mut buffer) {
            Ok(0) => {
                got.ended = true;
                got.reset = cut;
                return got;
            }
            Ok(n) => {
                got.reader.feed(&buffer[..n]).expect("frames that are whole");
                let replies = got.reader.replies();
                // A reset is told once: to whoever asks first.
                cut |= stream.write_all(&replies).is_err();
                std::thread::sleep(manner.pause);
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::ConnectionReset);
                (got.ended, got.reset) = (true, true);
                return got;
            }
        }
    }
    got
}

fn rounds(name: &str, server: Stack) {
    const ROUNDS: usize = 20;
    if skip(name, &[server]) {
        return;
    }
    let more = &["--drain", "3"];
    let stage = Stage::new(name, server, Net::Loopback4, |port| policy(port, SECRET), more);
    let manners: Vec<Manner> = (0..ROUNDS)
        .map(|i| Manner {
            window: [1 << 20, 70_000, 1 << 24, 16_384][i % 4],
            receive: [4096, 16_384, 65_536][i % 3],
            piece: [4096, 999, 65_536][i / 3 % 3],
            pause: Duration::from_micros([0, 300, 2000][i / 2 % 3]),
            stall: Duration::from_millis([0, 30, 150, 400][i / 4 % 4]),
        })
        .collect();
    let address = stage.server.address;
    let all: Vec<Got> = std::thread::scope(|scope| {
        let threads: Vec<_> = manners.iter().map(|manner| scope.spawn(|| talk(address, manner))).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    let (mut whole, mut answered, mut resets) = (0, 0, 0);
    for got in &all {
        let (large, denied) = (got.reader.answer(1), got.reader.answer(3));
        if large.ended && large.status() == Some(0) {
            whole += 1;
            assert!(large.data.len() > LARGE as usize);
        }
        if let Some(status) = denied.status() {
            answered += 1;
            assert_eq!((status, denied.get("grpc-message")), (3, Some("keep your secrets")));
        }
        assert!(denied.data.is_empty());
        // The payload is zeros: whatever else stood in it would show.
        let strangers = large.data.iter().skip(32).filter(|byte| **byte != 0).count();
        assert!(strangers < 32, "{strangers} strange bytes in {}", large.data.len());
        resets += usize::from(got.reset);
        if got.ended && !got.reset {
            assert_eq!(got.reader.unfinished(), 0, "an end between frames");
        }
    }
    println!("{name}: {ROUNDS} rounds, {whole} large answers whole, {answered} denials answered, {resets} resets");
    let cuts = stage.agent.of_type("connection");
    assert!(cuts.is_empty(), "{cuts:#?}");
    // What the client's windows hold back comes after the denial: the server gets its WINDOW_UPDATE frames.
    assert_eq!((whole, answered, resets), (ROUNDS, ROUNDS, 0));
    assert!(stage.server.seen().iter().all(|e| e["fields"]["text"] != "a SECRET"));
    assert_eq!(stage.server.messages(), ROUNDS);
    stage.decisions("deny", ROUNDS);
}

/// A client that takes longer to read a response than the agent would wait for the server to be done with it: the denial of another
/// RPC is told behind it, and the connection stays.
#[test]
fn a_denial_waits_for_a_response_that_is_read_slowly() {
    if skip("frames-slow", &[Stack::Tonic]) {
        return;
    }
    let stage = Stage::new("frames-slow", Stack::Tonic, Net::Loopback4, |port| policy(port, SECRET), &[]);
    let pause = Duration::from_millis(17);
    let manner = Manner { window: 1 << 24, receive: 4096, piece: 999, pause, stall: Duration::ZERO };
    let began = Instant::now();
    let got = talk(stage.server.address, &manner);
    println!("read in {:?}", began.elapsed());
    assert_eq!((got.reader.answer(1).status(), got.reader.answer(3).status(), got.ended), (Some(0), Some(3), false));
    let cuts = stage.agent.of_type("connection");
    assert!(cuts.is_empty(), "{cuts:#?}");
}

/// What is owed to a client that reads a response too slowly does not grow for ever: denied without end it loses its connection.
#[test]
fn denials_without_end_beside_a_response_that_is_read_slowly() {
    if skip("frames-flood", &[Stack::Tonic]) {
        return;
    }
    let stage = Stage::new("frames-flood", Stack::Tonic, Net::Loopback4, |port| policy(port, SECRET), &[]);
    let mut stream = connection(stage.server.address, 4096);
    stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    let mut encoder = Encoder::default();
    let mut bytes = h2raw::open(&[(setting::INITIAL_WINDOW_SIZE, 1 << 24)]);
    bytes.extend(frame::window_update(0, 1 << 30));
    let large = Message::new().bytes(1, "large").varint(101, 8 * u64::from(LARGE)).bytes;
    bytes.extend(h2raw::unary(&mut encoder, Style::SMALL, 1, "/echo.Echo/Unary", &large));
    stream.write_all(&bytes).unwrap();
    let secret = Message::new().bytes(1, "a SECRET").bytes;
    let (mut buffer, mut calls, mut got) = ([0; 999], 0, 0);
    // Each answer has some sixty bytes or more. (Without a bound other limits end it, at 7,642 calls when it was tried.) The agent
    // may come to them later than they are sent: until the response is over, they are all owed.
    let cut = loop {
        match stream.read(&mut buffer) {
            Ok(0) => break true,
            Ok(n) => got += n,
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            Err(_) => break true,
        }
        if got >= 8 * LARGE as usize {
            break false;
        }
        if calls < 4000 {
            calls += 1;
            let call = h2raw::unary(&mut encoder, Style::SMALL, 2 * calls + 1, "/echo.Echo/Unary", &secret);
            if stream.write_all(&call).is_err() {
                break true;
            }
        }
        std::thread::sleep(Duration::from_micros(500));
    };
    println!("cut after {calls} calls and {got} bytes");
    assert!(cut, "not cut after {calls} calls and {got} bytes: {:#?}", stage.agent.of_type("connection"));
}

#[test]
fn an_answer_of_tonics_is_never_broken_into() {
    rounds("frames-tonic", Stack::Tonic);
}

#[test]
fn an_answer_of_grpcios_is_never_broken_into() {
    rounds("frames-grpcio", Stack::Grpcio);
}

#[test]
fn an_answer_of_gos_is_never_broken_into() {
    rounds("frames-go", Stack::Go);
}

#[test]
fn an_answer_of_nodes_is_never_broken_into() {
    rounds("frames-js", Stack::Js);
}
