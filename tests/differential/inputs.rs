//! Messages that try the edges of their own constraints: whatever numbers, texts and times these name, and what is next to them.

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, OneofDescriptor, Value};

use crate::grammar::time;
use crate::rig::Random;

const NANO: i128 = 1_000_000_000;
/// 0001-01-01 to 9999-12-31, and 10,000 years: what timestamps and durations can say.
const TIMESTAMPS: (i128, i128) = (-62_135_596_800, 253_402_300_799);
const DURATIONS: (i128, i128) = (-315_576_000_000, 315_576_000_000);
const LONGEST: i128 = 200;
const TEXTS: [&str; 16] = [
    "",
    "a",
    "é",
    "ab",
    "A",
    "0",
    "\u{1f600}x",
    "a\n",
    "127.0.0.1",
    "256.0.0.1",
    "1.2.3.4.5",
    "::1",
    "e0c3a1b2-0000-4000-8000-0123456789ab",
    "E0C3A1B2-0000-4000-8000-0123456789AB",
    "e0c3a1b200004000800001234567 89ab",
    "foo@example.com",
];

/// What the constraints of a message, and of those in it, name.
#[derive(Default)]
struct Edges {
    numbers: Vec<i128>,
    reals: Vec<f64>,
    texts: Vec<Vec<u8>>,
    /// In nanoseconds.
    times: Vec<i128>,
}

impl Edges {
    fn of(message: &MessageDescriptor) -> Self {
        let mut edges = Self { numbers: vec![0, 1], reals: vec![0.0], ..Self::default() };
        edges.texts.extend(TEXTS.iter().map(|text| text.as_bytes().to_vec()));
        edges.times.push(0);
        edges.read_all(message, 4);
        edges
    }

    fn read_all(&mut self, message: &MessageDescriptor, depth: usize) {
        let oneofs = message.oneofs().map(|oneof: OneofDescriptor| oneof.options());
        for options in std::iter::once(message.options()).chain(oneofs) {
            options.extensions().for_each(|(_, value)| self.read(value));
        }
        for field in message.fields() {
            field.options().extensions().for_each(|(_, value)| self.read(value));
            match field.kind() {
                Kind::Message(inner) if depth > 0 => self.read_all(&inner, depth - 1),
                Kind::Enum(it) => self.numbers.extend(it.values().map(|value| i128::from(value.number()))),
                _ => {}
            }
        }
    }

    fn read(&mut self, value: &Value) {
        match value {
            Value::I32(n) => self.numbers.push(i128::from(*n)),
            Value::I64(n) => self.numbers.push(i128::from(*n)),
            Value::U32(n) => self.numbers.push(i128::from(*n)),
            Value::U64(n) => self.numbers.push(i128::from(*n)),
            Value::F32(x) => self.reals.push(f64::from(*x)),
            Value::F64(x) => self.reals.push(*x),
            Value::String(text) => self.literals(text),
            Value::Bytes(bytes) => self.texts.push(bytes.to_vec()),
            Value::Bool(_) | Value::EnumNumber(_) => {}
            Value::List(list) => list.iter().for_each(|one| self.read(one)),
            Value::Map(map) => map.values().for_each(|one| self.read(one)),
            Value::Message(message) => {
                if message.descriptor_is_time() {
                    let part = |number| match message.get_field_by_number(number).as_deref() {
                        Some(Value::I64(n)) => i128::from(*n),
                        Some(Value::I32(n)) => i128::from(*n),
                        _ => 0,
                    };
                    self.times.push(part(1) * NANO + part(2));
                }
                message.fields().for_each(|(_, value)| self.read(value));
                message.extensions().for_each(|(_, value)| self.read(value));
            }
        }
    }

    /// A text, and as if it were an expression: the texts and numbers in it.
    fn literals(&mut self, text: &str) {
        self.texts.push(text.as_bytes().to_vec());
        self.texts.extend(text.split(['\'', '"']).skip(1).step_by(2).map(|quoted| quoted.as_bytes().to_vec()));
        for word in text.split(|c: char| !(c.is_ascii_digit() || c == '.' || c == '-')) {
            if let Ok(number) = word.parse::<i64>() {
                self.numbers.push(i128::from(number));
                self.times.push(i128::from(number) * NANO);
            }
            self.reals.extend(word.parse::<f64>().ok());
        }
    }
}

trait IsTime {
    fn descriptor_is_time(&self) -> bool;
}

impl IsTime for DynamicMessage {
    fn descriptor_is_time(&self) -> bool {
        time(&Kind::Message(prost_reflect::ReflectMessage::descriptor(self))).is_some()
    }
}

/// Makes messages of one type.
pub struct Inputs<'a> {
    random: &'a mut Random,
    edges: Edges,
}

impl<'a> Inputs<'a> {
    pub fn new(random: &'a mut Random, message: &MessageDescriptor) -> Self {
        Self { random, edges: Edges::of(message) }
    }

    pub fn message(&mut self, descriptor: &MessageDescriptor, depth: usize) -> DynamicMessage {
        let mut message = DynamicMessage::new(descriptor.clone());
        if let Some(duration) = time(&Kind::Message(descriptor.clone())) {
            self.instant(&mut message, duration);
            return message;
        }
        for field in descriptor.fields() {
            // of a oneof's fields the last one stays
            if self.random.one_in(4) && field.cardinality() != prost_reflect::Cardinality::Required {
                continue;
            }
            if let Some(value) = self.field(&field, depth) {
                message.set_field(&field, value);
            }
        }
        message
    }

