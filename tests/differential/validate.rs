//! Random constraints on random messages: what `[validate]` denies is what protovalidate (by its own makers) finds fault with, and
//! the constraint that is named is one of those that it names. `PROTOCG_PROTOS` asks for more protos.

use std::path::Path;

use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage};
use protocg::policy::{self, Policy};
use serde_json::json;

use crate::grammar::{Tally, wire};
use crate::inputs::Inputs;
use crate::python;
use crate::rig::{Random, fixture, run_here, seed};
use crate::wire::unary;

const MESSAGES: usize = 50;
/// Protos of an ordinary run.
const ORDINARY: usize = 200;

const HEAD: &str = r#"syntax = "proto3";
package t;
import "buf/validate/validate.proto";
import "google/protobuf/timestamp.proto";
import "google/protobuf/duration.proto";
import "google/protobuf/wrappers.proto";
enum Color { ZERO = 0; RED = 1; }
service S { rpc R(M) returns (M); }
"#;

const NUMBERS: [&str; 12] = [
    "int32", "int64", "uint32", "uint64", "sint32", "sint64", "fixed32", "fixed64", "sfixed32", "sfixed64", "float",
    "double",
];

struct Writer<'a> {
    random: &'a mut Random,
    tally: &'a mut Tally,
}

impl Writer<'_> {
    fn rule(&mut self, kind: &str, rule: &str, value: impl std::fmt::Display) -> String {
        self.tally.add(format!("{kind}.{rule}"));
        format!("{rule}: {value} ")
    }

    fn number(&mut self, kind: &str) -> String {
        match kind {
            "float" | "double" => self.random.pick(&["0", "1.5", "-1.5", "2.25"]).to_owned(),
            _ if kind.starts_with('u') || kind.starts_with('f') => self.random.pick(&["0", "1", "7", "100"]).to_owned(),
            _ => self.random.pick(&["0", "1", "-1", "7", "-7", "100"]).to_owned(),
        }
    }

    /// Rules of a type, as text of its message.
    fn rules(&mut self, kind: &str) -> String {
        let mut out = String::new();
        match kind {
            "bool" => out += &self.rule(kind, "const", "true"),
            "enum" => match self.random.below(4) {
                0 => out += &self.rule(kind, "const", 1),
                1 => out += &self.rule(kind, "in", "[1, 5]"),
                2 => out += &self.rule(kind, "not_in", "[0]"),
                _ => out += &self.rule(kind, "defined_only", "true"),
            },
            "string" | "bytes" => {
                let size = self.random.below(4);
                let text = self.random.pick(&["\"a\"", "\"b\"", "\"ab\"", "\"\""]);
                let own: &[&str] = &["min_bytes", "max_bytes", "len_bytes", "pattern", "not_contains"];
                let common: &[&str] = &[
                    "min_len", "max_len", "len", "prefix", "suffix", "contains", "in", "not_in", "const", "uuid",
                    "ipv4",
                ];
                let rule = if kind == "string" && self.random.one_in(3) {
                    self.random.pick(own)
                } else {
                    self.random.pick(common)
                };
                let pattern = self.random.pick(&["^[ab]+$", "a.*b", "^.{1,3}$", "[0-9]", "^$", "(?i)a$"]);
                let value = match rule {
                    "in" | "not_in" => format!("[{text}, \"k\"]"),
                    "uuid" | "ipv4" => "true".to_owned(),
                    "pattern" => format!("{pattern:?}"),
                    "prefix" | "suffix" | "contains" | "not_contains" | "const" => text.to_owned(),
                    _ => size.to_string(),
                };
                out += &self.rule(kind, rule, value);
            }
            "timestamp" | "duration" => {
                let rule = self.random.pick(&["lt", "lte", "gt", "gte", "const"]);
                let value = self.random.pick(&[
                    "{}",
                    "{ seconds: 1 }",
                    "{ seconds: 1 nanos: 7 }",
                    "{ seconds: 5 nanos: 500000000 }",
                ]);
                out += &self.rule(kind, rule, value);
            }
            _ => {
                if self.random.one_in(2) {
                    let (rule, value) = (self.random.pick(&["gt", "gte"]), self.number(kind));
                    out += &self.rule(kind, rule, value);
                }
                if self.random.one_in(2) || out.is_empty() {
                    let (rule, value) = (self.random.pick(&["lt", "lte"]), self.number(kind));
                    out += &self.rule(kind, rule, value);
                }
                if self.random.one_in(4) {
                    let rule = self.random.pick(&["in", "not_in"]);
                    let value = format!("[{}, {}]", self.number(kind), self.number(kind));
                    out += &self.rule(kind, rule, value);
                }
                if self.random.one_in(8) {
                    let value = self.number(kind);
                    out += &self.rule(kind, "const", value);
                }
                if matches!(kind, "float" | "double") && self.random.one_in(2) {
                    out += &self.rule(kind, "finite", "true");
                }
            }
        }
        out
    }

    /// A scalar's, enum's or wrapper's protobuf type, and what its rules are called.
    fn kind(&mut self) -> (&'static str, &'static str) {
        match self.random.below(8) {
            0 | 1 => ("string", "string"),
            2 => ("bytes", "bytes"),
            3 => self.random.pick(&[("Color", "enum"), ("bool", "bool")]),
            _ => {
                let kind = self.random.pick(&NUMBERS);
                (kind, kind)
            }
        }
    }

    fn modifiers(&mut self, presence: bool) -> String {
        let mut out = String::new();
        if self.random.one_in(8) {
            self.tally.add("required");
            out += ", (buf.validate.field).required = true";
        }
        if self.random.one_in(6) {
            self.tally.add(if presence { "ignore, of a field with presence" } else { "ignore" });
            out += ", (buf.validate.field).ignore = IGNORE_IF_ZERO_VALUE";
        }
        out
    }

    fn field(&mut self, number: usize, message: Option<&str>) -> String {
        let name = format!("f{number}");
        let (kind, rules) = self.kind();
        match self.random.below(14) {
            0 | 1 => {
                let (rule, size) = (self.random.pick(&["min_items", "max_items"]), self.random.below(3));
                let (whole, items) = (self.rule("repeated", rule, size), self.rules(rules));
                self.tally.add("repeated.items");
                let modifiers = self.modifiers(false);
                format!(
                    "repeated {kind} {name} = {number} [(buf.validate.field).repeated = {{ {whole} items: {{ {rules}: {{ {items} }} }} }}{modifiers}];"
                )
            }
            2 => {
                let key = self.random.pick(&["string", "int32", "uint64", "sint64"]);
                let (keys, values) = (self.rules(key), self.rules(rules));
                let (rule, size) = (self.random.pick(&["min_pairs", "max_pairs"]), self.random.below(3));
                let whole = self.rule("map", rule, size);
                self.tally.add("map.keys and map.values");
                format!(
                    "map<{key}, {kind}> {name} = {number} [(buf.validate.field).map = {{ {whole} keys: {{ {key}: {{ {keys} }} }} values: {{ {rules}: {{ {values} }} }} }}];"
                )
            }
            3 => {
                let (kind, rules) = self.random.pick(&[("Timestamp", "timestamp"), ("Duration", "duration")]);
                let said = self.rules(rules);
                let modifiers = self.modifiers(true);
                format!(
                    "google.protobuf.{kind} {name} = {number} [(buf.validate.field).{rules} = {{ {said} }}{modifiers}];"
                )
            }
            4 => {
                let (kind, rules) =
                    self.random.pick(&[("StringValue", "string"), ("Int32Value", "int32"), ("DoubleValue", "double")]);
                self.tally.add("a wrapper");
                let said = self.rules(rules);
                format!("google.protobuf.{kind} {name} = {number} [(buf.validate.field).{rules} = {{ {said} }}];")
            }
            5 | 6 if message.is_some() => {
                let inner = message.unwrap();
                let form = self.random.pick(&["", "repeated", "map"]);
                self.tally.add(format!("a message {form}"));
                match form {
                    "map" => format!("map<string, {inner}> {name} = {number};"),
                    form => format!("{form} {inner} {name} = {number};"),
                }
            }
            7 => {
                let (kind, expression) = self.random.pick(&[
                    ("int32", "this > 3"),
                    ("string", "this == '' || this.startsWith('a')"),
                    ("string", "size(this) < 3 ? '' : 'too long'"),
                    ("repeated int32", "this.all(x, x >= 0)"),
                    ("repeated string", "this.exists(x, x == 'a') || size(this) == 0"),
                    ("map<string, int32>", "!('k' in this)"),
                ]);
                self.tally.add("cel");
                format!(
                    "{kind} {name} = {number} [(buf.validate.field).cel = {{ id: \"c{number}\" expression: \"{expression}\" }}];"
                )
            }
            8 => {
                self.tally.add("a oneof");
                let (a, b) = (self.rules("string"), self.rules("sint64"));
                let required = if self.random.one_in(2) { "option (buf.validate.oneof).required = true;" } else { "" };
                let second = number + 100;
                format!(
                    "oneof o{number} {{ {required} string {name} = {number} [(buf.validate.field).string = {{ {a} }}]; sint64 g{number} = {second} [(buf.validate.field).sint64 = {{ {b} }}]; }}"
                )
            }
            other => {
                let optional = other < 11;
                let said = self.rules(rules);
                let modifiers = self.modifiers(optional);
                let label = if optional { "optional " } else { "" };
                format!("{label}{kind} {name} = {number} [(buf.validate.field).{rules} = {{ {said} }}{modifiers}];")
            }
        }
    }

    /// Few fields at times: what holds many constraints breaks one.
    fn proto(&mut self) -> String {
        let (few, many) = (1 + self.random.below(2), 1 + self.random.below(5));
        let mut message = |name: &str, count: usize, inner: Option<&str>| {
            let fields: Vec<String> = (1..=count).map(|number| self.field(number, inner)).collect();
            format!("message {name} {{\n  {}\n}}\n", fields.join("\n  "))
        };
        let (inner, outer) = (message("In", few, None), message("M", many, Some("In")));
        format!("{HEAD}{inner}{outer}")
    }
}

