//! Several runs side by side: each problem's times, and their ratios to the first run's.

use std::collections::HashMap;
use std::fmt;
use std::io::Write;

use clap::builder::styling::Style;
use wgpu_attention::measure::median;

use super::format::{ProblemSize, Row, Run, Seconds};
use crate::{Failure, duration};

/// One problem as one implementation, tier and clock has it, with inputs that take turns or do not, in every run.
#[derive(Clone, Debug)]
pub struct Line<'a> {
    pub suite: &'a str,
    pub name: &'a str,
    pub implementation: &'a str,
    pub tier: Option<&'a str>,
    pub clock: Option<&'a str>,
    /// One set of inputs ran again and again, so that what fits a cache was found there.
    pub one_set: bool,
    /// By run; `None` where it has no such number.
    pub seconds: Vec<Option<Seconds>>,
    /// By run, where it says why it has none: `"WRONG"` or `"failed"`.
    pub failures: Vec<Option<&'static str>>,
    /// To the first run, by run.
    pub ratios: Vec<Option<f64>>,
    /// The first run has no such number; the ratios are to the fastest that it has of the problem.
    pub to_other: bool,
}

/// All problems that any of the runs has.
pub fn lines(runs: &[Run]) -> Vec<Line<'_>> {
    let mut lines: Vec<Line<'_>> = vec![];
    let mut places: HashMap<_, usize> = HashMap::new();
    for (n, run) in runs.iter().enumerate() {
        // A problem may come in several suites, as dense attention beside top-k does.
        let mut times_met: HashMap<_, usize> = HashMap::new();
        for row in &run.results {
            let met = times_met.entry(key(row)).or_insert(0);
            *met += 1;
            let place = *places.entry((key(row), *met)).or_insert_with(|| {
                lines.push(Line {
                    suite: &row.suite,
                    name: &row.name,
                    implementation: &row.implementation,
                    tier: row.tier.as_deref(),
                    clock: row.clock.as_deref(),
                    one_set: has_one_set(row),
                    seconds: vec![None; runs.len()],
                    failures: vec![None; runs.len()],
                    ratios: vec![None; runs.len()],
                    to_other: false,
                });
                lines.len() - 1
            });
            lines[place].seconds[n] = row.seconds;
            lines[place].failures[n] = row.failure.as_deref().map(|why| match why.starts_with("WRONG") {
                true => "WRONG",
                false => "failed",
            });
        }
    }
    for ((key, _), place) in places {
        let line = &mut lines[place];
        line.to_other = line.seconds[0].is_none();
        let Some(base) = line.seconds[0].map(|s| s.median).or(fastest(&runs[0], &key)) else {
            continue;
        };
        line.ratios = line.seconds.iter().map(|s| s.map(|s| s.median / base)).collect();
    }
    let is_wrong = |line: &Line<'_>| line.failures.contains(&Some("WRONG"));
    lines.retain(|line| is_wrong(line) || line.seconds.iter().any(Option::is_some));
    // Those of a problem together, wherever they came from, problems in the order they first came.
    let mut order: HashMap<(&str, &str), usize> = HashMap::new();
    for line in &lines {
        let next = order.len();
        order.entry((line.suite, line.name)).or_insert(next);
    }
    lines.sort_by_key(|line| order[&(line.suite, line.name)]);
    lines
}

type Key<'a> = (
    &'a str,
    &'a ProblemSize,
    &'a str,
    Option<&'a str>,
    Option<&'a str>,
    bool,
);

fn has_one_set(row: &Row) -> bool {
    row.input_sets == Some(1)
}

/// A problem is the same if its name is and its sizes are.
fn key(row: &Row) -> Key<'_> {
    (
        &row.name,
        &row.problem,
        &row.implementation,
        row.tier.as_deref(),
        row.clock.as_deref(),
        has_one_set(row),
    )
}

/// The least time that a run has of a problem, by the same clock where both name one, and with inputs that take turns or do not.
fn fastest(run: &Run, (name, problem, _, _, clock, one_set): &Key<'_>) -> Option<f64> {
    let alike = |row: &&Row| {
        let clocks = row.clock.as_deref().zip(*clock);
        row.name == **name
            && row.problem == **problem
            && has_one_set(row) == *one_set
            && clocks.is_none_or(|(own, other)| own == other)
    };
    let times = run
        .results
        .iter()
        .filter(alike)
        .filter_map(|row| Some(row.seconds?.median));
    times.min_by(f64::total_cmp)
}

