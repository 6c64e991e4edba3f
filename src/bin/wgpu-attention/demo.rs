//! `demo`: attention of a real model on the GPU here, a picture of it, and every case.

use std::io::Write;
use std::process::ExitCode;

use clap::Args;
use clap::builder::styling::{AnsiColor, Style};
use serde_json::json;
use wgpu_attention::case::{Case, DenseCase};
use wgpu_attention::compare::Tolerance;
use wgpu_attention::{Dense, DenseInputs, Gpu};

use crate::cases;
use crate::device::{self, GpuArgs};
use crate::heat_map::Matrix;
use crate::ops::Problem;
use crate::progress::Progress;
use crate::verify;
use crate::{Failure, run, status};

/// Compute a real model's attention on the GPU, show where a head looks, and run every case.
///
/// The exit status is 1 if a result is wrong.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// The head to show.
    #[arg(long, default_value_t = 0, value_name = "N")]
    head: u32,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    gpu: GpuArgs,
}

/// Query, key and value of one layer of a sentence-embedding model over a paragraph of English.
const MODEL: &str = "dense/minilm_layer3.safetensors";

/// How far from 1 the weights of a row may add up to.
const ROW_SUM_BOUND: f64 = 1e-5;

pub fn demo(args: &DemoArgs, out: &mut dyn Write) -> Result<ExitCode, Failure> {
    let directory = cases::of_project().ok_or_else(|| {
        let message = "the demo needs the project's case files (tests/cases); run it in a checkout of the project";
        Failure::Message(message.into())
    })?;
    let case = Case::load(directory.join(MODEL))?;
    let problem = Problem::of(&case).map_err(Failure::Message)?;
    let Problem::Dense(dense) = problem else {
        return Err(Failure::Message(format!("{MODEL}: not a case of op `dense`")));
    };
    let p = &dense.problem;
    if args.head >= p.heads {
        let message = format!("--head {}: the model has heads 0 to {}", args.head, p.heads - 1);
        return Err(Failure::Message(message));
    }
    let gpu = args.gpu.request()?;
    let progress = Progress::new();
    progress.show("attention of a real model");
    let plan = problem.plan(&gpu)?;
    let errors = plan.run(&Tolerance::for_dtype(case.dtype))?.errors;
    let times = plan.time(&gpu)?;
    progress.show("weights of a head");
    let weights = attention_weights(&gpu, dense, args.head)?;
    let matrix = Matrix {
        values: &weights,
        columns: p.keys as usize,
    };
    let off = row_sum_error(&matrix);
    progress.clear();
    let model_right = errors.passed() && off <= ROW_SUM_BOUND;

    if args.json {
        let files = cases::find(&directory)?;
        let summary = verify::run_all(&gpu, files, |_| Ok(()))?;
        let mut json = summary.to_json();
        json["adapter"] = device::to_json(gpu.info());
        json["tier"] = plan.tier().name().into();
        json["model"] = json!({
            "source": case.source,
            "kernel": plan.label(),
            "median_seconds": times.median(),
            "runs": times.seconds.len(),
            "device_clock": times.on_device,
            "errors": errors.to_json(),
            "head": args.head,
            "row_sum_error": off,
            "passed": model_right,
        });
        writeln!(out, "{json:#}")?;
        return Ok(status(model_right && summary.right()));
    }

    let bold = Style::new().bold();
    writeln!(out, "{bold}A real model's attention{bold:#}")?;
    writeln!(out, "model     {}", case.source)?;
    writeln!(out, "problem   {}", problem.describe())?;
    writeln!(out, "adapter   {}", device::describe(gpu.info()))?;
    writeln!(out, "kernel    {}, {} tier", plan.label(), plan.tier())?;
    writeln!(out, "time      {}", run::describe_times(&times))?;
    for (i, comparison) in errors.0.iter().enumerate() {
        let name = if i == 0 { "errors" } else { "" };
        writeln!(out, "{name:10}{comparison}  {}", word(comparison.passed()))?;
    }
    writeln!(out)?;
    writeln!(out, "{bold}Where head {} looks{bold:#}", args.head)?;
    let colours = anstream::AutoStream::choice(&std::io::stdout()) != anstream::ColorChoice::Never;
    writeln!(
        out,
        "The attention weights themselves, from the same kernel with the identity as values. The {} a cell, the\n\
         more a query (row) takes from that key (column). Tokens go by their positions, 0 to {}.\n",
        if colours { "brighter" } else { "denser" },
        p.keys - 1
    )?;
    matrix.draw(out, colours)?;
    writeln!(
        out,
        "\nweights   every row adds up to 1 within {off:.1e} (≤ {ROW_SUM_BOUND:.0e})  {}",
        word(off <= ROW_SUM_BOUND)
    )?;
    writeln!(out, "strongest {}; the start token, 0, left out", strongest(&matrix))?;
    writeln!(out)?;

    writeln!(out, "{bold}Every case{bold:#}")?;
    let summary = verify::print_all(&gpu, cases::find(&directory)?, out)?;
    Ok(status(model_right && summary.right()))
}

