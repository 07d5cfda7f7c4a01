//! Enforcement that outlives the agent: links and maps by name in bpffs.
//!
//! One folder a cgroup, named by the cgroup's id, holds everything that the next agent needs: `link_*` and `map_*`.
//! Cgroups that share programs pin the same maps each. A note beside the locks says which policy it is and which
//! sources the programs were built from; it is written last and removed first, so pins without it are never adopted. A
//! failure on the way to new pins leaves those that were there.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use libbpf_rs::{MapCore, MapFlags, MapHandle};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use serde::{Deserialize, Serialize};

use super::KernelError;
use super::attach::RUN_DIR;
use super::guard::{Guarded, Maps, Refused};
use super::load::{self, Shared};
use super::sys::{self, Hook};
use crate::cgroup::Cgroup;

const BPFFS: &str = "/sys/fs/bpf";

/// A hash of the sources that this binary's programs were built from.
const SOURCES: &str = env!("PROTOCG_SOURCES");

/// What is pinned for a cgroup.
#[derive(Debug)]
pub struct Pins {
    /// Its links.
    pub links: Vec<(Hook, OwnedFd)>,
    /// Its maps.
    pub shared: Shared,
    /// Id of the ring buffer: equal for cgroups that share programs.
    pub events_id: u32,
    /// Whether the programs were built from this binary's sources.
    pub same_build: bool,
    /// Their read-only data, with the policy's numbers in it.
    pub rodata: Vec<u8>,
    /// The guard, if there is one.
    pub guard: Option<GuardPins>,
}

/// What is pinned of a guard.
#[derive(Debug)]
pub struct GuardPins {
    /// Links of its programs on the cgroup.
    pub on_cgroup: Vec<(String, OwnedFd)>,
    /// Links of its LSM programs.
    pub lsm: Vec<(String, OwnedFd)>,
    /// Its maps.
    pub maps: Maps,
    /// Their read-only data.
    pub rodata: Vec<u8>,
    /// What the kernel refused of it.
    pub refused: Refused,
}

/// The note about a cgroup's pins.
#[derive(Debug, Serialize, Deserialize)]
pub struct Note {
    /// The cgroup's path.
    pub cgroup: PathBuf,
    /// The policy's name.
    pub policy: String,
    sources: String,
    /// Names of the guard's links, and what the kernel refused of it.
    #[serde(default)]
    guard: Vec<String>,
    #[serde(default)]
    refused: Refused,
}

/// The folder for pins; mounts bpffs if it is not there yet.
pub fn root() -> Result<PathBuf, KernelError> {
    let base = Path::new(BPFFS);
    let fail = |e: io::Error| KernelError::NoBpffs(base.to_owned(), e);
    if !is_bpffs(base) {
        mount(Some("bpf"), base, Some("bpf"), MsFlags::empty(), Some("mode=0700")).map_err(|e| fail(e.into()))?;
    }
    let dir = base.join("protocg");
    fs::create_dir_all(&dir).map_err(fail)?;
    Ok(dir)
}

/// Whether bpffs is there.
pub fn mounted() -> bool {
    is_bpffs(Path::new(BPFFS))
}

fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|s| s.filesystem_type() == BPF_FS_MAGIC)
}

fn dir_of(id: u64) -> PathBuf {
    Path::new(BPFFS).join("protocg").join(id.to_string())
}

fn note_of(id: u64) -> PathBuf {
    Path::new(RUN_DIR).join(format!("{id}.json"))
}

/// Ids of the cgroups that something is pinned for.
pub fn list() -> Vec<u64> {
    let entries = fs::read_dir(Path::new(BPFFS).join("protocg"));
    entries.into_iter().flatten().flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect()
}

/// The note about a cgroup's pins.
pub fn note(id: u64) -> Option<Note> {
    serde_json::from_slice(&fs::read(note_of(id)).ok()?).ok()
}

