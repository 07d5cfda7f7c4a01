//! What every test begins with: a server in a cgroup behind a veth pair, with the enforcer or without, and clients made of
//! raw packets. One of them is a neighbour: whatever the test does, its connection stays and is served.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use protocg_peers::h2raw::{self, Encoder, Style, frame};
use protocg_peers::harness::net::End;
use protocg_peers::harness::process::Place;
use protocg_peers::harness::{self, Cgroup, Protocg, Server, Stack, Veth, patience};
use protocg_peers::raw::Raw;
use protocg_peers::wire::Message;
use serde_json::Value;

pub const PORT: u16 = 50051;
pub const PATH: &str = "/search.SearchService/Search";
pub const POLICY: &str = r#"
name = "tcp"
proto = ["search.proto"]
ports = [50051]
default = "deny"
[[deny]]
name = "no-a"
methods = ["/search.SearchService/Search"]
when = 'request.query.contains("A")'
[[allow]]
name = "search"
methods = ["/search.SearchService/*"]
"#;

/// What comes of an attack where nothing is enforced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Off {
    /// The handler gets what the policy denies.
    Succeeds,
    /// The kernel's own TCP or IP refuses it.
    StackRefuses,
}

/// The same attack without the enforcer and with it: the first time it ends as `off` says, the second it fails, and a
/// neighbour is served both times.
pub fn attack(name: &str, off: Off, act: impl Fn(&Field)) {
    if harness::skip(name) {
        return;
    }
    for enforced in [false, true] {
        let field = Field::maybe(name, enforced, POLICY, &[]);
        act(&field);
        field.over(off);
    }
}

/// A server in a cgroup behind a veth pair, and the enforcer, if there is one.
pub struct Field {
    enforcer: Option<Protocg>,
    pub server: Server,
    neighbour: RefCell<Raw>,
    path: &'static str,
    pub veth: Veth,
    pub cgroup: Cgroup,
}

impl Field {
    pub fn new(name: &str) -> Self {
        Self::maybe(name, true, POLICY, &[])
    }

    pub fn under(name: &str, policy: &str) -> Self {
        Self::maybe(name, true, policy, &[])
    }

