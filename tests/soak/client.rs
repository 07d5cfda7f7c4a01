//! A client that knows what each of its calls is to come to, and counts what it came to.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use protocg_peers::h2raw::{self, Answer, Encoder, Reader, Style};
use protocg_peers::harness::patience;
use protocg_peers::wire::Message;

pub const DENIED_TEXT: &str = "an A that nobody may see";
const DENIED_CODE: i32 = 7;
const UNARY: &str = "/echo.Echo/Unary";
const SLOW: &str = "/echo.Echo/Slow";
/// Every so many denied calls one is denied for its method.
const BY_METHOD: u64 = 4;

macro_rules! tally {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What became of all calls.
        #[derive(Default)]
        pub struct Tally { $($(#[$doc])* pub $name: AtomicU64,)* }
        /// The same at one moment.
        #[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
        pub struct Sum { $(pub $name: u64,)* }
        impl Tally {
            pub fn sum(&self) -> Sum { Sum { $($name: self.$name.load(Ordering::Relaxed),)* } }
        }
    };
}

tally! {
    /// Connections that were made.
    connections,
    /// Connections that ended before the client wanted it.
    ended,
    /// Allowed calls that were answered as such.
    allowed,
    /// Allowed calls that failed with their connection.
    allowed_lost,
    /// Allowed calls that failed on a connection that went on.
    allowed_failed,
    /// Denied calls with the policy's status and message.
    denied,
    /// Denied calls that failed with their connection.
    denied_lost,
    /// Denied calls that failed in another way.
    denied_inexact,
    /// Denied calls that succeeded.
    breaches,
    /// Calls that nothing was heard of.
    hung,
}

fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

pub struct Client<'a> {
    stream: TcpStream,
    encoder: Encoder,
    style: Style,
    reader: Reader,
    next: u32,
    tally: &'a Tally,
}

impl<'a> Client<'a> {
    /// A connection that has sent the preface.
    pub fn connect(to: SocketAddr, tally: &'a Tally) -> std::io::Result<Self> {
        Self::on(TcpStream::connect(to)?, tally)
    }

    pub fn on(mut stream: TcpStream, tally: &'a Tally) -> std::io::Result<Self> {
        stream.set_read_timeout(Some(patience(Duration::from_secs(30))))?;
        stream.set_nodelay(true)?;
        stream.write_all(&h2raw::open(&[]))?;
        add(&tally.connections, 1);
        // Every other client keeps its header fields in the server's table.
        let style =
            if tally.connections.load(Ordering::Relaxed).is_multiple_of(2) { Style::PLAIN } else { Style::SMALL };
        Ok(Self { stream, encoder: Encoder::default(), style, reader: Reader::default(), next: 1, tally })
    }

    /// Makes calls at once, `true` is one that is denied, and waits for their answers. False: the connection has ended.
    pub fn calls(&mut self, calls: &[bool]) -> bool {
        let streams: Vec<(u32, bool)> =
            calls.iter().zip((self.next..).step_by(2)).map(|(denied, stream)| (stream, *denied)).collect();
        self.next += 2 * calls.len() as u32;
        let mut bytes = self.reader.replies();
        for (stream, denied) in &streams {
            let by_method = *denied && self.tally.denied.load(Ordering::Relaxed).is_multiple_of(BY_METHOD);
            let text = if *denied && !by_method { DENIED_TEXT } else { "fine" };
            let path = if by_method { SLOW } else { UNARY };
            let message = Message::new().bytes(1, text).bytes;
            bytes.extend(h2raw::unary(&mut self.encoder, self.style, *stream, path, &message));
        }
        let whole = match self.stream.write_all(&bytes) {
            Ok(()) => self.hear(&streams),
            Err(_) => Err(ErrorKind::ConnectionReset),
        };
        for (stream, denied) in &streams {
            let answer = self.reader.answers.remove(stream).unwrap_or_default();
            self.count(*denied, &answer, whole);
        }
        self.reader.frames.clear();
        if whole.is_err() {
            add(&self.tally.ended, 1);
        }
        whole.is_ok()
    }

    fn hear(&mut self, streams: &[(u32, bool)]) -> Result<(), ErrorKind> {
        let mut buffer = [0; 16384];
        let mut at = 0;
        loop {
            while streams.get(at).is_some_and(|(stream, _)| self.reader.answers.get(stream).is_some_and(Answer::over)) {
                at += 1;
            }
            if at == streams.len() {
                return Ok(());
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof),
                Ok(n) => self.reader.feed(&buffer[..n]).map_err(|_| ErrorKind::InvalidData)?,
                Err(e) => return Err(e.kind()),
            }
        }
    }

    fn count(&self, denied: bool, answer: &Answer, whole: Result<(), ErrorKind>) {
        let tally = self.tally;
        // What the server says of a call whose path was changed comes after the policy's answer, and clients ignore it.
        let first = |name| answer.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
        let exact = || first("grpc-message").is_some_and(|message| message.contains("soak"));
        let hung = matches!(whole, Err(ErrorKind::WouldBlock | ErrorKind::TimedOut)) && !answer.over();
        let counter = match (denied, first("grpc-status").and_then(|status| status.parse().ok())) {
            _ if hung => &tally.hung,
            (true, Some(0)) => &tally.breaches,
            (true, Some(DENIED_CODE)) if exact() => &tally.denied,
            (true, _) if whole.is_err() => &tally.denied_lost,
            (true, _) => &tally.denied_inexact,
            (false, Some(0)) => &tally.allowed,
            (false, _) if whole.is_err() => &tally.allowed_lost,
            (false, _) => &tally.allowed_failed,
        };
        add(counter, 1);
    }
}
