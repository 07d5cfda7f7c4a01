//! Stage 3, repeated fields and maps: elements, entries, and what holds of some or all of them.
//!
//! `all(x, P)` is `!exists(x, !P)`, and `v in xs` is `xs.exists(it, it == v)`. What a body says of other things than the
//! element is moved out of it: `xs.exists(x, x.a && request.b)` is `request.b && xs.exists(x, x.a)`.

use cel::common::ast::{ComprehensionExpr, Expr, IdedExpr, LiteralValue, operators as op};
use prost_reflect::Kind;

use super::cel::{At, Leaf, Typed, Typer};
use super::err::Fault;
use super::field::{Field, Guard};
use super::operand::{Operand, Value};
use super::predicate::{Formula, Ranges, Test, Text};
use crate::abi;

/// The numbers of a map entry's fields.
pub const KEY: u32 = 1;
pub const VALUE: u32 = 2;

/// A variable of a macro: what it stands for.
#[derive(Debug, Clone)]
pub struct Var {
    pub name: String,
    pub element: Field,
}

impl At {
    /// The place of a field below.
    pub fn below(&self, number: u32, label: &str) -> At {
        let mut at = self.clone();
        at.path.push(number);
        at.labels.push(label.to_owned());
        at
    }
}

impl Field {
    /// An element of this repeated field, or a key of this map, that a variable of scope `scope` stands for.
    pub fn element(&self, name: &str, scope: usize) -> Field {
        let mut element = Field { name: name.to_owned(), element: true, guards: Vec::new(), ..self.clone() };
        element.at.scope = scope;
        if let (true, Kind::Message(entry)) = (self.descriptor.is_map(), self.descriptor.kind()) {
            element.at = element.at.below(KEY, "");
            element.descriptor = entry.map_entry_key_field();
        }
        element.unwrapped()
    }

    /// The test that a key of this map is this literal, and how that is written.
    fn key(&self, value: &Value) -> Result<Test, String> {
        let key = self.element(&format!("a key of {}", self.name), 0);
        if key.is_text() {
            return Ok(Test::Text(Text::In(vec![key.text(value)?])));
        }
        let (ranges, _) = key.compare(op::EQUALS, value)?;
        key.number().map(|number| Test::Number(ranges, number)).ok_or_else(|| "maps have no such keys".to_owned())
    }

    /// The value that this map has under a key.
    fn entry(&self, key: Test, shown: &str) -> Option<Field> {
        let Kind::Message(entry) = self.descriptor.kind() else { return None };
        let mut guards = self.guards.clone();
        guards.push(Guard { at: self.at.clone(), key });
        let field = Field {
            at: self.at.below(VALUE, ""),
            guards,
            wrapper: None,
            name: format!("{}[{shown}]", self.name),
            descriptor: entry.map_entry_value_field(),
            element: true,
        };
        Some(field.unwrapped())
    }
}

impl Leaf {
    fn scope(&self) -> usize {
        match self {
            Leaf::Field { at, .. } | Leaf::Exists { at, .. } | Leaf::Entry { at, .. } | Leaf::Count { at, .. } => {
                at.scope
            }
            Leaf::Present { .. } | Leaf::Metadata { .. } | Leaf::Peer { .. } | Leaf::Port(_) => 0,
        }
    }
}

type Literals = Vec<(Leaf, bool)>;

fn is_within(formula: &Formula<Leaf>, scope: usize) -> bool {
    match formula {
        Formula::Const(_) => true,
        Formula::Leaf(leaf) => leaf.scope() == scope,
        Formula::Not(inner) => is_within(inner, scope),
        Formula::And(parts) | Formula::Or(parts) => parts.iter().all(|part| is_within(part, scope)),
    }
}

/// Conjunctions of leaves and negated leaves; none if there are too many.
fn conjunctions(formula: &Formula<Leaf>, positive: bool) -> Option<Vec<Literals>> {
    const MOST: usize = 256;
    match formula {
        Formula::Const(value) => Some(if *value == positive { vec![Vec::new()] } else { Vec::new() }),
        Formula::Leaf(leaf) => Some(vec![vec![(leaf.clone(), positive)]]),
        Formula::Not(inner) => conjunctions(inner, !positive),
        Formula::And(parts) | Formula::Or(parts) => {
            let all = matches!(formula, Formula::And(_)) == positive;
            let mut out: Vec<Literals> = if all { vec![Vec::new()] } else { Vec::new() };
            for part in parts {
                let part = conjunctions(part, positive)?;
                if all {
                    let both = |left: &Literals, right: &Literals| left.iter().chain(right).cloned().collect();
                    out = out.iter().flat_map(|left| part.iter().map(move |right| both(left, right))).collect();
                } else {
                    out.extend(part);
                }
                if out.len() > MOST {
                    return None;
                }
            }
            Some(out)
        }
    }
}

fn all_of(literals: Literals) -> Vec<Formula<Leaf>> {
    literals.into_iter().map(|(leaf, positive)| Formula::Leaf(leaf).equals(positive)).collect()
}

/// That some element of `list` satisfies `body`, whose own leaves have the scope `scope`.
fn some(list: &Field, var: &str, scope: usize, body: Formula<Leaf>) -> Option<Formula<Leaf>> {
    let exists = |body: Formula<Leaf>| {
        let (at, keys) = (list.at.clone(), list.descriptor.is_map());
        list.wrap(Formula::Leaf(Leaf::Exists { at, var: var.to_owned(), keys, body: Box::new(body) }))
    };
    if is_within(&body, scope) {
        return Some(exists(body));
    }
    let parts = conjunctions(&body, true)?.into_iter().map(|literals| {
        let (own, other): (Literals, Literals) = literals.into_iter().partition(|(leaf, _)| leaf.scope() == scope);
        let mut parts = all_of(other);
        parts.push(exists(Formula::And(all_of(own))));
        Formula::And(parts)
    });
    Some(Formula::Or(parts.collect()))
}

