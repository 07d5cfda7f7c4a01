//! The constraints on one value, each as what must hold of it.

use cel::common::ast::operators as op;
use prost_reflect::{DynamicMessage, Kind, Value};

use super::super::cel::Leaf;
use super::super::field::{self, Field};
use super::super::operand;
use super::super::plan;
use super::super::predicate::{Formula, Number, Ranges, Test, Text};
use super::super::re2;
use super::options;

/// A constraint: its name as protovalidate has it, what callers are told, and what must hold.
pub struct Constraint {
    pub id: String,
    pub says: String,
    pub holds: Formula<Leaf>,
}

const UUID: &str = "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$";
const OCTET: &str = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])";

/// The constraints of a field's type. The error names the one that the kernel cannot decide, and may say why.
pub fn constraints(field: &Field, name: &str, rules: &DynamicMessage) -> Result<Vec<Constraint>, String> {
    let kind = field.descriptor.kind();
    let own = options::type_of(&kind);
    if own != name {
        return Err(format!("`{name}` on a field of type {own}"));
    }
    let set: Vec<(String, Value)> = options::set(rules)
        .map_err(|what| format!("{what} in `{name}`"))?
        .into_iter()
        .filter(|(rule, _)| rule != "example")
        .collect();
    let mut out = Values { field, name, set: &set, out: Vec::new() };
    match kind {
        Kind::String => out.texts(true)?,
        Kind::Bytes => out.texts(false)?,
        Kind::Message(_) if field.time().is_some() => out.times()?,
        Kind::Message(_) => {
            return Err(set.first().map_or_else(|| format!("`{name}`"), |(rule, _)| format!("`{name}.{rule}`")));
        }
        _ => out.numbers()?,
    }
    Ok(out.out)
}

/// That a value is not the zero of its type.
pub fn is_some(field: &Field) -> Formula<Leaf> {
    let zero = match field.number() {
        None => Test::Text(Text::In(vec![Vec::new()])),
        Some(number) => {
            let zero = zero(number);
            Test::Number(Ranges::of(zero, zero), number)
        }
    };
    field.raw(zero).negate()
}

fn zero(number: Number) -> u64 {
    match number {
        Number::Bool | Number::Unsigned { .. } => 0,
        Number::Signed { .. } => Number::signed_key(0),
        Number::Float | Number::Double => Number::double_key(0.0),
    }
}

struct Values<'a> {
    field: &'a Field,
    name: &'a str,
    set: &'a [(String, Value)],
    out: Vec<Constraint>,
}

/// A lower and an upper bound, each with its rule: `gt` or `gte`, `lt` or `lte`.
struct Bounds<'a, T> {
    low: Option<(&'a str, T)>,
    high: Option<(&'a str, T)>,
}

fn operator(rule: &str) -> &'static str {
    match rule {
        "gt" => op::GREATER,
        "gte" => op::GREATER_EQUALS,
        "lt" => op::LESS,
        _ => op::LESS_EQUALS,
    }
}

fn in_words(rule: &str) -> &'static str {
    match rule {
        "gt" => "greater than",
        "gte" => "greater than or equal to",
        "lt" => "less than",
        _ => "less than or equal to",
    }
}

