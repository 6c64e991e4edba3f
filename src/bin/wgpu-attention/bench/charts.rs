//! Which plots a report has: a roofline, and for each kind of problem time and percent of the ceiling against N.

use std::fmt::Write;

use wgpu_attention::Tier;

use super::compare::letter;
use super::format::{Ceilings, Row, Run};
use super::plot::{self, Axis, Bar, Mark, Point, Roof, Series, escape};
use super::text::{interval, rate};
use crate::duration;

/// Colours of series that the style has; one more is for what a legend says of all colours.
const COLOURS: usize = 8;

/// Patterns of lines that the style has: two for each round of colours, the second for a storage type that is not the first.
const PATTERNS: usize = 4;

fn pattern(label: usize, dtype: usize) -> usize {
    (label / COLOURS * 2 + dtype.min(1)) % PATTERNS
}

/// The suites that have a number, in their order.
pub fn suites(runs: &[Run]) -> Vec<&str> {
    let mut all = vec![];
    for row in runs.iter().flat_map(|run| &run.results).filter(|r| r.seconds.is_some()) {
        place(&mut all, row.suite.as_str());
    }
    all
}

/// Where a thing is among those met so far, if necessary at their end.
fn place<T: PartialEq>(all: &mut Vec<T>, one: T) -> usize {
    all.iter().position(|o| *o == one).unwrap_or_else(|| {
        all.push(one);
        all.len() - 1
    })
}

/// A row in a line, for whoever points at it.
fn describe(row: &Row) -> String {
    let tier = row.tier.as_deref().map_or(String::new(), |t| format!(", {t}"));
    let time = row.seconds.map_or(String::new(), |s| {
        format!(": {} ({})", duration(s.median), interval(&s))
    });
    let share = row.fraction_of_bound.zip(row.bound.as_deref());
    let share = share.map_or(String::new(), |(f, bound)| {
        format!(", {}, {:.1} % of {bound}", rate(row), f * 100.0)
    });
    format!("{}, {}{tier}{time}{share}", row.name, row.implementation)
}

/// Every result under the ceilings: a colour for each suite, a mark for each tier. Empty without ceilings or results.
pub fn roofline(run: &Run, ceilings: &Ceilings) -> String {
    let roofs: Vec<Roof> = [
        ("f32", ceilings.f32_flops_per_second),
        ("f16", ceilings.f16_flops_per_second),
        ("cooperative", ceilings.cooperative_flops_per_second),
    ]
    .into_iter()
    .filter_map(|(name, flops)| Some(Roof { name, flops: flops? }))
    .collect();
    let suites = suites(std::slice::from_ref(run));
    let memory = ceilings.copy_bytes_per_second.map(|copy| {
        let read = ceilings.read_bytes_per_second.filter(|read| *read > copy);
        read.map_or(("copy", copy), |read| ("read", read))
    });
    let (Some(memory), false, false) = (memory, roofs.is_empty(), suites.is_empty()) else {
        return String::new();
    };
    let measured = || run.results.iter().filter(|row| row.seconds.is_some());
    // In the order of what they ask of a device; other programs' rows have none.
    let mut tiers: Vec<Option<&str>> = Tier::ALL.iter().map(|tier| Some(tier.name())).collect();
    tiers.push(None);
    tiers.retain(|tier| measured().any(|row| row.tier.as_deref() == *tier));
    let (mut legend, mut series) = (Legend::default(), vec![]);
    for (colour, suite) in suites.iter().enumerate() {
        legend.mark(colour % COLOURS, Mark::Circle, suite);
        for (tier, mark) in tiers.iter().zip(Mark::ALL) {
            let own = measured().filter(|row| row.suite == *suite && row.tier.as_deref() == *tier);
            series.push(Series {
                colour: colour % COLOURS,
                mark,
                dashes: 0,
                points: own.filter_map(under_roof).collect(),
            });
        }
    }
    for (tier, mark) in tiers.iter().zip(Mark::ALL).filter(|_| tiers.len() > 1) {
        legend.mark(COLOURS, mark, tier.unwrap_or("no tier"));
    }
    let plot = plot::roofline(memory, &roofs, &series);
    format!("<h2>Roofline</h2>{}<div class=\"wide\">{plot}</div>", legend.html())
}

