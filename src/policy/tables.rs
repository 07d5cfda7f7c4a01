//! Stage 5, everything to tables: the arrays of `bpf/abi/tables.h`, and where each is shared.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use super::automata::{self, Automaton, Speaks, TooLarge};
use super::decide::{Bit, Clause};
use super::plan::Size;
use super::predicate::Text;
use super::scope::{Bounds, Layout, Place, Rows};
use super::shape::Shapes;
use super::trie::Tries;
use crate::abi;

/// The compiled policy. No table but that of rates is empty: the unused have one zero entry.
#[expect(missing_docs, reason = "bpf/abi/tables.h says what each is")]
#[derive(Debug, Clone)]
pub struct Tables {
    pub config: abi::pg_config,
    pub trie: Vec<abi::pg_trie>,
    pub methods: Vec<abi::pg_method>,
    pub rules: Vec<abi::pg_rule>,
    pub tests: Vec<abi::pg_test>,
    pub ops: Vec<abi::pg_op>,
    pub nodes: Vec<abi::pg_node>,
    pub fields: Vec<abi::pg_field>,
    pub bounds: Vec<abi::pg_bound>,
    pub automata: Vec<abi::pg_automaton>,
    pub trans: Vec<u32>,
    pub classes: Vec<abi::pg_classes>,
    pub outs: Vec<abi::pg_out>,
    pub keys: Vec<abi::pg_key>,
    pub peers: Vec<abi::pg_peer>,
    pub rates: Vec<abi::pg_rate>,
}

/// A structure of the ABI: integers only, no padding (their sizes are asserted in C).
trait Plain: Copy {}
macro_rules! plain { ($($name:ty),*) => { $(impl Plain for $name {})* } }
plain!(
    u32,
    abi::pg_config,
    abi::pg_trie,
    abi::pg_method,
    abi::pg_rule,
    abi::pg_test,
    abi::pg_op,
    abi::pg_node,
    abi::pg_field,
    abi::pg_bound,
    abi::pg_automaton,
    abi::pg_classes,
    abi::pg_out,
    abi::pg_key,
    abi::pg_peer,
    abi::pg_rate
);

fn raw<T: Plain>(table: &[T]) -> &[u8] {
    // SAFETY: `Plain` types are `repr(C)` structures of integers without padding, so all their bytes are initialised.
    unsafe { std::slice::from_raw_parts(table.as_ptr().cast(), size_of_val(table)) }
}

impl Tables {
    /// Every table as bytes, in the order of the fields.
    fn parts(&self) -> [&[u8]; 16] {
        [
            raw(std::slice::from_ref(&self.config)),
            raw(&self.trie),
            raw(&self.methods),
            raw(&self.rules),
            raw(&self.tests),
            raw(&self.ops),
            raw(&self.nodes),
            raw(&self.fields),
            raw(&self.bounds),
            raw(&self.automata),
            raw(&self.trans),
            raw(&self.classes),
            raw(&self.outs),
            raw(&self.keys),
            raw(&self.peers),
            raw(&self.rates),
        ]
    }

    /// Bytes of all tables together.
    pub fn bytes(&self) -> usize {
        self.parts().iter().map(|part| part.len()).sum()
    }

    /// A hash of all tables and of the ABI's sizes (FNV-1a), never 0.
    pub(super) fn hash(&self) -> u32 {
        let sizes = [
            size_of::<abi::pg_config>(),
            size_of::<abi::pg_trie>(),
            size_of::<abi::pg_method>(),
            size_of::<abi::pg_rule>(),
            size_of::<abi::pg_test>(),
            size_of::<abi::pg_op>(),
            size_of::<abi::pg_node>(),
            size_of::<abi::pg_field>(),
            size_of::<abi::pg_bound>(),
            size_of::<abi::pg_automaton>(),
            size_of::<abi::pg_classes>(),
            size_of::<abi::pg_out>(),
            size_of::<abi::pg_key>(),
            size_of::<abi::pg_peer>(),
            size_of::<abi::pg_rate>(),
            size_of::<abi::pg_entry>(),
        ];
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        let mut add = |bytes: &[u8]| {
            for byte in bytes {
                hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
            }
        };
        for part in self.parts() {
            add(&part.len().to_le_bytes());
            add(part);
        }
        sizes.iter().for_each(|size| add(&size.to_le_bytes()));
        #[expect(clippy::cast_possible_truncation, reason = "the halves are folded")]
        let folded = (hash ^ (hash >> 32)) as u32;
        folded.max(1)
    }
}

/// Why tables cannot be made.
#[derive(Debug)]
pub struct Refusal {
    pub message: String,
    /// The predicate that is the reason, to find the rule by.
    pub bit: Option<Bit>,
}

impl Refusal {
    /// A reason that no rule alone is.
    pub fn whole(message: impl Into<String>) -> Refusal {
        Refusal { message: message.into(), bit: None }
    }
}

/// Which input an automaton reads: a metadata key, or a field of a request.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Input {
    Key(String),
    Field(String, Vec<u32>),
}

