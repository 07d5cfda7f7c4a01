//! Mending: behind the filter the server reads every call that is allowed, byte for byte, and none that is denied, in whatever segments
//! the client's bytes come, in whatever order, and whenever the agent sends its copies.

use std::collections::BTreeMap;

use protocg_oracle::Conversation;
use protocg_oracle::hpack::{Decoder, Field};
use protocg_oracle::policies::UNARY;
use protocg_oracle::wire::*;

use crate::check::Pair;
use crate::dice::Dice;
use crate::filter::{Receiver, Segment};
use crate::grammar::Client;

/// The policies that deny something and switch nothing off that ends in a connection which nobody reads.
const POLICIES: [usize; 3] = [0, 1, 5];

/// The type of the frames that mending puts in the place of others.
const UNKNOWN: u8 = 0x2a;

/// What one stream carries, as a plain reader of frames has it.
#[derive(Debug, Default, PartialEq, Eq)]
struct View {
    blocks: Vec<Vec<Field>>,
    data: Vec<u8>,
    end: bool,
    reset: bool,
}

impl View {
    /// Is it how `other` begins?
    fn begins(&self, other: &View) -> bool {
        other.blocks.starts_with(&self.blocks)
            && other.data.starts_with(&self.data)
            && (!self.end || other.end)
            && (!self.reset || other.reset)
    }
}

#[derive(Default)]
struct Views {
    streams: BTreeMap<u32, View>,
    /// Frames of the connection.
    others: Vec<u8>,
    /// Where frames begin, and whose they are.
    frames: Vec<(usize, u32)>,
    /// A frame is of a stream that was never opened.
    stray: bool,
}

/// Reads whole frames, and the beginning of a last one that is DATA.
fn views(bytes: &[u8]) -> Views {
    let mut views = Views::default();
    let mut hpack = Decoder::default();
    let mut block = Vec::new();
    let mut ends = false;
    let mut at = PREFACE.len();
    while let Some(head) = bytes.get(at..at + 9) {
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let (kind, flags) = (head[3], head[4]);
        let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
        views.frames.push((at, id));
        let whole = bytes.len() >= at + 9 + length;
        let mut payload = &bytes[at + 9..bytes.len().min(at + 9 + length)];
        at += 9 + length;
        if !whole && kind != DATA {
            break;
        }
        if flags & PADDED != 0 && kind == DATA {
            let Some((pad, rest)) = payload.split_first() else { break };
            let Some(length) = (length - 1).checked_sub(usize::from(*pad)) else { break };
            payload = &rest[..length.min(rest.len())];
        }
        if kind == HEADERS && flags & PRIORITY_FLAG != 0 {
            let Some(rest) = payload.get(5..) else { break };
            payload = rest;
        }
        let stream = views.streams.entry(id).or_default();
        views.stray |= id != 0 && stream.blocks.is_empty() && matches!(kind, DATA | RST_STREAM | WINDOW_UPDATE);
        match kind {
            DATA => {
                // Behind the end of an emptied call what cannot be taken out may come, as in a segment with FIN: every
                // server refuses it (RFC 9113, section 5.1), and no handler is given it.
                if !stream.end {
                    stream.data.extend(payload);
                }
                stream.end |= whole && flags & END_STREAM != 0;
            }
            HEADERS | CONTINUATION => {
                ends = if kind == HEADERS { flags & END_STREAM != 0 } else { ends };
                block.extend(payload);
                if flags & END_HEADERS != 0 {
                    let Ok(fields) = hpack.decode(&std::mem::take(&mut block)) else { break };
                    stream.blocks.push(fields);
                    stream.end |= ends;
                }
            }
            RST_STREAM => stream.reset = true,
            _ if id == 0 && kind != UNKNOWN => views.others.extend(&bytes[at - 9 - length..at]),
            _ => {}
        }
    }
    views
}

/// Does a path name no method, as mending changes it?
fn astray(view: &View) -> bool {
    let path = view.blocks.first().and_then(|fields| fields.iter().find(|(name, _)| name == b":path"));
    path.is_some_and(|(_, path)| path == b"/" || matches!(path.get(1), Some(b'0' | b'3' | b':' | b'*')))
}

