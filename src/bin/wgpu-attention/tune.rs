//! `tune`: measures candidate tiles on this GPU and keeps the fastest in a file.

use std::fmt::Debug;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use wgpu_attention::bench::{self, linear::Choice};
use wgpu_attention::dense::tile::{self, DeviceClass, Tuning};
use wgpu_attention::linear::tile as linear_tile;
use wgpu_attention::measure::{Effort, Times, time};
use wgpu_attention::tuned::{Tuned, TunedDense, TunedLinear};
use wgpu_attention::{DType, Decay, Dense, Gpu, Linear};

use crate::bench::DecayName;
use crate::device::{self, GpuArgs};
use crate::progress::Progress;
use crate::{Failure, duration, status};

/// Measure candidate tiles of dense and linear attention on this GPU and write the fastest to a file that a plan can be given.
///
/// Every candidate is checked against the float64 reference before it is timed. A program reads the file with
/// `Tuned::load` and gives `Tuned::dense` to `Dense::plan_with`, `Tuned::linear` to `Linear::plan_with`. A tile is kept where
/// it is at least 3 % faster than the planner's own. Of linear attention, prompts are measured: in one pass over each
/// sequence, and cut into segments of several lengths.
#[derive(Debug, Args)]
pub struct TuneArgs {
    /// What to measure.
    #[arg(long, value_delimiter = ',', value_enum, default_value = "dense,linear")]
    op: Vec<Op>,
    /// Where to write.
    #[arg(long, default_value = "tuned.json")]
    out: PathBuf,
    /// Head sizes.
    #[arg(long, value_delimiter = ',', default_value = "64,128")]
    d: Vec<u32>,
    /// Lengths of prompts [default: 4096; on a software GPU 512, of linear attention 2048].
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    n: Vec<u32>,
    /// Lengths of caches, for dense decode [default: 32768; on a software GPU 4096].
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    keys: Vec<u32>,
    /// Query heads [default: 32, of linear attention 16 and 128; on a software GPU 2].
    #[arg(long)]
    heads: Option<u32>,
    /// Heads of keys and values.
    #[arg(long)]
    kv_heads: Option<u32>,
    /// Storage types.
    #[arg(long, value_delimiter = ',', value_enum, default_value = "f32,f16")]
    dtype: Vec<Storage>,
    /// Decays of linear attention.
    #[arg(long, value_delimiter = ',', value_enum, default_value = "head")]
    decay: Vec<DecayName>,
    /// Seconds of timed runs for each candidate.
    #[arg(long, default_value_t = 0.1)]
    seconds: f64,
    #[command(flatten)]
    gpu: GpuArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Op {
    Dense,
    Linear,
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
    if args.op.contains(&Op::Dense) {
        wrong += tune_dense(args, &gpu, &mut tuned, out)?;
    }
    if args.op.contains(&Op::Linear) {
        wrong += tune_linear(args, &gpu, &mut tuned, out)?;
    }
    tuned.save(&args.out)?;
    let tiles = tuned.dense.len() + tuned.linear.len();
    writeln!(out, "wrote {tiles} tiles to {}", args.out.display())?;
    Ok(status(wrong == 0))
}

/// Measures dense problems; gives the number of wrong kernels.
fn tune_dense(args: &TuneArgs, gpu: &Gpu, tuned: &mut Tuned, out: &mut dyn Write) -> Result<usize, Failure> {
    let mut wrong = 0;
    for problem in dense_problems(args, gpu) {
        let candidates = tile::alternatives(&problem, &DeviceClass::of_gpu(gpu));
        let buffers = bench::dense::Buffers::zeroless(gpu, &problem)?;
        let seconds = |kernel| {
            let tuning = Tuning {
                kernel,
                ..Tuning::default()
            };
            let plan = bench::dense::checked_plan(gpu, &problem, &tuning)?;
            let times = time(gpu, &effort(args), |pass, _| plan.encode_in(pass, &buffers.tensors()))?;
            Ok(times)
        };
        let found = fastest(&dense_name(&problem), &candidates, seconds, out)?;
        wrong += found.wrong;
        let entry = |(kernel, seconds)| TunedDense::new(&problem, kernel, seconds, found.planner);
        tuned.dense.extend(found.faster.map(entry));
    }
    Ok(wrong)
}

/// Measures linear problems; gives the number of wrong kernels.
fn tune_linear(args: &TuneArgs, gpu: &Gpu, tuned: &mut Tuned, out: &mut dyn Write) -> Result<usize, Failure> {
    let mut wrong = 0;
    for problem in linear_problems(args, gpu) {
        let name = linear_name(&problem);
        let planner = problem
            .plan(gpu)
            .map_err(|e| Failure::Message(format!("{name}: {e}")))?;
        let candidates = linear_tile::alternatives(&problem, &DeviceClass::of_gpu(gpu));
        let buffers = bench::linear::Buffers::new(gpu, &problem)?;
        let seconds = |form: Option<linear_tile::Form>| {
            let choice = form.map_or(Choice::Planner, Choice::Form);
            let plan = bench::linear::checked_plan(gpu, &problem, choice)?;
            let times = time(gpu, &effort(args), |pass, _| plan.encode_in(pass, &buffers.tensors()))?;
            Ok(times)
        };
        let found = fastest(&name, &candidates, seconds, out)?;
        wrong += found.wrong;
        let entry = |faster| TunedLinear::new(&problem, faster, (planner.form(), found.planner));
        tuned.linear.extend(found.faster.map(entry));
    }
    Ok(wrong)
}

fn effort(args: &TuneArgs) -> Effort {
    Effort {
        seconds: args.seconds,
        ..Effort::default()
    }
}

/// What was measured of a problem.
struct Found<K> {
    /// Seconds of the planner's choice.
    planner: f64,
    /// The fastest candidate and its seconds, if it gains enough.
    faster: Option<(K, f64)>,
    /// Candidates that were wrong.
    wrong: usize,
}

/// Measures the planner's choice (`None`) and all candidates; says which is fastest, and which gave no time and why.
fn fastest<K: Copy + Debug>(
    name: &str,
    candidates: &[K],
    times: impl Fn(Option<K>) -> Result<Times, bench::Failure>,
    out: &mut dyn Write,
) -> Result<Found<K>, Failure> {
    let progress = Progress::new();
    progress.show(format_args!("{name}: the planner's choice"));
    let planner = times(None)
        .map_err(|e| Failure::Message(format!("{name}: {e}")))?
        .median();
    let mut best: Option<(K, f64)> = None;
    let mut wrong = 0;
    for (n, candidate) in candidates.iter().enumerate() {
        progress.show(format_args!("{name}: {} of {}", n + 1, candidates.len()));
        match times(Some(*candidate)) {
            Ok(found) if best.is_none_or(|(_, seconds)| found.median() < seconds) => {
                best = Some((*candidate, found.median()));
            }
            Ok(_) => {}
            Err(failure) => {
                progress.clear();
                wrong += usize::from(matches!(failure, bench::Failure::Wrong(_)));
                writeln!(out, "{name}: {candidate:?}: {failure}")?;
            }
        }
    }
    progress.clear();
    let faster = best.filter(|(_, seconds)| *seconds < GAIN * planner);
    let verdict = match faster {
        Some((candidate, seconds)) => format!("{:.2} of it with {candidate:?}", seconds / planner),
        None => format!("the best of {}, or within 3 % of it", candidates.len() + 1),
    };
    writeln!(out, "{name:40} planner {:>9}  {verdict}", duration(planner))?;
    Ok(Found { planner, faster, wrong })
}

fn or(list: &[u32], default: &[u32]) -> Vec<u32> {
    if list.is_empty() {
        default.to_vec()
    } else {
        list.to_vec()
    }
}

/// What is measured of dense attention: by default a long prompt and a long cache, shorter on a software GPU.
fn dense_problems(args: &TuneArgs, gpu: &Gpu) -> Vec<Dense> {
    let software = bench::is_software(gpu);
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
            for n in or(&args.n, &[if software { 512 } else { 4096 }]) {
                all.push(Dense {
                    queries: n,
                    keys: n,
                    ..base.clone()
                });
            }
            for keys in or(&args.keys, &[if software { 4096 } else { 32768 }]) {
                all.push(Dense { keys, ..base.clone() });
            }
        }
    }
    all
}

