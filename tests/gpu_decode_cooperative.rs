//! Decode on cooperative matrices: drawn problems, lists, splits, references that change, what is refused. The golden
//! cases are in `gpu_dense_cooperative.rs`, where the planner finds this kernel for those of few queries.

mod common;

use common::matrices::{check, drawn, matrices, scalars_work, share, tolerance};
use common::{Inputs, Random, draw, gpu};
use wgpu_attention::compare;
use wgpu_attention::dense::cooperative_decode::CooperativeDecodeTile;
use wgpu_attention::dense::reference;
use wgpu_attention::dense::tile::{KernelChoice, Tuning};
use wgpu_attention::tier::MatrixElements;
use wgpu_attention::{Broadcast, DType, Dense, DenseInputs, DenseOutput, Error, Gpu, Selection, Tier, Weighting};

/// Strips, blocks of rows, blocks of keys of a strip, lanes of a row; rows less than the blocks have; tiles ahead, padded, blocks of
/// columns put together at a time.
type Shape = ([u32; 4], u32, (u32, bool, u32));

const SHAPES: [Shape; 7] = [
    ([4, 1, 1, 2], 0, (1, true, 2)),
    ([2, 1, 1, 1], 3, (0, true, 1)),
    ([1, 2, 1, 1], 0, (1, false, 3)),
    ([3, 1, 2, 2], 1, (0, true, 4)),
    ([2, 2, 2, 1], 5, (1, true, 1)),
    ([1, 1, 1, 2], 7, (2, true, 2)),
    ([3, 1, 2, 1], 2, (2, false, 8)),
];

/// A tile of a shape. With a strip's own barriers where the device can and `own` says so.
fn tile(gpu: &Gpu, shape: Shape, own: bool, vectors: bool) -> CooperativeDecodeTile {
    let ([strips, row_blocks, key_blocks, row_lanes], spare, (ahead, padded, out_blocks)) = shape;
    let abilities = gpu.abilities();
    let (edge, (least, most)) = matrices(gpu).expect("asked before");
    CooperativeDecodeTile {
        edge,
        rows: row_blocks * edge - spare,
        row_blocks,
        strips,
        strip_keys: key_blocks * edge,
        ahead,
        padded,
        out_blocks,
        threads: strips * most,
        row_lanes: row_lanes.min(least),
        own_barriers: own && abilities.subgroup_barriers && least == most,
        vectors,
        written_out: !common::matrices::emulated(gpu),
        elements: None,
        scaled: false,
    }
}

/// The same with all in registers, where the device can.
fn in_registers(gpu: &Gpu, shape: Shape, vectors: bool) -> Option<CooperativeDecodeTile> {
    tile(gpu, shape, false, vectors).in_registers(&gpu.abilities())
}

/// The tile, and where the device can the one in registers.
fn both(gpu: &Gpu, shape: Shape, own: bool) -> Vec<CooperativeDecodeTile> {
    let registers = in_registers(gpu, shape, true);
    [tile(gpu, shape, own, true)].into_iter().chain(registers).collect()
}

fn forced(tile: CooperativeDecodeTile, splits: Option<u32>) -> Tuning {
    Tuning {
        splits,
        ..common::forced(KernelChoice::CooperativeDecode(tile))
    }
}

#[test]
fn random_problems() {
    share(|gpu, name, r| {
        let p = draw::options(r);
        let dim = |r: &mut Random| r.pick(&[4, 8, 16, 20, 24, 33, 48]);
        let head_dim = dim(r);
        let value_dim = p.value_dim.map(|_| dim(r));
        let (shape, vectors) = (r.pick(&SHAPES), r.one_in(2) || !scalars_work(gpu));
        let registers = in_registers(gpu, shape, vectors).filter(|_| r.one_in(2));
        let scaled = registers.is_some() && p.dtype == DType::BF16 && r.one_in(2);
        let options = Dense {
            head_dim,
            value_dim,
            reduced_precision: p.dtype != DType::F16 && !scaled,
            ..p
        };
        let shape = CooperativeDecodeTile {
            scaled,
            ..registers.unwrap_or(tile(gpu, shape, r.one_in(2), vectors))
        };
        let tuning = forced(shape, r.pick(&[None, Some(1), Some(2), Some(5)]));
        drawn(gpu, name, &options, (shape.rows, shape.keys()), &tuning, r)
    });
}

