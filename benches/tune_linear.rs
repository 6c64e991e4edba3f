//! Checks and times candidate forms and tiles of the linear kernels on this device, so that choices rest on
//! measurements.
//!
//! ```text
//! cargo bench --bench tune_linear -- chunk [N] [D] [heads] [batch]       every tile that fits, serial and split
//! cargo bench --bench tune_linear -- step [D] [heads] [batch] [N]        every tile of the decode step
//! ```
//! Environment: `WGPU_ATTENTION_BACKEND`, `WGPU_ATTENTION_ADAPTER` choose the device.
//!
//! | | |
//! |---|---|
//! | `DTYPE` | storage type: `f32`, `f16`, `bf16` |
//! | `DECAY` | `none`, `head` (the default), `token`, `channel` |
//! | `FEATURE` | `identity`, `silu`, `relu`, `elu1` |
//! | `NORMALIZE`, `STATE`, `FULL` | if set: with a normaliser; with an initial and a final state; not causal |
//! | `DV`, `GROUP` | value size, if not D; query heads that share a KV head |
//! | `TILE` | only names that have one of these `\|`-separated parts, e.g. `TILE='serial tile  64'` |
//! | `SEGMENT` | segment lengths of splits, separated by commas; otherwise 2, 4, 8, … chunks |
//! | `SHOW`, `SECONDS` | lines shown in the end; seconds after which no other candidate begins |
//!
//! Floors, each as a share of what the device was measured to do: operations are `common::linear::flops_per_token`,
//! for the tile's own chunk length, whatever a form does besides; bytes are q, k, v, o, decays and states once.

use std::time::Instant;

use wgpu_attention::linear::tile::{Form, LinearTuning};
use wgpu_attention::linear::variant::{ChunkTile, StepTile};
use wgpu_attention::measure::{Ceilings, Effort, time};
use wgpu_attention::{DType, Decay, Error, FeatureMap, Gpu, Linear};

#[path = "common/mod.rs"]
mod common;

use common::linear::{self, Buffers};

fn main() {
    let gpu = common::gpu();
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let number = |n: usize, default: u32| arguments.get(n).and_then(|a| a.parse().ok()).unwrap_or(default);
    let ceilings = Ceilings::measure(&gpu).expect("ceilings");
    println!("{}", common::device_line(&gpu));
    println!(
        "f32 FMA {:.1} GFLOP/s, copy {:.1} GB/s, read {:.1} GB/s",
        ceilings.f32_flops / 1e9,
        ceilings.copy_bytes / 1e9,
        ceilings.read_bytes / 1e9
    );
    let (problem, forms) = match arguments.first().map(String::as_str) {
        Some("step") => {
            let problem = Linear {
                tokens: number(4, 1),
                head_dim: number(1, 64),
                initial_state: true,
                final_state: true,
                in_place: true,
                ..from_environment(number(2, 32), number(3, 1))
            };
            (problem.clone(), steps(&problem))
        }
        _ => {
            let problem = Linear {
                tokens: number(1, 4096),
                head_dim: number(2, 64),
                ..from_environment(number(3, 8), number(4, 1))
            };
            (problem.clone(), chunks(&problem, common::is_software(&gpu)))
        }
    };
    Tuner::new(&gpu, problem, ceilings).run(&forms);
}

fn from_environment(heads: u32, batch: u32) -> Linear {
    let text = |name| std::env::var(name).unwrap_or_default();
    let number = |name| text(name).parse().ok();
    let is_set = |name| std::env::var_os(name).is_some();
    let group: u32 = number("GROUP").unwrap_or(1);
    let causal = !is_set("FULL");
    Linear {
        batch,
        heads,
        kv_heads: Some(heads / group),
        value_dim: number("DV"),
        dtype: match text("DTYPE").as_str() {
            "f16" => DType::F16,
            "bf16" => DType::BF16,
            _ => DType::F32,
        },
        causal,
        decay: match (causal, text("DECAY").as_str()) {
            (false, _) | (_, "none") => Decay::None,
            (_, "token") => Decay::Token,
            (_, "channel") => Decay::Channel,
            _ => Decay::Head,
        },
        feature_map: match text("FEATURE").as_str() {
            "silu" => FeatureMap::Silu,
            "relu" => FeatureMap::Relu,
            "elu1" => FeatureMap::Elu1,
            _ => FeatureMap::Identity,
        },
        normalize: is_set("NORMALIZE").then_some(1e-6),
        initial_state: is_set("STATE"),
        final_state: is_set("STATE"),
        ..Default::default()
    }
}

