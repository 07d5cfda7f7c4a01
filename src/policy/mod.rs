//! The policy compiler: TOML and protos in, the kernel's tables out.
//!
//! A pipeline, a file each: `file` (text; `guard` is a section of it), `resolve` and `editions` (protos, methods, addresses), `condition` (CEL), `cel`,
//! `operand`, `field`, `elements` and `wellknown` (typed formulas), `decide` (clauses over bits; `show` writes them), then the
//! tables: `automata`, `trie`, `scope` (bits and rows), `needs`, `plan`, `program` and `shape` (fields and elements of a request,
//! and what no rule reads of it), `header` (metadata and peer), `methods`, `tables`. Nothing here knows the kernel.

mod automata;
mod cel;
mod condition;
mod decide;
mod editions;
mod elements;
mod err;
mod field;
mod file;
mod guard;
mod header;
mod limit;
mod methods;
mod needs;
mod operand;
mod plan;
mod predicate;
mod program;
mod re2;
mod resolve;
mod rule;
mod scope;
mod shape;
mod show;
mod tables;
pub mod trace;
mod trie;
mod validate;
mod wellknown;

use std::io::Read;
use std::path::Path;

use crate::abi;
pub(crate) use err::Source;
pub use err::{Errors, Fault, Problem, Warning};
pub use file::STATUS;
pub use guard::{Guard, Switch};
pub use tables::Tables;
pub use trace::Study;

/// The longest policy that is read.
const POLICY_BYTES: u64 = 4 << 20;

/// Whose calls are decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Calls that servers in the cgroup receive.
    Ingress,
    /// Calls that clients in the cgroup make.
    Egress,
}

/// What a denial does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It denies.
    Enforce,
    /// It is an event only.
    Audit,
}

/// What a rule, or the default, does with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Deny it.
    Deny,
    /// Let it pass.
    Allow,
    /// Let it pass while there are tokens.
    Limit,
}

/// TCP ports, as ranges that ascend.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PortSet(Vec<(u16, u16)>);

impl PortSet {
    /// Ports from inclusive ranges that do not overlap.
    pub(crate) fn new(mut ranges: Vec<(u16, u16)>) -> PortSet {
        ranges.sort_unstable();
        PortSet(ranges)
    }

    /// Whether a port is in it.
    pub fn contains(&self, port: u16) -> bool {
        self.0.iter().any(|(first, last)| (*first..=*last).contains(&port))
    }

    /// The inclusive ranges, ascending.
    pub fn ranges(&self) -> Vec<(u16, u16)> {
        self.0.clone()
    }
}

/// The `[tls]` section: hooks in TLS libraries judge what is encrypted. What is done to a call with denied plaintext is the
/// best that the kernel offers; these say how far that may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tls {
    /// The process may be stopped for the moment that the agent takes to make the call fail.
    pub pause: bool,
    /// The process may be killed.
    pub kill: bool,
    /// Where none of that can be done protocg does not start; else it starts, and TLS on policy ports is refused.
    pub required: bool,
}

impl Default for Tls {
    fn default() -> Self {
        Self { pause: true, kill: false, required: false }
    }
}

/// A compiled policy.
#[derive(Debug, Clone)]
pub struct Policy {
    /// The label in events and metrics.
    pub name: String,
    /// Whose calls are decided.
    pub direction: Direction,
    /// What a denial does.
    pub mode: Mode,
    /// What a call gets that no rule decides.
    pub default: Action,
    /// The ports that are looked at.
    pub ports: PortSet,
    /// In file order; `pg_test.rule` is the index.
    pub rules: Vec<RuleInfo>,
    /// Parallel to `tables.methods`.
    pub methods: Vec<MethodInfo>,
    /// What is done about ways around the enforcer; nothing without a `[guard]` section.
    pub guard: Option<Guard>,
    /// How TLS is read; nothing without a `[tls]` section.
    pub tls: Option<Tls>,
    /// What the kernel reads.
    pub tables: Tables,
    /// What is allowed, and probably not meant.
    pub warnings: Vec<Warning>,
    /// What the policy costs.
    pub costs: Costs,
}

/// A rule as it was compiled.
#[derive(Debug, Clone)]
pub struct RuleInfo {
    /// Its name in events.
    pub name: String,
    /// What it does.
    pub action: Action,
    /// The gRPC status of a denial.
    pub status: u32,
    /// The grpc-message of a denial.
    pub message: String,
    /// It denies nothing, and makes its events.
    pub audit: bool,
    /// Of a limit: its rate, in words.
    pub rate: Option<String>,
    /// The patterns that it names.
    pub methods: Vec<String>,
    /// Its condition as it was written.
    pub when: Option<String>,
    /// Its condition as the kernel evaluates it: one clause a line.
    pub compiled: String,
    /// What it costs.
    pub cost: RuleCost,
}

/// What one rule costs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RuleCost {
    /// Whether it is decided on each message, not on the header block.
    pub per_message: bool,
    /// Whether these are the response's.
    pub on_response: bool,
    /// Predicate results that it looks at.
    pub predicates: usize,
    /// Conjunctions in its normal form.
    pub clauses: usize,
    /// States of the automata over the texts that it reads (other rules on the same texts share them).
    pub states: usize,
    /// Bytes of those automata's transitions.
    pub automaton_bytes: usize,
}

