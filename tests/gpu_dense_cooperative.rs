//! Dense prefill on cooperative matrices: golden cases, drawn problems, references that change, what is refused.

mod common;

use common::matrices::{check, drawn, matrices, of_rounded, scalars_work, share, tolerance, without_elements};
use common::{Inputs, Random, draw, golden, gpu};
use wgpu_attention::case::{Case, Op};
use wgpu_attention::compare;
use wgpu_attention::dense::cooperative::CooperativeTile;
use wgpu_attention::dense::reference;
use wgpu_attention::dense::tile::{KernelChoice, Tuning};
use wgpu_attention::{DType, Dense, DenseInputs, DenseOutput, Error, Gpu, Selection, Tier, Weighting};

/// A small tile: strips, blocks of rows, blocks of keys, lanes of a row; stages; carried. With a strip's own barriers where
/// the device can.
fn tile(gpu: &Gpu, shape: Shape, vectors: bool) -> CooperativeTile {
    let ([strips, row_blocks, key_blocks, row_lanes], stages, carried) = shape;
    let abilities = gpu.abilities();
    let (edge, (least, most)) = matrices(gpu).expect("asked before");
    let row_lanes = row_lanes.min(least);
    let strip_lanes = row_blocks * edge * row_lanes;
    CooperativeTile {
        edge,
        strips,
        row_blocks,
        keys: key_blocks * edge,
        slices: 1,
        stages,
        carried,
        threads: strips * most,
        row_lanes,
        own_barriers: abilities.subgroup_barriers && least == most && strip_lanes == most,
        vectors,
        // As the planner has it.
        written_out: !common::matrices::emulated(gpu),
        alternate: true,
        elements: None,
        scores_anew: false,
    }
}

/// The same for split products, where two stages are carried.
fn split(tile: CooperativeTile) -> CooperativeTile {
    CooperativeTile {
        slices: 2,
        carried: tile.carried || tile.stages == 2,
        ..tile
    }
}

/// A tile, and the same with scores and weights in registers where the device can: scores kept for a rescale, and made anew.
fn all_ways(gpu: &Gpu, tile: CooperativeTile) -> Vec<CooperativeTile> {
    let kept = tile.in_registers(&gpu.abilities());
    let anew = kept.map(made_anew);
    std::iter::once(tile).chain(kept).chain(anew).collect()
}

fn made_anew(tile: CooperativeTile) -> CooperativeTile {
    CooperativeTile {
        scores_anew: true,
        ..tile
    }
}

type Shape = ([u32; 4], u32, bool);

/// On subgroups of 32 with matrices of 16 the second, the fourth and the last have barriers of a strip's own; the last is
/// like the planner's, but for its number of strips.
const SHAPES: [Shape; 7] = [
    ([2, 1, 1, 1], 2, true),
    ([1, 2, 2, 1], 2, false),
    ([1, 1, 2, 4], 1, false),
    ([3, 1, 1, 2], 1, true),
    ([2, 2, 2, 2], 2, true),
    ([2, 1, 2, 1], 1, true),
    ([2, 2, 1, 1], 2, true),
];

#[test]
fn golden_cases_with_factors_rounded_to_f16() {
    golden_cases(true);
}

#[test]
fn golden_cases_by_split_products() {
    golden_cases(false);
}

fn golden_cases(reduced_precision: bool) {
    let Some(gpu) = gpu() else { return };
    let Some(_) = matrices(&gpu) else { return };
    if let Some(without) = without_elements(&gpu) {
        golden_cases_on(&without, reduced_precision);
    }
    golden_cases_on(&gpu, reduced_precision);
}

