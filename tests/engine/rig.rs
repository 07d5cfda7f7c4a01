//! Fixtures, and how one is run: whole, cut at every place, byte by byte, in random chunks; by this engine or another.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;

use protocg::engine::{Connection, Outcome};
use protocg::policy::{self, Policy};
use protocg::{abi, names};

use crate::wire::{PREFACE, SETTINGS};

/// What one client does, and what must come of it.
#[derive(Clone)]
pub struct Fixture {
    /// What is so, as a sentence.
    pub name: String,
    /// TOML behind `name`, `proto` and `ports`.
    pub policy: String,
    pub remote: (Ipv6Addr, u16),
    pub bytes: Vec<u8>,
    /// What the server says, and how many bytes of the client come before it.
    pub server: Vec<(usize, Vec<u8>)>,
    /// Allowed calls make events too.
    pub loud: bool,
    pub events: Vec<String>,
}

/// A fixture whose client opens as HTTP/2 does.
pub fn fixture(name: &str, policy: &str, frames: &[Vec<u8>], events: &[&str]) -> Fixture {
    raw(name, policy, &[PREFACE, SETTINGS, &frames.concat()].concat(), events)
}

/// A fixture that says every byte.
pub fn raw(name: &str, policy: &str, bytes: &[u8], events: &[&str]) -> Fixture {
    Fixture {
        name: name.to_owned(),
        policy: policy.to_owned(),
        remote: (Ipv6Addr::LOCALHOST, 4711),
        bytes: bytes.to_vec(),
        server: Vec::new(),
        loud: false,
        events: events.iter().map(|&event| event.to_owned()).collect(),
    }
}

impl Fixture {
    pub fn from(mut self, ip: &str, port: u16) -> Fixture {
        let ip = ip.parse::<Ipv4Addr>().map(|v4| v4.to_ipv6_mapped()).unwrap_or_else(|_| ip.parse().unwrap());
        self.remote = (ip, port);
        self
    }

    /// The server says this once `after` frames of the client, behind the preface and SETTINGS, have come.
    pub fn server(mut self, frames: &[Vec<u8>], after: usize, says: &[u8]) -> Fixture {
        let at = PREFACE.len() + SETTINGS.len() + frames[..after].iter().map(Vec::len).sum::<usize>();
        self.server.push((at, says.to_vec()));
        self
    }

    pub fn loud(mut self) -> Fixture {
        self.loud = true;
        self
    }
}

/// What an engine makes of a chunk: `Connection`, or a loaded one.
pub trait Judge {
    fn request(&mut self, bytes: &[u8]) -> Outcome;
    fn response(&mut self, bytes: &[u8]) -> Outcome;
    fn events(&self) -> Vec<abi::pg_event>;
}

impl Judge for Connection<'_> {
    fn request(&mut self, bytes: &[u8]) -> Outcome {
        Connection::request(self, bytes)
    }
    fn response(&mut self, bytes: &[u8]) -> Outcome {
        Connection::response(self, bytes)
    }
    fn events(&self) -> Vec<abi::pg_event> {
        Connection::events(self)
    }
}

/// Policies by their text: many fixtures share one.
#[derive(Default)]
pub struct Policies(HashMap<String, Arc<Policy>>);

impl Policies {
    pub fn get(&mut self, rules: &str) -> Arc<Policy> {
        Arc::clone(self.0.entry(rules.to_owned()).or_insert_with(|| Arc::new(compile(rules))))
    }
}

pub fn compile(rules: &str) -> Policy {
    let text =
        format!("name = \"t\"\nproto = [\"echo.proto\", \"search.proto\", \"login.proto\"]\nports = [50051]\n{rules}");
    let origin = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/proto/t.toml");
    policy::compile(&text, &origin).unwrap_or_else(|error| panic!("{rules}\n{:?}", miette::Report::new(error)))
}

/// An event as fixtures say it: `deny RULE [STATUS] on STREAM#MESSAGE`, a reason as `!reason`; of a response `STREAM#>MESSAGE`.
pub fn show(policy: &Policy, event: &abi::pg_event) -> String {
    let cause = match event.reason {
        abi::PG_R_NONE if event.rule == abi::PG_NO_RULE => "default".to_owned(),
        abi::PG_R_NONE => policy.rules[event.rule as usize].name.clone(),
        reason => format!("!{}", names::reason(reason).unwrap().name),
    };
    if event.type_ == abi::PG_EV_CONNECTION {
        assert_eq!((event.stream, event.rule), (0, abi::PG_NO_RULE));
        let verdict = match event.verdict {
            abi::PG_V_DENY => "cut",
            abi::PG_V_ALLOW => "blind",
            _ => "audit-cut",
        };
        return format!("{verdict} {cause}");
    }
    assert_eq!(event.type_, abi::PG_EV_DECISION);
    let verdict = match event.verdict {
        abi::PG_V_DENY => "deny",
        abi::PG_V_ALLOW => "allow",
        _ => "audit",
    };
    let status = match names::status(event.status) {
        "PERMISSION_DENIED" => String::new(),
        status => format!(" {status}"),
    };
    let side = if event.response & abi::PG_RSP_JUDGED == 0 { "" } else { ">" };
    format!("{verdict} {cause}{status} on {}#{side}{}", event.stream, event.message)
}

