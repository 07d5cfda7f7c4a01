//! Stage 5, the fields that rules read to nodes: what the engine does at each place of a request.

use std::collections::BTreeMap;

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor, Value};

use super::automata::{self, Speaks};
use super::decide::Bit;
use super::editions::Closed;
use super::elements::{KEY, VALUE};
use super::field;
use super::needs::Needs;
use super::predicate::{Number, Ranges, Test, Text};
use super::program::Elements;
use super::scope::{Layout, Place, Writes};
use super::shape::{self, Once};
use super::tables::{Assembly, Refusal};
use super::wellknown;
use crate::abi;

/// A message at one place of a request.
#[derive(Default)]
struct Node {
    fields: BTreeMap<u32, Field>,
}

/// A field there.
struct Field {
    descriptor: FieldDescriptor,
    tests: Vec<(Test, Place)>,
    /// What is said of it as a whole, if it is repeated or a map.
    elements: Elements,
    /// It is the key of a map whose distinct keys are counted.
    is_key: bool,
    child: Node,
}

impl Field {
    fn new(descriptor: FieldDescriptor) -> Field {
        let (tests, elements, child) = (Vec::new(), Elements::default(), Node::default());
        Field { descriptor, tests, elements, is_key: false, child }
    }
}

/// What a plan costs.
#[derive(Debug, Clone, Copy, Default)]
pub struct Size {
    pub states: usize,
    pub bytes: usize,
}

/// What the nodes of one request are made with.
struct Making<'a> {
    tables: &'a mut Assembly,
    request: &'a MessageDescriptor,
    closed: &'a Closed,
    layout: &'a Layout,
    path: Vec<u32>,
    /// Keys that are remembered so far.
    keys: u32,
    /// It is inside a map whose distinct keys are counted: the engine has one key in hand.
    in_counted: bool,
}

/// Adds the plan of a request: its root node, and the row of an empty message.
pub fn add(
    tables: &mut Assembly,
    request: &MessageDescriptor,
    closed: &Closed,
    needs: &Needs<'_>,
    layout: &Layout,
) -> Result<(u32, u32), Refusal> {
    let mut root = Node::default();
    for bit in needs.bits() {
        let (Bit::Field { path, .. }
        | Bit::Exists { path, .. }
        | Bit::Entry { path, .. }
        | Bit::Count { path, .. }
        | Bit::Counter { path }) = bit
        else {
            continue;
        };
        let Some(place) = layout.place(bit) else { continue };
        root.insert(request, path, bit, place)?;
    }
    root.complete(request, closed)?;
    let mut init = Writes::default();
    layout.words().for_each(|word| init.clear(word));
    root.absent(&mut init);
    let init = if init.sets() { tables.rows.row(&init) } else { 0 };
    let mut making = Making { tables, request, closed, layout, path: Vec::new(), keys: 0, in_counted: false };
    let root = root.emit(request, &mut making)?;
    shape::finish(making.tables)?;
    Ok((root, init))
}

/// The values that a field may have, if runtimes differ in what they make of others.
fn allowed(field: &FieldDescriptor, closed: &Closed) -> Option<Ranges> {
    match field.kind() {
        Kind::Enum(it) if closed.is_closed(field, &it) => {
            let key = |number: i32| Number::signed_key(i64::from(number));
            let one = |number| Ranges::of(key(number), key(number));
            Some(it.values().fold(Ranges::none(), |all, value| all.union(&one(value.number()))))
        }
        Kind::Int32 if field.number() == wellknown::NANOS => wellknown::nanos(field.parent_message().full_name()),
        _ => None,
    }
}

impl Node {
    fn insert(&mut self, message: &MessageDescriptor, path: &[u32], bit: &Bit, place: Place) -> Result<(), Refusal> {
        let gone = || Refusal::whole("a field that was resolved is gone");
        let (first, rest) = path.split_first().ok_or_else(gone)?;
        let descriptor = message.get_field(*first).ok_or_else(gone)?;
        let kind = descriptor.kind();
        let field = self.fields.entry(*first).or_insert_with(|| Field::new(descriptor));
        match (rest, kind, bit) {
            ([], _, Bit::Field { test, .. }) => field.tests.push((test.clone(), place)),
            ([], _, bit) => field.elements.add(bit, place),
            (rest, Kind::Message(message), bit) => field.child.insert(&message, rest, bit, place)?,
            _ => return Err(gone()),
        }
        Ok(())
    }

    /// Adds fields that no rule names: the other members of each oneof, which clear what is read; maps (PG_FIELD_MAP);
    /// and those whose values may have to be refused.
    fn complete(&mut self, message: &MessageDescriptor, closed: &Closed) -> Result<(), Refusal> {
        let oneofs: Vec<_> = self.fields.values().filter_map(|field| field.descriptor.containing_oneof()).collect();
        for member in oneofs.iter().flat_map(|oneof| oneof.fields()) {
            if member.is_group() {
                let message =
                    format!("the group `{}` in a oneof that rules read is not supported yet", member.full_name());
                return Err(Refusal::whole(message));
            }
            self.fields.entry(member.number()).or_insert_with(|| Field::new(member));
        }
        for map in message.fields().filter(FieldDescriptor::is_map) {
            self.fields.entry(map.number()).or_insert_with(|| Field::new(map));
        }
        if wellknown::nanos(message.full_name()).is_some()
            && let Some(nanos) = message.get_field(wellknown::NANOS)
        {
            self.fields.entry(wellknown::NANOS).or_insert_with(|| Field::new(nanos));
        }
        self.fields.values_mut().try_for_each(|field| field.complete(closed))
    }

