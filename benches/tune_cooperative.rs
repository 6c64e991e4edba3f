//! Checks and times candidate tiles of the cooperative tier on this device, so that tile choices rest on measurements.
//!
//! ```text
//! cargo bench --bench tune_cooperative -- [N] [D] [heads]
//! ```
//! `WGPU_ATTENTION_BACKEND`, `WGPU_ATTENTION_ADAPTER` choose the device; `FULL=1` drops the causal mask; `DTYPE` is f16, or
//! f32 or bf16 for split products, beside the planner's kernel without matrices; `SOFTCAP=1` adds a softcap; `TILE` keeps the
//! tiles whose names contain one of its `|`-separated parts.

use wgpu_attention::bench::{Problem, rotating_sets};
use wgpu_attention::dense::cooperative::CooperativeTile;
use wgpu_attention::dense::tile::{KernelChoice, Tuning};
use wgpu_attention::measure::{Effort, time};
use wgpu_attention::{DType, Dense, Gpu, Tier};

#[path = "common/mod.rs"]
mod common;

fn main() {
    let gpu = common::gpu();
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let number = |n: usize, default: u32| arguments.get(n).and_then(|a| a.parse().ok()).unwrap_or(default);
    let (n, d, heads) = (number(0, 4096), number(1, 128), number(2, 32));
    let dtype = dtype();
    let problem = Dense {
        heads,
        queries: n,
        keys: n,
        head_dim: d,
        dtype,
        causal: std::env::var("FULL").is_err(),
        softcap: std::env::var("SOFTCAP").is_ok().then_some(30.0),
        ..Default::default()
    };
    println!("{}", common::device_line(&gpu));
    println!("prefill {heads}x{n}x{d} {dtype} causal {}", problem.causal);
    let (Some(edge), Some(_)) = (gpu.abilities().matrices, gpu.abilities().subgroups) else {
        println!("no cooperative matrices here");
        return;
    };
    let mut results = vec![];
    let without = gpu
        .with_tier(Tier::Subgroup)
        .expect("a device with matrices has subgroups");
    let planned = problem.plan(&without).expect("a plan").kernel();
    match measure(&without, &problem, planned) {
        Ok(seconds) => results.push((seconds, "planner's without matrices".to_string())),
        Err(message) => println!("planner's without matrices: {message}"),
    }
    let shapes = if dtype == DType::F16 { SHAPES } else { SPLIT_SHAPES };
    for tile in tiles(&gpu, edge, shapes, dtype != DType::F16) {
        let name = format!(
            "strips {} blocks {} keys {} stages {} lanes {} {} B{}{}{}{}{}{}",
            tile.strips,
            tile.row_blocks,
            tile.keys,
            tile.stages,
            tile.row_lanes,
            tile.workgroup_bytes(d, d),
            if tile.slices == 2 { " split" } else { "" },
            if tile.carried { " carried" } else { "" },
            if tile.own_barriers { " own" } else { "" },
            if tile.vectors { "" } else { " scalars" },
            if tile.elements.is_some() { " elements" } else { "" },
            if tile.scores_anew { " anew" } else { "" },
        );
        let wanted = std::env::var("TILE").map_or(true, |t| t.split('|').any(|part| name.contains(part)));
        if !wanted || tile.workgroup_bytes(d, d) > gpu.limits().max_compute_workgroup_storage_size {
            continue;
        }
        match measure(&gpu, &problem, KernelChoice::Cooperative(tile)) {
            Ok(seconds) => {
                println!("{name:40} {:9.3} ms", seconds * 1e3);
                results.push((seconds, name));
            }
            Err(message) => println!("{name}: {message}"),
        }
    }
    results.sort_by(|a, b| a.0.total_cmp(&b.0));
    for (seconds, name) in &results {
        let rate = common::flops(&problem) / seconds / 1e12;
        println!("{name:40} {:9.3} ms {rate:7.1} TFLOP/s", seconds * 1e3);
    }
}

fn dtype() -> DType {
    match std::env::var("DTYPE").as_deref() {
        Ok("f32") => DType::F32,
        Ok("bf16") => DType::BF16,
        _ => DType::F16,
    }
}

