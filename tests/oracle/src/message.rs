//! Messages as the contract has them: a decoder by recursion over the bytes that have come, which may be fewer than the message's.

use std::collections::BTreeMap;

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, Value};

use crate::condition::Scalar;

/// Sub-messages and groups inside each other.
pub const DEPTH: usize = 32;

/// What was decoded of one message.
#[derive(Debug, Default)]
pub struct Node {
    scalars: BTreeMap<u32, Scalar>,
    pub children: BTreeMap<u32, Node>,
}

/// Why a message cannot be decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bad {
    Malformed,
    TooDeep,
    /// A map with another wire type: servers differ in what they make of it.
    Map,
    /// Not yet: nothing is wrong with what has come.
    Partial,
}

/// The bytes so far of a message that has `total`.
struct Bytes<'b> {
    have: &'b [u8],
    at: usize,
    total: usize,
}

/// A value on the wire: a number, or where bytes begin and end.
enum Raw {
    Number(u64),
    Bytes(usize, usize),
}

impl Bytes<'_> {
    fn byte(&mut self, end: usize) -> Result<u8, Bad> {
        if self.at >= self.have.len() && self.have.len() < self.total {
            return Err(Bad::Partial);
        }
        if self.at >= end {
            return Err(Bad::Malformed);
        }
        self.at += 1;
        Ok(self.have[self.at - 1])
    }

    fn varint(&mut self, end: usize) -> Result<u64, Bad> {
        let mut value = 0u128;
        for i in 0..10 {
            let byte = self.byte(end)?;
            if i == 9 && byte > 1 {
                return Err(Bad::Malformed);
            }
            value |= u128::from(byte & 0x7f) << (7 * i);
            if byte & 0x80 == 0 {
                return u64::try_from(value).map_err(|_| Bad::Malformed);
            }
        }
        Err(Bad::Malformed)
    }

    /// The end of `count` bytes that begin here, come or not.
    fn room(&self, count: u64, end: usize) -> Result<usize, Bad> {
        let count = usize::try_from(count).map_err(|_| Bad::Malformed)?;
        if count > end - self.at { Err(Bad::Malformed) } else { Ok(self.at + count) }
    }

    fn all(&mut self, to: usize) -> Result<(usize, usize), Bad> {
        if to > self.have.len() {
            return Err(Bad::Partial);
        }
        let from = std::mem::replace(&mut self.at, to);
        Ok((from, to))
    }

    fn fixed(&mut self, count: u64, end: usize) -> Result<u64, Bad> {
        let to = self.room(count, end)?;
        let (from, to) = self.all(to)?;
        Ok(self.have[from..to].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    fn raw(&mut self, wire: u64, end: usize) -> Result<Raw, Bad> {
        Ok(match wire {
            0 => Raw::Number(self.varint(end)?),
            1 => Raw::Number(self.fixed(8, end)?),
            2 => {
                let length = self.varint(end)?;
                Raw::Bytes(self.at, self.room(length, end)?)
            }
            5 => Raw::Number(self.fixed(4, end)?),
            _ => return Err(Bad::Malformed),
        })
    }

    fn tag(&mut self, end: usize) -> Result<(u32, u64), Bad> {
        let tag = u32::try_from(self.varint(end)?).map_err(|_| Bad::Malformed)?;
        if tag >> 3 == 0 { Err(Bad::Malformed) } else { Ok((tag >> 3, u64::from(tag & 7))) }
    }

    /// Past a group whose start has been read.
    fn group(&mut self, number: u32, end: usize, depth: usize) -> Result<(), Bad> {
        if depth > DEPTH {
            return Err(Bad::TooDeep);
        }
        loop {
            match self.tag(end)? {
                (inner, 3) => self.group(inner, end, depth + 1)?,
                (other, 4) => return if other == number { Ok(()) } else { Err(Bad::Malformed) },
                (_, wire) => {
                    if let Raw::Bytes(_, to) = self.raw(wire, end)? {
                        self.all(to)?;
                    }
                }
            }
        }
    }

    fn fields(
        &mut self,
        descriptor: &MessageDescriptor,
        end: usize,
        paths: &[&str],
        depth: usize,
        node: &mut Node,
    ) -> Result<(), Bad> {
        if depth > DEPTH {
            return Err(Bad::TooDeep);
        }
        while self.at < end {
            let (number, wire) = self.tag(end)?;
            if wire != 2 && wire < 6 && descriptor.get_field(number).is_some_and(|field| field.is_map()) {
                return Err(if wire == 4 { Bad::Malformed } else { Bad::Map });
            }
            if wire == 3 {
                self.group(number, end, depth + 1)?;
                continue;
            }
            let raw = self.raw(wire, end)?;
            let known = descriptor
                .get_field(number)
                .filter(|field| !field.is_list() && !field.is_map() && wire_of(&field.kind()) == wire);
            let Some(field) = known else {
                if let Raw::Bytes(_, to) = raw {
                    self.all(to)?;
                }
                continue;
            };
            let others = field.containing_oneof().into_iter().flat_map(|oneof| oneof.fields().collect::<Vec<_>>());
            for other in others.filter(|other| other.number() != number) {
                node.scalars.remove(&other.number());
                node.children.remove(&other.number());
            }
            let below: Vec<&str> =
                paths.iter().filter_map(|path| path.strip_prefix(field.name())?.strip_prefix('.')).collect();
            match (field.kind(), raw) {
                (Kind::Message(inner), Raw::Bytes(_, to)) => {
                    let child = node.children.entry(number).or_default();
                    if below.is_empty() {
                        self.all(to)?;
                    } else {
                        self.fields(&inner, to, &below, depth + 1, child)?;
                    }
                }
                (kind, Raw::Bytes(from, to)) => {
                    if matches!(kind, Kind::String) && paths.contains(&field.name()) {
                        text(&self.have[from.min(self.have.len())..to.min(self.have.len())], to <= self.have.len())?;
                    }
                    self.all(to)?;
                    node.scalars.insert(number, Scalar::Bytes(self.have[from..to].to_vec()));
                }
                (kind, Raw::Number(value)) => {
                    node.scalars.insert(number, scalar(&kind, value).unwrap());
                }
            }
        }
        Ok(())
    }
}

/// Is it UTF-8, or can it still become that?
fn text(bytes: &[u8], whole: bool) -> Result<(), Bad> {
    match std::str::from_utf8(bytes) {
        Ok(_) => Ok(()),
        Err(error) if error.error_len().is_none() && !whole => Err(Bad::Partial),
        Err(_) => Err(Bad::Malformed),
    }
}

fn scalar(kind: &Kind, n: u64) -> Option<Scalar> {
    let zigzag = |n: u64| i128::from((n >> 1) as i64 ^ -((n & 1) as i64));
    Some(match kind {
        Kind::Bool => Scalar::Bool(n != 0),
        Kind::Int32 | Kind::Enum(_) | Kind::Sfixed32 => Scalar::Whole(i128::from(n as u32 as i32)),
        Kind::Int64 | Kind::Sfixed64 => Scalar::Whole(i128::from(n as i64)),
        Kind::Uint32 | Kind::Fixed32 => Scalar::Whole(i128::from(n as u32)),
        Kind::Uint64 | Kind::Fixed64 => Scalar::Whole(i128::from(n)),
        Kind::Sint32 => Scalar::Whole(zigzag(u64::from(n as u32))),
        Kind::Sint64 => Scalar::Whole(zigzag(n)),
        Kind::Float => Scalar::Real(f64::from(f32::from_bits(n as u32))),
        Kind::Double => Scalar::Real(f64::from_bits(n)),
        _ => return None,
    })
}

pub fn wire_of(kind: &Kind) -> u64 {
    match kind {
        Kind::String | Kind::Bytes | Kind::Message(_) => 2,
        Kind::Fixed64 | Kind::Sfixed64 | Kind::Double => 1,
        Kind::Fixed32 | Kind::Sfixed32 | Kind::Float => 5,
        _ => 0,
    }
}

/// Reads a message of `total` bytes, of which a rule reads `paths`, as far as it has come. All else is only passed over.
pub fn decode(
    descriptor: &MessageDescriptor,
    have: &[u8],
    total: usize,
    paths: &[&str],
    node: &mut Node,
) -> Result<(), Bad> {
    let mut bytes = Bytes { have, at: 0, total };
    bytes.fields(descriptor, total, paths, 0, node)
}

fn default(kind: &Kind) -> Scalar {
    match kind {
        Kind::Bool => Scalar::Bool(false),
        Kind::Float | Kind::Double => Scalar::Real(0.0),
        Kind::String | Kind::Bytes => Scalar::Bytes(Vec::new()),
        _ => Scalar::Whole(0),
    }
}

fn set(field: &FieldDescriptor, value: &Scalar) -> bool {
    field.supports_presence() || *value != default(&field.kind())
}

/// A field's value, and whether it is set.
pub fn get(descriptor: &MessageDescriptor, node: Option<&Node>, path: &str) -> (Scalar, bool) {
    let (first, rest) = path.split_once('.').unwrap_or((path, ""));
    let field = descriptor.get_field_by_name(first).unwrap();
    if let Kind::Message(inner) = field.kind() {
        let child = node.and_then(|node| node.children.get(&field.number()));
        return if rest.is_empty() { (Scalar::Whole(0), child.is_some()) } else { get(&inner, child, rest) };
    }
    match node.and_then(|node| node.scalars.get(&field.number())) {
        Some(value) => (value.clone(), set(&field, value)),
        None => (default(&field.kind()), false),
    }
}

/// The same of a message that the library has decoded.
pub fn get_dynamic(message: &DynamicMessage, path: &str) -> (Scalar, bool) {
    use prost_reflect::ReflectMessage;
    let (first, rest) = path.split_once('.').unwrap_or((path, ""));
    let field = message.descriptor().get_field_by_name(first).unwrap();
    let value = match &*message.get_field(&field) {
        Value::Message(inner) if !rest.is_empty() => return get_dynamic(inner, rest),
        Value::Message(_) => Scalar::Whole(0),
        Value::Bool(value) => Scalar::Bool(*value),
        Value::I32(value) | Value::EnumNumber(value) => Scalar::Whole(i128::from(*value)),
        Value::I64(value) => Scalar::Whole(i128::from(*value)),
        Value::U32(value) => Scalar::Whole(i128::from(*value)),
        Value::U64(value) => Scalar::Whole(i128::from(*value)),
        Value::F32(value) => Scalar::Real(f64::from(*value)),
        Value::F64(value) => Scalar::Real(*value),
        Value::String(value) => Scalar::Bytes(value.clone().into_bytes()),
        Value::Bytes(value) => Scalar::Bytes(value.to_vec()),
        other => panic!("{other:?}"),
    };
    (value, message.has_field(&field))
}
