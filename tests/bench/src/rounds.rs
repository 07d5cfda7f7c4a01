//! The loads, over all arms in turn.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::arms::{self, Arm, Kind, Spec};
use crate::bpf;
use crate::cpu;
use crate::load::{self, Load, Until};
use crate::policies::Set;
use crate::results::{ArmResult, KernelTime, LoadResult};

/// How much of everything.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    /// Every load and arm.
    pub full: bool,
    /// Rounds of each arm under each load.
    pub rounds: usize,
    /// How long a round is.
    pub round: Duration,
    /// How long it runs before.
    pub warm: Duration,
}

const PATH: &str = "/echo.Echo/Unary";

/// The name of the load that most targets are about.
pub const SERIAL: &str = "unary 50 B, serial";
/// The same at capacity.
pub const LOADED: &str = "unary 50 B, 2x16";
/// See its name.
pub const LONG: &str = "unary 64 KiB, judged field last, 2x4";
/// See its name.
pub const SKIPPED: &str = "unary 1 MiB of skipped field, serial";
/// See its name.
pub const ALL_DENIED: &str = "unary 50 B, 100 % denied, 2x16";

/// The loads.
#[must_use]
pub fn loads(full: bool) -> Vec<Load> {
    let load = |name: &str, connections, streams, text, skipped, denied| Load {
        name: name.to_owned(),
        path: PATH.to_owned(),
        connections,
        streams,
        text,
        skipped,
        bidi: false,
        denied,
    };
    let mut loads = vec![load(SERIAL, 1, 1, 48, 0, 0), load(LOADED, 2, 16, 48, 0, 0)];
    if full {
        loads.push(load("unary 50 B, 2x128", 2, 128, 48, 0, 0));
        loads.push(load("unary 4 KiB of judged field, 2x16", 2, 16, 4092, 0, 0));
        loads.push(load("unary 64 KiB of judged field, 2x4", 2, 4, 65_532, 0, 0));
    }
    loads.push(load(LONG, 2, 4, 48, 65_480, 0));
    loads.push(load(SKIPPED, 1, 1, 48, (1 << 20) - 60, 0));
    let bidi = load("bidi 50 B, ping-pong, 2x16", 2, 16, 48, 0, 0);
    loads.push(Load { path: "/echo.Echo/Bidi".to_owned(), bidi: true, ..bidi });
    if full {
        loads.push(load("unary 50 B, 1 % denied, 2x16", 2, 16, 48, 0, 10));
    }
    loads.push(load("unary 50 B, 50 % denied, 2x16", 2, 16, 48, 0, 500));
    loads.push(load(ALL_DENIED, 2, 16, 48, 0, 1000));
    if full {
        loads.push(load("unary 50 B, 100 % denied, serial", 1, 1, 48, 0, 1000));
    }
    loads
}

/// Why an arm has no part in a load.
fn cannot(spec: &Spec, load: &Load) -> Option<String> {
    match spec.kind {
        Kind::Proxy(proxy) => proxy.cannot(load.bidi).map(str::to_owned),
        Kind::Protocg(Set::One, _) if spec.name != arms::ONE && load.name != SERIAL && load.name != LOADED => {
            Some("two loads only".to_owned())
        }
        _ => None,
    }
}

/// Runs every load over every arm; the arms take turns, and each round begins with another.
pub fn run(extent: Extent, only_load: &str, only_arm: &str) -> Result<Vec<LoadResult>> {
    let wanted = |s: &Spec| s.name == arms::BASE || s.name.contains(only_arm);
    let part = |s: &Spec| extent.full || !matches!(s.kind, Kind::Protocg(_, 100));
    let specs: Vec<Spec> = arms::ALL.iter().copied().filter(|s| wanted(s) && part(s)).collect();
    let mut arms = Vec::new();
    for spec in &specs {
        eprintln!("  starting: {}", spec.name);
        arms.push(Arm::start(*spec));
    }
    let loads = loads(extent.full).into_iter().filter(|l| l.name.contains(only_load));
    loads.map(|load| one(&load, &specs, &arms, extent)).collect()
}

fn one(load: &Load, specs: &[Spec], arms: &[Result<Arm>], extent: Extent) -> Result<LoadResult> {
    eprintln!("  {}", load.name);
    let mut results: Vec<ArmResult> = Vec::new();
    for (spec, arm) in specs.iter().zip(arms) {
        let started = arm.as_ref().err().map(|e| format!("does not start: {e:#}"));
        let cannot = started.or_else(|| cannot(spec, load));
        results.push(ArmResult { arm: spec.name.to_owned(), cannot, ..ArmResult::default() });
    }
    let mut turns = |each: fn(&Load, &Arm, Extent, &mut ArmResult) -> Result<()>| -> Result<()> {
        for round in 0..extent.rounds {
            for turn in 0..arms.len() {
                let index = (round * 5 + turn) % arms.len();
                let (Some(Ok(arm)), Some(result)) = (arms.get(index), results.get_mut(index)) else { continue };
                if result.cannot.is_none() {
                    each(load, arm, extent, result)?;
                }
            }
        }
        Ok(())
    };
    turns(round)?;
    turns(counted)?;
    for (arm, result) in arms.iter().zip(&mut results) {
        let Ok(arm) = arm else { continue };
        if result.cannot.is_some() {
            continue;
        }
        if let Some(pid) = arm.watch.enforcer {
            result.memory = Some(cpu::memory(pid)?.0);
        }
    }
    Ok(LoadResult { load: load.clone(), arms: results })
}

fn round(load: &Load, arm: &Arm, extent: Extent, result: &mut ArmResult) -> Result<()> {
    result.rounds.push(load::run(load, arm.target, extent.warm, Until::Time(extent.round), &arm.watch)?);
    Ok(())
}

/// A round with run statistics, which the other rounds are spared.
fn counted(load: &Load, arm: &Arm, extent: Extent, result: &mut ArmResult) -> Result<()> {
    if !matches!(arm.spec.kind, Kind::Protocg(..)) {
        return Ok(());
    }
    let path: &Path = arm.cgroup.path();
    let _stats = bpf::Stats::on()?;
    let before = bpf::runs(path)?;
    // with no time before it: all calls are counted, as all runs are
    let outcome = load::run(load, arm.target, Duration::ZERO, Until::Time(extent.round), &arm.watch)?;
    result.kernel.push(KernelTime { calls: outcome.calls(), programs: bpf::since(&bpf::runs(path)?, &before) });
    Ok(())
}
