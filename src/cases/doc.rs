//! A document in TOML, YAML or JSON as one kind of tree, in which every key and value knows its place in the text.

use std::fmt;
use std::ops::Range;

use saphyr_parser::{Event, Parser, ScalarStyle, Tag};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::policy::Fault;

/// How deep lists and tables may lie in each other.
const DEPTH: usize = 64;
/// How many values a document may have, those that YAML's aliases repeat included.
const NODES: usize = 1 << 20;

/// How a document is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// TOML.
    Toml,
    /// YAML; JSON is a part of it.
    Yaml,
}

/// A value and its place.
#[derive(Debug, Clone)]
pub struct Node {
    pub span: Range<usize>,
    pub value: Value,
}

/// A key and its place.
#[derive(Debug, Clone)]
pub struct Key {
    pub span: Range<usize>,
    pub name: String,
}

/// A value.
#[derive(Debug, Clone)]
pub enum Value {
    Null,
    Bool(bool),
    Number(serde_json::Number),
    /// A number that JSON has no form of: infinite, or none.
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Table(Vec<(Key, Node)>),
}

impl Node {
    /// What it is, for messages.
    pub fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "a boolean",
            Value::Number(_) | Value::Float(_) => "a number",
            Value::Text(_) => "a string",
            Value::List(_) => "a list",
            Value::Table(_) => "a table",
        }
    }

    /// The value as JSON, in the forms that protobuf's JSON mapping has.
    pub fn json(&self) -> serde_json::Value {
        match &self.value {
            Value::Null => serde_json::Value::Null,
            Value::Bool(value) => (*value).into(),
            Value::Number(number) => serde_json::Value::Number(number.clone()),
            Value::Float(value) if value.is_nan() => "NaN".into(),
            Value::Float(value) => if *value > 0.0 { "Infinity" } else { "-Infinity" }.into(),
            Value::Text(text) => text.clone().into(),
            Value::List(items) => items.iter().map(Node::json).collect::<Vec<_>>().into(),
            Value::Table(rows) => {
                rows.iter().map(|(key, node)| (key.name.clone(), node.json())).collect::<serde_json::Map<_, _>>().into()
            }
        }
    }
}

/// The value as JSON, its keys in the order in which they were written.
impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |text: &str| serde_json::Value::String(text.to_owned());
        match &self.value {
            Value::List(items) => {
                for (i, item) in items.iter().enumerate() {
                    write!(f, "{}{item}", if i == 0 { "[" } else { ", " })?;
                }
                f.write_str(if items.is_empty() { "[]" } else { "]" })
            }
            Value::Table(rows) => {
                for (i, (key, node)) in rows.iter().enumerate() {
                    write!(f, "{}{}: {node}", if i == 0 { "{" } else { ", " }, text(&key.name))?;
                }
                f.write_str(if rows.is_empty() { "{}" } else { "}" })
            }
            _ => write!(f, "{}", self.json()),
        }
    }
}

/// Reads a document.
pub fn parse(text: &str, format: Format) -> Result<Node, Fault> {
    match format {
        Format::Toml => {
            let table = DeTable::parse(text).map_err(|error| Fault {
                message: format!("this is not TOML: {}", error.message().trim_end()),
                span: error.span(),
                help: None,
            })?;
            let span = table.span();
            toml_table(span, table.into_inner(), DEPTH)
        }
        Format::Yaml => Builder::new(text).run(text),
    }
}

fn too_deep(span: Range<usize>) -> Fault {
    Fault::at(span, format!("lists and tables lie deeper than {DEPTH} in each other"))
}

fn toml_table(span: Range<usize>, table: DeTable<'_>, depth: usize) -> Result<Node, Fault> {
    let row = |(key, value): (Spanned<std::borrow::Cow<'_, str>>, Spanned<DeValue<'_>>)| {
        let name = Key { span: key.span(), name: key.into_inner().into_owned() };
        toml_value(value, depth).map(|node| (name, node))
    };
    let mut rows = table.into_iter().map(row).collect::<Result<Vec<_>, _>>()?;
    rows.sort_by_key(|(key, _)| key.span.start);
    Ok(Node { span, value: Value::Table(rows) })
}

