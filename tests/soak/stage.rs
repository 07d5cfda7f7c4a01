//! A server whose handlers are listened to, the enforcer, and what is compared at the end.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use protocg::abi;
use protocg_peers::harness::{self, Cgroup, Place, Protocg, patience};

use crate::client::{DENIED_TEXT, Sum, Tally};
use crate::maps;

pub const BINARY: &str = env!("CARGO_BIN_EXE_protocg");
/// How many scenes there are: the last one prints what all came to.
const SCENES: usize = 6;
/// How often a long scene says how it goes.
pub const PROGRESS: Duration = Duration::from_secs(10);

/// How long a scene goes on; `share` is its part of the whole.
pub fn seconds(share: f64) -> Duration {
    let whole = std::env::var("PROTOCG_SOAK_SECONDS").ok().and_then(|n| n.parse().ok()).unwrap_or(4.0);
    Duration::from_secs_f64((whole * share).max(2.0))
}

/// Whether this is the long version.
pub fn long() -> bool {
    seconds(1.0) >= Duration::from_secs(60)
}

/// One scene at a time: each wants the whole machine.
pub fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A server's process, and what its handlers have got: it is counted, not kept.
pub struct Handlers {
    process: Child,
    pub address: SocketAddr,
    messages: Arc<AtomicU64>,
    denied: Arc<Mutex<Vec<String>>>,
}

