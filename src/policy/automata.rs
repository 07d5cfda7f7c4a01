//! Stage 5, text tests to automata: every test of one field (or metadata key) in as few byte automata as fit.
//!
//! Literals become one automaton whose size is the sum of their lengths: a trie for what is anchored at the start,
//! whose every way out leads into an Aho-Corasick automaton for what is not. Patterns become dense DFAs, together
//! where their union stays small.

use std::collections::{BTreeMap, HashMap, VecDeque};

use regex_automata::dfa::{Automaton as _, StartKind, dense};
use regex_automata::nfa::thompson::{self, WhichCaptures};
use regex_automata::{Anchored, Input, MatchKind};
use regex_syntax::hir::{Class, ClassBytes, ClassBytesRange, Hir, Look, Repetition};

use super::predicate::{Ranges, Text};
use super::re2;
use crate::abi;

/// Which tests a state speaks for.
type Tests = Vec<usize>;

/// Why tests have no automaton.
#[derive(Debug, PartialEq, Eq)]
pub struct TooLarge {
    /// The test that is too large alone.
    pub test: Option<usize>,
    /// What is too large.
    pub message: String,
}

/// When an automaton says what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    /// As soon as a test holds whatever follows, else at the end.
    OnTheWay,
    /// At the end only: the final state says all.
    AtTheEnd,
}

/// One automaton, states numbered by their row: those with something to say on entering come last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Automaton {
    pub classes: [u8; 256],
    pub stride_log2: u32,
    /// Rows of `1 << stride_log2`; states are multiples of that.
    pub trans: Vec<u32>,
    pub start: u32,
    pub first_out: u32,
    pub states: usize,
    /// By state: the tests that hold from here on.
    pub enter: Vec<Tests>,
    /// By state: the tests that hold if the value ends here.
    pub end: Vec<Tests>,
}

impl Automaton {
    /// Bytes of the transition table.
    pub fn bytes(&self) -> usize {
        self.trans.len() * 4
    }

    /// By state: which bytes lead out of it, where they are few (`pg_out.stay`).
    pub fn stays(&self) -> Vec<u32> {
        let mut bytes: Vec<Vec<u8>> = vec![Vec::new(); 1 << self.stride_log2];
        for (byte, class) in (0..=u8::MAX).zip(self.classes) {
            if let Some(of) = bytes.get_mut(usize::from(class)) {
                of.push(byte);
            }
        }
        let rows = self.trans.chunks(1 << self.stride_log2).zip(&self.enter).zip(0u32..);
        rows.map(|((row, enter), number)| {
            let state = number << self.stride_log2;
            if state == self.start && !enter.is_empty() {
                return 0; // it has not been entered yet
            }
            let ways = row.iter().zip(&bytes).filter(|(to, _)| **to != state);
            match *ways.flat_map(|(_, bytes)| bytes).copied().take(4).collect::<Vec<u8>>() {
                [] => abi::PG_STAY_ALWAYS,
                [a] => stay_but(a, a, a),
                [a, b] => stay_but(a, b, b),
                [a, b, c] => stay_but(a, b, c),
                _ => 0,
            }
        })
        .collect()
    }

    /// The state that a value ends in.
    pub fn run(&self, value: &[u8]) -> u32 {
        value.iter().fold(self.start, |state, byte| {
            let class = self.classes.get(usize::from(*byte)).copied().unwrap_or(0);
            self.trans.get(state as usize + usize::from(class)).copied().unwrap_or(0)
        })
    }
}

/// Whether a test holds for a value.
pub fn holds(test: &Text, value: &[u8]) -> bool {
    match test {
        Text::In(set) => set.iter().any(|one| one == value),
        Text::Prefix(text) => value.starts_with(text),
        Text::Suffix(text) => value.ends_with(text),
        Text::Contains(text) => value.windows(text.len().max(1)).any(|window| window == text.as_slice()),
        Text::Matches(pattern) => re2::hir(pattern)
            .ok()
            .and_then(|hir| regex_automata::meta::Builder::new().build_from_hir(&hir).ok())
            .is_some_and(|regex| regex.is_match(value)),
        Text::Size(ranges) => ranges.contains(value.iter().filter(|byte| !(0x80..0xc0).contains(*byte)).count() as u64),
        Text::Bytes(ranges) => ranges.contains(value.len() as u64),
    }
}

