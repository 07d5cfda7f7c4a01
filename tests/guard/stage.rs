//! A guarded cgroup, what is outside of it, and programs inside.

use std::fs;
use std::io::IoSlice;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use nix::sys::socket::{AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socket};
use protocg_peers::harness::{binaries, patience};
use serde_json::Value;

use crate::support::{Agent, Place};

/// Ports that nobody has at the moment.
pub fn free_ports<const N: usize>() -> [u16; N] {
    let held: Vec<_> = (0..N).map(|_| TcpListener::bind("0.0.0.0:0").unwrap()).collect();
    std::array::from_fn(|i| held[i].local_addr().unwrap().port())
}

/// A policy that decides nothing on this port, with these lines behind it.
pub fn policy(place: &Place, port: u16, more: &str) -> PathBuf {
    let path = place.dir.path().join("guard.toml");
    fs::write(&path, format!("name = \"guarded\"\nports = [{port}]\ndefault = \"allow\"\n{more}\n")).unwrap();
    path
}

/// Starts an agent, and returns what it says of the guard.
pub fn start(place: &Place, policy: &Path, more: &[&str]) -> (Agent, Value) {
    let mut arguments = more.to_vec();
    arguments.extend(["--cgroup", place.path.to_str().unwrap(), policy.to_str().unwrap()]);
    let (agent, events) = Agent::start(&arguments);
    let guard = events.last().unwrap()["guard"].clone();
    (agent, guard)
}

/// The ways that are closed, of what an agent said.
pub fn closed(guard: &Value) -> Vec<String> {
    let covers = guard.as_array().cloned().unwrap_or_default();
    covers.iter().filter(|c| c.get("why").is_none()).map(|c| c["way"].as_str().unwrap().to_owned()).collect()
}

/// Whether this kernel runs the guard's LSM programs, as the agent found out.
pub fn has_lsm(guard: &Value) -> bool {
    closed(guard).iter().any(|way| way == "bpf")
}

/// A program that runs inside to its end.
pub fn inside(place: &Place, program: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(program);
    let child =
        place.inside(command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()));
    child.wait_with_output().unwrap()
}

/// A Python program inside. Returns what it prints.
pub fn python(place: &Place, script: &str) -> String {
    let output = inside(place, "python3", &["-c", script]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// What is around a guarded cgroup.
pub struct Outside {
    /// A listener at every address.
    pub listener: TcpListener,
    /// A listener that is inherited, without the flag that would close it.
    pub inherited: OwnedFd,
    /// Another cgroup's list of processes, open for writing, to be inherited too.
    pub procs: OwnedFd,
    /// A process that has the same.
    pub process: Child,
    /// Another cgroup.
    pub other: Place,
    /// Where a listener and a packet socket are handed out.
    pub hand: PathBuf,
    _folder: tempfile::TempDir,
}

impl Outside {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let hand = folder.path().join("hand");
        let server = UnixListener::bind(&hand).unwrap();
        std::thread::spawn(move || {
            for stream in server.incoming().map_while(Result::ok) {
                let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                let packet = socket(AddressFamily::Packet, SockType::Raw, SockFlag::empty(), None).unwrap();
                for fd in [listener.as_raw_fd(), packet.as_raw_fd()] {
                    let fds = [fd];
                    let rights = [ControlMessage::ScmRights(&fds)];
                    let _ = sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(b"x")], &rights, MsgFlags::empty(), None);
                }
                // Its reader has a copy, or was refused one; this one must live until then.
                let _ = std::io::Read::read(&mut &stream, &mut [0]);
            }
        });
        let inherited = nix::unistd::dup(TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
        let other = Place::new();
        let procs = fs::OpenOptions::new().write(true).open(other.path.join("cgroup.procs")).unwrap().into();
        for fd in [&inherited, &procs] {
            let keep = nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty());
            nix::fcntl::fcntl(fd, keep).unwrap();
        }
        let process = Command::new("sleep").arg("600").spawn().unwrap();
        let listener = TcpListener::bind("0.0.0.0:0").unwrap();
        Self { listener, inherited, procs, process, other, hand, _folder: folder }
    }

    /// Tries every way around, from inside; with a library only those that need one. The names with the error that each
    /// ended with, 0 if it worked.
    pub fn escape(&self, place: &Place, agent: &Agent, ports: [u16; 3], library: Option<&Path>) -> Vec<(String, i32)> {
        let pins = Path::new("/sys/fs/bpf/protocg").join(place.cgroup().id.to_string());
        let outside = self.listener.local_addr().unwrap().port();
        // long enough for what works; what is closed waits for as long, many times
        let patience = patience(Duration::from_millis(700)).min(Duration::from_secs(2)).as_millis().to_string();
        let numbers: [(&str, String); 13] = [
            ("--policy-port", ports[0].to_string()),
            ("--declared-port", ports[1].to_string()),
            ("--other-port", ports[2].to_string()),
            ("--outside-port", outside.to_string()),
            ("--agent", agent.child.id().to_string()),
            ("--outside", self.process.id().to_string()),
            ("--pins", pins.display().to_string()),
            ("--own-cgroup", place.path.display().to_string()),
            ("--other-cgroup", self.other.path.display().to_string()),
            ("--hand", self.hand.display().to_string()),
            ("--inherited", self.inherited.as_raw_fd().to_string()),
            ("--procs", self.procs.as_raw_fd().to_string()),
            ("--patience", patience),
        ];
        let mut arguments: Vec<&str> = numbers.iter().flat_map(|(flag, value)| [*flag, value.as_str()]).collect();
        arguments.extend(library.iter().flat_map(|path| ["--library", path.to_str().unwrap()]));
        let output = inside(place, binaries().join("pg-escape").to_str().unwrap(), &arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let said = String::from_utf8(output.stdout).unwrap();
        let results = said.lines().map(|line| line.split_once(' ').unwrap());
        results.map(|(name, errno)| (name.to_owned(), errno.parse().unwrap())).collect()
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A UDP socket that hears nothing within a moment.
pub fn hears(socket: &UdpSocket) -> bool {
    socket.set_read_timeout(Some(patience(Duration::from_millis(300)))).unwrap();
    socket.recv(&mut [0; 8]).is_ok()
}