/// Opens what is pinned for a cgroup. Pins that an agent left unfinished are removed.
pub fn find(id: u64) -> Option<Pins> {
    let dir = dir_of(id);
    if !dir.is_dir() {
        return None;
    }
    let found = open(&dir, id);
    if found.is_none() {
        detach(id);
    }
    found
}

fn open(dir: &Path, id: u64) -> Option<Pins> {
    let map = |name: &str| MapHandle::from_pinned_path(dir.join(format!("map_{name}"))).ok();
    let links: Vec<_> =
        Hook::ALL.into_iter().filter_map(|hook| Some((hook, sys::get(&dir.join(link_name(hook))).ok()?))).collect();
    if links.len() != Hook::ALL.len() {
        return None;
    }
    let shared = Shared {
        conns: map("conns")?,
        streams: map("streams")?,
        texts: map("texts")?,
        events: map("events")?,
        replies: map("replies")?,
        // an older build pinned none; what it did pin is not unfinished
        owed: map("owed").or_else(|| load::owed().ok())?,
        held_small: map("held_small")?,
        held_large: map("held_large")?,
        counters: map("counters")?,
        rodata: map("rodata")?,
    };
    let events_id = sys::map_id(&shared.events).ok()?;
    let same_build = note(id).is_some_and(|note| note.sources == SOURCES);
    let rodata = shared.read_only()?;
    let (guard, whole) = open_guard(dir, id);
    Some(Pins { links, shared, events_id, same_build: same_build && whole, rodata, guard })
}

/// The guard's pins, and whether there are all that the note speaks of.
fn open_guard(dir: &Path, id: u64) -> (Option<GuardPins>, bool) {
    let note = note(id);
    let (expected, refused) = note.map(|note| (note.guard, note.refused)).unwrap_or_default();
    let named = guard_names(dir).into_iter();
    let links: Vec<_> =
        named.filter_map(|name| Some((name.clone(), sys::get(&dir.join(guard_link(&name))).ok()?))).collect();
    let maps = Maps::from(|name| MapHandle::from_pinned_path(dir.join(format!("map_{name}"))).ok());
    let whole = expected.iter().all(|name| links.iter().any(|(it, _)| it == name)) && links.len() == expected.len();
    let (lsm, on_cgroup) = links.into_iter().partition(|(name, _)| name.starts_with("gl_"));
    let guard = maps.and_then(|maps| {
        let rodata = maps.rodata.lookup(&0_u32.to_ne_bytes(), MapFlags::ANY).ok()??;
        Some(GuardPins { on_cgroup, lsm, maps, rodata, refused })
    });
    let whole = whole && (guard.is_some() || expected.is_empty());
    (guard, whole)
}

/// Names of the guard's programs whose links are pinned.
fn guard_names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let names = entries.filter_map(|e| Some(e.file_name().to_str()?.strip_prefix("link_")?.to_owned()));
    names.filter(|name| name.starts_with("gc_") || name.starts_with("gl_")).collect()
}

fn guard_link(name: &str) -> String {
    format!("link_{name}")
}

/// Pins a guard, in the place of one that is pinned; without one, takes away what is.
pub fn guard(cgroup: &Cgroup, guarded: Option<&Guarded>, on_cgroup: &[(String, OwnedFd)]) -> Result<(), KernelError> {
    let dir = dir_of(cgroup.id);
    let before = guard_names(&dir);
    let links: Vec<_> = guarded.map_or(&[][..], |g| &g.links).iter().chain(on_cgroup).collect();
    let replace = |object: std::os::fd::BorrowedFd<'_>, name: String| {
        let new = dir.join("new_guard");
        let _ = fs::remove_file(&new);
        sys::pin(object, &new)?;
        fs::rename(&new, dir.join(name))
    };
    let pin_all = || -> io::Result<()> {
        for (name, map) in guarded.map(|g| g.maps.named()).into_iter().flatten() {
            replace(map.as_fd(), format!("map_{name}"))?;
        }
        for (name, link) in &links {
            replace(link.as_fd(), guard_link(name))?;
        }
        Ok(())
    };
    pin_all().map_err(|e| failed(&dir, e))?;
    for name in before.iter().filter(|name| !links.iter().any(|(it, _)| it == *name)) {
        let _ = fs::remove_file(dir.join(guard_link(name)));
    }
    if guarded.is_none() {
        for name in super::guard::MAPS {
            let _ = fs::remove_file(dir.join(format!("map_{name}")));
        }
    }
    Ok(())
}

