//! Plots as inline SVG. Colours and fonts come from the page's style, so that they follow its scheme.

use std::fmt::Write;

use super::text::{flops_rate, tick_duration};

/// Kinds of mark, one for each of what a plot tells apart by shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    Circle,
    Square,
    Triangle,
    Diamond,
}

impl Mark {
    pub const ALL: [Mark; 4] = [Mark::Circle, Mark::Square, Mark::Triangle, Mark::Diamond];

    /// Around a point.
    pub fn svg(self, x: f64, y: f64, class: &str, title: &str) -> String {
        let title = format!("<title>{}</title>", escape(title));
        let polygon = |points: [(f64, f64); 4]| {
            let points: Vec<_> = points
                .iter()
                .map(|(dx, dy)| format!("{:.1},{:.1}", x + dx, y + dy))
                .collect();
            format!(
                "<polygon points=\"{}\" class=\"{class}\">{title}</polygon>",
                points.join(" ")
            )
        };
        match self {
            Mark::Circle => format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.2\" class=\"{class}\">{title}</circle>"),
            Mark::Square => polygon([(-3.0, -3.0), (3.0, -3.0), (3.0, 3.0), (-3.0, 3.0)]),
            Mark::Triangle => polygon([(0.0, -4.0), (3.8, 2.8), (-3.8, 2.8), (-3.8, 2.8)]),
            Mark::Diamond => polygon([(0.0, -4.4), (4.4, 0.0), (0.0, 4.4), (-4.4, 0.0)]),
        }
    }
}

/// A value on both axes, and what to say about it.
#[derive(Clone, Debug)]
pub struct Point {
    pub x: f64,
    pub y: f64,
    pub title: String,
}

/// Points of a kind.
#[derive(Clone, Debug)]
pub struct Series {
    pub colour: usize,
    pub mark: Mark,
    /// The pattern of its line, one of the style's; 0 is a whole line.
    pub dashes: usize,
    pub points: Vec<Point>,
}

/// The class of a line's pattern.
pub fn dashes(pattern: usize) -> String {
    if pattern == 0 {
        String::new()
    } else {
        format!(" dash{pattern}")
    }
}

/// What an axis counts, which decides about its scale and its labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    /// Powers of two.
    Length,
    /// Seconds, logarithmic.
    Time,
    /// From 0 up.
    Percent,
    /// Operations for each byte, logarithmic.
    Intensity,
    /// Operations a second, logarithmic.
    Rate,
}

impl Axis {
    fn title(self) -> &'static str {
        match self {
            Axis::Length => "N",
            Axis::Time => "time",
            Axis::Percent => "% of ceiling",
            Axis::Intensity => "operations a byte",
            Axis::Rate => "operations a second",
        }
    }

    fn label(self, value: f64) -> String {
        match self {
            Axis::Length if value >= 1024.0 => format!("{}k", value / 1024.0),
            Axis::Length => format!("{value}"),
            Axis::Time => tick_duration(value),
            Axis::Percent => format!("{value}"),
            Axis::Intensity => format!("{value}"),
            Axis::Rate => flops_rate(value).replace("FLOP/s", "").replace(".0", ""),
        }
    }

    /// The range that shows these values, ends included.
    fn range(self, values: impl Iterator<Item = f64>) -> (f64, f64) {
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        match self {
            // All of the ceiling is in view, so that plots can be compared.
            Axis::Percent => (0.0, (high / 20.0).ceil().max(5.0) * 20.0),
            Axis::Length => (low / 1.2, high * 1.2),
            _ => (low / 1.5, high * 1.5),
        }
    }

    fn ticks(self, (low, high): (f64, f64)) -> Vec<f64> {
        match self {
            Axis::Percent => {
                let step = [5.0, 10.0, 20.0, 50.0, 100.0]
                    .into_iter()
                    .find(|s| high / s <= 6.0)
                    .unwrap_or((high / 600.0).ceil() * 100.0);
                (0..).map(|n| f64::from(n) * step).take_while(|t| *t <= high).collect()
            }
            Axis::Length => {
                let all: Vec<f64> = (0..40)
                    .map(|n| 2f64.powi(n))
                    .filter(|t| (low..=high).contains(t))
                    .collect();
                let step = all.len().div_ceil(8).max(1);
                all.into_iter().step_by(step).collect()
            }
            _ => {
                let decades = low.log10().floor() as i32..=high.log10().ceil() as i32;
                let finer = high / low < 200.0;
                let factors: &[f64] = if finer { &[1.0, 2.0, 5.0] } else { &[1.0] };
                let all = decades.flat_map(|d| factors.iter().map(move |f| f * 10f64.powi(d)));
                let all: Vec<f64> = all.filter(|t| (low..=high).contains(t)).collect();
                let step = all.len().div_ceil(8).max(1);
                all.into_iter().step_by(step).collect()
            }
        }
    }
}

/// From values to places on the page.
struct Scale {
    axis: Axis,
    range: (f64, f64),
    places: (f64, f64),
}

