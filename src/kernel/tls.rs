//! Hooks in TLS libraries: found in the processes of the cgroups, attached once a file.
//!
//! A hook is the file's, not a process's: whoever maps it later is hooked from its first call on.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use libbpf_rs::{Link, MapCore, MapFlags, ProgramMut, UprobeOpts};
use procfs::process::{MMPermissions, MMapPath, Process};

use super::load::{Loaded, read};
use super::{KernelError, guard, io_error, may_take_sockets, probe};
use crate::abi;
use crate::cgroup::Cgroup;
use crate::policy::{Direction, Policy, Tls};
use crate::skel::TlsSkel;

mod elf;
mod object;

pub use object::verified;

use elf::Symbols;

/// The program at a function's entry, and whether the function's return is hooked too.
const OPENSSL: [(&str, Entry, bool); 22] = [
    ("SSL_read", Entry::Read, true),
    ("SSL_read_ex", Entry::ReadEx, true),
    ("SSL_peek", Entry::Peek, true),
    ("SSL_peek_ex", Entry::PeekEx, true),
    ("SSL_write", Entry::Write, true),
    ("SSL_write_ex", Entry::WriteEx, true),
    ("SSL_do_handshake", Entry::Shake, true),
    ("SSL_accept", Entry::Shake, true),
    ("SSL_connect", Entry::Shake, true),
    ("SSL_shutdown", Entry::Shake, true),
    ("SSL_read_early_data", Entry::Other, false),
    ("SSL_write_early_data", Entry::Other, false),
    ("SSL_sendfile", Entry::Other, false),
    ("SSL_write_ex2", Entry::Other, false),
    ("SSL_stateless", Entry::Other, false),
    ("SSL_free", Entry::Forget, false),
    ("SSL_clear", Entry::Forget, false),
    ("SSL_dup", Entry::Other, false),
    ("BIO_f_ssl", Entry::Bio, false),
    ("BIO_new_ssl", Entry::Bio, false),
    ("BIO_new_ssl_connect", Entry::Bio, false),
    ("BIO_new_buffer_ssl_connect", Entry::Bio, false),
];
/// A file with these is a TLS library.
const NEEDED: [&str; 5] = ["SSL_read", "SSL_write", "SSL_do_handshake", "SSL_free", FAILURE];
/// Does nothing but fail if its second argument is null, and says so in the queue of errors: a call that is denied becomes a
/// call of it, and the caller finds SSL_ERROR_SSL, whatever the object's last call was.
const FAILURE: &str = "SSL_use_certificate";
/// Where libraries are that processes will use.
const USUAL: [&str; 5] =
    ["/usr/lib/x86_64-linux-gnu", "/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib", "/usr/local/lib"];

#[derive(Debug, Clone, Copy)]
enum Entry {
    Shake,
    Read,
    ReadEx,
    Peek,
    PeekEx,
    Write,
    WriteEx,
    Other,
    Bio,
    Forget,
}

/// What can be done here to a call with denied plaintext: the best that the policy allows, as a `pg_rung`.
pub fn choose(wanted: Tls) -> Result<u32, String> {
    for (program, what) in [("pr_hook", "uprobes"), ("pr_received", "who reads a TCP socket")] {
        probe::loads(program).map_err(|why| format!("this kernel does not offer {what}: {why}"))?;
    }
    if probe::loads("pr_context").is_ok() {
        return Ok(abi::PG_RUNG_CONTEXT);
    }
    let signals = probe::loads("pr_signal");
    if wanted.pause && signals.is_ok() && may_take_sockets() && guard::in_first_pid_namespace() {
        return Ok(abi::PG_RUNG_PAUSE);
    }
    if wanted.kill && signals.is_ok() {
        return Ok(abi::PG_RUNG_KILL);
    }
    Err("nothing that the policy's [tls] section allows keeps denied plaintext from a process here".to_owned())
}

/// A file with a TLS library.
struct Library {
    path: PathBuf,
    /// Keeps the file's number from being given to another.
    _file: File,
    _links: Vec<Link>,
}

/// Hooks that run, and the files that they are in.
pub struct Hooks {
    skel: TlsSkel<'static>,
    _received: Link,
    libraries: Vec<Library>,
    /// Files that were looked at, by device and number: why they are not hooked, if they are not.
    seen: HashMap<(u64, u64), Result<usize, String>>,
    /// What was looked at of each process, so that it is not looked at again.
    maps: HashMap<u32, u64>,
    stale: HashSet<Vec<u8>>,
}

impl std::fmt::Debug for Hooks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hooks").field("libraries", &self.libraries.len()).finish_non_exhaustive()
    }
}

