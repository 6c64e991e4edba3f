//! Linear attention on a device: golden cases, storage types, tensors inside larger buffers, and that what is wrong
//! would be noticed.

mod common;

use common::linear::{self, Strength, forced, forms, judge};
use common::packed::{Packed, read};
use common::{Random, golden, gpu, gpu_with, tiles};
use wgpu_attention::case::{Case, Op};
use wgpu_attention::compare::Tolerance;
use wgpu_attention::linear::host::LinearBuffers;
use wgpu_attention::linear::tile::{Form, LinearTuning};
use wgpu_attention::{DType, Decay, Error, Gpu, Layout, Linear, LinearOutput, LinearTensors, Strides, Tensor};

const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// Runs every golden case in each of these ways.
fn run_golden(gpu: &Gpu, ways: impl Fn(&Linear) -> Vec<LinearTuning>) {
    let files = golden("linear");
    let mut failed = vec![];
    for path in &files {
        let case = Case::load(path).unwrap();
        let Op::Linear(attention) = &case.op else {
            panic!("{} is not linear", path.display())
        };
        let p = &attention.problem;
        let ways = ways(p);
        assert!(!ways.is_empty());
        for tuning in ways {
            let result = p
                .plan_with(gpu, &tuning)
                .and_then(|plan| Ok((plan.form(), plan.run_blocking(&attention.inputs())?)));
            match result {
                Ok((form, output)) => {
                    let result = attention.compare(&output, &Tolerance::for_dtype(case.dtype));
                    println!("{:24} {result}  {form:?}", case.name);
                    if !result.passed() {
                        failed.push(format!("{}: {result}  {form:?}", case.name));
                    }
                }
                Err(error @ (Error::Unsupported { .. } | Error::Limit { .. }))
                    if common::on_unsupported_list(gpu, &case.name) =>
                {
                    println!("{:24} unsupported: {error}", case.name);
                }
                Err(error) => failed.push(format!("{}: {error}", case.name)),
            }
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert_eq!(files.len(), 13);
}

#[test]
fn golden_cases() {
    let Some(gpu) = gpu() else { return };
    run_golden(&gpu, |_| vec![LinearTuning::default()]);
}

#[test]
fn golden_cases_in_every_form() {
    let Some(gpu) = gpu() else { return };
    run_golden(&gpu, |p| forms(p).into_iter().map(forced).collect());
}

#[test]
fn golden_cases_on_a_minimal_device_with_driver_checks() {
    let Some(gpu) = gpu_with(|o| (o.minimal, o.checked) = (true, true)) else {
        return;
    };
    run_golden(&gpu, |_| vec![LinearTuning::default()]);
}

/// Ragged in every dimension, with every output.
fn odd() -> Linear {
    Linear {
        batch: 2,
        heads: 4,
        kv_heads: Some(2),
        tokens: 37,
        head_dim: 12,
        value_dim: Some(10),
        decay: Decay::Token,
        initial_state: true,
        final_state: true,
        total_decay: true,
        ..Linear::default()
    }
}

fn all(output: &LinearOutput<f32>) -> impl Iterator<Item = &f32> {
    let others = [&output.final_state, &output.total_decay];
    output.o.iter().chain(others.into_iter().flatten().flatten())
}

#[test]
fn the_same_input_gives_the_same_bits() {
    let Some(gpu) = gpu() else { return };
    let p = odd();
    let inputs = linear::random(&p, Strength::Mixed, &mut Random::new(1));
    for form in forms(&p) {
        let plan = p.plan_with(&gpu, &forced(form)).unwrap();
        let bits = || -> Vec<u32> {
            let output = plan.run_blocking(&inputs.inputs()).unwrap();
            all(&output).map(|x| x.to_bits()).collect()
        };
        assert_eq!(bits(), bits(), "{form:?}");
    }
}

#[test]
fn states_that_nobody_reads_are_not_worked_out() {
    let Some(gpu) = gpu() else { return };
    for (tokens, initial_state) in [(5, false), (5, true), (37, true), (64, false)] {
        let p = Linear {
            tokens,
            initial_state,
            total_decay: false,
            ..odd()
        };
        for form in forms(&p).into_iter().filter(|form| form.segment().is_some()) {
            linear::check_unread_states(&gpu, &p, form);
        }
    }
}

#[test]
fn one_wrong_element_of_a_device_result_is_noticed() {
    let Some(gpu) = gpu() else { return };
    let p = Linear {
        normalize: Some(1e-6),
        ..odd()
    };
    let inputs = linear::random(&p, Strength::Medium, &mut Random::new(1));
    let truth = linear::truth(&p, &inputs.inputs());
    let right = linear::run(&gpu, &p, &inputs.inputs(), &LinearTuning::default()).unwrap();
    assert!(judge(&p, &right, &truth).passed());
    // An element of S, and one of z behind it.
    let (s, z) = (50, 12 * 10 + 3);
    for wrong in [
        |x: f32| x + 1e-3 * x.abs().max(1.0),
        |x: f32| -x,
        |_: f32| f32::NAN,
        |_: f32| f32::INFINITY,
    ] {
        let spoiled = |spoil: &dyn Fn(&mut LinearOutput<f32>)| {
            let mut output = right.clone();
            spoil(&mut output);
            assert!(!judge(&p, &output, &truth).passed());
        };
        spoiled(&|output| output.o[100] = wrong(output.o[100]));
        for at in [s, z] {
            spoiled(&|output| {
                let state = output.final_state.as_mut().unwrap();
                state[at] = wrong(state[at]);
            });
        }
        spoiled(&|output| {
            let total = output.total_decay.as_mut().unwrap();
            total[5] = wrong(total[5]);
        });
    }
}

#[test]
fn what_a_kernel_leaves_unwritten_is_noticed() {
    let Some(gpu) = gpu() else { return };
    let p = odd();
    let inputs = linear::random(&p, Strength::Medium, &mut Random::new(1));
    // Nothing is encoded: the outputs are as they were made.
    let buffers = LinearBuffers::upload(&gpu, &p, &inputs.inputs()).unwrap();
    let encoder = gpu.device().create_command_encoder(&Default::default());
    let output = pollster::block_on(buffers.submit_and_read(&gpu, encoder)).unwrap();
    assert!(all(&output).all(|x| x.is_nan()));
    let result = judge(&p, &output, &linear::truth(&p, &inputs.inputs()));
    assert!(result.all().all(|tensor| !tensor.passed()), "{result}");
    assert_eq!(result.all().count(), 3);
}

#[test]
fn storage_types_of_inputs_and_outputs() {
    let Some(gpu) = gpu() else { return };
    let forms = [
        Form::Serial(tiles::SMALL),
        Form::Split {
            tile: tiles::SMALL,
            segment: 16,
        },
    ];
    for (n, dtype) in DTYPES.into_iter().enumerate() {
        for (m, output_dtype) in DTYPES.into_iter().enumerate() {
            // With an odd Dv neighbouring rows of a 16-bit output share words.
            for value_dim in [8, 7] {
                let p = Linear {
                    dtype,
                    output_dtype: Some(output_dtype),
                    value_dim: Some(value_dim),
                    ..odd()
                };
                let form = match n + m {
                    0..=2 => forms[(n + m + value_dim as usize) % 2],
                    _ => Form::Step(tiles::step(&p)),
                };
                let name = format!("{dtype} to {output_dtype}, Dv = {value_dim}");
                linear::check(&name, &gpu, &p, &forced(form));
            }
        }
    }
}

/// Where a `[batch, heads, n, dim]` tensor lies in a buffer, in elements.
struct Place {
    first: u64,
    strides: Strides,
    shape: [u32; 4],
}

impl Place {
    fn new(first: u64, layout: Layout, shape: [u32; 4]) -> Self {
        let [_, heads, n, dim] = shape;
        Place {
            first,
            strides: layout.strides(heads, n, dim),
            shape,
        }
    }

    /// Index of every element, in the tensor's order.
    fn elements(&self) -> Vec<u64> {
        let [batch, heads, n, dim] = self.shape;
        let mut all = vec![];
        for b in 0..u64::from(batch) {
            for h in 0..u64::from(heads) {
                for t in 0..u64::from(n) {
                    let row = self.first + b * self.strides.batch + h * self.strides.head + t * self.strides.seq;
                    all.extend((0..u64::from(dim)).map(|x| row + x));
                }
            }
        }
        all
    }

    /// A buffer that has these values there, three elements more than it needs, and a pattern everywhere else.
    fn filled(&self, dtype: DType, values: Option<&[f32]>) -> Packed {
        let elements = self.elements();
        let size = (elements.iter().max().unwrap() + 4) * dtype.size();
        let mut packed = Packed {
            bytes: (0..size.next_multiple_of(4)).map(|x| (x * 37 + 11) as u8).collect(),
            dtype,
        };
        self.put(&mut packed, values.unwrap_or_default());
        packed
    }

    fn put(&self, packed: &mut Packed, values: &[f32]) {
        for (at, value) in self.elements().into_iter().zip(values) {
            packed.put(at, *value);
        }
    }

    fn get(&self, packed: &Packed) -> Vec<f32> {
        self.elements().into_iter().map(|at| packed.get(at)).collect()
    }

    /// The bytes that are not the tensor's.
    fn around(&self, packed: &Packed) -> Vec<u8> {
        let size = packed.dtype.size() as usize;
        let mut inside = vec![false; packed.bytes.len()];
        for at in self.elements() {
            inside[at as usize * size..][..size].fill(true);
        }
        let bytes = packed.bytes.iter().zip(&inside);
        bytes.filter(|(_, inside)| !**inside).map(|(byte, _)| *byte).collect()
    }
}

/// First elements of tensors inside their buffers.
#[derive(Clone, Copy, Debug)]
struct Starts {
    qkv: u64,
    o: u64,
    states: u64,
}

/// q, k and v in one packed projection `[B, N, H·D + 2·Hkv·D]`, log-decays in a packed one, states and total decays
/// from some element on, whose every byte around what the call writes must be as before.
fn packed_projection(gpu: &Gpu, dtype: DType, d: u32, starts: Starts, form: impl Fn(&Linear) -> Form) {
    let (b, n, h, hkv) = (2, 21, 4, 2);
    let width = (h + 2 * hkv) * d;
    let in_qkv = Layout::packed(n, width, d);
    let p = Linear {
        batch: b,
        heads: h,
        kv_heads: Some(hkv),
        tokens: n,
        head_dim: d,
        dtype,
        decay: Decay::Token,
        initial_state: true,
        final_state: true,
        total_decay: true,
        q_layout: in_qkv,
        k_layout: in_qkv,
        v_layout: in_qkv,
        o_layout: Layout::packed(n, h * d + d % 4, d),
        decay_layout: Layout::packed(n, h + 1, 1),
        unaligned: [u64::from(d), starts.qkv, starts.o, starts.states]
            .iter()
            .any(|n| !n.is_multiple_of(4)),
        ..Linear::default()
    };
    let inputs = linear::random(&p, Strength::Medium, &mut Random::new(9));
    let rows = |first, layout, heads, dim| Place::new(first, layout, [b, heads, n, dim]);
    let firsts = [0, h * d, (h + hkv) * d].map(|first| starts.qkv + u64::from(first));
    let [q, k, v] = [(0, h), (1, hkv), (2, hkv)].map(|(n, heads)| rows(firsts[n], in_qkv, heads, d));
    let state = |first| Place::new(first, Layout::Bhnd, [b, h, 1, d * d]);
    let (initial, last) = (state(starts.states), state(starts.states + 4));
    let decay = rows(3, p.decay_layout, h, 1);
    let (o, total) = (
        rows(starts.o, p.o_layout, h, d),
        Place::new(1, Layout::Bhnd, [b, h, 1, 1]),
    );

    // v lies last in the projection.
    let mut qkv = v.filled(dtype, Some(&inputs.v));
    q.put(&mut qkv, &inputs.q);
    k.put(&mut qkv, &inputs.k);
    let upload = |place: &Place, dtype, values: Option<&Vec<f32>>| {
        let before = place.filled(dtype, values.map(Vec::as_slice));
        (before.upload(gpu), before)
    };
    let qkv_buffer = qkv.upload(gpu);
    let (initial_buffer, _) = upload(&initial, DType::F32, inputs.initial_state.as_ref());
    let (decay_buffer, _) = upload(&decay, DType::F32, inputs.log_decay.as_ref());
    let (o_buffer, o_before) = upload(&o, dtype, None);
    let (last_buffer, last_before) = upload(&last, DType::F32, None);
    let (total_buffer, total_before) = upload(&total, DType::F32, None);

    let at = |buffer, place: &Place, dtype: DType| Tensor::at(buffer, place.first * dtype.size());
    let tensors = LinearTensors {
        log_decay: Some(at(&decay_buffer, &decay, DType::F32)),
        initial_state: Some(at(&initial_buffer, &initial, DType::F32)),
        final_state: Some(at(&last_buffer, &last, DType::F32)),
        total_decay: Some(at(&total_buffer, &total, DType::F32)),
        ..LinearTensors::new(
            at(&qkv_buffer, &q, dtype),
            at(&qkv_buffer, &k, dtype),
            at(&qkv_buffer, &v, dtype),
            at(&o_buffer, &o, dtype),
        )
    };
    let plan = p.plan_with(gpu, &forced(form(&p))).unwrap();
    let what = format!("{dtype} D = {d} {starts:?}, {}", plan.label());
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    plan.encode(&mut encoder, &tensors).unwrap();
    gpu.queue().submit([encoder.finish()]);

    let after = |name: &str, buffer, place: &Place, before: &Packed| {
        let after = Packed {
            bytes: read(gpu, buffer),
            dtype: before.dtype,
        };
        let around = place.around(&after);
        assert!(!around.is_empty());
        assert_eq!(around, place.around(before), "{what}: bytes around {name}");
        place.get(&after)
    };
    let output = LinearOutput {
        o: after("o", &o_buffer, &o, &o_before),
        final_state: Some(after("final_state", &last_buffer, &last, &last_before)),
        total_decay: Some(after("total_decay", &total_buffer, &total, &total_before)),
    };
    let result = judge(&p, &output, &linear::truth(&p, &inputs.inputs()));
    println!("{what}: {result}");
    assert!(result.passed(), "{what}: {result}");
}

#[test]
fn packed_projections_at_any_element() {
    let Some(gpu) = gpu() else { return };
    let forms: [fn(&Linear) -> Form; 3] = [
        |_| Form::Serial(tiles::SMALL),
        |_| Form::Split {
            tile: tiles::SMALL,
            segment: 8,
        },
        |p| Form::Step(tiles::step(p)),
    ];
    for form in forms {
        for (dtype, d, qkv, o, states) in [
            (DType::F32, 8, 0, 0, 0),
            (DType::F32, 8, 4, 68, 8),
            (DType::F32, 8, 3, 1, 1),
            (DType::F32, 5, 1, 2, 3),
            (DType::F16, 8, 4, 8, 4),
            (DType::F16, 7, 1, 1, 2),
            (DType::BF16, 7, 0, 3, 0),
            (DType::BF16, 1, 5, 7, 5),
        ] {
            packed_projection(&gpu, dtype, d, Starts { qkv, o, states }, form);
        }
    }
}

#[test]
fn layouts_of_the_host_path() {
    let Some(gpu) = gpu() else { return };
    for form in forms(&odd()) {
        for decay in [Decay::Token, Decay::Channel] {
            let layout = Layout::Bnhd;
            let p = Linear {
                q_layout: layout,
                k_layout: layout,
                v_layout: layout,
                o_layout: layout,
                decay_layout: layout,
                decay,
                ..odd()
            };
            linear::check("B N H D", &gpu, &p, &forced(form));
        }
    }
    // One key and value for all heads: strides of 0.
    let shared = |seq| Layout::Strided(Strides { batch: 0, head: 0, seq });
    let p = Linear {
        batch: 1,
        kv_heads: Some(1),
        k_layout: shared(12),
        v_layout: shared(10),
        ..odd()
    };
    for form in forms(&p) {
        linear::check("strides of 0", &gpu, &p, &forced(form));
    }
}
