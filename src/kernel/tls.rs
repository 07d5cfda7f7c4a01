//! Hooks in TLS libraries: found in the processes of the cgroups, attached once a file.
//!
//! A hook is the file's, not a process's: whoever maps it later is hooked from its first call on.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use libbpf_rs::{Link, MapCore, MapFlags, MapHandle, ProgramMut, UprobeMultiOpts, UprobeOpts};
use procfs::process::{MMPermissions, MMapPath, Process};

use super::guard::{self, Libraries};
use super::load::{Loaded, bytes_of, read};
use super::{KernelError, io_error, may_take_sockets, probe};
use crate::abi;
use crate::cgroup::Cgroup;
use crate::policy::{Direction, Policy, Tls};
use crate::skel::TlsSkel;

mod boringssl;
mod code;
mod elf;
mod go;
mod names;
mod object;
mod plan;

pub use object::verified;

use plan::{Hook, Plan, Program};

/// Where libraries are that processes will use.
const USUAL: [&str; 5] =
    ["/usr/lib/x86_64-linux-gnu", "/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib", "/usr/local/lib"];
const USUAL_NAMES: [&str; 2] = ["libssl.so", "libgnutls.so"];

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
    /// Else it is the dynamic linker, which tells of others.
    tls: bool,
    /// Keeps the file's number from being given to another.
    _file: File,
    _links: Vec<Link>,
}

/// Hooks that run, and the files that they are in.
pub struct Hooks {
    skel: TlsSkel<'static>,
    /// Its programs are attached to all their places in a file at once. One by one, what the kernel waits for at the end
    /// of each adds up to seconds.
    many: bool,
    _links: [Link; 2],
    libraries: Vec<Library>,
    /// Keeps the code of hooked libraries as it is.
    guard: Option<Libraries>,
    /// Files that were looked at, by device and number: why they are not hooked, if they are not.
    seen: HashMap<(u64, u64), Result<usize, String>>,
    /// What was looked at of each process, so that it is not looked at again.
    maps: HashMap<u32, u64>,
    /// What files without known functions seem to have.
    guesses: RefCell<HashMap<(u64, u64), Option<&'static str>>>,
    /// Mount namespaces whose usual folders were looked into.
    spaces: HashSet<u64>,
    /// Sessions without connection, with its cookie.
    stale: HashMap<Vec<u8>, u64>,
    /// How the clients of connections began.
    hellos: MapHandle,
    stale_hellos: HashSet<Vec<u8>>,
}

/// What a program is told of the place that it runs for.
fn cookie(hook: &Hook, id: u32) -> u64 {
    u64::from(id) | u64::from(hook.function) << abi::PG_COOKIE_FUNCTION | hook.failure << abi::PG_COOKIE_FAILURE
}

fn refused(e: libbpf_rs::Error) -> String {
    format!("the kernel refuses to hook it: {}", io_error(&e))
}

impl std::fmt::Debug for Hooks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hooks").field("libraries", &self.libraries.len()).finish_non_exhaustive()
    }
}

/// Loads the hooks, and hooks the libraries of all processes that are in the cgroups now.
pub fn start(
    policy: &Policy,
    engine: &Loaded,
    cgroups: &[&Cgroup],
    guard: Option<Libraries>,
) -> Result<Hooks, KernelError> {
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
    let many = probe::attaches_many();
    let skel = object::load(&policy.tables, config, engine, many)?;
    for (index, cgroup) in (0_u32..).zip(cgroups) {
        let fd = cgroup.as_fd().as_raw_fd().to_ne_bytes();
        let result = skel.maps.tls_places.update(&index.to_ne_bytes(), &fd, MapFlags::ANY);
        result.map_err(|e| KernelError::failed("say whose TLS is read", io_error(&e)))?;
    }
    let received = skel.progs.pt_received.attach();
    let received = received.map_err(|e| KernelError::failed("see who reads TCP sockets", io_error(&e)))?;
    let begun = skel.progs.pt_exec.attach();
    let begun = begun.map_err(|e| KernelError::failed("see which programs begin", io_error(&e)))?;
    let hellos = MapHandle::try_from(&skel.maps.tls_hellos);
    let hellos = hellos.map_err(|e| KernelError::failed("keep a map", io_error(&e)))?;
    guard.as_ref().map_or(Ok(()), Libraries::begin)?;
    let mut hooks = Hooks {
        skel,
        many,
        _links: [received, begun],
        libraries: Vec::new(),
        guard,
        seen: HashMap::new(),
        maps: HashMap::new(),
        guesses: RefCell::default(),
        spaces: HashSet::new(),
        stale: HashMap::new(),
        hellos,
        stale_hellos: HashSet::new(),
    };
    hooks.look_where_libraries_are("");
    let processes: Vec<u32> = cgroups.iter().flat_map(|cgroup| cgroup.processes()).collect();
    hooks.look(&processes);
    Ok(hooks)
}