/// Strips, blocks of rows, keys, stages.
const SHAPES: &[[u32; 4]] = &[
    [8, 2, 16, 2],
    [8, 2, 16, 1],
    [4, 2, 16, 2],
    [4, 2, 16, 1],
    [2, 2, 16, 2],
    [2, 2, 16, 1],
    [8, 1, 16, 2],
    [4, 1, 16, 2],
    [4, 1, 16, 1],
    [2, 1, 16, 1],
    [4, 2, 32, 1],
    [4, 1, 32, 2],
    [8, 1, 32, 1],
];

/// Strips and blocks of rows where scores and weights stay in registers.
const ELEMENT_SHAPES: &[[u32; 2]] = &[
    [8, 2],
    [4, 2],
    [2, 2],
    [8, 1],
    [4, 1],
    [2, 1],
    [8, 3],
    [4, 3],
    [4, 4],
    [2, 4],
];

/// The same for split products.
const SPLIT_SHAPES: &[[u32; 4]] = &[
    [8, 1, 16, 1],
    [8, 1, 16, 2],
    [4, 1, 16, 1],
    [4, 1, 16, 2],
    [1, 1, 16, 1],
    [3, 1, 16, 1],
    [6, 1, 16, 1],
    [2, 1, 16, 1],
    [2, 1, 16, 2],
    [2, 1, 32, 1],
    [4, 1, 32, 1],
    [8, 1, 32, 1],
    [8, 2, 16, 1],
    [4, 2, 16, 1],
    [4, 2, 16, 2],
    [3, 2, 16, 1],
    [2, 2, 16, 1],
    [2, 2, 16, 2],
    [4, 2, 32, 1],
    [2, 2, 32, 1],
];

fn tiles(gpu: &Gpu, edge: u32, shapes: &[[u32; 4]], split: bool) -> Vec<CooperativeTile> {
    let abilities = gpu.abilities();
    let (least, most) = abilities.subgroups.unwrap_or((1, 1));
    let tile = |&[strips, row_blocks, keys, stages]: &[u32; 4], carried| {
        let lanes = (most / (row_blocks * edge)).clamp(1, (keys / 4).min(least));
        let row_lanes = 1 << lanes.ilog2();
        CooperativeTile {
            edge,
            strips,
            row_blocks,
            keys,
            slices: if split { 2 } else { 1 },
            stages,
            carried,
            threads: strips * most,
            row_lanes,
            own_barriers: abilities.subgroup_barriers && least == most && row_lanes * row_blocks * edge == most,
            vectors: gpu.info().backend != wgpu_attention::wgpu::Backend::Metal,
            written_out: true,
            alternate: false,
            elements: None,
            scores_anew: false,
        }
    };
    let plain = shapes
        .iter()
        .flat_map(|shape| [true, false].map(|carried| tile(shape, carried)))
        .filter(|tile| !split || tile.stages == 1 || tile.carried);
    let shapes = if split { &[] } else { ELEMENT_SHAPES };
    let in_registers =
        |&[strips, row_blocks]: &[u32; 2]| tile(&[strips, row_blocks, edge, 2], true).in_registers(&abilities);
    let ways = |kept: CooperativeTile| [false, true].map(|scores_anew| CooperativeTile { scores_anew, ..kept });
    let elements = shapes.iter().filter_map(in_registers).flat_map(ways);
    plain.chain(elements).collect()
}

/// Seconds, or why there are none; a wrong result gets no time.
fn measure(gpu: &Gpu, problem: &Dense, kernel: KernelChoice) -> Result<f64, String> {
    let tuning = Tuning {
        kernel: Some(kernel),
        ..Tuning::default()
    };
    let plan = common::checked_plan(gpu, problem, &tuning).map_err(|e| e.to_string())?;
    let sets = rotating_sets(gpu, &Problem::Dense(problem.clone()), || {
        common::Buffers::zeroless(gpu, problem)
    });
    let sets = sets.map_err(|e| e.to_string())?;
    let times = time(gpu, &Effort::default(), |pass, run| {
        plan.encode_in(pass, &sets[run % sets.len()].tensors())
    });
    times.map(|t| t.median()).map_err(|e| e.to_string())
}
