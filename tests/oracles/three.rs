//! Three judges.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;

use libbpf_rs::RingBufferBuilder;
use protocg::abi;
use protocg::kernel::load::{self, Replay};
use protocg_fuzz::check::{Pair, by_engine, by_reference, pairs, verdict};
use protocg_fuzz::dice::Random;
use protocg_fuzz::grammar::Step;
use protocg_oracle::policies::GENERAL;
use protocg_oracle::{Conversation, Outcome, Verdict};

use crate::Recording;

/// The least that BPF_PROG_TEST_RUN takes, and the most that it is given here.
const CHUNK: (usize, usize) = (14, 3000);

/// What was looked at.
#[derive(Default)]
pub struct Tally {
    conversations: u64,
    pub calls: u64,
    messages: u64,
    pub verdicts: usize,
    frames: BTreeMap<u8, u64>,
    chunks: usize,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        const NAMES: [&str; 10] = [
            "DATA",
            "HEADERS",
            "PRIORITY",
            "RST_STREAM",
            "SETTINGS",
            "PUSH_PROMISE",
            "PING",
            "GOAWAY",
            "WINDOW_UPDATE",
            "CONTINUATION",
        ];
        let Self { conversations, calls, messages, verdicts, chunks, .. } = self;
        write!(
            f,
            "{conversations} conversations, {calls} RPCs, {messages} messages, {verdicts} verdicts, {chunks} chunks in the kernel; frames:"
        )?;
        for (kind, count) in &self.frames {
            write!(f, " {} {count}", NAMES.get(usize::from(*kind)).unwrap_or(&"unknown"))?;
        }
        Ok(())
    }
}

/// What the kernel makes of a client's bytes: its events up to the first that denies, and which chunk was the first not to pass.
pub struct Kernel {
    replay: Replay,
}

impl Kernel {
    pub fn new(pair: &Pair) -> Self {
        Self { replay: load::replay(&pair.policy.tables).unwrap() }
    }

    pub fn judge(&self, chunks: &[&[u8]]) -> (Vec<Verdict>, Option<usize>) {
        let events = Rc::new(RefCell::new(Vec::new()));
        let into = Rc::clone(&events);
        let mut builder = RingBufferBuilder::new();
        builder
            .add(&self.replay.shared.events, move |bytes| {
                if bytes.len() == size_of::<abi::pg_event>() {
                    // SAFETY: the programs write whole events of this type, which is plain data.
                    let event = unsafe { bytes.as_ptr().cast::<abi::pg_event>().read_unaligned() };
                    if event.type_ != abi::PG_EV_UNDELIVERED {
                        into.borrow_mut().push(verdict(&event));
                    }
                }
                0
            })
            .unwrap();
        let ring = builder.build().unwrap();
        let mut held = None;
        for (i, chunk) in chunks.iter().enumerate() {
            let (passes, _) = self.replay.judge(chunk, i == 0, 1).unwrap();
            ring.consume().unwrap();
            if !passes && held.is_none() {
                held = Some(i);
            }
        }
        let mut verdicts = events.borrow().clone();
        // after a denial the kernel reads on, for the answers
        if let Some(first) = verdicts.iter().position(|it| matches!(it.verb, "deny" | "cut")) {
            verdicts.truncate(first + 1);
        }
        (verdicts, held)
    }
}

/// Cuts that the kernel takes.
pub fn chunks<'b>(bytes: &'b [u8], random: &mut Random, about: usize) -> Vec<&'b [u8]> {
    let mut out = Vec::new();
    let mut rest = bytes;
    while rest.len() >= 2 * CHUNK.0 {
        let most = (CHUNK.0 + random.below(2 * about)).min(CHUNK.1).min(rest.len() - CHUNK.0);
        let (chunk, after) = rest.split_at(most);
        out.push(chunk);
        rest = after;
    }
    out.push(rest);
    out
}

/// The host's, chunk by chunk.
pub fn on_host(pair: &Pair, chunks: &[&[u8]]) -> (Vec<Verdict>, Option<usize>) {
    let steps: Vec<Step> = chunks.iter().map(|chunk| Step::Client(chunk.to_vec())).collect();
    let (result, come) = by_engine(pair, &steps, 0, 0);
    let held = matches!(result.outcome, Outcome::Denied | Outcome::Cut).then(|| {
        let mut ends = chunks.iter().scan(0, |at, chunk| {
            *at += chunk.len();
            Some(*at)
        });
        ends.position(|end| end == come).unwrap()
    });
    (result.verdicts, held)
}

pub struct Three {
    pairs: Vec<Pair>,
    kernels: Vec<Kernel>,
}

impl Three {
    pub fn new() -> Self {
        let pairs: Vec<Pair> = pairs().into_iter().take(GENERAL).collect();
        let kernels = pairs.iter().map(Kernel::new).collect();
        Self { pairs, kernels }
    }

    pub fn judge(&mut self, recording: &Recording, seed: u64, tally: &mut Tally) {
        let mut random = Random(seed);
        tally.conversations += 1;
        for (pair, kernel) in self.pairs.iter().zip(&self.kernels) {
            let name = pair.oracle.name;
            let client = Step::Client(recording.client.clone());
            let steps = [Step::Server(recording.server.clone()), client.clone()];
            let expected = by_reference(pair, &steps, usize::MAX);
            assert!(!expected.verdicts.iter().any(|it| it.verb.contains("cut")), "{name}: {expected:?}");
            for about in [0, 25, 1400, 1] {
                // byte by byte takes long
                if about == 1 && (!seed.is_multiple_of(8) || recording.client.len() > 20_000) {
                    continue;
                }
                let (got, _) = by_engine(pair, &steps, seed, about);
                assert_eq!(got, expected, "{name}, seed {seed}");
            }
            tally.verdicts += expected.verdicts.len();
            // the kernel is replayed the client only, so its table cannot grow past the default; the others the same
            let alone = by_reference(pair, &[client], usize::MAX);
            for about in [100, 1400] {
                let chunks = chunks(&recording.client, &mut random, about);
                let (in_kernel, on_host) = (kernel.judge(&chunks), on_host(pair, &chunks));
                assert_eq!(in_kernel, on_host, "{name}, seed {seed}");
                assert_eq!(on_host.0, alone.verdicts, "{name}, seed {seed}");
                tally.chunks += chunks.len();
            }
        }
        // counted where nothing ends a conversation early
        let mut whole = Conversation::new(&self.pairs[2].oracle);
        whole.server(&recording.server);
        whole.client(&recording.client);
        assert!(whole.at_rest(), "the recording ends inside a frame");
        tally.calls += whole.counts.calls;
        tally.messages += whole.counts.messages;
        for (kind, count) in whole.counts.frames {
            *tally.frames.entry(kind).or_default() += count;
        }
    }
}
