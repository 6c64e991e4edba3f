//! Checks and times candidate tiles of the top-k selection on this device, so that tile choices rest on measurements.
//!
//! ```text
//! cargo bench --bench tune_select -- [rows]x[columns]x[k]     default 8x65536x2048
//! ```
//! `WGPU_ATTENTION_BACKEND`, `WGPU_ATTENTION_ADAPTER` choose the device; `TILE=a|b` tiles whose name has one of the parts;
//! `SHOW` how many are listed; `FORCED=1` keeps the first 4 and the last 64 columns in any case. Scores are normally
//! distributed, as those of attention roughly are: few exponents, and the greatest alone in their bins.

use wgpu_attention::measure::{Effort, time};
use wgpu_attention::topk::select::tile::SelectTuning;
use wgpu_attention::topk::select::variant::SelectTile;
use wgpu_attention::{DType, Gpu, Select, SelectTensors};

#[path = "common/mod.rs"]
mod common;

fn main() {
    let gpu = common::gpu();
    println!("{}", common::device_line(&gpu));
    let select = problem(std::env::args().skip(1).find(|a| !a.starts_with("--")));
    println!("{select:?}");
    let mut results = vec![];
    for (name, tuning) in candidates(&gpu) {
        match measure(&gpu, &select, &tuning) {
            Ok(seconds) => results.push((seconds, name)),
            Err(message) => println!("{name}: {message}"),
        }
    }
    results.sort_by(|a, b| a.0.total_cmp(&b.0));
    let bytes = 4.0 * f64::from(select.rows) * f64::from(select.columns);
    let shown = std::env::var("SHOW").ok().and_then(|s| s.parse().ok()).unwrap_or(12);
    for (seconds, name) in results.iter().take(shown) {
        let row = seconds / f64::from(select.rows);
        println!(
            "{name}: {:9.1} us, {:9.2} us a row, {:7.2} GB/s of scores",
            seconds * 1e6,
            row * 1e6,
            bytes / seconds / 1e9
        );
    }
}

fn problem(sizes: Option<String>) -> Select {
    let sizes = sizes.unwrap_or("8x65536x2048".into());
    let sizes: Vec<u32> = sizes.split('x').map(|n| n.parse().expect("ROWSxCOLUMNSxK")).collect();
    let [rows, columns, top_k] = sizes[..] else {
        panic!("ROWSxCOLUMNSxK")
    };
    let forced = std::env::var("FORCED").is_ok();
    Select {
        rows,
        columns,
        top_k,
        first: if forced { 4.min(top_k) } else { 0 },
        last: if forced { 64.min(top_k.saturating_sub(4)) } else { 0 },
        ..Default::default()
    }
}

/// Every tile that is sensible on the device, and the planner's.
fn candidates(gpu: &Gpu) -> Vec<(String, SelectTuning)> {
    let wanted = std::env::var("TILE").unwrap_or_default();
    let threads: &[u32] = if common::is_software(gpu) {
        &[8, 16, 32, 64, 256]
    } else {
        &[32, 64, 128, 256, 512, 1024]
    };
    let mut found = vec![("planner".to_string(), SelectTuning::default())];
    for &threads in threads {
        for radix_bits in [4, 6, 8, 11] {
            for replicas in [1, 2, 4, 8] {
                for (mask_quads, unroll) in [(1, 1), (1, 2), (1, 4), (1, 8), (2, 2), (8, 1), (8, 2)] {
                    let tile = SelectTile {
                        threads,
                        radix_bits,
                        replicas,
                        mask_quads,
                        unroll,
                    };
                    let name = format!(
                        "threads {threads:4} bits {radix_bits:2} replicas {replicas} mask {mask_quads} unroll {unroll}"
                    );
                    found.push((name, SelectTuning { tile: Some(tile) }));
                }
            }
        }
    }
    found.retain(|(name, tuning)| {
        wanted.split('|').any(|part| name.contains(part))
            && tuning
                .tile
                .is_none_or(|t| t.workgroup_bytes() <= gpu.limits().max_compute_workgroup_storage_size)
    });
    found
}

/// Seconds, or why there are none; a wrong result gets no time.
fn measure(gpu: &Gpu, select: &Select, tuning: &SelectTuning) -> Result<f64, String> {
    let rows = select.rows.min(3);
    let small = Select { rows, ..select.clone() };
    let scores = normal(rows as usize * select.columns as usize);
    let plan = small.plan_with(gpu, tuning).map_err(|e| e.to_string())?;
    if plan.run_blocking(&scores).map_err(|e| e.to_string())? != expected(&small, &scores) {
        return Err("WRONG".into());
    }
    let plan = select.plan_with(gpu, tuning).map_err(|e| e.to_string())?;
    let elements = u64::from(select.rows) * u64::from(select.columns);
    let block = normal(elements.min(1 << 20).next_multiple_of(4) as usize);
    let scores = common::filled(gpu, elements, &block, DType::F32);
    let lists = u64::from(select.rows) * u64::from(1 + select.capacity());
    let lists = common::filled(gpu, lists, &[0.0; 1024], DType::F32);
    let tensors = SelectTensors {
        scores: (&scores).into(),
        lists: (&lists).into(),
    };
    let times = time(gpu, &Effort::default(), |pass, _| plan.encode_in(pass, &tensors));
    times.map(|t| t.median()).map_err(|e| e.to_string())
}

/// Sums of uniform numbers, close to normally distributed.
fn normal(n: usize) -> Vec<f32> {
    let parts: Vec<_> = (1..=6).map(|seed| common::random(seed, n)).collect();
    (0..n).map(|i| parts.iter().map(|p| p[i]).sum::<f32>()).collect()
}

/// The lists by a plain sort.
fn expected(select: &Select, scores: &[f32]) -> Vec<u32> {
    let columns = select.columns;
    let mut lists = vec![];
    for row in scores.chunks_exact(columns as usize) {
        let forced = |c: u32| c < select.first || c >= columns - select.last.min(columns);
        let mut order: Vec<u32> = (0..columns).collect();
        order.sort_by(|&a, &b| {
            let by_score = row[b as usize].total_cmp(&row[a as usize]);
            forced(b).cmp(&forced(a)).then(by_score).then(a.cmp(&b))
        });
        order.truncate(select.top_k as usize);
        order.sort_unstable();
        lists.push(order.len() as u32);
        let entries = order.len();
        lists.extend(order);
        lists.extend(vec![0; select.capacity() as usize - entries]);
    }
    lists
}
