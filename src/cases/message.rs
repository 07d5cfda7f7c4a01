//! Request messages as they are written in cases: protobuf's JSON mapping, with the place of what is wrong.

use std::ops::Range;

use prost::Message as _;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor};

use super::Message;
use super::doc::{self, Format, Node, Value};
use super::near;
use crate::policy::Fault;

/// Encodes a message that is a table, or JSON in a string.
pub fn encode(node: &Node, message: &MessageDescriptor) -> Result<Message, Fault> {
    let json = match &node.value {
        Value::Table(_) => node.clone(),
        Value::Text(text) => from_json(text, &node.span)?,
        _ => {
            let help = "write a table like `{ query = \"x\" }`, or JSON in a string";
            return Err(Fault::at(node.span.clone(), format!("a message is not {}", node.kind())).help(help));
        }
    };
    names(&json, message)?;
    match decode(&json.json(), message) {
        Ok(decoded) => Ok(Message { bytes: decoded.encode_to_vec(), text: json.to_string() }),
        Err(error) => Err(blame(&json, message).unwrap_or_else(|| Fault::at(node.span.clone(), error))),
    }
}

/// JSON in a string: its places are the string's.
fn from_json(text: &str, span: &Range<usize>) -> Result<Node, Fault> {
    if let Err(error) = serde_json::from_str::<serde_json::Value>(text) {
        return Err(Fault::at(span.clone(), format!("this is not JSON: {error}")));
    }
    let mut node = doc::parse(text, Format::Yaml).map_err(|fault| Fault { span: Some(span.clone()), ..fault })?;
    place(&mut node, span);
    match node.value {
        Value::Table(_) => Ok(node),
        _ => Err(Fault::at(span.clone(), format!("a message is a JSON object, not {}", node.kind()))),
    }
}

fn place(node: &mut Node, span: &Range<usize>) {
    node.span = span.clone();
    match &mut node.value {
        Value::List(items) => items.iter_mut().for_each(|item| place(item, span)),
        Value::Table(rows) => rows.iter_mut().for_each(|(key, node)| {
            key.span = span.clone();
            place(node, span);
        }),
        _ => {}
    }
}

fn decode(json: &serde_json::Value, message: &MessageDescriptor) -> Result<DynamicMessage, String> {
    DynamicMessage::deserialize(message.clone(), json).map_err(|error| error.to_string())
}

/// Well-known types have JSON forms of their own.
fn is_special(message: &MessageDescriptor) -> bool {
    message.parent_file().name().starts_with("google/protobuf/")
}

fn find(message: &MessageDescriptor, name: &str) -> Option<FieldDescriptor> {
    message.get_field_by_json_name(name).or_else(|| message.get_field_by_name(name))
}

/// The messages inside a field's value, with their types.
fn inner<'n>(node: &'n Node, field: &FieldDescriptor) -> Vec<(&'n Node, MessageDescriptor)> {
    match (field.kind(), &node.value) {
        (Kind::Message(entry), Value::Table(rows)) if field.is_map() => match entry.map_entry_value_field().kind() {
            Kind::Message(of) => rows.iter().map(|(_, value)| (value, of.clone())).collect(),
            _ => Vec::new(),
        },
        (Kind::Message(of), Value::List(items)) => items.iter().map(|item| (item, of.clone())).collect(),
        (Kind::Message(of), Value::Table(_)) => vec![(node, of)],
        _ => Vec::new(),
    }
}

/// Looks for names that no field has.
fn names(node: &Node, message: &MessageDescriptor) -> Result<(), Fault> {
    let Value::Table(rows) = &node.value else { return Ok(()) };
    if is_special(message) {
        return Ok(());
    }
    for (key, value) in rows {
        if key.name.starts_with('[') {
            continue; // an extension
        }
        let Some(field) = find(message, &key.name) else {
            let fields: Vec<_> = message.fields().map(|field| field.name().to_owned()).collect();
            let help = if fields.is_empty() {
                "it has no fields".to_owned()
            } else {
                near::help(&key.name, &fields.iter().map(String::as_str).collect::<Vec<_>>())
            };
            let fault = Fault::at(key.span.clone(), format!("`{}` has no field `{}`", message.full_name(), key.name));
            return Err(fault.help(help));
        };
        inner(value, &field).into_iter().try_for_each(|(node, of)| names(node, &of))?;
    }
    Ok(())
}

/// Finds the field whose value cannot be read.
fn blame(node: &Node, message: &MessageDescriptor) -> Option<Fault> {
    let Value::Table(rows) = &node.value else { return None };
    if is_special(message) {
        return None;
    }
    for (key, value) in rows {
        let alone = serde_json::json!({ key.name.as_str(): value.json() });
        let Err(error) = decode(&alone, message) else { continue };
        let field = find(message, &key.name)?;
        for (node, of) in inner(value, &field) {
            if let Err(error) = decode(&node.json(), &of) {
                return blame(node, &of).or_else(|| Some(Fault::at(node.span.clone(), error)));
            }
        }
        let fault = Fault::at(value.span.clone(), format!("this is no value of `{}`: {error}", field.full_name()));
        return Some(match (field.kind(), &value.value) {
            (Kind::Enum(of), Value::Text(text)) => {
                let all: Vec<_> = of.values().map(|value| value.name().to_owned()).collect();
                fault.help(near::help(text, &all.iter().map(String::as_str).collect::<Vec<_>>()))
            }
            (Kind::Bytes, _) => fault.help("bytes are written in base64"),
            _ => fault,
        });
    }
    None
}

/// Bytes in hexadecimal.
pub fn raw(node: &Node) -> Result<Message, Fault> {
    let wrong = || {
        let help = "two hexadecimal digits a byte, like \"0a 05 41\"";
        Fault::at(node.span.clone(), "a raw message is bytes in hexadecimal, in a string").help(help)
    };
    let Value::Text(text) = &node.value else { return Err(wrong()) };
    let digits: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    let byte = |pair: &[u8]| {
        let pair = std::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2 && !pair.starts_with('+'))?;
        u8::from_str_radix(pair, 16).ok()
    };
    let bytes = digits.chunks(2).map(byte).collect::<Option<Vec<u8>>>().ok_or_else(wrong)?;
    Ok(Message { bytes, text: format!("raw {text}") })
}
