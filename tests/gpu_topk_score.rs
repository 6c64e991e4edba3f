//! The scores of top-k attention by themselves, by either kernel, against the float64 reference.

mod common;

use common::mistakes::{assert_says, buffer, buffer_for, watched};
use common::topk::{self, Given};
use common::{Random, draw, gpu, gpu_with};
use wgpu_attention::compare::{self, Comparison, Tolerance};
use wgpu_attention::dense::host::DenseBuffers;
use wgpu_attention::topk::score::tile::{ScoreTile, SerialScoreTile, TiledTile};
use wgpu_attention::topk::{ScoreTensors, reference};
use wgpu_attention::{
    Bias, Broadcast, DType, Dense, DenseTensors, Error, Gpu, Result, Scoring, Tensor, TopK, Weighting,
};

/// H = 4 on 2 KV heads, ragged in every dimension.
fn keys() -> TopK {
    let attention = Dense {
        batch: 2,
        heads: 4,
        kv_heads: Some(2),
        queries: 13,
        keys: 45,
        head_dim: 12,
        causal: true,
        ..Dense::default()
    };
    TopK {
        attention,
        ..TopK::default()
    }
}

/// What the scoring of a problem reads, of the attention's tensors.
fn tensors_of<'a>(p: &TopK, t: &DenseTensors<'a>, pooled: Option<Tensor<'a>>, scores: Tensor<'a>) -> ScoreTensors<'a> {
    let by_keys = p.scoring == Scoring::Keys;
    ScoreTensors {
        k: by_keys.then_some(t.k),
        pooled,
        bias: t.bias.filter(|_| by_keys),
        mask: t.mask.filter(|_| by_keys),
        kv_len: t.kv_len,
        cu_seqlens_q: t.cu_seqlens_q,
        cu_seqlens_k: t.cu_seqlens_k,
        alibi_slopes: t.alibi_slopes.filter(|_| by_keys),
        custom_data: if by_keys { t.custom_data } else { &[] },
        ..ScoreTensors::new(t.q, scores)
    }
}

/// The scores, with `guard` words before and behind them that must be left alone.
fn run(gpu: &Gpu, p: &TopK, given: &Given, tile: Option<ScoreTile>, guard: usize) -> Result<Vec<f32>> {
    let plan = p.plan_scores_with(gpu, tile)?;
    let count: usize = p.score_dims().iter().map(|&n| n as usize).product();
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
    let upload = |bytes: &[u8]| {
        let buffer = buffer_for(gpu, bytes.len() as u64, usage);
        gpu.queue().write_buffer(&buffer, 0, bytes);
        buffer
    };
    let scores = upload(&vec![0xff; 4 * (count + 2 * guard)]);
    let pooled = given.pooled.as_ref().map(|p| upload(bytemuck::cast_slice(p)));
    let attention = given.attention.with(|i| DenseBuffers::upload(gpu, &p.attention, i))?;
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    attention.with_tensors(|t| {
        let pooled = pooled.as_ref().map(Tensor::from);
        plan.encode(
            &mut encoder,
            &tensors_of(p, t, pooled, Tensor::at(&scores, 4 * guard as u64)),
        )
    })?;
    gpu.queue().submit([encoder.finish()]);
    let words: Vec<u32> = bytemuck::pod_collect_to_vec(&common::packed::read(gpu, &scores));
    let (before, rest) = words.split_at(guard);
    let (inside, after) = rest.split_at(count);
    assert!(
        before.iter().chain(after).all(|&w| w == u32::MAX),
        "words around the scores"
    );
    Ok(inside.iter().map(|&word| f32::from_bits(word)).collect())
}

/// Finite scores within the bounds of f32, relative to the greatest; infinite ones exactly.
fn compared(actual: &[f32], expected: &[f64]) -> Comparison {
    for (n, (&a, &e)) in actual.iter().zip(expected).enumerate() {
        assert!(a.is_finite() == e.is_finite(), "[{n}]: {a} instead of {e}");
        assert!(e.is_finite() || f64::from(a) == e, "[{n}]: {a} instead of {e}");
    }
    let finite = |n: &usize| expected[*n].is_finite();
    let at: Vec<usize> = (0..expected.len()).filter(finite).collect();
    let actual: Vec<f32> = at.iter().map(|&n| actual[n]).collect();
    let expected: Vec<f64> = at.iter().map(|&n| expected[n]).collect();
    compare::output(&actual, &expected, &Tolerance::for_dtype(DType::F32))
}

