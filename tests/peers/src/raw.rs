//! A TCP client or server made of raw packets: every bit of every segment is the test's to choose.
//!
//! It lives at 10.77.0.9 and fd77::9, or anywhere in 10.78.0.0/16, behind end A of a [`Veth`], addresses that no stack
//! owns: nothing answers for it and no reset disturbs it.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::harness::net::End;
use crate::harness::{Veth, patience};

/// No more data.
pub const FIN: u8 = 0x01;
/// Synchronise.
pub const SYN: u8 = 0x02;
/// Reset.
pub const RST: u8 = 0x04;
/// Push.
pub const PSH: u8 = 0x08;
/// The acknowledgement number counts.
pub const ACK: u8 = 0x10;
/// The urgent pointer counts.
pub const URG: u8 = 0x20;

/// Of linux/if_packet.h.
const PACKET_IGNORE_OUTGOING: i32 = 23;
/// After so long without an acknowledgement TCP sends again, at first; then after twice as long (RFC 6298, section 5).
const AGAIN: Duration = Duration::from_millis(200);
/// So long it goes on.
const GIVES_UP: Duration = Duration::from_secs(10);
/// How often that is looked at.
const TURN: Duration = Duration::from_millis(20);
const CLIENT4: [u8; 4] = [10, 77, 0, 9];
const CLIENT6: [u8; 16] = [0xfd, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];

/// What is odd about a segment.
#[derive(Debug, Clone, Default)]
pub struct Odd {
    /// The checksum is wrong.
    pub bad_checksum: bool,
    /// Urgent pointer.
    pub urgent: u16,
    /// Another acknowledgement number than the right one.
    pub ack: Option<u32>,
    /// Bytes of an IPv6 extension header chain, whose last next-header is TCP, and its first header's type.
    pub extension: Option<(u8, Vec<u8>)>,
    /// Another timestamp than the client's own.
    pub timestamp: Option<u32>,
    /// Another window than the client's own.
    pub window: Option<u16>,
}

/// The client, or server.
pub struct Raw {
    socket: OwnedFd,
    v6: bool,
    /// Its port.
    pub sport: u16,
    /// The other end's; 0: a server's client has not come yet.
    dport: u16,
    /// Initial sequence number.
    pub isn: u32,
    /// Next sequence number to send.
    pub seq: u32,
    /// Next sequence number that is expected.
    pub ack: u32,
    /// Receive window, unscaled.
    pub window: u16,
    /// The SYN offers window scaling, of its own window by nothing: the server's may be larger than 64 KiB then.
    pub scaling: bool,
    /// The SYN allows selective acknowledgements (RFC 2018).
    pub sack: bool,
    /// The timestamp of every segment, the SYN's too; none: the option is not used (RFC 7323, section 3).
    pub timestamp: Option<u32>,
    /// Its IPv4 address.
    pub from: [u8; 4],
    /// What the server's window was in its last segment, unscaled.
    pub offered: u16,
    /// The highest acknowledgement received.
    pub acked: u32,
    /// Every segment without payload.
    pub acknowledgements: Vec<Acknowledgement>,
    /// Bytes received in order.
    pub received: Vec<u8>,
    /// Every payload that has come, in order or not, with its sequence number.
    pub came: Vec<(u32, Vec<u8>)>,
    /// Whether the server has reset the connection.
    pub reset: bool,
    /// Whether the server has closed its side.
    pub finished: bool,
    /// What is to be sent again if it is not acknowledged, in the order of the first time.
    unacknowledged: Mutex<Vec<Sent>>,
    /// When that is, and how long it took from the last time.
    timer: Option<(Instant, Duration)>,
}

/// A segment without payload.
#[derive(Debug, Clone)]
pub struct Acknowledgement {
    /// Its sequence number.
    pub seq: u32,
    /// What it acknowledges.
    pub ack: u32,
    /// Where the segments begin and end that it acknowledges selectively (RFC 2018).
    pub blocks: Vec<(u32, u32)>,
}

