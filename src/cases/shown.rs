//! What a call brought, as people read it.

use std::fmt::Write as _;

use prost_reflect::{DynamicMessage, Kind, MapKey, ReflectMessage as _, Value};

/// The longest text that is shown whole.
const SHORT: usize = 60;

/// A text, cut where it is long.
pub fn text(text: &str) -> String {
    match text.char_indices().nth(SHORT) {
        Some((at, _)) => format!("{:?}... ({} characters)", text.get(..at).unwrap_or_default(), text.chars().count()),
        None => format!("{text:?}"),
    }
}

/// A text that is no string, cut where it is long.
pub fn cut(text: &str) -> String {
    match text.char_indices().nth(2 * SHORT) {
        Some((at, _)) => format!("{}...", text.get(..at).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// The value of a field: the numbers on the way to it lead there.
pub fn field(message: &DynamicMessage, path: &[u32]) -> Option<String> {
    let (first, rest) = path.split_first()?;
    let descriptor = message.descriptor().get_field(*first)?;
    let value = message.get_field_by_number(*first)?;
    match (rest, &*value) {
        ([], value) => {
            let absent = if message.has_field_by_number(*first) { "" } else { " (absent)" };
            Some(format!("{}{absent}", show(value, &descriptor.kind())))
        }
        (rest, Value::Message(inner)) => field(inner, rest),
        _ => None,
    }
}

fn show(value: &Value, kind: &Kind) -> String {
    match value {
        Value::String(value) => text(value),
        Value::Bytes(value) => format!("b{}", text(&value.escape_ascii().to_string())),
        Value::Bool(value) => value.to_string(),
        Value::I32(value) => value.to_string(),
        Value::I64(value) => value.to_string(),
        Value::U32(value) => value.to_string(),
        Value::U64(value) => value.to_string(),
        Value::F32(value) => format!("{value:?}"),
        Value::F64(value) => format!("{value:?}"),
        Value::EnumNumber(number) => match kind {
            Kind::Enum(of) => {
                of.get_value(*number).map_or_else(|| number.to_string(), |it| format!("{} ({number})", it.name()))
            }
            _ => number.to_string(),
        },
        Value::Message(message) if message.fields().next().is_none() => "{}".to_owned(),
        Value::Message(_) => "a message".to_owned(),
        Value::List(items) => {
            const SOME: usize = 5;
            let mut out = items.iter().take(SOME).map(|item| show(item, kind)).collect::<Vec<_>>().join(", ");
            if items.len() > SOME {
                let _ = write!(out, ", ... {} in all", items.len());
            }
            format!("[{out}]")
        }
        Value::Map(entries) => {
            let keys = entries.keys().map(|key| match key {
                MapKey::String(key) => format!("{key:?}"),
                MapKey::Bool(key) => key.to_string(),
                MapKey::I32(key) => key.to_string(),
                MapKey::I64(key) => key.to_string(),
                MapKey::U32(key) => key.to_string(),
                MapKey::U64(key) => key.to_string(),
            });
            let mut keys: Vec<String> = keys.collect();
            keys.sort();
            format!("a map with {}", if keys.is_empty() { "no key".to_owned() } else { keys.join(", ") })
        }
    }
}
