//! What every test begins with: a server in a cgroup, a policy on its port, a client outside.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Once;
use std::time::{Duration, Instant};

use protocg_peers::harness::net::End;
use protocg_peers::harness::{self, Calls, Cgroup, Place, Protocg, Server, Session, Stack, Veth};
use serde_json::{Value, json};

pub const BINARY: &str = env!("CARGO_BIN_EXE_protocg");

/// A rule that tests deny by.
pub const SECRET: &str = r#"
[[deny]]
name = "no-secrets"
methods = ["/echo.Echo/*"]
when = 'request.text.contains("SECRET")'
status = "INVALID_ARGUMENT"
message = "keep your secrets"
"#;
pub const SECRET_CODE: i32 = 3;
pub const SECRET_MESSAGE: &str = "keep your secrets";

/// A policy on one port that allows what no rule denies.
pub fn policy(port: u16, rules: &str) -> String {
    policy_with(port, "", rules)
}

/// A policy with more keys at its top.
pub fn policy_with(port: u16, top: &str, rules: &str) -> String {
    let default = if top.contains("default =") { "" } else { "default = \"allow\"" };
    format!(
        "name = \"live\"\nproto = [\"echo.proto\", \"search.proto\", \"login.proto\"]\nports = [{port}]\n\
         {default}\n{top}\n{rules}"
    )
}

/// Whether a test has to be skipped, for the machine or for a stack; says so.
pub fn skip(test: &str, stacks: &[Stack]) -> bool {
    if harness::skip(test) {
        return true;
    }
    static BUILT: Once = Once::new();
    BUILT.call_once(|| {
        for name in ["pg-server", "pg-client"] {
            let path = harness::binaries().join(name);
            assert!(path.exists(), "{} is missing: run `cargo build --workspace --bins` first", path.display());
        }
    });
    let lacking = stacks.iter().find_map(|stack| stack.lacks());
    if let Some(why) = lacking {
        println!("SKIPPED {test}: {why}");
    }
    lacking.is_some()
}

/// How client and server reach each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Net {
    Loopback4,
    Loopback6,
    Veth4,
    Veth6,
}

impl Net {
    pub fn server(self) -> IpAddr {
        match self {
            Self::Loopback4 => Ipv4Addr::LOCALHOST.into(),
            Self::Loopback6 => Ipv6Addr::LOCALHOST.into(),
            Self::Veth4 => Veth::SERVER4.into(),
            Self::Veth6 => Veth::SERVER6.into(),
        }
    }

    pub fn client(self) -> &'static str {
        match self {
            Self::Loopback4 => "127.0.0.1",
            Self::Loopback6 => "::1",
            Self::Veth4 => "10.77.0.1",
            Self::Veth6 => "fd77::1",
        }
    }

    pub fn veth(self) -> Option<Veth> {
        matches!(self, Self::Veth4 | Self::Veth6).then(Veth::new)
    }
}

/// A server under a policy. Dropped in this order: enforcer, server, cgroup, network.
pub struct Stage {
    pub agent: Protocg,
    pub server: Server,
    pub cgroup: Cgroup,
    pub veth: Option<Veth>,
}

impl Stage {
    /// A server on a network; the policy's text is made from its port.
    pub fn new(name: &str, stack: Stack, net: Net, policy: impl FnOnce(u16) -> String, more: &[&str]) -> Self {
        let veth = net.veth();
        let cgroup = Cgroup::new(name);
        let place = Place { cgroup: Some(&cgroup), net: veth.as_ref().map(|v| (v, End::B)) };
        let server = Server::start(stack, place, SocketAddr::new(net.server(), 0));
        let agent = Protocg::run(BINARY, &[&cgroup], &policy(server.address.port()), more);
        Self { agent, server, cgroup, veth }
    }

    /// A tonic server on loopback under rules, nothing else.
    pub fn simple(name: &str, rules: &str) -> Self {
        Self::new(name, Stack::Tonic, Net::Loopback4, |port| policy(port, rules), &[])
    }

    /// A client outside the cgroup.
    pub fn calls(&self, stack: Stack) -> Calls<'_> {
        let place = Place { cgroup: None, net: self.veth.as_ref().map(|v| (v, End::A)) };
        Calls { stack, place, target: self.server.address }
    }

    /// Makes calls one after the other on one channel.
    pub fn make(&self, stack: Stack, calls: &[Value]) -> Vec<Value> {
        let mut session = self.calls(stack).session();
        calls.iter().map(|call| make(&mut session, call)).collect()
    }

    /// Waits until the handler has seen a text, and returns all texts that handlers have seen, in order.
    pub fn texts_until(&self, last: &str) -> Vec<String> {
        texts_until(&self.server, last)
    }

    /// Waits for so many decisions with a verdict, and says what there are.
    pub fn decisions(&self, verdict: &str, count: usize) -> Vec<Value> {
        let found = || -> Vec<Value> {
            self.agent.of_type("decision").into_iter().filter(|e| e["verdict"] == verdict).collect()
        };
        eventually(&format!("{count} decisions to {verdict}"), || found().len() >= count);
        found()
    }
}

/// Waits until the handler has seen a text, and returns all texts that handlers have seen, in order.
pub fn texts_until(server: &Server, last: &str) -> Vec<String> {
    server.process().wait_for(last, |lines| {
        let texts = texts(lines.iter().filter_map(|l| serde_json::from_str(l).ok()));
        texts.iter().any(|t| t == last).then_some(texts)
    })
}

fn texts(events: impl Iterator<Item = Value>) -> Vec<String> {
    events
        .filter(|e| e["event"] == "message")
        .map(|e| e["fields"]["text"].as_str().unwrap_or_default().to_owned())
        .collect()
}

/// A call with a bound on its length: none may hang.
pub fn call(method: &str, messages: Value) -> Value {
    let deadline = harness::patience(Duration::from_secs(10)).as_millis();
    json!({ "method": method, "messages": messages, "deadline_ms": u64::try_from(deadline).unwrap() })
}

/// A unary call.
pub fn unary(text: &str) -> Value {
    call("/echo.Echo/Unary", json!([{ "text": text }]))
}

/// The call with one more key.
pub fn with(mut call: Value, key: &str, value: impl Into<Value>) -> Value {
    call[key] = value.into();
    call
}

/// Makes one call.
///
/// tonic loses a call that it is given between a connection's GOAWAY and its end: hyper hands the request back unsent,
/// and tonic, unlike hyper's own client, does not try again. Such a call is repeated here, which the handlers' exact
/// counts hold to account.
pub fn make(session: &mut Session, call: &Value) -> Value {
    loop {
        let result = session.make(&json!([call])).remove(0);
        let unsent = result["code"] == 1 && result["cause"].as_str().unwrap().ends_with("canceled: connection closed");
        if !unsent {
            return result;
        }
        println!("tonic did not send a call after a GOAWAY: made again");
    }
}

/// How a call ended.
#[track_caller]
pub fn check(result: &Value, code: i32, message: &str) {
    let got = (result["code"].as_i64().unwrap(), result["message"].as_str().unwrap());
    assert_eq!(got, (code.into(), message), "{result:#}");
}

#[track_caller]
pub fn ok(result: &Value) {
    check(result, 0, "");
}

/// Waits for what must come.
#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    let bound = harness::patience(Duration::from_secs(10));
    while !holds() {
        assert!(started.elapsed() < bound, "{what}: not within {bound:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A port that nothing listens on now.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