/// Row groups, rows of an invocation, lanes, keys of an invocation. The last few are for a decay per channel.
const BLOCKS: &[(u32, u32, u32, u32)] = &[
    (16, 4, 16, 4),
    (8, 4, 8, 4),
    (8, 8, 16, 4),
    (8, 8, 8, 8),
    (16, 4, 8, 8),
    (16, 2, 8, 4),
    (16, 8, 16, 8),
    (16, 8, 32, 4),
    (32, 2, 16, 4),
    (32, 2, 8, 8),
    (32, 1, 8, 4),
    (32, 4, 16, 8),
    (16, 2, 4, 8),
    (4, 8, 8, 4),
    (8, 2, 4, 4),
    (16, 1, 4, 4),
    (4, 4, 4, 4),
    (8, 1, 2, 4),
];

/// Vectors of the head dimension staged at once, tokens staged at once, steps written out.
const STAGES: &[(u32, u32, u32)] = &[
    (8, 16, 4),
    (8, 16, 1),
    (8, 16, 2),
    (8, 8, 4),
    (8, 32, 4),
    (8, 16, 8),
    (4, 16, 4),
    (4, 8, 2),
    (4, 16, 1),
    (16, 16, 4),
    (16, 32, 4),
    (2, 8, 1),
    (4, 4, 1),
];

/// f32 registers for the tile's sums and its part of the state that leave a device anything to work with.
fn registers(tile: &ChunkTile, head_dim: u32) -> u32 {
    let state = head_dim.div_ceil(4).div_ceil(tile.row_groups) * 16 * tile.value_vecs;
    state + tile.row_regs * (tile.key_regs + 4 * tile.value_vecs)
}

fn chunks(p: &Linear, software: bool) -> Vec<Form> {
    let vecs = p.value_dim().div_ceil(4);
    let mut forms = vec![];
    for &(row_groups, row_regs, lanes, key_regs) in BLOCKS {
        for value_vecs in [1, 2, 4] {
            for &(chunk, tokens, unroll) in STAGES {
                let tile = ChunkTile {
                    row_groups,
                    row_regs,
                    lanes,
                    key_regs,
                    value_vecs,
                    chunk,
                    tokens,
                    unroll,
                };
                let most = if software { 1024 } else { 192 };
                let sensible = lanes * (value_vecs - 1) < vecs && registers(&tile, p.head_dim) <= most;
                if sensible {
                    forms.push(Form::Serial(tile));
                    forms.extend(segments(p, &tile).map(|segment| Form::Split { tile, segment }));
                }
            }
        }
    }
    forms
}

/// Segment lengths to try, shorter than the sequence.
fn segments(p: &Linear, tile: &ChunkTile) -> impl Iterator<Item = u32> {
    let given = std::env::var("SEGMENT").ok();
    let rows = tile.rows();
    let all: Vec<u32> = match given {
        Some(list) => list.split(',').filter_map(|n| n.trim().parse().ok()).collect(),
        None => (1..10).map(|n| rows << n).collect(),
    };
    let tokens = p.tokens;
    all.into_iter().filter(move |&n| n < tokens)
}

fn steps(p: &Linear) -> Vec<Form> {
    let (vecs, quads) = (p.value_dim().div_ceil(4), p.head_dim.div_ceil(4));
    let powers = || (0..9).map(|n| 1u32 << n);
    let lanes = powers().filter(|&n| n < 2 * vecs);
    let tiles = lanes.flat_map(|lanes| {
        let groups = powers().filter(move |&n| n < 2 * quads && n * lanes <= 256);
        groups.map(move |groups| StepTile { lanes, groups })
    });
    tiles.map(Form::Step).collect()
}

fn name(form: Form) -> String {
    let tile = match form {
        Form::Step(t) => {
            return format!(
                "step lanes {:3} groups {:3} threads {:3}",
                t.lanes,
                t.groups,
                t.threads()
            );
        }
        Form::Serial(t) | Form::Split { tile: t, .. } => t,
    };
    let kind = match form {
        Form::Split { segment, .. } => format!("split {segment:6}"),
        _ => "serial      ".into(),
    };
    format!(
        "{kind} tile {:3}x{:<3} threads {:3} ({}x{}) regs {}x{}x{} chunk {}/{} unroll {}",
        tile.rows(),
        tile.columns(),
        tile.threads(),
        tile.row_groups,
        tile.lanes,
        tile.row_regs,
        tile.key_regs,
        tile.value_vecs,
        tile.chunk,
        tile.tokens,
        tile.unroll
    )
}

/// Whether the name contains one of the `|`-separated parts of `TILE`.
fn wanted(name: &str) -> bool {
    std::env::var("TILE").map_or(true, |t| t.split('|').any(|part| name.contains(part)))
}

