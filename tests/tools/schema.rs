//! The schema for editors against the parser: what one accepts the other does too, over policies that are right and thousands
//! of ways to get them wrong.

use protocg::policy;
use serde_json::Value as Json;
use toml::Value;

use crate::{Folder, PROTO, root};

fn schema() -> jsonschema::Validator {
    let text = std::fs::read_to_string(root().join("policies/policy.schema.json")).unwrap();
    let schema: Json = serde_json::from_str(&text).unwrap();
    assert!(jsonschema::meta::is_valid(&schema), "the schema is none");
    jsonschema::validator_for(&schema).unwrap()
}

fn json(value: &Value) -> Json {
    serde_json::to_value(value).unwrap()
}

/// Every key that there is.
const FULL: &str = r#"
name = "p"
proto = ["t.proto"]
include = ["."]
ports = [50051, "9000-9010", "70"]
direction = "egress"
mode = "audit"
default = "allow"
[uninspectable]
compressed = "allow"
unknown_method = "deny"
malformed = "allow"
too_large = "deny"
not_http2 = "deny"
tls = "allow"
midstream = "deny"
ambiguous = "allow"
[guard]
listen = [8080, "9100-9110"]
connect = ["10.0.0.0/8:443", "::1"]
raw = "allow"
bpf = "report"
unix_listen = "deny"
[tls]
pause = false
kill = true
required = true
[[deny]]
name = "d"
methods = ["/t.Search/Find", "/t.*", "*"]
when = 'request.query == "a"'
status = "UNAVAILABLE"
message = "no"
mode = "audit"
[[deny]]
name = "e"
[[allow]]
name = "a"
methods = ["/t.Search/*"]
when = 'peer.port == 5'
[[limit]]
name = "l"
methods = ["/t.Search/Find"]
when = 'peer.port == 6'
rate = "100/s"
burst = 20
per = 'metadata["x-tenant"]'
message = "slowly"
mode = "audit"
[[limit]]
name = "m"
rate = "1/h"
per = "peer.ip"
"#;

const VALIDATE: &str = r#"
[validate]
methods = ["/t.Search/*", "*"]
skip = ["t.Query.query", "t.Query"]
"#;

/// Every way from a document's root to one of its values.
fn places(value: &Value, here: &mut Vec<String>, out: &mut Vec<Vec<String>>) {
    out.push(here.clone());
    let inner: Vec<(String, &Value)> = match value {
        Value::Table(rows) => rows.iter().map(|(key, value)| (key.clone(), value)).collect(),
        Value::Array(items) => items.iter().enumerate().map(|(i, item)| (i.to_string(), item)).collect(),
        _ => return,
    };
    for (key, value) in inner {
        here.push(key);
        places(value, here, out);
        here.pop();
    }
}

fn at<'v>(value: &'v mut Value, place: &[String]) -> &'v mut Value {
    place.iter().fold(value, |value, step| match value {
        Value::Table(rows) => rows.get_mut(step).unwrap(),
        Value::Array(items) => &mut items[step.parse::<usize>().unwrap()],
        _ => panic!("no way"),
    })
}

/// A document with one thing changed, and what.
fn mutants(document: &Value) -> Vec<(String, Vec<String>, Value)> {
    let (mut all, mut out) = (Vec::new(), Vec::new());
    places(document, &mut Vec::new(), &mut all);
    let others = [
        Value::Boolean(true),
        Value::Integer(0),
        Value::Integer(7),
        Value::Integer(65536),
        Value::Integer(-1),
        Value::Float(1.5),
        Value::String(String::new()),
        Value::String("zzz".into()),
        Value::String("Zz z\n".into()),
        Value::String("x".repeat(300)),
        Value::Array(Vec::new()),
        Value::Array(vec![Value::Integer(7)]),
        Value::Array(vec![Value::String("zzz".into())]),
        Value::Table(toml::map::Map::new()),
    ];
    for place in all {
        let mut add = |what: String, change: &dyn Fn(&mut Value)| {
            let mut mutant = document.clone();
            change(at(&mut mutant, &place));
            out.push((what, place.clone(), mutant));
        };
        if !place.is_empty() {
            for other in &others {
                add(format!("{place:?} = {other}"), &|value| *value = other.clone());
            }
        }
        if let Value::Table(rows) = at(&mut document.clone(), &place) {
            add(format!("{place:?} gets a key"), &|value| {
                value.as_table_mut().unwrap().insert("colour".into(), Value::Integer(1));
            });
            for key in rows.keys() {
                add(format!("{place:?} loses {key}"), &|value| {
                    value.as_table_mut().unwrap().remove(key);
                });
                add(format!("{place:?}: {key} is misspelt"), &|value| {
                    let rows = value.as_table_mut().unwrap();
                    let moved = rows.remove(key).unwrap();
                    rows.insert(format!("{key}x"), moved);
                });
            }
        }
    }
    out
}

