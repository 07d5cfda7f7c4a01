//! One attack in its worlds: without and with the enforcer, with a denied and an allowed value, against each server.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use protocg::{abi, names};
use protocg_peers::h2raw;
use protocg_peers::harness::{self, patience, unique};
use serde_json::Value as Json;

use crate::arena::{Arena, Site, Target, arena, forbidden};
use crate::row::{Row, joined, of, same};
use crate::talk::{Got, LOGIN, MARK, Neighbour, Talk, Value, head, last};

/// RFC 9113, section 7.
const CODES: [&str; 14] = [
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
];

fn code(code: u32) -> &'static str {
    CODES.get(code as usize).copied().unwrap_or("of another code")
}

/// What came of one form of an attack.
struct Outcome {
    got: Got,
    about: u32,
    marked: bool,
    /// What handlers saw of the connection, in an order that does not depend on time.
    seen: Vec<Json>,
}

impl Outcome {
    /// In the words of `row`.
    fn word(&self) -> String {
        let answer = self.got.reader.answer(self.about);
        if self.seen.iter().any(|e| forbidden(e) && (!self.marked || e.to_string().contains(MARK))) {
            return "handler".into();
        }
        if answer.status() == Some(0) {
            return "harmless".into();
        }
        if let Some(status) = answer.status() {
            return names::status(status.cast_unsigned()).into();
        }
        if let Some(status) = answer.get(":status").filter(|status| *status != "200") {
            return format!("HTTP {status}");
        }
        if let Some(reset) = answer.reset {
            return format!("RST_STREAM {}", code(reset));
        }
        match self.got.reader.goaway {
            Some((_, error)) if error != 0 => format!("GOAWAY {}", code(error)),
            _ if self.got.closed => "close".into(),
            _ => "silence".into(),
        }
    }
}

/// Holds all forms of an attack, one after the other.
fn hold(target: &Target, forms: &[Talk], brief: bool) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for form in forms {
        let got = form.hold(target.address, brief);
        outcomes.push(Outcome { got, about: form.about(), marked: form.marked, seen: Vec::new() });
    }
    outcomes
}

/// What a connection was denied for. The agent sums up storms of equal events: then the answer to the caller says it.
fn causes(arena: &Arena, outcome: &Outcome) -> BTreeSet<String> {
    let causes = arena.causes(outcome.got.from);
    if !causes.is_empty() {
        return causes.into_iter().collect();
    }
    let answer = outcome.got.reader.answer(outcome.about);
    if let Some(by) = answer.get("grpc-message").and_then(|m| m.strip_prefix("denied by policy attacks: ")) {
        let text = |r: &names::Reason| by.ends_with(&format!("({})", r.text));
        let reason = (0..abi::PG_R_COUNT).filter_map(names::reason).find(text);
        return BTreeSet::from([reason.map_or(by, |reason| reason.name).to_owned()]);
    }
    BTreeSet::from(["passed".to_owned()])
}

