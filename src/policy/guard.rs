//! The `[guard]` section: ways around the enforcer, and which ports and peers are none.

use std::ops::Range;

use serde::Deserialize;
use toml::Spanned;

use super::err::Fault;
use super::file::RawPort;
use super::{Direction, Mode, PortSet, resolve};
use crate::{abi, names};

/// What is done about a way around the enforcer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switch {
    /// It is refused, with an event.
    Deny,
    /// An event.
    Report,
    /// Nothing.
    Allow,
}

impl Switch {
    const NAMES: [(&'static str, Self); 3] = [("deny", Self::Deny), ("report", Self::Report), ("allow", Self::Allow)];

    fn abi(self) -> u32 {
        match self {
            Self::Deny => abi::PG_GUARD_DENY,
            Self::Report => abi::PG_GUARD_REPORT,
            Self::Allow => abi::PG_GUARD_ALLOW,
        }
    }

    fn of(number: u32) -> Self {
        Self::NAMES.into_iter().map(|(_, switch)| switch).find(|switch| switch.abi() == number).unwrap_or(Self::Deny)
    }
}

/// A compiled `[guard]` section.
#[derive(Debug, Clone)]
pub struct Guard {
    /// By `pg_way`. In audit mode nothing is refused.
    pub ways: Vec<Switch>,
    /// What the kernel reads.
    pub config: Box<abi::pg_guard_config>,
}

impl Guard {
    /// A guard that allows no way around, for trying what can be closed.
    pub fn all() -> Self {
        Self { ways: vec![Switch::Deny; abi::PG_W_COUNT as usize], config: Box::new(blank()) }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawGuard {
    listen: Option<Vec<Spanned<RawPort>>>,
    connect: Option<Spanned<Vec<Spanned<String>>>>,
    mptcp: Option<Spanned<String>>,
    raw: Option<Spanned<String>>,
    transports: Option<Spanned<String>>,
    udp: Option<Spanned<String>>,
    undeclared_listen: Option<Spanned<String>>,
    undeclared_connect: Option<Spanned<String>>,
    packet: Option<Spanned<String>>,
    vsock: Option<Spanned<String>>,
    families: Option<Spanned<String>>,
    netlink: Option<Spanned<String>>,
    unix_listen: Option<Spanned<String>>,
    foreign_sockets: Option<Spanned<String>>,
    bpf: Option<Spanned<String>>,
    agent: Option<Spanned<String>>,
    pins: Option<Spanned<String>>,
    ptrace: Option<Spanned<String>>,
    cgroup_escape: Option<Spanned<String>>,
    tun: Option<Spanned<String>>,
    tls_text: Option<Spanned<String>>,
    tls_library: Option<Spanned<String>>,
    kernel: Option<Spanned<String>>,
}

impl RawGuard {
    pub(super) fn listen(&self) -> Option<&[Spanned<RawPort>]> {
        self.listen.as_deref()
    }

    /// By `pg_way`.
    fn switches(&self) -> [(u32, &Option<Spanned<String>>); abi::PG_W_COUNT as usize] {
        [
            (abi::PG_W_MPTCP, &self.mptcp),
            (abi::PG_W_RAW, &self.raw),
            (abi::PG_W_TRANSPORTS, &self.transports),
            (abi::PG_W_UDP, &self.udp),
            (abi::PG_W_LISTEN, &self.undeclared_listen),
            (abi::PG_W_CONNECT, &self.undeclared_connect),
            (abi::PG_W_PACKET, &self.packet),
            (abi::PG_W_VSOCK, &self.vsock),
            (abi::PG_W_FAMILIES, &self.families),
            (abi::PG_W_NETLINK, &self.netlink),
            (abi::PG_W_UNIX, &self.unix_listen),
            (abi::PG_W_FOREIGN, &self.foreign_sockets),
            (abi::PG_W_BPF, &self.bpf),
            (abi::PG_W_AGENT, &self.agent),
            (abi::PG_W_PINS, &self.pins),
            (abi::PG_W_PTRACE, &self.ptrace),
            (abi::PG_W_ESCAPE, &self.cgroup_escape),
            (abi::PG_W_TUN, &self.tun),
            (abi::PG_W_TEXT, &self.tls_text),
            (abi::PG_W_LIBRARY, &self.tls_library),
            (abi::PG_W_KERNEL, &self.kernel),
        ]
    }
}

/// What the section depends on.
pub(super) struct Around<'a> {
    pub ports: &'a PortSet,
    pub direction: Direction,
    pub mode: Mode,
    /// The ports that the section's `listen` names.
    pub listen: PortSet,
}

/// Compiles the section.
pub(super) fn compile(raw: &RawGuard, around: &Around<'_>, faults: &mut Vec<Fault>) -> Guard {
    let mut config = Box::new(abi::pg_guard_config {
        direction: match around.direction {
            Direction::Ingress => abi::PG_INGRESS,
            Direction::Egress => abi::PG_EGRESS,
        },
        ..blank()
    });
    fill(&mut config.policy, around.ports);
    fill(&mut config.declared, &around.listen);
    if let Some(connect) = &raw.connect {
        let reaches: Vec<_> = connect.get_ref().iter().filter_map(|text| reach(text, faults)).collect();
        if reaches.len() > config.reach.len() {
            let message = format!("`connect` has more than {} entries (limit GUARD_CONNECT)", config.reach.len());
            faults.push(Fault::at(connect.span(), message));
        }
        config.reaches = u32::try_from(reaches.len()).unwrap_or(u32::MAX);
        for (into, from) in config.reach.iter_mut().zip(reaches) {
            *into = from;
        }
    }
    let mut ways: Vec<Switch> = names::ways().map(|way| Switch::of(way.default)).collect();
    // An egress policy declares no port to listen on.
    if around.direction == Direction::Egress && raw.listen.is_none() {
        set(&mut ways, abi::PG_W_LISTEN, Switch::Allow);
    }
    for (way, text) in raw.switches() {
        if let Some(text) = text {
            set(&mut ways, way, switch(text, faults));
        }
    }
    match (&raw.connect, &raw.undeclared_connect) {
        (None, Some(text)) => {
            let fault = Fault::at(text.span(), "`undeclared_connect` has no effect without `connect`");
            faults.push(fault.help("say where connections may go, like connect = [\"10.0.0.0/8:443\"]"));
        }
        (None, None) => set(&mut ways, abi::PG_W_CONNECT, Switch::Allow),
        (Some(_), _) => {}
    }
    for (into, way) in config.way.iter_mut().zip(&ways) {
        let effect = if around.mode == Mode::Audit && *way == Switch::Deny { Switch::Report } else { *way };
        *into = u8::try_from(effect.abi()).unwrap_or_default();
    }
    Guard { ways, config }
}

fn blank() -> abi::pg_guard_config {
    abi::pg_guard_config {
        direction: 0,
        reaches: 0,
        way: [0; 32],
        policy: [0; 1024],
        declared: [0; 1024],
        reach: [abi::pg_reach::default(); abi::PG_MAX_GUARD_CONNECT as usize],
    }
}

fn set(ways: &mut [Switch], way: u32, switch: Switch) {
    if let Some(it) = ways.get_mut(way as usize) {
        *it = switch;
    }
}

fn fill(bits: &mut [u64], ports: &PortSet) {
    for port in ports.ranges().into_iter().flat_map(|(first, last)| first..=last) {
        if let Some(word) = bits.get_mut(usize::from(port) / 64) {
            *word |= 1 << (port % 64);
        }
    }
}

fn switch(text: &Spanned<String>, faults: &mut Vec<Fault>) -> Switch {
    if let Some((_, switch)) = Switch::NAMES.into_iter().find(|(name, _)| name == text.get_ref()) {
        return switch;
    }
    let message = format!("`{}` is none of \"deny\", \"report\" and \"allow\"", text.get_ref());
    faults.push(Fault::at(text.span(), message));
    Switch::Deny
}

/// Reads `10.0.0.0/8`, `10.0.0.1:443`, `fd00::/8`, `[fd00::/8]:9000-9010`.
fn reach(text: &Spanned<String>, faults: &mut Vec<Fault>) -> Option<abi::pg_reach> {
    match parse(text.get_ref()) {
        Ok(reach) => Some(reach),
        Err(message) => {
            let help = "write an address or block, and a port or range: \"10.0.0.0/8:443\", \"[fd00::/8]:9000-9010\"";
            faults.push(Fault::at(text.span(), message).help(help));
            None
        }
    }
}

fn parse(text: &str) -> Result<abi::pg_reach, String> {
    let (block, ports) = match text.strip_prefix('[').map(|rest| rest.split_once(']')) {
        Some(Some((block, ""))) => (block, None),
        Some(Some((block, ports))) => {
            (block, Some(ports.strip_prefix(':').ok_or_else(|| format!("`{text}` has no `:` behind its `]`"))?))
        }
        Some(None) => return Err(format!("`{text}` has no `]`")),
        // Two colons are an IPv6 address's.
        None => match text.split_once(':') {
            Some((block, ports)) if !ports.contains(':') => (block, Some(ports)),
            _ => (text, None),
        },
    };
    let block = if block.contains('/') { resolve::cidr(block) } else { resolve::address(block) }?;
    let (first, last) = match ports {
        None => (0, u16::MAX),
        Some(ports) => range(ports).ok_or_else(|| format!("`{ports}` is neither a port nor a range of ports"))?,
    };
    Ok(abi::pg_reach { address: block.address, mask: block.mask, first, last, reserved: 0 })
}

fn range(text: &str) -> Option<(u16, u16)> {
    let number = |text: &str| text.parse::<u16>().ok().filter(|port| *port != 0);
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let range: Range<u16> = number(first)?..number(last)?;
    (range.start <= range.end).then_some((range.start, range.end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_to_connect_to_are_blocks_with_ports() {
        let of = |text: &str| {
            parse(text).map(|r| (r.address[15], r.mask.iter().map(|b| b.count_ones()).sum(), r.first, r.last))
        };
        assert_eq!(of("10.0.0.1"), Ok((1, 128u32, 0, 65535)));
        assert_eq!(of("10.0.0.0/8:443"), Ok((0, 104, 443, 443)));
        assert_eq!(of("fd00::/8"), Ok((0, 8, 0, 65535)));
        assert_eq!(of("::1"), Ok((1, 128, 0, 65535)));
        assert_eq!(of("[::1]:9000-9010"), Ok((1, 128, 9000, 9010)));
        for wrong in ["", "10.0.0.1:", "10.0.0.1:0", "10.0.0.1:9-1", "10.0.0.1/8", "[::1", "[::1]9", "example.org:443"]
        {
            assert!(of(wrong).is_err(), "{wrong}");
        }
    }
}
