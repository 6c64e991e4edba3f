//! Split products, whose factors are sums of two f16: as precise as f32 whatever the size of the numbers.

mod common;

use common::matrices::{check, matrices};
use common::{Inputs, Random, gpu};
use wgpu_attention::compare::Tolerance;
use wgpu_attention::dense::cooperative::CooperativeTile;
use wgpu_attention::dense::tile::{KernelChoice, Tuning};
use wgpu_attention::{DType, Dense, Gpu, Tier};

/// Problems of several row tiles with split products, with one stage and with two.
fn split_problems(gpu: &Gpu) -> Vec<(&'static str, Dense, Tuning)> {
    let Some((edge, (least, most))) = matrices(gpu) else {
        return vec![];
    };
    let abilities = gpu.abilities();
    let written_out = !common::matrices::emulated(gpu);
    let row_lanes = 2.min(least);
    let prefill = |stages| {
        KernelChoice::Cooperative(CooperativeTile {
            edge,
            strips: 2,
            row_blocks: 1,
            keys: edge,
            slices: 2,
            stages,
            carried: true,
            threads: 2 * most,
            row_lanes,
            own_barriers: abilities.subgroup_barriers && least == most && edge * row_lanes == most,
            vectors: true,
            written_out,
            alternate: true,
            elements: None,
            scores_anew: false,
        })
    };
    let kernels = [("one stage", prefill(1)), ("two stages", prefill(2))];
    let problem = |(name, kernel): (&'static str, KernelChoice)| {
        let p = Dense {
            queries: 2 * kernel.extent().rows + 3,
            keys: 300,
            head_dim: 40,
            lse: true,
            ..Dense::default()
        };
        (name, p, common::forced(kernel))
    };
    kernels.map(problem).to_vec()
}

/// RMS errors of split products and of the portable kernel, relative to the output's RMS, of which `undo` is told the index
/// and the value.
fn errors(gpu: &Gpu, p: &Dense, inputs: &Inputs, tuning: &Tuning, undo: impl Fn(usize, f64) -> f64) -> [f64; 2] {
    let truth = common::truth(p, inputs, &Default::default());
    let portable = gpu.with_tier(Tier::Portable).unwrap();
    let runs = [
        common::run(gpu, p, inputs, tuning).unwrap(),
        common::run(&portable, p, inputs, &Tuning::default()).unwrap(),
    ];
    runs.map(|output| {
        let pairs = output.o.iter().zip(&truth.o).enumerate();
        let (error, size) = pairs.fold((0.0, 0.0), |(error, size), (n, (actual, expected))| {
            let (actual, expected) = (undo(n, f64::from(*actual)), undo(n, *expected));
            (error + (actual - expected).powi(2), size + expected.powi(2))
        });
        (error / size).sqrt()
    })
}

/// Asserts that split products are about as good as the portable kernel.
fn assert_as_precise(name: &str, [split, portable]: [f64; 2]) {
    println!("{name}: rms {split:.1e}, portable {portable:.1e}");
    assert!(
        split <= 4.0 * portable + 1e-7,
        "{name}: {split:e}, portable {portable:e}"
    );
    assert!(split <= Tolerance::for_dtype(DType::F32).rms, "{name}: {split:e}");
}

#[test]
fn split_products_of_any_size_are_as_precise_as_f32() {
    let Some(gpu) = gpu() else { return };
    for (kind, p, tuning) in split_problems(&gpu) {
        let plain = Inputs::random(&p, &mut Random::new(21));
        for [q, k, v] in [
            [1.0, 1.0, 1.0],
            [1e-6, 1e6, 1.0],
            [1e6, 1e-6, 1e6],
            [1e-6, 1e-6, 1e-6],
            [1e6, 1e6, 1e6],
            [1e-20, 1e20, 1e25],
            [1e20, 1e-20, 1e-30],
        ] {
            let mut inputs = plain.clone();
            let tensors = &mut inputs.tensors;
            for (values, factor) in [(&mut tensors.q, q), (&mut tensors.k, k), (&mut tensors.v, v)] {
                values.iter_mut().for_each(|x| *x *= factor);
            }
            // Scores stay what they were.
            let p = Dense {
                scale: Some((1.0 / (f64::from(q) * f64::from(k)) / 6.0) as f32),
                ..p.clone()
            };
            let name = format!("{kind}, q {q:e}, k {k:e}, v {v:e}");
            assert_as_precise(&name, errors(&gpu, &p, &inputs, &tuning, |_, x| x / f64::from(v)));
            check(&name, &gpu, &p, &inputs, &tuning);
        }
    }
}

#[test]
fn small_numbers_beside_large_ones_stay_precise() {
    let Some(gpu) = gpu() else { return };
    for (kind, p, tuning) in split_problems(&gpu) {
        small_beside_large(&gpu, kind, &p, &tuning);
    }
}

