//! Draws a replay as SVG: hit rate against the bound, throughput, latency distributions.

mod panel;
mod scale;

use std::fmt::Write as _;

use crate::report::{Report, SeriesPoint};
pub use panel::{Curve, Panel};
pub use scale::Scale;

const WIDTH: f64 = 960.0;
const HEADER: f64 = 100.0;
/// The shortest part of a second that is drawn.
const SHORTEST_STEP_S: f64 = 0.5;
/// Letters of the title that fit.
const TITLE_LETTERS: usize = 72;
const PANEL_HEIGHT: f64 = 300.0;

/// Colours that people with any colour vision tell apart (Okabe and Ito, 2008).
pub mod colours {
    /// For what the picture is about.
    pub const VERMILION: &str = "#d55e00";
    /// For the first comparison.
    pub const BLUE: &str = "#0072b2";
    /// For a curve among several.
    pub const GREEN: &str = "#009e73";
    /// For a curve among several.
    pub const PURPLE: &str = "#aa4499";
    /// For what is close to the first.
    pub const ORANGE: &str = "#e69f00";
    /// For limits.
    pub const GREY: &str = "#6b7280";
}
use colours::{BLUE, GREEN, GREY, ORANGE, PURPLE, VERMILION};

/// The report as one SVG picture.
pub fn render(report: &Report) -> String {
    let mut name: String = report.workload.chars().take(TITLE_LETTERS).collect();
    if name.len() < report.workload.len() {
        name.push('…');
    }
    let panels = [hit_rate(report), throughput(report), latency(report)];
    picture(&format!("Replay: {name}"), &subtitle(report), &panels)
}

/// One SVG picture: a title, two lines below it, and panels one under the other.
pub fn picture(title: &str, lines: &[String; 2], panels: &[Panel]) -> String {
    let height = HEADER + PANEL_HEIGHT * panels.len() as f64 + 8.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\" font-family=\"Inter, 'Segoe UI', 'Helvetica Neue', 'DejaVu Sans', Arial, sans-serif\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    );
    let mut text = |y: u32, style: &str, text: &str| {
        let _ = writeln!(svg, "<text x=\"28\" y=\"{y}\" {style}>{}</text>", escape(text));
    };
    text(38, "font-size=\"20\" font-weight=\"600\" fill=\"#111827\"", title);
    for (y, line) in [62, 80].into_iter().zip(lines) {
        text(y, "font-size=\"13\" fill=\"#4b5563\"", line);
    }
    for (index, panel) in panels.iter().enumerate() {
        panel.draw(&mut svg, HEADER + PANEL_HEIGHT * index as f64, WIDTH, PANEL_HEIGHT);
    }
    svg.push_str("</svg>\n");
    svg
}

fn subtitle(report: &Report) -> [String; 2] {
    let wrong = match report.total.wrong_blocks {
        0 => "every byte right".to_owned(),
        wrong => format!("{wrong} BLOCKS WITH WRONG BYTES"),
    };
    let setting = format!(
        "{} requests in {:.1} s, {} sessions at a time on {} worker(s), blocks of {} bytes",
        report.total.requests,
        report.elapsed_s,
        report.concurrency,
        report.workers.len(),
        report.block_bytes,
    );
    let found = format!(
        "hit {:.2}% of blocks, an infinite cache {:.2}%; read {:.1} GB, wrote {:.1} GB; {wrong}",
        report.hit_rate_percent,
        report.bound_percent,
        report.total.bytes_read as f64 / 1e9,
        report.total.bytes_written as f64 / 1e9,
    );
    [setting, found]
}

/// A step for each second in which there is a value: it holds for the second, not for its end. A
/// short rest at the end is left out, because its rate says little.
fn course(report: &Report, value: impl Fn(&SeriesPoint) -> Option<f64>) -> Vec<(f64, f64)> {
    let step = |(index, point): (usize, &SeriesPoint)| {
        let begins = index as f64;
        let drawn = index == 0 || point.at_s - begins >= SHORTEST_STEP_S;
        value(point).filter(|_| drawn).map(|value| [(begins, value), (point.at_s, value)])
    };
    report.series.iter().enumerate().filter_map(step).flatten().collect()
}

fn hit_rate(report: &Report) -> Panel {
    let bound = course(report, |point| point.bound_percent);
    let hit = course(report, |point| point.hit_rate_percent);
    let lowest = bound.iter().chain(&hit).map(|point| point.1).fold(100.0, f64::min);
    let floor = (((lowest - 1.0) / 10.0).floor() * 10.0).max(0.0);
    Panel {
        title: "Blocks found in the store".into(),
        x_label: "seconds since the start",
        y_label: "hit rate, %",
        x: Scale::linear(0.0, report.elapsed_s),
        y: Scale::linear_exact(floor, 100.0),
        curves: vec![
            Curve { name: "this store", colour: VERMILION, dashed: false, points: hit },
            // Last, so that its dashes are seen where both agree.
            Curve { name: "infinite cache", colour: GREY, dashed: true, points: bound },
        ],
    }
}

fn throughput(report: &Report) -> Panel {
    let get = course(report, |point| Some(point.get_gb_per_s));
    let put = course(report, |point| Some(point.put_gb_per_s));
    let highest = get.iter().chain(&put).map(|point| point.1).fold(0.0, f64::max);
    Panel {
        title: "Throughput".into(),
        x_label: "seconds since the start",
        y_label: "GB/s",
        x: Scale::linear(0.0, report.elapsed_s),
        y: Scale::linear(0.0, highest),
        curves: vec![
            Curve { name: "get", colour: BLUE, dashed: false, points: get },
            Curve { name: "put", colour: ORANGE, dashed: false, points: put },
        ],
    }
}

fn latency(report: &Report) -> Panel {
    let colours = [GREEN, BLUE, PURPLE, ORANGE, VERMILION];
    let points = || report.curves.iter().flat_map(|curve| &curve.points).map(|point| point.0);
    let shortest = points().filter(|ms| *ms > 0.0).fold(f64::INFINITY, f64::min);
    let longest = points().fold(0.0, f64::max);
    let drawn = report.curves.iter().zip(colours).filter(|(curve, _)| !curve.points.is_empty());
    let percent = |points: &[(f64, f64)]| points.iter().map(|&(ms, share)| (ms, 100.0 * share)).collect();
    Panel {
        title: "Latency".into(),
        x_label: "milliseconds, logarithmic",
        y_label: "% that took no longer",
        x: Scale::logarithmic(shortest, longest),
        y: Scale::linear_exact(0.0, 100.0),
        curves: drawn
            .map(|(curve, colour)| Curve {
                name: curve.name,
                colour,
                dashed: curve.name.starts_with("put"),
                points: percent(&curve.points),
            })
            .collect(),
    }
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            control if control.is_control() => escaped.push(' '),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_break_out_of_the_picture() {
        assert_eq!(escape("<a b=\"c\">&\u{1}"), "&lt;a b=&quot;c&quot;&gt;&amp; ");
    }
}