fn link_name(hook: Hook) -> String {
    format!("link_{}", hook.program())
}

/// Pins the maps of a cgroup under names that nobody looks for yet: what was pinned before stays whole if this fails.
pub fn prepare(cgroup: &Cgroup, shared: &Shared) -> Result<(), KernelError> {
    root()?;
    let dir = dir_of(cgroup.id);
    let pin_all = || {
        fs::create_dir_all(&dir)?;
        for (name, map) in shared.named() {
            let path = dir.join(format!("new_{name}"));
            // An agent that was killed may have left one.
            match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => sys::pin(map.as_fd(), &path)?,
            }
        }
        Ok(())
    };
    pin_all().map_err(|e| {
        for (name, _) in shared.named() {
            let _ = fs::remove_file(dir.join(format!("new_{name}")));
        }
        failed(&dir, e)
    })
}

/// Gives the prepared maps their names, and pins the links; those that are pinned already stay as they are.
pub fn commit(
    cgroup: &Cgroup,
    links: &[(Hook, OwnedFd)],
    shared: &Shared,
    policy: &str,
    guarded: Option<&Guarded>,
) -> Result<(), KernelError> {
    let dir = dir_of(cgroup.id);
    let name_all = || {
        for (name, _) in shared.named() {
            fs::rename(dir.join(format!("new_{name}")), dir.join(format!("map_{name}")))?;
        }
        for (hook, link) in links {
            let path = dir.join(link_name(*hook));
            if !path.exists() {
                sys::pin(link.as_fd(), &path)?;
            }
        }
        let note = Note {
            cgroup: cgroup.path.clone(),
            policy: policy.to_owned(),
            sources: SOURCES.to_owned(),
            guard: guarded.map(|_| guard_names(&dir)).unwrap_or_default(),
            refused: guarded.map(|g| g.refused.clone()).unwrap_or_default(),
        };
        fs::write(note_of(cgroup.id), serde_json::to_vec(&note)?)
    };
    name_all().map_err(|e| failed(&dir, e))
}

fn failed(dir: &Path, e: io::Error) -> KernelError {
    KernelError::failed(format!("pin to `{}`", dir.display()), e)
}

/// Removes the note: what is pinned is about to change.
pub fn forget(id: u64) {
    let _ = fs::remove_file(note_of(id));
}

/// Removes every name of a cgroup's pins.
pub fn remove(id: u64) {
    forget(id);
    let dir = dir_of(id);
    for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
        let _ = fs::remove_file(entry.path());
    }
    let _ = fs::remove_dir(&dir);
    // The last one takes the folders with it.
    if let Some(parent) = dir.parent() {
        let _ = fs::remove_dir(parent);
    }
    let _ = fs::remove_dir(RUN_DIR);
}

/// Ends pinned enforcement on a cgroup. Says whether there was any.
pub fn detach(id: u64) -> bool {
    let dir = dir_of(id);
    if !dir.is_dir() {
        return false;
    }
    for hook in Hook::ALL {
        if let Ok(link) = sys::get(&dir.join(link_name(hook))) {
            let _ = sys::link_detach(link.as_fd());
        }
    }
    for name in guard_names(&dir) {
        // An LSM program's link ends with its last pin; it may be pinned for other cgroups too.
        if let Ok(link) = sys::get(&dir.join(guard_link(&name))) {
            let _ = sys::link_detach(link.as_fd());
        }
    }
    if let Some(maps) = Maps::from(|name| MapHandle::from_pinned_path(dir.join(format!("map_{name}"))).ok()) {
        maps.remove(id);
    }
    remove(id);
    true
}
