//! Stage 2, descriptor sets of editions: said again in the words of proto2 or proto3, which prost-reflect knows.
//!
//! Of an edition's features three matter here: whether fields have presence, whether enums are closed, and whether
//! sub-messages are groups on the wire. (Packed or not makes no difference: both are read.)

use std::collections::HashSet;

use prost::Message as _;
use prost_reflect::prost_types::field_descriptor_proto::{Label, Type};
use prost_reflect::prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorProto, FileDescriptorSet};
use prost_reflect::{EnumDescriptor, FieldDescriptor, Syntax};

/// Which enums are closed, where the syntax does not say it.
#[derive(Debug, Default)]
pub struct Closed {
    open: HashSet<String>,
    closed: HashSet<String>,
    /// Files of editions.
    files: HashSet<String>,
}

impl Closed {
    /// Whether runtimes differ in what they make of this field's unknown numbers. Some take any enum in a proto2 file for
    /// closed.
    pub fn is_closed(&self, field: &FieldDescriptor, it: &EnumDescriptor) -> bool {
        let (name, file) = (it.full_name(), field.parent_file());
        let by_enum = !self.open.contains(name) && it.parent_file().syntax() == Syntax::Proto2;
        let by_field = !self.files.contains(file.name()) && file.syntax() == Syntax::Proto2;
        self.closed.contains(name) || by_enum || by_field
    }
}

// ---- what prost_types leaves out of descriptor.proto ----

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct Features {
    #[prost(int32, optional, tag = "1")]
    field_presence: Option<i32>,
    #[prost(int32, optional, tag = "2")]
    enum_type: Option<i32>,
    #[prost(int32, optional, tag = "5")]
    message_encoding: Option<i32>,
}

const IMPLICIT: i32 = 2;
const CLOSED: i32 = 2;
const DELIMITED: i32 = 2;

macro_rules! options {
    ($name:ident, $tag:literal) => {
        #[derive(Clone, Copy, PartialEq, prost::Message)]
        struct $name {
            #[prost(message, optional, tag = $tag)]
            features: Option<Features>,
        }
    };
}
options!(FileOptions, "50");
options!(MessageOptions, "12");
options!(FieldOptions, "21");
options!(EnumOptions, "7");

#[derive(Clone, PartialEq, prost::Message)]
struct Set {
    #[prost(message, repeated, tag = "1")]
    file: Vec<File>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct File {
    #[prost(message, repeated, tag = "4")]
    message_type: Vec<Message>,
    #[prost(message, repeated, tag = "5")]
    enum_type: Vec<Enum>,
    #[prost(message, optional, tag = "8")]
    options: Option<FileOptions>,
    #[prost(int32, tag = "14")]
    edition: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Message {
    #[prost(message, repeated, tag = "2")]
    field: Vec<Field>,
    #[prost(message, repeated, tag = "3")]
    nested_type: Vec<Message>,
    #[prost(message, repeated, tag = "4")]
    enum_type: Vec<Enum>,
    #[prost(message, optional, tag = "7")]
    options: Option<MessageOptions>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Field {
    #[prost(message, optional, tag = "8")]
    options: Option<FieldOptions>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Enum {
    #[prost(message, optional, tag = "3")]
    options: Option<EnumOptions>,
}

/// Features with those of what is around.
fn resolved(around: Features, own: Option<Features>) -> Features {
    let own = own.unwrap_or_default();
    Features {
        field_presence: own.field_presence.or(around.field_presence),
        enum_type: own.enum_type.or(around.enum_type),
        message_encoding: own.message_encoding.or(around.message_encoding),
    }
}

/// Says files of editions again in proto2 or proto3; `bytes` are the set's.
pub fn lower(set: &mut FileDescriptorSet, bytes: &[u8], closed: &mut Closed) -> Result<(), String> {
    if let Some(file) = set.file.iter().find(|file| !["", "proto2", "proto3", "editions"].contains(&file.syntax())) {
        return Err(format!("`{}` has the unknown syntax `{}`", file.name(), file.syntax()));
    }
    if !set.file.iter().any(|file| file.syntax() == "editions") {
        return Ok(());
    }
    let raw = Set::decode(bytes).map_err(|error| error.to_string())?;
    for (file, raw) in set.file.iter_mut().zip(&raw.file).filter(|(file, _)| file.syntax() == "editions") {
        // 2023 and 2024: what matters here has the same defaults in both
        if ![1000, 1001].contains(&raw.edition) {
            return Err(format!("`{}` is of an edition that is not known: 2023 and 2024 are", file.name()));
        }
        lower_file(file, raw, closed);
    }
    Ok(())
}

fn lower_file(file: &mut FileDescriptorProto, raw: &File, closed: &mut Closed) {
    let features = resolved(Features::default(), raw.options.and_then(|options| options.features));
    let package = if file.package().is_empty() { String::new() } else { format!("{}.", file.package()) };
    let mut implicit = false;
    for (message, raw) in file.message_type.iter_mut().zip(&raw.message_type) {
        lower_message(message, raw, features, &package, closed, &mut implicit);
    }
    lower_enums(&file.enum_type, &raw.enum_type, features, &package, closed);
    closed.files.insert(file.name().to_owned());
    file.syntax = Some(if implicit { "proto3" } else { "proto2" }.to_owned());
}

fn lower_message(
    message: &mut DescriptorProto,
    raw: &Message,
    around: Features,
    within: &str,
    closed: &mut Closed,
    implicit: &mut bool,
) {
    let features = resolved(around, raw.options.and_then(|options| options.features));
    let within = format!("{within}{}.", message.name());
    let is_entry = message.options.as_ref().is_some_and(|options| options.map_entry());
    for (field, raw) in message.field.iter_mut().zip(&raw.field) {
        let features = resolved(features, raw.options.and_then(|options| options.features));
        if field.r#type() == Type::Message && features.message_encoding == Some(DELIMITED) && !is_entry {
            field.set_type(Type::Group);
        }
        if is_entry || field.label() == Label::Repeated || field.oneof_index.is_some() {
            continue;
        }
        if features.field_presence != Some(IMPLICIT) {
            field.proto3_optional = Some(true);
        } else if !matches!(field.r#type(), Type::Message | Type::Group) {
            *implicit = true;
        }
    }
    for (nested, raw) in message.nested_type.iter_mut().zip(&raw.nested_type) {
        lower_message(nested, raw, features, &within, closed, implicit);
    }
    lower_enums(&message.enum_type, &raw.enum_type, features, &within, closed);
}

fn lower_enums(enums: &[EnumDescriptorProto], raw: &[Enum], around: Features, within: &str, closed: &mut Closed) {
    for (it, raw) in enums.iter().zip(raw) {
        let features = resolved(around, raw.options.and_then(|options| options.features));
        let names = if features.enum_type == Some(CLOSED) { &mut closed.closed } else { &mut closed.open };
        names.insert(format!("{within}{}", it.name()));
    }
}
