//! Means and bounds of blocks of keys against their formulas in float64.

mod common;

use common::mistakes::{assert_says, assert_unharmed, buffer, strided, watched};
use common::{Random, gpu, gpu_with, rounded};
use wgpu_attention::topk::{PoolInputs, PoolTensors};
use wgpu_attention::{DType, Gpu, Layout, Pool, Pooling, Tensor, compare};

/// Two batch entries, three heads, a short last block.
fn problem() -> Pool {
    Pool {
        batch: 2,
        kv_heads: 3,
        keys: 101,
        head_dim: 8,
        block_size: 7,
        ..Pool::default()
    }
}

fn keys(p: &Pool) -> Vec<f32> {
    let mut r = Random::new(4);
    let count = p.batch * p.kv_heads * p.keys * p.head_dim;
    // Leaning to the positive, so that no mean is a small difference of large numbers.
    (0..count).map(|_| rounded(r.float(-1.0, 2.0), p.dtype)).collect()
}

/// The formula; NaN where nothing is written.
fn truth(p: &Pool, k: &[f32], kv_len: Option<&[i32]>) -> Vec<f64> {
    let [_, heads, room, width] = p.dims().map(|n| n as usize);
    let (dim, block) = (p.head_dim as usize, p.block_size as usize);
    let padded = dim.next_multiple_of(4);
    let mut out = vec![f64::NAN; p.dims().iter().map(|&n| n as usize).product()];
    for (n, k) in k.chunks_exact(p.keys as usize * dim).enumerate() {
        let len = kv_len.map_or(p.keys as usize, |l| l[n / heads] as usize);
        for e in (p.from_key / p.block_size) as usize..(p.keys as usize).div_ceil(block) {
            let out = &mut out[(n * room + e) * width..][..width];
            out.fill(0.0);
            let held: Vec<_> = (e * block..(e * block + block).min(len)).collect();
            if held.is_empty() {
                continue;
            }
            for d in 0..dim {
                let values = held.iter().map(|j| f64::from(k[j * dim + d]));
                match p.pooling {
                    Pooling::Mean => out[d] = values.sum::<f64>() / held.len() as f64,
                    Pooling::Bounds => {
                        out[d] = values.clone().fold(f64::MIN, f64::max);
                        out[padded + d] = values.fold(f64::MAX, f64::min);
                    }
                }
            }
        }
    }
    out
}

fn check(name: &str, gpu: &Gpu, p: &Pool, kv_len: Option<&[i32]>) {
    let k = keys(p);
    let plan = p.plan(gpu).unwrap_or_else(|error| panic!("{name}: {error}"));
    let inputs = PoolInputs { k: &k, kv_len };
    let found = plan.run_blocking(&inputs).unwrap();
    let truth = truth(p, &k, kv_len);
    assert_eq!(found.len(), truth.len(), "{name}");
    // What is not to be written is as it was, bit by bit, and nothing else is.
    for (n, (x, y)) in found.iter().zip(&truth).enumerate() {
        assert_eq!(
            x.to_bits() == u32::MAX,
            y.is_nan(),
            "{name}: element {n} is {x}, expected {y}"
        );
    }
    let pairs = found.iter().zip(&truth).filter(|(_, y)| !y.is_nan());
    let (found_here, truth): (Vec<f32>, Vec<f64>) = pairs.unzip();
    let result = compare::output(&found_here, &truth, &compare::Tolerance::for_dtype(DType::F32));
    assert!(result.passed(), "{name}: {result}");
    if p.pooling == Pooling::Bounds {
        assert!(
            found_here.iter().zip(&truth).all(|(x, y)| f64::from(*x) == *y),
            "{name}: bounds are exact"
        );
    }
    let again = plan.run_blocking(&inputs).unwrap();
    let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&again), bits(&found), "{name}: the same twice");
}

type Change = fn(&mut Pool);

