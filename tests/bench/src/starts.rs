//! What a start takes, and what stays in memory.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Result, anyhow};
use protocg::policy;
use protocg_peers::harness::Cgroup;

use crate::arms::{self, Arm, Kind, Spec};
use crate::policies::{self, Set};
use crate::results::StartResult;
use crate::serve::Check;
use crate::stats::Spread;
use crate::{bpf, cpu};

/// Starts protocg so often under each policy.
pub fn run(times: usize, full: bool) -> Result<Vec<StartResult>> {
    let mut cases = vec![
        ("1 field rule", Set::One, 1),
        ("1,000 field rules", Set::Fields, 1),
        ("10,000 method rules", Set::Methods, 1),
        ("1 field rule, 1,000 containers", Set::One, 1000),
    ];
    if full {
        cases.insert(3, ("1 field rule, 100 containers", Set::One, 100));
    }
    cases.into_iter().map(|(name, set, containers)| one(name, set, containers, times)).collect()
}

fn one(name: &'static str, set: Set, containers: usize, times: usize) -> Result<StartResult> {
    eprintln!("  {name}");
    let (mut compiled, mut start, mut agent, mut maps) = (Vec::new(), Vec::new(), 0, 0);
    for _ in 0..times {
        compiled.push(compile(set)?);
        let cgroup = Cgroup::new("start");
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["serve", "--listen", "127.0.0.1:0", "--check"]).arg(format!("{:?}", Check::None).to_lowercase());
        let (server, address) = arms::serve(command, &cgroup)?;
        let arm = Arm::around(Spec { name, kind: Kind::Protocg(set, containers) }, cgroup, server, address)?;
        start.extend(arm.start_ms.map(|ms| ms as f64));
        if let Some(pid) = arm.watch.enforcer {
            agent = agent.max(cpu::memory(pid)?.1);
        }
        maps = bpf::memory(arm.cgroup.path())?;
    }
    let [compile_ms, start_ms] = [compiled, start].map(|values| Spread::of(values).unwrap_or_default());
    Ok(StartResult { policy: name.to_owned(), compile_ms, start_ms, agent, maps })
}

/// Milliseconds to compile it, in this process.
fn compile(set: Set) -> Result<f64> {
    let origin = Path::new(env!("CARGO_MANIFEST_DIR")).join("../peers/proto/bench.toml");
    let text = policies::text(set, 50051);
    let start = Instant::now();
    policy::compile(&text, &origin).map_err(|e| anyhow!("{e:?}"))?;
    Ok(start.elapsed().as_secs_f64() * 1000.0)
}