struct Job {
    seed: u64,
    proto: String,
    policy: Policy,
    set: Vec<u8>,
    messages: Vec<DynamicMessage>,
}

fn job(seed: u64, tally: &mut Tally) -> Option<Job> {
    let mut random = Random(seed << 16);
    let mut own = Tally::default();
    let proto = Writer { random: &mut random, tally: &mut own }.proto();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("t.proto"), &proto).unwrap();
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies/protovalidate");
    let include = shipped.to_str().unwrap();
    let text = format!(
        "name = \"t\"\nproto = [\"t.proto\"]\ninclude = [{include:?}]\nports = [50051]\ndefault = \"allow\"\n[validate]\n"
    );
    let policy = match policy::compile(&text, &folder.path().join("t.toml")) {
        Ok(policy) => policy,
        Err(errors) => {
            for problem in errors.problems() {
                let why = problem.to_string();
                let known = ["violated by every message", "none of the requests", "for the same type"];
                assert!(known.iter().any(|known| why.contains(known)), "PROTOCG_SEED={seed}: {why}\n{proto}");
            }
            tally.add("proto that no message satisfies");
            return None;
        }
    };
    tally.merge(&own);
    let mut compiler = protox::Compiler::new([folder.path(), &shipped]).unwrap();
    compiler.include_imports(true).open_file(folder.path().join("t.proto")).unwrap();
    let set = compiler.encode_file_descriptor_set();
    let descriptor = DescriptorPool::decode(set.as_slice()).unwrap().get_message_by_name("t.M").unwrap();
    let mut forms = Tally::default();
    let mut messages = vec![DynamicMessage::new(descriptor.clone())];
    messages.extend((1..MESSAGES / 2).map(|_| {
        let wire = wire(&mut random, &mut forms, &descriptor, 3);
        DynamicMessage::decode(descriptor.clone(), wire.as_slice()).unwrap()
    }));
    let mut inputs = Inputs::new(&mut random, &descriptor);
    messages.extend((MESSAGES / 2..MESSAGES).map(|_| inputs.message(&descriptor, 3)));
    Some(Job { seed, proto, policy, set, messages })
}

