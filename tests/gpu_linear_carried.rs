//! Long segments of linear attention with the state carried along in cooperative matrices, against the reference: lengths around a
//! chunk's and a segment's, head sizes, storage types and feature maps, documents, states handed on, and numbers that f16 has no
//! room for. On a device whose matrices have no elements to get at these tests have nothing to test, and say so.

mod common;

use common::Random;
use common::linear::{self, Strength, check, check_on, feature_maps, forced, multiply};
use common::matrices::emulated;
use wgpu_attention::compare::{self, Tolerance};
use wgpu_attention::dense::tile::DeviceClass;
use wgpu_attention::linear::carried::CarriedTile;
use wgpu_attention::linear::cooperative::CooperativeTile;
use wgpu_attention::linear::tile::Form;
use wgpu_attention::{DType, Decay, FeatureMap, Gpu, Layout, Linear, LinearTensors, Tensor};

/// The device, where its matrices have elements as the kernel relies on them.
fn device() -> Option<Gpu> {
    let gpu = common::gpu()?;
    common::matrices::matrices(&gpu)?;
    let turned = gpu.abilities().elements.and_then(|e| e.right).is_some_and(|r| r.turned);
    // Mesa's software GPU has them.
    assert!(turned || !emulated(&gpu));
    if !turned {
        println!("skipped: right factors' elements are not those of sums turned over");
    }
    turned.then_some(gpu)
}

fn edge(gpu: &Gpu) -> u32 {
    gpu.abilities().matrices.unwrap()
}

/// Blocks of tokens of a chunk, of a strip's columns, chunks of a segment; barriers of a strip's own.
type Shape = ([u32; 3], bool);

const SHAPES: [Shape; 5] = [
    ([2, 1, 2], true),
    ([1, 1, 3], false),
    ([3, 1, 1], true),
    ([4, 2, 2], false),
    ([2, 2, 2], true),
];

/// A form for a problem.
fn form(gpu: &Gpu, p: &Linear, ([row_blocks, strip_blocks, chunks], own): Shape) -> Form {
    let (least, most) = gpu.abilities().subgroups.unwrap();
    let edge = edge(gpu);
    let blocks = p.value_dim() / edge;
    // One block to a strip where two do not go into what there is.
    let strip_blocks = if blocks.is_multiple_of(strip_blocks) {
        strip_blocks
    } else {
        1
    };
    let state = CooperativeTile {
        edge,
        strips: 2,
        shares: 1,
        row_blocks: 1,
        value_blocks: 2,
        staged: 2,
        threads: 2 * most,
        row_lanes: least.min(2),
        vectors: true,
        written_out: !emulated(gpu),
    };
    let output = CarriedTile::new(p, &DeviceClass::of_gpu(gpu), [row_blocks, strip_blocks]).unwrap();
    let output = CarriedTile {
        own_barriers: own && output.own_barriers,
        ..output
    };
    Form::Carried {
        state,
        output,
        segment: chunks * output.rows(),
    }
}

/// Sizes in whole matrices, grouped heads, both states.
fn plain(gpu: &Gpu, decay: Decay) -> Linear {
    Linear {
        batch: 2,
        heads: 4,
        kv_heads: Some(2),
        tokens: 75,
        head_dim: 3 * edge(gpu),
        value_dim: Some(2 * edge(gpu)),
        dtype: DType::F16,
        scale: Some(0.05),
        decay,
        initial_state: true,
        final_state: true,
        ..Linear::default()
    }
}

#[test]
fn lengths_around_a_chunk_and_a_segment() {
    let Some(gpu) = device() else { return };
    for (n, shape) in SHAPES.into_iter().enumerate() {
        let decay = [Decay::Head, Decay::None][n % 2];
        let p = plain(&gpu, decay);
        let form = form(&gpu, &p, shape);
        let (chunk, segment) = (form.chunk(), form.segment().unwrap());
        for tokens in [
            17,
            chunk - 1,
            chunk,
            chunk + 1,
            segment + 1,
            2 * segment,
            3 * segment + chunk + 3,
        ] {
            let p = Linear { tokens, ..p.clone() };
            check(&format!("{shape:?}, {tokens} tokens"), &gpu, &p, &forced(form));
        }
    }
}

