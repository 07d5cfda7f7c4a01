//! What stages 3 to 5 speak of: formulas over leaves, and the tests that a leaf makes of one value.

use std::fmt;

/// A boolean formula over leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Formula<L> {
    Const(bool),
    Leaf(L),
    Not(Box<Formula<L>>),
    And(Vec<Formula<L>>),
    Or(Vec<Formula<L>>),
}

impl<L> Formula<L> {
    /// Its negation.
    pub fn negate(self) -> Formula<L> {
        match self {
            Formula::Const(value) => Formula::Const(!value),
            Formula::Not(inner) => *inner,
            other => Formula::Not(Box::new(other)),
        }
    }

    /// Itself, or its negation.
    pub fn equals(self, value: bool) -> Formula<L> {
        if value { self } else { self.negate() }
    }
}

/// A set of 64-bit keys: inclusive ranges that ascend and do not touch.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    /// The keys `low..=high`; none if they run backwards.
    pub fn of(low: u64, high: u64) -> Ranges {
        Ranges(if low <= high { vec![(low, high)] } else { Vec::new() })
    }

    /// No key.
    pub fn none() -> Ranges {
        Ranges(Vec::new())
    }

    /// The ranges.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0.iter().copied()
    }

    /// Whether no key is in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a key is in it.
    pub fn contains(&self, key: u64) -> bool {
        self.0.iter().any(|(low, high)| (*low..=*high).contains(&key))
    }

    /// The keys of both together.
    #[must_use]
    pub fn union(&self, other: &Ranges) -> Ranges {
        let mut all: Vec<(u64, u64)> = self.iter().chain(other.iter()).collect();
        all.sort_unstable();
        let mut out: Vec<(u64, u64)> = Vec::with_capacity(all.len());
        for (low, high) in all {
            match out.last_mut() {
                Some((_, end)) if low <= end.saturating_add(1) => *end = high.max(*end),
                _ => out.push((low, high)),
            }
        }
        Ranges(out)
    }

    /// The keys in both.
    #[must_use]
    pub fn intersection(&self, other: &Ranges) -> Ranges {
        let mut out = Ranges::none();
        for (low, high) in self.iter() {
            for (a, b) in other.iter() {
                out = out.union(&Ranges::of(low.max(a), high.min(b)));
            }
        }
        out
    }

    /// The keys that are not in it.
    #[must_use]
    pub fn complement(&self) -> Ranges {
        let mut out = Vec::new();
        let mut next = Some(0u64);
        for (low, high) in self.iter() {
            if let Some(start) = next
                && start < low
            {
                out.push((start, low - 1));
            }
            next = high.checked_add(1);
        }
        out.extend(next.map(|start| (start, u64::MAX)));
        Ranges(out)
    }
}

/// How a number becomes a key, and which keys there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Number {
    Bool,
    Signed { bits: u32 },
    Unsigned { bits: u32 },
    Float,
    Double,
}

const TOP: u64 = 1 << 63;

impl Number {
    /// The key of a signed number.
    pub fn signed_key(value: i64) -> u64 {
        value.cast_unsigned() ^ TOP
    }

    /// The key of a floating-point number; NaN has none.
    pub fn double_key(value: f64) -> u64 {
        let bits = if value == 0.0 { 0 } else { value.to_bits() };
        if bits & TOP != 0 { !bits } else { bits | TOP }
    }

    /// Every key that a value (but NaN) can have.
    pub fn domain(self) -> Ranges {
        match self {
            Number::Bool => Ranges::of(0, 1),
            Number::Signed { bits } => {
                let max = i64::MAX >> (64 - bits);
                Ranges::of(Number::signed_key(-max - 1), Number::signed_key(max))
            }
            Number::Unsigned { bits } => Ranges::of(0, u64::MAX >> (64 - bits)),
            Number::Float | Number::Double => {
                Ranges::of(Number::double_key(f64::NEG_INFINITY), Number::double_key(f64::INFINITY))
            }
        }
    }

    /// Whether there is a value without a key.
    pub fn has_nan(self) -> bool {
        matches!(self, Number::Float | Number::Double)
    }

    /// A key as the number that it stands for.
    pub fn show(self, key: u64) -> String {
        match self {
            Number::Bool => (key != 0).to_string(),
            Number::Signed { .. } => (key ^ TOP).cast_signed().to_string(),
            Number::Unsigned { .. } => key.to_string(),
            Number::Float | Number::Double => {
                format!("{:?}", f64::from_bits(if key & TOP != 0 { key & !TOP } else { !key }))
            }
        }
    }
}

