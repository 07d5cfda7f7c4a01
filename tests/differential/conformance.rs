//! The messages of protovalidate's own conformance suite (`conformance/`): each is compiled, or refused by the name of its field; and
//! what is denied of those that are, is what protovalidate finds fault with. `PROTOCG_INPUTS` asks for more inputs a message.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};
use prost_types::{FileDescriptorProto, FileDescriptorSet, MethodDescriptorProto, ServiceDescriptorProto};
use protocg::policy::{self, Policy};
use serde_json::{Value, json};

use crate::inputs::Inputs;
use crate::python;
use crate::rig::{Random, seed};
use crate::validate::{agrees, hex, named};

const CASES: &str = "buf/validate/conformance/cases";
/// Inputs a message in an ordinary run.
const ORDINARY: usize = 100;
const DEPTH: usize = 3;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/differential/conformance")
}

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("policies/protovalidate")
}

/// The suite's files, by their names in imports.
fn files(below: &Path) -> Vec<String> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(below).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            out.extend(files(&path));
        } else if path.extension().is_some_and(|it| it == "proto") {
            out.push(path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned());
        }
    }
    out.sort();
    out
}

/// What became of a message's constraints.
enum Became {
    Rules(Box<Policy>),
    /// It has none.
    Nothing,
    /// One that no message satisfies.
    Unsatisfiable(String),
    /// The constraint that the kernel does not decide.
    Refused(String),
}

/// What a refusal says behind the name of the field, without what is the field's own.
fn constraint(why: &str) -> String {
    match why.strip_prefix("the cel rule `") {
        Some(_) => "`cel`, for what its expression says".to_owned(),
        None if why.contains("may lie in itself") => "a message that may lie in itself".to_owned(),
        None => why.to_owned(),
    }
}

/// Compiles `[validate]` over a method that takes the message.
fn compile(folder: &Path, set: &[u8], message: &MessageDescriptor, pool: &DescriptorPool) -> Became {
    let input = Some(format!(".{}", message.full_name()));
    let method = MethodDescriptorProto {
        name: Some("R".into()),
        input_type: input.clone(),
        output_type: input,
        ..Default::default()
    };
    let service = ServiceDescriptorProto { name: Some("S".into()), method: vec![method], ..Default::default() };
    let file = FileDescriptorProto {
        name: Some("service-of-the-case.proto".into()),
        package: Some("t".into()),
        dependency: vec![message.parent_file().name().to_owned()],
        service: vec![service],
        syntax: Some("proto3".into()),
        ..Default::default()
    };
    // two sets, one behind the other, are one
    let bytes = [set, &FileDescriptorSet { file: vec![file] }.encode_to_vec()].concat();
    std::fs::write(folder.join("case.binpb"), bytes).unwrap();
    let text = "name = \"t\"\nproto = [\"case.binpb\"]\nports = [50051]\ndefault = \"allow\"\n[validate]\nmethods = [\"/t.S/R\"]\n";
    let errors = match policy::compile(text, &folder.join("t.toml")) {
        Ok(policy) => return Became::Rules(Box::new(policy)),
        Err(errors) => errors,
    };
    let known = |name: &str| {
        let within = name.rsplit_once('.').and_then(|(message, part)| Some((pool.get_message_by_name(message)?, part)));
        let part = within.is_some_and(|(message, part)| {
            message.get_field_by_name(part).is_some() || message.oneofs().any(|oneof| oneof.name() == part)
        });
        part || pool.get_message_by_name(name).is_some()
    };
    let first = errors.problems().next().unwrap().to_string();
    if first.contains("none of the requests that `[validate]` covers has constraints") {
        return Became::Nothing;
    }
    for problem in errors.problems() {
        let said = problem.to_string();
        if said.ends_with("is violated by every message") {
            return Became::Unsatisfiable(said);
        }
        let name = said.strip_prefix('`').and_then(|it| it.split('`').next());
        assert!(name.is_some_and(known), "{}: the error names no field: {said}", message.full_name());
    }
    let (_, why) = first.split_once("does not decide: ").unwrap_or_else(|| panic!("{}: {first}", message.full_name()));
    Became::Refused(constraint(why))
}

fn set_of<'a>(names: impl Iterator<Item = &'a String>) -> Vec<u8> {
    let mut compiler = protox::Compiler::new([root(), shipped()]).unwrap();
    compiler.include_imports(true);
    names.for_each(|name| assert!(compiler.open_file(root().join(name)).is_ok(), "{name}"));
    compiler.encode_file_descriptor_set()
}