impl Handlers {
    fn start(place: Place, address: SocketAddr) -> Self {
        let mut command = Command::new(harness::binaries().join("pg-server"));
        command.arg("--listen").arg(address.to_string()).stdout(Stdio::piped());
        place.enter(&mut command);
        let mut process = command.spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok);
        let address = lines.find_map(|l| l.strip_prefix("listening ")?.parse().ok()).unwrap();
        let (messages, denied) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(Vec::new())));
        let (count, found) = (Arc::clone(&messages), Arc::clone(&denied));
        std::thread::spawn(move || {
            for line in lines {
                if line.contains(DENIED_TEXT) || line.contains("/echo.Echo/Slow") {
                    found.lock().unwrap().push(line);
                } else if line.contains("\"event\":\"message\"") {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Self { process, address, messages, denied }
    }
}

impl Drop for Handlers {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub struct Stage {
    pub name: &'static str,
    pub agent: Option<Protocg>,
    pub handlers: Handlers,
    pub cgroup: Cgroup,
    policy: String,
    flags: &'static [&'static str],
    before: BTreeMap<String, usize>,
    started: Instant,
}

impl Stage {
    pub fn new(name: &'static str, place: Place, address: SocketAddr, flags: &'static [&'static str]) -> Self {
        let cgroup = Cgroup::new(name);
        let handlers = Handlers::start(Place { cgroup: Some(&cgroup), ..place }, address);
        let policy = format!(
            "name = \"soak\"\nproto = [\"echo.proto\"]\nports = [{}]\ndefault = \"allow\"\n[[deny]]\nname = \"no-a\"\n\
             methods = [\"/echo.Echo/*\"]\nwhen = 'request.text.contains(\"A\")'\n\
             [[deny]]\nname = \"slow\"\nmethods = [\"/echo.Echo/Slow\"]\n",
            handlers.address.port()
        );
        let agent = Protocg::run(BINARY, &[&cgroup], &policy, flags);
        let before = maps::entries(cgroup.path());
        Self { name, agent: Some(agent), handlers, cgroup, policy, flags, before, started: Instant::now() }
    }

    /// On loopback.
    pub fn local(name: &'static str, flags: &'static [&'static str]) -> Self {
        Self::new(name, Place::default(), SocketAddr::from(([0, 0, 0, 0], 0)), flags)
    }

    /// An agent like the first.
    pub fn another_agent(&self) -> Protocg {
        Protocg::run(BINARY, &[&self.cgroup], &self.policy, self.flags)
    }

    pub fn count(&self, counter: u32) -> u64 {
        maps::sum(&maps::of(self.cgroup.path(), "counters"), counter)
    }

    /// Says from time to time how it goes, until the time is over or something says so.
    pub fn progress(&self, time: Duration, tally: &Tally, over: &AtomicBool) {
        let (bound, mut said) = (Instant::now() + time, Instant::now());
        while Instant::now() < bound && !over.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(50));
            if said.elapsed() >= PROGRESS {
                said = Instant::now();
                println!("{} after {:.0?}: {:?}", self.name, self.started.elapsed(), tally.sum());
            }
        }
        over.store(true, Ordering::Relaxed);
    }

    /// Waits for what must come.
    pub fn eventually(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let bound = Instant::now() + patience(Duration::from_secs(30));
        while !holds() {
            assert!(Instant::now() < bound, "{}: {what}: {:?}", self.name, maps::entries(self.cgroup.path()));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// All clients are gone; one agent has lived all the time, so its events are complete.
    pub fn over(mut self, tally: &Tally) {
        let mut row = self.agrees(tally);
        let lost = self.count(abi::PG_N_EVENTS_LOST);
        let agent = self.agent.take().unwrap();
        row.told = Some(self.events(agent, row.kernel, lost));
        self.say(&row);
    }

    /// The same where agents have come and gone: what one had heard and not printed when it was killed, nobody says.
    pub fn over_pinned(mut self, tally: &Tally, detach: impl Fn()) {
        let row = self.agrees(tally);
        assert!(self.agent.take().unwrap().stop().success());
        detach();
        self.say(&row);
    }

    /// What holds after every scene.
    fn agrees(&self, tally: &Tally) -> Row {
        let sum = tally.sum();
        let elapsed = self.started.elapsed();
        // Verdicts.
        let denied = self.handlers.denied.lock().unwrap().clone();
        assert!(denied.is_empty(), "{}: {} denied messages in handlers, {:?}", self.name, denied.len(), denied.first());
        assert_eq!((sum.breaches, sum.hung), (0, 0), "{}: {sum:?}", self.name);
        // A call fails with a connection that a denial has ended, and with nothing else.
        assert_eq!((sum.allowed_failed, sum.denied_inexact), (0, 0), "{}: {sum:?}", self.name);
        assert!(sum.ended > 0 || sum.allowed_lost + sum.denied_lost == 0, "{}: {sum:?}", self.name);
        // Maps.
        self.eventually("nothing stays in the maps", || {
            let conns = maps::of(self.cgroup.path(), "conns");
            maps::count(&conns) == 0
        });
        self.eventually("the maps are as before", || maps::entries(self.cgroup.path()) == self.before);
        let shares = maps::of(self.cgroup.path(), "shares");
        assert!(maps::all_zero(&shares), "{}: a share counts slots that nobody has", self.name);
        // Counts: what the handlers got, the clients know of; what the kernel denied, too.
        let messages = || self.handlers.messages.load(Ordering::Relaxed);
        self.eventually("the handlers' lines", || messages() >= sum.allowed);
        assert!(messages() <= sum.allowed + sum.allowed_lost, "{}: {} messages, {sum:?}", self.name, messages());
        let [rpcs, kernel] = [abi::PG_N_RPCS, abi::PG_N_DENIED].map(|counter| self.count(counter));
        let (least, most) = (sum.denied, sum.denied + sum.denied_lost);
        assert!((least..=most).contains(&kernel), "{}: the kernel denied {kernel}, {sum:?}", self.name);
        let calls = sum.allowed + sum.denied;
        let lost = sum.allowed_lost + sum.denied_lost;
        assert!((calls..=calls + lost).contains(&rpcs), "{}: {rpcs} RPCs, {sum:?}", self.name);
        let mended = self.count(abi::PG_N_MENDED);
        Row { elapsed, sum, kernel, mended, told: None }
    }

    /// Stops the agent; its decisions and what it says were summed up or lost are all denials.
    fn events(&self, mut agent: Protocg, kernel: u64, kernel_lost: u64) -> u64 {
        agent.process().signal(nix::sys::signal::Signal::SIGINT);
        assert!(agent.process().wait().success());
        let mut counted = 0;
        self.eventually("all events are printed", || {
            counted = 0;
            for event in agent.events() {
                counted += match event["type"].as_str() {
                    Some("decision") if event["verdict"] == "deny" => 1,
                    Some("lost") => event["count"].as_u64().unwrap(),
                    _ => 0,
                };
            }
            counted >= kernel
        });
        // What the ring buffer lost may be of another kind than denials.
        assert!((kernel..=kernel + kernel_lost).contains(&counted), "{}: {counted} events, {kernel}", self.name);
        counted
    }

    fn say(&self, row: &Row) {
        static ROWS: Mutex<Vec<String>> = Mutex::new(Vec::new());
        let line = row.line(self.name);
        println!("{HEAD}\n{line}");
        let mut rows = ROWS.lock().unwrap_or_else(PoisonError::into_inner);
        rows.push(line);
        if rows.len() == SCENES {
            println!("\nall scenes:\n{HEAD}\n{}", rows.join("\n"));
        }
    }
}

const HEAD: &str = "scene          seconds  connections   ended     allowed  lost with it    denied  lost with it  by kernel    mended    events";

struct Row {
    elapsed: Duration,
    sum: Sum,
    kernel: u64,
    mended: u64,
    told: Option<u64>,
}

impl Row {
    fn line(&self, name: &str) -> String {
        let Sum { connections, ended, allowed, allowed_lost, denied, denied_lost, .. } = self.sum;
        let told = self.told.map_or_else(|| "-".to_owned(), |n| n.to_string());
        format!(
            "{name:<14} {:>7.1} {connections:>12} {ended:>7} {allowed:>11} {allowed_lost:>13} {denied:>9} {denied_lost:>13} {:>10} {:>9} {told:>9}",
            self.elapsed.as_secs_f64(),
            self.kernel,
            self.mended,
        )
    }
}
