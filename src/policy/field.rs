//! Stage 3, one field, element or map value, and the tests that can be made of it.

use cel::common::ast::operators as op;
use prost_reflect::{FieldDescriptor, Kind};

use super::cel::{At, Leaf};
use super::operand::Value;
use super::predicate::{Formula, Number, Ranges, Test, Text};

/// A map on the way to a field, and the key whose value the way goes on in.
#[derive(Debug, Clone)]
pub struct Guard {
    pub at: At,
    pub key: Test,
}

/// A field of the request, an element, or a map's value.
#[derive(Debug, Clone)]
pub struct Field {
    pub at: At,
    pub guards: Vec<Guard>,
    /// The wrapper (google.protobuf.StringValue, ...) whose value it is, if that may be absent.
    pub wrapper: Option<Box<Field>>,
    pub name: String,
    pub descriptor: FieldDescriptor,
    /// It is one element, not all of them.
    pub element: bool,
}

impl Field {
    /// Its protobuf type.
    pub fn type_name(&self) -> &'static str {
        kind_name(&self.descriptor.kind())
    }

    /// Whether it is a string or bytes.
    pub fn is_text(&self) -> bool {
        matches!(self.descriptor.kind(), Kind::String | Kind::Bytes)
    }

    /// A test of it: false where a map on the way has no such key, or where it is a wrapper's that is absent.
    pub fn leaf(&self, test: Test) -> Formula<Leaf> {
        self.wrap(self.raw(test))
    }

    /// The same where the maps on the way have their keys.
    pub fn raw(&self, test: Test) -> Formula<Leaf> {
        let (at, name, kind) = (self.at.clone(), self.name.clone(), self.type_name());
        let leaf = Formula::Leaf(Leaf::Field { at, name, kind, test });
        match &self.wrapper {
            Some(wrapper) => Formula::And(vec![wrapper.raw(Test::Has), leaf]),
            None => leaf,
        }
    }

    /// What holds below the maps on the way.
    pub fn wrap(&self, inner: Formula<Leaf>) -> Formula<Leaf> {
        self.guards.iter().rev().fold(inner, |inner, guard| {
            Formula::Leaf(Leaf::Entry { at: guard.at.clone(), key: guard.key.clone(), body: Box::new(inner) })
        })
    }

    /// That it has a value at all, be it a default.
    pub fn always(&self) -> Formula<Leaf> {
        self.wrap(self.wrapper.as_ref().map_or(Formula::Const(true), |wrapper| wrapper.raw(Test::Has)))
    }

    /// The field itself as a condition, if it is a bool.
    pub fn flag(&self) -> Option<Formula<Leaf>> {
        matches!(self.descriptor.kind(), Kind::Bool).then(|| self.leaf(Test::Number(Ranges::of(1, 1), Number::Bool)))
    }

    /// `has(...)` of it.
    pub fn has(&self) -> Formula<Leaf> {
        if let Some(wrapper) = &self.wrapper {
            return wrapper.has();
        }
        if self.descriptor.supports_presence() {
            return self.leaf(Test::Has);
        }
        let default = match self.number() {
            None => Test::Text(Text::In(vec![Vec::new()])),
            Some(number) => {
                let zero = match number {
                    Number::Bool | Number::Unsigned { .. } => 0,
                    Number::Signed { .. } => Number::signed_key(0),
                    Number::Float | Number::Double => Number::double_key(0.0),
                };
                Test::Number(Ranges::of(zero, zero), number)
            }
        };
        self.wrap(self.raw(default).negate())
    }

    /// The numbers that it holds, if it does.
    pub fn number(&self) -> Option<Number> {
        number(&self.descriptor.kind())
    }

    /// A literal as this text field's bytes.
    pub fn text(&self, value: &Value) -> Result<Vec<u8>, String> {
        match (self.descriptor.kind(), value) {
            (Kind::String, Value::Text(text)) => Ok(text.clone().into_bytes()),
            (Kind::Bytes, Value::Bytes(bytes)) => Ok(bytes.clone()),
            (Kind::Bytes, Value::Text(text)) => Err(format!("`{}` is bytes: write b{text:?}", self.name)),
            (Kind::String, Value::Bytes(_)) => Err(format!("`{}` is a string: write \"...\"", self.name)),
            _ => Err(format!("`{}` is {} {}, and this is not", self.name, article(self.type_name()), self.type_name())),
        }
    }

    /// The test of a number, short where it is constant.
    pub fn number_leaf(&self, ranges: &Ranges) -> Formula<Leaf> {
        let Some(number) = number(&self.descriptor.kind()) else { return Formula::Const(false) };
        if ranges.is_empty() {
            Formula::Const(false)
        } else if *ranges == number.domain() && !number.has_nan() {
            self.always()
        } else {
            self.leaf(Test::Number(ranges.clone(), number))
        }
    }

    /// The values for which `field operator value` holds, or (if true) does not.
    pub fn compare(&self, operator: &str, value: &Value) -> Result<(Ranges, bool), String> {
        let kind = self.descriptor.kind();
        let Some(number) = number(&kind) else {
            let help = if matches!(kind, Kind::Message(_)) { ": use `has`, or one of its fields" } else { "" };
            return Err(format!("`{}` is a {}, which is not compared{help}", self.name, self.type_name()));
        };
        let wrong =
            || format!("`{}` is {} {}, and this is not", self.name, article(self.type_name()), self.type_name());
        let key = match (number, value) {
            (Number::Signed { bits }, Value::Int(value)) => {
                let max = i128::from(i64::MAX >> (64 - bits));
                let value = i64::try_from(*value).ok().filter(|value| (-max - 1..=max).contains(&i128::from(*value)));
                Number::signed_key(value.ok_or_else(|| self.range())?)
            }
            (Number::Signed { .. }, Value::Enum(name, value)) => match &kind {
                Kind::Enum(own) if own.full_name() == name => Number::signed_key(i64::from(*value)),
                Kind::Enum(own) => return Err(format!("`{}` is a `{}`, not a `{name}`", self.name, own.full_name())),
                _ => return Err(wrong()),
            },
            (Number::Unsigned { bits }, Value::Int(value)) => u64::try_from(*value)
                .ok()
                .filter(|value| *value <= u64::MAX >> (64 - bits))
                .ok_or_else(|| self.range())?,
            (Number::Bool, Value::Bool(value)) => u64::from(*value),
            (Number::Float | Number::Double, Value::Double(value)) => Number::double_key(*value),
            (Number::Float | Number::Double, Value::Int(value)) => {
                #[expect(
                    clippy::cast_precision_loss,
                    clippy::cast_possible_truncation,
                    reason = "checked for exactness"
                )]
                let double = (*value as f64, (*value as f64) as i128);
                if double.1 != *value {
                    return Err("no double is exactly this number".to_owned());
                }
                Number::double_key(double.0)
            }
            _ => return Err(wrong()),
        };
        Ok(ranges(operator, key, &number.domain()))
    }

    fn range(&self) -> String {
        format!("this is out of the range of `{}` ({})", self.name, self.type_name())
    }
}

