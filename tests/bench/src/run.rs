//! `pg-bench run`: everything, in order, and what is written.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use clap::{Args, ValueEnum};
use protocg_peers::harness;

use crate::cpu::{self, Watch};
use crate::proxies;
use crate::report;
use crate::results::{Conditions, Results};
use crate::rounds::{self, Extent};
use crate::stats::Spread;
use crate::{seed, shapes, starts};

/// `pg-bench run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Every load and arm, and longer
    #[arg(long)]
    full: bool,
    /// Rounds of each arm under each load; default: 5, with --full 7
    #[arg(long)]
    rounds: Option<usize>,
    /// Milliseconds of a round; default: 700, with --full 2000
    #[arg(long)]
    ms: Option<u64>,
    /// Only these parts
    #[arg(long, value_enum, value_delimiter = ',')]
    parts: Vec<Part>,
    /// Only loads with this in their names
    #[arg(long, default_value = "")]
    load: String,
    /// Only arms with this in their names, beside the unenforced one
    #[arg(long, default_value = "")]
    arm: String,
    /// The command to say in the report
    #[arg(long, default_value = "make bench")]
    command: String,
    /// Where to write to: this, with .json, .svg and .md; nowhere if it is left out
    #[arg(long)]
    out: Option<PathBuf>,
}

/// `pg-bench report`.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// As of `run`
    #[arg(long, default_value = "docs/benchmarks")]
    out: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Loads,
    Seed,
    Shapes,
    Starts,
}

/// Measures and writes.
pub fn run(args: &RunArgs) -> Result<()> {
    harness::possible().map_err(|why| anyhow!(why))?;
    cpu::pin(0, cpu::CLIENT)?;
    let extent = Extent {
        full: args.full,
        rounds: args.rounds.unwrap_or(if args.full { 7 } else { 5 }),
        round: Duration::from_millis(args.ms.unwrap_or(if args.full { 2000 } else { 700 })),
        warm: Duration::from_millis(150),
    };
    let wanted = |part| args.parts.is_empty() || args.parts.contains(&part);
    let mut results = Results { conditions: conditions(args, extent)?, ..Results::default() };
    let start = Instant::now();
    let step = |what: &str| eprintln!("[{:4} s] {what}", start.elapsed().as_secs());
    let mut failed = Vec::new();
    if wanted(Part::Shapes) {
        step("the engine over fixed traffic");
        // on another thread: it goes to another processor
        let blocks = if args.full { 60 } else { 20 };
        let shapes = std::thread::spawn(move || shapes::run(blocks, ""));
        results.shapes = keep(shapes.join().map_err(|_| anyhow!("the shapes panicked"))?, &mut failed);
    }
    if wanted(Part::Starts) {
        step("starts");
        results.starts = keep(starts::run(if args.full { 9 } else { 5 }, args.full), &mut failed);
    }
    if wanted(Part::Loads) {
        step("loads");
        results.loads = keep(rounds::run(extent, &args.load, &args.arm), &mut failed);
    }
    if wanted(Part::Seed) {
        step("the search server");
        results.seed = keep(seed::run(extent.rounds, if args.full { &[1, 16] } else { &[16] }), &mut failed);
    }
    step("done");
    if let Some(out) = &args.out {
        std::fs::write(out.with_extension("json"), serde_json::to_string_pretty(&results)? + "\n")?;
        write(&results, out)?;
    }
    print!("{}", report::markdown(&results));
    ensure!(failed.is_empty(), "not all could be measured: {}", failed.join("; "));
    Ok(())
}

/// What was measured; if nothing could be, the rest goes on.
fn keep<T>(result: Result<Vec<T>>, failed: &mut Vec<String>) -> Vec<T> {
    result.unwrap_or_else(|error| {
        eprintln!("  {error:#}");
        failed.push(format!("{error:#}"));
        Vec::new()
    })
}

/// Writes once more what a run has found out.
pub fn report(args: &ReportArgs) -> Result<()> {
    let file = args.out.with_extension("json");
    let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    write(&serde_json::from_str(&text)?, &args.out)
}

fn write(results: &Results, out: &Path) -> Result<()> {
    std::fs::write(out.with_extension("svg"), report::plot(results))?;
    let file = out.with_extension("md");
    let page = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    std::fs::write(&file, report::into_page(&page, &report::markdown(results))?)?;
    Ok(())
}

fn conditions(args: &RunArgs, extent: Extent) -> Result<Conditions> {
    let said = |command: &str, arguments: &[&str]| {
        let output = Command::new(command).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let revision = said("git", &["describe", "--always", "--dirty"]).unwrap_or_default();
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|l| l.strip_prefix("model name")?.split(": ").nth(1)).unwrap_or("?");
    Ok(Conditions {
        command: args.command.clone(),
        date: said("date", &["-u", "+%Y-%m-%d %H:%M UTC"]).unwrap_or_default(),
        revision,
        kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
        processors: format!("{} x {model}", cpu::count()),
        proxies: proxies::versions().to_vec(),
        rounds: extent.rounds,
        seconds: extent.round.as_secs_f64(),
        others: others()?,
    })
}

/// What keeps the processors busy while this program sleeps.
fn others() -> Result<Spread> {
    let watch = Watch::default();
    let mut found = Vec::new();
    for _ in 0..5 {
        let (before, start) = (watch.sample()?, Instant::now());
        std::thread::sleep(Duration::from_millis(400));
        let used = watch.sample()?.since(&before);
        found.push(used.machine as f64 / start.elapsed().as_nanos() as f64);
    }
    Spread::of(found).context("nothing was measured")
}
