//! Random conditions over any descriptor, each twice: as a policy says it, and as CEL's interpreter can read it; and random
//! messages in all their wire forms.

use std::collections::BTreeMap;

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};

use crate::patterns::Patterns;
use crate::rig::Random;
use crate::wire::*;
use protocg_oracle::message::wire_of;

/// How many there were of each operator, type and wire form.
#[derive(Default)]
pub struct Tally(BTreeMap<String, usize>);

impl Tally {
    pub fn add(&mut self, what: impl Into<String>) {
        *self.0.entry(what.into()).or_default() += 1;
    }

    /// What another one has counted.
    pub fn merge(&mut self, other: &Tally) {
        other.0.iter().for_each(|(what, count)| *self.0.entry(what.clone()).or_default() += count);
    }

    pub fn show(&self) -> String {
        self.0.iter().map(|(what, count)| format!("  {count:>7}  {what}\n")).collect()
    }

    pub fn kinds(&self) -> usize {
        self.0.len()
    }
}

/// A condition as the policy says it, and as the interpreter reads it.
pub type Both = (String, String);

/// A place that a condition can speak of.
#[derive(Clone)]
struct Place {
    ours: String,
    theirs: String,
    /// What must hold for it to be there, as the interpreter reads it.
    guard: Vec<String>,
    kind: Kind,
}

/// How `has` of a field is asked of the interpreter, whose maps have every field.
pub fn has_name(field: &str) -> String {
    format!("has_{field}")
}

pub const STRINGS: [&str; 14] = ["", "a", "ab", "abc", "b", "éa", "k", "bab", "A", "a\n", "k9", "a b", "ÉÉ", "aaaa"];
const INTS: [i64; 8] = [0, 1, -1, 7, -7, 100, i32::MAX as i64, i32::MIN as i64];
const UINTS: [u64; 6] = [0, 1, 7, 100, 200, 0xffff_ffff];
const REALS: [f64; 8] = [0.0, -0.0, 1.5, -1.5, f64::NAN, f64::INFINITY, 2.25, f64::NEG_INFINITY];
const ORDER: [&str; 6] = ["==", "!=", "<", "<=", ">", ">="];
const SECONDS: [i64; 5] = [0, 1, -1, 5, 1_700_000_000];
const NANOS: [i64; 5] = [0, 1, 500_000_000, 999_999_999, 7];

pub fn wrapped(kind: &Kind) -> Option<FieldDescriptor> {
    let Kind::Message(message) = kind else { return None };
    let name = message.full_name();
    (name.starts_with("google.protobuf.") && name.ends_with("Value")).then(|| message.get_field(1).unwrap())
}

/// A timestamp, or (true) a duration.
pub fn time(kind: &Kind) -> Option<bool> {
    match kind {
        Kind::Message(message) if message.full_name() == "google.protobuf.Timestamp" => Some(false),
        Kind::Message(message) if message.full_name() == "google.protobuf.Duration" => Some(true),
        _ => None,
    }
}

fn type_name(kind: &Kind) -> String {
    match kind {
        Kind::Message(message) if message.full_name().starts_with("google.") => message.name().to_owned(),
        Kind::Message(_) => "message".to_owned(),
        Kind::Enum(_) => "enum".to_owned(),
        kind => format!("{kind:?}"),
    }
}

pub struct Grammar<'a> {
    pub random: &'a mut Random,
    pub tally: &'a mut Tally,
    patterns: &'a Patterns,
    vars: Vec<Place>,
}

