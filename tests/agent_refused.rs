//! What the kernel refuses while protocg starts: said in words, with its exit status, and nothing stays attached or pinned.
//!
//! The refusals are the kernel's own. A tracer stands between the real program and bpf(2): it spoils an instruction of a
//! program on its way to the verifier, or asks for a command that no kernel has. (A seccomp filter could not tell one
//! program from another: it sees no memory.)

#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "a test")]
#![cfg(target_arch = "x86_64")]

mod support;

use std::collections::HashSet;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use protocg::kernel::sys::{self, Hook};
use support::{Agent, Place, protocg};

/// Commands of bpf(2), from linux/bpf.h.
const PROG_LOAD: u64 = 5;
const OBJ_PIN: u64 = 6;
const LINK_CREATE: u64 = 28;
const NO_COMMAND: u64 = 9999;

/// `r0 = r9`, where nothing has set r9.
const UNSET: i64 = 0x90bf;

/// A bpf(2) call of the traced program, before the kernel sees it.
struct Asked {
    pid: Pid,
    registers: libc::user_regs_struct,
}

impl Asked {
    fn command(&self) -> u64 {
        self.registers.rdi
    }

    fn read(&self, address: u64) -> [u8; 8] {
        ptrace::read(self.pid, address as ptrace::AddressType).unwrap().to_ne_bytes()
    }

    /// PROG_LOAD: the program's name (linux/bpf.h, union bpf_attr: prog_name is at 48).
    fn program(&self) -> String {
        let name = [self.read(self.registers.rsi + 48), self.read(self.registers.rsi + 56)].concat();
        String::from_utf8_lossy(&name).trim_end_matches('\0').to_owned()
    }

    /// PROG_LOAD: exchanges the first instruction (insns is at 8).
    fn spoil(&self) {
        let instructions = u64::from_ne_bytes(self.read(self.registers.rsi + 8));
        ptrace::write(self.pid, instructions as ptrace::AddressType, UNSET).unwrap();
    }

    /// The kernel is asked for what it does not have.
    fn refuse(&mut self) {
        self.registers.rdi = NO_COMMAND;
        ptrace::setregs(self.pid, self.registers).unwrap();
    }
}

/// Runs protocg to its end under the tracer. Returns its status and what it said.
fn meddled(arguments: &[&str], mut meddle: impl FnMut(&mut Asked)) -> (i32, String) {
    // A file: the verifier's log is longer than a pipe, and nobody reads while the tracer waits.
    let said = tempfile::NamedTempFile::new().unwrap();
    let mut command = protocg(arguments);
    let file = said.reopen().unwrap();
    command.stdout(file.try_clone().unwrap()).stderr(file);
    // A start that succeeds against expectation would go on for ever: the alarm ends it.
    // SAFETY: two system calls, which touch nothing of this process.
    unsafe {
        command.pre_exec(|| {
            libc::alarm(60);
            ptrace::traceme().map_err(Into::into)
        })
    };
    let pid = Pid::from_raw(command.spawn().unwrap().id().cast_signed());
    assert_eq!(waitpid(pid, None).unwrap(), WaitStatus::Stopped(pid, Signal::SIGTRAP));
    let options = ptrace::Options::PTRACE_O_TRACESYSGOOD
        | ptrace::Options::PTRACE_O_EXITKILL
        | ptrace::Options::PTRACE_O_TRACECLONE;
    ptrace::setoptions(pid, options).unwrap();
    ptrace::syscall(pid, None).unwrap();
    // Programs are loaded by several threads. Those of other tests, which other threads trace, are not waited for.
    let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
    let mut within = HashSet::new();
    loop {
        let status = waitpid(None, Some(flags)).unwrap();
        let mut signal = None;
        match status {
            WaitStatus::PtraceSyscall(thread) => {
                let entered = within.insert(thread);
                if !entered {
                    within.remove(&thread);
                }
                let registers = ptrace::getregs(thread).unwrap();
                if entered && registers.orig_rax == libc::SYS_bpf as u64 {
                    meddle(&mut Asked { pid: thread, registers });
                }
            }
            // a new thread stops like this, too
            WaitStatus::Stopped(_, other) => signal = Some(other).filter(|it| *it != Signal::SIGSTOP),
            WaitStatus::Exited(ended, status) if ended == pid => {
                return (status, fs::read_to_string(said.path()).unwrap());
            }
            WaitStatus::Exited(..) => continue,
            other => assert!(matches!(other, WaitStatus::PtraceEvent(..)), "{other:?}"),
        }
        match ptrace::syscall(status.pid().unwrap(), signal) {
            // the process ends meanwhile, and takes the thread along
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(e) => panic!("{e}"),
        }
    }
}

