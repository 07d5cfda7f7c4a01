//! Stage 3, conditions to formulas: types a parsed `when` against a message.

use std::cell::RefCell;

use cel::common::ast::{CallExpr, Expr, IdedExpr, LiteralValue, SelectExpr, operators as op};
use prost_reflect::{DescriptorPool, MessageDescriptor};

use super::condition::Condition;
use super::elements::Var;
use super::err::Fault;
use super::operand::{self, Operand, Value};
use super::predicate::{Formula, Ranges, Test, Text};
use super::re2;
use super::resolve::Block;

/// A place in a message: field numbers, and their names as they are shown; a map's keys and values have none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct At {
    /// 0: below `request` or `response`; else below the variable of the so many-th macro around.
    pub scope: usize,
    pub path: Vec<u32>,
    pub labels: Vec<String>,
}

/// What a condition asks of one input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leaf {
    /// A field; `name` is as in CEL.
    Field {
        at: At,
        name: String,
        kind: &'static str,
        test: Test,
    },
    /// Some element of a repeated field, or some entry of a map; `var` stands for it, or (`keys`) for its key.
    Exists {
        at: At,
        var: String,
        keys: bool,
        body: Box<Formula<Leaf>>,
    },
    /// The last entry with this key.
    Entry {
        at: At,
        key: Test,
        body: Box<Formula<Leaf>>,
    },
    /// How many elements there are, or distinct keys.
    Count {
        at: At,
        distinct: bool,
        ranges: Ranges,
    },
    /// Whether the key is there.
    Present {
        key: String,
    },
    Metadata {
        key: String,
        text: Text,
    },
    Peer {
        blocks: Vec<Block>,
        text: String,
    },
    Port(Ranges),
}

/// A leaf or a formula of them.
pub type Typed = Result<Formula<Leaf>, Fault>;

/// Which of an RPC's messages a rule reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    Request,
    Response,
}

impl Side {
    pub const BOTH: [Side; 2] = [Side::Request, Side::Response];

    /// The variable that stands for the message.
    pub fn variable(self) -> &'static str {
        match self {
            Side::Request => "request",
            Side::Response => "response",
        }
    }
}

/// Types one condition against one message.
pub struct Typer<'a> {
    pub condition: &'a Condition,
    pub message: Option<&'a MessageDescriptor>,
    /// Which message that is.
    pub side: Side,
    pub pool: &'a DescriptorPool,
    /// What it is called: `request`, `response`, or in a constraint `this`.
    pub root: &'a str,
    /// The variables of the macros around, the innermost last.
    pub vars: RefCell<Vec<Var>>,
}

const SUBSET: &str = "conditions are made of comparisons, `in`, string functions, `has`, `exists`, `all`, `cidr(...).containsIP(peer.ip)`, and && || ! ?:";

