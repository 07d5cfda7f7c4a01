//! What an attacker says, as bytes with segments and waits between them, over a real TCP connection; and what it gets.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, socket};
use protocg_peers::h2raw::{self, Encoder, Headers, Reader, Style, frame};
use protocg_peers::harness::{patience, unique};
use protocg_peers::wire::Message;

pub const UNARY: &str = "/echo.Echo/Unary";
const SEARCH: &str = "/search.SearchService/Search";
pub const LOGIN: &str = "/login.LoginService/Login";
pub const CLIENT_STREAM: &str = "/echo.Echo/ClientStream";

/// A call whose text or metadata has this is the one that a marked conversation is about.
pub const MARK: &str = "marked";

/// What the call carries: something that the policy denies, or its like that is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value {
    Denied,
    Allowed,
}

impl Value {
    fn choose<T>(self, denied: T, allowed: T) -> T {
        if self == Self::Denied { denied } else { allowed }
    }

    pub fn text(self) -> &'static str {
        self.choose("SECRET", "public")
    }

    pub fn path(self) -> &'static str {
        self.choose("/echo.Echo/Slow", UNARY)
    }

    pub fn role(self) -> &'static str {
        self.choose("intruder", "resident")
    }

    /// For number fields.
    pub fn number(self) -> u64 {
        self.choose(666, 667)
    }

    /// A gRPC message with the text.
    pub fn message(self) -> Vec<u8> {
        h2raw::grpc(&Message::new().bytes(1, self.text()).bytes)
    }
}

/// A gRPC message that no rule denies. It asks the handler for no delay.
pub fn harmless() -> Vec<u8> {
    h2raw::grpc(&Message::new().bytes(1, "public").varint(100, 1).bytes)
}

/// A header block that touches no table.
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    Encoder::default().encode(fields, Style::PLAIN)
}

/// HEADERS of a call, touching no table.
pub fn head(stream: u32, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    Headers::new(false).write(stream, &block(&h2raw::call(path, more)))
}

/// HEADERS with this block.
pub fn head_of(stream: u32, block: &[u8]) -> Vec<u8> {
    Headers::new(false).write(stream, block)
}

/// DATA that ends the stream.
pub fn last(stream: u32, body: &[u8]) -> Vec<u8> {
    frame::data(stream, body, true, None)
}

/// DATA that doesn't.
pub fn data(stream: u32, body: &[u8]) -> Vec<u8> {
    frame::data(stream, body, false, None)
}

/// A whole call of the text's method, with the value's text.
pub fn text_call(stream: u32, value: Value) -> Vec<u8> {
    [head(stream, UNARY, &[]), last(stream, &value.message())].concat()
}

/// A whole call of the value's method.
pub fn path_call(stream: u32, value: Value) -> Vec<u8> {
    [head(stream, value.path(), &[]), last(stream, &harmless())].concat()
}

/// A whole call with this header block and a message that no rule denies.
pub fn call_of(stream: u32, block: &[u8]) -> Vec<u8> {
    [head_of(stream, block), last(stream, &harmless())].concat()
}

#[derive(Debug, Clone)]
enum Step {
    Send(Vec<u8>),
    /// A stream is over.
    Await(u32),
}

/// A conversation.
#[derive(Debug, Clone)]
pub struct Talk {
    steps: Vec<Step>,
    /// It is over when these streams are.
    streams: Vec<u32>,
    /// Its earlier calls carry the denied value, too: what matters is the one with [`MARK`].
    pub marked: bool,
}

impl Talk {
    /// Opens as HTTP/2 does.
    pub fn new(bytes: impl AsRef<[u8]>) -> Self {
        Self::bare([&h2raw::open(&[]), bytes.as_ref()].concat())
    }

    /// Nothing but these bytes.
    pub fn bare(bytes: impl AsRef<[u8]>) -> Self {
        Self { steps: vec![Step::Send(bytes.as_ref().to_vec())], streams: vec![1], marked: false }
    }

    /// A segment of its own.
    pub fn then(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.steps.push(Step::Send(bytes.as_ref().to_vec()));
        self
    }