/// Builds the automata of one input's tests, at most `most`.
pub fn build(tests: &[Text], speaks: Speaks, most: usize) -> Result<Vec<Automaton>, TooLarge> {
    let is_literal = |test: &Text| match test {
        Text::In(_) | Text::Prefix(_) => true,
        Text::Contains(_) | Text::Suffix(_) => speaks == Speaks::OnTheWay,
        Text::Matches(_) | Text::Size(_) | Text::Bytes(_) => false,
    };
    let (literals, patterns): (Vec<usize>, Vec<usize>) =
        (0..tests.len()).partition(|i| tests.get(*i).is_some_and(is_literal));
    let mut out = Vec::new();
    if !literals.is_empty() {
        let chosen: Vec<(usize, &Text)> = literals.iter().filter_map(|i| Some((*i, tests.get(*i)?))).collect();
        out.push(literal_machine(&chosen, speaks).finish());
    }
    if !patterns.is_empty() {
        let hirs = patterns.iter().filter_map(|i| Some((*i, tests.get(*i)?))).map(|(i, test)| {
            let too_large = |message: String| TooLarge { test: Some(i), message };
            let hir = pattern_hir(test, speaks).map_err(too_large)?;
            let limit =
                if matches!(test, Text::Matches(_)) { abi::PG_MAX_AUTOMATON_BYTES } else { abi::PG_MAX_UNION_BYTES };
            match pattern_machine(&[(i, &hir)], speaks, limit as usize * 8) {
                Some(machine) if machine.bytes() <= limit as usize => Ok((i, hir)),
                _ => Err(too_large(format!("its automaton has more than {limit} bytes (limit AUTOMATON_BYTES)"))),
            }
        });
        let hirs: Vec<(usize, Hir)> = hirs.collect::<Result<_, _>>()?;
        let room = most.saturating_sub(out.len());
        let Some(machines) = (1..=room).find_map(|parts| split(&hirs, parts, speaks)) else {
            let message =
                format!("its automata have more than {} bytes together (limit UNION_BYTES)", abi::PG_MAX_UNION_BYTES);
            return Err(TooLarge { test: None, message });
        };
        out.extend(machines);
    }
    if out.iter().map(Automaton::bytes).sum::<usize>() > abi::PG_MAX_UNION_BYTES as usize {
        let message =
            format!("its automata have more than {} bytes together (limit UNION_BYTES)", abi::PG_MAX_UNION_BYTES);
        return Err(TooLarge { test: None, message });
    }
    Ok(out)
}

fn split(hirs: &[(usize, Hir)], parts: usize, speaks: Speaks) -> Option<Vec<Automaton>> {
    let limit = abi::PG_MAX_UNION_BYTES as usize / parts;
    let machines = hirs.chunks(hirs.len().div_ceil(parts)).map(|chunk| {
        let chunk: Vec<(usize, &Hir)> = chunk.iter().map(|(i, hir)| (*i, hir)).collect();
        pattern_machine(&chunk, speaks, limit).filter(|machine| machine.bytes() <= limit)
    });
    machines.collect()
}

/// An automaton while it is made: `next` has `width` entries a state, one for each class.
struct Machine {
    classes: [u8; 256],
    width: usize,
    next: Vec<u32>,
    start: u32,
    enter: Vec<Tests>,
    end: Vec<Tests>,
}

impl Machine {
    fn rows(&self) -> impl Iterator<Item = &[u32]> {
        self.next.chunks(self.width)
    }