fn golden_cases_on(gpu: &Gpu, reduced_precision: bool) {
    let gpu = gpu.with_tier(Tier::Cooperative).unwrap();
    let (mut ran, mut decode) = (0, 0);
    for path in golden("dense") {
        let case = Case::load(&path).unwrap();
        let Op::Dense(attention) = &case.op else {
            panic!("{} is not dense", path.display())
        };
        let p = Dense {
            reduced_precision,
            ..attention.problem.clone()
        };
        // Which has nothing to do with f16 tensors.
        if !reduced_precision && p.dtype == DType::F16 {
            continue;
        }
        match p.plan(&gpu) {
            Ok(plan) => {
                assert_eq!(plan.tier(), Tier::Cooperative, "{}", case.name);
                let output = plan.run_blocking(&attention.inputs()).unwrap();
                // Scores of hundreds move by tenths when q and k are rounded.
                let result = match case.name.as_str() {
                    "softmax_large_logits" | "softmax_softcap" if reduced_precision => {
                        compare::dense(&output, &of_rounded(&p, &attention.inputs()), &tolerance(&p))
                    }
                    _ => compare::dense(&output, &attention.expected(), &tolerance(&p)),
                };
                println!("{:36} {result}", case.name);
                assert!(result.passed(), "{}: {result}", case.name);
                ran += 1;
                decode += u32::from(p.queries == 1);
            }
            Err(error @ Error::Unsupported { .. }) => {
                println!("{:36} {error}", case.name);
                // Neither decode nor large heads have split products; decode has bf16 where right factors have elements.
                let decode = p.dtype == DType::BF16 && gpu.abilities().elements.is_some_and(|e| e.right.is_some());
                let served = (decode || p.queries > 16) && p.head_dim.max(p.value_dim()) <= 128;
                assert!(!reduced_precision && !served, "{}: {error}", case.name);
            }
            Err(error) => panic!("{}: {error}", case.name),
        }
    }
    println!("{ran} ran, {decode} of them of one query");
    let least = if reduced_precision { (30, 2) } else { (20, 0) };
    assert!(ran >= least.0 && decode >= least.1, "{ran}, {decode}");
}

/// A drawn problem that matrices serve.
fn options(r: &mut Random) -> Dense {
    let p = draw::options(r);
    let dim = |r: &mut Random| r.pick(&[4, 8, 16, 20, 24, 33, 48]);
    let head_dim = dim(r);
    let value_dim = p.value_dim.map(|_| dim(r));
    Dense {
        head_dim,
        value_dim,
        reduced_precision: p.dtype != DType::F16 && r.one_in(2),
        ..p
    }
}

#[test]
fn random_problems() {
    share(|gpu, name, r| {
        let options = options(r);
        let shape = tile(gpu, r.pick(&SHAPES), r.one_in(2) || !scalars_work(gpu));
        let shape = match options.dtype {
            DType::F16 if r.one_in(2) => shape,
            _ if options.reduced_precision => shape,
            _ => split(shape),
        };
        let in_registers = shape.in_registers(&gpu.abilities());
        let shape = match in_registers.filter(|_| shape.slices == 1 && r.one_in(2)) {
            Some(kept) if r.one_in(2) => made_anew(kept),
            Some(kept) => kept,
            None => shape,
        };
        let tuning = common::forced(KernelChoice::Cooperative(shape));
        drawn(gpu, name, &options, (shape.rows(), shape.keys), &tuning, r)
    });
}

#[test]
fn lists_of_keys() {
    let Some(gpu) = gpu() else { return };
    let Some((edge, _)) = matrices(&gpu) else { return };
    let shape = tile(&gpu, ([2, 1, 2, 2], 2, true), true);
    let split = split(shape);
    let of_f16 = all_ways(&gpu, shape).into_iter().flat_map(|shape| {
        let sizes = [1, 3, edge, 2 * edge + 1];
        sizes.map(|size| (size, DType::F16, shape))
    });
    let splits = [(3, DType::F32, split), (edge, DType::BF16, split)];
    for (block_size, dtype, shape) in of_f16.chain(splits) {
        let entries = 70u32.div_ceil(block_size);
        let selection = Selection {
            block_size,
            query_block: 2 * edge,
            per_kv_head: true,
            capacity: entries.div_ceil(2),
        };
        let p = Dense {
            heads: 4,
            kv_heads: Some(2),
            queries: 45,
            keys: 70,
            head_dim: 16,
            dtype,
            causal: true,
            lse: true,
            selection: Some(selection),
            ..Dense::default()
        };
        // Every other entry, with the last one.
        let list: Vec<u32> = (0..entries).filter(|n| (entries - 1 - n) % 2 == 0).collect();
        let lists = p.kv_heads() * p.queries.div_ceil(selection.query_block);
        let one: Vec<u32> = std::iter::once(list.len() as u32)
            .chain(list.iter().copied())
            .chain(std::iter::repeat(0))
            .take(selection.capacity as usize + 1)
            .collect();
        let words = one.repeat(lists as usize);
        let inputs = Inputs::random(&p, &mut Random::new(5));
        let plan = p
            .plan_with(&gpu, &common::forced(KernelChoice::Cooperative(shape)))
            .unwrap();
        inputs.with(|inputs| {
            let inputs = DenseInputs {
                selection: Some(&words),
                ..*inputs
            };
            let output = plan.run_blocking(&inputs).unwrap();
            let expected = reference::dense(&p, &inputs, &Default::default()).unwrap();
            let result = compare::dense(&output, &expected, &tolerance(&p));
            println!("blocks of {block_size}: {result}");
            assert!(result.passed(), "blocks of {block_size}: {result}");
        });
    }
}

