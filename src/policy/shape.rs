//! Stage 5, messages that no rule reads, and fields of those that rules read: where they end, and what may come once.
//!
//! Libraries differ in what they make of other wire types, of sub-messages that come twice and of ends that are not kept
//! (docs/journal/0013): to refuse such messages the engine walks all of them.

use std::collections::{BTreeMap, HashMap};

use prost_reflect::{ExtensionDescriptor, FieldDescriptor, Kind, MessageDescriptor};

use super::tables::{Assembly, Refusal};
use crate::abi;

/// Nodes of messages that no rule reads, by their type: made once, and after those that name them.
#[derive(Debug, Default)]
pub struct Shapes {
    known: HashMap<String, u32>,
    waiting: Vec<(u32, MessageDescriptor)>,
}

/// A field of a message, or an extension of it.
enum Member {
    Field(FieldDescriptor),
    Extension(ExtensionDescriptor),
}

impl Member {
    fn all(message: &MessageDescriptor) -> Vec<Member> {
        message.fields().map(Member::Field).chain(message.extensions().map(Member::Extension)).collect()
    }

    fn number(&self) -> u32 {
        match self {
            Member::Field(it) => it.number(),
            Member::Extension(it) => it.number(),
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Member::Field(it) => it.kind(),
            Member::Extension(it) => it.kind(),
        }
    }

    fn is_group(&self) -> bool {
        match self {
            Member::Field(it) => it.is_group(),
            Member::Extension(it) => it.is_group(),
        }
    }

    fn is_map(&self) -> bool {
        matches!(self, Member::Field(it) if it.is_map())
    }

    fn is_repeated(&self) -> bool {
        match self {
            Member::Field(it) => it.is_list() || it.is_map(),
            Member::Extension(it) => it.is_list(),
        }
    }

    /// The oneof that it is in, if it has other members; and which of them it is, from 1.
    fn choice(&self) -> Option<(String, u32, u32)> {
        let Member::Field(field) = self else { return None };
        let oneof = field.containing_oneof()?;
        let place = oneof.fields().position(|member| member.number() == field.number())?;
        let (count, place) = (count(oneof.fields().len()), count(place) + 1);
        (count > 1).then(|| (oneof.full_name().to_owned(), count, place))
    }
}

fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// Where the engine remembers what has come of a message.
#[derive(Debug, Default)]
pub struct Once {
    /// By number: the place, how many bits, and what they become.
    places: HashMap<u32, (u16, u16, u32)>,
    /// Words that they take.
    pub words: u32,
}

impl Once {
    /// The places of a message's sub-messages and oneofs.
    pub fn of(message: &MessageDescriptor) -> Result<Once, Refusal> {
        let mut once = Once::default();
        let (mut taken, mut oneofs) = (0u32, HashMap::new());
        let mut take = |bits: u32| {
            if taken % 64 + bits > 64 {
                taken = taken.next_multiple_of(64);
            }
            let at = taken;
            taken += bits;
            at
        };
        let mut places = Vec::new();
        for member in Member::all(message) {
            let (at, bits, value) = match member.choice() {
                Some((oneof, members, place)) => {
                    let bits = members.ilog2() + 1; // members + 1 states
                    (*oneofs.entry(oneof).or_insert_with(|| take(bits)), bits, place)
                }
                None if !member.is_repeated() && matches!(member.kind(), Kind::Message(_)) => (take(1), 1, 1),
                None => continue,
            };
            places.push((member.number(), at, bits, value));
        }
        once.words = taken.div_ceil(64);
        if once.words > abi::PG_MAX_ONCE_WORDS / 2 {
            let (name, most) = (message.full_name(), abi::PG_MAX_ONCE_WORDS * 32);
            return Err(too_much(&format!(
                "`{name}` has sub-messages and oneofs for {taken} bits of {most} (limit ONCE_WORDS)"
            )));
        }
        for (number, at, bits, value) in places {
            let small = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
            once.places.insert(number, (small(at), small(bits), value));
        }
        Ok(once)
    }

