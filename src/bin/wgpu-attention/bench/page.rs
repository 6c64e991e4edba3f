//! The report as one HTML file that asks for nothing else.

use std::fmt::Write;

use super::compare::{self, Summary, letter};
use super::format::{Ceilings, Row, Run};
use super::plot::{self, Axis, Mark, Point, Roof, Series, escape};
use super::text::{bytes_rate, flops_rate, half_width, interval, rate};
use crate::duration;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Colours that the style has.
const COLOURS: usize = 8;

/// The report of one run.
pub fn report(run: &Run) -> String {
    let title = format!("{} {} on {}", run.program.name, run.program.version, run.device.name);
    let mut body = format!("<h1>{}</h1>", escape(&title));
    let _ = write!(body, "<p>{}. {}.</p>", escape(&run.device.label()), escape(&run.date));
    body += &settings(run);
    if let Some(ceilings) = &run.ceilings {
        body += &ceilings_table(ceilings);
        body += &roofline(run, ceilings);
    }
    for suite in suites(std::slice::from_ref(run)) {
        body += &suite_plots(suite, std::slice::from_ref(run));
    }
    body += &results(run);
    page(&title, &body)
}

/// Several runs side by side.
pub fn comparison(runs: &[Run]) -> String {
    let title = "Benchmarks side by side";
    let mut body = format!("<h1>{title}</h1><ul>");
    for line in compare::legend(runs) {
        let _ = write!(body, "<li>{}</li>", escape(&line));
    }
    body += "</ul>";
    let lines = compare::lines(runs);
    for n in 1..runs.len() {
        let own = lines.iter().filter(|l| !l.to_other).filter_map(|l| l.ratios[n]);
        if let Some(s) = Summary::of(own) {
            let _ = write!(
                body,
                "<p>Time of {} over {}: geometric mean <b>{:.3}</b>, median <b>{:.3}</b>, over {} rows that both have.</p>",
                letter(n),
                letter(0),
                s.geometric_mean,
                s.median,
                s.count
            );
        }
    }
    for suite in suites(runs) {
        body += &suite_plots(suite, runs);
    }
    body += &side_by_side(runs, &lines);
    page(title, &body)
}

fn page(title: &str, body: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/>\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/><title>{}</title>\
         <style>{STYLE}</style></head>\n<body>{body}\n<script>{SCRIPT}</script></body></html>\n",
        escape(title)
    )
}

fn settings(run: &Run) -> String {
    let Some(s) = &run.settings else { return String::new() };
    format!(
        "<p>Times are medians; intervals hold the true median with {:.0} % confidence, by order statistics. Runs went on until \
         the interval was within ±{:.0} % of the median, or {} were spent. Sets of inputs and outputs of {} MiB together \
         took turns, so that none was found in a cache. Each kernel was checked against the float64 reference first. \
         Percent are of the time that the problem takes at the ceiling that bounds it, to the time measured.</p>",
        s.confidence * 100.0,
        s.half_width * 100.0,
        duration(s.budget_seconds),
        s.rotation_bytes >> 20
    )
}

fn ceilings_table(c: &Ceilings) -> String {
    let rows = [
        ("copy (read + written)", c.copy_bytes_per_second.map(bytes_rate)),
        ("plain read", c.read_bytes_per_second.map(bytes_rate)),
        ("f32 multiply-add", c.f32_flops_per_second.map(flops_rate)),
        ("f16 multiply-add", c.f16_flops_per_second.map(flops_rate)),
        (
            "cooperative matrices, f16 factors, f32 sums",
            c.cooperative_flops_per_second.map(flops_rate),
        ),
    ];
    let mut html = String::from("<h2>Ceilings of the device, measured</h2><table class=\"small\"><tbody>");
    for (name, rate) in rows {
        let _ = write!(
            html,
            "<tr><th>{name}</th><td>{}</td></tr>",
            rate.unwrap_or_else(|| "–".into())
        );
    }
    html + "</tbody></table>"
}

