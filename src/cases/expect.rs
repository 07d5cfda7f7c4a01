//! What a case says of its outcome.

use super::doc::{Node, Value};
use super::near;
use super::read::{Reader, Table};
use super::{At, Expected, Verdict};
use crate::names;
use crate::policy::STATUS;

/// `1`, or `"response 1"`.
fn where_decided(value: &Value) -> Option<At> {
    match value {
        Value::Number(number) => {
            let message = u32::try_from(number.as_u64()?).ok()?;
            Some(At { response: false, message })
        }
        Value::Text(text) => {
            let number = text.strip_prefix("response ").filter(|number| number.bytes().all(|b| b.is_ascii_digit()))?;
            let message = number.parse().ok().filter(|number| *number > 0)?;
            Some(At { response: true, message })
        }
        _ => None,
    }
}

impl Reader<'_> {
    /// Reads the keys that speak of the outcome.
    pub(super) fn expected(&mut self, table: &Table<'_>, node: &Node) -> Option<Expected> {
        let verdicts = [Verdict::Allow, Verdict::Deny, Verdict::AuditDeny];
        let verdict = self.need(table, node, "a case", "verdict")?;
        let word = self.string(verdict, "`verdict`")?;
        let Some(verdict) = verdicts.into_iter().find(|it| it.name() == word) else {
            return self.wrong(
                verdict,
                &format!("`{word}` is not a verdict"),
                near::help(word, &verdicts.map(Verdict::name)),
            );
        };
        let study = self.study;
        let rules: Vec<&str> = study.policy.rules.iter().map(|rule| rule.name.as_str()).chain(["default"]).collect();
        let audits: Vec<&str> =
            study.policy.rules.iter().filter(|rule| rule.audit).map(|rule| rule.name.as_str()).collect();
        let causes: Vec<&str> = (0..).map_while(names::cause).collect();
        let rule = self.one_of(table, "rule", "rule of the policy", &rules);
        let cause = self.one_of(table, "cause", "cause", &causes);
        let status = self.one_of(table, "status", "gRPC status", STATUS.get(1..).unwrap_or_default());
        if let (Some(node), true) = (table.get("cause"), table.get("rule").is_some()) {
            self.wrong::<()>(node, "a rule decides, or a cause: not both", "");
        }
        for key in ["status", "status_message"] {
            if let (Some(node), Verdict::Allow) = (table.get(key), verdict) {
                self.wrong::<()>(node, &format!("an allowed call has no `{key}` of the policy's"), "");
            }
        }
        let status_message = match table.get("status_message") {
            Some(node) => Some(self.string(node, "`status_message`")?.to_owned()),
            None => None,
        };
        let at = match table.get("at").map(|node| (node, &node.value)) {
            None => None,
            Some((node, value)) => match where_decided(value) {
                Some(at) => Some(at),
                None => self.wrong(
                    node,
                    "`at` is the number of a message, or 0 for the header block",
                    "of the response's messages write \"response 1\"",
                )?,
            },
        };
        let audited = match table.get("audited").map(|node| (node, &node.value)) {
            None => None,
            Some((_, Value::List(items))) => {
                Some(items.iter().filter_map(|item| self.word(item, "audit rule of the policy", &audits)).collect())
            }
            Some((node, _)) => self.wrong(node, "`audited` is a list of audit rules", "")?,
        };
        Some(Expected { verdict, rule, cause, status, status_message, at, audited })
    }

    fn one_of(&mut self, table: &Table<'_>, key: &str, what: &str, words: &[&str]) -> Option<String> {
        self.word(table.get(key)?, what, words)
    }

    fn word(&mut self, node: &Node, what: &str, words: &[&str]) -> Option<String> {
        let word = self.string(node, "this")?.to_owned();
        if words.contains(&word.as_str()) {
            return Some(word);
        }
        let help = if words.is_empty() { "there is none".to_owned() } else { near::help(&word, words) };
        self.wrong(node, &format!("`{word}` is no {what}"), help)
    }
}