fn word(right: bool) -> String {
    let (word, colour) = match right {
        true => ("ok", AnsiColor::Green.on_default()),
        false => ("FAILED", AnsiColor::Red.on_default()),
    };
    format!("{colour}{word}{colour:#}")
}

/// The attention weights `[Nq, Nk]` of one head: o is the weights times v, so with rows of the identity as v it is
/// the weights themselves, as many columns at a time as a value may have.
fn attention_weights(gpu: &Gpu, case: &DenseCase, head: u32) -> Result<Vec<f32>, Failure> {
    const COLUMNS: u32 = 256;
    let p = &case.problem;
    let slice = |values: &[f32], head: u32, rows: u32| -> Vec<f32> {
        let size = rows as usize * p.head_dim as usize;
        values[head as usize * size..][..size].to_vec()
    };
    let q = slice(&case.tensors.q, head, p.queries);
    let k = slice(&case.tensors.k, head / (p.heads / p.kv_heads()), p.keys);
    let mut weights = vec![0.0; p.queries as usize * p.keys as usize];
    for first in (0..p.keys).step_by(COLUMNS as usize) {
        let width = COLUMNS.min(p.keys - first);
        let problem = Dense {
            batch: 1,
            heads: 1,
            kv_heads: None,
            value_dim: Some(width),
            lse: false,
            ..p.clone()
        };
        let mut v = vec![0.0; p.keys as usize * width as usize];
        for column in 0..width {
            v[((first + column) * width + column) as usize] = 1.0;
        }
        let inputs = DenseInputs {
            q: &q,
            k: &k,
            v: &v,
            ..Default::default()
        };
        let output = problem.plan(gpu)?.run_blocking(&inputs)?;
        for (i, row) in output.o.chunks(width as usize).enumerate() {
            let at = i * p.keys as usize + first as usize;
            weights[at..at + row.len()].copy_from_slice(row);
        }
    }
    Ok(weights)
}

/// The largest |sum of a row − 1|; infinite where a sum is not a number.
fn row_sum_error(matrix: &Matrix<'_>) -> f64 {
    let sums = matrix
        .values
        .chunks(matrix.columns)
        .map(|row| row.iter().map(|&w| f64::from(w)).sum::<f64>());
    let errors = sums.map(|sum| (sum - 1.0).abs());
    errors.fold(
        0.0,
        |most, error| if error.is_nan() { f64::INFINITY } else { most.max(error) },
    )
}

/// The largest weights on keys other than the first: the model's start token, where a head looks that finds nothing.
fn strongest(matrix: &Matrix<'_>) -> String {
    let place = |at: usize| (at / matrix.columns, at % matrix.columns);
    let all = matrix
        .values
        .iter()
        .enumerate()
        .map(|(at, &weight)| (place(at), weight));
    let mut links: Vec<_> = all.filter(|((_, key), _)| *key > 0).collect();
    links.sort_by(|a, b| b.1.total_cmp(&a.1));
    let named = |((query, key), weight): &((usize, usize), f32)| format!("{query} → {key} ({weight:.2})");
    links.iter().take(5).map(named).collect::<Vec<_>>().join(", ")
}