/// What the policy costs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Costs {
    /// Predicates on metadata and the peer.
    pub header_predicates: usize,
    /// The most predicates on one method's request.
    pub message_predicates: usize,
    /// The most tests at the end of one repeated field's elements.
    pub element_tests: u32,
    /// Automata, and their states.
    pub automata: usize,
    /// States of all automata.
    pub states: usize,
    /// Bytes of the transitions and classes of all automata.
    pub automaton_bytes: usize,
    /// Bytes of all tables.
    pub table_bytes: usize,
}

/// What an entry of the method table stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MethodInfo {
    /// `/package.Service/Method`, a prefix like `/package.*`, or nothing for entry 0: all other paths.
    pub path: Option<String>,
    /// Whether it is one method.
    pub exact: bool,
    /// Whether it is the second entry of a method, for its responses.
    pub response: bool,
}

/// Reads and compiles a policy.
pub fn load(path: &Path) -> Result<Policy, Errors> {
    study(path).map(|study| study.policy)
}

/// Reads and compiles a policy, and keeps what explains its verdicts.
pub fn study(path: &Path) -> Result<Study, Errors> {
    let refuse = |message: String| Errors::new(&err::Source::new(path, ""), vec![Fault::whole(message)]);
    let unreadable = |error: std::io::Error| refuse(format!("cannot read the policy: {error}"));
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(refuse("the policy is not a file".to_owned()));
    }
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(POLICY_BYTES + 1).read_to_end(&mut bytes))
        .map_err(unreadable)?;
    if bytes.len() as u64 > POLICY_BYTES {
        return Err(refuse(format!("the policy is longer than {POLICY_BYTES} bytes")));
    }
    match String::from_utf8(bytes) {
        Ok(text) => study_text(&text, path),
        Err(error) => {
            Err(refuse(format!("the policy is not UTF-8, from byte {} on", error.utf8_error().valid_up_to())))
        }
    }
}

/// Compiles a policy's text; proto paths are relative to the folder of `origin`.
pub fn compile(text: &str, origin: &Path) -> Result<Policy, Errors> {
    study_text(text, origin).map(|study| study.policy)
}

/// Checks a policy's text as far as it can be checked alone: its keys, and their values.
pub fn check_text(text: &str, origin: &Path) -> Result<(), Errors> {
    file::parse(text).map(|_| ()).map_err(|faults| Errors::new(&err::Source::new(origin, text), faults))
}

/// Compiles a policy's text as [`study`] does.
pub fn study_text(text: &str, origin: &Path) -> Result<Study, Errors> {
    let source = err::Source::new(origin, text);
    let refuse = |faults: Vec<Fault>| Errors::new(&source, faults);
    if text.len() as u64 > POLICY_BYTES {
        return Err(refuse(vec![Fault::whole(format!("the policy is longer than {POLICY_BYTES} bytes"))]));
    }
    let mut file = file::parse(text).map_err(refuse)?;
    let base = match origin.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let protos = resolve::protos(&file, base).map_err(refuse)?;
    let mut warnings = Vec::new();
    let mut rules = rule::all(&file, text, &protos, &mut warnings).map_err(refuse)?;
    for (raw, rule) in validate::rules(&file, &protos).map_err(refuse)? {
        file.rules.push(raw);
        rules.push(rule);
    }
    let built = methods::build(&file, &rules, &protos, &mut warnings)
        .map_err(|refusal| refuse(vec![rule::blame(&rules, refusal)]))?;
    let infos = file.rules.iter().zip(&rules).map(|(raw, rule)| RuleInfo {
        name: raw.name.get_ref().clone(),
        action: raw.action,
        status: raw.status,
        message: raw.message.clone(),
        audit: raw.audit,
        rate: raw.limit.as_ref().map(ToString::to_string),
        methods: raw.methods.iter().map(|pattern| pattern.get_ref().clone()).collect(),
        when: raw.when.as_ref().map(|when| when.get_ref().clone()),
        compiled: rule.shown(),
        cost: rule.cost(&built.sizes),
    });
    let tables = built.tables;
    let costs = Costs {
        header_predicates: built.header_predicates,
        message_predicates: built.message_predicates,
        element_tests: tables.fields.iter().map(|field| field.tests).max().unwrap_or(0),
        automata: tables.automata.len(),
        states: tables.automata.iter().map(|automaton| automaton.states as usize).sum(),
        automaton_bytes: tables.trans.len() * 4 + size_of_val(tables.classes.as_slice()),
        table_bytes: tables.bytes(),
    };
    let policy = Policy {
        rules: infos.collect(),
        name: file.name.clone(),
        direction: file.direction,
        mode: file.mode,
        default: file.default,
        ports: file.ports.clone(),
        guard: file.guard.clone(),
        tls: file.tls,
        methods: built.methods,
        tables,
        warnings,
        costs,
    };
    Ok(Study::new(policy, text, source, file, protos, built.layouts))
}

impl Action {
    fn abi(self) -> u32 {
        match self {
            Action::Deny => abi::PG_DENY,
            Action::Allow => abi::PG_ALLOW,
            Action::Limit => abi::PG_LIMIT,
        }
    }
}