#[test]
fn head_sizes() {
    let Some(gpu) = device() else { return };
    let edge = edge(&gpu);
    for (n, (head_dim, value_dim)) in [(1, 1), (4, 4), (8, 3), (5, 8)].into_iter().enumerate() {
        let p = Linear {
            batch: 1,
            heads: 1,
            kv_heads: None,
            tokens: 85,
            head_dim: head_dim * edge,
            value_dim: Some(value_dim * edge),
            ..plain(&gpu, [Decay::Head, Decay::None][n % 2])
        };
        for shape in [SHAPES[0], SHAPES[1], SHAPES[4]] {
            let form = form(&gpu, &p, shape);
            check(
                &format!("{head_dim} and {value_dim} blocks, {shape:?}"),
                &gpu,
                &p,
                &forced(form),
            );
        }
    }
}

#[test]
fn storage_types_feature_maps_and_layouts() {
    let Some(gpu) = device() else { return };
    let types = [
        (DType::F16, None),
        (DType::F16, Some(DType::F32)),
        (DType::BF16, None),
        (DType::F32, None),
    ];
    for (n, feature_map) in feature_maps().into_iter().enumerate() {
        for (m, (dtype, output_dtype)) in types.into_iter().enumerate() {
            if feature_map != FeatureMap::Identity && m != n % 4 {
                continue;
            }
            let layout = [Layout::Bhnd, Layout::Bnhd][(n + m) % 2];
            let p = Linear {
                dtype,
                output_dtype,
                reduced_precision: true,
                feature_map: feature_map.clone(),
                q_layout: layout,
                k_layout: layout,
                v_layout: layout,
                o_layout: layout,
                ..plain(&gpu, Decay::Head)
            };
            let form = form(&gpu, &p, SHAPES[(n + m) % 5]);
            check(
                &format!("{feature_map:?} {dtype} {output_dtype:?}"),
                &gpu,
                &p,
                &forced(form),
            );
        }
    }
}

#[test]
fn states_and_documents() {
    let Some(gpu) = device() else { return };
    for (initial_state, final_state, in_place) in [
        (false, false, false),
        (true, false, false),
        (false, true, false),
        (true, true, true),
    ] {
        let p = Linear {
            initial_state,
            final_state,
            in_place,
            total_decay: final_state,
            ..plain(&gpu, Decay::Head)
        };
        let form = form(&gpu, &p, SHAPES[0]);
        check(
            &format!("{initial_state} {final_state} {in_place}"),
            &gpu,
            &p,
            &forced(form),
        );
    }
    let p = Linear {
        batch: 1,
        tokens: 141,
        documents: Some(4),
        ..plain(&gpu, Decay::Head)
    };
    let mut inputs = linear::random(&p, Strength::Medium, &mut Random::new(3));
    for (n, boundaries) in [
        [0, 10, 20, 100, 141],
        [3, 4, 4, 5, 6],
        [7, 7, 7, 7, 7],
        [9, 9, 40, 140, 141],
    ]
    .into_iter()
    .enumerate()
    {
        inputs.cu_seqlens = Some(boundaries.to_vec());
        let form = form(&gpu, &p, SHAPES[n % 2]);
        check_on(&format!("{boundaries:?}"), &gpu, &p, &inputs.inputs(), &forced(form));
    }
}

#[test]
fn states_that_nobody_reads_are_not_worked_out() {
    let Some(gpu) = device() else { return };
    for (tokens, decay) in [(9, Decay::Head), (75, Decay::None), (75, Decay::Head)] {
        let p = Linear {
            tokens,
            ..plain(&gpu, decay)
        };
        linear::check_unread_states(&gpu, &p, form(&gpu, &p, SHAPES[0]));
    }
}

