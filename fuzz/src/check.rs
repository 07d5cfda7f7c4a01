//! What must hold of a case: however its bytes are cut, the engine says what the reference says, and at the very byte.

use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};

use loona_hpack::decoder::DecoderError;
use prost_reflect::DynamicMessage;
use protocg::engine::{self, Connection};
use protocg::{abi, names, policy};
use protocg_oracle::cel::Interpreted;
use protocg_oracle::message::{Bad, Node, decode, get};
use protocg_oracle::policies::{self, GENERAL, UNARY};
use protocg_oracle::policy::Policy;
use protocg_oracle::policy::When;
use protocg_oracle::{Conversation, Outcome, Verdict, What};

use crate::case::Case;
use crate::dice::Random;
use crate::grammar::Step;

/// Where the protos are.
pub fn protos() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/peers/proto")
}

/// A policy as the reference has it, and as it was compiled.
pub struct Pair {
    /// The reference's.
    pub oracle: Policy,
    /// The compiler's.
    pub policy: policy::Policy,
}

/// All policies.
pub fn pairs() -> Vec<Pair> {
    let compiled = |oracle: Policy| {
        let text = oracle.toml();
        let policy =
            policy::compile(&text, &protos().join("fuzz.toml")).unwrap_or_else(|error| panic!("{text}\n{error:?}"));
        Pair { oracle, policy }
    };
    policies::all(&protos()).into_iter().map(compiled).collect()
}

/// An event as the reference says it.
pub fn verdict(event: &abi::pg_event) -> Verdict {
    let what = match event.reason {
        abi::PG_R_NONE if event.rule == abi::PG_NO_RULE => What::Default,
        abi::PG_R_NONE => What::Rule(event.rule as usize),
        reason => What::Cause(names::cause(names::reason(reason).unwrap().cause).unwrap().to_owned()),
    };
    let connection = event.type_ == abi::PG_EV_CONNECTION;
    assert!(connection || event.type_ == abi::PG_EV_DECISION, "an event of type {}", event.type_);
    let verb = match (event.verdict, connection) {
        (abi::PG_V_DENY, false) => "deny",
        (abi::PG_V_ALLOW, false) => "allow",
        (_, false) => "audit",
        (abi::PG_V_DENY, true) => "cut",
        (abi::PG_V_ALLOW, true) => "blind",
        (_, true) => "audit-cut",
    };
    Verdict { verb, what, status: event.status, stream: event.stream, message: event.message }
}

fn outcome(outcome: engine::Outcome) -> Outcome {
    match outcome {
        engine::Outcome::Pass => Outcome::Pass,
        engine::Outcome::Denied => Outcome::Denied,
        engine::Outcome::Cut => Outcome::Cut,
        engine::Outcome::Blind => Outcome::Blind,
    }
}

/// What came of a case.
#[derive(Debug, PartialEq, Eq)]
pub struct Result {
    /// Events.
    pub verdicts: Vec<Verdict>,
    /// How the connection ended, if it did.
    pub outcome: Outcome,
    /// Streams still open, and the highest.
    pub streams: (usize, u32),
    /// Whether the server spoke HTTP/2.
    pub server: bool,
}

/// The engine's. Cuts are `about` so far apart; 0: none. Also how many bytes of the client had come when it ended.
pub fn by_engine(pair: &Pair, steps: &[Step], seed: u64, about: usize) -> (Result, usize) {
    let mut connection = Connection::new(&pair.policy.tables, Ipv6Addr::LOCALHOST, 0);
    let mut random = Random(seed);
    let mut result = Result { verdicts: Vec::new(), outcome: Outcome::Pass, streams: (0, 0), server: true };
    let mut come = 0;
    for step in steps {
        let (client, mut rest) = match step {
            Step::Client(bytes) => (true, bytes.as_slice()),
            Step::Server(bytes) => (false, bytes.as_slice()),
        };
        while !rest.is_empty() && result.outcome == Outcome::Pass && (client || result.server) {
            let most = if about == 0 { rest.len() } else { 1 + random.below(2 * about - 1) };
            let (chunk, after) = rest.split_at(most.min(rest.len()));
            rest = after;
            if client {
                come += chunk.len();
                // a copy of its own: a read past its end is noticed
                result.outcome = outcome(connection.request(chunk.to_vec().as_slice()));
                result.verdicts.extend(connection.events().iter().map(verdict));
            } else {
                result.server = connection.response(chunk.to_vec().as_slice()) == engine::Outcome::Pass;
            }
        }
    }
    result.streams = (connection.streams() as usize, connection.state().highest);
    (result, come)
}