/// The time of each problem by the kernels that the planner picks there; by each clock, and with inputs that take turns or do
/// not.
fn planned(run: &Run) -> HashMap<(&str, &ProblemSize, Option<&str>, bool), f64> {
    let rows = run.results.iter().filter(|row| row.planned == Some(true));
    rows.filter_map(|row| {
        let (name, problem, _, _, clock, one_set) = key(row);
        Some(((name, problem, clock, one_set), row.seconds?.median))
    })
    .collect()
}

/// Ratios of one run to the first, as one number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    pub geometric_mean: f64,
    pub median: f64,
    pub count: usize,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "geometric mean {:.3}, median {:.3}",
            self.geometric_mean, self.median
        )
    }
}

impl Summary {
    /// `None` of no ratios.
    pub fn of(ratios: impl Iterator<Item = f64>) -> Option<Self> {
        let mut ratios: Vec<f64> = ratios.collect();
        ratios.sort_by(f64::total_cmp);
        let count = ratios.len();
        (count > 0).then(|| Summary {
            geometric_mean: (ratios.iter().map(|r| r.ln()).sum::<f64>() / count as f64).exp(),
            median: median(&ratios),
            count,
        })
    }
}

/// A run's letter.
pub fn letter(n: usize) -> String {
    match u8::try_from(n) {
        Ok(n) if n < 26 => char::from(b'A' + n).to_string(),
        _ => format!("#{}", n + 1),
    }
}

/// What each letter stands for.
pub fn legend(runs: &[Run]) -> Vec<String> {
    let line = |(n, run): (usize, &Run)| format!("{}  {}, {}", letter(n), run.label(), run.date);
    runs.iter().enumerate().map(line).collect()
}

/// Who it is, in a line.
pub fn who(line: &Line<'_>) -> String {
    let tier = line.tier.map_or(String::new(), |tier| format!(" {tier}"));
    let clock = match line.clock {
        Some("host") => ", host clock",
        _ => "",
    };
    let sets = if line.one_set { ", one set of inputs" } else { "" };
    format!("{}{tier}{clock}{sets}", line.implementation)
}

