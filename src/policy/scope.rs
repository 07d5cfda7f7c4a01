//! Stage 5, bits to words: where each predicate result lives, and the rows that write it.

use std::collections::{BTreeMap, HashMap};

use super::decide::Bit;
use super::predicate::Ranges;
use crate::abi;

/// A bit's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    pub word: u32,
    pub mask: u64,
}

/// Where the bits of one scope are.
#[derive(Debug, Clone, Default)]
pub struct Layout {
    places: HashMap<Bit, Place>,
    /// By word, from the scope's first: how many bits are taken.
    taken: Vec<u32>,
    first: u32,
}

impl Layout {
    /// Lays out groups of bits; those of one group share a word if it has 64 or fewer. None if they don't fit.
    pub fn new(groups: Vec<Vec<Bit>>, first: u32) -> Option<Layout> {
        let wide = |group: Vec<Bit>| group.into_iter().map(|bit| (bit, 1)).collect();
        Layout::of(groups.into_iter().map(wide).collect(), first)
    }

    /// The same of results that have more than one bit each: counters.
    pub fn of(groups: Vec<Vec<(Bit, u32)>>, first: u32) -> Option<Layout> {
        let mut layout = Layout { first, ..Layout::default() };
        for group in groups {
            let mut chunk: Vec<(Bit, u32)> = Vec::new();
            let mut size = 0;
            for (bit, width) in group {
                if size + width > 64 {
                    layout.put(std::mem::take(&mut chunk), size)?;
                    size = 0;
                }
                size += width;
                chunk.push((bit, width));
            }
            layout.put(chunk, size)?;
        }
        Some(layout)
    }

    /// Places bits in one word.
    fn put(&mut self, chunk: Vec<(Bit, u32)>, size: u32) -> Option<()> {
        let word = match self.taken.iter().position(|taken| taken + size <= 64) {
            Some(word) => word,
            None => {
                self.taken.push(0);
                self.taken.len() - 1
            }
        };
        if word >= abi::PG_MAX_SCOPE_WORDS as usize {
            return None;
        }
        let taken = self.taken.get_mut(word)?;
        for (bit, width) in chunk {
            let mask = (u64::MAX >> (64 - width)) << *taken;
            self.places.insert(bit, Place { word: self.first + u32::try_from(word).ok()?, mask });
            *taken += width;
        }
        Some(())
    }

    /// Where a bit is.
    pub fn place(&self, bit: &Bit) -> Option<Place> {
        self.places.get(bit).copied()
    }

    /// The words in use.
    pub fn words(&self) -> impl Iterator<Item = u32> {
        let count = u32::try_from(self.taken.len()).unwrap_or(0);
        self.first..self.first + count
    }
}

/// Writes to words, each once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Writes(BTreeMap<u32, (u64, u64)>);

impl Writes {
    /// Sets a bit; whatever else is in its word stays.
    pub fn set(&mut self, place: Place) {
        self.0.entry(place.word).or_default().1 |= place.mask;
    }

    /// Makes a bit this value.
    pub fn assign(&mut self, place: Place, value: bool) {
        let entry = self.0.entry(place.word).or_default();
        entry.0 |= place.mask;
        entry.1 = if value { entry.1 | place.mask } else { entry.1 & !place.mask };
    }

    /// Clears a word before anything else is written to it.
    pub fn clear(&mut self, word: u32) {
        self.0.entry(word).or_default().0 = u64::MAX;
    }

    /// Whether it sets anything.
    pub fn sets(&self) -> bool {
        self.0.values().any(|(_, value)| *value != 0)
    }
}

/// The table of rows, each row once.
pub struct Rows {
    pub ops: Vec<abi::pg_op>,
    known: HashMap<Writes, u32>,
}

impl Default for Rows {
    fn default() -> Rows {
        let unused = abi::pg_op { flags: abi::PG_OP_LAST, ..Default::default() };
        Rows { ops: vec![unused], known: HashMap::new() }
    }
}

impl Rows {
    /// The row that does these writes; 0 if there are none.
    pub fn row(&mut self, writes: &Writes) -> u32 {
        if writes.0.is_empty() {
            return 0;
        }
        if let Some(row) = self.known.get(writes) {
            return *row;
        }
        let row = u32::try_from(self.ops.len()).unwrap_or(0);
        for (word, (mask, value)) in &writes.0 {
            self.ops.push(abi::pg_op { word: *word, flags: 0, mask: *mask, value: *value });
        }
        if let Some(last) = self.ops.last_mut() {
            last.flags = abi::PG_OP_LAST;
        }
        self.known.insert(writes.clone(), row);
        row
    }