fn pins(place: &Place) -> PathBuf {
    Path::new("/sys/fs/bpf/protocg").join(place.cgroup().id.to_string())
}

/// The programs on a cgroup.
fn ids(place: &Place) -> Vec<u32> {
    let cgroup = place.cgroup();
    Hook::ALL.into_iter().flat_map(|hook| sys::attached(cgroup.as_fd(), hook).unwrap()).collect()
}

/// Nothing is left of a start that failed.
fn nothing_is_left(places: &[&Place]) {
    for place in places {
        support::eventually("nothing is attached", || place.attached().is_empty());
        assert!(!pins(place).exists(), "pins of {}", place.path.display());
    }
}

/// The next start succeeds.
fn starts(places: &[&Place], policy: &Path) {
    for place in places {
        let (agent, events) = Agent::start(&["--cgroup", place.path.to_str().unwrap(), policy.to_str().unwrap()]);
        assert_eq!(events.last().unwrap()["origin"], "fresh");
        assert_eq!(agent.stop().code(), Some(0));
    }
}

#[test]
fn a_program_that_the_verifier_refuses_is_said_in_words() {
    need_root!();
    let place = Place::new();
    let policy = place.policy("p", 1);
    let (cgroup, file) = (place.path.to_str().unwrap(), policy.to_str().unwrap());
    for refused in ["pg_sockops", "pg_egress", "pg_ingress"] {
        for verbose in [false, true] {
            let mut arguments = vec!["run", "--cgroup", cgroup, file];
            arguments.extend(verbose.then_some("-v"));
            let mut spoilt = 0;
            let (status, said) = meddled(&arguments, |asked| {
                if asked.command() == PROG_LOAD && asked.program() == refused {
                    asked.spoil();
                    spoilt += 1;
                }
            });
            assert!(spoilt > 0, "{refused} was not loaded");
            assert_eq!(status, 4, "{said}");
            assert!(said.contains(&format!("the kernel refused the program `{refused}`: R9 !read_ok")), "{said}");
            assert!(said.contains("the verifier's log follows with -v"), "{said}");
            // The log: the instruction, and what the verifier says of it.
            let log = said.contains("BEGIN PROG LOAD LOG") && said.contains("r0 = r9");
            assert_eq!(log, verbose, "{said}");
            assert!(place.attached().is_empty());
        }
    }
    nothing_is_left(&[&place]);
    starts(&[&place], &policy);
}

/// Without hooks TLS is refused, and everything else is judged: unless the policy wants the hooks, protocg starts.
#[test]
fn hooks_that_the_verifier_refuses_keep_nothing_else_from_starting() {
    need_root!();
    for required in [false, true] {
        let place = Place::new();
        let policy = place.policy("p", 1);
        let text = fs::read_to_string(&policy).unwrap();
        fs::write(&policy, format!("{text}\n[tls]\nrequired = {required}\nkill = true\n")).unwrap();
        let arguments = ["run", "--events", "json", policy.to_str().unwrap(), "--", "true"];
        let mut spoilt = 0;
        let (status, said) = meddled(&arguments, |asked| {
            if asked.command() == PROG_LOAD && asked.program() == "pt_return" {
                asked.spoil();
                spoilt += 1;
            }
        });
        assert!(spoilt > 0, "pt_return was not loaded: {said}");
        assert!(said.contains("the kernel refused the program `pt_return`: R9 !read_ok"), "{said}");
        assert_eq!(status, if required { 4 } else { 0 }, "{said}");
        let none =
            said.contains("TLS is not read, and so refused on policy ports") && said.contains("\"tls\":\"none\"");
        assert_eq!(none, !required, "{said}");
    }
}

#[test]
fn probe_says_that_the_enforcer_does_not_load() {
    need_root!();
    let (status, said) = meddled(&["probe"], |asked| {
        if asked.command() == PROG_LOAD && asked.program() == "pg_ingress" {
            asked.spoil();
        }
    });
    assert_eq!(status, 4, "{said}");
    assert!(said.contains("does not load: the kernel refused the program `pg_ingress`: R9 !read_ok"), "{said}");
}

#[test]
fn a_kernel_that_forbids_loading_is_said_in_words() {
    need_root!();
    let place = Place::new();
    let policy = place.policy("p", 1);
    let arguments = ["run", "--cgroup", place.path.to_str().unwrap(), policy.to_str().unwrap()];
    let (status, said) = meddled(&arguments, |asked| {
        if asked.command() == PROG_LOAD {
            asked.refuse();
        }
    });
    assert_eq!(status, 4, "{said}");
    assert!(said.contains("cannot load the programs"), "{said}");
    nothing_is_left(&[&place]);
    starts(&[&place], &policy);
}

