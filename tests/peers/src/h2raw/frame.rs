//! Frames, RFC 9113 sections 4 and 6, as bytes.

use anyhow::{Result, bail};

/// What a client says first.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Frame types.
#[allow(missing_docs)]
pub mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// Frame flags.
#[allow(missing_docs)]
pub mod flag {
    pub const END_STREAM: u8 = 0x1;
    pub const ACK: u8 = 0x1;
    pub const END_HEADERS: u8 = 0x4;
    pub const PADDED: u8 = 0x8;
    pub const PRIORITY: u8 = 0x20;
}

/// SETTINGS identifiers.
#[allow(missing_docs)]
pub mod setting {
    pub const HEADER_TABLE_SIZE: u16 = 1;
    pub const ENABLE_PUSH: u16 = 2;
    pub const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub const INITIAL_WINDOW_SIZE: u16 = 4;
    pub const MAX_FRAME_SIZE: u16 = 5;
    pub const MAX_HEADER_LIST_SIZE: u16 = 6;
}

/// Any frame: its head tells the payload's true length.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    frame_claiming(payload.len() as u32, kind, flags, stream, payload)
}

/// Any frame, whatever length its head tells.
pub fn frame_claiming(length: u32, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(9 + payload.len());
    out.extend(&length.to_be_bytes()[1..]);
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

/// SETTINGS.
pub fn settings(values: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> =
        values.iter().flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()).collect();
    frame(kind::SETTINGS, 0, 0, &payload)
}

/// The answer to the peer's SETTINGS.
pub fn settings_ack() -> Vec<u8> {
    frame(kind::SETTINGS, flag::ACK, 0, &[])
}

/// PING.
pub fn ping(opaque: [u8; 8], ack: bool) -> Vec<u8> {
    frame(kind::PING, if ack { flag::ACK } else { 0 }, 0, &opaque)
}

/// WINDOW_UPDATE; stream 0 is the connection.
pub fn window_update(stream: u32, increment: u32) -> Vec<u8> {
    frame(kind::WINDOW_UPDATE, 0, stream, &increment.to_be_bytes())
}

/// RST_STREAM.
pub fn rst_stream(stream: u32, code: u32) -> Vec<u8> {
    frame(kind::RST_STREAM, 0, stream, &code.to_be_bytes())
}

/// GOAWAY.
pub fn goaway(last: u32, code: u32) -> Vec<u8> {
    frame(kind::GOAWAY, 0, 0, &[last.to_be_bytes(), code.to_be_bytes()].concat())
}

/// PRIORITY, and what HEADERS may begin with.
pub fn priority(stream: u32, on: u32, exclusive: bool, weight: u8) -> Vec<u8> {
    frame(kind::PRIORITY, 0, stream, &priority_fields(on, exclusive, weight))
}

fn priority_fields(on: u32, exclusive: bool, weight: u8) -> [u8; 5] {
    let [a, b, c, d] = (on | u32::from(exclusive) << 31).to_be_bytes();
    [a, b, c, d, weight]
}

fn padded(pad: Option<u8>, head: &[u8], body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend(pad);
    out.extend(head);
    out.extend(body);
    out.extend(std::iter::repeat_n(0, pad.unwrap_or(0).into()));
    out
}

/// How a header block is framed.
#[derive(Debug, Clone, Default)]
pub struct Headers {
    /// The frame carries END_STREAM.
    pub end_stream: bool,
    /// So many bytes of padding, and the PADDED flag.
    pub pad: Option<u8>,
    /// Depends on this stream, exclusively, with this weight; and the PRIORITY flag.
    pub priority: Option<(u32, bool, u8)>,
    /// The block's places where CONTINUATION frames begin, ascending.
    pub splits: Vec<usize>,
}

impl Headers {
    /// One HEADERS frame.
    pub fn new(end_stream: bool) -> Self {
        Self { end_stream, ..Self::default() }
    }

    /// HEADERS and CONTINUATION frames with this block.
    pub fn write(&self, stream: u32, block: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut from = 0;
        let ends = self.splits.iter().copied().chain([block.len()]);
        for (index, end) in ends.enumerate() {
            let end = end.clamp(from, block.len());
            let last = if index == self.splits.len() { flag::END_HEADERS } else { 0 };
            let piece = &block[from..end];
            if index == 0 {
                let mut flags = last | if self.end_stream { flag::END_STREAM } else { 0 };
                flags |= if self.pad.is_some() { flag::PADDED } else { 0 };
                flags |= if self.priority.is_some() { flag::PRIORITY } else { 0 };
                let head = self.priority.map(|(on, exclusive, weight)| priority_fields(on, exclusive, weight));
                let payload = padded(self.pad, head.as_ref().map_or(&[], |h| &h[..]), piece);
                out.extend(frame(kind::HEADERS, flags, stream, &payload));
            } else {
                out.extend(frame(kind::CONTINUATION, last, stream, piece));
            }
            from = end;
        }
        out
    }
}

/// One DATA frame.
pub fn data(stream: u32, body: &[u8], end_stream: bool, pad: Option<u8>) -> Vec<u8> {
    let mut flags = if end_stream { flag::END_STREAM } else { 0 };
    flags |= if pad.is_some() { flag::PADDED } else { 0 };
    frame(kind::DATA, flags, stream, &padded(pad, &[], body))
}

/// DATA frames of at most `size` bytes each.
pub fn data_in_pieces(stream: u32, body: &[u8], end_stream: bool, size: usize) -> Vec<u8> {
    if body.is_empty() {
        return data(stream, body, end_stream, None);
    }
    let last = body.len().div_ceil(size) - 1;
    body.chunks(size).enumerate().flat_map(|(i, piece)| data(stream, piece, end_stream && i == last, None)).collect()
}

/// A frame as read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Its type, see [`kind`].
    pub kind: u8,
    /// Its flags, see [`flag`].
    pub flags: u8,
    /// Its stream.
    pub stream: u32,
    /// What follows the head, padding and all.
    pub payload: Vec<u8>,
}

impl Frame {
    /// The first frame in these bytes, removed from them once it is whole.
    pub fn take(bytes: &mut Vec<u8>) -> Option<Self> {
        let head = bytes.first_chunk::<9>()?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let (kind, flags) = (head[3], head[4]);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
        if bytes.len() < 9 + length {
            return None;
        }
        let payload = bytes.drain(..9 + length).skip(9).collect();
        Some(Self { kind, flags, stream, payload })
    }

    /// Whether it carries this flag.
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// DATA or a header block's piece without padding and priority.
    pub fn body(&self) -> Result<&[u8]> {
        let mut body = self.payload.as_slice();
        if self.has(flag::PADDED) && matches!(self.kind, kind::DATA | kind::HEADERS) {
            let Some((pad, rest)) = body.split_first() else { bail!("padded frame without a pad length") };
            let Some(end) = rest.len().checked_sub((*pad).into()) else { bail!("more padding than payload") };
            body = &rest[..end];
        }
        if self.kind == kind::HEADERS && self.has(flag::PRIORITY) {
            let Some(rest) = body.get(5..) else { bail!("no room for the priority") };
            body = rest;
        }
        Ok(body)
    }
}