impl Scale {
    fn new(axis: Axis, values: impl Iterator<Item = f64>, places: (f64, f64)) -> Self {
        Scale {
            axis,
            range: axis.range(values),
            places,
        }
    }

    fn at(&self, value: f64) -> f64 {
        let of = |v: f64| if self.axis == Axis::Percent { v } else { v.ln() };
        let (low, high) = (of(self.range.0), of(self.range.1));
        self.places.0 + (of(value) - low) / (high - low) * (self.places.1 - self.places.0)
    }
}

/// The size of a plot, and the place of its frame.
struct Frame {
    width: f64,
    height: f64,
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
}

impl Frame {
    const fn new(width: f64, height: f64) -> Self {
        Frame {
            width,
            height,
            left: 62.0,
            right: width - 12.0,
            top: 26.0,
            bottom: height - 36.0,
        }
    }

    /// The SVG's beginning: title, grid, labels.
    fn open(&self, title: &str, x: &Scale, y: &Scale) -> String {
        let Frame {
            width,
            height,
            left,
            right,
            top,
            bottom,
        } = *self;
        let mut svg = format!(
            "<svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{0}\"><text x=\"{left}\" y=\"15\" class=\"title\">{0}</text>",
            escape(title)
        );
        for tick in y.axis.ticks(y.range) {
            let at = y.at(tick);
            let _ = write!(
                svg,
                "<line x1=\"{left}\" y1=\"{at:.1}\" x2=\"{right}\" y2=\"{at:.1}\" class=\"grid\"/><text x=\"{:.1}\" y=\"{:.1}\" class=\"tick end\">{}</text>",
                left - 5.0,
                at + 3.5,
                y.axis.label(tick)
            );
        }
        for tick in x.axis.ticks(x.range) {
            let at = x.at(tick);
            let _ = write!(
                svg,
                "<line x1=\"{at:.1}\" y1=\"{top}\" x2=\"{at:.1}\" y2=\"{bottom}\" class=\"grid\"/><text x=\"{at:.1}\" y=\"{:.1}\" class=\"tick middle\">{}</text>",
                bottom + 13.0,
                x.axis.label(tick)
            );
        }
        let _ = write!(
            svg,
            "<rect x=\"{left}\" y=\"{top}\" width=\"{:.1}\" height=\"{:.1}\" class=\"frame\"/>",
            right - left,
            bottom - top
        );
        let (middle, centre) = ((left + right) / 2.0, (top + bottom) / 2.0);
        let _ = write!(
            svg,
            "<text x=\"{middle:.1}\" y=\"{:.1}\" class=\"axis middle\">{}</text><text transform=\"translate(13 {centre:.1}) rotate(-90)\" class=\"axis middle\">{}</text>",
            bottom + 29.0,
            x.axis.title(),
            y.axis.title()
        );
        svg
    }
}

/// Lines through points, against N.
pub fn lines(title: &str, y_axis: Axis, series: &[Series]) -> String {
    let frame = Frame::new(400.0, 270.0);
    let points = || series.iter().flat_map(|s| &s.points);
    let x = Scale::new(Axis::Length, points().map(|p| p.x), (frame.left, frame.right));
    let y = Scale::new(y_axis, points().map(|p| p.y), (frame.bottom, frame.top));
    let mut svg = frame.open(title, &x, &y);
    for s in series {
        let places: Vec<_> = s
            .points
            .iter()
            .map(|p| format!("{:.1},{:.1}", x.at(p.x), y.at(p.y)))
            .collect();
        let dashed = dashes(s.dashes);
        let _ = write!(
            svg,
            "<polyline points=\"{}\" class=\"line s{}{dashed}\"/>",
            places.join(" "),
            s.colour
        );
    }
    // Marks above all lines, so that each can be pointed at.
    for s in series {
        for p in &s.points {
            svg += &s.mark.svg(x.at(p.x), y.at(p.y), &format!("f{}", s.colour), &p.title);
        }
    }
    svg + "</svg>"
}

/// One value by itself.
#[derive(Clone, Debug)]
pub struct Bar {
    pub label: String,
    pub colour: usize,
    pub percent: f64,
    /// What stands behind it.
    pub text: String,
    pub title: String,
}

