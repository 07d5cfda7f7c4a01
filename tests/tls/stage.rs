//! A server and a client over TLS, one of them in a cgroup under a policy.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use protocg_peers::harness::{self, Calls, Cgroup, Place, Protocg, Server, Session, Stack, patience};
use serde_json::{Value, json};
use tempfile::TempDir;

pub const BINARY: &str = env!("CARGO_BIN_EXE_protocg");
pub const HOOKS: &str = "[tls]\n";
pub const SECRET: &str = r#"
[[deny]]
name = "no-secrets"
methods = ["/echo.Echo/*"]
when = 'request.text.contains("SECRET")'
status = "INVALID_ARGUMENT"
"#;

pub fn policy(port: u16, top: &str, rules: &str) -> String {
    format!("name = \"tls\"\nproto = [\"echo.proto\"]\nports = [{port}]\ndefault = \"allow\"\n{top}\n{SECRET}\n{rules}")
}

/// Whether a test has to be skipped, and says so.
pub fn skip(test: &str) -> bool {
    harness::skip(test)
}

/// Whether a stack is not here, and says so.
pub fn lacks(stack: Stack, test: &str) -> bool {
    let lacks = stack.lacks();
    if let Some(what) = lacks {
        println!("SKIPPED {test}: {what}");
    }
    lacks.is_some()
}

/// Python with what the scripts here need.
pub fn python() -> Option<Command> {
    let venv = std::env::var_os("PROTOCG_VENV").map(PathBuf::from);
    let interpreter: PathBuf = venv.map_or_else(|| "python3".into(), |venv| venv.join("bin/python3"));
    let has = Command::new(&interpreter).args(["-c", "import h2, ssl"]).output();
    has.is_ok_and(|out| out.status.success()).then(|| Command::new(interpreter))
}

/// A client of tests/tls/ways.py.
pub fn way_of(python: &mut Command, way: &str, target: SocketAddr, text: &str) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls/ways.py");
    python.arg(script).args([way, &target.ip().to_string(), &target.port().to_string(), text]);
}

/// Where the server listens.
#[derive(Clone, Copy)]
pub enum Net {
    V4,
    V6,
}

impl Net {
    fn address(self) -> SocketAddr {
        match self {
            Self::V4 => (Ipv4Addr::LOCALHOST, 0).into(),
            Self::V6 => (Ipv6Addr::LOCALHOST, 0).into(),
        }
    }
}

/// A folder with a key and its certificate.
pub fn certificate() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    protocg_peers::tls::write_certificate(folder.path()).unwrap();
    folder
}

/// A server over TLS, a policy, and where clients run. Dropped in this order.
pub struct Stage {
    pub agent: Protocg,
    pub server: Server,
    pub cgroup: Cgroup,
    client: Box<dyn Fn() -> Command>,
    egress: bool,
    _folder: TempDir,
}

/// How a stack's server is told to use TLS: tonic makes its own certificate.
pub fn tls_server(stack: Stack, folder: &Path) -> Vec<String> {
    let own = stack == Stack::Tonic;
    std::iter::once("--tls".to_owned()).chain((!own).then(|| folder.display().to_string())).collect()
}

impl Stage {
    /// The server is in the cgroup.
    pub fn serving(name: &str, net: Net, rules: &str) -> Self {
        Self::serving_as(name, Stack::Tonic, Stack::Tonic.server(), net, rules)
    }

    /// The server is in the cgroup, and speaks without TLS.
    pub fn plain(name: &str, rules: &str) -> Self {
        let cgroup = Cgroup::new(name);
        let place = Place { cgroup: Some(&cgroup), net: None };
        let server = Server::start(Stack::Tonic, place, Net::V4.address());
        let agent = Protocg::run(BINARY, &[&cgroup], &policy(server.address.port(), "", rules), &[]);
        Self {
            agent,
            server,
            cgroup,
            client: Box::new(|| Stack::Tonic.client()),
            egress: false,
            _folder: certificate(),
        }
    }

    /// The server is in the cgroup, and is a program of a stack.
    pub fn serving_as(name: &str, stack: Stack, program: Command, net: Net, rules: &str) -> Self {
        Self::new(Cgroup::new(name), stack, program, net, rules, || {})
    }