/// A colour for each suite, a mark for each tier.
fn roofline(run: &Run, c: &Ceilings) -> String {
    let Some(copy) = c.copy_bytes_per_second else {
        return String::new();
    };
    let roofs: Vec<Roof> = [
        ("f32", c.f32_flops_per_second),
        ("f16", c.f16_flops_per_second),
        ("cooperative", c.cooperative_flops_per_second),
    ]
    .into_iter()
    .filter_map(|(name, flops)| Some(Roof { name, flops: flops? }))
    .collect();
    let suites = suites(std::slice::from_ref(run));
    let mut tiers: Vec<&str> = run.results.iter().filter_map(|r| r.tier.as_deref()).collect();
    tiers.sort();
    tiers.dedup();
    let mut series = vec![];
    let mut legend = Legend::default();
    for (colour, suite) in suites.iter().enumerate() {
        legend.add(colour, Mark::Circle, false, suite);
        for (n, tier) in tiers.iter().enumerate() {
            let own = run
                .results
                .iter()
                .filter(|r| r.suite == *suite && r.tier.as_deref() == Some(tier));
            let points = own.filter_map(|r| {
                Some(Point {
                    x: r.flops / r.bytes,
                    y: r.flops / r.seconds?.median,
                    title: describe(r),
                })
            });
            series.push(Series {
                colour,
                mark: Mark::ALL[n % Mark::ALL.len()],
                dashed: false,
                points: points.collect(),
            });
        }
    }
    if roofs.is_empty() || series.iter().all(|s| s.points.is_empty()) {
        return String::new();
    }
    for (n, tier) in tiers.iter().enumerate().filter(|_| tiers.len() > 1) {
        legend.add(COLOURS, Mark::ALL[n % Mark::ALL.len()], false, tier);
    }
    format!(
        "<h2>Roofline</h2>{}<div class=\"wide\">{}</div>",
        legend.html(),
        plot::roofline(copy, &roofs, &series)
    )
}

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

/// The suites that have a number, in their order.
fn suites(runs: &[Run]) -> Vec<&str> {
    let mut all: Vec<&str> = vec![];
    for row in runs.iter().flat_map(|run| &run.results).filter(|r| r.seconds.is_some()) {
        if !all.contains(&row.suite.as_str()) {
            all.push(&row.suite);
        }
    }
    all
}

/// What a line of a plot is: run, implementation, tier, and what of the name is neither in the panel's title nor a length.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Kind {
    run: usize,
    label: String,
    dtype: String,
}

/// The parts of a problem's name that a panel has in common, and those that tell its lines apart.
fn panel_of(row: &Row) -> (String, String) {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let is_length = |part: &str| part.strip_prefix("Nk").or(part.strip_prefix('N')).is_some_and(digits);
    let mut title = vec![];
    let mut kept = String::new();
    for part in row.name.split('/') {
        if let Some(top) = part.strip_prefix("top ") {
            kept = top
                .split_once(" of ")
                .map_or("top-k tokens".into(), |(_, size)| format!("top-k blocks of {size}"));
        } else if !is_length(part) && part != row.problem.dtype {
            title.push(part);
        }
    }
    (title.join(", "), kept)
}

