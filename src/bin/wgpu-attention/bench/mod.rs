//! `bench`: what the GPU here can do, and how much of it the kernels use.

mod charts;
mod compare;
pub mod flags;
mod format;
mod page;
mod plot;
mod runner;
mod suites;
mod text;

use std::fs;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use wgpu_attention::bench::{is_software, rotation_bytes};
use wgpu_attention::measure::Ceilings;
use wgpu_attention::{DType, Gpu};

use crate::device::{self, GpuArgs};
use crate::progress::Progress;
use crate::{Failure, status};

pub use flags::DecayName;
use flags::OwnArgs;
pub use format::Device;
use format::{FORMAT, Run, Settings};
use runner::{Runner, Verdict};
use suites::{Entry, Suite};

/// Measure the kernels: time, and percent of what the GPU can do at most.
///
/// The GPU's own ceilings come first, measured by kernels that do nothing else: copy bandwidth, f32 and f16 multiply-adds,
/// and multiply-adds of cooperative matrices. A problem's bound is the ceiling that it comes to first: its operations at
/// the rate of its kernel's arithmetic (f32, or cooperative matrices), or its inputs and outputs, each moved once, at that
/// of a copy, or of plain reading where that is faster and hardly anything is written. Percent are of the bound's time to the
/// time measured. f32 and bf16 on matrices take three products for each, so a third of that ceiling is their most.
///
/// Before a kernel is timed it is checked against the float64 reference, on a small problem of the same variant and on some
/// rows of the problem itself; a wrong one gets no number, and the exit status is 1.
///
/// Times are medians by the GPU's own clock (the host's on software GPUs), with the interval that holds the true median
/// with 95 % confidence, from order statistics. Runs go on for half a second (20 ms on software GPUs) before any is counted,
/// because a GPU's clocks fall while the processor works; then until the interval is within 2 % of the median on either
/// side, the row's --budget is spent, or there were 1000. Where their level changes on the way, the earlier half is thrown away. Clocks fall
/// between short runs too, so that a GPU is at work on multiply-adds for a millisecond or two before each run. Sets of inputs
/// take turns, so that none is found in a cache.
///
/// Without --op it measures its suites: each problem in each tier that the GPU has kernels of, with --quick in the tier
/// that the planner picks.
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:
  wgpu-attention bench --quick
  wgpu-attention bench --suite prefill,decode --filter D128/causal/f16 --json a.json --html a.html
  wgpu-attention bench --op dense --n 1024,4096 --d 128 --heads 32 --kv-heads 8 --dtype f16 --mask causal,window:256 --tier each
  wgpu-attention bench --op dense --n 1 --keys 65536 --batch 8
  wgpu-attention bench --compare a.json b.json --html comparison.html")]
pub struct BenchArgs {
    /// Measure a few problems of each kind: less than a minute.
    #[arg(long, conflicts_with = "op")]
    quick: bool,
    /// Measure these suites [default: all].
    #[arg(long, value_delimiter = ',', value_enum, value_name = "SUITE", conflicts_with = "op")]
    suite: Vec<Suite>,
    /// Measure only problems with this in their name.
    #[arg(long, value_name = "TEXT", conflicts_with = "op")]
    filter: Option<String>,
    /// Measure in each tier that the GPU has, as --tier each; suites without --quick do so anyway.
    #[arg(long, conflicts_with = "tier")]
    tiers: bool,
    /// Seconds of timed runs of a row at most; rows that six runs would take longer are left out [default: 5, with --quick 2].
    #[arg(long, value_name = "SECONDS", value_parser = flags::seconds)]
    budget: Option<f64>,
    /// Write the results as JSON; `-` is standard output, in place of the table.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a report with plots as one HTML file, which needs nothing else.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Put the results of such files side by side: GPUs, versions, or other programs; of one file, show them again.
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with_all = ["quick", "suite", "filter", "tiers", "budget", "json", "op", "tier", "adapter", "backend", "minimal"])]
    compare: Vec<PathBuf>,
    #[command(flatten)]
    own: OwnArgs,
    #[command(flatten)]
    gpu: GpuArgs,
}

/// Half the width of an interval, relative to the median, at which a row is done; and its confidence.
const HALF_WIDTH: f64 = 0.02;
const CONFIDENCE: f64 = 0.95;

pub fn bench(args: &BenchArgs, out: &mut dyn Write) -> Result<ExitCode, Failure> {
    if !args.compare.is_empty() {
        let runs = args
            .compare
            .iter()
            .map(|path| Run::load(path))
            .collect::<Result<Vec<_>, _>>()?;
        if let Some(path) = &args.html {
            let page = if let [run] = &runs[..] {
                page::report(run)
            } else {
                page::comparison(&runs)
            };
            write_file(path, &page)?;
        }
        compare::print(&runs, out)?;
        return Ok(status(true));
    }
    let gpus = tiers(args)?;
    let entries = entries(args, is_software(&gpus[0]))?;
    let to_stdout = args.json.as_deref() == Some(Path::new("-"));
    let mut nowhere = io::sink();
    let table: &mut dyn Write = if to_stdout { &mut nowhere } else { out };
    let Measured { run, wrong, failed } = measure(args, &gpus, &entries, table)?;
    let measured = run.results.iter().any(|row| row.seconds.is_some());
    if to_stdout {
        write!(out, "{}", json(&run)?)?;
    }
    write_json(args, &run)?;
    if let Some(path) = &args.html {
        write_file(path, &page::report(&run))?;
    }
    if let Some(failure) = failed {
        return Err(Failure::Message(format!("the device failed: {failure}")));
    }
    if wrong == 0 && !measured {
        return Err(Failure::Message("no problem could be measured".into()));
    }
    Ok(status(wrong == 0))
}

