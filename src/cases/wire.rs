//! A call as the bytes of a client, and of its server: HTTP/2 without any table or code that a policy does not see anyway.

use super::{Call, Message};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// `:status: 200` in HPACK's static table.
const STATUS_200: u8 = 0x80 | 8;
/// The largest frame that every server takes.
const FRAME: usize = 16384;

/// The stream of the call.
pub const STREAM: u32 = 1;

/// The bytes of a call: up to the end of its header block, then a part for each message. The last part ends the stream.
pub fn parts(call: &Call) -> Vec<Vec<u8>> {
    let mut first = PREFACE.to_vec();
    frame(&mut first, SETTINGS, 0, 0, &[]);
    let block = block(call);
    let mut pieces = block.chunks(FRAME).peekable();
    let mut kind = HEADERS;
    while let Some(piece) = pieces.next() {
        frame(&mut first, kind, if pieces.peek().is_none() { END_HEADERS } else { 0 }, STREAM, piece);
        kind = CONTINUATION;
    }
    let mut parts = vec![first];
    let last = call.messages.len();
    parts.extend(call.messages.iter().enumerate().map(|(i, it)| data(it, call.compressed, i + 1 == last)));
    if call.messages.is_empty() {
        let mut end = Vec::new();
        frame(&mut end, DATA, END_STREAM, STREAM, &[]);
        parts.push(end);
    }
    parts
}

/// The bytes of its response: up to the end of the header block, then a part for each message, then the trailers.
pub fn answers(call: &Call) -> Vec<Vec<u8>> {
    let mut first = Vec::new();
    frame(&mut first, SETTINGS, 0, 0, &[]);
    let mut block = vec![STATUS_200, 0];
    string(&mut block, "content-type");
    string(&mut block, "application/grpc");
    frame(&mut first, HEADERS, END_HEADERS, STREAM, &block);
    let mut parts = vec![first];
    parts.extend(call.response.iter().map(|message| data(message, false, false)));
    let mut block = vec![0];
    string(&mut block, "grpc-status");
    string(&mut block, "0");
    let mut trailers = Vec::new();
    frame(&mut trailers, HEADERS, END_HEADERS | END_STREAM, STREAM, &block);
    parts.push(trailers);
    parts
}

/// A message in DATA frames; the last may end the stream.
fn data(message: &Message, compressed: bool, ends: bool) -> Vec<u8> {
    let length = u32::try_from(message.bytes.len()).unwrap_or(u32::MAX).to_be_bytes();
    let body = [&[u8::from(compressed)], &length[..], &message.bytes].concat();
    let mut part = Vec::new();
    let mut pieces = body.chunks(FRAME).peekable();
    while let Some(piece) = pieces.next() {
        let end = if ends && pieces.peek().is_none() { END_STREAM } else { 0 };
        frame(&mut part, DATA, end, STREAM, piece);
    }
    part
}

/// RFC 9113, section 4.1.
fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    out.extend(length.iter().skip(1));
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
}

fn block(call: &Call) -> Vec<u8> {
    let given = |key: &str| call.metadata.iter().any(|(name, _)| name == key);
    let mut fields = vec![
        (":method", "POST"),
        (":scheme", "http"),
        (":path", call.method.as_str()),
        (":authority", "localhost"),
        ("te", "trailers"),
    ];
    if !given("content-type") {
        fields.push(("content-type", "application/grpc"));
    }
    if call.compressed && !given("grpc-encoding") {
        fields.push(("grpc-encoding", "gzip"));
    }
    fields.extend(call.metadata.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0); // RFC 7541, section 6.2.2: a literal without indexing, whose name is not indexed either
        string(&mut out, name);
        string(&mut out, value);
    }
    out
}

/// RFC 7541, section 5.2, without Huffman's code; its length as of section 5.1, with a prefix of seven bits.
fn string(out: &mut Vec<u8>, text: &str) {
    const MOST: usize = 127;
    if text.len() < MOST {
        out.extend(u8::try_from(text.len()));
    } else {
        out.push(0x7f);
        let mut rest = text.len() - MOST;
        while rest >= 0x80 {
            out.extend(u8::try_from(rest & 0x7f).map(|low| 0x80 | low));
            rest >>= 7;
        }
        out.extend(u8::try_from(rest));
    }
    out.extend(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    #[test]
    fn another_library_reads_what_is_written() {
        let long = "x".repeat(40_000);
        let metadata = vec![("x-a".to_owned(), "1".to_owned()), ("x-long".to_owned(), long.clone())];
        let message = |size: usize| Message { bytes: vec![7; size], text: String::new() };
        let messages = vec![message(0), message(20_000)];
        let peer = (Ipv6Addr::LOCALHOST, 1);
        let (before, repeated) = Default::default();
        let call = Call {
            method: "/a.B/C".into(),
            metadata,
            peer,
            messages,
            compressed: false,
            response: Vec::new(),
            before,
            repeated,
        };
        let mut bytes = parts(&call).concat();
        let mut rest = bytes.split_off(PREFACE.len());
        let (mut block, mut data, mut ends) = (Vec::<u8>::new(), Vec::<u8>::new(), 0);
        while !rest.is_empty() {
            let length = usize::from(rest[1]) << 8 | usize::from(rest[2]) | usize::from(rest[0]) << 16;
            assert!(length <= FRAME);
            let after = rest.split_off(9 + length);
            match rest[3] {
                HEADERS | CONTINUATION => block.extend(&rest[9..]),
                DATA => data.extend(&rest[9..]),
                _ => {}
            }
            ends += u32::from(rest[3] == DATA && rest[4] & END_STREAM != 0);
            rest = after;
        }
        let fields = loona_hpack::Decoder::new().decode(&block).unwrap();
        assert_eq!(fields[2], (b":path".to_vec(), b"/a.B/C".to_vec()));
        assert_eq!(fields.last().unwrap(), &(b"x-long".to_vec(), long.into_bytes()));
        assert_eq!((ends, data.len()), (1, 5 + 5 + 20_000));
        assert_eq!(data[..10], [0, 0, 0, 0, 0, 0, 0, 0, 0x4e, 0x20]);
    }
}
