//! Checks and times candidate forms and tiles of linear attention on this device, so that choices rest on measurements.
//!
//! ```text
//! cargo bench --features bench --bench tune_linear -- prefill [N] [D] [heads]     forms and tiles
//! cargo bench --features bench --bench tune_linear -- step [D] [heads] [batch]    decode tiles
//! cargo bench --features bench --bench tune_linear -- table                       the planner's choices, N = 1k to 64k
//! ```
//! `WGPU_ATTENTION_BACKEND`, `WGPU_ATTENTION_ADAPTER` choose the device; `DTYPE=f16`, `DECAY=none|head|token|channel` the
//! problem; `TILE="a&b|c"` only lines that contain a and b, or c; `SHOW=n` the best so many.
//!
//! Beside each time: percent of the device's own f32 FMA and copy ceilings that the operations and bytes no form can do
//! without come to.

use wgpu_attention::bench::{Problem, rotating_sets};
use wgpu_attention::dense::cooperative::CooperativeTile as SegmentTile;
use wgpu_attention::dense::tile::DeviceClass;
use wgpu_attention::linear::carried::CarriedTile;
use wgpu_attention::linear::cooperative::CooperativeTile;
use wgpu_attention::linear::tile::{Form, LinearTuning};
use wgpu_attention::linear::variant::{ChunkTile, StepTile};
use wgpu_attention::measure::{Ceilings, Effort, time};
use wgpu_attention::{DType, Decay, Gpu, Linear};

#[path = "common/mod.rs"]
mod common;
use common::linear;

fn main() {
    let gpu = common::gpu();
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let number = |n: usize, default: u32| arguments.get(n).and_then(|a| a.parse().ok()).unwrap_or(default);
    let ceilings = Ceilings::measure(&gpu).expect("ceilings");
    println!("{} ({})", gpu.info().name, gpu.info().driver_info);
    println!(
        "f32 FMA {:.1} GFLOP/s, copy {:.1} GB/s",
        ceilings.f32_flops / 1e9,
        ceilings.copy_bytes / 1e9
    );
    match arguments.first().map(String::as_str) {
        Some("step") => steps(&gpu, &ceilings, number(1, 64), number(2, 32), number(3, 1)),
        Some("table") => table(&gpu, &ceilings),
        _ => prefill(&gpu, &ceilings, number(1, 4096), number(2, 64), number(3, 8)),
    }
}

fn dtype() -> DType {
    match std::env::var("DTYPE").as_deref() {
        Ok("f16") => DType::F16,
        Ok("bf16") => DType::BF16,
        _ => DType::F32,
    }
}

fn decay() -> Decay {
    match std::env::var("DECAY").as_deref() {
        Ok("none") => Decay::None,
        Ok("token") => Decay::Token,
        Ok("channel") => Decay::Channel,
        _ => Decay::Head,
    }
}

/// Whether the name contains all the `&`-separated parts of one of the `|`-separated parts of `TILE`.
fn wanted(name: &str) -> bool {
    let all = |parts: &str| parts.split('&').all(|part| name.contains(part));
    std::env::var("TILE").map_or(true, |t| t.split('|').any(all))
}

/// Seconds, or why there are none; a wrong result gets no time. Sets of buffers take turns, so that nothing is found in a cache.
fn measure(gpu: &Gpu, problem: &Linear, sets: &[linear::Buffers], tuning: &LinearTuning) -> Result<f64, String> {
    linear::check(gpu, &linear::small(problem), tuning)?;
    let plan = problem.plan_with(gpu, tuning).map_err(|e| e.to_string())?;
    let times = time(gpu, &Effort::default(), |pass, run| {
        plan.encode_in(pass, &sets[run % sets.len()].tensors())
    });
    times.map(|t| t.median()).map_err(|e| e.to_string())
}

fn line(name: &str, problem: &Linear, seconds: f64, ceilings: &Ceilings) -> String {
    format!(
        "{:9.1} us {:8.3} ns/token  {:5.1} % of FMA  {:5.1} % of copy  {name}",
        seconds * 1e6,
        seconds * 1e9 / linear::tokens(problem),
        100.0 * linear::flops(problem) / seconds / ceilings.f32_flops,
        100.0 * linear::bytes(problem) / seconds / ceilings.copy_bytes
    )
}

fn sets(gpu: &Gpu, problem: &Linear) -> Vec<linear::Buffers> {
    let new = || linear::Buffers::new(gpu, problem);
    rotating_sets(gpu, &Problem::Linear(problem.clone()), new).expect("buffers")
}