fn json(run: &Run) -> Result<String, Failure> {
    let json = serde_json::to_string_pretty(run).map_err(|e| Failure::Message(format!("JSON: {e}")))?;
    Ok(json + "\n")
}

/// The file of `--json`: whole, or the one before, never half of one.
fn write_json(args: &BenchArgs, run: &Run) -> Result<(), Failure> {
    let Some(path) = args.json.as_deref().filter(|path| *path != Path::new("-")) else {
        return Ok(());
    };
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    write_file(&new, &json(run)?)?;
    fs::rename(&new, path).map_err(|e| Failure::Message(format!("{}: {e}", path.display())))
}

/// The device, once for every tier to measure in.
fn tiers(args: &BenchArgs) -> Result<Vec<Gpu>, Failure> {
    let suites = args.own.op.is_none() && !args.quick;
    let gpus = args.gpu.request_tiers()?;
    match !args.gpu.names_tier() && (suites || args.tiers) {
        true => device::every_tier(&gpus[0]),
        false => Ok(gpus),
    }
}

/// The problems that are asked for.
fn entries(args: &BenchArgs, software: bool) -> Result<Vec<Entry>, Failure> {
    if args.own.op.is_some() {
        return args.own.entries();
    }
    let suites = if args.suite.is_empty() {
        &Suite::ALL[..]
    } else {
        &args.suite
    };
    let of = |suite: &Suite| {
        if args.quick {
            suite.quick(software)
        } else {
            suite.entries(software)
        }
    };
    let mut all: Vec<Entry> = suites.iter().flat_map(of).collect();
    if let Some(filter) = &args.filter {
        all.retain(|e| e.name.contains(filter));
        if all.is_empty() {
            let message = format!(
                "--filter `{filter}`: no problem has that in its name; names are as in D128/causal/f16/softmax/N4096"
            );
            return Err(Failure::Message(message));
        }
    }
    Ok(all)
}

/// What came of a benchmark.
struct Measured {
    run: Run,
    /// Rows whose kernel is wrong.
    wrong: usize,
    /// What the device said when it failed; no row comes after that.
    failed: Option<String>,
}

/// Measures all of it, a line each as soon as it is there, up to where the device fails. The file is kept current, so that a run
/// that is ended early leaves what it has.
fn measure(args: &BenchArgs, gpus: &[Gpu], entries: &[Entry], out: &mut dyn Write) -> Result<Measured, Failure> {
    let gpu = &gpus[0];
    let settings = Settings {
        confidence: CONFIDENCE,
        half_width: HALF_WIDTH,
        budget_seconds: args.budget.unwrap_or(if args.quick { 2.0 } else { 5.0 }),
        rotation_bytes: rotation_bytes(gpu),
    };
    let progress = Progress::new();
    progress.show("the GPU's ceilings");
    let ceilings = Ceilings::measure(gpu)?;
    progress.clear();
    let mut run = Run {
        format: FORMAT.into(),
        date: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        program: format::Program {
            name: env!("CARGO_PKG_NAME").into(),
            version: env!("CARGO_PKG_VERSION").into(),
        },
        device: device::to_bench(gpu.info()),
        ceilings: Some((&ceilings).into()),
        settings: Some(settings),
        results: vec![],
    };
    text::head(&run, out)?;
    let mut table = text::Table::new(entries, settings.rotation_bytes, out);
    let mut runner = Runner::new(settings, ceilings, args.own.op.is_some());
    let total = entries.len() * gpus.len();
    let (mut wrong, mut failed) = (0, None);
    for (n, (entry, gpu)) in entries
        .iter()
        .flat_map(|e| gpus.iter().map(move |g| (e, g)))
        .enumerate()
    {
        progress.show(format_args!(
            "[{}/{total}] {} {}{}",
            n + 1,
            entry.suite,
            entry.name,
            device::forced(gpu)
        ));
        // wgpu panics where a device is lost.
        let verdict = catch_unwind(AssertUnwindSafe(|| runner.measure(gpu, entry)));
        progress.clear();
        let verdict =
            verdict.unwrap_or_else(|panic| Verdict::Failed(runner::failed_row(gpu, entry, &message(&*panic))));
        let row = match verdict {
            Verdict::Measured(row) => row,
            Verdict::Wrong(row) => {
                wrong += 1;
                row
            }
            Verdict::Failed(row) => {
                failed = row.failure.clone();
                row
            }
            Verdict::LeftOut => continue,
        };
        table.row(&row)?;
        run.results.push(row);
        write_json(args, &run)?;
        if failed.is_some() {
            break;
        }
    }
    table.end(&run.results)?;
    Ok(Measured { run, wrong, failed })
}

/// What a panic says.
fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or(panic.downcast_ref::<&str>().copied())
        .unwrap_or("a panic")
        .into()
}

fn write_file(path: &Path, text: &str) -> Result<(), Failure> {
    fs::write(path, text).map_err(|e| Failure::Message(format!("{}: {e}", path.display())))
}

/// Storage types by name.
fn dtype(name: &str) -> Result<DType, String> {
    let all = [DType::F32, DType::F16, DType::BF16];
    all.into_iter()
        .find(|d| d.name() == name)
        .ok_or_else(|| "f32, f16 or bf16".into())
}
