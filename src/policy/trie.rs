//! Stage 5, texts to a double-array trie: paths and header names, one byte a step.

use std::collections::BTreeMap;

use crate::abi;

/// What a text leads to: the ids that end there, as the table has them (id + 1).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ends {
    pub exact: u32,
    pub prefix: u32,
}

/// The table, and its free cells as a list (cell 0 is its head).
pub struct Tries {
    cells: Vec<abi::pg_trie>,
    next: Vec<u32>,
    before: Vec<u32>,
}

/// Cells below this stay free: so close to the table's start, no base could put a high byte there.
const UNUSED: u32 = 256;

impl Default for Tries {
    fn default() -> Tries {
        let unused = UNUSED as usize;
        Tries { cells: vec![abi::pg_trie::default(); unused], next: vec![0; unused], before: vec![0; unused] }
    }
}

fn get(list: &[u32], index: u32) -> u32 {
    list.get(index as usize).copied().unwrap_or(0)
}

fn put(list: &mut [u32], index: u32, value: u32) {
    if let Some(slot) = list.get_mut(index as usize) {
        *slot = value;
    }
}

impl Tries {
    /// Adds a trie and returns its root.
    pub fn add(&mut self, texts: &BTreeMap<Vec<u8>, Ends>) -> u32 {
        let root = self.length();
        self.reach(root);
        self.take(root, root);
        let sorted: Vec<(&[u8], Ends)> = texts.iter().map(|(text, ends)| (text.as_slice(), *ends)).collect();
        // (state, depth, the texts that pass through it)
        let mut open = vec![(root, 0usize, 0usize, sorted.len())];
        while let Some((state, depth, mut from, to)) = open.pop() {
            if let Some((text, ends)) = sorted.get(from)
                && text.len() == depth
            {
                if let Some(cell) = self.cells.get_mut(state as usize) {
                    (cell.exact, cell.prefix) = (ends.exact, ends.prefix);
                }
                from += 1;
            }
            let mut children: Vec<(u8, usize, usize)> = Vec::new();
            for i in from..to {
                let Some(byte) = sorted.get(i).and_then(|(text, _)| text.get(depth)) else { continue };
                match children.last_mut() {
                    Some((last, _, end)) if last == byte => *end = i + 1,
                    _ => children.push((*byte, i, i + 1)),
                }
            }
            if children.is_empty() && state != root {
                continue;
            }
            let base = self.base(&children, if state == root { root } else { 0 });
            if let Some(cell) = self.cells.get_mut(state as usize) {
                cell.base = base;
            }
            for (byte, from, to) in children {
                let child = base + u32::from(byte);
                self.take(child, state);
                open.push((child, depth + 1, from, to));
            }
        }
        root
    }

    /// The table; every byte from every state stays within it or past its end.
    pub fn finish(self) -> Vec<abi::pg_trie> {
        self.cells
    }

    fn length(&self) -> u32 {
        u32::try_from(self.cells.len()).unwrap_or(u32::MAX)
    }

    /// Grows the table so that `cell` exists; new cells are free, at the end of the list.
    fn reach(&mut self, cell: u32) {
        while self.length() <= cell {
            let fresh = self.length();
            let last = get(&self.before, 0);
            self.cells.push(abi::pg_trie::default());
            self.next.push(0);
            self.before.push(last);
            put(&mut self.next, last, fresh);
            put(&mut self.before, 0, fresh);
        }
    }

    fn take(&mut self, cell: u32, parent: u32) {
        self.reach(cell);
        let (before, next) = (get(&self.before, cell), get(&self.next, cell));
        put(&mut self.next, before, next);
        put(&mut self.before, next, before);
        if let Some(slot) = self.cells.get_mut(cell as usize) {
            slot.check = parent;
        }
    }

    fn is_free(&self, cell: u32) -> bool {
        self.cells.get(cell as usize).is_none_or(|slot| slot.check == 0) && cell >= UNUSED
    }

