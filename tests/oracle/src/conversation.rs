//! A connection as RFC 9113 and gRPC have it: frames, header blocks, messages, and what a policy says to each.

use std::collections::{BTreeMap, VecDeque};

use crate::headers;
use crate::hpack::{Decoder, Field, Trouble};
use crate::message::{self, Bad, Node};
use crate::policy::{Decided, Judgement, Policy};
use crate::wire::*;

/// Why something cannot be decided, as policies name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    Compressed,
    UnknownMethod,
    Malformed,
    TooLarge,
    NotHttp2,
    Tls,
}

impl Cause {
    pub fn name(self) -> &'static str {
        match self {
            Cause::Compressed => "compressed",
            Cause::UnknownMethod => "unknown_method",
            Cause::Malformed => "malformed",
            Cause::TooLarge => "too_large",
            Cause::NotHttp2 => "not_http2",
            Cause::Tls => "tls",
        }
    }
}

impl From<Trouble> for Cause {
    fn from(trouble: Trouble) -> Self {
        if trouble == Trouble::TooLarge { Cause::TooLarge } else { Cause::Malformed }
    }
}

/// What decided.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    Rule(usize),
    Default,
    Cause(String),
}

/// A decision that makes an event.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Verdict {
    /// `deny`, `allow`, `audit`; for the connection `cut`, `blind`, `audit-cut`.
    pub verb: &'static str,
    pub what: What,
    pub status: u32,
    /// 0: the connection.
    pub stream: u32,
    /// 0: the header block.
    pub message: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Pass,
    Denied,
    Cut,
    Blind,
}

#[derive(Default)]
struct Stream {
    path: String,
    fields: Vec<Field>,
    /// The bytes behind the last message that is over.
    bytes: Vec<u8>,
    /// Messages begun.
    messages: u32,
    /// The header block, or a switch, let it pass.
    allowed: bool,
    /// Nobody reads its messages.
    unread: bool,
    /// The current message is passed over.
    skipped: bool,
    /// The current message has been counted.
    counted: bool,
    ended: bool,
    answered: bool,
}

/// A frame whose head has come.
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    /// Payload to come, without padding.
    left: usize,
    pad: Option<usize>,
    priority: usize,
}

#[derive(Clone, Copy)]
struct Block {
    stream: u32,
    /// Its stream ends with it.
    end: bool,
    /// The stream is open already.
    trailers: bool,
}

/// What there is of one direction.
#[derive(Default)]
struct Side {
    bytes: VecDeque<u8>,
    frame: Option<Frame>,
    /// A header block that is not over.
    block: Option<Block>,
}

/// What was counted on the way.
#[derive(Debug, Default, Clone)]
pub struct Counts {
    pub frames: BTreeMap<u8, u64>,
    pub calls: u64,
    pub messages: u64,
}

/// A connection under a policy.
pub struct Conversation<'p> {
    policy: &'p Policy,
    /// Denials end their RPC only.
    mending: bool,
    preface: usize,
    client: Side,
    server: Side,
    streams: BTreeMap<u32, Stream>,
    block: Vec<u8>,
    hpack: Decoder,
    pub highest: u32,
    pub outcome: Outcome,
    pub verdicts: Vec<Verdict>,
    pub counts: Counts,
}

/// Something that ends the conversation.
struct Over;
type Step = Result<(), Over>;

const PERMISSION_DENIED: u32 = 7;

impl Side {
    /// The next frame's head, if it has come: its length and the rest.
    fn head(&mut self) -> Option<(usize, u8, u8, u32)> {
        if self.bytes.len() < 9 {
            return None;
        }
        let head = self.some(9);
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
        Some((length, head[3], head[4], stream))
    }

    /// Some bytes, at most `most`.
    fn some(&mut self, most: usize) -> Vec<u8> {
        self.bytes.drain(..most.min(self.bytes.len())).collect()
    }
}

