//! Measures everything once and prints it as tables for the README, then the ratios that the library promises.
//!
//! ```text
//! cargo bench --features bench --bench report -- [--quick] [--only prefill|decode|linear|topk|ratios|tiers|host] [--causal-only] [--max-seconds S] [--ratio TEXT]
//! ```
//! A kernel is checked against the reference before it is timed; a wrong one gets no number. Times are medians of
//! repeated runs over the same buffers, so caches are warm. Exits with 1 if a kernel was wrong; a missed ratio is
//! reported, and no failure. `WGPU_ATTENTION_BACKEND`, `WGPU_ATTENTION_ADAPTER` choose the device.

use std::process::ExitCode;
use std::time::Instant;

use wgpu_attention::dense::tile::Tuning;
use wgpu_attention::measure::{Ceilings, Effort, ProbeRun, time, time_pairs};
use wgpu_attention::{DType, Dense, DensePlan, Gpu, Hierarchical, Linear, LinearPlan, Tier, TopK};

mod baseline;
#[path = "common/mod.rs"]
mod common;

use baseline::Baseline;
use common::host_cost::{self, Loop};
use common::linear::{self, Choice};
use common::problems::{self, mask_name, weighting_name};
use common::ratios::{self, Side};
use common::{tiers, topk};

/// Lengths that `--quick` keeps.
const QUICK_PREFILL: u32 = 1024;
const QUICK_DECODE: u32 = 4096;

/// Longer prompts are for the program's `bench`.
const LONGEST_PREFILL: u32 = 8192;

/// Steps of the decoding loop whose processor time is measured.
const HOST_STEPS: usize = 4096;

/// How much longer than the portable tier the subgroup tier may take: as much as repeated runs differ.
const TIER_MOST: f64 = 1.03;

/// Microseconds that planning and encoding a cached problem may cost.
const HOST_MOST: f64 = 20.0;

/// What the command line asks for.
struct Arguments {
    quick: bool,
    causal_only: bool,
    only: Option<String>,
    max_seconds: f64,
    /// Part of the names of the ratios wanted.
    ratio: String,
}

impl Arguments {
    fn parse() -> Result<Self, String> {
        let mut parsed = Arguments {
            quick: false,
            causal_only: false,
            only: None,
            max_seconds: f64::INFINITY,
            ratio: String::new(),
        };
        let mut all = std::env::args().skip(1);
        while let Some(argument) = all.next() {
            match argument.as_str() {
                "--quick" => parsed.quick = true,
                "--causal-only" => parsed.causal_only = true,
                "--only" => {
                    let part = all.next().unwrap_or_default();
                    if !["prefill", "decode", "linear", "topk", "ratios", "tiers", "host"].contains(&part.as_str()) {
                        return Err(format!(
                            "--only `{part}`: prefill, decode, linear, topk, ratios, tiers or host"
                        ));
                    }
                    parsed.only = Some(part);
                }
                "--ratio" => parsed.ratio = all.next().unwrap_or_default(),
                "--max-seconds" => {
                    let text = all.next().unwrap_or_default();
                    parsed.max_seconds = text.parse().map_err(|_| format!("--max-seconds `{text}`: a number"))?;
                }
                // What cargo itself adds.
                "--bench" => {}
                other => {
                    return Err(format!(
                        "`{other}`: --quick, --only PART, --causal-only, --max-seconds S, --ratio TEXT"
                    ));
                }
            }
        }
        Ok(parsed)
    }

    fn wants(&self, part: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only == part)
    }
}

/// A run of the report.
struct Report {
    gpu: Gpu,
    arguments: Arguments,
    ceilings: Ceilings,
    start: Instant,
    wrong: usize,
    left_out: usize,
}

