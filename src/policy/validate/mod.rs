//! Stage 3, `[validate]`: protovalidate's constraints, (buf.validate) options in the protos, as deny rules.
//!
//! A constraint becomes the formula of its violation, each a rule of its own: a caller is told which one it was. What the
//! kernel cannot decide is an error that names the field.

mod options;
mod values;

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;

use cel::common::ast::{Expr, IdedExpr, LiteralValue, operators as op};
use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use toml::Spanned;

use super::Action;
use super::cel::{At, Leaf, Side, Typed, Typer};
use super::condition::Condition;
use super::decide::{Decision, Useless};
use super::elements::{self, VALUE, Var};
use super::err::Fault;
use super::field::Field;
use super::file::{self, File};
use super::predicate::{Formula, Ranges, Test};
use super::resolve::{self, Protos};
use super::rule::{self, Decides, Rule};
use crate::abi;
pub use options::FILE;
use options::{Cel, Ignore, Rules};

const INVALID_ARGUMENT: u32 = 3;
const MESSAGE_BYTES: usize = 200;

/// The rules that a policy's `[validate]` becomes.
pub fn rules(file: &File, protos: &Protos) -> Result<Vec<(file::Rule, Rule)>, Vec<Fault>> {
    let Some(validate) = &file.validate else { return Ok(Vec::new()) };
    let patterns =
        validate.methods.iter().map(resolve::pattern).collect::<Result<Vec<_>, _>>().map_err(|it| vec![it])?;
    let requests =
        rule::messages(Side::Request, &validate.methods, &patterns, protos, "`[validate]` reads its request")?;
    if let Some(file) = &protos.unread {
        let message = format!("the constraints of `{file}` are not read: its descriptor set has files of editions");
        return Err(vec![
            Fault::at(validate.span.clone(), message).help("constraints are read from proto2 and proto3"),
        ]);
    }
    let skip: HashSet<&str> = validate.skip.iter().map(|name| name.get_ref().as_str()).collect();
    let mut faults: Vec<Fault> = validate.skip.iter().filter_map(|name| unknown(name, protos)).collect();
    let mut out = Vec::new();
    for request in requests {
        let mut walk = Walk {
            protos,
            skip: &skip,
            span: validate.span.clone(),
            request: request.clone(),
            found: Vec::new(),
            faults: Vec::new(),
            constrained: HashMap::new(),
        };
        walk.message(&request, &Spot::default());
        faults.extend(walk.faults);
        for violation in walk.found {
            let decision = match Decision::new(&violation.formula, Action::Deny, Side::Request) {
                Ok(decision) => decision,
                Err(Useless::AlwaysFalse) => continue, // nothing violates it
                Err(useless) => {
                    let why = if useless == Useless::TooLarge {
                        "expands to too many clauses"
                    } else {
                        "is violated by every message"
                    };
                    faults.push(Fault::at(validate.span.clone(), format!("the constraint `{}` {why}", violation.name)));
                    continue;
                }
            };
            let raw = file::Rule {
                name: Spanned::new(validate.span.clone(), violation.name),
                action: Action::Deny,
                methods: validate.methods.clone(),
                limit: None,
                when: None,
                status: INVALID_ARGUMENT,
                message: sayable(&violation.says),
                audit: false,
            };
            let decides =
                Decides::PerMessage(Side::Request, BTreeMap::from([(request.full_name().to_owned(), decision)]));
            out.push((raw, Rule::deny(patterns.clone(), decides, validate.span.clone())));
        }
    }
    if !faults.is_empty() {
        faults.truncate(20);
        return Err(faults);
    }
    if out.is_empty() {
        let message = "none of the requests that `[validate]` covers has constraints";
        let help =
            format!("constraints are `({})` options of their fields, from {}", "buf.validate.field", options::FILE);
        return Err(vec![Fault::at(validate.span.clone(), message).help(help)]);
    }
    if file.rules.len() + out.len() > abi::PG_MAX_RULES as usize {
        let most = abi::PG_MAX_RULES;
        let message = format!("with the constraints there are more than {most} rules (limit RULES)");
        return Err(vec![Fault::at(validate.span.clone(), message)]);
    }
    Ok(out)
}

/// A name in `skip` that is neither a field's, nor a oneof's, nor a message's.
fn unknown(name: &Spanned<String>, protos: &Protos) -> Option<Fault> {
    let full = name.get_ref();
    let is_message = protos.pool.get_message_by_name(full).is_some();
    let within =
        full.rsplit_once('.').and_then(|(message, field)| Some((protos.pool.get_message_by_name(message)?, field)));
    let is_part = within.is_some_and(|(message, part)| {
        message.get_field_by_name(part).is_some() || message.oneofs().any(|oneof| oneof.name() == part)
    });
    (!is_message && !is_part).then(|| {
        Fault::at(name.span(), format!("the protos have no field `{full}`")).help("write `package.Message.field`")
    })
}

