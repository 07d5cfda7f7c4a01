//! The agent, processes outside, bpf() and the kernel.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Args, done, errno};

/// The agent does nothing when it hears it.
const HARMLESS: i32 = libc::SIGWINCH;

fn pidfd(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: a system call with numbers; the descriptor that it returns is new, and ours.
    unsafe {
        let fd = done(libc::syscall(libc::SYS_pidfd_open, pid, 0))?;
        Ok(OwnedFd::from_raw_fd(RawFd::try_from(fd).unwrap_or(-1)))
    }
}

fn bpf(command: i32, attributes: &mut [u64; 16]) -> io::Result<()> {
    // SAFETY: the attributes are as long as is said.
    let fd = done(unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), size_of_val(attributes)) })?;
    // SAFETY: the descriptor is new, and ours.
    drop(unsafe { OwnedFd::from_raw_fd(RawFd::try_from(fd).unwrap_or(-1)) });
    Ok(())
}

pub fn bpf_map_create(_: &Args) -> io::Result<()> {
    // An array: kind and size of keys, size of values and how many.
    bpf(0, &mut [2 | 4 << 32, 4 | 1 << 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
}

pub fn bpf_obj_get(args: &Args) -> io::Result<()> {
    const BPF_OBJ_GET: i32 = 7;
    let path = std::ffi::CString::new(args.pins.join("link_pg_ingress").as_os_str().as_bytes())?;
    let mut attributes = [0; 16];
    attributes[0] = path.as_ptr() as u64;
    bpf(BPF_OBJ_GET, &mut attributes)
}

fn trace(pid: i32) -> io::Result<()> {
    let pid = Pid::from_raw(pid);
    ptrace::seize(pid, ptrace::Options::empty())?;
    ptrace::interrupt(pid)?;
    nix::sys::wait::waitpid(pid, Some(nix::sys::wait::WaitPidFlag::__WALL))?;
    ptrace::detach(pid, None).map_err(Into::into)
}

pub fn trace_agent(args: &Args) -> io::Result<()> {
    trace(args.agent)
}

pub fn trace_outside(args: &Args) -> io::Result<()> {
    trace(args.outside)
}

pub fn memory_of_agent(args: &Args) -> io::Result<()> {
    let result = OpenOptions::new().read(true).write(true).open(format!("/proc/{}/mem", args.agent));
    // The file system's word for what ptrace does not allow.
    result.map(drop).map_err(|e| if e.raw_os_error() == Some(libc::EACCES) { errno(libc::EPERM) } else { e })
}

pub fn vm_read_agent(args: &Args) -> io::Result<()> {
    let mut byte = [0_u8];
    let local = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    let remote = libc::iovec { iov_base: std::ptr::without_provenance_mut(4096), iov_len: 1 };
    // SAFETY: one byte is read into `byte`, if the other address exists.
    let read = unsafe { libc::process_vm_readv(args.agent, &raw const local, 1, &raw const remote, 1, 0) };
    match done(read as libc::c_long) {
        // Nothing is at that address: it was allowed to look.
        Err(e) if e.raw_os_error() == Some(libc::EFAULT) => Ok(()),
        result => result.map(drop),
    }
}

fn getfd(pid: i32, fd: i32) -> io::Result<OwnedFd> {
    let process = pidfd(pid)?;
    // SAFETY: a system call with numbers; the descriptor that it returns is new, and ours.
    unsafe {
        let fd = done(libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), fd, 0))?;
        Ok(OwnedFd::from_raw_fd(RawFd::try_from(fd).unwrap_or(-1)))
    }
}

pub fn getfd_agent(args: &Args) -> io::Result<()> {
    getfd(args.agent, 0).map(drop)
}

/// The process outside has the inherited listener too, at the same number.
pub fn getfd_outside_listener(args: &Args) -> io::Result<()> {
    getfd(args.outside, args.inherited).map(drop)
}

pub fn signal_agent(args: &Args) -> io::Result<()> {
    // SAFETY: a system call with numbers.
    done(unsafe { libc::kill(args.agent, HARMLESS) }.into()).map(drop)
}

