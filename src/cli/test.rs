//! `protocg test POLICY CASES...`: calls against a policy, and what must come of them.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use miette::miette;

use super::exit::{Exit, Failure};
use crate::cases::judge::{self, Host, Kernel};
use crate::cases::{By, Case, junit, read, report};
use crate::kernel::{self, KernelError};
use crate::policy::{self, Study};

/// Arguments of `test`.
#[derive(Debug, Args)]
pub struct TestArgs {
    /// The policy
    #[arg(value_name = "POLICY.toml")]
    pub policy: PathBuf,
    /// Files of cases, in TOML, YAML or JSON; `-` is standard input
    #[arg(value_name = "CASES", required = true)]
    pub cases: Vec<PathBuf>,
    /// Judge by the programs in this kernel too (BPF_PROG_TEST_RUN). Needs root
    #[arg(long)]
    pub kernel: bool,
    /// Only the cases whose name contains this
    #[arg(long = "case", value_name = "TEXT")]
    pub only: Option<String>,
    /// Write a report in JUnit's form too
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
    /// Print what failed, and the sum
    #[arg(short, long)]
    pub quiet: bool,
}

/// What `--help` shows behind the options.
pub const HELP: &str = r#"A file of cases:
  [[case]]
  name     = "no A in a query"
  method   = "/search.SearchService/Search"
  metadata = { x-role = "reader" }
  peer     = "10.0.0.1"
  message  = { query = "Apples" }
  verdict  = "deny"
  rule     = "no-A-in-query"
  status   = "INVALID_ARGUMENT"

Exit status:
  0    every case has the outcome that it says
  1    the report cannot be written
  3    the policy has an error
  4    the kernel lacks something, or refused the program (--kernel)
  5    root or a capability is missing (--kernel)
  9    a case has another outcome than it says
  10   the cases have an error"#;

/// What became of a case.
struct Done {
    name: String,
    /// In short, and whole.
    wrong: Option<(String, String)>,
    by: By,
}

/// Runs every case. One with another outcome than it says ends it with the status for that.
pub fn test(args: &TestArgs, out: &mut dyn Write) -> Result<Exit, Failure> {
    let study = policy::study(&args.policy).map_err(|e| Failure::new(Exit::Policy, e))?;
    let mut files = Vec::new();
    for path in &args.cases {
        let read = read::text(path).and_then(|(text, format)| read::cases(&text, format, path, &study));
        let read = read.map_err(|e| Failure::new(Exit::Cases, e))?;
        for warning in &read.warnings {
            tracing::warn!("{}: {warning}", path.display());
        }
        let wanted = |case: &Case| args.only.as_ref().is_none_or(|only| case.name.contains(only));
        files.push((path, read.cases.into_iter().filter(wanted).collect::<Vec<_>>()));
    }
    if files.iter().all(|(_, cases)| cases.is_empty()) {
        let only = args.only.as_deref().unwrap_or_default();
        return Err(Failure::new(Exit::Cases, miette!("no case has a name that contains `{only}`")));
    }
    let host = Host::new(&study.policy);
    let kernel = if args.kernel { Some(in_kernel(&study)?) } else { None };
    let mut suites = Vec::new();
    for (path, cases) in &files {
        let mut done = Vec::new();
        for case in cases {
            let one = run(case, &args.policy, path, &study, &host, kernel.as_ref())?;
            show(&one, path, case.line, args.quiet, out).map_err(unwritten)?;
            done.push(one);
        }
        suites.push((path.display().to_string(), done));
    }
    let failed = suites.iter().flat_map(|(_, done)| done).filter(|one| one.wrong.is_some()).count();
    let all: usize = suites.iter().map(|(_, done)| done.len()).sum();
    if args.only.is_none() && !args.quiet {
        unreached(&study, suites.iter().flat_map(|(_, done)| done), out).map_err(unwritten)?;
    }
    writeln!(out, "{} passed, {failed} failed", all - failed).map_err(unwritten)?;
    if let Some(path) = &args.junit {
        write_junit(path, &study.policy.name, &suites)?;
    }
    Ok(if failed == 0 { Exit::Ok } else { Exit::CaseFailed })
}

