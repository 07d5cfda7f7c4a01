//! Segments that take the place of dropped ones, of clients and of servers.
//!
//! The kernel drops a segment with a denied frame and keeps a copy in which harmless frames stand in its place
//! (bpf/mend.h). Sent as a segment of the same connection, the copy fills the hole, and the connection goes on. It goes
//! over the loopback interface of the server's network namespace, as the client's; the filter passes it only if it is the
//! copy, byte for byte.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, getpeername, getsockname, sendto,
    socket,
};

use super::events;
use crate::abi;

const TCP: u8 = 6;
const TTL: u8 = 64;
/// Where sequence and acknowledgement number are in a TCP header.
const NUMBERS: usize = 4;
/// Where its flags are.
const FLAGS: usize = 13;
const FIN: u8 = 1;
const RST: u8 = 4;
const PSH: u8 = 8;
/// The flag that says that a segment acknowledges.
pub const ACK: u8 = 16;
/// Where the checksum is.
const CHECKSUM: usize = 16;
/// Network namespaces whose sockets are kept; past this many all are closed.
const MAX_NAMESPACES: usize = 256;

/// Whether a segment is a connection's last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Last {
    /// More come.
    No,
    /// It ends its side.
    Fin,
    /// It ends the connection. Its sequence number is the next that the client expects, so that it counts at once (RFC 5961, section 3).
    Reset,
}

impl Last {
    fn flags(self) -> u8 {
        ACK | match self {
            Last::No => PSH,
            Last::Fin => PSH | FIN,
            Last::Reset => RST,
        }
    }
}

/// What a copy acknowledges of the server's bytes. TCP refuses a segment that acknowledges too little (RFC 5961, section 5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acknowledged {
    /// What the dropped segment did, if that is more than this, which TCP has heard of. Where a client's segments are all dropped
    /// nothing else tells the server that it is read, and it would fall silent.
    AsSent(u32),
    /// This: the client may have acknowledged what was never sent.
    Heard(u32),
}

impl Acknowledged {
    fn write(self, header: &mut [u8]) -> io::Result<()> {
        let short = || io::Error::other("short TCP header");
        let at = header.get_mut(NUMBERS + 4..NUMBERS + 8).ok_or_else(short)?;
        let sent = at.iter().fold(0, |sum, &byte| sum << 8 | u32::from(byte));
        let number = match self {
            Self::AsSent(heard) if sent.wrapping_sub(heard).cast_signed() > 0 => sent,
            Self::AsSent(heard) | Self::Heard(heard) => heard,
        };
        at.copy_from_slice(&number.to_be_bytes());
        Ok(())
    }
}

/// Raw sockets in the network namespaces of servers.
#[derive(Default)]
pub struct Senders {
    known: HashMap<(u64, bool), OwnedFd>,
}

impl Senders {
    /// Sends the copy of a dropped segment to the socket that it was for, with a timestamp that is not older than the last
    /// that TCP took (RFC 7323, section 5).
    pub fn send(
        &mut self,
        to: &OwnedFd,
        hole: &abi::pg_hole_event,
        acknowledged: Acknowledged,
        ts_recent: u32,
        payload: &[u8],
    ) -> io::Result<()> {
        let (server, client) = ends(&hole.about);
        let mut header = header(hole)?;
        acknowledged.write(&mut header)?;
        let place = header.get_mut(NUMBERS..NUMBERS + 4).ok_or_else(|| io::Error::other("short TCP header"))?;
        place.copy_from_slice(&hole.seq.to_be_bytes());
        renew(&mut header, ts_recent);
        let packet = packet(client, server, &header, payload)?;
        let scope: SockaddrStorage = getsockname(to.as_raw_fd())?;
        self.send_packet(to, &packet, server, &scope)
    }

    /// Sends bytes to a server's client as a segment of the server's, where its socket can say nothing more.
    pub fn say(
        &mut self,
        from: &OwnedFd,
        place: &abi::pg_hole_event,
        seq: u32,
        last: Last,
        payload: &[u8],
    ) -> io::Result<()> {
        let mut header = header(place)?;
        header.get_mut(NUMBERS..NUMBERS + 4).into_iter().for_each(|at| at.copy_from_slice(&seq.to_be_bytes()));
        header.get_mut(FLAGS).into_iter().for_each(|flags| *flags = last.flags());
        self.speak(from, ends(&place.about), &header, payload)
    }

    /// Sends a segment with this TCP header to a server's client as one of the server's.
    pub fn speak(
        &mut self,
        from: &OwnedFd,
        (server, client): (IpAddr, IpAddr),
        header: &[u8],
        payload: &[u8],
    ) -> io::Result<()> {
        let packet = packet(server, client, header, payload)?;
        let scope: SockaddrStorage = getpeername(from.as_raw_fd())?;
        self.send_packet(from, &packet, client, &scope)
    }

