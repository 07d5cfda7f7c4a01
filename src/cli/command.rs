//! A command in a cgroup of its own: begun there, sent its signals, ended with it.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitCode, ExitStatus};

use miette::{Diagnostic, miette};
use nix::libc;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{self, SigSet, SigmaskHow, Signal};
use thiserror::Error;
use tokio::process::{Child, Command};

use super::exit::{Exit, Failure};
use crate::cgroup::Cgroup;

#[derive(Debug, Error, Diagnostic)]
#[error("cannot run `{0}`: {1}")]
struct NotRun(String, io::Error);

/// Starts the command inside the cgroup: it never runs outside.
pub fn start(words: &[OsString], cgroup: &Cgroup, files: (u64, u64)) -> Result<Child, Failure> {
    let (program, arguments) =
        words.split_first().ok_or_else(|| Failure::new(Exit::Usage, miette!("no command is given")))?;
    let enter = OpenOptions::new()
        .write(true)
        .open(cgroup.path.join("cgroup.procs"))
        .map_err(|e| Failure::new(Exit::Cgroup, miette!("cannot enter cgroup `{}`: {e}", cgroup.path.display())))?;
    let agent = std::process::id();
    let mut command = Command::new(program);
    command.args(arguments);
    let before_exec = move || {
        // SAFETY: write() and prctl() are async-signal-safe; "0" stands for the calling process.
        unsafe {
            if libc::write(enter.as_raw_fd(), c"0".as_ptr().cast(), 1) != 1 {
                return Err(io::Error::from_raw_os_error(libc::EIO));
            }
            // Without the agent nothing would be enforced: the command does not outlive it.
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            if libc::getppid().cast_unsigned() != agent {
                libc::_exit(1);
            }
        }
        signal::sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
        setrlimit(Resource::RLIMIT_NOFILE, files.0, files.1)?;
        Ok(())
    };
    // SAFETY: the closure makes system calls only, and neither allocates nor takes locks.
    unsafe { command.pre_exec(before_exec) };
    command.spawn().map_err(|e| {
        let exit = match e.kind() {
            io::ErrorKind::NotFound => Exit::NotFound,
            _ => Exit::NotRunnable,
        };
        Failure::new(exit, NotRun(program.to_string_lossy().into_owned(), e))
    })
}

/// Passes a signal on, unless the terminal sent it: then the command, in the same process group, has it already.
pub fn forward(child: &Child, number: i32, code: i32) {
    const SI_KERNEL: i32 = 0x80;
    if code == SI_KERNEL {
        return;
    }
    if let (Some(pid), Ok(number)) = (child.id(), Signal::try_from(number)) {
        let _ = signal::kill(nix::unistd::Pid::from_raw(pid.cast_signed()), number);
    }
}

/// The exit status that says how the command ended.
pub fn status(status: ExitStatus) -> ExitCode {
    let number = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    ExitCode::from(u8::try_from(number).unwrap_or(u8::MAX))
}
