//! Threads that the kernel has stopped on their way out of a call with denied plaintext.
//!
//! The whole process is stopped by SIGSTOP, and SIGCONT would let all of its threads go on at once. So every thread is
//! seized first; then no further one can be stopped, and each that was gets its failed call before any of them runs.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::abi;

/// How long a thread may take to stop.
const STOP: Duration = Duration::from_secs(1);

/// Ends every held call of a process, and lets it go on.
pub fn release(process: u32, holds: impl Fn() -> Vec<abi::pg_tls_hold>, mut done: impl FnMut(u32)) -> io::Result<()> {
    let mut threads = HashMap::new();
    let result = stop_all(process, &mut threads).and_then(|()| {
        for hold in holds().iter().filter(|hold| hold.process == process) {
            if threads.contains_key(&hold.thread) {
                end_call(hold)?;
            }
            done(hold.thread);
        }
        // While all are stopped: it takes back the SIGSTOP, delivered or not.
        kill(pid(process), Signal::SIGCONT)?;
        Ok(())
    });
    for (thread, signal) in threads {
        let _ = ptrace::detach(pid(thread), signal);
    }
    match result {
        // It has ended: nobody is held.
        Err(Errno::ESRCH) => {
            holds().iter().filter(|hold| hold.process == process).for_each(|hold| done(hold.thread));
            Ok(())
        }
        result => Ok(result?),
    }
}

fn pid(number: u32) -> Pid {
    Pid::from_raw(number.cast_signed())
}

/// Stops every thread, those too that begin meanwhile. With each the signal that it was about to get.
fn stop_all(process: u32, threads: &mut HashMap<u32, Option<Signal>>) -> nix::Result<()> {
    loop {
        let tasks = fs::read_dir(format!("/proc/{process}/task")).map_err(|_| Errno::ESRCH)?;
        let tasks = tasks.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let new: Vec<u32> = tasks.filter(|thread| !threads.contains_key(thread)).collect();
        if new.is_empty() {
            return Ok(());
        }
        for thread in new {
            match ptrace::seize(pid(thread), Options::empty()) {
                Ok(()) => {}
                Err(Errno::ESRCH) => continue,
                Err(e) => return Err(e),
            }
            let stopped = ptrace::interrupt(pid(thread)).and_then(|()| wait(thread));
            match stopped {
                Ok(signal) => drop(threads.insert(thread, signal)),
                Err(Errno::ESRCH | Errno::ECHILD) => {}
                Err(e) => {
                    let _ = ptrace::detach(pid(thread), None);
                    return Err(e);
                }
            }
        }
    }
}

/// Waits until a thread has stopped. Returns the signal that it stopped for, to be given to it later.
fn wait(thread: u32) -> nix::Result<Option<Signal>> {
    let bound = Instant::now() + STOP;
    loop {
        match waitpid(pid(thread), Some(WaitPidFlag::__WALL | WaitPidFlag::WNOHANG))? {
            WaitStatus::StillAlive if Instant::now() >= bound => return Err(Errno::ETIMEDOUT),
            WaitStatus::StillAlive => std::thread::sleep(Duration::from_micros(20)),
            WaitStatus::Stopped(_, Signal::SIGSTOP) | WaitStatus::PtraceEvent(..) => return Ok(None),
            WaitStatus::Stopped(_, signal) => return Ok(Some(signal)),
            WaitStatus::Exited(..) | WaitStatus::Signaled(..) => return Err(Errno::ESRCH),
            _ => return Ok(None),
        }
    }
}

/// The call fails: the thread is at its return, or within its first instruction, and then makes another call instead.
fn end_call(hold: &abi::pg_tls_hold) -> nix::Result<()> {
    let thread = pid(hold.thread);
    let mut registers = ptrace::getregs(thread)?;
    // No system call is to be begun again.
    registers.orig_rax = u64::MAX;
    match hold.failing {
        abi::PG_FAIL_CALL => {
            registers.rip = hold.failure;
            registers.rsp = hold.stack;
            registers.rsi = 0;
        }
        abi::PG_FAIL_LENGTH => {
            registers.rip = hold.failure;
            registers.rsp = hold.stack;
            registers.rdx = u64::MAX;
        }
        abi::PG_FAIL_GO_SKIP => {
            registers.rip = ptrace::read(thread, hold.stack as ptrace::AddressType)?.cast_unsigned();
            registers.rsp = hold.stack + 8;
            (registers.rax, registers.rbx, registers.rcx) = (hold.result, 0, 0);
        }
        abi::PG_FAIL_GO_OVER => (registers.rax, registers.rbx, registers.rcx) = (hold.result, 0, 0),
        _ => registers.rax = hold.result,
    }
    ptrace::setregs(thread, registers)
}