const CHANGES: &[(&str, Change)] = &[
    ("as it is", |_| {}),
    ("blocks of one", |p| p.block_size = 1),
    ("blocks of 64", |p| p.block_size = 64),
    ("one long block", |p| (p.block_size, p.keys) = (1000, 333)),
    ("whole blocks", |p| p.block_size = 101),
    ("one key", |p| p.keys = 1),
    ("D of one", |p| p.head_dim = 1),
    ("D of seven", |p| p.head_dim = 7),
    ("D of 256", |p| p.head_dim = 256),
    ("f16", |p| p.dtype = DType::F16),
    ("bf16", |p| p.dtype = DType::BF16),
    ("f16 of odd rows", |p| (p.dtype, p.head_dim) = (DType::F16, 5)),
    ("bf16 of odd rows", |p| (p.dtype, p.head_dim) = (DType::BF16, 3)),
    ("unaligned", |p| p.unaligned = true),
    ("heads inside", |p| p.k_layout = Layout::Bnhd),
    ("rows apart", |p| p.k_layout = strided(7 + 101 * 29, 9, 29)),
    ("room", |p| p.room = Some(20)),
    ("from a block's first key", |p| (p.from_key, p.room) = (49, Some(16))),
    ("from inside a block", |p| p.from_key = 60),
    ("from the last key", |p| p.from_key = 100),
];

fn check_all(gpu: &Gpu) {
    for pooling in [Pooling::Mean, Pooling::Bounds] {
        for (name, change) in CHANGES {
            let mut p = Pool { pooling, ..problem() };
            change(&mut p);
            check(name, gpu, &p, None);
            let keys = p.keys as i32;
            let with_len = Pool { kv_len: true, ..p };
            check(name, gpu, &with_len, Some(&[keys / 2, keys]));
            check(name, gpu, &with_len, Some(&[0, 1]));
        }
    }
}

#[test]
fn blocks_stand_for_their_keys() {
    let Some(gpu) = gpu() else { return };
    check_all(&gpu);
}

#[test]
fn blocks_are_the_same_with_every_access_checked() {
    let Some(gpu) = gpu_with(|options| options.checked = true) else {
        return;
    };
    check_all(&gpu);
}

#[test]
fn blocks_are_the_same_on_the_smallest_device() {
    let Some(gpu) = gpu_with(|options| options.minimal = true) else {
        return;
    };
    check_all(&gpu);
}

#[test]
fn a_mean_of_many_keys_is_as_exact_as_one_of_few() {
    let Some(gpu) = gpu() else { return };
    let long = Pool {
        keys: 100_000,
        head_dim: 4,
        block_size: 100_000,
        ..Pool::default()
    };
    check("many keys", &gpu, &long, None);
}

#[test]
fn lengths_on_the_device_are_not_trusted() {
    let Some(gpu) = gpu() else { return };
    let p = Pool {
        kv_len: true,
        ..problem()
    };
    let k = keys(&p);
    let buffers = [bytemuck::cast_slice(&k), bytemuck::cast_slice(&[-5i32, i32::MAX])].map(|bytes: &[u8]| {
        let buffer = gpu.device().create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: bytes.len() as u64,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        gpu.queue().write_buffer(&buffer, 0, bytes);
        buffer
    });
    let words: u64 = p.dims().iter().map(|&n| u64::from(n)).product();
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC;
    let pooled = common::mistakes::buffer_for(&gpu, words * 4, usage);
    let staging = common::mistakes::buffer_for(
        &gpu,
        words * 4,
        wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
    );
    let tensors = PoolTensors {
        k: (&buffers[0]).into(),
        kv_len: Some((&buffers[1]).into()),
        pooled: (&pooled).into(),
    };
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    p.plan(&gpu).unwrap().encode(&mut encoder, &tensors).unwrap();
    encoder.copy_buffer_to_buffer(&pooled, 0, &staging, 0, words * 4);
    gpu.queue().submit([encoder.finish()]);
    staging.map_async(wgpu::MapMode::Read, .., |result| result.unwrap());
    gpu.device().poll(wgpu::PollType::wait_indefinitely()).unwrap();
    let found: Vec<f32> = bytemuck::pod_collect_to_vec(&staging.get_mapped_range(..).unwrap());
    let truth = truth(&p, &k, Some(&[0, 101]));
    let result = compare::output(&found, &truth, &compare::Tolerance::for_dtype(DType::F32));
    assert!(result.passed(), "{result}");
}

