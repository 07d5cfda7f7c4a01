//! The command line: one verb a file.

pub mod check;
pub mod command;
pub mod detach;
pub mod exit;
pub mod explain;
pub mod init;
pub mod probe;
pub mod run;
pub mod test;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::{Args, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use self::check::CheckError;
use self::exit::{Exit, Failure, HELP};
use self::explain::ExplainArgs;
use self::init::InitArgs;
use self::test::TestArgs;
use crate::agent::events::Format;

#[derive(Debug, Parser)]
#[command(version, about, after_help = HELP, disable_help_subcommand = true)]
struct Cli {
    /// Print what libbpf and the verifier say; twice for more
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Enforce a policy on cgroups, or on a command in a cgroup of its own
    #[command(after_help = HELP)]
    Run(RunArgs),
    /// End enforcement that was pinned
    Detach(DetachArgs),
    /// Compile policies and print each rule as compiled, with its costs
    Check {
        /// Policies
        #[arg(required = true, value_name = "POLICY.toml")]
        policies: Vec<PathBuf>,
    },
    /// Try calls on a policy: each case says what must come of it
    #[command(after_help = test::HELP)]
    Test(TestArgs),
    /// Say which rule decides a call, and why, predicate by predicate
    Explain(ExplainArgs),
    /// Write a policy to start from, with every service and method of some protos
    Init(InitArgs),
    /// Find out what this kernel offers by trying it, and list the enforcer's limits
    Probe {
        /// One JSON object instead of text
        #[arg(long)]
        json: bool,
    },
}

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// A cgroup of version 2; may be given several times. Its child cgroups are covered
    #[arg(long = "cgroup", value_name = "PATH", required_unless_present = "command", conflicts_with = "command")]
    pub cgroups: Vec<PathBuf>,
    /// The policy
    #[arg(value_name = "POLICY.toml")]
    pub policy: PathBuf,
    /// A command to run under the policy, in a cgroup that is removed when it ends
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
    /// Let enforcement outlive this process, until `protocg detach`
    #[arg(long, conflicts_with = "command")]
    pub pin: bool,
    /// How events are written
    #[arg(long, value_enum, default_value = "human")]
    pub events: Format,
    /// Write events about allowed calls too
    #[arg(long)]
    pub events_allowed: bool,
    /// Start although processes of the cgroup have sockets on policy ports that were made outside it
    #[arg(long)]
    pub allow_foreign_sockets: bool,
    /// Start although this kernel (before 6.2) cannot tell whether a local sender can still write bytes that were judged
    #[arg(long)]
    pub allow_shared_pages: bool,
    /// How long RPCs beside a denied one may take to finish before their connection is closed
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    pub drain: std::time::Duration,
}

/// Arguments of `detach`.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct DetachArgs {
    /// A cgroup; may be given several times
    #[arg(long = "cgroup", value_name = "PATH")]
    pub cgroups: Vec<PathBuf>,
    /// Every cgroup
    #[arg(long)]
    pub all: bool,
}

fn seconds(text: &str) -> Result<std::time::Duration, String> {
    const MOST: f64 = 3600.0;
    match text.parse::<f64>() {
        Ok(n) if (0.0..=MOST).contains(&n) => Ok(std::time::Duration::from_secs_f64(n)),
        _ => Err(format!("give a number of seconds from 0 to {MOST}")),
    }
}

/// Runs the program.
pub fn main() -> ExitCode {
    let started = Instant::now();
    let cli = Cli::parse();
    // Paths in messages stay whole.
    let _ = miette::set_hook(Box::new(|_| Box::new(miette::MietteHandlerOpts::new().wrap_lines(false).build())));
    let level = match cli.verbose {
        0 => "warn",
        1 => "warn,protocg=debug,libbpf=debug",
        _ => "trace",
    };
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_from_env("PROTOCG_LOG").unwrap_or_else(|_| EnvFilter::new(level)))
        .with_writer(io::stderr)
        .without_time()
        .init();
    let result = match cli.verb {
        Verb::Run(args) => run::run(args, started),
        Verb::Detach(args) => detach::detach(&args).map(ExitCode::from),
        Verb::Check { policies } => match check::check(&policies, &mut io::stdout().lock()) {
            Ok(()) => Ok(Exit::Ok.into()),
            // one wrong policy needs no summary above it
            Err(CheckError::Policies(mut errors)) if errors.len() == 1 => match errors.pop() {
                Some(only) => Err(Failure::new(Exit::Policy, only)),
                None => Ok(Exit::Policy.into()),
            },
            Err(e) => Err(Failure::new(Exit::Policy, e)),
        },
        Verb::Test(args) => test::test(&args, &mut io::stdout().lock()).map(ExitCode::from),
        Verb::Explain(args) => explain::explain(&args, &mut io::stdout().lock()).map(ExitCode::from),
        Verb::Init(args) => init::init(&args, &mut io::stdout().lock()).map(ExitCode::from),
        Verb::Probe { json } => probe::probe(json).map(ExitCode::from),
    };
    result.unwrap_or_else(|failure| {
        let _ = writeln!(io::stderr(), "{:?}", failure.report);
        failure.exit.into()
    })
}