/// By every kernel that can serve the problem.
fn check(name: &str, gpu: &Gpu, p: &TopK) {
    let p = TopK {
        pooled: p.scoring != Scoring::Keys,
        ..p.clone()
    };
    let given = Given::of(&p, draw::inputs(&p.attention, &mut Random::new(8)));
    let truth = given.with_twins(&p.attention, |inputs, hooks| {
        reference::scores(&p, inputs, hooks).unwrap()
    });
    for tile in topk::tiles(gpu, &p) {
        let scores = run(gpu, &p, &given, Some(tile), 3).unwrap_or_else(|error| panic!("{name}: {error}\n{p:?}"));
        assert_eq!(scores.len(), truth.len());
        let result = compared(&scores, &truth);
        println!("{name}: {result} {tile:?}");
        assert!(result.passed(), "{name}: {result}\n{p:?}\n{tile:?}");
    }
}

type Change = fn(&mut TopK);

const PROBLEMS: &[(&str, Change)] = &[
    ("keys", |_| ()),
    ("keys, many queries", |p| p.attention.queries = 40),
    ("keys for all heads of a group", |p| p.per_kv_head = true),
    ("keys for three rows, own ones kept", |p| {
        (p.query_block, p.diagonal, p.top_k) = (3, true, 3);
    }),
    ("blocks by their keys, longer than a tile", |p| {
        (p.block_size, p.query_block, p.per_kv_head) = (20, 4, true);
    }),
    ("blocks longer than all keys", |p| {
        (p.block_size, p.query_block) = (1 << 28, 1 << 28);
    }),
    ("means", |p| (p.block_size, p.scoring) = (5, Scoring::Mean)),
    ("bounds for all rows", |p| {
        (p.block_size, p.scoring) = (4, Scoring::Bound);
        (p.query_block, p.per_kv_head) = (1 << 28, true);
    }),
    ("own blocks kept, beyond the last key", |p| {
        (p.block_size, p.scoring, p.diagonal, p.top_k) = (16, Scoring::Mean, true, 3);
        (p.query_block, p.attention.q_offset) = (2, Some(35));
    }),
    ("documents", |p| {
        (p.attention.batch, p.attention.documents) = (1, Some(4));
        (p.block_size, p.query_block, p.diagonal, p.top_k) = (3, 4, true, 9);
    }),
    ("lengths, f16, what lies behind is NaN", |p| {
        (p.attention.kv_len, p.attention.dtype) = (true, DType::F16);
        (p.query_block, p.block_size) = (2, 4);
    }),
    ("all that makes a score", |p| {
        let (dtype, shape) = (DType::BF16, Broadcast::FULL);
        p.attention.bias = Some(Bias { dtype, shape });
        (p.attention.mask, p.attention.alibi) = (Some(Broadcast::FULL), true);
        (p.attention.softcap, p.attention.head_dim) = (Some(3.0), 5);
        (p.attention.weighting, p.block_size) = (Weighting::Sigmoid { bias: None }, 2);
    }),
    ("blocks do not read what makes scores of keys", |p| {
        let (dtype, shape) = (DType::F32, Broadcast::FULL);
        p.attention.bias = Some(Bias { dtype, shape });
        (p.attention.alibi, p.attention.softcap) = (true, Some(3.0));
        (p.attention.sinks, p.attention.lse) = (true, true);
        (p.block_size, p.scoring) = (5, Scoring::Bound);
    }),
];

#[test]
fn scores_by_every_kernel() {
    let Some(gpu) = gpu() else { return };
    for (name, change) in PROBLEMS {
        let mut p = keys();
        change(&mut p);
        check(name, &gpu, &p);
    }
}

