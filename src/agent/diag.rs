//! Sockets as the kernel's sock_diag interface shows them: listed by port, destroyed by tuple and cookie.
//!
//! Written by hand: the crates for it know neither the bytecode filter nor SOCK_DESTROY. No socket is asked for its
//! internals (no INET_DIAG_INFO), so a dump takes no socket's lock.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use netlink_sys::{Socket, SocketAddr};
use nix::sched::{CloneFlags, setns};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const NETLINK_SOCK_DIAG: isize = 4;
const INET_DIAG_REQ_BYTECODE: u16 = 1;
const INET_DIAG_CGROUP_ID: u16 = 21;

/// States of a connection that bytes may still come from: all but LISTEN, TIME_WAIT, CLOSE and SYN_*.
pub const CONNECTED: u32 = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11;
/// A listener.
pub const LISTENING: u32 = 1 << 10;

/// Which end's port is a policy's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The local one.
    Local,
    /// The remote one.
    Remote,
}

/// A TCP socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sock {
    /// SO_COOKIE.
    pub cookie: u64,
    /// Local end.
    pub local: (IpAddr, u16),
    /// Remote end; unspecified for a listener.
    pub remote: (IpAddr, u16),
    /// Inode, as in `/proc/PID/fd`; 0 while nobody has accepted it.
    pub inode: u32,
    /// Id of the cgroup that it was created in, if the kernel says it.
    pub cgroup: Option<u64>,
    /// Whether it listens.
    pub listening: bool,
}

/// The interface of one network namespace.
pub struct Diag {
    socket: Socket,
}

impl Diag {
    fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket })
    }

    /// TCP sockets in `states` with a port in `ranges` at `side`.
    pub fn list(&self, states: u32, side: Side, ranges: &[(u16, u16)]) -> io::Result<Vec<Sock>> {
        let mut found = Vec::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            let mut payload = request(family, states, &[0; 48]);
            let filter = filter(side, ranges);
            payload.extend((u16::try_from(filter.len() + 4).map_err(io::Error::other)?).to_ne_bytes());
            payload.extend(INET_DIAG_REQ_BYTECODE.to_ne_bytes());
            payload.extend(filter);
            let flags = libc::NLM_F_REQUEST | libc::NLM_F_DUMP;
            self.ask(SOCK_DIAG_BY_FAMILY, flags, &payload, |body| found.extend(parse(body)))?;
        }
        Ok(found)
    }

    /// Ends a connection: its owner gets ECONNABORTED, its peer RST.
    pub fn destroy(&self, cookie: u64, local: (IpAddr, u16), remote: (IpAddr, u16)) -> io::Result<()> {
        let (local_ip, remote_ip) = (local.0.to_canonical(), remote.0.to_canonical());
        let family = if local_ip.is_ipv4() && remote_ip.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        let mut id = Vec::with_capacity(48);
        id.extend(local.1.to_be_bytes());
        id.extend(remote.1.to_be_bytes());
        for ip in [local_ip, remote_ip] {
            match (family, ip) {
                (libc::AF_INET, IpAddr::V4(v4)) => {
                    id.extend(v4.octets());
                    id.extend([0; 12]);
                }
                (_, IpAddr::V4(v4)) => id.extend(v4.to_ipv6_mapped().octets()),
                (_, IpAddr::V6(v6)) => id.extend(v6.octets()),
            }
        }
        id.extend(0_u32.to_ne_bytes());
        id.extend((cookie as u32).to_ne_bytes());
        id.extend(((cookie >> 32) as u32).to_ne_bytes());
        let payload = request(family, u32::MAX, &id);
        self.ask(SOCK_DESTROY, libc::NLM_F_REQUEST | libc::NLM_F_ACK, &payload, |_| {})
    }

    fn ask(&self, kind: u16, flags: i32, payload: &[u8], mut each: impl FnMut(&[u8])) -> io::Result<()> {
        let mut message = Vec::with_capacity(16 + payload.len());
        message.extend(u32::try_from(16 + payload.len()).map_err(io::Error::other)?.to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend((flags as u16).to_ne_bytes());
        message.extend([0; 8]);
        message.extend(payload);
        self.socket.send(&message, 0)?;
        loop {
            let (answer, _) = self.socket.recv_from_full()?;
            let mut rest = answer.as_slice();
            while let Some(length) = number(rest, 0).map(|n| n as usize).filter(|&n| n >= 16) {
                let (Some(message), next) = (rest.get(..length), length.next_multiple_of(4)) else { break };
                let body = message.get(16..).unwrap_or_default();
                match message.get(4..6).map(|b| i32::from(u16::from_ne_bytes([b[0], b[1]]))) {
                    Some(libc::NLMSG_DONE) => return Ok(()),
                    Some(libc::NLMSG_ERROR) => {
                        let code = number(body, 0).unwrap_or(0).cast_signed();
                        return if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) };
                    }
                    _ => each(body),
                }
                rest = rest.get(next..).unwrap_or_default();
            }
        }
    }
}

