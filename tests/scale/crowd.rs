//! Many raw HTTP/2 clients of one server, each a blocking socket.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use protocg_peers::h2raw::{self, Encoder, Headers, Reader, Style, frame};
use protocg_peers::wire::Message;

/// As many open files as the most connections need, with some to spare.
const FILES: u64 = 17_000;

/// A client: a connection, and what the server has said on it.
pub struct Client {
    stream: TcpStream,
    encoder: Encoder,
    reader: Reader,
}

/// What became of a connection or call that was to fail.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// The connection was reset.
    Reset,
    /// The server closed it, or nothing came.
    Other(String),
}

/// Lets this process, and the servers that it starts, have so many connections. Says whether it may not.
pub fn few_files(test: &str) -> bool {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let enough = hard.max(FILES);
    let failed = setrlimit(Resource::RLIMIT_NOFILE, enough, enough).is_err();
    if failed {
        println!("SKIPPED {test}: needs {FILES} open files, and may have {hard}");
    }
    failed
}

impl Client {
    /// A connection that has sent the preface. One address of the server has fewer ports than clients may come.
    pub fn connect(port: u16, index: usize) -> Self {
        let address = Ipv4Addr::new(127, 0, 1, 1 + (index % 4) as u8);
        let mut stream = TcpStream::connect(SocketAddr::from((address, port))).unwrap();
        stream.set_read_timeout(Some(protocg_peers::harness::patience(Duration::from_secs(20)))).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.write_all(&[h2raw::open(&[]), frame::settings_ack()].concat()).unwrap();
        Self { stream, encoder: Encoder::default(), reader: Reader::default() }
    }

    /// Opens bidirectional calls, each with a first message, at one stroke.
    pub fn open(&mut self, streams: impl Iterator<Item = u32>, text: &str) -> std::io::Result<()> {
        let mut bytes = Vec::new();
        for stream in streams {
            let block = self.encoder.encode(&h2raw::call("/echo.Echo/Bidi", &[]), Style::PLAIN);
            bytes.extend(Headers::new(false).write(stream, &block));
            bytes.extend(message(stream, text));
        }
        self.stream.write_all(&bytes)
    }

    /// Sends another message of an open call.
    pub fn say(&mut self, stream: u32, text: &str) {
        self.stream.write_all(&message(stream, text)).unwrap();
    }

    /// Waits until each of these streams has been answered so many times.
    pub fn hear(&mut self, streams: impl Iterator<Item = u32>, answers: usize) {
        for stream in streams {
            while messages(&self.reader.answer(stream).data) < answers {
                let mut buffer = [0; 16384];
                let n = self.stream.read(&mut buffer).unwrap();
                assert!(n > 0, "closed before stream {stream} was answered");
                self.reader.feed(&buffer[..n]).unwrap();
                self.reader.owed.clear(); // windows are larger than all that comes
            }
        }
    }

    /// How the connection ends.
    pub fn end(&mut self) -> End {
        let mut buffer = [0; 16384];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return End::Other("end of file".to_owned()),
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::ConnectionReset => return End::Reset,
                Err(e) => return End::Other(e.to_string()),
            }
        }
    }
}

fn message(stream: u32, text: &str) -> Vec<u8> {
    frame::data(stream, &h2raw::grpc(&Message::new().bytes(1, text).bytes), false, None)
}

/// Whole gRPC messages in these bytes.
fn messages(mut bytes: &[u8]) -> usize {
    let mut count = 0;
    while let Some((head, rest)) = bytes.split_first_chunk::<5>() {
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let Some(rest) = rest.get(length..) else { break };
        bytes = rest;
        count += 1;
    }
    count
}
