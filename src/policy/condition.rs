//! Stage 3, text to a parsed condition: where each of its parts stands in the policy.

use std::cell::RefCell;
use std::ops::Range;

use cel::common::ast::{Expr, IdedExpr, SourceInfo, operators as op};
use cel::parser::Parser;
use prost_reflect::{DescriptorPool, MessageDescriptor};
use toml::Spanned;

use super::cel::{Side, Typed, Typer};
use super::err::Fault;

/// A parsed `when`.
pub struct Condition {
    expr: IdedExpr,
    info: SourceInfo,
    places: Places,
}

/// Where the characters of a `when` stand in the policy.
struct Places {
    /// The whole string, quotes included.
    whole: Range<usize>,
    /// Where its content begins, if it stands there as it is (no escapes).
    content: Option<usize>,
    text: String,
}

impl Places {
    fn new(when: &Spanned<String>, policy: &str) -> Places {
        let raw = policy.get(when.span()).unwrap_or_default();
        let quotes = if raw.starts_with("'''") || raw.starts_with("\"\"\"") { 3 } else { 1 };
        let newline = match raw.get(quotes..) {
            Some(rest) if quotes == 3 && rest.starts_with("\r\n") => 2,
            Some(rest) if quotes == 3 && rest.starts_with('\n') => 1,
            _ => 0,
        };
        let start = quotes + newline;
        let same = raw.get(start..raw.len().saturating_sub(quotes)) == Some(when.get_ref());
        let content = same.then_some(when.span().start + start);
        Places { whole: when.span(), content, text: when.get_ref().clone() }
    }

    /// Bytes `start..end` of the condition as bytes of the policy.
    fn span(&self, start: usize, end: usize) -> Range<usize> {
        let Some(content) = self.content else { return self.whole.clone() };
        let boundary = |at: usize| (at..=self.text.len()).find(|at| self.text.is_char_boundary(*at));
        let start = boundary(start).unwrap_or(self.text.len());
        let end = boundary(end.max(start + 1)).unwrap_or(self.text.len());
        content + start..content + end
    }

    /// A line and column (from 1) as a span.
    fn position(&self, line: isize, column: isize) -> Range<usize> {
        let (Ok(line), Ok(column)) = (usize::try_from(line), usize::try_from(column)) else {
            return self.whole.clone();
        };
        if line == 0 {
            return self.whole.clone();
        }
        let before: usize = self.text.split_inclusive('\n').take(line - 1).map(str::len).sum();
        let rest = self.text.get(before..).unwrap_or_default();
        let within = rest.char_indices().nth(column.saturating_sub(1)).map_or(rest.len(), |(byte, _)| byte);
        self.span(before + within, before + within + 1)
    }
}

impl Condition {
    /// Parses a `when` of the policy's text.
    pub fn parse(when: &Spanned<String>, policy: &str) -> Result<Condition, Vec<Fault>> {
        let places = Places::new(when, policy);
        if when.get_ref().trim().is_empty() {
            return Err(vec![
                Fault::at(places.whole, "`when` is empty").help("leave it out for a rule without condition"),
            ]);
        }
        if longest_stretch(when.get_ref()) > STRETCH {
            let message =
                format!("a part of the condition has more than {STRETCH} words and signs without `&&`, `||` or `,`");
            return Err(vec![Fault::at(places.whole, message).help("split the rule: rules of one kind are OR-ed")]);
        }
        match Parser::new().enable_ident_escape_syntax(true).parse_with_source_info(when.get_ref()) {
            Ok((expr, info)) => Ok(Condition { expr, info, places }),
            Err(errors) => {
                let fault = |error: &cel::ParseError| {
                    let message = error.source.as_ref().map_or_else(|| error.msg.clone(), ToString::to_string);
                    let message = message.trim_start_matches("Syntax error: ").to_owned();
                    Fault::at(places.position(error.pos.0, error.pos.1), format!("this is not CEL: {message}"))
                };
                Err(errors.errors.iter().take(1).map(fault).collect())
            }
        }
    }

    /// Whether a variable is read.
    pub fn reads(&self, variable: &str) -> bool {
        reads(&self.expr, variable)
    }

    /// The whole condition's place.
    pub fn span(&self) -> Range<usize> {
        self.places.whole.clone()
    }

    /// The parsed condition.
    pub fn root(&self) -> &IdedExpr {
        &self.expr
    }

    /// A sub-expression as it was written, and its place in the policy.
    pub fn written(&self, expr: &IdedExpr) -> (&str, Range<usize>) {
        let (start, end) = self.with_parentheses(self.extent(expr));
        (self.places.text.get(start..end).unwrap_or(&self.places.text), self.places.span(start, end))
    }

