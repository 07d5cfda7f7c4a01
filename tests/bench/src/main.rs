//! `pg-bench`: protocg beside what users run today. One load, many enforcers, in turn.

mod arms;
mod bpf;
mod compare;
mod cpu;
mod load;
mod policies;
mod proxies;
mod report;
mod results;
mod rounds;
mod run;
mod seed;
mod serve;
mod shapes;
mod starts;
mod stats;

use anyhow::Result;
use clap::{Parser, Subcommand};
use nix::libc;

/// Measures protocg beside what users run today
#[derive(Debug, Parser)]
#[command(name = "pg-bench")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Everything; writes docs/benchmarks.json, .svg and the tables of .md
    Run(run::RunArgs),
    /// The tables and the plot once more, from the JSON
    Report(run::ReportArgs),
    /// The engine over fixed traffic
    Shapes {
        /// Run a block of the shape whose number is read, for `compare`
        #[arg(long)]
        serve: bool,
        /// Blocks of each shape
        #[arg(long, default_value_t = 20)]
        blocks: usize,
        /// Only shapes with this in their names
        #[arg(long, default_value = "")]
        only: String,
    },
    /// The engine over fixed traffic, beside an older build's
    Compare(compare::CompareArgs),
    /// The server that is measured
    #[command(hide = true)]
    Serve(serve::ServeArgs),
}

/// Makes malloc keep what is freed. Else glibc gives the memory of a large message back and asks for it again with every call,
/// or never, as the heap of a process happens to lie: two equal servers of 1 MiB messages differ by a factor of 2.7.
fn keep_memory() {
    for parameter in [libc::M_MMAP_THRESHOLD, libc::M_TRIM_THRESHOLD] {
        // SAFETY: it has no conditions. 32 MiB is the most that it takes for the first of the two.
        unsafe { libc::mallopt(parameter, 32 << 20) };
    }
}

fn main() -> Result<()> {
    keep_memory();
    match Cli::parse().command {
        Command::Run(args) => run::run(&args),
        Command::Report(args) => run::report(&args),
        Command::Shapes { serve: true, .. } => shapes::serve(),
        Command::Shapes { blocks, only, .. } => {
            for shape in shapes::run(blocks, &only)? {
                let ns = shape.ns;
                println!(
                    "{:<26} {:>8} B {:>9.0} ns {:>9.0}..{:.0}",
                    shape.name, shape.bytes, ns.median, ns.min, ns.max
                );
            }
            Ok(())
        }
        Command::Compare(args) => compare::run(&args),
        Command::Serve(args) => serve::run(args),
    }
}