impl<'a> Grammar<'a> {
    pub fn new(
        random: &'a mut Random,
        tally: &'a mut Tally,
        patterns: &'a Patterns,
        request: &MessageDescriptor,
    ) -> Grammar<'a> {
        let request = Place {
            ours: "request".to_owned(),
            theirs: "request".to_owned(),
            guard: Vec::new(),
            kind: Kind::Message(request.clone()),
        };
        Grammar { random, tally, patterns, vars: vec![request] }
    }

    pub fn condition(&mut self, depth: usize) -> Both {
        if depth == 0 || self.random.one_in(3) {
            return self.leaf(depth);
        }
        let a = self.condition(depth - 1);
        let join = |f: &dyn Fn(&str, &str) -> String, b: &Both| (f(&a.0, &b.0), f(&a.1, &b.1));
        match self.random.below(6) {
            0 | 1 => {
                let b = self.condition(depth - 1);
                self.tally.add("operator &&");
                join(&|a, b| format!("({a}) && ({b})"), &b)
            }
            2 | 3 => {
                let b = self.condition(depth - 1);
                self.tally.add("operator ||");
                join(&|a, b| format!("({a}) || ({b})"), &b)
            }
            4 => {
                self.tally.add("operator !");
                (format!("!({})", a.0), format!("!({})", a.1))
            }
            _ => {
                let (b, c) = (self.condition(depth - 1), self.leaf(0));
                self.tally.add("operator ?:");
                (format!("({}) ? ({}) : ({})", a.0, b.0, c.0), format!("({}) ? ({}) : ({})", a.1, b.1, c.1))
            }
        }
    }

    /// From a variable down to something that can be tested.
    fn leaf(&mut self, depth: usize) -> Both {
        let inner = self.vars.len() - 1;
        let from = if self.random.one_in(5) { self.random.below(inner + 1) } else { inner };
        let place = self.vars[from].clone();
        self.below(place, depth)
    }

    fn below(&mut self, place: Place, depth: usize) -> Both {
        let message = match &place.kind {
            kind if wrapped(kind).is_some() || time(kind).is_some() => return self.test(&place),
            Kind::Message(message) => message.clone(),
            _ => return self.test(&place),
        };
        // elements are what this is about
        let fields: Vec<_> = message.fields().collect();
        let mut field = self.random.pick(&fields);
        for _ in 0..2 {
            if !field.is_list() && !field.is_map() {
                field = self.random.pick(&fields);
            }
        }
        let name = field.name().to_owned();
        let mut at = Place {
            ours: format!("{}.{name}", place.ours),
            theirs: format!("{}.{name}", place.theirs),
            guard: place.guard.clone(),
            kind: field.kind(),
        };
        let has = format!("{}.{}", place.theirs, has_name(&name));
        if field.is_map() {
            return self.map(at, &field, &has, depth);
        }
        if field.is_list() {
            return self.list(at, &has, depth);
        }
        if self.random.one_in(8) {
            self.tally.add("operator has");
            return (format!("has({})", at.ours), guarded(&at.guard, has));
        }
        if wrapped(&at.kind).is_some() {
            at.guard.push(has);
        }
        self.below(at, depth)
    }

    fn sized(&mut self, at: &Place, has: &str, sort: &str) -> Both {
        if self.random.one_in(4) {
            self.tally.add(format!("operator has of a {sort}"));
            return (format!("has({})", at.ours), guarded(&at.guard, has.to_owned()));
        }
        let (order, size) = (self.random.pick(&ORDER), self.random.below(6));
        self.tally.add(format!("operator size of a {sort}"));
        let (ours, theirs) =
            (format!("size({}) {order} {size}", at.ours), format!("size({}) {order} {size}", at.theirs));
        // what is below a map's key that is not there satisfies nothing, and its negation everything
        if order == "!=" {
            return (ours, format!("!({})", guarded(&at.guard, format!("size({}) == {size}", at.theirs))));
        }
        (ours, guarded(&at.guard, theirs))
    }

    /// `exists` or `all` over what `element` is.
    fn quantified(&mut self, at: &Place, kind: Kind, sort: &str, depth: usize) -> Both {
        let var = format!("v{}", self.vars.len());
        self.tally.add(format!("type {} in a {sort}", type_name(&kind)));
        self.vars.push(Place { ours: var.clone(), theirs: var.clone(), guard: Vec::new(), kind });
        let body = self.condition(depth.min(2));
        self.vars.pop();
        let nested = if self.vars.len() > 1 { ", nested" } else { "" };
        if self.random.one_in(3) {
            self.tally.add(format!("operator all of a {sort}{nested}"));
            let none = guarded(&at.guard, format!("{}.exists({var}, !({}))", at.theirs, body.1));
            return (format!("{}.all({var}, {})", at.ours, body.0), format!("!({none})"));
        }
        self.tally.add(format!("operator exists of a {sort}{nested}"));
        let theirs = guarded(&at.guard, format!("{}.exists({var}, {})", at.theirs, body.1));
        (format!("{}.exists({var}, {})", at.ours, body.0), theirs)
    }

    fn list(&mut self, at: Place, has: &str, depth: usize) -> Both {
        let kind = at.kind.clone();
        let literal = self.literal(&kind);
        match (self.random.below(6), literal) {
            (0, _) => self.sized(&at, has, "list"),
            (1 | 2, Some((ours, theirs))) => {
                self.tally.add("operator in of a list");
                self.tally.add(format!("type {} in a list", type_name(&kind)));
                (
                    format!("{ours} in {}", at.ours),
                    guarded(&at.guard, format!("{}.exists(it, it == {theirs})", at.theirs)),
                )
            }
            _ if self.vars.len() < 4 => self.quantified(&at, kind, "list", depth),
            _ => self.sized(&at, has, "list"),
        }
    }

    fn map(&mut self, at: Place, field: &FieldDescriptor, has: &str, depth: usize) -> Both {
        let Kind::Message(entry) = field.kind() else { panic!() };
        let (key, value) = (entry.map_entry_key_field().kind(), entry.map_entry_value_field().kind());
        let (ours, theirs) = self.literal(&key).unwrap();
        match self.random.below(8) {
            0 => self.sized(&at, has, "map"),
            1 => {
                self.tally.add("operator in of a map");
                (format!("{ours} in {}", at.ours), guarded(&at.guard, format!("{theirs} in {}", at.theirs)))
            }
            2 | 3 if self.vars.len() < 4 => self.quantified(&at, key, "map", depth),
            _ => {
                self.tally.add("operator index of a map");
                self.tally.add(format!("type {} to {} in a map", type_name(&key), type_name(&value)));
                let mut guard = at.guard.clone();
                guard.push(format!("{theirs} in {}", at.theirs));
                let place = Place {
                    ours: format!("{}[{ours}]", at.ours),
                    theirs: format!("{}[{theirs}]", at.theirs),
                    guard,
                    kind: value,
                };
                self.below(place, depth)
            }
        }
    }

    /// A literal of this type.
    fn literal(&mut self, kind: &Kind) -> Option<Both> {
        let same = |text: String| Some((text.clone(), text));
        if let Some(value) = wrapped(kind) {
            return self.literal(&value.kind());
        }
        match kind {
            Kind::Bool => same(self.random.pick(&["true", "false"]).to_owned()),
            Kind::Enum(_) => same(self.random.pick(&["0", "1", "5"]).to_owned()),
            Kind::Uint32 | Kind::Uint64 | Kind::Fixed32 | Kind::Fixed64 => {
                same(format!("{}u", self.random.pick(&UINTS)))
            }
            Kind::Float | Kind::Double => same(format!("{:?}", self.random.pick(&[0.0, 1.5, -1.5, 2.25]))),
            Kind::String => same(format!("{:?}", self.random.pick(&STRINGS))),
            Kind::Bytes => same(format!("b{:?}", self.random.pick(&["", "a", "ab", "xy"]))),
            Kind::Message(message) => {
                let duration = time(&Kind::Message(message.clone()))?;
                let (mut seconds, mut nanos) = (self.random.pick(&SECONDS), self.random.pick(&NANOS));
                if !duration {
                    let (date, time) = match seconds {
                        1_700_000_000 => ("2023-11-14", "22:13:20"),
                        5 => ("1970-01-01", "00:00:05"),
                        1 => ("1970-01-01", "00:00:01"),
                        _ => ("1970-01-01", "00:00:00"),
                    };
                    seconds = seconds.max(0);
                    let total = seconds * 1_000_000_000 + nanos;
                    return Some((format!("timestamp(\"{date}T{time}.{nanos:09}Z\")"), total.to_string()));
                }
                let sign = if seconds < 0 { "-" } else { "" };
                if seconds < 0 {
                    nanos = -nanos;
                }
                let total = seconds * 1_000_000_000 + nanos;
                let text = format!("duration(\"{sign}{}.{:09}s\")", seconds.abs(), nanos.abs());
                Some((text, total.to_string()))
            }
            _ => same(self.random.pick(&INTS).to_string()),
        }
    }

    fn test(&mut self, place: &Place) -> Both {
        self.tally.add(format!("type {}", type_name(&place.kind)));
        let kind = wrapped(&place.kind).map_or(place.kind.clone(), |value| value.kind());
        let (ours, theirs) = (&place.ours, &place.theirs);
        let say = |ours: String, theirs: String| (ours, guarded(&place.guard, theirs));
        if kind == Kind::Bool && self.random.one_in(2) {
            return say(ours.clone(), theirs.clone());
        }
        let is_text = matches!(kind, Kind::String | Kind::Bytes);
        if matches!(kind, Kind::String) && self.random.one_in(3) {
            let (function, text) =
                (self.random.pick(&["contains", "startsWith", "endsWith"]), self.random.pick(&STRINGS[1..]));
            self.tally.add(format!("operator {function}"));
            return say(format!("{ours}.{function}({text:?})"), format!("{theirs}.{function}({text:?})"));
        }
        if matches!(kind, Kind::String) && self.random.one_in(4) {
            let index = self.random.below(self.patterns.all.len());
            self.tally.add("operator matches");
            return say(format!("{ours}.matches({:?})", self.patterns.all[index]), format!("re2({theirs}, {index})"));
        }
        if matches!(kind, Kind::Bytes) && self.random.one_in(4) {
            let (function, text) =
                (self.random.pick(&["contains", "startsWith", "endsWith"]), self.random.pick(&["a", "xy", "b", "y"]));
            self.tally.add(format!("operator {function} of bytes"));
            return say(format!("{ours}.{function}(b{text:?})"), format!("bytes_{function}({theirs}, b{text:?})"));
        }
        if is_text && self.random.one_in(4) {
            let (order, size) = (self.random.pick(&["==", "<", ">=", ">"]), self.random.below(4));
            self.tally.add("operator size of a text");
            return say(format!("size({ours}) {order} {size}"), format!("size({theirs}) {order} {size}"));
        }
        let (a, b) = (self.literal(&kind).unwrap(), self.literal(&kind).unwrap());
        if self.random.one_in(5) && kind != Kind::Bool {
            self.tally.add("operator in a literal list");
            return say(format!("{ours} in [{}, {}]", a.0, b.0), format!("{theirs} in [{}, {}]", a.1, b.1));
        }
        let ordered = !is_text && kind != Kind::Bool;
        let order = self.random.pick(&ORDER[..if ordered { 6 } else { 2 }]);
        self.tally.add(format!("operator {order}"));
        let said = format!("{ours} {order} {}", a.0);
        if order == "!=" {
            return (said, format!("!({})", guarded(&place.guard, format!("{theirs} == {}", a.1))));
        }
        // the interpreter refuses to order NaN, which in CEL is false
        let number = matches!(kind, Kind::Float | Kind::Double) && order != "==";
        let same = if number { format!("{theirs} == {theirs} && ") } else { String::new() };
        say(said, format!("{same}{theirs} {order} {}", a.1))
    }
}