/// Files as descriptor sets. Files of editions, and what imports them, are refused as sources, by name.
fn sources() -> (BTreeMap<String, Vec<u8>>, Vec<String>) {
    let (mut taken, mut refused) = (BTreeMap::new(), Vec::new());
    for name in files(&root()) {
        let mut compiler = protox::Compiler::new([root(), shipped()]).unwrap();
        compiler.include_imports(true);
        match compiler.open_file(root().join(&name)) {
            Ok(_) => drop(taken.insert(name, compiler.encode_file_descriptor_set())),
            Err(_) => refused.push(name),
        }
    }
    for name in &refused {
        let (root, shipped) = (root(), shipped());
        let text = format!(
            "name = \"t\"\nproto = [{name:?}]\ninclude = [{root:?}, {shipped:?}]\nports = [50051]\ndefault = \"allow\"\n[validate]\n"
        );
        let errors = policy::compile(&text, &root.join("t.toml")).err().unwrap_or_else(|| panic!("{name} compiles"));
        assert!(errors.problems().any(|it| it.to_string().contains(name.as_str())), "{name}");
    }
    (taken, refused)
}

#[test]
fn the_conformance_cases_are_decided_as_protovalidate_does() {
    if python::skip("differential_conformance") {
        return;
    }
    let started = Instant::now();
    let inputs: usize = std::env::var("PROTOCG_INPUTS").map_or(ORDINARY, |text| text.parse().unwrap());
    let (taken, refused_files) = sources();
    let set = set_of(taken.keys());
    let pool = DescriptorPool::decode(set.as_slice()).unwrap();
    let is_case = |it: &MessageDescriptor| it.parent_file().name().starts_with(CASES) && !it.is_map_entry();
    let cases: Vec<MessageDescriptor> = pool.all_messages().filter(is_case).collect();
    let folder = tempfile::tempdir().unwrap();
    let mut random = Random(seed(1) << 16);
    let (mut jobs, mut of) = (Vec::new(), Vec::new());
    for message in &cases {
        let became = compile(folder.path(), &taken[message.parent_file().name()], message, &pool);
        let mut maker = Inputs::new(&mut random, message);
        let first = DynamicMessage::new(message.clone());
        let made: Vec<DynamicMessage> =
            std::iter::once(first).chain((1..inputs).map(|_| maker.message(message, DEPTH))).collect();
        of.push(json!([message.full_name(), made.iter().map(|it| hex(&it.encode_to_vec())).collect::<Vec<_>>()]));
        jobs.push((message, became, made));
    }
    let compiled = started.elapsed();
    let answers = python::ask("validate.py", &json!({ "set": hex(&set), "of": of }).to_string());
    let answers: Vec<Value> = answers.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers.len(), jobs.len());

    let mut tally: BTreeMap<String, usize> = BTreeMap::new();
    let (mut rules, mut nothing, mut never, mut wrong) = (0, 0, 0, Vec::new());
    let (mut denied, mut allowed, mut left, mut theirs) = (0, 0, 0, 0);
    for ((message, became, made), answer) in jobs.iter().zip(&answers) {
        let name = message.full_name();
        if let (Some(why), false) = (answer.get("refused"), matches!(became, Became::Refused(_))) {
            wrong.push(format!("{name}: protovalidate does not take it: {why}"));
            continue;
        }
        theirs += usize::from(answer.get("refused").is_some());
        match became {
            Became::Rules(_) => rules += 1,
            Became::Nothing => nothing += 1,
            Became::Unsatisfiable(_) => never += 1,
            Became::Refused(why) => {
                *tally.entry(why.clone()).or_default() += 1;
                continue;
            }
        }
        for (input, expected) in made.iter().zip(answer.as_array().unwrap()) {
            let Ok(Some(expected)) = serde_json::from_value::<Option<Vec<String>>>(expected.clone()) else {
                left += 1;
                continue;
            };
            let (is, right) = match became {
                Became::Rules(policy) => {
                    let is = named(policy, &input.encode_to_vec(), name);
                    let right = agrees(is.as_deref(), &expected);
                    (is, right)
                }
                Became::Unsatisfiable(why) => (Some(why.clone()), !expected.is_empty()),
                _ => (None, expected.is_empty()),
            };
            *(if expected.is_empty() { &mut allowed } else { &mut denied }) += 1;
            if !right {
                wrong.push(format!("{name}: {is:?}, not {expected:?}, of {input}"));
            }
        }
    }
    println!(
        "{} messages in {} files: {rules} compiled, {nothing} without constraints, {never} that nothing satisfies, {} refused ({theirs} by protovalidate, too):",
        cases.len(),
        taken.len(),
        tally.values().sum::<usize>()
    );
    tally.iter().for_each(|(why, count)| println!("  {count:>4}  {why}"));
    println!(
        "{} files of editions, or with imports of such, refused: {}",
        refused_files.len(),
        refused_files.join(" ")
    );
    println!(
        "{} inputs compared, {denied} of them with a fault, {} disagreements, {left} left out; compiled in {:.1} s, all in {:.1} s",
        denied + allowed,
        wrong.len(),
        compiled.as_secs_f64(),
        started.elapsed().as_secs_f64()
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!((cases.len(), rules, nothing, never, theirs, left), (670, 380, 116, 0, 27, 0));
    assert!(denied > 100 * inputs && allowed > 100 * inputs, "{denied} {allowed}");
}
