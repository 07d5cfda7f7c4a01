//! Sockets of all kinds.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use io_uring::{IoUring, opcode};
use nix::sched::{CloneFlags, unshare};

use super::{Args, done, errno};

/// A socket, by numbers.
pub fn socket(family: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: a system call with numbers; the descriptor that it returns is new, and ours.
    unsafe {
        let fd = libc::socket(family, kind, protocol);
        done(fd.into())?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

fn make(family: i32, kind: i32, protocol: i32) -> io::Result<()> {
    socket(family, kind, protocol).map(drop)
}

/// Sets a socket's option.
pub fn option(socket: &OwnedFd, level: i32, name: i32, value: &[u8]) -> io::Result<()> {
    let length = libc::socklen_t::try_from(value.len()).unwrap_or(0);
    // SAFETY: the value is as long as is said.
    done(unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, value.as_ptr().cast(), length) }.into()).map(drop)
}

const ALL_PROTOCOLS: i32 = 0x0300; // ETH_P_ALL, in network order

pub fn mptcp(_: &Args) -> io::Result<()> {
    make(libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_MPTCP)
}

pub fn mptcp6(_: &Args) -> io::Result<()> {
    make(libc::AF_INET6, libc::SOCK_STREAM, libc::IPPROTO_MPTCP)
}

pub fn mptcp_by_io_uring(_: &Args) -> io::Result<()> {
    by_io_uring(IoUring::new(4)?, libc::AF_INET, libc::IPPROTO_MPTCP)
}

/// The kernel's own thread makes the socket.
pub fn vsock_by_sqpoll(_: &Args) -> io::Result<()> {
    by_io_uring(IoUring::builder().setup_sqpoll(100).build(4)?, libc::AF_VSOCK, 0)
}

fn by_io_uring(mut ring: IoUring, family: i32, protocol: i32) -> io::Result<()> {
    let entry = opcode::Socket::new(family, libc::SOCK_STREAM, protocol).build();
    // SAFETY: the entry holds numbers only.
    unsafe { ring.submission().push(&entry) }.map_err(io::Error::other)?;
    ring.submit_and_wait(1)?;
    let result = ring.completion().next().ok_or_else(|| errno(libc::EIO))?.result();
    if result < 0 { Err(errno(-result)) } else { Ok(()) }
}

pub fn mptcp_in_netns(args: &Args) -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(|_| errno(libc::ENOSYS))?;
    mptcp(args)
}

pub fn raw_tcp(_: &Args) -> io::Result<()> {
    make(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_TCP)
}

pub fn raw6(_: &Args) -> io::Result<()> {
    make(libc::AF_INET6, libc::SOCK_RAW, libc::IPPROTO_ICMPV6)
}

pub fn raw_in_userns(args: &Args) -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET).map_err(|_| errno(libc::ENOSYS))?;
    raw_tcp(args)
}

pub fn sctp(_: &Args) -> io::Result<()> {
    make(libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_SCTP)
}

pub fn udplite(_: &Args) -> io::Result<()> {
    make(libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_UDPLITE)
}

pub fn l2tp(_: &Args) -> io::Result<()> {
    const IPPROTO_L2TP: i32 = 115;
    make(libc::AF_INET, libc::SOCK_DGRAM, IPPROTO_L2TP)
}

pub fn smc_transport(_: &Args) -> io::Result<()> {
    const IPPROTO_SMC: i32 = 256;
    make(libc::AF_INET, libc::SOCK_STREAM, IPPROTO_SMC)
}

pub fn packet(_: &Args) -> io::Result<()> {
    make(libc::AF_PACKET, libc::SOCK_RAW, ALL_PROTOCOLS)
}

pub fn packet_old(_: &Args) -> io::Result<()> {
    const SOCK_PACKET: i32 = 10;
    make(libc::AF_INET, SOCK_PACKET, ALL_PROTOCOLS)
}

pub fn xdp(_: &Args) -> io::Result<()> {
    make(libc::AF_XDP, libc::SOCK_RAW, 0)
}

pub fn vsock(_: &Args) -> io::Result<()> {
    make(libc::AF_VSOCK, libc::SOCK_STREAM, 0)
}

pub fn tipc(_: &Args) -> io::Result<()> {
    make(libc::AF_TIPC, libc::SOCK_STREAM, 0)
}

pub fn smc(_: &Args) -> io::Result<()> {
    const AF_SMC: i32 = 43;
    make(AF_SMC, libc::SOCK_STREAM, 0)
}

pub fn netfilter(_: &Args) -> io::Result<()> {
    make(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_NETFILTER)
}

pub fn xfrm(_: &Args) -> io::Result<()> {
    make(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_XFRM)
}

/// What every program needs.
pub fn plain(_: &Args) -> io::Result<()> {
    for (family, kind, protocol) in [
        (libc::AF_INET, libc::SOCK_STREAM, 0),
        (libc::AF_INET6, libc::SOCK_STREAM, libc::IPPROTO_TCP),
        (libc::AF_INET, libc::SOCK_DGRAM, 0),
        (libc::AF_INET6, libc::SOCK_DGRAM, libc::IPPROTO_UDP),
        (libc::AF_UNIX, libc::SOCK_STREAM, 0),
        (libc::AF_UNIX, libc::SOCK_SEQPACKET, 0),
        (libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE),
    ] {
        make(family, kind, protocol)?;
    }
    Ok(())
}