    fn absent(&self, writes: &mut Writes) {
        self.fields.values().for_each(|field| field.absent(writes));
    }

    fn emit(&self, message: &MessageDescriptor, making: &mut Making<'_>) -> Result<u32, Refusal> {
        let (mut fields, mut once) = (BTreeMap::new(), Once::default());
        if making.tables.strict {
            once = Once::of(message)?;
            fields = shape::fields(making.tables, message, &once);
        }
        for (number, field) in &self.fields {
            making.path.push(*number);
            let mut out = self.emit_field(field, making)?;
            once.mark(&mut out);
            fields.insert(*number, out);
            making.path.pop();
        }
        Ok(making.tables.node(fields.into_values().collect(), once.words))
    }

    fn emit_field(&self, field: &Field, making: &mut Making<'_>) -> Result<abi::pg_field, Refusal> {
        let reset = making.tables.rows.row(&self.reset(field));
        let mut out =
            abi::pg_field { number: field.descriptor.number(), kind: field.kind(), reset, ..Default::default() };
        field.emit_elements(&mut out, making)?;
        if let Kind::Message(message) = field.descriptor.kind() {
            if !field.child.fields.is_empty() {
                let outside = making.in_counted;
                making.in_counted |= field.elements.distinct;
                out.kind = abi::PG_K_MESSAGE;
                out.child = field.child.emit(&message, making)?;
                making.in_counted = outside;
            } else if making.tables.strict {
                out.kind = abi::PG_K_MESSAGE;
                out.child = shape::node(making.tables, &message);
            }
        }
        let is_bool = field.descriptor.kind() == Kind::Bool;
        let keys: Vec<(Ranges, Place)> = field
            .value_tests()
            .filter_map(|(test, place)| match test {
                Test::Number(ranges, _) if is_bool && ranges.contains(1) => {
                    Some((ranges.union(&Ranges::of(1, u64::MAX)), *place))
                }
                Test::Number(ranges, _) | Test::Size(ranges) => Some((ranges.clone(), *place)),
                Test::Has | Test::Text(_) => None,
            })
            .collect();
        let allowed = allowed(&field.descriptor, making.closed);
        (out.bound, out.bounds) = making.tables.bounds.add(&keys, allowed.as_ref(), &mut making.tables.rows);
        let texts: Vec<(Text, Place)> = field
            .value_tests()
            .filter_map(|(test, place)| match test {
                Test::Text(text) => Some((text.clone(), *place)),
                _ => None,
            })
            .collect();
        if !texts.is_empty() {
            let tests: Vec<Text> = texts.iter().map(|(text, _)| text.clone()).collect();
            let most = abi::PG_MAX_FIELD_AUTOMATA;
            let built = making.tables.automata(&tests, Speaks::OnTheWay, most).map_err(|error| {
                let bit = error
                    .test
                    .and_then(|i| tests.get(i))
                    .map(|text| Bit::Field { path: making.path.clone(), test: Test::Text(text.clone()) });
                Refusal { message: format!("`{}`: {}", field.descriptor.full_name(), error.message), bit }
            })?;
            making.tables.note(making.request.full_name(), &making.path, &built);
            let row = |tables: &mut Assembly, chosen: &[usize]| {
                let mut writes = Writes::default();
                chosen.iter().filter_map(|i| texts.get(*i)).for_each(|(_, place)| writes.set(*place));
                tables.rows.row(&writes)
            };
            (out.automaton, out.automata) = making.tables.field_automata(&built, row);
        }
        Ok(out)
    }

    /// What happens where a field begins: it is set, nothing of its value is known, and its oneof's others are not.
    /// Where an element begins: it is there, and empty.
    fn reset(&self, field: &Field) -> Writes {
        let mut writes = Writes::default();
        if let Some(oneof) = field.descriptor.containing_oneof() {
            for member in oneof.fields().filter(|member| member.number() != field.descriptor.number()) {
                if let Some(other) = self.fields.get(&member.number()) {
                    other.absent(&mut writes);
                }
            }
        }
        for (test, place) in &field.tests {
            writes.assign(*place, *test == Test::Has);
        }
        if field.is_repeated() {
            field.elements.any.iter().for_each(|place| writes.set(*place));
            field.child.absent(&mut writes);
        }
        writes
    }
}

impl Field {
    fn is_repeated(&self) -> bool {
        self.descriptor.is_list() || self.descriptor.is_map()
    }

    /// Whether a rule reads it, or something below.
    fn is_read(&self) -> bool {
        !self.tests.is_empty() || !self.elements.is_empty() || !self.child.fields.is_empty()
    }

