//! The machinery of live tests: cgroups, network namespaces, and the processes that run in them.
//!
//! Everything cleans up after itself when dropped, waits for lines that say that something is so, and never sleeps
//! for a guess.

use std::sync::OnceLock;
use std::time::Duration;

pub mod cgroup;
pub mod docs;
pub mod net;
pub mod process;
pub mod stack;

pub use cgroup::Cgroup;
pub use net::Veth;
pub use process::{Calls, Place, Protocg, Server, Session, Watched};
pub use stack::Stack;

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

/// How long to wait on this machine for what usually takes `usual` at most. `PROTOCG_TEST_SLOW` says how many times slower
/// than usual it is: an emulated one is.
#[must_use]
pub fn patience(usual: Duration) -> Duration {
    static SLOWER: OnceLock<u32> = OnceLock::new();
    usual * *SLOWER.get_or_init(|| std::env::var("PROTOCG_TEST_SLOW").ok().and_then(|n| n.parse().ok()).unwrap_or(1))
}

/// Milliseconds between two messages that are to travel and be answered one by one. Four times as many are enough for any
/// machine, and tests with many of them end.
#[must_use]
pub fn pause_ms(usual: u32) -> u32 {
    let slow = patience(Duration::from_millis(usual.into()));
    u32::try_from(slow.as_millis()).unwrap_or(u32::MAX).min(4 * usual)
}

/// Whether this kernel can tell pages that their sender can still write: it needs two functions of Linux 6.2.
#[must_use]
pub fn pages_can_be_told() -> bool {
    static TOLD: OnceLock<bool> = OnceLock::new();
    *TOLD.get_or_init(|| {
        let symbols = std::fs::read_to_string("/proc/kallsyms").unwrap_or_default();
        let has = |name: &str| symbols.lines().any(|line| line.ends_with(name));
        has(" bpf_cast_to_kern_ctx") && has(" bpf_rdonly_cast")
    })
}

/// What `protocg run` has to be told on this kernel before it enforces.
#[must_use]
pub fn flags() -> &'static [&'static str] {
    if pages_can_be_told() { &[] } else { &["--allow-shared-pages"] }
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

/// The same for a test that is about pages which their sender can still write.
#[must_use]
pub fn skip_pages(test: &str) -> bool {
    if skip(test) {
        return true;
    }
    if !pages_can_be_told() {
        println!("SKIPPED {test}: before Linux 6.2 the kernel cannot tell pages that their sender can still write");
    }
    !pages_can_be_told()
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
