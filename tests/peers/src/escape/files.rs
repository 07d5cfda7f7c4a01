//! Cgroups, pins, devices.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use super::{Args, done, errno};

/// What a folder's right to be written is refused with.
fn refused(e: io::Error) -> io::Error {
    if e.raw_os_error() == Some(libc::EACCES) { errno(libc::EPERM) } else { e }
}

fn there_and_back(from: &Path) -> io::Result<()> {
    let to = from.with_file_name("moved");
    fs::rename(from, &to).map_err(refused)?;
    fs::rename(&to, from)
}

pub fn rename_pin(args: &Args) -> io::Result<()> {
    there_and_back(&args.pins.join("link_pg_ingress"))
}

pub fn rename_lock(args: &Args) -> io::Result<()> {
    let id = args.pins.file_name().unwrap_or_default().to_string_lossy().into_owned();
    there_and_back(&Path::new("/run/protocg").join(format!("{id}.lock")))
}

/// In a mount namespace of its own: what is tried there is the same, and the pins stay if it works.
pub fn unmount_pins(_: &Args) -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    umount2("/sys/fs/bpf", MntFlags::MNT_DETACH).map_err(Into::into)
}

fn enter(cgroup: &Path) -> io::Result<()> {
    OpenOptions::new().write(true).open(cgroup.join("cgroup.procs")).map_err(refused)?.write_all(b"0")
}

pub fn move_out(args: &Args) -> io::Result<()> {
    enter(&args.other_cgroup)?;
    enter(&args.own_cgroup)
}

/// clone3 with CLONE_INTO_CGROUP: no file is opened to write.
pub fn clone_out(args: &Args) -> io::Result<()> {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let folder = File::open(&args.other_cgroup)?;
    // struct clone_args: the flags first, the exit signal fifth, the cgroup last
    let mut arguments = [0_u64; 11];
    arguments[0] = CLONE_INTO_CGROUP;
    arguments[4] = libc::SIGCHLD as u64;
    arguments[10] = folder.as_raw_fd() as u64;
    // SAFETY: like fork in a process with one thread; the child ends at once.
    let child = unsafe {
        let child = libc::syscall(libc::SYS_clone3, arguments.as_mut_ptr(), size_of_val(&arguments));
        if child == 0 {
            libc::_exit(0);
        }
        child
    };
    let child = done(child).map_err(refused)?;
    waitpid(Pid::from_raw(i32::try_from(child).unwrap_or(0)), None)?;
    Ok(())
}

pub fn freeze_other(args: &Args) -> io::Result<()> {
    OpenOptions::new().write(true).open(args.other_cgroup.join("cgroup.freeze")).map(drop).map_err(refused)
}

pub fn move_by_inherited(args: &Args) -> io::Result<()> {
    // SAFETY: a system call on a descriptor that was inherited.
    done(unsafe { libc::write(args.procs, b"0".as_ptr().cast(), 1) as libc::c_long }).map_err(refused)?;
    enter(&args.own_cgroup)
}

/// Inside, it could be frozen or killed with a cgroup.
pub fn pull_agent(args: &Args) -> io::Result<()> {
    let own = fs::read_to_string(format!("/proc/{}/cgroup", args.agent))?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/").to_owned();
    let mount = args.own_cgroup.parent().unwrap_or(Path::new("/"));
    let pull = |cgroup: &Path| fs::write(cgroup.join("cgroup.procs"), args.agent.to_string()).map_err(refused);
    pull(&args.own_cgroup)?;
    pull(&mount.join(own.trim_start_matches('/')))
}

fn may_write(path: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(path).map(drop).map_err(refused)
}

pub fn oom_agent(args: &Args) -> io::Result<()> {
    may_write(&format!("/proc/{}/oom_score_adj", args.agent))
}

pub fn core_pattern(_: &Args) -> io::Result<()> {
    may_write("/proc/sys/kernel/core_pattern")
}

pub fn sysrq(_: &Args) -> io::Result<()> {
    may_write("/proc/sysrq-trigger")
}

/// As container runtimes and init systems do inside their own part of the tree.
pub fn child_cgroup(args: &Args) -> io::Result<()> {
    let child = args.own_cgroup.join("child");
    fs::create_dir(&child)?;
    let result = enter(&child).and_then(|()| enter(&args.own_cgroup));
    fs::remove_dir(&child)?;
    result
}

/// A device, by its numbers: names in /dev are not needed.
fn device(major: u64, minor: u64, write: bool) -> io::Result<()> {
    let path = std::env::temp_dir().join(format!("pg-escape-{}-{major}-{minor}", std::process::id()));
    mknod(&path, SFlag::S_IFCHR, Mode::S_IRUSR | Mode::S_IWUSR, makedev(major, minor))?;
    let result = OpenOptions::new().read(true).write(write).open(&path).map(drop);
    fs::remove_file(&path)?;
    result
}

pub fn tun(_: &Args) -> io::Result<()> {
    device(10, 200, true)
}

pub fn dev_mem(_: &Args) -> io::Result<()> {
    device(1, 1, false)
}

pub fn tracefs(_: &Args) -> io::Result<()> {
    OpenOptions::new().append(true).open("/sys/kernel/tracing/uprobe_events").map(drop)
}