/// A problem, and what was measured of it.
struct Bench<'a> {
    gpu: &'a Gpu,
    ceilings: &'a Ceilings,
    problem: Linear,
    sets: Vec<linear::Buffers>,
    results: Vec<(f64, String)>,
}

impl<'a> Bench<'a> {
    fn new(gpu: &'a Gpu, ceilings: &'a Ceilings, problem: Linear) -> Self {
        Bench {
            sets: sets(gpu, &problem),
            gpu,
            ceilings,
            problem,
            results: vec![],
        }
    }

    /// Measures a form, unless its name is not wanted or the device too small for it.
    fn run(&mut self, name: &str, form: Option<Form>) {
        if !wanted(name) {
            return;
        }
        match measure(self.gpu, &self.problem, &self.sets, &LinearTuning { form }) {
            Ok(seconds) => self
                .results
                .push((seconds, line(name, &self.problem, seconds, self.ceilings))),
            Err(e) if e.contains("needs") => {}
            Err(e) => println!("{name}: {e}"),
        }
    }

    /// The best times, shortest first.
    fn show(&mut self) {
        let most = std::env::var("SHOW").ok().and_then(|n| n.parse().ok());
        self.results.sort_by(|a, b| a.0.total_cmp(&b.0));
        for (_, text) in self.results.iter().take(most.unwrap_or(usize::MAX)) {
            println!("{text}");
        }
    }
}

fn prefill(gpu: &Gpu, ceilings: &Ceilings, tokens: u32, head_dim: u32, heads: u32) {
    let problem = Linear {
        heads,
        tokens,
        head_dim,
        dtype: dtype(),
        decay: decay(),
        ..Default::default()
    };
    println!(
        "prefill {heads}x{tokens}x{head_dim} {} decay {:?}",
        problem.dtype, problem.decay
    );
    let mut bench = Bench::new(gpu, ceilings, problem.clone());
    let mut run = |name: String, form: Option<Form>| bench.run(&name, form);
    run("planner".into(), None);
    for tile in tiles(&problem, &DeviceClass::of_gpu(gpu)) {
        let name = format!(
            "tile {}x{} threads {} regs {}x{}x{} chunk {}/{} unroll {}",
            tile.rows(),
            tile.columns(),
            tile.threads(),
            tile.row_regs,
            tile.key_regs,
            tile.value_vecs,
            tile.chunk,
            tile.tokens,
            tile.unroll
        );
        run(format!("serial {name}"), Some(Form::Serial(tile)));
        for segment in [64, 128, 256, 512, 1024, 2048] {
            if segment < tokens && segment >= tile.rows() {
                run(format!("split {segment} {name}"), Some(Form::Split { tile, segment }));
            }
        }
    }
    for tile in matrix_tiles(&DeviceClass::of_gpu(gpu)) {
        let name = format!(
            "tile {}x{} strips {}x{} staged {}",
            tile.rows(),
            tile.columns(),
            tile.strips,
            tile.shares,
            tile.staged
        );
        run(format!("cooperative serial {name}"), Some(Form::Cooperative(tile)));
    }
    let device = DeviceClass::of_gpu(gpu);
    // Every tile beside the other kernel's first.
    let mut states = state_tiles(&device);
    states.retain(|t| t.columns() <= head_dim.next_multiple_of(64));
    let outputs = output_tiles(&device);
    let first = |n: usize| n.min(1);
    for (states, outputs) in [
        (&states[..], &outputs[..first(outputs.len())]),
        (&states[..first(states.len())], &outputs[..]),
    ] {
        for state in states {
            for output in outputs {
                for segment in [64, 128, 256, 512, 1024] {
                    if segment < tokens && segment.is_multiple_of(output.rows()) {
                        let name = format!(
                            "cooperative split {segment} {} output {}x{}x{} strips {}{}",
                            state_name(state),
                            output.rows(),
                            output.keys,
                            output.stages,
                            output.strips,
                            if output.elements.is_some() { " elements" } else { "" },
                        );
                        let form = Form::CooperativeSplit {
                            state: *state,
                            output: *output,
                            segment,
                        };
                        run(name, Some(form));
                    }
                }
            }
        }
    }
    for state in &states {
        for output in carried_tiles(&problem, &device) {
            for segment in [128, 256, 512, 1024, 2048, 4096] {
                if segment < tokens && segment.is_multiple_of(output.rows()) {
                    let name = format!(
                        "carried {segment} {} output {} strips {}x{}",
                        state_name(state),
                        output.rows(),
                        output.strips,
                        output.strip_blocks,
                    );
                    let form = Form::Carried {
                        state: *state,
                        output,
                        segment,
                    };
                    bench.run(&name, Some(form));
                }
            }
        }
    }
    bench.show();
}

