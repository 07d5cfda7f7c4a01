//! Policies as lists of rules: their TOML, and what the policy language says that they mean.

use prost_reflect::{DescriptorPool, MessageDescriptor};

use crate::condition::Cond;
use crate::hpack::Field;
use crate::message::{Bad, Node, decode, get};

/// A condition on metadata. Keys may be absent, and may have many values.
#[derive(Debug, Clone)]
pub enum Meta {
    Is(&'static str, &'static [&'static str]),
    Starts(&'static str, &'static str),
    Contains(&'static str, &'static str),
    Present(&'static str),
    Not(Box<Meta>),
    And(Box<Meta>, Box<Meta>),
    Or(Box<Meta>, Box<Meta>),
}

impl Meta {
    pub fn show(&self) -> String {
        match self {
            Meta::Is(key, [one]) => format!("metadata[{key:?}] == {one:?}"),
            Meta::Is(key, many) => format!("metadata[{key:?}] in {many:?}"),
            Meta::Starts(key, text) => format!("metadata[{key:?}].startsWith({text:?})"),
            Meta::Contains(key, text) => format!("metadata[{key:?}].contains({text:?})"),
            Meta::Present(key) => format!("{key:?} in metadata"),
            Meta::Not(a) => format!("!({})", a.show()),
            Meta::And(a, b) => format!("({}) && ({})", a.show(), b.show()),
            Meta::Or(a, b) => format!("({}) || ({})", a.show(), b.show()),
        }
    }

    pub fn keys(&self, out: &mut Vec<&'static str>) {
        match self {
            Meta::Is(key, _) | Meta::Starts(key, _) | Meta::Contains(key, _) | Meta::Present(key) => out.push(key),
            Meta::Not(a) => a.keys(out),
            Meta::And(a, b) | Meta::Or(a, b) => {
                a.keys(out);
                b.keys(out);
            }
        }
    }

    /// Negations go to the leaves. In deny rules a leaf holds if some value satisfies it, and an absent key satisfies what is negated;
    /// in allow rules only if the key is there and every value does.
    fn holds(&self, fields: &[Field], deny: bool, negated: bool) -> bool {
        let leaf = |key: &str, test: &dyn Fn(&[u8]) -> bool| {
            let mut values = fields.iter().filter(|(name, _)| name == key.as_bytes()).map(|(_, v)| test(v) != negated);
            if !fields.iter().any(|(name, _)| name == key.as_bytes()) {
                return deny && negated;
            }
            if deny { values.any(|holds| holds) } else { values.all(|holds| holds) }
        };
        match self {
            Meta::Is(key, texts) => leaf(key, &|value| texts.iter().any(|text| text.as_bytes() == value)),
            Meta::Starts(key, text) => leaf(key, &|value| value.starts_with(text.as_bytes())),
            Meta::Contains(key, text) => leaf(key, &|value| value.windows(text.len()).any(|w| w == text.as_bytes())),
            Meta::Present(key) => fields.iter().any(|(name, _)| name == key.as_bytes()) != negated,
            Meta::Not(a) => a.holds(fields, deny, !negated),
            Meta::And(a, b) if negated => a.holds(fields, deny, negated) || b.holds(fields, deny, negated),
            Meta::Or(a, b) if negated => a.holds(fields, deny, negated) && b.holds(fields, deny, negated),
            Meta::And(a, b) => a.holds(fields, deny, negated) && b.holds(fields, deny, negated),
            Meta::Or(a, b) => a.holds(fields, deny, negated) || b.holds(fields, deny, negated),
        }
    }
}

#[derive(Debug, Clone)]
pub enum When {
    Always,
    Meta(Meta),
    Message(Cond),
    Both(Meta, Cond),
    Either(Meta, Cond),
}

#[derive(Debug, Clone)]
pub struct Rule {
    pub deny: bool,
    pub audit: bool,
    pub status: (u32, &'static str),
    /// Exact, or prefixes that end in `*`; none: all.
    pub methods: &'static [&'static str],
    pub when: When,
}

impl Rule {
    fn covers(&self, path: &str) -> bool {
        self.methods.is_empty()
            || self.methods.iter().any(|method| match method.strip_suffix('*') {
                Some(prefix) => path.starts_with(prefix),
                None => *method == path,
            })
    }

    fn reads_messages(&self) -> bool {
        !matches!(self.when, When::Always | When::Meta(_))
    }

    fn show(&self, number: usize) -> String {
        let when = match &self.when {
            When::Always => String::new(),
            When::Meta(meta) => format!("when = '''{}'''\n", meta.show()),
            When::Message(cond) => format!("when = '''{}'''\n", cond.show()),
            When::Both(meta, cond) => format!("when = '''({}) && ({})'''\n", meta.show(), cond.show()),
            When::Either(meta, cond) => format!("when = '''({}) || ({})'''\n", meta.show(), cond.show()),
        };
        let methods = if self.methods.is_empty() { String::new() } else { format!("methods = {:?}\n", self.methods) };
        let status = if self.deny { format!("status = {:?}\n", self.status.1) } else { String::new() };
        let mode = if self.audit { "mode = \"audit\"\n" } else { "" };
        format!("[[{}]]\nname = \"r{number}\"\n{methods}{status}{mode}{when}", if self.deny { "deny" } else { "allow" })
    }
}

/// What a policy makes of a call or a message.
#[derive(Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Audit rules that deny, in order, up to what decided.
    pub audited: Vec<usize>,
    pub verdict: Option<Decided>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decided {
    Deny(usize),
    Allow,
}

pub struct Policy {
    pub name: &'static str,
    pub rules: Vec<Rule>,
    pub default_deny: bool,
    pub audit: bool,
    /// Causes that are let pass.
    pub allowed: &'static [&'static str],
    pub protos: DescriptorPool,
}

impl Policy {
    /// In TOML. Messages are read as protobuf is defined: so does the reference.
    pub fn toml(&self) -> String {
        let switches: String = self.allowed.iter().map(|cause| format!("{cause} = \"allow\"\n")).collect();
        let rules: String = self.rules.iter().enumerate().map(|(i, rule)| rule.show(i)).collect();
        format!(
            "name = \"{}\"\nproto = [\"echo.proto\", \"search.proto\", \"login.proto\"]\nports = [50051]\ndefault = \"{}\"\nmode = \"{}\"\n[uninspectable]\nambiguous = \"allow\"\n{switches}{rules}",
            self.name,
            if self.default_deny { "deny" } else { "allow" },
            if self.audit { "audit" } else { "enforce" },
        )
    }

    /// The request message of a method that the protos describe.
    pub fn request_of(&self, path: &str) -> Option<MessageDescriptor> {
        let (service, method) = path.strip_prefix('/')?.split_once('/')?;
        let service = self.protos.get_service_by_name(service)?;
        service.methods().find(|it| it.name() == method).map(|it| it.input())
    }

    fn rules<'p>(&'p self, path: &'p str, messages: bool) -> impl Iterator<Item = (usize, &'p Rule)> {
        self.rules.iter().enumerate().filter(move |(_, rule)| rule.reads_messages() == messages && rule.covers(path))
    }

    /// Is there a rule on this method's messages; and one that allows?
    pub fn on_messages(&self, path: &str) -> (bool, bool) {
        (self.rules(path, true).next().is_some(), self.rules(path, true).any(|(_, rule)| !rule.deny))
    }

    /// Keys that rules read.
    pub fn keys(&self) -> Vec<&'static str> {
        let mut keys = Vec::new();
        for rule in &self.rules {
            if let When::Meta(meta) | When::Both(meta, _) | When::Either(meta, _) = &rule.when {
                meta.keys(&mut keys);
            }
        }
        keys
    }