fn guarded(guard: &[String], condition: String) -> String {
    let all: Vec<String> = guard.iter().cloned().chain([format!("({condition})")]).collect();
    format!("({})", all.join(" && "))
}

// ---- messages ----

fn number_of(random: &mut Random, kind: &Kind) -> u64 {
    let int = random.pick(&INTS);
    match kind {
        Kind::Bool => random.pick(&[0, 1, 1, 300]),
        Kind::Enum(_) => random.pick(&[0, 1, 5, 1]),
        Kind::Sint32 | Kind::Sint64 => ((int << 1) ^ (int >> 63)) as u64,
        Kind::Uint32 | Kind::Uint64 | Kind::Fixed32 | Kind::Fixed64 => random.pick(&UINTS),
        Kind::Float => u64::from((random.pick(&REALS) as f32).to_bits()),
        Kind::Double => random.pick(&REALS).to_bits(),
        _ => int as u64,
    }
}

/// A scalar without its tag.
fn scalar(random: &mut Random, kind: &Kind) -> Vec<u8> {
    let value = number_of(random, kind);
    match wire_of(kind) {
        0 if random.one_in(12) => long_varint(value, 10),
        0 => varint(value),
        1 => value.to_le_bytes().to_vec(),
        5 => (value as u32).to_le_bytes().to_vec(),
        _ => panic!("{kind:?}"),
    }
}

