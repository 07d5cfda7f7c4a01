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

fn main() -> Result<()> {
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
