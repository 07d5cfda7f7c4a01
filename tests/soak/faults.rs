//! The agent stops, and goes on; it is killed, and another takes over: under load.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use protocg_peers::harness;
use serde_json::json;

use crate::client::Tally;
use crate::load::full_speed;
use crate::stage::{BINARY, PROGRESS, Stage, seconds, turn};

const THREADS: usize = 4;

/// Clients at full speed, while something is done to the agent again and again.
fn meanwhile(stage: &mut Stage, tally: &Tally, mut what: impl FnMut(&mut Stage)) {
    let over = AtomicBool::new(false);
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, stage.handlers.address.port()));
    let (bound, mut said) = (Instant::now() + seconds(0.25), Instant::now());
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let over = &over;
            scope.spawn(move || full_speed(|_| to, tally, over, thread));
        }
        while Instant::now() < bound {
            std::thread::sleep(Duration::from_millis(300));
            what(stage);
            if said.elapsed() >= PROGRESS {
                said = Instant::now();
                println!("{}: {:?}", stage.name, tally.sum());
            }
        }
        std::thread::sleep(Duration::from_millis(300));
        over.store(true, Ordering::Relaxed);
    });
}

#[test]
fn an_agent_that_is_stopped_and_goes_on() {
    if harness::skip("stopped") {
        return;
    }
    let _turn = turn();
    let mut stage = Stage::local("agent stopped", &[]);
    let tally = Tally::default();
    meanwhile(&mut stage, &tally, |stage| {
        let agent = stage.agent.as_mut().unwrap();
        agent.process().signal(Signal::SIGSTOP);
        std::thread::sleep(Duration::from_millis(500));
        agent.process().signal(Signal::SIGCONT);
    });
    stage.over(&tally);
}

#[test]
fn a_pinned_agent_that_is_killed_and_taken_over() {
    if harness::skip("killed") {
        return;
    }
    let _turn = turn();
    let mut stage = Stage::local("agent killed", &["--pin"]);
    let cgroup = stage.cgroup.path().to_owned();
    let tally = Tally::default();
    meanwhile(&mut stage, &tally, |stage| {
        let mut agent = stage.agent.take().unwrap();
        agent.process().signal(Signal::SIGKILL);
        agent.process().wait();
        std::thread::sleep(Duration::from_millis(300));
        let agent = stage.another_agent();
        assert_eq!(agent.of_type("ready")[0]["origin"], json!("adopted"));
        stage.agent = Some(agent);
    });
    stage.over_pinned(&tally, || {
        let detached = Command::new(BINARY).args(["detach", "--cgroup"]).arg(&cgroup).status().unwrap();
        assert!(detached.success());
    });
}