impl Typer<'_> {
    pub fn fault(&self, expr: &IdedExpr, message: impl Into<String>) -> Fault {
        self.condition.fault(expr, message)
    }

    /// Types a sub-expression that is a condition.
    pub fn formula(&self, expr: &IdedExpr) -> Typed {
        match &expr.expr {
            Expr::Literal(LiteralValue::Boolean(value)) => Ok(Formula::Const(*value.inner())),
            Expr::Call(call) if call.func_name != op::INDEX => self.call(expr, call),
            Expr::Select(select) if select.test => self.has(expr, select),
            Expr::Comprehension(it) => self.comprehension(expr, it),
            _ => match self.operand(expr)? {
                Operand::Field(field) => field.flag().ok_or_else(|| {
                    self.fault(expr, format!("`{}` is a {}, not a condition", field.name, field.type_name()))
                        .help("compare it with something")
                }),
                other => Err(self.fault(expr, format!("{} is not a condition", other.name())).help(SUBSET)),
            },
        }
    }

    fn call(&self, expr: &IdedExpr, call: &CallExpr) -> Typed {
        let two = || match call.args.as_slice() {
            [left, right] => Ok((left, right)),
            _ => Err(self.fault(expr, "this takes two operands")),
        };
        match call.func_name.as_str() {
            op::LOGICAL_AND => {
                Ok(Formula::And(call.args.iter().map(|arg| self.formula(arg)).collect::<Result<_, _>>()?))
            }
            op::LOGICAL_OR => Ok(Formula::Or(call.args.iter().map(|arg| self.formula(arg)).collect::<Result<_, _>>()?)),
            op::LOGICAL_NOT => match call.args.as_slice() {
                [arg] => Ok(self.formula(arg)?.negate()),
                _ => Err(self.fault(expr, "`!` takes one operand")),
            },
            op::CONDITIONAL => match call.args.as_slice() {
                [test, yes, no] => {
                    let (test, yes, no) = (self.formula(test)?, self.formula(yes)?, self.formula(no)?);
                    let otherwise = test.clone().negate();
                    Ok(Formula::Or(vec![Formula::And(vec![test, yes]), Formula::And(vec![otherwise, no])]))
                }
                _ => Err(self.fault(expr, "`?:` takes three operands")),
            },
            op::EQUALS | op::NOT_EQUALS | op::LESS | op::LESS_EQUALS | op::GREATER | op::GREATER_EQUALS => {
                let (left, right) = two()?;
                self.compare(expr, &call.func_name, left, right)
            }
            op::IN => {
                let (value, set) = two()?;
                self.member(expr, value, set)
            }
            "contains" | "startsWith" | "endsWith" | "matches" => self.text(expr, call),
            "containsIP" => self.contains_ip(expr, call),
            _ => Err(operand::refuse(self, expr, call)),
        }
    }

    fn has(&self, expr: &IdedExpr, select: &SelectExpr) -> Typed {
        let plain = IdedExpr { id: expr.id, expr: Expr::Select(SelectExpr { test: false, ..select.clone() }) };
        match self.operand(&plain)? {
            Operand::Field(field) => Ok(field.has()),
            Operand::List(list) => self.count(expr, &list, &Ranges::of(1, u64::MAX)),
            other => Err(self
                .fault(expr, format!("`has` does not apply to {}", other.name()))
                .help("`has(request.field)`, or `\"key\" in metadata`")),
        }
    }

    fn compare(&self, expr: &IdedExpr, operator: &str, left: &IdedExpr, right: &IdedExpr) -> Typed {
        let is_bool = |side: &IdedExpr| match &side.expr {
            Expr::Literal(LiteralValue::Boolean(value)) => Some(*value.inner()),
            _ => None,
        };
        let flipped = match operator {
            op::LESS => op::GREATER,
            op::LESS_EQUALS => op::GREATER_EQUALS,
            op::GREATER => op::LESS,
            op::GREATER_EQUALS => op::LESS_EQUALS,
            same => same,
        };
        for (value, other) in [(is_bool(left), right), (is_bool(right), left)] {
            let Some(value) = value else { continue };
            if is_bool(other).is_some() {
                return Err(self.fault(expr, "this compares two literals").help("write `true` or `false`"));
            }
            if operator != op::EQUALS && operator != op::NOT_EQUALS {
                return Err(self.fault(expr, "booleans have no order"));
            }
            if is_operand(other) {
                break; // below: `== false` of a key that is not there is false, too
            }
            let formula = self.formula(other).map_err(|fault| match fault.help {
                Some(_) => fault,
                None => fault.help("a boolean literal is compared with booleans only"),
            })?;
            return Ok(formula.equals(value == (operator == op::EQUALS)));
        }
        let (first, second) = (self.operand(left)?, self.operand(right)?);
        match (&first, &second) {
            (Operand::Literal(_), Operand::Literal(_)) => Err(self.fault(expr, "this compares two literals")),
            (_, Operand::Literal(value)) => self.compare_value(expr, operator, &first, value, right),
            (Operand::Literal(value), _) => self.compare_value(expr, flipped, &second, value, left),
            _ => Err(self
                .fault(expr, format!("this compares {} with {}", first.name(), second.name()))
                .help("the kernel compares fields with literals only")),
        }
    }

    pub fn compare_value(
        &self,
        expr: &IdedExpr,
        operator: &str,
        left: &Operand,
        value: &Value,
        place: &IdedExpr,
    ) -> Typed {
        let (equal, ordered) = (operator == op::EQUALS, operator != op::EQUALS && operator != op::NOT_EQUALS);
        let text = |text: Result<Vec<u8>, String>| {
            let text = text.map_err(|message| self.fault(place, message))?;
            if ordered {
                return Err(self.fault(expr, "texts have no order here").help("use ==, in, startsWith or matches"));
            }
            Ok(Text::In(vec![text]))
        };
        match left {
            Operand::Field(field) if field.time().is_some() => {
                field.compare_time(operator, value).map_err(|message| self.fault(place, message))
            }
            Operand::Field(field) if field.is_text() => {
                Ok(field.leaf(Test::Text(text(field.text(value))?)).equals(equal))
            }
            Operand::Field(field) => {
                let (ranges, negated) = field.compare(operator, value).map_err(|message| self.fault(place, message))?;
                Ok(field.number_leaf(&ranges).equals(!negated))
            }
            Operand::Size(of) => {
                let (ranges, negated) = operand::size(operator, value).map_err(|message| self.fault(place, message))?;
                Ok(self.size(expr, of, &ranges)?.equals(!negated))
            }
            Operand::Metadata(key) => {
                let text = text(operand::metadata_text(value))?;
                Ok(Formula::Leaf(Leaf::Metadata { key: key.clone(), text }).equals(equal))
            }
            Operand::PeerIp => match value {
                Value::Ip(block, shown) if !ordered => Ok(operand::peer(&[*block], shown).equals(equal)),
                _ => Err(self.fault(place, "`peer.ip` is an address").help("write `peer.ip == ip(\"10.0.0.1\")`")),
            },
            Operand::PeerPort => {
                let (ranges, negated) = operand::port(operator, value).map_err(|message| self.fault(place, message))?;
                Ok(operand::port_leaf(&ranges).equals(!negated))
            }
            other => Err(self.fault(expr, format!("{} is not compared", other.name())).help(SUBSET)),
        }
    }

    fn size(&self, expr: &IdedExpr, of: &Operand, ranges: &Ranges) -> Typed {
        match of {
            Operand::List(list) => self.count(expr, list, ranges),
            other => Ok(other.size_leaf(ranges)),
        }
    }

    fn member(&self, expr: &IdedExpr, value: &IdedExpr, set: &IdedExpr) -> Typed {
        let Expr::List(list) = &set.expr else {
            return match (self.operand(value)?, self.operand(set)?) {
                (Operand::Literal(Value::Text(key)), Operand::MetadataMap) => {
                    Ok(Formula::Leaf(Leaf::Present { key: self.key(value, &key)? }))
                }
                (_, Operand::List(list)) => self.in_elements(expr, value, &list),
                (_, Operand::MetadataMap) => Err(self.fault(value, "a metadata key is a string literal")),
                _ => Err(self
                    .fault(set, "`in` takes a list of literals")
                    .help("write `x in [1, 2]`, `\"key\" in metadata`, or `1 in request.numbers`")),
            };
        };
        if list.elements.is_empty() {
            return Err(self.fault(expr, "the list is empty: this is always false"));
        }
        let left = self.operand(value)?;
        if let Operand::Literal(_) = left {
            return Err(self.fault(expr, "this compares literals with each other"));
        }
        let (mut texts, mut keys, mut blocks, mut shown) = (Vec::new(), Ranges::none(), Vec::new(), Vec::new());
        let mut times = Vec::new();
        for element in &list.elements {
            let Operand::Literal(value) = self.operand(element)? else {
                return Err(self.fault(element, "a list after `in` holds literals only"));
            };
            let fault = |message: String| self.fault(element, message);
            match &left {
                Operand::Field(field) if field.time().is_some() => {
                    times.push(field.compare_time(op::EQUALS, &value).map_err(fault)?);
                }
                Operand::Field(field) if field.is_text() => texts.push(field.text(&value).map_err(fault)?),
                Operand::Field(field) => keys = keys.union(&field.compare(op::EQUALS, &value).map_err(fault)?.0),
                Operand::Size(_) => keys = keys.union(&operand::size(op::EQUALS, &value).map_err(fault)?.0),
                Operand::PeerPort => keys = keys.union(&operand::port(op::EQUALS, &value).map_err(fault)?.0),
                Operand::Metadata(_) => texts.push(operand::metadata_text(&value).map_err(fault)?),
                Operand::PeerIp => match value {
                    Value::Ip(block, text) => {
                        blocks.push(block);
                        shown.push(text);
                    }
                    _ => return Err(fault("`peer.ip` is compared with `ip(\"...\")`".to_owned())),
                },
                other => return Err(self.fault(element, format!("{} is not compared", other.name()))),
            }
        }
        texts.sort();
        texts.dedup();
        Ok(match left {
            Operand::Field(field) if field.time().is_some() => Formula::Or(times),
            Operand::Field(field) if field.is_text() => field.leaf(Test::Text(Text::In(texts))),
            Operand::Field(field) => field.number_leaf(&keys),
            Operand::Size(of) => self.size(expr, &of, &keys)?,
            Operand::PeerPort => operand::port_leaf(&keys),
            Operand::Metadata(key) => Formula::Leaf(Leaf::Metadata { key, text: Text::In(texts) }),
            _ => operand::peer(&blocks, &shown.join(", ")),
        })
    }

    fn text(&self, expr: &IdedExpr, call: &CallExpr) -> Typed {
        let function = call.func_name.as_str();
        let (Some(target), [arg]) = (&call.target, call.args.as_slice()) else {
            let help = format!("write `request.field.{function}(\"...\")`");
            return Err(self.fault(expr, format!("`{function}` is called on a text, with one literal")).help(help));
        };
        let left = self.operand(target)?;
        let Operand::Literal(value) = self.operand(arg)? else {
            return Err(self
                .fault(arg, format!("`{function}` takes a literal"))
                .help("the kernel builds no strings and compares no two fields"));
        };
        let fault = |message: String| self.fault(arg, message);
        let bytes = match &left {
            Operand::Field(field) if field.is_text() => field.text(&value).map_err(fault)?,
            Operand::Metadata(_) => operand::metadata_text(&value).map_err(fault)?,
            other => return Err(self.fault(target, format!("`{function}` is not for {}", other.name()))),
        };
        let text = match function {
            "matches" => return self.matches(&left, &value, target, arg),
            _ if bytes.is_empty() => return Err(self.fault(expr, "this is always true: the text is empty")),
            "contains" => Text::Contains(bytes),
            "startsWith" => Text::Prefix(bytes),
            _ => Text::Suffix(bytes),
        };
        Ok(left.text_leaf(text))
    }

    fn matches(&self, left: &Operand, value: &Value, target: &IdedExpr, place: &IdedExpr) -> Typed {
        let Value::Text(pattern) = value else {
            return Err(self
                .fault(target, "`matches` is for strings")
                .help("bytes have ==, in, contains, startsWith and endsWith"));
        };
        let shape = re2::shape(pattern).map_err(|message| self.fault(place, message))?;
        Ok(match shape {
            re2::Shape::Always => return Err(self.fault(place, "this pattern matches every text")),
            re2::Shape::Text(text) => left.text_leaf(text),
            re2::Shape::Counted { size, never } => match left {
                Operand::Field(field) => {
                    let size = field.raw(Test::Size(size));
                    let never = never.map(|text| field.raw(Test::Text(text)).negate());
                    field.wrap(Formula::And(std::iter::once(size).chain(never).collect()))
                }
                _ => left.text_leaf(Text::Matches(pattern.clone())),
            },
        })
    }

    fn contains_ip(&self, expr: &IdedExpr, call: &CallExpr) -> Typed {
        let form = "write `cidr(\"10.0.0.0/8\").containsIP(peer.ip)`";
        let (Some(target), [arg]) = (&call.target, call.args.as_slice()) else {
            return Err(self.fault(expr, "`containsIP` takes one address").help(form));
        };
        let Operand::Literal(Value::Cidr(block, shown)) = self.operand(target)? else {
            return Err(self.fault(target, "`containsIP` is called on a `cidr`").help(form));
        };
        match self.operand(arg)? {
            Operand::PeerIp => Ok(operand::peer(&[block], &shown)),
            other => Err(self.fault(arg, format!("`containsIP` is not for {}", other.name())).help(form)),
        }
    }
}

/// Whether it is a value, and not made of conditions.
fn is_operand(expr: &IdedExpr) -> bool {
    match &expr.expr {
        Expr::Ident(_) => true,
        Expr::Select(select) => !select.test,
        Expr::Call(call) => call.func_name == op::INDEX,
        _ => false,
    }
}