/// Whether the kernel destroys sockets on demand: tried on one of our own.
pub fn can_destroy() -> Option<bool> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").ok()?;
    let address = listener.local_addr().ok()?;
    let cookie = super::sockets::cookie(listener.as_fd())?;
    let unspecified = (IpAddr::from([0, 0, 0, 0]), 0);
    let result = Diag::open().and_then(|d| d.destroy(cookie, (address.ip(), address.port()), unspecified));
    Some(result.is_ok())
}

/// struct inet_diag_req_v2: family, protocol, extensions, pad, states, id.
fn request(family: i32, states: u32, id: &[u8]) -> Vec<u8> {
    let mut out = vec![family as u8, libc::IPPROTO_TCP as u8, 0, 0];
    out.extend(states.to_ne_bytes());
    out.extend(id);
    out
}

/// Bytecode that accepts a port in one of `ranges`: each range is two comparisons and a jump to the end.
///
/// struct inet_diag_bc_op is code (8), yes (8), no (16); a comparison takes a second one, whose `no` is the port.
fn filter(side: Side, ranges: &[(u16, u16)]) -> Vec<u8> {
    const JUMP: u8 = 1;
    let (at_least, at_most) = match side {
        Side::Local => (2, 3),
        Side::Remote => (4, 5),
    };
    const RANGE: usize = 20;
    let total = ranges.len() * RANGE + 4;
    let mut out = Vec::with_capacity(total);
    let mut op = |code: u8, yes: u8, no: usize| {
        out.extend([code, yes]);
        out.extend(u16::try_from(no).unwrap_or(u16::MAX).to_ne_bytes());
    };
    for (index, &(first, last)) in ranges.iter().enumerate() {
        op(at_least, 8, RANGE);
        op(0, 0, first.into());
        op(at_most, 8, RANGE - 8);
        op(0, 0, last.into());
        op(JUMP, 4, total - index * RANGE - 16);
    }
    // No range: past the end means no.
    op(JUMP, 4, 8);
    out
}