impl Typer<'_> {
    /// `exists` and `all`.
    pub fn comprehension(&self, expr: &IdedExpr, it: &ComprehensionExpr) -> Typed {
        let (all, body) = match (&it.accu_init.expr, &it.loop_step.expr) {
            (Expr::Literal(LiteralValue::Boolean(all)), Expr::Call(step)) if it.iter_var2.is_none() => {
                match (*all.inner(), step.func_name.as_str(), step.args.as_slice()) {
                    (all @ false, op::LOGICAL_OR, [_, body]) | (all @ true, op::LOGICAL_AND, [_, body]) => (all, body),
                    _ => return Err(self.no_macro(expr)),
                }
            }
            _ => return Err(self.no_macro(expr)),
        };
        let var = it.iter_var.as_str();
        if ["request", "response", "metadata", "peer"].contains(&var) {
            return Err(self.fault(expr, format!("`{var}` is a variable already")).help("call the element otherwise"));
        }
        let list = match self.operand(&it.iter_range)? {
            Operand::List(list) => list,
            Operand::MetadataMap => {
                return Err(self
                    .fault(&it.iter_range, "metadata has no elements here")
                    .help("test a key: `\"key\" in metadata`, or `metadata[\"key\"] == \"value\"`"));
            }
            other => {
                return Err(self
                    .fault(&it.iter_range, format!("{} has no elements", other.name()))
                    .help("`exists` and `all` are for repeated fields and maps"));
            }
        };
        let scope = self.vars.borrow().len() + 1;
        self.vars.borrow_mut().push(Var { name: var.to_owned(), element: list.element(var, scope) });
        let body = self.formula(body);
        self.vars.borrow_mut().pop();
        let body = body?.equals(!all);
        let formula = self.some(expr, &list, var, scope, body)?;
        Ok(formula.equals(!all))
    }

    fn no_macro(&self, expr: &IdedExpr) -> Fault {
        self.fault(expr, "of the macros the kernel decides `exists`, `all` and `has`")
            .help("write `xs.exists(x, ...)` or `xs.all(x, ...)`")
    }

    fn some(&self, expr: &IdedExpr, list: &Field, var: &str, scope: usize, body: Formula<Leaf>) -> Typed {
        some(list, var, scope, body).ok_or_else(|| {
            self.fault(expr, "what this says of other things than the element expands to too many cases")
                .help("split the rule: rules of one kind are OR-ed")
        })
    }

    /// `value in list`, or `key in map`.
    pub fn in_elements(&self, expr: &IdedExpr, value: &IdedExpr, list: &Field) -> Typed {
        let Operand::Literal(literal) = self.operand(value)? else {
            return Err(self
                .fault(value, format!("what stands in {} is asked for literals only", list.name))
                .help("the kernel compares no two fields"));
        };
        let scope = self.vars.borrow().len() + 1;
        let element = list.element(&format!("an element of {}", list.name), scope);
        let body = self.compare_value(expr, op::EQUALS, &Operand::Field(element), &literal, value)?;
        self.some(expr, list, "it", scope, body)
    }

    /// `map[key]`.
    pub fn index(&self, expr: &IdedExpr, map: &Field, key: &IdedExpr) -> Result<Operand, Fault> {
        if !map.descriptor.is_map() {
            return Err(self
                .fault(expr, format!("`{}` is repeated: the kernel doesn't count to an element's place", map.name))
                .help("write `.exists(x, ...)`, `.all(x, ...)` or `v in ...`"));
        }
        let Operand::Literal(literal) = self.operand(key)? else {
            return Err(self.fault(key, "a key of a map is a literal here").help("the kernel compares no two fields"));
        };
        let test = map.key(&literal).map_err(|message| self.fault(key, message))?;
        let shown = literal.show();
        map.entry(test, &shown).map(Operand::Field).ok_or_else(|| self.fault(expr, "this map has no values"))
    }

    /// How many elements there are, or distinct keys.
    pub fn count(&self, expr: &IdedExpr, list: &Field, ranges: &Ranges) -> Typed {
        count(list, ranges)
            .map_err(|message| self.fault(expr, message).help("a map's keys may repeat, and only distinct ones count"))
    }
}

/// That a repeated field has so many elements, or a map so many distinct keys.
pub fn count(list: &Field, ranges: &Ranges) -> Result<Formula<Leaf>, String> {
    let (at, distinct) = (list.at.clone(), list.descriptor.is_map());
    let some = || {
        let body = Box::new(Formula::Const(true));
        Formula::Leaf(Leaf::Exists { at: at.clone(), var: "it".to_owned(), keys: distinct, body })
    };
    let (none, any) = (Ranges::of(0, 0), Ranges::of(1, u64::MAX));
    Ok(if ranges.is_empty() {
        Formula::Const(false)
    } else if *ranges == none.union(&any) {
        list.wrap(Formula::Const(true))
    } else if *ranges == none {
        list.wrap(some().negate())
    } else if *ranges == any {
        list.wrap(some())
    } else {
        let most = u64::from(abi::PG_MAX_MAP_KEYS) + 1;
        if distinct && ranges.iter().any(|(low, high)| low > most || (high >= most && high != u64::MAX)) {
            return Err(format!("sizes of maps are compared up to {} (limit MAP_KEYS)", most - 1));
        }
        list.wrap(Formula::Leaf(Leaf::Count { at, distinct, ranges: ranges.clone() }))
    })
}
