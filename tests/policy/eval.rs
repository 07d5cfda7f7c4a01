//! A slow, obvious reader of the tables: what `bpf/abi/tables.h` says, on whole messages, in Rust.

use std::collections::{BTreeSet, HashMap};
use std::net::Ipv6Addr;

use protocg::abi::*;
use protocg::policy::Tables;

pub type Bits = [u64; 32];

/// What one RPC brings before its first message.
pub struct Call<'a> {
    pub metadata: Vec<(&'a str, &'a str)>,
    pub ip: Ipv6Addr,
    pub port: u16,
}

impl Default for Call<'_> {
    fn default() -> Self {
        Call { metadata: Vec::new(), ip: Ipv6Addr::LOCALHOST, port: 1 }
    }
}

#[derive(Debug, PartialEq, Eq)]
pub struct Malformed(&'static str);

fn apply(tables: &Tables, row: u32, bits: &mut Bits) {
    if row == 0 {
        return;
    }
    for op in &tables.ops[row as usize..] {
        let word = &mut bits[op.word as usize];
        *word = (*word & !op.mask) | op.value;
        if op.flags & PG_OP_LAST != 0 {
            return;
        }
    }
    panic!("row {row} does not end");
}

/// The exact id + 1, and the longest prefix's id + 1.
pub fn find(tables: &Tables, root: u32, text: &[u8]) -> (u32, u32) {
    let mut state = root;
    assert_eq!(tables.trie[root as usize].check, root);
    let mut prefix = tables.trie[root as usize].prefix;
    for byte in text {
        let to = tables.trie[state as usize].base + u32::from(*byte);
        match tables.trie.get(to as usize) {
            Some(cell) if cell.check == state => state = to,
            _ => return (0, prefix),
        }
        let cell = &tables.trie[state as usize];
        prefix = if cell.prefix != 0 { cell.prefix } else { prefix };
    }
    (tables.trie[state as usize].exact, prefix)
}

pub fn method(tables: &Tables, path: &str) -> usize {
    match find(tables, tables.config.path_root, path.as_bytes()) {
        (0, 0) => 0,
        (0, prefix) => prefix as usize - 1,
        (exact, _) => exact as usize - 1,
    }
}

fn bound(tables: &Tables, first: u32, count: u32, key: u64) -> u32 {
    let bounds = &tables.bounds[first as usize..(first + count) as usize];
    assert!(bounds.is_sorted_by(|a, b| a.key < b.key));
    let bound = bounds.iter().find(|bound| bound.key >= key).expect("the last bound is ~0");
    if bound.key == key { bound.equal } else { bound.below }
}

/// Runs one automaton, applying entry rows, and returns its final state.
fn run(tables: &Tables, automaton: &pg_automaton, value: &[u8], bits: &mut Bits) -> u32 {
    let mut state = automaton.start;
    for byte in value {
        let class = tables.classes[automaton.classes as usize].of[usize::from(*byte)];
        state = tables.trans[automaton.trans as usize + state as usize + usize::from(class)];
        assert!(state >> automaton.stride_log2 < automaton.states);
        if state >= automaton.first_out {
            apply(tables, out(tables, automaton, state).enter, bits);
        }
    }
    state
}

fn out(tables: &Tables, automaton: &pg_automaton, state: u32) -> pg_out {
    tables.outs[(automaton.out + (state >> automaton.stride_log2)) as usize]
}

/// The engine's own automata: content-type is gRPC's, grpc-encoding is identity.
pub fn engine_says(tables: &Tables, automaton: u32, value: &[u8]) -> bool {
    let automaton = &tables.automata[automaton as usize];
    assert_eq!(automaton.first_out, u32::MAX);
    let state = run(tables, automaton, value, &mut [0; 32]);
    out(tables, automaton, state).end == 1
}

pub fn headers(tables: &Tables, call: &Call) -> Bits {
    let mut bits = [0; 32];
    apply(tables, tables.config.peer_init, &mut bits);
    let ip = u128::from(call.ip);
    for peer in &tables.peers[..tables.config.peer_tests as usize] {
        if ip & u128::from_be_bytes(peer.mask) == u128::from_be_bytes(peer.address) {
            apply(tables, peer.row, &mut bits);
        }
    }
    if tables.config.port_bounds > 0 {
        let row = bound(tables, tables.config.port_bound, tables.config.port_bounds, u64::from(call.port));
        apply(tables, row, &mut bits);
    }
    for (name, value) in &call.metadata {
        let (id, _) = find(tables, tables.config.name_root, name.as_bytes());
        let Some(key) = id.checked_sub(PG_NAME_KEY0 + 1) else { continue };
        let key = &tables.keys[key as usize];
        apply(tables, key.present, &mut bits);
        for automaton in &tables.automata[key.automaton as usize..(key.automaton + key.automata) as usize] {
            assert_eq!(automaton.first_out, u32::MAX);
            let state = run(tables, automaton, value.as_bytes(), &mut bits);
            apply(tables, out(tables, automaton, state).end, &mut bits);
        }
    }
    bits
}

/// The bits after one request message.
pub fn message(tables: &Tables, method: usize, header: &Bits, bytes: &[u8]) -> Result<Bits, Malformed> {
    let method = &tables.methods[method];
    assert_ne!(method.flags & PG_METHOD_MESSAGES, 0);
    let mut state = State { bits: *header, ..State::default() };
    apply(tables, method.init, &mut state.bits);
    walk(tables, method.plan, bytes, &mut state)?;
    Ok(state.bits)
}

/// What is known while a message is read.
#[derive(Default)]
struct State {
    bits: Bits,
    /// The key of the entry that is read; none: a default.
    key: Option<Vec<u8>>,
    /// Distinct keys so far, by place.
    keys: HashMap<u32, Option<Vec<u8>>>,
}

/// An element is whole.
fn element(tables: &Tables, field: &pg_field, state: &mut State) {
    if field.counter != 0 {
        let op = &tables.ops[field.counter as usize];
        let word = state.bits[op.word as usize];
        let count = ((word & op.mask) / op.value) as u32;
        let mut seen = false;
        if field.flags & PG_FIELD_DISTINCT != 0 {
            let places = field.key..field.key + count.min(field.keys);
            seen = places.into_iter().any(|place| state.keys[&place] == state.key);
            if !seen && count < field.keys {
                state.keys.insert(field.key + count, state.key.clone());
            }
        }
        if !seen && word & op.mask != op.mask {
            state.bits[op.word as usize] += op.value;
        }
    }
    let program = &tables.tests[field.test as usize..(field.test + field.tests) as usize];
    let mut clause = true;
    for test in program {
        clause &= state.bits[usize::from(test.word)] & test.mask == test.value;
        if u32::from(test.flags) & PG_TEST_LAST != 0 {
            if clause {
                apply(tables, test.rule, &mut state.bits);
            }
            clause = true;
        }
    }
}

fn varint(bytes: &mut &[u8]) -> Result<u64, Malformed> {
    let mut value = 0u64;
    for i in 0..10 {
        let (byte, rest) = bytes.split_first().ok_or(Malformed("varint"))?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f).checked_shl(7 * i).unwrap_or(0);
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Malformed("varint"))
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Result<&'a [u8], Malformed> {
    let (head, rest) = bytes.split_at_checked(count).ok_or(Malformed("length"))?;
    *bytes = rest;
    Ok(head)
}

