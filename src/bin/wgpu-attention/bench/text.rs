//! The results as a table, a line as soon as it is there.

use std::io::Write;

use clap::builder::styling::{AnsiColor, Style};

use super::format::{Ceilings, Row, Run, Seconds};
use super::suites::Entry;
use crate::{Failure, duration};

/// Device, date, ceilings, and how it is measured.
pub fn head(run: &Run, out: &mut dyn Write) -> Result<(), Failure> {
    writeln!(out, "{}", run.device.label())?;
    writeln!(out, "{} {}, {}", run.program.name, run.program.version, run.date)?;
    if let Some(ceilings) = &run.ceilings {
        writeln!(out, "ceilings  {}", ceilings_line(ceilings))?;
        if let (Some(first), Some(further)) = (ceilings.launch_seconds, ceilings.dependent_launch_seconds) {
            let (first, further) = (duration(first), duration(further));
            writeln!(
                out,
                "launches  {first} for one, {further} for each that waits for the one before"
            )?;
        }
    }
    if let Some(s) = &run.settings {
        writeln!(
            out,
            "times     medians with their {:.0} % intervals, until ±{:.0} % or {} of runs; inputs of {} MiB take turns",
            s.confidence * 100.0,
            s.half_width * 100.0,
            duration(s.budget_seconds),
            s.rotation_bytes >> 20
        )?;
    }
    Ok(())
}

fn ceilings_line(c: &Ceilings) -> String {
    let all = [
        ("copy", c.copy_bytes_per_second.map(bytes_rate)),
        ("read", c.read_bytes_per_second.map(bytes_rate)),
        ("f32", c.f32_flops_per_second.map(flops_rate)),
        ("f16", c.f16_flops_per_second.map(flops_rate)),
        ("cooperative", c.cooperative_flops_per_second.map(flops_rate)),
    ];
    let known = all
        .into_iter()
        .filter_map(|(name, rate)| Some(format!("{name} {}", rate?)));
    known.collect::<Vec<_>>().join(", ")
}

/// Prints rows under a heading for each suite.
pub struct Table<'a> {
    out: &'a mut dyn Write,
    rotation_bytes: u64,
    width: usize,
    suite: String,
}

impl<'a> Table<'a> {
    pub fn new(entries: &[Entry], rotation_bytes: u64, out: &'a mut dyn Write) -> Self {
        Table {
            out,
            rotation_bytes,
            width: entries
                .iter()
                .map(|e| e.name.chars().count())
                .max()
                .unwrap_or(0)
                .max(20),
            suite: String::new(),
        }
    }

    pub fn row(&mut self, row: &Row) -> Result<(), Failure> {
        let width = self.width;
        if self.suite != row.suite {
            self.suite = row.suite.clone();
            let bold = Style::new().bold();
            let columns = format!(
                "{:11}  {:>9}  {:19}  {:>12}  of ceiling",
                "tier", "time", "95 % interval", "rate"
            );
            writeln!(self.out, "\n{bold}{:width$}  {columns}{bold:#}", row.suite)?;
        }
        write!(
            self.out,
            "{:width$}  {:11}",
            row.name,
            row.tier.as_deref().unwrap_or("")
        )?;
        match (&row.seconds, &row.failure) {
            (Some(seconds), _) => writeln!(
                self.out,
                "  {:>9}  {:19}  {:>12}  {}",
                duration(seconds.median),
                interval(seconds),
                rate(row),
                of_ceiling(row, self.rotation_bytes)
            )?,
            (None, failure) => {
                let why = failure.as_deref().unwrap_or("no number");
                let colour = match why.starts_with("WRONG") {
                    true => AnsiColor::Red.on_default(),
                    false => AnsiColor::Yellow.on_default(),
                };
                writeln!(self.out, "  {colour}{why}{colour:#}")?;
            }
        }
        Ok(self.out.flush()?)
    }

    /// What the table as a whole says.
    pub fn end(&mut self, rows: &[Row]) -> Result<(), Failure> {
        let count = |is: &dyn Fn(&Row) -> bool| rows.iter().filter(|row| is(row)).count();
        let wrong = count(&|row| row.failure.as_deref().is_some_and(|f| f.starts_with("WRONG")));
        let measured = count(&|row| row.seconds.is_some());
        let wide = count(&|row| row.seconds.is_some_and(|s| half_width(&s) > super::HALF_WIDTH));
        let warm = count(&|row| row.within_a_cache(self.rotation_bytes).is_some());
        if warm > 0 {
            writeln!(
                self.out,
                "\nMiB of inputs: {warm} rows had fewer than {} MiB take turns, which a cache may hold",
                self.rotation_bytes >> 20
            )?;
        }
        writeln!(
            self.out,
            "\n{measured} measured ({wide} less sure than ±{:.0} %), {wrong} wrong, {} without a number",
            super::HALF_WIDTH * 100.0,
            rows.len() - measured - wrong
        )?;
        Ok(())
    }
}

/// Half the interval's width, relative to the median.
pub fn half_width(s: &Seconds) -> f64 {
    (s.high - s.low) / 2.0 / s.median
}

/// The interval in one unit.
pub fn interval(s: &Seconds) -> String {
    let less = if s.confidence < super::CONFIDENCE {
        format!(" ({:.0} %)", s.confidence * 100.0)
    } else {
        String::new()
    };
    let (low, high) = (duration(s.low), duration(s.high));
    match (low.split_once(' '), high.split_once(' ')) {
        (Some((number, unit)), Some((_, other))) if unit == other => format!("{number} – {high}{less}"),
        _ => format!("{low} – {high}{less}"),
    }
}

pub fn rate(row: &Row) -> String {
    let unit = if row.is_bound_by_memory() {
        bytes_rate
    } else {
        flops_rate
    };
    row.rate().map_or(String::new(), unit)
}

fn of_ceiling(row: &Row, rotation_bytes: u64) -> String {
    let warm = row
        .within_a_cache(rotation_bytes)
        .map_or(String::new(), |bytes| format!(", {}", of_inputs(bytes)));
    match (row.fraction_of_bound, &row.bound) {
        (Some(fraction), Some(bound)) => format!("{:.1} % of {bound}{warm}", fraction * 100.0),
        _ => String::new(),
    }
}

/// What is said of a row whose inputs a cache may have held.
pub fn of_inputs(bytes: u64) -> String {
    match bytes >> 20 {
        0 => format!("{} KiB of inputs", bytes >> 10),
        mib => format!("{mib} MiB of inputs"),
    }
}

/// A round number of seconds, as an axis has it.
pub fn tick_duration(seconds: f64) -> String {
    let (value, unit) = match seconds {
        s if s < 0.9999e-6 => (s * 1e9, "ns"),
        s if s < 0.9999e-3 => (s * 1e6, "µs"),
        s if s < 0.9999 => (s * 1e3, "ms"),
        s => (s, "s"),
    };
    format!("{} {unit}", (value * 1e3).round() / 1e3)
}

pub fn flops_rate(rate: f64) -> String {
    match rate {
        r if r < 1e9 => format!("{:.1} MFLOP/s", r / 1e6),
        r if r < 1e12 => format!("{:.1} GFLOP/s", r / 1e9),
        r => format!("{:.1} TFLOP/s", r / 1e12),
    }
}

pub fn bytes_rate(rate: f64) -> String {
    match rate {
        r if r < 1e9 => format!("{:.1} MB/s", r / 1e6),
        r if r < 1e12 => format!("{:.1} GB/s", r / 1e9),
        r => format!("{:.2} TB/s", r / 1e12),
    }
}