    /// The op that says where a counter is (`pg_field.counter`).
    pub fn counter(&mut self, place: Place) -> u32 {
        let value = 1 << place.mask.trailing_zeros();
        self.ops.push(abi::pg_op { word: place.word, flags: abi::PG_OP_LAST, mask: place.mask, value });
        u32::try_from(self.ops.len() - 1).unwrap_or(0)
    }
}

/// The table of bounds.
#[derive(Default)]
pub struct Bounds {
    pub table: Vec<abi::pg_bound>,
    known: HashMap<Vec<(u64, u32, u32)>, u32>,
}

impl Bounds {
    /// Bounds that set each place whose ranges hold the key: the first and how many; none for no tests. Keys that are not
    /// `allowed` are refused.
    pub fn add(&mut self, tests: &[(Ranges, Place)], allowed: Option<&Ranges>, rows: &mut Rows) -> (u32, u32) {
        if tests.is_empty() && allowed.is_none() {
            return (0, 0);
        }
        let mut starts: Vec<u64> = vec![0];
        for ranges in tests.iter().map(|(ranges, _)| ranges).chain(allowed) {
            starts.extend(ranges.iter().map(|(low, _)| low));
            starts.extend(ranges.iter().filter_map(|(_, high)| high.checked_add(1)));
        }
        starts.sort_unstable();
        starts.dedup();
        let ends = starts.iter().skip(1).map(|start| start - 1).chain([u64::MAX]);
        let mut bounds: Vec<(u64, u32, u32)> = Vec::new();
        for (start, end) in starts.iter().zip(ends) {
            let mut writes = Writes::default();
            for (_, place) in tests.iter().filter(|(ranges, _)| ranges.contains(*start)) {
                writes.set(*place);
            }
            let refused = allowed.is_some_and(|allowed| !allowed.contains(*start));
            let row = if refused { abi::PG_ROW_REFUSED } else { rows.row(&writes) };
            match bounds.last_mut() {
                // a single key shares the bound of the run below it
                Some((key, below, equal)) if *start == end && below == equal => (*key, *equal) = (end, row),
                _ => bounds.push((end, row, row)),
            }
        }
        let count = u32::try_from(bounds.len()).unwrap_or(0);
        let table = &mut self.table;
        let first = *self.known.entry(bounds.clone()).or_insert_with(|| {
            let first = u32::try_from(table.len()).unwrap_or(0);
            table.extend(bounds.iter().map(|(key, below, equal)| abi::pg_bound {
                key: *key,
                below: *below,
                equal: *equal,
            }));
            first
        });
        (first, count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_decide_every_key_as_the_ranges_do() {
        let sets = [
            Ranges::of(5, 5),
            Ranges::of(0, 4),
            Ranges::of(7, u64::MAX),
            Ranges::of(u64::MAX, u64::MAX),
            Ranges::of(6, 6).union(&Ranges::of(8, 9)),
        ];
        let tests: Vec<(Ranges, Place)> =
            sets.into_iter().enumerate().map(|(i, set)| (set, Place { word: 16, mask: 1 << i })).collect();
        let (mut bounds, mut rows) = (Bounds::default(), Rows::default());
        let (first, count) = bounds.add(&tests, None, &mut rows);
        let table = &bounds.table[first as usize..(first + count) as usize];
        assert_eq!(table.last().unwrap().key, u64::MAX);
        assert!(table.is_sorted_by(|a, b| a.key < b.key));
        for key in (0..12).chain([u64::MAX - 1, u64::MAX]) {
            let bound = table.iter().find(|bound| bound.key >= key).unwrap();
            let row = if bound.key == key { bound.equal } else { bound.below };
            let got = if row == 0 { 0 } else { rows.ops[row as usize].value };
            let want = tests.iter().filter(|(set, _)| set.contains(key)).fold(0, |bits, (_, place)| bits | place.mask);
            assert_eq!(got, want, "{key}");
        }
    }

    #[test]
    fn a_scope_of_a_thousand_bits_fits_and_one_more_does_not() {
        let bits = |count: u64| (0..count).map(|i| Bit::Port(Ranges::of(i, i))).collect::<Vec<_>>();
        assert!(Layout::new(vec![bits(1024)], 0).is_some());
        assert!(Layout::new(vec![bits(1025)], 0).is_none());
        let layout = Layout::new(vec![bits(40), vec![Bit::Present { key: "k".into() }]], 16).unwrap();
        assert_eq!(layout.place(&Bit::Present { key: "k".into() }), Some(Place { word: 16, mask: 1 << 40 }));
    }
}