fn small_beside_large(gpu: &Gpu, kind: &str, p: &Dense, tuning: &Tuning) {
    const LARGE: f32 = (1 << 22) as f32;
    let plain = Inputs::random(p, &mut Random::new(22));
    let d = p.head_dim as usize;

    // A channel of k that is large in all keys, and as small in q; one of v that is large.
    let mut inputs = plain.clone();
    for row in inputs.tensors.q.chunks_exact_mut(d) {
        row[3] /= LARGE;
    }
    for row in inputs.tensors.k.chunks_exact_mut(d) {
        row[3] *= LARGE;
    }
    for row in inputs.tensors.v.chunks_exact_mut(d) {
        row[5] *= LARGE;
    }
    let undo = |n: usize, x: f64| if n % d == 5 { x / f64::from(LARGE) } else { x };
    assert_as_precise(
        &format!("{kind}, large channels"),
        errors(gpu, p, &inputs, tuning, undo),
    );

    // Rows of q and k and v that are large. The keys among them get no weight, or all of it.
    let mut inputs = plain.clone();
    for row in inputs.tensors.q.chunks_exact_mut(d).step_by(7) {
        row.iter_mut().for_each(|x| *x *= LARGE);
    }
    for (j, row) in inputs.tensors.v.chunks_exact_mut(d).enumerate() {
        if j % 5 == 0 {
            row.iter_mut().for_each(|x| *x *= LARGE);
        }
    }
    let masked = Dense {
        mask: Some(wgpu_attention::Broadcast {
            per_batch: false,
            per_head: false,
            per_query: false,
        }),
        ..p.clone()
    };
    inputs.tensors.mask = Some((0..p.keys).map(|j| u8::from(j % 5 != 0)).collect());
    assert_as_precise(
        &format!("{kind}, large rows"),
        errors(gpu, &masked, &inputs, tuning, |_, x| x),
    );

    // Values that grow by 2^20 from one block to the next: what is summed up already changes its unit.
    let mut inputs = plain;
    for (j, row) in inputs.tensors.v.chunks_exact_mut(d).enumerate() {
        row.iter_mut().for_each(|x| *x *= ((j / 64) as f32 * 20.0).exp2());
    }
    assert_as_precise(
        &format!("{kind}, growing values"),
        errors(gpu, p, &inputs, tuning, |_, x| x),
    );
}

#[test]
fn errors_of_split_products_do_not_grow_with_the_keys() {
    let Some(gpu) = gpu() else { return };
    let problems = split_problems(&gpu).into_iter();
    for (kind, keys, p, tuning) in problems.flat_map(|(kind, p, t)| [100, 1000, 5000].map(|n| (kind, n, p.clone(), t)))
    {
        let p = Dense {
            queries: 20,
            keys,
            head_dim: 16,
            ..p.clone()
        };
        let inputs = Inputs::random(&p, &mut Random::new(23));
        assert_as_precise(
            &format!("{kind}, {keys} keys"),
            errors(&gpu, &p, &inputs, &tuning, |_, x| x),
        );
    }
}

#[test]
fn what_is_not_finite_stays_where_it_is_seen() {
    let Some(gpu) = gpu() else { return };
    for (kind, p, tuning) in split_problems(&gpu) {
        println!("{kind}");
        let tile = tuning.kernel.unwrap().extent();
        let p = Dense {
            kv_len: true,
            causal: true,
            q_offset: Some(100),
            ..p
        };
        let d = p.head_dim as usize;
        let mut inputs = Inputs::random(&p, &mut Random::new(24));
        // Of 300 keys rows see those up to their own position, from 100 on.
        inputs.tensors.kv_len = Some(vec![250]);
        let clean = common::run(&gpu, &p, &inputs, &tuning).unwrap();
        let bits = |o: &[f32]| o.iter().map(|x| x.to_bits()).collect::<Vec<_>>();

        // Behind the cache's end: never read.
        let mut behind = inputs.clone();
        behind.tensors.k[250 * d..].fill(f32::NAN);
        behind.tensors.v[250 * d..].fill(f32::INFINITY);
        let output = common::run(&gpu, &p, &behind, &tuning).unwrap();
        assert_eq!(bits(&output.o), bits(&clean.o));

        // In one row of q: that row's.
        for wrong in [f32::NAN, f32::INFINITY] {
            let mut one = inputs.clone();
            one.tensors.q[5 * d + 1] = wrong;
            let output = common::run(&gpu, &p, &one, &tuning).unwrap();
            for (i, (row, of_clean)) in output.o.chunks(d).zip(clean.o.chunks(d)).enumerate() {
                match i {
                    5 => assert!(row.iter().all(|x| x.is_nan()), "{wrong}: {row:?}"),
                    _ => assert_eq!(bits(row), bits(of_clean), "{wrong}: row {i}"),
                }
            }
        }

        // In a value: of all rows that see it; those of tiles of rows that do not visit its tile have theirs.
        for wrong in [f32::NAN, f32::INFINITY] {
            let mut value = inputs.clone();
            let key = 100 + tile.rows as usize + 2 * tile.keys as usize;
            value.tensors.v[key * d + 1] = wrong;
            let output = common::run(&gpu, &p, &value, &tuning).unwrap();
            for (i, (row, of_clean)) in output.o.chunks(d).zip(clean.o.chunks(d)).enumerate() {
                if i < tile.rows as usize {
                    assert_eq!(bits(row), bits(of_clean), "{wrong}: row {i}");
                }
                if 100 + i >= key {
                    assert!(!row[1].is_finite(), "{wrong}: row {i}: {}", row[1]);
                }
            }
        }
    }
}
