//! Stages 2 to 4 for each rule: its methods, its condition, and the messages that the condition is typed against.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use prost_reflect::MessageDescriptor;
use toml::Spanned;

use super::cel::{Leaf, Side};
use super::condition::Condition;
use super::decide::{Bit, Decision, Useless};
use super::err::{Fault, Warning};
use super::file::{self, File};
use super::plan::Size;
use super::predicate::Formula;
use super::resolve::{self, Pattern, Protos};
use super::tables::{Input, Refusal};
use super::{Action, RuleCost};
use crate::abi;

/// A rule, decided.
pub struct Rule {
    pub action: Action,
    pub patterns: Vec<Pattern>,
    pub decides: Decides,
    /// Where its condition (or its name) stands.
    span: Range<usize>,
}

/// What a rule's condition became.
pub enum Decides {
    /// It reads no message.
    OnHeader(Decision),
    /// It reads the request, or the response: by the message's full name.
    PerMessage(Side, BTreeMap<String, Decision>),
}

impl Rule {
    /// A deny rule that stands nowhere but in the protos.
    pub fn deny(patterns: Vec<Pattern>, decides: Decides, span: Range<usize>) -> Rule {
        Rule { action: Action::Deny, patterns, decides, span }
    }

    /// Every decision of the rule.
    pub fn decisions(&self) -> Vec<&Decision> {
        match &self.decides {
            Decides::OnHeader(decision) => vec![decision],
            Decides::PerMessage(_, decisions) => decisions.values().collect(),
        }
    }

    /// Whether it holds for every call, on its header block.
    pub fn is_unconditional(&self) -> bool {
        matches!(&self.decides, Decides::OnHeader(decision) if decision.clauses.iter().any(BTreeMap::is_empty))
    }

    /// Which message it reads, if one.
    pub fn side(&self) -> Option<Side> {
        match self.decides {
            Decides::OnHeader(_) => None,
            Decides::PerMessage(side, _) => Some(side),
        }
    }

    /// Its decision on a message of its side.
    pub fn on(&self, message: &str) -> Option<&Decision> {
        match &self.decides {
            Decides::OnHeader(_) => None,
            Decides::PerMessage(_, decisions) => decisions.get(message),
        }
    }

    /// Its condition as the kernel evaluates it.
    pub fn shown(&self) -> String {
        self.decisions().first().map_or_else(String::new, ToString::to_string)
    }

    /// What it costs; `sizes` are the automata of each input.
    pub fn cost(&self, sizes: &HashMap<Input, Size>) -> RuleCost {
        let Some(decision) = self.decisions().first().copied() else { return RuleCost::default() };
        let bits = decision.all_bits();
        let message = match &self.decides {
            Decides::PerMessage(_, decisions) => decisions.keys().next().cloned().unwrap_or_default(),
            Decides::OnHeader(_) => String::new(),
        };
        let mut inputs: Vec<Input> = Vec::new();
        for bit in &bits {
            let input = match bit {
                Bit::Field { path, .. } => Input::Field(message.clone(), path.clone()),
                Bit::Some { key, .. } => Input::Key(key.clone()),
                _ => continue,
            };
            if !inputs.contains(&input) {
                inputs.push(input);
            }
        }
        let sizes: Vec<&Size> = inputs.iter().filter_map(|input| sizes.get(input)).collect();
        RuleCost {
            per_message: self.side().is_some(),
            on_response: self.side() == Some(Side::Response),
            predicates: bits.len(),
            clauses: decision.clauses.len(),
            states: sizes.iter().map(|size| size.states).sum(),
            automaton_bytes: sizes.iter().map(|size| size.bytes).sum(),
        }
    }
}

/// Decides every rule of a file.
pub fn all(file: &File, text: &str, protos: &Protos, warnings: &mut Vec<Warning>) -> Result<Vec<Rule>, Vec<Fault>> {
    const ENOUGH: usize = 20;
    let (mut rules, mut faults) = (Vec::with_capacity(file.rules.len()), Vec::new());
    for raw in &file.rules {
        match one(raw, text, protos, warnings) {
            Ok(rule) => rules.push(rule),
            Err(more) => faults.extend(more),
        }
        if faults.len() >= ENOUGH {
            break;
        }
    }
    if faults.is_empty() { Ok(rules) } else { Err(faults) }
}

