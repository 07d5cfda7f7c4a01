//! A stand-in for the policy compiler until it is merged: it reads the keys that need no compiling and makes
//! tables with one empty entry each.

#![allow(missing_docs, reason = "replaced by the compiler")]

use std::path::Path;

use crate::abi;

#[derive(Debug, thiserror::Error, miette::Diagnostic)]
#[error("{0}")]
pub struct Errors(String);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Direction {
    #[default]
    Ingress,
    Egress,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    #[default]
    Enforce,
    Audit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Action {
    #[default]
    Deny,
    Allow,
}

#[derive(Debug, Clone, Default)]
pub struct PortSet(Vec<(u16, u16)>);

impl PortSet {
    pub fn contains(&self, port: u16) -> bool {
        self.0.iter().any(|&(first, last)| (first..=last).contains(&port))
    }

    pub fn ranges(&self) -> Vec<(u16, u16)> {
        self.0.clone()
    }
}

#[derive(Debug, Clone, Default)]
pub struct RuleInfo {
    pub name: String,
    pub action: Action,
    pub status: u32,
    pub message: String,
    pub audit: bool,
    pub methods: Vec<String>,
    pub when: Option<String>,
    pub compiled: String,
}

#[derive(Debug, Clone, Default)]
pub struct MethodInfo {
    pub path: Option<String>,
    pub exact: bool,
}

#[derive(Debug, Clone)]
pub struct Warning(pub String);

impl std::fmt::Display for Warning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

#[derive(Debug, Clone, Default)]
pub struct Costs {}

#[derive(Clone, Default)]
pub struct Tables {
    pub config: abi::pg_config,
    pub trie: Vec<abi::pg_trie>,
    pub methods: Vec<abi::pg_method>,
    pub rules: Vec<abi::pg_rule>,
    pub tests: Vec<abi::pg_test>,
    pub ops: Vec<abi::pg_op>,
    pub nodes: Vec<abi::pg_node>,
    pub fields: Vec<abi::pg_field>,
    pub bounds: Vec<abi::pg_bound>,
    pub automata: Vec<abi::pg_automaton>,
    pub trans: Vec<u32>,
    pub classes: Vec<abi::pg_classes>,
    pub outs: Vec<abi::pg_out>,
    pub keys: Vec<abi::pg_key>,
    pub peers: Vec<abi::pg_peer>,
}

#[derive(Clone, Default)]
pub struct Policy {
    pub name: String,
    pub direction: Direction,
    pub mode: Mode,
    pub default: Action,
    pub ports: PortSet,
    pub rules: Vec<RuleInfo>,
    pub methods: Vec<MethodInfo>,
    pub tables: Tables,
    pub warnings: Vec<Warning>,
    pub costs: Costs,
}

pub fn load(path: &Path) -> Result<Policy, Errors> {
    let text = std::fs::read_to_string(path).map_err(|e| Errors(format!("cannot read `{}`: {e}", path.display())))?;
    let file: toml::Table = text.parse().map_err(|e| Errors(format!("`{}`: {e}", path.display())))?;
    let ports: Vec<u16> = file
        .get("ports")
        .and_then(toml::Value::as_array)
        .map(|ports| ports.iter().filter_map(|p| p.as_integer()?.try_into().ok()).collect())
        .unwrap_or_default();
    let name = file.get("name").and_then(toml::Value::as_str).unwrap_or("stub").to_owned();
    let mut tables = Tables {
        trie: vec![Default::default(); 1 + file.get("cells").and_then(toml::Value::as_integer).unwrap_or(1) as usize],
        methods: vec![Default::default()],
        rules: vec![Default::default()],
        tests: vec![Default::default()],
        ops: vec![Default::default()],
        nodes: vec![Default::default()],
        fields: vec![Default::default()],
        bounds: vec![Default::default()],
        automata: vec![Default::default()],
        trans: vec![0],
        classes: vec![abi::pg_classes { of: [0; 256] }],
        outs: vec![Default::default()],
        keys: vec![Default::default()],
        peers: vec![Default::default()],
        ..Tables::default()
    };
    tables.config.generation = text.bytes().fold(1, |hash: u32, b| hash.wrapping_mul(31).wrapping_add(b.into())) | 1;
    for port in &ports {
        tables.config.ports[usize::from(*port) / 64] |= 1 << (port % 64);
    }
    Ok(Policy { name, ports: PortSet(ports.iter().map(|&p| (p, p)).collect()), tables, ..Policy::default() })
}