fn state_name(tile: &CooperativeTile) -> String {
    format!(
        "state {}x{} strips {}x{} staged {}",
        tile.rows(),
        tile.columns(),
        tile.strips,
        tile.shares,
        tile.staged
    )
}

/// Tiles of the outputs of segments that carry the state: blocks of tokens, blocks of a strip's columns.
fn carried_tiles(p: &Linear, device: &DeviceClass) -> Vec<CarriedTile> {
    let shapes = [[2, 1], [3, 1], [4, 1], [2, 2], [1, 1]];
    let tile = |shape| CarriedTile::new(p, device, shape);
    shapes.into_iter().filter_map(tile).collect()
}

/// Tiles of the states of segments: those that have been fast first.
fn state_tiles(device: &DeviceClass) -> Vec<CooperativeTile> {
    let wanted = [
        (2, 4, 1, 2, 2),
        (4, 2, 1, 4, 2),
        (4, 2, 1, 4, 4),
        (2, 4, 2, 2, 2),
        (2, 2, 1, 2, 2),
        (2, 2, 1, 4, 2),
        (2, 4, 1, 1, 2),
    ];
    let all = matrix_tiles(device);
    let find = |w: &(u32, u32, u32, u32, u32)| {
        all.iter()
            .find(|t| (t.strips, t.shares, t.row_blocks, t.value_blocks, t.staged) == *w)
            .copied()
    };
    wanted.iter().filter_map(find).collect()
}

/// Tiles of the outputs of segments: strips, blocks of rows, keys, stages.
fn output_tiles(device: &DeviceClass) -> Vec<SegmentTile> {
    let (Some(edge), Some((least, most))) = (device.abilities.matrices, device.abilities.subgroups) else {
        return vec![];
    };
    let tile = |(strips, row_blocks, keys, stages): (u32, u32, u32, u32)| SegmentTile {
        edge,
        strips,
        row_blocks,
        keys,
        slices: 1,
        stages,
        carried: true,
        threads: strips * most,
        row_lanes: (most / (row_blocks * edge)).clamp(1, (keys / 4).min(least)),
        own_barriers: device.abilities.subgroup_barriers && least == most && edge == 16,
        vectors: !device.scalar_matrices,
        written_out: !device.software,
        alternate: false,
        elements: None,
        scores_anew: false,
    };
    [
        (4, 2, 16, 1),
        (8, 2, 16, 2),
        (4, 2, 16, 2),
        (4, 2, 32, 1),
        (2, 2, 16, 2),
        (8, 1, 16, 2),
        (4, 1, 16, 2),
        (16, 1, 16, 2),
        (4, 1, 16, 1),
        (2, 2, 16, 1),
        (6, 2, 16, 1),
        (8, 2, 16, 1),
    ]
    .into_iter()
    .flat_map(|shape| {
        let tile = tile(shape);
        let elements = tile.in_registers(&device.abilities);
        std::iter::once(tile).chain(elements.filter(|_| shape.3 == 2))
    })
    .collect()
}

/// Tiles on cooperative matrices, none where the device has no such: strips, shares, blocks of tokens of a strip and of
/// columns of a share, matrices staged.
fn matrix_tiles(device: &DeviceClass) -> Vec<CooperativeTile> {
    let (Some(edge), Some((least, most))) = (device.abilities.matrices, device.abilities.subgroups) else {
        return vec![];
    };
    let mut all = vec![];
    for strips in [1, 2, 4] {
        for (shares, row_blocks) in [(1, 1), (1, 2), (2, 1), (2, 2), (4, 1), (4, 2), (8, 1)] {
            for value_blocks in [1, 2, 4] {
                for staged in [1, 2, 4] {
                    let (threads, rows) = (strips * shares * most, strips * row_blocks * edge);
                    all.push(CooperativeTile {
                        edge,
                        strips,
                        shares,
                        row_blocks,
                        value_blocks,
                        staged,
                        threads,
                        row_lanes: 1 << (threads / rows).clamp(1, (rows / 4).min(least)).ilog2(),
                        vectors: !device.scalar_matrices,
                        written_out: !device.software,
                    });
                }
            }
        }
    }
    all.retain(|t| (2..=16).contains(&(t.strips * t.shares)) && (32..=128).contains(&t.columns()) && t.rows() <= 64);
    all
}