fn main() -> ExitCode {
    let arguments = match Arguments::parse() {
        Ok(arguments) => arguments,
        Err(message) => {
            eprintln!("{message}");
            return ExitCode::from(2);
        }
    };
    let start = Instant::now();
    let gpu = common::gpu();
    println!("{}\n", common::device_line(&gpu));
    let ceilings = Ceilings::measure(&gpu).expect("ceilings");
    println!(
        "Measured ceilings: f32 multiply-add {}, copy {} (read + written), plain read {}; a launch {:.1} µs, each further one {:.1} µs.\n",
        flops(ceilings.f32_flops),
        bytes(ceilings.copy_bytes),
        bytes(ceilings.read_bytes),
        ceilings.launch_seconds.unwrap_or(f64::NAN) * 1e6,
        ceilings.dependent_launch_seconds.unwrap_or(f64::NAN) * 1e6
    );
    let mut report = Report {
        gpu,
        arguments,
        ceilings,
        start,
        wrong: 0,
        left_out: 0,
    };
    report.run();
    if report.left_out > 0 {
        println!("{} rows left out: --max-seconds was over.", report.left_out);
    }
    println!("{:.0} s in total.", start.elapsed().as_secs_f64());
    ExitCode::from((report.wrong > 0) as u8)
}

impl Report {
    fn run(&mut self) {
        if self.arguments.wants("prefill") {
            self.prefill();
        }
        if self.arguments.wants("decode") {
            self.decode();
        }
        if self.arguments.wants("linear") {
            self.linear();
        }
        if self.arguments.wants("topk") {
            self.top_k();
        }
        if self.arguments.wants("ratios") {
            self.ratios();
        }
        if self.arguments.wants("tiers") {
            self.tiers();
        }
        if self.arguments.wants("host") {
            self.host();
        }
    }

    /// Whether there is time for another row.
    fn time_left(&mut self) -> bool {
        let left = self.start.elapsed().as_secs_f64() < self.arguments.max_seconds;
        self.left_out += usize::from(!left);
        left
    }

    /// A number for the table, or why there is none.
    fn cell<T>(&mut self, result: Result<T, String>) -> Option<T> {
        result
            .map_err(|message| {
                self.wrong += 1;
                eprintln!("{message}");
            })
            .ok()
    }

    fn prefill(&mut self) {
        let software = common::is_software(&self.gpu);
        println!("### Prefill, {}\n", heads(&problems::square(software, 1, 64)));
        println!("| N | D | mask | weighting | time | FLOP/s | of f32 FMA rate |");
        println!("|--:|--:|---|---|--:|--:|--:|");
        let mut table = problems::prefill(software);
        table.retain(|p| p.dtype == DType::F32 && p.window_left.is_none() && p.queries <= LONGEST_PREFILL);
        for p in table {
            let name = problems::dense_name(&p);
            let wanted =
                (!self.arguments.quick || p.queries <= QUICK_PREFILL) && (!self.arguments.causal_only || p.causal);
            if !wanted || !self.time_left() {
                continue;
            }
            let measured = seconds(&self.gpu, &p).map_err(|e| format!("{name}: {e}"));
            let Some(seconds) = self.cell(measured) else { continue };
            let rate = common::flops(&p) / seconds;
            println!(
                "| {} | {} | {} | {} | {} | {} | {:.0} % |",
                p.queries,
                p.head_dim,
                mask_name(&p),
                weighting_name(&p),
                duration(seconds),
                flops(rate),
                100.0 * rate / self.ceilings.f32_flops
            );
        }
        println!("\nFLOP: 2·(D + Dv) for every pair of a query and a key that it may see.\n");
    }

    fn decode(&mut self) {
        let software = common::is_software(&self.gpu);
        println!("### Decode, one query, batch 1, f32\n");
        println!("| Nk | D | heads | KV heads | weighting | time | K and V | of copy | of plain read |");
        println!("|--:|--:|--:|--:|---|--:|--:|--:|--:|");
        let mut table = problems::decode(software);
        table.retain(|p| p.dtype == DType::F32 && p.batch == 1);
        for p in table {
            let name = problems::dense_name(&p);
            let wanted = !self.arguments.quick || p.keys <= QUICK_DECODE;
            if !wanted || !self.time_left() {
                continue;
            }
            let measured = self.beside_read(&p).map_err(|e| format!("{name}: {e}"));
            let Some((seconds, read_seconds)) = self.cell(measured) else {
                continue;
            };
            let rate = common::kv_bytes(&p) / seconds;
            println!(
                "| {} | {} | {} | {} | {} | {} | {} | {:.0} % | {:.0} % |",
                p.keys,
                p.head_dim,
                p.heads,
                p.kv_heads(),
                weighting_name(&p),
                duration(seconds),
                bytes(rate),
                100.0 * rate / self.ceilings.copy_bytes,
                100.0 * read_seconds / seconds
            );
        }
        println!(
            "\nOf copy: the rate against that of a long copy. Of plain read: the time that reading as many bytes takes, \
             against this time; both fit caches where K and V do.\n"
        );
    }