/// Does a frame's type allow its stream and length?
fn frame_is_sound(side: &Side, (length, kind, flags, stream): (usize, u8, u8, u32), from_client: bool) -> bool {
    let in_order = match side.block {
        Some(block) => kind == CONTINUATION && stream == block.stream,
        None => kind != CONTINUATION,
    };
    let sized = match kind {
        // servers read padded ones differently
        HEADERS if flags & PADDED != 0 && from_client => false,
        DATA if flags & PADDED != 0 => length >= 1,
        HEADERS if flags & PRIORITY_FLAG != 0 => length >= 5,
        PRIORITY => length == 5,
        RST_STREAM | WINDOW_UPDATE => length == 4,
        SETTINGS_FRAME if flags & ACK != 0 => length == 0,
        SETTINGS_FRAME => length.is_multiple_of(6),
        PING => length == 8,
        GOAWAY => length >= 8,
        _ => true,
    };
    let placed = match kind {
        DATA | HEADERS | PRIORITY | RST_STREAM | CONTINUATION => stream != 0,
        SETTINGS_FRAME | PING | GOAWAY => stream == 0,
        PUSH_PROMISE => !from_client,
        _ => true,
    };
    in_order && sized && placed
}

impl<'p> Conversation<'p> {
    pub fn new(policy: &'p Policy) -> Self {
        Self {
            policy,
            mending: false,
            preface: 0,
            client: Side::default(),
            server: Side::default(),
            streams: BTreeMap::new(),
            block: Vec::new(),
            hpack: Decoder::default(),
            highest: 0,
            outcome: Outcome::Pass,
            verdicts: Vec::new(),
            counts: Counts::default(),
        }
    }

    /// One in which a denial ends its RPC, and nothing else.
    pub fn mending(policy: &'p Policy) -> Self {
        Self { mending: true, ..Self::new(policy) }
    }

    /// Streams that are open.
    pub fn live(&self) -> usize {
        self.streams.len()
    }

    /// Between two frames, and between two header blocks.
    pub fn at_rest(&self) -> bool {
        self.client.frame.is_none() && self.client.bytes.is_empty() && self.client.block.is_none()
    }

    /// The client's next bytes.
    pub fn client(&mut self, bytes: &[u8]) -> Outcome {
        if self.outcome == Outcome::Pass {
            self.client.bytes.extend(bytes);
            while let Ok(true) = self.step() {}
        }
        self.outcome
    }

    /// The server's next bytes. Returns false if they are not HTTP/2.
    pub fn server(&mut self, bytes: &[u8]) -> bool {
        self.server.bytes.extend(bytes);
        loop {
            let Some(frame) = self.server.frame.take() else {
                let Some(head @ (left, kind, flags, stream)) = self.server.head() else { return true };
                if !frame_is_sound(&self.server, head, false) {
                    return false;
                }
                if matches!(kind, HEADERS | CONTINUATION | PUSH_PROMISE) {
                    let open = Block { stream, end: false, trailers: false };
                    self.server.block = (flags & END_HEADERS == 0).then_some(open);
                }
                self.server.frame = Some(Frame { kind, flags, stream, left, pad: None, priority: 0 });
                continue;
            };
            if self.server.bytes.len() < frame.left {
                // parameters count as they come
                if frame.kind == SETTINGS_FRAME {
                    let come = self.server.bytes.len();
                    let come: Vec<u8> = self.server.bytes.range(..come - come % 6).copied().collect();
                    self.settings(&come);
                }
                self.server.frame = Some(frame);
                return true;
            }
            let payload = self.server.some(frame.left);
            if frame.kind == SETTINGS_FRAME {
                self.settings(&payload);
            }
            let ends = matches!(frame.kind, DATA | HEADERS) && frame.flags & END_STREAM != 0;
            if ends || frame.kind == RST_STREAM {
                let over = self.streams.get_mut(&frame.stream).is_some_and(|stream| {
                    stream.answered = true;
                    stream.ended || frame.kind == RST_STREAM
                });
                if over {
                    self.streams.remove(&frame.stream);
                }
            }
        }
    }

