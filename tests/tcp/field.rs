//! What every test begins with: a server in a cgroup behind a veth pair, the enforcer, and clients made of raw packets.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use protocg_peers::h2raw::{self, Encoder, Style, frame};
use protocg_peers::harness::net::End;
use protocg_peers::harness::process::Place;
use protocg_peers::harness::{Cgroup, Protocg, Server, Stack, Veth, patience};
use protocg_peers::raw::Raw;
use protocg_peers::wire::Message;

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

/// A server in a cgroup behind a veth pair, and the enforcer.
pub struct Field {
    pub enforcer: Protocg,
    pub server: Server,
    pub veth: Veth,
    pub cgroup: Cgroup,
}

impl Field {
    pub fn new(name: &str) -> Self {
        Self::under(name, POLICY)
    }

    pub fn under(name: &str, policy: &str) -> Self {
        Self::with(name, policy, &[])
    }

    /// With more arguments for the enforcer.
    pub fn with(name: &str, policy: &str, more: &[&str]) -> Self {
        let cgroup = Cgroup::new(name);
        let veth = Veth::new();
        let enforcer = Protocg::run(env!("CARGO_BIN_EXE_protocg"), &[&cgroup], policy, more);
        let place = Place { cgroup: Some(&cgroup), net: Some((&veth, End::B)) };
        let address = SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, PORT));
        let server = Server::start(Stack::Tonic, place, address);
        Self { enforcer, server, veth, cgroup }
    }

    pub fn client(&self) -> Raw {
        Raw::new(&self.veth, false, PORT)
    }

    /// Waits until the handler has been given this query.
    pub fn seen(&self, query: &str) {
        self.server
            .process()
            .wait_for(query, |lines| lines.iter().any(|l| l.contains(&format!("\"query\":\"{query}\""))).then_some(()));
    }

    /// No handler has been given a query with an A; the server still serves.
    pub fn unharmed(self) {
        let mut probe = self.client();
        probe.connect();
        probe.send(&conversation("still-there"));
        self.seen("still-there");
        let denied: Vec<_> = self
            .server
            .seen()
            .into_iter()
            .filter(|e| e["fields"]["query"].as_str().is_some_and(|q| q.contains('A')))
            .collect();
        assert!(denied.is_empty(), "{denied:#?}");
        assert!(self.enforcer.stop().success());
    }

    pub fn cause(&self, reason: &str) {
        self.enforcer.wait_for(reason, |e| e["reason"] == reason || e["cause"] == reason);
    }
}

pub fn query(text: &str) -> Vec<u8> {
    Message::new().bytes(1, text).bytes
}

/// Everything that a client sends for one call, from the preface on.
pub fn conversation(text: &str) -> Vec<u8> {
    let mut encoder = Encoder::default();
    let mut out = h2raw::open(&[]);
    out.extend(frame::settings_ack());
    out.extend(h2raw::unary(&mut encoder, Style::PLAIN, 1, PATH, &query(text)));
    out
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