#[test]
fn the_planners_tile_for_groups_and_few_queries() {
    let Some(gpu) = gpu() else { return };
    let Some((edge, _)) = matrices(&gpu) else { return };
    let gpu = gpu.with_tier(Tier::Cooperative).unwrap();
    for (heads, kv_heads, queries, dim) in [
        (8, 1, 1, 64),
        (6, 2, 5, 128),
        (4, 4, 1, 32),
        (16, 1, 5, 40),
        (2, 1, 3, 256),
    ] {
        let p = Dense {
            batch: 2,
            heads,
            kv_heads: Some(kv_heads),
            queries,
            keys: 301,
            head_dim: dim,
            dtype: DType::F16,
            causal: true,
            // The largest product is the largest score, whatever its sign.
            scale: (queries == 5).then_some(-0.2),
            lse: true,
            ..Dense::default()
        };
        let rows = queries * heads / kv_heads;
        let name = format!("{rows} rows of {dim}, matrices of {edge}");
        let inputs = Inputs::random(&p, &mut Random::new(21));
        for splits in [None, Some(1), Some(7)] {
            let tuning = Tuning {
                splits,
                ..Tuning::default()
            };
            check(&name, &gpu, &p, &inputs, &tuning);
        }
    }
}

#[test]
fn head_sizes_in_registers() {
    let Some(gpu) = gpu() else { return };
    let Some((edge, _)) = matrices(&gpu) else { return };
    for (n, (head_dim, value_dim)) in [(1, 4), (16, 5), (64, 64), (100, 24), (65, 80)].into_iter().enumerate() {
        // With every number of blocks on their way.
        let shape = ([2, 1, 1, 1], 3, (n as u32 % 3, false, 4));
        let Some(tile) = in_registers(&gpu, shape, true) else {
            return;
        };
        let p = Dense {
            heads: 6,
            kv_heads: Some(2),
            queries: 2,
            // An odd number of tiles, for one share and for three.
            keys: 4 * 2 * edge + 3,
            head_dim,
            value_dim: Some(value_dim),
            dtype: DType::F16,
            causal: true,
            lse: true,
            ..Dense::default()
        };
        let inputs = Inputs::random(&p, &mut Random::new(31));
        for splits in [1, 3] {
            let name = format!("{head_dim}x{value_dim}, {splits} splits");
            check(&name, &gpu, &p, &inputs, &forced(tile, Some(splits)));
        }
    }
}

/// f16 has no room for such numbers; weights are f16 all the same, and what comes out is as good as they are.
#[test]
fn bf16_of_any_size() {
    let Some(gpu) = gpu() else { return };
    if matrices(&gpu).is_none() {
        return;
    }
    // The last has fewer invocations than rows where subgroups are small.
    for (shape, splits) in [
        (([2, 1, 1, 1], 1, (1, false, 4)), None),
        (([4, 1, 1, 1], 0, (2, false, 4)), Some(5)),
        (([1, 2, 1, 1], 0, (0, false, 4)), Some(2)),
    ] {
        let Some(tile) = in_registers(&gpu, shape, true) else {
            return;
        };
        any_size(&gpu, CooperativeDecodeTile { scaled: true, ..tile }, splits);
    }
}