    /// Fields that rules on this method's messages read.
    pub fn paths(&self, path: &str) -> Vec<&'static str> {
        let mut paths = Vec::new();
        for (_, rule) in self.rules(path, true) {
            if let When::Message(cond) | When::Both(_, cond) | When::Either(_, cond) = &rule.when {
                cond.paths(&mut paths);
            }
        }
        paths
    }

    fn judge(&self, path: &str, messages: bool, holds: &dyn Fn(&Rule) -> bool) -> Judgement {
        let mut audited = Vec::new();
        for deny in [true, false] {
            for (i, rule) in self.rules(path, messages).filter(|(_, rule)| rule.deny == deny && holds(rule)) {
                if !rule.audit {
                    let verdict = Some(if deny { Decided::Deny(i) } else { Decided::Allow });
                    return Judgement { audited, verdict };
                }
                if deny {
                    audited.push(i);
                }
            }
        }
        Judgement { audited, verdict: None }
    }

    /// By the rules that need no message.
    pub fn judge_headers(&self, path: &str, fields: &[Field]) -> Judgement {
        self.judge(path, false, &|rule| match &rule.when {
            When::Meta(meta) => meta.holds(fields, rule.deny, false),
            _ => true,
        })
    }

    /// By the rules that need the message.
    pub fn judge_message(&self, path: &str, fields: &[Field], message: &[u8]) -> Result<Judgement, Bad> {
        let descriptor = self.request_of(path).unwrap();
        let mut node = Node::default();
        decode(&descriptor, message, message.len(), &self.paths(path), &mut node)?;
        let value = |path: &str| get(&descriptor, Some(&node), path);
        Ok(self.judge(path, true, &|rule| match &rule.when {
            When::Message(cond) => cond.holds(&value),
            When::Both(meta, cond) => meta.holds(fields, rule.deny, false) && cond.holds(&value),
            When::Either(meta, cond) => meta.holds(fields, rule.deny, false) || cond.holds(&value),
            _ => true,
        }))
    }
}
