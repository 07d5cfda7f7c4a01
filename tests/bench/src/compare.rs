//! Two builds of the engine, in turn: is the newer one slower?
//!
//! Numbers of nanoseconds are worth nothing on another machine, nor on this one an hour later. So both builds run at the
//! same time, block by block, each first in every other pair; the median of the pairs' ratios is what counts, and only if
//! a second look finds it too.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::shapes::Said;
use crate::stats::Spread;

/// `pg-bench compare`.
#[derive(Debug, Args)]
pub struct CompareArgs {
    /// The older build's pg-bench
    #[arg(long)]
    base: PathBuf,
    /// What may be slower by how much, as a ratio
    #[arg(long, default_value_t = 1.10)]
    most: f64,
    /// Pairs of blocks for each shape
    #[arg(long, default_value_t = 40)]
    pairs: usize,
}

struct Build {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    shapes: Vec<Said>,
}

impl Build {
    fn start(binary: &Path) -> Result<Build> {
        let mut command = Command::new(binary);
        command.args(["shapes", "--serve"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start {}", binary.display()))?;
        let input = child.stdin.take().context("no input")?;
        let mut output = BufReader::new(child.stdout.take().context("no output")?);
        let mut line = String::new();
        output.read_line(&mut line)?;
        let shapes = serde_json::from_str(&line).with_context(|| format!("{} said `{line}`", binary.display()))?;
        Ok(Build { child, input, output, shapes })
    }

    fn block(&mut self, said: &Said) -> Result<f64> {
        let index = self.shapes.iter().position(|s| s == said).context("no such shape")?;
        writeln!(self.input, "{index}")?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        line.trim().parse().with_context(|| format!("a build said `{line}`"))
    }
}

impl Drop for Build {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Compares this build with an older one; an error if a shape takes too much longer.
pub fn run(args: &CompareArgs) -> Result<()> {
    let mut slower = Vec::new();
    println!("{:<26} {:>10} {:>10} {:>7} {:>14}", "ns a call", "base", "this", "ratio", "least..most");
    for look in 1..=2 {
        let (mut base, mut this) = (Build::start(&args.base)?, Build::start(&std::env::current_exe()?)?);
        let mut again = Vec::new();
        for said in this.shapes.clone() {
            if look == 2 && !slower.contains(&said) {
                continue;
            }
            if !base.shapes.contains(&said) {
                println!("{:<26} the base does not have it", said.name);
                continue;
            }
            let ratio = pairs(&mut base, &mut this, &said, args.pairs)?;
            if ratio > args.most {
                again.push(said);
            }
        }
        slower = again;
        if slower.is_empty() {
            return Ok(());
        }
        // where in memory a program lies makes a few percent: it is loaded anew
        println!("slower by more than {:.0} %: {}", (args.most - 1.0) * 100.0, names(&slower));
    }
    bail!("twice slower than the base by more than {:.0} %: {}", (args.most - 1.0) * 100.0, names(&slower))
}

fn names(shapes: &[Said]) -> String {
    shapes.iter().map(|s| s.name.as_str()).collect::<Vec<_>>().join(", ")
}

fn pairs(base: &mut Build, this: &mut Build, said: &Said, count: usize) -> Result<f64> {
    let (mut older, mut newer) = (Vec::new(), Vec::new());
    base.block(said)?;
    this.block(said)?;
    for pair in 0..count {
        if pair % 2 == 0 {
            older.push(base.block(said)?);
            newer.push(this.block(said)?);
        } else {
            newer.push(this.block(said)?);
            older.push(base.block(said)?);
        }
    }
    let ratio = Spread::of(newer.iter().zip(&older).map(|(n, o)| n / o)).context("no pairs")?;
    let [o, n] = [older, newer].map(|v| Spread::of(v).map_or(0.0, |s| s.median));
    println!("{:<26} {o:>10.0} {n:>10.0} {:>7.3} {:>6.3}..{:.3}", said.name, ratio.median, ratio.min, ratio.max);
    Ok(ratio.median)
}
