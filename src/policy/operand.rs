//! Stage 3, the operands of conditions: fields, metadata, the peer, literals; and what is refused.

use cel::common::ast::{CallExpr, Expr, IdedExpr, LiteralValue, operators as op};
use prost_reflect::{FieldDescriptor, Kind};

use super::cel::{At, Leaf, Typer};
use super::err::Fault;
use super::field::{Field, ranges};
use super::predicate::{Formula, Ranges, Test, Text};
use super::resolve::{self, Block};
use super::wellknown;
use crate::abi;

/// One side of a comparison.
#[derive(Debug, Clone)]
pub enum Operand {
    Field(Field),
    /// A repeated field, or a map.
    List(Field),
    /// `size(...)` of a text, a repeated field or a map.
    Size(Box<Operand>),
    Metadata(String),
    MetadataMap,
    PeerIp,
    PeerPort,
    Literal(Value),
}

/// A literal.
#[derive(Debug, Clone)]
pub enum Value {
    Bool(bool),
    Int(i128),
    Double(f64),
    Text(String),
    Bytes(Vec<u8>),
    /// The enum's full name and the number.
    Enum(String, i32),
    Ip(Block, String),
    Cidr(Block, String),
    /// A timestamp or a duration.
    Time {
        duration: bool,
        seconds: i64,
        nanos: i64,
    },
}

impl Value {
    /// As CEL writes it.
    pub fn show(&self) -> String {
        match self {
            Value::Bool(value) => value.to_string(),
            Value::Int(value) => value.to_string(),
            Value::Double(value) => format!("{value:?}"),
            Value::Text(text) => format!("{text:?}"),
            _ => "...".to_owned(),
        }
    }
}

impl Operand {
    /// What it is, for messages.
    pub fn name(&self) -> String {
        match self {
            Operand::Field(field) => format!("`{}` ({})", field.name, field.type_name()),
            Operand::List(list) if list.descriptor.is_map() => format!("`{}` (map)", list.name),
            Operand::List(list) => format!("`{}` (repeated {})", list.name, list.type_name()),
            Operand::Size(of) => format!("the size of {}", of.name()),
            Operand::Metadata(key) => format!("`metadata[{key:?}]`"),
            Operand::MetadataMap => "`metadata`".to_owned(),
            Operand::PeerIp => "`peer.ip`".to_owned(),
            Operand::PeerPort => "`peer.port`".to_owned(),
            Operand::Literal(_) => "a literal".to_owned(),
        }
    }

    /// A text test of it.
    pub fn text_leaf(&self, text: Text) -> Formula<Leaf> {
        match self {
            Operand::Field(field) => field.leaf(Test::Text(text)),
            Operand::Metadata(key) => Formula::Leaf(Leaf::Metadata { key: key.clone(), text }),
            _ => Formula::Const(false),
        }
    }

    /// A test of its size.
    pub fn size_leaf(&self, ranges: &Ranges) -> Formula<Leaf> {
        if ranges.is_empty() || *ranges == Ranges::of(0, u64::MAX) {
            return match self {
                Operand::Field(field) if !ranges.is_empty() => field.always(),
                _ => Formula::Const(!ranges.is_empty()),
            };
        }
        match self {
            Operand::Field(field) => field.leaf(Test::Size(ranges.clone())),
            other => other.text_leaf(Text::Size(ranges.clone())),
        }
    }
}

/// The sizes for which `size operator value` holds, or (if true) does not.
pub fn size(operator: &str, value: &Value) -> Result<(Ranges, bool), String> {
    match value {
        Value::Int(value) => {
            let value = u64::try_from(*value).map_err(|_| "a size is never negative, nor that large".to_owned())?;
            Ok(ranges(operator, value, &Ranges::of(0, u64::MAX)))
        }
        _ => Err("a size is a whole number".to_owned()),
    }
}

/// The ports for which `peer.port operator value` holds, or (if true) does not.
pub fn port(operator: &str, value: &Value) -> Result<(Ranges, bool), String> {
    match value {
        Value::Int(value) => {
            let value = u16::try_from(*value).map_err(|_| "a port is 0 to 65535".to_owned())?;
            Ok(ranges(operator, u64::from(value), &Ranges::of(0, 65535)))
        }
        _ => Err("a port is a whole number".to_owned()),
    }
}

/// A test of the peer's port.
pub fn port_leaf(ranges: &Ranges) -> Formula<Leaf> {
    if ranges.is_empty() || *ranges == Ranges::of(0, 65535) {
        return Formula::Const(!ranges.is_empty());
    }
    Formula::Leaf(Leaf::Port(ranges.clone()))
}

