//! Linear attention on cooperative matrices against the reference: lengths around a chunk's, head sizes, feature maps,
//! normalisers, documents, states handed on over long sequences, and numbers that f16 has no room for. On a device without
//! matrices these tests have nothing to test, and say so.

mod common;

use common::Random;
use common::linear::{self, Strength, check, check_on, feature_maps, forced, multiply};
use common::matrices::emulated;
use wgpu_attention::compare::{self, Tolerance};
use wgpu_attention::dense::cooperative::CooperativeTile as SegmentTile;
use wgpu_attention::linear::cooperative::CooperativeTile;
use wgpu_attention::linear::tile::{Form, LinearTuning};
use wgpu_attention::{DType, Decay, FeatureMap, Gpu, Linear, LinearInputs, LinearOutput, Tier};

/// The device, where it has matrices.
fn device() -> Option<Gpu> {
    let gpu = common::gpu()?;
    common::matrices::matrices(&gpu)?;
    Some(gpu)
}

/// The edge of matrices, and the least and the most invocations of a subgroup.
fn sizes(gpu: &Gpu) -> (u32, u32, u32) {
    let abilities = gpu.abilities();
    let (least, most) = abilities.subgroups.expect("matrices come with subgroups");
    (abilities.matrices.unwrap(), least, most)
}

/// Strips, shares, blocks of tokens and of columns: small, and such that each kind of part has more than one.
fn tile([strips, shares, row_blocks, value_blocks]: [u32; 4], gpu: &Gpu) -> CooperativeTile {
    let (edge, least, most) = sizes(gpu);
    CooperativeTile {
        edge,
        strips,
        shares,
        row_blocks,
        value_blocks,
        staged: 2,
        threads: strips * shares * most,
        row_lanes: least.min(2),
        vectors: true,
        written_out: !emulated(gpu),
    }
}

const SMALL: [u32; 4] = [1, 1, 1, 1];
const STRIPS: [u32; 4] = [2, 1, 1, 2];
const SHARES: [u32; 4] = [1, 3, 2, 1];
const BOTH: [u32; 4] = [2, 2, 1, 1];

/// A tile of outputs of segments: strips, blocks of rows, blocks of keys and stages, a strip's own barriers where the device can.
fn output_tile(gpu: &Gpu, [strips, row_blocks, key_blocks, stages]: [u32; 4], own: bool) -> SegmentTile {
    let (edge, least, most) = sizes(gpu);
    let row_lanes = match own {
        true => (most / (row_blocks * edge)).max(1),
        false => least.min(2),
    };
    let tile = SegmentTile {
        edge,
        strips,
        row_blocks,
        keys: key_blocks * edge,
        slices: 1,
        stages,
        carried: true,
        threads: strips * most,
        row_lanes,
        own_barriers: false,
        vectors: true,
        written_out: !emulated(gpu),
        alternate: false,
        elements: None,
        scores_anew: false,
    };
    let own_barriers =
        own && gpu.abilities().subgroup_barriers && least == most && row_lanes * row_blocks * edge == most;
    SegmentTile { own_barriers, ..tile }
}

/// The forms on matrices that can serve a problem.
fn forms(gpu: &Gpu, p: &Linear, tile: CooperativeTile) -> Vec<Form> {
    let apart = p.normalize.is_some() && p.in_place && p.value_dim() > tile.columns();
    let serial = p.causal && !apart;
    // As many strips, and another shape of all else for another number of them.
    let shape = match tile.strips {
        1 => [1, 2, 1, 2],
        _ => [2, 1, 2, 1],
    };
    let output = output_tile(gpu, shape, tile.strips == 1);
    let split = |output: SegmentTile| Form::CooperativeSplit {
        state: tile,
        output,
        segment: 2 * output.rows(),
    };
    // And with scores and weights in registers, where the device can; several strips wait for all of the workgroup.
    let in_registers = output.in_registers(&gpu.abilities()).map(|t| SegmentTile {
        own_barriers: t.own_barriers && tile.strips == 1,
        ..t
    });
    let serial = serial.then_some(Form::Cooperative(tile));
    let splits = std::iter::once(output).chain(in_registers).map(split);
    serial.into_iter().chain(splits).collect()
}

