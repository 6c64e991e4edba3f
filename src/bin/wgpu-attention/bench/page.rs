//! The report as one HTML file that asks for nothing else.

use std::fmt::Write;

use super::charts;
use super::compare::{self, letter};
use super::format::{Ceilings, Row, Run, Seconds};
use super::plot::escape;
use super::text::{bytes_rate, flops_rate, half_width, interval, of_inputs, rate};
use crate::duration;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The report of one run.
pub fn report(run: &Run) -> String {
    let title = format!("{} {} on {}", run.program.name, run.program.version, run.device.name);
    let mut body = format!("<h1>{}</h1>", escape(&title));
    let _ = write!(body, "<p>{}. {}.</p>", escape(&run.device.label()), escape(&run.date));
    body += &settings(run);
    if let Some(ceilings) = &run.ceilings {
        body += &ceilings_table(ceilings);
        body += &charts::roofline(run, ceilings);
    }
    for suite in charts::suites(std::slice::from_ref(run)) {
        body += &charts::suite(suite, std::slice::from_ref(run));
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
    body += "<p>Times, as ratios:</p><ul>";
    for line in compare::summary(runs, &lines) {
        let _ = write!(body, "<li>{}</li>", escape(&line));
    }
    body += "</ul>";
    for suite in charts::suites(runs) {
        body += &charts::suite(suite, runs);
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
         took turns, so that none was found in a cache; rows with fewer say so. Each kernel was checked against the float64 reference first. \
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
        ("a launch that copies 16 KiB", c.launch_seconds.map(duration)),
        (
            "each further launch, which waits for the one before",
            c.dependent_launch_seconds.map(duration),
        ),
    ];
    let mut html = String::from("<h2>Ceilings and launches of the device, measured</h2><table class=\"small\"><tbody>");
    for (name, rate) in rows {
        let _ = write!(
            html,
            "<tr><th>{name}</th><td>{}</td></tr>",
            rate.unwrap_or_else(|| "–".into())
        );
    }
    html + "</tbody></table>"
}

/// A column's head, and whether it holds numbers.
type Head<'a> = (&'a str, bool);

/// A table that sorts by the column whose head is clicked. Cells: what they sort by, and what they show.
fn table(heads: &[Head<'_>], rows: impl Iterator<Item = Vec<(String, String)>>) -> String {
    let class = |is_number: bool| if is_number { " class=\"number\"" } else { "" };
    let mut html = String::from("<div class=\"scroll\"><table class=\"sortable\"><thead><tr>");
    for (head, is_number) in heads {
        let class = class(*is_number);
        let _ = write!(
            html,
            "<th{class}><button type=\"button\">{}</button></th>",
            escape(head)
        );
    }
    html += "</tr></thead><tbody>";
    for row in rows {
        html += "<tr>";
        for ((by, shown), (_, is_number)) in row.iter().zip(heads) {
            let class = class(*is_number);
            let _ = write!(html, "<td data-by=\"{}\"{class}>{}</td>", escape(by), escape(shown));
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
        ("suite", false),
        ("problem", false),
        ("implementation", false),
        ("time", true),
        ("95 % interval", true),
        ("±", true),
        ("runs", true),
        ("rate", true),
        ("of ceiling", true),
        ("ceiling", false),
        ("RMS error", true),
        ("note", false),
    ];
    let rotation = run.settings.map_or(0, |s| s.rotation_bytes);
    let rows = run.results.iter().map(|row| cells(row, rotation));
    format!("<h2>Results</h2>{}", table(&heads, rows))
}

/// A row of the results.
fn cells(row: &Row, rotation_bytes: u64) -> Vec<(String, String)> {
    let s = row.seconds;
    let warm = row.within_a_cache(rotation_bytes).map(of_inputs);
    let of = |value: fn(&Seconds) -> f64, shown: fn(&Seconds) -> String| {
        number(s.as_ref().map(value), s.as_ref().map_or(String::new(), shown))
    };
    let percent = |share: Option<f64>| number(share, format!("{:.1} %", share.unwrap_or(0.0) * 100.0));
    let error = row.error.map(|e| e.rms);
    vec![
        text(&row.suite),
        text(&row.name),
        text(&format!("{} {}", row.implementation, row.tier.as_deref().unwrap_or(""))),
        of(|s| s.median, |s| duration(s.median)),
        of(|s| s.low, interval),
        percent(s.as_ref().map(half_width)),
        of(|s| s.runs as f64, |s| s.runs.to_string()),
        number(row.rate(), rate(row)),
        percent(row.fraction_of_bound),
        text(row.bound.as_deref().unwrap_or("")),
        number(error, format!("{:.1e}", error.unwrap_or(0.0))),
        text(row.failure.as_deref().or(warm.as_deref()).unwrap_or("")),
    ]
}

fn side_by_side(runs: &[Run], lines: &[compare::Line<'_>]) -> String {
    let mut letters = vec![letter(0)];
    for n in 1..runs.len() {
        letters.extend([letter(n), format!("{} / {}", letter(n), letter(0))]);
    }
    let mut heads = vec![("suite", false), ("problem", false), ("implementation", false)];
    heads.extend(letters.iter().map(|letter| (letter.as_str(), true)));
    let rows = lines.iter().map(|line| {
        let mut cells = vec![text(line.suite), text(line.name), text(&compare::who(line))];
        for (n, seconds) in line.seconds.iter().enumerate() {
            let none = || (String::new(), line.failures[n].unwrap_or("–").into());
            cells.push(seconds.map_or_else(none, |s| number(Some(s.median), duration(s.median))));
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
