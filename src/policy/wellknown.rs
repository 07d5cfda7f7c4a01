//! Stage 3, well-known types: timestamps and durations against literals, and wrappers.
//!
//! They are messages on the wire, so a comparison becomes one of their fields. Runtimes differ in what they make of nanos
//! that are out of range: `plan` has the engine refuse these.

use cel::common::ast::operators as op;
use prost_reflect::{Kind, prost_types};

use super::cel::Leaf;
use super::field::Field;
use super::operand::Value;
use super::predicate::{Formula, Number, Ranges, Test};

const TIMESTAMP: &str = "google.protobuf.Timestamp";
const DURATION: &str = "google.protobuf.Duration";
const BILLION: i64 = 1_000_000_000;

/// The nanos that a message of this type may have.
pub fn nanos(message: &str) -> Option<Ranges> {
    let keys = |low, high| Some(Ranges::of(Number::signed_key(low), Number::signed_key(high)));
    match message {
        TIMESTAMP => keys(0, BILLION - 1),
        DURATION => keys(1 - BILLION, BILLION - 1),
        _ => None,
    }
}

/// The number of the field `nanos`, in both.
pub const NANOS: u32 = 2;

/// A literal `timestamp("...")`.
pub fn timestamp(text: &str) -> Result<Value, String> {
    let parsed: prost_types::Timestamp =
        text.parse().map_err(|_| format!("`{text}` is not a time: write \"2026-01-31T12:00:00Z\""))?;
    Ok(Value::Time { duration: false, seconds: parsed.seconds, nanos: i64::from(parsed.nanos) })
}

/// A literal `duration("...")`: numbers with units, as in "1h30m", "-1.5s", "20ms".
pub fn duration(text: &str) -> Result<Value, String> {
    let wrong = || format!("`{text}` is not a duration: write \"1h30m\", \"1.5s\" or \"20ms\"");
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let (number, behind) = rest.split_at(end);
        let end = behind.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(end);
        let unit: i128 = match unit {
            "h" => 3_600_000_000_000,
            "m" => 60_000_000_000,
            "s" => 1_000_000_000,
            "ms" => 1_000_000,
            "us" => 1_000,
            "ns" => 1,
            _ => return Err(wrong()),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() || whole.len() > 18 || fraction.len() > 9 {
            return Err(wrong());
        }
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| wrong())? };
        total += whole * unit;
        if !fraction.is_empty() {
            let scale = fraction.bytes().fold(1i128, |scale, _| scale * 10);
            let parts: i128 = fraction.parse::<i128>().map_err(|_| wrong())? * unit;
            if parts % scale != 0 {
                return Err(format!("`{text}` is finer than a nanosecond"));
            }
            total += parts / scale;
        }
        rest = behind;
    }
    if text.trim_start_matches('-').is_empty() {
        return Err(wrong());
    }
    let total = if negative { -total } else { total };
    let (seconds, nanos) = (total / i128::from(BILLION), total % i128::from(BILLION));
    match (i64::try_from(seconds), i64::try_from(nanos)) {
        (Ok(seconds), Ok(nanos)) if seconds.abs() <= 315_576_000_000 => {
            Ok(Value::Time { duration: true, seconds, nanos })
        }
        _ => Err(format!("`{text}` is longer than 10,000 years")),
    }
}

impl Field {
    fn message(&self) -> Option<prost_reflect::MessageDescriptor> {
        match self.descriptor.kind() {
            Kind::Message(message) if self.element || !(self.descriptor.is_list() || self.descriptor.is_map()) => {
                Some(message)
            }
            _ => None,
        }
    }

    /// Whether it is a timestamp, or (true) a duration.
    pub fn time(&self) -> Option<bool> {
        match self.message()?.full_name() {
            TIMESTAMP => Some(false),
            DURATION => Some(true),
            _ => None,
        }
    }

