//! The arms: a server each, and what stands before it.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use protocg_peers::harness::{self, Cgroup, Protocg};
use tempfile::TempDir;

use crate::cpu::{self, Watch};
use crate::policies;
use crate::proxies::{self, Proxy};
use crate::serve::Check;

/// What enforces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nothing, or the application itself.
    App(Check),
    /// protocg, with a field rule and others beside it, on so many cgroups.
    Protocg(policies::Set, usize),
    /// Another process between client and server.
    Proxy(Proxy),
}

/// An arm as it is named and made.
#[derive(Debug, Clone, Copy)]
pub struct Spec {
    /// Its name in tables.
    pub name: &'static str,
    /// What enforces.
    pub kind: Kind,
}

/// What everything is compared with.
pub const BASE: &str = "unenforced";
/// The same once more: what differs between the two is noise.
pub const AGAIN: &str = "unenforced again (A/A)";
/// The arm that the targets are about.
pub const ONE: &str = "protocg, 1 field rule";
/// The same once more: what differs between the two is the noise of the kernel's time.
pub const ONE_AGAIN: &str = "protocg, 1 field rule again (A/A)";
/// protocg with many rules on other fields' values.
pub const FIELDS: &str = "protocg, 1,000 field rules";
/// protocg with many rules for other methods.
pub const METHODS: &str = "protocg, 10,000 method rules";
/// protocg on 1,000 cgroups.
pub const CROWD: &str = "protocg, 1,000 containers";
/// The application's own check, after its decoding.
pub const HANDLER: &str = "check in the handler";
/// Envoy for the same rule.
pub const ENVOY_FIELD: &str = "Envoy field extraction + RBAC";
/// HAProxy for the same rule.
pub const HAPROXY_FIELD: &str = "HAProxy ungrpc";

/// Every arm, in the order of the tables.
pub const ALL: &[Spec] = &[
    Spec { name: BASE, kind: Kind::App(Check::None) },
    Spec { name: AGAIN, kind: Kind::App(Check::None) },
    Spec { name: ONE, kind: Kind::Protocg(policies::Set::One, 1) },
    Spec { name: ONE_AGAIN, kind: Kind::Protocg(policies::Set::One, 1) },
    Spec { name: FIELDS, kind: Kind::Protocg(policies::Set::Fields, 1) },
    Spec { name: METHODS, kind: Kind::Protocg(policies::Set::Methods, 1) },
    Spec { name: "protocg, 100 containers", kind: Kind::Protocg(policies::Set::One, 100) },
    Spec { name: CROWD, kind: Kind::Protocg(policies::Set::One, 1000) },
    Spec { name: "tonic interceptor (metadata)", kind: Kind::App(Check::Interceptor) },
    Spec { name: HANDLER, kind: Kind::App(Check::Handler) },
    Spec { name: "Envoy RBAC (metadata)", kind: Kind::Proxy(Proxy::EnvoyRbac) },
    Spec { name: ENVOY_FIELD, kind: Kind::Proxy(Proxy::EnvoyField) },
    Spec { name: "HAProxy ACL (metadata)", kind: Kind::Proxy(Proxy::HaproxyAcl) },
    Spec { name: HAPROXY_FIELD, kind: Kind::Proxy(Proxy::HaproxyField) },
];

/// A process that ends with its handle.
#[derive(Debug)]
pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An arm that runs.
pub struct Arm {
    /// What it is.
    pub spec: Spec,
    /// Where the client connects to.
    pub target: SocketAddr,
    /// Whose processor time is looked at.
    pub watch: Watch,
    /// How long protocg took from its start to enforcing, as it says itself.
    pub start_ms: Option<u64>,
    // they go in this order: the enforcer first
    enforcer: Option<Enforcer>,
    _server: Process,
    /// The cgroup that the server is in.
    pub cgroup: Cgroup,
    others: Vec<Cgroup>,
}

/// An enforcing process with its files.
pub struct Enforcer {
    process: Process,
    _files: TempDir,
}

