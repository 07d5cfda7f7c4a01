//! How good denials are: what callers get when many are denied at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::Args;
use super::call::{self, Call, Outcome};
use super::channel::Link;

const UNAVAILABLE: i32 = 14;
const DEADLINE_EXCEEDED: i32 = 4;
/// What tonic says, with CANCELLED, when its own deadline passes.
const EXPIRED: &str = "Timeout expired";

/// Makes the denied calls, with the allowed ones spread among them, and sums up.
pub async fn run(link: &Link, args: &Args, count: usize, calls: Vec<Call>) -> Result<Value> {
    let mut calls = calls.into_iter();
    let denied = calls.next().context("--denials reads a list of the call to be denied and the one to be allowed")?;
    let allowed = match args.allowed {
        0 => None,
        _ => Some(calls.next().context("--allowed needs a second call")?),
    };
    let total = count + args.allowed;
    let next = Arc::new(AtomicUsize::new(0));
    let start = Instant::now();
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..args.concurrency {
        let (link, next, denied, allowed) = (link.clone(), Arc::clone(&next), denied.clone(), allowed.clone());
        let share = args.allowed;
        workers.spawn(async move {
            let mut outcomes = Vec::new();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= total {
                    return Ok::<_, anyhow::Error>(outcomes);
                }
                // Evenly: the k-th allowed one comes where index * share / total steps.
                let ask = (index + 1) * share / total > index * share / total;
                let chosen = if ask { allowed.clone() } else { None }.unwrap_or_else(|| denied.clone());
                outcomes.push((ask, call::make(link.clone(), index, chosen).await?));
            }
        });
    }
    let mut sum = Sum::default();
    while let Some(outcomes) = workers.join_next().await {
        for (allowed, outcome) in outcomes?? {
            sum.add(allowed, &outcome, args);
        }
    }
    Ok(sum.into_json(start.elapsed(), link.connections()))
}

#[derive(Debug, Default)]
struct Sum {
    exact: usize,
    code_only: usize,
    unavailable: usize,
    resets: usize,
    hung: usize,
    allowed_ok: usize,
    allowed_failed: usize,
    others: BTreeMap<String, usize>,
    latencies: Vec<Duration>,
}

impl Sum {
    fn add(&mut self, allowed: bool, outcome: &Outcome, args: &Args) {
        let right = if allowed { outcome.code == 0 } else { outcome.code == args.code };
        self.unavailable += usize::from(outcome.code == UNAVAILABLE);
        self.hung += usize::from(outcome.code == DEADLINE_EXCEEDED || outcome.message == EXPIRED);
        self.resets += usize::from(!right && outcome.reset());
        if !right {
            *self.others.entry(format!("{}: {}", outcome.code, outcome.message)).or_default() += 1;
        }
        match (allowed, right) {
            (true, true) => self.allowed_ok += 1,
            (true, false) => self.allowed_failed += 1,
            (false, true) if outcome.message == args.message => self.exact += 1,
            (false, true) => self.code_only += 1,
            (false, false) => {}
        }
        if !allowed {
            self.latencies.push(outcome.latency);
        }
    }

    fn into_json(mut self, elapsed: Duration, connections: u64) -> Value {
        self.latencies.sort_unstable();
        let ms = |d: Duration| d.as_secs_f64() * 1000.0;
        let at = |percent: usize| {
            let place = (self.latencies.len() * percent / 100).min(self.latencies.len().saturating_sub(1));
            self.latencies.get(place).copied().map(ms)
        };
        json!({
            "type": "denials", "denials": self.latencies.len(), "exact": self.exact, "code_only": self.code_only,
            "unavailable": self.unavailable, "resets": self.resets, "hung": self.hung, "others": self.others,
            "allowed_ok": self.allowed_ok, "allowed_failed": self.allowed_failed,
            "connections": connections, "reconnects": connections.saturating_sub(1),
            "elapsed_ms": ms(elapsed), "p50_ms": at(50), "p99_ms": at(99), "max_ms": at(100),
        })
    }
}
