//! `tune`: measures candidate tiles on this GPU and keeps the fastest in a file.

use std::cell::Cell;
use std::fmt::Debug;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use wgpu_attention::bench::{self, Problem, linear::Choice};
use wgpu_attention::dense::tile::{self, DeviceClass, Tuning};
use wgpu_attention::linear::tile as linear_tile;
use wgpu_attention::measure::{Effort, time, time_pairs};
use wgpu_attention::topk::{TopKTuning, score, select};
use wgpu_attention::tuned::{Tuned, TunedDense, TunedLinear, TunedTopK};
use wgpu_attention::{
    DType, Decay, Dense, DensePlan, Gpu, Linear, LinearPlan, Scoring, TopK, TopKPlan, TopKTensors, wgpu,
};

use crate::bench::{DecayName, flags};
use crate::device::{self, GpuArgs};
use crate::progress::Progress;
use crate::{Failure, duration, status};

/// Measure candidate tiles of every kind of attention on this GPU and write the fastest to a file that a plan can be given.
///
/// Every candidate is checked against the float64 reference before it is timed. A program reads the file with
/// `Tuned::load` and gives `Tuned::dense` to `Dense::plan_with`, `Tuned::linear` to `Linear::plan_with`, `Tuned::topk` to
/// `TopK::plan_with`. The fastest and the planner's own run once more, in turn, and it is kept where it is at least 3 % faster.
/// Sets of inputs take turns, so that none is found in a cache. Of linear attention, prompts are measured: in one pass over each
/// sequence, and cut into segments of several lengths. Of top-k attention, kernels of scoring, selecting and gathering are
/// replaced one after the other, and the whole call is timed.
#[derive(Debug, Args)]
pub struct TuneArgs {
    /// What to measure.
    #[arg(long, value_delimiter = ',', value_enum, default_value = "dense,linear,topk")]
    op: Vec<Op>,
    /// Where to write.
    #[arg(long, default_value = "tuned.json")]
    out: PathBuf,
    /// Head sizes.
    #[arg(long, value_delimiter = ',', value_parser = flags::dim(), default_value = "64,128")]
    d: Vec<u32>,
    /// Lengths of prompts [default: 4096; on a software GPU 512, of linear attention 2048, of top-k attention 1024].
    #[arg(long, value_delimiter = ',', value_name = "LIST", value_parser = flags::length())]
    n: Vec<u32>,
    /// Lengths of caches, for decode of dense and top-k attention [default: 32768; on a software GPU 4096].
    #[arg(long, value_delimiter = ',', value_name = "LIST", value_parser = flags::length())]
    keys: Vec<u32>,
    /// Query heads [default: 32, of linear attention 16 and 128; on a software GPU 2].
    #[arg(long, value_parser = flags::count())]
    heads: Option<u32>,
    /// Heads of keys and values, a divisor of --heads [default: as many].
    #[arg(long, value_parser = flags::count())]
    kv_heads: Option<u32>,
    /// Storage types.
    #[arg(long, value_delimiter = ',', value_enum, default_value = "f32,f16")]
    dtype: Vec<Storage>,
    /// Decays of linear attention.
    #[arg(long, value_delimiter = ',', value_enum, default_value = "head")]
    decay: Vec<DecayName>,
    /// Tokens, or blocks, that top-k attention keeps [default: 8 blocks of prompts, 1 % of the tokens of caches].
    #[arg(long, value_parser = flags::count())]
    top_k: Option<u32>,
    /// Keys of a block of top-k attention, and queries of a prompt that share a list; blocks are scored by their means
    /// [default: 64 of prompts, of caches 1, tokens].
    #[arg(long, value_parser = flags::count())]
    block: Option<u32>,
    /// Seconds of timed runs for each candidate.
    #[arg(long, value_parser = flags::seconds, default_value_t = 0.1)]
    seconds: f64,
    #[command(flatten)]
    gpu: GpuArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Op {
    Dense,
    Linear,
    Topk,
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

/// Tiles that replace the planner's together.
#[derive(Clone, Copy)]
struct Together(TopKTuning);

impl Debug for Together {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("these together")
    }
}

/// What tiles are to beat, by default.
const PLANNER: &str = "planner";

/// How much faster than the planner's a tile must be, so that noise does not decide.
const GAIN: f64 = 0.97;

pub fn tune(args: &TuneArgs, out: &mut dyn Write) -> Result<ExitCode, Failure> {
    let gpu = args.gpu.request()?;
    let mut tuned = Tuned::new(&gpu);
    let mut tuner = Tuner {
        gpu: &gpu,
        effort: Effort {
            seconds: args.seconds,
            ..Effort::default()
        },
        wrong: 0,
        failed: 0,
        out,
    };
    writeln!(tuner.out, "{}", device::describe(gpu.info()))?;
    if args.op.contains(&Op::Dense) {
        tuner.dense(args, &mut tuned)?;
    }
    if args.op.contains(&Op::Linear) {
        tuner.linear(args, &mut tuned)?;
    }
    if args.op.contains(&Op::Topk) {
        tuner.topk(args, &mut tuned)?;
    }
    tuned.save(&args.out)?;
    let tiles = tuned.dense.len() + tuned.linear.len() + tuned.topk.len();
    writeln!(tuner.out, "wrote {tiles} tiles to {}", args.out.display())?;
    match (tuner.wrong, tuner.failed) {
        (0, failed @ 1..) => Err(Failure::Message(format!("{failed} problems could not be measured"))),
        (wrong, _) => Ok(status(wrong == 0)),
    }
}

/// Measures problem after problem.
struct Tuner<'a> {
    gpu: &'a Gpu,
    effort: Effort,
    /// Candidates that were wrong.
    wrong: usize,
    /// Problems of which not even the planner's choice could be measured.
    failed: usize,
    out: &'a mut dyn Write,
}

