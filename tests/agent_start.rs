//! From start to enforcing: what the agent and the tables add to the verifier's time, which is the engine's. A program
//! of its own: nothing else of this package loads programs meanwhile. The best of three rounds counts, since the
//! machine may be busy with other things.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test")]

mod support;

use std::time::{Duration, Instant};

use protocg::kernel::load::load;
use protocg::kernel::probe::empty_tables;
use protocg::policy::Tables;
use protocg_peers::harness::patience;
use support::{Agent, Place};

fn best(mut round: impl FnMut() -> Duration) -> Duration {
    (0..3).map(|_| round()).min().unwrap()
}

#[test]
fn the_agent_and_large_tables_add_little_to_the_verifiers_time() {
    need_root!();
    let place = Place::new();
    let policy = place.policy("plain", 1);
    let ready = best(|| {
        let (agent, events) = Agent::start(&["--cgroup", place.path.to_str().unwrap(), policy.to_str().unwrap()]);
        agent.stop();
        Duration::from_millis(events.last().unwrap()["start_ms"].as_u64().unwrap())
    });
    let time = |tables: &Tables| {
        best(|| {
            let started = Instant::now();
            drop(load(tables).unwrap());
            started.elapsed()
        })
    };
    let empty = time(&empty_tables());
    let large = Tables { trie: vec![Default::default(); 500_000], trans: vec![0; 1 << 20], ..empty_tables() };
    let large = time(&large);
    eprintln!("ready {ready:?}, programs without tables {empty:?}, with 1.5 million rows {large:?}");
    assert!(ready < empty + patience(Duration::from_millis(200)), "{ready:?} against {empty:?}");
    assert!(large < empty + patience(Duration::from_millis(150)), "{large:?} against {empty:?}");
}
