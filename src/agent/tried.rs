//! What is said about the guard: ways around that were tried, and what is closed.

use serde::Serialize;

use super::events::{Kind, address, clock, endpoint, printable, time_of};
use crate::abi;
use crate::kernel::guard::Cover;
use crate::names;
use crate::policy::Policy;

/// A way around the enforcer was tried.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Tried {
    /// When.
    pub time: String,
    /// `deny`, or `report` where the policy only asks for that.
    pub verdict: &'static str,
    /// The policy's name.
    pub policy: String,
    /// The way: its switch in the policy.
    pub cause: &'static str,
    /// What that is.
    pub reason_text: &'static str,
    /// What exactly was tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The process; nothing if a packet was refused.
    #[serde(rename = "process.pid", skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Its name, as it gave it to itself.
    #[serde(rename = "process.name", skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its user.
    #[serde(rename = "process.user.id", skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Its cgroup.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
}

/// The kind of a guard's event; its way is in the place of the rule.
pub fn kind(event: &abi::pg_guard_event) -> Kind {
    (event.verdict, event.way, abi::PG_R_NONE, abi::PG_EV_GUARD)
}

/// A verdict's name.
pub fn verdict(number: u32) -> &'static str {
    if number == abi::PG_V_DENY { "deny" } else { "report" }
}

/// Puts a guard's event in words.
pub fn record(policy: &Policy, event: &abi::pg_guard_event, cgroup: Option<String>) -> Tried {
    let known = event.cgroup != 0;
    let way = names::way(event.way);
    let name: Vec<u8> = event.name.iter().copied().take_while(|b| *b != 0).collect();
    Tried {
        time: time_of(event.time_ns),
        verdict: verdict(event.verdict),
        policy: policy.name.clone(),
        cause: way.map_or("unknown", |way| way.name),
        reason_text: way.map_or("", |way| way.text),
        detail: detail(event),
        pid: known.then_some(event.pid),
        name: known.then(|| printable(&String::from_utf8_lossy(&name))),
        uid: known.then_some(event.uid),
        cgroup,
    }
}

fn detail(event: &abi::pg_guard_event) -> Option<String> {
    let what = &event.what;
    let socket = || format!("socket of family {}, type {}, protocol {}", what.family, what.kind, what.protocol);
    let endpoint = endpoint(&address(what.address).to_string(), what.port);
    match event.way {
        abi::PG_W_LISTEN | abi::PG_W_UDP if event.cgroup == 0 => Some(format!("a packet to port {}", what.port)),
        abi::PG_W_CONNECT if event.cgroup == 0 => Some("a packet with a source route".to_owned()),
        abi::PG_W_LISTEN | abi::PG_W_UDP | abi::PG_W_CONNECT => Some(format!("protocol {}, {endpoint}", what.protocol)),
        abi::PG_W_AGENT | abi::PG_W_TUN if what.target == 0 && what.number != 0 => {
            Some(format!("ioctl {:#x}", what.number))
        }
        abi::PG_W_AGENT | abi::PG_W_PTRACE if what.target != 0 => {
            Some(format!("process {}, number {}", what.target, what.number))
        }
        abi::PG_W_TEXT if what.target != 0 => Some(format!("process {}", what.target)),
        abi::PG_W_KERNEL if what.number != 0 => Some(format!("lockdown reason {}", what.number)),
        abi::PG_W_FOREIGN => Some(format!("protocol {}, port {}", what.protocol, what.port)),
        abi::PG_W_NETLINK if what.number != 0 => Some(format!("{}, option or message {}", socket(), what.number)),
        _ if what.family != 0 => Some(socket()),
        _ => None,
    }
}
impl Tried {
    /// As a line for people.
    pub fn human(&self) -> String {
        let detail = self.detail.as_ref().map(|detail| format!(" ({detail})")).unwrap_or_default();
        let who = match (self.pid, &self.name, &self.cgroup) {
            (Some(pid), Some(name), Some(cgroup)) => format!(" by process {pid} (`{name}`) in {cgroup}"),
            _ => String::new(),
        };
        format!("{} {:10} guard: {}: {}{detail}{who}", clock(&self.time), self.verdict, self.cause, self.reason_text)
    }
}

/// What the guard closes and what it does not, one line each for every cause.
pub fn coverage(coverage: &[Cover]) -> String {
    let names = |covers: &[&Cover]| covers.iter().map(|cover| cover.way).collect::<Vec<_>>().join(", ");
    let (open, closed): (Vec<_>, Vec<_>) = coverage.iter().partition(|cover| cover.why.is_some());
    let mut lines = String::new();
    if !closed.is_empty() {
        lines.push_str(&format!("\nguard: covers {}", names(&closed)));
    }
    let mut causes: Vec<&String> = Vec::new();
    for why in open.iter().filter_map(|cover| cover.why.as_ref()) {
        if !causes.contains(&why) {
            causes.push(why);
        }
    }
    for why in causes {
        let these: Vec<_> = open.iter().copied().filter(|cover| cover.why.as_ref() == Some(why)).collect();
        lines.push_str(&format!("\nguard: does NOT cover {}: {why}", names(&these)));
    }
    lines
}
