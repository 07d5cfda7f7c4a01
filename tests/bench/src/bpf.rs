//! How long the kernel says that protocg's programs ran.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result};
use libbpf_rs::libbpf_sys;
use libbpf_rs::query::{MapInfoIter, ProgInfoIter, ProgInfoQueryOptions};
use protocg::kernel::sys::{self, Hook};
use serde::{Deserialize, Serialize};

/// Run statistics are kept for as long as it lives. They cost each run two readings of a clock.
#[derive(Debug)]
pub struct Stats(#[allow(dead_code, reason = "held")] OwnedFd);

impl Stats {
    /// Turns them on.
    pub fn on() -> Result<Stats> {
        // SAFETY: no pointers.
        let fd = unsafe { libbpf_sys::bpf_enable_stats(libbpf_sys::BPF_STATS_RUN_TIME) };
        if fd < 0 {
            return Err(io::Error::from_raw_os_error(-fd)).context("cannot turn run statistics on");
        }
        // SAFETY: the call made the descriptor for us.
        Ok(Stats(unsafe { OwnedFd::from_raw_fd(fd) }))
    }
}

/// Runs of a program, and their time together.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Runs {
    /// How many.
    pub count: u64,
    /// Nanoseconds.
    pub ns: u64,
}

/// What the kernel has counted for the programs on a cgroup, by name.
pub fn runs(cgroup: &Path) -> Result<BTreeMap<String, Runs>> {
    let folder = File::open(cgroup)?;
    let mut ids = Vec::new();
    for hook in Hook::ALL {
        ids.extend(sys::attached(folder.as_fd(), hook)?);
    }
    let mut found = BTreeMap::new();
    for program in ProgInfoIter::default().filter(|p| ids.contains(&p.id)) {
        let name = program.name.to_string_lossy().into_owned();
        found.insert(name, Runs { count: program.run_cnt, ns: program.run_time_ns });
    }
    Ok(found)
}

/// What came to the counters between two readings.
#[must_use]
pub fn since(now: &BTreeMap<String, Runs>, earlier: &BTreeMap<String, Runs>) -> BTreeMap<String, Runs> {
    now.iter()
        .map(|(name, runs)| {
            let old = earlier.get(name).copied().unwrap_or_default();
            (name.clone(), Runs { count: runs.count - old.count, ns: runs.ns - old.ns })
        })
        .collect()
}

/// The kernel's memory for the maps of the programs on a cgroup, in bytes.
pub fn memory(cgroup: &Path) -> Result<u64> {
    let folder = File::open(cgroup)?;
    let mut programs = Vec::new();
    for hook in Hook::ALL {
        programs.extend(sys::attached(folder.as_fd(), hook)?);
    }
    let options = ProgInfoQueryOptions::default().include_map_ids(true);
    let mut maps: Vec<u32> =
        ProgInfoIter::with_query_opts(options).filter(|p| programs.contains(&p.id)).flat_map(|p| p.map_ids).collect();
    maps.sort_unstable();
    maps.dedup();
    MapInfoIter::default().filter(|m| maps.contains(&m.id)).map(|m| locked(m.id)).sum()
}

fn locked(map: u32) -> Result<u64> {
    use std::os::fd::AsRawFd;
    let handle = libbpf_rs::MapHandle::from_map_id(map)?;
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", handle.as_fd().as_raw_fd()))?;
    text.lines().find_map(|l| l.strip_prefix("memlock:")?.trim().parse().ok()).context("no memlock")
}
