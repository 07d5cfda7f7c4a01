//! Full speed, ten thousand connections at once, and a thousand new ones a second.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use protocg_peers::harness;

use crate::client::{Client, Tally};
use crate::stage::{Stage, long, seconds, turn};

const THREADS: usize = 4;
/// Calls under way at once on a connection.
const WIDE: usize = 16;
/// Batches of calls after which a client begins a new connection.
const BATCHES: usize = 200;
const CHURN: u64 = 1000;

/// Numbers that follow from a seed; one call of a hundred is denied.
pub struct Chance(u64);

impl Chance {
    pub fn new(seed: usize) -> Self {
        Self(seed as u64 + 1)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    pub fn calls(&mut self, count: usize) -> Vec<bool> {
        (0..count).map(|_| self.below(100) == 0).collect()
    }
}

/// Clients on a few threads, as fast as they can, until it is over.
pub fn full_speed(connect: impl Fn(usize) -> SocketAddr + Sync, tally: &Tally, over: &AtomicBool, thread: usize) {
    let mut chance = Chance::new(thread);
    while !over.load(Ordering::Relaxed) {
        let Ok(mut client) = Client::connect(connect(thread), tally) else { continue };
        for _ in 0..BATCHES {
            if over.load(Ordering::Relaxed) || !client.calls(&chance.calls(WIDE)) {
                break;
            }
        }
    }
}

#[test]
fn full_speed_with_one_percent_denied() {
    if harness::skip("full_speed") {
        return;
    }
    let _turn = turn();
    let stage = Stage::local("full speed", &[]);
    let (tally, over) = (Tally::default(), AtomicBool::new(false));
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, stage.handlers.address.port()));
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (tally, over) = (&tally, &over);
            scope.spawn(move || full_speed(|_| to, tally, over, thread));
        }
        stage.progress(seconds(1.0), &tally, &over);
    });
    let sum = tally.sum();
    assert!(sum.allowed > 1000 && sum.denied > 0, "{sum:?}");
    stage.over(&tally);
}

#[test]
fn ten_thousand_connections_at_once() {
    if harness::skip("ten_thousand") {
        return;
    }
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let connections = if long() { 10_000 } else { 2_000 };
    let files = hard.max(connections as u64 + 500);
    if setrlimit(Resource::RLIMIT_NOFILE, files, files).is_err() {
        println!("SKIPPED ten_thousand: needs {files} open files, and may have {hard}");
        return;
    }
    let _turn = turn();
    let stage = Stage::local("10,000 open", &[]);
    let tally = Tally::default();
    let port = stage.handlers.address.port();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (tally, stage) = (&tally, &stage);
            scope.spawn(move || {
                let mut chance = Chance::new(thread);
                let address = |i: usize| SocketAddr::from((Ipv4Addr::new(127, 0, 1, 1 + (i % 4) as u8), port));
                let mut crowd: Vec<Option<Client>> =
                    (0..connections / THREADS).map(|i| Client::connect(address(i), tally).ok()).collect();
                for round in 0..3 {
                    for client in &mut crowd {
                        if client.as_mut().is_some_and(|client| !client.calls(&chance.calls(2))) {
                            *client = None;
                        }
                    }
                    println!("{}, thread {thread}, round {round}: {:?}", stage.name, tally.sum());
                }
                // nobody leaves before the others are done
                while tally.sum().allowed + tally.sum().allowed_lost < 5 * connections as u64 && tally.sum().ended == 0
                {
                    std::thread::sleep(Duration::from_millis(20));
                }
            });
        }
    });
    let sum = tally.sum();
    assert_eq!(sum.connections, connections as u64, "{sum:?}");
    stage.over(&tally);
}

#[test]
fn a_thousand_new_connections_a_second() {
    if harness::skip("churn") {
        return;
    }
    let _turn = turn();
    let stage = Stage::local("churn", &[]);
    let (tally, over) = (Tally::default(), AtomicBool::new(false));
    let port = stage.handlers.address.port();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (tally, over) = (&tally, &over);
            scope.spawn(move || {
                let mut chance = Chance::new(thread);
                let step = Duration::from_secs(1) * THREADS as u32 / CHURN as u32;
                let (began, mut index) = (Instant::now(), 0_u32);
                while !over.load(Ordering::Relaxed) {
                    // One address has fewer ports than come in the minute that the closed ones wait.
                    let to = Ipv4Addr::new(127, 0, 1 + thread as u8, 1 + (index % 250) as u8);
                    if let Ok(mut client) = Client::connect(SocketAddr::from((to, port)), tally) {
                        client.calls(&chance.calls(1));
                    }
                    index += 1;
                    std::thread::sleep((step * index).saturating_sub(began.elapsed()));
                }
            });
        }
        stage.progress(seconds(0.25), &tally, &over);
    });
    let rate = tally.sum().connections as f64 / seconds(0.25).as_secs_f64();
    println!("{rate:.0} new connections a second, of {CHURN} that were to be made");
    stage.over(&tally);
}
