//! What configures the network behind the filter: packet filters, traffic control, IPsec.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use super::make::{option, socket};
use super::{Args, done, errno};

/// Options of the old packet filters, from include/uapi/linux/netfilter_ipv4/ip_tables.h; the IPv6 one has the same number.
const REPLACE_TABLE: i32 = 64;

/// A table that is none: who may replace tables is told so.
fn replace(family: i32, level: i32) -> io::Result<()> {
    let socket = socket(family, libc::SOCK_DGRAM, 0)?;
    match option(&socket, level, REPLACE_TABLE, &[0]) {
        Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EFAULT)) => Ok(()),
        result => result,
    }
}

pub fn iptables(_: &Args) -> io::Result<()> {
    replace(libc::AF_INET, libc::IPPROTO_IP)
}

pub fn ip6tables(_: &Args) -> io::Result<()> {
    replace(libc::AF_INET6, libc::IPPROTO_IPV6)
}

/// No policy: what the socket had is taken away.
pub fn ipsec_of_one_socket(_: &Args) -> io::Result<()> {
    const IP_XFRM_POLICY: i32 = 17;
    let socket = socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    // SAFETY: no value is said to be there.
    done(unsafe { libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_IP, IP_XFRM_POLICY, std::ptr::null(), 0) }.into())
        .map(drop)
}

const GET_LINK: u16 = 18;
const NEW_FILTER: u16 = 44;

/// A message without attributes: the kernel finds what is missing, after it has let it in.
fn message(kind: u16) -> Vec<u8> {
    const REQUEST: u16 = 1;
    let mut bytes = 36_u32.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(REQUEST.to_ne_bytes());
    bytes.resize(36, 0);
    bytes
}

fn send(kinds: &[u16]) -> io::Result<()> {
    let socket: OwnedFd = socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE)?;
    let bytes: Vec<u8> = kinds.iter().flat_map(|kind| message(*kind)).collect();
    // SAFETY: the bytes are as many as is said.
    let sent = done(unsafe { libc::send(socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) } as libc::c_long)?;
    if usize::try_from(sent) == Ok(bytes.len()) { Ok(()) } else { Err(errno(libc::EIO)) }
}

pub fn filter(_: &Args) -> io::Result<()> {
    send(&[NEW_FILTER])
}

pub fn filter_behind(_: &Args) -> io::Result<()> {
    let mut kinds = vec![GET_LINK; 500];
    kinds.push(NEW_FILTER);
    send(&kinds)
}

pub fn question(_: &Args) -> io::Result<()> {
    send(&[GET_LINK, GET_LINK])
}

pub fn options(_: &Args) -> io::Result<()> {
    let tcp = socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
    option(&tcp, libc::IPPROTO_IP, libc::IP_TOS, &1_i32.to_ne_bytes())?;
    option(&tcp, libc::IPPROTO_TCP, libc::TCP_NODELAY, &1_i32.to_ne_bytes())?;
    let tcp6 = socket(libc::AF_INET6, libc::SOCK_STREAM, 0)?;
    option(&tcp6, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, &1_i32.to_ne_bytes())?;
    option(&tcp6, libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &1_i32.to_ne_bytes())
}
