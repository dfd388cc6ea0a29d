//! The first row as a picture: what a call costs without a line, and what the line adds.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};

use crate::compare::Comparison;
use crate::compare::rounds::Found;
use crate::compare::rows::DEFAULT;
use crate::compare::statistics::median;
use crate::compare::subject::Variant;

const WIDTH: f64 = 760.0;
const LABELS: f64 = 150.0;
/// Room for the figures at the end of a bar.
const FIGURES: f64 = 150.0;
const TOP: f64 = 64.0;
const BAR: f64 = 26.0;
const STEP: f64 = 44.0;
const FOOT: f64 = 46.0;
/// Without a line, and the line.
const COLOURS: [&str; 2] = ["#9db4c8", "#d1582f"];
const FONT: &str = "DejaVu Sans, Verdana, sans-serif";

/// The bars, from the top: a label, and who writes.
const BARS: [(&str, Variant); 5] = [
    ("nginx", Variant::NGINX_ON),
    ("HAProxy", Variant::HAPROXY_ON),
    ("Envoy", Variant::ENVOY_ON),
    ("calltap, tcp_info", Variant::TCP_INFO),
    ("calltap", Variant::ON),
];

/// Writes the picture beside `page`, as SVG and, where `rsvg-convert` is installed, as PNG.
pub fn write(page: &Path, comparison: &Comparison) -> anyhow::Result<Vec<PathBuf>> {
    let Some(row) = comparison.row(DEFAULT) else {
        return Ok(Vec::new());
    };
    let svg = page.with_extension("svg");
    let caption = format!("{}, {}", comparison.date, comparison.machine);
    fs::write(&svg, draw(row, &caption)).with_context(|| svg.display().to_string())?;
    let png = page.with_extension("png");
    let mut command = Command::new("rsvg-convert");
    command
        .args(["--zoom", "2", "--output"])
        .arg(&png)
        .arg(&svg);
    match command.output() {
        Ok(output) => {
            ensure!(
                output.status.success(),
                "rsvg-convert: {}",
                String::from_utf8_lossy(&output.stderr)
            );
            Ok(vec![svg, png])
        }
        Err(error) => {
            eprintln!("SKIPPED: no PNG: cannot run rsvg-convert (Debian: librsvg2-bin): {error}");
            // An old one would show other figures than the page beside it.
            let _ = fs::remove_file(png);
            Ok(vec![svg])
        }
    }
}

/// One bar, µs per call.
struct Bar {
    label: &'static str,
    without: f64,
    added: f64,
}

fn draw(row: &Found, caption: &str) -> String {
    let bars: Vec<Bar> = BARS
        .iter()
        .filter_map(|(label, variant)| {
            let without = row.cost_us(variant.base()?);
            let added = row.added_us(*variant);
            (!added.is_empty()).then(|| Bar {
                label,
                without: median(&without),
                // Less than nothing cannot be drawn; the figure beside it says so.
                added: median(&added),
            })
        })
        .collect();
    let longest = bars
        .iter()
        .map(|bar| bar.without + bar.added.max(0.0))
        .fold(1.0, f64::max);
    let scale = (WIDTH - LABELS - FIGURES) / longest;
    let height = TOP + STEP * bars.len() as f64 + FOOT;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" font-family=\"{FONT}\" font-size=\"14\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
    );
    text(
        &mut svg,
        (16.0, 24.0),
        "font-weight=\"bold\"",
        "CPU time per call, µs: without a log line, and what the line adds",
    );
    let key = ["nothing written", "its line or record"];
    for (at, (colour, words)) in COLOURS.iter().zip(key).enumerate() {
        let x = LABELS + 160.0 * at as f64;
        rect(&mut svg, (x, 36.0), (12.0, 12.0), colour);
        text(&mut svg, (x + 18.0, 47.0), "font-size=\"12\"", words);
    }
    for (at, bar) in bars.iter().enumerate() {
        let y = TOP + STEP * at as f64;
        let middle = y + BAR / 2.0 + 5.0;
        let anchor = "text-anchor=\"end\"";
        text(&mut svg, (LABELS - 10.0, middle), anchor, bar.label);
        let (without, added) = (bar.without * scale, bar.added.max(0.0) * scale);
        rect(&mut svg, (LABELS, y), (without, BAR), COLOURS[0]);
        rect(&mut svg, (LABELS + without, y), (added, BAR), COLOURS[1]);
        let figures = format!("{:.1} {:+.1}", bar.without, bar.added);
        text(
            &mut svg,
            (LABELS + without + added + 10.0, middle),
            "",
            &figures,
        );
    }
    let foot = "font-size=\"11\" fill=\"#555555\"";
    text(&mut svg, (16.0, height - 16.0), foot, caption);
    svg + "</svg>\n"
}

fn rect(svg: &mut String, (x, y): (f64, f64), (width, height): (f64, f64), colour: &str) {
    let _ = writeln!(
        svg,
        "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" \
         fill=\"{colour}\"/>"
    );
}

fn text(svg: &mut String, (x, y): (f64, f64), how: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" {how}>{words}</text>");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::rounds::Cell;

    #[test]
    fn a_bar_is_as_long_as_its_figure() {
        let cell = |variant, us| Cell {
            used_us: vec![us; 6],
            ..Cell::new(variant)
        };
        let row = Found {
            row: DEFAULT,
            cells: vec![
                cell(Variant::NGINX_OFF, 10.0),
                cell(Variant::NGINX_ON, 15.0),
                cell(Variant::OFF, 20.0),
                cell(Variant::ON, 40.0),
            ],
            programs: Vec::new(),
        };
        let svg = draw(&row, "2026-01-02, a <machine>");
        // 460 points are 40 µs.
        for width in ["115.0", "57.5", "230.0"] {
            assert!(
                svg.contains(&format!("width=\"{width}\"")),
                "{width}: {svg}"
            );
        }
        assert!(svg.contains(">10.0 +5.0<") && svg.contains(">20.0 +20.0<"));
        assert!(svg.contains("a &lt;machine>"));
        assert!(!svg.contains("HAProxy"));
    }
}