    /// Widens an extent by the parentheses around its first or last part: they are no part of the syntax tree.
    fn with_parentheses(&self, (mut start, mut end): (usize, usize)) -> (usize, usize) {
        loop {
            let Some(text) = self.places.text.get(start..end) else { return (start, end) };
            let (before, after) = (self.places.text.get(..start), self.places.text.get(end..));
            let (opened, closed) = (text.matches('(').count(), text.matches(')').count());
            let wider = if closed > opened {
                before.and_then(|text| text.trim_end().strip_suffix('(')).map(|text| (text.len(), end))
            } else if opened > closed {
                after
                    .and_then(|text| text.trim_start().strip_prefix(')'))
                    .map(|rest| (start, self.places.text.len() - rest.len()))
            } else {
                None
            };
            match wider {
                Some(wider) => (start, end) = wider,
                None => return (start, end),
            }
        }
    }

    /// Types the condition; `message` is what `request` or `response` is.
    pub fn formula(&self, side: Side, message: Option<&MessageDescriptor>, pool: &DescriptorPool) -> Typed {
        let root = side.variable();
        Typer { condition: self, message, side, pool, root, vars: RefCell::default() }.formula(&self.expr)
    }

    /// Which message it reads, if one. It cannot read both: a rule is decided when its message ends.
    pub fn side(&self) -> Result<Option<Side>, Fault> {
        let mut sides = Side::BOTH.into_iter().filter(|side| self.reads(side.variable()));
        match (sides.next(), sides.next()) {
            (Some(_), Some(_)) => Err(Fault::at(self.span(), "the condition reads `request` and `response`")
                .help("a request is decided before there is a response: write a rule for each")),
            (side, _) => Ok(side),
        }
    }

    fn extent(&self, expr: &IdedExpr) -> (usize, usize) {
        let (start, stop) = self.info.offset_for(expr.id).map_or((0, 0), |(a, b)| (a as usize, b as usize + 1));
        match &expr.expr {
            Expr::Select(select) if !select.test => {
                let (low, high) = self.extent(&select.operand);
                (low, (stop + select.field.len()).max(high + 1 + select.field.len())) // `has` has no place of its own here
            }
            Expr::Select(select) => (start.saturating_sub(3), self.extent(&select.operand).1 + select.field.len() + 2),
            Expr::Call(call) => {
                let parts = call.target.iter().map(|target| &**target).chain(&call.args).map(|part| self.extent(part));
                let (mut low, mut high) = parts.fold((start, stop), |(low, high), (a, b)| (low.min(a), high.max(b)));
                let name = call.func_name.len();
                let operator = call.func_name.contains(['_', '@']);
                if !operator {
                    high += 1; // the closing parenthesis
                    if call.target.is_none() {
                        low = low.saturating_sub(name);
                    }
                } else if call.func_name == op::INDEX {
                    high += 1;
                }
                (low, high)
            }
            Expr::Comprehension(it) => match &it.loop_step.expr {
                Expr::Call(step) => {
                    let body = step.args.last().map_or(stop, |body| self.extent(body).1 + 1);
                    (self.extent(&it.iter_range).0, body.max(stop))
                }
                _ => (self.extent(&it.iter_range).0, stop),
            },
            Expr::List(list) => list.elements.last().map_or((start, stop), |last| (start, self.extent(last).1 + 1)),
            _ => (start, stop),
        }
    }

    /// A fault at a sub-expression.
    pub fn fault(&self, expr: &IdedExpr, message: impl Into<String>) -> Fault {
        let (start, end) = self.extent(expr);
        Fault::at(self.places.span(start, end), message)
    }
}

/// The most words and signs between `&&`, `||` and `,`: the parser's stack grows with them. It bounds the depth of
/// nested expressions itself.
const STRETCH: usize = 256;

fn longest_stretch(text: &str) -> usize {
    let (mut longest, mut length, mut in_word) = (0, 0, false);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        let word = c.is_alphanumeric() || c == '_';
        match c {
            '&' | '|' | ',' => length = 0,
            '"' | '\'' => {
                length += 1;
                while let Some(inner) = chars.next() {
                    match inner {
                        '\\' => drop(chars.next()),
                        end if end == c => break,
                        _ => {}
                    }
                }
            }
            c if c.is_whitespace() || (word && in_word) => {}
            _ => length += 1,
        }
        in_word = word;
        longest = longest.max(length);
    }
    longest
}

fn reads(expr: &IdedExpr, variable: &str) -> bool {
    match &expr.expr {
        Expr::Ident(name) => name.trim_start_matches('.') == variable,
        Expr::Select(select) => reads(&select.operand, variable),
        Expr::Call(call) => call.target.iter().map(|target| &**target).chain(&call.args).any(|it| reads(it, variable)),
        Expr::List(list) => list.elements.iter().any(|it| reads(it, variable)),
        Expr::Comprehension(it) => {
            [&it.iter_range, &it.loop_cond, &it.loop_step, &it.result].into_iter().any(|it| reads(it, variable))
        }
        _ => false,
    }
}
