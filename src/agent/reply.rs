//! The bytes that a denied caller is answered with. Pure: nothing here knows a socket.
//!
//! A GOAWAY, so that the caller's next call finds another connection; a response on the denied stream; and a
//! RST_STREAM for each RPC that never reached the server, so that its caller may try again. Header fields are HPACK literals without indexing (RFC 7541, section 6.2.2): they
//! touch no table, so the server's encoder and the client's decoder stay in step.

use crate::abi;

const DATA_LIMIT: usize = abi::PG_REPLY_BYTES as usize;
/// One client rarely has more RPCs waiting; those past it end with the connection.
const MAX_REFUSED: usize = 256;

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;
const END_STREAM_AND_HEADERS: u8 = 0x1 | 0x4;
const NO_ERROR: u32 = 0;
const REFUSED_STREAM: u32 = 7;
/// `:status: 200` in HPACK's static table.
const STATUS_200: u8 = 0x80 | 8;

/// What is to be answered.
#[derive(Debug, Clone)]
pub struct Denial {
    /// The denied stream.
    pub stream: u32,
    /// The highest stream whose header block reached the server.
    pub delivered: u32,
    /// The highest stream that the client has opened.
    pub highest: u32,
    /// What the server has sent on the denied stream: `PG_RSP_*`.
    pub response: u32,
    /// The gRPC status.
    pub status: u32,
    /// The gRPC message, as text.
    pub message: String,
}

impl Denial {
    /// The highest stream that is answered here, be it by a refusal. Those above it the client knows to be untouched.
    fn last(&self) -> u32 {
        self.stream.max(self.delivered).max(self.highest)
    }

    /// The answer in pieces, each at most as long as the egress hook takes at once.
    pub fn bytes(&self) -> Vec<Vec<u8>> {
        let mut body = self.last().to_be_bytes().to_vec();
        body.extend(NO_ERROR.to_be_bytes());
        let mut pieces = vec![frame(GOAWAY, 0, 0, &body)];
        if self.response & abi::PG_RSP_END == 0 {
            push(&mut pieces, self.headers());
        }
        for stream in self.refused() {
            push(&mut pieces, frame(RST_STREAM, 0, stream, &REFUSED_STREAM.to_be_bytes()));
        }
        pieces
    }

    /// Streams of which nothing reached the server. They are refused one by one, although a GOAWAY with a lower last
    /// stream would say the same: not every client tells its callers that such an RPC may be tried again.
    fn refused(&self) -> impl Iterator<Item = u32> {
        let denied = self.stream;
        let first = self.delivered.saturating_add(1) | 1;
        (first..=self.last()).step_by(2).filter(move |&id| id != denied).take(MAX_REFUSED)
    }

    fn headers(&self) -> Vec<u8> {
        let mut block = Vec::new();
        if self.response & abi::PG_RSP_HEADERS == 0 {
            block.push(STATUS_200);
            literal(&mut block, "content-type", "application/grpc");
        }
        literal(&mut block, "grpc-status", &self.status.to_string());
        literal(&mut block, "grpc-message", &percent_encode(&self.message));
        frame(HEADERS, END_STREAM_AND_HEADERS, self.stream, &block)
    }
}

fn push(pieces: &mut Vec<Vec<u8>>, frame: Vec<u8>) {
    match pieces.last_mut() {
        Some(last) if last.len() + frame.len() <= DATA_LIMIT => last.extend(frame),
        _ => pieces.push(frame),
    }
}

/// RFC 9113, section 4.1: length (24), type (8), flags (8), reserved (1), stream (31), payload.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
    let mut out = Vec::with_capacity(9 + payload.len());
    out.extend(length.iter().skip(1));
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

/// RFC 7541, section 6.2.2, with a new name and no Huffman code.
fn literal(block: &mut Vec<u8>, name: &str, value: &str) {
    block.push(0);
    for text in [name, value] {
        length(block, text.len());
        block.extend(text.as_bytes());
    }
}

/// RFC 7541, section 5.1, with a prefix of 7 bits; the Huffman bit stays 0.
fn length(block: &mut Vec<u8>, value: usize) {
    const PREFIX: usize = 127;
    if value < PREFIX {
        block.push(value as u8);
        return;
    }
    block.push(PREFIX as u8);
    let mut rest = value - PREFIX;
    while rest >= 128 {
        block.push((rest % 128) as u8 | 0x80);
        rest /= 128;
    }
    block.push(rest as u8);
}