    /// Merges states that nothing tells apart (Moore's algorithm).
    fn minimal(self) -> Machine {
        const WORTH: usize = 4096;
        if self.enter.len() > WORTH {
            return self;
        }
        let mut ids: HashMap<(&Tests, &Tests), u32> = HashMap::new();
        let mut of: Vec<u32> = Vec::with_capacity(self.enter.len());
        for key in self.enter.iter().zip(&self.end) {
            let fresh = number(ids.len());
            of.push(*ids.entry(key).or_insert(fresh));
        }
        let mut count = ids.len();
        loop {
            let mut ids: HashMap<Vec<u32>, u32> = HashMap::new();
            let mut refined = Vec::with_capacity(of.len());
            for (own, row) in of.iter().zip(self.rows()) {
                let key = std::iter::once(*own).chain(row.iter().map(|to| at(&of, *to))).collect();
                let fresh = number(ids.len());
                refined.push(*ids.entry(key).or_insert(fresh));
            }
            of = refined;
            if ids.len() == count {
                break;
            }
            count = ids.len();
        }
        let mut small =
            Machine { next: Vec::new(), enter: Vec::new(), end: Vec::new(), start: at(&of, self.start), ..self };
        for (i, row) in self.next.chunks(self.width).enumerate() {
            if of.get(i).copied() == Some(number(small.enter.len())) {
                small.next.extend(row.iter().map(|to| at(&of, *to)));
                small.enter.push(self.enter.get(i).cloned().unwrap_or_default());
                small.end.push(self.end.get(i).cloned().unwrap_or_default());
            }
        }
        small
    }

    fn finish(self) -> Automaton {
        let machine = self.minimal();
        let mut order: Vec<usize> = (0..machine.enter.len()).collect();
        order.sort_by_key(|i| machine.enter.get(*i).is_some_and(|tests| !tests.is_empty()));
        let mut place = vec![0u32; order.len()];
        for (new, old) in order.iter().enumerate() {
            if let Some(slot) = place.get_mut(*old) {
                *slot = number(new);
            }
        }
        let stride_log2 = machine.width.next_power_of_two().trailing_zeros();
        let stride = 1usize << stride_log2;
        let mut trans = Vec::with_capacity(order.len() * stride);
        let (mut enter, mut end) = (Vec::new(), Vec::new());
        for old in &order {
            let row = machine.next.get(old * machine.width..(old + 1) * machine.width).unwrap_or_default();
            trans.extend(row.iter().map(|to| at(&place, *to) << stride_log2));
            trans.resize(trans.len() + stride - row.len(), 0);
            enter.push(machine.enter.get(*old).cloned().unwrap_or_default());
            end.push(machine.end.get(*old).cloned().unwrap_or_default());
        }
        let quiet = enter.iter().take_while(|tests| tests.is_empty()).count();
        Automaton {
            classes: machine.classes,
            stride_log2,
            trans,
            start: at(&place, machine.start) << stride_log2,
            first_out: number(quiet) << stride_log2,
            states: order.len(),
            enter,
            end,
        }
    }
}

fn stay_but(a: u8, b: u8, c: u8) -> u32 {
    abi::PG_STAY_BUT | u32::from(a) << 8 | u32::from(b) << 16 | u32::from(c) << 24
}

