//! Listening and connecting. A listener counts if somebody gets through to it.

use std::io::{self, IoSliceMut, Read, Write};
use std::mem::ManuallyDrop;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, SockaddrIn, SockaddrIn6, connect, recvmsg, socket,
};

use super::make;
use super::{Args, done, errno};

/// Where `[guard] connect` lets nothing go, and everybody listens who listens at every address.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// Somebody connects to a listener, and it hears a byte.
fn heard(listener: &TcpListener, args: &Args) -> io::Result<()> {
    let mut address = listener.local_addr()?;
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    let mut client = TcpStream::connect_timeout(&address, args.patience()).map_err(|e| match e.kind() {
        io::ErrorKind::TimedOut => errno(libc::ETIMEDOUT),
        _ => e,
    })?;
    client.write_all(b"x")?;
    let (mut server, _) = listener.accept()?;
    server.read_exact(&mut [0])
}

fn listen(args: &Args, address: impl Into<SocketAddr>) -> io::Result<()> {
    heard(&TcpListener::bind(address.into())?, args)
}

pub fn listen_policy(args: &Args) -> io::Result<()> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, args.policy_port)).map(drop)
}

pub fn listen_declared(args: &Args) -> io::Result<()> {
    listen(args, (Ipv4Addr::UNSPECIFIED, args.declared_port))
}

pub fn listen_other(args: &Args) -> io::Result<()> {
    listen(args, (Ipv4Addr::LOCALHOST, args.other_port))
}

pub fn listen_other6(args: &Args) -> io::Result<()> {
    TcpListener::bind((Ipv6Addr::LOCALHOST, args.other_port)).map(drop)
}

pub fn listen_in_netns(args: &Args) -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(|_| errno(libc::ENOSYS))?;
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, args.other_port)).map(drop)
}

pub fn listen_any(args: &Args) -> io::Result<()> {
    listen(args, (Ipv4Addr::LOCALHOST, 0))
}

fn unbound(args: &Args, family: i32) -> io::Result<()> {
    let listener = TcpListener::from(make::socket(family, libc::SOCK_STREAM, 0)?);
    // SAFETY: a system call on an open descriptor.
    done(unsafe { libc::listen(listener.as_raw_fd(), 1) }.into())?;
    heard(&listener, args)
}

pub fn listen_unbound(args: &Args) -> io::Result<()> {
    unbound(args, libc::AF_INET)
}

/// It is reached by IPv4 too; the address that it is asked at is 127.0.0.1, mapped.
pub fn listen_unbound6(args: &Args) -> io::Result<()> {
    let listener = TcpListener::from(make::socket(libc::AF_INET6, libc::SOCK_STREAM, 0)?);
    // SAFETY: as above.
    done(unsafe { libc::listen(listener.as_raw_fd(), 1) }.into())?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, listener.local_addr()?.port()));
    let mut client = TcpStream::connect_timeout(&address, args.patience()).map_err(|_| errno(libc::ETIMEDOUT))?;
    client.write_all(b"x")?;
    listener.accept()?.0.read_exact(&mut [0])
}

/// Go's listeners ask for Multipath TCP first (`net.ListenConfig`), and take plain TCP if that is refused.
pub fn falls_back(args: &Args) -> io::Result<()> {
    let socket = make::socket(libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_MPTCP)
        .or_else(|_| make::socket(libc::AF_INET, libc::SOCK_STREAM, 0))?;
    let address = SockaddrIn::from(std::net::SocketAddrV4::new(Ipv4Addr::LOCALHOST, args.declared_port));
    nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::ReuseAddr, &true)?;
    nix::sys::socket::bind(socket.as_raw_fd(), &address)?;
    let listener = TcpListener::from(socket);
    // SAFETY: a system call on an open descriptor.
    done(unsafe { libc::listen(listener.as_raw_fd(), 8) }.into())?;
    heard(&listener, args)
}

pub fn udp_policy_port(args: &Args) -> io::Result<()> {
    UdpSocket::bind((Ipv4Addr::LOCALHOST, args.policy_port)).map(drop)
}

pub fn udp_policy_port6(args: &Args) -> io::Result<()> {
    UdpSocket::bind((Ipv6Addr::LOCALHOST, args.policy_port)).map(drop)
}

pub fn udp_declared(args: &Args) -> io::Result<()> {
    UdpSocket::bind((Ipv4Addr::LOCALHOST, args.declared_port)).map(drop)
}

fn to(address: impl Into<SocketAddr>, args: &Args) -> io::Result<()> {
    TcpStream::connect_timeout(&address.into(), args.patience()).map(drop)
}

pub fn allowed(args: &Args) -> io::Result<()> {
    to((Ipv4Addr::LOCALHOST, args.outside_port), args)
}

pub fn elsewhere(args: &Args) -> io::Result<()> {
    to((ELSEWHERE, args.outside_port), args)
}

pub fn elsewhere_mapped(args: &Args) -> io::Result<()> {
    to((ELSEWHERE.to_ipv6_mapped(), args.outside_port), args)
}

/// Nobody need be there: to ask is enough.
pub fn elsewhere6(args: &Args) -> io::Result<()> {
    match to((Ipv6Addr::LOCALHOST, args.outside_port), args) {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        result => result,
    }
}