fn article(noun: &str) -> &'static str {
    if noun.starts_with(['a', 'e', 'i', 'o']) { "an" } else { "a" }
}

/// The keys for which `key operator value` holds, or (if true) does not.
pub fn ranges(operator: &str, key: u64, domain: &Ranges) -> (Ranges, bool) {
    let below = |end: Option<u64>| end.map_or_else(Ranges::none, |end| Ranges::of(0, end));
    let above = |start: Option<u64>| start.map_or_else(Ranges::none, |start| Ranges::of(start, u64::MAX));
    let (set, negated) = match operator {
        op::LESS => (below(key.checked_sub(1)), false),
        op::LESS_EQUALS => (below(Some(key)), false),
        op::GREATER => (above(key.checked_add(1)), false),
        op::GREATER_EQUALS => (above(Some(key)), false),
        other => (Ranges::of(key, key), other == op::NOT_EQUALS),
    };
    (set.intersection(domain), negated)
}

/// The numbers of a scalar kind; none for texts and messages.
pub fn number(kind: &Kind) -> Option<Number> {
    Some(match kind {
        Kind::Bool => Number::Bool,
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 | Kind::Enum(_) => Number::Signed { bits: 32 },
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Number::Signed { bits: 64 },
        Kind::Uint32 | Kind::Fixed32 => Number::Unsigned { bits: 32 },
        Kind::Uint64 | Kind::Fixed64 => Number::Unsigned { bits: 64 },
        Kind::Float => Number::Float,
        Kind::Double => Number::Double,
        Kind::String | Kind::Bytes | Kind::Message(_) => return None,
    })
}

pub fn kind_name(kind: &Kind) -> &'static str {
    match kind {
        Kind::Double => "double",
        Kind::Float => "float",
        Kind::Int32 => "int32",
        Kind::Int64 => "int64",
        Kind::Uint32 => "uint32",
        Kind::Uint64 => "uint64",
        Kind::Sint32 => "sint32",
        Kind::Sint64 => "sint64",
        Kind::Fixed32 => "fixed32",
        Kind::Fixed64 => "fixed64",
        Kind::Sfixed32 => "sfixed32",
        Kind::Sfixed64 => "sfixed64",
        Kind::Bool => "bool",
        Kind::String => "string",
        Kind::Bytes => "bytes",
        Kind::Message(_) => "message",
        Kind::Enum(_) => "enum",
    }
}
