//! Checks and times candidate tiles of the dense kernels on this device, so that tile choices rest on measurements.
//!
//! ```text
//! cargo bench --features bench --bench tune_dense -- prefill [N] [D] [heads]     every prefill tile that fits
//! cargo bench --features bench --bench tune_dense -- decode [Nk] [D] [kv heads] [group] [batch]
//! ```
//! Each tile runs in every form that the device has: through workgroup memory, in subgroups, and for f16 with the
//! device's own f16, few queries on matrices too; a software GPU also runs the serial kernel of prefill. `WGPU_ATTENTION_TIER` is not needed. `TILE`
//! narrows the tiles by their printed names, so that `TILE=subgroup`, `TILE=workgroup` or `TILE=serial` picks a form.
//! `WGPU_ATTENTION_BACKEND`, `WGPU_ATTENTION_ADAPTER` choose the device; `DTYPE=f16` the storage type; `FULL=1` drops
//! the causal mask.

use wgpu_attention::bench::{Problem, rotating_sets};
use wgpu_attention::dense::cooperative_decode::CooperativeDecodeTile;
use wgpu_attention::dense::portable::{DecodeTile, PrefillTile};
use wgpu_attention::dense::serial::SerialPrefillTile;
use wgpu_attention::dense::subgroup::Subgroup;
use wgpu_attention::dense::tile::{DeviceClass, KernelChoice, Tuning, alternatives, prefill_fits};
use wgpu_attention::measure::{Ceilings, Effort, time};
use wgpu_attention::{DType, Dense, Gpu};

#[path = "common/mod.rs"]
mod common;

fn main() {
    let gpu = common::gpu();
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let number = |n: usize, default: u32| arguments.get(n).and_then(|a| a.parse().ok()).unwrap_or(default);
    let ceilings = Ceilings::measure(&gpu).expect("ceilings");
    println!("{} ({})", gpu.info().name, gpu.info().driver_info);
    println!(
        "f32 FMA {:.1} GFLOP/s, copy {:.1} GB/s, read {:.1} GB/s",
        ceilings.f32_flops / 1e9,
        ceilings.copy_bytes / 1e9,
        ceilings.read_bytes / 1e9
    );
    match arguments.first().map(String::as_str) {
        Some("decode") => decode(&gpu, &ceilings, number),
        _ => prefill(&gpu, &ceilings, number),
    }
}

fn dtype() -> DType {
    match std::env::var("DTYPE").as_deref() {
        Ok("f16") => DType::F16,
        Ok("bf16") => DType::BF16,
        _ => DType::F32,
    }
}

fn causal() -> bool {
    std::env::var("FULL").is_err()
}

/// Whether the name contains one of the `|`-separated parts of `TILE`.
fn wanted(name: &str) -> bool {
    std::env::var("TILE").map_or(true, |t| t.split('|').any(|part| name.contains(part)))
}

/// A problem with its candidates' times.
struct Run<'a> {
    gpu: &'a Gpu,
    problem: Dense,
    /// Of the same variant, to check candidates on.
    small: Dense,
    /// They take turns, so that nothing is found in a cache.
    sets: Vec<common::Buffers>,
    results: Vec<(f64, String)>,
}

impl<'a> Run<'a> {
    fn new(gpu: &'a Gpu, problem: Dense, small: Dense) -> Self {
        let sets = rotating_sets(gpu, &Problem::Dense(problem.clone()), || {
            common::Buffers::zeroless(gpu, &problem)
        });
        Run {
            sets: sets.expect("buffers"),
            results: vec![],
            gpu,
            problem,
            small,
        }
    }

    /// Seconds, or why there are none; a wrong result gets no time.
    fn measure(&self, tuning: &Tuning) -> Result<f64, String> {
        common::check(self.gpu, &self.small, tuning)?;
        let plan = self.problem.plan_with(self.gpu, tuning).map_err(|e| e.to_string())?;
        let times = time(self.gpu, &Effort::default(), |pass, run| {
            plan.encode_in(pass, &self.sets[run % self.sets.len()].tensors())
        });
        times.map(|t| t.median()).map_err(|e| e.to_string())
    }

