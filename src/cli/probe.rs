//! `protocg probe`: what this kernel offers, and the enforcer's limits.

use std::io::{self, Write};

use serde::Serialize;

use super::exit::{Exit, Failure};
use crate::kernel::guard::Cover;
use crate::kernel::probe::{self, Enforcer, Feature, Need};
use crate::policy::Tls;
use crate::{abi, kernel, names};

#[derive(Serialize)]
struct Report {
    features: Vec<Feature>,
    limits: Vec<LimitRow>,
    memory: Vec<MemoryRow>,
    guard: Vec<Cover>,
    /// Instructions that the verifier looked at, by program of the guard.
    guard_verified: Vec<(&'static str, u32)>,
    tls: Rung,
    /// The same of the hooks in TLS libraries.
    tls_verified: Vec<(String, u32)>,
    enforcer: Enforcer,
}

/// What is done to a call of a TLS library that has denied plaintext, under a policy with `[tls]`.
#[derive(Serialize)]
struct Rung {
    name: &'static str,
    what: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

fn tls() -> (Rung, Vec<(String, u32)>) {
    let chosen = kernel::tls::choose(Tls::default());
    let loaded = chosen.and_then(|rung| match kernel::tls::verified(rung) {
        Ok(verified) => Ok((rung, verified)),
        Err(e) => Err(e.to_string()),
    });
    let rung = loaded.as_ref().map_or(abi::PG_RUNG_NONE, |(rung, _)| *rung);
    let (name, what) = names::rung(rung).unwrap_or_default();
    let (verified, why) = match loaded {
        Ok((_, verified)) => (verified, None),
        Err(why) => (Vec::new(), Some(why)),
    };
    (Rung { name, what, why }, verified)
}

/// What the state of one thing takes in the kernel, the map's own overhead (about 64 bytes an entry) not counted.
#[derive(Serialize)]
struct MemoryRow {
    what: &'static str,
    bytes: usize,
}

fn memory() -> Vec<MemoryRow> {
    let slots = |small, large| (small * abi::PG_HELD_SMALL_BYTES + large * abi::PG_MAX_HELD_BYTES) as usize;
    let held = slots(abi::PG_MAX_HELD_SMALL, abi::PG_MAX_HELD_LARGE);
    let mend = slots(abi::PG_MAX_MEND_SMALL, abi::PG_MAX_MEND_LARGE);
    let texts = abi::PG_MAX_PATH_TEXTS as usize * (size_of::<abi::pg_text_key>() + size_of::<abi::pg_text>());
    vec![
        MemoryRow { what: "a connection, while it lives", bytes: size_of::<abi::pg_conn>() },
        MemoryRow { what: "an RPC, while it lives", bytes: size_of::<abi::pg_stream>() },
        MemoryRow { what: "a connection with a hole before waiting segments", bytes: size_of::<abi::pg_held>() },
        MemoryRow { what: "waiting segments of all connections, always", bytes: held },
        MemoryRow { what: "copies of denied segments, always", bytes: mend },
        MemoryRow { what: "events, always", bytes: abi::PG_MAX_EVENT_BYTES as usize },
        MemoryRow { what: "texts of paths, always", bytes: texts },
    ]
}

#[derive(Serialize)]
struct LimitRow {
    name: String,
    number: u64,
    why: &'static str,
    edge: &'static str,
}

/// Probes and prints. A kernel that cannot enforce ends it with the status for that.
pub fn probe(json: bool) -> Result<Exit, Failure> {
    kernel::require_privileges().map_err(|e| Failure::new(Exit::Permission, e))?;
    let (guard, guard_verified) = probe::guard();
    let (tls, tls_verified) = tls();
    let report = Report {
        features: probe::features(),
        limits: names::limits()
            .map(|l| LimitRow { name: l.name.to_lowercase(), number: l.number, why: l.why, edge: l.edge })
            .collect(),
        memory: memory(),
        guard,
        guard_verified,
        tls,
        tls_verified,
        enforcer: probe::enforcer(),
    };
    let enough =
        report.enforcer.loads && report.features.iter().all(|f| f.need != Need::Required || f.offered != Some(false));
    let text = if json { serde_json::to_string(&report).unwrap_or_default() } else { report.text() };
    let _ = writeln!(io::stdout(), "{}", text.trim_end());
    Ok(if enough { Exit::Ok } else { Exit::Kernel })
}

impl Report {
    fn text(&self) -> String {
        let mut out = String::from("kernel\n");
        for feature in &self.features {
            let mark = match feature.offered {
                Some(true) => "yes",
                Some(false) => "NO",
                None => "unknown",
            };
            out.push_str(&format!("  {mark:8}{}\n", feature.name));
            if feature.offered != Some(true) {
                let later = if feature.need == Need::Later { " (not used yet)" } else { "" };
                out.push_str(&format!("          without it: {}{later}\n", feature.without));
                if !feature.why.is_empty() {
                    out.push_str(&format!("          the kernel says: {}\n", feature.why));
                }
            }
        }
        out.push_str("\nlimits\n");
        for limit in &self.limits {
            out.push_str(&format!("  {:22}{:>9}  {}; {}\n", limit.name, limit.number, limit.why, limit.edge));
        }
        out.push_str("\nkernel memory (a policy's tables come on top: see `protocg check`)\n");
        for row in &self.memory {
            out.push_str(&format!("  {:>9} B  {}\n", row.bytes, row.what));
        }
        out.push_str("\nguard (what a policy's [guard] section can close here)\n");
        for cover in &self.guard {
            let mark = if cover.why.is_none() { "yes" } else { "NO" };
            out.push_str(&format!("  {mark:8}{:20}{}\n", cover.way, cover.what));
            if let (Some(open), Some(why)) = (cover.open, &cover.why) {
                out.push_str(&format!("          open: {open}\n          why: {why}\n"));
            }
        }
        out.push_str("\ntls (what is done to a call with denied plaintext, under a policy with [tls])\n");
        out.push_str(&format!("  {:8}{}\n", self.tls.name, self.tls.what));
        if let Some(why) = &self.tls.why {
            out.push_str(&format!("          why: {why}\n"));
        }
        out.push_str("\nenforcer\n");
        if self.enforcer.loads {
            let of =
                |list: &'_ [(String, u32)]| list.iter().map(|(name, count)| (name.clone(), *count)).collect::<Vec<_>>();
            let guard = self.guard_verified.iter().map(|(name, count)| ((*name).to_owned(), *count));
            for (program, instructions) in
                of(&self.enforcer.verified).into_iter().chain(guard).chain(of(&self.tls_verified))
            {
                out.push_str(&format!("  {program:18}{instructions:>9} instructions verified\n"));
            }
        } else {
            out.push_str(&format!("  does not load: {}\n", self.enforcer.why));
        }
        out
    }
}
