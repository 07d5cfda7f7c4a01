//! Files of cases: what their keys may say, and what is wrong with the ones that do not.

use std::collections::HashSet;
use std::io::Read as _;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::path::Path;

use super::doc::{self, Format, Key, Node, Value};
use super::{Call, Case, Message, message, near};
use crate::policy::{Errors, Fault, Source, Study};

/// The longest file of cases that is read.
pub const BYTES: u64 = 4 << 20;
/// Where a call comes from that does not say it.
const PEER: (IpAddr, u16) = (IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 50000);

const CALL: [&str; 12] = [
    "method",
    "metadata",
    "peer",
    "message",
    "messages",
    "raw",
    "compressed",
    "response",
    "before",
    "calls",
    "every",
    "wait",
];
const EXPECTED: [&str; 7] = ["verdict", "rule", "cause", "status", "status_message", "at", "audited"];

/// The cases of a file.
#[derive(Debug)]
pub struct Cases {
    /// In file order.
    pub cases: Vec<Case>,
    /// What is allowed, and probably not meant.
    pub warnings: Vec<String>,
}

/// Reads a file; `-` is standard input.
pub fn text(path: &Path) -> Result<(String, Format), Errors> {
    let refuse = |message: String| Errors::new(&Source::new(path, ""), vec![Fault::whole(message)]);
    let stdin = path.as_os_str() == "-";
    let mut bytes = Vec::new();
    let read = if stdin {
        std::io::stdin().take(BYTES + 1).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(BYTES + 1).read_to_end(&mut bytes))
    };
    read.map_err(|error| refuse(format!("cannot read it: {error}")))?;
    if bytes.len() as u64 > BYTES {
        return Err(refuse(format!("it is longer than {BYTES} bytes")));
    }
    let text = String::from_utf8(bytes)
        .map_err(|error| refuse(format!("it is not UTF-8, from byte {} on", error.utf8_error().valid_up_to())))?;
    let format = match path.extension().and_then(|end| end.to_str()) {
        Some("toml") => Format::Toml,
        Some("yaml" | "yml" | "json") => Format::Yaml,
        _ if stdin && text.trim_start().starts_with('{') => Format::Yaml,
        _ if stdin => Format::Toml,
        _ => {
            return Err(refuse("its name does not tell what it is: it ends in .toml, .yaml, .yml or .json".to_owned()));
        }
    };
    Ok((text, format))
}

/// Reads the cases of a file.
pub fn cases(text: &str, format: Format, origin: &Path, study: &Study) -> Result<Cases, Errors> {
    let mut reader = Reader { text, study, faults: Vec::new(), warnings: Vec::new() };
    let cases = reader.file(format);
    reader.end(origin, cases).map(|(cases, warnings)| Cases { cases, warnings })
}

/// Reads one call: that of the file, or of its case `name`.
pub fn call(
    text: &str,
    format: Format,
    origin: &Path,
    study: &Study,
    name: Option<&str>,
) -> Result<(Call, Vec<String>), Errors> {
    let mut reader = Reader { text, study, faults: Vec::new(), warnings: Vec::new() };
    let call = reader.only(format, name);
    reader.end(origin, call)
}

/// Reads a call that was said on the command line.
pub fn said(
    method: &str,
    metadata: &[(String, String)],
    peer: Option<&str>,
    messages: &[String],
    study: &Study,
) -> Result<(Call, Vec<String>), Errors> {
    let at = |value| Node { span: 0..0, value };
    let mut rows = vec![("method", Value::Text(method.to_owned()))];
    rows.extend(peer.map(|peer| ("peer", Value::Text(peer.to_owned()))));
    if !messages.is_empty() {
        rows.push(("messages", Value::List(messages.iter().map(|text| at(Value::Text(text.clone()))).collect())));
    }
    let key = |name: &str| Key { span: 0..0, name: name.to_owned() };
    let node = at(Value::Table(rows.into_iter().map(|(name, value)| (key(name), at(value))).collect()));
    let mut reader = Reader { text: "", study, faults: Vec::new(), warnings: Vec::new() };
    let call = reader.table(&node, &CALL, "a call").and_then(|table| reader.call(&table, &node.span, None));
    let call = call.map(|call| Call { metadata: metadata.to_vec(), ..call });
    // there is no text to point at
    reader.faults.iter_mut().for_each(|fault| fault.span = None);
    reader.end(Path::new("the call"), call)
}