/// Whether the peer is in one of the blocks. IPv4 is never in an IPv6 block.
pub fn peer(blocks: &[Block], shown: &str) -> Formula<Leaf> {
    let leaf = |blocks: Vec<Block>, text: String| Formula::Leaf(Leaf::Peer { blocks, text });
    match blocks {
        [block] if block.holds_v4() => {
            let v4 = leaf(vec![Block::v4()], "0.0.0.0/0".to_owned());
            Formula::And(vec![leaf(vec![*block], shown.to_owned()), v4.negate()])
        }
        _ => {
            let mut blocks = blocks.to_vec();
            blocks.sort();
            blocks.dedup();
            leaf(blocks, shown.to_owned())
        }
    }
}

/// Checks a metadata key: what is wrong with it, and help.
pub fn metadata_key(key: &str) -> Result<(), (String, String)> {
    let hop = ["connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade"];
    Err(if key.bytes().any(|b| b.is_ascii_uppercase()) {
        (
            format!("`{key}` has upper-case letters"),
            format!("HTTP/2's names are lower-case: write {:?}", key.to_ascii_lowercase()),
        )
    } else if key.starts_with(':') || key == "host" {
        (
            format!("`{key}` is not metadata"),
            "the path is for `methods`; nothing else of the request line is an input".to_owned(),
        )
    } else if key == "te" || key == "content-type" || key.starts_with("grpc-") || hop.contains(&key) {
        (format!("`{key}` belongs to the protocol, not to metadata"), "choose a key of the application".to_owned())
    } else if key.ends_with("-bin") {
        (format!("`{key}` is binary metadata"), "its base64 has more than one form: use a text key".to_owned())
    } else if key.is_empty() || !key.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'.')) {
        (format!("`{key}` is not a metadata key"), "keys are made of a-z, 0-9, `_`, `-` and `.`".to_owned())
    } else {
        return Ok(());
    })
}

/// A literal as a metadata value.
pub fn metadata_text(value: &Value) -> Result<Vec<u8>, String> {
    match value {
        Value::Text(text) => Ok(text.clone().into_bytes()),
        _ => Err("a metadata value is a string".to_owned()),
    }
}

/// Why a call is no condition.
pub fn refuse(typer: &Typer<'_>, expr: &IdedExpr, call: &CallExpr) -> Fault {
    let (message, help) = match call.func_name.as_str() {
        op::ADD | op::SUBSTRACT | op::MULTIPLY | op::DIVIDE | op::MODULO | op::NEGATE => (
            "the kernel does no arithmetic and builds no strings".to_owned(),
            "compare the field itself with a literal that is computed beforehand",
        ),
        "now" | "getHours" | "getFullYear" | "getMonth" | "getDayOfWeek" => (
            "time is not an input: a verdict depends on the call alone".to_owned(),
            "reload the policy when time matters",
        ),
        "timestamp" | "duration" => (
            format!("`{}` makes a literal: it takes a text", call.func_name),
            "compare a field with it, as in `request.deadline < timestamp(\"2026-01-31T12:00:00Z\")`",
        ),
        "exists" | "all" | "exists_one" | "existsOne" | "map" | "filter" => {
            (format!("`{}` is not called like this", call.func_name), "write `xs.exists(x, ...)` or `xs.all(x, ...)`")
        }
        "size" => ("a size is a number, not a condition".to_owned(), "compare it, as in `size(request.s) <= 20`"),
        op::INDEX => ("this is not a condition".to_owned(), "compare it, as in `metadata[\"x-role\"] == \"admin\"`"),
        name => (
            format!("`{name}` is not a function of conditions"),
            "there are size, contains, startsWith, endsWith, matches, has, exists, all, ip, cidr, containsIP, timestamp, duration",
        ),
    };
    typer.fault(expr, message).help(help)
}