    /// Writes a field's place into it.
    pub fn mark(&self, field: &mut abi::pg_field) {
        if let Some((at, bits, value)) = self.places.get(&field.number) {
            (field.once_at, field.once_bits, field.once) = (*at, *bits, *value);
        }
    }
}

fn too_much(what: &str) -> Refusal {
    let help = "to read messages by protobuf's definition alone, set `ambiguous = \"allow\"` under [uninspectable]";
    Refusal::whole(format!("{what}; {help}"))
}

/// All fields of a message as the engine sees those that no rule reads, ascending by number.
pub fn fields(tables: &mut Assembly, message: &MessageDescriptor, once: &Once) -> BTreeMap<u32, abi::pg_field> {
    let mut fields = BTreeMap::new();
    for member in Member::all(message) {
        let kind = member.kind();
        let mut out = abi::pg_field { number: member.number(), kind: scalar(&kind), ..Default::default() };
        out.flags = abi::PG_FIELD_SHAPE;
        match kind {
            Kind::Message(inner) => {
                out.kind = if member.is_group() { abi::PG_K_GROUP } else { abi::PG_K_MESSAGE };
                out.child = node(tables, &inner);
            }
            Kind::String | Kind::Bytes => {}
            _ if member.is_repeated() => out.flags |= abi::PG_FIELD_PACKABLE,
            _ => {}
        }
        if member.is_map() {
            out.flags |= abi::PG_FIELD_MAP;
        }
        once.mark(&mut out);
        fields.insert(out.number, out);
    }
    fields
}

/// The kind of a field that is no message; a text is bytes, of which nothing is looked at.
pub fn scalar(kind: &Kind) -> u32 {
    match kind {
        Kind::Message(_) | Kind::String | Kind::Bytes => abi::PG_K_BYTES,
        Kind::Bool => abi::PG_K_BOOL,
        Kind::Int32 | Kind::Enum(_) => abi::PG_K_INT32,
        Kind::Uint32 => abi::PG_K_UINT32,
        Kind::Sint32 => abi::PG_K_SINT32,
        Kind::Int64 => abi::PG_K_INT64,
        Kind::Uint64 => abi::PG_K_UINT64,
        Kind::Sint64 => abi::PG_K_SINT64,
        Kind::Fixed32 => abi::PG_K_FIXED32,
        Kind::Sfixed32 => abi::PG_K_SFIXED32,
        Kind::Float => abi::PG_K_FLOAT,
        Kind::Fixed64 => abi::PG_K_FIXED64,
        Kind::Sfixed64 => abi::PG_K_SFIXED64,
        Kind::Double => abi::PG_K_DOUBLE,
    }
}

/// The node of a message that no rule reads. It may not be made yet: types may contain themselves.
pub fn node(tables: &mut Assembly, message: &MessageDescriptor) -> u32 {
    if let Some(node) = tables.shapes.known.get(message.full_name()) {
        return *node;
    }
    let node = tables.reserve_node();
    tables.shapes.known.insert(message.full_name().to_owned(), node);
    tables.shapes.waiting.push((node, message.clone()));
    node
}

/// Makes the nodes that are named and not made.
pub fn finish(tables: &mut Assembly) -> Result<(), Refusal> {
    while let Some((node, message)) = tables.shapes.waiting.pop() {
        let once = Once::of(&message)?;
        let fields = fields(tables, &message, &once);
        tables.fill_node(node, fields.into_values().collect(), once.words);
        bounded(tables)?;
    }
    bounded(tables)
}

fn bounded(tables: &Assembly) -> Result<(), Refusal> {
    let most = abi::PG_MAX_FIELDS;
    if tables.strict && tables.field_count() > most {
        return Err(too_much(&format!(
            "the messages that rules read have more than {most} fields, with all messages in these (limit FIELDS)"
        )));
    }
    Ok(())
}