/// Is there a whole message in it?
fn has_message(data: &[u8]) -> bool {
    data.split_first_chunk::<5>().is_some_and(|(prefix, rest)| {
        rest.len() >= u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize
    })
}

/// The client's bytes, and how they travel.
struct Network<'d, 'b> {
    dice: &'d mut Dice<'b>,
    stream: Vec<u8>,
    segments: Vec<Segment>,
    /// Segments under way.
    late: Vec<Segment>,
}

impl Network<'_, '_> {
    fn cut(&mut self) {
        let sizes = [1 + self.dice.below(40), 20 + self.dice.below(300), 1400, 4000];
        let mut at = 0;
        while at < self.stream.len() {
            let size = self.dice.pick(&sizes).min(self.stream.len() - at);
            self.segments.push(Segment { at, bytes: self.stream[at..at + size].to_vec(), fin: false });
            at += size;
        }
        if self.dice.one_in(8)
            && let Some(last) = self.segments.last_mut()
        {
            last.fin = true;
        }
    }

    /// Any bytes of the stream from where the server has them, as if they had been lost.
    fn again(&mut self, received: usize) -> Segment {
        let at = received.saturating_sub(self.dice.below(50));
        let to = (received + 1 + self.dice.below(400)).min(self.stream.len());
        Segment { at, bytes: self.stream[at.min(to)..to].to_vec(), fin: false }
    }

    /// As the input has it, until everything was sent once.
    fn turbulence(&mut self, receiver: &mut Receiver) {
        let mut sent = 0;
        while sent < self.segments.len() {
            match self.dice.below(16) {
                10 => {
                    self.late.push(self.segments[sent].clone());
                    sent += 1;
                }
                11 => sent += 1,
                12 => {
                    let again = self.again(receiver.received);
                    receiver.take(&again);
                }
                13 if !receiver.copies.is_empty() => {
                    // TCP may refuse it, for its timestamp
                    let copy = receiver.copies[self.dice.below(receiver.copies.len())].clone();
                    if self.dice.one_in(4) {
                        receiver.filter(&copy);
                    } else {
                        receiver.take(&copy);
                    }
                }
                14 if !receiver.copies.is_empty() => {
                    // somebody changes it on the way: it must not pass
                    let mut copy = receiver.copies[self.dice.below(receiver.copies.len())].clone();
                    let place = self.dice.below(copy.bytes.len());
                    copy.bytes[place] ^= 1 + self.dice.byte() % 255;
                    let had = receiver.received;
                    receiver.take(&copy);
                    assert!(receiver.received == had || copy.bytes == self.stream[copy.at..copy.at + copy.bytes.len()]);
                }
                15 if !self.late.is_empty() => {
                    let late = self.late.swap_remove(self.dice.below(self.late.len()));
                    receiver.take(&late);
                }
                _ => {
                    let next = self.segments[sent].clone();
                    receiver.take(&next);
                    sent += 1;
                }
            }
        }
    }

    /// TCP goes on until the server has it all, and so does the agent.
    fn calm(&mut self, receiver: &mut Receiver) {
        for _ in 0..4 * self.segments.len() + 64 {
            let had = receiver.progress();
            for copy in std::mem::take(&mut receiver.copies) {
                if receiver.waits_for(&copy) {
                    receiver.take(&copy);
                }
                if receiver.waits_for(&copy) {
                    receiver.copies.push(copy);
                }
            }
            for segment in &self.segments {
                if segment.at + segment.bytes.len() > receiver.received {
                    receiver.take(segment);
                }
            }
            if had == receiver.progress() {
                return;
            }
        }
    }
}

/// Panics if the server reads what it should not, or does not read what it should.
pub fn check(pairs: &[Pair], input: &[u8]) {
    let mut dice = Dice::new(input);
    let pair = &pairs[dice.pick(&POLICIES)];
    let first = dice.pick(&[1, 0xffff_ff00, 0x7fff_fff0]);
    let mut client = Client::new(!dice.one_in(4));
    let mut stream = [PREFACE, SETTINGS].concat();
    if dice.one_in(2) {
        // a first call, so that what follows need not put its fields into the table
        let insert = [vec![0x83, 0x86], named(INSERT, 4, UNARY), named(INSERT, 31, "application/grpc")].concat();
        stream.extend([headers(1, &insert), data_end(1, &message(b""))].concat());
        client.skip_call(&[(":path", UNARY), ("content-type", "application/grpc")]);
    }
    for _ in 0..2 + dice.below(30) {
        stream.extend(client.act(&mut dice));
    }
    let mut network = Network { dice: &mut dice, stream, segments: Vec::new(), late: Vec::new() };
    network.cut();
    let mut receiver = Receiver::new(&pair.policy.tables, first, network.stream.len());
    network.turbulence(&mut receiver);
    network.calm(&mut receiver);
    judge(pair, &network, &receiver);
    receiver.close();
}

