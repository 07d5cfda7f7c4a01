//! What explains a verdict: each rule's condition as it was written, with the tests of its predicates' results.
//!
//! The tests are of the same form as the rules' own (`bpf/abi/tables.h`) and read the same bits, so the engine's matcher says
//! which predicate holds. Nothing is decided here.

use std::cell::RefCell;
use std::ops::Range;

use cel::common::ast::{CallExpr, Expr, IdedExpr, LiteralValue, operators as op};
use prost_reflect::{DescriptorPool, MethodDescriptor};

use super::cel::{At, Leaf, Side, Typer};
use super::condition::Condition;
use super::decide::{self, Clause};
use super::err::{Fault, Source};
use super::file::File;
use super::methods::Layouts;
use super::predicate::Formula;
use super::resolve::Protos;
use super::scope::Layout;
use super::{Action, Errors, Policy, tables};
use crate::abi;

/// A compiled policy, and what explains its verdicts.
pub struct Study {
    /// The policy.
    pub policy: Policy,
    text: String,
    source: Source,
    file: File,
    protos: Protos,
    layouts: Layouts,
}

/// A rule's condition on one method: what to ask the engine's matcher.
#[derive(Debug, Clone)]
pub struct Trace {
    /// The condition.
    pub said: Said,
    /// The tests that its predicates name.
    pub tests: Vec<abi::pg_test>,
}

/// A condition as it was written.
#[derive(Debug, Clone)]
pub enum Said {
    /// `&&`
    All(Vec<Said>),
    /// `||`
    Any(Vec<Said>),
    /// `!`
    Not(Box<Said>),
    /// What lies between these.
    Predicate(Predicate),
}

/// A part of a condition that has no parts.
#[derive(Debug, Clone)]
pub struct Predicate {
    /// As it was written.
    pub text: String,
    /// Its place in the policy.
    pub span: Range<usize>,
    /// Its tests; nothing if no verdict depends on it, so that the engine keeps no result.
    pub asked: Option<Asked>,
    /// What it reads.
    pub reads: Vec<Input>,
}

/// Tests of a predicate's result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// The first, in [`Trace::tests`].
    pub first: u32,
    /// How many.
    pub count: u32,
    /// The tests hold if the predicate does; else if it does not.
    pub positive: bool,
}

/// What a predicate reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A field of the message: its name in CEL and the field numbers on the way to it.
    Field(String, Vec<u32>),
    /// A metadata key.
    Metadata(String),
    /// The peer's address.
    PeerIp,
    /// The peer's port.
    PeerPort,
}

impl Study {
    pub(super) fn new(
        policy: Policy,
        text: &str,
        source: Source,
        file: File,
        protos: Protos,
        layouts: Layouts,
    ) -> Study {
        Study { policy, text: text.to_owned(), source, file, protos, layouts }
    }

    /// Everything that the policy's protos describe.
    pub fn pool(&self) -> &DescriptorPool {
        &self.protos.pool
    }

    /// A method that the protos describe.
    pub fn method(&self, path: &str) -> Option<&MethodDescriptor> {
        self.protos.method(path)
    }

    /// The paths of all methods that the protos describe, sorted.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.protos.methods.iter().map(|(path, _)| path.as_str())
    }

    /// The line (from 1) that a rule's name stands in.
    pub fn line(&self, rule: usize) -> usize {
        let start = self.file.rules.get(rule).map_or(0, |rule| rule.name.span().start);
        self.text.get(..start).unwrap_or_default().matches('\n').count() + 1
    }

    /// A rule's condition on an entry of [`Policy::methods`], of a rule on responses that of the responses; nothing if it
    /// has none.
    pub fn trace(&self, rule: usize, method: usize) -> Result<Option<Trace>, Errors> {
        let Some(raw) = self.file.rules.get(rule) else { return Ok(None) };
        let Some(when) = &raw.when else { return Ok(None) };
        let refuse = |faults: Vec<Fault>| Errors::new(&self.source, faults);
        let condition = Condition::parse(when, &self.text).map_err(refuse)?;
        let side = condition.side().map_err(|fault| refuse(vec![fault]))?.unwrap_or(Side::Request);
        let path = self.policy.methods.get(method).and_then(|method| method.path.as_deref());
        let message_type = path.and_then(|path| self.protos.message(path, side));
        let none = Layout::default();
        let first = self.policy.tables.methods.get(method).map_or(0, |method| method.message_test);
        let message = self.layouts.message.get(&first).unwrap_or(&none);
        let pool = &self.protos.pool;
        let vars = RefCell::default();
        let typer =
            Typer { condition: &condition, message: message_type.as_ref(), side, pool, root: side.variable(), vars };
        let mut walk =
            Walk { typer, action: raw.action, rule, header: &self.layouts.header, message, tests: Vec::new() };
        let said = walk.said(condition.root(), true).map_err(|fault| refuse(vec![fault]))?;
        Ok(Some(Trace { said, tests: walk.tests }))
    }
}

struct Walk<'a> {
    typer: Typer<'a>,
    action: Action,
    rule: usize,
    header: &'a Layout,
    message: &'a Layout,
    tests: Vec<abi::pg_test>,
}