impl Arm {
    /// Starts a server, and what stands before it; waits until both are ready.
    pub fn start(spec: Spec) -> Result<Arm> {
        let cgroup = Cgroup::new("bench");
        let check = if let Kind::App(check) = spec.kind { check } else { Check::None };
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["serve", "--listen", "127.0.0.1:0", "--check"]);
        command.arg(format!("{check:?}").to_lowercase());
        let (server, address) = serve(command, &cgroup)?;
        Self::around(spec, cgroup, server, address)
    }

    /// Puts what enforces before a server that runs in this cgroup.
    pub fn around(spec: Spec, cgroup: Cgroup, server: Process, address: SocketAddr) -> Result<Arm> {
        let watch = Watch { server: Some(server.0.id()), enforcer: None };
        let (enforcer, others) = (None, Vec::new());
        let mut arm = Arm { spec, target: address, watch, start_ms: None, enforcer, _server: server, cgroup, others };
        match spec.kind {
            Kind::App(_) => {}
            Kind::Protocg(set, containers) => {
                arm.others = (1..containers).map(|_| Cgroup::new("bench-other")).collect();
                let (enforcer, start_ms) = enforce(&arm.cgroup, &arm.others, &policies::text(set, address.port()))?;
                (arm.enforcer, arm.start_ms) = (Some(enforcer), Some(start_ms));
            }
            Kind::Proxy(proxy) => {
                let (process, files, target) = proxies::start(proxy, address)?;
                (arm.enforcer, arm.target) = (Some(Enforcer { process, _files: files }), target);
            }
        }
        arm.watch.enforcer = arm.enforcer.as_ref().map(|e| e.process.0.id());
        Ok(arm)
    }
}

/// Starts a server that says `listening ADDR:PORT`, on the servers' processor.
pub fn serve(mut command: Command, cgroup: &Cgroup) -> Result<(Process, SocketAddr)> {
    cgroup.enter(&mut command);
    let mut server = Process(command.stdout(Stdio::piped()).spawn().context("cannot start a server")?);
    cpu::pin(server.0.id().cast_signed(), cpu::server())?;
    let mut line = String::new();
    BufReader::new(server.0.stdout.take().context("no output")?).read_line(&mut line)?;
    let address = line.trim().strip_prefix("listening ").with_context(|| format!("a server said `{line}`"))?;
    Ok((server, address.parse()?))
}

/// Starts protocg on these cgroups. Its events go to a file: nobody is woken by them.
fn enforce(cgroup: &Cgroup, others: &[Cgroup], policy: &str) -> Result<(Enforcer, u64)> {
    let all: Vec<&Cgroup> = std::iter::once(cgroup).chain(others).collect();
    let binary = binary()?;
    let (mut command, files) = Protocg::command(&binary.to_string_lossy(), &all, policy, &[]);
    let events = files.path().join("events");
    command.stdout(File::create(&events)?);
    let mut process = Process(command.spawn().context("cannot start protocg")?);
    // what a start takes is what it takes whoever starts it; what it takes then is taken from the server
    cpu::free(process.0.id())?;
    let bound = Instant::now() + harness::patience(Duration::from_secs(60));
    loop {
        let text = std::fs::read_to_string(&events)?;
        let ready = text.lines().filter_map(|l| serde_json::from_str::<serde_json::Value>(l).ok());
        if let Some(ready) = ready.into_iter().find(|v| v["type"] == "ready") {
            let start_ms = ready["start_ms"].as_u64().context("no start_ms")?;
            cpu::pin_process(process.0.id(), cpu::server())?;
            return Ok((Enforcer { process, _files: files }, start_ms));
        }
        if let Some(status) = process.0.try_wait()? {
            bail!("protocg ended: {status}");
        }
        ensure!(Instant::now() < bound, "protocg is not ready in time");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The optimised protocg that was built beside this program.
pub fn binary() -> Result<PathBuf> {
    let binary = harness::binaries().join("protocg");
    ensure!(binary.exists(), "{} is not built", binary.display());
    Ok(binary)
}

/// A port that nobody listens on now.
pub fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