/// Scores that a row meets, tile after tile: q·k of row i and key j, of D = 8, where only the first element counts.
fn steps(shape: CooperativeTile, q: impl Fn(usize) -> f32, k: impl Fn(usize) -> f32) -> (Dense, Inputs, Tuning) {
    let p = Dense {
        queries: shape.rows() + 5,
        keys: 6 * shape.keys + 3,
        head_dim: 8,
        value_dim: Some(4 * shape.edge),
        dtype: DType::F16,
        scale: Some(1.0),
        lse: true,
        ..Dense::default()
    };
    let mut inputs = Inputs::random(&p, &mut Random::new(11));
    for (i, row) in inputs.tensors.q.chunks_exact_mut(8).enumerate() {
        row.fill(0.0);
        row[0] = q(i);
    }
    for (j, row) in inputs.tensors.k.chunks_exact_mut(8).enumerate() {
        row.fill(0.0);
        row[0] = k(j / shape.keys as usize);
    }
    (p, inputs, common::forced(KernelChoice::Cooperative(shape)))
}

#[test]
fn references_change_at_every_tile_never_and_in_one_row_only() {
    let Some(gpu) = gpu() else { return };
    if matrices(&gpu).is_none() {
        return;
    }
    // With a strip's own barriers and without, where the device can; with the strip's two blocks of rows.
    for shape in [SHAPES[0], SHAPES[1], SHAPES[3], SHAPES[4], SHAPES[6]] {
        for tile in all_ways(&gpu, tile(&gpu, shape, true)) {
            references_change(&gpu, tile);
        }
    }
    for shape in [SHAPES[3], SHAPES[4]] {
        references_change(&gpu, split(tile(&gpu, shape, true)));
    }
}

fn references_change(gpu: &Gpu, shape: CooperativeTile) {
    println!("{shape:?}");
    let run = |name: &str, (p, inputs, tuning): (Dense, Inputs, Tuning)| check(name, gpu, &p, &inputs, &tuning);
    // 12 log2 e is 17: more than what a reference leaves room for.
    run("every tile", steps(shape, |_| 1.0, |t| 12.0 * t as f32));
    run("never: all alike", steps(shape, |_| 1.0, |_| 3.0));
    run("never: falling", steps(shape, |_| 1.0, |t| -12.0 * t as f32));
    // The weights of a tile may grow by 2^3 before an invocation's sum of 32 of them is too large.
    run(
        "never: rising by less than the room",
        steps(shape, |_| 1.0, |t| 0.3 * t as f32),
    );
    run("seldom: rising slowly", steps(shape, |_| 1.0, |t| 0.75 * t as f32));
    run(
        "one row, every tile",
        steps(shape, |i| if i == 7 { 1.0 } else { 0.0 }, |t| 12.0 * t as f32),
    );
    run(
        "alternate rows, every other tile",
        steps(
            shape,
            |i| if i % 2 == 0 { 1.0 } else { -1.0 },
            |t| 14.0 * (t / 2) as f32,
        ),
    );
    // exp2 of the difference of two of these is beyond f32 in either direction.
    run("steps of 8192", steps(shape, |_| 1.0, |t| 8192.0 * t as f32 - 24_576.0));
    run(
        "from −60 000 to 60 000",
        steps(shape, |_| 1.0, |t| if t % 2 == 0 { -60_000.0 } else { 60_000.0 }),
    );
}

#[test]
fn rows_that_see_nothing_yet_beside_rows_that_do() {
    let Some(gpu) = gpu() else { return };
    if matrices(&gpu).is_none() {
        return;
    }
    let shapes = [SHAPES[1], SHAPES[3]].map(|shape| all_ways(&gpu, tile(&gpu, shape, true)));
    for shape in shapes.concat() {
        let p = Dense {
            queries: shape.rows() + 5,
            keys: shape.rows() + 5,
            head_dim: 8,
            dtype: DType::F16,
            causal: true,
            window_left: Some(3),
            sinks: true,
            lse: true,
            ..Dense::default()
        };
        // A sink that weighs nothing leaves a row's reference at −∞ until it sees a key.
        for sink in [f32::NEG_INFINITY, -3e38, 0.5] {
            let mut inputs = Inputs::random(&p, &mut Random::new(12));
            inputs.tensors.sinks = Some(vec![sink]);
            let tuning = common::forced(KernelChoice::Cooperative(shape));
            check(&format!("sink of {sink}"), &gpu, &p, &inputs, &tuning);
        }
    }
}