/// Ragged sizes, grouped heads, both states.
fn plain(decay: Decay) -> Linear {
    Linear {
        batch: 2,
        heads: 4,
        kv_heads: Some(2),
        tokens: 75,
        head_dim: 20,
        value_dim: Some(36),
        dtype: DType::F16,
        scale: Some(0.05),
        decay,
        initial_state: true,
        final_state: true,
        total_decay: decay != Decay::None,
        ..Linear::default()
    }
}

#[test]
fn lengths_around_a_chunk() {
    let Some(gpu) = device() else { return };
    for (shape, decay) in [(SMALL, Decay::Head), (STRIPS, Decay::None), (SHARES, Decay::Head)] {
        let tile = tile(shape, &gpu);
        let c = tile.rows();
        for tokens in [1, c - 1, c, c + 1, 2 * c - 1, 2 * c, 2 * c + 1, 4 * c, 5 * c + 3] {
            let p = Linear { tokens, ..plain(decay) };
            for form in forms(&gpu, &p, tile) {
                check(&format!("{decay:?}, {tokens} tokens"), &gpu, &p, &forced(form));
            }
        }
    }
}

#[test]
fn heads_that_share_keys_and_values() {
    let Some(gpu) = device() else { return };
    for (heads, kv_heads) in [(1, None), (3, Some(1)), (6, Some(2))] {
        let p = Linear {
            heads,
            kv_heads,
            ..plain(Decay::Head)
        };
        for form in forms(&gpu, &p, tile(BOTH, &gpu)) {
            check(&format!("{heads} heads, {kv_heads:?}"), &gpu, &p, &forced(form));
        }
    }
}

#[test]
fn head_sizes() {
    let Some(gpu) = device() else { return };
    // The widest head leaves 48 KiB no room for a larger tile with matrices of 16.
    let sizes = [
        (1, 1, STRIPS),
        (3, 5, BOTH),
        (20, 40, SHARES),
        (65, 3, STRIPS),
        (256, 5, SMALL),
        (4, 130, SHARES),
    ];
    for (n, (head_dim, value_dim, shape)) in sizes.into_iter().enumerate() {
        let p = Linear {
            batch: 1,
            heads: 1,
            kv_heads: None,
            tokens: 35,
            head_dim,
            value_dim: Some(value_dim),
            scale: Some(1.0 / head_dim as f32),
            ..plain([Decay::None, Decay::Head][n % 2])
        };
        let name = format!("D = {head_dim}, Dv = {value_dim}");
        for form in forms(&gpu, &p, tile(shape, &gpu)) {
            check(&name, &gpu, &p, &forced(form));
        }
    }
}

#[test]
fn feature_maps_and_normalizers_in_every_storage_type() {
    let Some(gpu) = device() else { return };
    for (n, feature_map) in feature_maps().into_iter().enumerate() {
        for normalize in [None, Some(0.01)] {
            let p = Linear {
                dtype: [DType::F16, DType::F32, DType::BF16][n % 3],
                output_dtype: Some(DType::F32),
                reduced_precision: true,
                head_dim: if n % 2 == 0 { 10 } else { 12 },
                feature_map: feature_map.clone(),
                normalize,
                ..plain([Decay::None, Decay::Head][n % 2])
            };
            let shape = [STRIPS, BOTH][n % 2];
            for form in forms(&gpu, &p, tile(shape, &gpu)) {
                check(&format!("{feature_map:?} {normalize:?}"), &gpu, &p, &forced(form));
            }
        }
    }
}

#[test]
fn memory_in_scalars_and_loops_written_out() {
    let Some(gpu) = device() else { return };
    for (vectors, written_out) in [(false, !emulated(&gpu)), (true, true)] {
        let tile = CooperativeTile {
            vectors,
            written_out,
            staged: 1,
            row_lanes: 1,
            ..tile(SMALL, &gpu)
        };
        let p = Linear {
            unaligned: vectors,
            ..plain(Decay::Head)
        };
        let name = format!("vectors {vectors}, written out {written_out}");
        check(&name, &gpu, &p, &forced(Form::Cooperative(tile)));
    }
}

#[test]
fn states_read_written_and_in_place() {
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
            normalize: in_place.then_some(1e-3),
            ..plain(Decay::Head)
        };
        for form in forms(&gpu, &p, tile(STRIPS, &gpu)) {
            let name = format!("{initial_state} {final_state} {in_place}");
            check(&name, &gpu, &p, &forced(form));
        }
    }
}

