//! Conversations that are mostly valid, out of decisions: calls, header blocks in every form, messages, and what disturbs them.

use std::collections::VecDeque;

use protocg_oracle::hpack::STATIC;
use protocg_oracle::policies::{BIDI, CLIENT_STREAM, LOGIN, SEARCH, SLOW, UNARY};
use protocg_oracle::wire::*;

use crate::dice::Dice;

/// Whose bytes come next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The client's.
    Client(Vec<u8>),
    /// The server's.
    Server(Vec<u8>),
}

type Field = (String, Vec<u8>);

/// A client, as far as it has to remember.
#[derive(Default)]
pub struct Client {
    table: VecDeque<Field>,
    limit: usize,
    next: u32,
    open: Vec<(u32, &'static str)>,
    /// What is left of a message that was cut off, by stream.
    rest: Vec<(u32, Vec<u8>)>,
    /// Only what every server takes.
    sound: bool,
}

const PATHS: [&str; 8] = [UNARY, CLIENT_STREAM, BIDI, SEARCH, LOGIN, SLOW, "/echo.Echo/None", "/health.Health/Check"];
const ODD_PATHS: [&str; 10] = [
    "/t.T/M",
    "/health.X/Y",
    "/search.SearchService/None",
    "echo.Echo/Unary",
    "/",
    "//x",
    "/a/b/c",
    "/a/b?c",
    "*",
    "/echo.Echo/Unary/",
];
const VALUES: [&str; 14] =
    ["admin", "guest", "user", "red", "blue", "rooted", "watched", "", "bad", "green", "intruder", "roo", "é", "a b"];
const NAMES: [&str; 5] = ["x-role", "x-tenant", "x-trace", "user-agent", "trace-bin"];
const ODD_NAMES: [&str; 8] = ["X-Role", "connection", ":path", ":status", ":other", "", "te ", "grpc-encoding"];
const TEXTS: [&str; 12] = ["", "a", "ab", "A", "xAy", "aba", "é", "no", "bad", "x", "abcd", "xab"];

fn size((name, value): &Field) -> usize {
    name.len() + value.len() + 32
}

impl Client {
    /// One that has said nothing yet. A sound one breaks no rule of HTTP/2.
    pub fn new(sound: bool) -> Self {
        Self { limit: 4096, next: 1, sound, ..Self::default() }
    }

    /// A call was made that put these fields into the table.
    pub fn skip_call(&mut self, inserted: &[(&str, &str)]) {
        self.next += 2;
        for (name, value) in inserted {
            self.table.push_front(((*name).to_owned(), value.as_bytes().to_vec()));
        }
    }

    fn evict(&mut self, limit: usize) {
        while self.table.iter().map(size).sum::<usize>() > limit {
            self.table.pop_back();
        }
    }

    fn odd(&self, dice: &mut Dice, times: usize) -> bool {
        !self.sound && dice.one_in(times)
    }

