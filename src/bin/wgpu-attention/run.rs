//! `run`: one case file, closely.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::Args;
use clap::builder::styling::AnsiColor;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use wgpu_attention::case::Case;
use wgpu_attention::compare::Tolerance;
use wgpu_attention::measure::Times;

use crate::device::{self, GpuArgs};
use crate::ops::{Problem, Solution};
use crate::progress::Progress;
use crate::{Failure, duration, status};

/// Run one case file: the kernel chosen, its time, its errors; and keep the outputs.
///
/// The exit status is 1 if the result is wrong.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The case file.
    #[arg(value_name = "CASE")]
    case: PathBuf,
    /// Write the outputs there: a safetensors file with o and whatever else the case expects, such as lse, as f32.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    gpu: GpuArgs,
}

pub fn run(args: &RunArgs, out: &mut dyn Write) -> Result<ExitCode, Failure> {
    let case = Case::load(&args.case)?;
    let problem = Problem::of(&case).map_err(|why| Failure::Message(format!("{}: {why}", args.case.display())))?;
    let gpu = args.gpu.request()?;
    let progress = Progress::new();

    progress.show("planning");
    let start = Instant::now();
    let plan = problem.plan(&gpu)?;
    let planning = start.elapsed().as_secs_f64();
    progress.show("running");
    let Solution { outputs, errors } = plan.run(&Tolerance::for_dtype(case.dtype))?;
    progress.show("timing");
    let times = plan.time(&gpu)?;
    progress.clear();

    if let Some(file) = &args.out {
        let about = [
            ("case", case.name.clone()),
            ("adapter", device::describe(gpu.info())),
            ("kernel", plan.label()),
        ];
        save(file, outputs, &about)?;
    }
    if args.json {
        let mut json = json!({
            "case": case.name,
            "source": case.source,
            "adapter": device::to_json(gpu.info()),
            "tier": plan.tier().name(),
            "kernel": plan.label(),
            "planning_seconds": planning,
            "median_seconds": times.median(),
            "runs": times.seconds.len(),
            "device_clock": times.on_device,
            "errors": errors.to_json(),
            "passed": errors.passed(),
        });
        if let (Some(json), Value::Object(division)) = (json.as_object_mut(), plan.division_json()) {
            json.extend(division);
        }
        writeln!(out, "{json:#}")?;
        return Ok(status(errors.passed()));
    }
    let (word, colour) = match errors.passed() {
        true => ("ok", AnsiColor::Green.on_default()),
        false => ("FAILED", AnsiColor::Red.on_default()),
    };
    writeln!(out, "case      {}: {}", case.name, case.source)?;
    writeln!(out, "problem   {}", problem.describe())?;
    writeln!(out, "adapter   {}", device::describe(gpu.info()))?;
    writeln!(out, "kernel    {}, {} tier", plan.label(), plan.tier())?;
    if let Some(division) = plan.division() {
        writeln!(out, "          {division}")?;
    }
    writeln!(out, "planning  {}", duration(planning))?;
    writeln!(out, "time      {}", describe_times(&times))?;
    for (i, comparison) in errors.0.iter().enumerate() {
        writeln!(out, "{:10}{comparison}", if i == 0 { "errors" } else { "" })?;
    }
    writeln!(out, "result    {colour}{word}{colour:#}")?;
    if let Some(file) = &args.out {
        writeln!(out, "wrote     {}", file.display())?;
    }
    Ok(status(errors.passed()))
}

pub fn describe_times(times: &Times) -> String {
    let clock = if times.on_device {
        "device clock"
    } else {
        "host clock, submission included"
    };
    format!(
        "{}, median of {} runs ({clock})",
        duration(times.median()),
        times.seconds.len()
    )
}

fn save(
    file: &Path,
    outputs: Vec<(&'static str, Vec<usize>, Vec<f32>)>,
    about: &[(&str, String)],
) -> Result<(), Failure> {
    let failed = |error: String| Failure::Message(format!("{}: {error}", file.display()));
    let bytes = |values: Vec<f32>| -> Vec<u8> { values.iter().flat_map(|v| v.to_le_bytes()).collect() };
    let tensors: Vec<_> = outputs
        .into_iter()
        .map(|(name, shape, values)| (name, shape, bytes(values)))
        .collect();
    let mut views = Vec::new();
    for (name, shape, data) in &tensors {
        let view = TensorView::new(Dtype::F32, shape.clone(), data).map_err(|e| failed(e.to_string()))?;
        views.push((*name, view));
    }
    let about: HashMap<_, _> = about.iter().map(|(k, v)| (k.to_string(), v.clone())).collect();
    let bytes = safetensors::serialize(views, Some(about)).map_err(|e| failed(e.to_string()))?;
    std::fs::write(file, bytes).map_err(|e| failed(e.to_string()))
}