#[test]
fn every_token_sees_all_of_them() {
    let Some(gpu) = device() else { return };
    for (documents, normalize) in [(None, Some(1e-6)), (Some(3), None)] {
        let p = Linear {
            batch: if documents.is_some() { 1 } else { 2 },
            causal: false,
            documents,
            normalize,
            feature_map: FeatureMap::Elu1,
            ..plain(Decay::None)
        };
        for form in forms(&gpu, &p, tile(BOTH, &gpu)) {
            check(&format!("{documents:?}"), &gpu, &p, &forced(form));
        }
    }
}

#[test]
fn documents_each_with_a_state_of_its_own() {
    let Some(gpu) = device() else { return };
    let p = Linear {
        batch: 1,
        tokens: 41,
        documents: Some(4),
        ..plain(Decay::Head)
    };
    let mut inputs = linear::random(&p, Strength::Medium, &mut Random::new(3));
    for boundaries in [
        [0, 10, 20, 30, 41],
        [3, 4, 4, 5, 6],
        [7, 7, 7, 7, 7],
        [9, 9, 40, 40, 41],
    ] {
        inputs.cu_seqlens = Some(boundaries.to_vec());
        for form in forms(&gpu, &p, tile(STRIPS, &gpu)) {
            check_on(&format!("{boundaries:?}"), &gpu, &p, &inputs.inputs(), &forced(form));
        }
    }
}

/// Scores and states far beyond f16 and far below it.
#[test]
fn what_f16_has_no_room_for() {
    let Some(gpu) = device() else { return };
    for (of_tokens, of_values, of_state) in [
        (600.0, 300.0, 1e9),
        (600.0, 1.0, 0.0),
        (2e-3, 2e-3, 0.0),
        (1.0, 1.0, 1e12),
        (2e-3, 1.0, 1e24),
        (1e-3, 1e3, 1e-12),
    ] {
        for decay in [Decay::None, Decay::Head] {
            let p = Linear {
                output_dtype: Some(DType::F32),
                ..plain(decay)
            };
            let mut inputs = linear::random(&p, Strength::Weak, &mut Random::new(5));
            multiply(&mut inputs.q, of_tokens, DType::F16);
            multiply(&mut inputs.k, of_tokens, DType::F16);
            multiply(&mut inputs.v, of_values, DType::F16);
            multiply(inputs.initial_state.as_mut().unwrap(), of_state, DType::F32);
            for form in forms(&gpu, &p, tile(STRIPS, &gpu)) {
                let name = format!("{of_tokens} {of_values} {of_state}, {decay:?}");
                check_on(&name, &gpu, &p, &inputs.inputs(), &forced(form));
            }
        }
    }
}

/// Outputs that fit f16 of scores that do not.
#[test]
fn large_scores_and_small_values() {
    let Some(gpu) = device() else { return };
    let p = Linear {
        initial_state: false,
        ..plain(Decay::Head)
    };
    let mut inputs = linear::random(&p, Strength::Weak, &mut Random::new(6));
    multiply(&mut inputs.q, 600.0, DType::F16);
    multiply(&mut inputs.k, 600.0, DType::F16);
    multiply(&mut inputs.v, 1e-3, DType::F16);
    for form in forms(&gpu, &p, tile(STRIPS, &gpu)) {
        check_on("small values", &gpu, &p, &inputs.inputs(), &forced(form));
    }
}

