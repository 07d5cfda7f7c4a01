//! Decisions in CEL's words, for `protocg check`.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use super::cel::{At, Leaf, Side};
use super::decide::{Bit, Clause, Decision};
use super::predicate::{self, Formula, Number, Ranges, Test, Text};
use super::resolve::Block;

const SIZE: Number = Number::Unsigned { bits: 64 };
const PORT: Number = Number::Unsigned { bits: 16 };

/// How bits are written in CEL.
#[derive(Debug, Clone, Default)]
pub struct Names {
    /// What the message is called.
    root: &'static str,
    /// The last name of each path.
    labels: HashMap<Vec<u32>, String>,
    /// By repeated field or map: the variable that stands for an element, and whether it is a key.
    vars: HashMap<Vec<u32>, (String, bool)>,
    peers: HashMap<Vec<Block>, String>,
}

/// What the beginnings of paths are called at one place of a condition; the last that fits counts.
type Roots<'a> = Vec<(&'a [u32], String)>;

impl Names {
    /// Names of what a message of this side holds.
    pub fn new(side: Side) -> Names {
        Names { root: side.variable(), ..Names::default() }
    }

    /// Notes the names of a formula.
    pub fn collect(&mut self, formula: &Formula<Leaf>) {
        match formula {
            Formula::Const(_) => {}
            Formula::Not(inner) => self.collect(inner),
            Formula::And(parts) | Formula::Or(parts) => parts.iter().for_each(|part| self.collect(part)),
            Formula::Leaf(Leaf::Field { at, .. } | Leaf::Count { at, .. }) => self.note(at),
            Formula::Leaf(Leaf::Exists { at, var, keys, body }) => {
                self.note(at);
                self.vars.entry(at.path.clone()).or_insert_with(|| (var.clone(), *keys));
                self.collect(body);
            }
            Formula::Leaf(Leaf::Entry { at, body, .. }) => {
                self.note(at);
                self.collect(body);
            }
            Formula::Leaf(Leaf::Peer { blocks, text }) => {
                self.peers.insert(blocks.clone(), text.clone());
            }
            Formula::Leaf(Leaf::Present { .. } | Leaf::Metadata { .. } | Leaf::Port(_)) => {}
        }
    }

    fn note(&mut self, at: &At) {
        for (i, label) in at.labels.iter().enumerate() {
            if let Some(path) = at.path.get(..=i) {
                self.labels.entry(path.to_vec()).or_insert_with(|| label.clone());
            }
        }
    }

    fn name(&self, path: &[u32], roots: &Roots<'_>) -> String {
        let root = roots.iter().rev().find(|(root, _)| path.starts_with(root));
        let (mut out, from) = root.map_or_else(|| (self.root.to_owned(), 0), |(root, name)| (name.clone(), root.len()));
        for i in from..path.len() {
            out.push('.');
            out.push_str(path.get(..=i).and_then(|path| self.labels.get(path)).map_or("?", String::as_str));
        }
        out
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, bit: &Bit, roots: &Roots<'_>) -> fmt::Result {
        match bit {
            Bit::Field { path, test } => write_test(f, &self.name(path, roots), test),
            Bit::Exists { path, clauses } => {
                let list = self.name(path, roots);
                if clauses.iter().any(BTreeMap::is_empty) {
                    return write!(f, "size({list}) > 0");
                }
                let (var, keys) = self.vars.get(path).map_or(("it", false), |(var, keys)| (var.as_str(), *keys));
                let element: Vec<u32> = if keys { [path, &[1][..]].concat() } else { path.clone() };
                if let [clause] = clauses.as_slice()
                    && let Some((Bit::Field { path: of, test }, true)) = clause.first_key_value()
                    && let (1, true, Some(value)) = (clause.len(), *of == element, member(test))
                {
                    return write!(f, "{value} in {list}");
                }
                let mut roots = roots.clone();
                roots.push((&element, var.to_owned()));
                write!(f, "{list}.exists({var}, ")?;
                self.write_clauses(f, clauses, &roots, " || ")?;
                f.write_str(")")
            }
            Bit::Entry { path, key, clauses } => {
                let name = format!("{}[{}]", self.name(path, roots), member(key).unwrap_or_default());
                let value = [path, &[2][..]].concat();
                let mut roots = roots.clone();
                roots.push((&value, name));
                self.write_clauses(f, clauses, &roots, " || ")
            }
            Bit::Count { path, ranges, .. } => {
                predicate::show_ranges(f, &format!("size({})", self.name(path, roots)), ranges, SIZE)
            }
            Bit::Counter { path } => write!(f, "size({})", self.name(path, roots)),
            Bit::Present { key } => write!(f, "{key:?} in metadata"),
            Bit::Some { key, text, negated } => {
                f.write_str(if *negated { "some !(" } else { "some (" })?;
                predicate::show_text(f, &format!("metadata[{key:?}]"), text)?;
                f.write_str(")")
            }
            Bit::Peer { blocks } => match self.peers.get(blocks) {
                Some(text) => write!(f, "peer.ip in [{text}]"),
                None => f.write_str("peer.ip in [...]"),
            },
            Bit::Port(ranges) => predicate::show_ranges(f, "peer.port", ranges, PORT),
        }
    }

    fn write_clauses(
        &self,
        f: &mut fmt::Formatter<'_>,
        clauses: &[Clause],
        roots: &Roots<'_>,
        or: &str,
    ) -> fmt::Result {
        struct Shown<'a>(&'a Names, &'a Bit, &'a Roots<'a>);
        impl fmt::Display for Shown<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.write(f, self.1, self.2)
            }
        }
        for (i, clause) in clauses.iter().enumerate() {
            if i > 0 {
                f.write_str(or)?;
            }
            if clause.is_empty() {
                f.write_str("true")?;
            }
            for (j, (bit, value)) in clause.iter().enumerate() {
                if j > 0 {
                    f.write_str(" && ")?;
                }
                let shown = Shown(self, bit, roots).to_string();
                match value {
                    true => f.write_str(&shown)?,
                    false => write!(f, "!({shown})")?,
                }
            }
        }
        Ok(())
    }
}

/// The one value that a test is for, as CEL writes it.
fn member(test: &Test) -> Option<String> {
    match test {
        Test::Text(Text::In(set)) => match set.as_slice() {
            [one] => Some(predicate::quote(one)),
            _ => None,
        },
        Test::Number(ranges, number) => {
            let mut all = ranges.iter();
            match (all.next(), all.next()) {
                (Some((low, high)), None) if low == high => Some(number.show(low)),
                _ => None,
            }
        }
        _ => None,
    }
}

fn write_test(f: &mut fmt::Formatter<'_>, name: &str, test: &Test) -> fmt::Result {
    match test {
        Test::Has => write!(f, "has({name})"),
        Test::Number(ranges, Number::Bool) if *ranges == Ranges::of(1, 1) => f.write_str(name),
        Test::Number(ranges, number) => predicate::show_ranges(f, name, ranges, *number),
        Test::Size(ranges) => predicate::show_ranges(f, &format!("size({name})"), ranges, SIZE),
        Test::Text(text) => predicate::show_text(f, name, text),
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.names.write_clauses(f, &self.clauses, &Vec::new(), "\n|| ")
    }
}