/// Time and percent of the ceiling against N, a pair of plots for each kind of problem.
fn suite_plots(suite: &str, runs: &[Run]) -> String {
    let rows: Vec<(usize, &Row)> = runs
        .iter()
        .enumerate()
        .flat_map(|(n, run)| run.results.iter().map(move |row| (n, row)))
        .filter(|(_, row)| row.suite == suite && row.seconds.is_some())
        .collect();
    let length = |row: &Row| row.problem.keys.max(row.problem.queries);
    if rows.iter().all(|(_, row)| length(row) == length(rows[0].1)) {
        // Nothing to draw a line through; the table has it.
        return String::new();
    }
    let mut panels: Vec<String> = vec![];
    let mut labels: Vec<(usize, String)> = vec![];
    let mut dtypes: Vec<String> = vec![];
    let mut lines: Vec<(String, Kind, Vec<&Row>)> = vec![];
    for (n, row) in &rows {
        let (title, kept) = panel_of(row);
        let kind = Kind {
            run: *n,
            label: label(*n, row, &kept, runs.len() > 1),
            dtype: row.problem.dtype.clone(),
        };
        remember(&mut panels, title.clone());
        remember(&mut labels, (*n, kind.label.clone()));
        remember(&mut dtypes, kind.dtype.clone());
        match lines.iter_mut().find(|(t, k, _)| *t == title && *k == kind) {
            Some((.., own)) => own.push(row),
            None => lines.push((title, kind, vec![row])),
        }
    }
    let style = |kind: &Kind| {
        let colour = labels
            .iter()
            .position(|(n, l)| *n == kind.run && *l == kind.label)
            .unwrap_or(0);
        let dtype = dtypes.iter().position(|d| *d == kind.dtype).unwrap_or(0);
        (colour % COLOURS, Mark::ALL[dtype % Mark::ALL.len()], dtype > 0)
    };
    let mut legend = Legend::default();
    for (n, (run, label)) in labels.iter().enumerate() {
        let mark = style(&Kind {
            run: *run,
            label: label.clone(),
            dtype: dtypes[0].clone(),
        })
        .1;
        legend.add(n % COLOURS, mark, false, label);
    }
    for (n, dtype) in dtypes.iter().enumerate().filter(|_| dtypes.len() > 1) {
        legend.add(COLOURS, Mark::ALL[n % Mark::ALL.len()], n > 0, dtype);
    }
    let mut html = format!("<h2>{}</h2>{}<div class=\"plots\">", escape(suite), legend.html());
    for panel in &panels {
        let own = || lines.iter().filter(|(t, ..)| t == panel);
        let series = |value: &dyn Fn(&Row) -> Option<f64>| -> Vec<Series> {
            own()
                .map(|(_, kind, rows)| {
                    let (colour, mark, dashed) = style(kind);
                    let mut points: Vec<Point> = rows
                        .iter()
                        .filter_map(|row| {
                            Some(Point {
                                x: f64::from(length(row)),
                                y: value(row)?,
                                title: describe(row),
                            })
                        })
                        .collect();
                    points.sort_by(|a, b| a.x.total_cmp(&b.x));
                    Series {
                        colour,
                        mark,
                        dashed,
                        points,
                    }
                })
                .filter(|s| !s.points.is_empty())
                .collect()
        };
        html += &plot::lines(
            panel,
            Axis::Length,
            Axis::Time,
            &series(&|row| Some(row.seconds?.median)),
        );
        let shares = series(&|row| Some(row.fraction_of_bound? * 100.0));
        if !shares.is_empty() {
            html += &plot::lines(panel, Axis::Length, Axis::Percent, &shares);
        }
    }
    html + "</div>"
}

fn remember<T: PartialEq>(all: &mut Vec<T>, one: T) {
    if !all.contains(&one) {
        all.push(one);
    }
}

/// What a line is called in the legend.
fn label(run: usize, row: &Row, kept: &str, several: bool) -> String {
    let mut parts = vec![];
    if several {
        parts.push(letter(run));
    }
    if several || row.implementation != env!("CARGO_PKG_NAME") {
        parts.push(row.implementation.clone());
    }
    parts.extend(row.tier.clone());
    match (kept, row.suite.as_str()) {
        ("", "topk") => parts.push("dense".into()),
        ("", _) => {}
        (kept, _) => parts.push(kept.into()),
    }
    parts.join(" ")
}

/// Swatches with what they stand for.
#[derive(Default)]
struct Legend(String);

impl Legend {
    fn add(&mut self, colour: usize, mark: Mark, dashed: bool, text: &str) {
        let dashed = if dashed { " dashed" } else { "" };
        let _ = write!(
            self.0,
            "<span><svg viewBox=\"0 0 30 12\"><line x1=\"1\" y1=\"6\" x2=\"29\" y2=\"6\" class=\"line s{colour}{dashed}\"/>{}</svg>{}</span>",
            mark.svg(15.0, 6.0, &format!("f{colour}"), text),
            escape(text)
        );
    }