    fn linear(&mut self) {
        println!("### Linear attention, a decay for each head, f32\n");
        println!("| N | D | B·H | dispatches | time | for a token of a head | of f32 FMA rate | of copy |");
        println!("|--:|--:|--:|--:|--:|--:|--:|--:|");
        let mut table = problems::linear(common::is_software(&self.gpu));
        table.retain(|p| p.dtype == DType::F32);
        for p in table {
            let wanted = !self.arguments.quick || p.tokens <= QUICK_PREFILL;
            if !wanted || !self.time_left() {
                continue;
            }
            let measured =
                linear_seconds(&self.gpu, &p).map_err(|e| format!("N = {}, D = {}: {e}", p.tokens, p.head_dim));
            let Some((seconds, dispatches)) = self.cell(measured) else {
                continue;
            };
            println!(
                "| {} | {} | {} | {dispatches} | {} | {:.2} ns | {:.1} % | {:.1} % |",
                p.tokens,
                p.head_dim,
                p.batch * p.heads,
                duration(seconds),
                seconds * 1e9 / linear::tokens(&p),
                100.0 * linear::flops(&p) / seconds / self.ceilings.f32_flops,
                100.0 * linear::bytes(&p) / seconds / self.ceilings.copy_bytes
            );
        }
        println!("\nOf the ceilings: what no form can do without, 4·D·Dv operations a token and q, k, v, o once.\n");
    }