/// The rule that denies a message of `/t.S/R`: its name ends as protovalidate calls the constraint.
pub fn named(policy: &Policy, wire: &[u8], at: &str) -> Option<String> {
    let (events, _) = run_here(policy, &fixture("", "", &[unary(1, "/t.S/R", wire)], &[]), &[]);
    let event = events.first()?;
    let name = event.strip_prefix("deny validate ").and_then(|it| it.strip_suffix(" INVALID_ARGUMENT on 1#1"));
    let name = name.unwrap_or_else(|| panic!("{at}: {event}"));
    // the second of a name is "... (2)"
    let again = name.strip_suffix(')').and_then(|it| it.rsplit_once(" ("));
    let is_number = |it: &(&str, &str)| it.1.bytes().all(|byte| byte.is_ascii_digit());
    Some(again.filter(is_number).map_or(name, |(name, _)| name).to_owned())
}

/// Whether this is one of the constraints that protovalidate names, or neither finds fault.
pub fn agrees(named: Option<&str>, expected: &[String]) -> bool {
    match named {
        None => expected.is_empty(),
        Some(name) => expected.iter().any(|id| name.ends_with(&format!(" {}", id.trim_end_matches("_empty")))),
    }
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn random_constraints_are_decided_as_protovalidate_does() {
    if python::skip("differential_validate") {
        return;
    }
    let wanted: usize = std::env::var("PROTOCG_PROTOS").map_or(ORDINARY, |text| text.parse().unwrap());
    let (first, mut tally) = (seed(1), Tally::default());
    let jobs: Vec<Job> = (first..).take(wanted).filter_map(|seed| job(seed, &mut tally)).collect();
    let lines: Vec<String> = jobs
        .iter()
        .map(|job| {
            // as a map that has each key once: of others `[validate]` looks at every entry
            let messages: Vec<String> = job.messages.iter().map(|message| hex(&message.encode_to_vec())).collect();
            json!({ "set": hex(&job.set), "of": [["t.M", messages]] }).to_string()
        })
        .collect();
    let answers = python::ask("validate.py", &(lines.join("\n") + "\n"));
    let (mut denied, mut allowed, mut left) = (0, 0, 0);
    for (job, answer) in jobs.iter().zip(answers.lines()) {
        let answers: Vec<Option<Vec<String>>> = serde_json::from_str(answer).unwrap();
        assert_eq!(answers.len(), job.messages.len());
        for (message, expected) in job.messages.iter().zip(answers) {
            let Some(expected) = expected else {
                left += 1;
                continue;
            };
            let wire = message.encode_to_vec();
            let named = named(&job.policy, &wire, &format!("PROTOCG_SEED={}", job.seed));
            assert!(
                agrees(named.as_deref(), &expected),
                "PROTOCG_SEED={}: {named:?}, not {expected:?}\n{}\n{message}\n{wire:02x?}",
                job.seed,
                job.proto
            );
            if named.is_some() { denied += 1 } else { allowed += 1 }
        }
    }
    println!(
        "{} protos, {denied} messages denied, {allowed} allowed, {left} left out; of each:\n{}",
        jobs.len(),
        tally.show()
    );
    if wanted >= ORDINARY {
        assert!(denied > 100 && allowed > 50, "{denied} {allowed}");
    }
}