/// Scores and states far beyond f16 and far below it, and tokens of one chunk a million times larger than others.
#[test]
fn what_f16_has_no_room_for() {
    let Some(gpu) = device() else { return };
    for (n, (of_tokens, of_values, of_state)) in [
        (600.0, 300.0, 1e9),
        (600.0, 1.0, 0.0),
        (2e-3, 2e-3, 0.0),
        (1.0, 1.0, 1e12),
        (2e-3, 1.0, 1e24),
        (1e-3, 1e3, 1e-12),
    ]
    .into_iter()
    .enumerate()
    {
        for decay in [Decay::None, Decay::Head] {
            let p = Linear {
                output_dtype: Some(DType::F32),
                ..plain(&gpu, decay)
            };
            let mut inputs = linear::random(&p, Strength::Weak, &mut Random::new(5));
            multiply(&mut inputs.q, of_tokens, DType::F16);
            multiply(&mut inputs.k, of_tokens, DType::F16);
            multiply(&mut inputs.v, of_values, DType::F16);
            multiply(inputs.initial_state.as_mut().unwrap(), of_state, DType::F32);
            let form = form(&gpu, &p, SHAPES[n % 5]);
            let name = format!("{of_tokens} {of_values} {of_state}, {decay:?}");
            check_on(&name, &gpu, &p, &inputs.inputs(), &forced(form));
        }
    }
    let p = Linear {
        output_dtype: Some(DType::F32),
        ..plain(&gpu, Decay::None)
    };
    let (d, tokens) = (p.head_dim as usize, p.tokens as usize);
    let mut apart = linear::random(&p, Strength::Weak, &mut Random::new(7));
    let second_half = |row: usize| row % tokens >= tokens / 2;
    for (row, q) in apart.q.chunks_mut(d).enumerate() {
        multiply(q, if second_half(row) { 1e3 } else { 1.0 }, DType::F16);
    }
    for (row, k) in apart.k.chunks_mut(d).enumerate() {
        multiply(k, if second_half(row) { 1.0 } else { 1e-3 }, DType::F16);
    }
    // A state that f16 has nothing of, beside keys that add nothing to it.
    let mut alone = linear::random(&p, Strength::Weak, &mut Random::new(8));
    multiply(&mut alone.k, 0.0, DType::F16);
    multiply(alone.initial_state.as_mut().unwrap(), 1e-12, DType::F32);
    // The largest in one half of a word only, be that of two channels or of two values.
    let one_half = [0, 1].map(|half| {
        let mut inputs = linear::random(&p, Strength::Weak, &mut Random::new(9));
        let large = |n: usize| if n % 2 == half { 1e3 } else { 1e-5 };
        for row in [&mut inputs.k, &mut inputs.v] {
            for (n, x) in row.iter_mut().enumerate() {
                multiply(std::slice::from_mut(x), large(n), DType::F16);
            }
        }
        inputs
    });
    for shape in SHAPES {
        let form = form(&gpu, &p, shape);
        check_on("tokens apart", &gpu, &p, &apart.inputs(), &forced(form));
        check_on("a small state alone", &gpu, &p, &alone.inputs(), &forced(form));
        for inputs in &one_half {
            check_on("one half of a word", &gpu, &p, &inputs.inputs(), &forced(form));
        }
    }
}