/// The events of a fixture that is cut at `cuts` (ascending), and how many bytes had come when it was over.
pub fn run(judge: &mut dyn Judge, policy: &Policy, fixture: &Fixture, cuts: &[usize]) -> (Vec<String>, usize) {
    run_both(judge, policy, fixture, cuts, &[])
}

/// The same with what the server says cut, too: each time at these places.
fn run_both(
    judge: &mut dyn Judge,
    policy: &Policy,
    fixture: &Fixture,
    cuts: &[usize],
    server_cuts: &[usize],
) -> (Vec<String>, usize) {
    let server = fixture.server.iter().map(|(at, _)| *at);
    let mut ends: Vec<usize> = cuts.iter().copied().chain(server).chain([fixture.bytes.len()]).collect();
    ends.sort_unstable();
    ends.dedup();
    let (mut events, mut from) = (Vec::new(), 0);
    for to in ends {
        let outcome = judge.request(&fixture.bytes[from..to]);
        heard(judge, policy, outcome, &mut events);
        if outcome != Outcome::Pass {
            return (events, to);
        }
        for (_, says) in fixture.server.iter().filter(|(at, _)| *at == to) {
            let mut at = 0;
            for end in server_cuts.iter().copied().filter(|cut| *cut < says.len()).chain([says.len()]) {
                let outcome = judge.response(&says[at..end]);
                at = end;
                if policy.tables.config.responses == 0 {
                    assert_eq!(outcome, Outcome::Pass, "the server's side is not HTTP/2");
                    continue;
                }
                heard(judge, policy, outcome, &mut events);
                if outcome != Outcome::Pass {
                    return (events, to);
                }
            }
        }
        from = to;
    }
    (events, from)
}

/// Takes the events of a chunk, which must say what its outcome is.
fn heard(judge: &mut dyn Judge, policy: &Policy, outcome: Outcome, events: &mut Vec<String>) {
    let before = events.len();
    events.extend(judge.events().iter().map(|event| show(policy, event)));
    let expected = match events[before..].last().map(|event| event.split(' ').next().unwrap()) {
        Some("deny") => Outcome::Denied,
        Some("cut") => Outcome::Cut,
        Some("blind" | "audit-cut") => Outcome::Blind,
        _ => Outcome::Pass,
    };
    if outcome != expected {
        events.push(format!("but the outcome is {outcome:?}"));
    }
}

/// The same with a fresh connection of the engine that is linked in.
pub fn run_here(policy: &Policy, fixture: &Fixture, cuts: &[usize]) -> (Vec<String>, usize) {
    let mut connection = Connection::new(&policy.tables, fixture.remote.0, fixture.remote.1);
    run(&mut connection, policy, fixture, cuts)
}

/// The same with the server's side cut, too.
pub fn run_here_both(policy: &Policy, fixture: &Fixture, cuts: &[usize], server: &[usize]) -> (Vec<String>, usize) {
    let mut connection = Connection::new(&policy.tables, fixture.remote.0, fixture.remote.1);
    run_both(&mut connection, policy, fixture, cuts, server)
}

pub fn byte_by_byte(fixture: &Fixture) -> Vec<usize> {
    (1..fixture.bytes.len()).collect()
}

/// Past this length a fixture is not cut at every place, but at some.
const EVERY_CUT: usize = 2500;