/// struct inet_diag_msg: family, state, timer, retrans, id, expires, rqueue, wqueue, uid, inode; then attributes.
fn parse(body: &[u8]) -> Option<Sock> {
    let id = body.get(4..52)?;
    let port = |at: usize| id.get(at..at + 2).map(|b| u16::from_be_bytes([b[0], b[1]]));
    let v6 = i32::from(*body.first()?) == libc::AF_INET6;
    let ip = |at: usize| -> Option<IpAddr> {
        let bytes: [u8; 16] = id.get(at..at + 16)?.try_into().ok()?;
        let [a, b, c, d, ..] = bytes;
        Some(if v6 { IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical() } else { IpAddr::from([a, b, c, d]) })
    };
    let mut cgroup = None;
    let mut rest = body.get(72..).unwrap_or_default();
    while let Some(head) = rest.get(..4) {
        let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        if length < 4 {
            break;
        }
        if u16::from_ne_bytes([head[2], head[3]]) == INET_DIAG_CGROUP_ID {
            cgroup = rest.get(4..12).and_then(|b| Some(u64::from_ne_bytes(b.try_into().ok()?)));
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Some(Sock {
        cookie: u64::from(number(id, 40)?) | u64::from(number(id, 44)?) << 32,
        local: (ip(4)?, port(0)?),
        remote: (ip(20)?, port(2)?),
        inode: number(body, 68)?,
        cgroup,
        listening: *body.get(1)? == 10,
    })
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// The network namespaces that a cgroup's processes are in.
#[derive(Default)]
pub struct Namespaces {
    known: HashMap<u64, Diag>,
}

impl Namespaces {
    /// The namespaces of `pids`, opened where they are new, closed where nobody is left.
    pub fn of(&mut self, pids: &[u32]) -> impl Iterator<Item = &Diag> {
        let mut live = HashSet::new();
        for pid in pids {
            let path = format!("/proc/{pid}/ns/net");
            let Ok(meta) = std::fs::metadata(&path) else { continue };
            if live.insert(meta.ino()) && !self.known.contains_key(&meta.ino()) {
                match open_in(&path) {
                    Ok(diag) => drop(self.known.insert(meta.ino(), diag)),
                    Err(e) => tracing::warn!("cannot look into the network namespace of process {pid}: {e}"),
                }
            }
        }
        self.known.retain(|ino, _| live.contains(ino));
        self.known.values()
    }
}

/// A netlink socket belongs to the namespace that it was made in: a thread of its own goes there.
fn open_in(path: &str) -> io::Result<Diag> {
    let own = std::fs::metadata("/proc/self/ns/net")?.ino();
    let file = File::open(path)?;
    if file.metadata()?.ino() == own {
        return Diag::open();
    }
    let thread = std::thread::spawn(move || {
        setns(file.as_fd(), CloneFlags::CLONE_NEWNET)?;
        Diag::open()
    });
    thread.join().map_err(|_| io::Error::other("the helper thread ended"))?
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    /// The kernel's inet_diag_bc_run.
    fn run(code: &[u8], port: u16) -> bool {
        let (mut at, end) = (0_usize, code.len());
        while at < end {
            let operand = |at: usize| u16::from_ne_bytes([code[at + 2], code[at + 3]]);
            let yes = match code[at] {
                1 => false,
                2 | 4 => port >= operand(at + 4),
                3 | 5 => port <= operand(at + 4),
                other => unreachable!("{other}"),
            };
            at += if yes { usize::from(code[at + 1]) } else { usize::from(operand(at)) };
        }
        at == end
    }

    #[test]
    fn the_filter_accepts_exactly_the_ranges() {
        let code = filter(Side::Local, &[(50051, 50051), (9000, 9010), (1, 1)]);
        for port in [50051, 9000, 9005, 9010, 1] {
            assert!(run(&code, port), "{port}");
        }
        for port in [0, 2, 8999, 9011, 50050, 50052, 65535] {
            assert!(!run(&code, port), "{port}");
        }
        assert!(!run(&filter(Side::Remote, &[]), 80));
    }

    #[test]
    fn a_listener_and_a_connection_are_listed_by_port() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let Ok(diag) = Diag::open() else { return eprintln!("skipped: no sock_diag here") };
        let local = diag.list(LISTENING | CONNECTED, Side::Local, &[(port, port)]).unwrap();
        assert_eq!(local.iter().map(|s| s.listening).collect::<Vec<_>>(), [true, false]);
        let remote = diag.list(CONNECTED, Side::Remote, &[(port, port)]).unwrap();
        assert_eq!(remote.len(), 1);
        assert_eq!(remote[0].local.1, client.local_addr().unwrap().port());
        assert!(remote[0].inode != 0 && remote[0].cgroup.is_some());
    }
}
