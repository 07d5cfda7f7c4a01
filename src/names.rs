//! The names and texts that the ABI's lists in `bpf/abi` give to reasons, causes, limits and counters.

use std::ffi::{CStr, c_char};

#[repr(C)]
struct Row {
    name: *const c_char,
    text: *const c_char,
    edge: *const c_char,
    number: u64,
}

#[allow(non_upper_case_globals, reason = "the names that bpf/host/names.c gives them")]
mod raw {
    unsafe extern "C" {
        pub static pg_reason_rows: [super::Row; 0];
        pub static pg_reason_row_count: usize;
        pub static pg_cause_rows: [super::Row; 0];
        pub static pg_cause_row_count: usize;
        pub static pg_limit_rows: [super::Row; 0];
        pub static pg_limit_row_count: usize;
        pub static pg_count_rows: [super::Row; 0];
        pub static pg_count_row_count: usize;
        pub static pg_way_rows: [super::Row; 0];
        pub static pg_way_row_count: usize;
        pub static pg_rung_rows: [super::Row; 0];
        pub static pg_rung_row_count: usize;
    }
}

/// Why the kernel side denied something when no rule did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reason {
    /// Its name in events.
    pub name: &'static str,
    /// What it means.
    pub text: &'static str,
    /// Index of its cause.
    pub cause: u32,
}

/// A limit of the enforcer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Its name, upper case, without `PG_MAX_`.
    pub name: &'static str,
    /// The number.
    pub number: u64,
    /// Why this number.
    pub why: &'static str,
    /// What happens past it.
    pub edge: &'static str,
}

/// A counter of the kernel side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counter {
    /// Its name in metrics.
    pub name: &'static str,
    /// What it counts.
    pub text: &'static str,
}

/// The reason with number `index`, as events carry it.
pub fn reason(index: u32) -> Option<Reason> {
    let row = rows(List::Reasons).get(index as usize)?;
    Some(Reason { name: text(row.name), text: text(row.text), cause: u32::try_from(row.number).unwrap_or_default() })
}

/// The name of the cause with number `index`, as policies know it.
pub fn cause(index: u32) -> Option<&'static str> {
    rows(List::Causes).get(index as usize).map(|row| text(row.name))
}

/// Every limit.
pub fn limits() -> impl Iterator<Item = Limit> {
    rows(List::Limits).iter().map(|row| Limit {
        name: text(row.name),
        number: row.number,
        why: text(row.text),
        edge: text(row.edge),
    })
}

/// Every counter, in the order of `enum pg_counter`.
pub fn counters() -> impl Iterator<Item = Counter> {
    rows(List::Counters).iter().map(|row| Counter { name: text(row.name), text: text(row.text) })
}

/// A way around the enforcer that the guard closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    /// Its switch in policies, and the cause in events.
    pub name: &'static str,
    /// What is tried.
    pub text: &'static str,
    /// What is open where it is not closed.
    pub open: &'static str,
    /// `pg_guard_switch` where a policy does not say.
    pub default: u32,
}

/// Every way, in the order of `enum pg_way`.
pub fn ways() -> impl Iterator<Item = Way> {
    rows(List::Ways).iter().map(|row| Way {
        name: text(row.name),
        text: text(row.text),
        open: text(row.edge),
        default: u32::try_from(row.number).unwrap_or_default(),
    })
}

/// The way with number `index`, as events carry it.
pub fn way(index: u32) -> Option<Way> {
    ways().nth(index as usize)
}

/// What is done to a call into a TLS library that has denied plaintext: its name, and what it means; by `pg_rung`.
pub fn rung(index: u32) -> Option<(&'static str, &'static str)> {
    rows(List::Rungs).get(index as usize).map(|row| (text(row.name), text(row.text)))
}

/// The name of a gRPC status code.
pub fn status(code: u32) -> &'static str {
    crate::policy::STATUS.get(code as usize).copied().unwrap_or("UNKNOWN")
}

enum List {
    Reasons,
    Causes,
    Limits,
    Counters,
    Ways,
    Rungs,
}

fn rows(list: List) -> &'static [Row] {
    // SAFETY: bpf/host/names.c defines each array with as many rows as its count says; both are constant.
    unsafe {
        let (first, count) = match list {
            List::Reasons => (&raw const raw::pg_reason_rows, raw::pg_reason_row_count),
            List::Causes => (&raw const raw::pg_cause_rows, raw::pg_cause_row_count),
            List::Limits => (&raw const raw::pg_limit_rows, raw::pg_limit_row_count),
            List::Counters => (&raw const raw::pg_count_rows, raw::pg_count_row_count),
            List::Ways => (&raw const raw::pg_way_rows, raw::pg_way_row_count),
            List::Rungs => (&raw const raw::pg_rung_rows, raw::pg_rung_row_count),
        };
        std::slice::from_raw_parts(first.cast::<Row>(), count)
    }
}

fn text(pointer: *const c_char) -> &'static str {
    if pointer.is_null() {
        return "";
    }
    // SAFETY: the rows hold string literals of names.c, which live as long as the program.
    unsafe { CStr::from_ptr(pointer) }.to_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi;

    #[test]
    fn every_reason_has_a_name_and_a_cause() {
        for index in 0..abi::PG_R_COUNT {
            let reason = reason(index).expect("named");
            assert!(!reason.name.is_empty() && cause(reason.cause).is_some());
        }
        assert_eq!(reason(abi::PG_R_COUNT), None);
        assert_eq!(reason(abi::PG_R_TLS).map(|r| (r.name, r.cause)), Some(("tls", abi::PG_CAUSE_TLS)));
        assert_eq!(cause(abi::PG_CAUSE_COUNT), None);
    }

    #[test]
    fn limits_and_counters_are_the_headers() {
        let paths = limits().find(|l| l.name == "PATH_BYTES").expect("listed");
        assert_eq!(paths.number, u64::from(abi::PG_MAX_PATH_BYTES));
        assert_eq!(counters().count(), abi::PG_COUNTERS as usize);
        assert_eq!(ways().count(), abi::PG_W_COUNT as usize);
        assert_eq!(way(abi::PG_W_UNIX).map(|w| (w.name, w.default)), Some(("unix_listen", abi::PG_GUARD_REPORT)));
        assert_eq!(counters().nth(abi::PG_N_EVENTS_LOST as usize).map(|c| c.name), Some("events_lost"));
    }
}