impl Hooks {
    /// Looks at the processes for libraries that are not hooked yet. Returns those that were hooked.
    pub fn look(&mut self, processes: &[u32]) -> Vec<PathBuf> {
        let before = self.libraries.len();
        for &pid in processes {
            self.look_at(pid);
        }
        self.libraries.iter().skip(before).filter(|it| it.tls).map(|library| library.path.clone()).collect()
    }

    /// Forgets processes that are none of these.
    pub fn keep(&mut self, processes: &[u32]) {
        let live: HashSet<u32> = processes.iter().copied().collect();
        self.maps.retain(|pid, _| live.contains(pid));
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
        // What a container's processes will use, before they do.
        let space = fs::metadata(format!("/proc/{pid}/ns/mnt")).map(|about| about.ino()).unwrap_or_default();
        if self.spaces.insert(space) {
            self.look_where_libraries_are(&format!("/proc/{pid}/root"));
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

    /// Looks into the usual folders below a root, and for what processes will use of them.
    fn look_where_libraries_are(&mut self, root: &str) {
        for entry in USUAL.iter().filter_map(|folder| fs::read_dir(format!("{root}{folder}")).ok()).flatten().flatten()
        {
            let name = entry.file_name();
            if USUAL_NAMES.iter().any(|usual| name.to_string_lossy().starts_with(usual))
                && let Ok(file) = File::open(entry.path())
            {
                let path = entry.path();
                let path = path.canonicalize().unwrap_or(path);
                let path = path.strip_prefix(root).map_or(path.clone(), |inner| Path::new("/").join(inner));
                self.look_into(file, &path);
            }
        }
    }

    fn look_into(&mut self, file: File, path: &Path) {
        let Ok(about) = file.metadata() else { return };
        let key = (about.dev(), about.ino());
        if self.seen.contains_key(&key) {
            return;
        }
        let plan = plan::of(&file);
        let tls = plan.as_ref().map_or_else(|kind| !kind.is_empty(), |plan| plan.tls);
        let result = plan.and_then(|plan| {
            // First, so that nobody changes the code between the two.
            if tls {
                self.mark(&file, guard::Library::Hooked)?;
            }
            let links = self.hook(&file, &plan)?;
            self.libraries.push(Library {
                path: path.to_owned(),
                tls,
                _file: file.try_clone().map_err(|e| e.to_string())?,
                _links: links,
            });
            if tls { Ok(self.libraries.len() - 1) } else { Err(String::new()) }
        });
        if tls && result.is_err() {
            let _ = self.mark(&file, guard::Library::Plain);
        }
        self.seen.insert(key, result);
    }

    /// Tells the guard, if there is one.
    fn mark(&self, file: &File, library: guard::Library) -> Result<(), String> {
        let Some(guard) = &self.guard else { return Ok(()) };
        guard.mark(file, library).map_err(|e| format!("its code cannot be guarded: {e}"))
    }

    /// Attaches everything, and then lets it count.
    fn hook(&self, file: &File, plan: &Plan) -> Result<Vec<Link>, String> {
        let id = u32::try_from(self.libraries.len()).unwrap_or(u32::MAX);
        if id >= abi::PG_MAX_TLS_LIBRARIES {
            return Err("there are more TLS libraries than the limit TLS_LIBRARIES".to_owned());
        }
        let at = format!("/proc/self/fd/{}", file.as_raw_fd());
        let links = if self.many {
            plan.groups().iter().map(|group| self.attach_many(group, id, &at)).collect::<Result<_, _>>()?
        } else {
            plan.hooks.iter().map(|hook| self.attach(hook, id, &at)).collect::<Result<_, _>>()?
        };
        let library = abi::pg_tls_library { armed: 1, random_at: plan.random_at };
        let value = bytes_of(std::slice::from_ref(&library));
        let armed = self.skel.maps.tls_libraries.update(&id.to_ne_bytes(), value, MapFlags::ANY);
        armed.map_err(|e| e.to_string())?;
        Ok(links)
    }

    fn attach(&self, hook: &Hook, id: u32, at: &str) -> Result<Link, String> {
        let offset = usize::try_from(hook.offset).map_err(|e| e.to_string())?;
        let options = UprobeOpts { cookie: cookie(hook, id), retprobe: hook.caught, ..Default::default() };
        let link = self.program(hook.program).attach_uprobe_with_opts(-1, at, offset, options);
        link.map_err(refused)
    }

    /// Hooks of one program that are alike.
    fn attach_many(&self, group: &[&Hook], id: u32, at: &str) -> Result<Link, String> {
        let first = group.first().ok_or("there is nothing to hook")?;
        let offsets: Result<_, _> = group.iter().map(|hook| usize::try_from(hook.offset)).collect();
        let options = UprobeMultiOpts {
            offsets: offsets.map_err(|e: std::num::TryFromIntError| e.to_string())?,
            cookies: group.iter().map(|hook| cookie(hook, id)).collect(),
            retprobe: first.caught,
            ..Default::default()
        };
        let link = self.program(first.program).attach_uprobe_multi_with_opts(-1, at, "", options);
        link.map_err(refused)
    }

    fn program(&self, program: Program) -> &ProgramMut<'static> {
        let progs = &self.skel.progs;
        match program {
            Program::Enter => &progs.pt_enter,
            Program::Return => &progs.pt_return,
            Program::Other => &progs.pt_other,
            Program::Bio => &progs.pt_bio,
            Program::Forget => &progs.pt_forget,
            Program::Loaded => &progs.pt_loaded,
        }
    }

    /// The file of a library.
    pub fn library(&self, id: u32) -> Option<&Path> {
        self.libraries.get(id as usize).map(|library| library.path.as_path())
    }

    /// Every file that is hooked.
    pub fn hooked(&self) -> impl Iterator<Item = &Path> {
        self.libraries.iter().filter(|it| it.tls).map(|library| library.path.as_path())
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
            let Ok(file) = File::open(format!("/proc/{pid}/map_files/{from:x}-{to:x}")) else { continue };
            let Ok(about) = file.metadata() else { continue };
            let key = (about.dev(), about.ino());
            let kind = match self.seen.get(&key) {
                Some(Ok(_)) => {
                    hooked.push(path.clone());
                    continue;
                }
                Some(Err(kind)) if !kind.is_empty() => kind.clone(),
                _ => match self.guess(key, &file, path) {
                    Some(kind) => format!("{kind}, which is not hooked"),
                    None => continue,
                },
            };
            others.push(format!("`{}`: {kind}", path.display()));
        }
        (hooked, others)
    }

