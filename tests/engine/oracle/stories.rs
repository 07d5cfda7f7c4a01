//! hpack-test-case: real requests as libraries have encoded them, with what they meant. See stories/README.md.

use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};

use protocg::engine::{Connection, Outcome};
use protocg_fuzz::check::{Pair, by_engine, by_reference, protos};
use protocg_fuzz::grammar::Step;
use protocg_oracle::hpack::{Decoder, Field};
use protocg_oracle::policies;
use protocg_oracle::policy::{Meta, Policy, Rule, When};

use crate::fixtures::UNARY;
use crate::rig::Random;
use crate::wire::*;

/// Events for what values say, and nothing denied.
fn pair() -> Pair {
    let rules = [
        Meta::Contains("user-agent", "Mozilla"),
        Meta::Contains("accept-language", "en"),
        Meta::Starts("referer", "http://www"),
        Meta::Contains("accept", "html"),
        Meta::Contains("cookie", "a"),
        Meta::Present("content-length"),
    ];
    let rules = rules.into_iter().map(|meta| Rule {
        deny: true,
        audit: true,
        status: (7, "PERMISSION_DENIED"),
        methods: &[],
        when: When::Meta(meta),
    });
    let oracle = Policy {
        name: "stories",
        rules: rules.collect(),
        default_deny: false,
        audit: true,
        allowed: &[],
        protos: policies::protos(&protos()),
    };
    let policy = protocg::policy::compile(&oracle.toml(), &protos().join("stories.toml")).unwrap();
    Pair { oracle, policy }
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

/// A call that names every regular field of the dynamic table, and changes nothing there.
fn probe(stream: u32, decoder: &Decoder) -> Vec<u8> {
    let known = |(name, _): &&Field| {
        !name.starts_with(b":")
            && !["content-type", "connection", "upgrade", "transfer-encoding"].map(str::as_bytes).contains(&&name[..])
    };
    let entries = decoder.entries().enumerate().filter(|(_, entry)| known(entry)).map(|(age, _)| dynamic(age));
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &request_and(UNARY, &entries.collect::<Vec<_>>()))
}

/// A story's conversation. Its blocks are as they are: no gRPC, so they are malformed as calls, but their fields go into the table.
fn steps(story: &serde_json::Value, fields: &mut usize) -> Vec<Step> {
    let mut decoder = Decoder::default();
    let mut steps = vec![Step::Client([PREFACE, SETTINGS].concat())];
    let mut stream = 1;
    for case in story["cases"].as_array().unwrap() {
        if let Some(size) = case["header_table_size"].as_u64() {
            let parameter = [&[0, 1][..], &u32::try_from(size).unwrap().to_be_bytes()].concat();
            steps.push(Step::Server(frame(SETTINGS_FRAME, 0, 0, &parameter)));
            decoder.announced = decoder.announced.max(usize::try_from(size).unwrap());
        }
        let block = unhex(case["wire"].as_str().unwrap());
        let meant: Vec<Field> = case["headers"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|field| field.as_object().unwrap())
            .map(|(name, value)| (name.clone().into_bytes(), value.as_str().unwrap().as_bytes().to_vec()))
            .collect();
        assert_eq!(decoder.decode(&block).unwrap(), meant);
        *fields += meant.len();
        let head = frame(HEADERS, END_HEADERS | END_STREAM, stream, &block);
        steps.push(Step::Client([head, probe(stream + 2, &decoder)].concat()));
        stream += 4;
    }
    steps
}

/// The engine's table, entry by entry, after every block.
fn tables_agree(pair: &Pair, story: &serde_json::Value, steps: &[Step]) {
    let mut connection = Connection::new(&pair.policy.tables, Ipv6Addr::LOCALHOST, 1);
    let mut decoder = Decoder::default();
    let mut cases = story["cases"].as_array().unwrap().iter();
    for (i, step) in steps.iter().enumerate() {
        match step {
            Step::Server(bytes) => {
                assert_eq!(connection.response(bytes), Outcome::Pass);
                decoder.announced = decoder.announced.max(u32::from_be_bytes(bytes[11..].try_into().unwrap()) as usize);
            }
            Step::Client(bytes) => {
                connection.request(bytes);
                if i > 0 {
                    decoder.decode(&unhex(cases.next().unwrap()["wire"].as_str().unwrap())).unwrap();
                }
                let hpack = &connection.state().hpack;
                let ours: Vec<(usize, usize)> = (0..hpack.count)
                    .map(|age| hpack.ring[(hpack.newest.wrapping_sub(age) as usize) % hpack.ring.len()])
                    .map(|entry| (entry.name_size.into(), entry.value_size.into()))
                    .collect();
                let theirs: Vec<_> = decoder.entries().map(|(name, value)| (name.len(), value.len())).collect();
                assert_eq!(ours, theirs, "block {i}");
            }
        }
    }
}

fn stories(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            stories(&entry, into);
        } else if entry.extension().is_some_and(|extension| extension == "json") {
            into.push(entry);
        }
    }
}

#[test]
fn the_stories_of_other_encoders_are_read_as_they_were_meant() {
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/engine/oracle/stories");
    let folder = std::env::var_os("PROTOCG_HPACK_STORIES").map_or(ours, PathBuf::from);
    let pair = pair();
    let (mut files, mut blocks, mut fields, mut verdicts) = (Vec::new(), 0, 0, 0);
    stories(&folder, &mut files);
    files.sort();
    let mut random = Random(7);
    for file in &files {
        let story: serde_json::Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        let steps = steps(&story, &mut fields);
        blocks += story["cases"].as_array().unwrap().len();
        let expected = by_reference(&pair, &steps, usize::MAX);
        for about in [0, 1, 30, 700] {
            assert_eq!(by_engine(&pair, &steps, random.draw(), about).0, expected, "{}", file.display());
        }
        tables_agree(&pair, &story, &steps);
        verdicts += expected.verdicts.len();
    }
    println!("{} stories, {blocks} blocks, {fields} fields, {verdicts} verdicts", files.len());
    assert!(files.len() >= 20 && verdicts > blocks);
}
