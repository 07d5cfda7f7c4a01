//! What is to be reached, and what is.

use super::tables::{noise, spread};
use crate::arms::{BASE, CROWD, ENVOY_FIELD, HAPROXY_FIELD, METHODS, ONE, ONE_AGAIN};
use crate::load::Outcome;
use crate::results::{LoadResult, Results, machine, processes, throughput};
use crate::rounds::{ALL_DENIED, LOADED, LONG, SERIAL, SKIPPED};
use crate::stats::Spread;

/// A target, and how it stands.
pub struct Target {
    /// Of what.
    pub what: String,
    /// The figure with its bounds, as text.
    pub is: String,
    /// What it is to be.
    pub limit: f64,
    median: f64,
    at_least: bool,
    /// By how much two equal arms differed in this figure.
    pub noise: Option<f64>,
}

impl Target {
    /// At most, or at least.
    pub fn sign(&self) -> &'static str {
        if self.at_least { "≥" } else { "≤" }
    }

    /// Met, within the noise of it, or missed.
    pub fn verdict(&self) -> &'static str {
        let over = if self.at_least { self.limit - self.median } else { self.median - self.limit };
        match self.noise {
            _ if over <= 0.0 => "met",
            Some(noise) if over <= noise => "met within the noise",
            _ => "**missed**",
        }
    }
}

/// Every target that this run can judge.
pub fn all(results: &Results) -> Vec<Target> {
    let mut out = Vec::new();
    let find = |name: &str| results.loads.iter().find(|l| l.load.name == name);
    let mut ratio = |load: &str, arm, base, what: &str, figure: fn(&Outcome) -> f64, limit, at_least| {
        let Some((load, is)) = find(load).and_then(|l| Some((l, l.ratio(arm, base, figure)?))) else { return };
        let what = format!("{}: {what}", load.load.name);
        out.push(Target { what, is: spread(is, 2), limit, median: is.median, at_least, noise: noise(load, figure) });
    };
    ratio(SERIAL, ONE, BASE, "CPU a call", machine, 1.08, false);
    ratio(SERIAL, ONE, BASE, "CPU a call, processes", processes, 1.08, false);
    ratio(SERIAL, ONE, BASE, "p50", |o| o.p50, 1.05, false);
    ratio(LOADED, ONE, BASE, "CPU a call", machine, 1.08, false);
    ratio(LOADED, ONE, BASE, "CPU a call, processes", processes, 1.08, false);
    ratio(LOADED, ONE, BASE, "calls a second", throughput, 0.95, true);
    ratio(LONG, ONE, BASE, "CPU a call", machine, 1.10, false);
    ratio(LONG, ONE, BASE, "CPU a call, processes", processes, 1.10, false);
    ratio(SKIPPED, ONE, BASE, "CPU a call", machine, 1.03, false);
    ratio(SKIPPED, ONE, BASE, "CPU a call, processes", processes, 1.03, false);
    ratio(LOADED, METHODS, ONE, "CPU a call, 10,000 rules beside 1", machine, 1.05, false);
    ratio(LOADED, CROWD, ONE, "CPU a call, 1,000 containers beside 1", machine, 1.02, false);
    for load in [SERIAL, LOADED].into_iter().filter_map(find) {
        out.extend(kernel(load, METHODS, "10,000 rules", 1.05));
        out.extend(kernel(load, CROWD, "1,000 containers", 1.02));
    }
    out.extend(find(LOADED).and_then(beside_proxies));
    out.extend(find(ALL_DENIED).and_then(|load| {
        let rate = load.figure(ONE, |o| o.denied as f64 / o.seconds)?;
        let (what, is) = ("denials a second, server and agent on one core".to_owned(), spread(rate, 0));
        Some(Target { what, is, limit: 2000.0, median: rate.median, at_least: true, noise: None })
    }));
    for start in &results.starts {
        let mut ms = |what: &str, limit| {
            let (what, is) = (format!("{}: {what}", start.policy), spread(start.start_ms, 0));
            out.push(Target { what, is, limit, median: start.start_ms.median, at_least: false, noise: None });
        };
        match start.policy.as_str() {
            "1 field rule" => ms("ms from start to enforcing", 150.0),
            "10,000 method rules" => ms("ms to compile, load and enforce", 300.0),
            _ => {}
        }
        let mib = start.agent as f64 / f64::from(1 << 20);
        let (what, is) = (format!("{}: MiB of the agent's, at most", start.policy), format!("{mib:.1}"));
        out.push(Target { what, is, limit: 40.0, median: mib, at_least: false, noise: None });
    }
    out
}

/// Differences below the noise are decided by the kernel's own time, which has some too: the same program's differs with
/// where its maps happen to lie.
fn kernel(load: &LoadResult, arm: &str, what: &str, limit: f64) -> Option<Target> {
    let beside_one = |arm: &str| {
        let rounds = load.arm(arm)?.kernel.iter().zip(&load.arm(ONE)?.kernel);
        Spread::of(rounds.map(|(arm, one)| arm.ns() / one.ns()))
    };
    let ratio = beside_one(arm)?;
    let noise = beside_one(ONE_AGAIN).map(|s| s.noise());
    let what = format!("{}: kernel time a call, {what} beside 1", load.load.name);
    Some(Target { what, is: spread(ratio, 2), limit, median: ratio.median, at_least: false, noise })
}

/// What is added to a call's processor time, as a share of what the better proxy adds.
fn beside_proxies(load: &LoadResult) -> Option<Target> {
    let added = |arm: &str| Some(load.ratio(arm, BASE, machine)?.median - 1.0);
    let best = [ENVOY_FIELD, HAPROXY_FIELD].into_iter().filter_map(added).reduce(f64::min)?;
    let median = added(ONE)? / best;
    let what = format!("{}: added CPU, as a share of the better proxy's for the same rule", load.load.name);
    Some(Target { what, is: format!("{median:.3}"), limit: 0.1, median, at_least: false, noise: None })
}
