//! Results as a picture: processor time a call, of the whole machine, as ratios to unenforced on a logarithmic axis.

use std::fmt::Write;

use crate::arms::BASE;
use crate::results::{Results, machine};

const WIDTH: f64 = 960.0;
const LEFT: f64 = 250.0;
const RIGHT: f64 = 70.0;
const ROW: f64 = 18.0;
const LEAST: f64 = 0.5;
const MOST: f64 = 32.0;

/// The plot as SVG.
#[must_use]
pub fn plot(results: &Results) -> String {
    let mut body = String::new();
    let mut y = 54.0;
    let _ = rows(&mut body, results, &mut y);
    let height = y + 10.0;
    let mut out = String::new();
    // A String takes whatever is written.
    let _ = writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"12\" y=\"22\" font-size=\"15\" font-weight=\"bold\">Processor time a call, whole machine, beside unenforced (log)</text>"
    );
    let _ = axis(&mut out, height);
    out + &body + "</svg>\n"
}

fn at(ratio: f64) -> f64 {
    let share = (ratio.clamp(LEAST, MOST) / LEAST).log2() / (MOST / LEAST).log2();
    LEFT + share * (WIDTH - LEFT - RIGHT)
}

fn axis(out: &mut String, height: f64) -> std::fmt::Result {
    for tick in [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0] {
        let (x, colour) = (at(tick), if tick == 1.0 { "#333333" } else { "#dddddd" });
        writeln!(out, "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"42\" y2=\"{height:.0}\" stroke=\"{colour}\"/>")?;
        writeln!(out, "<text x=\"{x:.1}\" y=\"38\" text-anchor=\"middle\" fill=\"#555555\">{tick}</text>")?;
    }
    Ok(())
}

fn rows(out: &mut String, results: &Results, y: &mut f64) -> std::fmt::Result {
    for load in &results.loads {
        *y += ROW;
        writeln!(out, "<text x=\"12\" y=\"{:.0}\" font-weight=\"bold\">{}</text>", *y, escape(&load.load.name))?;
        for arm in load.arms.iter().filter(|a| a.arm != BASE) {
            let Some(ratio) = load.ratio(&arm.arm, BASE, machine) else { continue };
            *y += ROW;
            let colour = match arm.arm.as_str() {
                name if name.starts_with("protocg") => "#1f77b4",
                name if name.starts_with("Envoy") => "#d62728",
                name if name.starts_with("HAProxy") => "#ff7f0e",
                _ => "#7f7f7f",
            };
            let (one, end) = (at(1.0), at(ratio.median));
            let (x, width) = (one.min(end), (end - one).abs().max(1.0));
            writeln!(
                out,
                "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{}</text>",
                LEFT - 8.0,
                *y,
                escape(&arm.arm)
            )?;
            writeln!(
                out,
                "<rect x=\"{x:.1}\" y=\"{:.0}\" width=\"{width:.1}\" height=\"12\" fill=\"{colour}\"/>",
                *y - 11.0
            )?;
            let (low, high, middle) = (at(ratio.min), at(ratio.max), *y - 5.0);
            writeln!(
                out,
                "<line x1=\"{low:.1}\" x2=\"{high:.1}\" y1=\"{middle:.0}\" y2=\"{middle:.0}\" stroke=\"#000000\"/>"
            )?;
            let beside = high.max(end).max(one) + 6.0;
            writeln!(out, "<text x=\"{beside:.1}\" y=\"{:.0}\" fill=\"#333333\">{:.2}</text>", *y, ratio.median)?;
        }
        *y += ROW / 2.0;
    }
    Ok(())
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
