//! The guard: programs that close the ways around the enforcer, for whatever process is in the cgroup.
//!
//! Each way needs certain programs. Those that the kernel takes are loaded, and what is not closed then is said. Two
//! kinds: programs on the cgroup, which end with it, and BPF LSM programs, which are the machine's and look for the
//! cgroups in a map.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use libbpf_rs::skel::{OpenSkel, Skel, SkelBuilder};
use libbpf_rs::{MapCore, MapFlags, MapHandle, libbpf_sys};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
use serde::Serialize;

use super::attach::RUN_DIR;
use super::load::{Shared, bytes_of, bytes_of_mut};
use super::{KernelError, io_error, log, sys};
use crate::cgroup::{self, Cgroup};
use crate::policy::{Guard, Switch};
use crate::skel::GuardSkelBuilder;
use crate::{abi, names};

mod libraries;

pub use libraries::{Libraries, Library};

/// Programs on the cgroup: socket programs, which every supported kernel has.
const ON_CGROUP: [(&str, libbpf_sys::bpf_attach_type); 9] = [
    ("gc_create", libbpf_sys::BPF_CGROUP_INET_SOCK_CREATE),
    ("gc_bind4", libbpf_sys::BPF_CGROUP_INET4_BIND),
    ("gc_bind6", libbpf_sys::BPF_CGROUP_INET6_BIND),
    ("gc_connect4", libbpf_sys::BPF_CGROUP_INET4_CONNECT),
    ("gc_connect6", libbpf_sys::BPF_CGROUP_INET6_CONNECT),
    ("gc_sendmsg4", libbpf_sys::BPF_CGROUP_UDP4_SENDMSG),
    ("gc_sendmsg6", libbpf_sys::BPF_CGROUP_UDP6_SENDMSG),
    ("gc_ingress", libbpf_sys::BPF_CGROUP_INET_INGRESS),
    ("gc_egress", libbpf_sys::BPF_CGROUP_INET_EGRESS),
];

/// Where a kernel has no such hook, it asks the one for all programs.
const IOCTL32: &str = "gl_ioctl32";

/// The programs that together close a way.
const fn closers(way: u32) -> &'static [&'static str] {
    match way {
        abi::PG_W_MPTCP | abi::PG_W_RAW | abi::PG_W_TRANSPORTS => &["gc_create"],
        abi::PG_W_UDP => {
            &["gc_bind4", "gc_bind6", "gc_connect4", "gc_connect6", "gc_sendmsg4", "gc_sendmsg6", "gc_ingress"]
        }
        abi::PG_W_LISTEN => &["gc_bind4", "gc_bind6", "gc_ingress"],
        abi::PG_W_CONNECT => &["gc_connect4", "gc_connect6", "gc_sendmsg4", "gc_sendmsg6", "gc_egress"],
        abi::PG_W_PACKET | abi::PG_W_VSOCK | abi::PG_W_FAMILIES => &["gl_create"],
        abi::PG_W_NETLINK => &["gl_create", "gl_option", "gl_send"],
        abi::PG_W_UNIX => &["gl_listen"],
        abi::PG_W_FOREIGN => &["gl_bind", "gl_listen", "gl_connect", "gl_accept", "gl_receive"],
        abi::PG_W_BPF => &["gl_bpf"],
        abi::PG_W_AGENT => &[
            "gl_ptrace",
            "gl_kill",
            "gl_sigio",
            "gl_rlimit",
            "gl_scheduler",
            "gl_nice",
            "gl_ioprio",
            "gl_permission",
            "gl_ioctl",
            IOCTL32,
        ],
        abi::PG_W_PINS => &["gl_permission", "gl_umount", "gl_open", "gl_truncate", "gl_rename"],
        abi::PG_W_PTRACE => &["gl_ptrace"],
        abi::PG_W_ESCAPE => &["gl_permission"],
        abi::PG_W_TUN => &["gl_open", "gl_ioctl", IOCTL32],
        abi::PG_W_TEXT => &["gl_permission", "gl_open", "gl_map", "gl_protect", "gl_ptrace", "gl_traceme"],
        abi::PG_W_LIBRARY => &["gl_map", "gl_protect"],
        abi::PG_W_KERNEL => &["gl_locked", "gl_read", "gl_load", "gl_permission", "gl_mount"],
        _ => &[],
    }
}

fn is_lsm(program: &str) -> bool {
    program.starts_with("gl_")
}

