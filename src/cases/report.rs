//! What is said about cases: a line each, and for one that failed what differs.

use std::fmt;

use super::{At, By, Case, Outcome, Verdict};

/// One thing that is not as a case says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The key of the case.
    pub key: &'static str,
    /// What the case says.
    pub expected: String,
    /// What is so.
    pub got: String,
}

impl Difference {
    /// The same on one line.
    pub fn short(&self) -> String {
        format!("{} is {}, and not {}", self.key, self.got, self.expected)
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pad = " ".repeat(self.key.len());
        write!(f, "- {} = {}\n+ {pad}   {}", self.key, self.expected, self.got)
    }
}

/// What differs between what a case says and what is so.
pub fn differences(case: &Case, outcome: &Outcome) -> Vec<Difference> {
    let expected = &case.expected;
    let mut out = Vec::new();
    let mut differ = |key, expected: String, got: String| {
        if expected != got {
            out.push(Difference { key, expected, got });
        }
    };
    let quote = |text: &str| format!("{text:?}");
    let none = |what: Option<&str>| what.map_or_else(|| "nothing".to_owned(), quote);
    differ("verdict", quote(expected.verdict.name()), quote(outcome.verdict.name()));
    let decided = |by: &By| match by {
        By::Rule(name) => quote(name),
        By::Default => quote("default"),
        By::Cause { cause, reason, .. } => format!("no rule: the cause {cause:?} ({reason})"),
    };
    if let Some(rule) = &expected.rule {
        differ("rule", quote(rule), decided(&outcome.by));
    }
    if let Some(cause) = &expected.cause {
        let got = match &outcome.by {
            By::Cause { cause, .. } => quote(cause),
            by => format!("no cause: the rule {}", decided(by)),
        };
        differ("cause", quote(cause), got);
    }
    if let Some(status) = &expected.status {
        differ("status", quote(status), none(outcome.status));
    }
    if let Some(message) = &expected.status_message {
        differ("status_message", quote(message), none(outcome.status_message.as_deref()));
    }
    if let Some(at) = expected.at {
        differ("at", at.to_string(), outcome.at.to_string());
    }
    if let Some(audited) = &expected.audited {
        differ("audited", format!("{audited:?}"), format!("{:?}", outcome.audited));
    }
    out
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.verdict {
            Verdict::Allow => "allowed",
            Verdict::Deny => "denied",
            Verdict::AuditDeny => "would be denied (audit only)",
        })?;
        match &self.by {
            By::Rule(name) => write!(f, " by `{name}`")?,
            By::Default => f.write_str(" by the policy's default")?,
            By::Cause { cause, reason, text } => write!(f, " for the cause `{cause}` ({reason}: {text})")?,
        }
        match (self.connection, self.at) {
            (true, _) => f.write_str(", with its whole connection")?,
            (false, At { message: 0, .. }) => f.write_str(", when its headers end")?,
            (false, At { response, message }) => {
                write!(f, ", on {}message {message}", if response { "response " } else { "" })?;
            }
        }
        match (&self.status, &self.status_message) {
            (Some(status), Some(message)) => write!(f, "\n{status}: {message}")?,
            _ => return Ok(()),
        }
        match self.retry_ms {
            Some(ms) => write!(f, "\nthe next token comes in {ms} ms"),
            None => Ok(()),
        }
    }
}