/// Numbers that change from one chunk to the next by more than f16 has room for, in keys, in values and by forgetting: such chunks
/// are taken again, some before others and some so often that all are taken with care.
#[test]
fn chunks_that_f16_has_no_room_for() {
    let Some(gpu) = device() else { return };
    for (n, shape) in SHAPES.into_iter().enumerate() {
        for decay in [Decay::None, Decay::Head] {
            let p = Linear {
                output_dtype: Some(DType::F32),
                ..plain(&gpu, decay)
            };
            let form = form(&gpu, &p, shape);
            // Five segments of eight chunks.
            let (chunk, Form::Carried { state, output, .. }) = (form.chunk(), form) else {
                unreachable!()
            };
            let p = Linear {
                tokens: 40 * chunk - 3,
                ..p
            };
            let form = Form::Carried {
                state,
                output,
                segment: 8 * chunk,
            };
            let mut inputs = linear::random(&p, Strength::Weak, &mut Random::new(17 + n as u64));
            let (tokens, chunk) = (p.tokens as usize, chunk as usize);
            let dims = (p.head_dim as usize, p.value_dim() as usize);
            for (row, k) in inputs.k.chunks_mut(dims.0).enumerate() {
                let by = match row % tokens / chunk {
                    2 => 300.0,
                    13 => 1e3,
                    20.. => 0.0,
                    _ => 1.0,
                };
                multiply(k, by, DType::F16);
            }
            for (row, v) in inputs.v.chunks_mut(dims.1).enumerate() {
                let by = match row % tokens / chunk {
                    5 | 12 => 2e3,
                    // Every other chunk of a segment.
                    16 | 18 | 24 | 26 | 28 | 30 => 1e3,
                    _ => 1.0,
                };
                multiply(v, by, DType::F16);
            }
            // From hardly to at once.
            for (n, g) in inputs.log_decay.iter_mut().flatten().enumerate() {
                *g = [-1e-4, -0.05, -4.0, -60.0][n % 4];
            }
            check_on(
                &format!("{shape:?}, {decay:?}"),
                &gpu,
                &p,
                &inputs.inputs(),
                &forced(form),
            );
        }
    }
}

/// Heads of which a chunk leaves 2^-58, and whose keys become smaller from one chunk to the next: what the state was is in the first
/// rows of a chunk that is taken again, and nowhere else.
#[test]
fn steep_heads_whose_keys_become_small() {
    let Some(gpu) = device() else { return };
    for shape in SHAPES {
        let p = Linear {
            output_dtype: Some(DType::F32),
            initial_state: false,
            final_state: false,
            ..plain(&gpu, Decay::Head)
        };
        let (chunk, Form::Carried { state, output, .. }) = (form(&gpu, &p, shape).chunk(), form(&gpu, &p, shape))
        else {
            unreachable!()
        };
        let p = Linear { tokens: 4 * chunk, ..p };
        let segment = 8 * chunk;
        let mut inputs = linear::random(&p, Strength::Weak, &mut Random::new(23));
        let (tokens, rows) = (p.tokens as usize, chunk as usize);
        inputs
            .log_decay
            .iter_mut()
            .flatten()
            .for_each(|g| *g = -40.2 / chunk as f32);
        // Of the fourth chunk's outputs all comes from the state, of the others' nothing at all.
        let chunk_of = |row: usize| row % tokens / rows;
        for (row, k) in inputs.k.chunks_mut(p.head_dim as usize).enumerate() {
            multiply(k, [1.0, 1.0, 1e-3, 0.0][chunk_of(row)], DType::F16);
        }
        for (row, q) in inputs.q.chunks_mut(p.head_dim as usize).enumerate() {
            multiply(q, if chunk_of(row) == 3 { 1e3 } else { 0.0 }, DType::F16);
        }
        let form = Form::Carried { state, output, segment };
        check_on(&format!("{shape:?}"), &gpu, &p, &inputs.inputs(), &forced(form));
    }
}