    fn html(&self) -> String {
        format!("<p class=\"legend\">{}</p>", self.0)
    }
}

/// A table that sorts by the column whose head is clicked. Cells: what they sort by, and what they show.
fn table(heads: &[&str], rows: impl Iterator<Item = Vec<(String, String)>>) -> String {
    let mut html = String::from("<div class=\"scroll\"><table class=\"sortable\"><thead><tr>");
    for head in heads {
        let _ = write!(html, "<th><button type=\"button\">{}</button></th>", escape(head));
    }
    html += "</tr></thead><tbody>";
    for row in rows {
        html += "<tr>";
        for (by, shown) in row {
            let number = if by.parse::<f64>().is_ok() {
                " class=\"number\""
            } else {
                ""
            };
            let _ = write!(html, "<td data-by=\"{}\"{number}>{}</td>", escape(&by), escape(&shown));
        }
        html += "</tr>\n";
    }
    html + "</tbody></table></div>"
}

fn text(text: &str) -> (String, String) {
    (text.into(), text.into())
}

fn number(value: Option<f64>, shown: String) -> (String, String) {
    value.map_or((String::new(), String::new()), |v| (format!("{v:e}"), shown))
}

fn results(run: &Run) -> String {
    let heads = [
        "suite",
        "problem",
        "implementation",
        "tier",
        "time",
        "95 % interval",
        "±",
        "runs",
        "rate",
        "of ceiling",
        "ceiling",
        "RMS error",
    ];
    let rows = run.results.iter().map(|row| {
        let s = row.seconds;
        let time = match (&s, &row.failure) {
            (Some(s), _) => number(Some(s.median), duration(s.median)),
            (None, failure) => text(failure.as_deref().unwrap_or("no number")),
        };
        vec![
            text(&row.suite),
            text(&row.name),
            text(&row.implementation),
            text(row.tier.as_deref().unwrap_or("")),
            time,
            s.map_or(text(""), |s| number(Some(s.low), interval(&s))),
            s.map_or(text(""), |s| {
                number(Some(half_width(&s)), format!("{:.1} %", half_width(&s) * 100.0))
            }),
            s.map_or(text(""), |s| number(Some(s.runs as f64), s.runs.to_string())),
            number(row.rate(), rate(row)),
            number(
                row.fraction_of_bound,
                format!("{:.1} %", row.fraction_of_bound.unwrap_or(0.0) * 100.0),
            ),
            text(row.bound.as_deref().unwrap_or("")),
            number(
                row.error.map(|e| e.rms),
                format!("{:.1e}", row.error.map_or(0.0, |e| e.rms)),
            ),
        ]
    });
    format!("<h2>Results</h2>{}", table(&heads, rows))
}

fn side_by_side(runs: &[Run], lines: &[compare::Line<'_>]) -> String {
    let mut heads: Vec<String> = ["suite", "problem", "implementation", "A"].map(String::from).to_vec();
    for n in 1..runs.len() {
        heads.push(letter(n));
        heads.push(format!("{} / A", letter(n)));
    }
    let heads: Vec<&str> = heads.iter().map(String::as_str).collect();
    let rows = lines.iter().map(|line| {
        let mut cells = vec![text(line.suite), text(line.name), text(&compare::who(line))];
        for (n, seconds) in line.seconds.iter().enumerate() {
            cells.push(seconds.map_or(text("–"), |s| number(Some(s.median), duration(s.median))));
            if n > 0 {
                let mark = if line.to_other { "*" } else { "" };
                let shown = line.ratios[n].map_or(String::new(), |r| format!("{r:.3}{mark}"));
                cells.push(number(line.ratios[n], shown));
            }
        }
        cells
    });
    let note = match lines.iter().any(|l| l.to_other) {
        true => "<p>* to the fastest that A has of the problem, because A has no such implementation.</p>",
        false => "",
    };
    format!("<h2>Times and ratios</h2>{}{note}", table(&heads, rows))
}

#[cfg(test)]
mod tests;
