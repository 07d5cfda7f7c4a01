//! Why a call was decided as it was: every rule that covers it, predicate by predicate.

use std::fmt::Write as _;
use std::ops::Range;

use prost_reflect::DynamicMessage;

use super::judge::{self, Matcher, Run};
use super::{At, By, Call, Outcome, Verdict, read, shown};
use crate::abi;
use crate::policy::trace::{Input, Predicate, Said};
use crate::policy::{Action, Errors, Study};

/// The widest column of predicates; a longer one pushes its value aside.
const WIDE: usize = 64;

/// Puts in words what the engine said of a call.
pub fn explain(study: &Study, origin: &str, call: &Call, run: &Run) -> Result<String, Errors> {
    let outcome = judge::outcome(&study.policy, run);
    let mut why = Why { study, origin, call, outcome: &outcome, out: String::new() };
    why.call();
    let _ = writeln!(why.out, "\n{outcome}");
    if !outcome.audited.is_empty() {
        let _ = writeln!(why.out, "audit rules that would deny it: {}", outcome.audited.join(", "));
    }
    let undecided_headers = matches!(outcome.by, By::Cause { .. }) && outcome.at.message == 0;
    if let (Some(stage), false) = (run.stages.first(), undecided_headers) {
        why.method(stage.method as usize, run)?;
    }
    Ok(why.out)
}

struct Why<'a> {
    study: &'a Study,
    origin: &'a str,
    call: &'a Call,
    outcome: &'a Outcome,
    out: String,
}

/// What predicates are asked about.
struct Stage<'a> {
    matcher: Matcher<'a>,
    bits: &'a abi::pg_bits,
    message: Option<&'a DynamicMessage>,
}

/// A line about a predicate, or about what joins the lines below it.
struct Line {
    depth: usize,
    mark: &'static str,
    text: String,
    value: String,
}