struct Tuner<'a> {
    gpu: &'a Gpu,
    problem: Linear,
    ceilings: Ceilings,
    buffers: Buffers,
    /// The verdict on the kernels checked last: they do not depend on the segment length.
    checked: Option<(Form, Result<(), String>)>,
}

impl<'a> Tuner<'a> {
    fn new(gpu: &'a Gpu, problem: Linear, ceilings: Ceilings) -> Self {
        Tuner {
            buffers: Buffers::zeroless(gpu, &problem),
            gpu,
            problem,
            ceilings,
            checked: None,
        }
    }

    fn run(&mut self, forms: &[Form]) {
        let p = &self.problem;
        println!(
            "B {} H {} Hkv {} N {} D {} Dv {} {} {:?} decay, {:?}{}{}{}",
            p.batch,
            p.heads,
            p.kv_heads(),
            p.tokens,
            p.head_dim,
            p.value_dim(),
            p.dtype,
            p.decay,
            p.feature_map,
            if p.normalize.is_some() { ", normalised" } else { "" },
            if p.initial_state { ", states" } else { "" },
            if p.causal { "" } else { ", not causal" },
        );
        let bytes = linear::bytes(p);
        println!(
            "byte floor {:.3} MB: {:.3} ms at the rate of a copy",
            bytes / 1e6,
            1e3 * bytes / self.ceilings.copy_bytes
        );
        if let Ok(plan) = p.plan(self.gpu) {
            println!("planner: {}", name(plan.form()));
        }
        let start = Instant::now();
        let patience: f64 = number_from("SECONDS").unwrap_or(f64::INFINITY);
        let mut results = vec![];
        for &form in forms {
            let name = name(form);
            if !wanted(&name) {
                continue;
            }
            if start.elapsed().as_secs_f64() > patience {
                println!("SECONDS are over before {name}");
                break;
            }
            match self.measure(form) {
                Ok(Some(seconds)) => {
                    eprintln!("{name}: {:.1} us", seconds * 1e6);
                    results.push((seconds, name, form));
                }
                Ok(None) => {}
                Err(message) => println!("{name}: {message}"),
            }
        }
        results.sort_by(|a, b| a.0.total_cmp(&b.0));
        let shown = number_from("SHOW").map_or(12, |n| n as usize);
        for (seconds, name, form) in results.iter().take(shown) {
            println!("{name}: {}", self.numbers(*seconds, *form));
        }
    }

    /// Seconds; none where the form cannot serve the problem on this device; a wrong result gets no time.
    fn measure(&mut self, form: Form) -> Result<Option<f64>, String> {
        let tuning = LinearTuning { form: Some(form) };
        let plan = match self.problem.plan_with(self.gpu, &tuning) {
            Ok(plan) => plan,
            Err(Error::Invalid { .. } | Error::Limit { .. }) => return Ok(None),
            Err(error) => return Err(error.to_string()),
        };
        self.check(form)?;
        let effort = Effort {
            seconds: 0.1,
            ..Effort::default()
        };
        let times = time(self.gpu, &effort, |pass, _| {
            plan.encode_in(pass, &self.buffers.tensors())
        });
        times.map(|t| Some(t.median())).map_err(|e| e.to_string())
    }

    fn check(&mut self, form: Form) -> Result<(), String> {
        let kernels = match form {
            Form::Split { tile, .. } => Form::Split {
                tile,
                segment: tile.rows(),
            },
            form => form,
        };
        if let Some((of, verdict)) = &self.checked
            && *of == kernels
        {
            return verdict.clone();
        }
        let verdict = linear::check(self.gpu, &linear::small(&self.problem, kernels), kernels);
        self.checked = Some((kernels, verdict.clone()));
        verdict
    }

    fn numbers(&self, seconds: f64, form: Form) -> String {
        let p = &self.problem;
        let chunk = match form {
            Form::Step(_) => 0,
            Form::Serial(tile) | Form::Split { tile, .. } => tile.rows(),
        };
        let units = linear::tokens_and_heads(p);
        let flops = units * linear::flops_per_token(p, chunk);
        let bytes = linear::bytes(p);
        format!(
            "{:9.3} ms {:8.3} ns per token and head {:5.1} % of FMA {:5.1} % of copy",
            seconds * 1e3,
            seconds * 1e9 / units,
            100.0 * flops / seconds / self.ceilings.f32_flops,
            100.0 * bytes / seconds / self.ceilings.copy_bytes
        )
    }
}

fn number_from(name: &str) -> Option<f64> {
    std::env::var(name).ok()?.parse().ok()
}