    /// Times the forms of a tile that are wanted.
    fn try_forms(&mut self, (name, splits): (&str, Option<u32>), forms: Vec<(&'static str, KernelChoice)>) {
        for (form, kernel) in forms {
            let name = format!("{name} {form}");
            if !wanted(&name) {
                continue;
            }
            let tuning = Tuning {
                kernel: Some(kernel),
                splits,
                live: None,
            };
            match self.measure(&tuning) {
                Ok(seconds) => {
                    eprintln!("{name}: {:.1} us", seconds * 1e6);
                    self.results.push((seconds, name));
                }
                Err(message) => println!("{name}: {message}"),
            }
        }
    }

    /// The fastest, as many as `SHOW` says.
    fn fastest(&mut self) -> &[(f64, String)] {
        self.results.sort_by(|a, b| a.0.total_cmp(&b.0));
        let shown = std::env::var("SHOW").ok().and_then(|s| s.parse().ok()).unwrap_or(12);
        &self.results[..self.results.len().min(shown)]
    }
}

/// A tile as a kernel through workgroup memory, then in subgroups, as far as the device goes.
fn forms<T: Copy>(
    tile: T,
    device: &DeviceClass,
    portable: impl Fn(T) -> KernelChoice,
    subgroup: impl Fn(Subgroup<T>) -> KernelChoice,
) -> Vec<(&'static str, KernelChoice)> {
    let mut forms = vec![("workgroup", portable(tile))];
    forms.extend(in_subgroups(tile, device, subgroup));
    forms
}

/// A tile in subgroups; for f16 with and without the device's own.
fn in_subgroups<T: Copy>(
    tile: T,
    device: &DeviceClass,
    subgroup: impl Fn(Subgroup<T>) -> KernelChoice,
) -> Vec<(&'static str, KernelChoice)> {
    let Some(own) = Subgroup::of(tile, device) else {
        return vec![];
    };
    let mut forms = vec![("subgroup", subgroup(Subgroup { half: false, ..own }))];
    if device.abilities.half && dtype() == DType::F16 {
        forms.push(("subgroup, native f16", subgroup(Subgroup { half: true, ..own })));
    }
    forms
}

fn prefill(gpu: &Gpu, ceilings: &Ceilings, number: impl Fn(usize, u32) -> u32) {
    let (n, d, heads) = (number(1, 1024), number(2, 64), number(3, 8));
    let problem = Dense {
        heads,
        queries: n,
        keys: n,
        head_dim: d,
        dtype: dtype(),
        causal: causal(),
        ..Default::default()
    };
    let small = Dense {
        heads: 2,
        queries: 150,
        keys: 190,
        lse: true,
        ..problem.clone()
    };
    let flops = common::flops(&problem);
    let device = DeviceClass::of_gpu(gpu);
    println!("prefill {}x{n}x{d} {} causal {}", heads, problem.dtype, problem.causal);
    let mut run = Run::new(gpu, problem, small);
    for (row_groups, lanes) in [
        (4, 8),
        (8, 8),
        (16, 8),
        (32, 8),
        (4, 16),
        (8, 16),
        (16, 16),
        (8, 4),
        (16, 4),
    ] {
        for (row_regs, key_regs) in [(4, 4), (4, 8), (8, 4), (8, 8), (2, 8), (16, 4)] {
            for (chunk, value_chunk, prefetch, unroll) in [
                (4, 16, false, 1),
                (8, 16, false, 1),
                (8, 16, true, 1),
                (8, 32, false, 1),
                (8, 32, true, 1),
                (8, 16, false, 2),
                (8, 16, false, 4),
                (8, 16, false, 8),
                (8, 16, true, 4),
                (8, 32, false, 8),
                (8, 32, true, 2),
                (8, 32, true, 4),
                (8, 32, true, 8),
                (16, 16, false, 4),
                (16, 32, false, 1),
                (16, 32, false, 4),
                (16, 64, false, 1),
                (8, 16, true, 8),
                (16, 32, true, 8),
                (16, 32, true, 16),
                (4, 32, true, 8),
                (4, 16, true, 4),
                (2, 16, false, 2),
                (2, 8, false, 2),
            ] {
                let tile = PrefillTile {
                    row_groups,
                    row_regs,
                    lanes,
                    key_regs,
                    chunk,
                    value_chunk,
                    prefetch,
                    unroll,
                    alternate: device.software,
                };
                let sensible = value_chunk <= tile.keys()
                    && tile.rows() <= 256
                    && row_regs * (key_regs + d.div_ceil(4 * lanes) * 4) <= 160
                    && d.div_ceil(4).is_multiple_of(chunk)
                    && tile.threads() >= 8;
                if !sensible || !prefill_fits(&tile, d, &device) {
                    continue;
                }
                let name = format!(
                    "tile {:3}x{:<3} threads {:3} ({row_groups}x{lanes}) regs {row_regs}x{key_regs} chunk {chunk}/{value_chunk} unroll {unroll} {:5} B{}",
                    tile.rows(),
                    tile.keys(),
                    tile.threads(),
                    tile.workgroup_bytes(d),
                    if prefetch { " prefetch" } else { "" }
                );
                let forms = forms(tile, &device, KernelChoice::Prefill, KernelChoice::SubgroupPrefill);
                run.try_forms((&name, None), forms);
            }
        }
    }
    serial_prefill(&mut run);
    for (seconds, name) in run.fastest() {
        let rate = flops / seconds;
        println!(
            "{name}: {:8.3} ms {:9.1} GFLOP/s {:5.1} %",
            seconds * 1e3,
            rate / 1e9,
            100.0 * rate / ceilings.f32_flops
        );
    }
}

/// Tiles of the serial kernel, on a software GPU.
fn serial_prefill(run: &mut Run<'_>) {
    let device = DeviceClass::of_gpu(run.gpu);
    let Some((threads, most)) = device.abilities.subgroups.filter(|_| device.software) else {
        return;
    };
    if threads != most {
        return;
    }
    for (row_regs, keys) in [(1, 4), (1, 8), (2, 2), (2, 4), (2, 8), (3, 2), (3, 4), (4, 2), (4, 4)] {
        let tile = SerialPrefillTile {
            row_regs,
            keys,
            threads,
        };
        let name = format!("tile {:3}x{keys} regs {row_regs}", tile.rows());
        let forms = vec![("serial", KernelChoice::PrefillSerial(tile))];
        run.try_forms((&name, None), forms);
    }
}

fn decode(gpu: &Gpu, ceilings: &Ceilings, number: impl Fn(usize, u32) -> u32) {
    let (keys, d, kv_heads, group, batch) = (
        number(1, 16384),
        number(2, 64),
        number(3, 1),
        number(4, 8),
        number(5, 1),
    );
    let problem = Dense {
        batch,
        heads: kv_heads * group,
        kv_heads: Some(kv_heads),
        queries: 1,
        keys,
        head_dim: d,
        dtype: dtype(),
        causal: true,
        ..Default::default()
    };
    let small = Dense {
        batch: 2,
        keys: 777,
        lse: true,
        ..problem.clone()
    };
    let bytes = common::kv_bytes(&problem);
    println!(
        "decode {batch}x{kv_heads}(x{group})x{keys}x{d} {}: {:.1} MB",
        problem.dtype,
        bytes / 1e6
    );
    let mut run = Run::new(gpu, problem, small);
    if wanted("planner") {
        match run.measure(&Tuning::default()) {
            Ok(seconds) => run.results.push((seconds, "planner".to_string())),
            Err(message) => println!("planner: {message}"),
        }
    }
    decode_on_matrices(&mut run);
    let rows = group.next_power_of_two().min(8);
    for threads in [32u32, 64, 128, 256] {
        for lanes in [1u32, 2, 4, 8, 16, 32] {
            for key_regs in [1u32, 2, 4, 8] {
                for value_lanes in [4u32, 8, 16, 32] {
                    for splits_prefetch in [1u32, 8, 16, 32, 64, 128, 256]
                        .map(|s| [(s, false), (s, true)])
                        .concat()
                    {
                        let splits = splits_prefetch.0;
                        let tile = DecodeTile {
                            rows,
                            lanes,
                            slots: threads / lanes,
                            key_regs,
                            value_lanes,
                            prefetch: splits_prefetch.1,
                        };
                        let groups = threads / value_lanes.min(threads);
                        let head_regs = d.div_ceil(4).div_ceil(lanes);
                        let value_regs = d.div_ceil(4).div_ceil(value_lanes);
                        let software = gpu.info().device_type == wgpu::DeviceType::Cpu;
                        let workgroups = splits * kv_heads * batch * group.div_ceil(rows);
                        let sensible = value_lanes >= rows
                            && value_lanes <= d.div_ceil(4)
                            && lanes <= d.div_ceil(4)
                            && groups > 0
                            && tile.keys().is_multiple_of(groups)
                            && splits * tile.keys() * 2 <= keys
                            && rows * (head_regs + value_regs) * 4 <= if software { 1024 } else { 128 }
                            && (if software {
                                (1..=16).contains(&workgroups)
                            } else {
                                (256..=4096).contains(&workgroups)
                            });
                        if !sensible || tile.workgroup_bytes() > gpu.limits().max_compute_workgroup_storage_size {
                            continue;
                        }
                        let name = format!(
                            "threads {threads:3} lanes {lanes:2} keys {:3} ({key_regs}) value lanes {value_lanes:2} splits {splits:3}{}",
                            tile.keys(),
                            if tile.prefetch { " prefetch" } else { "" }
                        );
                        let forms = vec![("workgroup", KernelChoice::Decode(tile))];
                        run.try_forms((&name, Some(splits)), forms);
                    }
                }
            }
        }
    }
    decode_in_subgroups(&mut run);
    for (seconds, name) in run.fastest() {
        println!(
            "{name}: {:8.1} us {:8.2} GB/s {:5.1} % of copy {:5.1} % of read",
            seconds * 1e6,
            bytes / seconds / 1e9,
            100.0 * bytes / seconds / ceilings.copy_bytes,
            100.0 * bytes / seconds / ceilings.read_bytes
        );
    }
}

/// Shares of the keys that are tried on matrices.
const DECODE_SPLITS: [u32; 10] = [1, 2, 4, 6, 8, 11, 16, 22, 33, 66];

/// Tiles of the decode kernel on matrices: the planner's with other strips, keys and numbers of splits.
fn decode_on_matrices(run: &mut Run<'_>) {
    let problem = run.problem.clone();
    let device = DeviceClass::of_gpu(run.gpu);
    let planned = alternatives(&problem, &device)
        .into_iter()
        .find_map(|choice| match choice {
            KernelChoice::CooperativeDecode(tile) => Some(tile),
            _ => None,
        });
    let (Some(planned), Some((_, most))) = (planned, device.abilities.subgroups) else {
        return;
    };
    let subgroups = device.abilities.subgroups;
    let planned = CooperativeDecodeTile {
        elements: None,
        scaled: false,
        own_barriers: device.abilities.subgroup_barriers && subgroups.is_some_and(|(least, most)| least == most),
        ..planned
    };
    decode_in_registers(run, &planned);
    for (strips, keys) in [1u32, 2, 3, 4, 5, 6, 7, 8, 10]
        .into_iter()
        .flat_map(|s| [(s, 16u32), (s, 32)])
    {
        let row_lanes = (most / (planned.row_blocks * planned.edge)).clamp(1, keys / 4);
        // Tiles ahead, padded, blocks of columns at a time.
        let forms = [
            (1u32, true, 1u32),
            (1, true, 4),
            (1, false, 1),
            (2, true, 1),
            (2, false, 1),
            (0, true, 1),
        ];
        let splits = DECODE_SPLITS;
        for (splits, (ahead, padded, out_blocks)) in splits.into_iter().flat_map(|s| forms.map(|f| (s, f))) {
            let tile = CooperativeDecodeTile {
                strips,
                strip_keys: keys,
                threads: strips * most,
                row_lanes: 1 << row_lanes.ilog2(),
                ahead,
                padded,
                out_blocks,
                ..planned
            };
            let workgroups = splits * problem.kv_heads() * problem.batch;
            if tile.workgroup_bytes(problem.head_dim, problem.value_dim()) > device.workgroup_memory
                || !(8..=1024).contains(&workgroups)
                || splits * tile.keys() >= problem.keys + tile.keys()
            {
                continue;
            }
            let name = format!(
                "strips {strips} keys {keys} splits {splits:3} ahead {ahead}{} out {out_blocks}",
                if padded { "" } else { " dense" }
            );
            let forms = vec![("matrices", KernelChoice::CooperativeDecode(tile))];
            run.try_forms((&name, Some(splits)), forms);
        }
    }
}

/// The same with everything in registers.
fn decode_in_registers(run: &mut Run<'_>, planned: &CooperativeDecodeTile) {
    let problem = run.problem.clone();
    let device = DeviceClass::of_gpu(run.gpu);
    let Some((_, most)) = device.abilities.subgroups else {
        return;
    };
    for (strips, ahead) in [1u32, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16]
        .into_iter()
        .flat_map(|s| [(s, 0u32), (s, 1), (s, 2)])
    {
        for (splits, out_blocks) in DECODE_SPLITS.into_iter().flat_map(|s| [(s, 2u32), (s, 4), (s, 8)]) {
            let tile = CooperativeDecodeTile {
                strips,
                threads: strips * most,
                ahead,
                out_blocks,
                scaled: dtype() == DType::BF16,
                ..*planned
            };
            let Some(tile) = tile.in_registers(&device.abilities) else {
                return;
            };
            let workgroups = splits * problem.kv_heads() * problem.batch;
            if tile.workgroup_bytes(problem.head_dim, problem.value_dim()) > device.workgroup_memory
                || !(8..=1024).contains(&workgroups)
                || splits * tile.keys() >= problem.keys + tile.keys()
            {
                continue;
            }
            let name = format!("registers {strips} splits {splits:3} ahead {ahead} out {out_blocks}");
            let forms = vec![("matrices", KernelChoice::CooperativeDecode(tile))];
            run.try_forms((&name, Some(splits)), forms);
        }
    }
}

/// Tiles of the decode kernel in subgroups, whose registers hold them.
fn decode_in_subgroups(run: &mut Run<'_>) {
    let problem = run.problem.clone();
    let device = DeviceClass::of_gpu(run.gpu);
    let vecs = problem.head_dim.div_ceil(4);
    let group = problem.heads / problem.kv_heads();
    let (registers, workgroups) = if device.software {
        (1024, 1..=16)
    } else {
        (192, 256..=8192)
    };
    let lengths = |tile: &DecodeTile| {
        let row_tiles = problem.kv_heads() * problem.batch * group.div_ceil(tile.rows);
        let workgroups = workgroups.clone();
        let splits = [1u32, 8, 16, 32, 64, 128, 256].into_iter();
        let keys = (problem.keys, tile.keys());
        splits.filter(move |s| workgroups.contains(&(s * row_tiles)) && s * keys.1 <= keys.0)
    };
    for threads in [32u32, 64, 128, 256] {
        for lanes in [2u32, 4, 8, 16, 32]
            .into_iter()
            .filter(|l| *l <= vecs.next_power_of_two())
        {
            for rows in [1u32, 2, 4, 8].into_iter().filter(|r| *r <= group && *r <= lanes) {
                for (key_regs, prefetch) in [1u32, 2, 4, 8].into_iter().flat_map(|k| [(k, true), (k, false)]) {
                    let tile = DecodeTile {
                        rows,
                        lanes,
                        slots: threads / lanes,
                        key_regs,
                        value_lanes: lanes,
                        prefetch,
                    };
                    let regs = vecs.div_ceil(lanes);
                    if 8 * regs * (rows + key_regs) + rows * key_regs > registers {
                        continue;
                    }
                    for splits in lengths(&tile) {
                        let name = format!(
                            "threads {threads:3} rows {rows} lanes {lanes:2} keys {:3} ({key_regs}) splits {splits:3}{}",
                            tile.keys(),
                            if prefetch { " prefetch" } else { "" }
                        );
                        let forms = in_subgroups(tile, &device, KernelChoice::SubgroupDecode);
                        run.try_forms((&name, Some(splits)), forms);
                    }
                }
            }
        }
    }
}