impl Values<'_> {
    fn add(&mut self, rule: &str, says: String, holds: Formula<Leaf>) {
        self.out.push(Constraint { id: format!("{}.{rule}", self.name), says, holds });
    }

    fn unlisted<T>(&self, rule: &str) -> Result<T, String> {
        Err(format!("`{}.{rule}`", self.name))
    }

    /// Both bounds as one constraint, or as two that hold side by side: outside, if the upper one is the lower.
    fn bounds<T: PartialOrd>(
        &mut self,
        bounds: &Bounds<'_, T>,
        show: impl Fn(&T) -> String,
        holds: impl Fn(&str, &T) -> Formula<Leaf>,
    ) {
        let one = |(rule, value): &(&str, T)| format!("{} {}", in_words(rule), show(value));
        match (&bounds.low, &bounds.high) {
            (Some(low), Some(high)) => {
                let both = vec![holds(low.0, &low.1), holds(high.0, &high.1)];
                if high.1 >= low.1 {
                    self.add(
                        &format!("{}_{}", low.0, high.0),
                        format!("must be {} and {}", one(low), one(high)),
                        Formula::And(both),
                    );
                } else {
                    let id = format!("{}_{}_exclusive", low.0, high.0);
                    self.add(&id, format!("must be {} or {}", one(low), one(high)), Formula::Or(both));
                }
            }
            (Some(bound), None) | (None, Some(bound)) => {
                self.add(bound.0, format!("must be {}", one(bound)), holds(bound.0, &bound.1));
            }
            (None, None) => {}
        }
    }

    // ---- numbers ----

    fn numbers(&mut self) -> Result<(), String> {
        let kind = self.field.descriptor.kind();
        let Some(number) = self.field.number() else { return self.unlisted("*") };
        let field = self.field;
        let key = |value: &Value| plan::key(value, &kind);
        let is = |allowed: &Ranges| {
            if allowed.is_empty() {
                Formula::Const(false)
            } else if *allowed == number.domain() && !number.has_nan() {
                Formula::Const(true)
            } else {
                field.raw(Test::Number(allowed.clone(), number))
            }
        };
        let mut bounds = Bounds { low: None, high: None };
        for (rule, value) in self.set {
            let nan = || format!("`{}.{rule}` with NaN", self.name);
            match rule.as_str() {
                "const" => {
                    let key = key(value).ok_or_else(nan)?;
                    self.add(rule, format!("must equal {}", number.show(key)), is(&Ranges::of(key, key)));
                }
                "gt" | "gte" => bounds.low = Some((rule.as_str(), key(value).ok_or_else(nan)?)),
                "lt" | "lte" => bounds.high = Some((rule.as_str(), key(value).ok_or_else(nan)?)),
                "in" | "not_in" => {
                    let keys: Option<Vec<u64>> = value.as_list().unwrap_or_default().iter().map(key).collect();
                    let keys = keys.ok_or_else(nan)?;
                    let set = keys.iter().fold(Ranges::none(), |set, key| set.union(&Ranges::of(*key, *key)));
                    let shown = keys.iter().map(|key| number.show(*key)).collect::<Vec<_>>().join(", ");
                    if rule == "in" {
                        self.add(rule, format!("must be in list [{shown}]"), is(&set));
                    } else {
                        self.add(rule, format!("must not be in list [{shown}]"), is(&set).negate());
                    }
                }
                "finite" if *value == Value::Bool(true) => {
                    let (low, high) = (Number::double_key(f64::NEG_INFINITY), Number::double_key(f64::INFINITY));
                    self.add(rule, "must be finite".to_owned(), is(&Ranges::of(low + 1, high - 1)));
                }
                "defined_only" if *value == Value::Bool(true) => {
                    let Kind::Enum(it) = &kind else { return self.unlisted(rule) };
                    let numbers = it.values().map(|value| Number::signed_key(i64::from(value.number())));
                    let set = numbers.fold(Ranges::none(), |set, key| set.union(&Ranges::of(key, key)));
                    self.add(rule, "must be one of the defined enum values".to_owned(), is(&set));
                }
                "finite" | "defined_only" => {}
                _ => return self.unlisted(rule),
            }
        }
        let side = |rule: &str, key: &u64| is(&field::ranges(operator(rule), *key, &number.domain()).0);
        self.bounds(&bounds, |key| number.show(*key), side);
        Ok(())
    }

    // ---- strings and bytes ----

    fn texts(&mut self, is_string: bool) -> Result<(), String> {
        let unit = if is_string { "characters" } else { "bytes" };
        for (rule, value) in self.set {
            let field = self.field;
            let bytes = |value: &Value| match value {
                Value::String(text) => text.clone().into_bytes(),
                Value::Bytes(bytes) => bytes.to_vec(),
                _ => Vec::new(),
            };
            let shown = |bytes: &[u8]| {
                if is_string {
                    format!("`{}`", String::from_utf8_lossy(bytes))
                } else {
                    bytes.iter().map(|b| format!("{b:02x}")).collect()
                }
            };
            let text = bytes(value);
            let said = shown(&text);
            let sized = |ranges: Ranges| {
                if ranges == Ranges::of(0, u64::MAX) { Formula::Const(true) } else { field.raw(Test::Size(ranges)) }
            };
            let in_bytes = |ranges: Ranges| {
                if ranges == Ranges::of(0, u64::MAX) {
                    Formula::Const(true)
                } else {
                    field.raw(Test::Text(Text::Bytes(ranges)))
                }
            };
            // every text has the empty one in it
            let has = |test: fn(Vec<u8>) -> Text| {
                if text.is_empty() { Formula::Const(true) } else { field.raw(Test::Text(test(text.clone()))) }
            };
            let yes = *value == Value::Bool(true);
            let size = value.as_u64();
            match (rule.as_str(), size) {
                ("const", _) => {
                    self.add(rule, format!("must equal {said}"), field.raw(Test::Text(Text::In(vec![text]))))
                }
                ("len", Some(n)) => self.add(rule, format!("must be {n} {unit}"), sized(Ranges::of(n, n))),
                ("min_len", Some(n)) => {
                    self.add(rule, format!("must be at least {n} {unit}"), sized(Ranges::of(n, u64::MAX)))
                }
                ("max_len", Some(n)) => self.add(rule, format!("must be at most {n} {unit}"), sized(Ranges::of(0, n))),
                ("len_bytes", Some(n)) => self.add(rule, format!("must be {n} bytes"), in_bytes(Ranges::of(n, n))),
                ("min_bytes", Some(n)) => {
                    self.add(rule, format!("must be at least {n} bytes"), in_bytes(Ranges::of(n, u64::MAX)))
                }
                ("max_bytes", Some(n)) => {
                    self.add(rule, format!("must be at most {n} bytes"), in_bytes(Ranges::of(0, n)))
                }
                ("prefix", _) => self.add(rule, format!("does not have prefix {said}"), has(Text::Prefix)),
                ("suffix", _) => self.add(rule, format!("does not have suffix {said}"), has(Text::Suffix)),
                ("contains", _) => self.add(rule, format!("does not contain {said}"), has(Text::Contains)),
                ("not_contains", _) => self.add(rule, format!("contains {said}"), has(Text::Contains).negate()),
                ("in" | "not_in", _) => {
                    let mut set: Vec<Vec<u8>> = value.as_list().unwrap_or_default().iter().map(bytes).collect();
                    let list = set.iter().map(|one| shown(one)).collect::<Vec<_>>().join(", ");
                    set.sort();
                    set.dedup();
                    let holds = field.raw(Test::Text(Text::In(set)));
                    if rule == "in" {
                        self.add(rule, format!("must be in list [{list}]"), holds);
                    } else {
                        self.add(rule, format!("must not be in list [{list}]"), holds.negate());
                    }
                }
                ("pattern", _) if is_string => {
                    let pattern = value.as_str().unwrap_or_default();
                    let holds = self.pattern(rule, pattern)?;
                    self.add(rule, format!("does not match regex pattern `{pattern}`"), holds);
                }
                ("uuid", _) if !yes => {}
                ("ipv4", _) if !yes => {}
                ("uuid", _) => {
                    let holds = if is_string { self.pattern(rule, UUID)? } else { sized(Ranges::of(16, 16)) };
                    self.add(rule, "must be a valid UUID".to_owned(), holds);
                }
                ("ipv4", _) => {
                    let pattern = format!("^{OCTET}(\\.{OCTET}){{3}}$");
                    let holds = if is_string { self.pattern(rule, &pattern)? } else { sized(Ranges::of(4, 4)) };
                    self.add(rule, "must be a valid IPv4 address".to_owned(), holds);
                }
                _ => return self.unlisted(rule),
            }
        }
        Ok(())
    }

    fn pattern(&self, rule: &str, pattern: &str) -> Result<Formula<Leaf>, String> {
        let shape = re2::shape(pattern).map_err(|message| format!("`{}.{rule}`: {message}", self.name))?;
        Ok(match shape {
            re2::Shape::Always => Formula::Const(true),
            re2::Shape::Text(text) => self.field.raw(Test::Text(text)),
            re2::Shape::Counted { size, never } => {
                let never = never.map(|text| self.field.raw(Test::Text(text)).negate());
                Formula::And(std::iter::once(self.field.raw(Test::Size(size))).chain(never).collect())
            }
        })
    }

    // ---- timestamps and durations ----

    fn times(&mut self) -> Result<(), String> {
        let is_duration = self.field.time() == Some(true);
        let field = self.field;
        let mut bounds = Bounds { low: None, high: None };
        let parts = |value: &Value| {
            let message = value.as_message()?;
            let seconds = message.get_field_by_name("seconds")?.as_i64()?;
            let nanos = i64::from(message.get_field_by_name("nanos")?.as_i32()?);
            let total = i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
            Some(total)
        };
        let literal = |total: i128| {
            let (seconds, nanos) = if is_duration {
                (total / 1_000_000_000, total % 1_000_000_000)
            } else {
                (total.div_euclid(1_000_000_000), total.rem_euclid(1_000_000_000))
            };
            let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
            operand::Value::Time { duration: is_duration, seconds, nanos: i64::try_from(nanos).unwrap_or(0) }
        };
        let is = |operator: &str, total: i128| {
            field.compare_time(operator, &literal(total)).unwrap_or(Formula::Const(false))
        };
        let show = |total: i128| format!("{}.{:09}s", total / 1_000_000_000, (total % 1_000_000_000).abs());
        for (rule, value) in self.set {
            let wrong = || format!("`{}.{rule}`", self.name);
            match rule.as_str() {
                "const" => {
                    let total = parts(value).ok_or_else(wrong)?;
                    self.add(rule, format!("must equal {}", show(total)), is(op::EQUALS, total));
                }
                "gt" | "gte" => bounds.low = Some((rule.as_str(), parts(value).ok_or_else(wrong)?)),
                "lt" | "lte" => bounds.high = Some((rule.as_str(), parts(value).ok_or_else(wrong)?)),
                "in" | "not_in" => {
                    let list: Option<Vec<i128>> = value.as_list().unwrap_or_default().iter().map(parts).collect();
                    let list = list.ok_or_else(wrong)?;
                    let shown = list.iter().map(|total| show(*total)).collect::<Vec<_>>().join(", ");
                    let holds = Formula::Or(list.iter().map(|total| is(op::EQUALS, *total)).collect());
                    if rule == "in" {
                        self.add(rule, format!("must be in list [{shown}]"), holds);
                    } else {
                        self.add(rule, format!("must not be in list [{shown}]"), holds.negate());
                    }
                }
                _ => return self.unlisted(rule),
            }
        }
        self.bounds(&bounds, |total| show(*total), |rule, total| is(operator(rule), *total));
        Ok(())
    }
}
