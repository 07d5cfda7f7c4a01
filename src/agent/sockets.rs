//! The sockets of other processes, by cookie.
//!
//! A denied connection's socket is looked for in the file descriptors of the cgroup's processes. What was seen is
//! remembered, so descriptors that were never looked at are looked at first, and a burst of denials on new
//! connections costs one look. What is remembered may be stale: it is checked when it is used.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::sys::socket::{SockaddrStorage, getpeername, getsockname};

/// Remembered sockets are forgotten all at once past this many.
const MAX_REMEMBERED: usize = 1 << 17;
/// What is remembered of a descriptor that is no socket.
const NO_SOCKET: u64 = 0;

/// A cache of who has which socket.
#[derive(Default)]
pub struct Sockets {
    inodes: HashMap<u32, HashMap<RawFd, u64>>,
    owners: HashMap<u64, (u32, RawFd)>,
}

impl Sockets {
    /// A copy of the descriptor of the socket with this cookie, if one of `pids` has it.
    pub fn find(&mut self, cookie: u64, pids: &[u32]) -> Option<OwnedFd> {
        if let Some(socket) = self.known(cookie) {
            return Some(socket);
        }
        if self.owners.len() > MAX_REMEMBERED {
            self.owners.clear();
            self.inodes.clear();
        }
        let live: HashSet<u32> = pids.iter().copied().collect();
        self.inodes.retain(|pid, _| live.contains(pid));
        for new_only in [true, false] {
            live.iter().for_each(|&pid| self.look(pid, new_only));
            if let Some(socket) = self.known(cookie) {
                return Some(socket);
            }
        }
        None
    }

    /// The process that has a socket that was found.
    pub fn owner(&self, cookie: u64) -> Option<u32> {
        self.owners.get(&cookie).map(|(pid, _)| *pid)
    }

    /// The same, if it was found before.
    pub fn known(&mut self, cookie: u64) -> Option<OwnedFd> {
        let &(pid, fd) = self.owners.get(&cookie)?;
        let socket = pidfd_open(pid).and_then(|pidfd| pidfd_getfd(&pidfd, fd)).ok();
        let socket = socket.filter(|socket| cookie_of(socket) == Some(cookie));
        if socket.is_none() {
            self.owners.remove(&cookie);
        }
        socket
    }

    /// Looks at a process's descriptors: all, or those that were not there the last time.
    fn look(&mut self, pid: u32, new_only: bool) {
        let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return };
        let present: HashSet<RawFd> = entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect();
        let known = self.inodes.entry(pid).or_default();
        known.retain(|fd, _| present.contains(fd));
        let mut pidfd = None;
        for fd in present {
            let before = known.get(&fd).copied();
            if new_only && before.is_some() {
                continue;
            }
            let inode = socket_inode(pid, fd).unwrap_or(NO_SOCKET);
            known.insert(fd, inode);
            if inode == NO_SOCKET || before == Some(inode) {
                continue;
            }
            if pidfd.is_none() {
                pidfd = pidfd_open(pid).ok();
            }
            let copy = pidfd.as_ref().and_then(|pidfd| pidfd_getfd(pidfd, fd).ok());
            if let Some(cookie) = copy.as_ref().and_then(cookie_of) {
                self.owners.insert(cookie, (pid, fd));
            }
        }
    }
}

/// The inodes of all sockets that `pids` have open, with one owner each.
pub fn inodes(pids: &[u32]) -> HashMap<u64, u32> {
    let mut found = HashMap::new();
    for &pid in pids {
        let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        for fd in entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()) {
            if let Some(inode) = socket_inode(pid, fd) {
                found.entry(inode).or_insert(pid);
            }
        }
    }
    found
}

fn socket_inode(pid: u32, fd: RawFd) -> Option<u64> {
    let target = fs::read_link(format!("/proc/{pid}/fd/{fd}")).ok()?;
    target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: two numbers go in, a descriptor or -1 comes back.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })
}

