//! `protocg check POLICY...`: every rule as it was compiled, and what it costs.

use std::io::{self, Write};
use std::path::PathBuf;

use miette::Diagnostic;

use crate::names;
use crate::policy::{self, Action, Direction, Errors, Mode, Policy, RuleInfo, Switch};

/// Why a check failed.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// These policies cannot be used.
    #[error("{} of the policies cannot be enforced", .0.len())]
    Policies(Vec<Errors>),
    /// The report could not be written.
    #[error("cannot write the report")]
    Write(#[from] io::Error),
}

impl Diagnostic for CheckError {
    fn related<'a>(&'a self) -> Option<Box<dyn Iterator<Item = &'a dyn Diagnostic> + 'a>> {
        match self {
            CheckError::Policies(errors) => Some(Box::new(errors.iter().map(|error| error as &dyn Diagnostic))),
            CheckError::Write(_) => None,
        }
    }
}

/// Compiles policies and writes what became of them. All are checked, also after one that is wrong.
pub fn check(paths: &[PathBuf], out: &mut dyn Write) -> Result<(), CheckError> {
    let mut errors = Vec::new();
    for path in paths {
        match policy::load(path) {
            Ok(policy) => report(&policy, out)?,
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(CheckError::Policies(errors)) }
}

/// Writes what became of one policy.
pub fn report(policy: &Policy, out: &mut dyn Write) -> io::Result<()> {
    let ports = policy.ports.ranges().into_iter().map(|(first, last)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    });
    let direction = match policy.direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    };
    let mode = match policy.mode {
        Mode::Enforce => "enforce",
        Mode::Audit => "audit",
    };
    let ports = ports.collect::<Vec<_>>().join(", ");
    writeln!(
        out,
        "policy {}: {direction}, {mode}, ports {ports}, default {}, generation {:08x}",
        policy.name,
        action(policy.default),
        policy.tables.config.generation
    )?;
    for rule in &policy.rules {
        write_rule(rule, policy.direction, out)?;
    }
    if let Some(guard) = &policy.guard {
        writeln!(out, "\nguard")?;
        for (what, switch) in [("deny", Switch::Deny), ("report", Switch::Report), ("allow", Switch::Allow)] {
            let ways = names::ways().zip(&guard.ways).filter(|(_, it)| **it == switch).map(|(way, _)| way.name);
            writeln!(out, "  {what:10} {}", ways.collect::<Vec<_>>().join(", "))?;
        }
    }
    for warning in &policy.warnings {
        writeln!(out, "\nwarning: {warning}")?;
    }
    let costs = &policy.costs;
    writeln!(out, "\nmethods      {}", policy.methods.iter().skip(1).filter(|method| !method.response).count())?;
    writeln!(
        out,
        "predicates   {} on headers, {} on a message at most",
        costs.header_predicates, costs.message_predicates
    )?;
    if costs.element_tests > 0 {
        writeln!(out, "elements     {} at the end of each at most", count(costs.element_tests as usize, "test"))?;
    }
    writeln!(out, "automata     {}, {} states, {} bytes", costs.automata, costs.states, costs.automaton_bytes)?;
    writeln!(out, "tables       {} bytes", costs.table_bytes)
}

fn write_rule(rule: &RuleInfo, direction: Direction, out: &mut dyn Write) -> io::Result<()> {
    let decided = match (rule.cost.per_message, rule.cost.on_response) {
        (true, true) => "on each response message",
        (true, false) => "on each request message",
        (false, _) => "when the headers end",
    };
    let audit = if rule.audit { ", audit only" } else { "" };
    writeln!(out, "\n{} {}: decided {decided}{audit}", action(rule.action), rule.name)?;
    writeln!(out, "  methods    {}", rule.methods.join(", "))?;
    writeln!(out, "  when       {}", rule.compiled.replace('\n', "\n          "))?;
    if let Some(rate) = &rule.rate {
        writeln!(out, "  rate       {rate}")?;
    }
    if rule.action != Action::Allow {
        let status = crate::names::status(rule.status);
        // whose own calls are denied hears of the connection's end
        let kind = if direction == Direction::Egress { "event" } else { "answer" };
        writeln!(out, "  {kind:11}{status}: {}", rule.message)?;
    }
    let cost = &rule.cost;
    write!(out, "  costs      {}, {}", count(cost.predicates, "predicate"), count(cost.clauses, "clause"))?;
    if cost.states > 0 {
        write!(out, "; texts in {}, {} bytes", count(cost.states, "state"), cost.automaton_bytes)?;
    }
    writeln!(out)
}

fn count(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

fn action(action: Action) -> &'static str {
    match action {
        Action::Deny => "deny",
        Action::Allow => "allow",
        Action::Limit => "limit",
    }
}
