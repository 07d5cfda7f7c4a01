//! Stage 4, formulas to clauses: which bits there are, and a rule as a disjunction of conjunctions of them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use super::Action;
use super::automata;
use super::cel::Leaf;
use super::predicate::{self, Formula, Number, Ranges, Test, Text};
use super::resolve::Block;
use crate::abi;

/// One predicate result.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Bit {
    /// A test of a field of the request.
    Field { path: Vec<u32>, test: Test },
    /// The metadata key came.
    Present { key: String },
    /// Some value of the key satisfies the test, or (`negated`) some value does not.
    Some { key: String, text: Text, negated: bool },
    /// The peer is in one of the blocks.
    Peer { blocks: Vec<Block> },
    /// The peer's port is in the set.
    Port(Ranges),
}

impl Bit {
    /// Whether it belongs to the message scope.
    pub fn in_message(&self) -> bool {
        matches!(self, Bit::Field { .. })
    }
}

/// Bits that are set, and bits that are not.
pub type Clause = BTreeMap<Bit, bool>;

/// How a bit is written in CEL.
#[derive(Debug, Clone, Default)]
pub struct Names {
    fields: HashMap<Vec<u32>, String>,
    peers: HashMap<Vec<Block>, String>,
}

/// A rule's condition as the kernel evaluates it: it holds if one of the clauses does.
#[derive(Debug, Clone)]
pub struct Decision {
    pub clauses: Vec<Clause>,
    pub names: Names,
}

/// Why a condition cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub enum Useless {
    AlwaysTrue,
    AlwaysFalse,
    TooLarge,
}

impl Decision {
    /// The decision of a rule without condition.
    pub fn always() -> Decision {
        Decision { clauses: vec![Clause::new()], names: Names::default() }
    }

    /// Normalises a rule's formula.
    pub fn new(formula: &Formula<Leaf>, action: Action) -> Result<Decision, Useless> {
        let mut names = Names::default();
        names.collect(formula);
        let clauses = satisfiable(clauses(formula, action, true)?);
        if clauses.is_empty() {
            return Err(Useless::AlwaysFalse);
        }
        if clauses.iter().any(Clause::is_empty) || is_tautology(&clauses) {
            return Err(Useless::AlwaysTrue);
        }
        Ok(Decision { clauses: absorb(clauses), names })
    }

    /// Every bit that is looked at.
    pub fn bits(&self) -> impl Iterator<Item = &Bit> {
        self.clauses.iter().flat_map(BTreeMap::keys)
    }

    /// The metadata keys whose absence lets the rule hold.
    pub fn held_by_absence(&self) -> Vec<String> {
        let mut keys: Vec<String> = Vec::new();
        for (bit, value) in self.clauses.iter().flatten() {
            if let (Bit::Present { key }, false) = (bit, value)
                && !keys.contains(key)
            {
                keys.push(key.clone());
            }
        }
        keys
    }
}

/// The bits of a leaf, or of its negation, as clauses. Metadata leaves depend on what a rule does with them: in deny
/// a leaf holds if some value satisfies it, in allow only if the key is there and no value fails.
fn leaf(leaf: &Leaf, action: Action, positive: bool) -> Vec<Clause> {
    let one = |bit, value| Clause::from([(bit, value)]);
    match leaf {
        Leaf::Field { path, test, .. } => vec![one(Bit::Field { path: path.clone(), test: test.clone() }, positive)],
        Leaf::Present { key } => vec![one(Bit::Present { key: key.clone() }, positive)],
        Leaf::Peer { blocks, .. } => vec![one(Bit::Peer { blocks: blocks.clone() }, positive)],
        Leaf::Port(ranges) => vec![one(Bit::Port(ranges.clone()), positive)],
        Leaf::Metadata { key, text } => {
            let some = |negated| Bit::Some { key: key.clone(), text: text.clone(), negated };
            let present = || Bit::Present { key: key.clone() };
            match (action, positive) {
                (Action::Deny | Action::Limit, true) => vec![one(some(false), true)],
                (Action::Deny | Action::Limit, false) => vec![one(some(true), true), one(present(), false)],
                (Action::Allow, holds) => vec![Clause::from([(present(), true), (some(holds), false)])],
            }
        }
    }
}