fn pidfd_getfd(pidfd: &OwnedFd, fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: three numbers go in, a descriptor or -1 comes back.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), fd, 0) })
}

fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    match RawFd::try_from(result) {
        // SAFETY: the call made the descriptor for us, and nobody else knows it.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

fn cookie_of(socket: &OwnedFd) -> Option<u64> {
    option(socket, libc::SOL_SOCKET, libc::SO_COOKIE, 0).ok().map(u64::from_ne_bytes)
}

/// How many bytes TCP has sent on it, retransmissions included.
pub fn bytes_sent(socket: &OwnedFd) -> Option<u64> {
    /// `tcpi_bytes_sent` in struct tcp_info.
    const BYTES_SENT: usize = 200;
    option(socket, libc::IPPROTO_TCP, libc::TCP_INFO, BYTES_SENT).ok().map(u64::from_ne_bytes)
}

/// How many bytes a segment of it may have.
pub fn segment_size(socket: &OwnedFd) -> Option<u32> {
    /// `tcpi_snd_mss` in struct tcp_info: 32 bits.
    const SEGMENT: usize = 16;
    option(socket, libc::IPPROTO_TCP, libc::TCP_INFO, SEGMENT).ok().map(u32::from_ne_bytes)
}

/// What the two ends of a connection have agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreed {
    /// The timestamp of a segment that leaves now, if they have any (RFC 7323, section 3).
    pub timestamp: Option<u32>,
    /// Selective acknowledgements (RFC 2018).
    pub sack: bool,
    /// By how many bits the window that is offered is scaled.
    pub scale: u8,
}

/// What a connection's ends have agreed on.
pub fn agreed(socket: &OwnedFd) -> io::Result<Agreed> {
    /// `tcpi_options` in struct tcp_info, and behind it the two scales, four bits each: of what is sent, and what is received.
    const OPTIONS: usize = 5;
    const TIMESTAMPS: u8 = 1;
    const SACK: u8 = 2;
    let [options, scales] = option(socket, libc::IPPROTO_TCP, libc::TCP_INFO, OPTIONS)?;
    let timestamp = match options & TIMESTAMPS {
        0 => None,
        _ => Some(u32::from_ne_bytes(option(socket, libc::IPPROTO_TCP, libc::TCP_TIMESTAMP, 0)?)),
    };
    Ok(Agreed { timestamp, sack: options & SACK != 0, scale: scales >> 4 })
}

/// The addresses of a connection: the socket's and its peer's. An IPv4 connection of an IPv6 socket is one of IPv4.
pub fn ends(socket: &OwnedFd) -> io::Result<(SocketAddr, SocketAddr)> {
    let address = |storage: SockaddrStorage| {
        let v4 = storage.as_sockaddr_in().map(|it| SocketAddr::from((it.ip(), it.port())));
        let v6 = storage.as_sockaddr_in6().map(|it| SocketAddr::from((it.ip().to_canonical(), it.port())));
        v4.or(v6).ok_or_else(|| io::Error::other("no address of the Internet"))
    };
    Ok((address(getsockname(socket.as_raw_fd())?)?, address(getpeername(socket.as_raw_fd())?)?))
}

/// How many bytes the peer has acknowledged.
pub fn bytes_acked(socket: &OwnedFd) -> Option<u64> {
    /// `tcpi_bytes_acked` in struct tcp_info.
    const BYTES_ACKED: usize = 120;
    option(socket, libc::IPPROTO_TCP, libc::TCP_INFO, BYTES_ACKED).ok().map(u64::from_ne_bytes)
}

/// The smoothed round-trip time to the peer.
pub fn round_trip(socket: &OwnedFd) -> Option<std::time::Duration> {
    /// `tcpi_rtt` in struct tcp_info: 32 bits, microseconds.
    const RTT: usize = 68;
    let rtt = option(socket, libc::IPPROTO_TCP, libc::TCP_INFO, RTT).ok().map(u32::from_ne_bytes)?;
    Some(std::time::Duration::from_micros(u64::from(rtt)))
}