impl Typer<'_> {
    /// What an expression stands for.
    pub fn operand(&self, expr: &IdedExpr) -> Result<Operand, Fault> {
        match &expr.expr {
            Expr::Literal(literal) => self.literal(expr, literal).map(Operand::Literal),
            Expr::Ident(_) | Expr::Select(_) => self.path(expr),
            Expr::Comprehension(it) => {
                self.comprehension(expr, it)?;
                Err(self.fault(expr, "a macro gives a condition, not a value").help("join conditions with && and ||"))
            }
            Expr::Call(call) => self.call_operand(expr, call),
            Expr::List(_) | Expr::Map(_) | Expr::Struct(_) | Expr::Unspecified => {
                Err(self.fault(expr, "lists and maps are no operands").help("a list stands after `in` only"))
            }
        }
    }

    fn literal(&self, expr: &IdedExpr, literal: &LiteralValue) -> Result<Value, Fault> {
        Ok(match literal {
            LiteralValue::Boolean(value) => Value::Bool(*value.inner()),
            LiteralValue::Int(value) => Value::Int(i128::from(*value.inner())),
            LiteralValue::UInt(value) => Value::Int(i128::from(*value.inner())),
            LiteralValue::Double(value) => Value::Double(*value.inner()),
            LiteralValue::String(value) => Value::Text(value.inner().to_owned()),
            LiteralValue::Bytes(value) => Value::Bytes(value.inner().to_vec()),
            LiteralValue::Null => return Err(self.fault(expr, "nothing is null").help("write `has(request.field)`")),
        })
    }

    fn call_operand(&self, expr: &IdedExpr, call: &CallExpr) -> Result<Operand, Fault> {
        let text = |arg: &IdedExpr| match &arg.expr {
            Expr::Literal(LiteralValue::String(text)) => Ok(text.inner().to_owned()),
            _ => Err(self.fault(arg, format!("`{}` takes a string literal", call.func_name))),
        };
        match (call.func_name.as_str(), call.target.as_deref(), call.args.as_slice()) {
            ("size", None, [of]) | ("size", Some(of), []) => match self.operand(of)? {
                Operand::Field(field) if !field.is_text() => {
                    Err(self.fault(of, format!("`{}` is a {}, which has no size", field.name, field.type_name())))
                }
                of @ (Operand::Field(_) | Operand::List(_) | Operand::Metadata(_)) => Ok(Operand::Size(Box::new(of))),
                other => Err(self.fault(of, format!("{} has no size here", other.name()))),
            },
            ("ip", None, [arg]) => {
                let text = text(arg)?;
                let block = resolve::address(&text).map_err(|message| self.fault(arg, message))?;
                Ok(Operand::Literal(Value::Ip(block, text)))
            }
            ("cidr", None, [arg]) => {
                let text = text(arg)?;
                let block = resolve::cidr(&text).map_err(|message| self.fault(arg, message))?;
                Ok(Operand::Literal(Value::Cidr(block, text)))
            }
            ("timestamp" | "duration", None, [arg]) => {
                let text = text(arg)?;
                let parse = if call.func_name == "duration" { wellknown::duration } else { wellknown::timestamp };
                parse(&text).map(Operand::Literal).map_err(|message| self.fault(arg, message))
            }
            (op::INDEX, None, [map, key]) => match self.operand(map)? {
                Operand::List(list) => self.index(expr, &list, key),
                Operand::MetadataMap => Ok(Operand::Metadata(self.key(key, &text(key)?)?)),
                other => Err(self.fault(expr, format!("{} has no entries here", other.name()))),
            },
            (op::NEGATE, None, [arg]) => match self.operand(arg)? {
                Operand::Literal(Value::Double(value)) => Ok(Operand::Literal(Value::Double(-value))),
                Operand::Literal(Value::Int(value)) => Ok(Operand::Literal(Value::Int(-value))),
                _ => Err(refuse(self, expr, call)),
            },
            _ => Err(refuse(self, expr, call)),
        }
    }

    /// Checks a metadata key.
    pub fn key(&self, expr: &IdedExpr, key: &str) -> Result<String, Fault> {
        match metadata_key(key) {
            Ok(()) => Ok(key.to_owned()),
            Err((message, help)) => Err(self.fault(expr, message).help(help)),
        }
    }

    fn path(&self, expr: &IdedExpr) -> Result<Operand, Fault> {
        let mut names = Vec::new();
        let mut at = expr;
        let root = loop {
            match &at.expr {
                Expr::Select(select) if !select.test => {
                    names.push((select.field.as_str(), at));
                    at = &select.operand;
                }
                Expr::Ident(root) => break root.trim_start_matches('.'),
                Expr::Call(call) if call.func_name == op::INDEX => {
                    names.reverse();
                    return match self.operand(at)? {
                        Operand::Field(field) => self.below(expr, Some(field), &names),
                        other => Err(self.fault(at, format!("{} has no fields", other.name()))),
                    };
                }
                _ => return Err(self.fault(expr, "only messages have fields")),
            }
        };
        names.reverse();
        let var = self.vars.borrow().iter().rev().find(|var| var.name == root).map(|var| var.element.clone());
        if let Some(element) = var {
            return self.below(expr, Some(element), &names);
        }
        match (root, names.as_slice()) {
            (root, []) if root == self.root => {
                Err(self.fault(expr, format!("`{root}` is a message, not a value")).help("name one of its fields"))
            }
            (root, names) if root == self.root => self.below(expr, None, names),
            ("metadata", []) => Ok(Operand::MetadataMap),
            ("metadata", [(key, _), ..]) => Err(self
                .fault(expr, "metadata has no fields")
                .help(format!("write `metadata[{key:?}]`, or `{key:?} in metadata`"))),
            ("peer", [("ip", _)]) => Ok(Operand::PeerIp),
            ("peer", [("port", _)]) => Ok(Operand::PeerPort),
            ("peer", _) => Err(self.fault(expr, "the peer has `peer.ip` and `peer.port`")),
            (root, names) => self.enum_value(expr, root, names),
        }
    }

    fn enum_value(&self, expr: &IdedExpr, root: &str, names: &[(&str, &IdedExpr)]) -> Result<Operand, Fault> {
        let mut full: Vec<&str> = std::iter::once(root).chain(names.iter().map(|(name, _)| *name)).collect();
        let shown = full.join(".");
        let value = full.pop().unwrap_or_default();
        if let Some(found) = self.pool.get_enum_by_name(&full.join(".")) {
            return match found.get_value_by_name(value) {
                Some(value) => Ok(Operand::Literal(Value::Enum(found.full_name().to_owned(), value.number()))),
                None => Err(self.fault(expr, format!("`{}` has no value `{value}`", found.full_name()))),
            };
        }
        let fault =
            self.fault(expr, format!("`{shown}` is neither a variable nor an enum value that the protos define"));
        Err(if root == "now" || root == "time" {
            fault.help("time is not an input: a verdict depends on the call alone")
        } else {
            fault.help(
                "the variables are request, response, metadata, peer.ip and peer.port; enum values are `package.Enum.VALUE`",
            )
        })
    }

    /// A field below the message, or below a field whose names these are.
    fn below(&self, expr: &IdedExpr, start: Option<Field>, names: &[(&str, &IdedExpr)]) -> Result<Operand, Fault> {
        let mut at = At::default();
        let variable = self.side.variable();
        let (mut guards, mut shown, mut found, mut element) = (Vec::new(), variable.to_owned(), None, false);
        let mut message = self.message.cloned();
        if let Some(start) = start {
            if names.is_empty() {
                let is_list = !start.element && (start.descriptor.is_list() || start.descriptor.is_map());
                return Ok(if is_list { Operand::List(start) } else { Operand::Field(start) });
            }
            message = match start.descriptor.kind() {
                Kind::Message(message) => Some(message),
                _ => None,
            };
            (at, guards, shown, element) = (start.at, start.guards, start.name, start.element);
            found = Some(start.descriptor);
        } else if message.is_none() {
            return Err(self.fault(expr, format!("the type of `{variable}` is not known here")));
        }
        for (name, place) in names {
            if let (Some(list), false) = (&found, element)
                && (list.is_list() || list.is_map())
            {
                return Err(self.no_fields(place, &shown, list, name));
            }
            let Some(parent) = message else { return Err(self.fault(place, format!("`{shown}` is not a message"))) };
            let Some(field) = parent.get_field_by_name(name) else {
                let mut names: Vec<String> = parent.fields().map(|field| field.name().to_owned()).collect();
                names.truncate(12);
                return Err(self
                    .fault(place, format!("`{}` has no field `{name}`", parent.full_name()))
                    .help(format!("it has {}", names.join(", "))));
            };
            shown = format!("{shown}.{name}");
            at = at.below(field.number(), name);
            if at.labels.iter().filter(|label| !label.is_empty()).count() > abi::PG_MAX_FIELD_PATH as usize {
                let most = abi::PG_MAX_FIELD_PATH;
                return Err(self.fault(expr, format!("the path has more than {most} names (limit FIELD_PATH)")));
            }
            if field.is_group() {
                return Err(self
                    .fault(place, format!("groups (`{shown}`) in `when` are not supported"))
                    .help("test another field, or decide in the application"));
            }
            message = match field.kind() {
                Kind::Message(message) => Some(message),
                _ => None,
            };
            (found, element) = (Some(field), false);
        }
        let Some(descriptor) = found else { return Err(self.fault(expr, format!("`{variable}` is a message"))) };
        let is_list = descriptor.is_list() || descriptor.is_map();
        let field = Field { at, guards, wrapper: None, name: shown, descriptor, element };
        Ok(if is_list { Operand::List(field) } else { Operand::Field(field.unwrapped()) })
    }

    fn no_fields(&self, place: &IdedExpr, shown: &str, list: &FieldDescriptor, name: &str) -> Fault {
        if list.is_map() {
            let help = format!("write `{shown}[{name:?}]`, or `{name:?} in {shown}`");
            return self.fault(place, format!("`{shown}` is a map: it has keys, not fields")).help(help);
        }
        self.fault(place, format!("`{shown}` is repeated: its elements have fields"))
            .help(format!("write `{shown}.exists(x, x.{name} ...)` or `.all(x, ...)`"))
    }
}