    fn guess(&self, key: (u64, u64), file: &File, path: &Path) -> Option<&'static str> {
        if path.file_name().is_some_and(|name| name == "libjvm.so") {
            return Some("a Java virtual machine, with TLS of its own");
        }
        *self.guesses.borrow_mut().entry(key).or_insert_with(|| elf::guess(file))
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

    /// Forgets how clients began whose connection or object was seen twice without the other.
    fn sweep_hellos(&mut self, is_live: impl Fn(u64) -> bool) {
        let mut stale = HashSet::new();
        for key in self.hellos.keys() {
            let ends = self.hellos.lookup(&key, MapFlags::ANY).ok().flatten();
            let Some(ends) = ends.and_then(|value| read::<abi::pg_hello_ends>(&value)) else { continue };
            if ends.cookie != 0 && is_live(ends.cookie) {
                continue;
            }
            if self.stale_hellos.contains(&key) {
                let _ = self.hellos.delete(&key);
            } else {
                stale.insert(key);
            }
        }
        self.stale_hellos = stale;
    }

    /// Forgets calls of threads that have ended.
    fn sweep_calls(&self) {
        let calls = &self.skel.maps.tls_calls;
        for key in calls.keys() {
            let Some(caller) = read::<abi::pg_tls_caller>(&key) else { continue };
            let thread =
                if caller.goroutine == 0 { format!("/task/{}", caller.who & 0xffff_ffff) } else { String::new() };
            if !Path::new(&format!("/proc/{}{thread}", caller.process)).exists() {
                let _ = calls.delete(&key);
            }
        }
    }

    /// Forgets sessions whose connection is gone, once that was seen twice: objects that end are not always seen to. Returns connections
    /// whose session went because it had just taken another's place: nobody reads those any more.
    pub fn sweep(&mut self, is_live: impl Fn(u64) -> bool) -> Vec<u64> {
        let (sessions, over) = (&self.skel.maps.tls_sessions, &self.skel.maps.tls_over);
        let ended = |key: &[u8]| {
            read::<abi::pg_tls_key>(key).is_none_or(|key| !Path::new(&format!("/proc/{}", key.process)).exists())
        };
        let cookie_of = |value: Vec<u8>| value.first_chunk().copied().map(u64::from_ne_bytes);
        let (mut stale, mut unread) = (HashMap::new(), Vec::new());
        for key in sessions.keys() {
            let Some(cookie) = sessions.lookup(&key, MapFlags::ANY).ok().flatten().and_then(cookie_of) else {
                continue;
            };
            if is_live(cookie) {
                continue;
            }
            if self.stale.get(&key) != Some(&cookie) {
                stale.insert(key, cookie);
                continue;
            }
            // While the process lives, the object may have bytes of the connection that nobody has read. If that cannot be noted, the
            // session stays, and judges them.
            if !ended(&key) && over.update(&key, &cookie.to_ne_bytes(), MapFlags::ANY).is_err() {
                stale.insert(key, cookie);
                continue;
            }
            let went = sessions.lookup_and_delete(&key).ok().flatten().and_then(cookie_of);
            if let Some(went) = went.filter(|went| *went != cookie) {
                let _ = over.update(&key, &went.to_ne_bytes(), MapFlags::ANY);
                unread.push(went);
            }
        }
        self.stale = stale;
        for key in over.keys().filter(|key| ended(key)) {
            let _ = over.delete(&key);
        }
        self.sweep_hellos(&is_live);
        self.sweep_calls();
        let bios = &self.skel.maps.tls_unread;
        for key in bios.keys() {
            let pid = key.first_chunk().copied().map(u32::from_ne_bytes);
            if pid.is_none_or(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
                let _ = bios.delete(&key);
            }
        }
        unread
    }
}
