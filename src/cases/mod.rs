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
pub mod why;
mod wire;

use std::net::Ipv6Addr;

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
}

/// A request message.
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
    /// Where it is decided: 0 is the header block, n the n-th message.
    pub at: Option<u32>,
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
    /// Where it was decided: 0 is the header block, n the n-th message.
    pub at: u32,
    /// Whether it was the connection that was decided, and not the call.
    pub connection: bool,
    /// The audit rules that would have denied it, in order.
    pub audited: Vec<String>,
}
