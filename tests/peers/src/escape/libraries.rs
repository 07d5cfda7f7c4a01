//! TLS libraries: the code of one that is hooked, and running one that is not.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use nix::sys::ptrace;
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, fork};

use super::{Args, done, errno};

const PAGE: usize = 4096;
const READ: i32 = libc::PROT_READ;
const WRITE: i32 = libc::PROT_WRITE;
const EXEC: i32 = libc::PROT_EXEC;

fn library(args: &Args) -> io::Result<&Path> {
    args.library.as_deref().ok_or_else(|| errno(libc::EINVAL))
}

/// Its first page, mapped so; then changed to that.
fn map(path: &Path, first: i32, then: Option<i32>) -> io::Result<()> {
    let file = File::open(path)?;
    // SAFETY: the mapping is new, is as long as is said, and nothing is read, written or run in it.
    unsafe {
        let at = libc::mmap(std::ptr::null_mut(), PAGE, first, libc::MAP_PRIVATE, file.as_raw_fd(), 0);
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        match then {
            Some(then) => done(libc::mprotect(at, PAGE, then).into()).map(drop),
            None => Ok(()),
        }
    }
}

pub fn writable(args: &Args) -> io::Result<()> {
    map(library(args)?, READ | EXEC, Some(READ | WRITE))
}

pub fn both(args: &Args) -> io::Result<()> {
    map(library(args)?, READ | WRITE | EXEC, None)
}

pub fn late(args: &Args) -> io::Result<()> {
    map(library(args)?, READ | WRITE, Some(READ | EXEC))
}

pub fn write(args: &Args) -> io::Result<()> {
    OpenOptions::new().write(true).open(library(args)?).map(drop).map_err(|e| match e.raw_os_error() {
        Some(libc::EACCES) => errno(libc::EPERM),
        _ => e,
    })
}

pub fn truncate(args: &Args) -> io::Result<()> {
    let path = library(args)?;
    let length = std::fs::metadata(path)?.len();
    nix::unistd::truncate(path, i64::try_from(length).unwrap_or(0)).map_err(Into::into)
}

pub fn own_memory(_: &Args) -> io::Result<()> {
    OpenOptions::new().write(true).open("/proc/self/mem").map(drop)
}

pub fn traceme(_: &Args) -> io::Result<()> {
    // SAFETY: this process has one thread, and the child ends at once.
    match unsafe { fork() }? {
        ForkResult::Child => {
            let status = ptrace::traceme().map_or_else(|e| e as i32, |()| 0);
            // SAFETY: ends the process.
            unsafe { libc::_exit(status) }
        }
        ForkResult::Parent { child } => match waitpid(child, None)? {
            nix::sys::wait::WaitStatus::Exited(_, 0) => Ok(()),
            nix::sys::wait::WaitStatus::Exited(_, status) => Err(errno(status)),
            _ => Err(errno(libc::EIO)),
        },
    }
}

/// A copy under a name that TLS libraries have.
fn copy(args: &Args) -> io::Result<PathBuf> {
    let path = std::env::temp_dir().join(format!("pg-escape-{}", std::process::id()));
    std::fs::create_dir_all(&path)?;
    let path = path.join("libssl.so.3");
    std::fs::copy(library(args)?, &path)?;
    Ok(path)
}

fn with_copy(args: &Args, first: i32, then: Option<i32>) -> io::Result<()> {
    let path = copy(args)?;
    let result = map(&path, first, then);
    std::fs::remove_dir_all(path.parent().unwrap_or(&path))?;
    result
}

pub fn unhooked(args: &Args) -> io::Result<()> {
    with_copy(args, READ | EXEC, None)
}

pub fn unhooked_late(args: &Args) -> io::Result<()> {
    with_copy(args, READ, Some(READ | EXEC))
}

/// As a program's loader does: code that is run, data that is written, and read-only data after relocation.
pub fn plain(args: &Args) -> io::Result<()> {
    let path = library(args)?;
    map(path, READ, None)?;
    map(path, READ | EXEC, None)?;
    map(path, READ | WRITE, Some(READ))
}