#[test]
fn the_schema_refuses_what_the_parser_refuses_and_nothing_else() {
    let (schema, folder) = (schema(), Folder::new(&[("t.proto", PROTO)]));
    let origin = folder.path("p.toml");
    let document: Value = toml::from_str(&format!("{FULL}{VALIDATE}")).unwrap();
    assert!(schema.is_valid(&json(&document)));
    policy::compile(FULL, &origin).unwrap();
    let (mut accepted, mut refused, mut left) = (0, 0, 0);
    for (what, place, mutant) in mutants(&document) {
        // a condition, or a file's name, is a text to the schema; names that come twice and ports that overlap are beyond it
        let last: Vec<&str> = place.iter().map(String::as_str).collect();
        let text = toml::to_string(&mutant).unwrap();
        let parser = policy::check_text(&text, &origin).map_err(|error| format!("{error}"));
        let beyond = match &parser {
            Err(error) => error.contains("overlap"),
            Ok(()) => matches!(last.as_slice(), [.., "when"] | [.., "methods", _] | [.., "methods"]),
        };
        if beyond {
            left += 1;
            continue;
        }
        match parser {
            Ok(()) => accepted += 1,
            Err(_) => refused += 1,
        }
        assert_eq!(schema.is_valid(&json(&mutant)), parser.is_ok(), "{what}\n{parser:?}\n{text}");
    }
    println!("{accepted} mutants accepted by both, {refused} refused by both, {left} left out");
    assert!(accepted > 40 && refused > 400 && left < 80, "{accepted} {refused} {left}");
}

#[test]
fn patterns_of_methods_are_the_compilers() {
    let (schema, folder) = (schema(), Folder::new(&[("t.proto", PROTO)]));
    let long = format!("/a.B/{}", "x".repeat(1020));
    let patterns = [
        "*",
        "/*",
        "/a.*",
        "/a.B/*",
        "/a.B/C",
        "/a/b.*",
        "/a.B/C.*",
        "/.*",
        "/a_b.C-d/E$",
        "",
        "/",
        "a.B/C",
        "/a.B",
        "/a.B/",
        "/a.B/C/",
        "/a.B/C/D",
        "/a.B/C*",
        "/a*",
        "//*",
        "//a",
        "/a//*",
        "/a/b/*",
        "/a.B/*/c",
        "**",
        "/a.B/C?x",
        "/a.B/C#x",
        "/a%20/b",
        "/a b/c",
        "/ä/b",
        "/a.B/\u{7f}",
        long.as_str(),
        "/a.B/C.D.*",
        "/a/.*",
    ];
    let (mut fine, mut wrong) = (0, 0);
    for pattern in patterns {
        let quoted = Value::String(pattern.to_owned());
        let text =
            format!("name = \"p\"\nports = [1]\ndefault = \"deny\"\n[[allow]]\nname = \"a\"\nmethods = [{quoted}]\n");
        let compiled = policy::compile(&text, &folder.path("p.toml"));
        let document: Value = toml::from_str(&text).unwrap();
        assert_eq!(schema.is_valid(&json(&document)), compiled.is_ok(), "{pattern:?}: {:?}", compiled.err());
        if schema.is_valid(&json(&document)) { fine += 1 } else { wrong += 1 }
    }
    println!("{fine} patterns accepted by both, {wrong} refused by both");
}

#[test]
fn every_policy_and_every_example_fits_the_schema() {
    let schema = schema();
    let mut texts: Vec<(String, String)> = Vec::new();
    for entry in std::fs::read_dir(root().join("policies")).unwrap().map(|entry| entry.unwrap().path()) {
        let files = if entry.is_dir() {
            std::fs::read_dir(&entry).unwrap().map(|it| it.unwrap().path()).collect()
        } else {
            Vec::new()
        };
        for file in files
            .iter()
            .filter(|file| file.extension().is_some_and(|it| it == "toml") && file.file_stem().unwrap() != "cases")
        {
            texts.push((file.display().to_string(), std::fs::read_to_string(file).unwrap()));
        }
    }
    let document = std::fs::read_to_string(root().join("docs/policy.md")).unwrap();
    for (i, part) in document.split("```toml\n").skip(1).enumerate() {
        let text = part.split("```").next().unwrap();
        if text.contains("ports ") {
            texts.push((format!("docs/policy.md, {i}"), text.to_owned()));
        }
    }
    assert!(texts.len() >= 10, "{}", texts.len());
    for (name, text) in texts {
        let document: Value = toml::from_str(&text).unwrap();
        let errors: Vec<String> = schema.iter_errors(&json(&document)).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{name}: {errors:?}");
        // the directive that editors look for names the schema
        if let Some(path) = text.lines().next().and_then(|line| line.strip_prefix("#:schema ")) {
            assert_eq!(path, "../policy.schema.json", "{name}");
        }
    }
}