/// A test of a text: a string's or bytes field's value, or one value of a metadata key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Text {
    /// One of these, sorted, each once.
    In(Vec<Vec<u8>>),
    Prefix(Vec<u8>),
    Suffix(Vec<u8>),
    Contains(Vec<u8>),
    /// RE2 syntax, unanchored.
    Matches(String),
    /// A metadata value's characters, counted.
    Size(Ranges),
    /// A string's bytes, counted.
    Bytes(Ranges),
}

/// A test of a field's value.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Test {
    /// The field is set (only of fields that have presence).
    Has,
    /// The number's key is in the set. NaN never is.
    Number(Ranges, Number),
    /// The size is in the set.
    Size(Ranges),
    Text(Text),
}

/// Writes ranges as CEL that says the same of `name`.
pub fn show_ranges(f: &mut fmt::Formatter<'_>, name: &str, ranges: &Ranges, number: Number) -> fmt::Result {
    let (mut points, mut spans) = (Vec::new(), Vec::new());
    let domain = number.domain();
    let (least, most) = domain.iter().next().unwrap_or((0, u64::MAX));
    for (low, high) in ranges.iter() {
        match (low == least, high == most) {
            _ if low == high => points.push(number.show(low)),
            (true, true) => spans.push("true".to_owned()),
            (true, false) => spans.push(format!("{name} <= {}", number.show(high))),
            (false, true) => spans.push(format!("{name} >= {}", number.show(low))),
            (false, false) => {
                spans.push(format!("({name} >= {} && {name} <= {})", number.show(low), number.show(high)));
            }
        }
    }
    if let [point] = points.as_slice() {
        spans.insert(0, format!("{name} == {point}"));
    } else if !points.is_empty() {
        spans.insert(0, format!("{name} in [{}]", points.join(", ")));
    }
    match spans.as_slice() {
        [one] => f.write_str(one),
        many => write!(f, "({})", many.join(" || ")),
    }
}

/// A text as a CEL literal.
pub fn quote(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => format!("{text:?}"),
        Err(_) => format!("b\"{}\"", bytes.escape_ascii()),
    }
}

/// Writes a text test as CEL that says the same of `name`.
pub fn show_text(f: &mut fmt::Formatter<'_>, name: &str, text: &Text) -> fmt::Result {
    match text {
        Text::In(set) => match set.as_slice() {
            [one] => write!(f, "{name} == {}", quote(one)),
            many => write!(f, "{name} in [{}]", many.iter().map(|one| quote(one)).collect::<Vec<_>>().join(", ")),
        },
        Text::Prefix(text) => write!(f, "{name}.startsWith({})", quote(text)),
        Text::Suffix(text) => write!(f, "{name}.endsWith({})", quote(text)),
        Text::Contains(text) => write!(f, "{name}.contains({})", quote(text)),
        Text::Matches(pattern) => write!(f, "{name}.matches({pattern:?})"),
        Text::Size(ranges) => show_ranges(f, &format!("size({name})"), ranges, Number::Unsigned { bits: 64 }),
        Text::Bytes(ranges) => show_ranges(f, &format!("size(bytes({name}))"), ranges, Number::Unsigned { bits: 64 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_order_as_numbers_do() {
        let doubles = [f64::NEG_INFINITY, -2.5, -1e-300, 0.0, 1e-300, 1.0, f64::INFINITY];
        assert!(doubles.is_sorted_by(|a, b| Number::double_key(*a) < Number::double_key(*b)));
        assert_eq!(Number::double_key(-0.0), Number::double_key(0.0));
        let ints = [i64::MIN, -1, 0, 1, i64::MAX];
        assert!(ints.is_sorted_by(|a, b| Number::signed_key(*a) < Number::signed_key(*b)));
    }

    #[test]
    fn a_set_and_its_complement_share_no_key() {
        let set = Ranges::of(0, 4).union(&Ranges::of(7, 9)).union(&Ranges::of(u64::MAX, u64::MAX));
        assert!(set.intersection(&set.complement()).is_empty());
        assert_eq!(set.union(&set.complement()), Ranges::of(0, u64::MAX));
        assert_eq!(set.complement().complement(), set);
        assert_eq!(Ranges::none().complement(), Ranges::of(0, u64::MAX));
    }
}
