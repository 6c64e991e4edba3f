//! Linear attention on a device in pieces: segments that hand their state on, segments that are joined, decode steps.

mod common;

use std::ops::Range;

use common::linear::{self, DECAYS, Strength, forced, forms, judge};
use common::packed::read;
use common::{Random, gpu, tiles};
use wgpu_attention::case::LinearCaseInputs;
use wgpu_attention::compare::{self, Tolerance};
use wgpu_attention::linear::reference;
use wgpu_attention::linear::tile::{Form, LinearTuning};
use wgpu_attention::{DType, Decay, FeatureMap, Gpu, Join, JoinInputs, Linear, LinearOutput, LinearTensors, Tensor};

/// Two sequences, grouped heads, both states.
fn whole(decay: Decay, tokens: u32) -> Linear {
    Linear {
        batch: 2,
        heads: 4,
        kv_heads: Some(2),
        tokens,
        head_dim: 12,
        value_dim: Some(20),
        decay,
        initial_state: true,
        final_state: true,
        total_decay: decay != Decay::None,
        ..Linear::default()
    }
}

/// Rows of `len` numbers for these tokens of a `[B, H, N, len]` tensor.
fn rows(values: &[f32], tokens: u32, range: &Range<u32>, len: u32) -> Vec<f32> {
    let head = (tokens * len) as usize;
    let wanted = (range.start * len) as usize..(range.end * len) as usize;
    let heads = values.chunks_exact(head);
    heads.flat_map(|head| &head[wanted.clone()]).copied().collect()
}

/// Puts such rows back.
fn put_rows(values: &mut [f32], tokens: u32, range: &Range<u32>, len: u32, rows: &[f32]) {
    let head = (tokens * len) as usize;
    let wanted = (range.start * len) as usize..(range.end * len) as usize;
    let heads = values.chunks_exact_mut(head);
    for (head, rows) in heads.zip(rows.chunks_exact(wanted.len())) {
        head[wanted.clone()].copy_from_slice(rows);
    }
}

/// The problem and its inputs for these tokens alone; the state to begin with is left as it is.
fn segment(p: &Linear, inputs: &LinearCaseInputs, range: &Range<u32>) -> (Linear, LinearCaseInputs) {
    let part = |values: &[f32], len| rows(values, p.tokens, range, len);
    let problem = Linear {
        tokens: range.end - range.start,
        ..p.clone()
    };
    let inputs = LinearCaseInputs {
        q: part(&inputs.q, p.head_dim),
        k: part(&inputs.k, p.head_dim),
        v: part(&inputs.v, p.value_dim()),
        log_decay: inputs.log_decay.as_ref().map(|g| match p.decay {
            Decay::Token => part(g, 1),
            Decay::Channel => part(g, p.head_dim),
            Decay::None | Decay::Head => g.clone(),
        }),
        ..inputs.clone()
    };
    (problem, inputs)
}

/// Cuts 0..tokens into ranges of these lengths, again and again.
fn ranges(tokens: u32, lengths: &[u32]) -> Vec<Range<u32>> {
    let mut ranges = vec![];
    let mut start = 0;
    for length in lengths.iter().cycle() {
        let end = (start + length).min(tokens);
        ranges.push(start..end);
        start = end;
        if end == tokens {
            return ranges;
        }
    }
    unreachable!("lengths are given")
}

fn assert_right(name: &str, p: &Linear, inputs: &LinearCaseInputs, output: &LinearOutput<f32>) {
    let result = judge(p, output, &linear::truth(p, &inputs.inputs()));
    println!("{name}: {result}");
    assert!(result.passed(), "{name}: {result}\n{p:?}");
}

#[test]
fn segments_that_hand_their_state_on_are_one_call() {
    let Some(gpu) = gpu() else { return };
    let lengths: [&[u32]; 3] = [&[1], &[8, 7, 9, 1, 16, 2], &[37, 1, 40]];
    for decay in DECAYS {
        for normalize in [None, Some(0.01)] {
            let p = Linear {
                normalize,
                total_decay: false,
                ..whole(decay, 90)
            };
            let inputs = linear::random(&p, Strength::Mixed, &mut Random::new(1));
            for (n, lengths) in lengths.into_iter().enumerate() {
                let mut o = vec![f32::NAN; (p.batch * p.heads * p.tokens * p.value_dim()) as usize];
                let mut state = inputs.initial_state.clone();
                for (m, range) in ranges(p.tokens, lengths).iter().enumerate() {
                    let (problem, mut inputs) = segment(&p, &inputs, range);
                    inputs.initial_state = state;
                    let forms = forms(&problem);
                    let form = forms[(n + m) % forms.len()];
                    let output = linear::run(&gpu, &problem, &inputs.inputs(), &forced(form)).unwrap();
                    put_rows(&mut o, p.tokens, range, p.value_dim(), &output.o);
                    state = output.final_state;
                }
                let output = LinearOutput {
                    o,
                    final_state: state,
                    total_decay: None,
                };
                let name = format!("{decay:?} {normalize:?} in {lengths:?}");
                assert_right(&name, &p, &inputs, &output);
            }
        }
    }
}

