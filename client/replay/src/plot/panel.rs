//! One set of axes with its curves, title and legend.

use std::borrow::Cow;
use std::fmt::Write as _;

use super::escape;
use super::scale::Scale;

const LEFT: f64 = 84.0;
const RIGHT: f64 = 28.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 54.0;
/// About the width of a letter of the legend, in pixels: there is no font to measure with.
const LETTER: f64 = 6.6;
/// The same for the title.
const TITLE_LETTER: f64 = 8.5;

/// A drawing with two axes.
pub struct Panel {
    /// What is shown.
    pub title: Cow<'static, str>,
    /// What runs to the right, with its unit.
    pub x_label: &'static str,
    /// What runs upwards, with its unit.
    pub y_label: &'static str,
    /// The axis to the right.
    pub x: Scale,
    /// The axis upwards.
    pub y: Scale,
    /// The lines, the last one on top.
    pub curves: Vec<Curve>,
}

/// A line through points.
pub struct Curve {
    /// What the legend calls it.
    pub name: &'static str,
    /// One of [`super::colours`].
    pub colour: &'static str,
    /// Whether the line is broken.
    pub dashed: bool,
    /// The points, in order.
    pub points: Vec<(f64, f64)>,
}

/// The rectangle between the axes, in pixels.
struct Area {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
}

impl Panel {
    /// Draws into the strip of `height` that begins at `y`.
    pub(super) fn draw(&self, svg: &mut String, y: f64, width: f64, height: f64) {
        let area = Area { left: LEFT, right: width - RIGHT, top: y + TOP, bottom: y + height - BOTTOM };
        let _ = writeln!(
            svg,
            "<text x=\"28\" y=\"{:.1}\" font-size=\"15\" font-weight=\"600\" fill=\"#111827\">{}</text>",
            y + 22.0,
            escape(&self.title)
        );
        self.draw_axes(svg, &area);
        // A legend that would run into the title goes below it.
        let fits = self.legend_width() + TITLE_LETTER * self.title.len() as f64 <= area.right - 28.0;
        self.draw_legend(svg, &area, y + if fits { 22.0 } else { 37.0 });
        for curve in &self.curves {
            self.draw_curve(svg, &area, curve);
        }
    }

    fn draw_axes(&self, svg: &mut String, area: &Area) {
        let Area { left, right, top, bottom } = *area;
        for value in self.x.minor_ticks() {
            let x = area.x(&self.x, value);
            line(svg, [x, top, x, bottom], "#f3f4f6", 1.0);
        }
        for (value, label) in self.x.ticks() {
            let x = area.x(&self.x, value);
            line(svg, [x, top, x, bottom], "#e5e7eb", 1.0);
            text(svg, [x, bottom + 18.0], "middle", &label);
        }
        for (value, label) in self.y.ticks() {
            let y = area.y(&self.y, value);
            line(svg, [left, y, right, y], "#e5e7eb", 1.0);
            text(svg, [left - 8.0, y + 4.0], "end", &label);
        }
        line(svg, [left, bottom, right, bottom], "#6b7280", 1.2);
        line(svg, [left, top, left, bottom], "#6b7280", 1.2);
        text(svg, [(left + right) / 2.0, bottom + 38.0], "middle", self.x_label);
        let (x, y) = (34.0, (top + bottom) / 2.0);
        let label = escape(self.y_label);
        let _ = writeln!(
            svg,
            "<text transform=\"translate({x:.1} {y:.1}) rotate(-90)\" font-size=\"12\" text-anchor=\"middle\" \
             fill=\"#374151\">{label}</text>"
        );
    }

    fn legend_width(&self) -> f64 {
        self.curves.iter().map(Curve::legend_width).sum()
    }

    /// The legend, in one row that ends at the right edge, level with the title.
    fn draw_legend(&self, svg: &mut String, area: &Area, y: f64) {
        let mut x = area.right + 18.0 - self.legend_width();
        for curve in &self.curves {
            let _ = writeln!(
                svg,
                "<path d=\"M{x:.1} {:.1}h20\" stroke=\"{}\" stroke-width=\"2.4\"{} fill=\"none\"/>",
                y - 4.0,
                curve.colour,
                dashes(curve)
            );
            text(svg, [x + 26.0, y], "start", curve.name);
            x += curve.legend_width();
        }
    }

    fn draw_curve(&self, svg: &mut String, area: &Area, curve: &Curve) {
        let place = |&(x, y): &(f64, f64)| (area.x(&self.x, x), area.y(&self.y, y));
        // A line through one point would not be seen.
        if let [point] = curve.points.as_slice() {
            let (x, y) = place(point);
            let _ = writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{}\"/>", curve.colour);
            return;
        }
        let mut path = String::new();
        for (index, point) in curve.points.iter().enumerate() {
            let (x, y) = place(point);
            let _ = write!(path, "{}{x:.1} {y:.1}", if index == 0 { 'M' } else { 'L' });
        }
        let _ = writeln!(
            svg,
            "<path d=\"{path}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\" stroke-linejoin=\"round\"{}/>",
            curve.colour,
            dashes(curve)
        );
    }
}

impl Curve {
    fn legend_width(&self) -> f64 {
        26.0 + LETTER * self.name.len() as f64 + 18.0
    }
}

impl Area {
    fn x(&self, scale: &Scale, value: f64) -> f64 {
        self.left + (self.right - self.left) * scale.place(value)
    }

    fn y(&self, scale: &Scale, value: f64) -> f64 {
        self.bottom - (self.bottom - self.top) * scale.place(value)
    }
}

fn dashes(curve: &Curve) -> &'static str {
    if curve.dashed { " stroke-dasharray=\"6 4\"" } else { "" }
}

fn line(svg: &mut String, [x1, y1, x2, y2]: [f64; 4], colour: &str, width: f64) {
    let _ = writeln!(
        svg,
        "<path d=\"M{x1:.1} {y1:.1}L{x2:.1} {y2:.1}\" stroke=\"{colour}\" stroke-width=\"{width}\"/>"
    );
}

fn text(svg: &mut String, [x, y]: [f64; 2], anchor: &str, label: &str) {
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"12\" text-anchor=\"{anchor}\" fill=\"#374151\">{}</text>",
        escape(label)
    );
}