/// Fields one after the other, and what forms they have.
pub fn wire(random: &mut Random, tally: &mut Tally, descriptor: &MessageDescriptor, depth: usize) -> Vec<u8> {
    if let Some(duration) = time(&Kind::Message(descriptor.clone())) {
        return instant(random, duration);
    }
    let fields: Vec<_> = descriptor.fields().collect();
    let mut out = Vec::new();
    let most = if depth > 2 { 14 } else { 6 };
    for _ in 0..random.below(most) {
        if random.one_in(14) {
            tally.add("wire unknown field");
            out.extend(random.pick(&[number(900, 7), bytes(901, "a"), fixed32(902, 1), group(903, &number(1, 1))]));
        }
        let field = random.pick(&fields);
        let number = field.number();
        if field.is_map() {
            tally.add("wire map entry");
            let entry = entry(random, tally, &field, depth);
            out.extend(bytes(number, entry));
            continue;
        }
        let kind = field.kind();
        if field.is_list() && wire_of(&kind) != 2 {
            if random.one_in(2) {
                let count = random.below(5);
                tally.add(if count == 0 { "wire packed, an empty run" } else { "wire packed" });
                out.extend(bytes(number, (0..count).flat_map(|_| scalar(random, &kind)).collect::<Vec<u8>>()));
            } else {
                tally.add("wire not packed");
                for _ in 0..1 + random.below(2) {
                    out.extend(tag(number, wire_of(&kind) as u8));
                    out.extend(scalar(random, &kind));
                }
            }
            continue;
        }
        let is = if field.is_list() { "element" } else { "field" };
        out.extend(value(random, tally, &field, depth, is));
    }
    out
}

