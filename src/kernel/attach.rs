//! Programs on cgroups: attached anew, adopted from pins, or exchanged for those that are pinned there.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};

use super::KernelError;
use super::guard::{self, Guarded};
use super::load::{self, Loaded, Shared};
use super::pin::{self, Pins};
use super::probe;
use super::sys::{self, Hook};
use super::tls::{self, Hooks};
use crate::cgroup::Cgroup;
use crate::policy::Policy;

/// Where locks and notes about pins are kept.
pub const RUN_DIR: &str = "/run/protocg";

/// How enforcement came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// New programs, where there were none.
    Fresh,
    /// The pinned programs go on, with all that they know.
    Adopted,
    /// New programs took the place of pinned ones; they know no connection yet.
    Exchanged,
}

/// A cgroup under enforcement. Dropping it ends that, unless it is pinned.
#[derive(Debug)]
pub struct Attachment {
    /// Where.
    pub cgroup: Cgroup,
    links: Vec<(Hook, OwnedFd)>,
    /// The guard's programs on this cgroup.
    guard: Vec<(String, OwnedFd)>,
    _lock: Lock,
}

/// All of an agent's enforcement.
#[derive(Debug)]
pub struct Enforcer {
    /// The maps.
    pub shared: Shared,
    /// The cgroups.
    pub attachments: Vec<Attachment>,
    /// How it came about.
    pub origin: Origin,
    /// Whether it outlives the agent.
    pub pinned: bool,
    /// What closes the ways around, if the policy asks for it.
    pub guard: Option<Guarded>,
    /// What reads TLS, if the policy asks for it; or why nothing does.
    pub tls: Result<Option<Hooks>, String>,
}

/// What is asked of enforcement beside the policy.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asked {
    /// It is to outlive the agent.
    pub pin: bool,
    /// Only if every way around that the policy does not allow is closed.
    pub whole_guard: bool,
    /// Even if the kernel cannot tell which pages their sender can still write.
    pub shared_pages: bool,
}

/// Enforces `policy` on each of `cgroups`.
pub fn enforce(cgroups: Vec<Cgroup>, policy: &Policy, asked: Asked) -> Result<Enforcer, KernelError> {
    let Asked { pin, whole_guard, shared_pages } = asked;
    if whole_guard && policy.guard.is_none() {
        return Err(KernelError::Unguarded("  all: the policy has no [guard] section".to_owned()));
    }
    let mut places = Vec::new();
    for cgroup in cgroups {
        let lock = Lock::take(cgroup.id, &cgroup.path)?;
        let pins = pin::find(cgroup.id);
        if pins.is_none() {
            refuse_unknown(&cgroup)?;
        }
        places.push((cgroup, lock, pins));
    }
    remove_stale();
    // Hooks end with the agent; what stayed pinned would then let TLS pass unread.
    if policy.tls.is_some() && (pin || places.iter().any(|(_, _, pins)| pins.is_some())) {
        return Err(KernelError::Failed {
            what: "pin a policy with a [tls] section".to_owned(),
            error: io::Error::other("hooks in TLS libraries end with the agent"),
            help: "run it without --pin, after `protocg detach` if it is pinned already".to_owned(),
        });
    }
    let some_pinned = places.iter().any(|(_, _, pins)| pins.is_some());
    if places.iter().all(|(_, _, pins)| pins.is_some()) && same_enforcement(&places, policy) {
        if !shared_pages && !probe::pages_can_be_told() {
            return Err(KernelError::SharedPages);
        }
        return adopt(places, policy, whole_guard);
    }
    if pin {
        pin::root()?;
    }

    let loaded = load_beside(policy, || shared_pages || probe::pages_can_be_told())?;
    let mut guarded = None;
    if let Some(guard) = &policy.guard {
        let cgroups: Vec<_> = places.iter().map(|(cgroup, ..)| cgroup).collect();
        let started = guard::load(guard, Some(&loaded.shared))?.start(guard, &cgroups)?;
        if whole_guard {
            require_whole(&started.0)?;
        }
        guarded = Some(started);
    }
    let mut hooks = Ok(None);
    if policy.tables.config.tls != 0 {
        let cgroups: Vec<_> = places.iter().map(|(cgroup, ..)| cgroup).collect();
        // Without hooks nothing marks a connection's TLS as read: all of its data is refused, as the policy wants it.
        let guard = guarded.as_ref().and_then(|(guarded, _)| guarded.libraries());
        hooks = match tls::start(policy, &loaded, &cgroups, guard) {
            Err(e) if policy.tls.is_some_and(|tls| tls.required) => return Err(e),
            Err(e) => Err(e.to_string()),
            Ok(hooks) => Ok(Some(hooks)),
        };
    }
    let mut attachments = Vec::new();
    let mut begun = Vec::new();
    for (cgroup, lock, pins) in places {
        let (links, guard) = match cover(&cgroup, pins.as_ref(), &loaded, guarded.as_ref(), pin, &policy.name) {
            Ok(covered) => covered,
            Err(e) => {
                // What this run began goes again, pinned or not; what was pinned before goes on enforcing.
                begun.extend(pins.is_none().then_some(cgroup.id));
                for id in begun {
                    pin::detach(id);
                }
                return Err(e);
            }
        };
        begun.extend(pins.is_none().then_some(cgroup.id));
        attachments.push(Attachment { cgroup, links, guard, _lock: lock });
    }
    let guard = guarded.map(|(guarded, _)| guarded);
    let origin = if some_pinned { Origin::Exchanged } else { Origin::Fresh };
    Ok(Enforcer { shared: loaded.shared, attachments, origin, pinned: pin || some_pinned, guard, tls: hooks })
}