/// A formula, or (not `positive`) its negation, as a disjunction of conjunctions.
pub fn clauses(formula: &Formula<Leaf>, action: Action, positive: bool) -> Result<Vec<Clause>, Useless> {
    match formula {
        Formula::Const(value) => Ok(if *value == positive { vec![Clause::new()] } else { Vec::new() }),
        Formula::Leaf(it) => Ok(leaf(it, action, positive)),
        Formula::Not(inner) => clauses(inner, action, !positive),
        Formula::And(parts) | Formula::Or(parts) => {
            let all = matches!(formula, Formula::And(_)) == positive;
            let mut parts = parts.iter().map(|part| clauses(part, action, positive));
            if all {
                parts.try_fold(vec![Clause::new()], |left, right| product(&left, &right?))
            } else {
                parts.try_fold(Vec::new(), |mut left, right| {
                    left.extend(right?);
                    check(left.len())?;
                    Ok(left)
                })
            }
        }
    }
}

fn check(clauses: usize) -> Result<(), Useless> {
    if clauses > abi::PG_MAX_CLAUSE_TESTS as usize { Err(Useless::TooLarge) } else { Ok(()) }
}

fn product(left: &[Clause], right: &[Clause]) -> Result<Vec<Clause>, Useless> {
    let (mut out, mut seen) = (Vec::new(), HashSet::new());
    for a in left {
        for b in right {
            if b.iter().any(|(bit, value)| a.get(bit).is_some_and(|other| other != value)) {
                continue;
            }
            let mut both = a.clone();
            both.extend(b.iter().map(|(bit, value)| (bit.clone(), *value)));
            if seen.insert(both.clone()) {
                out.push(both);
                check(out.len())?;
            }
        }
    }
    Ok(out)
}

/// The clauses that can hold, without those that hold only where another one does.
pub fn tidy(clauses: Vec<Clause>) -> Vec<Clause> {
    absorb(satisfiable(clauses))
}

/// Drops clauses that hold only where another one does.
fn absorb(clauses: Vec<Clause>) -> Vec<Clause> {
    const WORTH: usize = 256;
    let mut seen = HashSet::new();
    let unique: Vec<Clause> = clauses.into_iter().filter(|clause| seen.insert(clause.clone())).collect();
    if unique.len() > WORTH {
        return unique;
    }
    let implied = |clause: &Clause| {
        let within = |other: &Clause| other.iter().all(|(bit, value)| clause.get(bit) == Some(value));
        unique.iter().any(|other| other.len() < clause.len() && within(other))
    };
    unique.iter().filter(|clause| !implied(clause)).cloned().collect()
}

/// Whether the negation of clauses cannot hold. Gives up (false) where finding out is dear.
fn is_tautology(clauses: &[Clause]) -> bool {
    const WORTH: usize = 64;
    if clauses.len() > WORTH {
        return false;
    }
    let mut negation = vec![Clause::new()];
    for clause in clauses {
        let options: Vec<Clause> = clause.iter().map(|(bit, value)| Clause::from([(bit.clone(), !value)])).collect();
        match product(&negation, &options) {
            Ok(next) => negation = satisfiable(next),
            Err(_) => return false,
        }
        if negation.is_empty() {
            return true;
        }
        if negation.len() > WORTH * WORTH {
            return false;
        }
    }
    false
}

fn satisfiable(clauses: Vec<Clause>) -> Vec<Clause> {
    clauses.into_iter().filter(|clause| !contradicts(clause)).collect()
}

const SIZE: Number = Number::Unsigned { bits: 64 };
const PORT: Number = Number::Unsigned { bits: 16 };