/// A singular field, or one element, with its tag.
fn value(random: &mut Random, tally: &mut Tally, field: &FieldDescriptor, depth: usize, is: &str) -> Vec<u8> {
    let number = field.number();
    match field.kind() {
        Kind::Message(_) if depth == 0 => Vec::new(),
        Kind::Message(inner) => {
            let inside = wire(random, tally, &inner, depth - 1);
            tally.add(format!("wire message, {is}{}", if inside.is_empty() { ", empty" } else { "" }));
            bytes(number, inside)
        }
        Kind::String => {
            tally.add(format!("wire string, {is}"));
            bytes(number, random.pick(&STRINGS))
        }
        Kind::Bytes => {
            tally.add(format!("wire bytes, {is}"));
            bytes(number, random.pick(&[&b""[..], b"a", b"xy", b"\xff", b"ab"]))
        }
        kind => {
            tally.add(format!("wire type {}, {is}", wire_of(&kind)));
            [tag(number, wire_of(&kind) as u8), scalar(random, &kind)].concat()
        }
    }
}

/// An entry: key and value in any order, either absent, or twice.
fn entry(random: &mut Random, tally: &mut Tally, field: &FieldDescriptor, depth: usize) -> Vec<u8> {
    let Kind::Message(entry) = field.kind() else { panic!() };
    let (key, value_of) = (entry.map_entry_key_field(), entry.map_entry_value_field());
    let mut parts = Vec::new();
    if random.one_in(10) {
        tally.add("wire map entry without key");
    } else {
        parts.push(value(random, tally, &key, depth, "key"));
    }
    if random.one_in(8) {
        tally.add("wire map entry without value");
    } else {
        parts.push(value(random, tally, &value_of, depth, "value"));
    }
    if random.one_in(10) {
        tally.add("wire map entry with a key or value twice");
        let again = if random.one_in(2) { &key } else { &value_of };
        parts.push(value(random, tally, again, depth, "again"));
    }
    if random.one_in(3) {
        tally.add("wire map entry backwards");
        parts.reverse();
    }
    if random.one_in(12) {
        parts.push(number(77, 1));
    }
    parts.concat()
}

fn instant(random: &mut Random, duration: bool) -> Vec<u8> {
    let (seconds, nanos) = (random.pick(&SECONDS), random.pick(&NANOS));
    let (seconds, nanos) = match duration {
        // signs may differ: what counts is the sum
        true if random.one_in(2) => (seconds, -nanos),
        true => (seconds, nanos),
        false => (seconds.max(0), nanos),
    };
    let mut out = Vec::new();
    if !random.one_in(4) {
        out.extend(number(1, seconds as u64));
    }
    if !random.one_in(3) {
        out.extend(number(2, nanos as u64));
    }
    out
}
