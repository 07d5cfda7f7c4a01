//! The maps of a running enforcer, found through the programs on its cgroup.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::collections::HashSet;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use libbpf_rs::query::{ProgInfoIter, ProgInfoQueryOptions};
use libbpf_rs::{MapCore, MapFlags, MapHandle};
use protocg::kernel::sys::{self, Hook};
use protocg::{abi, names};

/// The map of this name that the programs on a cgroup use.
pub fn of(cgroup: &Path, name: &str) -> MapHandle {
    let programs = programs(cgroup);
    assert_eq!(programs.len(), Hook::ALL.len(), "one enforcer");
    let options = ProgInfoQueryOptions::default().include_map_ids(true);
    ProgInfoIter::with_query_opts(options)
        .filter(|program| programs.contains(&program.id))
        .flat_map(|program| program.map_ids)
        .map(|id| MapHandle::from_map_id(id).unwrap())
        .find(|map| map.name() == name)
        .unwrap_or_else(|| panic!("no map `{name}`"))
}

fn programs(cgroup: &Path) -> HashSet<u32> {
    let folder = File::open(cgroup).unwrap();
    Hook::ALL.into_iter().flat_map(|hook| sys::attached(folder.as_fd(), hook).unwrap()).collect()
}

/// Entries of every map of connections, RPCs and slots on a cgroup, by name; of queues, what is in them. Caches, which push
/// out what is old by themselves, tables and scratch are not among them. Nobody else may use the queues meanwhile.
pub fn entries(cgroup: &Path) -> std::collections::BTreeMap<String, usize> {
    let hashes = ["conns", "streams", "held", "replies"].map(|name| (name.to_owned(), count(&of(cgroup, name))));
    let taken = of(cgroup, "next_berth").lookup(&0_u32.to_ne_bytes(), MapFlags::ANY).unwrap().unwrap();
    let taken = u32::from_ne_bytes(taken.try_into().unwrap()).min(abi::PG_MAX_BERTHS) as usize;
    let berths = ("berths".to_owned(), taken - queued(&of(cgroup, "free_berths")).len());
    let queues = ["free_small", "free_large", "mend_small", "mend_large"];
    let queues = queues.map(|name| (name.to_owned(), queued(&of(cgroup, name)).len()));
    hashes.into_iter().chain(queues).chain([berths]).collect()
}

/// Live RPCs: those in the table, and those that have a seat of their connection's.
pub fn streams(conns: &MapHandle, table: &MapHandle) -> usize {
    let seats = std::mem::offset_of!(abi::pg_conn, seat);
    let seats = seats..seats + size_of::<u16>() * abi::PG_SEATS as usize;
    let conns = conns.keys().filter_map(|key| conns.lookup(&key, MapFlags::ANY).unwrap());
    let seated = conns.map(|conn| conn[seats.clone()].chunks(size_of::<u16>()).filter(|seat| **seat != [0; 2]).count());
    seated.sum::<usize>() + count(table)
}

/// How many entries it has.
pub fn count(map: &MapHandle) -> usize {
    map.keys().count()
}

/// The kernel's bytes for it, as `bpftool map show` says.
pub fn bytes(map: &MapHandle) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", map.as_fd().as_raw_fd())).unwrap();
    text.lines().find_map(|line| line.strip_prefix("memlock:")?.trim().parse().ok()).unwrap()
}

/// What a queue holds, in order: everything is taken out and put back. Nobody else may use it meanwhile.
pub fn queued(queue: &MapHandle) -> Vec<u32> {
    let mut found = Vec::new();
    while let Ok(Some(value)) = queue.lookup_and_delete(&[]) {
        found.push(u32::from_ne_bytes(value.try_into().unwrap()));
    }
    for value in &found {
        queue.update(&[], &value.to_ne_bytes(), MapFlags::ANY).unwrap();
    }
    found
}

/// A number of an array with a value for each CPU, over all of them.
pub fn sum(map: &MapHandle, index: u32) -> u64 {
    let values = map.lookup_percpu(&index.to_ne_bytes(), MapFlags::ANY).unwrap().unwrap();
    values.into_iter().map(|value| u64::from_ne_bytes(value.try_into().unwrap())).sum()
}

/// What the enforcer on a cgroup has counted, and the segments that it has dropped by reason; without the zeros.
pub fn counted(cgroup: &Path) -> String {
    if programs(cgroup).len() != Hook::ALL.len() {
        return "nobody enforces any more".to_owned();
    }
    let (counters, drops) = (of(cgroup, "counters"), of(cgroup, "drops"));
    let counted = names::counters().enumerate().map(|(index, it)| (it.name, sum(&counters, index as u32)));
    let reasons = (0..abi::PG_R_COUNT).filter_map(|index| Some((names::reason(index)?.name, sum(&drops, index))));
    let shown = |(name, count): &(&str, u64)| (*count > 0).then(|| format!(" {name} {count}"));
    let [counted, dropped] =
        [counted.collect::<Vec<_>>(), reasons.collect()].map(|all| all.iter().filter_map(shown).collect::<String>());
    format!("counted:{counted}; dropped:{dropped}")
}

/// Whether every value of an array is zero.
pub fn all_zero(map: &MapHandle) -> bool {
    (0..map.max_entries())
        .all(|index| map.lookup(&index.to_ne_bytes(), MapFlags::ANY).unwrap().unwrap().iter().all(|byte| *byte == 0))
}