    /// The tests of each value.
    fn value_tests(&self) -> impl Iterator<Item = &(Test, Place)> {
        self.tests.iter().chain(&self.elements.at_once)
    }

    fn complete(&mut self, closed: &Closed) -> Result<(), Refusal> {
        let Kind::Message(message) = self.descriptor.kind() else { return Ok(()) };
        if self.descriptor.is_map() && self.is_read() {
            let value = message.map_entry_value_field();
            if allowed(&value, closed).is_some() {
                self.child.fields.entry(VALUE).or_insert_with(|| Field::new(value));
            }
            if self.elements.distinct {
                let key = || Field::new(message.map_entry_key_field());
                self.child.fields.entry(KEY).or_insert_with(key).is_key = true;
            }
        }
        if self.child.fields.is_empty() { Ok(()) } else { self.child.complete(&message, closed) }
    }

    /// What its bits are where it is not set: its default's, or those of no elements.
    fn absent(&self, writes: &mut Writes) {
        if self.is_repeated() {
            self.elements.absent(writes);
            return;
        }
        let default = self.descriptor.default_value();
        for (test, place) in &self.tests {
            writes.assign(*place, holds(test, &default, &self.descriptor.kind()));
        }
        self.child.absent(writes);
    }

    fn emit_elements(&self, out: &mut abi::pg_field, making: &mut Making<'_>) -> Result<(), Refusal> {
        if self.is_key {
            let signed = matches!(field::number(&self.descriptor.kind()), Some(Number::Signed { .. }));
            out.flags |= abi::PG_FIELD_KEY | if signed { abi::PG_FIELD_SIGNED } else { 0 };
        }
        if self.descriptor.is_map() {
            out.flags |= abi::PG_FIELD_MAP;
        }
        if !self.is_repeated() || !self.is_read() {
            return Ok(());
        }
        out.flags |= abi::PG_FIELD_ELEMENTS;
        let steps = self.elements.steps(making.layout, making.tables);
        (out.test, out.tests) = making.tables.program(&steps);
        if out.tests > abi::PG_MAX_ELEMENT_TESTS {
            let (name, most) = (self.descriptor.full_name(), abi::PG_MAX_ELEMENT_TESTS);
            let message =
                format!("rules need {} tests at the end of each `{name}`, of {most} (limit ELEMENT_TESTS)", out.tests);
            return Err(Refusal { message, bit: self.elements.example.clone() });
        }
        let Some(counter) = self.elements.counter else { return Ok(()) };
        out.counter = making.tables.rows.counter(counter);
        if !self.elements.distinct {
            return Ok(());
        }
        out.flags |= abi::PG_FIELD_DISTINCT;
        out.keys = self.elements.most() - 1;
        (out.key, making.keys) = (making.keys, making.keys + out.keys);
        let name = self.descriptor.full_name();
        let refuse = |message: String| Err(Refusal { message, bit: self.elements.example.clone() });
        if making.keys > abi::PG_MAX_MAP_KEYS {
            let (needed, most) = (making.keys, abi::PG_MAX_MAP_KEYS);
            return refuse(format!(
                "with `size({name})` rules have {needed} keys of one message remembered, of {most} (limit MAP_KEYS)"
            ));
        }
        if making.in_counted {
            return refuse(format!("`size({name})`: the map is a value in a map whose size is compared, too"));
        }
        Ok(())
    }

    /// The kind, if it is no message that is descended into; what is only skipped over is bytes, so that nothing of it is
    /// looked at.
    fn kind(&self) -> u32 {
        let read = self.value_tests().next().is_some() || self.is_key;
        match self.descriptor.kind() {
            Kind::String if read => abi::PG_K_STRING,
            kind => shape::scalar(&kind),
        }
    }
}

/// Whether a test holds for a value that descriptors give (a default).
fn holds(test: &Test, value: &Value, kind: &Kind) -> bool {
    match (test, value) {
        (Test::Has, _) => false,
        (Test::Number(ranges, _), value) => key(value, kind).is_some_and(|key| ranges.contains(key)),
        (Test::Text(text), Value::String(value)) => automata::holds(text, value.as_bytes()),
        (Test::Text(text), Value::Bytes(value)) => automata::holds(text, value),
        (Test::Size(ranges), Value::String(value)) => ranges.contains(value.chars().count() as u64),
        (Test::Size(ranges), Value::Bytes(value)) => ranges.contains(value.len() as u64),
        (Test::Text(_) | Test::Size(_), _) => false,
    }
}

/// A number's key; NaN has none.
pub fn key(value: &Value, kind: &Kind) -> Option<u64> {
    field::number(kind)?;
    match value {
        Value::Bool(value) => Some(u64::from(*value)),
        Value::I32(value) | Value::EnumNumber(value) => Some(Number::signed_key(i64::from(*value))),
        Value::I64(value) => Some(Number::signed_key(*value)),
        Value::U32(value) => Some(u64::from(*value)),
        Value::U64(value) => Some(*value),
        Value::F32(value) => (!value.is_nan()).then(|| Number::double_key(f64::from(*value))),
        Value::F64(value) => (!value.is_nan()).then(|| Number::double_key(*value)),
        _ => None,
    }
}