/// Operations a second against operations a byte.
fn under_roof(row: &Row) -> Option<Point> {
    (row.flops > 0.0 && row.bytes > 0.0).then_some(())?;
    Some(Point {
        x: row.flops / row.bytes,
        y: row.flops / row.seconds?.median,
        title: describe(row),
    })
}

/// The plots of a suite: lines for problems of several lengths, bars for the others.
pub fn suite(suite: &str, runs: &[Run]) -> String {
    let rows = runs
        .iter()
        .enumerate()
        .flat_map(|(n, run)| run.results.iter().map(move |row| (n, row)));
    let mut panels = Panels::default();
    for (n, row) in rows.filter(|(_, row)| row.suite == suite && row.seconds.is_some()) {
        panels.add(n, row, runs.len() > 1);
    }
    let (long, short): (Vec<_>, Vec<_>) = (0..panels.titles.len()).partition(|panel| panels.has_lengths(*panel));
    let mut html = format!("<h2>{}</h2>{}", escape(suite), panels.legend());
    if !long.is_empty() {
        let plots: String = long.into_iter().map(|panel| panels.figure(panel)).collect();
        let _ = write!(html, "<div class=\"plots\">{plots}</div>");
    }
    let bars: Vec<Bar> = short.into_iter().flat_map(|panel| panels.bars(panel)).collect();
    if !bars.is_empty() {
        let _ = write!(
            html,
            "<div class=\"wide\">{}</div>",
            plot::bars("Percent of ceiling", &bars)
        );
    }
    html
}

fn length(row: &Row) -> u32 {
    row.problem.keys.max(row.problem.queries)
}

/// Plots of a suite: one for all problems that differ in length, storage and kernel only.
#[derive(Default)]
struct Panels<'a> {
    titles: Vec<String>,
    /// What lines are told apart by: run, implementation, tier and form, by colour; storage, by mark and dashes.
    labels: Vec<String>,
    dtypes: Vec<&'a str>,
    lines: Vec<Line<'a>>,
}

struct Line<'a> {
    panel: usize,
    label: usize,
    dtype: usize,
    rows: Vec<&'a Row>,
}

impl<'a> Panels<'a> {
    fn add(&mut self, run: usize, row: &'a Row, several: bool) {
        let (title, kept) = parts(row);
        let panel = place(&mut self.titles, title);
        let label = place(&mut self.labels, label(run, row, &kept, several));
        let dtype = place(&mut self.dtypes, row.problem.dtype.as_str());
        let own = |line: &&mut Line<'_>| (line.panel, line.label, line.dtype) == (panel, label, dtype);
        match self.lines.iter_mut().find(own) {
            Some(line) => line.rows.push(row),
            None => self.lines.push(Line {
                panel,
                label,
                dtype,
                rows: vec![row],
            }),
        }
    }

    fn legend(&self) -> String {
        let mut legend = Legend::default();
        for (n, label) in self.labels.iter().enumerate() {
            legend.line(n % COLOURS, Mark::Circle, pattern(n, 0), label);
        }
        for (n, dtype) in self.dtypes.iter().enumerate().filter(|_| self.dtypes.len() > 1) {
            legend.line(COLOURS, Mark::ALL[n % Mark::ALL.len()], pattern(0, n), dtype);
        }
        legend.html()
    }

    /// Whether there is more than one length to draw a line through.
    fn has_lengths(&self, panel: usize) -> bool {
        let own = self.lines.iter().filter(|line| line.panel == panel);
        let mut lengths = own.flat_map(|line| &line.rows).map(|row| length(row));
        let first = lengths.next();
        lengths.any(|length| Some(length) != first)
    }

    /// A bar for each row whose ceiling is known.
    fn bars(&self, panel: usize) -> Vec<Bar> {
        let own = self.lines.iter().filter(|line| line.panel == panel);
        let rows = own.flat_map(|line| line.rows.iter().map(move |row| (line.label, row)));
        let bar = |(label, row): (usize, &&Row)| {
            let share = row.fraction_of_bound?;
            let bound = row.bound.as_deref().unwrap_or_default();
            let time = duration(row.seconds?.median);
            Some(Bar {
                label: row.name.clone(),
                colour: label % COLOURS,
                percent: share * 100.0,
                text: format!("{:.1} % of {bound}, {time}", share * 100.0),
                title: describe(row),
            })
        };
        rows.filter_map(bar).collect()
    }

