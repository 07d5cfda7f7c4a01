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
const STOP: Duration = Duration::from_secs(5);

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
    if result.is_err() {
        // Nobody runs on with denied plaintext: what stopped the process may have been taken back.
        let _ = kill(pid(process), Signal::SIGSTOP);
    }
    let killed = threads.into_iter().filter(|(thread, signal)| ptrace::detach(pid(*thread), *signal).is_err());
    bury(killed.map(|(thread, _)| thread).collect());
    match result {
        // It has ended: nobody is held.
        Err(Errno::ESRCH) => {
            holds().iter().filter(|hold| hold.process == process).for_each(|hold| done(hold.thread));
            Ok(())
        }
        result => Ok(result?),
    }
}

/// A thread that is killed while it is seized is its tracer's to wait for: before that the process's parent does not hear of
/// its end. A process's first thread comes last.
fn bury(mut killed: Vec<u32>) {
    let bound = Instant::now() + STOP;
    let flags = WaitPidFlag::__WALL | WaitPidFlag::WNOHANG;
    loop {
        killed.retain(|thread| waitpid(pid(*thread), Some(flags)).is_ok_and(|status| status == WaitStatus::StillAlive));
        if killed.is_empty() || Instant::now() >= bound {
            return;
        }
        std::thread::sleep(Duration::from_micros(100));
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
            let stopped = match ptrace::seize(pid(thread), Options::empty()) {
                Ok(()) => ptrace::interrupt(pid(thread)).and_then(|()| wait(thread)),
                Err(Errno::ESRCH) => continue,
                // perhaps seized before, and too slow then
                Err(Errno::EPERM) => wait(thread).map_err(|e| if e == Errno::ECHILD { Errno::EPERM } else { e }),
                Err(e) => return Err(e),
            };
            match stopped {
                Ok(signal) => drop(threads.insert(thread, signal)),
                // killed meanwhile
                Err(Errno::ESRCH | Errno::ECHILD) => drop(threads.insert(thread, None)),
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

/// Signals that are delivered before the thread stops have their handlers' frames on its stack: as many are looked through.
const MOST_FRAMES: usize = 8;
/// The longest instruction.
const INSTRUCTION: u64 = 15;
/// Where a `ucontext_t` has its registers, and their order (asm/sigcontext.h).
const CONTEXT: u64 = 40;
const RDX: u64 = CONTEXT + 8 * 12;
const RAX: u64 = CONTEXT + 8 * 13;
const RCX: u64 = CONTEXT + 8 * 14;
const RSP: u64 = CONTEXT + 8 * 15;
const RIP: u64 = CONTEXT + 8 * 16;
const RBX: u64 = CONTEXT + 8 * 11;
const RSI: u64 = CONTEXT + 8 * 9;

/// The call fails: the thread is at its return, or within its first instruction. A handler that has been entered meanwhile returns
/// there.
fn end_call(hold: &abi::pg_tls_hold) -> nix::Result<()> {
    let thread = pid(hold.thread);
    let read = |at: u64| ptrace::read(thread, at as ptrace::AddressType).map(i64::cast_unsigned);
    let mut registers = ptrace::getregs(thread)?;
    if is_at(hold, registers.rip, registers.rsp) {
        // No system call is to be begun again.
        registers.orig_rax = u64::MAX;
        change(hold, &mut registers, read)?;
        return ptrace::setregs(thread, registers);
    }
    let mut context = registers.rdx;
    for _ in 0..MOST_FRAMES {
        let mut saved = registers;
        (saved.rip, saved.rsp, saved.rdx) = (read(context + RIP)?, read(context + RSP)?, read(context + RDX)?);
        if is_at(hold, saved.rip, saved.rsp) {
            (saved.rax, saved.rbx, saved.rcx) = (read(context + RAX)?, read(context + RBX)?, read(context + RCX)?);
            saved.rsi = read(context + RSI)?;
            change(hold, &mut saved, read)?;
            let fields = [
                (RIP, saved.rip),
                (RSP, saved.rsp),
                (RAX, saved.rax),
                (RBX, saved.rbx),
                (RCX, saved.rcx),
                (RDX, saved.rdx),
                (RSI, saved.rsi),
            ];
            for (field, value) in fields {
                ptrace::write(thread, (context + field) as ptrace::AddressType, value.cast_signed())?;
            }
            return Ok(());
        }
        context = saved.rdx;
    }
    Err(Errno::ENOTRECOVERABLE)
}

/// Whether a thread is where the hook left it: behind the first instruction of what begins, or behind what is over. There the kernel
/// has put three registers on the stack, or Go's RET has taken the return address from it.
fn is_at(hold: &abi::pg_tls_hold, rip: u64, rsp: u64) -> bool {
    match hold.failing {
        abi::PG_FAIL_OVER | abi::PG_FAIL_GO_OVER => {
            [hold.sp.wrapping_sub(24), hold.sp, hold.sp.wrapping_add(8)].contains(&rsp)
        }
        _ => rip.wrapping_sub(hold.ip) <= INSTRUCTION,
    }
}

fn change(
    hold: &abi::pg_tls_hold,
    registers: &mut libc::user_regs_struct,
    read: impl Fn(u64) -> nix::Result<u64>,
) -> nix::Result<()> {
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
            registers.rip = read(hold.stack)?;
            registers.rsp = hold.stack + 8;
            (registers.rax, registers.rbx, registers.rcx) = (hold.result, 0, 0);
        }
        abi::PG_FAIL_GO_OVER => (registers.rax, registers.rbx, registers.rcx) = (hold.result, 0, 0),
        _ => registers.rax = hold.result,
    }
    Ok(())
}