/// Finds the rule that a refusal is about.
pub fn blame(rules: &[Rule], refusal: Refusal) -> Fault {
    let about = refusal.bit.as_ref().and_then(|bit| {
        let opposite = match bit {
            Bit::Some { key, text, negated } => {
                Some(Bit::Some { key: key.clone(), text: text.clone(), negated: !negated })
            }
            _ => None,
        };
        let reads = |rule: &&Rule| {
            rule.decisions()
                .iter()
                .any(|decision| decision.all_bits().into_iter().any(|it| it == bit || Some(it) == opposite.as_ref()))
        };
        rules.iter().find(reads)
    });
    match about {
        Some(rule) => Fault::at(rule.span.clone(), refusal.message).help(match refusal.bit {
            Some(Bit::Field { .. } | Bit::Some { .. }) => {
                "write the pattern with fewer or smaller repetitions, or with startsWith, endsWith or contains"
            }
            _ => "compare less, or with smaller numbers, in the rules of one method",
        }),
        None => Fault::whole(refusal.message),
    }
}

fn one(raw: &file::Rule, text: &str, protos: &Protos, warnings: &mut Vec<Warning>) -> Result<Rule, Vec<Fault>> {
    let mut faults = Vec::new();
    let mut patterns = Vec::with_capacity(raw.methods.len());
    for method in &raw.methods {
        match resolve::pattern(method) {
            Ok(pattern) => patterns.push(pattern),
            Err(fault) => faults.push(fault),
        }
    }
    let condition = match raw.when.as_ref().map(|when| Condition::parse(when, text)) {
        Some(Err(more)) => {
            faults.extend(more);
            None
        }
        Some(Ok(condition)) => Some(condition),
        None => None,
    };
    if !faults.is_empty() {
        return Err(faults);
    }
    let span = raw.when.as_ref().map_or_else(|| raw.name.span(), toml::Spanned::span);
    let Some(condition) = condition else {
        let decides = Decides::OnHeader(Decision::always());
        return Ok(Rule { action: raw.action, patterns, decides, span });
    };
    let side = condition.side().map_err(|fault| vec![fault])?;
    if raw.action == Action::Limit && side.is_some() {
        let fault = Fault::at(span, "a call takes its tokens when its header block ends, before there is a message");
        return Err(vec![fault.help("a limit's condition reads metadata and the peer")]);
    }
    if side == Some(Side::Response) {
        reads_response(raw.action, &condition).map_err(|fault| vec![fault])?;
    }
    let decides = if let Some(side) = side {
        Decides::PerMessage(side, per_message(raw, side, &patterns, &condition, protos)?)
    } else {
        let formula = condition.formula(Side::Request, None, &protos.pool).map_err(|fault| vec![fault])?;
        Decides::OnHeader(decide(&formula, raw.action, Side::Request, &condition).map_err(|fault| vec![fault])?)
    };
    let rule = Rule { action: raw.action, patterns, decides, span };
    if raw.action == Action::Allow {
        let mut keys: Vec<String> = rule.decisions().iter().flat_map(|decision| decision.held_by_absence()).collect();
        keys.sort();
        keys.dedup();
        warnings.extend(keys.iter().map(|key| Warning {
            rule: Some(raw.name.get_ref().clone()),
            message: format!("a call without the metadata key `{key}` is allowed by it"),
        }));
    }
    Ok(rule)
}

/// Which rules can read responses.
fn reads_response(action: Action, condition: &Condition) -> Result<(), Fault> {
    if action == Action::Allow {
        return Err(Fault::at(
            condition.span(),
            "an allow rule cannot read `response`: a call is admitted before there is one",
        )
        .help(
            "allow the method, and deny the responses that must not leave: a [[deny]] rule with the condition negated",
        ));
    }
    Ok(())
}