/// What happened, for those who look for the cause.
struct Story<'s>(&'s Receiver<'s>, &'s [Segment]);

impl std::fmt::Display for Story<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}\n{:x?}\ndelivered: {:x?}", self.0.told, self.1, self.0.delivered())
    }
}

fn judge(pair: &Pair, network: &Network, receiver: &Receiver) {
    let told = Story(receiver, &network.segments);
    let delivered = receiver.delivered();
    let mut meant = Conversation::mending(&pair.oracle);
    meant.client(&network.stream);
    let mut got = Conversation::mending(&pair.oracle);
    got.client(&delivered);
    let (sent, came) = (views(&network.stream), views(&delivered));
    let denied: Vec<u32> = meant.verdicts.iter().filter(|it| it.verb == "deny").map(|it| it.stream).collect();
    let cut = |it: &Conversation| it.verdicts.iter().any(|verdict| verdict.verb == "cut");

    // nothing that is denied is delivered
    for verdict in got.verdicts.iter().filter(|verdict| verdict.verb == "deny") {
        let view = &came.streams[&verdict.stream];
        let emptied = view.end && !has_message(&view.data);
        let harmless = astray(view) || emptied && denied.contains(&verdict.stream);
        assert!(harmless, "delivered: {verdict:?} {view:?}\n{told}");
    }
    // what is of a denied call cannot be taken out where segments cut its head, nor of one with FIN, nor of one that waited in TCP's queue:
    // the server is left to refuse it; and without the denied calls of higher numbers it takes a stream that was never
    // opened for idle, and ends the connection (RFC 9113, section 5.1)
    let stuck = |at: usize| {
        let has = |it: &Segment| at >= it.at && at < it.at + it.bytes.len();
        let cut = receiver.edges.range(at + 1..at + 9).next().is_some();
        cut || network.segments.iter().any(|it| it.fin && has(it)) || receiver.waited.iter().any(has)
    };
    let late = sent.frames.iter().any(|(at, id)| denied.contains(id) && stuck(*at));
    assert!(cut(&meant) || late || sent.stray || !cut(&got), "broken by mending: {:?}\n{told}", got.verdicts);

    // every other call is delivered, all of it if the connection has come to its end
    let whole = receiver.received == network.stream.len();
    for (id, view) in came.streams.iter().filter(|(id, _)| **id != 0 && !denied.contains(id)) {
        let of = sent.streams.get(id);
        assert!(of.is_some_and(|of| view.begins(of)), "{id}: {view:?}, sent {of:?}\n{told}");
    }
    if whole && !receiver.is_dead() {
        for (id, view) in sent.streams.iter().filter(|(id, _)| **id != 0 && !denied.contains(id)) {
            assert_eq!(came.streams.get(id), Some(view), "{id}\n{told}");
        }
        assert_eq!(came.others, sent.others, "{told}");
        let said: Vec<_> = receiver.told.iter().map(|it| it.verdict.clone()).collect();
        assert_eq!(said, meant.verdicts, "{told}");
        assert_eq!(receiver.holes(), 0, "{told}");
    }
    // each denial was told, once and in order, up to one that ended the connection
    let mends: Vec<_> = receiver
        .told
        .iter()
        .take_while(|it| it.mends || it.verdict.verb != "deny" && it.verdict.verb != "cut")
        .collect();
    for (it, expected) in mends.iter().zip(&meant.verdicts) {
        assert_eq!(it.verdict, *expected, "{told}");
    }
    assert!(
        whole || receiver.is_dead(),
        "stuck at {} of {}, {} holes\n{told}",
        receiver.received,
        network.stream.len(),
        receiver.holes()
    );
}
