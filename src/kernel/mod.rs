//! The only place that touches libbpf: programs, maps, links and pins.

pub mod attach;
pub mod guard;
pub mod load;
pub mod log;
mod made;
pub mod pin;
pub mod probe;
pub mod sys;
pub mod tls;

use std::io;
use std::path::PathBuf;

use miette::Diagnostic;
use thiserror::Error;

/// What the kernel lacks or refused.
#[derive(Debug, Error, Diagnostic)]
pub enum KernelError {
    /// Capabilities are missing.
    #[error("protocg needs root, or the capabilities {0}")]
    #[diagnostic(help("run it with sudo"))]
    Permission(String),
    /// No type information.
    #[error("the kernel has no BTF: `/sys/kernel/btf/vmlinux` is missing")]
    #[diagnostic(help("use a kernel built with CONFIG_DEBUG_INFO_BTF; all current distributions' kernels are"))]
    NoBtf,
    /// What a local client sends can change after it was judged.
    #[error(
        "this kernel cannot tell whether a local client can still write bytes that were judged (sendfile, vmsplice)"
    )]
    #[diagnostic(help("use Linux 6.2 or later, or say --allow-shared-pages if no client on this machine is hostile"))]
    SharedPages,
    /// No bpffs.
    #[error("no bpf file system at `{0}`: {1}")]
    #[diagnostic(help("mount one: mount -t bpf bpf {}; or run without --pin", .0.display()))]
    NoBpffs(PathBuf, io::Error),
    /// The verifier refused a program.
    #[error("the kernel refused the program `{program}`: {reason}")]
    #[diagnostic(help("the verifier's log follows with -v; `protocg probe` shows what this kernel offers"))]
    Refused {
        /// Its name.
        program: String,
        /// The verifier's last word.
        reason: String,
    },
    /// The kernel is too old, or was built without something.
    #[error("this kernel ({release}) lacks {}", .missing.join(", "))]
    #[diagnostic(help("Linux 6.1 and later have it; `protocg probe` shows what else this kernel offers"))]
    Lacks {
        /// Its version.
        release: String,
        /// What nothing is enforced without.
        missing: Vec<&'static str>,
    },
    /// Loading failed otherwise.
    #[error("cannot {what}: {error}")]
    #[diagnostic(help("{help}"))]
    Failed {
        /// What was tried.
        what: String,
        /// What the kernel said.
        error: io::Error,
        /// What may help.
        help: String,
    },
    /// `--require guard`, and it is not all there.
    #[error("the guard does not close every way around the enforcer:\n{0}")]
    #[diagnostic(help("allow these ways in the policy's [guard] section, or leave out --require guard"))]
    Unguarded(String),
    /// Another protocg is there.
    #[error("another protocg enforces on cgroup `{cgroup}` already{who}")]
    #[diagnostic(help("{help}"))]
    Busy {
        /// Where.
        cgroup: PathBuf,
        /// Who, if known.
        who: String,
        /// What to do.
        help: String,
    },
}

impl KernelError {
    /// A failure of a system call.
    pub fn failed(what: impl Into<String>, error: impl Into<io::Error>) -> Self {
        let error = error.into();
        let help = match error.raw_os_error() {
            Some(libc::EPERM) => {
                "the kernel says that it is not permitted: look for lockdown, a seccomp filter, or \
                a program that was attached to the cgroup without BPF_F_ALLOW_MULTI"
            }
            Some(libc::ENOMEM) => "memory is short, or RLIMIT_MEMLOCK is low on a kernel before 5.11",
            _ => "`protocg probe` shows what this kernel offers",
        };
        Self::Failed { what: what.into(), error, help: help.to_owned() }
    }
}

/// libbpf's errors as the system's.
pub(crate) fn io_error(error: &libbpf_rs::Error) -> io::Error {
    match error.kind() {
        libbpf_rs::ErrorKind::PermissionDenied => io::Error::from_raw_os_error(libc::EPERM),
        _ => io::Error::other(error.to_string()),
    }
}

/// Refuses early, in words, what the kernel would refuse with a number.
pub fn require_privileges() -> Result<(), KernelError> {
    const NEEDED: [(u32, &str, bool); 3] =
        [(12, "CAP_NET_ADMIN", false), (38, "CAP_PERFMON", true), (39, "CAP_BPF", true)];
    const SYS_ADMIN: u32 = 21;
    let has = effective_capabilities();
    let holds = |bit: u32| has & (1 << bit) != 0;
    let missing: Vec<&str> = NEEDED
        .iter()
        .filter(|(bit, _, admin)| !(holds(*bit) || *admin && holds(SYS_ADMIN)))
        .map(|(_, name, _)| *name)
        .collect();
    if missing.is_empty() { Ok(()) } else { Err(KernelError::Permission(missing.join(", "))) }
}

/// Whether the agent may take other processes' sockets, which polite replies need.
pub fn may_take_sockets() -> bool {
    const SYS_PTRACE: u32 = 19;
    effective_capabilities() & (1 << SYS_PTRACE) != 0
}

fn effective_capabilities() -> u64 {
    std::fs::read_to_string("/proc/self/status")
        .unwrap_or_default()
        .lines()
        .find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok())
        .unwrap_or(0)
}