    fn top_k(&mut self) {
        println!("### Top-k attention, causal, f32: its steps apart, the whole call, and dense attention\n");
        println!("| problem | N | D | pool | score | select | gather | whole | dense | whole / dense |");
        println!("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
        for problems::NamedTopK { name, problem: p } in problems::top_k(common::is_software(&self.gpu)) {
            let wanted = !self.arguments.quick || p.attention.keys <= QUICK_DECODE;
            if !wanted || !name.contains(&self.arguments.ratio) || !self.time_left() {
                continue;
            }
            let (keys, dim) = (p.attention.keys, p.attention.head_dim);
            let measured = self.steps(&p).map_err(|e| format!("{name}, N = {keys}: {e}"));
            let Some((steps, dense)) = self.cell(measured) else {
                continue;
            };
            let cells = steps.map(|s| s.map_or("–".into(), duration)).join(" | ");
            let whole = steps[steps.len() - 1].unwrap_or(f64::NAN);
            println!(
                "| {name} | {keys} | {dim} | {cells} | {} | {:.3} |",
                duration(dense),
                whole / dense
            );
        }
        println!("\n### Hierarchical selection\n");
        println!("| N | D | heads | hierarchical | exact | ratio | recall |\n|--:|--:|--:|--:|--:|--:|--:|");
        for (search, exact) in problems::top_k_searches(common::is_software(&self.gpu)) {
            let keys = search.attention.keys;
            let wanted = !self.arguments.quick && "hierarchical".contains(&self.arguments.ratio);
            if !wanted || !self.time_left() {
                continue;
            }
            let measured = self
                .searches(&search, &exact)
                .map_err(|e| format!("search, N = {keys}: {e}"));
            let Some([found, all, recall]) = self.cell(measured) else {
                continue;
            };
            println!(
                "| {keys} | {} | {} | {} | {} | {:.3} | {:.2} |",
                search.attention.head_dim,
                search.attention.heads,
                duration(found),
                duration(all),
                found / all,
                recall
            );
        }
        println!(
            "\nExact: pool, score and select for lists as long. Recall: the share of the exact lists' blocks that the search \
             finds in random data, window included; by means of blocks, which it does not score by.\n"
        );
    }

    /// Seconds of each step and of the whole call, and of dense attention.
    fn steps(&self, p: &TopK) -> Result<([Option<f64>; 5], f64), String> {
        let run = topk::Run::new(&self.gpu, p)?;
        let of = |step| {
            let times = time(&self.gpu, &Effort::default(), |pass, _| run.record(pass, step));
            times.map(|t| t.median()).map_err(|e| e.to_string())
        };
        let pool = match p.pool() {
            Some(_) => Some(of(topk::Step::Pool)?),
            None => None,
        };
        let steps = [
            pool,
            Some(of(topk::Step::Score)?),
            Some(of(topk::Step::Select)?),
            Some(of(topk::Step::Gather)?),
            Some(of(topk::Step::Whole)?),
        ];
        Ok((steps, seconds(&self.gpu, &p.attention)?))
    }

    /// Seconds of the search and of the exact one, and the recall.
    fn searches(&self, search: &Hierarchical, exact: &TopK) -> Result<[f64; 3], String> {
        let hip = topk::Hip::new(&self.gpu, search)?;
        let run = topk::Run::new(&self.gpu, exact)?;
        let effort = Effort::default();
        let found = time(&self.gpu, &effort, |pass, _| hip.record(pass)).map_err(|e| e.to_string())?;
        let all = time(&self.gpu, &effort, |pass, _| run.record(pass, topk::Step::Search));
        let all = all.map_err(|e| e.to_string())?;
        let recall = topk::recall(&self.gpu, search, exact)?;
        Ok([found.median(), all.median(), recall])
    }

    /// Seconds of a problem, and of a plain read of its K and V.
    fn beside_read(&self, p: &Dense) -> Result<(f64, f64), String> {
        let mut first = Runner::new(&self.gpu, &Side::Attention(p.clone()))?;
        let mut second = Runner::new(&self.gpu, &Side::PlainRead(p.clone()))?;
        let effort = Effort::default();
        let pairs = time_pairs(
            &self.gpu,
            &effort,
            |pass| first.record(pass),
            |pass| second.record(pass),
        );
        let pairs = pairs.map_err(|e| e.to_string())?;
        Ok((pairs.median(0), second.scale * pairs.median(1)))
    }

    fn ratios(&mut self) {
        println!("### Ratios of times, each the median over pairs of runs in turn\n");
        println!("| ratio | first | second | measured | quartiles | at most | |");
        println!("|---|--:|--:|--:|--:|--:|---|");
        for ratio in ratios::ratios(common::is_software(&self.gpu)) {
            let long = [&ratio.first, &ratio.second].into_iter().any(|side| match side {
                Side::Attention(p) | Side::Masked(p, _) => p.queries > QUICK_PREFILL * 2,
                Side::Linear(p, _) | Side::LinearToken(p) => p.tokens > QUICK_PREFILL * 2,
                Side::TopK(p, _) => p.attention.queries > QUICK_PREFILL * 2,
                Side::Hierarchical(p) => p.attention.queries > QUICK_PREFILL * 2,
                _ => false,
            });
            let unwanted = !ratio.name.contains(&self.arguments.ratio);
            if unwanted || (self.arguments.quick && long) || !self.time_left() {
                continue;
            }
            let line = ratio_line(&self.gpu, &ratio).map_err(|e| format!("{}: {e}", ratio.name));
            if let Some(line) = self.cell(line) {
                println!("{line}");
            }
        }
        println!();
    }

    /// The subgroup tier against the portable one, where the device has it.
    fn tiers(&mut self) {
        let (Ok(subgroup), Ok(portable)) = (self.gpu.with_tier(Tier::Subgroup), self.gpu.with_tier(Tier::Portable))
        else {
            return println!("This device has no subgroup tier.\n");
        };
        println!("### Subgroup tier / portable tier, each the median over pairs of runs in turn\n");
        println!("| problem | subgroup | portable | ratio | quartiles | at most | |");
        println!("|---|--:|--:|--:|--:|--:|---|");
        for (name, side) in tiers::suite(common::is_software(&self.gpu)) {
            if !name.contains(&self.arguments.ratio) || !self.time_left() {
                continue;
            }
            let runners = Runner::new(&subgroup, &side).and_then(|s| Ok((s, Runner::new(&portable, &side)?)));
            let line = runners.and_then(|(s, p)| pair_line(&self.gpu, &name, TIER_MOST, s, p));
            if let Some(line) = self.cell(line.map_err(|e| format!("{name}: {e}"))) {
                println!("{line}");
            }
        }
        println!();
    }

    fn host(&mut self) {
        println!("### Processor time of a cached problem, microseconds\n");
        println!("| encoded into | plan | encode | finish | sum | at most | | encode again |");
        println!("|---|--:|--:|--:|--:|--:|---|--:|");
        for (name, in_pass) in [("a pass of its own", false), ("the caller's pass", true)] {
            if !self.time_left() {
                continue;
            }
            let steps = Loop::new(&self.gpu, in_pass).and_then(|mut steps| steps.run(HOST_STEPS));
            let Some(steps) = self.cell(steps.map_err(|e| e.to_string())) else {
                continue;
            };
            let [plan, encode, finish, sum, again] = host_cost::medians(&steps);
            let verdict = if sum <= HOST_MOST { "pass" } else { "MISS" };
            println!(
                "| {name} | {plan:.1} | {encode:.1} | {finish:.1} | {sum:.1} | {HOST_MOST:.0} | {verdict} | {again:.1} |"
            );
        }
        println!(
            "\nMedians of {HOST_STEPS} steps of a decoding loop, one key more each step, 8 heads on 1 KV head, D = 128, keys split \
             and merged (two dispatches). Finish is a call's share of `encoder.finish()`.\n"
        );
    }
}

/// Seconds and dispatches of a linear problem whose kernels are right.
fn linear_seconds(gpu: &Gpu, problem: &Linear) -> Result<(f64, usize), String> {
    let plan = linear::checked_plan(gpu, problem, Choice::Planner)?;
    let buffers = linear::Buffers::new(gpu, problem).map_err(|e| e.to_string())?;
    let times = time(gpu, &Effort::default(), |pass, _| {
        plan.encode_in(pass, &buffers.tensors())
    });
    times
        .map(|t| (t.median(), plan.dispatches()))
        .map_err(|e| e.to_string())
}

/// Seconds of a problem whose kernel is right.
fn seconds(gpu: &Gpu, problem: &Dense) -> Result<f64, String> {
    let mut runner = Runner::new(gpu, &Side::Attention(problem.clone()))?;
    let times = time(gpu, &Effort::default(), |pass, _| runner.record(pass));
    times.map(|t| t.median()).map_err(|e| e.to_string())
}

fn ratio_line(gpu: &Gpu, ratio: &ratios::Ratio) -> Result<String, String> {
    let first = Runner::new(gpu, &ratio.first)?;
    let second = Runner::new(gpu, &ratio.second)?;
    pair_line(gpu, &ratio.name, ratio.most, first, second)
}

fn pair_line(gpu: &Gpu, name: &str, most: f64, mut first: Runner, mut second: Runner) -> Result<String, String> {
    let effort = Effort {
        runs: 7,
        seconds: 1.0,
        most: 201,
        patience: 15.0,
    };
    let pairs = time_pairs(gpu, &effort, |pass| first.record(pass), |pass| second.record(pass));
    let pairs = pairs.map_err(|e| e.to_string())?;
    let scale = first.scale / second.scale;
    let ratios = pairs.ratios();
    let measured = scale * pairs.ratio();
    Ok(format!(
        "| {} | {} | {} | {measured:.3} | {:.3} – {:.3} | {most:.3} | {} |",
        name,
        duration(first.scale * pairs.median(0)),
        duration(second.scale * pairs.median(1)),
        scale * ratios[ratios.len() / 4],
        scale * ratios[ratios.len() * 3 / 4],
        if measured <= most { "pass" } else { "MISS" }
    ))
}

/// One side of a ratio, ready to run.
struct Runner {
    what: Ready,
    /// What its seconds are to be multiplied by.
    scale: f64,
}

enum Ready {
    Attention(Box<DensePlan>, common::Buffers),
    Baseline(Baseline),
    PlainRead(ProbeRun),
    Linear(Box<LinearPlan>, linear::Buffers),
    TopK(Box<topk::Run>, topk::Step),
    Reuse(Box<topk::Reuse>),
    Hierarchical(Box<topk::Hip>),
}

impl Runner {
    fn new(gpu: &Gpu, side: &Side) -> Result<Self, String> {
        let what = match side {
            Side::Attention(p) => {
                let plan = common::checked_plan(gpu, p, &Tuning::default())?;
                Ready::Attention(
                    Box::new(plan),
                    common::Buffers::zeroless(gpu, p).map_err(|e| e.to_string())?,
                )
            }
            Side::Masked(p, content) => {
                let p = ratios::masked(p);
                let plan = common::checked_plan(gpu, &p, &Tuning::default())?;
                Ready::Attention(
                    Box::new(plan),
                    common::Buffers::masked(gpu, &p, *content).map_err(|e| e.to_string())?,
                )
            }
            Side::Baseline(p) => Ready::Baseline(Baseline::checked(gpu, p)?),
            Side::Linear(p, choice) => {
                let plan = linear::checked_plan(gpu, p, *choice)?;
                Ready::Linear(Box::new(plan), linear::Buffers::new(gpu, p).map_err(|e| e.to_string())?)
            }
            Side::LinearToken(p) => {
                let plan = linear::checked_plan(gpu, p, Choice::Planner)?;
                let what = Ready::Linear(Box::new(plan), linear::Buffers::new(gpu, p).map_err(|e| e.to_string())?);
                let scale = 1.0 / linear::tokens(p);
                return Ok(Runner { what, scale });
            }
            Side::TopK(p, step) => Ready::TopK(Box::new(topk::Run::new(gpu, p)?), *step),
            Side::Reuse(p, tokens) => Ready::Reuse(Box::new(topk::Reuse::new(gpu, p, *tokens)?)),
            Side::Hierarchical(p) => Ready::Hierarchical(Box::new(topk::Hip::new(gpu, p)?)),
            Side::Step { tokens } => {
                let (plan, buffers) = linear::step_after(gpu, *tokens)?;
                Ready::Linear(Box::new(plan), buffers)
            }
            Side::PlainRead(p) => {
                let read = ProbeRun::read(gpu, common::kv_bytes(p) as u64).map_err(|e| e.to_string())?;
                let scale = common::kv_bytes(p) / read.work();
                let what = Ready::PlainRead(read);
                return Ok(Runner { what, scale });
            }
        };
        Ok(Runner { what, scale: 1.0 })
    }

