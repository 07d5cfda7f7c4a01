//! An attack as a row of docs/threat-model.md, and the tables there.
//!
//! What comes of it is a set of words with ` / ` between them, the same for all servers, or by server:
//! `grpcio: handler; GOAWAY PROTOCOL_ERROR` is `handler` for grpcio and the other for the rest.
//!
//! A stack whose own threads race has an outcome `or` another.
//!
//! - off: `handler` (it was given what the policy denies), or what the stack refused it with: a status, `HTTP` and a
//!   status, `RST_STREAM` or `GOAWAY` and the code, `close`; `harmless`: the handler was given what no rule denies;
//!   `silence`: the stack waits for more, or says nothing.
//! - on: the rules and reasons of the enforcer's events; `passed`: it let the bytes pass, and the stack refused them.
//! - good: what comes of the same with an allowed value where the stack takes it: `allowed`, or the reasons it is refused for;
//!   `refused`: no stack takes it.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use protocg_peers::harness::docs;

use crate::arena::SERVERS;
use crate::talk::{Talk, Value};

#[derive(Clone, Copy)]
pub struct Row {
    pub name: &'static str,
    pub tried: &'static str,
    pub off: &'static str,
    pub on: &'static str,
    pub good: &'static str,
    /// Every form of the attack: with a denied value, and the same with an allowed one.
    pub forms: fn(Value) -> Vec<Talk>,
}

/// One test an attack, and the rows of all.
macro_rules! attacks {
    ($($name:ident: $tried:literal, off $off:literal, on $on:literal, good $good:literal, $forms:expr;)*) => {
        pub const ROWS: &[$crate::row::Row] = &[$($crate::row::Row {
            name: stringify!($name), tried: $tried, off: $off, on: $on, good: $good, forms: $forms,
        }),*];
        $(
            #[test]
            fn $name() {
                $crate::check::check(ROWS.iter().find(|row| row.name == stringify!($name)).unwrap());
            }
        )*
    };
}

/// What a row says of one server.
pub fn of(text: &'static str, server: &str) -> &'static str {
    let own = |part: &&str| part.strip_prefix(server).is_some_and(|rest| rest.starts_with(": "));
    let parts = || text.split("; ");
    match parts().find(own) {
        Some(part) => &part[server.len() + 2..],
        None => {
            parts().find(|part| !part.contains(": ")).unwrap_or_else(|| panic!("`{text}` says nothing of {server}"))
        }
    }
}

/// The words of a set.
pub fn words(text: &str) -> BTreeSet<String> {
    text.split(" / ").map(str::to_owned).collect()
}

/// Whether this is the set that a row expects: each word of either has its like in the other.
pub fn same(expected: &str, got: &BTreeSet<String>) -> bool {
    let expected = words(expected);
    let is = |word: &String, got: &String| word.split(" or ").any(|one| one == got);
    expected.iter().all(|word| got.iter().any(|one| is(word, one)))
        && got.iter().all(|one| expected.iter().any(|word| is(word, one)))
}

/// A set as its words.
pub fn joined(words: &BTreeSet<String>) -> String {
    words.iter().map(String::as_str).collect::<Vec<_>>().join(" / ")
}

fn table(rows: &[Row]) -> String {
    let names: Vec<&str> = SERVERS.iter().map(|(_, name)| *name).collect();
    let mut out =
        format!("| attack | what is tried | off: {} | on | with an allowed value |\n", names.join(" | off: "));
    out.push_str(&"|---".repeat(names.len() + 4));
    out.push_str("|\n");
    for row in rows {
        let off: Vec<String> = names.iter().map(|name| joined(&words(of(row.off, name)))).collect();
        let by_server = |text: &str| text.replace("; ", ", else ");
        let (on, good) = (by_server(row.on), by_server(row.good));
        let _ = writeln!(out, "| `{}` | {} | {} | {on} | {good} |", row.name, row.tried, off.join(" | "));
    }
    out
}

/// Compares the tables of the threat model with these rows, or writes them. No attack's name comes twice.
pub fn compare_with_docs(tables: &[(&str, &[Row])]) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/threat-model.md");
    let texts: Vec<(&str, String)> = tables.iter().map(|(name, rows)| (*name, table(rows))).collect();
    docs::compare_tables(&path, &texts);
    let mut names: Vec<&str> = tables.iter().flat_map(|(_, rows)| rows.iter().map(|row| row.name)).collect();
    names.sort_unstable();
    assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "every attack has a name of its own");
}