/// What a clause expects of words.
#[derive(Debug, Clone, Default)]
pub struct Words(BTreeMap<u32, (u64, u64)>);

impl Words {
    /// Nothing yet.
    pub fn new() -> Words {
        Words::default()
    }

    /// The bits of a place are to be these.
    pub fn expect(&mut self, place: Place, value: u64) {
        let word = self.0.entry(place.word).or_default();
        word.0 |= place.mask;
        word.1 |= value;
    }

    /// The bits of a clause are to be as it says.
    pub fn clause(clause: &Clause, layout: impl Fn(&Bit) -> Option<Place>) -> Words {
        let mut words = Words::new();
        for (bit, value) in clause {
            if let Some(place) = layout(bit) {
                words.expect(place, if *value { place.mask } else { 0 });
            }
        }
        words
    }

    /// The tests of a clause that says this; `then` is the rule, or the row, that it is there for.
    fn tests(&self, then: u32) -> Vec<abi::pg_test> {
        let always = BTreeMap::from([(0, (0, 0))]);
        let words = if self.0.is_empty() { &always } else { &self.0 };
        let test = |(word, (mask, value)): (&u32, &(u64, u64))| abi::pg_test {
            word: u16::try_from(*word).unwrap_or(0),
            flags: 0,
            rule: then,
            mask: *mask,
            value: *value,
        };
        let mut tests: Vec<abi::pg_test> = words.iter().map(test).collect();
        if let Some(last) = tests.last_mut() {
            last.flags = u16::try_from(abi::PG_TEST_LAST).unwrap_or(1);
        }
        tests
    }
}

/// The tests of clauses.
pub fn tests(rule: usize, clauses: &[Clause], header: &Layout, message: &Layout) -> Vec<abi::pg_test> {
    let place = |bit: &Bit| if bit.in_message() { message } else { header }.place(bit);
    clauses.iter().flat_map(|clause| Words::clause(clause, place).tests(index(rule))).collect()
}

/// The tables while they are made.
#[derive(Default)]
pub struct Assembly {
    pub rows: Rows,
    pub bounds: Bounds,
    pub tries: Tries,
    pub tests: Vec<abi::pg_test>,
    pub automata_table: Vec<abi::pg_automaton>,
    pub sizes: HashMap<Input, Size>,
    /// Ambiguous messages are refused, so nodes have all fields.
    pub strict: bool,
    pub shapes: Shapes,
    nodes: Vec<abi::pg_node>,
    fields: Vec<abi::pg_field>,
    known_nodes: HashMap<Vec<u8>, u32>,
    trans: Vec<u32>,
    classes: Vec<abi::pg_classes>,
    outs: Vec<abi::pg_out>,
    built: HashMap<(Vec<Text>, bool), Rc<Vec<Automaton>>>,
    known_trans: HashMap<Vec<u32>, u32>,
    known_classes: HashMap<[u8; 256], u32>,
    known_automata: HashMap<Vec<u8>, u32>,
}

