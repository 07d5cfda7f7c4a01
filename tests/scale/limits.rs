//! The limits on connections and streams, at their edges.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use libbpf_rs::MapHandle;
use protocg::abi;
use protocg_peers::harness::{self, Cgroup, Place, Protocg, Server, Stack};

use crate::crowd::{Client, End, few_files};
use crate::maps;

const BINARY: &str = env!("CARGO_BIN_EXE_protocg");
const CONNECTIONS: usize = abi::PG_MAX_CONNECTIONS as usize;
const STREAMS: usize = abi::PG_MAX_STREAMS as usize;

/// So many clients, made by a few threads.
fn together(count: usize, make: impl Fn(usize) -> Client + Sync) -> Vec<Client> {
    const THREADS: usize = 4;
    std::thread::scope(|scope| {
        let make = &make;
        let threads: Vec<_> = (0..THREADS)
            .map(|turn| scope.spawn(move || (turn..count).step_by(THREADS).map(make).collect::<Vec<_>>()))
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    })
}

/// Each of these takes most of the files that a process may have, and of a small machine's memory.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

struct Stage {
    agent: Protocg,
    server: Server,
    _cgroup: Cgroup,
    conns: MapHandle,
    streams: MapHandle,
    started: Instant,
}

impl Stage {
    fn new(name: &str) -> Self {
        let cgroup = Cgroup::new(name);
        let place = Place { cgroup: Some(&cgroup), net: None };
        let server = Server::start(Stack::Tonic, place, SocketAddr::from(([0, 0, 0, 0], 0)));
        let policy = format!(
            "name = \"scale\"\nproto = [\"echo.proto\"]\nports = [{}]\ndefault = \"deny\"\n\
             [[allow]]\nname = \"echo\"\nmethods = [\"/echo.Echo/*\"]\nwhen = 'request.text.startsWith(\"good\")'\n",
            server.address.port()
        );
        let agent = Protocg::run(BINARY, &[&cgroup], &policy, &[]);
        let [conns, streams] = ["conns", "streams"].map(|map| maps::of(cgroup.path(), map));
        Self { agent, server, _cgroup: cgroup, conns, streams, started: Instant::now() }
    }

    fn counts(&self) -> (usize, usize) {
        (maps::count(&self.conns), maps::streams(&self.conns, &self.streams))
    }

    /// Prints what the state takes.
    fn say(&self, what: &str) {
        let (connections, streams) = self.counts();
        println!(
            "{what}: {connections} connections, {} B of the kernel's; {streams} streams, {} B; {:.1?} since the start",
            maps::bytes(&self.conns),
            maps::bytes(&self.streams),
            self.started.elapsed()
        );
    }

    /// Messages that the handlers have got.
    fn messages(&self) -> usize {
        self.server.process().lines().iter().filter(|line| line.contains("\"event\":\"message\"")).count()
    }

    fn eventually(&self, what: &str, holds: impl Fn() -> bool) {
        let bound = Instant::now() + harness::patience(Duration::from_secs(20));
        while !holds() {
            assert!(Instant::now() < bound, "{what}: {:?}", self.counts());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// One event says why; nothing else was denied.
    fn refused(&self, reason: &str, times: usize) {
        self.eventually(reason, || self.agent.of_type("connection").len() >= times);
        let events = self.agent.of_type("connection");
        assert_eq!(events.len(), times, "{events:#?}");
        for event in events {
            assert_eq!((event["verdict"].as_str(), event["cause"].as_str()), (Some("deny"), Some("too_large")));
            assert_eq!(event["reason"], reason);
        }
        assert!(self.agent.of_type("decision").is_empty());
    }
}

#[test]
fn every_connection_that_the_limit_allows_is_served_and_the_next_is_refused() {
    if harness::skip("connections") || few_files("connections") {
        return;
    }
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let stage = Stage::new("connections");
    let port = stage.server.address.port();
    let mut clients = together(CONNECTIONS, |index| {
        let mut client = Client::connect(port, index);
        client.open([1].into_iter(), "good first").unwrap();
        client
    });
    clients.iter_mut().for_each(|client| client.hear([1].into_iter(), 1));
    assert_eq!((stage.counts(), stage.messages()), ((CONNECTIONS, CONNECTIONS), CONNECTIONS));
    stage.say("all open");

    for index in 0..3 {
        let mut one_more = Client::connect(port, index);
        let _ = one_more.open([1].into_iter(), "good but too many");
        assert_eq!(one_more.end(), End::Reset);
        stage.refused("connections", index + 1);
    }
    // The others have not noticed, and are judged as before.
    clients.iter_mut().for_each(|client| client.say(1, "good second"));
    clients.iter_mut().for_each(|client| client.hear([1].into_iter(), 2));
    assert_eq!((stage.counts(), stage.messages()), ((CONNECTIONS, CONNECTIONS), 2 * CONNECTIONS));

    // One that goes makes room for one.
    clients.pop();
    stage.eventually("room", || stage.counts() == (CONNECTIONS - 1, CONNECTIONS - 1));
    let mut next = Client::connect(port, 0);
    next.open([1].into_iter(), "good third").unwrap();
    next.hear([1].into_iter(), 1);
    assert_eq!(stage.counts().0, CONNECTIONS);

    drop((clients, next));
    stage.eventually("all given back", || stage.counts() == (0, 0));
    stage.say("all closed");
    assert_eq!(stage.messages(), 2 * CONNECTIONS + 1);
    stage.refused("connections", 3);
    assert!(stage.agent.stop().success());
}

#[test]
fn every_stream_that_the_limit_allows_is_served_and_the_next_is_refused() {
    const EACH: usize = 64;
    if harness::skip("streams") || few_files("streams") {
        return;
    }
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let stage = Stage::new("streams");
    let port = stage.server.address.port();
    let ids = || (0..EACH as u32).map(|i| 2 * i + 1);
    let mut clients = together(STREAMS / EACH, |index| {
        let mut client = Client::connect(port, index);
        client.open(ids(), "good first").unwrap();
        client.hear(ids(), 1);
        client
    });
    assert_eq!((stage.counts(), stage.messages()), ((STREAMS / EACH, STREAMS), STREAMS));
    stage.say("all open");

    // On a connection of its own, and on one that has calls under way, which end with it.
    let mut one_more = Client::connect(port, 0);
    let _ = one_more.open([1].into_iter(), "good but too many");
    assert_eq!(one_more.end(), End::Reset);
    stage.refused("streams", 1);
    let mut last = clients.pop().unwrap();
    let _ = last.open([2 * EACH as u32 + 1].into_iter(), "good but too many");
    assert_eq!(last.end(), End::Reset);
    stage.refused("streams", 2);
    stage.eventually("room", || stage.counts() == (STREAMS / EACH - 1, STREAMS - EACH));

    // The others have not noticed, and there is room for as many streams as went.
    clients.iter_mut().for_each(|client| client.say(1, "good second"));
    clients.iter_mut().for_each(|client| client.hear([1].into_iter(), 2));
    let mut next = Client::connect(port, 0);
    next.open(ids(), "good third").unwrap();
    next.hear(ids(), 1);
    assert_eq!(stage.counts(), (STREAMS / EACH, STREAMS));

    drop((clients, next));
    stage.eventually("all given back", || stage.counts() == (0, 0));
    stage.say("all closed");
    assert_eq!(stage.messages(), STREAMS + STREAMS / EACH - 1 + EACH);
    stage.refused("streams", 2);
    assert!(stage.agent.stop().success());
}