fn any_size(gpu: &Gpu, tile: CooperativeDecodeTile, splits: Option<u32>) {
    let p = Dense {
        queries: 2 * tile.rows + 3,
        keys: 9 * tile.keys() + 1,
        head_dim: 40,
        dtype: DType::BF16,
        output_dtype: Some(DType::F32),
        lse: true,
        ..Dense::default()
    };
    let plain = Inputs::random(&p, &mut Random::new(41));
    let run = |name: &str, p: &Dense, inputs: &Inputs| {
        let output = common::run(gpu, p, inputs, &forced(tile, splits)).unwrap();
        let truth = common::truth(p, inputs, &Default::default());
        let result = compare::dense(&output, &truth, &compare::Tolerance::for_dtype(DType::F16));
        println!("{name}: {result}");
        assert!(result.passed(), "{name}: {result}");
    };
    for [q, k, v] in [[0, 0, 0], [-20, 20, 20], [20, -20, -20], [60, -60, 80], [-60, 60, -90]] {
        let mut inputs = plain.clone();
        let tensors = &mut inputs.tensors;
        for (values, power) in [(&mut tensors.q, q), (&mut tensors.k, k), (&mut tensors.v, v)] {
            values.iter_mut().for_each(|x| *x *= (power as f32).exp2());
        }
        run(&format!("q 2^{q}, k 2^{k}, v 2^{v}"), &p, &inputs);
    }
    // Keys that grow by 2^8 from one block of a strip to the next, and values by 2^12: what is summed up already changes its unit.
    let mut inputs = plain;
    let d = p.head_dim as usize;
    let tensors = &mut inputs.tensors;
    for (j, (k, v)) in tensors
        .k
        .chunks_exact_mut(d)
        .zip(tensors.v.chunks_exact_mut(d))
        .enumerate()
    {
        let block = (j / tile.keys() as usize) as f32;
        k.iter_mut().for_each(|x| *x *= (8.0 * block).exp2());
        v.iter_mut().for_each(|x| *x *= (12.0 * block).exp2());
    }
    // Scores with the last keys are as those with all were.
    let small = Dense {
        scale: Some((-72.0f32).exp2() / 6.0),
        ..p.clone()
    };
    run("growing", &small, &inputs);
    // Sigmoid, whose weights nothing is known of before.
    let sigmoid = Dense {
        weighting: Weighting::Sigmoid { bias: None },
        lse: false,
        ..small
    };
    run("growing, sigmoid", &sigmoid, &inputs);
    // Behind the last key that is seen nothing has a part in factors, however large.
    let causal = Dense {
        causal: true,
        q_offset: Some(20),
        ..p.clone()
    };
    let mut inputs = Inputs::random(&causal, &mut Random::new(43));
    let seen = (20 + causal.queries as usize) * d;
    let tensors = &mut inputs.tensors;
    tensors.k[seen..]
        .iter_mut()
        .chain(&mut tensors.v[seen..])
        .for_each(|x| *x *= 1e30);
    run("behind the last seen", &causal, &inputs);
    // Behind the cache's end nothing is read.
    let cached = Dense { kv_len: true, ..p };
    let mut inputs = Inputs::random(&cached, &mut Random::new(42));
    inputs.tensors.kv_len = Some(vec![cached.keys as i32 - 7]);
    let behind = (cached.keys as usize - 7) * d;
    inputs.tensors.k[behind..].fill(f32::NAN);
    inputs.tensors.v[behind..].fill(f32::INFINITY);
    run("behind the end", &cached, &inputs);
}

#[test]
fn lists_of_keys() {
    let Some(gpu) = gpu() else { return };
    let Some((edge, _)) = matrices(&gpu) else { return };
    // A query's own list for the heads of its KV head, fewer than a matrix has rows.
    let shapes = both(&gpu, ([2, 1, 1, 2], 0, (1, true, 2)), true).into_iter();
    let shapes = shapes.map(|shape| CooperativeDecodeTile { rows: 4, ..shape });
    for (shape, block_size) in shapes.flat_map(|shape| [1, 3, edge, 2 * edge + 1].map(|size| (shape, size))) {
        let entries = 90u32.div_ceil(block_size);
        let p = Dense {
            heads: 8,
            kv_heads: Some(2),
            queries: 7,
            keys: 90,
            head_dim: 16,
            dtype: DType::F16,
            causal: true,
            lse: true,
            selection: Some(Selection {
                block_size,
                query_block: 1,
                per_kv_head: true,
                capacity: entries,
            }),
            ..Dense::default()
        };
        // Of each query other entries, as many as it has a number.
        let mut words = vec![];
        for list in 0..p.kv_heads() * p.queries {
            let chosen: Vec<u32> = (0..entries).filter(|n| (n + list) % 3 != 0).collect();
            words.push(chosen.len() as u32);
            words.extend(chosen.iter().chain(std::iter::repeat(&0)).take(entries as usize));
        }
        let inputs = Inputs::random(&p, &mut Random::new(5));
        for splits in [1, 3] {
            let plan = p.plan_with(&gpu, &forced(shape, Some(splits))).unwrap();
            inputs.with(|inputs| {
                let inputs = DenseInputs {
                    selection: Some(&words),
                    ..*inputs
                };
                let output = plan.run_blocking(&inputs).unwrap();
                let expected = reference::dense(&p, &inputs, &Default::default()).unwrap();
                let result = compare::dense(&output, &expected, &tolerance(&p));
                println!("blocks of {block_size}, {splits} splits: {result}");
                assert!(result.passed(), "blocks of {block_size}, {splits} splits: {result}");
            });
        }
    }
}