fn tiles(p: &Linear, device: &DeviceClass) -> Vec<ChunkTile> {
    let shapes: &[(u32, u32, u32, u32)] = match p.decay {
        Decay::Channel => &[
            (16, 1, 4, 4),
            (8, 2, 4, 4),
            (8, 1, 2, 4),
            (32, 1, 8, 4),
            (16, 2, 8, 4),
            (4, 4, 4, 4),
        ],
        _ => &[
            (8, 4, 8, 4),
            (16, 2, 8, 4),
            (32, 1, 8, 4),
            (8, 2, 4, 4),
            (16, 1, 4, 4),
            (16, 4, 16, 4),
            (16, 4, 8, 8),
            (8, 8, 8, 8),
            (8, 8, 16, 4),
            (32, 2, 8, 8),
            (32, 2, 16, 4),
        ],
    };
    let mut all = vec![];
    for &(row_groups, row_regs, lanes, key_regs) in shapes {
        for value_vecs in [1, 2, 4] {
            for (chunk, tokens) in [(4, 8), (4, 16), (8, 8), (8, 16), (8, 32)] {
                for unroll in if device.software { &[1][..] } else { &[2, 4, 8][..] } {
                    let tile = ChunkTile {
                        row_groups,
                        row_regs,
                        lanes,
                        key_regs,
                        value_vecs,
                        chunk,
                        tokens,
                        unroll: *unroll,
                    };
                    let sensible = tile.columns() <= p.value_dim().next_multiple_of(32)
                        && tokens <= tile.rows()
                        && p.head_dim.div_ceil(4).is_multiple_of(chunk)
                        && p.head_dim.div_ceil(4 * row_groups) * 16 * value_vecs <= 128
                        && *unroll <= chunk;
                    if sensible && tile.workgroup_bytes(p.head_dim, p.decay, false) <= device.workgroup_memory {
                        all.push(tile);
                    }
                }
            }
        }
    }
    all
}

fn step(tokens: u32, head_dim: u32, heads: u32, batch: u32) -> Linear {
    Linear {
        batch,
        heads,
        tokens,
        head_dim,
        dtype: dtype(),
        decay: decay(),
        initial_state: true,
        final_state: true,
        in_place: true,
        ..Default::default()
    }
}

fn steps(gpu: &Gpu, ceilings: &Ceilings, head_dim: u32, heads: u32, batch: u32) {
    for tokens in [1, 4, 8, 16] {
        let problem = step(tokens, head_dim, heads, batch);
        println!(
            "step {batch}x{heads}x{tokens}x{head_dim} {} decay {:?}",
            problem.dtype, problem.decay
        );
        let mut bench = Bench::new(gpu, ceilings, problem);
        let mut run = |name: String, form: Option<Form>| bench.run(&name, form);
        run("planner".into(), None);
        for lanes in [4, 8, 16, 32] {
            for groups in [1, 2, 4, 8, 16, 32] {
                if lanes * 4 <= head_dim && lanes * groups <= 256 && lanes * groups >= 4 {
                    run(
                        format!("step lanes {lanes} groups {groups}"),
                        Some(Form::Step(StepTile { lanes, groups })),
                    );
                }
            }
        }
        bench.show();
    }
}

fn table(gpu: &Gpu, ceilings: &Ceilings) {
    let print =
        |name: String, problem: Linear| match measure(gpu, &problem, &sets(gpu, &problem), &LinearTuning::default()) {
            Ok(seconds) => println!("{}", line(&name, &problem, seconds, ceilings)),
            Err(e) => println!("{name}: {e}"),
        };
    for head_dim in [64, 128] {
        for (batch, heads) in [(1, 1), (1, 16), (4, 32)] {
            for tokens in [1024, 4096, 16384, 65536] {
                if u64::from(batch * heads) * u64::from(tokens * head_dim) >= 1 << 30 {
                    // Beyond the buffers of many devices.
                    continue;
                }
                let problem = Linear {
                    batch,
                    heads,
                    tokens,
                    head_dim,
                    dtype: dtype(),
                    decay: decay(),
                    ..Default::default()
                };
                let form = problem.plan(gpu).map(|p| format!("{:?}", p.form())).unwrap_or_default();
                let name = format!("{batch}x{heads}x{tokens}x{head_dim} {} {form}", problem.dtype);
                print(name, problem);
            }
        }
        for (heads, batch) in [(32, 1), (32, 32)] {
            print(
                format!("step {batch}x{heads}x{head_dim}"),
                step(1, head_dim, heads, batch),
            );
        }
    }
}