/// Runs a fixture every way; what is wrong, if anything.
pub fn check(policies: &mut Policies, fixture: &Fixture) -> Result<usize, String> {
    let shared = policies.get(&fixture.policy);
    let mut policy = Policy::clone(&shared);
    policy.tables.config.events_allowed = u32::from(fixture.loud);
    let mut runs = 0;
    let mut same = |how: &str, cuts: &[usize]| {
        runs += 1;
        let (events, _) = run_here(&policy, fixture, cuts);
        if events == fixture.events {
            return Ok(());
        }
        Err(format!("{}\n  {how}\n  expected {:?}\n  got      {events:?}", fixture.name, fixture.events))
    };
    same("whole", &[])?;
    same("byte by byte", &byte_by_byte(fixture))?;
    let mut random = Random(0x5eed ^ fixture.bytes.len() as u64);
    let step = 1 + fixture.bytes.len() / EVERY_CUT * 97;
    for cut in (1..fixture.bytes.len()).step_by(step) {
        same(&format!("cut at {cut}"), &[cut])?;
    }
    let longest = fixture.server.iter().map(|(_, says)| says.len()).max().unwrap_or(0);
    if policy.tables.config.responses == 1 {
        let mut server_cut = |how: &str, cuts: &[usize], server: &[usize]| {
            runs += 1;
            let (events, _) = run_here_both(&policy, fixture, cuts, server);
            if events == fixture.events {
                return Ok(());
            }
            Err(format!("{}\n  {how}\n  expected {:?}\n  got      {events:?}", fixture.name, fixture.events))
        };
        let bytes: Vec<usize> = (1..longest).collect();
        server_cut("both byte by byte", &byte_by_byte(fixture), &bytes)?;
        for cut in bytes {
            server_cut(&format!("the server's side cut at {cut}"), &[], &[cut])?;
        }
    }
    let mut same = |how: &str, cuts: &[usize]| {
        runs += 1;
        let (events, _) = run_here(&policy, fixture, cuts);
        if events == fixture.events {
            return Ok(());
        }
        Err(format!("{}\n  {how}\n  expected {:?}\n  got      {events:?}", fixture.name, fixture.events))
    };
    for turn in 0..8 {
        let cuts = random.cuts(fixture.bytes.len(), 1 << (turn % 4 * 2 + 1));
        same(&format!("cut at {cuts:?}"), &cuts)?;
    }
    drop(policy);
    audited(&shared, fixture)?;
    Ok(runs)
}

/// Audit mode says the same events up to the first denial, says that one as `audit`, and lets everything pass.
fn audited(policy: &Arc<Policy>, fixture: &Fixture) -> Result<(), String> {
    if fixture.loud {
        return Ok(());
    }
    let mut policy = Policy::clone(policy);
    policy.tables.config.audit = 1;
    let (events, _) = run_here(&policy, fixture, &byte_by_byte(fixture));
    let softened = |event: &String| match event.split_once(' ') {
        Some(("deny", rest)) => format!("audit {rest}"),
        Some(("cut", rest)) => format!("audit-cut {rest}"),
        _ => event.clone(),
    };
    let expected: Vec<String> = fixture.events.iter().map(softened).collect();
    if !events.starts_with(&expected) {
        return Err(format!("{}\n  in audit mode\n  expected {expected:?}\n  got      {events:?}", fixture.name));
    }
    // a call that would have been denied makes no second event
    let mut over: Vec<&str> = Vec::new();
    for event in &events {
        let Some((_, place)) = event.rsplit_once(" on ") else { continue };
        let stream = place.split('#').next().unwrap();
        if over.contains(&stream) {
            return Err(format!("{}\n  in audit mode: more events of a denied call: {events:?}", fixture.name));
        }
        let by_rule = policy.rules.iter().any(|rule| rule.audit && event.starts_with(&format!("audit {} ", rule.name)));
        if event.starts_with("audit ") && !by_rule {
            over.push(stream);
        }
    }
    Ok(())
}

/// Checks them all, and says everything that is wrong.
pub fn check_all(fixtures: &[Fixture]) {
    let mut policies = Policies::default();
    let (mut wrong, mut runs) = (Vec::new(), 0);
    for fixture in fixtures {
        match check(&mut policies, fixture) {
            Ok(more) => runs += more,
            Err(error) => wrong.push(error),
        }
    }
    assert!(wrong.is_empty(), "{} of {} fixtures\n{}", wrong.len(), fixtures.len(), wrong.join("\n"));
    println!("{} fixtures, {runs} runs", fixtures.len());
}

/// `SplitMix64`.
pub struct Random(pub u64);

impl Random {
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.draw() % end as u64) as usize
    }

    /// True once in `times`.
    pub fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub fn pick<T: Clone>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())].clone()
    }

    /// Cuts of `length` bytes, `about` apart.
    pub fn cuts(&mut self, length: usize, about: usize) -> Vec<usize> {
        let mut cuts = Vec::new();
        let mut at = 0;
        loop {
            at += 1 + self.below(2 * about);
            if at >= length {
                return cuts;
            }
            cuts.push(at);
        }
    }
}

/// The seed of a random test: `PROTOCG_SEED` replays one.
pub fn seed(default: u64) -> u64 {
    let seed = std::env::var("PROTOCG_SEED").map_or(default, |text| text.parse().unwrap());
    println!("PROTOCG_SEED={seed}");
    seed
}
