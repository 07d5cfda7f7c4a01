//! The JSON that the peers of every stack read and write: `python/common.py` is the same in Python.
//!
//! A message is its protobuf JSON with the names of the .proto file, or one of
//! - `{"@hex": "0a01"}` in place of a message: these bytes, whatever they mean;
//! - `{"@text": 1000}` in place of a string: so many `x`;
//! - `{"@bytes": 1000}` in place of bytes: so many bytes, no four of which come twice ([`pattern`]).
//!
//! What is printed is shortened, so messages are printed with a [`digest`] of all their bytes.

use anyhow::{Context, Result, bail};
use prost::Message;
use prost_reflect::{DynamicMessage, MessageDescriptor, MethodDescriptor, SerializeOptions};
use serde_json::{Value, json};

use crate::proto;

/// Longer strings are shortened in what the peers print.
pub const SHOWN: usize = 100;

/// The method that an RPC path names.
pub fn method(path: &str) -> Option<MethodDescriptor> {
    let (service, name) = path.strip_prefix('/')?.split_once('/')?;
    proto::pool().get_service_by_name(service)?.methods().find(|m| m.name() == name)
}

/// The bytes of a message given in JSON; `None` for the type allows `@hex` only.
pub fn encode(message: &Value, kind: Option<MessageDescriptor>) -> Result<Vec<u8>> {
    if let Some(hex) = message.get("@hex") {
        return unhex(hex.as_str().context("@hex takes a string")?);
    }
    let kind = kind.context("a method that the descriptors don't know takes @hex messages only")?;
    let mut message = message.clone();
    fill(&mut message)?;
    Ok(DynamicMessage::deserialize(kind, message)?.encode_to_vec())
}

/// The JSON of a message's bytes, long values shortened; the bytes in hex if they don't parse.
pub fn decode(bytes: &[u8], kind: Option<MessageDescriptor>) -> Value {
    let parsed = kind.and_then(|kind| DynamicMessage::decode(kind, bytes).ok());
    let options = SerializeOptions::new().use_proto_field_name(true).stringify_64_bit_integers(true);
    let mut value = match parsed.and_then(|m| m.serialize_with_options(serde_json::value::Serializer, &options).ok()) {
        Some(value) => value,
        None => json!({ "@hex": hex(bytes) }),
    };
    shorten(&mut value);
    value
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The bytes of a hex string.
pub fn unhex(text: &str) -> Result<Vec<u8>> {
    let digits = text.chars().map(|c| c.to_digit(16).context("not hex")).collect::<Result<Vec<u32>>>()?;
    if digits.len() % 2 != 0 {
        bail!("odd number of hex digits");
    }
    Ok(digits.chunks_exact(2).map(|d| (d[0] << 4 | d[1]) as u8).collect())
}

fn fill(value: &mut Value) -> Result<()> {
    match value {
        Value::Object(map) => {
            let made = match (map.get("@text"), map.get("@bytes")) {
                (Some(n), _) => Some("x".repeat(length(n)?)),
                (_, Some(n)) => Some(base64(&pattern(length(n)?))),
                _ => None,
            };
            match made {
                Some(text) => *value = Value::String(text),
                None => map.values_mut().try_for_each(fill)?,
            }
        }
        Value::Array(list) => list.iter_mut().try_for_each(fill)?,
        _ => {}
    }
    Ok(())
}

fn length(n: &Value) -> Result<usize> {
    Ok(usize::try_from(n.as_u64().context("@text and @bytes take a length")?)?)
}

/// So many bytes: the numbers 0, 1, 2 and so on, of four bytes each, the highest first. What is lost, repeated or exchanged
/// shows.
pub fn pattern(n: usize) -> Vec<u8> {
    (0..u32::MAX).flat_map(u32::to_be_bytes).take(n).collect()
}

/// A number that stands for all of these bytes: CRC-32, in hex.
pub fn digest(bytes: &[u8]) -> String {
    format!("{:08x}", crc32fast::hash(bytes))
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let at = |i: usize| three.get(i).copied().unwrap_or(0);
        let number = u32::from_be_bytes([0, at(0), at(1), at(2)]);
        for place in 0..4 {
            let digit = DIGITS[(number >> (18 - 6 * place)) as usize & 63];
            text.push(if place > three.len() { '=' } else { digit.into() });
        }
    }
    text
}

fn shorten(value: &mut Value) {
    match value {
        Value::Object(map) => map.values_mut().for_each(shorten),
        Value::Array(list) => list.iter_mut().for_each(shorten),
        Value::String(text) if text.chars().count() > SHOWN => {
            let head: String = text.chars().take(16).collect();
            *text = format!("{head}...({})", text.chars().count());
        }
        _ => {}
    }
}