    /// Sends a packet in the network namespace of a socket. A link-local address needs its interface, which `scope` has; a
    /// raw socket wants no port.
    fn send_packet(
        &mut self,
        near: &OwnedFd,
        packet: &[u8],
        destination: IpAddr,
        scope: &SockaddrStorage,
    ) -> io::Result<()> {
        let address = match (scope.as_sockaddr_in6(), destination) {
            (Some(v6), IpAddr::V6(ip)) => SockaddrStorage::from(std::net::SocketAddrV6::new(ip, 0, 0, v6.scope_id())),
            _ => SockaddrStorage::from(SocketAddr::new(destination, 0)),
        };
        let sender = self.in_namespace_of(near, packet_is_v6(packet))?;
        match sendto(sender.as_raw_fd(), packet, &address, MsgFlags::MSG_DONTWAIT)? {
            sent if sent == packet.len() => Ok(()),
            _ => Err(io::Error::other("the segment was cut short")),
        }
    }

    fn in_namespace_of(&mut self, to: &OwnedFd, v6: bool) -> io::Result<&OwnedFd> {
        let namespace = namespace_of(to)?;
        let key = (namespace.metadata()?.ino(), v6);
        if self.known.len() >= MAX_NAMESPACES && !self.known.contains_key(&key) {
            self.known.clear();
        }
        Ok(match self.known.entry(key) {
            std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::hash_map::Entry::Vacant(new) => new.insert(open_in(namespace, v6)?),
        })
    }
}

/// The addresses of a connection: the server's and the client's.
fn ends(about: &abi::pg_event) -> (IpAddr, IpAddr) {
    let (server, client) = (events::address(about.local), events::address(about.remote));
    match i32::from(about.family) {
        libc::AF_INET6 => (server, client),
        _ => (server.to_canonical(), client.to_canonical()),
    }
}

/// The TCP header of a dropped segment.
fn header(dropped: &abi::pg_hole_event) -> io::Result<Vec<u8>> {
    let header = dropped.tcp.get(..dropped.header as usize).ok_or_else(|| io::Error::other("no TCP header"))?;
    Ok(header.to_vec())
}

/// Sets a timestamp that is older than TS.Recent to that (RFC 7323, section 3.2: kind 8, length 10, value, echo).
fn renew(header: &mut [u8], ts_recent: u32) {
    const OPTIONS: usize = 20;
    const END: u8 = 0;
    const NOTHING: u8 = 1;
    const TIMESTAMPS: u8 = 8;
    let mut at = OPTIONS;
    while let Some(&kind) = header.get(at) {
        let length = match (kind, header.get(at + 1)) {
            (END, _) => return,
            (NOTHING, _) => 1,
            (_, Some(&length)) if length >= 2 => usize::from(length),
            _ => return,
        };
        if kind == TIMESTAMPS
            && length == 10
            && let Some(value) = header.get_mut(at + 2..at + 6)
        {
            let given = value.iter().fold(0, |sum, &byte| sum << 8 | u32::from(byte));
            if (given.wrapping_sub(ts_recent) as i32) < 0 {
                value.copy_from_slice(&ts_recent.to_be_bytes());
            }
            return;
        }
        at += length;
    }
}

fn packet_is_v6(packet: &[u8]) -> bool {
    packet.first().is_some_and(|byte| byte >> 4 == 6)
}

/// The network namespace of a socket.
fn namespace_of(socket: &OwnedFd) -> io::Result<File> {
    const SIOCGSKNS: libc::c_ulong = 0x894c;
    // SAFETY: the request takes no argument and returns a descriptor or -1.
    let fd = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCGSKNS) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call made the descriptor for us, and nobody else knows it.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// A socket belongs to the namespace that it was made in: a thread of its own goes there. IPPROTO_RAW takes packets with
/// their IP header and receives none.
fn open_in(namespace: File, v6: bool) -> io::Result<OwnedFd> {
    let family = if v6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let open = move || -> io::Result<OwnedFd> {
        setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)?;
        Ok(socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw)?)
    };
    std::thread::spawn(open).join().map_err(|_| io::Error::other("the helper thread ended"))?
}

