//! `tune`: measures candidate tiles on this GPU and keeps the fastest in a file.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use wgpu_attention::bench::dense::{Buffers, checked_plan};
use wgpu_attention::dense::tile::{DeviceClass, KernelChoice, Tuning, alternatives};
use wgpu_attention::measure::{Effort, time};
use wgpu_attention::tuned::{Tuned, TunedDense};
use wgpu_attention::{DType, Dense, Gpu};

use crate::device::{self, GpuArgs};
use crate::progress::Progress;
use crate::{Failure, duration, status};

/// Measure candidate tiles of dense attention on this GPU and write the fastest to a file that a plan can be given.
///
/// Every candidate is checked against the float64 reference before it is timed. A program reads the file with
/// `Tuned::load` and gives `Tuned::dense` to `Dense::plan_with`. A tile is kept where it is at least 3 % faster than the
/// planner's own.
#[derive(Debug, Args)]
pub struct TuneArgs {
    /// Where to write.
    #[arg(long, default_value = "tuned.json")]
    out: PathBuf,
    /// Head sizes.
    #[arg(long, value_delimiter = ',', default_value = "64,128")]
    d: Vec<u32>,
    /// Lengths of prompts.
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    n: Vec<u32>,
    /// Lengths of caches, for decode.
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    keys: Vec<u32>,
    /// Query heads.
    #[arg(long)]
    heads: Option<u32>,
    /// Heads of keys and values.
    #[arg(long)]
    kv_heads: Option<u32>,
    /// Storage types.
    #[arg(long, value_delimiter = ',', value_enum, default_value = "f32,f16")]
    dtype: Vec<Storage>,
    /// Seconds of timed runs for each candidate.
    #[arg(long, default_value_t = 0.1)]
    seconds: f64,
    #[command(flatten)]
    gpu: GpuArgs,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Storage {
    F32,
    F16,
    Bf16,
}

impl Storage {
    fn dtype(self) -> DType {
        match self {
            Storage::F32 => DType::F32,
            Storage::F16 => DType::F16,
            Storage::Bf16 => DType::BF16,
        }
    }
}

/// How much faster than the planner's a tile must be, so that noise does not decide.
const GAIN: f64 = 0.97;

pub fn tune(args: &TuneArgs, out: &mut dyn Write) -> Result<ExitCode, Failure> {
    let gpu = args.gpu.request()?;
    let mut tuned = Tuned::new(&gpu);
    let mut wrong = 0;
    writeln!(out, "{}", device::describe(gpu.info()))?;
    for problem in problems(args, &gpu) {
        let name = name(&problem);
        let planner =
            seconds(&gpu, &problem, None, args.seconds).map_err(|e| Failure::Message(format!("{name}: {e}")))?;
        let mut best = (planner, None);
        let device = DeviceClass::of_gpu(&gpu);
        let candidates = alternatives(&problem, &device);
        let progress = Progress::new();
        for (n, kernel) in candidates.iter().enumerate() {
            progress.show(format_args!("{name}: {} of {}", n + 1, candidates.len()));
            match seconds(&gpu, &problem, Some(*kernel), args.seconds) {
                Ok(found) if found < best.0 => best = (found, Some(*kernel)),
                Ok(_) => {}
                Err(message) => {
                    progress.clear();
                    wrong += usize::from(message.contains("WRONG"));
                    writeln!(out, "{name}: {kernel:?}: {message}")?;
                }
            }
        }
        progress.clear();
        let gain = best.1.filter(|_| best.0 < GAIN * planner);
        let verdict = match gain {
            Some(kernel) => {
                tuned.dense.push(TunedDense::new(&problem, kernel, best.0, planner));
                format!("{} of it with {kernel:?}", (best.0 / planner * 100.0).round() / 100.0)
            }
            None => format!("the best of {}, or within 3 % of it", candidates.len() + 1),
        };
        writeln!(out, "{name:40} planner {:>9}  {verdict}", duration(planner))?;
    }
    tuned.save(&args.out)?;
    writeln!(out, "wrote {} tiles to {}", tuned.dense.len(), args.out.display())?;
    Ok(status(wrong == 0))
}

/// What is measured: by default a long prompt and a long cache, shorter on a software GPU.
fn problems(args: &TuneArgs, gpu: &Gpu) -> Vec<Dense> {
    let software = wgpu_attention::bench::is_software(gpu);
    let or = |list: &[u32], default: u32| if list.is_empty() { vec![default] } else { list.to_vec() };
    let heads = args.heads.unwrap_or(if software { 2 } else { 32 });
    let mut all = vec![];
    for &head_dim in &args.d {
        for dtype in args.dtype.iter().map(|s| s.dtype()) {
            let base = Dense {
                heads,
                kv_heads: args.kv_heads,
                head_dim,
                dtype,
                causal: true,
                ..Dense::default()
            };
            for n in or(&args.n, if software { 512 } else { 4096 }) {
                all.push(Dense {
                    queries: n,
                    keys: n,
                    ..base.clone()
                });
            }
            for keys in or(&args.keys, if software { 4096 } else { 32768 }) {
                all.push(Dense { keys, ..base.clone() });
            }
        }
    }
    all
}

fn name(p: &Dense) -> String {
    let what = if p.queries > 1 { "prefill" } else { "decode" };
    format!(
        "{what} {}:{} D{} {} Nk{}",
        p.heads,
        p.kv_heads(),
        p.head_dim,
        p.dtype,
        p.keys
    )
}

/// Seconds of a kernel, or the planner's; why there are none, if it is wrong or refused.
fn seconds(gpu: &Gpu, problem: &Dense, kernel: Option<KernelChoice>, effort: f64) -> Result<f64, String> {
    let tuning = Tuning {
        kernel,
        ..Tuning::default()
    };
    let plan = checked_plan(gpu, problem, &tuning).map_err(|e| e.to_string())?;
    let buffers = Buffers::zeroless(gpu, problem).map_err(|e| e.to_string())?;
    let effort = Effort {
        seconds: effort,
        ..Effort::default()
    };
    let times = time(gpu, &effort, |pass, _| plan.encode_in(pass, &buffers.tensors()));
    times.map(|t| t.median()).map_err(|e| e.to_string())
}
