//! Calls written down, and what a policy makes of them: for `protocg test` and `protocg explain`.
//!
//! `doc` (TOML, YAML or JSON as a tree with places) ─► `read`, `expect` and `message` (calls, and what is expected of them) ─►
//! `wire` (the bytes of a client) ─► `judge` (the engine's verdict, from the host's build of it or from the kernel) ─►
//! `report`, `junit` and `why` (what is said about it). Nothing here decides: verdicts, and which predicate holds, come from the
//! engine and the tables that the kernel gets.

mod doc;
mod expect;
pub mod judge;
pub mod junit;
mod message;
mod near;
pub mod read;
pub mod report;
mod shown;
mod when;
pub mod why;
mod wire;

use std::net::Ipv6Addr;
use std::time::Duration;

pub use doc::Format;

/// A call: what its client sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The path.
    pub method: String,
    /// Keys and values, in order.
    pub metadata: Vec<(String, String)>,
    /// The remote end; IPv4 as `::ffff:a.b.c.d`.
    pub peer: (Ipv6Addr, u16),
    /// The request's messages.
    pub messages: Vec<Message>,
    /// They are marked as compressed.
    pub compressed: bool,
    /// The response's messages, if something is to be said of them.
    pub response: Vec<Message>,
    /// Calls that were made before it, each in its turn.
    pub before: Vec<Call>,
    /// How often it is made; the last time is the one that is judged.
    pub repeated: Repeated,
}

/// When a call is made, and how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repeated {
    /// How often.
    pub calls: u32,
    /// The time between two of them.
    pub every: Duration,
    /// The time between what came before and the first.
    pub wait: Duration,
}

impl Default for Repeated {
    fn default() -> Repeated {
        Repeated { calls: 1, every: Duration::ZERO, wait: Duration::ZERO }
    }
}

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// As it is sent.
    pub bytes: Vec<u8>,
    /// As it was written.
    pub text: String,
}

/// A call and what must come of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// Its name, unique in its file.
    pub name: String,
    /// The line that it begins at.
    pub line: usize,
    /// The call.
    pub call: Call,
    /// What must come of it.
    pub expected: Expected,
}

/// What a case says of its outcome; what it leaves out may be anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// The verdict.
    pub verdict: Verdict,
    /// The rule that decides, or `default`.
    pub rule: Option<String>,
    /// The cause, where no rule decides.
    pub cause: Option<String>,
    /// The status that the caller gets, by name.
    pub status: Option<String>,
    /// The message of that status.
    pub status_message: Option<String>,
    /// Where it is decided.
    pub at: Option<At>,
    /// The audit rules that would have denied it, in order.
    pub audited: Option<Vec<String>>,
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It passes.
    Allow,
    /// It does not.
    Deny,
    /// It passes, because the policy only audits.
    AuditDeny,
}

impl Verdict {
    /// Its name, as events have it.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Allow => "allow",
            Verdict::Deny => "deny",
            Verdict::AuditDeny => "audit-deny",
        }
    }
}

/// Where a call is decided.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct At {
    /// It is a message of the response.
    pub response: bool,
    /// 0 is the header block, n the n-th message.
    pub message: u32,
}

impl std::fmt::Display for At {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let side = if self.response { "response " } else { "" };
        write!(f, "{side}{}", self.message)
    }
}

/// Who decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum By {
    /// A rule.
    Rule(String),
    /// The policy's default.
    Default,
    /// No rule: something that the enforcer could not know, or will not let pass.
    Cause {
        /// The cause, as policies know it.
        cause: &'static str,
        /// The exact reason.
        reason: &'static str,
        /// The same for people.
        text: &'static str,
    },
}

/// What became of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The verdict.
    pub verdict: Verdict,
    /// Who decided.
    pub by: By,
    /// What the caller gets, by name; nothing for an allowed call, or if the whole connection ends.
    pub status: Option<&'static str>,
    /// The message of that status.
    pub status_message: Option<String>,
    /// Of a limit's denial: after how many milliseconds a call may find a token.
    pub retry_ms: Option<u32>,
    /// Where it was decided.
    pub at: At,
    /// Whether it was the connection that was decided, and not the call.
    pub connection: bool,
    /// The audit rules that would have denied it, in order.
    pub audited: Vec<String>,
}