    /// A base whose cells for all children are free. It is past `floor`, so that no byte leads a root to itself.
    fn base(&self, children: &[(u8, usize, usize)], floor: u32) -> u32 {
        const PATIENCE: usize = 64;
        let Some((first, _, _)) = children.first() else { return floor + 1 };
        let first = u32::from(*first);
        let mut cell = get(&self.next, 0);
        for _ in 0..PATIENCE {
            if cell == 0 {
                break;
            }
            if let Some(base) = cell.checked_sub(first)
                && base > floor
                && children.iter().all(|(byte, _, _)| self.is_free(base + u32::from(*byte)))
            {
                return base;
            }
            cell = get(&self.next, cell);
        }
        self.length().saturating_sub(first).max(floor + 1)
    }
}

/// Follows a text, as the engine does: the id of the text, and of the longest prefix of it.
#[cfg(test)]
pub fn walk(cells: &[abi::pg_trie], root: u32, text: &[u8]) -> Ends {
    let mut state = root;
    let mut best = Ends { exact: 0, prefix: cells[state as usize].prefix };
    for byte in text {
        let to = cells[state as usize].base + u32::from(*byte);
        if cells.get(to as usize).is_none_or(|cell| cell.check != state) {
            return Ends { exact: 0, ..best };
        }
        state = to;
        let cell = &cells[state as usize];
        if cell.prefix != 0 {
            best.prefix = cell.prefix;
        }
    }
    best.exact = cells[state as usize].exact;
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(texts: &[&[u8]]) -> (Vec<abi::pg_trie>, u32) {
        let mut tries = Tries::default();
        let names: BTreeMap<Vec<u8>, Ends> = [(b"other".to_vec(), Ends { exact: 9, prefix: 0 })].into();
        tries.add(&names);
        let map = texts.iter().enumerate().map(|(i, text)| (text.to_vec(), Ends { exact: i as u32 + 1, prefix: 0 }));
        let root = tries.add(&map.collect());
        (tries.finish(), root)
    }

    #[test]
    fn every_text_is_found_and_nothing_else() {
        let texts: Vec<Vec<u8>> =
            (0..2000u32).map(|i| format!("/pkg{}.Svc{}/M{i}", i % 7, i % 31).into_bytes()).collect();
        let refs: Vec<&[u8]> = texts.iter().map(Vec::as_slice).collect();
        let (cells, root) = build(&refs);
        for (i, text) in texts.iter().enumerate() {
            assert_eq!(walk(&cells, root, text).exact, i as u32 + 1);
            assert_eq!(
                walk(&cells, root, &text[..text.len() - 1]).exact != 0,
                texts.contains(&text[..text.len() - 1].to_vec())
            );
            let mut longer = text.clone();
            longer.push(b'x');
            assert_eq!(walk(&cells, root, &longer).exact, 0);
        }
        assert_eq!(walk(&cells, root, b"other").exact, 0);
    }

    #[test]
    fn every_byte_may_stand_anywhere() {
        let texts: Vec<Vec<u8>> = (0..=255u8).flat_map(|a| [vec![a], vec![a, 0], vec![0, 255, a]]).collect();
        let map: BTreeMap<Vec<u8>, Ends> =
            texts.iter().enumerate().map(|(i, t)| (t.clone(), Ends { exact: i as u32 + 1, prefix: 0 })).collect();
        let mut tries = Tries::default();
        let root = tries.add(&map);
        let cells = tries.finish();
        assert_eq!(cells[root as usize].check, root);
        assert_eq!(cells[0].check, 0);
        for a in 0..=255u8 {
            for b in 0..=255u8 {
                let want = map.get(&vec![a, b]).map_or(0, |ends| ends.exact);
                assert_eq!(walk(&cells, root, &[a, b]).exact, want, "{a} {b}");
            }
            assert_eq!(walk(&cells, root, &[a]).exact, map[&vec![a]].exact);
        }
    }

    #[test]
    fn an_empty_trie_leads_nowhere() {
        let mut tries = Tries::default();
        let root = tries.add(&BTreeMap::new());
        let cells = tries.finish();
        for byte in 0..=255u8 {
            assert_eq!(walk(&cells, root, &[byte]), Ends::default());
        }
    }
}
