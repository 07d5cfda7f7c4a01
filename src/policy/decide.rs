//! Stage 4, formulas to clauses: which bits there are, and a rule as a disjunction of conjunctions of them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::LazyLock;

use super::Action;
use super::automata;
use super::cel::{Leaf, Side};
use super::predicate::{Formula, Number, Ranges, Test, Text};
use super::resolve::Block;
use super::show::Names;
use crate::abi;

/// One predicate result.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Bit {
    /// A test of a field: of the request, or of the element that the clause speaks of.
    Field { path: Vec<u32>, test: Test },
    /// Some element of the repeated field (some entry of the map) satisfies one of the clauses.
    Exists { path: Vec<u32>, clauses: Vec<Clause> },
    /// The last entry of the map with this key satisfies one of the clauses.
    Entry { path: Vec<u32>, key: Test, clauses: Vec<Clause> },
    /// How many elements there are, or distinct keys.
    Count { path: Vec<u32>, distinct: bool, ranges: Ranges },
    /// Not a predicate: where the elements are counted.
    Counter { path: Vec<u32> },
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
        matches!(
            self,
            Bit::Field { .. } | Bit::Exists { .. } | Bit::Entry { .. } | Bit::Count { .. } | Bit::Counter { .. }
        )
    }

    /// Calls `each` with the bit and all that it is made of.
    pub fn walk<'a>(&'a self, each: &mut dyn FnMut(&'a Bit)) {
        each(self);
        if let Bit::Exists { clauses, .. } | Bit::Entry { clauses, .. } = self {
            clauses.iter().flat_map(BTreeMap::keys).for_each(|bit| bit.walk(each));
        }
    }
}

/// Bits that are set, and bits that are not.
pub type Clause = BTreeMap<Bit, bool>;

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

    /// Normalises a rule's formula over the messages of a side.
    pub fn new(formula: &Formula<Leaf>, action: Action, side: Side) -> Result<Decision, Useless> {
        let mut names = Names::new(side);
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

    /// Every bit that is looked at, those of elements too.
    pub fn all_bits(&self) -> BTreeSet<&Bit> {
        let mut out = BTreeSet::new();
        self.bits().for_each(|bit| {
            bit.walk(&mut |bit| {
                out.insert(bit);
            });
        });
        out
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
fn leaf(leaf: &Leaf, action: Action, positive: bool) -> Result<Vec<Clause>, Useless> {
    let one = |bit, value| Clause::from([(bit, value)]);
    Ok(match leaf {
        Leaf::Field { at, test, .. } => vec![one(Bit::Field { path: at.path.clone(), test: test.clone() }, positive)],
        Leaf::Exists { at, body, .. } => match inner(body, action)? {
            None => constant(false, positive),
            Some(clauses) => vec![one(Bit::Exists { path: at.path.clone(), clauses }, positive)],
        },
        Leaf::Entry { at, key, body } => match inner(body, action)? {
            None => constant(false, positive),
            Some(clauses) => {
                vec![one(Bit::Entry { path: at.path.clone(), key: key.clone(), clauses }, positive)]
            }
        },
        Leaf::Count { at, distinct, ranges } => {
            let bit = Bit::Count { path: at.path.clone(), distinct: *distinct, ranges: ranges.clone() };
            vec![one(bit, positive)]
        }
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
    })
}

fn constant(value: bool, positive: bool) -> Vec<Clause> {
    if value == positive { vec![Clause::new()] } else { Vec::new() }
}

/// What must hold of one element; none if nothing can. What always holds is one empty clause.
fn inner(body: &Formula<Leaf>, action: Action) -> Result<Option<Vec<Clause>>, Useless> {
    let mut clauses = satisfiable(clauses(body, action, true)?);
    if clauses.is_empty() {
        return Ok(None);
    }
    if clauses.iter().any(Clause::is_empty) || is_tautology(&clauses) {
        return Ok(Some(vec![Clause::new()]));
    }
    clauses = absorb(clauses);
    clauses.sort();
    Ok(Some(clauses))
}

/// A formula, or (not `positive`) its negation, as a disjunction of conjunctions.
pub fn clauses(formula: &Formula<Leaf>, action: Action, positive: bool) -> Result<Vec<Clause>, Useless> {
    match formula {
        Formula::Const(value) => Ok(constant(*value, positive)),
        Formula::Leaf(it) => leaf(it, action, positive),
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
/// Sizes that are not 0.
static SOME: LazyLock<Ranges> = LazyLock::new(|| Ranges::of(1, u64::MAX));

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
    let mut counts: HashMap<&[u32], Demands> = HashMap::new();
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
            Bit::Count { path, ranges, .. } => counts.entry(path).or_default().sizes.push((ranges, SIZE, value)),
            Bit::Exists { path, .. } if value => {
                counts.entry(path).or_default().sizes.push((&SOME, SIZE, true));
            }
            Bit::Exists { path, clauses } if clauses.iter().any(Clause::is_empty) => {
                counts.entry(path).or_default().sizes.push((&SOME, SIZE, false));
            }
            Bit::Exists { .. } | Bit::Entry { .. } | Bit::Counter { .. } => {}
            Bit::Present { .. } | Bit::Peer { .. } => {}
        }
    }
    counts.values().any(Demands::impossible) || port.impossible() || fields.values().any(Demands::impossible)
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