/// What fits a status message.
fn sayable(text: &str) -> String {
    let mut out: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if out.len() > MESSAGE_BYTES {
        let end = (0..=MESSAGE_BYTES - 3).rev().find(|end| out.is_char_boundary(*end)).unwrap_or(0);
        out.truncate(end);
        out.push_str("...");
    }
    out
}

/// What violates one constraint.
struct Violation {
    name: String,
    says: String,
    formula: Formula<Leaf>,
}

/// Where a message is.
#[derive(Clone, Default)]
struct Spot {
    at: At,
    /// As violations name it: `lines[].price`.
    name: String,
    /// The repeated fields and maps around, the outermost first.
    around: Vec<Field>,
    /// That it is there, if it may not be.
    there: Option<Formula<Leaf>>,
    /// The message itself, if it is not the request.
    is: Option<Field>,
    /// The messages around.
    within: Vec<String>,
}

impl Spot {
    fn below(&self, name: &str) -> String {
        if self.name.is_empty() { name.to_owned() } else { format!("{}.{name}", self.name) }
    }

    fn field(&self, descriptor: &FieldDescriptor) -> Field {
        let at = self.at.below(descriptor.number(), descriptor.name());
        let name = format!("request.{}", self.below(descriptor.name()));
        Field { at, guards: Vec::new(), wrapper: None, name, descriptor: descriptor.clone(), element: false }
    }
}

/// What constraints apply to, and how it is called.
struct Subject<'a> {
    spot: &'a Spot,
    name: String,
    /// The field that errors and `skip` name.
    owner: &'a FieldDescriptor,
    /// That its constraints apply at all.
    applies: Vec<Formula<Leaf>>,
}

struct Walk<'a> {
    protos: &'a Protos,
    skip: &'a HashSet<&'a str>,
    span: Range<usize>,
    request: MessageDescriptor,
    found: Vec<Violation>,
    faults: Vec<Fault>,
    /// Whether messages have constraints, in them or below.
    constrained: HashMap<String, bool>,
}