enum Raw<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

fn wire_of(kind: u32) -> u64 {
    match kind {
        PG_K_MESSAGE | PG_K_STRING | PG_K_BYTES => 2,
        PG_K_FIXED32 | PG_K_SFIXED32 | PG_K_FLOAT => 5,
        PG_K_FIXED64 | PG_K_SFIXED64 | PG_K_DOUBLE => 1,
        _ => 0,
    }
}

fn raw<'a>(bytes: &mut &'a [u8], wire: u64) -> Result<Raw<'a>, Malformed> {
    Ok(match wire {
        0 => Raw::Number(varint(bytes)?),
        1 => Raw::Number(u64::from_le_bytes(take(bytes, 8)?.try_into().unwrap())),
        2 => {
            let length = varint(bytes)? as usize;
            Raw::Bytes(take(bytes, length)?)
        }
        5 => Raw::Number(u64::from(u32::from_le_bytes(take(bytes, 4)?.try_into().unwrap()))),
        _ => return Err(Malformed("wire type")),
    })
}

fn walk(tables: &Tables, node: u32, mut bytes: &[u8], state: &mut State) -> Result<(), Malformed> {
    let node = &tables.nodes[node as usize];
    let fields = &tables.fields[node.field as usize..(node.field + node.fields) as usize];
    assert!(fields.is_sorted_by(|a, b| a.number < b.number));
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let (number, wire) = (tag >> 3, tag & 7);
        let field = fields.iter().find(|field| u64::from(field.number) == number);
        if wire != 2 && field.is_some_and(|field| field.flags & PG_FIELD_MAP != 0) {
            return Err(Malformed("map"));
        }
        let value = raw(&mut bytes, wire)?;
        let Some(field) = field else { continue };
        let expected = wire_of(field.kind);
        if wire == expected {
            read(tables, field, &value, state)?;
        } else if let (&Raw::Bytes(run), true) = (&value, field.flags & PG_FIELD_ELEMENTS != 0) {
            let mut run = run;
            while !run.is_empty() {
                let value = raw(&mut run, expected)?;
                read(tables, field, &value, state)?;
            }
        }
    }
    Ok(())
}

