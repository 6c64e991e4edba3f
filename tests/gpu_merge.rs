//! Merging partial results, and the splits of decode that rest on it.

mod common;

use common::{Inputs, Random, check_on, gpu};
use half::f16;
use wgpu_attention::dense::portable::DecodeTile;
use wgpu_attention::dense::reference::Hooks;
use wgpu_attention::dense::tile::{KernelChoice, Tuning};
use wgpu_attention::{
    DType, Dense, DenseInputs, DenseTensors, Error, Gpu, Join, Layout, Merge, MergeTensors, Strides, Tensor, Weighting,
    compare,
};

const USAGE: wgpu::BufferUsages = wgpu::BufferUsages::STORAGE
    .union(wgpu::BufferUsages::COPY_SRC)
    .union(wgpu::BufferUsages::COPY_DST);

fn upload(gpu: &Gpu, bytes: &[u8]) -> wgpu::Buffer {
    let size = bytes.len().next_multiple_of(4) as u64;
    let buffer = gpu.device().create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size,
        usage: USAGE,
        mapped_at_creation: false,
    });
    let mut padded = bytes.to_vec();
    padded.resize(size as usize, 0);
    gpu.queue().write_buffer(&buffer, 0, &padded);
    buffer
}

fn poisoned(gpu: &Gpu, bytes: usize) -> wgpu::Buffer {
    upload(gpu, &vec![0xff; bytes])
}

fn read(gpu: &Gpu, buffer: &wgpu::Buffer) -> Vec<u8> {
    let staging = gpu.device().create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: buffer.size(),
        usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    encoder.copy_buffer_to_buffer(buffer, 0, &staging, 0, buffer.size());
    gpu.queue().submit([encoder.finish()]);
    staging.map_async(wgpu::MapMode::Read, .., |result| result.unwrap());
    gpu.device().poll(wgpu::PollType::wait_indefinitely()).unwrap();
    staging.get_mapped_range(..).unwrap().to_vec()
}

fn read_f32(gpu: &Gpu, buffer: &wgpu::Buffer) -> Vec<f32> {
    bytemuck::pod_collect_to_vec(&read(gpu, buffer))
}

fn encode(gpu: &Gpu, merge: &Merge, tensors: &MergeTensors<'_>) {
    let plan = merge.plan(gpu).unwrap();
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    plan.encode(&mut encoder, tensors).unwrap();
    gpu.queue().submit([encoder.finish()]);
}

/// The keys of a problem in ranges, each attended by a plan of its own into its place of one buffer, then merged.
fn merged_ranges(gpu: &Gpu, whole: &Dense, ranges: &[(u32, u32)]) {
    let inputs = Inputs::random(whole, &mut Random::new(11));
    let additive = whole.weighting != Weighting::Softmax;
    let (h, n, d, dv) = (whole.heads, whole.queries, whole.head_dim, whole.value_dim());
    let rows = (whole.batch * h * n) as usize;
    let o_parts = poisoned(gpu, ranges.len() * rows * dv as usize * 4);
    let lse_parts = poisoned(gpu, ranges.len() * rows * 4);
    let q = upload(gpu, bytemuck::cast_slice(&inputs.tensors.q));
    let k = upload(gpu, bytemuck::cast_slice(&inputs.tensors.k));
    let v = upload(gpu, bytemuck::cast_slice(&inputs.tensors.v));
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    let layout = |dim: u32| {
        Layout::Strided(Strides {
            batch: (whole.kv_heads() * whole.keys * dim).into(),
            head: (whole.keys * dim).into(),
            seq: dim.into(),
        })
    };
    for (part, (first, end)) in ranges.iter().enumerate() {
        let p = Dense {
            keys: end - first,
            lse: !additive,
            k_layout: layout(d),
            v_layout: layout(dv),
            // Positions are the whole problem's.
            q_offset: Some(whole.keys as i32 - n as i32 - *first as i32),
            ..whole.clone()
        };
        let plan = p.plan(gpu).unwrap();
        let tensors = DenseTensors {
            lse: (!additive).then(|| Tensor::at(&lse_parts, (part * rows * 4) as u64)),
            ..DenseTensors::new(
                &q,
                Tensor::at(&k, u64::from(first * d) * 4),
                Tensor::at(&v, u64::from(first * dv) * 4),
                Tensor::at(&o_parts, (part * rows * dv as usize * 4) as u64),
            )
        };
        plan.encode(&mut encoder, &tensors).unwrap();
    }
    let merge = Merge {
        parts: ranges.len() as u32,
        batch: whole.batch,
        heads: h,
        queries: n,
        value_dim: dv,
        additive,
        lse: !additive,
        ..Merge::default()
    };
    let o = poisoned(gpu, rows * dv as usize * 4);
    let lse = poisoned(gpu, rows * 4);
    let plan = merge.plan(gpu).unwrap();
    let tensors = MergeTensors {
        parts_o: (&o_parts).into(),
        parts_lse: (!additive).then(|| (&lse_parts).into()),
        o: (&o).into(),
        lse: (!additive).then(|| (&lse).into()),
    };
    plan.encode(&mut encoder, &tensors).unwrap();
    gpu.queue().submit([encoder.finish()]);

    let truth = common::truth(whole, &inputs, &Hooks::default());
    let tolerance = common::tolerance(whole);
    let result = compare::output(&read_f32(gpu, &o), &truth.o, &tolerance);
    assert!(result.passed(), "{result}");
    if let Some(expected) = &truth.lse {
        let result = compare::lse(&read_f32(gpu, &lse), expected, &tolerance);
        assert!(result.passed(), "{result}");
    }
}