fn in_kernel(study: &Study) -> Result<Kernel, Failure> {
    kernel::require_privileges().map_err(|e| Failure::new(Exit::Permission, e))?;
    Kernel::new(&study.policy).map_err(|e| {
        let exit = if matches!(e, KernelError::Permission(_)) { Exit::Permission } else { Exit::Kernel };
        Failure::new(exit, e)
    })
}

fn run(
    case: &Case,
    policy: &Path,
    path: &Path,
    study: &Study,
    host: &Host,
    kernel: Option<&Kernel>,
) -> Result<Done, Failure> {
    let outcome = judge::outcome(&study.policy, &host.run(&case.call));
    let differences = report::differences(case, &outcome);
    let mut short: Vec<String> = differences.iter().map(report::Difference::short).collect();
    let mut whole: Vec<String> = differences.iter().map(ToString::to_string).collect();
    if let Some(kernel) = kernel {
        let run =
            kernel.run(&case.call).map_err(|e| Failure::new(Exit::Kernel, miette!("cannot run the programs: {e}")))?;
        let there = judge::outcome(&study.policy, &run);
        if there != outcome {
            let what = "the kernel disagrees with the host's engine, which is a bug of protocg";
            short.push(what.to_owned());
            whole.push(format!("{what}; in the kernel:\n{there}"));
        }
    }
    let mut wrong = None;
    if !short.is_empty() {
        let quote = |text: &str| if text.contains('\'') { format!("{text:?}") } else { format!("'{text}'") };
        let (policy, path) = (policy.display(), path.display());
        whole.push(format!("it was {outcome}"));
        whole.push(format!("why: protocg explain {policy} {path} --case {}", quote(&case.name)));
        wrong = Some((short.join("; "), whole.join("\n")));
    }
    Ok(Done { name: case.name.clone(), wrong, by: outcome.by })
}

fn show(done: &Done, path: &Path, line: usize, quiet: bool, out: &mut dyn Write) -> io::Result<()> {
    match &done.wrong {
        None if quiet => Ok(()),
        None => writeln!(out, "ok    {}", done.name),
        Some((_, whole)) => {
            writeln!(out, "FAIL  {} ({}:{line})", done.name, path.display())?;
            whole.lines().try_for_each(|line| writeln!(out, "        {line}"))
        }
    }
}

/// Says which rules decided no case: what is not tested may be wrong.
fn unreached<'a>(study: &Study, done: impl Iterator<Item = &'a Done>, out: &mut dyn Write) -> io::Result<()> {
    let reached: HashSet<&str> =
        done.filter_map(|one| if let By::Rule(name) = &one.by { Some(name.as_str()) } else { None }).collect();
    let rules = study.policy.rules.iter().filter(|rule| !rule.audit).map(|rule| rule.name.as_str());
    let left: Vec<String> = rules.filter(|name| !reached.contains(name)).map(|name| format!("`{name}`")).collect();
    if left.is_empty() { Ok(()) } else { writeln!(out, "no case is decided by {}", left.join(", ")) }
}

fn write_junit(path: &Path, policy: &str, suites: &[(String, Vec<Done>)]) -> Result<(), Failure> {
    let suites: Vec<junit::Suite<'_>> = suites
        .iter()
        .map(|(name, done)| junit::Suite {
            name: name.clone(),
            policy,
            cases: done
                .iter()
                .map(|one| {
                    let wrong = one.wrong.as_ref().map(|(short, whole)| (short.as_str(), whole.as_str()));
                    (one.name.as_str(), wrong)
                })
                .collect(),
        })
        .collect();
    let failed = |e: String| Failure::new(Exit::Failed, miette!("cannot write `{}`: {e}", path.display()));
    let file = File::create(path).map_err(|e| failed(e.to_string()))?;
    junit::write(&suites, file).map_err(|e| failed(e.to_string()))
}

/// A reader that has gone needs no more words.
pub(super) fn unwritten(error: io::Error) -> Failure {
    Failure::new(Exit::Failed, miette!("cannot write the report: {error}"))
}