/// Loads the programs while it is found out whether pages can be told: to read the kernel's symbols takes a while, too.
fn load_beside(policy: &Policy, can_tell: impl FnOnce() -> bool + Send) -> Result<Loaded, KernelError> {
    std::thread::scope(|scope| {
        let can_tell = scope.spawn(can_tell);
        let loaded = load::load(&policy.tables);
        if can_tell.join().unwrap_or(false) { loaded } else { Err(KernelError::SharedPages) }
    })
}

/// Puts the programs on one cgroup, in place of those that are pinned there.
fn cover(
    cgroup: &Cgroup,
    pins: Option<&Pins>,
    loaded: &Loaded,
    guarded: Option<&(Guarded, guard::Programs)>,
    pin: bool,
    policy: &str,
) -> Result<Covered, KernelError> {
    // What was pinned stays pinned: a policy is not weakened by leaving out a flag.
    let pin = pin || pins.is_some();
    if pin {
        pin::prepare(cgroup, &loaded.shared)?;
    }
    let links = match pins {
        Some(pins) => exchange(cgroup, pins, loaded)?,
        None => attach(cgroup, loaded)?,
    };
    let guard = match guarded {
        Some((_, programs)) => guard::attach(programs, cgroup)?,
        None => Vec::new(),
    };
    if pin {
        pin::guard(cgroup, guarded.map(|(guarded, _)| guarded), &guard)?;
        pin::commit(cgroup, &links, &loaded.shared, policy, guarded.map(|(guarded, _)| guarded))?;
    }
    Ok((links, guard))
}

type Covered = (Vec<(Hook, OwnedFd)>, Vec<(String, OwnedFd)>);

fn require_whole(guarded: &Guarded) -> Result<(), KernelError> {
    let open = guarded.coverage.iter().filter_map(|cover| Some((cover, cover.why.as_ref()?)));
    let open: Vec<_> = open.map(|(cover, why)| format!("  {} ({}): {why}", cover.way, cover.what)).collect();
    if open.is_empty() { Ok(()) } else { Err(KernelError::Unguarded(open.join("\n"))) }
}

type Place = (Cgroup, Lock, Option<Pins>);

/// Whether the pinned programs are these very ones, under this very policy, with one set of maps.
fn same_enforcement(places: &[Place], policy: &Policy) -> bool {
    let mut map = None;
    places.iter().all(|(_, _, pins)| {
        let Some(pins) = pins else { return false };
        let same_map = map.is_none_or(|id| id == pins.events_id);
        map = Some(pins.events_id);
        let same_guard = match (&policy.guard, &pins.guard) {
            (Some(guard), Some(pinned)) => holds(&pinned.rodata, guard::config_bytes(guard)),
            (None, None) => true,
            _ => false,
        };
        same_map && same_guard && pins.same_build && holds(&pins.rodata, load::config_bytes(&policy.tables))
    })
}

/// Whether the programs' read-only data holds exactly these numbers, among what else the compiler put there.
fn holds(rodata: &[u8], config: &[u8]) -> bool {
    rodata.windows(config.len()).any(|window| window == config)
}

fn adopt(places: Vec<Place>, policy: &Policy, whole_guard: bool) -> Result<Enforcer, KernelError> {
    let mut shared = None;
    let mut guard = None;
    let mut attachments = Vec::new();
    for (cgroup, lock, pins) in places {
        let Some(pins) = pins else { continue };
        shared = Some(pins.shared);
        let mut on_cgroup = Vec::new();
        if let (Some(pinned), Some(asked)) = (pins.guard, &policy.guard) {
            on_cgroup = pinned.on_cgroup;
            let coverage = guard::coverage(&asked.ways, &pinned.refused);
            guard = Some(Guarded { coverage, refused: pinned.refused, links: pinned.lsm, maps: pinned.maps });
        }
        attachments.push(Attachment { cgroup, links: pins.links, guard: on_cgroup, _lock: lock });
    }
    if let Some(guard) = &guard {
        if whole_guard {
            require_whole(guard)?;
        }
        guard.maps.set_agent(true)?;
    }
    let shared = shared.ok_or_else(|| KernelError::failed("adopt pins", io::Error::other("there are none")))?;
    Ok(Enforcer { shared, attachments, origin: Origin::Adopted, pinned: true, guard, tls: Ok(None) })
}

