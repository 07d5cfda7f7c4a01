//! Conditions and messages as the contract has them: a decoder by recursion, and an evaluator over its values.

use std::collections::BTreeMap;

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, Value};

/// A condition on a request.
#[derive(Debug, Clone)]
pub enum Cond {
    And(Box<Cond>, Box<Cond>),
    Or(Box<Cond>, Box<Cond>),
    Not(Box<Cond>),
    Has(&'static str),
    True(&'static str),
    Whole(&'static str, &'static str, i128),
    Real(&'static str, &'static str, f64),
    Text(&'static str, &'static str, String),
    Size(&'static str, &'static str, usize),
}

/// What a scalar is; texts and bytes as bytes.
#[derive(Debug, Clone, PartialEq)]
pub enum Scalar {
    Bool(bool),
    Whole(i128),
    Real(f64),
    Bytes(Vec<u8>),
}

impl Cond {
    /// As a policy says it.
    pub fn show(&self) -> String {
        match self {
            Cond::And(a, b) => format!("({}) && ({})", a.show(), b.show()),
            Cond::Or(a, b) => format!("({}) || ({})", a.show(), b.show()),
            Cond::Not(a) => format!("!({})", a.show()),
            Cond::Has(path) => format!("has(request.{path})"),
            Cond::True(path) => format!("request.{path}"),
            Cond::Whole(path, op, value) => {
                let unsigned = ["u32", "u64", "f32", "f64"].contains(path);
                format!("request.{path} {op} {value}{}", if unsigned { "u" } else { "" })
            }
            Cond::Real(path, op, value) => format!("request.{path} {op} {value:?}"),
            Cond::Text("payload", "==", value) => format!("request.payload == b{value:?}"),
            Cond::Text("payload", op, value) => format!("request.payload.{op}(b{value:?})"),
            Cond::Text(path, "==", value) => format!("request.{path} == {value:?}"),
            Cond::Text(path, op, value) => format!("request.{path}.{op}({value:?})"),
            Cond::Size(path, op, value) => format!("size(request.{path}) {op} {value}"),
        }
    }

    /// The fields that it reads.
    pub fn paths(&self, out: &mut Vec<&'static str>) {
        match self {
            Cond::And(a, b) | Cond::Or(a, b) => {
                a.paths(out);
                b.paths(out);
            }
            Cond::Not(a) => a.paths(out),
            Cond::Has(path)
            | Cond::True(path)
            | Cond::Whole(path, ..)
            | Cond::Real(path, ..)
            | Cond::Text(path, ..)
            | Cond::Size(path, ..) => out.push(path),
        }
    }

    /// Whether it holds, where `get` says a field's value and whether it is set.
    pub fn holds(&self, get: &dyn Fn(&str) -> (Scalar, bool)) -> bool {
        fn compare<T: PartialOrd>(op: &str, a: T, b: T) -> bool {
            match op {
                "==" => a == b,
                "!=" => a != b,
                "<" => a < b,
                "<=" => a <= b,
                ">" => a > b,
                ">=" => a >= b,
                _ => panic!("{op}"),
            }
        }
        match self {
            Cond::And(a, b) => a.holds(get) && b.holds(get),
            Cond::Or(a, b) => a.holds(get) || b.holds(get),
            Cond::Not(a) => !a.holds(get),
            Cond::Has(path) => get(path).1,
            Cond::True(path) => get(path).0 == Scalar::Bool(true),
            Cond::Whole(path, op, b) => matches!(get(path).0, Scalar::Whole(a) if compare(op, a, *b)),
            Cond::Real(path, op, b) => matches!(get(path).0, Scalar::Real(a) if compare(op, a, *b)),
            Cond::Text(path, op, b) => {
                let Scalar::Bytes(a) = get(path).0 else { panic!("{path}") };
                let b = b.as_bytes();
                match *op {
                    "==" => a == b,
                    "startsWith" => a.starts_with(b),
                    "endsWith" => a.ends_with(b),
                    "contains" => b.is_empty() || a.windows(b.len()).any(|window| window == b),
                    _ => panic!("{op}"),
                }
            }
            Cond::Size(path, op, b) => {
                let Scalar::Bytes(a) = get(path).0 else { panic!("{path}") };
                let size = if *path == "payload" { a.len() } else { String::from_utf8(a).unwrap().chars().count() };
                compare(op, size, *b)
            }
        }
    }
}

// ---- messages ----

/// What was decoded of one message.
#[derive(Debug, Default)]
pub struct Node {
    scalars: BTreeMap<u32, Scalar>,
    pub children: BTreeMap<u32, Node>,
}

/// Why a message cannot be decided.
#[derive(Debug, PartialEq, Eq)]
pub enum Bad {
    Malformed,
    TooDeep,
    /// Servers differ in what they make of it.
    Map,
}

fn varint(bytes: &mut &[u8]) -> Result<u64, Bad> {
    let mut value = 0u128;
    for i in 0..10 {
        let (byte, rest) = bytes.split_first().ok_or(Bad::Malformed)?;
        *bytes = rest;
        value |= u128::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return u64::try_from(value).map_err(|_| Bad::Malformed);
        }
    }
    Err(Bad::Malformed)
}

fn take<'a>(bytes: &mut &'a [u8], count: u64) -> Result<&'a [u8], Bad> {
    let (head, rest) =
        bytes.split_at_checked(usize::try_from(count).map_err(|_| Bad::Malformed)?).ok_or(Bad::Malformed)?;
    *bytes = rest;
    Ok(head)
}