fn problem() -> Dense {
    Dense {
        batch: 2,
        heads: 4,
        kv_heads: Some(2),
        queries: 6,
        keys: 50,
        head_dim: 8,
        value_dim: Some(12),
        lse: true,
        ..Dense::default()
    }
}

#[test]
fn key_ranges_merge_to_the_whole() {
    let Some(gpu) = gpu() else { return };
    let ranges = [(0, 3), (3, 17), (17, 50)];
    merged_ranges(&gpu, &problem(), &ranges);
    // Rows for which whole ranges are masked, with lse = −inf, and rows that see nothing anywhere.
    let causal = Dense {
        causal: true,
        queries: 48,
        ..problem()
    };
    merged_ranges(&gpu, &causal, &ranges);
    merged_ranges(&gpu, &Dense { queries: 60, ..causal }, &ranges);
    // The paper's default bias depends on the number of keys, so it is given.
    let sigmoid = Dense {
        weighting: Weighting::Sigmoid { bias: Some(-2.0) },
        lse: false,
        ..problem()
    };
    merged_ranges(&gpu, &sigmoid, &ranges);
    merged_ranges(
        &gpu,
        &Dense {
            value_dim: Some(7),
            ..problem()
        },
        &ranges,
    );
}

/// Random parts, merged on the device, against the formula in float64.
fn merge_of_random(gpu: &Gpu, merge: &Merge) {
    let mut r = Random::new(3);
    let rows = (merge.batch * merge.heads * merge.queries) as usize;
    let (parts, dim) = (merge.parts as usize, merge.value_dim as usize);
    let mut o: Vec<f32> = (0..parts * rows * dim)
        .map(|_| common::rounded(r.float(0.2, 1.5), merge.dtype))
        .collect();
    let lse: Vec<f32> = (0..parts * rows)
        .map(|n| {
            if n % rows == 1 || r.one_in(4) {
                f32::NEG_INFINITY
            } else {
                // Of every third row far apart.
                r.float(-3.0, 3.0) * if n % 3 == 0 { 30.0 } else { 1.0 }
            }
        })
        .collect();
    for (row, lse) in lse.iter().enumerate() {
        if *lse == f32::NEG_INFINITY && !merge.additive {
            // What a part that saw nothing holds is not to be read.
            o[row * dim..][..dim].fill(f32::NAN);
        }
    }
    let bytes: Vec<u8> = match merge.dtype {
        DType::F32 => bytemuck::cast_slice(&o).to_vec(),
        DType::F16 => o.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect(),
        DType::BF16 => o.iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes()).collect(),
    };
    let output = merge.output_dtype.unwrap_or(merge.dtype);
    let (parts_o, parts_lse) = (upload(gpu, &bytes), upload(gpu, bytemuck::cast_slice(&lse)));
    let size = (rows * dim * output.size() as usize).next_multiple_of(4);
    let (result, joint) = (poisoned(gpu, size), poisoned(gpu, rows * 4));
    encode(
        gpu,
        merge,
        &MergeTensors {
            parts_o: (&parts_o).into(),
            parts_lse: (!merge.additive).then(|| (&parts_lse).into()),
            o: (&result).into(),
            lse: merge.lse.then(|| (&joint).into()),
        },
    );
    let weight = |p: usize, row: usize| {
        if merge.additive {
            1.0
        } else {
            f64::from(lse[p * rows + row]).exp()
        }
    };
    let mut expected = vec![];
    let mut expected_lse = vec![];
    for row in 0..rows {
        let sum: f64 = (0..parts).map(|p| weight(p, row)).sum();
        expected_lse.push(sum.ln());
        for x in 0..dim {
            let terms = (0..parts).filter(|p| weight(*p, row) > 0.0);
            let value: f64 = terms
                .map(|p| weight(p, row) * f64::from(o[(p * rows + row) * dim + x]))
                .sum();
            expected.push(match (merge.additive, sum > 0.0) {
                (true, _) => value,
                (false, true) => value / sum,
                (false, false) => 0.0,
            });
        }
    }
    let bytes = read(gpu, &result);
    let halves = bytes.chunks_exact(2).map(|b| [b[0], b[1]]);
    let actual: Vec<f32> = match output {
        DType::F32 => bytemuck::pod_collect_to_vec(&bytes),
        DType::F16 => halves.map(|b| f16::from_le_bytes(b).to_f32()).collect(),
        DType::BF16 => halves.map(|b| half::bf16::from_le_bytes(b).to_f32()).collect(),
    };
    let tolerance = compare::Tolerance::for_dtype(output);
    let found = compare::output(&actual[..rows * dim], &expected, &tolerance);
    assert!(found.passed(), "{merge:?}: {found}");
    if merge.lse {
        let tolerance = compare::Tolerance::for_dtype(DType::F32);
        let found = compare::lse(&read_f32(gpu, &joint), &expected_lse, &tolerance);
        assert!(found.passed(), "{merge:?}: {found}");
    }
}

