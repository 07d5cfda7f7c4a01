//! What (buf.validate) options say, as far as any constraint goes: read by name, so that whatever is not known is seen.

use prost_reflect::{
    DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, OneofDescriptor, ReflectMessage as _, Value,
};

use super::super::field;

/// The number of the extensions `(buf.validate.message)`, `.oneof` and `.field`.
const NUMBER: u32 = 1159;

/// The file that defines them.
pub const FILE: &str = "buf/validate/validate.proto";

fn option(options: &DynamicMessage) -> Option<DynamicMessage> {
    let is_ours = |name: &str, number: u32| {
        number == NUMBER && name.strip_prefix("buf.validate.").is_some_and(|it| !it.contains('.'))
    };
    let mut found = options.extensions().filter(|(extension, _)| is_ours(extension.full_name(), extension.number()));
    found.next().and_then(|(_, value)| value.as_message().cloned())
}

/// The constraints of a message as a whole.
pub fn of_message(message: &MessageDescriptor) -> Option<DynamicMessage> {
    option(&message.options())
}

/// The constraints of a oneof.
pub fn of_oneof(oneof: &OneofDescriptor) -> Option<DynamicMessage> {
    option(&oneof.options())
}

/// The constraints of a field.
pub fn of_field(field: &FieldDescriptor) -> Option<Result<Rules, String>> {
    option(&field.options()).map(|message| Rules::read(&message))
}

/// When a field's constraints do not apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ignore {
    /// Where it has presence, and is absent.
    #[default]
    Unspecified,
    /// Also where it has no presence, and is its type's zero.
    IfZero,
    /// Never do they apply.
    Always,
}

/// A constraint that is written in CEL.
#[derive(Debug, Clone)]
pub struct Cel {
    pub id: String,
    pub message: String,
    pub expression: String,
}

/// The constraints of a field, an element, a key or a value.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    pub required: bool,
    pub ignore: Ignore,
    pub cel: Vec<Cel>,
    /// Those of its type, under their name in `buf.validate.FieldRules`.
    pub typed: Option<(String, DynamicMessage)>,
}

/// The options that are set, by name. What an extension adds, or a newer validate.proto, is none that is known here.
pub fn set(message: &DynamicMessage) -> Result<Vec<(String, Value)>, String> {
    if let Some((extension, _)) = message.extensions().next() {
        return Err(format!("`{}`", extension.full_name()));
    }
    if let Some(field) = message.unknown_fields().next() {
        return Err(format!("number {} of `{}`", field.number(), message.descriptor().full_name()));
    }
    Ok(message.fields().map(|(field, value)| (field.name().to_owned(), value.clone())).collect())
}

fn text(message: &DynamicMessage, name: &str) -> String {
    message.get_field_by_name(name).and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

/// `cel` and `cel_expression`.
pub fn cel(name: &str, value: &Value) -> Vec<Cel> {
    let list = value.as_list().unwrap_or_default();
    let one = |value: &Value| match (name, value) {
        ("cel", Value::Message(rule)) => {
            Some(Cel { id: text(rule, "id"), message: text(rule, "message"), expression: text(rule, "expression") })
        }
        (_, Value::String(expression)) => {
            Some(Cel { id: expression.clone(), message: String::new(), expression: expression.clone() })
        }
        _ => None,
    };
    list.iter().filter_map(one).collect()
}

impl Rules {
    /// Reads a `buf.validate.FieldRules`. The error names what is not known.
    pub fn read(message: &DynamicMessage) -> Result<Rules, String> {
        let mut rules = Rules::default();
        for (name, value) in set(message)? {
            match (name.as_str(), &value) {
                ("cel" | "cel_expression", _) => rules.cel.extend(cel(&name, &value)),
                ("required", Value::Bool(required)) => rules.required = *required,
                ("ignore", Value::EnumNumber(0)) => rules.ignore = Ignore::Unspecified,
                ("ignore", Value::EnumNumber(1)) => rules.ignore = Ignore::IfZero,
                ("ignore", Value::EnumNumber(3)) => rules.ignore = Ignore::Always,
                (_, Value::Message(typed)) => rules.typed = Some((name, typed.clone())),
                _ => return Err(format!("`{name}`")),
            }
        }
        Ok(rules)
    }
}

/// What rules of a field's type are called.
pub fn type_of(kind: &Kind) -> &'static str {
    let Kind::Message(message) = kind else { return field::kind_name(kind) };
    match message.full_name() {
        "google.protobuf.Timestamp" => "timestamp",
        "google.protobuf.Duration" => "duration",
        "google.protobuf.Any" => "any",
        "google.protobuf.FieldMask" => "field_mask",
        _ => "message",
    }
}
