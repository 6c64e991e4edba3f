//! Checks and times candidate tiles of the top-k selection on this device, so that tile choices rest on measurements.
//!
//! ```text
//! cargo bench --features bench --bench tune_select -- [rows]x[columns]x[k]     default 8x65536x2048
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
    let inputs = Inputs::new(&gpu, select.clone());
    let mut results = vec![];
    for (name, tuning) in candidates(&gpu) {
        match inputs.measure(&gpu, &tuning) {
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
    // A software GPU runs a workgroup on one processor: nothing meets in a bin, and barriers are dear.
    let (threads, replicas): (&[u32], &[u32]) = match common::is_software(gpu) {
        true => (&[8, 16, 32], &[1]),
        false => (&[32, 64, 128, 256, 512, 1024], &[1, 2, 4, 8]),
    };
    let mut tiles = vec![];
    for (&threads, &replicas) in threads.iter().flat_map(|t| replicas.iter().map(move |r| (t, r))) {
        for radix_bits in [6, 8, 11] {
            for (mask_quads, unroll) in [(1, 1), (1, 2), (1, 4), (1, 8), (2, 2), (8, 1)] {
                tiles.push(SelectTile {
                    threads,
                    radix_bits,
                    replicas,
                    mask_quads,
                    unroll,
                });
            }
        }
    }
    tiles.retain(|t| t.workgroup_bytes() <= gpu.limits().max_compute_workgroup_storage_size);
    let named = |t: SelectTile| {
        let name = format!(
            "threads {:4} bits {:2} replicas {} mask {} unroll {}",
            t.threads, t.radix_bits, t.replicas, t.mask_quads, t.unroll
        );
        (name, SelectTuning { tile: Some(t) })
    };
    let all = std::iter::once(("planner".to_string(), SelectTuning::default())).chain(tiles.into_iter().map(named));
    all.filter(|(name, _)| wanted.split('|').any(|part| name.contains(part)))
        .collect()
}

/// Up to three rows with their lists, to check a tile on, and all rows with room for theirs, to time it.
struct Inputs {
    small: Select,
    small_scores: Vec<f32>,
    small_lists: Vec<u32>,
    select: Select,
    scores: wgpu::Buffer,
    lists: wgpu::Buffer,
}

impl Inputs {
    fn new(gpu: &Gpu, select: Select) -> Self {
        let small = Select {
            rows: select.rows.min(3),
            ..select.clone()
        };
        let small_scores = normal(small.rows as usize * small.columns as usize);
        let scores = u64::from(select.rows) * u64::from(select.columns);
        let block = normal(scores.min(1 << 20) as usize);
        let lists = u64::from(select.rows) * u64::from(1 + select.capacity());
        Inputs {
            small_lists: expected(&small, &small_scores),
            small,
            small_scores,
            scores: common::filled(gpu, scores, &block, DType::F32).expect("scores"),
            lists: common::filled(gpu, lists, &[0.0; 1024], DType::F32).expect("lists"),
            select,
        }
    }

    /// Seconds, or why there are none; a wrong result gets no time.
    fn measure(&self, gpu: &Gpu, tuning: &SelectTuning) -> Result<f64, String> {
        let plan = self.small.plan_with(gpu, tuning).map_err(|e| e.to_string())?;
        if plan.run_blocking(&self.small_scores).map_err(|e| e.to_string())? != self.small_lists {
            return Err("WRONG".into());
        }
        let plan = self.select.plan_with(gpu, tuning).map_err(|e| e.to_string())?;
        let tensors = SelectTensors {
            scores: (&self.scores).into(),
            lists: (&self.lists).into(),
        };
        let times = time(gpu, &Effort::default(), |pass, _| plan.encode_in(pass, &tensors));
        times.map(|t| t.median()).map_err(|e| e.to_string())
    }
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
