//! Servers, clients and the enforcer as processes that are watched by the lines they print.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::{Cgroup, Stack, Veth, net::End};

/// How long anything may take that should happen at once.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Log {
    lines: Mutex<(Vec<String>, bool)>,
    more: Condvar,
}

/// A process whose standard output is collected; dropped, it is killed.
pub struct Watched {
    child: Child,
    log: Arc<Log>,
}

impl Watched {
    /// Starts a command.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn start(mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("cannot start {}: {e}", command.get_program().display()));
        let output = child.stdout.take().expect("piped");
        let log = Arc::new(Log::default());
        let sink = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                sink.lines.lock().expect("poisoned").0.push(line);
                sink.more.notify_all();
            }
            sink.lines.lock().expect("poisoned").1 = true;
            sink.more.notify_all();
        });
        Self { child, log }
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The lines so far.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.log.lines.lock().expect("poisoned").0.clone()
    }

    /// Waits for something to be found in the lines.
    ///
    /// # Panics
    /// If it is not found in time.
    pub fn wait_for<T>(&self, what: &str, mut find: impl FnMut(&[String]) -> Option<T>) -> T {
        let bound = Instant::now() + super::patience(PATIENCE);
        let mut lines = self.log.lines.lock().expect("poisoned");
        loop {
            if let Some(found) = find(&lines.0) {
                return found;
            }
            let left = bound.saturating_duration_since(Instant::now());
            assert!(!left.is_zero() && !lines.1, "{what}: not seen in {:#?}", lines.0);
            lines = self.log.more.wait_timeout(lines, left).expect("poisoned").0;
        }
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), signal);
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().expect("cannot wait")
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where a process runs.
#[derive(Default, Clone, Copy)]
pub struct Place<'a> {
    /// Its cgroup.
    pub cgroup: Option<&'a Cgroup>,
    /// Its network namespace.
    pub net: Option<(&'a Veth, End)>,
}

impl Place<'_> {
    /// Lets a command start there.
    pub fn enter(&self, command: &mut Command) {
        if let Some(cgroup) = self.cgroup {
            cgroup.enter(command);
        }
        if let Some((veth, end)) = self.net {
            veth.enter(end, command);
        }
    }
}

/// A gRPC server that logs what its handlers see.
pub struct Server {
    process: Watched,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Server {
    /// Starts one and waits until it listens. Port 0: the kernel chooses, and `address` says what.
    #[must_use]
    pub fn start(stack: Stack, place: Place, address: SocketAddr) -> Self {
        Self::start_with(stack, place, address, &[])
    }

    /// Starts one with more arguments.
    #[must_use]
    pub fn start_with(stack: Stack, place: Place, address: SocketAddr, more: &[&str]) -> Self {
        let more: Vec<_> = more.iter().map(|&text| text.to_owned()).collect();
        Self::start_as(stack.server(), place, address, &more)
    }

    /// Starts a program that takes the arguments of all servers.
    #[must_use]
    pub fn start_as(mut command: Command, place: Place, address: SocketAddr, more: &[String]) -> Self {
        command.arg("--listen").arg(address.to_string()).args(more);
        place.enter(&mut command);
        let process = Watched::start(command);
        let address = process.wait_for("listening", |lines| {
            lines.iter().find_map(|l| l.strip_prefix("listening ")?.parse::<SocketAddr>().ok())
        });
        Self { process, address }
    }

    /// What the handlers have seen: one object an event.
    #[must_use]
    pub fn seen(&self) -> Vec<Value> {
        self.process.lines().iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// How many messages the handlers have been given.
    #[must_use]
    pub fn messages(&self) -> usize {
        self.seen().iter().filter(|e| e["event"] == "message").count()
    }

    /// The process.
    #[must_use]
    pub fn process(&self) -> &Watched {
        &self.process
    }
}

/// Calls to make, and how.
pub struct Calls<'a> {
    /// The client's stack.
    pub stack: Stack,
    /// Where it runs.
    pub place: Place<'a>,
    /// The server.
    pub target: SocketAddr,
}

impl Calls<'_> {
    /// Makes the calls of one list, one channel, in turn, and returns their results in order.
    #[must_use]
    pub fn make(&self, calls: &Value) -> Vec<Value> {
        let results = self.run(&[], &format!("{calls}\n"));
        let mut results: Vec<Value> = results.into_iter().filter(|r| r["type"] == "result").collect();
        results.sort_by_key(|r| r["index"].as_u64());
        results
    }

    /// `--denials`: many calls at once that shall be denied, and how it looked.
    #[must_use]
    pub fn denials(&self, call: &Value, count: u32, concurrency: u32, code: i32, message: &str) -> Value {
        let (count, concurrency, code) = (count.to_string(), concurrency.to_string(), code.to_string());
        let arguments = ["--denials", &count, "--concurrency", &concurrency, "--code", &code, "--message", message];
        let mut results = self.run(&arguments, &format!("[{call}]\n"));
        results.pop().unwrap_or_default()
    }

    /// `--denials` with `--allowed`: half of `count` calls shall be denied, and the others among them succeed.
    #[must_use]
    pub fn storm(
        &self,
        denied: &Value,
        allowed: &Value,
        count: u32,
        concurrency: u32,
        code: i32,
        message: &str,
    ) -> Value {
        let (half, concurrency, code) = ((count / 2).to_string(), concurrency.to_string(), code.to_string());
        let arguments = [
            "--denials",
            &half,
            "--allowed",
            &half,
            "--concurrency",
            &concurrency,
            "--code",
            &code,
            "--message",
            message,
        ];
        let mut results = self.run(&arguments, &format!("[{denied}, {allowed}]\n"));
        results.pop().unwrap_or_default()
    }