/// Tokens of one tile whose scores are a million times those of others, so that strips end with powers of two of their own; and
/// scores as good as nothing beside a state that f32 has little room above.
#[test]
fn large_and_small_side_by_side() {
    let Some(gpu) = device() else { return };
    let p = Linear {
        output_dtype: Some(DType::F32),
        ..plain(Decay::None)
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
    // Queries meet the state in their first channel, keys in all others.
    let mut across = linear::random(&p, Strength::Weak, &mut Random::new(8));
    let first = |n: usize| n.is_multiple_of(d);
    let of_channels = |values: &mut [f32], in_first: f32, in_others: f32| {
        for (n, x) in values.iter_mut().enumerate() {
            *x = if first(n) { in_first } else { in_others };
        }
    };
    of_channels(&mut across.q, 1.0, 2f32.powi(-12));
    of_channels(&mut across.k, 0.0, 2f32.powi(-20));
    let width = p.value_dim() as usize;
    for (n, x) in across.initial_state.as_mut().unwrap().iter_mut().enumerate() {
        *x = if (n / width).is_multiple_of(d) { 1e26 } else { 0.0 };
    }
    for (name, inputs) in [("tokens apart", &apart), ("a large state", &across)] {
        for form in forms(&gpu, &p, tile(STRIPS, &gpu)) {
            check_on(name, &gpu, &p, &inputs.inputs(), &forced(form));
        }
    }
}

/// 65 536 tokens in calls that hand the state on: each call's output and the last state keep to the bounds of f16, whatever
/// the state has grown to. Values of either sign make it a random walk, far smaller than its bound; positive ones make it
/// grow with the bound.
#[test]
fn a_state_without_decay_over_65536_tokens() {
    let Some(gpu) = device() else { return };
    const CALLS: usize = 32;
    for (name, low) in [("of either sign", -1.0), ("positive", 0.0)] {
        let whole = Linear {
            tokens: 1 << 16,
            head_dim: 16,
            dtype: DType::F16,
            output_dtype: Some(DType::F32),
            final_state: true,
            ..Linear::default()
        };
        let call = Linear {
            tokens: whole.tokens / CALLS as u32,
            initial_state: true,
            ..whole.clone()
        };
        let mut r = Random::new(9);
        let n = (whole.tokens * whole.head_dim) as usize;
        let mut tensor = || -> Vec<f32> { (0..n).map(|_| common::rounded(r.float(low, 1.0), DType::F16)).collect() };
        let (q, k, v) = (tensor(), tensor(), tensor());
        let inputs = LinearInputs {
            q: &q,
            k: &k,
            v: &v,
            ..Default::default()
        };
        let expected = linear::truth(&whole, &inputs);
        let plan = call
            .plan_with(&gpu, &forced(Form::Cooperative(tile(STRIPS, &gpu))))
            .unwrap();
        let mut state = vec![0.0; call.state_len() as usize];
        for at in 0..CALLS {
            let part = at * n / CALLS..(at + 1) * n / CALLS;
            let inputs = LinearInputs {
                q: &q[part.clone()],
                k: &k[part.clone()],
                v: &v[part.clone()],
                initial_state: Some(&state),
                ..Default::default()
            };
            let output = plan.run_blocking(&inputs).unwrap();
            let result = compare::output(&output.o, &expected.o[part], &Tolerance::for_dtype(DType::F16));
            println!("{name}, call {at}: {result}");
            assert!(result.passed(), "{name}, call {at}: {result}");
            state = output.final_state.unwrap();
        }
        let last = LinearOutput {
            o: vec![],
            final_state: Some(state),
            total_decay: None,
        };
        let expected = LinearOutput { o: vec![], ..expected };
        let result = linear::judge_on(Tier::Cooperative, &call, &last, &expected);
        println!("{name}: {result}");
        assert!(result.final_state.unwrap().passed(), "{name}");
    }
}

#[test]
fn drawn_problems() {
    let Some(gpu) = device() else { return };
    for seed in 0..12 {
        let mut r = Random::new(seed);
        let tile = tile(r.pick(&[SMALL, STRIPS, SHARES, BOTH]), &gpu);
        let causal = !r.one_in(5);
        let normalize = r.one_in(3).then_some(1e-6);
        let documents = r.one_in(4).then_some(3);
        let states = (r.one_in(2), r.one_in(2));
        let head_dim = 1 + r.below(72);
        let p = Linear {
            batch: if documents.is_some() { 1 } else { 1 + r.below(2) },
            heads: 4,
            kv_heads: r.pick(&[None, Some(2), Some(1)]),
            tokens: 1 + r.below(130),
            head_dim,
            value_dim: Some(1 + r.below(72)),
            dtype: r.pick(&[DType::F16, DType::F16, DType::F32, DType::BF16]),
            output_dtype: r.pick(&[None, Some(DType::F32)]),
            reduced_precision: true,
            scale: Some(1.0 / head_dim as f32),
            causal,
            decay: if causal {
                r.pick(&[Decay::None, Decay::Head])
            } else {
                Decay::None
            },
            feature_map: feature_maps()[r.below(5) as usize].clone(),
            normalize,
            documents,
            initial_state: states.0,
            final_state: states.1,
            in_place: states == (true, true) && r.one_in(2),
            unaligned: r.one_in(4),
            ..Linear::default()
        };
        let strength = r.pick(&[Strength::Weak, Strength::Medium, Strength::Strong, Strength::Mixed]);
        let inputs = linear::random(&p, strength, &mut r);
        let forms = forms(&gpu, &p, tile);
        let form = forms[r.below(forms.len() as u32) as usize];
        check_on(&format!("seed {seed}"), &gpu, &p, &inputs.inputs(), &forced(form));
    }
}

/// The planner's own tiles, with the tier forced.
#[test]
fn what_the_planner_picks() {
    let Some(gpu) = device() else { return };
    let gpu = gpu.with_tier(Tier::Cooperative).unwrap();
    for (heads, tokens) in [(64, 70), (1, 300)] {
        for decay in [Decay::None, Decay::Head] {
            let p = Linear {
                batch: 1,
                heads,
                kv_heads: None,
                tokens,
                head_dim: 64,
                value_dim: None,
                ..plain(decay)
            };
            assert_eq!(p.plan(&gpu).unwrap().tier(), Tier::Cooperative);
            check(
                &format!("{heads} heads, {tokens} tokens"),
                &gpu,
                &p,
                &LinearTuning::default(),
            );
        }
    }
}

#[test]
fn what_matrices_do_not_serve_is_refused() {
    let Some(gpu) = device() else { return };
    let form = Form::Cooperative(tile(STRIPS, &gpu));
    let refused = |p: &Linear, form: Form, part: &str| {
        let error = p.plan_with(&gpu, &forced(form)).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    refused(&plain(Decay::Token), form, "a decay that is none or one a head");
    let full = Linear {
        dtype: DType::F32,
        ..plain(Decay::Head)
    };
    refused(&full, form, "`reduced_precision`");
    let whole = Linear {
        causal: false,
        ..plain(Decay::None)
    };
    refused(&whole, form, "a split");
    let other = CooperativeTile {
        edge: 24 - sizes(&gpu).0,
        ..tile(STRIPS, &gpu)
    };
    refused(&plain(Decay::Head), Form::Cooperative(other), "which this device has");
    let few = CooperativeTile {
        threads: 1,
        ..tile(SMALL, &gpu)
    };
    refused(
        &plain(Decay::Head),
        Form::Cooperative(few),
        "invocations for each strip",
    );

    let output = output_tile(&gpu, [2, 1, 2, 1], false);
    let wrong_outputs: [(SegmentTile, u32, &str); 6] = [
        (
            SegmentTile {
                scores_anew: true,
                ..output
            },
            1,
            "keeps to the rules",
        ),
        (SegmentTile { slices: 2, ..output }, 1, "one slice"),
        (
            SegmentTile {
                carried: false,
                ..output
            },
            1,
            "`carried`",
        ),
        (
            SegmentTile {
                keys: output.keys + 1,
                ..output
            },
            1,
            "keeps to the rules",
        ),
        (
            SegmentTile {
                threads: 1025,
                ..output
            },
            1,
            "keeps to the rules",
        ),
        (
            SegmentTile {
                threads: output.threads + 1,
                ..output
            },
            0,
            "invocations for each strip of the output tile",
        ),
    ];
    let split = |output: SegmentTile, segment| Form::CooperativeSplit {
        state: tile(STRIPS, &gpu),
        output,
        segment,
    };
    if let Some(kept) = output.in_registers(&gpu.abilities()) {
        let anew = SegmentTile {
            scores_anew: true,
            ..kept
        };
        refused(&plain(Decay::Head), split(anew, anew.rows()), "without `scores_anew`");
    }
    for (output, rest, part) in wrong_outputs {
        refused(&plain(Decay::Head), split(output, output.rows() + rest), part);
    }
    let rows = "a multiple of the output tile's rows";
    refused(&plain(Decay::Head), split(output, output.rows() + 1), rows);
    refused(&plain(Decay::Head), split(output, 0), rows);

    let forced = gpu.with_tier(Tier::Cooperative).unwrap();
    let error = plain(Decay::Token).plan(&forced).unwrap_err().to_string();
    assert!(error.contains("cooperative"), "{error}");
}
