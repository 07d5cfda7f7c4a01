//! Results as Markdown.

use std::fmt::Write;

use super::targets;
use crate::arms::{AGAIN, BASE};
use crate::load::Outcome;
use crate::results::{ArmResult, KernelTime, LoadResult, Results, SeedResult, machine, processes, throughput};
use crate::seed::CALLS;
use crate::stats::Spread;

/// Everything, as a part of a page.
#[must_use]
pub fn markdown(results: &Results) -> String {
    let mut out = String::new();
    // A String takes whatever is written.
    let _ = write_all(&mut out, results);
    out
}

fn write_all(out: &mut String, results: &Results) -> std::fmt::Result {
    let c = &results.conditions;
    writeln!(
        out,
        "\n`{}`, {}, revision {}; Linux {}, {}. {} rounds of {} s for each arm under each load; others kept {:.2} ({:.2} to {:.2}) \
         processors busy while this program slept. {}.\n",
        c.command,
        c.date,
        c.revision,
        c.kernel,
        c.processors,
        c.rounds,
        c.seconds,
        c.others.median,
        c.others.min,
        c.others.max,
        c.proxies.join("; ")
    )?;
    if !results.loads.is_empty() || !results.starts.is_empty() {
        targets_table(out, results)?;
    }
    for load in &results.loads {
        load_table(out, load)?;
    }
    if !results.seed.is_empty() {
        seed_table(out, &results.seed)?;
    }
    if !results.shapes.is_empty() {
        writeln!(out, "### The engine over fixed traffic (BPF_PROG_TEST_RUN)\n")?;
        writeln!(out, "| a call with | bytes | ns | least..most | ns a KiB |\n|---|---|---|---|---|")?;
        for s in &results.shapes {
            let kib = s.ns.median / (s.bytes as f64 / 1024.0);
            writeln!(
                out,
                "| {} | {} | {:.0} | {:.0}..{:.0} | {kib:.0} |",
                s.name, s.bytes, s.ns.median, s.ns.min, s.ns.max
            )?;
        }
        writeln!(out)?;
    }
    if !results.starts.is_empty() {
        writeln!(out, "### Starting\n")?;
        writeln!(
            out,
            "| policy | compiled in | start to enforcing | agent's memory, at most | maps |\n|---|---|---|---|---|"
        )?;
        for s in &results.starts {
            writeln!(
                out,
                "| {} | {} ms | {} ms | {} | {} |",
                s.policy,
                spread(s.compile_ms, 1),
                spread(s.start_ms, 0),
                mib(s.agent),
                mib(s.maps)
            )?;
        }
        writeln!(out)?;
    }
    Ok(())
}

fn targets_table(out: &mut String, results: &Results) -> std::fmt::Result {
    writeln!(out, "### Targets\n")?;
    writeln!(out, "| | is | is to be | two equal arms differ by | |\n|---|---|---|---|---|")?;
    for t in targets::all(results) {
        let noise = t.noise.map_or_else(String::new, |n| format!("{n:.2}"));
        writeln!(out, "| {} | {} | {} {} | {noise} | {} |", t.what, t.is, t.sign(), t.limit, t.verdict())?;
    }
    writeln!(out)
}

fn load_table(out: &mut String, load: &LoadResult) -> std::fmt::Result {
    writeln!(out, "### {}\n", load.load.name)?;
    if let (Some(rate), Some(cpu), Some(p50)) =
        (load.figure(BASE, throughput), load.figure(BASE, machine), load.figure(BASE, |o| o.p50))
    {
        writeln!(
            out,
            "Unenforced: {:.0} calls a second, {:.1} µs of the machine's processors a call, p50 {:.0} µs. Ratios to that, round by round: \
             median, least and most.\n",
            rate.median, cpu.median, p50.median
        )?;
    }
    writeln!(
        out,
        "| arm | calls a second | CPU a call, machine | CPU a call, processes | p50 | p99 | p99.9 | kernel, ns a call | memory | denied |"
    )?;
    writeln!(out, "|---|---|---|---|---|---|---|---|---|---|")?;
    for arm in load.arms.iter().filter(|a| a.arm != BASE) {
        if let Some(why) = &arm.cannot {
            if why != "two loads only" {
                writeln!(out, "| {} | {why} | | | | | | | | |", arm.arm)?;
            }
            continue;
        }
        let ratio = |figure: fn(&Outcome) -> f64| load.ratio(&arm.arm, BASE, figure);
        let cells = [
            ratio(throughput),
            ratio(machine),
            ratio(processes),
            ratio(|o| o.p50),
            ratio(|o| o.p99),
            ratio(|o| o.p999),
        ];
        let cells: Vec<String> = cells.into_iter().map(|s| s.map_or_else(String::new, |s| spread(s, 2))).collect();
        let kernel = |figure: fn(&KernelTime) -> f64| Spread::of(arm.kernel.iter().map(figure));
        let kernel = match (kernel(KernelTime::ns), kernel(KernelTime::runs)) {
            (Some(ns), Some(runs)) => format!("{} in {:.1} runs", spread(ns, 0), runs.median),
            _ => String::new(),
        };
        let memory = arm.memory.map_or_else(String::new, mib);
        writeln!(out, "| {} | {} | {kernel} | {memory} | {} |", arm.arm, cells.join(" | "), answers(arm))?;
    }
    writeln!(out)
}

