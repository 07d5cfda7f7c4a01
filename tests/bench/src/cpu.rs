//! Who used the processors, and for how long.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::time::{ClockId, clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// /proc/stat counts in hundredths of a second, whatever the kernel's own tick is.
const STAT_UNIT_NS: u64 = 10_000_000;

/// The processor of the client.
pub const CLIENT: usize = 0;
/// The processor of server and enforcer. A machine with one only has them all there.
#[must_use]
pub fn server() -> usize {
    usize::from(count() > 1)
}

/// Processors of this machine.
#[must_use]
pub fn count() -> usize {
    // not available_parallelism(), which says how many this thread may use
    let online = nix::unistd::sysconf(nix::unistd::SysconfVar::_NPROCESSORS_ONLN);
    online.ok().flatten().and_then(|n| usize::try_from(n).ok()).unwrap_or(1)
}

/// Keeps a process, or this thread (0), on one processor.
pub fn pin(pid: i32, cpu: usize) -> nix::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(Pid::from_raw(pid), &set)
}

/// Keeps every thread of a process on one processor, and those that they start.
pub fn pin_process(pid: u32, cpu: usize) -> Result<()> {
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        if let Some(thread) = task?.file_name().to_str().and_then(|name| name.parse().ok()) {
            pin(thread, cpu)?;
        }
    }
    Ok(())
}

/// Lets a process run on every processor, as one does that nobody has measured.
pub fn free(pid: u32) -> Result<()> {
    let mut set = CpuSet::new();
    (0..count()).try_for_each(|cpu| set.set(cpu))?;
    Ok(sched_setaffinity(Pid::from_raw(pid.cast_signed()), &set)?)
}

/// Whose time is looked at.
#[derive(Debug, Clone, Default)]
pub struct Watch {
    /// The server's process.
    pub server: Option<u32>,
    /// The agent's or proxy's process.
    pub enforcer: Option<u32>,
}

/// Processor time since some beginning, in nanoseconds.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    client: u64,
    server: u64,
    enforcer: u64,
    idle: u64,
    at: Instant,
}

/// Processor time between two samples, in nanoseconds.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Used {
    /// The client's thread. On loopback what the kernel does for the receiver is mostly charged to the sender.
    pub client: u64,
    /// The server's process.
    pub server: u64,
    /// The agent's or proxy's process.
    pub enforcer: u64,
    /// Everything on the machine that was not idle: processes, interrupts, and the kernel's own threads.
    pub machine: u64,
}

impl Watch {
    /// Now; the calling thread is the client.
    pub fn sample(&self) -> Result<Sample> {
        Ok(Sample {
            client: clock(ClockId::CLOCK_THREAD_CPUTIME_ID)?,
            server: process(self.server)?,
            enforcer: process(self.enforcer)?,
            idle: idle()?,
            at: Instant::now(),
        })
    }
}

impl Sample {
    /// What was used since an earlier sample.
    #[must_use]
    pub fn since(&self, earlier: &Sample) -> Used {
        let wall = u64::try_from((self.at - earlier.at).as_nanos()).unwrap_or(u64::MAX) * count() as u64;
        Used {
            client: self.client - earlier.client,
            server: self.server.saturating_sub(earlier.server),
            enforcer: self.enforcer.saturating_sub(earlier.enforcer),
            machine: wall.saturating_sub(self.idle - earlier.idle),
        }
    }
}

fn clock(id: ClockId) -> Result<u64> {
    let time: Duration = clock_gettime(id)?.into();
    Ok(u64::try_from(time.as_nanos())?)
}

/// A process's time, to the nanosecond, with its threads that have ended.
fn process(pid: Option<u32>) -> Result<u64> {
    let Some(pid) = pid else { return Ok(0) };
    let pid = Pid::from_raw(pid.cast_signed());
    clock(clock_getcpuclockid(pid).with_context(|| format!("process {pid} is gone"))?)
}

/// Idle time of all processors, and what a hypervisor took from them.
fn idle() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/stat")?;
    let line = text.lines().next().unwrap_or_default();
    let numbers: Vec<u64> = line.split_ascii_whitespace().skip(1).filter_map(|n| n.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal
    let [_, _, _, idle, iowait, _, _, steal, ..] = numbers[..] else { bail!("/proc/stat begins with `{line}`") };
    Ok((idle + iowait + steal) * STAT_UNIT_NS)
}

/// Resident memory of a process in bytes: now, and at most.
pub fn memory(pid: u32) -> Result<(u64, u64)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let find = |key: &str| -> Option<u64> {
        text.lines().find_map(|l| l.strip_prefix(key)?.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok())
    };
    let (now, most) = find("VmRSS:").zip(find("VmHWM:")).context("no resident memory in /proc/PID/status")?;
    Ok((now * 1024, most * 1024))
}