#[test]
fn tiles_that_a_mask_empties_are_left_out() {
    let Some(gpu) = gpu() else { return };
    if matrices(&gpu).is_none() {
        return;
    }
    // Three strips: no power of two.
    for shape in both(&gpu, SHAPES[3], true) {
        leaves_tiles_out(&gpu, shape);
    }
}

fn leaves_tiles_out(gpu: &Gpu, shape: CooperativeDecodeTile) {
    let p = Dense {
        heads: 6,
        kv_heads: Some(2),
        queries: 2,
        keys: 9 * shape.keys() + 5,
        head_dim: 16,
        dtype: DType::F16,
        mask: Some(Broadcast {
            per_batch: false,
            per_head: false,
            per_query: true,
        }),
        lse: true,
        ..Dense::default()
    };
    let mut inputs = Inputs::random(&p, &mut Random::new(8));
    let visible = |j: usize| [1, 4, 9].contains(&(j / shape.keys() as usize)) && !j.is_multiple_of(3);
    inputs.tensors.mask = Some(
        (0..2 * p.keys as usize)
            .map(|n| u8::from(visible(n % p.keys as usize)))
            .collect(),
    );
    for splits in [1, 2] {
        let tuning = Tuning {
            live: Some(true),
            ..forced(shape, Some(splits))
        };
        check("live tiles", gpu, &p, &inputs, &tuning);
    }
}

#[test]
fn references_change_at_every_tile_never_and_in_one_row_only() {
    let Some(gpu) = gpu() else { return };
    if matrices(&gpu).is_none() {
        return;
    }
    let shapes = [
        (SHAPES[0], true),
        (SHAPES[0], false),
        (SHAPES[2], true),
        (SHAPES[3], true),
    ];
    let registers = [SHAPES[0], SHAPES[2], SHAPES[5]].map(|shape| in_registers(&gpu, shape, true));
    let shapes = shapes.map(|(shape, own)| tile(&gpu, shape, own, true));
    for shape in shapes.into_iter().chain(registers.into_iter().flatten()) {
        println!("{shape:?}");
        let p = Dense {
            queries: shape.rows + 3,
            keys: 6 * shape.keys() + 3,
            head_dim: 8,
            value_dim: Some(4 * shape.edge),
            dtype: DType::F16,
            scale: Some(1.0),
            lse: true,
            ..Dense::default()
        };
        // Scores that a row meets, tile after tile: only the first element of q and k counts.
        let run = |name: &str, q: &dyn Fn(usize) -> f32, k: &dyn Fn(usize) -> f32| {
            let mut inputs = Inputs::random(&p, &mut Random::new(11));
            for (i, row) in inputs.tensors.q.chunks_exact_mut(8).enumerate() {
                row.fill(0.0);
                row[0] = q(i);
            }
            for (j, row) in inputs.tensors.k.chunks_exact_mut(8).enumerate() {
                row.fill(0.0);
                row[0] = k(j / shape.keys() as usize);
            }
            for splits in [1, 2] {
                check(name, &gpu, &p, &inputs, &forced(shape, Some(splits)));
            }
        };
        // 12 log2 e is 17: more than what a reference leaves room for.
        run("every tile", &|_| 1.0, &|t| 12.0 * t as f32);
        run("never: falling", &|_| 1.0, &|t| -12.0 * t as f32);
        // The weights of a tile may grow by 2^3 before an invocation's sum of 32 of them is too large.
        run("never: rising by less than the room", &|_| 1.0, &|t| 0.3 * t as f32);
        run("seldom: rising slowly", &|_| 1.0, &|t| 0.75 * t as f32);
        run("one row, every tile", &|i| if i == 5 { 1.0 } else { 0.0 }, &|t| {
            12.0 * t as f32
        });
        run("steps of 8192", &|_| 1.0, &|t| 8192.0 * t as f32 - 24_576.0);
        run("from −60 000 to 60 000", &|_| 1.0, &|t| {
            if t % 2 == 0 { -60_000.0 } else { 60_000.0 }
        });
    }
}

