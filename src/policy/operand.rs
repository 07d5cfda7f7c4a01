//! Stage 3, the operands of conditions: fields, metadata, the peer, literals; and what is refused.

use cel::common::ast::{CallExpr, Expr, IdedExpr, LiteralValue, operators as op};
use prost_reflect::{FieldDescriptor, Kind};

use super::cel::{Leaf, Typer};
use super::err::Fault;
use super::predicate::{Formula, Number, Ranges, Test, Text};
use super::resolve::{self, Block};
use crate::abi;

/// One side of a comparison.
#[derive(Debug, Clone)]
pub enum Operand {
    Field(Field),
    /// `size(...)` of a text.
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
}

/// A field of the request.
#[derive(Debug, Clone)]
pub struct Field {
    pub path: Vec<u32>,
    pub name: String,
    pub descriptor: FieldDescriptor,
}

impl Operand {
    /// What it is, for messages.
    pub fn name(&self) -> String {
        match self {
            Operand::Field(field) => format!("`{}` ({})", field.name, field.type_name()),
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
            return Formula::Const(!ranges.is_empty());
        }
        match self {
            Operand::Field(field) => field.leaf(Test::Size(ranges.clone())),
            other => other.text_leaf(Text::Size(ranges.clone())),
        }
    }
}

impl Field {
    /// Its protobuf type.
    pub fn type_name(&self) -> &'static str {
        kind_name(&self.descriptor.kind())
    }

    /// Whether it is a string or bytes.
    pub fn is_text(&self) -> bool {
        matches!(self.descriptor.kind(), Kind::String | Kind::Bytes)
    }

    /// A test of it.
    pub fn leaf(&self, test: Test) -> Formula<Leaf> {
        Formula::Leaf(Leaf::Field { path: self.path.clone(), name: self.name.clone(), kind: self.type_name(), test })
    }

    /// The field itself as a condition, if it is a bool.
    pub fn flag(&self) -> Option<Formula<Leaf>> {
        matches!(self.descriptor.kind(), Kind::Bool).then(|| self.leaf(Test::Number(Ranges::of(1, 1), Number::Bool)))
    }

    /// `has(...)` of it.
    pub fn has(&self) -> Formula<Leaf> {
        if self.descriptor.supports_presence() {
            return self.leaf(Test::Has);
        }
        match number(&self.descriptor.kind()) {
            None => self.leaf(Test::Text(Text::In(vec![Vec::new()]))).negate(),
            Some(number) => {
                let zero = match number {
                    Number::Bool | Number::Unsigned { .. } => 0,
                    Number::Signed { .. } => Number::signed_key(0),
                    Number::Float | Number::Double => Number::double_key(0.0),
                };
                self.leaf(Test::Number(Ranges::of(zero, zero), number)).negate()
            }
        }
    }

    /// A literal as this text field's bytes.
    pub fn text(&self, value: &Value) -> Result<Vec<u8>, String> {
        match (self.descriptor.kind(), value) {
            (Kind::String, Value::Text(text)) => Ok(text.clone().into_bytes()),
            (Kind::Bytes, Value::Bytes(bytes)) => Ok(bytes.clone()),
            (Kind::Bytes, Value::Text(text)) => Err(format!("`{}` is bytes: write b{text:?}", self.name)),
            (Kind::String, Value::Bytes(_)) => Err(format!("`{}` is a string: write \"...\"", self.name)),
            _ => Err(format!("`{}` is {} {}, and this is not", self.name, article(self.type_name()), self.type_name())),
        }
    }

    /// The test of a number, short where it is constant.
    pub fn number_leaf(&self, ranges: &Ranges) -> Formula<Leaf> {
        let Some(number) = number(&self.descriptor.kind()) else { return Formula::Const(false) };
        if ranges.is_empty() {
            Formula::Const(false)
        } else if *ranges == number.domain() && !number.has_nan() {
            Formula::Const(true)
        } else {
            self.leaf(Test::Number(ranges.clone(), number))
        }
    }

    /// The values for which `field operator value` holds, or (if true) does not.
    pub fn compare(&self, operator: &str, value: &Value) -> Result<(Ranges, bool), String> {
        let kind = self.descriptor.kind();
        let Some(number) = number(&kind) else {
            let help = if matches!(kind, Kind::Message(_)) { ": use `has`, or one of its fields" } else { "" };
            return Err(format!("`{}` is a {}, which is not compared{help}", self.name, self.type_name()));
        };
        let wrong =
            || format!("`{}` is {} {}, and this is not", self.name, article(self.type_name()), self.type_name());
        let key = match (number, value) {
            (Number::Signed { bits }, Value::Int(value)) => {
                let max = i128::from(i64::MAX >> (64 - bits));
                let value = i64::try_from(*value).ok().filter(|value| (-max - 1..=max).contains(&i128::from(*value)));
                Number::signed_key(value.ok_or_else(|| self.range())?)
            }
            (Number::Signed { .. }, Value::Enum(name, value)) => match &kind {
                Kind::Enum(own) if own.full_name() == name => Number::signed_key(i64::from(*value)),
                Kind::Enum(own) => return Err(format!("`{}` is a `{}`, not a `{name}`", self.name, own.full_name())),
                _ => return Err(wrong()),
            },
            (Number::Unsigned { bits }, Value::Int(value)) => u64::try_from(*value)
                .ok()
                .filter(|value| *value <= u64::MAX >> (64 - bits))
                .ok_or_else(|| self.range())?,
            (Number::Bool, Value::Bool(value)) => u64::from(*value),
            (Number::Float | Number::Double, Value::Double(value)) => Number::double_key(*value),
            (Number::Float | Number::Double, Value::Int(value)) => {
                #[expect(
                    clippy::cast_precision_loss,
                    clippy::cast_possible_truncation,
                    reason = "checked for exactness"
                )]
                let double = (*value as f64, (*value as f64) as i128);
                if double.1 != *value {
                    return Err("no double is exactly this number".to_owned());
                }
                Number::double_key(double.0)
            }
            _ => return Err(wrong()),
        };
        Ok(ranges(operator, key, &number.domain()))
    }

    fn range(&self) -> String {
        format!("this is out of the range of `{}` ({})", self.name, self.type_name())
    }
}