/// A segment that was sent.
struct Sent {
    flags: u8,
    seq: u32,
    payload: Vec<u8>,
}

impl Sent {
    fn end(&self) -> u32 {
        self.seq.wrapping_add(self.payload.len() as u32 + u32::from(self.flags & FIN))
    }
}

fn checksum(parts: &[&[u8]]) -> u16 {
    let bytes: Vec<u8> = parts.concat();
    let mut sum: u32 = 0;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// The blocks of a selective acknowledgement among TCP options (RFC 2018, section 3).
fn sacked(options: &[u8]) -> Vec<(u32, u32)> {
    let number = |bytes: &[u8]| bytes.iter().fold(0, |sum, &byte| sum << 8 | u32::from(byte));
    let mut rest = options;
    while let [kind, behind @ ..] = rest {
        let length = match (kind, behind) {
            (0, _) | (_, []) => break,
            (1, _) => 1,
            (_, [length, ..]) => usize::from(*length).max(2),
        };
        if *kind == 5 {
            let blocks = rest.get(2..length).unwrap_or_default();
            return blocks.chunks_exact(8).map(|block| (number(&block[..4]), number(&block[4..]))).collect();
        }
        rest = rest.get(length..).unwrap_or_default();
    }
    Vec::new()
}

/// Passes Ethernet frames whose TCP header, right behind the IP header, names this port as the destination.
fn only_to(port: u16) -> [libc::sock_filter; 8] {
    let instruction = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let half = libc::BPF_LD | libc::BPF_H | libc::BPF_ABS;
    let equals = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    [
        instruction(half, 0, 0, 12),
        instruction(equals, 0, 2, 0x86dd),
        instruction(half, 0, 0, 14 + 40 + 2),
        instruction(libc::BPF_JMP | libc::BPF_JA, 0, 0, 1),
        instruction(half, 0, 0, 14 + 20 + 2),
        instruction(equals, 0, 1, port.into()),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    ]
}

impl Raw {
    /// A client of `dport` on end B.
    ///
    /// # Panics
    /// If a packet socket is refused.
    #[must_use]
    pub fn new(veth: &Veth, v6: bool, dport: u16) -> Self {
        let sport = 20000 + u16::try_from(crate::harness::unique() % 20000).unwrap_or(0);
        Self::with(veth, v6, sport, dport, 1_000_000)
    }

    /// A client with a chosen port and initial sequence number.
    ///
    /// # Panics
    /// If a packet socket is refused.
    #[must_use]
    pub fn with(veth: &Veth, v6: bool, sport: u16, dport: u16, isn: u32) -> Self {
        let socket = veth.run(End::A, || {
            // SAFETY: plain system calls; the address is a valid structure of its stated size.
            unsafe {
                let all = i32::from((libc::ETH_P_ALL as u16).to_be());
                let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW, all);
                assert!(fd >= 0, "packet socket: {}", std::io::Error::last_os_error());
                let mut address: libc::sockaddr_ll = std::mem::zeroed();
                address.sll_family = libc::AF_PACKET as u16;
                address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
                address.sll_ifindex = libc::if_nametoindex(c"pga0".as_ptr()).cast_signed();
                let size = u32::try_from(size_of_val(&address)).unwrap_or(0);
                assert_eq!(libc::bind(fd, (&raw const address).cast(), size), 0);
                // What other clients send would be copied to each of them.
                let (on, size) = (1_i32, u32::try_from(size_of::<i32>()).unwrap_or(0));
                let on = (&raw const on).cast();
                assert_eq!(libc::setsockopt(fd, libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, on, size), 0);
                // So would what comes for them.
                let mut filter = only_to(sport);
                let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
                let (filter, size) = ((&raw const program).cast(), u32::try_from(size_of_val(&program)).unwrap_or(0));
                assert_eq!(libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, filter, size), 0);
                OwnedFd::from_raw_fd(fd)
            }
        });
        Self {
            socket,
            v6,
            sport,
            dport,
            isn,
            seq: isn,
            ack: 0,
            window: 65535,
            scaling: false,
            sack: false,
            timestamp: None,
            from: CLIENT4,
            offered: 0,
            acked: isn,
            acknowledgements: Vec::new(),
            received: Vec::new(),
            came: Vec::new(),
            reset: false,
            finished: false,
            unacknowledged: Mutex::default(),
            timer: None,
        }
    }

    /// A server on a port, for one client of end B.
    #[must_use]
    pub fn listen(veth: &Veth, port: u16) -> Self {
        Self::with(veth, false, port, 0, 1_000_000)
    }

    /// Waits for a client's SYN.
    ///
    /// # Panics
    /// If none comes.
    pub fn asked(&mut self) {
        assert!(self.wait(patience(Duration::from_secs(5)), |raw| raw.ack != 0), "no SYN");
    }

    /// Waits for a client, and answers its SYN.
    ///
    /// # Panics
    /// If none comes.
    pub fn accept(&mut self) {
        self.asked();
        self.segment(SYN | ACK, self.isn, &[], &Odd::default());
        self.seq = self.isn.wrapping_add(1);
    }

    /// One segment as an Ethernet frame.
    #[must_use]
    pub fn frame(&self, flags: u8, seq: u32, payload: &[u8], odd: &Odd) -> Vec<u8> {
        let mut tcp = Vec::new();
        tcp.extend(self.sport.to_be_bytes());
        tcp.extend(self.dport.to_be_bytes());
        tcp.extend(seq.to_be_bytes());
        tcp.extend(if flags & ACK != 0 || odd.ack.is_some() { odd.ack.unwrap_or(self.ack) } else { 0 }.to_be_bytes());
        let mut options: Vec<u8> = match (flags & SYN != 0, self.scaling) {
            (true, false) => vec![2, 4, 5, 0xb4],
            (true, true) => vec![2, 4, 5, 0xb4, 1, 3, 3, 0],
            (false, _) => Vec::new(),
        };
        if flags & SYN != 0 && self.sack {
            options.extend([1, 1, 4, 2]);
        }
        if let Some(timestamp) = odd.timestamp.or(self.timestamp) {
            options.extend([1, 1, 8, 10]);
            options.extend(timestamp.to_be_bytes());
            options.extend([0; 4]);
        }
        tcp.push(u8::try_from((20 + options.len()) / 4).unwrap_or(0) << 4);
        tcp.push(flags);
        tcp.extend(odd.window.unwrap_or(self.window).to_be_bytes());
        tcp.extend([0, 0]);
        tcp.extend(odd.urgent.to_be_bytes());
        tcp.extend(&options);
        tcp.extend(payload);
        let length = tcp.len() as u32;
        let server6 = Veth::SERVER6.octets();
        let server4 = Veth::SERVER4.octets();
        let pseudo = if self.v6 {
            [&CLIENT6[..], &server6, &length.to_be_bytes(), &[0, 0, 0, 6]].concat()
        } else {
            [&self.from[..], &server4, &[0, 6], &(length as u16).to_be_bytes()].concat()
        };
        let mut sum = checksum(&[&pseudo, &tcp]);
        if odd.bad_checksum {
            sum ^= 0x5555;
        }
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        let mut out = [Veth::MAC_B, Veth::MAC_A].concat();
        if self.v6 {
            let (next, chain) = odd.extension.clone().unwrap_or((6, Vec::new()));
            out.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            out.extend(((chain.len() + tcp.len()) as u16).to_be_bytes());
            out.extend([next, 64]);
            out.extend(CLIENT6);
            out.extend(server6);
            out.extend(chain);
        } else {
            out.extend([8, 0]);
            let mut ip = vec![0x45, 0];
            ip.extend((20 + tcp.len() as u16).to_be_bytes());
            ip.extend([0, 1, 0x40, 0, 64, 6, 0, 0]);
            ip.extend(self.from);
            ip.extend(server4);
            let sum = checksum(&[&ip]);
            ip[10..12].copy_from_slice(&sum.to_be_bytes());
            out.extend(ip);
        }
        out.extend(tcp);
        out
    }

    /// Sends one segment as told; nothing is remembered.
    ///
    /// # Panics
    /// If the packet is refused.
    pub fn segment(&self, flags: u8, seq: u32, payload: &[u8], odd: &Odd) {
        self.put(&self.frame(flags, seq, payload, odd));
    }

    /// Sends an Ethernet frame.
    ///
    /// # Panics
    /// If it is refused.
    pub fn put(&self, packet: &[u8]) {
        // SAFETY: the buffer is valid for its length.
        let sent = unsafe { libc::send(self.socket.as_raw_fd(), packet.as_ptr().cast(), packet.len(), 0) };
        assert_eq!(sent, packet.len().cast_signed(), "{}", std::io::Error::last_os_error());
    }

    /// Sends one segment as told, and remembers it until it is acknowledged.
    pub fn carry(&self, flags: u8, seq: u32, payload: &[u8]) {
        self.segment(flags, seq, payload, &Odd::default());
        self.remember(flags, seq, payload);
    }

    /// Sends bytes at a distance from the next sequence number.
    pub fn at(&self, distance: u32, payload: &[u8]) {
        self.carry(PSH | ACK, self.seq.wrapping_add(distance), payload);
    }

    fn remember(&self, flags: u8, seq: u32, payload: &[u8]) {
        self.unacknowledged().push(Sent { flags, seq, payload: payload.to_vec() });
    }

    fn unacknowledged(&self) -> MutexGuard<'_, Vec<Sent>> {
        let mut sent = self.unacknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        sent.retain(|it| it.end().wrapping_sub(self.acked).cast_signed() > 0);
        sent
    }

    /// Whether the server has all that was sent by [`Raw::carry`], [`Raw::at`] and [`Raw::send`].
    pub fn is_acknowledged(&self) -> bool {
        self.unacknowledged().is_empty()
    }

    /// Does for lost segments what TCP does, and a filter drops one if it cannot look at it right now: what is not acknowledged
    /// within a while is sent again, in the order and with the bytes of the first time. To be called time and again.
    pub fn tick(&mut self) {
        let now = Instant::now();
        if self.is_acknowledged() {
            self.timer = None;
        } else if let Some((due, pause)) = self.timer {
            if now >= due {
                self.unacknowledged()
                    .iter()
                    .for_each(|it| self.segment(it.flags, it.seq, &it.payload, &Odd::default()));
                self.timer = Some((now + pause * 2, pause * 2));
            }
        } else {
            self.timer = Some((now + AGAIN, AGAIN));
        }
    }

    /// Waits until the server has all that was sent, or the connection is over; what is lost is sent again. Says whether that
    /// is so in the end.
    pub fn settle(&mut self) -> bool {
        let bound = Instant::now() + patience(GIVES_UP);
        while !self.wait(TURN, |raw| raw.reset || raw.finished || raw.is_acknowledged()) {
            if Instant::now() >= bound {
                return false;
            }
            self.tick();
        }
        true
    }

    /// Sends the next bytes, in segments that Ethernet carries.
    pub fn send(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(1400) {
            self.at(0, part);
            self.seq = self.seq.wrapping_add(part.len() as u32);
        }
    }

    /// A handshake whose last ACK carries `early`. Returns false if there is no answer.
    pub fn connect_with(&mut self, early: &[u8]) -> bool {
        self.segment(SYN, self.isn, &[], &Odd::default());
        self.seq = self.isn.wrapping_add(1);
        if !self.wait(patience(Duration::from_secs(2)), |raw| raw.ack != 0) {
            return false;
        }
        let flags = if early.is_empty() { ACK } else { ACK | PSH };
        self.segment(flags, self.seq, early, &Odd::default());
        if !early.is_empty() {
            self.remember(flags, self.seq, early);
        }
        self.seq = self.seq.wrapping_add(early.len() as u32);
        true
    }

    /// A handshake.
    ///
    /// # Panics
    /// If it is not answered.
    pub fn connect(&mut self) {
        assert!(self.connect_with(&[]), "no SYN-ACK");
    }

    /// Reads what comes until `until` holds or the time is over; acknowledges data. Says whether it held.
    pub fn wait(&mut self, time: Duration, until: impl Fn(&Self) -> bool) -> bool {
        let bound = Instant::now() + time;
        loop {
            if until(self) {
                return true;
            }
            let left = bound.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let mut poll = libc::pollfd { fd: self.socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: one valid pollfd.
            unsafe { libc::poll(&raw mut poll, 1, i32::try_from(left.as_millis()).unwrap_or(0).max(1)) };
            let mut buffer = vec![0_u8; 70000];
            // SAFETY: the buffer is valid for its length.
            let n = unsafe {
                libc::recv(self.socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), libc::MSG_DONTWAIT)
            };
            if n > 0 {
                buffer.truncate(n.cast_unsigned());
                self.take(&buffer);
            }
        }
    }

    fn take(&mut self, frame: &[u8]) -> Option<()> {
        let ip = frame.get(14..)?;
        let tcp = if self.v6 {
            if frame.get(12..14)? != [0x86, 0xdd] || *ip.get(6)? != 6 || ip.get(24..40)? != CLIENT6 {
                return None;
            }
            ip.get(40..40 + usize::from(u16::from_be_bytes(ip.get(4..6)?.try_into().ok()?)))?
        } else {
            if frame.get(12..14)? != [8, 0] || *ip.get(9)? != 6 || ip.get(16..20)? != self.from {
                return None;
            }
            ip.get(20..usize::from(u16::from_be_bytes(ip.get(2..4)?.try_into().ok()?)))?
        };
        let number = |at: usize| Some(u32::from_be_bytes(tcp.get(at..at + 4)?.try_into().ok()?));
        let flags = *tcp.get(13)?;
        let to_us = tcp.get(2..4)? == self.sport.to_be_bytes();
        if self.dport == 0 && flags & SYN != 0 && to_us {
            self.dport = u16::from_be_bytes(tcp.get(..2)?.try_into().ok()?);
        }
        if tcp.get(..2)? != self.dport.to_be_bytes() || !to_us {
            return None;
        }
        self.offered = u16::from_be_bytes(tcp.get(14..16)?.try_into().ok()?);
        let payload = tcp.get(usize::from(*tcp.get(12)? >> 4) * 4..)?;
        if flags & RST != 0 {
            self.reset = true;
            return Some(());
        }
        if flags & SYN != 0 {
            self.ack = number(4)?.wrapping_add(1);
            return Some(());
        }
        if number(8)?.wrapping_sub(self.acked).cast_signed() > 0 {
            self.acked = number(8)?;
        }
        if payload.is_empty() {
            let blocks = sacked(tcp.get(20..)?);
            self.acknowledgements.push(Acknowledgement { seq: number(4)?, ack: number(8)?, blocks });
        } else {
            self.came.push((number(4)?, payload.to_vec()));
        }
        if number(4)? == self.ack {
            self.received.extend(payload);
            self.ack = self.ack.wrapping_add(payload.len() as u32);
            if flags & FIN != 0 {
                self.finished = true;
                self.ack = self.ack.wrapping_add(1);
            }
        }
        if !payload.is_empty() || flags & FIN != 0 {
            self.segment(ACK, self.seq, &[], &Odd::default());
        }
        Some(())
    }
}