/// Loads the hooks, and hooks the libraries of all processes that are in the cgroups now.
pub fn start(policy: &Policy, engine: &Loaded, cgroups: &[&Cgroup]) -> Result<Hooks, KernelError> {
    let places = u32::try_from(cgroups.len()).unwrap_or(u32::MAX);
    if places > abi::PG_MAX_TLS_PLACES {
        let why = io::Error::other("there are more cgroups than the limit TLS_PLACES");
        return Err(KernelError::failed("read the TLS of all cgroups", why));
    }
    let config = abi::pg_tls_config {
        places,
        rung: policy.tables.config.tls,
        server: u32::from(policy.direction == Direction::Ingress),
        reserved: 0,
    };
    let skel = object::load(&policy.tables, config, engine)?;
    for (index, cgroup) in (0_u32..).zip(cgroups) {
        let fd = cgroup.as_fd().as_raw_fd().to_ne_bytes();
        let result = skel.maps.tls_places.update(&index.to_ne_bytes(), &fd, MapFlags::ANY);
        result.map_err(|e| KernelError::failed("say whose TLS is read", io_error(&e)))?;
    }
    let received = skel.progs.pt_received.attach();
    let received = received.map_err(|e| KernelError::failed("see who reads TCP sockets", io_error(&e)))?;
    let mut hooks = Hooks {
        skel,
        _received: received,
        libraries: Vec::new(),
        seen: HashMap::new(),
        maps: HashMap::new(),
        stale: HashSet::new(),
    };
    hooks.look_where_libraries_are();
    let processes: Vec<u32> = cgroups.iter().flat_map(|cgroup| cgroup.processes()).collect();
    hooks.look(&processes);
    Ok(hooks)
}

impl Hooks {
    /// Looks at the processes for libraries that are not hooked yet. Returns those that were hooked.
    pub fn look(&mut self, processes: &[u32]) -> Vec<PathBuf> {
        let before = self.libraries.len();
        let live: HashSet<u32> = processes.iter().copied().collect();
        self.maps.retain(|pid, _| live.contains(pid));
        for &pid in processes {
            self.look_at(pid);
        }
        self.libraries.iter().skip(before).map(|library| library.path.clone()).collect()
    }

    fn look_at(&mut self, pid: u32) {
        let Ok(maps) = Process::new(pid.cast_signed()).and_then(|process| process.maps()) else { return };
        let mut files = Vec::new();
        for map in &maps {
            let MMapPath::Path(path) = &map.pathname else { continue };
            if map.perms.contains(MMPermissions::EXECUTE) && map.inode != 0 {
                files.push((map.address, path.clone(), map.dev, map.inode));
            }
        }
        let print = files.iter().fold(0_u64, |sum, f| sum.wrapping_mul(31) ^ f.3 ^ f.0.0);
        if self.maps.insert(pid, print) == Some(print) {
            return;
        }
        for ((from, to), path, ..) in files {
            // By its mapping: the file may be renamed or deleted, or be in another mount namespace.
            let file = File::open(format!("/proc/{pid}/map_files/{from:x}-{to:x}"))
                .or_else(|_| File::open(format!("/proc/{pid}/root{}", path.display())));
            if let Ok(file) = file {
                self.look_into(file, &path);
            }
        }
    }