fn read(tables: &Tables, field: &pg_field, raw: &Raw, state: &mut State) -> Result<(), Malformed> {
    apply(tables, field.reset, &mut state.bits);
    if field.flags & PG_FIELD_DISTINCT != 0 {
        state.key = None;
    }
    value(tables, field, raw, state)?;
    if field.flags & PG_FIELD_ELEMENTS != 0 {
        element(tables, field, state);
    }
    Ok(())
}

fn value(tables: &Tables, field: &pg_field, raw: &Raw, state: &mut State) -> Result<(), Malformed> {
    let key = match raw {
        Raw::Bytes(value) if field.kind == PG_K_MESSAGE => return walk(tables, field.child, value, state),
        Raw::Bytes(value) => {
            for automaton in &tables.automata[field.automaton as usize..(field.automaton + field.automata) as usize] {
                let last = run(tables, automaton, value, &mut state.bits);
                apply(tables, out(tables, automaton, last).end, &mut state.bits);
            }
            if field.flags & PG_FIELD_KEY != 0 {
                state.key = Some(value.to_vec()).filter(|key| !key.is_empty());
            }
            if field.kind == PG_K_STRING {
                std::str::from_utf8(value).map_err(|_| Malformed("utf8"))?.chars().count() as u64
            } else {
                value.len() as u64
            }
        }
        Raw::Number(raw) => match number_key(field.kind, *raw) {
            Some(key) => {
                if field.flags & PG_FIELD_KEY != 0 {
                    let default = number_key(field.kind, 0).unwrap();
                    state.key = Some(key.to_le_bytes().to_vec()).filter(|_| key != default);
                }
                key
            }
            None => {
                apply(tables, field.nan, &mut state.bits);
                return Ok(());
            }
        },
    };
    if field.bounds > 0 {
        match bound(tables, field.bound, field.bounds, key) {
            PG_ROW_REFUSED => return Err(Malformed("value")),
            row => apply(tables, row, &mut state.bits),
        }
    }
    Ok(())
}

fn number_key(kind: u32, raw: u64) -> Option<u64> {
    let signed = |value: i64| value as u64 ^ (1 << 63);
    let zigzag = |value: u64| (value >> 1) as i64 ^ -((value & 1) as i64);
    let double = |value: f64| {
        let bits = if value == 0.0 { 0 } else { value.to_bits() };
        (!value.is_nan()).then_some(if bits >> 63 == 1 { !bits } else { bits | 1 << 63 })
    };
    Some(match kind {
        PG_K_BOOL => u64::from(raw != 0),
        PG_K_INT32 | PG_K_SFIXED32 => signed(i64::from(raw as u32 as i32)),
        PG_K_UINT32 | PG_K_FIXED32 => u64::from(raw as u32),
        PG_K_SINT32 => signed(zigzag(u64::from(raw as u32))),
        PG_K_INT64 | PG_K_SFIXED64 => signed(raw as i64),
        PG_K_UINT64 | PG_K_FIXED64 => raw,
        PG_K_SINT64 => signed(zigzag(raw)),
        PG_K_FLOAT => return double(f64::from(f32::from_bits(raw as u32))),
        PG_K_DOUBLE => return double(f64::from_bits(raw)),
        other => panic!("kind {other} is no number"),
    })
}

/// The rules that hold, of a run of tests.
pub fn holding(tables: &Tables, first: u32, count: u32, bits: &Bits) -> BTreeSet<u32> {
    let tests = &tables.tests[first as usize..(first + count) as usize];
    let (mut rules, mut clause) = (BTreeSet::new(), true);
    for test in tests {
        clause &= bits[usize::from(test.word)] & test.mask == test.value;
        if u32::from(test.flags) & PG_TEST_LAST != 0 {
            if clause {
                rules.insert(test.rule);
            }
            clause = true;
        }
    }
    if let Some(last) = tests.last() {
        assert_ne!(u32::from(last.flags) & PG_TEST_LAST, 0);
    }
    rules
}

pub fn header_rules(tables: &Tables, method: usize, bits: &Bits) -> BTreeSet<u32> {
    let method = &tables.methods[method];
    holding(tables, method.header_test, method.header_tests, bits)
}

pub fn message_rules(tables: &Tables, method: usize, bits: &Bits) -> BTreeSet<u32> {
    let method = &tables.methods[method];
    holding(tables, method.message_test, method.message_tests, bits)
}