#[test]
fn sigmoid_weights_of_a_long_sequence_do_not_vanish() {
    let Some(gpu) = gpu() else { return };
    if matrices(&gpu).is_none() {
        return;
    }
    // All weights near e^−11, which alone would be below f16's normal numbers.
    let p = Dense {
        queries: 40,
        keys: 700,
        head_dim: 16,
        dtype: DType::F16,
        output_dtype: Some(DType::F32),
        weighting: Weighting::Sigmoid { bias: Some(-11.0) },
        ..Dense::default()
    };
    let inputs = Inputs::random(&p, &mut Random::new(2));
    for shape in all_ways(&gpu, tile(&gpu, ([2, 1, 2, 1], 2, false), true)) {
        let tuning = common::forced(KernelChoice::Cooperative(shape));
        check("sigmoid", &gpu, &p, &inputs, &tuning);
    }
}

#[test]
fn the_same_bits_twice_and_from_scalars() {
    let Some(gpu) = gpu() else { return };
    if matrices(&gpu).is_none() {
        return;
    }
    let p = Dense {
        heads: 3,
        queries: 70,
        keys: 99,
        head_dim: 24,
        value_dim: Some(32),
        dtype: DType::F16,
        causal: true,
        lse: true,
        ..Dense::default()
    };
    let inputs = Inputs::random(&p, &mut Random::new(3));
    for shape in all_ways(&gpu, tile(&gpu, ([2, 1, 2, 1], 2, true), true)) {
        let outputs = [true, true, !scalars_work(&gpu)].map(|vectors| {
            let tuning = common::forced(KernelChoice::Cooperative(CooperativeTile { vectors, ..shape }));
            check(&format!("{shape:?}"), &gpu, &p, &inputs, &tuning)
        });
        let bits = |o: &DenseOutput<f32>| o.o.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&outputs[0]), bits(&outputs[1]));
        assert_eq!(bits(&outputs[0]), bits(&outputs[2]));
    }
}

#[test]
fn large_heads_on_the_planners_tile() {
    let Some(gpu) = gpu() else { return };
    if matrices(&gpu).is_none() {
        return;
    }
    let gpu = gpu.with_tier(Tier::Cooperative).unwrap();
    for (head_dim, value_dim) in [(256, 96), (40, 256)] {
        let p = Dense {
            queries: 33,
            keys: 40,
            head_dim,
            value_dim: Some(value_dim),
            dtype: DType::F16,
            ..Dense::default()
        };
        let inputs = Inputs::random(&p, &mut Random::new(9));
        check(
            &format!("{head_dim}x{value_dim}"),
            &gpu,
            &p,
            &inputs,
            &Tuning::default(),
        );
    }
}

#[test]
fn what_matrices_do_not_serve_is_refused() {
    let Some(gpu) = gpu() else { return };
    let Some((edge, (_, most))) = matrices(&gpu) else {
        return;
    };
    let forced = gpu.with_tier(Tier::Cooperative).unwrap();
    let p = Dense {
        queries: 64,
        keys: 64,
        dtype: DType::F16,
        ..Dense::default()
    };
    assert_eq!(p.plan(&forced).unwrap().tier(), Tier::Cooperative);
    for wrong in [
        Dense {
            queries: 1,
            dtype: DType::F32,
            ..p.clone()
        },
        // A selection whose lists no tile of rows shares.
        Dense {
            selection: Some(Selection {
                block_size: 1,
                query_block: 1,
                per_kv_head: true,
                capacity: 4,
            }),
            dtype: DType::F32,
            ..p.clone()
        },
        Dense {
            head_dim: 129,
            dtype: DType::F32,
            ..p.clone()
        },
    ] {
        let error = wrong.plan(&forced).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    }
    let right = tile(&gpu, ([2, 1, 1, 1], 2, true), true);
    for wrong in [
        CooperativeTile {
            edge: 24 - edge,
            keys: 16,
            ..right
        },
        CooperativeTile {
            threads: 2 * most - 1,
            ..right
        },
        CooperativeTile { row_lanes: 3, ..right },
        CooperativeTile {
            keys: edge + 1,
            ..right
        },
        CooperativeTile { stages: 3, ..right },
        CooperativeTile { slices: 3, ..right },
        CooperativeTile {
            slices: 2,
            carried: false,
            ..right
        },
        CooperativeTile { strips: 0, ..right },
    ] {
        let error = p
            .plan_with(&gpu, &common::forced(KernelChoice::Cooperative(wrong)))
            .unwrap_err();
        assert!(
            matches!(
                error,
                Error::Invalid {
                    field: "tuning.kernel",
                    ..
                }
            ),
            "{error}"
        );
    }
    let kernel = KernelChoice::Cooperative(right);
    let f32 = Dense { dtype: DType::F32, ..p };
    assert!(f32.plan_with(&gpu, &common::forced(kernel)).is_err());
}