/// An IP packet with this TCP header and payload.
fn packet(source: IpAddr, destination: IpAddr, header: &[u8], payload: &[u8]) -> io::Result<Vec<u8>> {
    let length = header.len() + payload.len();
    let too_long = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let mut out = Vec::with_capacity(40 + length);
    let mut sum = Sum::default();
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            // The kernel fills in length, identification and checksum (raw(7)).
            let total = u16::try_from(20 + length).map_err(too_long)?;
            out.extend([0x45, 0]);
            out.extend(total.to_be_bytes());
            out.extend([0, 0, 0x40, 0, TTL, TCP, 0, 0]);
            out.extend(source.octets());
            out.extend(destination.octets());
            sum.add(&source.octets());
            sum.add(&destination.octets());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            out.extend([0x60, 0, 0, 0]);
            out.extend(u16::try_from(length).map_err(too_long)?.to_be_bytes());
            out.extend([TCP, TTL]);
            out.extend(source.octets());
            out.extend(destination.octets());
            sum.add(&source.octets());
            sum.add(&destination.octets());
        }
        _ => return Err(io::Error::from(io::ErrorKind::InvalidInput)),
    }
    let mut header = header.to_vec();
    header.get_mut(CHECKSUM..CHECKSUM + 2).ok_or_else(|| io::Error::other("short TCP header"))?.fill(0);
    sum.add(&[0, TCP]);
    sum.add(&u32::try_from(length).map_err(too_long)?.to_be_bytes());
    sum.add(&header);
    sum.add(payload);
    header.splice(CHECKSUM..CHECKSUM + 2, sum.finish().to_be_bytes());
    out.extend(header);
    out.extend(payload);
    Ok(out)
}

/// The Internet checksum (RFC 1071). What is added has an even length, but for the last.
#[derive(Default)]
struct Sum(u64);

impl Sum {
    fn add(&mut self, bytes: &[u8]) {
        for pair in bytes.chunks(2) {
            self.0 += u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        }
    }

    fn finish(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a receiver sums up: all ones.
    fn folded(source: &[u8], destination: &[u8], tcp: &[u8]) -> u16 {
        let mut sum = Sum::default();
        [source, destination, &[0, TCP], &(tcp.len() as u32).to_be_bytes(), tcp].iter().for_each(|b| sum.add(b));
        !sum.finish()
    }

    #[test]
    fn a_copy_acknowledges_what_the_segment_did_or_what_was_heard() {
        let header = |number: u32| [&[0; 8], &number.to_be_bytes()[..], &[7; 8]].concat();
        for (sent, acknowledged, written) in [
            (5, Acknowledged::AsSent(3), 5),
            (3, Acknowledged::AsSent(5), 5),
            (2, Acknowledged::AsSent(u32::MAX), 2),
            (9, Acknowledged::Heard(5), 5),
        ] {
            let mut bytes = header(sent);
            acknowledged.write(&mut bytes).unwrap();
            assert_eq!(bytes, header(written));
        }
        assert!(Acknowledged::Heard(1).write(&mut [0; 11]).is_err());
    }

    #[test]
    fn timestamps_do_not_go_back() {
        let options = |value: u32| [&[1, 1, 8, 10][..], &value.to_be_bytes(), &[9; 4]].concat();
        for (given, recent, sent) in [(5, 3, 5), (5, 5, 5), (5, 8, 8), (u32::MAX, 3, 3), (3, u32::MAX, 3)] {
            let mut header = [vec![7; 20], options(given)].concat();
            renew(&mut header, recent);
            assert_eq!(header, [vec![7; 20], options(sent)].concat());
        }
        for other in [&[][..], &[0, 8, 10, 0, 0, 0, 0], &[8], &[8, 0], &[8, 10, 0, 0], &[3, 3, 7, 1]] {
            let mut header = [&[7; 20], other].concat();
            renew(&mut header, 9);
            assert_eq!(header, [&[7; 20], other].concat());
        }
    }

    #[test]
    fn packets_have_the_right_lengths_and_checksums() {
        let header = [[0x1f, 0x90, 0xc3, 0x54, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x18, 1, 0], [9; 16]].concat();
        let header = &header[..20];
        for payload in [&b""[..], b"odd", b"even"] {
            let (a, b) = ("192.0.2.1".parse::<IpAddr>().unwrap(), "192.0.2.77".parse::<IpAddr>().unwrap());
            let v4 = packet(a, b, header, payload).unwrap();
            assert_eq!(v4.len(), 40 + payload.len());
            assert_eq!(usize::from(u16::from_be_bytes([v4[2], v4[3]])), v4.len());
            assert_eq!(folded(&v4[12..16], &v4[16..20], &v4[20..]), 0xffff);
            let (a, b) = ("2001:db8::1".parse::<IpAddr>().unwrap(), "2001:db8::2".parse::<IpAddr>().unwrap());
            let v6 = packet(a, b, header, payload).unwrap();
            assert_eq!(v6.len(), 60 + payload.len());
            assert_eq!(usize::from(u16::from_be_bytes([v6[4], v6[5]])), 20 + payload.len());
            assert_eq!(folded(&v6[8..24], &v6[24..40], &v6[40..]), 0xffff);
        }
        let (a, b) = ("192.0.2.1".parse().unwrap(), "2001:db8::2".parse().unwrap());
        assert!(packet(a, b, header, b"").is_err());
        assert!(packet(a, a, header, &[0; 65536]).is_err());
        assert!(packet(a, a, &header[..10], b"").is_err());
    }
}
