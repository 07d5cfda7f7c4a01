//! A tiny HTTP/2 and gRPC client side that writes bytes exactly as a test wants them, and reads what comes back.

pub mod frame;
pub mod hpack;
pub mod huffman;

use std::collections::BTreeMap;

use anyhow::{Result, anyhow};

pub use frame::{Frame, Headers, PREFACE, flag, kind, setting};
pub use hpack::{Encoder, Field, Indexing, Name, Str, Style};

/// A gRPC message with its prefix.
pub fn grpc(message: &[u8]) -> Vec<u8> {
    grpc_claiming(0, message.len() as u32, message)
}

/// A gRPC message with any compressed flag and any length in its prefix.
pub fn grpc_claiming(compressed: u8, length: u32, message: &[u8]) -> Vec<u8> {
    [&[compressed][..], &length.to_be_bytes(), message].concat()
}

/// The preface and SETTINGS: how a connection opens.
pub fn open(settings: &[(u16, u32)]) -> Vec<u8> {
    [PREFACE, &frame::settings(settings)].concat()
}

/// The header fields of a gRPC call.
pub fn call<'a>(path: &'a str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut fields = vec![
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    ];
    fields.extend(more);
    fields
}

/// A whole unary call: HEADERS, and one message in DATA that ends the stream.
pub fn unary(encoder: &mut Encoder, style: Style, stream: u32, path: &str, message: &[u8]) -> Vec<u8> {
    let block = encoder.encode(&call(path, &[]), style);
    let mut out = Headers::new(false).write(stream, &block);
    out.extend(frame::data_in_pieces(stream, &grpc(message), true, 16384));
    out
}

/// What the server has sent on one stream.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    /// Header fields of all its blocks, in order.
    pub headers: Vec<(String, String)>,
    /// Its DATA.
    pub data: Vec<u8>,
    /// Header blocks.
    pub blocks: usize,
    /// It has ended the stream.
    pub ended: bool,
    /// RST_STREAM's code.
    pub reset: Option<u32>,
}

impl Answer {
    /// The last value of a header field or trailer.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.headers.iter().rev().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// grpc-status, once it has come.
    pub fn status(&self) -> Option<i32> {
        self.get("grpc-status")?.parse().ok()
    }

    /// Over: ended or reset.
    pub fn over(&self) -> bool {
        self.ended || self.reset.is_some()
    }
}

/// Reads a server's bytes, in whatever pieces.
pub struct Reader {
    bytes: Vec<u8>,
    decoder: loona_hpack::Decoder<'static>,
    block: Vec<u8>,
    block_ends: bool,
    /// Every frame, in order.
    pub frames: Vec<Frame>,
    /// The streams.
    pub answers: BTreeMap<u32, Answer>,
    /// GOAWAY: the last stream and the code.
    pub goaway: Option<(u32, u32)>,
    /// SETTINGS that wait for an acknowledgment, and PINGs for their answers.
    pub owed: Vec<u8>,
}

impl Default for Reader {
    fn default() -> Self {
        Self {
            bytes: Vec::new(),
            decoder: loona_hpack::Decoder::new(),
            block: Vec::new(),
            block_ends: false,
            frames: Vec::new(),
            answers: BTreeMap::new(),
            goaway: None,
            owed: Vec::new(),
        }
    }
}

impl Reader {
    /// Takes more bytes. An error: they break the rules.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<()> {
        self.bytes.extend(bytes);
        while let Some(frame) = Frame::take(&mut self.bytes) {
            self.frame(&frame)?;
            self.frames.push(frame);
        }
        Ok(())
    }

    /// What came on a stream.
    pub fn answer(&self, stream: u32) -> Answer {
        self.answers.get(&stream).cloned().unwrap_or_default()
    }

    /// Bytes of a frame that isn't whole.
    pub fn unfinished(&self) -> usize {
        self.bytes.len()
    }

    /// What to send now: acknowledgments, answers to pings, windows.
    pub fn replies(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.owed)
    }

    fn frame(&mut self, frame: &Frame) -> Result<()> {
        let word =
            |at: usize| -> Option<u32> { Some(u32::from_be_bytes(frame.payload.get(at..at + 4)?.try_into().ok()?)) };
        match frame.kind {
            kind::SETTINGS if !frame.has(flag::ACK) => self.owed.extend(frame::settings_ack()),
            kind::PING if !frame.has(flag::ACK) => {
                let opaque = frame.payload.as_slice().try_into().map_err(|_| anyhow!("a ping of another length"))?;
                self.owed.extend(frame::ping(opaque, true));
            }
            kind::GOAWAY => self.goaway = word(0).map(|last| last & 0x7fff_ffff).zip(word(4)),
            kind::RST_STREAM => self.answers.entry(frame.stream).or_default().reset = word(0),
            kind::DATA => {
                let answer = self.answers.entry(frame.stream).or_default();
                answer.data.extend(frame.body()?);
                answer.ended |= frame.has(flag::END_STREAM);
                if !frame.payload.is_empty() {
                    let length = frame.payload.len() as u32;
                    self.owed.extend(frame::window_update(0, length));
                    self.owed.extend(frame::window_update(frame.stream, length));
                }
            }
            kind::HEADERS | kind::CONTINUATION => {
                if frame.kind == kind::HEADERS {
                    self.block.clear();
                    self.block_ends = frame.has(flag::END_STREAM);
                }
                self.block.extend(frame.body()?);
                if frame.has(flag::END_HEADERS) {
                    let fields = self.decoder.decode(&self.block).map_err(|e| anyhow!("header block: {e:?}"))?;
                    let answer = self.answers.entry(frame.stream).or_default();
                    if answer.over() {
                        return Ok(()); // a server's own answer, behind the enforcer's: no client heeds it
                    }
                    answer.headers.extend(fields.into_iter().map(|(name, value)| {
                        (String::from_utf8_lossy(&name).into_owned(), String::from_utf8_lossy(&value).into_owned())
                    }));
                    answer.blocks += 1;
                    answer.ended |= self.block_ends;
                }
            }
            _ => {}
        }
        Ok(())
    }
}
