//! Inputs to cases: a policy, whose bytes come when, and where the client's are cut.

use protocg_oracle::policies::{GENERAL, UNARY};
use protocg_oracle::wire::*;

use crate::dice::Dice;
use crate::grammar::{Client, Step, server};

/// What a fuzzer looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Any bytes of a client.
    Raw,
    /// Conversations.
    Http2,
    /// Header blocks.
    Hpack,
    /// Messages.
    Protobuf,
    /// Any bytes of a server, to calls under way.
    Response,
    /// Segments of which denied calls are taken out.
    Mend,
}

impl Target {
    /// All of them, by their names.
    pub const ALL: [(&'static str, Target); 6] = [
        ("raw", Target::Raw),
        ("http2", Target::Http2),
        ("hpack", Target::Hpack),
        ("protobuf", Target::Protobuf),
        ("response", Target::Response),
        ("mend", Target::Mend),
    ];

    /// By its name.
    pub fn named(name: &str) -> Option<Target> {
        Self::ALL.iter().find(|(other, _)| *other == name).map(|(_, target)| *target)
    }
}

/// What is fed to the engine and to the reference.
#[derive(Debug, Clone)]
pub struct Case {
    /// Which of the policies.
    pub policy: usize,
    /// Where cuts come from.
    pub seed: u64,
    /// Cuts are about so far apart.
    pub about: usize,
    /// Who says what.
    pub steps: Vec<Step>,
}

const OPENING: [&[u8]; 2] = [PREFACE, SETTINGS];

/// The case that an input stands for; `policies` is how many there are.
pub fn case(target: Target, input: &[u8], policies: usize) -> Case {
    let mut dice = Dice::new(input);
    let (choice, seed) = (dice.byte(), dice.byte());
    let about = [1, 2, 5, 13, 40, 200, 900, 4000][usize::from(choice >> 5)];
    let general = usize::from(choice & 31) % GENERAL;
    let one = |policy, steps| Case { policy, seed: seed.into(), about, steps };
    match target {
        Target::Raw => {
            let opened = choice & 16 != 0;
            let bytes = dice.some(usize::MAX);
            one(general, vec![Step::Client([if opened { PREFACE } else { &[] }, bytes].concat())])
        }
        Target::Http2 | Target::Mend => one(general, conversation(&mut dice, true)),
        Target::Hpack => one(general, vec![Step::Client(blocks(&mut dice))]),
        Target::Protobuf => {
            let policy = usize::from(choice & 31) % policies;
            one(policy, vec![Step::Client(messages(&mut dice, policy))])
        }
        Target::Response => one(general, answered(&mut dice)),
    }
}

/// A client's conversation, with what the server says in between.
fn conversation(dice: &mut Dice, answers: bool) -> Vec<Step> {
    let mut client = Client::new(false);
    let mut steps = vec![Step::Client(OPENING.concat())];
    let mut frames = 0;
    while !dice.is_over() && frames < 200 {
        frames += 1;
        let answer = answers && dice.one_in(16);
        let step = if answer { Step::Server(server(dice)) } else { Step::Client(client.act(dice)) };
        match (steps.last_mut(), step) {
            (Some(Step::Client(before)), Step::Client(more)) => before.extend(more),
            (_, step) => steps.push(step),
        }
    }
    steps
}

/// Header blocks: behind each length byte come the block's own bytes.
fn blocks(dice: &mut Dice) -> Vec<u8> {
    let mut out = OPENING.concat();
    let mut stream = 1;
    while !dice.is_over() {
        let length = usize::from(dice.byte());
        let mut block = if length & 1 == 0 { request(UNARY) } else { Vec::new() };
        block.extend(dice.some(length / 2));
        let cut = length * 7 % (block.len() + 1);
        if length % 8 > 5 {
            out.extend(frame(HEADERS, 0, stream, &block[..cut]));
            out.extend(frame(CONTINUATION, END_HEADERS, stream, &block[cut..]));
        } else {
            out.extend(headers(stream, &block));
        }
        stream += 2;
    }
    out
}

/// Calls whose messages are the input's bytes; now and then one by the grammar.
fn messages(dice: &mut Dice, policy: usize) -> Vec<u8> {
    let paths = [UNARY, "/echo.Echo/Bidi", "/search.SearchService/Search", "/login.LoginService/Login"];
    let mut out = OPENING.concat();
    let mut client = Client::new(false);
    let mut stream = 1;
    while !dice.is_over() {
        let length = usize::from(dice.byte());
        let path = if policy < GENERAL { paths[length % 4] } else { UNARY };
        let body = if length >= 224 { client.message(dice, path) } else { dice.some(length / 2).to_vec() };
        out.extend(headers(stream, &request(path)));
        let framed = message(&body);
        let cut = length * 5 % (framed.len() + 1);
        out.extend([data(stream, &framed[..cut]), data_end(stream, &framed[cut..])].concat());
        stream += 2;
    }
    out
}

/// Calls of which some have ended, the server's bytes as they are, and calls again.
fn answered(dice: &mut Dice) -> Vec<Step> {
    let mut steps = vec![OPENING.concat()];
    for stream in (1..20).step_by(2) {
        let head = headers(stream, &request(UNARY));
        steps[0].extend(if stream % 4 == 1 {
            [head, data_end(stream, &message(&bytes(1, "x")))].concat()
        } else {
            head
        });
    }
    let first = steps.remove(0);
    let length = dice.below(512);
    let mut steps = vec![Step::Client(first), Step::Server(dice.some(length).to_vec())];
    let mut turn = 0;
    while !dice.is_over() && turn < 20 {
        turn += 1;
        let length = usize::from(dice.byte());
        steps.push(Step::Server(if length % 4 == 0 { server(dice) } else { dice.some(length / 4).to_vec() }));
        let stream = 1 + 2 * (length as u32 % 12);
        steps.push(Step::Client(match turn % 3 {
            0 => data_end(stream, &[]),
            1 => data(stream, &message(&bytes(1, if length > 128 { "A" } else { "b" }))),
            _ => headers(19 + 2 * turn, &request(UNARY)),
        }));
    }
    steps
}