    fn settings(&mut self, payload: &[u8]) {
        for parameter in payload.chunks_exact(6).filter(|parameter| parameter[..2] == [0, 1]) {
            let size = u32::from_be_bytes(parameter[2..].try_into().unwrap());
            self.hpack.announced = self.hpack.announced.max(size as usize);
        }
    }

    // ---- what becomes of things ----

    fn says(&mut self, verb: &'static str, what: What, status: u32, stream: u32, message: u32) {
        self.verdicts.push(Verdict { verb, what, status, stream, message });
    }

    fn allows(&self, cause: Cause) -> bool {
        self.policy.allowed.contains(&cause.name())
    }

    fn cut(&mut self, cause: Cause) -> Step {
        let (verb, outcome) = match () {
            () if self.allows(cause) => ("blind", Outcome::Blind),
            () if self.policy.audit => ("audit-cut", Outcome::Blind),
            () => ("cut", Outcome::Cut),
        };
        self.says(verb, What::Cause(cause.name().to_owned()), PERMISSION_DENIED, 0, 0);
        self.outcome = outcome;
        Err(Over)
    }

    /// The RPC is denied. `Ok`: in audit mode it goes on, or it alone is over.
    fn deny(&mut self, id: u32, what: What, status: u32) -> Step {
        let Some(stream) = self.streams.get_mut(&id) else { return Ok(()) };
        let message = stream.messages;
        if self.policy.audit {
            (stream.allowed, stream.unread) = (true, true);
            self.says("audit", what, status, id, message);
            return Ok(());
        }
        self.says("deny", what, status, id, message);
        if self.mending {
            self.streams.remove(&id);
            return Ok(());
        }
        self.outcome = Outcome::Denied;
        Err(Over)
    }

    /// The RPC cannot be decided. Returns whether a switch lets it pass.
    fn fail(&mut self, id: u32, cause: Cause) -> Result<bool, Over> {
        let what = What::Cause(cause.name().to_owned());
        if !self.allows(cause) {
            return self.deny(id, what, PERMISSION_DENIED).map(|()| false);
        }
        let message = self.streams[&id].messages;
        self.says("allow", what, PERMISSION_DENIED, id, message);
        Ok(true)
    }

    fn audited(&mut self, id: u32, judgement: &Judgement) {
        let message = self.streams[&id].messages;
        for rule in &judgement.audited {
            self.says("audit", What::Rule(*rule), self.policy.rules[*rule].status.0, id, message);
        }
    }

    // ---- calls ----