impl Why<'_> {
    fn call(&mut self) {
        let call = self.call;
        for before in &call.before {
            let times = before.repeated.calls;
            let plural = if times == 1 { "" } else { "s" };
            let _ = writeln!(self.out, "after {times} call{plural} of {}", shown::cut(&before.method));
        }
        let nth = if call.repeated.calls > 1 { format!(", call {}", call.repeated.calls) } else { String::new() };
        let _ = writeln!(self.out, "{} from {}{nth}", shown::cut(&call.method), read::address(call.peer));
        for (key, value) in &call.metadata {
            let _ = writeln!(self.out, "  metadata   {key}: {}", shown::cut(value));
        }
        for (i, message) in call.messages.iter().enumerate() {
            let size = message.bytes.len();
            let _ = writeln!(self.out, "  message {}  {} ({size} bytes)", i + 1, shown::cut(&message.text));
        }
        if call.messages.is_empty() {
            self.out.push_str("  no message\n");
        }
        for (i, message) in call.response.iter().enumerate() {
            let size = message.bytes.len();
            let _ = writeln!(self.out, "  response {} {} ({size} bytes)", i + 1, shown::cut(&message.text));
        }
    }

    fn method(&mut self, method: usize, run: &Run) -> Result<(), Errors> {
        let tables = &self.study.policy.tables;
        let Some(entry) = tables.methods.get(method) else { return Ok(()) };
        let on_headers = self.rules(entry.header_test..entry.header_test + entry.header_tests);
        let limits = self.rules(entry.limit_test..entry.limit_test + entry.limit_tests);
        let on_messages = self.rules(entry.message_test..entry.message_test + entry.message_tests);
        let answering = entry.response as usize;
        let on_answers = tables.methods.get(answering).filter(|_| answering != 0);
        let on_answers = on_answers.map_or(0..0, |it| it.message_test..it.message_test + it.message_tests);
        let on_answers = self.rules(on_answers);
        self.out.push_str("\nwhen its headers end\n");
        if on_headers.is_empty() {
            self.out.push_str("  no rule decides here\n");
        }
        if let Some(stage) = run.stages.first() {
            self.stage(&on_headers, method, &stage.bits, None)?;
            self.stage(&limits, method, &stage.bits, None)?;
        }
        let before = run.stages.iter();
        let after = run.stages.iter().skip(1);
        for ((i, message), (before, after)) in self.call.messages.iter().enumerate().zip(before.zip(after)) {
            let number = u32::try_from(i + 1).unwrap_or(u32::MAX);
            let _ = writeln!(self.out, "\non message {number}");
            if before.request & abi::PG_REQ_UNREAD != 0 || on_messages.is_empty() {
                self.out.push_str("  it is not read: no verdict depends on it any more\n");
                break;
            }
            if after.request & abi::PG_REQ_SKIP != 0 {
                self.out.push_str("  it is not read: a switch of the policy lets it pass\n");
                continue;
            }
            if self.is_undecided(At { response: false, message: number }) {
                self.out.push_str("  no rule decides: it cannot be read\n");
                break;
            }
            let descriptor = self.study.method(&self.call.method).map(prost_reflect::MethodDescriptor::input);
            let decoded = descriptor.and_then(|it| DynamicMessage::decode(it, message.bytes.as_slice()).ok());
            self.stage(&on_messages, method, &after.bits, decoded.as_ref())?;
        }
        self.answers(&on_answers, answering, run)?;
        self.end(&[on_headers, limits, on_messages, on_answers].concat());
        Ok(())
    }

    /// The response's messages, as far as they came.
    fn answers(&mut self, rules: &[(usize, Range<u32>)], method: usize, run: &Run) -> Result<(), Errors> {
        let (before, after) = (run.answers.iter(), run.answers.iter().skip(1));
        for ((i, message), (before, after)) in self.call.response.iter().enumerate().zip(before.zip(after)) {
            let number = u32::try_from(i + 1).unwrap_or(u32::MAX);
            let _ = writeln!(self.out, "\non response message {number}");
            if before.request & abi::PG_REQ_UNREAD != 0 || rules.is_empty() {
                self.out.push_str("  it is not read: no rule reads it\n");
                break;
            }
            if self.is_undecided(At { response: true, message: number }) {
                self.out.push_str("  no rule decides: it cannot be read\n");
                break;
            }
            let descriptor = self.study.method(&self.call.method).map(prost_reflect::MethodDescriptor::output);
            let decoded = descriptor.and_then(|it| DynamicMessage::decode(it, message.bytes.as_slice()).ok());
            self.stage(rules, method, &after.bits, decoded.as_ref())?;
        }
        Ok(())
    }

    fn is_undecided(&self, at: At) -> bool {
        matches!(self.outcome.by, By::Cause { .. }) && self.outcome.at == at
    }

    /// The rules of a run of tests, each with its own run, in the order in which the engine looks at them.
    fn rules(&self, tests: Range<u32>) -> Vec<(usize, Range<u32>)> {
        let mut out: Vec<(usize, Range<u32>)> = Vec::new();
        for index in tests {
            let Some(test) = self.study.policy.tables.tests.get(index as usize) else { break };
            match out.last_mut() {
                Some((rule, tests)) if *rule == test.rule as usize => tests.end = index + 1,
                _ => out.push((test.rule as usize, index..index + 1)),
            }
        }
        out
    }

    fn stage(
        &mut self,
        rules: &[(usize, Range<u32>)],
        method: usize,
        bits: &abi::pg_bits,
        message: Option<&DynamicMessage>,
    ) -> Result<(), Errors> {
        let study = self.study;
        let mut matcher = Matcher::new(&study.policy.tables);
        for (rule, tests) in rules {
            let Some(info) = study.policy.rules.get(*rule) else { continue };
            let holds = matcher.first(bits, tests.clone()).is_some();
            let action = match (info.action, info.audit) {
                (Action::Deny, false) => "deny",
                (Action::Deny, true) => "deny (audit)",
                (Action::Allow, _) => "allow",
                (Action::Limit, false) => "limit",
                (Action::Limit, true) => "limit (audit)",
            };
            let what = match (holds, info.action) {
                (true, Action::Limit) => "applies",
                (false, Action::Limit) => "does not apply",
                (true, _) => "holds",
                (false, _) => "does not hold",
            };
            let decides = if holds && self.outcome.by == By::Rule(info.name.clone()) { ", and decides" } else { "" };
            let _ = writeln!(
                self.out,
                "  {action} `{}` {what}{decides} ({}:{})",
                info.name,
                self.origin,
                study.line(*rule)
            );
            if let Some(rate) = &info.rate {
                let tokens = match (holds, decides.is_empty()) {
                    (true, false) => ": no token is left",
                    (true, true) if self.outcome.verdict == Verdict::Allow => ": a token is taken",
                    _ => "",
                };
                let _ = writeln!(self.out, "    {rate}{tokens}");
            }
            match study.trace(*rule, method)? {
                None if info.cost.per_message => {
                    let _ = writeln!(
                        self.out,
                        "    a constraint of the protos; it holds if {}",
                        info.compiled.replace('\n', "\n    or ")
                    );
                }
                None if info.rate.is_some() => {}
                None => self.out.push_str("    it has no condition\n"),
                Some(trace) => {
                    let mut tables = study.policy.tables.clone();
                    tables.tests = trace.tests;
                    let mut lines = Vec::new();
                    let mut stage = Stage { matcher: Matcher::new(&tables), bits, message };
                    self.lines(&trace.said, 0, false, &mut stage, &mut lines);
                    self.write(&lines);
                }
            }
        }
        Ok(())
    }

    fn lines(&self, said: &Said, depth: usize, negated: bool, stage: &mut Stage<'_>, out: &mut Vec<Line>) {
        let mut group = |text: &str, parts: &[Said], out: &mut Vec<Line>| {
            out.push(Line { depth, mark: "", text: text.to_owned(), value: String::new() });
            parts.iter().for_each(|part| self.lines(part, depth + 1, false, stage, out));
        };
        match said {
            Said::All(parts) => group(if negated { "not all of" } else { "all of" }, parts, out),
            Said::Any(parts) => group(if negated { "none of" } else { "any of" }, parts, out),
            Said::Not(inner) => self.lines(inner, depth, !negated, stage, out),
            Said::Predicate(predicate) => {
                let holds = predicate.asked.map(|asked| {
                    stage.matcher.first(stage.bits, asked.first..asked.first + asked.count).is_some() == asked.positive
                });
                let text = predicate.text.split_whitespace().collect::<Vec<_>>().join(" ");
                out.push(Line {
                    depth,
                    mark: match holds {
                        None => "-",
                        Some(holds) if holds != negated => "yes",
                        Some(_) => "no",
                    },
                    text: match (negated, text.contains(' ')) {
                        (false, _) => text,
                        (true, false) => format!("!{text}"),
                        (true, true) => format!("!({text})"),
                    },
                    value: self.value(predicate, stage.message),
                });
            }
        }
    }

    /// What the predicate's inputs were in this call.
    fn value(&self, predicate: &Predicate, message: Option<&DynamicMessage>) -> String {
        let values = predicate.reads.iter().filter_map(|input| match input {
            Input::Field(name, path) => Some(format!("{name} is {}", shown::field(message?, path)?)),
            Input::Metadata(key) => {
                let came = self.call.metadata.iter().filter(|(name, _)| name == key);
                let came: Vec<String> = came.map(|(_, value)| shown::text(value)).collect();
                Some(if came.is_empty() { format!("{key} is absent") } else { format!("{key} is {}", came.join(", ")) })
            }
            Input::PeerIp => Some(format!("peer.ip is {}", read::address(self.call.peer).ip())),
            Input::PeerPort => Some(format!("peer.port is {}", self.call.peer.1)),
        });
        let mut out = values.collect::<Vec<_>>().join("; ");
        if predicate.asked.is_none() {
            out.push_str(if out.is_empty() { "no verdict depends on it" } else { " (no verdict depends on it)" });
        }
        out
    }

    fn write(&mut self, lines: &[Line]) {
        let width = |line: &Line| line.text.chars().count() + 2 * line.depth;
        let widest = lines.iter().map(width).filter(|width| *width <= WIDE).max().unwrap_or(0);
        for line in lines {
            let indent = "  ".repeat(line.depth);
            let pad = " ".repeat(widest.saturating_sub(width(line)));
            let text = match (line.mark, line.value.as_str()) {
                ("", _) => format!("    {indent}{}", line.text),
                (mark, "") => format!("    {indent}{mark:<3}  {}", line.text),
                (mark, value) => format!("    {indent}{mark:<3}  {}{pad}  {value}", line.text),
            };
            let _ = writeln!(self.out, "{}", text.trim_end());
        }
    }

    fn end(&mut self, all: &[(usize, Range<u32>)]) {
        let policy = &self.study.policy;
        if self.outcome.by == By::Default {
            let what = match self.outcome.verdict {
                Verdict::Allow => "allow",
                Verdict::Deny | Verdict::AuditDeny => "deny",
            };
            let _ = writeln!(self.out, "\nno rule decides: the policy's default is {what}");
        }
        let covers = |rule: usize| all.iter().any(|(other, _)| *other == rule);
        let others = policy.rules.iter().enumerate().filter(|(i, _)| !covers(*i));
        let others: Vec<&str> = others.map(|(_, rule)| rule.name.as_str()).collect();
        if !others.is_empty() {
            let _ = writeln!(self.out, "\nrules for other methods: {}", others.join(", "));
        }
    }
}