/// gRPC over HTTP/2: a message's bytes outside 0x20..=0x7e, and `%`, are written as %XX.
pub fn percent_encode(text: &str) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if (0x20..=0x7e).contains(&byte) && byte != b'%' {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denial() -> Denial {
        Denial {
            stream: 5,
            delivered: 3,
            highest: 5,
            response: 0,
            status: 7,
            message: "denied by policy search: no-A".into(),
        }
    }

    /// type, flags, stream, payload
    fn frames(pieces: &[Vec<u8>]) -> Vec<(u8, u8, u32, Vec<u8>)> {
        let mut out = Vec::new();
        for piece in pieces {
            assert!(piece.len() <= DATA_LIMIT);
            let mut rest = &piece[..];
            while !rest.is_empty() {
                let length = u32::from_be_bytes([0, rest[0], rest[1], rest[2]]) as usize;
                let stream = u32::from_be_bytes(rest[5..9].try_into().unwrap());
                out.push((rest[3], rest[4], stream, rest[9..9 + length].to_vec()));
                rest = &rest[9 + length..];
            }
        }
        out
    }

    fn fields(block: &[u8]) -> Vec<(String, String)> {
        let text = |b: Vec<u8>| String::from_utf8(b).unwrap();
        let mut decoder = hpack::Decoder::new();
        decoder.decode(block).unwrap().into_iter().map(|(n, v)| (text(n), text(v))).collect()
    }

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn a_stream_without_response_gets_goaway_and_trailers_only() {
        let frames = frames(&denial().bytes());
        assert_eq!(frames.len(), 2);
        assert_eq!(frames[0], (7, 0, 0, vec![0, 0, 0, 5, 0, 0, 0, 0]));
        assert_eq!((frames[1].0, frames[1].1, frames[1].2), (1, 5, 5));
        assert_eq!(
            fields(&frames[1].3),
            [
                pair(":status", "200"),
                pair("content-type", "application/grpc"),
                pair("grpc-status", "7"),
                pair("grpc-message", "denied by policy search: no-A")
            ]
        );
    }

    #[test]
    fn a_stream_with_response_headers_gets_trailers() {
        let frames = frames(&Denial { response: abi::PG_RSP_HEADERS, ..denial() }.bytes());
        assert_eq!(fields(&frames[1].3)[0], pair("grpc-status", "7"));
        assert_eq!(frames.len(), 2);
    }

    #[test]
    fn a_stream_that_the_server_ended_gets_goaway_only() {
        let response = abi::PG_RSP_HEADERS | abi::PG_RSP_END;
        let frames = frames(&Denial { response, ..denial() }.bytes());
        assert_eq!(frames.iter().map(|f| f.0).collect::<Vec<_>>(), [7]);
    }

    #[test]
    fn undelivered_streams_are_refused() {
        let frames = frames(&Denial { stream: 7, highest: 11, ..denial() }.bytes());
        let refused: Vec<u32> = frames.iter().filter(|f| f.0 == 3).map(|f| f.2).collect();
        assert_eq!(refused, [5, 9, 11]);
        assert!(frames.iter().filter(|f| f.0 == 3).all(|f| f.3 == [0, 0, 0, 7]));
        assert_eq!(frames[0].3[..4], [0, 0, 0, 11]);
    }

    #[test]
    fn a_late_message_of_an_early_stream_keeps_the_later_ones() {
        let frames = frames(&Denial { stream: 1, delivered: 9, highest: 9, ..denial() }.bytes());
        assert_eq!(frames.iter().map(|f| f.0).collect::<Vec<_>>(), [7, 1]);
        assert_eq!(frames[0].3[..4], [0, 0, 0, 9]);
    }

    #[test]
    fn many_refused_streams_come_in_pieces_and_are_bounded() {
        let pieces = Denial { stream: 0x7fff_ffff, delivered: 1, ..denial() }.bytes();
        assert!(pieces.len() > 2);
        let frames = frames(&pieces);
        assert_eq!(frames.iter().filter(|f| f.0 == 3).count(), MAX_REFUSED);
        assert_eq!((frames[0].0, frames[1].0), (7, 1), "the caller is told first");
    }

    #[test]
    fn long_and_foreign_messages_are_encoded() {
        let message = "ü%\n".repeat(50);
        let frames = frames(&Denial { message: message.clone(), ..denial() }.bytes());
        assert_eq!(fields(&frames[1].3)[3], pair("grpc-message", &"%C3%BC%25%0A".repeat(50)));
        assert_eq!(percent_encode("plain ~ text"), "plain ~ text");
    }

    #[test]
    fn lengths_around_the_prefix_decode() {
        for n in [1, 126, 127, 128, 254, 255, 256, 300] {
            let mut block = Vec::new();
            literal(&mut block, "grpc-message", &"x".repeat(n));
            assert_eq!(fields(&block)[0].1.len(), n);
        }
    }
}
