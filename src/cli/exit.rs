//! How a run ended, as the exit status says it.

use std::process::ExitCode;

/// Every exit status of protocg itself. `run ... -- COMMAND` ends with COMMAND's own status, or 128 + n if signal n
/// ended it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// All went well.
    Ok = 0,
    /// Something failed that no other status names.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The policy, or a .proto file that it names, has an error.
    Policy = 3,
    /// The kernel lacks something, or refused a program.
    Kernel = 4,
    /// Root or a capability is missing.
    Permission = 5,
    /// The cgroup is missing, of the wrong kind, or was removed.
    Cgroup = 6,
    /// Another protocg enforces there.
    Busy = 7,
    /// Sockets on policy ports lie outside the cgroup, and `--allow-foreign-sockets` is not given.
    Foreign = 8,
    /// A case has another outcome than it says.
    CaseFailed = 9,
    /// The cases, or the call to explain, have an error.
    Cases = 10,
    /// COMMAND was found and could not be run.
    NotRunnable = 126,
    /// COMMAND was not found.
    NotFound = 127,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// What `--help` says about it.
pub const HELP: &str = "Exit status:
  0    all went well
  1    something failed that no other status names
  2    the command line is wrong
  3    the policy has an error
  4    the kernel lacks something, or refused a program
  5    root or a capability is missing
  6    the cgroup is missing, of the wrong kind, or was removed
  7    another protocg enforces there
  8    sockets on policy ports lie outside the cgroup
  9    a case has another outcome than it says
  10   the cases, or the call to explain, have an error
  126  COMMAND was found and could not be run
  127  COMMAND was not found
  128+n  signal n ended COMMAND
With COMMAND, its own status otherwise.";

/// An error with the status that it ends the program with.
#[derive(Debug)]
pub struct Failure {
    /// The status.
    pub exit: Exit,
    /// What to print.
    pub report: miette::Report,
}

impl Failure {
    /// Wraps an error.
    pub fn new(exit: Exit, error: impl Into<miette::Report>) -> Self {
        Self { exit, report: error.into() }
    }
}
