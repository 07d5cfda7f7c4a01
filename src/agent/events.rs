//! What is said about events: records from the kernel's numbers, as JSON or as a line for people.
//!
//! Names are OpenTelemetry's where it has one.

use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::tried::{self, Tried};
use crate::abi;
use crate::kernel::guard::Cover;
use crate::names;
use crate::policy::{Action, Policy};

/// How records are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// A line for people.
    Human,
    /// One JSON object a line.
    Json,
}

/// One line of output.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Record {
    /// Enforcement has begun.
    Ready(Ready),
    /// An RPC, or one of its messages, was decided.
    Decision(Box<Decision>),
    /// A whole connection was denied, cut, or let pass unread.
    Connection(Box<Decision>),
    /// A way around the enforcer was tried.
    Guard(Box<Tried>),
    /// Events that are not printed one by one.
    Lost(Lost),
    /// Something that the operator should know.
    Warning(Warning),
}

/// Enforcement has begun.
#[derive(Debug, Clone, Serialize)]
pub struct Ready {
    /// When.
    pub time: String,
    /// The policy's name.
    pub policy: String,
    /// Where.
    pub cgroups: Vec<String>,
    /// `fresh`, `adopted` or `exchanged`.
    pub origin: &'static str,
    /// Whether enforcement outlives the agent.
    pub pinned: bool,
    /// Whether nothing is denied.
    pub audit: bool,
    /// From start to enforcing.
    pub start_ms: u64,
    /// What the guard closes, and what it does not; nothing if the policy has no `[guard]` section.
    pub guard: Option<Vec<Cover>>,
    /// What is done to calls with denied TLS plaintext; nothing if the policy has no `[tls]` section.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<&'static str>,
}

/// What was decided, by what, about what.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Decision {
    /// When.
    pub time: String,
    /// `allow`, `deny` or `audit-deny`.
    pub verdict: &'static str,
    /// The policy's name.
    pub policy: String,
    /// The rule that decided, or `default`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The cause, if no rule decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<&'static str>,
    /// The cause's exact reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// What the reason means.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason_text: Option<&'static str>,
    /// Always `grpc`.
    #[serde(rename = "rpc.system", skip_serializing_if = "Option::is_none")]
    pub system: Option<&'static str>,
    /// The service.
    #[serde(rename = "rpc.service", skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The method.
    #[serde(rename = "rpc.method", skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// What the caller is told, or would be in audit mode; nothing for an allowed call.
    #[serde(rename = "rpc.grpc.status_code", skip_serializing_if = "Option::is_none")]
    pub status: Option<u32>,
    /// Of a limit's denial: after how many milliseconds a call may find a token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_ms: Option<u32>,
    /// The remote end.
    #[serde(rename = "network.peer.address")]
    pub peer_address: String,
    /// Its port.
    #[serde(rename = "network.peer.port")]
    pub peer_port: u16,
    /// The server's end.
    #[serde(rename = "server.address")]
    pub server_address: String,
    /// Its port.
    #[serde(rename = "server.port")]
    pub server_port: u16,
    /// The socket's cgroup.
    pub cgroup: String,
    /// `tls` for plaintext that was judged in the process; nothing for what was judged on the wire.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plane: Option<&'static str>,
    /// The file of the TLS library.
    #[serde(rename = "tls.library", skip_serializing_if = "Option::is_none")]
    pub library: Option<String>,
    /// What is done to a call with denied plaintext.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enforcement: Option<&'static str>,
    /// The process.
    #[serde(rename = "process.pid", skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Its name, as it gave it to itself.
    #[serde(rename = "process.name", skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Why TLS was not read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The HTTP/2 stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<u32>,
    /// The message's index in its stream, from 1; 0 is the header block.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<u32>,
    /// Of a message of the response, what the end in the cgroup does with it: `SENT` by a server, `RECEIVED` by a client.
    #[serde(rename = "rpc.message.type", skip_serializing_if = "Option::is_none")]
    pub message_type: Option<&'static str>,
}