    /// Time, and percent of the ceiling where it is known.
    fn figure(&self, panel: usize) -> String {
        let title = &self.titles[panel];
        let times = self.series(panel, |row| Some(row.seconds?.median));
        let shares = self.series(panel, |row| Some(row.fraction_of_bound? * 100.0));
        let mut html = format!("<figure>{}", plot::lines(title, Axis::Time, &times));
        if !shares.is_empty() {
            html += &plot::lines(title, Axis::Percent, &shares);
        }
        html + "</figure>"
    }

    fn series(&self, panel: usize, value: impl Fn(&Row) -> Option<f64>) -> Vec<Series> {
        let point = |row: &&Row| {
            Some(Point {
                x: f64::from(length(row)),
                y: value(row)?,
                title: describe(row),
            })
        };
        let series = |line: &Line<'_>| {
            let mut points: Vec<Point> = line.rows.iter().filter_map(point).collect();
            points.sort_by(|a, b| a.x.total_cmp(&b.x));
            Series {
                colour: line.label % COLOURS,
                mark: Mark::ALL[line.dtype % Mark::ALL.len()],
                dashes: pattern(line.label, line.dtype),
                points,
            }
        };
        let own = self.lines.iter().filter(|line| line.panel == panel);
        own.map(series).filter(|s| !s.points.is_empty()).collect()
    }
}

/// The parts of a problem's name that all lines of a plot share, and the form of top-k attention, which tells them apart.
fn parts(row: &Row) -> (String, String) {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let is_length = |part: &str| part.strip_prefix("Nk").or(part.strip_prefix('N')).is_some_and(digits);
    let mut title = vec![];
    let mut kept = String::new();
    for part in row.name.split('/') {
        if let Some(top) = part.strip_prefix("top ") {
            // How many differs from length to length.
            let blocks = |(_, size): (&str, &str)| format!("top-k blocks of {size}");
            kept = top.split_once(" of ").map_or("top-k tokens".into(), blocks);
        } else if !is_length(part) && part != row.problem.dtype {
            title.push(part);
        }
    }
    (title.join(", "), kept)
}

/// What a line is called in the legend.
fn label(run: usize, row: &Row, kept: &str, several: bool) -> String {
    let own = row.implementation == env!("CARGO_PKG_NAME");
    let form = match (kept, row.suite.as_str()) {
        ("", "topk") => "dense",
        (kept, _) => kept,
    };
    let letter = if several { letter(run) } else { String::new() };
    let parts = [
        letter.as_str(),
        if own { "" } else { &row.implementation },
        row.tier.as_deref().unwrap_or(""),
        form,
    ];
    let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    parts.join(" ")
}

/// Swatches with what they stand for.
#[derive(Default)]
struct Legend(String);

impl Legend {
    /// A mark on its line.
    fn line(&mut self, colour: usize, mark: Mark, pattern: usize, text: &str) {
        let dashed = plot::dashes(pattern);
        let line = format!("<line x1=\"1\" y1=\"6\" x2=\"29\" y2=\"6\" class=\"line s{colour}{dashed}\"/>");
        self.swatch(&line, colour, mark, text);
    }

    /// A mark by itself.
    fn mark(&mut self, colour: usize, mark: Mark, text: &str) {
        self.swatch("", colour, mark, text);
    }

    fn swatch(&mut self, line: &str, colour: usize, mark: Mark, text: &str) {
        let mark = mark.svg(15.0, 6.0, &format!("f{colour}"), text);
        let text = escape(text);
        let _ = write!(
            self.0,
            "<span><svg viewBox=\"0 0 30 12\">{line}{mark}</svg>{text}</span>"
        );
    }

    fn html(&self) -> String {
        format!("<p class=\"legend\">{}</p>", self.0)
    }
}