    /// Enforced or not, and with more arguments for the enforcer.
    pub fn maybe(name: &str, enforced: bool, policy: &str, more: &[&str]) -> Self {
        let cgroup = Cgroup::new(name);
        let veth = Veth::new();
        let enforcer = enforced.then(|| Protocg::run(env!("CARGO_BIN_EXE_protocg"), &[&cgroup], policy, more));
        let place = Place { cgroup: Some(&cgroup), net: Some((&veth, End::B)) };
        let address = SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, PORT));
        let server = Server::start(Stack::Tonic, place, address);
        let mut neighbour = Raw::new(&veth, false, PORT);
        let path = if policy.contains("echo.proto") { "/echo.Echo/Unary" } else { PATH };
        neighbour.connect();
        neighbour.send(&conversation_of(path, "a neighbour"));
        neighbour.settle();
        let field = Self { enforcer, server, neighbour: RefCell::new(neighbour), path, veth, cgroup };
        field.seen("a neighbour");
        field
    }

    /// The enforcer, of a test that has one.
    pub fn enforcer(&self) -> &Protocg {
        self.enforcer.as_ref().expect("enforced")
    }

    pub fn enforced(&self) -> bool {
        self.enforcer.is_some()
    }

    /// The field and its enforcer, apart: pinned enforcement outlives its agent.
    pub fn without_agent(mut self) -> (Self, Protocg) {
        let enforcer = self.enforcer.take().expect("enforced");
        (self, enforcer)
    }

    /// Sends the agent a signal.
    pub fn signal(&mut self, signal: nix::sys::signal::Signal) {
        self.enforcer.as_mut().expect("enforced").process().signal(signal);
    }

    pub fn client(&self) -> Raw {
        Raw::new(&self.veth, false, PORT)
    }

    /// Waits until the handler has been given this text.
    pub fn seen(&self, text: &str) {
        let ends = [format!("\"query\":\"{text}\""), format!("\"text\":\"{text}\"")];
        self.server
            .process()
            .wait_for(text, |lines| lines.iter().any(|l| ends.iter().any(|end| l.contains(end))).then_some(()));
    }

    /// A denied call has been sent whole: without the enforcer the handler gets it. With it, nobody waits here; what it let
    /// through is seen at the end.
    pub fn sent(&self, text: &str) {
        if !self.enforced() {
            self.seen(text);
        }
    }

    /// What the handlers have been given of all that is denied here.
    pub fn breaches(&self) -> Vec<Value> {
        self.server.seen().into_iter().filter(is_denied).collect()
    }

    /// Waits until so many denials have been told, if anybody tells them.
    pub fn denials(&self, count: usize) {
        let denied = |l: &&String| l.contains("\"type\":\"decision\"") && l.contains("\"verdict\":\"deny\"");
        if let Some(enforcer) = &self.enforcer {
            enforcer.process_lines(|lines| lines.iter().filter(denied).count() >= count);
        }
    }

    /// Waits until the cause has been told, if anybody tells it.
    pub fn cause(&self, reason: &str) {
        if let Some(enforcer) = &self.enforcer {
            enforcer.wait_for(reason, |e| e["reason"] == reason || e["cause"] == reason);
        }
    }

    /// Waits until segments have been dropped for this reason, which is told by a counter only.
    pub fn dropped(&self, reason: u32) {
        if self.enforced() {
            let drops = crate::maps::of(self.cgroup.path(), "drops");
            eventually("segments dropped for the reason", || crate::maps::sum(&drops, reason) > 0);
        }
    }

    /// The connection that was there from the beginning is served.
    pub fn neighbour_is_served(&self) {
        let mut neighbour = self.neighbour.borrow_mut();
        neighbour.wait(Duration::ZERO, |_| false);
        neighbour.send(&h2raw::unary(&mut Encoder::default(), Style::PLAIN, 3, self.path, &query("still-there")));
        neighbour.settle();
        self.seen("still-there");
        neighbour.wait(Duration::from_millis(20), |_| false);
        assert!(!neighbour.reset && !neighbour.finished, "a neighbour's connection has ended");
    }

    /// Nothing denied has reached a handler; the neighbour is served.
    pub fn unharmed(self) {
        self.over(Off::Succeeds);
    }

    /// The attack is over: it came to what it was to come to, and the neighbour is served.
    pub fn over(self, off: Off) {
        self.neighbour_is_served();
        if !self.enforced() && off == Off::Succeeds {
            return eventually("the attack succeeds", || !self.breaches().is_empty());
        }
        assert!(self.breaches().is_empty(), "{:#?}", self.breaches());
        self.stop();
    }

    /// The enforcer ends, if there is one.
    pub fn stop(mut self) {
        if let Some(enforcer) = self.enforcer.take() {
            assert!(enforcer.stop().success());
        }
    }
}

/// A test that fails shows what the enforcer has counted and said.
impl Drop for Field {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(enforcer) = &self.enforcer
        {
            println!("{}\n{:#?}", crate::maps::counted(self.cgroup.path()), enforcer.events());
        }
    }
}

/// Is this handler's event one that no policy of these tests allows?
fn is_denied(event: &Value) -> bool {
    ["query", "text"].iter().any(|field| event["fields"][field].as_str().is_some_and(|text| text.contains('A')))
        || event["method"] == "/echo.Echo/Slow"
        || event["metadata"].to_string().contains("intruder")
}

pub fn query(text: &str) -> Vec<u8> {
    Message::new().bytes(1, text).bytes
}

/// Everything that a client sends for one call, from the preface on.
pub fn conversation(text: &str) -> Vec<u8> {
    conversation_of(PATH, text)
}

fn conversation_of(path: &str, text: &str) -> Vec<u8> {
    let mut encoder = Encoder::default();
    let mut out = h2raw::open(&[]);
    out.extend(frame::settings_ack());
    out.extend(h2raw::unary(&mut encoder, Style::PLAIN, 1, path, &query(text)));
    out
}

/// Another call on a connection that had one.
pub fn next_call(stream: u32, text: &str) -> Vec<u8> {
    h2raw::unary(&mut Encoder::default(), Style::PLAIN, stream, PATH, &query(text))
}

/// So long a client waits for what may not come.
pub const SHORT: Duration = Duration::from_millis(300);

/// Waits for what must come.
#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let bound = Instant::now() + patience(Duration::from_secs(10));
    while !holds() {
        assert!(Instant::now() < bound, "{what}: not within 10 s");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn fd(file: &impl std::os::fd::AsRawFd) -> i32 {
    file.as_raw_fd()
}
