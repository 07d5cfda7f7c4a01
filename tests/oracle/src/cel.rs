//! Conditions on messages by CEL's interpreter, over messages that prost-reflect has decoded: neither knows protocg.

use std::collections::HashMap;

use ::cel::objects::Key;
use ::cel::{Context, Program, Value};
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, ReflectMessage, Value as Field};

use crate::condition::Cond;

/// A condition as the interpreter takes it. `has` is a variable a path, since CEL's looks at maps.
pub struct Interpreted {
    program: Program,
    has: Vec<String>,
}

fn depth(path: &str) -> usize {
    path.split('.').count()
}

impl Interpreted {
    /// `None` where the policy language has more than CEL: string functions on bytes.
    pub fn new(cond: &Cond) -> Option<Self> {
        let text = cond.show();
        if ["contains", "startsWith", "endsWith"].iter().any(|f| text.contains(&format!("payload.{f}"))) {
            return None;
        }
        let mut paths = Vec::new();
        cond.paths(&mut paths);
        paths.sort_by_key(|path| std::cmp::Reverse((depth(path), path.len())));
        let text = paths.iter().fold(text, |text, path| {
            text.replace(&format!("has(request.{path})"), &format!("has_{}", path.replace('.', "_")))
        });
        let program = Program::compile(&text).unwrap();
        Some(Self { program, has: paths.into_iter().map(str::to_owned).collect() })
    }

    /// `None` where the interpreter gives up, as it does on the order of NaN.
    pub fn holds(&self, message: &DynamicMessage) -> Option<bool> {
        let mut context = Context::default();
        context.add_variable_from_value("request", map(message, 5));
        for path in &self.has {
            context.add_variable_from_value(format!("has_{}", path.replace('.', "_")), has(message, path));
        }
        match self.program.execute(&context) {
            Ok(Value::Bool(holds)) => Some(holds),
            _ => None,
        }
    }
}

/// A bool, number, enum, text or bytes as the interpreter has it.
pub fn scalar(value: &Field) -> Option<Value> {
    Some(match value {
        Field::Bool(value) => Value::Bool(*value),
        Field::I32(value) | Field::EnumNumber(value) => Value::Int(i64::from(*value)),
        Field::I64(value) => Value::Int(*value),
        Field::U32(value) => Value::UInt(u64::from(*value)),
        Field::U64(value) => Value::UInt(*value),
        Field::F32(value) => Value::Float(f64::from(*value)),
        Field::F64(value) => Value::Float(*value),
        Field::String(value) => Value::from(value.as_str()),
        Field::Bytes(value) => Value::from(value.to_vec()),
        Field::Message(_) | Field::List(_) | Field::Map(_) => return None,
    })
}

fn value(field: &FieldDescriptor, value: &Field, depth: usize) -> Value {
    match value {
        Field::Message(message) => map(message, depth),
        value => scalar(value).unwrap_or_else(|| panic!("{}", field.full_name())),
    }
}

/// A message's singular fields by name, absent ones as their defaults; messages in it down to a depth.
pub fn map(message: &DynamicMessage, depth: usize) -> Value {
    let mut out: HashMap<Key, Value> = HashMap::new();
    for field in message.descriptor().fields().filter(|field| !field.is_list() && !field.is_map()) {
        if depth > 0 || !matches!(field.kind(), Kind::Message(_)) {
            out.insert(Key::from(field.name()), value(&field, &message.get_field(&field), depth.saturating_sub(1)));
        }
    }
    Value::from(out)
}

/// Whether a field of the message, or of one in it (`a.b`), is there.
pub fn has(message: &DynamicMessage, path: &str) -> bool {
    let (first, rest) = path.split_once('.').unwrap_or((path, ""));
    let field = message.descriptor().get_field_by_name(first).unwrap();
    if rest.is_empty() {
        return message.has_field(&field);
    }
    matches!(&*message.get_field(&field), Field::Message(inner) if has(inner, rest))
}