    pub fn marked(mut self) -> Self {
        self.marked = true;
        self
    }

    pub fn wait(mut self, stream: u32) -> Self {
        self.steps.push(Step::Await(stream));
        self
    }

    pub fn until(mut self, streams: &[u32]) -> Self {
        self.streams = streams.to_vec();
        self
    }

    /// The last of the streams that it waits for: the one that the attack is about.
    pub fn about(&self) -> u32 {
        *self.streams.last().unwrap()
    }

    /// Holds it, and says what came of it. `brief`: no answer is expected.
    pub fn hold(&self, to: SocketAddr, brief: bool) -> Got {
        let mut client = Client::new(to, brief);
        for step in &self.steps {
            match step {
                Step::Send(bytes) => client.send(bytes),
                Step::Await(stream) => client.until(|reader| reader.answer(*stream).over()),
            }
        }
        client.until(|reader| self.streams.iter().all(|stream| reader.answer(*stream).over()));
        client.got
    }
}

/// What came of a conversation.
pub struct Got {
    /// The client's address, which names the connection in every log.
    pub from: IpAddr,
    pub reader: Reader,
    /// The connection has ended.
    pub closed: bool,
}

struct Client {
    stream: TcpStream,
    wait: Duration,
    got: Got,
}

impl Client {
    fn new(to: SocketAddr, brief: bool) -> Self {
        let [_, b, c, d] = unique().to_be_bytes();
        let from = Ipv4Addr::new(127, b + 1, c, d);
        let stream = connect_from(from, to);
        stream.set_nodelay(true).unwrap();
        let wait = patience(if brief { Duration::from_millis(250) } else { Duration::from_secs(20) });
        stream.set_write_timeout(Some(wait)).unwrap();
        Self { stream, wait, got: Got { from: from.into(), reader: Reader::default(), closed: false } }
    }

    /// What the server does not want to have is lost: its answer says why.
    fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// Reads until what has come is so, the connection has ended, or it has taken too long.
    fn until(&mut self, so: impl Fn(&Reader) -> bool) {
        let mut bound = Instant::now() + self.wait;
        let mut buffer = vec![0; 65536];
        while !self.got.closed && !so(&self.got.reader) {
            let left = bound.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            self.stream.set_read_timeout(Some(left)).unwrap();
            match self.stream.read(&mut buffer) {
                Ok(0) => self.got.closed = true,
                Ok(n) => self.got.closed = self.got.reader.feed(&buffer[..n]).is_err(),
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {}
                Err(_) => self.got.closed = true,
            }
            if self.got.reader.goaway.is_some_and(|(_, code)| code != 0) {
                bound = bound.min(Instant::now() + patience(Duration::from_millis(300)));
            }
        }
    }
}

fn connect_from(from: Ipv4Addr, to: SocketAddr) -> TcpStream {
    let SocketAddr::V4(to) = to else { panic!("an IPv4 address") };
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(fd.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(from, 0))).unwrap();
    connect(fd.as_raw_fd(), &SockaddrIn::from(to)).unwrap();
    TcpStream::from(fd)
}

/// A well-behaved client on a connection of its own, which must not be harmed by what others do.
pub struct Neighbour {
    client: Client,
    encoder: Encoder,
    style: Style,
    next: u32,
}

impl Neighbour {
    pub fn new(to: SocketAddr, style: Style) -> Self {
        let mut client = Client::new(to, false);
        client.send(&h2raw::open(&[]));
        Self { client, encoder: Encoder::default(), style, next: 1 }
    }

    /// Makes a call, which must succeed.
    #[track_caller]
    pub fn call(&mut self, text: &str) {
        let stream = self.next;
        self.next += 2;
        let message = Message::new().bytes(1, text).bytes;
        self.client.send(&h2raw::unary(&mut self.encoder, self.style, stream, SEARCH, &message));
        self.client.until(|reader| reader.answer(stream).over());
        let answer = self.client.got.reader.answer(stream);
        assert_eq!(answer.status(), Some(0), "an innocent call: {answer:?}, {:?}", self.client.got.reader.goaway);
        let replies = self.client.got.reader.replies();
        self.client.send(&replies);
    }
}