/// Segments long enough that their states are worked out in two sections, of heads that forget the first and of heads that do not:
/// full ones, one that is shorter than a section, documents, and all states.
#[test]
fn states_in_two_sections() {
    let Some(gpu) = device() else { return };
    let edge = edge(&gpu);
    for (n, (tokens, documents)) in [(4096 + 700, None), (2048 + 1500, None), (4096, None), (5000, Some(3))]
        .into_iter()
        .enumerate()
    {
        let p = Linear {
            batch: 1,
            heads: 5,
            kv_heads: None,
            tokens,
            head_dim: edge,
            value_dim: Some(2 * edge),
            documents,
            total_decay: true,
            ..plain(&gpu, Decay::Head)
        };
        let (Form::Carried { state, output, .. }, segment) = (form(&gpu, &p, SHAPES[0]), 2048) else {
            unreachable!()
        };
        let form = Form::Carried { state, output, segment };
        let mut inputs = linear::random(&p, Strength::Weak, &mut Random::new(19 + n as u64));
        if documents.is_some() {
            inputs.cu_seqlens = Some(vec![0, 2300, 2300, 5000]);
        }
        // The first section is forgotten from −0.027 on, half of the second from −0.054 on. Other heads than before forget, so that
        // what is not worked out is not what it should be either.
        let alike = tokens == 4096;
        for (head, g) in inputs.log_decay.iter_mut().flatten().enumerate() {
            *g = if alike {
                -0.02
            } else {
                [0.0, -1e-3, -0.02, -0.03, -0.4][(head + n) % 5]
            };
        }
        // What has decayed by e^−7 at a segment's end is large enough to be missed there.
        for (row, k) in inputs.k.chunks_mut(edge as usize).enumerate() {
            let far = alike && row % 2048 < 2048 - 350;
            multiply(k, if far { 30.0 } else { 1.0 }, DType::F16);
        }
        let name = format!("{tokens} tokens, {documents:?}");
        check_on(&name, &gpu, &p, &inputs.inputs(), &forced(form));
    }
}

/// The planner's tiles at the sizes they were measured for, on numbers that leave f16 and come back: a driver's compiler can get
/// wrong there what it gets right in smaller ones.
#[test]
fn planned_tiles() {
    let Some(gpu) = device() else { return };
    for (dim, blocks) in [(64, [2, 1]), (64, [1, 1]), (128, [2, 2]), (128, [2, 1])] {
        for decay in [Decay::Head, Decay::None] {
            let p = Linear {
                batch: 1,
                heads: 2,
                kv_heads: None,
                tokens: 9 * edge(&gpu) + 5,
                head_dim: dim,
                value_dim: Some(dim),
                ..plain(&gpu, decay)
            };
            let form = form(&gpu, &p, ([blocks[0], blocks[1], 2], true));
            for (name, large, of_state) in [("as they are", 1.0, 1.0), ("large", 30.0, 2e5), ("small", 2e-3, 0.0)] {
                let mut inputs = linear::random(&p, Strength::Weak, &mut Random::new(13));
                multiply(&mut inputs.q, 1.0 / large, DType::F16);
                multiply(&mut inputs.k, large, DType::F16);
                multiply(&mut inputs.v, large, DType::F16);
                multiply(inputs.initial_state.as_mut().unwrap(), of_state, DType::F32);
                let name = format!("D {dim}, {blocks:?}, {decay:?}, {name}");
                check_on(&name, &gpu, &p, &inputs.inputs(), &forced(form));
            }
        }
    }
}

/// Columns of v that are 2^18 times smaller than their neighbours, which one power of two has to serve in a strip of S.
#[test]
fn small_columns_beside_large_ones() {
    let Some(gpu) = device() else { return };
    let p = Linear {
        output_dtype: Some(DType::F32),
        ..plain(&gpu, Decay::Head)
    };
    let mut inputs = linear::random(&p, Strength::Weak, &mut Random::new(11));
    let by = |n: usize| if n.is_multiple_of(2) { 512.0 } else { 1.0 / 512.0 };
    for (n, x) in inputs.v.iter_mut().enumerate() {
        multiply(std::slice::from_mut(x), by(n), DType::F16);
    }
    for (n, x) in inputs.initial_state.as_mut().unwrap().iter_mut().enumerate() {
        *x *= by(n);
    }
    let expected = linear::truth(&p, &inputs.inputs());
    let alike: Vec<f64> = expected
        .o
        .iter()
        .enumerate()
        .map(|(n, x)| x / f64::from(by(n)))
        .collect();
    for shape in SHAPES {
        let found = linear::run(&gpu, &p, &inputs.inputs(), &forced(form(&gpu, &p, shape))).unwrap();
        let found: Vec<f32> = found.o.iter().enumerate().map(|(n, x)| x / by(n)).collect();
        let result = compare::output(&found, &alike, &Tolerance::for_dtype(DType::F16));
        assert!(result.passed(), "{shape:?}: {result}");
    }
}