/// The reference's, of the first `most` bytes of the client.
pub fn by_reference(pair: &Pair, steps: &[Step], mut most: usize) -> Result {
    let mut conversation = Conversation::new(&pair.oracle);
    let mut server = true;
    for step in steps {
        match step {
            Step::Client(bytes) => {
                let bytes = &bytes[..most.min(bytes.len())];
                most -= bytes.len();
                conversation.client(bytes);
            }
            Step::Server(bytes) if server && conversation.outcome == Outcome::Pass => {
                server = conversation.server(bytes)
            }
            Step::Server(_) => {}
        }
        if most == 0 {
            break;
        }
    }
    let streams = (conversation.live(), conversation.highest);
    Result { verdicts: conversation.verdicts, outcome: conversation.outcome, streams, server }
}

/// Panics where the two disagree, or where cuts matter.
pub fn check(pairs: &[Pair], case: &Case) {
    let pair = &pairs[case.policy];
    let expected = by_reference(pair, &case.steps, usize::MAX);
    let (whole, _) = by_engine(pair, &case.steps, 0, 0);
    same(pair, case, "whole", &whole, &expected);
    let (cut, come) = by_engine(pair, &case.steps, case.seed, case.about);
    same(pair, case, "cut", &cut, &whole);
    // byte by byte it is known where the verdict fell: the reference says nothing one byte earlier
    if case.about == 1 && cut.outcome != Outcome::Pass {
        let before = by_reference(pair, &case.steps, come - 1);
        let now = by_reference(pair, &case.steps, come);
        assert!(
            before.outcome == Outcome::Pass && now.outcome == cut.outcome,
            "at byte {come}: {before:?}\n{now:?}\n{cut:?}\n{case:x?}"
        );
    }
}

fn same(pair: &Pair, case: &Case, how: &str, got: &Result, expected: &Result) {
    // what is open when all is over is of no use
    let over = expected.outcome != Outcome::Pass;
    let agree = got.verdicts == expected.verdicts
        && got.outcome == expected.outcome
        && (over || got.streams == expected.streams && got.server == expected.server);
    assert!(agree, "{how}: {got:?}\nexpected: {expected:?}\n{}\n{case:x?}", pair.oracle.name);
}

/// A block that the reference can read, other libraries read the same.
pub struct Libraries {
    interpreted: Vec<Option<Interpreted>>,
}

impl Libraries {
    /// Conditions, compiled.
    pub fn new(pairs: &[Pair]) -> Self {
        let of = |pair: &Pair| match &pair.oracle.rules[0].when {
            When::Message(cond) => Interpreted::new(cond),
            _ => None,
        };
        Self { interpreted: pairs[GENERAL..].iter().map(of).collect() }
    }

    /// A message that prost-reflect can read says to CEL's interpreter what the reference makes of it. Returns whether it could.
    pub fn message(&self, pair: &Pair, index: usize, bytes: &[u8]) -> bool {
        let descriptor = pair.oracle.request_of(UNARY).unwrap();
        let When::Message(cond) = &pair.oracle.rules[0].when else { return false };
        let mut node = Node::default();
        let paths = pair.oracle.paths(UNARY);
        let read = decode(&descriptor, bytes, bytes.len(), &paths, &mut node);
        // it reads maps of any wire type as if they were bytes, and deeper messages than the limit
        if read == Err(Bad::TooDeep)
            || bytes.windows(2).any(|two| two[0] & 0xf8 >= 0xb8 || two[1] == 1 && two[0] & 0x80 != 0)
        {
            return false;
        }
        let Ok(message) = DynamicMessage::decode(descriptor.clone(), bytes) else { return false };
        assert_eq!(read, Ok(()), "a library reads {message}\n{bytes:x?}");
        let ours = cond.holds(&|path| get(&descriptor, Some(&node), path));
        let Some(Some(interpreted)) = self.interpreted.get(index - GENERAL) else { return true };
        if let Some(theirs) = interpreted.holds(&message) {
            assert_eq!(ours, theirs, "{}\n{message}\n{bytes:x?}", cond.show());
        }
        true
    }

    /// Blocks of one connection.
    pub fn blocks(blocks: &[&[u8]]) {
        let mut ours = protocg_oracle::hpack::Decoder::default();
        let mut theirs = loona_hpack::Decoder::new();
        for block in blocks {
            let Ok(fields) = ours.decode(block) else { return };
            let read = match theirs.decode(block) {
                // RFC 7541 (section 4.2) says where updates begin a block, not that a field must follow
                Err(DecoderError::SizeUpdateAtEnd) => return,
                read => read.unwrap_or_else(|error| panic!("{error:?} {fields:?}\n{blocks:x?}")),
            };
            let read: Vec<(Vec<u8>, Vec<u8>)> = read.iter().map(|(n, v)| (n.to_vec(), v.to_vec())).collect();
            assert_eq!(read, fields, "{blocks:x?}");
        }
    }
}