/// Events that are not printed one by one.
#[derive(Debug, Clone, Serialize)]
pub struct Lost {
    /// When.
    pub time: String,
    /// Where they went: `kernel` (ring buffer full), `storm` (summed up), `output` (the reader is slow).
    pub at: &'static str,
    /// How many.
    pub count: u64,
    /// For a storm: its verdict.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<&'static str>,
    /// For a storm: its rule or reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// Something that the operator should know.
#[derive(Debug, Clone, Serialize)]
pub struct Warning {
    /// When.
    pub time: String,
    /// A name for machines.
    pub warning: &'static str,
    /// A text for people.
    pub text: String,
}

/// What storms are counted by: verdict, rule, reason, type.
pub type Kind = (u32, u32, u32, u32);

/// The kind of an event.
pub fn kind(event: &abi::pg_event) -> Kind {
    (event.verdict, event.rule, event.reason, event.type_)
}

/// What a kind of events has in common.
pub fn summary(policy: &Policy, (verdict, rule, reason, kind): Kind) -> (&'static str, String) {
    if kind == abi::PG_EV_GUARD {
        return (tried::verdict(verdict), names::way(rule).map_or("unknown", |way| way.name).to_owned());
    }
    (self::verdict(verdict), decided_by(policy, rule, reason))
}

/// Who decided: the rule's name, `default`, or the reason's name.
pub fn decided_by(policy: &Policy, rule: u32, reason: u32) -> String {
    match names::reason(reason).filter(|_| reason != abi::PG_R_NONE) {
        Some(reason) => reason.name.to_owned(),
        None => policy.rules.get(rule as usize).map_or_else(|| "default".to_owned(), |r| r.name.clone()),
    }
}

/// A verdict's name.
pub fn verdict(number: u32) -> &'static str {
    match number {
        abi::PG_V_ALLOW => "allow",
        abi::PG_V_AUDIT_DENY => "audit-deny",
        _ => "deny",
    }
}

/// The status and message that a denied caller gets.
pub fn answer(policy: &Policy, event: &abi::pg_event) -> (u32, String) {
    const PERMISSION_DENIED: u32 = 7;
    let name = &policy.name;
    if event.reason != abi::PG_R_NONE {
        let (cause, text) = names::reason(event.reason)
            .map_or(("unknown", "no reason is known"), |r| (names::cause(r.cause).unwrap_or(r.name), r.text));
        return (PERMISSION_DENIED, format!("denied by policy {name}: {cause} ({text})"));
    }
    match policy.rules.get(event.rule as usize) {
        Some(rule) => (rule.status, rule.message.clone()),
        None => (PERMISSION_DENIED, format!("denied by policy {name}: default")),
    }
}

/// After how many milliseconds a call may find a token, if a limit has denied this one.
pub fn retry_ms(policy: &Policy, event: &abi::pg_event) -> Option<u32> {
    let rule = policy.rules.get(event.rule as usize).filter(|_| event.reason == abi::PG_R_NONE)?;
    (rule.action == Action::Limit && event.verdict != abi::PG_V_ALLOW).then_some(event.retry_ms)
}

/// Puts an event in words. `path` is the method's path, as far as it is known.
pub fn decision(policy: &Policy, event: &abi::pg_event, path: Option<&str>, cgroup: &str) -> Decision {
    let rpc = event.type_ == abi::PG_EV_DECISION;
    let reason = names::reason(event.reason).filter(|_| event.reason != abi::PG_R_NONE);
    let (service, method) = path.map_or((None, None), split_path);
    let (local, remote) = (address(event.local), address(event.remote));
    let server = if u32::from(event.role) == abi::PG_ROLE_CLIENT {
        (remote, event.remote_port)
    } else {
        (local, event.local_port)
    };
    Decision {
        time: time_of(event.time_ns),
        verdict: verdict(event.verdict),
        policy: policy.name.clone(),
        rule: reason.is_none().then(|| decided_by(policy, event.rule, event.reason)),
        cause: reason.and_then(|r| names::cause(r.cause)),
        reason: reason.map(|r| r.name),
        reason_text: reason.map(|r| r.text),
        system: rpc.then_some("grpc"),
        service,
        method,
        // The status of an allowed call is its server's.
        status: (rpc && event.verdict != abi::PG_V_ALLOW)
            .then(|| if event.verdict == abi::PG_V_DENY { answer(policy, event).0 } else { event.status }),
        retry_ms: retry_ms(policy, event),
        peer_address: remote.to_string(),
        peer_port: event.remote_port,
        server_address: server.0.to_string(),
        server_port: server.1,
        cgroup: cgroup.to_owned(),
        stream: rpc.then_some(event.stream),
        message: rpc.then_some(event.message),
        message_type: (rpc && event.response & abi::PG_RSP_JUDGED != 0)
            .then_some(if u32::from(event.role) == abi::PG_ROLE_CLIENT { "RECEIVED" } else { "SENT" }),
        ..Decision::default()
    }
}