#[test]
fn calls_beyond_a_devices_limits_are_cut() {
    let Some(limits) = common::limits() else { return };
    let alignment = u64::from(limits.min_storage_buffer_offset_alignment);
    let small = wgpu::Limits {
        // One head's keys.
        max_storage_buffer_binding_size: 101 * 8 * 4 + alignment,
        ..limits.clone()
    };
    let short = wgpu::Limits {
        max_compute_workgroups_per_dimension: 1,
        ..limits
    };
    for limits in [small.clone(), short] {
        let Some(gpu) = gpu_with(|options| options.limits = Some(limits)) else {
            return;
        };
        check("in parts", &gpu, &problem(), None);
        let lengths = Pool {
            kv_len: true,
            block_size: 1,
            ..problem()
        };
        check("in parts", &gpu, &lengths, Some(&[17, 101]));
    }
    let Some(gpu) = gpu_with(|options| options.limits = Some(small)) else {
        return;
    };
    let large = Pool {
        keys: 1000,
        ..problem()
    };
    let words = ["`k`", "max_storage_buffer_binding_size"];
    assert_says("keys of one head", large.plan(&gpu), "Limit", &words);
    let roomy = Pool {
        room: Some(1000),
        ..problem()
    };
    let words = ["`pooled`", "max_storage_buffer_binding_size"];
    assert_says("room of one head", roomy.plan(&gpu), "Limit", &words);
}

#[test]
fn mistakes_are_named() {
    let Some((gpu, complaints)) = watched() else { return };
    let invalid = |what: &str, change: Change, words: &[&str]| {
        let mut p = problem();
        change(&mut p);
        assert_says(what, p.plan(&gpu), "Invalid", words);
    };
    invalid("no batch", |p| p.batch = 0, &["batch", "1 to"]);
    invalid("no heads", |p| p.kv_heads = 0, &["kv_heads", "1 to"]);
    invalid("no keys", |p| p.keys = 0, &["keys", "1 to"]);
    invalid("a long head", |p| p.head_dim = 257, &["head_dim", "1 to 256"]);
    invalid("no block", |p| p.block_size = 0, &["block_size", "1 to"]);
    invalid("little room", |p| p.room = Some(14), &["room", "15 to"]);
    invalid(
        "changed behind the keys",
        |p| p.from_key = 101,
        &["from_key", "0 to 100"],
    );
    invalid(
        "far strides",
        |p| p.k_layout = strided(u64::MAX, 1, 1),
        &["k_layout", "48 bits"],
    );

    let p = problem();
    let plan = p.plan(&gpu).unwrap();
    let k = keys(&p);
    let data = |k: &[f32], kv_len| plan.run_blocking(&PoolInputs { k, kv_len });
    assert_says("k too short", data(&k[1..], None), "Data", &["`k`", "[B, Hkv, Nk, D]"]);
    assert_says(
        "an unwanted length",
        data(&k, Some(&[1, 2])),
        "Data",
        &["`kv_len`", "None"],
    );
    let lengths = Pool {
        kv_len: true,
        ..p.clone()
    };
    let lengths = lengths.plan(&gpu).unwrap();
    let inputs = PoolInputs {
        k: &k,
        kv_len: Some(&[1, 102]),
    };
    assert_says(
        "too many keys",
        lengths.run_blocking(&inputs),
        "Data",
        &["kv_len", "102", "0 to Nk = 101"],
    );

    let words: u64 = p.dims().iter().map(|&n| u64::from(n)).product();
    let [bk, pooled, small] = [k.len() as u64 * 4, words * 4, words * 4 - 16].map(|size| buffer(&gpu, size));
    let encode = |k: Tensor<'_>, kv_len, pooled: Tensor<'_>| {
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        let result = plan.encode(&mut encoder, &PoolTensors { k, kv_len, pooled });
        gpu.queue().submit([encoder.finish()]);
        result
    };
    let (k, out): (Tensor<'_>, Tensor<'_>) = ((&bk).into(), (&pooled).into());
    encode(k, None, out).unwrap();
    assert_says(
        "a short output",
        encode(k, None, (&small).into()),
        "Tensor",
        &["`pooled`", "bytes"],
    );
    assert_says(
        "an output off",
        encode(k, None, Tensor::at(&pooled, 4)),
        "Tensor",
        &["`pooled`", "16 bytes"],
    );
    assert_says(
        "k off",
        encode(Tensor::at(&bk, 4), None, out),
        "Tensor",
        &["`k`", "16 bytes"],
    );
    assert_says(
        "a length too many",
        encode(k, Some(out), out),
        "Tensor",
        &["`kv_len`", "without"],
    );
    assert_says("in place", encode(k, None, k), "Tensor", &["`pooled`", "`k`"]);
    assert_unharmed(&gpu, &complaints);
}