fn toml_value(value: Spanned<DeValue<'_>>, depth: usize) -> Result<Node, Fault> {
    let span = value.span();
    let Some(depth) = depth.checked_sub(1) else { return Err(too_deep(span)) };
    let value = match value.into_inner() {
        DeValue::String(text) => Value::Text(text.into_owned()),
        DeValue::Integer(number) => {
            let (text, radix) = (number.as_str(), number.radix());
            let read = i64::from_str_radix(text, radix).map(Into::into);
            let read = read.or_else(|_| u64::from_str_radix(text, radix).map(Into::into));
            Value::Number(read.map_err(|_| Fault::at(span.clone(), "the number has more than 64 bits"))?)
        }
        DeValue::Float(number) => float(number.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(value) => Value::Bool(value),
        DeValue::Datetime(time) => Value::Text(time.to_string()),
        DeValue::Array(items) => {
            Value::List(items.into_iter().map(|item| toml_value(item, depth)).collect::<Result<_, _>>()?)
        }
        DeValue::Table(table) => return toml_table(span, table, depth),
    };
    Ok(Node { span, value })
}

fn float(value: f64) -> Value {
    serde_json::Number::from_f64(value).map_or(Value::Float(value), Value::Number)
}

/// A list or table that is not at its end yet.
struct Open {
    start: usize,
    anchor: usize,
    /// Of a table: the key whose value comes next.
    key: Option<Key>,
    value: Value,
}

/// From YAML's events to a tree. No recursion: a document's depth is its writer's choice.
struct Builder {
    /// By character: its byte. YAML's parser counts characters.
    bytes: Vec<usize>,
    open: Vec<Open>,
    anchors: Vec<(usize, Node)>,
    root: Option<Node>,
    nodes: usize,
}

impl Builder {
    fn new(text: &str) -> Builder {
        let bytes = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
        Builder { bytes, open: Vec::new(), anchors: Vec::new(), root: None, nodes: 0 }
    }

    fn byte(&self, character: usize) -> usize {
        self.bytes.get(character).or(self.bytes.last()).copied().unwrap_or(0)
    }

    fn run(mut self, text: &str) -> Result<Node, Fault> {
        for event in Parser::new_from_str(text) {
            let (event, span) = event.map_err(|error| {
                let at = self.byte(error.marker().index());
                Fault::at(at..at, format!("this is not YAML: {}", error.info()))
            })?;
            self.event(event, self.byte(span.start.index())..self.byte(span.end.index()))?;
        }
        Ok(self.root.unwrap_or(Node { span: 0..0, value: Value::Null }))
    }

    fn event(&mut self, event: Event<'_>, span: Range<usize>) -> Result<(), Fault> {
        match event {
            Event::DocumentStart(_) if self.root.is_some() => {
                return Err(Fault::at(span, "there is a second document: one file is one"));
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) | Event::DocumentEnd => {}
            Event::Alias(anchor) => {
                let found = self.anchors.iter().find(|(id, _)| *id == anchor).map(|(_, node)| node.clone());
                let node = found.ok_or_else(|| Fault::at(span.clone(), "the alias stands inside its own anchor"))?;
                let more = count(&node);
                self.put(node, more)?;
            }
            Event::Scalar(text, style, anchor, tag) => {
                let value = scalar(&text, style, tag.as_deref(), &span)?;
                self.finish(Node { span, value }, anchor)?;
            }
            Event::SequenceStart(anchor, _) => self.start(span.start, anchor, Value::List(Vec::new()))?,
            Event::MappingStart(anchor, _) => self.start(span.start, anchor, Value::Table(Vec::new()))?,
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(open) = self.open.pop() else { return Ok(()) };
                self.finish(Node { span: open.start..span.end.max(open.start), value: open.value }, open.anchor)?;
            }
        }
        Ok(())
    }

    fn start(&mut self, start: usize, anchor: usize, value: Value) -> Result<(), Fault> {
        if self.open.len() >= DEPTH {
            return Err(too_deep(start..start));
        }
        self.open.push(Open { start, anchor, key: None, value });
        Ok(())
    }

    fn finish(&mut self, node: Node, anchor: usize) -> Result<(), Fault> {
        if anchor > 0 {
            self.anchors.push((anchor, node.clone()));
        }
        self.put(node, 1)
    }

    fn put(&mut self, node: Node, count: usize) -> Result<(), Fault> {
        self.nodes += count;
        if self.nodes > NODES {
            return Err(Fault::at(node.span, format!("the document has more than {NODES} values")));
        }
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match (&mut open.value, open.key.take()) {
            (Value::List(items), _) => items.push(node),
            (Value::Table(rows), Some(key)) => rows.push((key, node)),
            (Value::Table(rows), None) => {
                let name = match &node.value {
                    Value::Text(text) => text.clone(),
                    Value::Bool(value) => value.to_string(),
                    Value::Number(number) => number.to_string(),
                    _ => return Err(Fault::at(node.span.clone(), format!("{} is no key", node.kind()))),
                };
                if rows.iter().any(|(other, _)| other.name == name) {
                    return Err(Fault::at(node.span, format!("the key `{name}` comes twice")));
                }
                open.key = Some(Key { span: node.span, name });
            }
            _ => {}
        }
        Ok(())
    }
}

fn count(node: &Node) -> usize {
    1 + match &node.value {
        Value::List(items) => items.iter().map(count).sum(),
        Value::Table(rows) => rows.iter().map(|(_, node)| count(node)).sum(),
        _ => 0,
    }
}