/// `/package.Service/Method` in two.
fn split_path(path: &str) -> (Option<String>, Option<String>) {
    match path.strip_prefix('/').and_then(|p| p.rsplit_once('/')) {
        Some((service, method)) => (Some(service.to_owned()), Some(method.to_owned())),
        None => (None, Some(path.to_owned())),
    }
}

/// An end of a connection.
pub fn address(bytes: [u8; 16]) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical()
}

impl Record {
    /// The record as one line.
    pub fn write(&self, format: Format) -> String {
        match format {
            Format::Json => serde_json::to_string(self).unwrap_or_default(),
            Format::Human => self.human(),
        }
    }

    fn human(&self) -> String {
        match self {
            Self::Ready(r) => {
                let until = if r.pinned {
                    "it outlives this process: `protocg detach` ends it"
                } else {
                    "it ends with this process (see --pin)"
                };
                let how = match r.origin {
                    "adopted" => "goes on, adopted from its pins",
                    "exchanged" => "has taken the place of what was pinned; older connections are closed",
                    _ => "is enforced",
                };
                let audit = if r.audit { " (audit: nothing is denied)" } else { "" };
                let guard = r.guard.as_deref().map(tried::coverage).unwrap_or_default();
                format!(
                    "ready: policy `{}`{audit} {how} on {} after {} ms; {until}{guard}",
                    r.policy,
                    r.cgroups.join(", "),
                    r.start_ms
                )
            }
            Self::Guard(tried) => tried.human(),
            Self::Decision(d) => {
                let what = match (&d.service, &d.method) {
                    (Some(service), Some(method)) => format!("/{service}/{method}"),
                    (_, Some(method)) => method.clone(),
                    _ => "(unknown method)".to_owned(),
                };
                let at = match d.message {
                    Some(0) | None => "headers".to_owned(),
                    Some(n) if d.message_type.is_some() => format!("response {n}"),
                    Some(n) => format!("message {n}"),
                };
                let status = d.status.map(names::status).unwrap_or_default();
                let gap = if status.is_empty() { "" } else { " " };
                format!(
                    "{} {:10} {} by {}{gap}{status} from {} stream {} {at} in {}{}",
                    clock(&d.time),
                    d.verdict,
                    printable(&what),
                    d.by(),
                    endpoint(&d.peer_address, d.peer_port),
                    d.stream.unwrap_or(0),
                    d.cgroup,
                    d.where_judged()
                )
            }
            Self::Connection(d) => format!(
                "{} {:10} connection from {} to port {}: {} in {}{}",
                clock(&d.time),
                d.verdict,
                endpoint(&d.peer_address, d.peer_port),
                d.server_port,
                d.by(),
                d.cgroup,
                d.where_judged()
            ),
            Self::Lost(l) => match (l.at, l.verdict, &l.by) {
                ("storm", Some(verdict), Some(by)) => {
                    format!("{} {verdict:10} {} more by {by} in the last second", clock(&l.time), l.count)
                }
                (at, ..) => {
                    format!("{} lost       {} events at {at}; verdicts are not affected", clock(&l.time), l.count)
                }
            },
            Self::Warning(w) => format!("{} warning    {}: {}", clock(&w.time), w.warning, w.text),
        }
    }
}

impl Decision {
    fn where_judged(&self) -> String {
        let process = match (self.pid, &self.name) {
            (Some(pid), Some(name)) => format!(" (TLS of process {pid}, `{name}`)"),
            _ => String::new(),
        };
        self.detail.as_ref().map_or(process, |detail| format!(": {detail}"))
    }