#[test]
fn random_parts_of_every_type() {
    let Some(gpu) = gpu() else { return };
    let types = [DType::F32, DType::F16, DType::BF16];
    for (n, dtype) in types.into_iter().enumerate() {
        // Up to several rounds of loads for each of the invocations that share many parts.
        for (value_dim, parts) in [(8, 5), (7, 3), (1, 1), (7, 37), (4, 16)] {
            let merge = Merge {
                parts,
                batch: 2,
                heads: 3,
                queries: 5,
                value_dim,
                dtype,
                lse: true,
                ..Merge::default()
            };
            merge_of_random(&gpu, &merge);
            let additive = Merge {
                additive: true,
                lse: false,
                output_dtype: Some(types[(n + 1) % 3]),
                ..merge
            };
            merge_of_random(&gpu, &additive);
        }
    }
}

fn tile(rows: u32) -> KernelChoice {
    KernelChoice::Decode(DecodeTile {
        rows,
        lanes: 2,
        slots: 8,
        key_regs: 1,
        value_lanes: 4,
        prefetch: true,
    })
}

#[test]
fn any_number_of_splits_gives_the_same() {
    let Some(gpu) = gpu() else { return };
    let softmax = Dense {
        keys: 300,
        queries: 2,
        kv_len: true,
        sinks: true,
        causal: true,
        batch: 4,
        ..problem()
    };
    let sigmoid = Dense {
        weighting: Weighting::Sigmoid { bias: Some(-1.0) },
        sinks: false,
        lse: false,
        dtype: DType::F16,
        ..softmax.clone()
    };
    for p in [softmax, sigmoid] {
        let mut inputs = Inputs::random(&p, &mut Random::new(2));
        inputs.tensors.kv_len = Some(vec![300, 0, 1, 123]);
        for splits in [1, 2, 3, 7, 64] {
            let tuning = Tuning {
                kernel: Some(tile(2)),
                splits: Some(splits),
                live: None,
            };
            assert_eq!(p.plan_with(&gpu, &tuning).unwrap().splits(), splits);
            check_on(
                &format!("{splits} splits"),
                &gpu,
                &p,
                &inputs,
                &tuning,
                &Hooks::default(),
            );
        }
    }
}