/// The programs are attached one after the other, cgroup by cgroup: whichever fails, those before it go.
#[test]
fn what_was_attached_before_a_failure_is_taken_off() {
    need_root!();
    let (one, two) = (Place::new(), Place::new());
    let policy = one.policy("p", 1);
    let [first, second] = [&one, &two].map(|place| place.path.to_str().unwrap());
    for pin in [false, true] {
        for failing in 1..=6 {
            let mut arguments = vec!["run", "--cgroup", first, "--cgroup", second, policy.to_str().unwrap()];
            arguments.extend(pin.then_some("--pin"));
            let mut links = 0;
            let (status, said) = meddled(&arguments, |asked| {
                if asked.command() == LINK_CREATE && asked.registers.rsi != 0 {
                    links += 1;
                    if links == failing {
                        asked.refuse();
                    }
                }
            });
            assert_eq!((status, links), (4, failing), "{said}");
            let program = ["pg_sockops", "pg_egress", "pg_ingress"][(failing - 1) % 3];
            let cgroup = if failing <= 3 { first } else { second };
            assert!(said.contains(&format!("cannot attach `{program}` to cgroup `{cgroup}`")), "{said}");
            nothing_is_left(&[&one, &two]);
        }
    }
    starts(&[&one, &two], &policy);
}

#[test]
fn pins_that_a_failure_left_half_made_are_removed() {
    need_root!();
    let (one, two) = (Place::new(), Place::new());
    let policy = one.policy("p", 1);
    let [first, second] = [&one, &two].map(|place| place.path.to_str().unwrap());
    // Among the maps and the links of the first cgroup, and of the second.
    for failing in [1, 8, 10, 11, 20] {
        let arguments = ["run", "--pin", "--cgroup", first, "--cgroup", second, policy.to_str().unwrap()];
        let mut made = 0;
        let (status, said) = meddled(&arguments, |asked| {
            if asked.command() == OBJ_PIN {
                made += 1;
                if made == failing {
                    asked.refuse();
                }
            }
        });
        assert_eq!((status, made), (4, failing), "{said}");
        assert!(said.contains("cannot pin to `/sys/fs/bpf/protocg/"), "{said}");
        nothing_is_left(&[&one, &two]);
    }
    starts(&[&one, &two], &policy);
}

/// A cgroup that is enforced on already stays so, whatever becomes of the run that was to take it over.
#[test]
fn a_takeover_that_fails_leaves_enforcement_in_place() {
    need_root!();
    let (one, two) = (Place::new(), Place::new());
    let (policy, other) = (one.policy("p", 1), one.policy("other", 2));
    let [first, second] = [&one, &two].map(|place| place.path.to_str().unwrap());
    let [policy, other] = [&policy, &other].map(|path| path.to_str().unwrap());
    let (agent, _) = Agent::start(&["--pin", "--cgroup", first, policy]);
    assert_eq!(agent.stop().code(), Some(0));
    let before = ids(&one);
    for failing in [1, 7] {
        let mut made = 0;
        let (status, said) = meddled(&["run", "--cgroup", first, "--cgroup", second, other], |asked| {
            if asked.command() == OBJ_PIN {
                made += 1;
                if made == failing {
                    asked.refuse();
                }
            }
        });
        assert_eq!(status, 4, "{said}");
        assert_eq!(ids(&one), before, "the same programs as before");
        support::eventually("nothing is attached", || two.attached().is_empty());
    }
    let (agent, events) = Agent::start(&["--cgroup", first, policy]);
    assert_eq!(events.last().unwrap()["origin"], "adopted");
    assert_eq!(agent.stop().code(), Some(0));
    // The second cgroup fails: the first has the new programs by then, and keeps them.
    let mut links = 0;
    let (status, said) = meddled(&["run", "--cgroup", first, "--cgroup", second, other], |asked| {
        if asked.command() == LINK_CREATE && asked.registers.rsi != 0 {
            links += 1;
            asked.refuse();
        }
    });
    assert_eq!((status, links), (4, 1), "{said}");
    assert_ne!(ids(&one), before);
    assert_eq!(one.attached().len(), 3);
    support::eventually("nothing is attached", || two.attached().is_empty());
    let mut detach = protocg(&["detach", "--cgroup", first]);
    assert_eq!(support::ends(&mut detach).0, 0);
    assert!(one.attached().is_empty());
}