fn attach(cgroup: &Cgroup, loaded: &Loaded) -> Result<Vec<(Hook, OwnedFd)>, KernelError> {
    let mut links = Vec::new();
    for hook in Hook::ALL {
        let what = || format!("attach `{}` to cgroup `{}`", hook.program(), cgroup.path.display());
        let program = loaded.program(hook).ok_or_else(|| KernelError::failed(what(), io::Error::other("missing")))?;
        let link =
            sys::link_create(program.as_fd(), cgroup.as_fd(), hook).map_err(|e| KernelError::failed(what(), e))?;
        links.push((hook, link));
    }
    Ok(links)
}

/// Puts new programs into the pinned links: at every moment one of the two enforces.
fn exchange(cgroup: &Cgroup, pins: &Pins, loaded: &Loaded) -> Result<Vec<(Hook, OwnedFd)>, KernelError> {
    let mut links = Vec::new();
    pin::forget(cgroup.id);
    pins.shared.owed().into_iter().for_each(|cookie| loaded.shared.owe(cookie));
    for (hook, link) in &pins.links {
        let what = || format!("exchange `{}` on cgroup `{}`", hook.program(), cgroup.path.display());
        let program = loaded.program(*hook).ok_or_else(|| KernelError::failed(what(), io::Error::other("missing")))?;
        sys::link_update(link.as_fd(), program.as_fd()).map_err(|e| KernelError::failed(what(), e))?;
        links.push((*hook, link.try_clone().map_err(|e| KernelError::failed(what(), e))?));
    }
    Ok(links)
}

impl Attachment {
    /// Ends enforcement here, pinned or not.
    pub fn end(self) {
        let links = self.links.iter().map(|(_, link)| link).chain(self.guard.iter().map(|(_, link)| link));
        for link in links {
            let _ = sys::link_detach(link.as_fd());
        }
        pin::remove(self.cgroup.id);
    }
}

/// Programs of ours that no pin explains belong to an agent of another mount namespace, or of an older kind. Those
/// of an agent that has just ended take a moment to go.
fn refuse_unknown(cgroup: &Cgroup) -> Result<(), KernelError> {
    const MOMENT: Duration = Duration::from_millis(300);
    let started = Instant::now();
    while Hook::ALL.into_iter().any(|hook| is_attached(cgroup, hook)) {
        if started.elapsed() >= MOMENT {
            return Err(KernelError::Busy {
                cgroup: cgroup.path.clone(),
                who: String::new(),
                help: format!(
                    "its agent is not one that uses {RUN_DIR} here; `bpftool cgroup show` lists its programs"
                ),
            });
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn is_attached(cgroup: &Cgroup, hook: Hook) -> bool {
    let ids = sys::attached(cgroup.as_fd(), hook).unwrap_or_default();
    ids.into_iter().any(|id| sys::program_name(id).is_ok_and(|name| name == hook.program()))
}

/// One agent a cgroup: a lock that ends with the process, however it ends.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    file: Option<Flock<File>>,
}

impl Lock {
    /// Takes the lock of a cgroup, which may be gone, or says who has it.
    pub fn take(id: u64, cgroup: &Path) -> Result<Self, KernelError> {
        let fail = |e: io::Error| KernelError::failed(format!("lock `{RUN_DIR}/{id}.lock`"), e);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(RUN_DIR).map_err(fail)?;
        let path = Path::new(RUN_DIR).join(format!("{id}.lock"));
        loop {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&path)
                .map_err(fail)?;
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(mut file) => {
                    // The last holder may have removed the name in between.
                    let same = fs::metadata(&path).is_ok_and(|m| file.metadata().is_ok_and(|f| f.ino() == m.ino()));
                    if !same {
                        continue;
                    }
                    let _ = file.set_len(0);
                    let _ = write!(file, "{}", std::process::id());
                    return Ok(Self { path, file: Some(file) });
                }
                Err((mut file, _)) => {
                    let mut pid = String::new();
                    let _ = file.rewind();
                    let _ = file.read_to_string(&mut pid);
                    return Err(KernelError::Busy {
                        cgroup: cgroup.to_owned(),
                        who: if pid.is_empty() { String::new() } else { format!(" (pid {pid})") },
                        help: "stop it first; enforcement that it pinned goes on meanwhile".to_owned(),
                    });
                }
            }
        }
    }
}

/// Removes the names of locks that agents left behind when they were killed. One that is held is not free to take, also if
/// it is this process that holds it.
fn remove_stale() {
    for path in fs::read_dir(RUN_DIR).into_iter().flatten().flatten().map(|e| e.path()) {
        if path.extension().is_none_or(|e| e != "lock") {
            continue;
        }
        let Ok(file) = File::open(&path) else { continue };
        // Whoever has just opened it finds, once it is locked, that the name is gone, and begins again.
        if let Ok(_held) = Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            let _ = fs::remove_file(&path);
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
        self.file.take();
        let _ = fs::remove_dir(RUN_DIR);
    }
}
