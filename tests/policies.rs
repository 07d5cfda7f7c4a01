//! Every policy that the repository ships compiles, as `protocg check` sees it.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::path::{Path, PathBuf};

use protocg::cli::check::check;

fn policies(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            policies(&path, found);
        } else if path.extension().is_some_and(|e| e == "toml") {
            found.push(path);
        }
    }
}

#[test]
fn every_policy_that_is_shipped_compiles_without_a_warning() {
    let mut found = Vec::new();
    policies(&Path::new(env!("CARGO_MANIFEST_DIR")).join("policies"), &mut found);
    found.sort();
    assert_eq!(found.len(), 4, "{found:?}");
    for path in found {
        let mut report = Vec::new();
        check(std::slice::from_ref(&path), &mut report).unwrap();
        let report = String::from_utf8(report).unwrap();
        assert!(!report.contains("warning: "), "{}: {report}", path.display());
    }
}

#[test]
fn the_readmes_policy_is_the_demos() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(root.join("README.md")).unwrap();
    let demo = fs::read_to_string(root.join("policies/demo/demo.toml")).unwrap();
    let shown = readme.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    assert!(demo.contains(shown), "README.md shows another policy than policies/demo/demo.toml");
}
