//! The machinery of live tests: cgroups, network namespaces, and the processes that run in them.
//!
//! Everything cleans up after itself when dropped, waits for lines that say that something is so, and never sleeps
//! for a guess.

pub mod cgroup;
pub mod net;
pub mod process;

pub use cgroup::Cgroup;
pub use net::Veth;
pub use process::{Calls, Place, Protocg, Server, Session, Stack};

/// The folder of this target's binaries: tests run from `deps/` below it.
#[must_use]
pub fn binaries() -> std::path::PathBuf {
    let mut path = std::env::current_exe().unwrap_or_default();
    path.pop();
    if path.ends_with("deps") {
        path.pop();
    }
    path
}

/// A number that no other test of this run has.
#[must_use]
pub fn unique() -> u32 {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Whether live tests can run here; the reason if not.
pub fn possible() -> Result<(), String> {
    if !nix::unistd::geteuid().is_root() {
        return Err("needs root".into());
    }
    cgroup::mount().map(|_| ()).ok_or_else(|| "needs cgroup v2".into())
}

/// Says why a live test does not run, in a form that the summary counts, and whether it can.
#[must_use]
pub fn skip(test: &str) -> bool {
    match possible() {
        Ok(()) => false,
        Err(why) => {
            println!("SKIPPED {test}: {why}");
            true
        }
    }
}
