//! hyper-h2, in Python.

use std::path::Path;
use std::process::Command;

use protocg_peers::harness;

use crate::{Recording, judge};

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

#[test]
fn what_hyper_h2_sends_is_judged_the_same_by_three() {
    if harness::skip("oracles_hyper_h2") {
        return;
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let setup = Command::new(folder.join("peers/python/setup.sh")).output().unwrap();
    assert!(setup.status.success(), "{}", String::from_utf8_lossy(&setup.stderr));
    let python = String::from_utf8(setup.stdout).unwrap();
    let seed = std::env::var("PROTOCG_SEED").unwrap_or_else(|_| "1".to_owned());
    let output =
        Command::new(python.trim()).arg(folder.join("oracles/hyper_h2.py")).args([&seed, "40"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let recordings: Vec<Recording> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            Recording {
                server: unhex(line["server"].as_str().unwrap()),
                client: unhex(line["client"].as_str().unwrap()),
            }
        })
        .collect();
    judge(&format!("hyper-h2, PROTOCG_SEED={seed}"), &recordings);
}