/// Bars from 0 to 100 %, or further if one is longer.
pub fn bars(title: &str, bars: &[Bar]) -> String {
    const ROW: f64 = 19.0;
    let (width, left, right, top) = (820.0, 250.0, 640.0, 42.0);
    let height = top + ROW * bars.len() as f64 + 8.0;
    let longest = Axis::Percent.range(bars.iter().map(|bar| bar.percent));
    let at = |percent: f64| left + percent / longest.1 * (right - left);
    let mut svg = format!(
        "<svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{0}\"><text x=\"0\" y=\"15\" class=\"title\">{0}</text>",
        escape(title)
    );
    for tick in Axis::Percent.ticks(longest) {
        let x = at(tick);
        let _ = write!(
            svg,
            "<line x1=\"{x:.1}\" y1=\"{top}\" x2=\"{x:.1}\" y2=\"{height}\" class=\"grid\"/><text x=\"{x:.1}\" y=\"{:.1}\" class=\"tick middle\">{tick}</text>",
            top - 5.0
        );
    }
    for (n, bar) in bars.iter().enumerate() {
        let y = top + ROW * n as f64;
        let end = at(bar.percent);
        let _ = write!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" class=\"end\">{}</text>\
             <rect x=\"{left}\" y=\"{:.1}\" width=\"{:.1}\" height=\"13\" class=\"f{}\"><title>{}</title></rect>\
             <text x=\"{:.1}\" y=\"{:.1}\" class=\"tick\">{}</text>",
            left - 6.0,
            y + 13.5,
            escape(&bar.label),
            y + 3.0,
            (end - left).max(0.5),
            bar.colour,
            escape(&bar.title),
            end + 6.0,
            y + 13.5,
            escape(&bar.text)
        );
    }
    svg + "</svg>"
}

/// A ceiling of arithmetic.
#[derive(Clone, Debug)]
pub struct Roof {
    pub name: &'static str,
    pub flops: f64,
}

/// Every kernel under the roofs: what arithmetic allows, and what memory does at so many operations a byte, by the name of its
/// ceiling and its bytes a second.
pub fn roofline((memory, bytes): (&str, f64), roofs: &[Roof], series: &[Series]) -> String {
    let frame = Frame::new(820.0, 420.0);
    let points = || series.iter().flat_map(|s| &s.points);
    let ridges = roofs.iter().map(|r| r.flops / bytes);
    let x = Scale::new(
        Axis::Intensity,
        points().map(|p| p.x).chain(ridges.flat_map(|r| [r / 2.0, r * 4.0])),
        (frame.left, frame.right),
    );
    let y = Scale::new(
        Axis::Rate,
        points().map(|p| p.y).chain(roofs.iter().map(|r| r.flops * 1.1)),
        (frame.bottom, frame.top),
    );
    let mut svg = frame.open("Operations a second against operations a byte", &x, &y);
    let highest = roofs.iter().map(|r| r.flops).fold(0.0, f64::max);
    // The slope ends at the highest roof, and begins where it enters the frame.
    let (from, to) = ((y.range.0 / bytes).max(x.range.0), highest / bytes);
    let _ = write!(
        svg,
        "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" class=\"roof\"/>",
        x.at(from),
        y.at(from * bytes),
        x.at(to),
        y.at(to * bytes)
    );
    let at = (from * to).sqrt();
    let _ = write!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" class=\"tick end\">{memory} {}</text>",
        x.at(at) - 8.0,
        y.at(at * bytes),
        super::text::bytes_rate(bytes)
    );
    for roof in roofs {
        let height = y.at(roof.flops);
        let _ = write!(
            svg,
            "<line x1=\"{:.1}\" y1=\"{height:.1}\" x2=\"{:.1}\" y2=\"{height:.1}\" class=\"roof\"/><text x=\"{:.1}\" y=\"{:.1}\" class=\"tick end\">{} {}</text>",
            x.at(roof.flops / bytes),
            frame.right,
            frame.right - 4.0,
            height - 4.0,
            roof.name,
            flops_rate(roof.flops)
        );
    }
    for s in series {
        for p in &s.points {
            svg += &s.mark.svg(x.at(p.x), y.at(p.y), &format!("f{}", s.colour), &p.title);
        }
    }
    svg + "</svg>"
}

/// Text as it may stand in markup.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_few() {
        assert_eq!(
            Axis::Length.ticks((400.0, 9000.0)),
            [512.0, 1024.0, 2048.0, 4096.0, 8192.0]
        );
        assert_eq!(Axis::Percent.ticks((0.0, 100.0)), [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]);
        let time = Axis::Time.ticks((3e-6, 4e-5));
        assert_eq!(
            time.iter().map(|t| Axis::Time.label(*t)).collect::<Vec<_>>(),
            ["5 µs", "10 µs", "20 µs"]
        );
        for axis in [Axis::Time, Axis::Rate, Axis::Intensity, Axis::Length, Axis::Percent] {
            assert!(axis.ticks((1e-6, 1e14)).len() <= 10, "{axis:?}");
        }
        assert_eq!(Axis::Length.label(131072.0), "128k");
        assert_eq!(Axis::Rate.label(1e13), "10 T");
    }

    #[test]
    fn scales_map_ends_to_ends() {
        let scale = Scale {
            axis: Axis::Time,
            range: (1e-6, 1e-2),
            places: (0.0, 100.0),
        };
        assert!(
            (scale.at(1e-6)).abs() < 1e-9
                && (scale.at(1e-4) - 50.0).abs() < 1e-9
                && (scale.at(1e-2) - 100.0).abs() < 1e-9
        );
    }
}
