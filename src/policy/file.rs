//! Stage 1, text to file: the TOML, its keys and types, and everything that can be checked without a proto.

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};
use toml::Spanned;

use super::err::Fault;
use super::guard::{self, Guard, RawGuard};
use super::limit::{self, Limit, RawLimit};
use super::{Action, Direction, Mode, PortSet, Tls};
use crate::abi;

/// A policy as it was written, checked as far as one file can be.
#[derive(Debug)]
pub struct File {
    pub name: String,
    pub proto: Vec<Spanned<String>>,
    pub include: Option<Vec<Spanned<String>>>,
    pub ports: PortSet,
    pub direction: Direction,
    pub mode: Mode,
    pub default: Action,
    /// By `pg_cause`: the causes that are let pass.
    pub allowed_causes: Vec<u32>,
    pub guard: Option<Guard>,
    pub tls: Option<Tls>,
    /// In file order, of all kinds together; behind them those that `[validate]` becomes.
    pub rules: Vec<Rule>,
    pub validate: Option<Validate>,
}

/// `[validate]`, as it was written.
#[derive(Debug)]
pub struct Validate {
    pub span: Range<usize>,
    pub methods: Vec<Spanned<String>>,
    /// Full names of fields that are left to the application.
    pub skip: Vec<Spanned<String>>,
}

/// A rule as it was written.
#[derive(Debug)]
pub struct Rule {
    pub name: Spanned<String>,
    pub action: Action,
    pub methods: Vec<Spanned<String>>,
    pub when: Option<Spanned<String>>,
    pub status: u32,
    pub message: String,
    pub audit: bool,
    /// Of limits.
    pub limit: Option<Limit>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    name: Spanned<String>,
    #[serde(default)]
    proto: Vec<Spanned<String>>,
    include: Option<Vec<Spanned<String>>>,
    ports: Spanned<Vec<Spanned<RawPort>>>,
    direction: Option<Spanned<String>>,
    mode: Option<Spanned<String>>,
    default: Spanned<String>,
    #[serde(default)]
    uninspectable: RawSwitches,
    guard: Option<RawGuard>,
    tls: Option<RawTls>,
    #[serde(default)]
    deny: Vec<RawRule>,
    #[serde(default)]
    allow: Vec<RawRule>,
    #[serde(default)]
    limit: Vec<RawLimit>,
    validate: Option<Spanned<RawValidate>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawSwitches {
    compressed: Option<Spanned<String>>,
    unknown_method: Option<Spanned<String>>,
    malformed: Option<Spanned<String>>,
    too_large: Option<Spanned<String>>,
    not_http2: Option<Spanned<String>>,
    tls: Option<Spanned<String>>,
    midstream: Option<Spanned<String>>,
    ambiguous: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTls {
    pause: Option<bool>,
    kill: Option<bool>,
    required: Option<bool>,
}

impl From<RawTls> for Tls {
    fn from(raw: RawTls) -> Self {
        let default = Self::default();
        Self {
            pause: raw.pause.unwrap_or(default.pause),
            kill: raw.kill.unwrap_or(default.kill),
            required: raw.required.unwrap_or(default.required),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    name: Spanned<String>,
    methods: Option<Spanned<Vec<Spanned<String>>>>,
    when: Option<Spanned<String>>,
    status: Option<Spanned<String>>,
    message: Option<Spanned<String>>,
    mode: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawValidate {
    methods: Option<Spanned<Vec<Spanned<String>>>>,
    #[serde(default)]
    skip: Vec<Spanned<String>>,
}

pub(super) enum RawPort {
    One(i64),
    Text(String),
}

impl<'de> Deserialize<'de> for RawPort {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<RawPort, D::Error> {
        struct PortVisitor;
        impl Visitor<'_> for PortVisitor {
            type Value = RawPort;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a port like 50051, or a range like \"9000-9010\"")
            }
            fn visit_i64<E: de::Error>(self, value: i64) -> Result<RawPort, E> {
                Ok(RawPort::One(value))
            }
            fn visit_str<E: de::Error>(self, value: &str) -> Result<RawPort, E> {
                Ok(RawPort::Text(value.to_owned()))
            }
        }
        deserializer.deserialize_any(PortVisitor)
    }
}

/// gRPC's status codes by name; the code is the index.
pub const STATUS: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];
const PERMISSION_DENIED: u32 = 7;
const MESSAGE_BYTES: usize = 200;
const NAME_BYTES: usize = 32;
const RULE_NAME_BYTES: usize = 100;

/// Reads a policy's text.
pub fn parse(text: &str) -> Result<File, Vec<Fault>> {
    let raw: RawFile = toml::from_str(text).map_err(|error| {
        let message = error.message().trim_end().to_owned();
        vec![Fault { message, span: error.span(), help: None }]
    })?;
    let mut faults = Vec::new();
    let file = Checker { faults: &mut faults }.file(raw);
    if faults.is_empty() { Ok(file) } else { Err(faults) }
}

struct Checker<'a> {
    faults: &'a mut Vec<Fault>,
}

