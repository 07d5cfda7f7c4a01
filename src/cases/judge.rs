//! What a policy makes of a call: the engine's events and bits, from the host's build of it or from the kernel.

use std::io;
use std::time::Duration;

use super::wire::{self, STREAM};
use super::{At, By, Call, Outcome, Verdict};
use crate::abi;
use crate::agent::events;
use crate::engine::{self, Buckets, Connection};
use crate::kernel::KernelError;
use crate::kernel::load::{self, Replay};
use crate::names;
use crate::policy::{Policy, Tables};

/// What the engine said of a call.
#[derive(Default)]
pub struct Run {
    /// Its events, in order.
    pub events: Vec<abi::pg_event>,
    /// The call's state when its header block, or a message, had come: that of the header block first. On the kernel, the last only.
    pub stages: Vec<abi::pg_stream>,
    /// The response's, where rules read one: before its first message, and after each. On the kernel, the last only.
    pub answers: Vec<abi::pg_stream>,
}

/// The id of the response's state.
const ANSWER: u32 = STREAM | abi::PG_RESPONSE_HALF;

/// The policy's tables, with which allowed calls make events too.
fn loud(policy: &Policy) -> Tables {
    let mut tables = policy.tables.clone();
    tables.config.events_allowed = 1;
    tables
}

/// Every time that a call is made, from 1 ns on; only limits remember those before the last.
fn moments<'c>(call: &'c Call, tables: &Tables) -> Vec<(&'c Call, u64)> {
    let (mut out, mut now) = (Vec::new(), Duration::from_nanos(1));
    let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    for call in call.before.iter().chain([call]) {
        now += call.repeated.wait;
        let last = call.repeated.calls.saturating_sub(1);
        out.extend((0..=last).map(|i| (call, nanos(now + call.repeated.every * i))));
        now += call.repeated.every * last;
    }
    match out.last() {
        Some(last) if tables.rates.is_empty() => vec![*last],
        _ => out,
    }
}

/// The parts of the response, if the call says one.
fn answers(call: &Call) -> Vec<Vec<u8>> {
    if call.response.is_empty() { Vec::new() } else { wire::answers(call) }
}

/// The engine on the host.
pub struct Host {
    tables: Tables,
}

impl Host {
    /// An engine under a policy.
    pub fn new(policy: &Policy) -> Host {
        Host { tables: loud(policy) }
    }

    /// Judges a call, after those that were made before it.
    pub fn run(&self, call: &Call) -> Run {
        let buckets = Buckets::new(&self.tables);
        let mut run = Run::default();
        for (call, now) in moments(call, &self.tables) {
            run = self.once(call, now, &buckets);
        }
        run
    }

    fn once(&self, call: &Call, now: u64, buckets: &Buckets) -> Run {
        let mut connection = Connection::new(&self.tables, call.peer.0, call.peer.1);
        connection.share(buckets);
        connection.set_time(now);
        let mut run = Run::default();
        for part in wire::parts(call) {
            let outcome = connection.request(&part);
            run.events.extend(connection.events());
            run.stages.extend(connection.stream(STREAM));
            if outcome != engine::Outcome::Pass {
                return run;
            }
        }
        for part in answers(call) {
            let outcome = connection.response(&part);
            run.events.extend(connection.events());
            run.answers.extend(connection.stream(ANSWER));
            if outcome != engine::Outcome::Pass {
                break;
            }
        }
        run
    }
}

/// The engine in the kernel, through BPF_PROG_TEST_RUN.
pub struct Kernel {
    tables: Tables,
    replay: Replay,
}

impl Kernel {
    /// Loads the engine under a policy. Needs root.
    pub fn new(policy: &Policy) -> Result<Kernel, KernelError> {
        let tables = loud(policy);
        load::replay(&tables).map(|replay| Kernel { tables, replay })
    }

    /// Judges a call, after those that were made before it.
    pub fn run(&self, call: &Call) -> io::Result<Run> {
        self.replay.refill()?;
        let mut run = Run::default();
        for (call, now) in moments(call, &self.tables) {
            run = self.once(call, now)?;
        }
        Ok(run)
    }

    fn once(&self, call: &Call, now: u64) -> io::Result<Run> {
        self.replay.events()?;
        let mut fresh = true;
        let mut passes = in_chunks(&wire::parts(call).concat(), |chunk| {
            let verdict = self.replay.judge_at(call.peer, now, chunk, fresh, 1)?;
            fresh = false;
            Ok(verdict.0)
        })?;
        let state = |id| self.replay.stream(id).map(|stream| *stream).into_iter().collect();
        let stages: Vec<abi::pg_stream> = state(STREAM);
        let parts = answers(call);
        if let (true, Some((trailers, parts))) = (passes, parts.split_last()) {
            passes = in_chunks(&parts.concat(), |chunk| self.replay.judge_response(chunk))?;
            let answers = state(ANSWER);
            if passes {
                self.replay.judge_response(trailers)?;
            }
            return Ok(Run { events: self.replay.events()?, stages, answers });
        }
        Ok(Run { events: self.replay.events()?, stages, answers: Vec::new() })
    }
}

