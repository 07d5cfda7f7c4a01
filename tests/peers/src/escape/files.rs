//! Cgroups, pins, devices.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
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
    there_and_back(&note(args, "lock"))
}

/// In a mount namespace of its own: what is tried there is the same, and the pins stay if it works.
pub fn unmount_pins(_: &Args) -> io::Result<()> {
    own_mounts()?;
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

pub fn poweroff_cmd(_: &Args) -> io::Result<()> {
    may_write("/proc/sys/kernel/poweroff_cmd")
}

pub fn ftrace(_: &Args) -> io::Result<()> {
    may_write("/proc/sys/kernel/ftrace_enabled")
}

/// Any will do, of those that root may write.
pub fn module_parameter(_: &Args) -> io::Result<()> {
    for module in fs::read_dir("/sys/module")? {
        for parameter in fs::read_dir(module?.path().join("parameters")).into_iter().flatten() {
            let parameter = parameter?;
            if parameter.metadata()?.permissions().mode() & 0o200 != 0 {
                return may_write(&parameter.path().to_string_lossy());
            }
        }
    }
    Err(errno(libc::ENOENT))
}

/// A hierarchy of version 1 of its own, whose empty cgroups the kernel tells a program about. In a mount namespace of its
/// own, with which it ends.
pub fn release_agent(_: &Args) -> io::Result<()> {
    own_mounts()?;
    let options = format!("none,name=pg-escape-{},release_agent=/bin/false", std::process::id());
    mount(Some("none"), "/tmp", Some("cgroup"), MsFlags::empty(), Some(options.as_str())).map_err(Into::into)
}

fn own_mounts() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).map_err(Into::into)
}

pub fn own_mount(_: &Args) -> io::Result<()> {
    own_mounts()?;
    mount(Some("none"), "/tmp", Some("tmpfs"), MsFlags::empty(), Some("mode=0710,size=1m"))?;
    let mode = fs::metadata("/tmp")?.permissions().mode();
    if mode & 0o7777 == 0o710 { Ok(()) } else { Err(errno(libc::EIO)) }
}

/// One mount below another, where the agent's mounts are; then both are to be taken away by the upper one's name.
fn detach(from: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    let upper = std::env::temp_dir().join(format!("pg-escape-{}", std::process::id()));
    let lower = upper.join("lower");
    fs::create_dir(&upper)?;
    let tmpfs = |at: &Path| mount(Some("none"), at, Some("tmpfs"), MsFlags::empty(), None::<&str>);
    tmpfs(&upper)?;
    mount(None::<&str>, &upper, None::<&str>, MsFlags::MS_SHARED, None::<&str>)?;
    fs::create_dir(&lower)?;
    tmpfs(&lower)?;
    let result = from(&upper);
    // What is left; the last with nothing below it.
    let _ = umount2(&lower, MntFlags::empty());
    let _ = umount2(&upper, MntFlags::MNT_DETACH);
    fs::remove_dir(&upper)?;
    result
}

pub fn detach_parent(_: &Args) -> io::Result<()> {
    detach(|upper| umount2(upper, MntFlags::MNT_DETACH).map_err(Into::into))
}

/// In a namespace of its own, whose mounts are still the same as outside.
pub fn detach_shared(_: &Args) -> io::Result<()> {
    detach(|upper| {
        let outside = File::open("/proc/self/ns/mnt")?;
        unshare(CloneFlags::CLONE_NEWNS)?;
        let result = umount2(upper, MntFlags::MNT_DETACH);
        setns(&outside, CloneFlags::CLONE_NEWNS)?;
        // What was below is gone outside too, if that worked.
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let gone = !mounts.contains(&upper.join("lower").display().to_string());
        result?;
        if gone { Ok(()) } else { Err(errno(libc::EIO)) }
    })
}

const NOTES: &str = "/run/protocg";

/// To the name of a folder that is not empty: the kernel finds that out after it has asked whether it may.
pub fn rename_notes(_: &Args) -> io::Result<()> {
    let full = format!("/run/pg-escape-{}", std::process::id());
    fs::create_dir_all(Path::new(&full).join("full"))?;
    let result = fs::rename(NOTES, &full).map_err(refused);
    fs::remove_dir_all(&full)?;
    match result {
        Err(e) if e.raw_os_error() == Some(libc::ENOTEMPTY) => Ok(()),
        result => result,
    }
}

fn note(args: &Args, kind: &str) -> PathBuf {
    let id = args.pins.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Path::new(NOTES).join(format!("{id}.{kind}"))
}

pub fn open_lock(args: &Args) -> io::Result<()> {
    File::open(note(args, "lock")).map(drop)
}

pub fn truncate_note(args: &Args) -> io::Result<()> {
    let path = note(args, "json");
    // It stays as long as it is.
    let length = fs::metadata(&path)?.len();
    nix::unistd::truncate(&path, i64::try_from(length).unwrap_or(0)).map_err(Into::into)
}

/// The number goes by reference, or as it is.
fn on_terminal(command: libc::Ioctl, argument: &mut u64) -> io::Result<()> {
    let pty = nix::pty::openpty(None, None)?;
    // SAFETY: both commands read one number at most.
    done(unsafe { libc::ioctl(pty.slave.as_raw_fd(), command, argument as *mut u64) }.into()).map(drop)
}

/// Its own terminal: who may do that may do it to the agent's.
pub fn terminal_key(_: &Args) -> io::Result<()> {
    on_terminal(libc::TIOCSTI, &mut u64::from(b'x'))
}

/// The one that it has.
pub fn line_discipline(_: &Args) -> io::Result<()> {
    const TIOCSETD: libc::Ioctl = 0x5423;
    on_terminal(TIOCSETD, &mut 0)
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

pub fn ppp(_: &Args) -> io::Result<()> {
    device(108, 0, true)
}

pub fn dev_mem(_: &Args) -> io::Result<()> {
    device(1, 1, false)
}

pub fn tracefs(_: &Args) -> io::Result<()> {
    OpenOptions::new().append(true).open("/sys/kernel/tracing/uprobe_events").map(drop)
}