#[test]
fn scores_with_driver_checks_and_on_a_minimal_device() {
    let (Some(checked), Some(minimal)) = (gpu_with(|o| o.checked = true), gpu_with(|o| o.minimal = true)) else {
        return;
    };
    for (name, change) in PROBLEMS.iter().skip(3).step_by(4) {
        let mut p = keys();
        change(&mut p);
        check(name, &checked, &p);
        check(name, &minimal, &p);
    }
}

#[test]
fn both_kernels_are_the_planners_choice_for_some_size() {
    let Some(gpu) = gpu() else { return };
    let chosen = |queries| {
        let mut p = keys();
        p.attention.queries = queries;
        p.plan_scores(&gpu).unwrap().tile()
    };
    assert!(matches!(chosen(17), ScoreTile::Tiled(_)));
    let software = gpu.info().device_type == wgpu::DeviceType::Cpu;
    assert_eq!(matches!(chosen(1), ScoreTile::Serial(_)), software);
}

#[test]
fn a_wrong_score_would_be_noticed() {
    let right = [1.0f32, -2.0, f32::NEG_INFINITY, f32::INFINITY];
    let expected = right.map(f64::from);
    assert!(compared(&right, &expected).passed());
    assert!(!compared(&[1.0, -2.001, right[2], right[3]], &expected).passed());
    for (n, wrong) in [(2, 0.0), (2, f32::INFINITY), (3, f32::NAN), (0, f32::NEG_INFINITY)] {
        let mut scores = right;
        scores[n] = wrong;
        assert!(std::panic::catch_unwind(|| compared(&scores, &expected)).is_err());
    }
}

#[test]
fn calls_larger_than_a_binding_or_a_grid_are_cut() {
    let Some(mut limits) = common::limits() else { return };
    // All rows of a head are one list: only what binds bytes cuts those.
    let cuts: [(u64, u32, &[usize]); 2] = [(20 << 10, 65535, &[0, 3, 7]), (1 << 20, 48, &[0, 3])];
    for (binding, workgroups, problems) in cuts {
        limits.max_storage_buffer_binding_size = binding;
        limits.max_compute_workgroups_per_dimension = workgroups;
        let Some(gpu) = gpu_with(|o| o.limits = Some(limits.clone())) else {
            return;
        };
        for (name, change) in problems.iter().map(|&n| PROBLEMS[n]) {
            let mut p = keys();
            change(&mut p);
            (p.attention.batch, p.attention.queries) = (4, 40);
            let parts = p
                .plan_scores_with(&gpu, Some(ScoreTile::Tiled(topk::TILED[0])))
                .unwrap()
                .parts();
            assert!(parts > 1, "{name}: one part");
            check(&format!("{name} in {parts} parts"), &gpu, &p);
        }
    }
    limits.max_compute_workgroups_per_dimension = 3;
    let Some(gpu) = gpu_with(|o| o.limits = Some(limits)) else {
        return;
    };
    let tile = Some(ScoreTile::Tiled(topk::TILED[0]));
    // Tiles of entries lie along one dimension: 45 keys in tiles of 8.
    assert_says(
        "more tiles of entries than workgroups",
        keys().plan_scores_with(&gpu, tile),
        "Limit",
        &["needs 6", "max_compute_workgroups_per_dimension"],
    );
}