/// What is measured of linear attention: by default a prompt of a few heads, which the planner cuts into segments, and one of
/// many, which it does not; shorter ones of few heads on a software GPU.
fn linear_problems(args: &TuneArgs, gpu: &Gpu) -> Vec<Linear> {
    let software = bench::is_software(gpu);
    let heads: &[u32] = if software { &[2] } else { &[16, 128] };
    let mut all = vec![];
    for heads in or(args.heads.as_slice(), heads) {
        for &head_dim in &args.d {
            for dtype in args.dtype.iter().map(|s| s.dtype()) {
                for decay in args.decay.iter().map(|d| d.decay()) {
                    for tokens in or(&args.n, &[if software { 2048 } else { 4096 }]) {
                        all.push(Linear {
                            heads,
                            kv_heads: args.kv_heads,
                            tokens,
                            head_dim,
                            dtype,
                            decay,
                            ..Linear::default()
                        });
                    }
                }
            }
        }
    }
    all
}

fn dense_name(p: &Dense) -> String {
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

fn linear_name(p: &Linear) -> String {
    let decay = match p.decay {
        Decay::None => "no",
        Decay::Head => "head",
        Decay::Token => "token",
        Decay::Channel => "channel",
    };
    format!(
        "linear {}:{} D{} {} {decay} decay N{}",
        p.heads,
        p.kv_heads(),
        p.head_dim,
        p.dtype,
        p.tokens
    )
}
