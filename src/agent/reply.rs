//! The bytes that a denied caller is answered with. Pure: nothing here knows a socket.
//!
//! A GOAWAY that asks for no new RPCs here, a response on each denied stream, and a GOAWAY that names the last RPC that
//! reached the server, so that the callers of later ones may try again. Header fields are HPACK literals without
//! indexing (RFC 7541, section 6.2.2): they
//! touch no table, so the server's encoder and the client's decoder stay in step.

use super::retry;
use crate::abi;

const DATA_LIMIT: usize = abi::PG_REPLY_BYTES as usize;

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM_AND_HEADERS: u8 = 0x1 | 0x4;
const NO_ERROR: u32 = 0;
/// `:status: 200` in HPACK's static table.
const STATUS_200: u8 = 0x80 | 8;

/// What is to be answered.
#[derive(Debug, Clone)]
pub struct Denial {
    /// The denied stream.
    pub stream: u32,
    /// The highest stream whose header block reached the server.
    pub delivered: u32,
    /// What the server has sent on the denied stream: `PG_RSP_*`.
    pub response: u32,
    /// The gRPC status.
    pub status: u32,
    /// The gRPC message, as text.
    pub message: String,
    /// Of a limit's denial: after how many milliseconds a call may find a token.
    pub retry_ms: Option<u32>,
}

impl Denial {
    /// The status, and RST_STREAM: the whole response has been sent, and no more of the request is wanted (RFC 9113,
    /// section 8.1). A caller that is still sending would keep the connection open in its own eyes, and lose its next
    /// call on it. Nothing if the server has ended the stream.
    pub fn answer(&self) -> Option<Vec<u8>> {
        let mut out = self.headers()?;
        out.extend(frame(RST_STREAM, 0, self.stream, &NO_ERROR.to_be_bytes()));
        Some(out)
    }

    /// The status on the denied stream, as trailers-only, or as plain trailers if the server has begun to answer.
    fn headers(&self) -> Option<Vec<u8>> {
        if self.response & abi::PG_RSP_END != 0 {
            return None;
        }
        let mut block = Vec::new();
        if self.response & abi::PG_RSP_HEADERS == 0 {
            block.push(STATUS_200);
            literal(&mut block, "content-type", "application/grpc");
        }
        literal(&mut block, "grpc-status", &self.status.to_string());
        literal(&mut block, "grpc-message", &percent_encode(&self.message));
        for (name, value) in self.retry_ms.iter().flat_map(|ms| retry::trailers(self.status, &self.message, *ms)) {
            literal(&mut block, name, &value);
        }
        Some(frame(HEADERS, END_STREAM_AND_HEADERS, self.stream, &block))
    }
}

/// Gives bytes of DATA frames back to the connection's flow-control window, in the server's name: it never sees them
/// (RFC 9113, section 6.9).
pub fn credit(bytes: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, 0, &bytes.to_be_bytes())
}

/// No stream above `last` is processed, and no new one is wanted (RFC 9113, section 6.8).
pub fn goaway(last: u32) -> Vec<u8> {
    let mut body = last.to_be_bytes().to_vec();
    body.extend(NO_ERROR.to_be_bytes());
    frame(GOAWAY, 0, 0, &body)
}

/// The first half of a graceful shutdown: no new streams, and those under way still get their answers.
pub fn shutdown() -> Vec<u8> {
    goaway(i32::MAX as u32)
}

/// Frames in pieces that a registration can hold.
pub fn pieces(frames: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let mut pieces: Vec<Vec<u8>> = Vec::new();
    for frame in frames {
        match pieces.last_mut() {
            Some(last) if last.len() + frame.len() <= DATA_LIMIT => last.extend(frame),
            _ => pieces.push(frame),
        }
    }
    pieces
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
        let message = "denied by policy search: no-A".into();
        Denial { stream: 5, delivered: 3, response: 0, status: 7, message, retry_ms: None }
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
    fn a_stream_without_response_gets_trailers_only() {
        let frames = frames(&pieces(denial().headers().into_iter().collect()));
        assert_eq!(frames.len(), 1);
        assert_eq!((frames[0].0, frames[0].1, frames[0].2), (1, 5, 5));
        assert_eq!(
            fields(&frames[0].3),
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
        let denial = Denial { response: abi::PG_RSP_HEADERS, ..denial() };
        let frames = frames(&pieces(denial.headers().into_iter().collect()));
        assert_eq!(fields(&frames[0].3)[0], pair("grpc-status", "7"));
    }

    #[test]
    fn a_limits_denial_says_when_to_try_again() {
        let denial = Denial { retry_ms: Some(250), status: 8, ..denial() };
        let frames = frames(&pieces(denial.headers().into_iter().collect()));
        let names: Vec<String> = fields(&frames[0].3).into_iter().skip(2).map(|(name, _)| name).collect();
        assert_eq!(names, ["grpc-status", "grpc-message", "grpc-retry-pushback-ms", "grpc-status-details-bin"]);
        assert_eq!(fields(&frames[0].3)[4], pair("grpc-retry-pushback-ms", "250"));
    }

    #[test]
    fn a_stream_that_the_server_ended_gets_nothing() {
        assert_eq!(Denial { response: abi::PG_RSP_HEADERS | abi::PG_RSP_END, ..denial() }.headers(), None);
    }

    #[test]
    fn a_graceful_shutdown_has_two_halves() {
        assert_eq!(frames(&[shutdown()]), [(7, 0, 0, vec![0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0])]);
        assert_eq!(frames(&[goaway(9)]), [(7, 0, 0, vec![0, 0, 0, 9, 0, 0, 0, 0])]);
    }

    #[test]
    fn many_frames_come_in_pieces() {
        let pieces = pieces((0..600).map(goaway).collect());
        assert!(pieces.len() > 2);
        assert_eq!(frames(&pieces).len(), 600);
    }

    #[test]
    fn long_and_foreign_messages_are_encoded() {
        let denial = Denial { message: "ü%\n".repeat(50), ..denial() };
        let frames = frames(&pieces(denial.headers().into_iter().collect()));
        assert_eq!(fields(&frames[0].3)[3], pair("grpc-message", &"%C3%BC%25%0A".repeat(50)));
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