    fn field(&mut self, field: &FieldDescriptor, depth: usize) -> Option<Value> {
        let kind = field.kind();
        if matches!(kind, Kind::Message(_)) && depth == 0 {
            return None;
        }
        if let (true, Kind::Message(entry)) = (field.is_map(), &kind) {
            let (key, value) = (entry.map_entry_key_field().kind(), entry.map_entry_value_field().kind());
            let entries = (0..self.count()).map(|_| (self.key(&key), self.value(&value, depth)));
            return Some(Value::Map(entries.collect()));
        }
        if field.is_list() {
            let mut list: Vec<Value> = (0..self.count()).map(|_| self.value(&kind, depth)).collect();
            if self.random.one_in(4) && list.len() > 1 {
                list[0] = list[1].clone();
            }
            return Some(Value::List(list));
        }
        Some(self.value(&kind, depth))
    }

    fn key(&mut self, kind: &Kind) -> MapKey {
        match self.value(kind, 0) {
            Value::Bool(key) => MapKey::Bool(key),
            Value::I32(key) => MapKey::I32(key),
            Value::I64(key) => MapKey::I64(key),
            Value::U32(key) => MapKey::U32(key),
            Value::U64(key) => MapKey::U64(key),
            Value::String(key) => MapKey::String(key),
            other => panic!("{other:?} is no key"),
        }
    }

    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "what does not fit wraps")]
    fn value(&mut self, kind: &Kind, depth: usize) -> Value {
        match kind {
            Kind::Bool => Value::Bool(self.random.one_in(2)),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => {
                Value::I32(self.number(i128::from(i32::MIN), i128::from(i32::MAX)) as i32)
            }
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
                Value::I64(self.number(i128::from(i64::MIN), i128::from(i64::MAX)) as i64)
            }
            Kind::Uint32 | Kind::Fixed32 => Value::U32(self.number(0, i128::from(u32::MAX)) as u32),
            Kind::Uint64 | Kind::Fixed64 => Value::U64(self.number(0, i128::from(u64::MAX)) as u64),
            Kind::Enum(_) => Value::EnumNumber(self.number(i128::from(i32::MIN), i128::from(i32::MAX)) as i32),
            Kind::Float => {
                let x = self.real() as f32;
                Value::F32(self.random.pick(&[x, x.next_up(), x.next_down()]))
            }
            Kind::Double => {
                let x = self.real();
                Value::F64(self.random.pick(&[x, x.next_up(), x.next_down()]))
            }
            Kind::String => Value::String(String::from_utf8_lossy(&self.text()).into_owned()),
            Kind::Bytes => Value::Bytes(self.text().into()),
            Kind::Message(inner) => Value::Message(self.message(inner, depth.saturating_sub(1))),
        }
    }

    fn number(&mut self, least: i128, most: i128) -> i128 {
        if self.random.one_in(8) {
            return self.random.pick(&[least, most]);
        }
        let around = self.random.pick(&[-1, 0, 0, 1]);
        (self.random.pick(&self.edges.numbers) + around).clamp(least, most)
    }

    fn real(&mut self) -> f64 {
        if self.random.one_in(8) {
            return self.random.pick(&[f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, f64::MIN, f64::MAX]);
        }
        self.random.pick(&self.edges.reals) + self.random.pick(&[0.0, 0.0, 0.0, 1.0, -1.0])
    }

    /// How many elements, or how long a text.
    fn count(&mut self) -> usize {
        if self.random.one_in(3) {
            return self.random.below(3);
        }
        usize::try_from(self.number(0, 20)).unwrap()
    }

    fn text(&mut self) -> Vec<u8> {
        if self.random.one_in(4) {
            let unit = self.random.pick(&["a", "é", "\u{1f600}", "0"]);
            return unit.repeat(usize::try_from(self.number(0, LONGEST)).unwrap()).into_bytes();
        }
        let mut text = self.random.pick(&self.edges.texts);
        match self.random.below(9) {
            0 => text.push(b'x'),
            1 => text.insert(0, b'x'),
            2 => drop(text.pop()),
            3 if !text.is_empty() => drop(text.remove(0)),
            4 => text.make_ascii_uppercase(),
            5 => text.extend(self.random.pick(&self.edges.texts)),
            _ => {}
        }
        text
    }

    fn instant(&mut self, message: &mut DynamicMessage, duration: bool) {
        let (first, last) = if duration { DURATIONS } else { TIMESTAMPS };
        let around = self.random.pick(&[0, 0, 1, -1, NANO, -NANO]);
        let total = (self.random.pick(&self.edges.times) + around).clamp(first * NANO, last * NANO);
        let (seconds, nanos) = match duration {
            true => (total / NANO, total % NANO),
            false => (total.div_euclid(NANO), total.rem_euclid(NANO)),
        };
        message.set_field_by_number(1, Value::I64(i64::try_from(seconds).unwrap()));
        message.set_field_by_number(2, Value::I32(i32::try_from(nanos).unwrap()));
    }
}