    fn look_where_libraries_are(&mut self) {
        for entry in USUAL.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with("libssl.so")
                && let Ok(file) = File::open(entry.path())
            {
                let path = entry.path();
                self.look_into(file, &path.canonicalize().unwrap_or(path));
            }
        }
    }

    fn look_into(&mut self, file: File, path: &Path) {
        let Ok(about) = file.metadata() else { return };
        let key = (about.dev(), about.ino());
        if self.seen.contains_key(&key) {
            return;
        }
        let names: Vec<_> = OPENSSL.iter().map(|(name, ..)| *name).chain([FAILURE]).collect();
        let result = match Symbols::read(&file, &names) {
            Ok(symbols) if NEEDED.iter().all(|name| symbols.get(name).is_some()) => self.hook(file, path, &symbols),
            Ok(symbols) => Err(symbols.kind().to_owned()),
            Err(e) => Err(format!("it cannot be read: {e}")),
        };
        self.seen.insert(key, result);
    }

    /// Attaches everything, and then lets it count.
    fn hook(&mut self, file: File, path: &Path, symbols: &Symbols) -> Result<usize, String> {
        let id = u32::try_from(self.libraries.len()).unwrap_or(u32::MAX);
        if id >= abi::PG_MAX_TLS_LIBRARIES {
            return Err("there are more TLS libraries than the limit TLS_LIBRARIES".to_owned());
        }
        let at = format!("/proc/self/fd/{}", file.as_raw_fd());
        let failure = symbols.get(FAILURE).map(|function| function.address).unwrap_or_default();
        let progs = &self.skel.progs;
        let mut links = Vec::new();
        for (name, entry, returns) in OPENSSL {
            let Some(function) = symbols.get(name) else { continue };
            let cookie = u64::from(id) | failure.wrapping_sub(function.address) << 16;
            let program = match entry {
                Entry::Shake => &progs.pt_shake,
                Entry::Read => &progs.pt_read,
                Entry::ReadEx => &progs.pt_read_ex,
                Entry::Peek => &progs.pt_peek,
                Entry::PeekEx => &progs.pt_peek_ex,
                Entry::Write => &progs.pt_write,
                Entry::WriteEx => &progs.pt_write_ex,
                Entry::Other => &progs.pt_other,
                Entry::Bio => &progs.pt_bio,
                Entry::Forget => &progs.pt_forget,
            };
            // The return first: no call is seen to begin whose end is not.
            if returns {
                links.push(attach(&progs.pt_return, &at, function.offset, cookie, true)?);
            }
            links.push(attach(program, &at, function.offset, cookie, false)?);
        }
        let armed = self.skel.maps.tls_armed.update(&id.to_ne_bytes(), &1_u32.to_ne_bytes(), MapFlags::ANY);
        armed.map_err(|e| e.to_string())?;
        self.libraries.push(Library { path: path.to_owned(), _file: file, _links: links });
        Ok(id as usize)
    }

    /// The file of a library.
    pub fn library(&self, id: u32) -> Option<&Path> {
        self.libraries.get(id as usize).map(|library| library.path.as_path())
    }

    /// Every file that is hooked.
    pub fn hooked(&self) -> impl Iterator<Item = &Path> {
        self.libraries.iter().map(|library| library.path.as_path())
    }

    /// What there is of TLS in a process: hooked files, and what else was recognised.
    pub fn of_process(&self, pid: u32) -> (Vec<PathBuf>, Vec<String>) {
        let (mut hooked, mut others) = (Vec::new(), Vec::new());
        let Ok(maps) = Process::new(pid.cast_signed()).and_then(|process| process.maps()) else {
            return (hooked, others);
        };
        for map in &maps {
            let MMapPath::Path(path) = &map.pathname else { continue };
            if !map.perms.contains(MMPermissions::EXECUTE) || map.inode == 0 {
                continue;
            }
            let (from, to) = map.address;
            let Ok(about) = fs::metadata(format!("/proc/{pid}/map_files/{from:x}-{to:x}")) else { continue };
            match self.seen.get(&(about.dev(), about.ino())) {
                Some(Ok(_)) => hooked.push(path.clone()),
                Some(Err(kind)) if !kind.is_empty() => others.push(format!("`{}`: {kind}", path.display())),
                _ => {}
            }
        }
        (hooked, others)
    }

    /// Threads that were stopped in a call with denied plaintext.
    pub fn holds(&self) -> Vec<abi::pg_tls_hold> {
        let map = &self.skel.maps.tls_holds;
        map.keys().filter_map(|key| read(&map.lookup(&key, MapFlags::ANY).ok()??)).collect()
    }

    /// The thread goes on.
    pub fn forget_hold(&self, thread: u32) {
        let _ = self.skel.maps.tls_holds.delete(&thread.to_ne_bytes());
    }

    /// Whether a process uses TLS in a way that no hook can follow.
    pub fn is_unread(&self, pid: u32) -> bool {
        self.skel.maps.tls_unread.lookup(&pid.to_ne_bytes(), MapFlags::ANY).is_ok_and(|found| found.is_some())
    }

    /// Forgets sessions whose connection is gone, once that was seen twice: processes that end free no objects.
    pub fn sweep(&mut self, is_live: impl Fn(u64) -> bool) {
        let map = &self.skel.maps.tls_sessions;
        let mut stale = HashSet::new();
        for key in map.keys() {
            let cookie = map.lookup(&key, MapFlags::ANY).ok().flatten();
            let cookie = cookie.and_then(|value| value.first_chunk().copied()).map(u64::from_ne_bytes);
            if cookie.is_some_and(&is_live) {
                continue;
            }
            if self.stale.contains(&key) {
                let _ = map.delete(&key);
            } else {
                stale.insert(key);
            }
        }
        self.stale = stale;
        let unread = &self.skel.maps.tls_unread;
        for key in unread.keys() {
            let pid = key.first_chunk().copied().map(u32::from_ne_bytes);
            if pid.is_none_or(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
                let _ = unread.delete(&key);
            }
        }
    }
}

fn attach(program: &ProgramMut<'_>, at: &str, offset: u64, cookie: u64, retprobe: bool) -> Result<Link, String> {
    let offset = usize::try_from(offset).map_err(|e| e.to_string())?;
    let options = UprobeOpts { cookie, retprobe, ..Default::default() };
    let link = program.attach_uprobe_with_opts(-1, at, offset, options);
    link.map_err(|e| format!("the kernel refuses to hook it: {}", io_error(&e)))
}