    /// A wrapper's value, in the wrapper's place; other fields as they are.
    pub fn unwrapped(self) -> Field {
        let wrapped = self.message().filter(|message| {
            let kinds = ["Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String", "Bytes"];
            let kind = message.full_name().strip_prefix("google.protobuf.").and_then(|it| it.strip_suffix("Value"));
            kind.is_some_and(|kind| kinds.contains(&kind))
        });
        let Some(value) = wrapped.and_then(|message| message.get_field(1)) else { return self };
        Field {
            at: self.at.below(1, "value"),
            guards: self.guards.clone(),
            name: self.name.clone(),
            descriptor: value,
            element: self.element,
            wrapper: if self.element { None } else { Some(Box::new(self)) },
        }
    }

    /// The comparison of a timestamp or duration with a literal.
    pub fn compare_time(&self, operator: &str, value: &Value) -> Result<Formula<Leaf>, String> {
        let duration = self.time().unwrap_or(false);
        let what = if duration { "duration" } else { "timestamp" };
        let (seconds, nanos) = match value {
            Value::Time { duration: same, seconds, nanos } if *same == duration => (*seconds, *nanos),
            _ => return Err(format!("`{}` is a {what}: compare it with `{what}(\"...\")`", self.name)),
        };
        let formula = match operator {
            op::EQUALS => self.at_time(duration, seconds, nanos, false, true),
            op::NOT_EQUALS => return Ok(self.wrap(self.at_time(duration, seconds, nanos, false, true)).negate()),
            op::LESS => self.at_time(duration, seconds, nanos, true, false),
            op::LESS_EQUALS => self.at_time(duration, seconds, nanos, true, true),
            op::GREATER => self.at_time(duration, seconds, nanos, true, true).negate(),
            _ => self.at_time(duration, seconds, nanos, true, false).negate(),
        };
        Ok(self.wrap(formula))
    }

    /// That it is before (`less`), or exactly there (`equal`). A duration's seconds and nanos may have different signs
    /// on the wire; what counts is their sum.
    fn at_time(&self, duration: bool, seconds: i64, nanos: i64, less: bool, equal: bool) -> Formula<Leaf> {
        let part = |number: u32, label: &str, low: i64, high: i64, (least, most): (i64, i64)| {
            if low > high || low > most || high < least {
                return Formula::Const(false);
            }
            if low <= least && high >= most {
                return Formula::Const(true);
            }
            let ranges = Ranges::of(Number::signed_key(low.max(least)), Number::signed_key(high.min(most)));
            let bits = if number == NANOS { 32 } else { 64 };
            Formula::Leaf(Leaf::Field {
                at: self.at.below(number, label),
                name: format!("{}.{label}", self.name),
                kind: if number == NANOS { "int32" } else { "int64" },
                test: Test::Number(ranges, Number::Signed { bits }),
            })
        };
        let carry = i64::from(duration);
        let mut cases = Vec::new();
        if less {
            cases.push(part(1, "seconds", i64::MIN, seconds - carry - 1, (i64::MIN, i64::MAX)));
        }
        for k in -carry..=carry {
            let at = nanos - k * BILLION;
            let (low, high) = match (less, equal) {
                (true, true) => (i64::MIN, at),
                (true, false) => (i64::MIN, at - 1),
                _ => (at, at),
            };
            // out of range is refused: what is left has this domain
            let least = if duration { 1 - BILLION } else { 0 };
            cases.push(Formula::And(vec![
                part(1, "seconds", seconds + k, seconds + k, (i64::MIN, i64::MAX)),
                part(NANOS, "nanos", low, high, (least, BILLION - 1)),
            ]));
        }
        Formula::Or(cases)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_writes_them() {
        let parts = |text: &str| match duration(text) {
            Ok(Value::Time { seconds, nanos, .. }) => Some((seconds, nanos)),
            _ => None,
        };
        assert_eq!(parts("1h30m"), Some((5400, 0)));
        assert_eq!(parts("-1.5s"), Some((-1, -500_000_000)));
        assert_eq!(parts("20ms"), Some((0, 20_000_000)));
        assert_eq!(parts("1s1ns"), Some((1, 1)));
        assert_eq!(parts("0s"), Some((0, 0)));
        for wrong in ["", "-", "5", "1.s5", "s", ".s", "1d", "0.5ns", "1h-5m", "9999999999h"] {
            assert_eq!(parts(wrong), None, "{wrong}");
        }
    }
}