/// The share of denied calls, and of those that got no answer of either kind.
fn answers(arm: &ArmResult) -> String {
    let sum = |count: fn(&Outcome) -> u64| arm.rounds.iter().map(count).sum::<u64>();
    let all = sum(Outcome::calls).max(1) as f64;
    let mut text = format!("{:.1} %", sum(|o| o.denied) as f64 / all * 100.0);
    let failed = sum(|o| o.failed);
    if failed > 0 {
        // A String takes whatever is written.
        let _ = write!(text, ", **{:.2} % failed**", failed as f64 / all * 100.0);
    }
    text
}

fn seed_table(out: &mut String, seed: &[SeedResult]) -> std::fmt::Result {
    writeln!(out, "### {CALLS} queries to a search server in Python, a share of which contains an A\n")?;
    writeln!(
        out,
        "Processor time in ms, all {CALLS} queries; every answer was as it should be. The oracle sends \
         the allowed queries only. The score is (inline - protocg) / (inline - oracle): 1 is what cannot be beaten, 0 is the server's own check.\n"
    )?;
    writeln!(
        out,
        "| at once | denied | time of | checked inline | protocg | oracle | µs a denial, inline | µs a denial, protocg | score |"
    )?;
    writeln!(out, "|---|---|---|---|---|---|---|---|---|")?;
    for s in seed {
        seed_row(out, s, "the machine", |o| o.used.machine as f64 / 1e6)?;
        seed_row(out, s, "client, server, agent", |o| (o.used.client + o.used.server + o.used.enforcer) as f64 / 1e6)?;
    }
    writeln!(out)
}

fn seed_row(out: &mut String, s: &SeedResult, of: &str, ms: fn(&Outcome) -> f64) -> std::fmt::Result {
    let [inline, protocg, oracle] =
        [&s.inline, &s.protocg, &s.oracle].map(|rounds| Spread::of(rounds.iter().map(ms)).unwrap_or_default());
    let denied = (CALLS * s.denied / 1000) as f64;
    let each = |way: Spread| match s.denied {
        0 => "-".to_owned(),
        _ => format!("{:.0}", (way.median - oracle.median) / denied * 1000.0),
    };
    // without a denial there is nothing to win: what the enforcer adds is said
    let score = match s.denied {
        0 => format!("{:+.1} µs a query", (protocg.median - inline.median) / CALLS as f64 * 1000.0),
        _ => format!("**{:.2}**", (inline.median - protocg.median) / (inline.median - oracle.median)),
    };
    let [a, b, c] = [inline, protocg, oracle].map(|s| spread(s, 0));
    let (x, y) = (each(inline), each(protocg));
    writeln!(out, "| {} | {} % | {of} | {a} | {b} | {c} | {x} | {y} | {score} |", s.streams, s.denied / 10)
}

/// A median with its bounds.
pub(super) fn spread(s: Spread, digits: usize) -> String {
    format!("{:.digits$} ({:.digits$}..{:.digits$})", s.median, s.min, s.max)
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// The noise of a figure under a load: by how much two equal arms differed at most.
pub(super) fn noise(load: &LoadResult, figure: fn(&Outcome) -> f64) -> Option<f64> {
    load.ratio(AGAIN, BASE, figure).map(|s| s.noise())
}
