//! `run`: one case file, closely.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::Args;
use clap::builder::styling::AnsiColor;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;
use wgpu_attention::case::Case;
use wgpu_attention::compare::{self, Tolerance};
use wgpu_attention::dense::host::DenseBuffers;
use wgpu_attention::measure::{self, Effort, Times};
use wgpu_attention::{Dense, DenseInputs, DenseOutput, DensePlan, Gpu, Weighting};

use crate::cases;
use crate::device::{self, GpuArgs};
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
    /// Write the outputs there: a safetensors file with o and, where the case expects one, lse, as f32.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    gpu: GpuArgs,
}

pub fn run(args: &RunArgs, out: &mut dyn Write) -> Result<ExitCode, Failure> {
    let case = Case::load(&args.case)?;
    let dense = cases::dense(&case).map_err(|why| Failure::Message(format!("{}: {why}", args.case.display())))?;
    let gpu = args.gpu.request()?;
    let progress = Progress::new();

    progress.show("planning");
    let start = Instant::now();
    let plan = dense.problem.plan(&gpu)?;
    let planning = start.elapsed().as_secs_f64();
    progress.show("running");
    let output = plan.run_blocking(&dense.inputs())?;
    progress.show("timing");
    let times = time(&gpu, &plan, &dense.inputs())?;
    progress.clear();

    let comparison = compare::dense(&output, &dense.expected(), &Tolerance::for_dtype(case.dtype));
    if let Some(file) = &args.out {
        let about = [
            ("case", case.name.clone()),
            ("adapter", device::describe(gpu.info())),
            ("kernel", plan.label().to_string()),
        ];
        save(file, &dense.problem, &output, &about)?;
    }
    if args.gpu.json {
        let json = json!({
            "case": case.name,
            "source": case.source,
            "adapter": device::to_json(gpu.info()),
            "tier": args.gpu.tier().name(),
            "kernel": plan.label(),
            "splits": plan.splits(),
            "dispatches": plan.parts(),
            "planning_seconds": planning,
            "median_seconds": times.median(),
            "runs": times.seconds.len(),
            "device_clock": times.on_device,
            "errors": cases::comparison_json(&comparison),
            "passed": comparison.passed(),
        });
        writeln!(out, "{json:#}")?;
        return Ok(status(comparison.passed()));
    }
    let (word, colour) = match comparison.passed() {
        true => ("ok", AnsiColor::Green.on_default()),
        false => ("FAILED", AnsiColor::Red.on_default()),
    };
    writeln!(out, "case      {}: {}", case.name, case.source)?;
    writeln!(out, "problem   {}", describe(&dense.problem))?;
    writeln!(out, "adapter   {}", device::describe(gpu.info()))?;
    writeln!(out, "kernel    {}, {} tier", plan.label(), args.gpu.tier().name())?;
    if plan.splits() > 1 {
        writeln!(out, "          keys in {} shares, merged", plan.splits())?;
    }
    writeln!(out, "planning  {}", duration(planning))?;
    writeln!(out, "time      {}", describe_times(&times))?;
    writeln!(out, "errors    {}", comparison.o)?;
    if let Some(lse) = &comparison.lse {
        writeln!(out, "          {lse}")?;
    }
    writeln!(out, "result    {colour}{word}{colour:#}")?;
    if let Some(file) = &args.out {
        writeln!(out, "wrote     {}", file.display())?;
    }
    Ok(status(comparison.passed()))
}

/// Times the kernels alone: inputs are on the device, outputs stay there.
pub fn time(gpu: &Gpu, plan: &DensePlan, inputs: &DenseInputs<'_>) -> Result<Times, Failure> {
    let buffers = DenseBuffers::upload(gpu, plan.problem(), inputs)?;
    let times = measure::time(gpu, &Effort::default(), |pass, _| {
        buffers.with_tensors(|tensors| plan.encode_in(pass, tensors))
    });
    Ok(times?)
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

/// Shape and type in one line.
pub fn describe(p: &Dense) -> String {
    let mut text = format!("batch {}, heads {}", p.batch, p.heads);
    if p.kv_heads() != p.heads {
        text += &format!(" on {} of keys and values", p.kv_heads());
    }
    text += &format!(", queries {}, keys {}, head dim {}", p.queries, p.keys, p.head_dim);
    if p.value_dim() != p.head_dim {
        text += &format!(" (values {})", p.value_dim());
    }
    let weighting = match p.weighting {
        Weighting::Softmax => "softmax",
        Weighting::Sigmoid { .. } => "sigmoid",
    };
    text + &format!(", {}, {weighting}", p.dtype)
}

fn save(file: &Path, p: &Dense, output: &DenseOutput<f32>, about: &[(&str, String)]) -> Result<(), Failure> {
    let failed = |error: String| Failure::Message(format!("{}: {error}", file.display()));
    let rows = [p.batch, p.heads, p.queries].map(|n| n as usize);
    let bytes = |values: &[f32]| -> Vec<u8> { values.iter().flat_map(|v| v.to_le_bytes()).collect() };
    let o_shape = [rows.as_slice(), &[p.value_dim() as usize]].concat();
    let mut tensors = vec![("o", o_shape, bytes(&output.o))];
    if let Some(lse) = &output.lse {
        tensors.push(("lse", rows.to_vec(), bytes(lse)));
    }
    let mut views = Vec::new();
    for (name, shape, data) in &tensors {
        let view = TensorView::new(Dtype::F32, shape.clone(), data).map_err(|e| failed(e.to_string()))?;
        views.push((*name, view));
    }
    let about: HashMap<_, _> = about.iter().map(|(k, v)| (k.to_string(), v.clone())).collect();
    let bytes = safetensors::serialize(views, Some(about)).map_err(|e| failed(e.to_string()))?;
    std::fs::write(file, bytes).map_err(|e| failed(e.to_string()))
}