fn decide(formula: &Formula<Leaf>, action: Action, side: Side, condition: &Condition) -> Result<Decision, Fault> {
    Decision::new(formula, action, side).map_err(|useless| {
        let at = |message: &str| Fault::at(condition.span(), message);
        match useless {
            Useless::AlwaysTrue => at("the condition is always true").help("leave `when` out if that is meant"),
            Useless::AlwaysFalse => at("the condition is always false").help("the rule would never apply: remove it"),
            Useless::TooLarge => at(&format!(
                "the condition expands to more than {} clauses (limit CLAUSE_TESTS)",
                abi::PG_MAX_CLAUSE_TESTS
            ))
            .help("split it into rules: the rules of one kind are OR-ed"),
        }
    })
}

/// The requests (or responses) of the methods that a rule covers, each message once; the first is the one that errors
/// speak of.
pub fn messages(
    side: Side,
    methods: &[Spanned<String>],
    patterns: &[Pattern],
    protos: &Protos,
    why: &str,
) -> Result<Vec<MessageDescriptor>, Vec<Fault>> {
    let (mut out, mut faults): (BTreeMap<String, MessageDescriptor>, Vec<Fault>) = Default::default();
    for (pattern, written) in patterns.iter().zip(methods) {
        let covered: Vec<MessageDescriptor> = match pattern {
            Pattern::Exact(path) => protos.message(path, side).into_iter().collect(),
            Pattern::Prefix(prefix) => protos.under(prefix).map(|(_, method)| resolve::message(method, side)).collect(),
        };
        if covered.is_empty() {
            let message = match pattern {
                Pattern::Exact(path) => format!("no proto describes `{path}`, and {why}"),
                Pattern::Prefix(_) => {
                    format!("no proto describes a method under `{}`, and {why}", written.get_ref())
                }
            };
            faults.push(Fault::at(written.span(), message).help("add its file to `proto`"));
        }
        out.extend(covered.into_iter().map(|message| (message.full_name().to_owned(), message)));
    }
    if faults.is_empty() { Ok(out.into_values().collect()) } else { Err(faults) }
}

fn per_message(
    raw: &file::Rule,
    side: Side,
    patterns: &[Pattern],
    condition: &Condition,
    protos: &Protos,
) -> Result<BTreeMap<String, Decision>, Vec<Fault>> {
    let variable = side.variable();
    let why = format!("the condition reads its {variable}");
    let messages = messages(side, &raw.methods, patterns, protos, &why)?;
    let many = messages.len() > 1;
    let mut out = BTreeMap::new();
    let mut first: Option<(String, BTreeMap<String, &'static str>)> = None;
    for message in &messages {
        let formula = condition.formula(side, Some(message), &protos.pool).map_err(|fault| {
            let help = fault.help.clone().unwrap_or_default();
            let note = format!("the rule covers methods whose {variable} is `{}`; {help}", message.full_name());
            vec![if many { fault.help(note.trim_end_matches("; ")) } else { fault }]
        })?;
        let mut types = BTreeMap::new();
        field_types(&formula, &mut types);
        if let Some((name, other)) = &first
            && *other != types
        {
            let differs = types.iter().find(|(field, kind)| other.get(*field) != Some(kind));
            let field = differs.map_or("a field", |(field, _)| field.as_str());
            let message = format!("`{field}` has another type in `{}` than in `{name}`", message.full_name());
            return Err(vec![Fault::at(condition.span(), message).help("write a rule for each")]);
        }
        first.get_or_insert_with(|| (message.full_name().to_owned(), types));
        out.insert(
            message.full_name().to_owned(),
            decide(&formula, raw.action, side, condition).map_err(|fault| vec![fault])?,
        );
    }
    Ok(out)
}

fn field_types(formula: &Formula<Leaf>, out: &mut BTreeMap<String, &'static str>) {
    match formula {
        Formula::Leaf(Leaf::Field { name, kind, .. }) => {
            out.insert(name.clone(), kind);
        }
        Formula::Leaf(Leaf::Exists { body, .. } | Leaf::Entry { body, .. }) => field_types(body, out),
        Formula::Const(_) | Formula::Leaf(_) => {}
        Formula::Not(inner) => field_types(inner, out),
        Formula::And(parts) | Formula::Or(parts) => parts.iter().for_each(|part| field_types(part, out)),
    }
}
