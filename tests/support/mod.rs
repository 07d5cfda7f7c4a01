//! A cgroup, the program, and what it says.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use protocg::cgroup::{Cgroup, mount_point};
use protocg::kernel::sys::{self, Hook};
use protocg_peers::harness::{flags, patience};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Says why a test cannot run here.
#[macro_export]
macro_rules! need_root {
    () => {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: attaching programs needs root");
            return;
        }
    };
}

/// A cgroup and a folder for one test.
pub struct Place {
    pub path: PathBuf,
    pub dir: tempfile::TempDir,
}

impl Place {
    pub fn new() -> Self {
        let name = format!("protocg-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = mount_point().unwrap().join(name);
        fs::create_dir(&path).unwrap();
        Self { path, dir: tempfile::tempdir().unwrap() }
    }

    /// A policy that enforces nothing but on this port.
    pub fn policy(&self, name: &str, port: u16) -> PathBuf {
        let path = self.dir.path().join(format!("{name}.toml"));
        fs::write(&path, format!("name = \"{name}\"\nproto = []\nports = [{port}]\ndefault = \"allow\"\n")).unwrap();
        path
    }

    pub fn cgroup(&self) -> Cgroup {
        Cgroup::open(&self.path).unwrap()
    }

    /// Names of the programs attached to the cgroup, over all hooks.
    pub fn attached(&self) -> Vec<String> {
        attached(&self.path)
    }

    /// A command that lives in the cgroup.
    pub fn inside(&self, command: &mut Command) -> Child {
        let procs = fs::OpenOptions::new().write(true).open(self.path.join("cgroup.procs")).unwrap();
        // SAFETY: the closure writes to a file, nothing else.
        unsafe { command.pre_exec(move || (&procs).write_all(b"0")) };
        command.spawn().unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Ok(cgroup) = Cgroup::open(&self.path) {
            let _ = cgroup.remove();
        }
    }
}

pub fn attached(path: &Path) -> Vec<String> {
    let cgroup = Cgroup::open(path).unwrap();
    let ids = Hook::ALL.into_iter().flat_map(|hook| sys::attached(cgroup.as_fd(), hook).unwrap());
    ids.map(|id| sys::program_name(id).unwrap()).collect()
}

pub fn protocg(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_protocg"));
    let (verb, rest) = arguments.split_first().unwrap();
    command.arg(verb).args(if *verb == "run" { flags() } else { &[] }).args(rest).stdin(Stdio::null());
    command
}

/// Status and standard error of a run that ends by itself.
pub fn ends(command: &mut Command) -> (i32, String) {
    let output = command.output().unwrap();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// A running agent.
pub struct Agent {
    pub child: Child,
    lines: BufReader<ChildStdout>,
}

impl Agent {
    /// Starts it with JSON events, and waits until it is ready; returns the events until then, `ready` last.
    pub fn start(arguments: &[&str]) -> (Self, Vec<serde_json::Value>) {
        let mut agent = Self::spawn(protocg(&["run", "--events", "json"]).args(arguments));
        let mut events = Vec::new();
        while events.last().is_none_or(|e: &serde_json::Value| e["type"] != "ready") {
            events.push(agent.event().expect("ready before the end"));
        }
        (agent, events)
    }

    pub fn spawn(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    /// The next event, or nothing at the end.
    pub fn event(&mut self) -> Option<serde_json::Value> {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        (!line.is_empty()).then(|| serde_json::from_str(&line).unwrap())
    }

    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    pub fn wait(mut self) -> (ExitStatus, String) {
        let mut rest = String::new();
        self.lines.read_to_string(&mut rest).unwrap();
        (self.child.wait().unwrap(), rest)
    }

    pub fn stop(self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait().0
    }
}

/// Waits for what must come.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    let bound = patience(Duration::from_secs(5));
    while !holds() {
        assert!(started.elapsed() < bound, "{what} within {bound:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
