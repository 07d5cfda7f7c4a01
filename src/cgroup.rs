//! Control groups: where version 2 is mounted, what a path names, who is in it.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use miette::Diagnostic;
use nix::sys::statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, statfs};
use thiserror::Error;

/// What is wrong with a cgroup.
#[derive(Debug, Error, Diagnostic)]
pub enum CgroupError {
    /// There is no cgroup2 file system.
    #[error("no cgroup2 file system is mounted")]
    #[diagnostic(help("mount one: mount -t cgroup2 none /sys/fs/cgroup"))]
    NotMounted,
    /// Nothing is there.
    #[error("cgroup `{0}` does not exist")]
    #[diagnostic(help(
        "cgroup2 is mounted at `{}`; make the cgroup with mkdir, or let protocg make one: protocg run POLICY -- COMMAND",
        .1.display()
    ))]
    Missing(PathBuf, PathBuf),
    /// A version 1 hierarchy.
    #[error("`{0}` is a cgroup of version 1")]
    #[diagnostic(help("protocg attaches to version 2 only, mounted at `{}`", .1.display()))]
    Version1(PathBuf, PathBuf),
    /// Something else.
    #[error("`{0}` is not a cgroup")]
    #[diagnostic(help("give a folder below `{}`", .1.display()))]
    NotACgroup(PathBuf, PathBuf),
    /// The root cgroup.
    #[error("`{0}` is the root cgroup")]
    #[diagnostic(help(
        "it holds every process of the machine, and packets that belong to none; move the workload into a cgroup of its own"
    ))]
    Root(PathBuf),
    /// One cgroup twice.
    #[error("`{0}` and `{1}` are the same cgroup")]
    Twice(PathBuf, PathBuf),
    /// One inside the other.
    #[error("cgroup `{0}` lies inside `{1}`")]
    #[diagnostic(help("child cgroups are covered by their parent: give the parent alone"))]
    Nested(PathBuf, PathBuf),
    /// The system refused.
    #[error("cannot {1} cgroup `{0}`: {2}")]
    Io(PathBuf, &'static str, io::Error),
}

/// A cgroup of version 2.
#[derive(Debug)]
pub struct Cgroup {
    /// Where it is.
    pub path: PathBuf,
    /// Its id: the one that the kernel's sockets carry.
    pub id: u64,
    dir: OwnedFd,
}

impl Cgroup {
    /// Opens the cgroup at `path`.
    pub fn open(path: &Path) -> Result<Self, CgroupError> {
        let mount = mount_point()?;
        let real = match path.canonicalize() {
            Ok(real) => real,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(CgroupError::Missing(path.to_owned(), mount)),
            Err(e) => return Err(CgroupError::Io(path.to_owned(), "open", e)),
        };
        let kind = statfs(&real).map_err(|e| CgroupError::Io(real.clone(), "read", e.into()))?.filesystem_type();
        if kind == CGROUP_SUPER_MAGIC {
            return Err(CgroupError::Version1(path.to_owned(), mount));
        }
        if kind != CGROUP2_SUPER_MAGIC || !real.is_dir() {
            return Err(CgroupError::NotACgroup(path.to_owned(), mount));
        }
        // The root alone has no cgroup.type.
        if !real.join("cgroup.type").exists() {
            return Err(CgroupError::Root(path.to_owned()));
        }
        let dir = File::open(&real).map_err(|e| CgroupError::Io(real.clone(), "open", e))?;
        let id = dir.metadata().map_err(|e| CgroupError::Io(real.clone(), "read", e))?.ino();
        Ok(Self { path: real, id, dir: dir.into() })
    }

    /// Opens each of `paths`, and refuses one that is given twice or lies inside another.
    pub fn open_all(paths: &[PathBuf]) -> Result<Vec<Self>, CgroupError> {
        let mut opened: Vec<(Self, &PathBuf)> = Vec::new();
        for path in paths {
            let cgroup = Self::open(path)?;
            for (other, given) in &opened {
                if other.id == cgroup.id {
                    return Err(CgroupError::Twice((*given).clone(), path.clone()));
                }
                if cgroup.path.starts_with(&other.path) {
                    return Err(CgroupError::Nested(path.clone(), (*given).clone()));
                }
                if other.path.starts_with(&cgroup.path) {
                    return Err(CgroupError::Nested((*given).clone(), path.clone()));
                }
            }
            opened.push((cgroup, path));
        }
        Ok(opened.into_iter().map(|(cgroup, _)| cgroup).collect())
    }

    /// Makes a cgroup for a command, below this process's own if that is allowed, else below the root.
    pub fn make() -> Result<Self, CgroupError> {
        let name = format!("{MADE}{}", std::process::id());
        let mount = mount_point()?;
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let mut tries = Vec::new();
        if let Some(path) = own.lines().find_map(|line| line.strip_prefix("0::/")) {
            tries.push(mount.join(path));
        }
        tries.push(mount.clone());
        let mut last = None;
        for parent in tries {
            remove_stale(&parent);
            let path = parent.join(&name);
            match fs::create_dir(&path) {
                // A child of a threaded cgroup takes no process.
                Ok(()) if fs::read_to_string(path.join("cgroup.type")).is_ok_and(|t| t.trim() == "domain") => {
                    return Self::open(&path);
                }
                Ok(()) => drop(fs::remove_dir(&path)),
                Err(e) => last = Some(CgroupError::Io(path, "make", e)),
            }
        }
        Err(last.unwrap_or(CgroupError::NotMounted))
    }