/// The table, and below it the ratios as one number for each run.
pub fn print(runs: &[Run], out: &mut dyn Write) -> Result<(), Failure> {
    let lines = lines(runs);
    for line in legend(runs) {
        writeln!(out, "{line}")?;
    }
    let width = |of: &dyn Fn(&Line<'_>) -> String| lines.iter().map(|l| of(l).chars().count()).max().unwrap_or(0);
    let (names, whos) = (width(&|l| l.name.into()), width(&|l| who(l)));
    let bold = Style::new().bold();
    let mut suite = "";
    for line in &lines {
        if suite != line.suite {
            suite = line.suite;
            write!(out, "\n{bold}{suite:names$}  {:whos$}  {:>9}", "", letter(0))?;
            for n in 1..runs.len() {
                write!(out, "  {:>9}  {:>7}", letter(n), format!("/ {}", letter(0)))?;
            }
            writeln!(out, "{bold:#}")?;
        }
        write!(out, "{:names$}  {:whos$}", line.name, who(line))?;
        for (n, seconds) in line.seconds.iter().enumerate() {
            let none = || line.failures[n].unwrap_or("–").into();
            write!(out, "  {:>9}", seconds.map_or_else(none, |s| duration(s.median)))?;
            if n > 0 {
                let mark = if line.to_other { "*" } else { " " };
                match line.ratios[n] {
                    Some(ratio) => write!(out, "  {ratio:>6.3}{mark}")?,
                    None => write!(out, "  {:>7}", "")?,
                }
            }
        }
        writeln!(out)?;
    }
    writeln!(out)?;
    for line in summary(runs, &lines) {
        writeln!(out, "{line}")?;
    }
    Ok(())
}

/// What the table comes to, a line each.
pub fn summary(runs: &[Run], lines: &[Line<'_>]) -> Vec<String> {
    let mut said = vec![];
    for n in 0..runs.len() {
        let wrong = lines.iter().filter(|l| l.failures[n] == Some("WRONG")).count();
        if wrong > 0 {
            said.push(format!("{}: {wrong} rows are WRONG", letter(n)));
        }
    }
    for n in 1..runs.len() {
        let (a, b) = (letter(0), letter(n));
        match Summary::of(lines.iter().filter(|l| !l.to_other).filter_map(|l| l.ratios[n])) {
            Some(s) => said.push(format!("{b} / {a}: {s}, over {} rows that both have", s.count)),
            None => said.push(format!("{b} / {a}: no row that both have")),
        }
        let (ours, theirs) = (planned(&runs[0]), planned(&runs[n]));
        let both = theirs
            .iter()
            .filter_map(|(problem, seconds)| Some(seconds / ours.get(problem)?));
        if let Some(s) = Summary::of(both) {
            said.push(format!(
                "{b} / {a}, each by the planner's choice: {s}, over {} problems",
                s.count
            ));
        }
        for who in others(lines) {
            let own = lines.iter().filter(|l| l.to_other && self::who(l) == who);
            if let Some(s) = Summary::of(own.filter_map(|l| l.ratios[n])) {
                said.push(format!(
                    "{who} of {b} / the fastest of {a} (*): {s}, over {} rows",
                    s.count
                ));
            }
        }
        let only = |here: usize, there: usize| {
            lines
                .iter()
                .filter(|l| l.seconds[here].is_some() && l.seconds[there].is_none())
                .count()
        };
        let (first, second) = (only(0, n), only(n, 0));
        if first + second > 0 {
            said.push(format!(
                "{first} rows have a number in {a} only, {second} in {b} only (–)"
            ));
        }
    }
    said
}

/// Whoever the first run has no number of, each once.
fn others(lines: &[Line<'_>]) -> Vec<String> {
    let mut all: Vec<String> = lines.iter().filter(|l| l.to_other).map(who).collect();
    all.sort();
    all.dedup();
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(program: &str, rows: &[(&str, &str, Option<&str>, Option<f64>)]) -> Run {
        let rows: Vec<_> = rows
            .iter()
            .map(|(name, implementation, tier, seconds)| {
                let seconds = seconds.map(|s| serde_json::json!({"median": s, "low": s, "high": s, "confidence": 0.95, "runs": 9}));
                serde_json::json!({
                    "suite": "prefill", "name": name, "implementation": implementation, "tier": tier, "seconds": seconds,
                    "problem": {"op": "dense", "batch": 1, "heads": 8, "kv_heads": 8, "queries": 64, "keys": 64,
                                "head_dim": 64, "value_dim": 64, "dtype": "f16"},
                    "some other program's field": 7,
                })
            })
            .collect();
        let json = serde_json::json!({
            "format": "wgpu-attention-bench/1", "program": {"name": program, "version": "1"},
            "device": {"name": "some GPU"}, "results": rows,
        });
        Run::parse(&json.to_string()).unwrap()
    }

    fn text(runs: &[Run]) -> String {
        let mut out = vec![];
        print(runs, &mut out).unwrap_or_else(|_| panic!("printing"));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn ratios_are_to_the_same_kernels_of_the_first() {
        let a = run(
            "ours",
            &[
                ("x", "ours", Some("portable"), Some(2.0)),
                ("y", "ours", Some("portable"), Some(1.0)),
            ],
        );
        let b = run(
            "ours",
            &[
                ("x", "ours", Some("portable"), Some(1.0)),
                ("y", "ours", Some("portable"), Some(2.0)),
            ],
        );
        let runs = [a, b];
        let lines = lines(&runs);
        assert_eq!(
            lines.iter().map(|l| l.ratios[1]).collect::<Vec<_>>(),
            [Some(0.5), Some(2.0)]
        );
        let text = text(&runs);
        assert!(
            text.contains("B / A: geometric mean 1.000, median 1.250, over 2 rows"),
            "{text}"
        );
        assert!(!text.contains("only"), "{text}");
    }

    #[test]
    fn other_programs_are_held_against_the_fastest() {
        let a = run(
            "ours",
            &[
                ("x", "ours", Some("portable"), Some(4.0)),
                ("x", "ours", Some("cooperative"), Some(2.0)),
            ],
        );
        let b = run(
            "torch",
            &[
                ("x", "torch flash", None, Some(1.0)),
                ("z", "torch flash", None, Some(1.0)),
            ],
        );
        let text = text(&[a, b]);
        assert!(text.contains("0.500*"), "{text}");
        assert!(text.contains("B / A: no row that both have"), "{text}");
        assert!(
            text.contains("torch flash of B / the fastest of A (*): geometric mean 0.500, median 0.500, over 1 rows"),
            "{text}"
        );
        assert!(text.contains("2 rows have a number in A only, 2 in B only"), "{text}");
    }

    #[test]
    fn rows_without_a_number_are_none() {
        let a = run("ours", &[("x", "ours", None, None), ("y", "ours", None, Some(1.0))]);
        let b = run("ours", &[("x", "ours", None, Some(1.0))]);
        let text = text(&[a, b]);
        assert!(text.contains("1 rows have a number in A only, 1 in B only"), "{text}");
    }

    #[test]
    fn a_row_that_became_wrong_is_told() {
        let a = run("ours", &[("x", "ours", None, Some(1.0)), ("y", "ours", None, None)]);
        let mut b = run("ours", &[("x", "ours", None, None), ("y", "ours", None, None)]);
        b.results[0].failure = Some("WRONG o: rms 1.0".into());
        b.results[1].failure = Some("left out".into());
        let text = text(&[a, b]);
        assert!(
            text.contains("     WRONG") && text.contains("B: 1 rows are WRONG"),
            "{text}"
        );
        assert!(!text.contains("A: 1 rows") && !text.contains("failed"), "{text}");
    }

    #[test]
    fn what_planners_pick_is_compared_across_tiers() {
        let mut a = run(
            "ours",
            &[
                ("x", "ours", Some("portable"), Some(8.0)),
                ("x", "ours", Some("cooperative"), Some(1.0)),
            ],
        );
        let mut b = run("ours", &[("x", "ours", Some("portable"), Some(4.0))]);
        a.results[0].planned = Some(false);
        a.results[1].planned = Some(true);
        b.results[0].planned = Some(true);
        let text = text(&[a, b]);
        assert!(text.contains("B / A: geometric mean 0.500"), "{text}");
        let expected = "B / A, each by the planner's choice: geometric mean 4.000, median 4.000, over 1 problems";
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn clocks_are_not_compared() {
        let row = ("x", "ours", Some("portable"), Some(2.0));
        let (mut a, mut b) = (run("ours", &[row]), run("ours", &[row]));
        (a.results[0].clock, a.results[0].planned) = (Some("device".into()), Some(true));
        (b.results[0].clock, b.results[0].planned) = (Some("host".into()), Some(true));
        let text = text(&[a, b]);
        assert!(!text.contains("geometric mean") && !text.contains('*'), "{text}");
    }

    #[test]
    fn warm_and_cold_caches_are_not_compared() {
        let a = run("ours", &[("x", "ours", None, Some(2.0))]);
        let mut b = run("peers", &[("x", "ours", None, Some(1.0))]);
        b.results[0].input_sets = Some(1);
        let text = text(&[a, b]);
        assert!(text.contains("B / A: no row that both have"), "{text}");
        assert!(text.contains("ours, one set of inputs"), "{text}");
        assert!(!text.contains("0.500") && !text.contains('*'), "{text}");
    }

    #[test]
    fn a_problem_that_comes_twice_has_two_lines() {
        let a = run(
            "ours",
            &[("x", "ours", None, Some(1.0)), ("x", "ours", None, Some(2.0))],
        );
        let b = run(
            "ours",
            &[("x", "ours", None, Some(3.0)), ("x", "ours", None, Some(4.0))],
        );
        let runs = [a, b];
        let ratios: Vec<_> = lines(&runs).iter().map(|l| l.ratios[1]).collect();
        assert_eq!(ratios, [Some(3.0), Some(2.0)]);
    }

    #[test]
    fn a_problem_of_other_sizes_is_another() {
        let a = run("ours", &[("x", "ours", None, Some(1.0))]);
        let mut b = a.clone();
        b.results[0].problem.heads = 32;
        assert_eq!(lines(&[a, b]).len(), 2);
    }

    #[test]
    fn files_that_are_no_benchmark_are_told() {
        assert!(Run::parse("{}").unwrap_err().contains("missing field"));
        assert!(Run::parse("nonsense").unwrap_err().contains("not a benchmark's JSON"));
        let other = r#"{"format": "other/2", "program": {"name": "p", "version": "1"}, "device": {"name": "d"}, "results": []}"#;
        assert_eq!(
            Run::parse(other).unwrap_err(),
            "format `other/2`; this program reads `wgpu-attention-bench/1`"
        );
        let nothing = serde_json::to_string(&run("ours", &[("x", "ours", None, Some(1.0))])).unwrap();
        let nothing = nothing.replace("\"median\":1.0", "\"median\":0.0");
        let error = Run::parse(&nothing).unwrap_err();
        assert!(
            error.starts_with("row `x`: `seconds` needs a `median` above 0"),
            "{error}"
        );
    }
}