pub fn unspecified(args: &Args) -> io::Result<()> {
    let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::empty(), None)?;
    let address = SockaddrIn::from(std::net::SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, args.outside_port));
    connect(socket.as_raw_fd(), &address).map_err(Into::into)
}

pub fn fast_open(args: &Args) -> io::Result<()> {
    let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::empty(), None)?;
    let address = SockaddrIn::from(std::net::SocketAddrV4::new(ELSEWHERE, args.outside_port));
    let flags = MsgFlags::from_bits_retain(libc::MSG_FASTOPEN);
    nix::sys::socket::sendto(socket.as_raw_fd(), b"x", &address, flags).map(drop).map_err(Into::into)
}

pub fn datagram(args: &Args) -> io::Result<()> {
    UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?.send_to(b"x", (ELSEWHERE, args.other_port)).map(drop)
}

pub fn datagram_mapped(args: &Args) -> io::Result<()> {
    let socket = socket(AddressFamily::Inet6, SockType::Datagram, SockFlag::empty(), None)?;
    let address = std::net::SocketAddrV6::new(ELSEWHERE.to_ipv6_mapped(), args.other_port, 0, 0);
    let address = SockaddrIn6::from(address);
    nix::sys::socket::sendto(socket.as_raw_fd(), b"x", &address, MsgFlags::empty()).map(drop).map_err(Into::into)
}

/// The kernel takes an IPv4 address whose family is not said for one.
pub fn datagram_unspec(args: &Args) -> io::Result<()> {
    let socket = make::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    let address = libc::sockaddr_in {
        sin_family: 0,
        sin_port: args.other_port.to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(ELSEWHERE.octets()) },
        sin_zero: [0; 8],
    };
    // SAFETY: the buffer and the address are as long as is said, and live until the call returns.
    done(unsafe {
        let to = (&raw const address).cast();
        libc::sendto(socket.as_raw_fd(), b"x".as_ptr().cast(), 1, 0, to, 16) as libc::c_long
    })
    .map(drop)
}

fn sockaddr_in(address: Ipv4Addr, port: u16) -> SockaddrIn {
    SockaddrIn::from(std::net::SocketAddrV4::new(address, port))
}

pub fn datagram_v4_on_v6(args: &Args) -> io::Result<()> {
    let socket = make::socket(libc::AF_INET6, libc::SOCK_DGRAM, 0)?;
    let address = sockaddr_in(ELSEWHERE, args.other_port);
    nix::sys::socket::sendto(socket.as_raw_fd(), b"x", &address, MsgFlags::empty()).map(drop).map_err(Into::into)
}

pub fn datagram_connected(args: &Args) -> io::Result<()> {
    let socket = make::socket(libc::AF_INET6, libc::SOCK_DGRAM, 0)?;
    connect(socket.as_raw_fd(), &sockaddr_in(ELSEWHERE, args.other_port)).map_err(Into::into)
}

/// To where it may go, by way of where it may not.
pub fn source_route(args: &Args) -> io::Result<()> {
    const LOOSE_SOURCE_ROUTE: u8 = 131;
    let socket = make::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    let [a, b, c, d] = ELSEWHERE.octets();
    make::option(&socket, libc::IPPROTO_IP, libc::IP_OPTIONS, &[LOOSE_SOURCE_ROUTE, 7, 4, a, b, c, d, 0])?;
    let address = sockaddr_in(Ipv4Addr::LOCALHOST, args.outside_port);
    nix::sys::socket::sendto(socket.as_raw_fd(), b"x", &address, MsgFlags::empty()).map(drop).map_err(Into::into)
}

pub fn unix_listener(_: &Args) -> io::Result<()> {
    let path = std::env::temp_dir().join(format!("pg-escape-{}", std::process::id()));
    let result = UnixListener::bind(&path).map(drop);
    let _ = std::fs::remove_file(path);
    result
}

pub fn inherited(args: &Args) -> io::Result<()> {
    // SAFETY: the descriptor was inherited and stays open; it is not closed here.
    let listener = ManuallyDrop::new(unsafe { TcpListener::from_raw_fd(args.inherited) });
    heard(&listener, args)
}

/// A descriptor that somebody outside passes in, the `nth` of them.
fn receive(args: &Args, nth: usize) -> io::Result<OwnedFd> {
    let stream = UnixStream::connect(&args.hand)?;
    stream.set_read_timeout(Some(args.patience() * 10))?;
    let mut got = None;
    for _ in 0..=nth {
        let mut byte = [0];
        let mut buffer = [IoSliceMut::new(&mut byte)];
        let mut space = nix::cmsg_space!([libc::c_int; 1]);
        let message = recvmsg::<()>(stream.as_raw_fd(), &mut buffer, Some(&mut space), MsgFlags::empty())?;
        // A descriptor that may not be received is left out, and the message is marked as cut.
        got = message.cmsgs().ok().and_then(|mut all| {
            all.find_map(|cmsg| match cmsg {
                ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
                _ => None,
            })
        });
    }
    // SAFETY: it has just been received, and nobody else knows it.
    got.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }).ok_or_else(|| errno(libc::EPERM))
}

pub fn passed(args: &Args) -> io::Result<()> {
    heard(&receive(args, 0)?.into(), args)
}

pub fn passed_packet(args: &Args) -> io::Result<()> {
    receive(args, 1).map(drop)
}