/// A value on the wire: a number, or bytes.
enum Raw<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

fn raw<'a>(bytes: &mut &'a [u8], wire: u64) -> Result<Raw<'a>, Bad> {
    Ok(match wire {
        0 => Raw::Number(varint(bytes)?),
        1 => Raw::Number(u64::from_le_bytes(take(bytes, 8)?.try_into().unwrap())),
        2 => {
            let length = varint(bytes)?;
            Raw::Bytes(take(bytes, length)?)
        }
        5 => Raw::Number(u64::from(u32::from_le_bytes(take(bytes, 4)?.try_into().unwrap()))),
        _ => return Err(Bad::Malformed),
    })
}

fn tag(bytes: &mut &[u8]) -> Result<(u32, u64), Bad> {
    let tag = u32::try_from(varint(bytes)?).map_err(|_| Bad::Malformed)?;
    if tag >> 3 == 0 { Err(Bad::Malformed) } else { Ok((tag >> 3, u64::from(tag & 7))) }
}

/// Past a group whose start has been read.
fn group(bytes: &mut &[u8], number: u32, depth: usize) -> Result<(), Bad> {
    if depth > 16 {
        return Err(Bad::TooDeep);
    }
    loop {
        match tag(bytes)? {
            (inner, 3) => group(bytes, inner, depth + 1)?,
            (end, 4) => return if end == number { Ok(()) } else { Err(Bad::Malformed) },
            (_, wire) => {
                raw(bytes, wire)?;
            }
        }
    }
}

fn scalar(kind: &Kind, raw: &Raw) -> Option<Scalar> {
    let zigzag = |n: u64| i128::from((n >> 1) as i64 ^ -((n & 1) as i64));
    Some(match (kind, raw) {
        (Kind::Bool, Raw::Number(n)) => Scalar::Bool(*n != 0),
        (Kind::Int32 | Kind::Enum(_) | Kind::Sfixed32, Raw::Number(n)) => Scalar::Whole(i128::from(*n as u32 as i32)),
        (Kind::Int64 | Kind::Sfixed64, Raw::Number(n)) => Scalar::Whole(i128::from(*n as i64)),
        (Kind::Uint32 | Kind::Fixed32, Raw::Number(n)) => Scalar::Whole(i128::from(*n as u32)),
        (Kind::Uint64 | Kind::Fixed64, Raw::Number(n)) => Scalar::Whole(i128::from(*n)),
        (Kind::Sint32, Raw::Number(n)) => Scalar::Whole(zigzag(u64::from(*n as u32))),
        (Kind::Sint64, Raw::Number(n)) => Scalar::Whole(zigzag(*n)),
        (Kind::Float, Raw::Number(n)) => Scalar::Real(f64::from(f32::from_bits(*n as u32))),
        (Kind::Double, Raw::Number(n)) => Scalar::Real(f64::from_bits(*n)),
        (Kind::String | Kind::Bytes, Raw::Bytes(bytes)) => Scalar::Bytes(bytes.to_vec()),
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

/// Reads a message, of which a rule reads `paths`. All else is only passed over.
pub fn decode(
    descriptor: &MessageDescriptor,
    mut bytes: &[u8],
    paths: &[&str],
    depth: usize,
    node: &mut Node,
) -> Result<(), Bad> {
    if depth > 16 {
        return Err(Bad::TooDeep);
    }
    while !bytes.is_empty() {
        let (number, wire) = tag(&mut bytes)?;
        if wire != 2 && wire != 4 && descriptor.get_field(number).is_some_and(|field| field.is_map()) {
            return Err(Bad::Map);
        }
        if wire == 3 {
            group(&mut bytes, number, depth + 1)?;
            continue;
        }
        let raw = raw(&mut bytes, wire)?;
        let Some(field) = descriptor.get_field(number) else { continue };
        if field.is_list() || field.is_map() || wire_of(&field.kind()) != wire {
            continue;
        }
        let others = field.containing_oneof().into_iter().flat_map(|oneof| oneof.fields().collect::<Vec<_>>());
        for other in others.filter(|other| other.number() != number) {
            node.scalars.remove(&other.number());
            node.children.remove(&other.number());
        }
        let below: Vec<&str> =
            paths.iter().filter_map(|path| path.strip_prefix(field.name())?.strip_prefix('.')).collect();
        if let (Kind::Message(inner), Raw::Bytes(value)) = (field.kind(), &raw) {
            let child = node.children.entry(number).or_default();
            if !below.is_empty() {
                decode(&inner, value, &below, depth + 1, child)?;
            }
            continue;
        }
        let value = scalar(&field.kind(), &raw).unwrap();
        if let (Kind::String, Scalar::Bytes(text), true) = (field.kind(), &value, paths.contains(&field.name())) {
            std::str::from_utf8(text).map_err(|_| Bad::Malformed)?;
        }
        node.scalars.insert(number, value);
    }
    Ok(())
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