fn number(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

fn at(list: &[u32], index: u32) -> u32 {
    list.get(index as usize).copied().unwrap_or(0)
}

/// A trie of literals over byte classes.
struct Trie {
    width: usize,
    next: Vec<Option<u32>>,
    /// By node: the tests whose literal ends here.
    here: Vec<Tests>,
    parents: Vec<u32>,
}

impl Trie {
    fn new(width: usize) -> Trie {
        Trie { width, next: vec![None; width], here: vec![Tests::new()], parents: vec![0] }
    }

    fn child(&self, node: u32, class: usize) -> Option<u32> {
        self.next.get(node as usize * self.width + class).copied().flatten()
    }

    fn add(&mut self, classes: &[u8; 256], literal: &[u8]) -> usize {
        let mut node = 0u32;
        for byte in literal {
            let class = usize::from(classes.get(usize::from(*byte)).copied().unwrap_or(0));
            node = match self.child(node, class) {
                Some(child) => child,
                None => {
                    let child = number(self.here.len());
                    if let Some(slot) = self.next.get_mut(node as usize * self.width + class) {
                        *slot = Some(child);
                    }
                    self.next.resize(self.next.len() + self.width, None);
                    self.here.push(Tests::new());
                    self.parents.push(node);
                    child
                }
            };
        }
        node as usize
    }

    fn mark(&mut self, node: usize, test: usize) {
        if let Some(tests) = self.here.get_mut(node)
            && !tests.contains(&test)
        {
            tests.push(test);
        }
    }
}

/// What a text may end with: Aho and Corasick's automaton, complete.
struct Floating {
    next: Vec<u32>,
    contains: Vec<Tests>,
    suffixes: Vec<Tests>,
}

impl Floating {
    fn new(trie: &Trie, contains: &Trie) -> Floating {
        let nodes = trie.here.len();
        let mut out = Floating {
            next: vec![0; nodes * trie.width],
            contains: contains.here.clone(),
            suffixes: trie.here.clone(),
        };
        out.contains.resize(nodes, Tests::new());
        let mut queue = VecDeque::from([(0u32, 0u32)]);
        while let Some((node, fail)) = queue.pop_front() {
            if node != fail {
                for tests in [&mut out.contains, &mut out.suffixes] {
                    let more = tests.get(fail as usize).cloned().unwrap_or_default();
                    if let Some(own) = tests.get_mut(node as usize) {
                        own.extend(more);
                        own.sort_unstable();
                        own.dedup();
                    }
                }
            }
            for class in 0..trie.width {
                let beside = if node == 0 { 0 } else { at(&out.next, fail * number(trie.width) + number(class)) };
                let to = match trie.child(node, class) {
                    Some(child) => {
                        queue.push_back((child, beside));
                        child
                    }
                    None => beside,
                };
                if let Some(slot) = out.next.get_mut(node as usize * trie.width + class) {
                    *slot = to;
                }
            }
        }
        out
    }
}

fn literal_machine(tests: &[(usize, &Text)], speaks: Speaks) -> Machine {
    let literals = |test: &Text| match test {
        Text::In(set) => set.clone(),
        Text::Prefix(text) | Text::Suffix(text) | Text::Contains(text) => vec![text.clone()],
        Text::Matches(_) | Text::Size(_) | Text::Bytes(_) => Vec::new(),
    };
    let mut classes = [0u8; 256];
    let mut used: Vec<u8> = tests.iter().flat_map(|(_, test)| literals(test)).flatten().collect();
    used.sort_unstable();
    used.dedup();
    let all = used.len() == 256; // then no byte is left for class 0, "any other"
    for (i, byte) in used.iter().enumerate() {
        if let Some(class) = classes.get_mut(usize::from(*byte)) {
            *class = u8::try_from(i + usize::from(!all)).unwrap_or(u8::MAX);
        }
    }
    let width = used.len() + usize::from(!all);
    let (mut equal, mut prefix) = (Trie::new(width), BTreeMap::<usize, Tests>::new());
    let (mut suffix, mut contains) = (Trie::new(width), Trie::new(width));
    for (i, test) in tests {
        for literal in literals(test) {
            match test {
                Text::In(_) => {
                    let node = equal.add(&classes, &literal);
                    equal.mark(node, *i);
                }
                Text::Prefix(_) => prefix.entry(equal.add(&classes, &literal)).or_default().push(*i),
                Text::Suffix(_) => {
                    let node = suffix.add(&classes, &literal);
                    contains.add(&classes, &literal);
                    suffix.mark(node, *i);
                }
                _ => {
                    let node = suffix.add(&classes, &literal);
                    contains.add(&classes, &literal);
                    contains.mark(node, *i);
                }
            }
        }
    }
    match speaks {
        Speaks::OnTheWay => on_the_way(&equal, &prefix, &Floating::new(&suffix, &contains), classes),
        Speaks::AtTheEnd => at_the_end(&equal, &prefix, classes),
    }
}

/// Anchored states are the trie's nodes; every way out of the trie leads to the floating state of the text so far.
fn on_the_way(equal: &Trie, prefix: &BTreeMap<usize, Tests>, floating: &Floating, classes: [u8; 256]) -> Machine {
    let width = equal.width;
    let anchored = number(equal.here.len());
    let mut machine = Machine { classes, width, next: Vec::new(), start: 0, enter: Vec::new(), end: Vec::new() };
    let mut beside = vec![0u32; equal.here.len()]; // the floating state of each node's text
    for (node, here) in equal.here.iter().enumerate() {
        let own = beside.get(node).copied().unwrap_or(0);
        for class in 0..width {
            let float = at(&floating.next, own * number(width) + number(class));
            match equal.child(number(node), class) {
                Some(child) => {
                    if let Some(slot) = beside.get_mut(child as usize) {
                        *slot = float; // children have higher numbers than their parents
                    }
                    machine.next.push(child);
                }
                None => machine.next.push(anchored + float),
            }
        }
        let contains = floating.contains.get(own as usize).cloned().unwrap_or_default();
        let suffixes = floating.suffixes.get(own as usize).cloned().unwrap_or_default();
        machine.enter.push(merge(contains, prefix.get(&node)));
        machine.end.push(merge(suffixes, Some(here)));
    }
    machine.next.extend(floating.next.iter().map(|to| anchored + to));
    machine.enter.extend(floating.contains.iter().cloned());
    machine.end.extend(floating.suffixes.iter().cloned());
    machine
}

/// Equality and prefixes only; outside the trie a state remembers the prefixes that were passed.
fn at_the_end(equal: &Trie, prefix: &BTreeMap<usize, Tests>, classes: [u8; 256]) -> Machine {
    let width = equal.width;
    let anchored = equal.here.len();
    let mut machine = Machine { classes, width, next: Vec::new(), start: 0, enter: Vec::new(), end: Vec::new() };
    let mut outside: Vec<Tests> = vec![Tests::new()];
    let mut outside_of = vec![0usize; anchored];
    for (node, here) in equal.here.iter().enumerate() {
        let parent = equal.parents.get(node).copied().unwrap_or(0) as usize;
        let mut own = outside_of.get(parent).copied().unwrap_or(0);
        if let Some(passed) = prefix.get(&node) {
            outside.push(merge(outside.get(own).cloned().unwrap_or_default(), Some(passed)));
            own = outside.len() - 1;
        }
        if let Some(slot) = outside_of.get_mut(node) {
            *slot = own;
        }
        for class in 0..width {
            machine.next.push(equal.child(number(node), class).unwrap_or_else(|| number(anchored + own)));
        }
        machine.end.push(merge(here.clone(), outside.get(own)));
    }
    for (i, passed) in outside.into_iter().enumerate() {
        machine.next.extend(std::iter::repeat_n(number(anchored + i), width));
        machine.end.push(passed);
    }
    machine.enter = vec![Tests::new(); machine.end.len()];
    machine
}

fn merge(mut tests: Tests, more: Option<&Tests>) -> Tests {
    tests.extend(more.into_iter().flatten());
    tests.sort_unstable();
    tests.dedup();
    tests
}

fn bytes_class(ranges: &[(u8, u8)]) -> Hir {
    Hir::class(Class::Bytes(ClassBytes::new(ranges.iter().map(|(a, b)| ClassBytesRange::new(*a, *b)))))
}

fn repeat(sub: Hir, min: u32, max: Option<u32>) -> Hir {
    Hir::repetition(Repetition { min, max, greedy: true, sub: Box::new(sub) })
}

fn pattern_hir(test: &Text, speaks: Speaks) -> Result<Hir, String> {
    let any = || repeat(bytes_class(&[(0, 255)]), 0, None);
    let literal = |text: &Vec<u8>| Hir::literal(text.clone());
    let whole = |parts: Vec<Hir>| {
        let ends = std::iter::once(Hir::look(Look::Start)).chain(parts).chain([Hir::look(Look::End)]);
        Hir::concat(ends.collect())
    };
    Ok(match test {
        Text::Matches(pattern) if speaks == Speaks::OnTheWay => re2::hir(pattern)?,
        Text::Matches(pattern) => whole(vec![any(), re2::hir(pattern)?, any()]),
        Text::Contains(text) => whole(vec![any(), literal(text), any()]),
        Text::Suffix(text) => whole(vec![any(), literal(text)]),
        Text::Prefix(text) => whole(vec![literal(text), any()]),
        Text::In(set) => whole(vec![Hir::alternation(set.iter().map(literal).collect())]),
        Text::Size(ranges) => {
            // characters, counted by the bytes that begin them
            let rest = || repeat(bytes_class(&[(0x80, 0xbf)]), 0, None);
            let character = || Hir::concat(vec![bytes_class(&[(0, 0x7f), (0xc0, 0xff)]), rest()]);
            whole(vec![rest(), sizes(ranges, character)?])
        }
        Text::Bytes(ranges) => whole(vec![sizes(ranges, || bytes_class(&[(0, 255)]))?]),
    })
}

/// So many times.
fn sizes(ranges: &Ranges, what: impl Fn() -> Hir) -> Result<Hir, String> {
    const LONGEST: u64 = 4096;
    let mut parts = Vec::new();
    for (low, high) in ranges.iter() {
        let most = (high != u64::MAX).then_some(high);
        if low > LONGEST || most.is_some_and(|most| most > LONGEST) {
            return Err(format!("sizes of metadata values, and of strings in bytes, are compared up to {LONGEST}"));
        }
        parts.push(repeat(
            what(),
            number(usize::try_from(low).unwrap_or(0)),
            most.and_then(|most| u32::try_from(most).ok()),
        ));
    }
    Ok(Hir::alternation(parts))
}

fn pattern_machine(hirs: &[(usize, &Hir)], speaks: Speaks, limit: usize) -> Option<Automaton> {
    let nfa = thompson::Compiler::new()
        .configure(
            thompson::Config::new().utf8(false).which_captures(WhichCaptures::None).nfa_size_limit(Some(32 << 20)),
        )
        .build_many_from_hir(&hirs.iter().map(|(_, hir)| *hir).collect::<Vec<_>>())
        .ok()?;
    let anchored = speaks == Speaks::AtTheEnd;
    let dfa = dense::Builder::new()
        .configure(
            dense::Config::new()
                .match_kind(MatchKind::All)
                .start_kind(if anchored { StartKind::Anchored } else { StartKind::Unanchored })
                .accelerate(false)
                .dfa_size_limit(Some(limit.saturating_add(1 << 16)))
                .determinize_size_limit(Some(24 << 20)),
        )
        .build_from_nfa(&nfa)
        .ok()?;
    let mode = if anchored { Anchored::Yes } else { Anchored::No };
    let start = dfa.start_state_forward(&Input::new("").anchored(mode)).ok()?;

    let mut classes = [0u8; 256];
    let mut representatives: Vec<u8> = Vec::new();
    for byte in 0..=255u8 {
        let class = dfa.byte_classes().get(byte);
        if let Some(slot) = classes.get_mut(usize::from(byte)) {
            *slot = class;
        }
        if usize::from(class) == representatives.len() {
            representatives.push(byte);
        }
    }
    // a match is reported one byte late, or by the transition at the end of the input
    let tests = |state| -> Tests {
        let count = if dfa.is_match_state(state) { dfa.match_len(state) } else { 0 };
        let found = (0..count).filter_map(|i| hirs.get(dfa.match_pattern(state, i).as_usize()));
        merge(found.map(|(test, _)| *test).collect(), None)
    };
    let width = representatives.len();
    let mut machine = Machine { classes, width, next: Vec::new(), start: 0, enter: Vec::new(), end: Vec::new() };
    let mut ids = HashMap::from([(start, 0u32)]);
    let mut queue = VecDeque::from([start]);
    while let Some(state) = queue.pop_front() {
        machine.enter.push(if anchored { Tests::new() } else { tests(state) });
        machine.end.push(tests(dfa.next_eoi_state(state)));
        for byte in &representatives {
            let to = dfa.next_state(state, *byte);
            let fresh = number(ids.len());
            machine.next.push(*ids.entry(to).or_insert_with(|| {
                queue.push_back(to);
                fresh
            }));
        }
    }
    Some(machine.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What automata side by side say of a value.
    fn verdict(built: &[Automaton], value: &[u8]) -> Tests {
        let mut found = Tests::new();
        for automaton in built {
            let mut state = automaton.start;
            for byte in value {
                state = automaton.trans[state as usize + usize::from(automaton.classes[usize::from(*byte)])];
                let row = (state >> automaton.stride_log2) as usize;
                assert_eq!(state >= automaton.first_out, !automaton.enter[row].is_empty());
                found.extend(&automaton.enter[row]);
            }
            found.extend(&automaton.end[(state >> automaton.stride_log2) as usize]);
        }
        merge(found, None)
    }

    fn agrees(tests: &[Text], speaks: Speaks, most: usize) -> usize {
        let built = build(tests, speaks, most).unwrap();
        assert!(built.len() <= most);
        let mut seed = 7u64;
        for _ in 0..400 {
            let mut value = Vec::new();
            for _ in 0..seed % 23 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                value.push(b"aab\nbxa\x00"[(seed >> 60) as usize / 2]);
            }
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let want: Tests = (0..tests.len()).filter(|i| holds(&tests[*i], &value)).collect();
            assert_eq!(verdict(&built, &value), want, "{value:?}");
        }
        built.len()
    }

    fn matching(patterns: &[&str]) -> Vec<Text> {
        patterns.iter().map(|pattern| Text::Matches((*pattern).to_owned())).collect()
    }

    fn literals() -> Vec<Text> {
        let mut tests = vec![
            Text::In(vec![b"".to_vec(), b"ab".to_vec(), b"aab".to_vec()]),
            Text::In(vec![b"ab".to_vec()]),
            Text::Prefix(b"a".to_vec()),
            Text::Prefix(b"aab".to_vec()),
        ];
        for text in [&b"ab"[..], b"ba", b"bab", b"aa\n", b"x", b"\x00"] {
            tests.push(Text::Suffix(text.to_vec()));
            tests.push(Text::Contains(text.to_vec()));
        }
        tests
    }

    #[test]
    fn states_say_which_bytes_lead_out_of_them() {
        let mut seen = [0; 3];
        for tests in [
            literals(),
            matching(&["^a", "b$", "(?m)^b", "[^a]a"]),
            vec![Text::Contains(b"A".to_vec())],
            vec![Text::Prefix(b"A".to_vec())],
        ] {
            for automaton in build(&tests, Speaks::OnTheWay, 4).unwrap() {
                for (number, stay) in automaton.stays().into_iter().enumerate() {
                    let state = number << automaton.stride_log2;
                    let leaves = |byte: &u8| {
                        let class = usize::from(automaton.classes[usize::from(*byte)]);
                        automaton.trans[state + class] as usize != state
                    };
                    let leave: Vec<u8> = (0..=u8::MAX).filter(leaves).collect();
                    let [kind, said @ ..] = stay.to_le_bytes();
                    seen[usize::from(kind)] += 1;
                    let said: std::collections::BTreeSet<u8> = said.into_iter().collect();
                    match u32::from(kind) {
                        abi::PG_STAY_ALWAYS => assert!(leave.is_empty()),
                        abi::PG_STAY_BUT => assert!(leave.iter().eq(&said)),
                        _ => assert!(leave.len() > 3 || state == automaton.start as usize),
                    }
                    let entered = state != automaton.start as usize || automaton.enter[number].is_empty();
                    assert!(kind == 0 || entered);
                }
            }
        }
        assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
    }

    #[test]
    fn literals_share_one_automaton() {
        assert_eq!(agrees(&literals(), Speaks::OnTheWay, 4), 1);
        assert_eq!(agrees(&literals(), Speaks::AtTheEnd, 2), 2);
    }

    #[test]
    fn patterns_say_what_they_match_and_when() {
        let patterns = ["^a", "b$", "a\nb", "(?m)^b", "^$", r"\bx\b", "(a|b)x.*a$", "^(aa?b?)*$", "a[^a]a", "x?$"];
        assert_eq!(agrees(&matching(&patterns), Speaks::OnTheWay, 4), 1);
        assert_eq!(agrees(&matching(&patterns), Speaks::AtTheEnd, 2), 1);
        let sizes = Text::Size(Ranges::of(2, 4).union(&Ranges::of(9, u64::MAX)));
        assert_eq!(agrees(&[sizes, Text::In(vec![b"a".to_vec()])], Speaks::AtTheEnd, 2), 2);
    }

    #[test]
    fn patterns_whose_union_is_too_large_get_automata_of_their_own() {
        let patterns = ["a[ab]{7}$", "b[ax]{7}$", "x[abx]{6}$", "a[ax]{6}$", "[ab]x[ab]{6}$", "b[abx]{7}$"];
        assert!(agrees(&matching(&patterns), Speaks::OnTheWay, 4) <= 4);
    }

    #[test]
    fn every_byte_may_be_a_literal() {
        let all: Vec<u8> = (0..=255).collect();
        let tests = [Text::Contains(all.clone()), Text::Suffix(vec![255]), Text::In(vec![all.clone()])];
        let built = build(&tests, Speaks::OnTheWay, 4).unwrap();
        assert_eq!(verdict(&built, &all), [0, 1, 2]);
        assert_eq!(verdict(&built, &all[1..]), [1]);
    }

    #[test]
    fn a_pattern_that_is_too_large_is_named() {
        let error = build(&matching(&["a", "(a|b|é)[ab]{40}c.{60}"]), Speaks::OnTheWay, 4).unwrap_err();
        assert_eq!(error.test, Some(1));
    }
}