    fn call(&mut self, id: u32, fields: Vec<Field>) -> Step {
        self.counts.calls += 1;
        let mut stream = Stream::default();
        let path = headers::request(&fields).map(|path| String::from_utf8(path.to_vec()).unwrap());
        stream.fields = fields;
        self.streams.insert(id, stream);
        let path = match path {
            Ok(path) => path,
            Err(cause) => {
                self.fail(id, cause)?;
                if let Some(stream) = self.streams.get_mut(&id) {
                    (stream.allowed, stream.unread) = (true, true);
                }
                return Ok(());
            }
        };
        let judgement = self.policy.judge_headers(&path, &self.streams[&id].fields);
        self.audited(id, &judgement);
        let (on_messages, allow_on_messages) = self.policy.on_messages(&path);
        let unknown = on_messages && self.policy.request_of(&path).is_none();
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.path = path;
        }
        if let Some(Decided::Deny(rule)) = judgement.verdict {
            return self.deny(id, What::Rule(rule), self.policy.rules[rule].status.0);
        }
        let allowed = judgement.verdict == Some(Decided::Allow) || !self.policy.default_deny;
        if unknown && (allowed || allow_on_messages || !self.allows(Cause::UnknownMethod)) {
            self.fail(id, Cause::UnknownMethod)?;
            if let Some(stream) = self.streams.get_mut(&id) {
                (stream.allowed, stream.unread) = (true, true);
            }
            return Ok(());
        }
        let reads = on_messages && !unknown;
        let stream = self.streams.get_mut(&id).unwrap();
        (stream.allowed, stream.unread) = (allowed, !reads);
        let provisional = reads && allow_on_messages;
        if !(allowed || provisional) {
            return self.deny(id, What::Default, PERMISSION_DENIED);
        }
        Ok(())
    }

    /// Data of an open stream.
    fn data(&mut self, id: u32, bytes: &[u8]) -> Step {
        let policy = self.policy;
        self.streams.get_mut(&id).unwrap().bytes.extend(bytes);
        while let Some(stream) = self.streams.get_mut(&id).filter(|stream| !stream.unread) {
            match stream.bytes.first() {
                None => return Ok(()),
                Some(0 | 1) => {}
                Some(_) => {
                    self.fail(id, Cause::Malformed)?;
                    // no boundary is left to go on from
                    if let Some(stream) = self.streams.get_mut(&id) {
                        stream.unread = true;
                    }
                    return Ok(());
                }
            }
            let Some((prefix, come)) = stream.bytes.split_first_chunk::<5>() else { return Ok(()) };
            let length = u32::from_be_bytes(prefix[1..].try_into().unwrap()) as usize;
            let message = come[..come.len().min(length)].to_vec();
            if !stream.counted {
                (stream.counted, stream.skipped) = (true, false);
                stream.messages += 1;
                self.counts.messages += 1;
                if prefix[0] == 1 {
                    stream.skipped = true;
                    self.fail(id, Cause::Compressed)?;
                    continue;
                }
            }
            if !stream.skipped {
                let descriptor = policy.request_of(&stream.path).unwrap();
                let paths = policy.paths(&stream.path);
                let read = message::decode(&descriptor, &message, length, &paths, &mut Node::default());
                if let Err(bad @ (Bad::Malformed | Bad::TooDeep | Bad::Map)) = read {
                    stream.skipped = true;
                    self.fail(id, if bad == Bad::TooDeep { Cause::TooLarge } else { Cause::Malformed })?;
                    continue;
                }
            }
            if message.len() < length {
                return Ok(());
            }
            stream.bytes.drain(..5 + length);
            stream.counted = false;
            if !stream.skipped {
                self.message(id, &message)?;
            }
        }
        Ok(())
    }

    /// A whole message.
    fn message(&mut self, id: u32, bytes: &[u8]) -> Step {
        let stream = &self.streams[&id];
        let judgement = self.policy.judge_message(&stream.path, &stream.fields, bytes).unwrap();
        let allowed = stream.allowed || !self.policy.default_deny;
        self.audited(id, &judgement);
        match judgement.verdict {
            Some(Decided::Deny(rule)) => self.deny(id, What::Rule(rule), self.policy.rules[rule].status.0),
            None if !allowed => self.deny(id, What::Default, PERMISSION_DENIED),
            _ => Ok(()),
        }
    }

    /// The client has ended its side.
    fn end(&mut self, id: u32) -> Step {
        let Some(stream) = self.streams.get(&id) else { return Ok(()) };
        if !stream.unread {
            if !stream.bytes.is_empty() {
                self.fail(id, Cause::Malformed)?;
            }
            let Some(stream) = self.streams.get(&id) else { return Ok(()) };
            if !stream.allowed && stream.messages == 0 && self.policy.default_deny {
                self.deny(id, What::Default, PERMISSION_DENIED)?;
            }
        }
        let Some(stream) = self.streams.get_mut(&id) else { return Ok(()) };
        stream.ended = true;
        if stream.answered {
            self.streams.remove(&id);
        }
        Ok(())
    }

    fn block_is_whole(&mut self, block: Block) -> Step {
        let id = block.stream;
        let fields = match self.hpack.decode(&std::mem::take(&mut self.block)) {
            Ok(fields) => fields,
            Err(trouble) => return self.cut(trouble.into()),
        };
        if !block.trailers {
            self.call(id, fields)?;
        } else if self.streams.contains_key(&id) {
            let keys = self.policy.keys();
            if fields.iter().any(|(name, _)| keys.iter().any(|key| key.as_bytes() == name)) {
                self.fail(id, Cause::Malformed)?;
            }
        }
        if block.end { self.end(id) } else { Ok(()) }
    }

    // ---- frames ----

    /// Whether there was something to do.
    fn step(&mut self) -> Result<bool, Over> {
        while self.preface < PREFACE.len() {
            let Some(byte) = self.client.some(1).pop() else { return Ok(false) };
            if byte != PREFACE[self.preface] {
                let tls = self.preface == 0 && byte == 0x16;
                self.cut(if tls { Cause::Tls } else { Cause::NotHttp2 })?;
            }
            self.preface += 1;
        }
        let Some(frame) = self.client.frame.take() else { return self.head() };
        self.payload(frame)
    }

    fn head(&mut self) -> Result<bool, Over> {
        let Some(head @ (left, kind, flags, id)) = self.client.head() else { return Ok(false) };
        *self.counts.frames.entry(kind).or_default() += 1;
        if !frame_is_sound(&self.client, head, true) {
            self.cut(Cause::Malformed)?;
        }
        if matches!(kind, HEADERS | DATA | RST_STREAM) {
            let stream = self.streams.get(&id);
            let sound = match kind {
                _ if id % 2 == 0 => false,
                HEADERS if id > self.highest => true,
                _ if id > self.highest => false,
                RST_STREAM => true,
                _ if stream.is_some_and(|stream| stream.ended) => false,
                DATA => true,
                _ => stream.is_some() && flags & END_STREAM != 0,
            };
            if !sound {
                self.cut(Cause::Malformed)?;
            }
            self.highest = self.highest.max(id);
            if kind == RST_STREAM {
                self.streams.remove(&id);
            }
        }
        if kind == HEADERS {
            self.block.clear();
            let trailers = self.streams.contains_key(&id);
            self.client.block = Some(Block { stream: id, end: flags & END_STREAM != 0, trailers });
        }
        let padded = kind == DATA && flags & PADDED != 0;
        let priority = if kind == HEADERS && flags & PRIORITY_FLAG != 0 { 5 } else { 0 };
        let pad = if padded { None } else { Some(0) };
        self.client.frame = Some(Frame { kind, flags, stream: id, left, pad, priority });
        Ok(true)
    }

    /// As much of a frame's payload as there is.
    fn payload(&mut self, mut frame: Frame) -> Result<bool, Over> {
        let pad = match frame.pad {
            Some(pad) => pad,
            None => {
                let Some(pad) = self.client.some(1).pop() else {
                    self.client.frame = Some(frame);
                    return Ok(false);
                };
                let pad = usize::from(pad);
                frame.left -= 1;
                if pad + frame.priority > frame.left {
                    self.cut(Cause::Malformed)?;
                }
                frame.left -= pad;
                *frame.pad.insert(pad)
            }
        };
        let gone = self.client.some(frame.priority).len();
        frame.priority -= gone;
        frame.left -= gone;
        if frame.priority > 0 {
            self.client.frame = Some(frame);
            return Ok(false);
        }
        let body = self.client.some(frame.left);
        frame.left -= body.len();
        match frame.kind {
            DATA if self.streams.contains_key(&frame.stream) => self.data(frame.stream, &body)?,
            HEADERS | CONTINUATION if self.client.block.is_some() => {
                let block = self.client.block.unwrap();
                self.block.extend(body);
                if frame.left == 0 && frame.flags & END_HEADERS != 0 {
                    self.client.block = None;
                    self.block_is_whole(block)?;
                } else if let Err(trouble @ (Trouble::Malformed | Trouble::TooLarge)) = self.hpack.look(&self.block) {
                    self.cut(trouble.into())?;
                }
            }
            _ => {}
        }
        let padding = self.client.some(if frame.left == 0 { pad } else { 0 }).len();
        frame.pad = Some(pad - padding);
        if frame.left > 0 || frame.pad != Some(0) {
            self.client.frame = Some(frame);
            return Ok(false);
        }
        if frame.kind == DATA && frame.flags & END_STREAM != 0 {
            self.end(frame.stream)?;
        }
        Ok(true)
    }
}