fn index(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

impl Assembly {
    /// Empty tables; `strict`: ambiguous messages are refused.
    pub fn new(strict: bool) -> Assembly {
        Assembly { strict, ..Assembly::default() }
    }

    /// Adds a node, or finds the same one. What it remembers follows from its fields.
    pub fn node(&mut self, fields: Vec<abi::pg_field>, once: u32) -> u32 {
        let key = raw(&fields).to_vec();
        if let Some(node) = self.known_nodes.get(&key) {
            return *node;
        }
        let node = self.reserve_node();
        self.fill_node(node, fields, once);
        self.known_nodes.insert(key, node);
        node
    }

    /// A node whose fields are not known yet.
    pub fn reserve_node(&mut self) -> u32 {
        self.nodes.push(abi::pg_node::default());
        index(self.nodes.len() - 1)
    }

    /// Gives a node its fields.
    pub fn fill_node(&mut self, node: u32, fields: Vec<abi::pg_field>, once: u32) {
        if let Some(node) = self.nodes.get_mut(node as usize) {
            *node = abi::pg_node { field: index(self.fields.len()), fields: index(fields.len()), once };
        }
        self.fields.extend(fields);
    }

    /// Fields so far.
    pub fn field_count(&self) -> u32 {
        index(self.fields.len())
    }

    /// The automata of one input's tests; the same tests are built once.
    pub fn automata(&mut self, tests: &[Text], speaks: Speaks, most: u32) -> Result<Rc<Vec<Automaton>>, TooLarge> {
        let key = (tests.to_vec(), speaks == Speaks::OnTheWay);
        if let Some(built) = self.built.get(&key) {
            return Ok(Rc::clone(built));
        }
        let built = Rc::new(automata::build(tests, speaks, most as usize)?);
        self.built.insert(key, Rc::clone(&built));
        Ok(built)
    }

    /// Remembers what a field's automata cost.
    pub fn note(&mut self, message: &str, path: &[u32], built: &[Automaton]) {
        self.note_input(Input::Field(message.to_owned(), path.to_vec()), built);
    }

    /// Remembers what an input's automata cost.
    pub fn note_input(&mut self, input: Input, built: &[Automaton]) {
        let size = Size {
            states: built.iter().map(|automaton| automaton.states).sum(),
            bytes: built.iter().map(Automaton::bytes).sum(),
        };
        self.sizes.insert(input, size);
    }

    /// Adds a field's automata, side by side: the first and how many. `row` makes the row of some tests.
    pub fn field_automata(&mut self, built: &[Automaton], row: impl Fn(&mut Assembly, &[usize]) -> u32) -> (u32, u32) {
        let mut added = Vec::new();
        for automaton in built {
            let outs = automaton.enter.iter().zip(&automaton.end).zip(automaton.stays());
            let outs =
                outs.map(|((enter, end), stay)| abi::pg_out { enter: row(self, enter), end: row(self, end), stay });
            let outs = outs.collect::<Vec<_>>();
            added.push(self.prepare(automaton, automaton.first_out, &outs));
        }
        self.place(&added)
    }

    /// Adds automata whose final state says all; `end` makes what the out table says of the tests that hold there.
    pub fn final_automata(
        &mut self,
        built: &[Automaton],
        end: impl Fn(&mut Assembly, usize, &[usize]) -> u32,
    ) -> (u32, u32) {
        let mut added = Vec::new();
        for (i, automaton) in built.iter().enumerate() {
            let outs: Vec<_> =
                automaton.end.iter().map(|tests| abi::pg_out { enter: 0, end: end(self, i, tests), stay: 0 }).collect();
            added.push(self.prepare(automaton, u32::MAX, &outs));
        }
        self.place(&added)
    }

    fn prepare(&mut self, automaton: &Automaton, first_out: u32, outs: &[abi::pg_out]) -> abi::pg_automaton {
        let trans = match self.known_trans.get(&automaton.trans) {
            Some(trans) => *trans,
            None => {
                let trans = index(self.trans.len());
                self.trans.extend_from_slice(&automaton.trans);
                self.known_trans.insert(automaton.trans.clone(), trans);
                trans
            }
        };
        let classes = *self.known_classes.entry(automaton.classes).or_insert_with(|| {
            self.classes.push(abi::pg_classes { of: automaton.classes });
            index(self.classes.len() - 1)
        });
        let out = index(self.outs.len());
        self.outs.extend_from_slice(outs);
        abi::pg_automaton {
            trans,
            classes,
            start: automaton.start,
            stride_log2: automaton.stride_log2,
            first_out,
            out,
            states: index(automaton.states),
            reserved: 0,
        }
    }

    fn place(&mut self, added: &[abi::pg_automaton]) -> (u32, u32) {
        let key = raw(added).to_vec();
        let table = &mut self.automata_table;
        let first = *self.known_automata.entry(key).or_insert_with(|| {
            let first = index(table.len());
            table.extend_from_slice(added);
            first
        });
        (first, index(added.len()))
    }

    /// Adds the tests of a rule: how many.
    pub fn rule_tests(&mut self, rule: usize, clauses: &[Clause], header: &Layout, message: &Layout) -> usize {
        let before = self.tests.len();
        self.tests.extend(tests(rule, clauses, header, message));
        self.tests.len() - before
    }

    /// Adds the program at the end of an element: its first test and how many.
    pub fn program(&mut self, steps: &[(Words, u32)]) -> (u32, u32) {
        let first = self.tests.len();
        steps.iter().for_each(|(words, row)| self.tests.extend(words.tests(*row)));
        match self.tests.len() - first {
            0 => (0, 0),
            count => (index(first), index(count)),
        }
    }

    /// The finished tables.
    pub fn finish(
        self,
        config: abi::pg_config,
        methods: Vec<abi::pg_method>,
        rules: Vec<abi::pg_rule>,
        keys: Vec<abi::pg_key>,
        peers: Vec<abi::pg_peer>,
        rates: Vec<abi::pg_rate>,
    ) -> Tables {
        fn some<T: Default>(mut table: Vec<T>) -> Vec<T> {
            if table.is_empty() {
                table.push(T::default());
            }
            table
        }
        let any = |flags| u32::from(self.fields.iter().any(|field| field.flags & flags != 0));
        let elements = any(abi::PG_FIELD_ELEMENTS | abi::PG_FIELD_KEY | abi::PG_FIELD_DISTINCT);
        let audits = u32::from(rules.iter().any(|rule| rule.flags & abi::PG_RULE_AUDIT != 0));
        let config = abi::pg_config { elements, packed: any(abi::PG_FIELD_PACKABLE), audits, ..config };
        let mut tables = Tables {
            config,
            trie: some(self.tries.finish()),
            methods: some(methods),
            rules: some(rules),
            tests: some(self.tests),
            ops: some(self.rows.ops),
            nodes: some(self.nodes),
            fields: some(self.fields),
            bounds: some(self.bounds.table),
            automata: some(self.automata_table),
            trans: some(self.trans),
            classes: if self.classes.is_empty() { vec![abi::pg_classes { of: [0; 256] }] } else { self.classes },
            outs: some(self.outs),
            keys: some(keys),
            peers: some(peers),
            rates,
        };
        tables.config.generation = tables.hash();
        tables
    }
}
