//! What a run found out: written as JSON, read again by the reports.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::bpf::Runs;
use crate::load::{Load, Outcome};
use crate::stats::Spread;

/// Everything.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Results {
    /// Where and how.
    pub conditions: Conditions,
    /// A load each.
    pub loads: Vec<LoadResult>,
    /// The search server.
    pub seed: Vec<SeedResult>,
    /// BPF_PROG_TEST_RUN.
    pub shapes: Vec<ShapeResult>,
    /// Starting and holding.
    pub starts: Vec<StartResult>,
}

/// Where and how it was measured.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Conditions {
    /// The command.
    pub command: String,
    /// When it began.
    pub date: String,
    /// The revision, and whether the tree differed from it.
    pub revision: String,
    /// The running kernel.
    pub kernel: String,
    /// Processors, and what they call themselves.
    pub processors: String,
    /// Envoy's and HAProxy's versions.
    pub proxies: Vec<String>,
    /// Rounds of each arm.
    pub rounds: usize,
    /// Seconds of a round.
    pub seconds: f64,
    /// Processors that others kept busy while this program did nothing, on average.
    pub others: Spread,
}

/// A load, over all arms.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LoadResult {
    /// The load.
    pub load: Load,
    /// The arms, in the order of the tables.
    pub arms: Vec<ArmResult>,
}

/// An arm under a load.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ArmResult {
    /// Its name.
    pub arm: String,
    /// Its rounds; the k-th ran beside the k-th of all others.
    pub rounds: Vec<Outcome>,
    /// Why it has none.
    pub cannot: Option<String>,
    /// protocg: run statistics of rounds of their own; the k-th ran beside the k-th of its other arms.
    pub kernel: Vec<KernelTime>,
    /// The enforcer's resident memory in bytes, after the load.
    pub memory: Option<u64>,
}

/// Run statistics of a round.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct KernelTime {
    /// Calls meanwhile, with those before and after what was timed.
    pub calls: u64,
    /// By program.
    pub programs: BTreeMap<String, Runs>,
}

impl KernelTime {
    /// Nanoseconds of all programs, a call.
    #[must_use]
    pub fn ns(&self) -> f64 {
        self.programs.values().map(|r| r.ns).sum::<u64>() as f64 / self.calls as f64
    }

    /// Runs of all programs, a call.
    #[must_use]
    pub fn runs(&self) -> f64 {
        self.programs.values().map(|r| r.count).sum::<u64>() as f64 / self.calls as f64
    }
}

/// The search server with a share of its queries denied.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SeedResult {
    /// Calls at once.
    pub streams: usize,
    /// Calls in a thousand that are denied.
    pub denied: u64,
    /// The server checks, and nothing enforces.
    pub inline: Vec<Outcome>,
    /// protocg enforces, and the server does not check.
    pub protocg: Vec<Outcome>,
    /// Nobody checks, and what would be denied is not sent.
    pub oracle: Vec<Outcome>,
}

/// The engine over fixed traffic.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ShapeResult {
    /// Its name.
    pub name: String,
    /// Bytes of a call or message.
    pub bytes: usize,
    /// Nanoseconds for it.
    pub ns: Spread,
}

/// A start of protocg.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StartResult {
    /// The policy.
    pub policy: String,
    /// Milliseconds to compile it, without anything else.
    pub compile_ms: Spread,
    /// Milliseconds from the program's start until it enforces.
    pub start_ms: Spread,
    /// The agent's resident memory in bytes.
    pub agent: u64,
    /// The kernel's memory for all maps in bytes.
    pub maps: u64,
}

impl LoadResult {
    /// An arm's rounds.
    #[must_use]
    pub fn arm(&self, name: &str) -> Option<&ArmResult> {
        self.arms.iter().find(|a| a.arm == name)
    }

    /// A figure of an arm as ratios to another's, round by round.
    #[must_use]
    pub fn ratio(&self, arm: &str, base: &str, figure: impl Fn(&Outcome) -> f64) -> Option<Spread> {
        let (arm, base) = (self.arm(arm)?, self.arm(base)?);
        Spread::of(arm.rounds.iter().zip(&base.rounds).map(|(a, b)| figure(a) / figure(b)))
    }

    /// A figure of an arm.
    #[must_use]
    pub fn figure(&self, arm: &str, figure: impl Fn(&Outcome) -> f64) -> Option<Spread> {
        Spread::of(self.arm(arm)?.rounds.iter().map(figure))
    }
}

/// Calls a second.
#[must_use]
pub fn throughput(o: &Outcome) -> f64 {
    o.calls() as f64 / o.seconds
}

/// Microseconds of the whole machine, a call.
#[must_use]
pub fn machine(o: &Outcome) -> f64 {
    o.used.machine as f64 / o.calls() as f64 / 1000.0
}

/// Microseconds of client, server and enforcer, a call.
#[must_use]
pub fn processes(o: &Outcome) -> f64 {
    (o.used.client + o.used.server + o.used.enforcer) as f64 / o.calls() as f64 / 1000.0
}