    /// The server is in the cgroup, and is a program with tonic's arguments; something is done before it is enforced.
    pub fn around(program: Command, cgroup: Cgroup, before: impl FnOnce()) -> Self {
        Self::new(cgroup, Stack::Tonic, program, Net::V4, HOOKS, before)
    }

    fn new(cgroup: Cgroup, stack: Stack, program: Command, net: Net, rules: &str, before: impl FnOnce()) -> Self {
        let folder = certificate();
        let place = Place { cgroup: Some(&cgroup), net: None };
        let server = Server::start_as(program, place, net.address(), &tls_server(stack, folder.path()));
        before();
        let agent = Protocg::run(BINARY, &[&cgroup], &policy(server.address.port(), "", rules), &[]);
        Self { agent, server, cgroup, client: Box::new(|| Stack::Tonic.client()), egress: false, _folder: folder }
    }

    /// A client outside of every cgroup.
    pub fn client_of(server: &Server) -> Session {
        Calls { stack: Stack::Tonic, place: Place::default(), target: server.address }.session_with(&["--tls"])
    }

    /// The clients are in the cgroup.
    pub fn calling(name: &str, stack: Stack, rules: &str) -> Self {
        Self::calling_as(name, move || stack.client(), rules)
    }

    /// The clients are in the cgroup, and are such programs.
    pub fn calling_as(name: &str, client: impl Fn() -> Command + 'static, rules: &str) -> Self {
        let cgroup = Cgroup::new(name);
        let server = Server::start_with(Stack::Tonic, Place::default(), Net::V4.address(), &["--tls"]);
        let agent =
            Protocg::run(BINARY, &[&cgroup], &policy(server.address.port(), "direction = \"egress\"", rules), &[]);
        Self { agent, server, cgroup, client: Box::new(client), egress: true, _folder: certificate() }
    }

    /// What is done here to calls with denied plaintext; nothing if TLS cannot be judged here.
    pub fn rung(&self, test: &str) -> Option<String> {
        let rung = self.agent.of_type("ready")[0]["tls"].as_str().unwrap().to_owned();
        if rung == "none" {
            println!("SKIPPED {test}: {:?}", self.agent.of_type("warning"));
            return None;
        }
        Some(rung)
    }

    pub fn session(&self) -> Session {
        let place = Place { cgroup: self.egress.then_some(&self.cgroup), net: None };
        let calls = Calls { stack: Stack::Tonic, place, target: self.server.address };
        calls.session_as((self.client)(), &["--tls"])
    }

    /// The process that the policy is about is this one's or its client's.
    pub fn texts_until(&self, last: &str) -> Vec<String> {
        self.server.process().wait_for(last, |lines| {
            let texts: Vec<String> = lines
                .iter()
                .filter_map(|line| serde_json::from_str::<Value>(line).ok())
                .filter(|e| e["event"] == "message")
                .map(|e| e["fields"]["text"].as_str().unwrap_or_default().to_owned())
                .collect();
            texts.iter().any(|text| text == last).then_some(texts)
        })
    }
}

/// A call with a bound on its length: none may hang.
pub fn call(method: &str, messages: Value) -> Value {
    let deadline = u64::try_from(patience(Duration::from_secs(10)).as_millis()).unwrap();
    json!({ "method": method, "messages": messages, "deadline_ms": deadline })
}

pub fn unary(text: &str) -> Value {
    call("/echo.Echo/Unary", json!([{ "text": text }]))
}

pub fn make(session: &mut Session, call: &Value) -> Value {
    session.make(&json!([call])).remove(0)
}

/// Makes a call until it succeeds: right behind a denial it may meet the end of the connection.
pub fn make_until_ok(session: &mut Session, call: &Value) {
    let started = Instant::now();
    loop {
        let result = make(session, call);
        if result["code"] == 0 {
            return;
        }
        assert!(started.elapsed() < patience(Duration::from_secs(5)), "{result:#}");
    }
}

/// A denied call: its connection ends, and it hears of that at once.
#[track_caller]
pub fn refused(result: &Value) {
    assert_ne!(result["code"], 0, "{result:#}");
    assert_ne!(result["code"], 4, "not by its deadline: {result:#}");
    let bound = patience(Duration::from_secs(1)).as_secs_f64() * 1000.0;
    assert!(result["latency_ms"].as_f64().unwrap() < bound, "{result:#}");
}