impl Checker<'_> {
    fn fault(&mut self, span: Range<usize>, message: impl Into<String>, help: &str) {
        let fault = Fault::at(span, message);
        self.faults.push(if help.is_empty() { fault } else { fault.help(help) });
    }

    fn file(&mut self, raw: RawFile) -> File {
        let name = raw.name.get_ref().clone();
        let fits = (1..=NAME_BYTES).contains(&name.len());
        if !fits || !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
            self.fault(
                raw.name.span(),
                format!("`{name}` is not a policy name"),
                "a name has 1 to 32 characters out of a-z, 0-9 and -",
            );
        }
        let actions = [("deny", Action::Deny), ("allow", Action::Allow)];
        let directions = [("ingress", Direction::Ingress), ("egress", Direction::Egress)];
        let modes = [("enforce", Mode::Enforce), ("audit", Mode::Audit)];
        let rules = self.rules(&name, raw.deny, raw.allow, raw.limit);
        if raw.ports.get_ref().is_empty() {
            self.fault(raw.ports.span(), "`ports` is empty", "name the TCP ports with gRPC, like [50051]");
        }
        let ports = self.ports(raw.ports.get_ref());
        let direction = raw.direction.map_or(Direction::Ingress, |it| self.choice(&it, &directions));
        let mode = raw.mode.map_or(Mode::Enforce, |it| self.choice(&it, &modes));
        let guard = raw.guard.map(|raw| {
            let listen = raw.listen().map_or_else(PortSet::default, |listen| self.ports(listen));
            guard::compile(&raw, &guard::Around { ports: &ports, direction, mode, listen }, self.faults)
        });
        File {
            ports,
            direction,
            mode,
            guard,
            tls: raw.tls.map(Tls::from),
            default: self.choice(&raw.default, &actions),
            allowed_causes: self.switches(&raw.uninspectable),
            validate: raw.validate.map(|it| self.validate(it)),
            proto: raw.proto,
            include: raw.include,
            rules,
            name,
        }
    }

    fn choice<T: Copy>(&mut self, text: &Spanned<String>, choices: &[(&str, T); 2]) -> T {
        let [(first, one), (second, other)] = choices;
        if text.get_ref() == second {
            return *other;
        }
        if text.get_ref() != first {
            let message = format!("`{}` is neither \"{first}\" nor \"{second}\"", text.get_ref());
            self.fault(text.span(), message, "");
        }
        *one
    }

    fn switches(&mut self, raw: &RawSwitches) -> Vec<u32> {
        let switches = [
            (abi::PG_CAUSE_COMPRESSED, &raw.compressed),
            (abi::PG_CAUSE_UNKNOWN_METHOD, &raw.unknown_method),
            (abi::PG_CAUSE_MALFORMED, &raw.malformed),
            (abi::PG_CAUSE_TOO_LARGE, &raw.too_large),
            (abi::PG_CAUSE_NOT_HTTP2, &raw.not_http2),
            (abi::PG_CAUSE_TLS, &raw.tls),
            (abi::PG_CAUSE_MIDSTREAM, &raw.midstream),
            (abi::PG_CAUSE_AMBIGUOUS, &raw.ambiguous),
        ];
        let mut allowed = Vec::new();
        for (cause, text) in switches {
            if let Some(text) = text
                && self.choice(text, &[("deny", false), ("allow", true)])
            {
                allowed.push(cause);
            }
        }
        allowed
    }

    fn validate(&mut self, raw: Spanned<RawValidate>) -> Validate {
        let (span, raw) = raw.into_inner_spanned();
        Validate { methods: self.methods(raw.methods, &span), skip: raw.skip, span }
    }

    /// The patterns of a rule that stands at `place`: all methods, if none are named.
    fn methods(&mut self, raw: Option<Spanned<Vec<Spanned<String>>>>, place: &Range<usize>) -> Vec<Spanned<String>> {
        let Some((span, methods)) = raw.map(Spanned::into_inner_spanned) else {
            return vec![Spanned::new(place.clone(), "*".to_owned())];
        };
        if methods.is_empty() {
            self.fault(span, "`methods` is empty: the rule would never apply", "leave it out for all methods");
        }
        methods
    }

    fn ports(&mut self, raw: &[Spanned<RawPort>]) -> PortSet {
        let mut ranges: Vec<(u16, u16)> = Vec::new();
        for port in raw {
            let Some((first, last)) = self.port(port) else { continue };
            if let Some((a, b)) = ranges.iter().find(|(a, b)| first <= *b && *a <= last) {
                let other = if a == b { a.to_string() } else { format!("{a}-{b}") };
                self.fault(port.span(), format!("the ports overlap with `{other}`"), "name every port once");
                continue;
            }
            ranges.push((first, last));
        }
        PortSet::new(ranges)
    }

    fn port(&mut self, raw: &Spanned<RawPort>) -> Option<(u16, u16)> {
        let number = |text: &str| text.parse::<u16>().ok().filter(|port| *port != 0);
        let range = match raw.get_ref() {
            RawPort::One(port) => u16::try_from(*port).ok().filter(|port| *port != 0).map(|port| (port, port)),
            RawPort::Text(text) => match text.split_once('-') {
                Some((first, last)) => number(first.trim()).zip(number(last.trim())),
                None => number(text).map(|port| (port, port)),
            },
        };
        match range {
            Some((first, last)) if first > last => {
                let help = format!("write \"{last}-{first}\"");
                self.fault(raw.span(), format!("the range `{first}-{last}` runs backwards"), &help);
                None
            }
            Some(range) => Some(range),
            None => {
                let help = "a port is 1 to 65535, a range like \"9000-9010\"";
                let text = match raw.get_ref() {
                    RawPort::One(port) => port.to_string(),
                    RawPort::Text(text) => text.clone(),
                };
                self.fault(raw.span(), format!("`{text}` is not a port"), help);
                None
            }
        }
    }

    fn rules(&mut self, policy: &str, deny: Vec<RawRule>, allow: Vec<RawRule>, limits: Vec<RawLimit>) -> Vec<Rule> {
        type Raw = (Action, RawRule, Option<Limit>);
        let mut raw: Vec<Raw> = deny.into_iter().map(|rule| (Action::Deny, rule, None)).collect();
        raw.extend(allow.into_iter().map(|rule| (Action::Allow, rule, None)));
        for limit in limits {
            let tokens = limit.limit().map_err(|faults| self.faults.extend(faults)).ok();
            let RawLimit { name, methods, when, message, mode, .. } = limit;
            raw.push((Action::Limit, RawRule { name, methods, when, status: None, message, mode }, tokens));
        }
        raw.sort_by_key(|(_, rule, _)| rule.name.span().start);
        if let Some((_, rule, _)) = raw.get(abi::PG_MAX_RULES as usize) {
            self.fault(rule.name.span(), format!("there are more than {} rules (limit RULES)", abi::PG_MAX_RULES), "");
        }
        let mut names = HashSet::new();
        let mut rules = Vec::with_capacity(raw.len());
        for (action, raw, limit) in raw {
            if !names.insert(raw.name.get_ref().clone()) {
                let message = format!("there is another rule named `{}`", raw.name.get_ref());
                self.fault(raw.name.span(), message, "events name rules, so each needs its own name");
            }
            rules.push(Rule { limit, ..self.rule(policy, action, raw) });
        }
        rules
    }

    fn rule(&mut self, policy: &str, action: Action, raw: RawRule) -> Rule {
        let name = raw.name.get_ref();
        if name.is_empty() || name.len() > RULE_NAME_BYTES || name.chars().any(char::is_control) {
            let help = "a rule's name has 1 to 100 bytes and no control characters";
            self.fault(raw.name.span(), "this is not a rule name", help);
        }
        if action == Action::Allow {
            for (key, value) in [("status", &raw.status), ("message", &raw.message), ("mode", &raw.mode)] {
                if let Some(value) = value {
                    let help = "an allow rule denies nothing: remove it";
                    self.fault(value.span(), format!("an allow rule has no `{key}`"), help);
                }
            }
        }
        let mut message = format!("denied by policy {policy}: {name}");
        if let Some(text) = &raw.message {
            message.clone_from(text.get_ref());
            if message.is_empty() || message.len() > MESSAGE_BYTES || message.chars().any(char::is_control) {
                let help = "a message has 1 to 200 bytes and no newline or other control character";
                self.fault(text.span(), "this is not a message for callers", help);
            }
        }
        Rule {
            action,
            status: match raw.status {
                Some(text) => self.status(&text),
                None if action == Action::Limit => limit::STATUS,
                None => PERMISSION_DENIED,
            },
            message,
            audit: raw.mode.is_some_and(|text| self.choice(&text, &[("enforce", false), ("audit", true)])),
            methods: self.methods(raw.methods, &raw.name.span()),
            when: raw.when,
            name: raw.name,
            limit: None,
        }
    }

    fn status(&mut self, text: &Spanned<String>) -> u32 {
        match STATUS.iter().position(|name| name == text.get_ref()) {
            Some(0) => {
                self.fault(
                    text.span(),
                    "a denial cannot have the status `OK`",
                    "choose an error, like PERMISSION_DENIED",
                );
                PERMISSION_DENIED
            }
            Some(code) => u32::try_from(code).unwrap_or(PERMISSION_DENIED),
            None => {
                let names = STATUS.iter().skip(1).copied().collect::<Vec<_>>().join(", ");
                let message = format!("`{}` is not a gRPC status", text.get_ref());
                self.fault(text.span(), message, &format!("one of {names}"));
                PERMISSION_DENIED
            }
        }
    }
}

trait IntoInnerSpanned<T> {
    fn into_inner_spanned(self) -> (Range<usize>, T);
}

impl<T> IntoInnerSpanned<T> for Spanned<T> {
    fn into_inner_spanned(self) -> (Range<usize>, T) {
        (self.span(), self.into_inner())
    }
}