pub(super) struct Reader<'a> {
    text: &'a str,
    pub(super) study: &'a Study,
    faults: Vec<Fault>,
    warnings: Vec<String>,
}

/// A table whose keys are known.
pub(super) struct Table<'n>(Vec<(&'n Key, &'n Node)>);

impl<'n> Table<'n> {
    pub(super) fn get(&self, name: &str) -> Option<&'n Node> {
        self.0.iter().find(|(key, _)| key.name == name).map(|(_, node)| *node)
    }
}

impl Reader<'_> {
    fn end<T>(self, origin: &Path, read: Option<T>) -> Result<(T, Vec<String>), Errors> {
        match read {
            Some(read) if self.faults.is_empty() => Ok((read, self.warnings)),
            _ => Err(Errors::new(&Source::new(origin, self.text), self.faults)),
        }
    }

    fn fault(&mut self, fault: Fault) {
        self.faults.push(fault);
    }

    pub(super) fn wrong<T>(&mut self, node: &Node, what: &str, help: impl Into<String>) -> Option<T> {
        let help = help.into();
        let fault = Fault::at(node.span.clone(), what);
        self.fault(if help.is_empty() { fault } else { fault.help(help) });
        None
    }

    /// A table with no keys but these.
    pub(super) fn table<'n>(&mut self, node: &'n Node, keys: &[&str], what: &str) -> Option<Table<'n>> {
        let Value::Table(rows) = &node.value else {
            return self.wrong(node, &format!("{what} is a table, not {}", node.kind()), "");
        };
        for (key, _) in rows {
            if !keys.contains(&key.name.as_str()) {
                let fault = Fault::at(key.span.clone(), format!("{what} has no key `{}`", key.name));
                self.fault(fault.help(near::help(&key.name, keys)));
            }
        }
        Some(Table(rows.iter().map(|(key, node)| (key, node)).collect()))
    }

    pub(super) fn string<'n>(&mut self, node: &'n Node, what: &str) -> Option<&'n str> {
        match &node.value {
            Value::Text(text) => Some(text),
            _ => self.wrong(node, &format!("{what} is a string, not {}", node.kind()), ""),
        }
    }

    fn document(&mut self, format: Format) -> Option<Node> {
        doc::parse(self.text, format).map_err(|fault| self.fault(fault)).ok()
    }

    /// The tables under `case`, if the document has that key.
    fn listed<'n>(&mut self, root: &'n Node) -> Option<&'n [Node]> {
        let table = self.table(root, &["case"], "a file of cases")?;
        let Some(list) = table.get("case") else {
            return self.wrong(
                root,
                "there is no case",
                "a case begins with `[[case]]` in TOML, and is an item of `case:` in YAML",
            );
        };
        match &list.value {
            Value::List(items) if !items.is_empty() => Some(items),
            _ => self.wrong(
                list,
                "`case` is a list of cases",
                "a case begins with `[[case]]` in TOML, and is an item of `case:` in YAML",
            ),
        }
    }

    fn file(&mut self, format: Format) -> Option<Vec<Case>> {
        let root = self.document(format)?;
        let mut names = HashSet::new();
        let mut cases = Vec::new();
        for node in self.listed(&root)? {
            let Some(case) = self.case(node) else { continue };
            if !names.insert(case.name.clone()) {
                self.wrong::<()>(
                    node,
                    &format!("there is another case named `{}`", case.name),
                    "reports name cases, so each needs its own name",
                );
            }
            cases.push(case);
        }
        Some(cases)
    }

    fn only(&mut self, format: Format, name: Option<&str>) -> Option<Call> {
        let root = self.document(format)?;
        let has_cases = matches!(&root.value, Value::Table(rows) if rows.iter().any(|(key, _)| key.name == "case"));
        if !has_cases {
            let keys: Vec<&str> = ["name"].into_iter().chain(CALL).chain(EXPECTED).collect();
            let table = self.table(&root, &keys, "a call")?;
            return self.call(&table, &root.span, None);
        }
        let cases = self.listed(&root)?;
        let named = |node: &Node| match &node.value {
            Value::Table(rows) => rows.iter().find_map(|(key, node)| match &node.value {
                Value::Text(text) if key.name == "name" => Some(text.clone()),
                _ => None,
            }),
            _ => None,
        };
        let all: Vec<String> = cases.iter().filter_map(named).collect();
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        let found = match (name, cases) {
            (None, [only]) => Some(only),
            (Some(name), cases) => cases.iter().find(|node| named(node).as_deref() == Some(name)),
            _ => None,
        };
        let Some(node) = found else {
            let what = name.map_or_else(
                || "there are several cases".to_owned(),
                |name| format!("there is no case named `{name}`"),
            );
            let help = name.map_or_else(|| "choose one with --case NAME".to_owned(), |name| near::help(name, &all));
            self.fault(Fault::whole(what).help(help));
            return None;
        };
        self.case(node).map(|case| case.call)
    }

    fn case(&mut self, node: &Node) -> Option<Case> {
        let keys: Vec<&str> = ["name"].into_iter().chain(CALL).chain(EXPECTED).collect();
        let table = self.table(node, &keys, "a case")?;
        let name = self.need(&table, node, "a case", "name")?;
        let text = self.string(name, "`name`").map(str::to_owned);
        if text.as_ref().is_some_and(|text| text.trim().is_empty() || text.chars().any(char::is_control)) {
            self.wrong::<()>(name, "this is not a name", "a name is a text of one line");
        }
        let call = self.call(&table, &node.span, None);
        let expected = self.expected(&table, node);
        let line = self.text.get(..name.span.start).unwrap_or_default().matches('\n').count() + 1;
        Some(Case { name: text?, line, call: call?, expected: expected? })
    }

    pub(super) fn need<'n>(&mut self, table: &Table<'n>, node: &Node, what: &str, key: &str) -> Option<&'n Node> {
        let found = table.get(key);
        if found.is_none() {
            // one line is enough to point at
            let end = self.text.get(node.span.clone()).and_then(|text| text.find('\n')).unwrap_or(node.span.len());
            let span = node.span.start..node.span.start + end;
            self.fault(Fault::at(span, format!("{what} needs the key `{key}`")));
        }
        found
    }

    /// A call; `method` is the node of its method if it says none.
    pub(super) fn call(&mut self, table: &Table<'_>, span: &Range<usize>, method: Option<&Node>) -> Option<Call> {
        let place = Node { span: span.clone(), value: Value::Null };
        let method = match table.get("method").or(method) {
            Some(method) => method,
            None => self.need(table, &place, "a call", "method")?,
        };
        let path = self.string(method, "`method`")?.to_owned();
        let metadata = table.get("metadata").map_or_else(|| Some(Vec::new()), |node| self.metadata(node));
        let peer = table.get("peer").map_or(Some(PEER), |node| self.peer(node));
        let compressed = match table.get("compressed").map(|node| (node, &node.value)) {
            None => false,
            Some((_, Value::Bool(value))) => *value,
            Some((node, _)) => self.wrong(node, "`compressed` is true or false", "")?,
        };
        let messages = self.messages(table, method, &path);
        let response = self.response(table, method, &path);
        let (repeated, before) = (self.repeated(table), self.before(table));
        let (ip, port) = peer?;
        let ip = match ip {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        let (metadata, messages, peer) = (metadata?, messages?, (ip, port));
        let (before, repeated, response) = (before?, repeated?, response?);
        Some(Call { method: path, metadata, peer, messages, compressed, response, before, repeated })
    }

    fn metadata(&mut self, node: &Node) -> Option<Vec<(String, String)>> {
        let Value::Table(rows) = &node.value else {
            return self.wrong(node, "`metadata` is a table of keys and values", "");
        };
        let mut out = Vec::new();
        for (key, value) in rows {
            if key.name.starts_with(':') {
                let fault = Fault::at(key.span.clone(), format!("`{}` is not metadata", key.name));
                self.fault(fault.help("the path is `method`; the rest of the request line is always the same"));
                continue;
            }
            let values = match &value.value {
                Value::List(items) => items.as_slice(),
                _ => std::slice::from_ref(value),
            };
            for value in values {
                let help = "several values of a key are a list";
                match &value.value {
                    Value::Text(text) => out.push((key.name.clone(), text.clone())),
                    _ => self.wrong(value, &format!("a metadata value is a string, not {}", value.kind()), help)?,
                }
            }
        }
        Some(out)
    }

    fn peer(&mut self, node: &Node) -> Option<(IpAddr, u16)> {
        let text = self.string(node, "`peer`")?;
        let whole = text.parse::<SocketAddr>().map(|peer| (peer.ip(), peer.port()));
        match whole.or_else(|_| text.parse::<IpAddr>().map(|ip| (ip, PEER.1))) {
            Ok((ip, port)) => Some((ip.to_canonical(), port)),
            Err(_) => self.wrong(
                node,
                &format!("`{text}` is not an address"),
                "write \"10.0.0.1\", \"10.0.0.1:50000\", \"::1\" or \"[::1]:50000\"",
            ),
        }
    }

    /// The messages: those given; else one that is empty, which is what a unary call has at least.
    fn messages(&mut self, table: &Table<'_>, method: &Node, path: &str) -> Option<Vec<Message>> {
        let given: Vec<(&str, &Node)> =
            ["message", "messages", "raw"].into_iter().filter_map(|key| Some((key, table.get(key)?))).collect();
        if let [_, (key, node), ..] = given.as_slice() {
            return self.wrong(
                node,
                &format!("there are messages already: `{key}` comes on top"),
                "use one of `message`, `messages` and `raw`",
            );
        }
        let described = self.study.method(path).map(prost_reflect::MethodDescriptor::input);
        let near = || near::nearest(path, self.study.paths()).map(|path| format!("did you mean `{path}`?"));
        let Some((key, node)) = given.first().copied() else {
            if let (None, Some(near)) = (&described, near()) {
                self.warnings.push(format!("no proto of the policy describes `{path}`; {near}"));
            }
            return Some(vec![Message { bytes: Vec::new(), text: "{}".to_owned() }]);
        };
        let nodes = match (&node.value, key) {
            (Value::List(items), "messages" | "raw") => items.as_slice(),
            (_, "messages") => return self.wrong(node, "`messages` is a list of messages", "one message is `message`"),
            _ => std::slice::from_ref(node),
        };
        if key == "raw" {
            return self.each(nodes, message::raw);
        }
        let Some(described) = described else {
            if nodes.is_empty() {
                return Some(Vec::new());
            }
            let help =
                near().unwrap_or_else(|| "add its file to the policy's `proto`, or give the bytes: `raw`".to_owned());
            return self.wrong(
                method,
                &format!("no proto of the policy describes `{path}`, and the call has a message"),
                help,
            );
        };
        self.each(nodes, |node| message::encode(node, &described))
    }

    /// The response: a message, or a list of them; none if nothing is said of it.
    fn response(&mut self, table: &Table<'_>, method: &Node, path: &str) -> Option<Vec<Message>> {
        let Some(node) = table.get("response") else { return Some(Vec::new()) };
        let Some(described) = self.study.method(path).map(prost_reflect::MethodDescriptor::output) else {
            let help = "add its file to the policy's `proto`";
            return self.wrong(
                method,
                &format!("no proto of the policy describes `{path}`, and the call has a response"),
                help,
            );
        };
        let nodes = match &node.value {
            Value::List(items) => items.as_slice(),
            _ => std::slice::from_ref(node),
        };
        self.each(nodes, |node| message::encode(node, &described))
    }

    fn each(&mut self, nodes: &[Node], read: impl Fn(&Node) -> Result<Message, Fault>) -> Option<Vec<Message>> {
        let (mut out, before) = (Vec::new(), self.faults.len());
        for node in nodes {
            match read(node) {
                Ok(message) => out.push(message),
                Err(fault) => self.fault(fault),
            }
        }
        (self.faults.len() == before).then_some(out)
    }
}

/// The address as people write it.
pub fn address(peer: (Ipv6Addr, u16)) -> SocketAddr {
    SocketAddr::new(IpAddr::V6(peer.0).to_canonical(), peer.1)
}