#[test]
fn the_same_bits_twice_and_from_scalars() {
    let Some(gpu) = gpu() else { return };
    if matrices(&gpu).is_none() {
        return;
    }
    for weighting in [Weighting::Softmax, Weighting::Sigmoid { bias: None }] {
        let p = Dense {
            heads: 8,
            kv_heads: Some(2),
            keys: 399,
            head_dim: 24,
            value_dim: Some(32),
            dtype: DType::F16,
            lse: weighting == Weighting::Softmax,
            weighting,
            ..Dense::default()
        };
        let inputs = Inputs::random(&p, &mut Random::new(3));
        let forms: [fn(&Gpu, bool) -> Option<CooperativeDecodeTile>; 2] = [
            |gpu, vectors| Some(tile(gpu, SHAPES[0], true, vectors)),
            |gpu, vectors| in_registers(gpu, SHAPES[0], vectors),
        ];
        for form in forms {
            let outputs: Vec<_> = [true, true, !scalars_work(&gpu)]
                .into_iter()
                .filter_map(|vectors| form(&gpu, vectors))
                .map(|shape| check(&format!("{shape:?}"), &gpu, &p, &inputs, &forced(shape, Some(3))))
                .collect();
            let bits = |o: &DenseOutput<f32>| o.o.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            for other in outputs.iter().skip(1) {
                assert_eq!(bits(&outputs[0]), bits(other));
            }
        }
    }
}

#[test]
fn what_matrices_do_not_serve_is_refused() {
    let Some(gpu) = gpu() else { return };
    let Some((edge, (_, most))) = matrices(&gpu) else {
        return;
    };
    let p = Dense {
        heads: 8,
        kv_heads: Some(1),
        keys: 64,
        dtype: DType::F16,
        ..Dense::default()
    };
    let right = tile(&gpu, SHAPES[0], true, true);
    assert_eq!(
        p.plan_with(&gpu, &forced(right, None)).unwrap().tier(),
        Tier::Cooperative
    );
    let wrong = [
        CooperativeDecodeTile {
            edge: 24 - edge,
            rows: 8,
            strip_keys: 16,
            ..right
        },
        CooperativeDecodeTile {
            threads: right.strips * (most - 1),
            ..right
        },
        CooperativeDecodeTile { row_lanes: 3, ..right },
        CooperativeDecodeTile {
            strip_keys: edge + 1,
            ..right
        },
        CooperativeDecodeTile {
            rows: edge + 1,
            ..right
        },
        CooperativeDecodeTile { strips: 0, ..right },
        CooperativeDecodeTile { ahead: 3, ..right },
        CooperativeDecodeTile { scaled: true, ..right },
    ];
    let registers = in_registers(&gpu, SHAPES[0], true);
    let elements = registers.and_then(|tile| tile.elements);
    let wrong_registers = registers.into_iter().flat_map(|tile| {
        [
            CooperativeDecodeTile {
                strip_keys: 2 * edge,
                ..tile
            },
            CooperativeDecodeTile { padded: true, ..tile },
            // The tensors are f16.
            CooperativeDecodeTile { scaled: true, ..tile },
            CooperativeDecodeTile {
                elements: elements.map(|e| MatrixElements { right: None, ..e }),
                ..tile
            },
            CooperativeDecodeTile {
                elements: elements.map(|e| MatrixElements { sharers: 0, ..e }),
                ..tile
            },
        ]
    });
    let wrong = wrong.into_iter().chain(wrong_registers);
    let f32 = Dense {
        dtype: DType::F32,
        ..p.clone()
    };
    for (p, tile) in wrong.map(|tile| (&p, tile)).chain([(&f32, right)]) {
        let error = p.plan_with(&gpu, &forced(tile, None)).unwrap_err();
        let named = matches!(
            error,
            Error::Invalid {
                field: "tuning.kernel",
                ..
            }
        );
        assert!(named, "{error}");
    }
}
