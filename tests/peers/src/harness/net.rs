//! Two network namespaces with a veth pair between them.

use std::fs::File;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sched::{CloneFlags, setns};

/// Which end of the pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The client's.
    A,
    /// The server's.
    B,
}

/// Two namespaces, A and B, and their link. Addresses of A: 10.77.0.1, fd77::1; of B: 10.77.0.2, fd77::2. B believes
/// that 10.77.0.9, fd77::9 and 10.78.0.0/16 are behind A, whose stack does not own them: raw packets can be theirs.
#[derive(Debug)]
pub struct Veth {
    names: [String; 2],
}

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().expect("cannot run ip");
    assert!(status.success(), "ip {arguments}: {status}");
}

impl Veth {
    /// IPv4 address of B.
    pub const SERVER4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
    /// IPv6 address of B.
    pub const SERVER6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 2);
    /// Ethernet address of A's device.
    pub const MAC_A: [u8; 6] = [2, 0, 0, 0, 0xa, 1];
    /// Ethernet address of B's device.
    pub const MAC_B: [u8; 6] = [2, 0, 0, 0, 0xb, 1];

    /// A new pair.
    ///
    /// # Panics
    /// If iproute2 is missing or refuses.
    #[must_use]
    pub fn new() -> Self {
        let id = format!("{}-{}", std::process::id(), super::unique());
        let pair = Self { names: [format!("pga-{id}"), format!("pgb-{id}")] };
        let [a, b] = &pair.names;
        ip(&format!("netns add {a}"));
        ip(&format!("netns add {b}"));
        ip(&format!(
            "link add pga0 address 02:00:00:00:0a:01 netns {a} type veth peer name pgb0 address 02:00:00:00:0b:01 netns {b}"
        ));
        for (ns, device, host) in [(a, "pga0", 1), (b, "pgb0", 2)] {
            ip(&format!("-n {ns} addr add 10.77.0.{host}/24 dev {device}"));
            ip(&format!("-n {ns} addr add fd77::{host}/64 dev {device} nodad"));
            ip(&format!("-n {ns} link set lo up"));
            ip(&format!("-n {ns} link set {device} up"));
        }
        // Neighbours are known from the start: discovery on a new link takes longer than some clients wait.
        for (ns, device, host, mac) in [(a, "pga0", 2, "0b"), (b, "pgb0", 1, "0a")] {
            for address in [format!("10.77.0.{host}"), format!("fd77::{host}")] {
                ip(&format!("-n {ns} neigh replace {address} lladdr 02:00:00:00:{mac}:01 dev {device} nud permanent"));
            }
        }
        for address in ["10.77.0.9", "fd77::9"] {
            ip(&format!("-n {b} neigh replace {address} lladdr 02:00:00:00:0a:01 dev pgb0 nud permanent"));
        }
        ip(&format!("-n {b} route add 10.78.0.0/16 via 10.77.0.9"));
        pair
    }

    /// The name of an end's namespace.
    #[must_use]
    pub fn name(&self, end: End) -> &str {
        match end {
            End::A => &self.names[0],
            End::B => &self.names[1],
        }
    }

    fn open(&self, end: End) -> File {
        File::open(format!("/var/run/netns/{}", self.name(end))).expect("the namespace is gone")
    }

    /// Lets a command start in an end's namespace.
    pub fn enter(&self, end: End, command: &mut Command) {
        let namespace = self.open(end);
        // SAFETY: setns is a system call on an open descriptor.
        unsafe {
            command.pre_exec(move || setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET).map_err(Into::into));
        }
    }

    /// Runs a closure on a thread in an end's namespace.
    ///
    /// # Panics
    /// If the closure does.
    pub fn run<T: Send>(&self, end: End, work: impl FnOnce() -> T + Send) -> T {
        let namespace = self.open(end);
        std::thread::scope(|scope| {
            scope
                .spawn(move || {
                    setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET).expect("cannot enter the namespace");
                    work()
                })
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

/// A number of `nstat` in an end's namespace.
///
/// # Panics
/// If there is none of that name.
#[must_use]
pub fn stat(veth: &Veth, end: End, name: &str) -> u64 {
    let read = || std::fs::read_to_string("/proc/thread-self/net/netstat").expect("no netstat");
    let text = veth.run(end, read);
    let lines: Vec<Vec<&str>> = text.lines().map(|l| l.split(' ').collect()).collect();
    let number = lines.chunks(2).find_map(|pair| {
        let [names, numbers] = pair else { return None };
        numbers.get(names.iter().position(|n| *n == name)?)?.parse().ok()
    });
    number.unwrap_or_else(|| panic!("no {name}"))
}

impl Default for Veth {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Veth {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}