/// Reads some bytes of a socket option's value.
fn option<const N: usize>(socket: &OwnedFd, level: i32, name: i32, offset: usize) -> io::Result<[u8; N]> {
    let mut value = [0_u8; 512];
    let mut length = if offset == 0 { N as libc::socklen_t } else { 512 };
    // SAFETY: `value` has room for `length` bytes, and the kernel writes no more than that.
    let result =
        unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, value.as_mut_ptr().cast(), &raw mut length) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let known = value.get(..length as usize).and_then(|known| known.get(offset..)?.first_chunk().copied());
    known.ok_or_else(|| io::Error::other("the kernel's value is shorter"))
}

/// Bytes in the send queue that have not been sent, or (`acknowledged`) not been acknowledged.
pub fn queued(socket: &OwnedFd, acknowledged: bool) -> Option<i32> {
    const SIOCOUTQ: libc::c_ulong = 0x5411;
    const SIOCOUTQNSD: libc::c_ulong = 0x894b;
    let mut count = 0_i32;
    let request = if acknowledged { SIOCOUTQ } else { SIOCOUTQNSD };
    // SAFETY: both requests write one int.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), request, &raw mut count) };
    (result == 0).then_some(count)
}

/// Bytes that the owner has not read yet.
pub fn unread(socket: &OwnedFd) -> Option<i32> {
    let mut count = 0_i32;
    // SAFETY: the request writes one int.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::FIONREAD, &raw mut count) };
    (result == 0).then_some(count)
}

/// Queues `bytes` without waiting; says how many were taken.
pub fn send(socket: &OwnedFd, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: `bytes` is readable for its length.
    let sent = unsafe {
        libc::send(socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
    };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Ends both directions: FIN after what is queued, end of file for the owner.
pub fn shutdown(socket: &OwnedFd) {
    let _ = nix::sys::socket::shutdown(socket.as_raw_fd(), nix::sys::socket::Shutdown::Both);
}

/// Takes the connection apart at once: connect(AF_UNSPEC) makes TCP send RST.
pub fn abort(socket: &OwnedFd) -> io::Result<()> {
    let unspecified = libc::sockaddr { sa_family: libc::AF_UNSPEC as libc::sa_family_t, sa_data: [0; 14] };
    let length = size_of_val(&unspecified) as libc::socklen_t;
    // SAFETY: the address is as long as `length` says.
    let result = unsafe { libc::connect(socket.as_raw_fd(), &raw const unspecified, length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The cookie of a socket of this process.
pub fn cookie(socket: BorrowedFd<'_>) -> Option<u64> {
    cookie_of(&socket.try_clone_to_owned().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    #[test]
    fn a_socket_is_found_by_cookie_answered_on_and_aborted() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        let mut sockets = Sockets::default();
        let pids = [std::process::id()];
        let copy = sockets.find(cookie(server.as_fd()).unwrap(), &pids).expect("found");
        assert_eq!(bytes_sent(&copy), Some(0));
        assert_eq!(send(&copy, b"hello").unwrap(), 5);
        let mut buffer = [0; 5];
        client.read_exact(&mut buffer).unwrap();
        assert_eq!((&buffer, queued(&copy, false)), (b"hello", Some(0)));
        assert_eq!((queued(&copy, true), bytes_acked(&copy)), (Some(0), Some(5)));
        assert_eq!(bytes_sent(&copy), Some(5));
        assert_eq!(ends(&copy).unwrap(), (listener.local_addr().unwrap(), client.local_addr().unwrap()));
        let agreed = agreed(&copy).unwrap();
        let later = super::agreed(&copy).unwrap().timestamp.expect("Linux has them");
        let since = later.wrapping_sub(agreed.timestamp.unwrap());
        assert!(agreed.sack && agreed.scale > 0 && since < 1_000_000, "{agreed:?} {since}");
        abort(&copy).unwrap();
        assert_eq!(client.read(&mut buffer).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert!(sockets.find(u64::MAX, &pids).is_none());
    }
}