    fn record(&mut self, pass: &mut wgpu::ComputePass<'_>) -> wgpu_attention::Result<()> {
        match &self.what {
            Ready::Attention(plan, buffers) => return plan.encode_in(pass, &buffers.tensors()),
            Ready::Linear(plan, buffers) => return plan.encode_in(pass, &buffers.tensors()),
            Ready::TopK(run, step) => return run.record(pass, *step),
            Ready::Reuse(run) => return run.record(pass),
            Ready::Hierarchical(run) => return run.record(pass),
            Ready::Baseline(baseline) => baseline.record(pass),
            Ready::PlainRead(read) => read.record(pass),
        }
        Ok(())
    }
}

fn heads(p: &Dense) -> String {
    let s = if p.heads == 1 { "" } else { "s" };
    format!("{} head{s}, batch {}, {}", p.heads, p.batch, p.dtype)
}

fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 1e-6 => format!("{:.2} ns", s * 1e9),
        s if s < 1e-3 => format!("{:.1} µs", s * 1e6),
        s if s < 1.0 => format!("{:.2} ms", s * 1e3),
        s => format!("{s:.2} s"),
    }
}

fn flops(rate: f64) -> String {
    match rate {
        r if r < 1e12 => format!("{:.1} GFLOP/s", r / 1e9),
        r => format!("{:.1} TFLOP/s", r / 1e12),
    }
}

fn bytes(rate: f64) -> String {
    match rate {
        r if r < 1e12 => format!("{:.1} GB/s", r / 1e9),
        r => format!("{:.2} TB/s", r / 1e12),
    }
}
