//! A client that speaks HTTP/2 in segments of its own making, and reads what comes back; on a field whose policy denies
//! calls in several ways.

use std::time::{Duration, Instant};

use protocg_peers::h2raw::{self, Encoder, Field as Header, Headers, Indexing, Name, Reader, Str, Style, frame};
use protocg_peers::harness::patience;
use protocg_peers::raw::{ACK, Odd, RST, Raw};

use crate::field::{Field, PORT, SHORT, query};
use crate::slots::Slots;

pub const UNARY: &str = "/echo.Echo/Unary";
pub const SLOW: &str = "/echo.Echo/Slow";
pub const CLIENT_STREAM: &str = "/echo.Echo/ClientStream";
pub const POLICY: &str = r#"
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
pub const LONG: Duration = Duration::from_secs(5);

/// Nothing denied has reached a handler, the neighbour is served, and every slot is free again.
pub fn unharmed(field: Field) {
    field.neighbour_is_served();
    assert!(field.breaches().is_empty(), "{:#?}", field.breaches());
    Slots::of(&field.cgroup).all_free();
    field.stop();
}

pub struct Client {
    pub raw: Raw,
    pub reader: Reader,
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
    pub fn new(raw: Raw) -> Self {
        Self { raw, reader: Reader::default(), fed: 0 }
    }

    /// A connection on which one call has been answered; its next stream is 3.
    pub fn of(field: &Field) -> Self {
        let mut client = Self::new(Raw::new(&field.veth, false, PORT));
        client.open();
        client
    }

    pub fn open(&mut self) {
        self.raw.connect();
        self.bytes(&[h2raw::open(&[]), frame::settings_ack(), call(1, UNARY, "first")].concat());
        assert_eq!(self.status(1), Some(0));
    }

    /// Sends bytes as one segment.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.raw.at(0, bytes);
        self.raw.seq = self.raw.seq.wrapping_add(bytes.len() as u32);
    }

    /// Reads until what has come is so.
    pub fn until(&mut self, time: Duration, so: impl Fn(&Reader) -> bool) -> bool {
        let bound = Instant::now() + patience(time);
        loop {
            let left = bound.saturating_duration_since(Instant::now());
            let had = self.raw.received.len();
            self.raw.wait(left.min(Duration::from_millis(20)), |r| r.received.len() > had || r.reset || r.finished);
            self.raw.tick();
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
    pub fn status(&mut self, stream: u32) -> Option<i32> {
        self.until(LONG, |r| r.answer(stream).over());
        self.reader.answer(stream).status()
    }

    /// TCP has all that was sent.
    pub fn taken(&mut self) -> bool {
        self.raw.settle();
        self.raw.acked == self.raw.seq
    }

    pub fn is_open(&mut self) -> bool {
        self.until(SHORT, |_| false);
        !self.raw.reset && !self.raw.finished && self.reader.goaway.is_none()
    }
}

pub fn text(text: &str) -> Vec<u8> {
    h2raw::grpc(&query(text))
}

pub fn plain(fields: &[(&str, &str)]) -> Vec<u8> {
    Encoder::default().encode(fields, Style::PLAIN)
}

/// HEADERS that touch no table.
pub fn head(stream: u32, path: &str) -> Vec<u8> {
    Headers::new(false).write(stream, &plain(&h2raw::call(path, &[])))
}

/// A whole call that touches no table.
pub fn call(stream: u32, path: &str, says: &str) -> Vec<u8> {
    [head(stream, path), frame::data(stream, &text(says), true, None)].concat()
}

pub fn incremental(name: &str, value: &str) -> Header {
    Header::Literal(Indexing::Incremental, Name::Literal(Str::raw(name)), Str::raw(value))
}
