//! `[[limit]]` rules: what is written of a rate, and its row in the kernel's table.

use std::ops::Range;

use serde::Deserialize;
use toml::Spanned;

use super::err::Fault;
use super::operand;
use super::tables::Refusal;
use crate::abi;

/// A rate, and what has a bucket of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// Tokens in a period.
    pub rate: u32,
    /// `s`, `m` or `h`.
    pub unit: char,
    /// Tokens that a bucket holds.
    pub burst: u32,
    /// What has a bucket.
    pub per: Per,
}

/// What has a bucket of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Per {
    /// All calls together.
    Policy,
    /// Each method.
    Method,
    /// Each address.
    Peer,
    /// Each value of a metadata key.
    Value(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawLimit {
    pub name: Spanned<String>,
    pub methods: Option<Spanned<Vec<Spanned<String>>>>,
    pub when: Option<Spanned<String>>,
    rate: Spanned<String>,
    burst: Option<Spanned<i64>>,
    per: Option<Spanned<String>>,
    pub message: Option<Spanned<String>>,
    pub mode: Option<Spanned<String>>,
}

/// The gRPC status of a call that finds no token.
pub const STATUS: u32 = 8;

const RATE_HELP: &str = "a rate is \"100/s\", \"100/m\" or \"100/h\"";

impl RawLimit {
    /// What it says of tokens.
    pub fn limit(&self) -> Result<Limit, Vec<Fault>> {
        let rate = rate(&self.rate);
        let burst = match (&self.burst, &rate) {
            (None, Ok((rate, _))) => Ok(*rate),
            (None, Err(_)) => Ok(1),
            (Some(burst), _) => number(*burst.get_ref(), abi::PG_MAX_BURST, "BURST", "burst", burst.span()),
        };
        let per = per(self.per.as_ref());
        match (rate, burst, per) {
            (Ok((rate, unit)), Ok(burst), Ok(per)) => Ok(Limit { rate, unit, burst, per }),
            (rate, burst, per) => Err([rate.err(), burst.err(), per.err()].into_iter().flatten().collect()),
        }
    }
}

fn number(number: i64, most: u32, limit: &str, what: &str, span: Range<usize>) -> Result<u32, Fault> {
    let fits = u32::try_from(number).ok().filter(|number| (1..=most).contains(number));
    fits.ok_or_else(|| Fault::at(span, format!("a {what} is 1 to {most} (limit {limit}), and not {number}")))
}

fn rate(text: &Spanned<String>) -> Result<(u32, char), Fault> {
    let refuse = || Fault::at(text.span(), format!("`{}` is not a rate", text.get_ref())).help(RATE_HELP);
    let (digits, unit) = text.get_ref().split_once('/').ok_or_else(refuse)?;
    let unit = match unit {
        "s" => 's',
        "m" => 'm',
        "h" => 'h',
        _ => return Err(refuse()),
    };
    if digits.is_empty() || digits.len() > 18 || digits.starts_with('0') || !digits.bytes().all(|b| b.is_ascii_digit())
    {
        return Err(refuse());
    }
    let digits = digits.parse().map_err(|_| refuse())?;
    number(digits, abi::PG_MAX_RATE, "RATE", "rate", text.span()).map(|rate| (rate, unit))
}

fn per(text: Option<&Spanned<String>>) -> Result<Per, Fault> {
    let Some(text) = text else { return Ok(Per::Policy) };
    let key = |text: &str| {
        let inner = text.strip_prefix("metadata[")?.strip_suffix(']')?;
        let quoted = |quote: char| inner.strip_prefix(quote)?.strip_suffix(quote);
        quoted('"').or_else(|| quoted('\'')).filter(|key| !key.contains(['"', '\'', '\\'])).map(str::to_owned)
    };
    match text.get_ref().as_str() {
        "policy" => Ok(Per::Policy),
        "method" => Ok(Per::Method),
        "peer.ip" => Ok(Per::Peer),
        other => {
            let Some(key) = key(other) else {
                return Err(Fault::at(text.span(), format!("`{other}` has no buckets"))
                    .help("one of \"policy\", \"method\", \"peer.ip\", 'metadata[\"x-key\"]'"));
            };
            let refuse = |(message, help): (String, String)| Fault::at(text.span(), message).help(help);
            operand::metadata_key(&key).map_err(refuse)?;
            if key == "accept-encoding" {
                let message = "`accept-encoding` belongs to the protocol, not to metadata".to_owned();
                return Err(refuse((message, "choose a key of the application".to_owned())));
            }
            Ok(Per::Value(key))
        }
    }
}

/// The metadata keys that limits count by, each once.
pub fn keys<'l>(limits: &[&'l Limit]) -> Result<Vec<&'l str>, Refusal> {
    let mut keys: Vec<&str> = Vec::new();
    for limit in limits {
        match &limit.per {
            Per::Value(key) if !keys.contains(&key.as_str()) => keys.push(key),
            _ => {}
        }
    }
    let most = abi::PG_MAX_BUCKET_KEYS;
    if keys.len() > most as usize {
        return Err(Refusal::whole(format!("limits count by more than {most} metadata keys (limit BUCKET_KEYS)")));
    }
    Ok(keys)
}

impl Limit {
    /// Its row; `counted` are the keys that limits count by.
    pub fn row(&self, counted: &[&str]) -> abi::pg_rate {
        const SECOND: u64 = 1_000_000_000;
        let cost = match self.unit {
            's' => SECOND,
            'm' => 60 * SECOND,
            _ => 3600 * SECOND,
        };
        let (per, slot) = match &self.per {
            Per::Policy => (abi::PG_PER_POLICY, 0),
            Per::Method => (abi::PG_PER_METHOD, 0),
            Per::Peer => (abi::PG_PER_PEER, 0),
            Per::Value(key) => (
                abi::PG_PER_VALUE,
                counted.iter().zip(0..).find(|(other, _)| *other == key).map_or(0, |(_, slot)| slot),
            ),
        };
        abi::pg_rate { per, slot, rate: self.rate, reserved: 0, cost, capacity: cost * u64::from(self.burst) }
    }
}

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}, burst {}, per ", self.rate, self.unit, self.burst)?;
        match &self.per {
            Per::Policy => f.write_str("policy"),
            Per::Method => f.write_str("method"),
            Per::Peer => f.write_str("peer.ip"),
            Per::Value(key) => write!(f, "metadata[{key:?}]"),
        }
    }
}