#[test]
fn drawn_problems() {
    let Some(gpu) = device() else { return };
    for seed in 0..16 {
        let mut r = Random::new(seed);
        let documents = r.one_in(4).then_some(3);
        let p = Linear {
            batch: if documents.is_some() { 1 } else { 1 + r.below(2) },
            heads: 4,
            kv_heads: r.pick(&[None, Some(2), Some(1)]),
            tokens: 17 + r.below(250),
            head_dim: edge(&gpu) * (1 + r.below(6)),
            value_dim: Some(edge(&gpu) * (1 + r.below(6))),
            decay: r.pick(&[Decay::None, Decay::Head, Decay::Head]),
            documents,
            initial_state: r.one_in(2),
            ..plain(&gpu, Decay::None)
        };
        let strength = r.pick(&[Strength::Weak, Strength::Medium, Strength::Strong, Strength::Mixed]);
        let inputs = linear::random(&p, strength, &mut r);
        let shape = r.pick(&SHAPES);
        let form = form(&gpu, &p, shape);
        check_on(
            &format!("seed {seed}, {shape:?}"),
            &gpu,
            &p,
            &inputs.inputs(),
            &forced(form),
        );
    }
}

/// Calls larger than a binding: parts of batch entries and heads, each at a place of its own in the tensors.
#[test]
fn parts_of_a_call() {
    let (Some(gpu), Some(mut limits)) = (device(), common::limits()) else {
        return;
    };
    // Room for the window of one head, whose tokens lie apart by all heads.
    limits.max_storage_buffer_binding_size = u64::from(edge(&gpu)) << 11;
    let Some(gpu) = common::gpu_with(|o| o.limits = Some(limits)) else {
        return;
    };
    for (dtype, output_dtype) in [(DType::F16, None), (DType::F16, Some(DType::F32)), (DType::BF16, None)] {
        for layout in [Layout::Bhnd, Layout::Bnhd] {
            let p = Linear {
                batch: 3,
                dtype,
                output_dtype,
                reduced_precision: true,
                q_layout: layout,
                ..plain(&gpu, Decay::Head)
            };
            let form = form(&gpu, &p, SHAPES[0]);
            let plan = p.plan_with(&gpu, &forced(form)).unwrap();
            assert!(plan.dispatches() > 3, "one part only: {p:?}");
            check(&format!("{dtype} {layout:?}"), &gpu, &p, &forced(form));
        }
    }
}

/// A key that f16 has no room for is infinite, and that is nothing to the tokens before it.
#[test]
fn an_infinite_key_leaves_earlier_tokens_alone() {
    let Some(gpu) = device() else { return };
    const TOKEN: usize = 29;
    let p = Linear {
        batch: 1,
        heads: 2,
        kv_heads: None,
        dtype: DType::F32,
        reduced_precision: true,
        initial_state: false,
        final_state: false,
        ..plain(&gpu, Decay::Head)
    };
    let mut inputs = linear::random(&p, Strength::Medium, &mut Random::new(11));
    let expected = linear::truth(&p, &inputs.inputs());
    let (d, dv, tokens) = (p.head_dim as usize, p.value_dim() as usize, p.tokens as usize);
    for head in inputs.k.chunks_mut(tokens * d) {
        head[TOKEN * d..(TOKEN + 1) * d].fill(1e6);
    }
    for shape in SHAPES {
        let tuning = forced(form(&gpu, &p, shape));
        let output = linear::run(&gpu, &p, &inputs.inputs(), &tuning).unwrap();
        for (found, expected) in output.o.chunks(tokens * dv).zip(expected.o.chunks(tokens * dv)) {
            let before = ..TOKEN * dv;
            let result = compare::output(&found[before], &expected[before], &Tolerance::for_dtype(DType::F16));
            assert!(result.passed(), "{shape:?}: {result}");
        }
    }
}