pub fn thread_signal_agent(args: &Args) -> io::Result<()> {
    // SAFETY: as above.
    done(unsafe { libc::syscall(libc::SYS_tgkill, args.agent, args.agent, HARMLESS) }).map(drop)
}

pub fn pidfd_signal_agent(args: &Args) -> io::Result<()> {
    let agent = pidfd(args.agent)?;
    // SAFETY: as above.
    done(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, agent.as_raw_fd(), HARMLESS, 0, 0) }).map(drop)
}

/// A pipe whose owner is the agent; what its owner is sent stops a process.
pub fn sigio_agent(args: &Args) -> io::Result<()> {
    const F_SETSIG: i32 = 10;
    let (read, write) = nix::unistd::pipe()?;
    // SAFETY: system calls with numbers, on an open descriptor.
    unsafe {
        done(libc::fcntl(read.as_raw_fd(), libc::F_SETOWN, args.agent).into())?;
        done(libc::fcntl(read.as_raw_fd(), F_SETSIG, libc::SIGSTOP).into())?;
        done(libc::fcntl(read.as_raw_fd(), libc::F_SETFL, libc::O_ASYNC).into())?;
    }
    nix::unistd::write(&write, b"x")?;
    std::thread::sleep(args.patience());
    // Its end would be the next time that the file is ready.
    // SAFETY: as above.
    done(unsafe { libc::fcntl(read.as_raw_fd(), libc::F_SETFL, 0) }.into())?;
    let state = std::fs::read_to_string(format!("/proc/{}/stat", args.agent))?;
    if state.contains(") T ") {
        return kill(Pid::from_raw(args.agent), Signal::SIGCONT).map_err(Into::into);
    }
    Err(errno(libc::EPERM))
}

pub fn limit_agent(args: &Args) -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structures live until the calls return.
    unsafe {
        done(libc::prlimit(args.agent, libc::RLIMIT_CORE, std::ptr::null(), &raw mut limit).into())?;
        done(libc::prlimit(args.agent, libc::RLIMIT_CORE, &raw const limit, std::ptr::null_mut()).into())?;
    }
    Ok(())
}

pub fn nice_agent(args: &Args) -> io::Result<()> {
    let agent = args.agent.cast_unsigned();
    // SAFETY: system calls with numbers.
    unsafe {
        let nice = libc::getpriority(libc::PRIO_PROCESS, agent);
        done(libc::setpriority(libc::PRIO_PROCESS, agent, nice).into()).map(drop)
    }
}

pub fn affinity_agent(args: &Args) -> io::Result<()> {
    let agent = Pid::from_raw(args.agent);
    let processors = nix::sched::sched_getaffinity(agent)?;
    nix::sched::sched_setaffinity(agent, &processors).map_err(Into::into)
}

/// A module that is none; who may load modules is told so.
const NO_MODULE: &[u8] = &[0; 64];

fn looked_at(result: libc::c_long) -> io::Result<()> {
    match done(result) {
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOEXEC | libc::EKEYREJECTED)) => Ok(()),
        result => result.map(drop),
    }
}

pub fn module(_: &Args) -> io::Result<()> {
    // SAFETY: the buffer is as long as is said, the text ends with a zero byte.
    looked_at(unsafe { libc::syscall(libc::SYS_init_module, NO_MODULE.as_ptr(), NO_MODULE.len(), c"".as_ptr()) })
}

pub fn module_from_file(_: &Args) -> io::Result<()> {
    let path = std::env::temp_dir().join(format!("pg-escape-{}.ko", std::process::id()));
    std::fs::File::create(&path)?.write_all(NO_MODULE)?;
    let file = std::fs::File::open(&path)?;
    let _ = std::fs::remove_file(&path);
    // SAFETY: as above.
    looked_at(unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) })
}

/// Its own processes are its own affair.
pub fn own_child(_: &Args) -> io::Result<()> {
    let mut child = std::process::Command::new("sleep").arg("60").spawn()?;
    let pid = Pid::from_raw(child.id().cast_signed());
    let result = trace(pid.as_raw()).and_then(|()| kill(pid, Signal::SIGKILL).map_err(Into::into));
    let _ = child.kill();
    child.wait()?;
    memfd_create(c"", MFdFlags::empty())?;
    result
}
