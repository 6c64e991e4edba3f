//! Checks and times candidate tiles of the cooperative tier on this device, so that tile choices rest on measurements.
//!
//! ```text
//! cargo bench --bench tune_cooperative -- [N] [D] [heads]
//! ```
//! `WGPU_ATTENTION_BACKEND`, `WGPU_ATTENTION_ADAPTER` choose the device; `FULL=1` drops the causal mask; `TILE` keeps the
//! tiles whose names contain one of its `|`-separated parts.

use wgpu_attention::dense::cooperative::CooperativeTile;
use wgpu_attention::dense::tile::{KernelChoice, Tuning};
use wgpu_attention::measure::{Effort, time};
use wgpu_attention::{DType, Dense, Gpu};

#[path = "common/mod.rs"]
mod common;

fn main() {
    let gpu = common::gpu();
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let number = |n: usize, default: u32| arguments.get(n).and_then(|a| a.parse().ok()).unwrap_or(default);
    let (n, d, heads) = (number(0, 4096), number(1, 128), number(2, 32));
    let problem = Dense {
        heads,
        queries: n,
        keys: n,
        head_dim: d,
        dtype: DType::F16,
        causal: std::env::var("FULL").is_err(),
        ..Default::default()
    };
    println!("{}", common::device_line(&gpu));
    println!("prefill {heads}x{n}x{d} f16 causal {}", problem.causal);
    let (Some(edge), Some(_)) = (gpu.abilities().matrices, gpu.abilities().subgroups) else {
        println!("no cooperative matrices here");
        return;
    };
    let mut results = vec![];
    for tile in tiles(&gpu, edge) {
        let name = format!(
            "strips {} blocks {} keys {} stages {} lanes {} {} B{}{}{}",
            tile.strips,
            tile.row_blocks,
            tile.keys,
            tile.stages,
            tile.row_lanes,
            tile.workgroup_bytes(d, d),
            if tile.carried { " carried" } else { "" },
            if tile.own_barriers { " own" } else { "" },
            if tile.vectors { "" } else { " scalars" },
        );
        let wanted = std::env::var("TILE").map_or(true, |t| t.split('|').any(|part| name.contains(part)));
        if !wanted || tile.workgroup_bytes(d, d) > gpu.limits().max_compute_workgroup_storage_size {
            continue;
        }
        match measure(&gpu, &problem, tile) {
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

/// Strips, blocks of rows, keys, stages.
const SHAPES: &[[u32; 4]] = &[
    [8, 2, 16, 2],
    [8, 2, 16, 1],
    [4, 2, 16, 2],
    [4, 2, 16, 1],
    [2, 2, 16, 2],
    [8, 1, 16, 2],
    [4, 1, 16, 2],
    [4, 1, 16, 1],
    [2, 1, 16, 1],
    [4, 2, 32, 1],
    [4, 1, 32, 2],
    [8, 1, 32, 1],
];

fn tiles(gpu: &Gpu, edge: u32) -> Vec<CooperativeTile> {
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
            stages,
            carried,
            threads: strips * most,
            row_lanes,
            own_barriers: abilities.subgroup_barriers && least == most && row_lanes * row_blocks * edge == most,
            vectors: gpu.info().backend != wgpu_attention::wgpu::Backend::Metal,
            written_out: true,
            alternate: false,
        }
    };
    SHAPES
        .iter()
        .flat_map(|shape| [true, false].map(|carried| tile(shape, carried)))
        .collect()
}

/// Seconds, or why there are none; a wrong result gets no time.
fn measure(gpu: &Gpu, problem: &Dense, tile: CooperativeTile) -> Result<f64, String> {
    let tuning = Tuning {
        kernel: Some(KernelChoice::Cooperative(tile)),
        ..Tuning::default()
    };
    let plan = common::checked_plan(gpu, problem, &tuning).map_err(|e| e.to_string())?;
    let buffers = common::Buffers::zeroless(gpu, problem).map_err(|e| e.to_string())?;
    let times = time(gpu, &Effort::default(), |pass, _| {
        plan.encode_in(pass, &buffers.tensors())
    });
    times.map(|t| t.median()).map_err(|e| e.to_string())
}