    /// A client that stays, with its channel, and makes one list of calls after the other.
    #[must_use]
    pub fn session(&self) -> Session {
        self.session_with(&[])
    }

    /// A client that stays, started with more arguments.
    #[must_use]
    pub fn session_with(&self, arguments: &[&str]) -> Session {
        self.session_as(self.stack.client(), arguments)
    }

    /// The same, and the client is this program.
    #[must_use]
    pub fn session_as(&self, program: Command, arguments: &[&str]) -> Session {
        let mut command = self.command(program, arguments);
        command.stdin(Stdio::piped());
        let mut process = Watched::start(command);
        let input = process.child.stdin.take().expect("piped");
        Session { process, input, read: 0, connections: 0 }
    }

    fn command(&self, mut command: Command, arguments: &[&str]) -> Command {
        command.arg("--target").arg(self.target.to_string()).args(arguments);
        self.place.enter(&mut command);
        command
    }

    fn run(&self, arguments: &[&str], input: &str) -> Vec<Value> {
        let mut command = self.command(self.stack.client(), arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("cannot start the client");
        child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("the client has gone");
        let output = child.wait_with_output().expect("cannot wait");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "client: {} {text}", output.status);
        text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
    }
}

/// A client that stays.
pub struct Session {
    process: Watched,
    input: ChildStdin,
    read: usize,
    /// Connections made so far.
    pub connections: u64,
}

impl Session {
    /// Begins a list of calls.
    pub fn begin(&mut self, calls: &Value) {
        writeln!(self.input, "{calls}").expect("the client has gone");
    }

    /// Waits for the list that was begun, and returns its results in order.
    pub fn finish(&mut self) -> Vec<Value> {
        let from = self.read;
        let mut results = self.process.wait_for("the end of the calls", |lines| {
            let rest = lines[from..].iter().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}")));
            let mut results: Vec<Value> = Vec::new();
            for line in rest {
                results.push(line);
                if results.last().is_some_and(|l| l["type"] == "done") {
                    return Some(results);
                }
            }
            None
        });
        self.read += results.len();
        self.connections = results.pop().and_then(|done| done["connections"].as_u64()).unwrap_or_default();
        results.sort_by_key(|r| r["index"].as_u64());
        results
    }

    /// Makes the calls of one list.
    pub fn make(&mut self, calls: &Value) -> Vec<Value> {
        self.begin(calls);
        self.finish()
    }
}

/// The enforcer.
pub struct Protocg {
    process: Watched,
    _policy: tempfile::TempDir,
}

impl Protocg {
    /// `protocg run` with this binary on these cgroups, under a policy of the given text, whose proto paths are relative
    /// to this crate's `proto/`. Returns when it is ready.
    #[must_use]
    pub fn run(binary: &str, cgroups: &[&Cgroup], policy: &str, more: &[&str]) -> Self {
        let (command, folder) = Self::command(binary, cgroups, policy, more);
        let run = Self { process: Watched::start(command), _policy: folder };
        run.process.wait_for("ready", |lines| {
            lines.iter().any(|l| serde_json::from_str::<Value>(l).is_ok_and(|v| v["type"] == "ready")).then_some(())
        });
        run
    }

    /// The command that [`Protocg::run`] starts, and the folder that its policy is in.
    #[must_use]
    pub fn command(binary: &str, cgroups: &[&Cgroup], policy: &str, more: &[&str]) -> (Command, tempfile::TempDir) {
        let folder = tempfile::tempdir().expect("no temporary folder");
        for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("proto")).expect("proto/") {
            let path = entry.expect("proto/").path();
            std::fs::copy(&path, folder.path().join(path.file_name().expect("a file"))).expect("cannot copy");
        }
        let file = folder.path().join("policy.toml");
        std::fs::write(&file, policy).expect("cannot write the policy");
        let mut command = Command::new(binary);
        command.args(["run", "--events", "json"]).args(super::flags()).args(more);
        for cgroup in cgroups {
            command.arg("--cgroup").arg(cgroup.path());
        }
        command.arg(&file);
        (command, folder)
    }

    /// The process.
    pub fn process(&mut self) -> &mut Watched {
        &mut self.process
    }

    /// All events so far.
    #[must_use]
    pub fn events(&self) -> Vec<Value> {
        self.process.lines().iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Events of one type.
    #[must_use]
    pub fn of_type(&self, kind: &str) -> Vec<Value> {
        self.events().into_iter().filter(|e| e["type"] == kind).collect()
    }

    /// Waits for an event.
    pub fn wait_for(&self, what: &str, find: impl Fn(&Value) -> bool) -> Value {
        self.process.wait_for(what, |lines| {
            lines.iter().filter_map(|l| serde_json::from_str::<Value>(l).ok()).find(|e| find(e))
        })
    }

    /// Waits until its lines are so.
    pub fn process_lines(&self, until: impl Fn(&[String]) -> bool) {
        self.process.wait_for("its lines", |lines| until(lines).then_some(()));
    }

    /// Stops it as Ctrl-C does.
    pub fn stop(mut self) -> ExitStatus {
        self.process.signal(Signal::SIGINT);
        self.process.wait()
    }
}