fn article(noun: &str) -> &'static str {
    if noun.starts_with(['a', 'e', 'i', 'o']) { "an" } else { "a" }
}

fn ranges(operator: &str, key: u64, domain: &Ranges) -> (Ranges, bool) {
    let below = |end: Option<u64>| end.map_or_else(Ranges::none, |end| Ranges::of(0, end));
    let above = |start: Option<u64>| start.map_or_else(Ranges::none, |start| Ranges::of(start, u64::MAX));
    let (set, negated) = match operator {
        op::LESS => (below(key.checked_sub(1)), false),
        op::LESS_EQUALS => (below(Some(key)), false),
        op::GREATER => (above(key.checked_add(1)), false),
        op::GREATER_EQUALS => (above(Some(key)), false),
        other => (Ranges::of(key, key), other == op::NOT_EQUALS),
    };
    (set.intersection(domain), negated)
}

/// The numbers of a scalar kind; none for texts and messages.
pub fn number(kind: &Kind) -> Option<Number> {
    Some(match kind {
        Kind::Bool => Number::Bool,
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 | Kind::Enum(_) => Number::Signed { bits: 32 },
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Number::Signed { bits: 64 },
        Kind::Uint32 | Kind::Fixed32 => Number::Unsigned { bits: 32 },
        Kind::Uint64 | Kind::Fixed64 => Number::Unsigned { bits: 64 },
        Kind::Float => Number::Float,
        Kind::Double => Number::Double,
        Kind::String | Kind::Bytes | Kind::Message(_) => return None,
    })
}