#[test]
fn tensors_that_do_not_fit() {
    let Some((gpu, complaints)) = watched() else { return };
    let by_keys = keys();
    let means = TopK {
        scoring: Scoring::Mean,
        block_size: 5,
        pooled: true,
        ..keys()
    };
    let [q, k, extra, scores] = [(); 4].map(|()| buffer(&gpu, 1 << 16));
    let (small, uniform) = (buffer(&gpu, 64), buffer_for(&gpu, 1 << 16, wgpu::BufferUsages::UNIFORM));
    let some = Some(Tensor::from(&extra));
    let data = [Tensor::from(&extra)];
    let of_keys = ScoreTensors {
        k: Some((&k).into()),
        ..ScoreTensors::new(&q, &scores)
    };
    let of_blocks = ScoreTensors {
        pooled: Some((&k).into()),
        ..ScoreTensors::new(&q, &scores)
    };
    let encode = |p: &TopK, tensors: &ScoreTensors<'_>| {
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        let result = p.plan_scores(&gpu).unwrap().encode(&mut encoder, tensors);
        gpu.queue().submit([encoder.finish()]);
        result
    };
    encode(&by_keys, &of_keys).unwrap();
    encode(&means, &of_blocks).unwrap();
    #[rustfmt::skip]
    let wrong: Vec<(&str, &TopK, ScoreTensors<'_>, &[&str])> = vec![
        ("no keys", &by_keys, ScoreTensors { k: None, ..of_keys }, &["`k`", "missing"]),
        ("blocks besides", &by_keys, ScoreTensors { pooled: some, ..of_keys }, &["`pooled`", "is given"]),
        ("no blocks", &means, ScoreTensors { pooled: None, ..of_blocks }, &["`pooled`", "missing"]),
        ("keys besides", &means, ScoreTensors { k: some, ..of_blocks }, &["`k`", "is given"]),
        ("a bias besides", &by_keys, ScoreTensors { bias: some, ..of_keys }, &["`bias`", "is given"]),
        ("a mask for blocks", &means, ScoreTensors { mask: some, ..of_blocks }, &["`mask`", "is given"]),
        ("lengths besides", &by_keys, ScoreTensors { kv_len: some, ..of_keys }, &["`kv_len`", "is given"]),
        ("few queries", &by_keys, ScoreTensors { q: (&small).into(), ..of_keys }, &["`q`", "64 bytes"]),
        ("few keys", &by_keys, ScoreTensors { k: Some((&small).into()), ..of_keys }, &["`k`", "64 bytes"]),
        ("few blocks", &means, ScoreTensors { pooled: Some((&small).into()), ..of_blocks }, &["`pooled`", "64 bytes"]),
        ("few scores", &by_keys, ScoreTensors { scores: (&small).into(), ..of_keys }, &["`scores`", "64 bytes"]),
        ("no storage", &by_keys, ScoreTensors { q: (&uniform).into(), ..of_keys }, &["`q`", "STORAGE"]),
        ("misaligned blocks", &means, ScoreTensors { pooled: Some(Tensor::at(&k, 8)), ..of_blocks },
            &["`pooled`", "byte 8", "multiple of 16"]),
        ("misaligned scores", &by_keys, ScoreTensors { scores: Tensor::at(&scores, 2), ..of_keys },
            &["`scores`", "byte 2", "multiple of 4"]),
        ("scores over queries", &by_keys, ScoreTensors { scores: (&q).into(), ..of_keys }, &["`scores`", "same buffer"]),
        ("custom data besides", &by_keys, ScoreTensors { custom_data: &data, ..of_keys }, &["`custom_data`"]),
    ];
    for (name, p, tensors, words) in wrong {
        assert_says(name, encode(p, &tensors), "Tensor", words);
    }
    common::mistakes::assert_unharmed(&gpu, &complaints);
}

#[test]
fn tiles_that_make_no_sense() {
    let Some(gpu) = gpu() else { return };
    let lists = TopK {
        query_block: 3,
        ..keys()
    };
    let serial = |rows, threads| ScoreTile::Serial(SerialScoreTile { rows, threads });
    let tiled = topk::TILED[0];
    let wrong = [
        serial(0, 8),
        serial(2, 8),
        serial(3, 0),
        serial(257, 8),
        ScoreTile::Tiled(TiledTile { key_regs: 3, ..tiled }),
        ScoreTile::Tiled(TiledTile { chunk: 0, ..tiled }),
        ScoreTile::Tiled(TiledTile {
            lanes: u32::MAX,
            ..tiled
        }),
    ];
    for tile in wrong {
        assert_says(
            "a tile",
            lists.plan_scores_with(&gpu, Some(tile)),
            "Invalid",
            &["`tuning.score`"],
        );
    }
    let wide = ScoreTile::Tiled(TiledTile {
        lanes: 256,
        row_groups: 64,
        ..tiled
    });
    let error = lists.plan_scores_with(&gpu, Some(wide)).unwrap_err();
    assert!(matches!(error, Error::Limit { .. }), "{error}");
}