/// A way around the enforcer, and whether it is closed.
#[derive(Debug, Clone, Serialize, PartialEq, Eq)]
pub struct Cover {
    /// Its switch.
    pub way: &'static str,
    /// What is tried.
    pub what: &'static str,
    /// What stays open, if it is not closed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open: Option<&'static str>,
    /// Why it is not closed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// Programs that do not run, and why.
pub type Refused = Vec<(String, String)>;

/// The state of every way that the policy does not allow.
pub fn coverage(ways: &[Switch], refused: &Refused) -> Vec<Cover> {
    let about = names::ways().zip(ways).enumerate().filter(|(_, (_, switch))| **switch != Switch::Allow);
    about
        .map(|(index, (way, _))| {
            let needed = closers(u32::try_from(index).unwrap_or(u32::MAX));
            let why = refused.iter().find(|(name, _)| needed.contains(&name.as_str())).map(|(_, why)| why.clone());
            Cover { way: way.name, what: way.text, open: why.is_some().then_some(way.open), why }
        })
        .collect()
}

/// Nothing runs, for one reason.
pub fn all_refused(why: &str) -> Refused {
    (0..abi::PG_W_COUNT).flat_map(closers).map(|name| ((*name).to_owned(), why.to_owned())).collect()
}

/// A guard that runs, or what of it the kernel lets run.
#[derive(Debug)]
pub struct Guarded {
    /// What it closes, and what it does not.
    pub coverage: Vec<Cover>,
    /// What the kernel refused of it.
    pub refused: Refused,
    /// LSM programs; they run as long as these live, or their pins.
    pub links: Vec<(String, OwnedFd)>,
    /// The maps that are pinned along.
    pub maps: Maps,
}

/// Names of the maps that are pinned.
pub const MAPS: [&str; 4] = ["guard_places", "guard_agent", "guard_libraries", "guard_rodata"];

/// The guard's own maps.
#[derive(Debug)]
pub struct Maps {
    places: MapHandle,
    agent: MapHandle,
    libraries: MapHandle,
    /// Read-only data: the policy's numbers are in it.
    pub rodata: MapHandle,
}

impl Maps {
    /// From pins.
    pub fn from(mut map: impl FnMut(&str) -> Option<MapHandle>) -> Option<Self> {
        Some(Self {
            places: map("guard_places")?,
            agent: map("guard_agent")?,
            libraries: map("guard_libraries")?,
            rodata: map("guard_rodata")?,
        })
    }

