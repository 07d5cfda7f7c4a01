//! Stage 5, the fields that rules read to nodes: what the engine does at each place of a request.

use std::collections::BTreeMap;

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor, Value};

use super::automata::{self, Speaks};
use super::decide::Bit;
use super::operand;
use super::predicate::{Number, Ranges, Test, Text};
use super::scope::{Layout, Place, Writes};
use super::tables::{Assembly, Refusal};
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
    child: Node,
}

impl Field {
    fn new(descriptor: FieldDescriptor) -> Field {
        Field { descriptor, tests: Vec::new(), child: Node::default() }
    }
}

/// What a plan costs.
#[derive(Debug, Clone, Copy, Default)]
pub struct Size {
    pub states: usize,
    pub bytes: usize,
}

/// Adds the plan of a request: its root node, and the row of an empty message.
pub fn add(
    tables: &mut Assembly,
    request: &MessageDescriptor,
    bits: &[&Bit],
    layout: &Layout,
) -> Result<(u32, u32), Refusal> {
    let mut root = Node::default();
    for bit in bits {
        let Bit::Field { path, test } = bit else { continue };
        let Some(place) = layout.place(bit) else { continue };
        root.insert(request, path, test, place)?;
    }
    root.complete(request)?;
    let mut init = Writes::default();
    layout.words().for_each(|word| init.clear(word));
    root.absent(&mut init);
    let init = if init.sets() { tables.rows.row(&init) } else { 0 };
    let root = root.emit(tables, request, &mut Vec::new())?;
    Ok((root, init))
}

impl Node {
    fn insert(&mut self, message: &MessageDescriptor, path: &[u32], test: &Test, place: Place) -> Result<(), Refusal> {
        let gone = || Refusal::whole("a field that was resolved is gone");
        let (first, rest) = path.split_first().ok_or_else(gone)?;
        let descriptor = message.get_field(*first).ok_or_else(gone)?;
        let kind = descriptor.kind();
        let field = self.fields.entry(*first).or_insert_with(|| Field::new(descriptor));
        match (rest, kind) {
            ([], _) => field.tests.push((test.clone(), place)),
            (rest, Kind::Message(message)) => field.child.insert(&message, rest, test, place)?,
            _ => return Err(gone()),
        }
        Ok(())
    }

    /// Adds the other members of each oneof: they clear what is read. And maps: see PG_FIELD_MAP.
    fn complete(&mut self, message: &MessageDescriptor) -> Result<(), Refusal> {
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
        self.fields.values_mut().try_for_each(Field::complete)
    }

    fn absent(&self, writes: &mut Writes) {
        self.fields.values().for_each(|field| field.absent(writes));
    }

    fn emit(&self, tables: &mut Assembly, request: &MessageDescriptor, path: &mut Vec<u32>) -> Result<u32, Refusal> {
        let mut fields = Vec::with_capacity(self.fields.len());
        for (number, field) in &self.fields {
            path.push(*number);
            fields.push(self.emit_field(field, tables, request, path)?);
            path.pop();
        }
        Ok(tables.node(fields))
    }

    fn emit_field(
        &self,
        field: &Field,
        tables: &mut Assembly,
        request: &MessageDescriptor,
        path: &mut Vec<u32>,
    ) -> Result<abi::pg_field, Refusal> {
        let reset = tables.rows.row(&self.reset(field));
        let mut out =
            abi::pg_field { number: field.descriptor.number(), kind: field.kind(), reset, ..Default::default() };
        if field.descriptor.is_map() {
            out.flags |= abi::PG_FIELD_MAP;
        }
        if !field.child.fields.is_empty() {
            out.child = field.child.emit(tables, request, path)?;
        }
        let is_bool = field.descriptor.kind() == Kind::Bool;
        let keys: Vec<(Ranges, Place)> = field
            .tests
            .iter()
            .filter_map(|(test, place)| match test {
                Test::Number(ranges, _) if is_bool && ranges.contains(1) => {
                    Some((ranges.union(&Ranges::of(1, u64::MAX)), *place))
                }
                Test::Number(ranges, _) | Test::Size(ranges) => Some((ranges.clone(), *place)),
                Test::Has | Test::Text(_) => None,
            })
            .collect();
        (out.bound, out.bounds) = tables.bounds.add(&keys, &mut tables.rows);
        let texts: Vec<(Text, Place)> = field
            .tests
            .iter()
            .filter_map(|(test, place)| match test {
                Test::Text(text) => Some((text.clone(), *place)),
                _ => None,
            })
            .collect();
        if !texts.is_empty() {
            let tests: Vec<Text> = texts.iter().map(|(text, _)| text.clone()).collect();
            let built = tables.automata(&tests, Speaks::OnTheWay, abi::PG_MAX_FIELD_AUTOMATA).map_err(|error| {
                let bit = error
                    .test
                    .and_then(|i| tests.get(i))
                    .map(|text| Bit::Field { path: path.clone(), test: Test::Text(text.clone()) });
                Refusal { message: format!("`{}`: {}", field.descriptor.full_name(), error.message), bit }
            })?;
            tables.note(request.full_name(), path, &built);
            let row = |tables: &mut Assembly, chosen: &[usize]| {
                let mut writes = Writes::default();
                chosen.iter().filter_map(|i| texts.get(*i)).for_each(|(_, place)| writes.set(*place));
                tables.rows.row(&writes)
            };
            (out.automaton, out.automata) = tables.field_automata(&built, row);
        }
        Ok(out)
    }

    /// What happens where a field begins: it is set, nothing of its value is known, and its oneof's others are not.
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
        writes
    }
}

impl Field {
    fn complete(&mut self) -> Result<(), Refusal> {
        match self.descriptor.kind() {
            Kind::Message(message) if !self.child.fields.is_empty() => self.child.complete(&message),
            _ => Ok(()),
        }
    }

    /// What its bits are where it is not set: its default's.
    fn absent(&self, writes: &mut Writes) {
        let default = self.descriptor.default_value();
        for (test, place) in &self.tests {
            writes.assign(*place, holds(test, &default, &self.descriptor.kind()));
        }
        self.child.absent(writes);
    }

    /// The kind; what is only skipped over is bytes, so that nothing of it is looked at.
    fn kind(&self) -> u32 {
        let skipped = self.tests.is_empty();
        match self.descriptor.kind() {
            Kind::Message(_) if self.child.fields.is_empty() => abi::PG_K_BYTES,
            Kind::Message(_) => abi::PG_K_MESSAGE,
            Kind::String if skipped => abi::PG_K_BYTES,
            Kind::String => abi::PG_K_STRING,
            Kind::Bytes => abi::PG_K_BYTES,
            Kind::Bool => abi::PG_K_BOOL,
            Kind::Int32 | Kind::Enum(_) => abi::PG_K_INT32,
            Kind::Uint32 => abi::PG_K_UINT32,
            Kind::Sint32 => abi::PG_K_SINT32,
            Kind::Int64 => abi::PG_K_INT64,
            Kind::Uint64 => abi::PG_K_UINT64,
            Kind::Sint64 => abi::PG_K_SINT64,
            Kind::Fixed32 => abi::PG_K_FIXED32,
            Kind::Sfixed32 => abi::PG_K_SFIXED32,
            Kind::Float => abi::PG_K_FLOAT,
            Kind::Fixed64 => abi::PG_K_FIXED64,
            Kind::Sfixed64 => abi::PG_K_SFIXED64,
            Kind::Double => abi::PG_K_DOUBLE,
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
fn key(value: &Value, kind: &Kind) -> Option<u64> {
    operand::number(kind)?;
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