    fn fields(&mut self, dice: &mut Dice) -> (Vec<Field>, &'static str) {
        let path = if self.odd(dice, 16) { dice.pick(&ODD_PATHS) } else { dice.pick(&PATHS) };
        let mut fields: Vec<Field> = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "localhost"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
        ]
        .map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec()))
        .to_vec();
        for _ in 0..dice.below(5) {
            let name = if self.odd(dice, 24) { dice.pick(&ODD_NAMES) } else { dice.pick(&NAMES) };
            let value = match dice.below(8) {
                0 if !self.sound => dice.some(6).to_vec(),
                1 => vec![b'v'; dice.below(700)],
                _ => dice.pick(&VALUES).as_bytes().to_vec(),
            };
            fields.push((name.to_owned(), value));
        }
        if self.odd(dice, 24) {
            let (a, b) = (dice.below(fields.len()), dice.below(fields.len()));
            fields.swap(a, b);
        }
        if self.odd(dice, 24) {
            fields.remove(dice.below(fields.len()));
        }
        if self.odd(dice, 48) {
            let value =
                dice.pick(&["application/grpc+proto", "application/grpc-web", "Application/GRPC;x", "text/plain"]);
            fields.push(("content-type".to_owned(), value.as_bytes().to_vec()));
        }
        (fields, path)
    }

    fn text(dice: &mut Dice, text: &[u8]) -> Vec<u8> {
        if dice.one_in(2) { huffman(text) } else { string(text) }
    }

    fn field(&mut self, dice: &mut Dice, field: &Field) -> Vec<u8> {
        let (name, value) = field;
        let find = |same: &dyn Fn(&[u8], &[u8]) -> bool| {
            let fixed = STATIC.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes()));
            fixed.chain(self.table.iter().map(|(n, v)| (n.as_bytes(), v.as_slice()))).position(|(n, v)| same(n, v))
        };
        let form = dice.below(8);
        if form < 4
            && let Some(index) = find(&|n, v| n == name.as_bytes() && v == value)
        {
            return indexed(index + 1);
        }
        let how = [INSERT, INSERT, PLAIN, NEVER][form % 4];
        let named = if dice.one_in(4) { None } else { find(&|n, _| n == name.as_bytes()) };
        let mut out = match named {
            Some(index) => integer(how.0, how.1, index + 1),
            None => [vec![how.0], Self::text(dice, name.as_bytes())].concat(),
        };
        out.extend(Self::text(dice, value));
        if how == INSERT {
            self.evict(self.limit.saturating_sub(size(field)));
            if size(field) <= self.limit {
                self.table.push_front(field.clone());
            }
        }
        out
    }

    /// A header block.
    pub fn block(&mut self, dice: &mut Dice, fields: &[Field]) -> Vec<u8> {
        let mut out = Vec::new();
        if dice.one_in(12) {
            for _ in 0..1 + dice.below(2) {
                let limit = if self.odd(dice, 8) { dice.below(70_000) } else { dice.pick(&[0, 64, 100, 400, 4096]) };
                self.limit = limit;
                self.evict(limit);
                out.extend(size_update(limit));
            }
        }
        for field in fields {
            out.extend(self.field(dice, field));
        }
        if self.odd(dice, 32) {
            out.extend(dice.some(4));
        }
        if self.odd(dice, 32) {
            out.truncate(dice.below(out.len() + 1));
        }
        out
    }

    /// A block in HEADERS and CONTINUATION frames.
    pub fn headers(&mut self, dice: &mut Dice, stream: u32, block: &[u8], end: bool) -> Vec<u8> {
        let mut cuts = vec![0];
        if dice.one_in(4) {
            cuts.extend((0..1 + dice.below(3)).map(|_| dice.below(block.len() + 1)));
            cuts.sort_unstable();
        }
        let mut out = Vec::new();
        for (i, from) in cuts.iter().enumerate() {
            let piece = &block[*from..cuts.get(i + 1).copied().unwrap_or(block.len())];
            let last = if i + 1 == cuts.len() && !self.odd(dice, 64) { END_HEADERS } else { 0 };
            if i > 0 {
                out.extend(frame(CONTINUATION, last, stream, piece));
                continue;
            }
            let mut flags = last | if end { END_STREAM } else { 0 };
            let mut payload = piece.to_vec();
            if dice.one_in(8) {
                flags |= PRIORITY_FLAG;
                payload = [&[0, 0, 0, 0, 9][..], &payload].concat();
            }
            // refused
            if dice.one_in(64) {
                flags |= PADDED;
                payload = padded(&payload, dice.byte());
            }
            out.extend(frame(HEADERS, flags, stream, &payload));
        }
        out
    }

    fn call(&mut self, dice: &mut Dice) -> Vec<u8> {
        let (fields, path) = self.fields(dice);
        let block = self.block(dice, &fields);
        let stream = self.next;
        self.next += if self.odd(dice, 32) { dice.pick(&[0, 1, 4, 100]) } else { 2 };
        let end = dice.one_in(16);
        if !end {
            self.open.push((stream, path));
        }
        self.headers(dice, stream, &block, end)
    }

    /// A message for a method.
    pub fn message(&mut self, dice: &mut Dice, path: &str) -> Vec<u8> {
        let mut out = Vec::new();
        for _ in 0..dice.below(6) {
            out.extend(self.part(dice, path, 3));
        }
        if self.odd(dice, 12) {
            out.extend(dice.some(8));
        }
        if self.odd(dice, 24) && !out.is_empty() {
            let at = dice.below(out.len());
            out[at] ^= 1 << dice.below(8);
        }
        out
    }

    fn part(&mut self, dice: &mut Dice, path: &str, depth: usize) -> Vec<u8> {
        let value = |dice: &mut Dice| dice.pick(&TEXTS).as_bytes().to_vec();
        if path == SEARCH || path == LOGIN {
            return match dice.below(4) {
                0 => bytes(1, value(dice)),
                1 if path == LOGIN => bytes(2, value(dice)),
                1 => number(2, dice.below(300) as u64),
                2 => bytes(4, vec![b'z'; dice.below(600)]),
                _ => number(30, dice.word().into()),
            };
        }
        match dice.below(16) {
            0..=2 => bytes(1, value(dice)),
            3 => number(4, dice.pick(&[7, 0, 1, u64::MAX, 0xffff_ffff, 1 << 35])),
            4 => bytes(2, if self.sound { vec![7; dice.below(900)] } else { dice.some(9).to_vec() }),
            5 => number(dice.pick(&[3, 5, 6, 7, 8, 9, 16, 19, 22]), dice.pick(&[0, 1, 2, 128, 127, u64::MAX])),
            6 => fixed32(dice.pick(&[10, 12, 14]), dice.pick(&[0, 1, 0x3fc0_0000, 0x8000_0000, 0x7fc0_0000, 1 << 31])),
            7 => fixed64(
                dice.pick(&[11, 13, 15]),
                dice.pick(&[0, 1, 0x3ff8_0000_0000_0000, 1 << 63, 0x7ff8_0000_0000_0000]),
            ),
            8 => bytes(dice.pick(&[18, 21, 23, 104]), value(dice)),
            9 | 10 if depth > 0 => {
                let inner: Vec<u8> = (0..dice.below(3)).flat_map(|_| self.inner(dice, depth - 1)).collect();
                bytes(17, inner)
            }
            11 if depth > 0 => bytes(20, self.inner(dice, 0)),
            12 => group(50, &bytes(1, value(dice))),
            13 => [tag(1, 2), long_varint(2, 1 + dice.below(9)), b"ab".to_vec()].concat(),
            14 if !self.sound => {
                let kind = dice.pick(&[0, 1, 2, 3, 4, 5, 6]);
                [tag(1 + dice.below(30) as u32, kind), dice.some(5).to_vec()].concat()
            }
            _ => bytes(27, [number(1, 3), bytes(2, bytes(1, "q"))].concat()),
        }
    }

    /// Of Outer, and with less depth of Middle and Inner.
    fn inner(&mut self, dice: &mut Dice, depth: usize) -> Vec<u8> {
        match dice.below(5) {
            0 => bytes(1, dice.pick(&TEXTS)),
            1 => number(2, dice.pick(&[1, 0, 7, u64::MAX])),
            2 => number(3, dice.pick(&[1, 2])),
            _ if depth > 0 => {
                bytes(3, (0..dice.below(3)).flat_map(|_| self.inner(dice, depth - 1)).collect::<Vec<u8>>())
            }
            _ => bytes(4, dice.pick(&TEXTS)),
        }
    }

    fn data(&mut self, dice: &mut Dice) -> Vec<u8> {
        let Some(at) = self.open.len().checked_sub(1).map(|last| last - dice.below(self.open.len())) else {
            return self.call(dice);
        };
        let (stream, path) = self.open[at];
        let mut body = Vec::new();
        if let Some(left) = self.rest.iter().position(|(of, _)| *of == stream) {
            body = self.rest.remove(left).1;
        }
        for _ in 0..dice.pick(&[1, 1, 1, 0, 2, 3]) {
            let message = self.message(dice, path);
            let flag = if self.odd(dice, 12) { dice.pick(&[1, 1, 2, 255]) } else { 0 };
            body.extend(message_with(flag, &message));
        }
        let end = dice.below(4) == 0;
        if (!end || self.odd(dice, 16)) && dice.one_in(4) {
            let cut = dice.below(body.len() + 1);
            self.rest.push((stream, body.split_off(cut)));
        }
        if end {
            self.open.remove(at);
        }
        let mut out = Vec::new();
        if dice.one_in(4) {
            let rest = body.split_off(dice.below(body.len() + 1));
            out.extend(data(stream, &body));
            body = rest;
        }
        let flags = if end { END_STREAM } else { 0 };
        match dice.below(8) {
            7 => out.extend(frame(DATA, flags | PADDED, stream, &padded(&body, dice.byte()))),
            6 if end => out.extend([data(stream, &body), data_end(stream, &[])].concat()),
            _ => out.extend(frame(DATA, flags, stream, &body)),
        }
        out
    }

    /// Frames that carry no call.
    fn other(&mut self, dice: &mut Dice) -> Vec<u8> {
        let word = |dice: &mut Dice| (dice.word() & 0x7fff_ffff | 1).to_be_bytes();
        match dice.below(8) {
            0 => frame(PING, dice.below(2) as u8, 0, &[7; 8]),
            1 => frame(WINDOW_UPDATE, 0, dice.pick(&[0, 1, 3]), &word(dice)),
            2 => frame(SETTINGS_FRAME, ACK, 0, &[]),
            3 => frame(SETTINGS_FRAME, 0, 0, &[&[0, dice.byte() % 8][..], &word(dice)].concat()),
            4 => frame(PRIORITY, 0, self.next, &[0, 0, 0, 0, 16]),
            5 => frame(0x20 | dice.byte(), dice.byte(), dice.pick(&[0, 1, 3]), &vec![0; dice.below(300)]),
            6 => {
                let stream = self.open.pop().map_or(1, |(stream, _)| stream);
                self.rest.retain(|(of, _)| *of != stream);
                frame(RST_STREAM, 0, if stream < self.next { stream } else { self.next }, &[0, 0, 0, 8])
            }
            _ if self.sound => frame(PING, 0, 0, &[0; 8]),
            _ => {
                let length = dice.below(12);
                frame(dice.byte() % 12, dice.byte(), dice.word() & 15, dice.some(length))
            }
        }
    }

    fn trailers(&mut self, dice: &mut Dice) -> Vec<u8> {
        let Some((stream, _)) = self.open.pop() else { return self.call(dice) };
        let name = dice.pick(&["x-trailer", "x-role", "x-trace"]);
        let block = self.block(dice, &[(name.to_owned(), b"admin".to_vec())]);
        let end = !self.odd(dice, 8);
        self.headers(dice, stream, &block, end)
    }

    /// What a client does next.
    pub fn act(&mut self, dice: &mut Dice) -> Vec<u8> {
        match dice.below(16) {
            0..=4 => self.call(dice),
            5..=11 => self.data(dice),
            12 => self.trailers(dice),
            _ => self.other(dice),
        }
    }
}

/// What a server says, valid or not.
pub fn server(dice: &mut Dice) -> Vec<u8> {
    let stream = 1 + 2 * dice.below(8) as u32;
    match dice.below(8) {
        0 => headers(stream, &[0x88]),
        1 => frame(HEADERS, END_HEADERS | END_STREAM, stream, &[0x88]),
        2 => data(stream, dice.some(5)),
        3 => data_end(stream, &message(b"")),
        4 => frame(RST_STREAM, 0, stream, &[0, 0, 0, 0]),
        5 => {
            frame(SETTINGS_FRAME, 0, 0, &[&[0, 1][..], &dice.pick(&[0, 4096, 8192, 100_000u32]).to_be_bytes()].concat())
        }
        6 => [frame(HEADERS, 0, stream, &[]), frame(CONTINUATION, END_HEADERS, stream, &[0x88])].concat(),
        _ => {
            let length = dice.below(12);
            frame(dice.byte() % 12, dice.byte(), dice.word() & 15, dice.some(length))
        }
    }
}