    fn by(&self) -> String {
        match (&self.rule, self.cause, self.reason_text) {
            (Some(rule), ..) => rule.clone(),
            (None, Some(cause), Some(text)) => format!("{cause} ({text})"),
            _ => "default".to_owned(),
        }
    }
}

pub(super) fn endpoint(address: &str, port: u16) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

/// Paths come from the wire: nothing in them reaches the terminal as a command.
pub(super) fn printable(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

pub(super) fn clock(time: &str) -> &str {
    time.get(11..23).unwrap_or(time)
}

/// A cgroup's path as events show it.
pub fn cgroup_name(path: Option<&Path>) -> String {
    path.map_or_else(|| "(removed cgroup)".to_owned(), |p| p.display().to_string())
}

/// Now, as RFC 3339.
pub fn now() -> String {
    rfc3339(SystemTime::now())
}

/// The kernel's monotonic nanoseconds, as RFC 3339.
pub(super) fn time_of(monotonic_ns: u64) -> String {
    rfc3339(SystemTime::now() - age(monotonic_ns))
}

/// How long ago that was.
pub(super) fn age(monotonic_ns: u64) -> Duration {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
    now.saturating_sub(Duration::from_nanos(monotonic_ns))
}

/// Civil date from days since 1970, after Howard Hinnant's days_from_civil.
fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:06}Z",
        second / 3600,
        second / 60 % 60,
        second % 60,
        since.subsec_micros()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> abi::pg_event {
        let mut local = [0; 16];
        local[10..].copy_from_slice(&[0xff, 0xff, 10, 0, 0, 1]);
        let mut remote = local;
        remote[15] = 2;
        abi::pg_event {
            type_: abi::PG_EV_DECISION,
            verdict: abi::PG_V_DENY,
            rule: abi::PG_NO_RULE,
            method: abi::PG_NO_METHOD,
            stream: 3,
            message: 1,
            local,
            remote,
            local_port: 50051,
            remote_port: 40000,
            ..Default::default()
        }
    }

    fn policy() -> Policy {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "name = \"search\"\nports = [1]\ndefault = \"deny\"\n").unwrap();
        crate::policy::load(file.path()).unwrap()
    }

    #[test]
    fn dates_are_civil() {
        let at = |secs| rfc3339(UNIX_EPOCH + Duration::from_secs(secs));
        assert_eq!(at(0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00.000000Z");
        assert_eq!(at(1_735_689_599), "2024-12-31T23:59:59.000000Z");
        assert_eq!(at(4_107_542_399), "2100-02-28T23:59:59.000000Z");
    }

    #[test]
    fn a_decision_has_opentelemetrys_names() {
        let policy = policy();
        let record = Record::Decision(Box::new(decision(&policy, &event(), Some("/a.B/C"), "/cg")));
        let json: serde_json::Value = serde_json::from_str(&record.write(Format::Json)).unwrap();
        let expected = serde_json::json!({
            "type": "decision", "time": json["time"], "verdict": "deny", "policy": "search", "rule": "default",
            "rpc.system": "grpc", "rpc.service": "a.B", "rpc.method": "C", "rpc.grpc.status_code": 7,
            "network.peer.address": "10.0.0.2", "network.peer.port": 40000,
            "server.address": "10.0.0.1", "server.port": 50051, "cgroup": "/cg", "stream": 3, "message": 1,
        });
        assert_eq!(json, expected);
        assert!(record.human().contains("deny       /a.B/C by default PERMISSION_DENIED from 10.0.0.2:40000 stream 3"));
    }

    #[test]
    fn a_reason_is_named_with_its_cause_and_text() {
        let policy = policy();
        let event = abi::pg_event { reason: abi::PG_R_PADDING, type_: abi::PG_EV_CONNECTION, ..event() };
        let said = decision(&policy, &event, None, "/cg");
        assert_eq!((said.rule, said.cause, said.reason), (None, Some("malformed"), Some("padding")));
        assert_eq!(answer(&policy, &event).1, "denied by policy search: malformed (padding is longer than the frame)");
    }

    #[test]
    fn paths_cannot_command_the_terminal() {
        assert_eq!(printable("/a\u{1b}[2J\n/ü"), "/a\\u{1b}[2J\\n/ü");
    }
}
