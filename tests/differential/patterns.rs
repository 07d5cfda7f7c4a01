//! Random patterns, and what RE2 says of them: the engine's automata and CEL's interpreter in Rust share a library.

use std::collections::HashMap;

use serde_json::json;

use crate::grammar::STRINGS;
use crate::python;
use crate::rig::Random;

/// Which texts patterns match.
pub struct Patterns {
    pub all: Vec<String>,
    rows: Vec<HashMap<String, bool>>,
}

fn piece(random: &mut Random, depth: usize) -> String {
    const ATOMS: [&str; 20] = [
        "a",
        "b",
        "c",
        "é",
        "k",
        ".",
        "[a-c]",
        "[^a]",
        "\\d",
        "\\w",
        "\\s",
        "\\D",
        "\\W",
        "[[:alpha:]]",
        "\\x{e9}",
        "(?i)A",
        "\\pL",
        "[^\\d]",
        "\\b",
        "\\B",
    ];
    const TIMES: [&str; 9] = ["", "", "", "*", "+", "?", "{2}", "{1,3}", "*?"];
    if depth > 0 && random.one_in(3) {
        let (a, b) = (piece(random, depth - 1), piece(random, depth - 1));
        let inner = if random.one_in(2) { format!("{a}|{b}") } else { format!("{a}{b}") };
        let group = random.pick(&["(", "(?:", "(?i:", "(?s:"]);
        return format!("{group}{inner}){}", random.pick(&TIMES));
    }
    let atom = random.pick(&ATOMS);
    let times = if atom.starts_with("\\b") || atom.starts_with("\\B") || atom.starts_with("(?") {
        ""
    } else {
        random.pick(&TIMES)
    };
    format!("{atom}{times}")
}

impl Patterns {
    /// `count` patterns that RE2 takes.
    pub fn new(seed: u64, count: usize) -> Patterns {
        let mut random = Random(seed ^ 0x7e2);
        let all: Vec<String> = (0..count)
            .map(|_| {
                let start = random.pick(&["", "", "^", "(?m)^"]);
                let end = random.pick(&["", "", "$", "\\z"]);
                let middle: String = (0..1 + random.below(3)).map(|_| piece(&mut random, 2)).collect();
                format!("{start}{middle}{end}")
            })
            .collect();
        let answer = python::ask("patterns.py", &json!({ "patterns": all, "texts": STRINGS }).to_string());
        let rows: Vec<Option<Vec<bool>>> = serde_json::from_str(&answer).unwrap();
        let taken = all.into_iter().zip(rows).filter_map(|(pattern, row)| Some((pattern, row?)));
        let named = |row: Vec<bool>| STRINGS.iter().map(|text| (*text).to_owned()).zip(row).collect();
        let (all, rows) = taken.map(|(pattern, row)| (pattern, named(row))).unzip();
        Patterns { all, rows }
    }

    /// RE2's word.
    pub fn matches(&self, pattern: usize, text: &str) -> bool {
        *self.rows[pattern].get(text).unwrap_or_else(|| panic!("RE2 was not asked about {text:?}"))
    }
}