impl Walk<'_> {
    fn said(&mut self, expr: &IdedExpr, positive: bool) -> Result<Said, Fault> {
        if let Expr::Call(CallExpr { func_name, args, .. }) = &expr.expr {
            // CEL nests `a && b && c`, people do not
            let all = |walk: &mut Self| {
                let mut parts = Vec::new();
                for arg in args {
                    let said = walk.said(arg, positive)?;
                    match (func_name.as_str(), said) {
                        (op::LOGICAL_AND, Said::All(inner)) | (op::LOGICAL_OR, Said::Any(inner)) => parts.extend(inner),
                        (_, said) => parts.push(said),
                    }
                }
                Ok(parts)
            };
            match (func_name.as_str(), args.as_slice()) {
                (op::LOGICAL_AND, _) => return all(self).map(Said::All),
                (op::LOGICAL_OR, _) => return all(self).map(Said::Any),
                (op::LOGICAL_NOT, [arg]) => return Ok(Said::Not(Box::new(self.said(arg, !positive)?))),
                // both ways: of a key with two values, in a deny rule, a test and its negation may hold together
                (op::CONDITIONAL, [test, yes, no]) => {
                    let then = vec![self.said(test, positive)?, self.said(yes, positive)?];
                    let negated = Said::Not(Box::new(self.said(test, !positive)?));
                    let otherwise = vec![negated, self.said(no, positive)?];
                    return Ok(Said::Any(vec![Said::All(then), Said::All(otherwise)]));
                }
                (op::EQUALS | op::NOT_EQUALS, [left, right]) => {
                    if let Some((other, value)) = compared_with_bool(left, right) {
                        let same = value == (func_name == op::EQUALS);
                        let inner = self.said(other, positive == same)?;
                        return Ok(if same { inner } else { Said::Not(Box::new(inner)) });
                    }
                }
                _ => {}
            }
        }
        let formula = self.typer.formula(expr)?;
        let (text, span) = self.typer.condition.written(expr);
        let (text, mut reads) = (text.to_owned(), Vec::new());
        inputs(&formula, self.typer.side, &mut reads);
        // where metadata is read, a predicate and its negation may hold together, or neither: one says nothing of the other
        let fixed = reads.iter().any(|input| matches!(input, Input::Metadata(_)));
        let other = |walk: &mut Self| if fixed { None } else { walk.asked(&formula, !positive) };
        let asked = self.asked(&formula, positive).or_else(|| other(self));
        Ok(Said::Predicate(Predicate { text, span, asked, reads }))
    }

    /// The tests of a formula, if every result that they need is kept.
    fn asked(&mut self, formula: &Formula<Leaf>, positive: bool) -> Option<Asked> {
        let clauses = decide::tidy(decide::clauses(formula, self.action, positive).ok()?);
        let kept = |bit: &decide::Bit| if bit.in_message() { self.message } else { self.header }.place(bit).is_some();
        if !clauses.iter().flat_map(Clause::keys).all(kept) {
            return None;
        }
        let more = tables::tests(self.rule, &clauses, self.header, self.message);
        let first = u32::try_from(self.tests.len()).ok()?;
        let count = u32::try_from(more.len()).ok()?;
        self.tests.extend(more);
        Some(Asked { first, count, positive })
    }
}

/// The condition in `condition == true`, and the literal; a field alone is a predicate.
fn compared_with_bool<'e>(left: &'e IdedExpr, right: &'e IdedExpr) -> Option<(&'e IdedExpr, bool)> {
    let literal = |expr: &IdedExpr| match &expr.expr {
        Expr::Literal(LiteralValue::Boolean(value)) => Some(*value.inner()),
        _ => None,
    };
    let (other, value) = literal(right).map(|value| (left, value)).or_else(|| Some((right, literal(left)?)))?;
    matches!(other.expr, Expr::Call(_)).then_some((other, value))
}

/// A repeated field or a map, as CEL names it.
fn whole(at: &At, side: Side) -> Input {
    let labels = at.labels.iter().filter(|label| !label.is_empty());
    Input::Field(labels.fold(side.variable().to_owned(), |name, label| format!("{name}.{label}")), at.path.clone())
}

fn inputs(formula: &Formula<Leaf>, side: Side, out: &mut Vec<Input>) {
    let input = match formula {
        Formula::Const(_) => return,
        Formula::Not(inner) => return inputs(inner, side, out),
        Formula::And(parts) | Formula::Or(parts) => return parts.iter().for_each(|part| inputs(part, side, out)),
        Formula::Leaf(Leaf::Field { name, at, .. }) => Input::Field(name.clone(), at.path.clone()),
        // what its elements are like is not kept: see bpf/policy/elements.h
        Formula::Leaf(Leaf::Exists { at, .. } | Leaf::Entry { at, .. } | Leaf::Count { at, .. }) => whole(at, side),
        Formula::Leaf(Leaf::Present { key } | Leaf::Metadata { key, .. }) => Input::Metadata(key.clone()),
        Formula::Leaf(Leaf::Peer { .. }) => Input::PeerIp,
        Formula::Leaf(Leaf::Port(_)) => Input::PeerPort,
    };
    if !out.contains(&input) {
        out.push(input);
    }
}