/// Runs every segment from zero, joins their states, and returns the output of the whole.
fn in_parallel(gpu: &Gpu, p: &Linear, inputs: &LinearCaseInputs, lengths: &[u32]) -> LinearOutput<f32> {
    let ranges = ranges(p.tokens, lengths);
    let (mut states, mut totals) = (vec![], vec![]);
    let mut local = vec![];
    for range in &ranges {
        let (problem, mut inputs) = segment(p, inputs, range);
        let problem = Linear {
            initial_state: false,
            ..problem
        };
        inputs.initial_state = None;
        let forms = forms(&problem);
        let form = forms[local.len() % forms.len()];
        let output = linear::run(gpu, &problem, &inputs.inputs(), &forced(form)).unwrap();
        states.extend(output.final_state.unwrap());
        totals.extend(output.total_decay.unwrap_or_default());
        local.push(output.o);
    }
    let join = Join {
        segments: ranges.len() as u32,
        sequences: p.batch,
        heads: p.heads,
        head_dim: p.head_dim,
        value_dim: p.value_dim,
        normalize: p.normalize.is_some(),
        decay: p.decay,
        initial_state: p.initial_state,
        final_state: true,
    };
    let joined = join.plan(gpu).unwrap().run_blocking(&JoinInputs {
        states: &states,
        total_decay: (p.decay != Decay::None).then_some(&totals),
        initial_state: inputs.initial_state.as_deref(),
    });
    let joined = joined.unwrap();

    let mut o = vec![f32::NAN; (p.batch * p.heads * p.tokens * p.value_dim()) as usize];
    let before = joined.states.chunks_exact(p.state_len() as usize);
    for ((range, before), local) in ranges.iter().zip(before).zip(local) {
        let (problem, mut inputs) = segment(p, inputs, range);
        inputs.initial_state = Some(before.to_vec());
        // A quotient cannot be completed: with a normaliser the segment is computed again.
        let state_only = p.normalize.is_none();
        inputs.o = state_only.then_some(local);
        let problem = Linear {
            initial_state: true,
            final_state: false,
            total_decay: false,
            state_only,
            ..problem
        };
        let tuning = forced(Form::Serial(tiles::SMALL));
        let output = linear::run(gpu, &problem, &inputs.inputs(), &tuning).unwrap();
        put_rows(&mut o, p.tokens, range, p.value_dim(), &output.o);
    }
    LinearOutput {
        o,
        final_state: joined.final_state,
        total_decay: None,
    }
}

#[test]
fn segments_from_zero_that_are_joined_are_one_call() {
    let Some(gpu) = gpu() else { return };
    for decay in DECAYS {
        for (normalize, initial_state) in [(None, true), (None, false), (Some(0.01), true)] {
            let p = Linear {
                normalize,
                initial_state,
                ..whole(decay, 70)
            };
            let inputs = linear::random(&p, Strength::Medium, &mut Random::new(2));
            let output = in_parallel(&gpu, &p, &inputs, &[8, 15, 1, 20]);
            let p = Linear {
                total_decay: false,
                ..p
            };
            assert_right(
                &format!("{decay:?} {normalize:?} {initial_state}"),
                &p,
                &inputs,
                &output,
            );
        }
    }
}

#[test]
fn joins_of_any_number_of_segments() {
    let Some(gpu) = gpu() else { return };
    let mut r = Random::new(5);
    for decay in DECAYS {
        for (normalize, initial_state, final_state) in [
            (false, false, false),
            (false, true, true),
            (true, true, false),
            (true, false, true),
        ] {
            for (n, segments) in [1, 2, 7, 8, 9, 16, 21].into_iter().enumerate() {
                let join = Join {
                    segments,
                    sequences: 1 + n as u32 % 3,
                    heads: 3,
                    head_dim: 5,
                    value_dim: Some(7),
                    normalize,
                    decay,
                    initial_state,
                    final_state,
                };
                let each = (join.sequences * join.heads) as usize;
                let len = 5 * 7 + if normalize { 5 } else { 0 };
                let totals = match decay {
                    Decay::None => None,
                    Decay::Head | Decay::Token => Some(each),
                    Decay::Channel => Some(each * 5),
                };
                let totals: Option<Vec<f32>> = totals.map(|n| {
                    (0..n * segments as usize)
                        .map(|_| Strength::Mixed.draw(&mut r))
                        .collect()
                });
                let states = r.floats(segments as usize * each * len, -0.5, 1.5);
                let initial = initial_state.then(|| r.floats(each * len, -0.5, 1.5));
                let inputs = JoinInputs {
                    states: &states,
                    total_decay: totals.as_deref(),
                    initial_state: initial.as_deref(),
                };
                let found = join.plan(&gpu).unwrap().run_blocking(&inputs).unwrap();
                let expected = reference::join(&join, &inputs).unwrap();
                let tolerance = Tolerance::for_dtype(DType::F32);
                let mut results = vec![compare::output(&found.states, &expected.states, &tolerance)];
                assert_eq!(found.final_state.is_some(), final_state);
                if let (Some(found), Some(expected)) = (&found.final_state, &expected.final_state) {
                    results.push(compare::output(found, expected, &tolerance));
                }
                for result in results {
                    assert!(result.passed(), "{result}\n{join:?}");
                }
            }
        }
    }
}