    /// Whether it was removed, or replaced by another of the same name.
    pub fn is_gone(&self) -> bool {
        fs::metadata(&self.path).map_or(true, |m| m.ino() != self.id)
    }

    /// Its and its descendants' ids, with their paths.
    pub fn tree(&self) -> HashMap<u64, PathBuf> {
        let mut found = HashMap::new();
        for path in descend(&self.path) {
            if let Ok(meta) = fs::metadata(&path) {
                found.insert(meta.ino(), path);
            }
        }
        found
    }

    /// The processes in it and in its descendants.
    pub fn processes(&self) -> Vec<u32> {
        let mut found = Vec::new();
        for path in descend(&self.path) {
            // A threaded cgroup lists threads only.
            let text = fs::read_to_string(path.join("cgroup.procs"))
                .or_else(|_| fs::read_to_string(path.join("cgroup.threads")))
                .unwrap_or_default();
            found.extend(text.lines().filter_map(|line| line.parse().ok()).filter(|&pid: &u32| pid != 0));
        }
        found
    }

    /// Ends every process in it, and removes it with its descendants. Says how many processes there were.
    pub fn remove(&self) -> Result<usize, CgroupError> {
        let left = self.processes();
        if !left.is_empty() && fs::write(self.path.join("cgroup.kill"), "1").is_err() {
            for &pid in &left {
                let _ =
                    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.cast_signed()), nix::sys::signal::SIGKILL);
            }
        }
        let started = std::time::Instant::now();
        loop {
            let result = descend(&self.path).iter().rev().try_for_each(fs::remove_dir);
            match result {
                Ok(()) => return Ok(left.len()),
                Err(e) if e.kind() == io::ErrorKind::NotFound && self.is_gone() => return Ok(left.len()),
                // Killed processes leave it a moment later.
                Err(_) if started.elapsed() < std::time::Duration::from_secs(2) => {
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
                Err(e) => return Err(CgroupError::Io(self.path.clone(), "remove", e)),
            }
        }
    }
}

impl AsFd for Cgroup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

/// Cgroups for commands are called so, with the agent's process id.
const MADE: &str = "protocg-run-";

/// Removes empty cgroups of agents that were killed.
fn remove_stale(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(MADE)).and_then(|pid| pid.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            // One with processes in it stays.
            let _ = descend(&entry.path()).iter().rev().try_for_each(fs::remove_dir);
        }
    }
}

/// `path` and every folder below it, parents first.
fn descend(path: &Path) -> Vec<PathBuf> {
    let mut found = vec![path.to_owned()];
    let mut next = 0;
    while let Some(path) = found.get(next).cloned() {
        next += 1;
        let Ok(entries) = fs::read_dir(&path) else { continue };
        found.extend(entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()));
    }
    found
}

/// Where cgroup2 is mounted.
pub fn mount_point() -> Result<PathBuf, CgroupError> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    find_mount(&text).ok_or(CgroupError::NotMounted)
}

/// The cgroup2 mount of a mountinfo text; one that shows the whole hierarchy before one that shows a part.
fn find_mount(mountinfo: &str) -> Option<PathBuf> {
    let mut found: Option<(bool, PathBuf)> = None;
    for line in mountinfo.lines() {
        // id parent major:minor root mount-point options [optional ...] - type source super-options
        let Some((left, right)) = line.split_once(" - ") else { continue };
        if right.split(' ').next() != Some("cgroup2") {
            continue;
        }
        let mut fields = left.split(' ').skip(3);
        let (Some(root), Some(point)) = (fields.next(), fields.next()) else { continue };
        let whole = root == "/";
        if found.as_ref().is_none_or(|(had_whole, _)| whole && !had_whole) {
            found = Some((whole, PathBuf::from(unescape(point))));
        }
    }
    found.map(|(_, path)| path)
}

/// mountinfo writes space, tab, newline and backslash as octal.
fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        out.push_str(before);
        match after.get(..3).and_then(|octal| u8::from_str_radix(octal, 8).ok()) {
            Some(byte) => {
                out.push(char::from(byte));
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                out.push('\\');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_is_found_in_hybrid_and_unified_layouts() {
        let hybrid = "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      38 31 0:35 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        assert_eq!(find_mount(hybrid), Some("/sys/fs/cgroup/unified".into()));
        let unified = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 master:1 - cgroup2 none rw,nsdelegate\n";
        assert_eq!(find_mount(unified), Some("/sys/fs/cgroup".into()));
        assert_eq!(find_mount("32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup2 rw,cpu\n"), None);
    }

    #[test]
    fn a_mount_of_the_whole_hierarchy_is_preferred() {
        let text = "1 0 0:1 /a/b /mnt/part rw - cgroup2 none rw\n2 0 0:1 / /mnt/with\\040space rw - cgroup2 none rw\n";
        assert_eq!(find_mount(text), Some("/mnt/with space".into()));
    }
}