/// What one field, or the peer's port, must be.
#[derive(Default)]
struct Demands<'a> {
    numbers: Vec<(&'a Ranges, Number, bool)>,
    sizes: Vec<(&'a Ranges, Number, bool)>,
    texts: Vec<(&'a Text, bool)>,
}

/// Whether no input can satisfy a clause, as far as one input at a time shows.
fn contradicts(clause: &Clause) -> bool {
    if clause.len() < 2 {
        return false;
    }
    let mut fields: HashMap<&[u32], Demands> = HashMap::new();
    let mut port = Demands::default();
    for (bit, &value) in clause {
        match bit {
            Bit::Field { path, test } => {
                let demands = fields.entry(path).or_default();
                match test {
                    Test::Has => {}
                    Test::Number(ranges, number) => demands.numbers.push((ranges, *number, value)),
                    Test::Size(ranges) => demands.sizes.push((ranges, SIZE, value)),
                    Test::Text(text) => demands.texts.push((text, value)),
                }
            }
            Bit::Port(ranges) => port.numbers.push((ranges, PORT, value)),
            Bit::Some { key, text, negated } => {
                let present = clause.get(&Bit::Present { key: key.clone() });
                let other = clause.get(&Bit::Some { key: key.clone(), text: text.clone(), negated: !negated });
                if (value && present == Some(&false)) || (!value && present == Some(&true) && other == Some(&false)) {
                    return true;
                }
            }
            Bit::Present { .. } | Bit::Peer { .. } => {}
        }
    }
    port.impossible() || fields.values().any(Demands::impossible)
}

impl Demands<'_> {
    fn impossible(&self) -> bool {
        let nothing = |demands: &[(&Ranges, Number, bool)]| {
            let Some((_, number, _)) = demands.first() else { return false };
            let left = demands.iter().fold(number.domain(), |all, (ranges, _, value)| {
                all.intersection(&if *value { (*ranges).clone() } else { ranges.complement() })
            });
            let nan = number.has_nan() && !demands.iter().any(|(_, _, value)| *value);
            left.is_empty() && !nan
        };
        if nothing(&self.numbers) || nothing(&self.sizes) {
            return true;
        }
        let listed = self.texts.iter().find_map(|(text, value)| match text {
            Text::In(set) if *value => Some(set),
            _ => None,
        });
        listed.is_some_and(|set| {
            !set.iter()
                .any(|candidate| self.texts.iter().all(|(text, value)| automata::holds(text, candidate) == *value))
        })
    }
}

impl Names {
    fn collect(&mut self, formula: &Formula<Leaf>) {
        match formula {
            Formula::Const(_) => {}
            Formula::Not(inner) => self.collect(inner),
            Formula::And(parts) | Formula::Or(parts) => parts.iter().for_each(|part| self.collect(part)),
            Formula::Leaf(Leaf::Field { path, name, .. }) => {
                self.fields.insert(path.clone(), name.clone());
            }
            Formula::Leaf(Leaf::Peer { blocks, text }) => {
                self.peers.insert(blocks.clone(), text.clone());
            }
            Formula::Leaf(_) => {}
        }
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, bit: &Bit) -> fmt::Result {
        match bit {
            Bit::Field { path, test } => {
                let name = self.fields.get(path).map_or("request", String::as_str);
                match test {
                    Test::Has => write!(f, "has({name})"),
                    Test::Number(_, Number::Bool) => f.write_str(name),
                    Test::Number(ranges, number) => predicate::show_ranges(f, name, ranges, *number),
                    Test::Size(ranges) => predicate::show_ranges(f, &format!("size({name})"), ranges, SIZE),
                    Test::Text(text) => predicate::show_text(f, name, text),
                }
            }
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
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        struct Shown<'a>(&'a Names, &'a Bit);
        impl fmt::Display for Shown<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.write(f, self.1)
            }
        }
        for (i, clause) in self.clauses.iter().enumerate() {
            if i > 0 {
                f.write_str("\n|| ")?;
            }
            if clause.is_empty() {
                f.write_str("true")?;
            }
            for (j, (bit, value)) in clause.iter().enumerate() {
                if j > 0 {
                    f.write_str(" && ")?;
                }
                let shown = Shown(&self.names, bit).to_string();
                match value {
                    true => f.write_str(&shown)?,
                    false => write!(f, "!({shown})")?,
                }
            }
        }
        Ok(())
    }
}