impl Walk<'_> {
    fn fault(&mut self, owner: &str, what: &str) {
        let message = format!("`{owner}` has a constraint that the kernel does not decide: {what}");
        let help = format!("leave the field to the application: skip = [\"{owner}\"]");
        self.faults.push(Fault::at(self.span.clone(), message).help(help));
    }

    /// That `violated` is so, somewhere.
    fn add(&mut self, spot: &Spot, name: &str, id: &str, says: &str, violated: Vec<Formula<Leaf>>) {
        let inner = Formula::And(violated);
        let formula = spot.around.iter().rev().fold(inner, |inner, list| {
            let (at, keys) = (list.at.clone(), list.descriptor.is_map());
            Formula::Leaf(Leaf::Exists { at, var: format!("it{}", list.at.scope), keys, body: Box::new(inner) })
        });
        let (request, dot) = (self.request.full_name(), if name.is_empty() { "" } else { "." });
        let mut full = format!("validate {request}{dot}{name} {id}");
        let same = self.found.iter().filter(|it| it.name == full).count();
        if same > 0 {
            full = format!("{full} ({})", same + 1);
        }
        let says = if name.is_empty() { format!("{says} [{id}]") } else { format!("{name}: {says} [{id}]") };
        self.found.push(Violation { name: full, says, formula });
    }

    /// Whether a message has constraints that are not skipped, in it or below.
    fn is_constrained(&mut self, message: &MessageDescriptor) -> bool {
        if let Some(known) = self.constrained.get(message.full_name()) {
            return *known;
        }
        let mut seen = HashSet::new();
        let found = self.search(message, &mut seen);
        self.constrained.insert(message.full_name().to_owned(), found);
        found
    }

    fn search(&self, message: &MessageDescriptor, seen: &mut HashSet<String>) -> bool {
        if !seen.insert(message.full_name().to_owned()) {
            return false;
        }
        let skipped = |name: &str| self.skip.contains(name);
        (options::of_message(message).is_some() && !skipped(message.full_name()))
            || message.oneofs().any(|oneof| options::of_oneof(&oneof).is_some() && !skipped(oneof.full_name()))
            || message.fields().filter(|field| !skipped(field.full_name())).any(|field| {
                match options::of_field(&field) {
                    Some(Ok(rules)) => rules.ignore != Ignore::Always,
                    Some(Err(_)) => true,
                    None => value_message(&field).is_some_and(|inner| self.search(&inner, seen)),
                }
            })
    }

    fn message(&mut self, message: &MessageDescriptor, spot: &Spot) {
        if !self.is_constrained(message) {
            return;
        }
        if !self.skip.contains(message.full_name())
            && let Some(rules) = options::of_message(message)
        {
            match options::set(&rules) {
                Ok(set) => {
                    for (name, value) in set {
                        match name.as_str() {
                            "cel" | "cel_expression" => {
                                let applies: Vec<_> = spot.there.clone().into_iter().collect();
                                for cel in options::cel(&name, &value) {
                                    self.cel(&cel, spot, spot.is.as_ref(), &spot.name, message.full_name(), &applies);
                                }
                            }
                            _ => self.fault(message.full_name(), &format!("`{name}` of `(buf.validate.message)`")),
                        }
                    }
                }
                Err(what) => self.fault(message.full_name(), &what),
            }
        }
        for oneof in message.oneofs().filter(|oneof| !self.skip.contains(oneof.full_name())) {
            let Some(rules) = options::of_oneof(&oneof) else { continue };
            match options::set(&rules) {
                Ok(set) => {
                    for (name, value) in set {
                        match (name.as_str(), value.as_bool()) {
                            ("required", Some(true)) => {
                                let none = oneof.fields().map(|field| spot.field(&field).raw(Test::Has).negate());
                                let violated = spot.there.clone().into_iter().chain(none).collect();
                                let says = "exactly one field is required in oneof";
                                self.add(spot, &spot.below(oneof.name()), "required", says, violated);
                            }
                            ("required", _) => {}
                            _ => self.fault(oneof.full_name(), &format!("`{name}` of `(buf.validate.oneof)`")),
                        }
                    }
                }
                Err(what) => self.fault(oneof.full_name(), &what),
            }
        }
        for field in message.fields() {
            self.field(&field, spot);
        }
    }

    fn field(&mut self, descriptor: &FieldDescriptor, spot: &Spot) {
        let full = descriptor.full_name();
        if self.skip.contains(full) {
            return;
        }
        let rules = match options::of_field(descriptor).transpose() {
            Ok(rules) => rules,
            Err(what) => return self.fault(full, &what),
        };
        let nested = value_message(descriptor).filter(|inner| self.is_constrained(inner));
        let rules = match rules {
            Some(rules) if rules.ignore == Ignore::Always => return,
            None if nested.is_none() => return,
            rules => rules.unwrap_or_default(),
        };
        if descriptor.is_group() {
            return self.fault(full, "it is a group");
        }
        let list = spot.field(descriptor);
        let names = list.at.labels.iter().filter(|label| !label.is_empty()).count();
        if names > abi::PG_MAX_FIELD_PATH as usize || list.at.path.len() >= abi::PG_MAX_MESSAGE_DEPTH as usize {
            return self.fault(full, &format!("it lies too deep in `{}` (limit FIELD_PATH)", self.request.full_name()));
        }
        if let Some(inner) = &nested
            && spot.within.iter().any(|name| name == inner.full_name())
        {
            return self.fault(full, &format!("`{}` may lie in itself, as deep as a caller likes", inner.full_name()));
        }
        if descriptor.is_list() || descriptor.is_map() {
            return self.list(&list, &rules, nested.as_ref(), spot);
        }
        let field = list.unwrapped();
        let there = match &field.wrapper {
            Some(wrapper) => Some(wrapper.raw(Test::Has)),
            None => descriptor.supports_presence().then(|| field.raw(Test::Has)),
        };
        let mut applies: Vec<_> = there.clone().or_else(|| spot.there.clone()).into_iter().collect();
        if rules.required {
            let absent = there.clone().unwrap_or_else(|| values::is_some(&field)).negate();
            let violated = spot.there.clone().into_iter().chain([absent]).collect();
            self.add(spot, &spot.below(descriptor.name()), "required", "value is required", violated);
        }
        // where it has presence, a zero that is there is held to its constraints
        if rules.ignore == Ignore::IfZero && there.is_none() {
            applies.push(values::is_some(&field));
        }
        let subject = Subject { spot, name: spot.below(descriptor.name()), owner: descriptor, applies };
        self.value(&field, &rules, &subject, nested.as_ref());
    }

    /// The constraints on one value, and those inside it.
    fn value(&mut self, field: &Field, rules: &Rules, subject: &Subject<'_>, nested: Option<&MessageDescriptor>) {
        let Subject { spot, name, owner, applies } = subject;
        if let Some((kind, typed)) = &rules.typed {
            match values::constraints(field, kind, typed) {
                Ok(constraints) => {
                    for it in constraints {
                        let violated = applies.iter().cloned().chain([it.holds.negate()]).collect();
                        self.add(spot, name, &it.id, &it.says, violated);
                    }
                }
                Err(what) => self.fault(owner.full_name(), &what),
            }
        }
        for cel in &rules.cel {
            self.cel(cel, spot, Some(field), name, owner.full_name(), applies);
        }
        let Some(inner) = nested else { return };
        let mut within = spot.within.clone();
        within.push(owner.parent_message().full_name().to_owned());
        let spot = Spot {
            at: field.at.clone(),
            name: name.clone(),
            around: spot.around.clone(),
            there: applies.first().cloned(),
            is: Some(field.clone()),
            within,
        };
        self.message(inner, &spot);
    }

    fn list(&mut self, list: &Field, rules: &Rules, nested: Option<&MessageDescriptor>, spot: &Spot) {
        let owner = &list.descriptor;
        let (name, is_map) = (spot.below(owner.name()), owner.is_map());
        let (any, some) = (Ranges::of(1, u64::MAX), |ranges: Ranges| elements::count(list, &ranges));
        let Ok(filled) = some(any) else { return };
        let mut applies: Vec<_> = spot.there.clone().into_iter().collect();
        if rules.required {
            let violated = applies.iter().cloned().chain([filled.clone().negate()]).collect();
            self.add(spot, &name, "required", "value is required", violated);
        }
        if rules.ignore == Ignore::IfZero {
            applies.push(filled);
        }
        let (mut items, mut keys) = (None, None);
        if let Some((kind, typed)) = &rules.typed {
            if kind != if is_map { "map" } else { "repeated" } {
                return self.fault(
                    owner.full_name(),
                    &format!("`{kind}` on a {} field", if is_map { "map" } else { "repeated" }),
                );
            }
            let set = match options::set(typed) {
                Ok(set) => set,
                Err(what) => return self.fault(owner.full_name(), &what),
            };
            for (rule, value) in set {
                let inner = value.as_message().map(Rules::read).transpose();
                let (low, high, says) = match (rule.as_str(), value.as_u64(), inner) {
                    (_, _, Err(what)) => return self.fault(owner.full_name(), &format!("{what} in `{kind}.{rule}`")),
                    ("items" | "values", _, Ok(inner)) => {
                        items = inner;
                        continue;
                    }
                    ("keys", _, Ok(inner)) => {
                        keys = inner;
                        continue;
                    }
                    ("min_items", Some(n), _) => (n, u64::MAX, format!("must contain at least {n} item(s)")),
                    ("max_items", Some(n), _) => (0, n, format!("must contain no more than {n} item(s)")),
                    ("min_pairs", Some(n), _) => (n, u64::MAX, format!("map must be at least {n} entries")),
                    ("max_pairs", Some(n), _) => (0, n, format!("map must be at most {n} entries")),
                    ("unique", ..) if value.as_bool() == Some(false) => continue,
                    _ => return self.fault(owner.full_name(), &format!("`{kind}.{rule}`")),
                };
                match some(Ranges::of(low, high)) {
                    Ok(holds) => {
                        let violated = applies.iter().cloned().chain([holds.negate()]).collect();
                        self.add(spot, &name, &format!("{kind}.{rule}"), &says, violated);
                    }
                    Err(what) => return self.fault(owner.full_name(), &format!("`{kind}.{rule}`: {what}")),
                }
            }
        }
        for cel in &rules.cel {
            self.cel(cel, spot, Some(list), &name, owner.full_name(), &applies);
        }
        let mut around = spot.around.clone();
        around.push(list.clone());
        let scope = around.len();
        let inside = Spot { around, there: None, is: None, ..spot.clone() };
        let element = list.element(&format!("it{}", scope - 1), scope);
        let Kind::Message(entry) = owner.kind() else {
            return self.element(&element, items, &inside, format!("{name}[]"), owner, None);
        };
        if !is_map {
            return self.element(&element, items, &inside, format!("{name}[]"), owner, nested);
        }
        self.element(&element, keys, &inside, format!("{name} (a key)"), owner, None);
        let mut at = list.at.below(VALUE, "value");
        at.scope = scope;
        let value = Field { at, descriptor: entry.map_entry_value_field(), ..element }.unwrapped();
        self.element(&value, items, &inside, format!("{name}[]"), owner, nested);
    }

    /// One element, key or value.
    fn element(
        &mut self,
        element: &Field,
        rules: Option<Rules>,
        spot: &Spot,
        name: String,
        owner: &FieldDescriptor,
        nested: Option<&MessageDescriptor>,
    ) {
        let rules = rules.unwrap_or_default();
        let mut applies = Vec::new();
        match rules.ignore {
            Ignore::Always => return,
            Ignore::Unspecified => {}
            Ignore::IfZero if element.wrapper.is_some() || matches!(element.descriptor.kind(), Kind::Message(_)) => {
                return self.fault(owner.full_name(), "`ignore` of elements that are messages");
            }
            Ignore::IfZero if begins_elsewhere(&element.descriptor.kind()) => {
                return self.fault(owner.full_name(), "`ignore` of an enum whose first value is not zero");
            }
            Ignore::IfZero => applies.push(values::is_some(element)),
        }
        if rules.required {
            return self.fault(owner.full_name(), "`required` of an element");
        }
        self.value(element, &rules, &Subject { spot, name, owner, applies }, nested);
    }

    // ---- cel ----

    fn cel(
        &mut self,
        cel: &Cel,
        spot: &Spot,
        this: Option<&Field>,
        name: &str,
        owner: &str,
        applies: &[Formula<Leaf>],
    ) {
        match self.passes(cel, spot, this) {
            Ok(holds) => {
                let said = if cel.message.is_empty() {
                    format!("\"{}\" returned false", cel.expression)
                } else {
                    cel.message.clone()
                };
                let id = if cel.id.is_empty() { "cel" } else { &cel.id };
                let violated = applies.iter().cloned().chain([holds.negate()]).collect();
                self.add(spot, name, id, &said, violated);
            }
            Err(fault) => {
                let help = fault.help.map(|help| format!(" ({help})")).unwrap_or_default();
                self.fault(owner, &format!("the cel rule `{}`: {}{help}", cel.id, fault.message));
            }
        }
    }

    fn passes(&self, cel: &Cel, spot: &Spot, this: Option<&Field>) -> Typed {
        let text = Spanned::new(self.span.clone(), cel.expression.clone());
        let condition = Condition::parse(&text, "")
            .map_err(|faults| faults.into_iter().next().unwrap_or_else(|| Fault::whole("it does not parse")))?;
        for variable in ["rules", "rule", "now", "request", "metadata", "peer"] {
            if condition.reads(variable) {
                return Err(Fault::whole(format!("`{variable}` is not an input of constraints here")));
            }
        }
        let (request, root) = if this.is_none() { (Some(&self.request), "this") } else { (None, "request") };
        let mut vars = Vec::new();
        if let Some(this) = this {
            // macros number their variables by how many there are around
            let named = |name: &str| Var { name: name.to_owned(), element: this.clone() };
            vars.resize(spot.around.len(), named(""));
            vars.push(named("this"));
        }
        let (pool, vars) = (&self.protos.pool, RefCell::new(vars));
        let typer = Typer { condition: &condition, message: request, side: Side::Request, pool, root, vars };
        empty_or_true(&typer, condition.root())
    }
}