/// YAML 1.2, section 10.3: the core schema.
fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>, span: &Range<usize>) -> Result<Value, Fault> {
    match tag {
        Some(tag) if tag.is_yaml_core_schema() && tag.suffix == "str" => return Ok(Value::Text(text.to_owned())),
        Some(tag) if !tag.is_yaml_core_schema() => {
            return Err(Fault::at(span.clone(), format!("the tag `{tag}` means nothing here")));
        }
        _ => {}
    }
    if style != ScalarStyle::Plain {
        return Ok(Value::Text(text.to_owned()));
    }
    let digits = |text: &str, radix| {
        i64::from_str_radix(text, radix)
            .map(serde_json::Number::from)
            .or_else(|_| u64::from_str_radix(text, radix).map(Into::into))
    };
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let is_number = unsigned.starts_with(|c: char| c.is_ascii_digit())
        || (unsigned.starts_with('.') && unsigned.get(1..2).is_some_and(|c| c.bytes().all(|b| b.is_ascii_digit())));
    Ok(match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        ".nan" | ".NaN" | ".NAN" => Value::Float(f64::NAN),
        _ if matches!(unsigned, ".inf" | ".Inf" | ".INF") => {
            Value::Float(if text.starts_with('-') { f64::NEG_INFINITY } else { f64::INFINITY })
        }
        _ => {
            let whole = match (text.strip_prefix("0x"), text.strip_prefix("0o")) {
                (Some(hex), _) => digits(hex, 16),
                (_, Some(octal)) => digits(octal, 8),
                _ => digits(text, 10),
            };
            match (whole, is_number.then(|| text.parse::<f64>())) {
                (Ok(number), _) => Value::Number(number),
                (Err(_), Some(Ok(number))) => float(number),
                _ => Value::Text(text.to_owned()),
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str, format: Format) -> String {
        parse(text, format)
            .map_or_else(|fault| format!("{}: {:?}", fault.message, fault.span), |node| node.json().to_string())
    }

    #[test]
    fn toml_and_yaml_say_the_same() {
        let toml = "a = 1\nb = -0x10\nc = 1.5\nd = [true, \"x\"]\ne = { f = inf, g = nan, h = -inf }\n[i]\nj = 18446744073709551615\n";
        let toml = toml.replace("-0x10", "-16");
        let yaml =
            "a: 1\nb: -16\nc: 1.5\nd: [true, x]\ne: {f: .inf, g: .nan, h: -.inf}\ni:\n  j: 18446744073709551615\n";
        let expected = r#"{"a":1,"b":-16,"c":1.5,"d":[true,"x"],"e":{"f":"Infinity","g":"NaN","h":"-Infinity"},"i":{"j":18446744073709551615}}"#;
        assert_eq!(json(&toml, Format::Toml), expected);
        assert_eq!(json(yaml, Format::Yaml), expected);
        assert_eq!(json(expected, Format::Yaml), expected);
    }

    #[test]
    fn scalars_of_yaml_are_those_of_the_core_schema() {
        let yaml = "[~, null, yes, 'true', \"1\", 0x1F, 0o17, 1e3, 1_000, .5, ., 12:30, !!str 5, -, \"\"]";
        // 1.1's sexagesimals, underscores and yes are texts
        let expected = r#"[null,null,"yes","true","1",31,15,1000.0,"1_000",0.5,".","12:30","5",null,""]"#;
        let got = json(&yaml.replace(", -,", ", ~,"), Format::Yaml);
        assert_eq!(got, expected);
    }

    #[test]
    fn places_are_bytes_also_behind_other_characters() {
        let yaml = "ä: ö\nü: [ß, x]\n";
        let node = parse(yaml, Format::Yaml).unwrap();
        let Value::Table(rows) = &node.value else { panic!("{node:?}") };
        assert_eq!(&yaml[rows[1].0.span.clone()], "ü");
        assert_eq!(&yaml[rows[1].1.span.clone()], "[ß, x]");
        let toml = "ä = 1";
        assert!(json(toml, Format::Toml).starts_with("this is not TOML: "));
    }

    #[test]
    fn anchors_are_followed_and_no_bomb_goes_off() {
        assert_eq!(json("a: &x [1]\nb: *x\n", Format::Yaml), r#"{"a":[1],"b":[1]}"#);
        assert!(json("a: &x [*x]\n", Format::Yaml).starts_with("the alias stands inside its own anchor"));
        let mut bomb = "a0: &a0 [1,1,1,1,1,1,1,1,1,1]\n".to_owned();
        for i in 1..10 {
            let inner = vec![format!("*a{}", i - 1); 10].join(",");
            bomb.push_str(&format!("a{i}: &a{i} [{inner}]\n"));
        }
        assert!(json(&bomb, Format::Yaml).starts_with("the document has more than"));
        let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        let said = json(&deep, Format::Yaml);
        assert!(said.contains("deeper than") || said.contains("not YAML"), "{said}");
    }

    #[test]
    fn what_is_no_document_is_refused_with_its_place() {
        assert_eq!(json("a: 1\na: 2\n", Format::Yaml), "the key `a` comes twice: Some(5..6)");
        assert!(json("a: [1\n", Format::Yaml).starts_with("this is not YAML: "));
        assert!(json("a: 1\n---\nb: 2\n", Format::Yaml).starts_with("there is a second document"));
        assert!(json("a: !thing 1\n", Format::Yaml).starts_with("the tag `!thing` means nothing here"));
        assert!(json("a = 99999999999999999999\n", Format::Toml).contains("64 bits"));
        assert_eq!(json("", Format::Yaml), "null");
    }
}