/// `[B, H, N, len]` as `[N, B, H, len]`: the tensors of one token lie together.
fn token_by_token(values: &[f32], tokens: u32, len: u32) -> Vec<f32> {
    (0..tokens)
        .flat_map(|t| rows(values, tokens, &(t..t + 1), len))
        .collect()
}

fn buffer(gpu: &Gpu, values: &[f32]) -> wgpu::Buffer {
    let buffer = gpu.device().create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: values.len() as u64 * 4,
        usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    gpu.queue().write_buffer(&buffer, 0, bytemuck::cast_slice(values));
    buffer
}

fn floats(gpu: &Gpu, buffer: &wgpu::Buffer) -> Vec<f32> {
    bytemuck::pod_collect_to_vec(&read(gpu, buffer))
}

/// Decodes token by token with one plan, the state being updated where it lies, without the host taking part.
fn decoded(gpu: &Gpu, p: &Linear, inputs: &LinearCaseInputs, tuning: &LinearTuning) -> LinearOutput<f32> {
    let (h, hkv, d, dv) = (p.heads, p.kv_heads(), p.head_dim, p.value_dim());
    let step = Linear {
        tokens: 1,
        final_state: true,
        in_place: true,
        ..p.clone()
    };
    let plan = step.plan_with(gpu, tuning).unwrap();
    let tensor = |values: &[f32], len| buffer(gpu, &token_by_token(values, p.tokens, len));
    let (q, k, v) = (tensor(&inputs.q, d), tensor(&inputs.k, d), tensor(&inputs.v, dv));
    let outputs = (p.batch * h * p.tokens * dv) as usize;
    let o = buffer(gpu, &vec![f32::NAN; outputs]);
    let state = buffer(gpu, inputs.initial_state.as_ref().unwrap());
    let log_decay = inputs.log_decay.as_ref().map(|g| match p.decay {
        Decay::Token => tensor(g, 1),
        Decay::Channel => tensor(g, d),
        Decay::None | Decay::Head => buffer(gpu, g),
    });
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    for t in 0..u64::from(p.tokens) {
        let at = |buffer, heads: u32, len: u32| Tensor::at(buffer, t * u64::from(p.batch * heads * len) * 4);
        let tensors = LinearTensors {
            log_decay: log_decay.as_ref().map(|g| match p.decay {
                Decay::Token => at(g, h, 1),
                Decay::Channel => at(g, h, d),
                Decay::None | Decay::Head => g.into(),
            }),
            final_state: Some((&state).into()),
            ..LinearTensors::new(at(&q, h, d), at(&k, hkv, d), at(&v, hkv, dv), at(&o, h, dv))
        };
        plan.encode(&mut encoder, &tensors).unwrap();
    }
    gpu.queue().submit([encoder.finish()]);
    let by_token = floats(gpu, &o);
    let mut o = vec![f32::NAN; outputs];
    for (t, token) in by_token.chunks_exact(outputs / p.tokens as usize).enumerate() {
        put_rows(&mut o, p.tokens, &(t as u32..t as u32 + 1), dv, token);
    }
    LinearOutput {
        o,
        final_state: Some(floats(gpu, &state)),
        total_decay: None,
    }
}

#[test]
fn a_thousand_decode_steps_in_place_are_one_prefill() {
    let Some(gpu) = gpu() else { return };
    for (decay, feature_map, normalize) in [
        (Decay::None, FeatureMap::Identity, None),
        (Decay::Head, FeatureMap::Silu, None),
        (Decay::Token, FeatureMap::Identity, None),
        (Decay::Channel, FeatureMap::Identity, None),
        (Decay::Head, FeatureMap::Elu1, Some(1e-6)),
    ] {
        let p = Linear {
            feature_map,
            normalize,
            head_dim: 32,
            value_dim: Some(32),
            total_decay: false,
            ..whole(decay, 1000)
        };
        let inputs = linear::random(&p, Strength::Weak, &mut Random::new(6));
        for form in [None, Some(Form::Step(tiles::step(&p)))] {
            let output = decoded(&gpu, &p, &inputs, &LinearTuning { form });
            let name = format!("{decay:?} {normalize:?} {form:?}");
            assert_right(&name, &p, &inputs, &output);
            // And what a prefill of the device gives.
            let prefill = linear::run(&gpu, &p, &inputs.inputs(), &LinearTuning::default()).unwrap();
            let widened: Vec<f64> = prefill.o.iter().map(|&x| x.into()).collect();
            let result = compare::output(&output.o, &widened, &Tolerance::for_dtype(DType::F32));
            assert!(result.passed(), "{name}, against a prefill: {result}");
        }
    }
}
