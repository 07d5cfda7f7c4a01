//! The experiment that began it: a search server in Python, queries of which a share contains an A, on one channel.
//!
//! Three ways: the server checks; protocg enforces; and an oracle sends the allowed queries alone, so that nobody has to deny
//! anything. The oracle is what cannot be beaten, for denied queries cost it nothing at all.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use protocg_peers::harness::Cgroup;

use crate::arms::{self, Arm, Kind, Spec};
use crate::load::{self, Load, Outcome, Until};
use crate::policies::Set;
use crate::results::SeedResult;
use crate::serve::Check;

/// Queries of a run.
pub const CALLS: u64 = 2000;
const SHARES: [u64; 3] = [0, 500, 1000];

fn python() -> PathBuf {
    std::env::var_os("PROTOCG_VENV").map_or_else(|| "python3".into(), |v| PathBuf::from(v).join("bin/python3"))
}

fn start(name: &'static str, check: bool, kind: Kind, descriptors: &Path) -> Result<Arm> {
    let cgroup = Cgroup::new("seed");
    let mut command = Command::new(python());
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("python/search.py"));
    command.args(["--listen", "127.0.0.1:0"]).args(check.then_some("--check"));
    command.env("PROTOCG_DESCRIPTORS", descriptors);
    let (server, address) = arms::serve(command, &cgroup)?;
    Arm::around(Spec { name, kind }, cgroup, server, address)
}

/// Runs it, so many times each way, in turn.
pub fn run(rounds: usize, streams: &[usize]) -> Result<Vec<SeedResult>> {
    let folder = tempfile::tempdir()?;
    let descriptors = folder.path().join("peers.binpb");
    std::fs::write(&descriptors, protocg_peers::proto::DESCRIPTORS)?;
    let inline = start("inline", true, Kind::App(Check::None), &descriptors)?;
    let oracle = start("oracle", false, Kind::App(Check::None), &descriptors)?;
    let protocg = start("protocg", false, Kind::Protocg(Set::Search, 1), &descriptors)?;
    for arm in [&inline, &oracle, &protocg] {
        queries(arm, 0, 4, CALLS)?; // everything is loaded and warm
    }
    let mut results = Vec::new();
    for &streams in streams {
        for denied in SHARES {
            eprintln!("  {streams} at once, {} % denied", denied / 10);
            let mut result = SeedResult { streams, denied, inline: vec![], protocg: vec![], oracle: vec![] };
            for round in 0..rounds {
                for turn in 0..3 {
                    match (round + turn) % 3 {
                        0 => result.inline.push(queries(&inline, denied, streams, CALLS)?),
                        1 => result.protocg.push(queries(&protocg, denied, streams, CALLS)?),
                        _ => result.oracle.push(queries(&oracle, 0, streams, CALLS * (1000 - denied) / 1000)?),
                    }
                }
            }
            results.push(result);
        }
    }
    Ok(results)
}

/// A run; every query is answered as it should be, or it does not count.
fn queries(arm: &Arm, denied: u64, streams: usize, calls: u64) -> Result<Outcome> {
    if calls == 0 {
        return Ok(Outcome::default());
    }
    let path = "/search.SearchService/Search".to_owned();
    let name = format!("{} queries, {}", calls, arm.spec.name);
    let load = Load { name, path, connections: 1, streams, text: 48, skipped: 0, bidi: false, denied };
    let outcome = load::run(&load, arm.target, Duration::ZERO, Until::Calls(calls), &arm.watch)?;
    let expected = (calls - calls * denied / 1000, calls * denied / 1000, 0);
    ensure!(
        (outcome.ok, outcome.denied, outcome.failed) == expected,
        "{}: {outcome:?} instead of {expected:?}",
        arm.spec.name
    );
    Ok(outcome)
}