/// Hands bytes over as long as they pass, in pieces that the kernel takes. Says whether all did.
fn in_chunks(bytes: &[u8], mut judge: impl FnMut(&[u8]) -> io::Result<bool>) -> io::Result<bool> {
    const MOST: usize = 3000;
    const LEAST: usize = 14;
    let mut rest = bytes;
    while !rest.is_empty() {
        // what is left must not be less than the kernel takes
        let size = if rest.len() > MOST { MOST.min(rest.len() - LEAST) } else { rest.len() };
        let (chunk, after) = rest.split_at(size);
        if !judge(chunk)? {
            return Ok(false);
        }
        rest = after;
    }
    Ok(true)
}

/// What the events say of the call.
pub fn outcome(policy: &Policy, run: &Run) -> Outcome {
    let mut out = Outcome {
        verdict: Verdict::Allow,
        by: By::Default,
        status: None,
        status_message: None,
        retry_ms: None,
        at: At::default(),
        connection: false,
        audited: Vec::new(),
    };
    let mut allowed = None;
    for event in &run.events {
        let rule = policy.rules.get(event.rule as usize).filter(|_| event.reason == abi::PG_R_NONE);
        match (event.type_, event.verdict) {
            (abi::PG_EV_DECISION, abi::PG_V_AUDIT_DENY) if rule.is_some_and(|rule| rule.audit) => {
                out.audited.extend(rule.map(|rule| rule.name.clone()));
            }
            (abi::PG_EV_DECISION | abi::PG_EV_CONNECTION, abi::PG_V_DENY | abi::PG_V_AUDIT_DENY) => {
                return decided(policy, event, out);
            }
            (abi::PG_EV_DECISION | abi::PG_EV_CONNECTION, abi::PG_V_ALLOW) => allowed = Some(event),
            _ => {}
        }
    }
    if let Some(event) = allowed {
        out.by = by(policy, event);
        out.at = at(event);
        out.connection = event.type_ == abi::PG_EV_CONNECTION;
    }
    // a call that was admitted on its header block makes events about its messages: they do not say by which rule
    if out.by == By::Default
        && let Some(rule) = run.stages.last().and_then(|stream| admitted_by(policy, stream))
    {
        out.by = By::Rule(rule);
    }
    out
}

fn decided(policy: &Policy, event: &abi::pg_event, out: Outcome) -> Outcome {
    let connection = event.type_ == abi::PG_EV_CONNECTION;
    let (status, message) = events::answer(policy, event);
    Outcome {
        verdict: if event.verdict == abi::PG_V_DENY { Verdict::Deny } else { Verdict::AuditDeny },
        by: by(policy, event),
        status: (!connection).then(|| names::status(status)),
        status_message: (!connection).then_some(message),
        retry_ms: events::retry_ms(policy, event),
        at: at(event),
        connection,
        ..out
    }
}

fn at(event: &abi::pg_event) -> At {
    At { response: event.response & abi::PG_RSP_JUDGED != 0, message: event.message }
}

fn by(policy: &Policy, event: &abi::pg_event) -> By {
    if event.reason == abi::PG_R_NONE {
        return policy.rules.get(event.rule as usize).map_or(By::Default, |rule| By::Rule(rule.name.clone()));
    }
    match names::reason(event.reason) {
        Some(reason) => By::Cause {
            cause: names::cause(reason.cause).unwrap_or(reason.name),
            reason: reason.name,
            text: reason.text,
        },
        None => By::Cause { cause: "unknown", reason: "unknown", text: "no reason is known" },
    }
}

/// The rule that admitted a call on its header block, by the engine's matcher.
pub fn admitted_by(policy: &Policy, stream: &abi::pg_stream) -> Option<String> {
    let method = policy.tables.methods.get(stream.method as usize)?;
    let end = method.header_test + method.header_tests;
    let mut matcher = Matcher::new(&policy.tables);
    let mut first = method.header_test;
    while let Some(hit) = matcher.first(&stream.bits, first..end) {
        let rule = policy.rules.get(policy.tables.tests.get(hit as usize)?.rule as usize)?;
        if !rule.audit {
            return Some(rule.name.clone());
        }
        first = hit + 1;
    }
    None
}

/// The engine's matcher over tests that are not necessarily a method's.
pub struct Matcher<'t>(Connection<'t>);

impl<'t> Matcher<'t> {
    /// A matcher over the tests of these tables.
    pub fn new(tables: &'t Tables) -> Matcher<'t> {
        Matcher(Connection::new(tables, std::net::Ipv6Addr::LOCALHOST, 0))
    }

    /// The first test that completes a clause that holds.
    pub fn first(&mut self, bits: &abi::pg_bits, tests: std::ops::Range<u32>) -> Option<u32> {
        self.0.matches(bits, tests)
    }
}
