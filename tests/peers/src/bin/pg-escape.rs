//! Tries every way around the enforcer that is known, from inside a cgroup.

use std::process::ExitCode;

use clap::Parser;
use protocg_peers::escape::{Args, run};

fn main() -> ExitCode {
    run(&Args::parse())
}