/// A rule's expression gives a condition, or a text that is empty where all is well.
fn empty_or_true(typer: &Typer<'_>, expr: &IdedExpr) -> Typed {
    match &expr.expr {
        Expr::Literal(LiteralValue::String(text)) => Ok(Formula::Const(text.inner().is_empty())),
        Expr::Call(call) if call.func_name == op::CONDITIONAL => match call.args.as_slice() {
            [test, yes, no] => {
                let test = typer.formula(test)?;
                let (yes, no) = (empty_or_true(typer, yes)?, empty_or_true(typer, no)?);
                let otherwise = test.clone().negate();
                Ok(Formula::Or(vec![Formula::And(vec![test, yes]), Formula::And(vec![otherwise, no])]))
            }
            _ => typer.formula(expr),
        },
        _ => typer.formula(expr),
    }
}

/// The message that a field, its elements or its values are.
fn value_message(field: &FieldDescriptor) -> Option<MessageDescriptor> {
    let Kind::Message(message) = field.kind() else { return None };
    let message = match field.is_map() {
        true => match message.map_entry_value_field().kind() {
            Kind::Message(message) => message,
            _ => return None,
        },
        false => message,
    };
    (!message.full_name().starts_with("google.protobuf.")).then_some(message)
}

/// Whether an enum's zero, which is its first value, is another number.
fn begins_elsewhere(kind: &Kind) -> bool {
    matches!(kind, Kind::Enum(it) if it.default_value().number() != 0)
}
