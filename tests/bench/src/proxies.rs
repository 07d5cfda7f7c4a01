//! Envoy and HAProxy, as they are set up for the same rule.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::arms::{Process, free_port};
use crate::cpu;

/// Which proxy, and what it looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proxy {
    /// Envoy's RBAC filter, on metadata.
    EnvoyRbac,
    /// Envoy's field extraction, and RBAC on what it finds.
    EnvoyField,
    /// HAProxy's ACL, on metadata.
    HaproxyAcl,
    /// HAProxy's `ungrpc`, on the buffered body.
    HaproxyField,
}

impl Proxy {
    /// Why it cannot be given this load.
    #[must_use]
    pub fn cannot(self, bidi: bool) -> Option<&'static str> {
        (bidi && self == Self::HaproxyField).then_some("waits for a request's end")
    }

    fn config(self) -> &'static str {
        match self {
            Self::EnvoyRbac => include_str!("../config/envoy-rbac.yaml"),
            Self::EnvoyField => include_str!("../config/envoy-field.yaml"),
            Self::HaproxyAcl => include_str!("../config/haproxy-acl.cfg"),
            Self::HaproxyField => include_str!("../config/haproxy-field.cfg"),
        }
    }

    fn is_envoy(self) -> bool {
        matches!(self, Self::EnvoyRbac | Self::EnvoyField)
    }
}

fn envoy() -> PathBuf {
    std::env::var_os("PROTOCG_ENVOY").map_or_else(|| "envoy".into(), PathBuf::from)
}

/// What they say of themselves.
#[must_use]
pub fn versions() -> [String; 2] {
    // "/path/to/envoy  version: REVISION/1.40.0/Clean/...", "HAProxy version 2.6.12-1 2026/10/17 - ..."
    let first = |mut command: Command| {
        let output = command.output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let word =
            text.lines().find_map(|l| l.split_once("version")?.1.split_ascii_whitespace().find(|w| w.contains('.')))?;
        word.split('/').find(|w| w.contains('.')).map(str::to_owned)
    };
    let (mut e, mut h) = (Command::new(envoy()), Command::new("haproxy"));
    e.arg("--version");
    h.arg("-v");
    [("Envoy", first(e)), ("HAProxy", first(h))]
        .map(|(name, v)| format!("{name} {}", v.as_deref().unwrap_or("is not there")))
}

/// Starts a proxy with one thread before a server; waits until it listens.
pub fn start(proxy: Proxy, upstream: SocketAddr) -> Result<(Process, TempDir, SocketAddr)> {
    let folder = tempfile::tempdir()?;
    let port = free_port()?;
    let descriptors = folder.path().join("echo.binpb");
    std::fs::write(&descriptors, protocg_peers::proto::DESCRIPTORS)?;
    let config = proxy
        .config()
        .replace("@PORT@", &port.to_string())
        .replace("@UPSTREAM@", &upstream.port().to_string())
        .replace("@DESCRIPTORS@", &descriptors.to_string_lossy());
    let file = folder.path().join(if proxy.is_envoy() { "envoy.yaml" } else { "haproxy.cfg" });
    std::fs::write(&file, config)?;
    let mut command = if proxy.is_envoy() {
        let mut command = Command::new(envoy());
        command.args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "error", "-c"]);
        command
    } else {
        let mut command = Command::new("haproxy");
        command.args(["-db", "-q", "-f"]);
        command
    };
    command.arg(&file).stdout(Stdio::null());
    let mut process = Process(command.spawn().with_context(|| format!("cannot start {proxy:?}"))?);
    cpu::pin(process.0.id().cast_signed(), cpu::server())?;
    let target = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let bound = Instant::now() + Duration::from_secs(30);
    while TcpStream::connect(target).is_err() {
        ensure!(process.0.try_wait()?.is_none(), "{proxy:?} has ended");
        ensure!(Instant::now() < bound, "{proxy:?} does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok((process, folder, target))
}
