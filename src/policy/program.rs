//! Stage 5, what is said of a repeated field or a map as a whole to what the engine does at each element's end.

use std::collections::BTreeMap;

use super::decide::{Bit, Clause};
use super::needs::{at_once, key_bit, thresholds};
use super::predicate::{Ranges, Test};
use super::scope::{Layout, Place, Writes};
use super::tables::{Assembly, Words};

/// What rules say of one repeated field or map.
#[derive(Default)]
pub struct Elements {
    path: Vec<u32>,
    /// Set by any element.
    pub any: Vec<Place>,
    /// Set by a value that satisfies the test.
    pub at_once: Vec<(Test, Place)>,
    /// Set by an element that satisfies the clause.
    some: Vec<(Clause, Place)>,
    /// What the last entry with the key says.
    entries: Vec<(Test, Vec<Clause>, Place)>,
    counts: Vec<(Ranges, Place)>,
    pub counter: Option<Place>,
    /// Of a map: its distinct keys are counted.
    pub distinct: bool,
    /// All results.
    results: Vec<Place>,
    /// One of the predicates.
    pub example: Option<Bit>,
}

impl Elements {
    /// Adds a predicate about it.
    pub fn add(&mut self, bit: &Bit, place: Place) {
        if !matches!(bit, Bit::Counter { .. }) {
            self.example.get_or_insert_with(|| bit.clone());
        }
        match bit {
            Bit::Exists { path, clauses } => {
                self.path.clone_from(path);
                self.results.push(place);
                for clause in clauses {
                    if clause.is_empty() {
                        self.any.push(place);
                    } else if let Some(test) = at_once(path, clause) {
                        self.at_once.push((test, place));
                    } else {
                        self.some.push((clause.clone(), place));
                    }
                }
            }
            Bit::Entry { path, key, clauses } => {
                self.path.clone_from(path);
                self.results.push(place);
                self.entries.push((key.clone(), clauses.clone(), place));
            }
            Bit::Count { distinct, ranges, .. } => {
                self.distinct |= distinct;
                self.counts.push((ranges.clone(), place));
            }
            Bit::Counter { .. } => self.counter = Some(place),
            _ => {}
        }
    }

    /// Whether rules say nothing of it.
    pub fn is_empty(&self) -> bool {
        self.results.is_empty() && self.counts.is_empty()
    }

    fn sizes(&self) -> Vec<&Ranges> {
        self.counts.iter().map(|(ranges, _)| ranges).collect()
    }

    /// The most that is counted to.
    pub fn most(&self) -> u32 {
        thresholds(&self.sizes()).last().and_then(|most| u32::try_from(*most).ok()).unwrap_or(1)
    }

    /// The bits where there are no elements.
    pub fn absent(&self, writes: &mut Writes) {
        self.results.iter().for_each(|place| writes.assign(*place, false));
        self.counts.iter().for_each(|(ranges, place)| writes.assign(*place, ranges.contains(0)));
        if let Some(counter) = self.counter {
            writes.assign(counter, false);
        }
    }

    /// The program: what to expect, and the row to apply then, in order.
    pub fn steps(&self, layout: &Layout, tables: &mut Assembly) -> Vec<(Words, u32)> {
        let mut steps: Vec<(Words, u32)> = Vec::new();
        let mut set: BTreeMap<&Clause, Writes> = BTreeMap::new();
        for (clause, place) in &self.some {
            set.entry(clause).or_default().set(*place);
        }
        for (clause, writes) in set {
            steps.push((words(layout, clause), tables.rows.row(&writes)));
        }
        // the last entry of a key wins: first what those before have said is taken back
        let mut forget: BTreeMap<&Test, Writes> = BTreeMap::new();
        for (key, _, place) in &self.entries {
            forget.entry(key).or_default().assign(*place, false);
        }
        let with_key = |key: &Test, clause: &Clause| {
            let mut words = words(layout, clause);
            if let Some(place) = layout.place(&key_bit(&self.path, key)) {
                words.expect(place, place.mask);
            }
            words
        };
        for (key, writes) in forget {
            steps.push((with_key(key, &Clause::new()), tables.rows.row(&writes)));
        }
        let mut set: BTreeMap<(&Test, &Clause), Writes> = BTreeMap::new();
        for (key, clauses, place) in &self.entries {
            for clause in clauses {
                set.entry((key, clause)).or_default().set(*place);
            }
        }
        for ((key, clause), writes) in set {
            steps.push((with_key(key, clause), tables.rows.row(&writes)));
        }
        if let Some(counter) = self.counter {
            for at in thresholds(&self.sizes()) {
                let mut writes = Writes::default();
                self.counts.iter().for_each(|(ranges, place)| writes.assign(*place, ranges.contains(at)));
                let mut words = Words::new();
                words.expect(counter, at << counter.mask.trailing_zeros());
                steps.push((words, tables.rows.row(&writes)));
            }
        }
        steps
    }
}

fn words(layout: &Layout, clause: &Clause) -> Words {
    Words::clause(clause, |bit| layout.place(bit))
}