#[test]
fn plans_share_the_workspace_in_one_encoder() {
    let Some(gpu) = gpu() else { return };
    let run = |p: &Dense| {
        let tuning = Tuning {
            kernel: Some(tile(2)),
            splits: Some(3),
            live: None,
        };
        p.plan_with(&gpu, &tuning).unwrap()
    };
    let first = Dense {
        queries: 3,
        ..problem()
    };
    let second = Dense {
        batch: 1,
        keys: 90,
        ..problem()
    };
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    let mut results = vec![];
    for (n, p) in [&first, &second, &first].into_iter().enumerate() {
        let plan = run(p);
        assert!(plan.workspace_bytes() > 0);
        let inputs = Inputs::random(p, &mut Random::new(n as u64));
        let buffers =
            [&inputs.tensors.q, &inputs.tensors.k, &inputs.tensors.v].map(|x| upload(&gpu, bytemuck::cast_slice(x)));
        let rows = (p.batch * p.heads * p.queries) as usize;
        let (o, lse) = (
            poisoned(&gpu, rows * p.value_dim() as usize * 4),
            poisoned(&gpu, rows * 4),
        );
        let tensors = DenseTensors {
            lse: Some((&lse).into()),
            ..DenseTensors::new(&buffers[0], &buffers[1], &buffers[2], &o)
        };
        plan.encode(&mut encoder, &tensors).unwrap();
        results.push((p, inputs, o));
    }
    gpu.queue().submit([encoder.finish()]);
    for (p, inputs, o) in results {
        let truth = common::truth(p, &inputs, &Hooks::default());
        let result = compare::output(&read_f32(&gpu, &o), &truth.o, &common::tolerance(p));
        assert!(result.passed(), "{result}");
    }
}

#[test]
fn a_plan_serves_several_threads() {
    fn shared<T: Send + Sync>(_: &T) {}
    let Some(gpu) = gpu() else { return };
    let p = problem();
    let tuning = Tuning {
        kernel: Some(tile(2)),
        splits: Some(3),
        live: None,
    };
    let plan = p.plan_with(&gpu, &tuning).unwrap();
    shared(&plan);
    shared(&gpu);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (plan, p) = (&plan, &p);
            scope.spawn(move || {
                for round in 0..5 {
                    let inputs = Inputs::random(p, &mut Random::new(thread * 100 + round));
                    let output = inputs.with(|i: &DenseInputs<'_>| plan.run_blocking(i)).unwrap();
                    let truth = common::truth(p, &inputs, &Hooks::default());
                    let result = compare::dense(&output, &truth, &common::tolerance(p));
                    assert!(result.passed(), "{result}");
                }
            });
        }
    });
}

/// Software GPUs leave a loop after 65 535 iterations, without a word.
#[test]
fn more_parts_than_a_software_gpu_goes_through_are_refused() {
    let Some(gpu) = gpu() else { return };
    let merge = Merge {
        parts: 1_100_000,
        value_dim: 4,
        ..Merge::default()
    };
    let join = Join {
        segments: 600_000,
        head_dim: 1,
        ..Join::default()
    };
    let plans = [merge.plan(&gpu).map(|_| ()), join.plan(&gpu).map(|_| ())];
    for (plan, what) in plans
        .into_iter()
        .zip(["a merge of so many parts", "a join of so many segments"])
    {
        match gpu.info().device_type {
            wgpu::DeviceType::Cpu => {
                let error = plan.unwrap_err();
                assert!(
                    matches!(&error, Error::Unsupported { what: found, .. } if found == what),
                    "{error}"
                );
            }
            _ => plan.unwrap(),
        }
    }
}