/// q, k, v and o are accessed 16 bytes at a time, so that they cannot start at any multiple of eight.
#[test]
fn tensors_start_at_multiples_of_16_bytes() {
    let Some(gpu) = device() else { return };
    let p = Linear {
        batch: 1,
        initial_state: false,
        final_state: false,
        ..plain(&gpu, Decay::None)
    };
    let buffers = [(); 4].map(|()| {
        gpu.device().create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: 1 << 18,
            usage: wgpu::BufferUsages::STORAGE,
            mapped_at_creation: false,
        })
    });
    let encode = |p: &Linear, late: usize, by: u64| {
        let at = |n: usize| Tensor {
            buffer: &buffers[n],
            offset: if n == late { by } else { 0 },
        };
        let plan = p.plan_with(&gpu, &forced(form(&gpu, p, SHAPES[0]))).unwrap();
        let tensors = LinearTensors::new(at(0), at(1), at(2), at(3));
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        plan.encode(&mut encoder, &tensors)
    };
    for late in 0..4 {
        encode(&p, late, 16).unwrap();
        let error = encode(&p, late, 8).unwrap_err().to_string();
        assert!(
            error.contains("a multiple of 16 bytes") && error.contains("`unaligned: true`"),
            "{error}"
        );
        // Where φ changes what is stored, or another type is, four elements do.
        let featured = Linear {
            feature_map: FeatureMap::Relu,
            ..p.clone()
        };
        assert_eq!(encode(&featured, late, 8).is_ok(), late != 3);
    }
}

#[test]
fn what_it_does_not_serve_is_refused() {
    let Some(gpu) = device() else { return };
    let p = plain(&gpu, Decay::Head);
    let form = form(&gpu, &p, SHAPES[0]);
    let Form::Carried { state, output, segment } = form else {
        panic!("{form:?}")
    };
    let refused = |p: &Linear, form: Form, part: &str| {
        let error = p.plan_with(&gpu, &forced(form)).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    let problems = [
        Linear {
            head_dim: p.head_dim + 1,
            ..p.clone()
        },
        Linear {
            value_dim: Some(p.value_dim() + edge(&gpu)),
            ..p.clone()
        },
        Linear {
            normalize: Some(0.1),
            ..p.clone()
        },
        Linear {
            unaligned: true,
            ..p.clone()
        },
        Linear {
            causal: false,
            decay: Decay::None,
            ..p.clone()
        },
    ];
    for other in problems {
        refused(&other, form, "D and Dv of whole matrices");
    }
    refused(
        &Linear {
            decay: Decay::Token,
            ..p.clone()
        },
        form,
        "a decay that is none or one a head",
    );
    let wrong = |output: CarriedTile| Form::Carried { state, output, segment };
    refused(&p, wrong(CarriedTile { strips: 0, ..output }), "keeps to the rules");
    refused(&p, wrong(CarriedTile { threads: 0, ..output }), "keeps to the rules");
    refused(
        &p,
        wrong(CarriedTile {
            row_blocks: 0,
            ..output
        }),
        "keeps to the rules",
    );
    refused(
        &p,
        wrong(CarriedTile {
            threads: output.threads * 2,
            ..output
        }),
        "keeps to the rules",
    );
    let elsewhere = CarriedTile {
        elements: wgpu_attention::tier::MatrixElements {
            right: None,
            ..output.elements
        },
        ..output
    };
    refused(&p, wrong(elsewhere), "keeps to the rules");
    refused(
        &p,
        form.with_segment(segment + 1),
        "a multiple of the output tile's rows",
    );
    refused(&p, form.with_segment(0), "a multiple of the output tile's rows");
}