fn kind_name(kind: &Kind) -> &'static str {
    match kind {
        Kind::Double => "double",
        Kind::Float => "float",
        Kind::Int32 => "int32",
        Kind::Int64 => "int64",
        Kind::Uint32 => "uint32",
        Kind::Uint64 => "uint64",
        Kind::Sint32 => "sint32",
        Kind::Sint64 => "sint64",
        Kind::Fixed32 => "fixed32",
        Kind::Fixed64 => "fixed64",
        Kind::Sfixed32 => "sfixed32",
        Kind::Sfixed64 => "sfixed64",
        Kind::Bool => "bool",
        Kind::String => "string",
        Kind::Bytes => "bytes",
        Kind::Message(_) => "message",
        Kind::Enum(_) => "enum",
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

/// What the language has, and this version does not.
pub fn not_yet(typer: &Typer<'_>, expr: &IdedExpr, what: &str) -> Fault {
    typer
        .fault(expr, format!("{what} in `when` are not supported yet"))
        .help("test a singular field, or decide in the application")
}

/// Why a call is no condition.
pub fn refuse(typer: &Typer<'_>, expr: &IdedExpr, call: &CallExpr) -> Fault {
    let (message, help) = match call.func_name.as_str() {
        op::ADD | op::SUBSTRACT | op::MULTIPLY | op::DIVIDE | op::MODULO | op::NEGATE => (
            "the kernel does no arithmetic and builds no strings".to_owned(),
            "compare the field itself with a literal that is computed beforehand",
        ),
        "now" | "timestamp" | "duration" | "getHours" => (
            "time is not an input: a verdict depends on the call alone".to_owned(),
            "reload the policy when time matters",
        ),
        "size" => ("a size is a number, not a condition".to_owned(), "compare it, as in `size(request.s) <= 20`"),
        op::INDEX => ("this is not a condition".to_owned(), "compare it, as in `metadata[\"x-role\"] == \"admin\"`"),
        name => (
            format!("`{name}` is not a function of conditions"),
            "there are size, contains, startsWith, endsWith, matches, has, ip, cidr, containsIP",
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
            Expr::Comprehension(_) => Err(not_yet(self, expr, "macros over repeated fields and maps")),
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
                of @ (Operand::Field(_) | Operand::Metadata(_)) => Ok(Operand::Size(Box::new(of))),
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
            (op::INDEX, None, [map, key]) => match self.operand(map)? {
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
                    return Err(self
                        .fault(expr, "an element has no fields here")
                        .help("repeated fields and maps are not supported yet"));
                }
                _ => return Err(self.fault(expr, "only messages have fields")),
            }
        };
        names.reverse();
        match (root, names.as_slice()) {
            ("request", []) => {
                Err(self.fault(expr, "`request` is a message, not a value").help("name one of its fields"))
            }
            ("request", names) => self.field(expr, names).map(Operand::Field),
            ("response", _) => Err(self.fault(expr, "`response` is not supported yet").help("decide on the request")),
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
                "the variables are request, metadata, peer.ip and peer.port; enum values are `package.Enum.VALUE`",
            )
        })
    }

    fn field(&self, expr: &IdedExpr, names: &[(&str, &IdedExpr)]) -> Result<Field, Fault> {
        let Some(request) = self.request else {
            return Err(self.fault(expr, "the type of `request` is not known here"));
        };
        if names.len() > abi::PG_MAX_FIELD_PATH as usize {
            return Err(
                self.fault(expr, format!("the path has more than {} names (limit FIELD_PATH)", abi::PG_MAX_FIELD_PATH))
            );
        }
        let (mut message, mut found) = (Some(request.clone()), None);
        let (mut path, mut shown) = (Vec::new(), "request".to_owned());
        for (name, place) in names {
            let Some(parent) = message else { return Err(self.fault(place, format!("`{shown}` is not a message"))) };
            let Some(field) = parent.get_field_by_name(name) else {
                let mut names: Vec<String> = parent.fields().map(|field| field.name().to_owned()).collect();
                names.truncate(12);
                return Err(self
                    .fault(place, format!("`{}` has no field `{name}`", parent.full_name()))
                    .help(format!("it has {}", names.join(", "))));
            };
            shown = format!("{shown}.{name}");
            path.push(field.number());
            if field.is_list() || field.is_map() {
                return Err(not_yet(self, place, &format!("repeated fields and maps (`{shown}`)")));
            }
            if field.is_group() {
                return Err(not_yet(self, place, &format!("groups (`{shown}`)")));
            }
            message = match field.kind() {
                Kind::Message(message) => Some(message),
                _ => None,
            };
            found = Some(field);
        }
        let Some(descriptor) = found else { return Err(self.fault(expr, "`request` is a message")) };
        Ok(Field { path, name: shown, descriptor })
    }
}