    /// Each map with the name that it is pinned under.
    pub fn named(&self) -> [(&'static str, &MapHandle); 4] {
        let [places, agent, libraries, rodata] = MAPS;
        [(places, &self.places), (agent, &self.agent), (libraries, &self.libraries), (rodata, &self.rodata)]
    }

    /// Guards a cgroup, as far as LSM programs do.
    fn add(&self, cgroup: u64) -> Result<(), KernelError> {
        self.places
            .update(&cgroup.to_ne_bytes(), &1_u32.to_ne_bytes(), MapFlags::ANY)
            .map_err(|e| KernelError::failed("guard the cgroup", io_error(&e)))
    }

    /// Ends that.
    pub fn remove(&self, cgroup: u64) {
        let _ = self.places.delete(&cgroup.to_ne_bytes());
    }

    /// Says who the agent is: this process, or nobody.
    pub fn set_agent(&self, here: bool) -> Result<(), KernelError> {
        let notes = fs::metadata(RUN_DIR).ok();
        let agent = abi::pg_guard_agent {
            notes: notes.as_ref().map_or(0, MetadataExt::ino),
            notes_dev: kernel_device(notes.as_ref().map_or(0, MetadataExt::dev)),
            tgid: if here { std::process::id() } else { 0 },
            mounts: [mounts("self"), mounts("1")],
            shows: 0,
            shown: 0,
        };
        self.agent
            .update(&0_u32.to_ne_bytes(), bytes_of(std::slice::from_ref(&agent)), MapFlags::ANY)
            .map_err(|e| KernelError::failed("tell the guard who the agent is", io_error(&e)))
    }
}

/// A process's mount namespace, by its inode.
fn mounts(process: &str) -> u32 {
    let namespace = fs::metadata(format!("/proc/{process}/ns/mnt"));
    namespace.ok().and_then(|m| u32::try_from(m.ino()).ok()).unwrap_or_default()
}

/// A device's number as the kernel counts within itself.
fn kernel_device(device: u64) -> u32 {
    libc::major(device) << 20 | libc::minor(device)
}

/// Programs that the kernel has accepted. They run nowhere yet.
#[derive(Debug)]
pub struct Loaded {
    programs: Vec<(&'static str, OwnedFd)>,
    refused: Refused,
    maps: Maps,
}

/// Loads what the kernel takes of the programs that `guard` needs.
pub fn load(guard: &Guard, engine: Option<&Shared>) -> Result<Loaded, KernelError> {
    let mut refused = Refused::new();
    let mut wanted = needed(guard);
    if wanted.contains(IOCTL32) && !sys::has_lsm_hook(c"file_ioctl_compat") {
        wanted.remove(IOCTL32);
    }
    if let Err(why) = lsm_runs() {
        let (lsm, others): (BTreeSet<_>, _) = wanted.into_iter().partition(|name| is_lsm(name));
        refused.extend(lsm.into_iter().map(|name| (name.to_owned(), why.clone())));
        wanted = others;
    }
    let (programs, maps) = match load_these(guard, engine, &wanted) {
        Ok(loaded) => loaded,
        Err(_) => {
            // One by one, to learn which.
            wanted.retain(|name| match load_these(guard, None, &BTreeSet::from([*name])) {
                Ok(_) => true,
                Err(why) => {
                    refused.push(((*name).to_owned(), why));
                    false
                }
            });
            load_these(guard, engine, &wanted)
                .map_err(|why| KernelError::failed("load the guard", io::Error::other(why)))?
        }
    };
    Ok(Loaded { programs, refused, maps })
}

fn needed(guard: &Guard) -> BTreeSet<&'static str> {
    let ways = (0..).zip(&guard.ways).filter(|(_, switch)| **switch != Switch::Allow);
    ways.flat_map(|(way, _)| closers(way)).copied().collect()
}

/// Programs with their names.
pub type Programs = Vec<(&'static str, OwnedFd)>;

fn load_these(
    guard: &Guard,
    engine: Option<&Shared>,
    wanted: &BTreeSet<&'static str>,
) -> Result<(Programs, Maps), String> {
    log::capture();
    let said = |e: libbpf_rs::Error| match log::refusal(&log::take()) {
        Some((program, reason)) => format!("the verifier refused `{program}`: {reason}"),
        None => format!("the kernel refuses the program: {}", io_error(&e)),
    };
    let mut object = MaybeUninit::uninit();
    let mut open = GuardSkelBuilder::default().open(&mut object).map_err(said)?;
    for mut program in open.open_object_mut().progs_mut() {
        let load = program.name().to_str().is_some_and(|name| wanted.contains(name));
        program.set_autoload(load);
    }
    if let Some(rodata) = open.maps.rodata_data.as_deref_mut() {
        let into = bytes_of_mut(&mut rodata.guard_config);
        let from = config_bytes(guard);
        if into.len() != from.len() {
            return Err("the policy's numbers have another size".to_owned());
        }
        into.copy_from_slice(from);
    }
    if let Some(engine) = engine {
        open.maps.events.reuse_fd(engine.events.as_fd()).map_err(said)?;
        open.maps.counters.reuse_fd(engine.counters.as_fd()).map_err(said)?;
    }
    let skel = open.load().map_err(said)?;
    let keep = |map: &libbpf_rs::MapMut<'_>| MapHandle::try_from(map).map_err(|e| e.to_string());
    let maps = Maps {
        places: keep(&skel.maps.guard_places)?,
        agent: keep(&skel.maps.guard_agent)?,
        libraries: keep(&skel.maps.guard_libraries)?,
        rodata: keep(&skel.maps.rodata)?,
    };
    let mut programs = Programs::new();
    for program in skel.object().progs() {
        let name = wanted.iter().find(|name| program.name() == **name);
        if let Some(name) = name {
            programs.push((name, program.as_fd().try_clone_to_owned().map_err(|e| e.to_string())?));
        }
    }
    log::take();
    Ok((programs, maps))
}

/// The policy's numbers, to be compared with those of pinned programs.
pub fn config_bytes(guard: &Guard) -> &[u8] {
    bytes_of(std::slice::from_ref(&*guard.config))
}

impl Loaded {
    /// Lets the LSM programs run, for these cgroups.
    pub fn start(mut self, guard: &Guard, cgroups: &[&Cgroup]) -> Result<(Guarded, Programs), KernelError> {
        for cgroup in cgroups {
            check_place(cgroup)?;
            self.maps.add(cgroup.id)?;
        }
        self.maps.set_agent(true)?;
        let (lsm, on_cgroup): (Programs, Programs) = self.programs.into_iter().partition(|(name, _)| is_lsm(name));
        let mut links = Vec::new();
        for (name, program) in lsm {
            match sys::link_create_lsm(program.as_fd()) {
                Ok(link) => links.push((name.to_owned(), link)),
                Err(e) => self.refused.push((name.to_owned(), format!("it cannot be attached: {e}"))),
            }
        }
        if !in_first_pid_namespace() {
            let why = "the agent is in a process namespace of its own, so its number is not the kernel's";
            for program in ["gl_kill", "gl_traceme"] {
                // of the agent's way, and of the one for libraries that the agent has to show
                self.refused.push((program.to_owned(), why.to_owned()));
            }
        }
        let coverage = coverage(&guard.ways, &self.refused);
        Ok((Guarded { coverage, refused: self.refused, links, maps: self.maps }, on_cgroup))
    }

    /// What the kernel refused.
    pub fn refused(&self) -> &Refused {
        &self.refused
    }

    /// The verifier's count of instructions for each program, where the kernel says it.
    pub fn verified(&self) -> Vec<(&'static str, u32)> {
        self.programs
            .iter()
            .filter_map(|(name, fd)| Some((*name, sys::verified_instructions(fd.as_fd()).ok()?)))
            .collect()
    }
}

/// Puts the socket programs on a cgroup.
pub fn attach(programs: &Programs, cgroup: &Cgroup) -> Result<Vec<(String, OwnedFd)>, KernelError> {
    let mut links = Vec::new();
    for (name, program) in programs {
        let what = || format!("attach `{name}` to cgroup `{}`", cgroup.path.display());
        let Some((_, kind)) = ON_CGROUP.iter().find(|(it, _)| it == name) else { continue };
        let link = sys::link_create_as(program.as_fd(), cgroup.as_fd(), *kind);
        links.push(((*name).to_owned(), link.map_err(|e| KernelError::failed(what(), e))?));
    }
    Ok(links)
}

/// The agent's own cgroup must not be guarded, and the guard must be able to find a cgroup among its descendants.
fn check_place(cgroup: &Cgroup) -> Result<(), KernelError> {
    let mount = cgroup::mount_point().unwrap_or_default();
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = own.lines().find_map(|line| line.strip_prefix("0::/")).map(|path| mount.join(path)).unwrap_or_default();
    let refuse = |why: &str| {
        let what = format!("guard cgroup `{}`", cgroup.path.display());
        Err(KernelError::Failed { what, error: io::Error::other(why), help: "start protocg outside of it".to_owned() })
    };
    if own.starts_with(&cgroup.path) {
        return refuse("the agent itself is in it, and would be guarded against");
    }
    let depth = cgroup.path.strip_prefix(&mount).map_or(0, |path| path.components().count());
    if depth >= abi::PG_MAX_GUARD_DEPTH as usize {
        return refuse("it lies too deep in the tree (limit GUARD_DEPTH)");
    }
    Ok(())
}

/// The kernel numbers processes in the first namespace; the agent knows the number in its own.
pub(super) fn in_first_pid_namespace() -> bool {
    const PROC_PID_INIT_INO: u64 = 0xeffffffc; // include/linux/proc_ns.h
    fs::metadata("/proc/self/ns/pid").is_ok_and(|m| m.ino() == PROC_PID_INIT_INO)
}

/// Whether LSM programs would run. Where `bpf` is not among the active modules the kernel takes them, and never calls them.
pub fn lsm_runs() -> Result<(), String> {
    match security_modules() {
        Ok(list) if list.split(',').any(|module| module.trim() == "bpf") => Ok(()),
        Ok(list) => {
            let list = list.trim();
            Err(format!("BPF LSM is not active: add `bpf` to the boot option `lsm=`, which now gives `{list}`"))
        }
        Err(e) => Err(format!("cannot read which security modules are active: {e}")),
    }
}

/// The active modules, from securityfs where it is mounted; else from one that nobody else sees.
fn security_modules() -> io::Result<String> {
    if let Ok(list) = fs::read_to_string("/sys/kernel/security/lsm") {
        return Ok(list);
    }
    let context = rustix::mount::fsopen("securityfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_create(context.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY;
    let root = rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    let file = rustix::fs::openat(root, "lsm", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut list = String::new();
    File::from(file).read_to_string(&mut list)?;
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_has_its_programs_and_only_refused_ones_open_it() {
        let ways = vec![Switch::Deny; abi::PG_W_COUNT as usize];
        for way in 0..abi::PG_W_COUNT {
            assert!(!closers(way).is_empty(), "{way}");
            for name in closers(way) {
                assert!(is_lsm(name) || ON_CGROUP.iter().any(|(it, _)| it == name), "{name}");
            }
        }
        assert!(coverage(&ways, &Vec::new()).iter().all(|cover| cover.why.is_none()));
        let open = coverage(&ways, &vec![("gl_permission".to_owned(), "why".to_owned())]);
        let open: Vec<_> = open.iter().filter(|cover| cover.why.is_some()).map(|cover| cover.way).collect();
        assert_eq!(open, ["agent", "pins", "cgroup_escape", "tls_text", "kernel"]);
    }
}
