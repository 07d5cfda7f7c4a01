//! Stage 5, decisions to the bits that the kernel has to keep: those of rules, those of elements, and counters.

use std::collections::{BTreeMap, BTreeSet};

use super::decide::{Bit, Clause};
use super::elements::KEY;
use super::predicate::{Ranges, Test};

/// The bits that the rules of a method need.
#[derive(Default)]
pub struct Needs<'a> {
    /// With the repeated field whose element they are about; the request's own are under none.
    bits: BTreeSet<(Vec<u32>, Bit)>,
    /// By repeated field or map: the sizes that are compared, and whether distinct keys count.
    counts: BTreeMap<&'a [u32], (bool, Vec<&'a Ranges>)>,
}

/// What one value of an element must be for a clause to hold, if that is all that it says. Such a clause needs no
/// program: the value itself sets the result, and no later element takes it back.
pub fn at_once(path: &[u32], clause: &Clause) -> Option<Test> {
    let own = |bit: &Bit| matches!(bit, Bit::Field { path: of, .. } if of == path);
    if clause.is_empty() || !clause.keys().all(own) {
        return None;
    }
    let mut numbers: Option<(Ranges, super::predicate::Number)> = None;
    for (bit, value) in clause {
        let Bit::Field { test, .. } = bit else { return None };
        match test {
            Test::Number(ranges, number) if *value || !number.has_nan() => {
                let holds = if *value { ranges.clone() } else { ranges.complement() };
                let so_far = numbers.map_or_else(|| number.domain(), |(so_far, _)| so_far);
                numbers = Some((so_far.intersection(&holds), *number));
            }
            Test::Size(ranges) if clause.len() == 1 => {
                return Some(Test::Size(if *value { ranges.clone() } else { ranges.complement() }));
            }
            Test::Text(_) if *value && clause.len() == 1 => return Some(test.clone()),
            _ => return None,
        }
    }
    numbers.map(|(ranges, number)| Test::Number(ranges, number))
}

/// The number of elements at which what is said of it changes.
pub fn thresholds(sizes: &[&Ranges]) -> Vec<u64> {
    let mut out: Vec<u64> =
        sizes.iter().flat_map(|ranges| ranges.iter()).flat_map(|(low, high)| [low, high.wrapping_add(1)]).collect();
    // an element takes a byte, and a message has less than 2^32
    out.retain(|at| *at > 0 && *at <= u64::from(u32::MAX));
    out.sort_unstable();
    out.dedup();
    out
}

impl<'a> Needs<'a> {
    /// The bits behind those that rules look at.
    pub fn new(bits: &[&'a Bit]) -> Needs<'a> {
        let mut needs = Needs::default();
        bits.iter().for_each(|bit| needs.add(&[], bit));
        needs
    }

    fn add(&mut self, owner: &[u32], bit: &'a Bit) {
        if !self.bits.insert((owner.to_vec(), bit.clone())) {
            return;
        }
        match bit {
            Bit::Exists { path, clauses } => {
                for clause in clauses.iter().filter(|clause| at_once(path, clause).is_none()) {
                    clause.keys().for_each(|bit| self.add(path, bit));
                }
            }
            Bit::Entry { path, key, clauses } => {
                self.bits.insert((path.clone(), key_bit(path, key)));
                clauses.iter().flat_map(BTreeMap::keys).for_each(|bit| self.add(path, bit));
            }
            Bit::Count { path, distinct, ranges } => {
                self.counts.entry(path).or_insert_with(|| (*distinct, Vec::new())).1.push(ranges);
                self.bits.insert((owner.to_vec(), Bit::Counter { path: path.clone() }));
            }
            _ => {}
        }
    }

    /// Every bit.
    pub fn bits(&self) -> impl Iterator<Item = &Bit> {
        self.bits.iter().map(|(_, bit)| bit)
    }

    /// How many predicates there are.
    pub fn predicates(&self) -> usize {
        self.bits().filter(|bit| !matches!(bit, Bit::Counter { .. })).count()
    }

    /// The sizes of a repeated field that are compared.
    pub fn sizes(&self, path: &[u32]) -> &[&'a Ranges] {
        self.counts.get(path).map_or(&[], |(_, sizes)| sizes)
    }

    /// What should share a word, with the width of each.
    pub fn groups(&self) -> Vec<Vec<(Bit, u32)>> {
        let mut groups: BTreeMap<_, Vec<(Bit, u32)>> = BTreeMap::new();
        for (owner, bit) in &self.bits {
            let (path, width): (&[u32], u32) = match bit {
                Bit::Counter { path } => {
                    let most = thresholds(self.sizes(path)).last().copied().unwrap_or(1);
                    (path, 64 - most.leading_zeros())
                }
                Bit::Field { path, .. }
                | Bit::Exists { path, .. }
                | Bit::Entry { path, .. }
                | Bit::Count { path, .. } => (path, 1),
                _ => continue,
            };
            // the bits of one element are tested together
            let path = if owner.is_empty() { path } else { &[] };
            groups.entry((owner.as_slice(), path)).or_default().push((bit.clone(), width));
        }
        groups.into_values().collect()
    }
}

/// That an entry's key is this one.
pub fn key_bit(path: &[u32], key: &Test) -> Bit {
    Bit::Field { path: [path, &[KEY]].concat(), test: key.clone() }
}
