//! The policy compiler, from outside: its tables against slow oracles, its texts, and what it refuses.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::should_implement_trait, reason = "tests")]

mod differential;
mod elements;
mod eval;
mod metadata;
mod refused;
mod tables;
mod validate;

use std::path::Path;

use protocg::policy::{self, Errors, Policy};

/// Files beside a policy, in a folder of their own.
pub struct Folder(tempfile::TempDir);

impl Folder {
    pub fn new(files: &[(&str, &str)]) -> Folder {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        Folder(dir)
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn compile(&self, text: &str) -> Result<Policy, Errors> {
        policy::compile(text, &self.path().join("policy.toml"))
    }
}

/// A policy with these rules and nothing else of interest.
pub fn with_rules(rules: &str) -> String {
    format!("name = \"p\"\nproto = [\"t.proto\"]\nports = [50051]\ndefault = \"deny\"\n{rules}")
}

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub fn pick<'a, T: ?Sized>(&mut self, list: &[&'a T]) -> &'a T {
        list[self.below(list.len())]
    }
}
