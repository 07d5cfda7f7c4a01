//! Time, as cases say it: which calls come before the one that is judged, and how far apart. Only limits remember any.

use std::time::Duration;

use super::doc::{Node, Value};
use super::read::{Reader, Table};
use super::{Call, Repeated};

/// The most calls that one key makes.
const CALLS: u64 = 100_000;
/// What a call before the case's own may say.
const EARLIER: [&str; 10] =
    ["method", "metadata", "peer", "message", "messages", "raw", "compressed", "calls", "every", "wait"];

impl Reader<'_> {
    /// How often a call is made, and when.
    pub(super) fn repeated(&mut self, table: &Table<'_>) -> Option<Repeated> {
        let calls = match table.get("calls").map(|node| (node, &node.value)) {
            None => 1,
            Some((node, value)) => {
                let number = if let Value::Number(number) = value { number.as_u64() } else { None };
                match number.filter(|number| (1..=CALLS).contains(number)).and_then(|it| u32::try_from(it).ok()) {
                    Some(number) => number,
                    None => self.wrong(node, "`calls` is how often the call is made", format!("1 to {CALLS}"))?,
                }
            }
        };
        let every = table.get("every").map_or(Some(Duration::ZERO), |node| self.duration(node, "every"));
        let wait = table.get("wait").map_or(Some(Duration::ZERO), |node| self.duration(node, "wait"));
        Some(Repeated { calls, every: every?, wait: wait? })
    }

    /// The calls before the case's own; they are of its method if they do not say another.
    pub(super) fn before(&mut self, table: &Table<'_>) -> Option<Vec<Call>> {
        let Some(node) = table.get("before") else { return Some(Vec::new()) };
        let Value::List(items) = &node.value else {
            return self.wrong(node, "`before` is a list of calls", "each is a table");
        };
        let method = table.get("method");
        let mut out = Vec::new();
        for item in items {
            let inner = self.table(item, &EARLIER, "a call before")?;
            out.push(self.call(&inner, &item.span, method)?);
        }
        Some(out)
    }

    fn duration(&mut self, node: &Node, key: &str) -> Option<Duration> {
        const HELP: &str = "write \"10ms\", \"5s\", \"2m\" or \"1h\"";
        let text = self.string(node, &format!("`{key}`"))?;
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, unit) = text.split_at(digits);
        let unit = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return self.wrong(node, &format!("`{text}` is not a time"), HELP),
        };
        match number.parse::<u32>() {
            Ok(number) => Some(Duration::from_millis(u64::from(number) * unit)),
            Err(_) => self.wrong(node, &format!("`{text}` is not a time"), HELP),
        }
    }
}