/// What was measured of a problem where a candidate gains enough.
struct Faster<K> {
    candidate: K,
    seconds: f64,
    planner_seconds: f64,
}

impl Tuner<'_> {
    fn dense(&mut self, args: &TuneArgs, tuned: &mut Tuned) -> Result<(), Failure> {
        let gpu = self.gpu;
        for problem in dense_problems(args, gpu) {
            let candidates = tile::alternatives(&problem, &DeviceClass::of_gpu(gpu));
            let plan = |kernel| {
                let tuning = Tuning {
                    kernel,
                    ..Tuning::default()
                };
                bench::dense::checked_plan(gpu, &problem, &tuning)
            };
            let sets = || {
                let all = Problem::Dense(problem.clone());
                bench::rotating_sets(gpu, &all, || bench::dense::Buffers::zeroless(gpu, &problem))
            };
            let record = |plan: &DensePlan, pass: &mut wgpu::ComputePass<'_>, buffers: &bench::dense::Buffers| {
                plan.encode_in(pass, &buffers.tensors())
            };
            let found = self.fastest(&dense_name(&problem), PLANNER, &candidates, plan, sets, record)?;
            let entry = |f: Faster<_>| TunedDense::new(&problem, f.candidate, f.seconds, f.planner_seconds);
            tuned.dense.extend(found.map(entry));
        }
        Ok(())
    }

    fn linear(&mut self, args: &TuneArgs, tuned: &mut Tuned) -> Result<(), Failure> {
        let gpu = self.gpu;
        for problem in linear_problems(args, gpu) {
            let candidates = linear_tile::alternatives(&problem, &DeviceClass::of_gpu(gpu));
            let plan = |form: Option<linear_tile::Form>| {
                bench::linear::checked_plan(gpu, &problem, form.map_or(Choice::Planner, Choice::Form))
            };
            let sets = || {
                let all = Problem::Linear(problem.clone());
                bench::rotating_sets(gpu, &all, || bench::linear::Buffers::new(gpu, &problem))
            };
            let record = |plan: &LinearPlan, pass: &mut wgpu::ComputePass<'_>, buffers: &bench::linear::Buffers| {
                plan.encode_in(pass, &buffers.tensors())
            };
            let Some(faster) = self.fastest(&linear_name(&problem), PLANNER, &candidates, plan, sets, record)? else {
                continue;
            };
            let planner = (problem.plan(gpu)?.form(), faster.planner_seconds);
            tuned
                .linear
                .push(TunedLinear::new(&problem, (faster.candidate, faster.seconds), planner));
        }
        Ok(())
    }

    fn topk(&mut self, args: &TuneArgs, tuned: &mut Tuned) -> Result<(), Failure> {
        for problem in topk_problems(args, self.gpu) {
            let failed = self.failed;
            let found = self.topk_problem(&problem)?;
            // Kernel after kernel, but one problem.
            self.failed = self.failed.min(failed + 1);
            if let Some(found) = found {
                let tuning = found.candidate.0;
                tuned
                    .topk
                    .push(TunedTopK::new(&problem, &tuning, found.seconds, found.planner_seconds));
            }
        }
        Ok(())
    }

    /// Replaces one kernel after the other, each beside the best of those before; then all of them beside the planner's own.
    fn topk_problem(&mut self, problem: &TopK) -> Result<Option<Faster<Together>>, Failure> {
        let device = DeviceClass::of_gpu(self.gpu);
        let (name, failed) = (topk_name(problem), self.failed);
        let mut best = TopKTuning::default();
        let scores = score::tile::alternatives(problem, &device);
        let found = self.topk_kernel(problem, &format!("{name}, scoring"), PLANNER, &scores, |tile| {
            TopKTuning {
                score: tile,
                ..TopKTuning::default()
            }
        })?;
        best.score = found.map(|f| f.candidate);
        if self.failed > failed {
            return Ok(None);
        }
        let so_far = |tuning: &TopKTuning| {
            if *tuning == TopKTuning::default() {
                PLANNER
            } else {
                "so far"
            }
        };
        let selects = select::tile::alternatives(&problem.select(), &device);
        let found = self.topk_kernel(
            problem,
            &format!("{name}, selecting"),
            so_far(&best),
            &selects,
            |tile| TopKTuning { select: tile, ..best },
        )?;
        best.select = found.map(|f| f.candidate);
        let gathers = tile::alternatives(&problem.gathered(), &device);
        let found = self.topk_kernel(problem, &format!("{name}, gather"), so_far(&best), &gathers, |kernel| {
            TopKTuning {
                gather: Tuning {
                    kernel,
                    ..Tuning::default()
                },
                ..best
            }
        })?;
        best.gather.kernel = found.map(|f| f.candidate);
        if best == TopKTuning::default() {
            return Ok(None);
        }
        self.topk_kernel(problem, &name, PLANNER, &[Together(best)], |all| {
            all.map_or_else(TopKTuning::default, |all| all.0)
        })
    }

    /// [`Tuner::fastest`] of one kernel's candidates, by what they make of a whole call.
    fn topk_kernel<K: Copy + Debug>(
        &mut self,
        problem: &TopK,
        name: &str,
        base: &str,
        candidates: &[K],
        tuning: impl Fn(Option<K>) -> TopKTuning,
    ) -> Result<Option<Faster<K>>, Failure> {
        let gpu = self.gpu;
        let plan = |candidate| bench::topk::checked_plan(gpu, problem, &tuning(candidate));
        let sets = || {
            let all = Problem::TopK(problem.clone());
            bench::rotating_sets(gpu, &all, || bench::dense::Buffers::zeroless(gpu, &problem.attention))
        };
        let record = |plan: &TopKPlan, pass: &mut wgpu::ComputePass<'_>, buffers: &bench::dense::Buffers| {
            plan.encode_in(pass, &TopKTensors::new(buffers.tensors()))
        };
        self.fastest(name, base, candidates, plan, sets, record)
    }

    /// Measures what is to be beaten (`None`; `base` says what that is) and all candidates on sets of buffers that take turns, then
    /// the fastest and what it is to beat in turn; says which is fastest, and which gave no time and why.
    fn fastest<K: Copy + Debug, P, S>(
        &mut self,
        name: &str,
        base: &str,
        candidates: &[K],
        plan: impl Fn(Option<K>) -> Result<P, bench::Failure>,
        sets: impl Fn() -> wgpu_attention::Result<Vec<S>>,
        record: impl Fn(&P, &mut wgpu::ComputePass<'_>, &S) -> wgpu_attention::Result<()>,
    ) -> Result<Option<Faster<K>>, Failure> {
        let progress = Progress::new();
        let to_beat = match base {
            PLANNER => "the planner's choice",
            _ => "the best so far",
        };
        progress.show(format_args!("{name}: {to_beat}"));
        let (gpu, effort) = (self.gpu, self.effort);
        let seconds = |plan: &P, sets: &[S]| -> wgpu_attention::Result<f64> {
            let times = time(gpu, &effort, |pass, run| record(plan, pass, &sets[run % sets.len()]))?;
            Ok(times.median())
        };
        let planned = plan(None).and_then(|planned| {
            let sets = sets()?;
            Ok((seconds(&planned, &sets)?, planned, sets))
        });
        let (planner, planned, sets) = match planned {
            Ok(planned) => planned,
            Err(failure) => {
                progress.clear();
                self.no_time(name, to_beat, &failure)?;
                self.failed += 1;
                return Ok(None);
            }
        };
        let mut best: Option<(K, P, f64)> = None;
        for (n, candidate) in candidates.iter().enumerate() {
            progress.show(format_args!("{name}: {} of {}", n + 1, candidates.len()));
            let found = plan(Some(*candidate)).and_then(|plan| Ok((seconds(&plan, &sets)?, plan)));
            match found {
                Ok((seconds, plan)) if best.as_ref().is_none_or(|(.., least)| seconds < *least) => {
                    best = Some((*candidate, plan, seconds));
                }
                Ok(_) => {}
                Err(failure) => {
                    progress.clear();
                    self.no_time(name, &format!("{candidate:?}"), &failure)?;
                }
            }
        }
        // Of many that are as fast one is the fastest by chance: what it gains is measured anew.
        let run = Cell::new(0);
        let next = || &sets[run.replace(run.get() + 1) % sets.len()];
        let pairs = match best.filter(|(.., seconds)| *seconds < GAIN * planner) {
            Some((candidate, best, _)) => {
                progress.show(format_args!("{name}: the fastest and {to_beat}"));
                let pairs = time_pairs(
                    gpu,
                    &effort,
                    |pass| record(&best, pass, next()),
                    |pass| record(&planned, pass, next()),
                );
                match pairs {
                    Ok(pairs) => Some((candidate, pairs)),
                    Err(error) => {
                        progress.clear();
                        self.no_time(name, &format!("{candidate:?}"), &error.into())?;
                        None
                    }
                }
            }
            None => None,
        };
        let faster = pairs
            .filter(|(_, pairs)| pairs.ratio() < GAIN)
            .map(|(candidate, pairs)| {
                let planner_seconds = pairs.median(1);
                // Medians of either side alone can contradict the pairs where a machine is busy.
                let seconds = pairs.ratio() * planner_seconds;
                Faster {
                    candidate,
                    seconds,
                    planner_seconds,
                }
            });
        progress.clear();
        let verdict = match &faster {
            Some(f) => format!("{:.2} of it with {:?}", f.seconds / f.planner_seconds, f.candidate),
            None => format!("the best of {}, or within 3 % of it", candidates.len() + 1),
        };
        writeln!(self.out, "{name:58} {base:>7} {:>9}  {verdict}", duration(planner))?;
        Ok(faster)
    }

    /// Says why something has no time.
    fn no_time(&mut self, name: &str, what: &str, failure: &bench::Failure) -> Result<(), Failure> {
        self.wrong += usize::from(matches!(failure, bench::Failure::Wrong(_)));
        Ok(writeln!(self.out, "{name}: {what}: {failure}")?)
    }
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

/// What is measured of top-k attention: a prompt by blocks, as a rule, and a step over a cache by tokens.
fn topk_problems(args: &TuneArgs, gpu: &Gpu) -> Vec<TopK> {
    let software = bench::is_software(gpu);
    let mut all = vec![];
    for &head_dim in &args.d {
        for dtype in args.dtype.iter().map(|s| s.dtype()) {
            let of = |queries: u32, keys: u32, block: u32, top_k: u32| TopK {
                attention: Dense {
                    heads: args.heads.unwrap_or(if software { 2 } else { 32 }),
                    kv_heads: args.kv_heads,
                    queries,
                    keys,
                    head_dim,
                    dtype,
                    causal: true,
                    ..Dense::default()
                },
                top_k,
                block_size: block,
                query_block: if queries == 1 { 1 } else { block },
                per_kv_head: true,
                scoring: if block == 1 { Scoring::Keys } else { Scoring::Mean },
                diagonal: block > 1,
                ..TopK::default()
            };
            for n in or(&args.n, &[if software { 1024 } else { 4096 }]) {
                let block = args.block.unwrap_or(64);
                all.push(of(n, n, block, args.top_k.unwrap_or(n.div_ceil(block).min(8))));
            }
            for keys in or(&args.keys, &[if software { 4096 } else { 32768 }]) {
                let block = args.block.unwrap_or(1);
                let kept = args.top_k.unwrap_or((keys / block / 100).max(1));
                all.push(of(1, keys, block, kept));
            }
        }
    }
    all
}

fn topk_name(p: &TopK) -> String {
    let (a, block) = (&p.attention, p.block_size);
    let what = if a.queries > 1 { "prefill" } else { "decode" };
    let kept = match block {
        1 => format!("{} keys", p.top_k),
        _ => format!("{} of {block} keys", p.top_k),
    };
    format!(
        "topk {what} {}:{} D{} {} Nk{}, {kept}",
        a.heads,
        a.kv_heads(),
        a.head_dim,
        a.dtype,
        a.keys
    )
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