/// Everything that was denied before has been said: events come in order, and one more denial has come.
fn fence(arena: &Arena, site: &Site) {
    let bound = Instant::now() + patience(Duration::from_secs(20));
    loop {
        let call = [head(1, LOGIN, &[]), last(1, &h2raw::grpc(&[]))].concat();
        let got = Talk::new(call).hold(site.on.address, false);
        // In a storm of these, it would not be printed.
        let asked = Instant::now();
        while asked.elapsed() < Duration::from_secs(1) {
            if !arena.causes(got.from).is_empty() {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(Instant::now() < bound, "a denial is said");
    }
}

/// Four worlds, each in a thread of its own, and an innocent client beside the enforced ones.
struct Worlds {
    off_denied: Vec<Outcome>,
    off_allowed: Vec<Outcome>,
    on_denied: Vec<Outcome>,
    on_allowed: Vec<Outcome>,
    denied: Vec<BTreeSet<String>>,
    refused: Vec<BTreeSet<String>>,
}

fn worlds(arena: &Arena, site: &Site, row: &Row) -> Worlds {
    let (bad, good) = ((row.forms)(Value::Denied), (row.forms)(Value::Allowed));
    let silent = of(row.off, site.name).contains("silence");
    let passed = of(row.on, site.name).contains("passed");
    let stop = AtomicBool::new(false);
    let mut worlds = std::thread::scope(|scope| {
        let off_denied = scope.spawn(|| hold(&site.off, &bad, silent));
        let off_allowed = scope.spawn(|| hold(&site.off, &good, silent));
        let on_denied = scope.spawn(|| hold(&site.on, &bad, silent && passed));
        let on_allowed = scope.spawn(|| hold(&site.on, &good, silent));
        let (address, style) = (site.on.address, arena.style);
        let stop = &stop;
        let innocent = scope.spawn(move || {
            let mut neighbour = Neighbour::new(address, style);
            neighbour.call("before");
            while !stop.load(Ordering::Relaxed) {
                neighbour.call("during");
                std::thread::sleep(Duration::from_millis(5));
            }
            neighbour.call("after");
        });
        let off_denied = off_denied.join();
        let off_allowed = off_allowed.join();
        let on_denied = on_denied.join();
        let on_allowed = on_allowed.join();
        stop.store(true, Ordering::Relaxed);
        innocent.join().expect("an innocent connection is harmed");
        Worlds {
            off_denied: off_denied.unwrap(),
            off_allowed: off_allowed.unwrap(),
            on_denied: on_denied.unwrap(),
            on_allowed: on_allowed.unwrap(),
            denied: Vec::new(),
            refused: Vec::new(),
        }
    });
    for (target, [one, two]) in [
        (&site.off, [&mut worlds.off_denied, &mut worlds.off_allowed]),
        (&site.on, [&mut worlds.on_denied, &mut worlds.on_allowed]),
    ] {
        let clients: Vec<IpAddr> = one.iter().chain(two.iter()).map(|o| o.got.from).collect();
        let fence = format!("fence {}", unique());
        Neighbour::new(target.address, arena.style).call(&fence);
        let seen = target.seen(&fence, &clients);
        one.iter_mut().chain(two.iter_mut()).zip(seen).for_each(|(outcome, seen)| outcome.seen = seen);
    }
    fence(arena, site);
    worlds.denied = worlds.on_denied.iter().map(|outcome| causes(arena, outcome)).collect();
    worlds.refused = worlds.on_allowed.iter().map(|outcome| causes(arena, outcome)).collect();
    worlds
}

/// What a row says against what was seen, server by server; all that differs is said at once.
pub fn check(row: &Row) {
    if harness::skip(row.name) {
        return;
    }
    check_in(&arena(), row);
}

/// The same with servers of its own.
pub fn check_in(arena: &Arena, row: &Row) {
    let all: Vec<(&Site, Worlds)> = std::thread::scope(|scope| {
        let threads: Vec<_> = arena.sites.iter().map(|s| (s, scope.spawn(|| worlds(arena, s, row)))).collect();
        threads.into_iter().map(|(site, thread)| (site, thread.join().unwrap())).collect()
    });
    let mut wrong = Vec::new();
    for (site, worlds) in &all {
        let name = site.name;
        let off: BTreeSet<String> = worlds.off_denied.iter().map(Outcome::word).collect();
        let on: BTreeSet<String> = worlds.denied.iter().flatten().cloned().collect();
        let seen = worlds.on_denied.iter().chain(&worlds.on_allowed).enumerate();
        for (i, outcome) in seen.filter(|(_, o)| o.seen.iter().any(forbidden)) {
            wrong.push(format!("form {i}: {name}: under the enforcer a handler saw {:#?}", outcome.seen));
        }
        for (what, expected, got) in [("off", row.off, &off), ("on", row.on, &on)] {
            if !same(of(expected, name), got) {
                wrong.push(format!("{what}: {name}: {}", joined(got)));
            }
        }
        for (i, (denied, outcome)) in worlds.denied.iter().zip(&worlds.off_denied).enumerate() {
            if denied.contains("passed") && outcome.word() == "handler" {
                let with = worlds.on_denied[i].word();
                wrong.push(format!(
                    "form {i}: {name}: the enforcer says nothing of what a handler saw without it: {with}"
                ));
            }
        }
        let mut good = BTreeSet::new();
        for (i, ((off, on), refused)) in
            worlds.off_allowed.iter().zip(&worlds.on_allowed).zip(&worlds.refused).enumerate()
        {
            if off.seen != on.seen {
                good.extend(refused.iter().cloned());
                if refused.contains("passed") {
                    wrong.push(format!("form {i}: {name}: allowed, and lost: {:#?} became {:#?}", off.seen, on.seen));
                }
            } else if off.word() == "harmless" {
                good.insert("allowed".to_owned());
            }
        }
        if good.is_empty() {
            good.insert("refused".to_owned());
        }
        if !same(of(row.good, name), &good) {
            wrong.push(format!("good: {name}: {}", joined(&good)));
        }
    }
    assert!(wrong.is_empty(), "{}:\n{}", row.name, wrong.join("\n"));
}
