//! Dense attention on a device: golden cases, views, kernels forced against the planner's choice.

mod common;

use common::packed::{Packed, read};
use common::{Inputs, Random, check, check_on, golden, gpu, gpu_with};
use wgpu_attention::case::{Case, Op};
use wgpu_attention::compare::{self, Tolerance};
use wgpu_attention::dense::host::DenseBuffers;
use wgpu_attention::dense::portable::{DecodeTile, PrefillTile};
use wgpu_attention::dense::reference::{Hooks, Position};
use wgpu_attention::dense::tile::{KernelChoice, Tuning};
use wgpu_attention::{
    Broadcast, Custom, CustomData, CustomElement, DType, Dense, DenseTensors, Error, Gpu, Layout, Strides, Tensor,
    Weighting,
};

/// Runs every golden case; `tuning` may override the planner.
fn run_golden(gpu: &Gpu, tuning: impl Fn(&Gpu, &Dense) -> Tuning) {
    let files = golden("dense");
    let (mut ran, mut unsupported, mut failed) = (0, 0, vec![]);
    for path in &files {
        let case = Case::load(path).unwrap();
        let Op::Dense(attention) = &case.op else {
            panic!("{} is not dense", path.display())
        };
        let problem = &attention.problem;
        let result = problem
            .plan_with(gpu, &tuning(gpu, problem))
            .and_then(|plan| Ok((plan.label().to_string(), plan.run_blocking(&attention.inputs())?)));
        match result {
            Ok((label, output)) => {
                let result = compare::dense(&output, &attention.expected(), &Tolerance::for_dtype(case.dtype));
                println!("{:36} {result}  [{label}]", case.name);
                ran += 1;
                if !result.passed() {
                    failed.push(format!("{}: {result}", case.name));
                }
            }
            Err(error @ (Error::Unsupported { .. } | Error::Limit { .. })) => {
                println!("{:36} unsupported: {error}", case.name);
                unsupported += 1;
                if !common::on_unsupported_list(gpu, &case.name) {
                    failed.push(format!("{}: {error}, and not on tests/unsupported.txt", case.name));
                }
            }
            Err(error) => failed.push(format!("{}: {error}", case.name)),
        }
    }
    println!("{}: {ran} ran, {unsupported} unsupported", common::describe(gpu));
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert_eq!(ran + unsupported, files.len());
    assert_eq!(files.len(), 34);
}

#[test]
fn golden_cases() {
    let Some(gpu) = gpu() else { return };
    run_golden(&gpu, |_, _| Tuning::default());
}

#[test]
fn golden_cases_on_the_kernel_the_planner_does_not_pick() {
    let Some(gpu) = gpu() else { return };
    run_golden(&gpu, common::other);
}

#[test]
fn golden_cases_in_subgroups() {
    let Some(gpu) = common::in_subgroups() else { return };
    run_golden(&gpu, |_, _| Tuning::default());
}

#[test]
fn golden_cases_with_driver_checks() {
    let Some(gpu) = gpu_with(|o| o.checked = true) else {
        return;
    };
    run_golden(&gpu, |_, _| Tuning::default());
}

#[test]
fn golden_cases_on_a_minimal_device() {
    let Some(gpu) = gpu_with(|o| o.minimal = true) else {
        return;
    };
    run_golden(&gpu, |_, _| Tuning::default());
    run_golden(&gpu, common::other);
}

#[test]
fn the_same_input_gives_the_same_bits() {
    let Some(gpu) = gpu() else { return };
    for p in [
        odd(),
        Dense {
            queries: 3,
            keys: 500,
            ..odd()
        },
    ] {
        let inputs = Inputs::random(&p, &mut Random::new(1));
        let plan = p.plan(&gpu).unwrap();
        let bits = || -> Vec<u32> {
            let output = inputs.with(|i| plan.run_blocking(i)).unwrap();
            output
                .o
                .iter()
                .chain(output.lse.as_ref().unwrap())
                .map(|x| x.to_bits())
                .collect()
        };
        assert_eq!(bits(), bits());
    }
}

/// Ragged in every dimension.
fn odd() -> Dense {
    Dense {
        batch: 2,
        heads: 4,
        kv_heads: Some(2),
        queries: 37,
        keys: 43,
        head_dim: 12,
        causal: true,
        lse: true,
        ..Dense::default()
    }
}

#[test]
fn one_wrong_element_of_a_device_result_is_noticed() {
    let Some(gpu) = gpu() else { return };
    let p = odd();
    let inputs = Inputs::random(&p, &mut Random::new(1));
    let truth = common::truth(&p, &inputs, &Hooks::default());
    let right = common::run(&gpu, &p, &inputs, &Tuning::default()).unwrap();
    let tolerance = common::tolerance(&p);
    assert!(compare::dense(&right, &truth, &tolerance).passed());
    for wrong in [right.o[100] + 1e-3, -right.o[100], f32::NAN, f32::INFINITY] {
        let mut output = right.clone();
        output.o[100] = wrong;
        let result = compare::dense(&output, &truth, &tolerance);
        assert!(
            !result.passed() && result.o.worst.map(|e| e.index) == Some(100),
            "{result}"
        );
    }
    let mut output = right.clone();
    output.lse.as_mut().unwrap()[5] += 1e-3;
    assert!(!compare::dense(&output, &truth, &tolerance).passed());
    let mut output = right;
    output.o.swap(3, 3 + 12);
    assert!(!compare::dense(&output, &truth, &tolerance).passed());
}

#[test]
fn what_a_kernel_leaves_unwritten_is_noticed() {
    let Some(gpu) = gpu() else { return };
    let p = odd();
    let inputs = Inputs::random(&p, &mut Random::new(1));
    // Nothing is encoded: the outputs are as they were made.
    let buffers = inputs.with(|i| DenseBuffers::upload(&gpu, &p, i)).unwrap();
    let encoder = gpu.device().create_command_encoder(&Default::default());
    let output = pollster::block_on(buffers.submit_and_read(&gpu, encoder)).unwrap();
    assert!(output.o.iter().chain(output.lse.as_ref().unwrap()).all(|x| x.is_nan()));
    let truth = common::truth(&p, &inputs, &Hooks::default());
    let result = compare::dense(&output, &truth, &common::tolerance(&p));
    assert!(!result.passed() && !result.lse.unwrap().passed());
}

/// Both kernels, with tiles that compile fast.
fn kernels() -> [Tuning; 2] {
    [
        common::forced(KernelChoice::Prefill(PrefillTile {
            row_groups: 4,
            row_regs: 1,
            lanes: 4,
            key_regs: 4,
            chunk: 2,
            value_chunk: 4,
            prefetch: true,
            unroll: 2,
            alternate: true,
        })),
        common::forced(KernelChoice::Decode(DecodeTile {
            rows: 2,
            lanes: 2,
            slots: 8,
            key_regs: 1,
            value_lanes: 4,
            prefetch: true,
        })),
    ]
}

/// q, k and v in one packed projection `[B, N, H·D + 2·Hkv·D]` from some element on, o in another buffer from some
/// element on, whose every byte outside o must be as before.
fn packed_projection(gpu: &Gpu, dtype: DType, d: u32, start: u64, o_start: u64, tuning: &Tuning) {
    let (n, h, hkv) = (21, 4, 2);
    let width = (h + 2 * hkv) * d;
    let gap = u64::from(d % 4);
    let p = Dense {
        batch: 2,
        heads: h,
        kv_heads: Some(hkv),
        queries: n,
        keys: n,
        head_dim: d,
        dtype,
        causal: true,
        q_layout: Layout::packed(n, width, d),
        k_layout: Layout::packed(n, width, d),
        v_layout: Layout::packed(n, width, d),
        o_layout: Layout::packed(n, h * d + gap as u32, d),
        unaligned: [u64::from(d), start, o_start].iter().any(|n| !n.is_multiple_of(4)),
        ..Dense::default()
    };
    let inputs = Inputs::random(&p, &mut Random::new(9));
    let elements = start + u64::from(2 * n * width) + 3;
    let mut qkv = Packed {
        bytes: vec![0xff; (elements * dtype.size()).next_multiple_of(4) as usize],
        dtype,
    };
    let firsts = [0, h * d, (h + hkv) * d].map(|first| start + u64::from(first));
    let tensors = [
        (&inputs.tensors.q, h),
        (&inputs.tensors.k, hkv),
        (&inputs.tensors.v, hkv),
    ];
    let place = |s: Strides, b: u32, head: u32, i: u32, x: u32| {
        u64::from(b) * s.batch + u64::from(head) * s.head + u64::from(i) * s.seq + u64::from(x)
    };
    let each = |heads: u32, visit: &mut dyn FnMut(u32, u32, u32, u32)| {
        for b in 0..2 {
            for head in 0..heads {
                for i in 0..n {
                    (0..d).for_each(|x| visit(b, head, i, x));
                }
            }
        }
    };
    for ((values, heads), first) in tensors.into_iter().zip(firsts) {
        let strides = p.q_layout.strides(heads, n, d);
        let mut values = values.iter();
        each(heads, &mut |b, head, i, x| {
            qkv.put(first + place(strides, b, head, i, x), *values.next().unwrap());
        });
    }
    let o_elements = o_start + u64::from(2 * n) * (u64::from(h * d) + gap) + 5;
    let before = Packed {
        bytes: (0..(o_elements * dtype.size()).next_multiple_of(4))
            .map(|x| (x * 37 + 11) as u8)
            .collect(),
        dtype,
    };
    let (buffer, o) = (qkv.upload(gpu), before.upload(gpu));
    let at = |buffer, element: u64| Tensor::at(buffer, element * dtype.size());
    let plan = p.plan_with(gpu, tuning).unwrap();
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    let [q, k, v] = firsts.map(|first| at(&buffer, first));
    plan.encode(&mut encoder, &DenseTensors::new(q, k, v, at(&o, o_start)))
        .unwrap();
    gpu.queue().submit([encoder.finish()]);

    let after = Packed {
        bytes: read(gpu, &o),
        dtype,
    };
    let strides = p.o_layout.strides(h, n, d);
    let mut result = vec![];
    each(h, &mut |b, head, i, x| {
        result.push(after.get(o_start + place(strides, b, head, i, x)))
    });
    let truth = common::truth(&p, &inputs, &Hooks::default());
    let found = compare::output(&result, &truth.o, &common::tolerance(&p));
    let what = format!("{dtype} D = {d} from {start}, o from {o_start}, {}", plan.label());
    assert!(found.passed(), "{what}: {found}");
    println!("{what}: {found}");
    let mut inside = vec![false; after.bytes.len()];
    each(h, &mut |b, head, i, x| {
        let at = ((o_start + place(strides, b, head, i, x)) * dtype.size()) as usize;
        inside[at..at + dtype.size() as usize].fill(true);
    });
    let outside = |bytes: &[u8]| -> Vec<u8> {
        bytes
            .iter()
            .zip(&inside)
            .filter(|(_, i)| !**i)
            .map(|(b, _)| *b)
            .collect()
    };
    assert_eq!(outside(&after.bytes), outside(&before.bytes), "{what}: bytes around o");
    assert!(inside.iter().any(|i| !i));
}

#[test]
fn packed_projections_at_any_element() {
    let Some(gpu) = gpu() else { return };
    for tuning in kernels() {
        for (dtype, d, start, o_start) in [
            (DType::F32, 8, 0, 0),
            (DType::F32, 8, 4, 68),
            (DType::F32, 8, 3, 1),
            (DType::F32, 5, 1, 2),
            (DType::F16, 8, 4, 8),
            (DType::F16, 8, 1, 3),
            (DType::F16, 7, 1, 1),
            (DType::BF16, 7, 0, 3),
            (DType::BF16, 1, 5, 7),
        ] {
            packed_projection(&gpu, dtype, d, start, o_start, &tuning);
        }
    }
}

#[test]
fn layouts_of_the_host_path() {
    let Some(gpu) = gpu() else { return };
    for tuning in kernels() {
        for layout in [Layout::Bhnd, Layout::Bnhd] {
            let p = Dense {
                q_layout: layout,
                k_layout: layout,
                v_layout: layout,
                o_layout: layout,
                ..odd()
            };
            check("layout", &gpu, &p, &tuning);
        }
        // One key and value for all heads and batch entries: strides of 0.
        let shared = Dense {
            batch: 1,
            kv_heads: Some(1),
            k_layout: Layout::Strided(Strides {
                batch: 0,
                head: 0,
                seq: 12,
            }),
            v_layout: Layout::Strided(Strides {
                batch: 0,
                head: 0,
                seq: 12,
            }),
            ..odd()
        };
        check("strides of 0", &gpu, &shared, &tuning);
    }
}

#[test]
fn windows_wider_than_any_sequence() {
    let Some(gpu) = gpu() else { return };
    for tuning in kernels() {
        for (left, right) in [(u32::MAX, u32::MAX), (2, 1 << 30), ((1 << 30) - 1, 1), (1 << 31, 0)] {
            let p = Dense {
                window_left: Some(left),
                window_right: Some(right),
                ..odd()
            };
            check(&format!("window {left} {right}"), &gpu, &p, &tuning);
        }
    }
}

#[test]
fn documents_with_rows_outside_them() {
    let Some(gpu) = gpu() else { return };
    let p = Dense {
        batch: 1,
        documents: Some(4),
        queries: 40,
        keys: 50,
        ..odd()
    };
    let mut inputs = Inputs::random(&p, &mut Random::new(1));
    // A tile of rows may begin before the first document, hold all of them and end after the last.
    for (q, k) in [
        ([3, 4, 4, 5, 6], [1, 9, 9, 30, 44]),
        ([0, 1, 2, 2, 3], [0, 20, 30, 40, 50]),
        ([10, 10, 10, 30, 30], [7, 8, 20, 20, 21]),
        ([0, 0, 0, 0, 0], [0, 0, 0, 0, 0]),
    ] {
        inputs.tensors.cu_seqlens_q = Some(q.to_vec());
        inputs.tensors.cu_seqlens_k = Some(k.to_vec());
        for tuning in kernels() {
            check_on(&format!("{q:?}"), &gpu, &p, &inputs, &tuning, &Hooks::default());
        }
        check_on(
            &format!("{q:?}"),
            &gpu,
            &p,
            &inputs,
            &Tuning::default(),
            &Hooks::default(),
        );
    }
}

#[test]
fn custom_code_against_its_twin() {
    let Some(gpu) = gpu() else { return };
    let data = |name: &str, element| CustomData {
        name: name.into(),
        element,
    };
    let custom = Custom {
        score: Some(
            "const SLOPE = 0.125;
fn distance_of(at: Position) -> f32 { return f32(at.query_pos - at.key_pos); }
fn score(s: f32, at: Position) -> f32 {
    return s * factor[at.head] - SLOPE * distance_of(at) + f32(shift[at.batch]) + 0.25 * f32(at.kv_head);
}"
            .into(),
        ),
        mask: Some("fn mask(at: Position) -> bool { return keep[at.key] != at.query % 3u; }".into()),
        data: vec![
            data("factor", CustomElement::F32),
            data("keep", CustomElement::U32),
            data("shift", CustomElement::I32),
        ],
    };
    let plain = Dense {
        custom: Some(custom),
        ..odd()
    };
    let problems = [
        plain.clone(),
        Dense {
            causal: false,
            kv_len: true,
            mask: Some(Broadcast::FULL),
            dtype: DType::F16,
            ..plain.clone()
        },
        Dense {
            batch: 1,
            documents: Some(3),
            softcap: Some(4.0),
            ..plain.clone()
        },
        Dense {
            weighting: Weighting::Sigmoid { bias: None },
            lse: false,
            window_left: Some(9),
            ..plain
        },
    ];
    for p in problems {
        let mut r = Random::new(4);
        let mut inputs = Inputs::random(&p, &mut r);
        let factor = r.floats(4, 0.5, 1.5);
        let keep: Vec<u32> = (0..p.keys).map(|_| r.below(6)).collect();
        let shift = [2i32, -3];
        inputs.custom_data = vec![
            factor.iter().map(|x| x.to_bits()).collect(),
            keep.clone(),
            shift.iter().map(|x| *x as u32).collect(),
        ];
        let score = |s: f64, at: &Position| {
            s * f64::from(factor[at.head as usize]) - 0.125 * f64::from(at.query_pos - at.key_pos)
                + f64::from(shift[at.batch as usize])
                + 0.25 * f64::from(at.kv_head)
        };
        let mask = |at: &Position| keep[at.key as usize] != at.query % 3;
        let hooks = Hooks {
            score: Some(&score),
            mask: Some(&mask),
        };
        for tuning in kernels() {
            check_on("custom", &gpu, &p, &inputs, &tuning, &hooks);
        }
        let splits = Tuning {
            splits: Some(3),
            ..kernels()[1]
        };
        check_on("custom in splits", &gpu, &p, &inputs, &splits, &hooks);
    }
}

/// A step of several packed texts looks for each row's document; on a software GPU all keys of a share are one loop, which it
/// leaves after 65 535 iterations.
#[test]
fn few_queries_of_many_long_documents() {
    let Some(gpu) = gpu() else { return };
    let (texts, keys) = (8, 16_384);
    let p = Dense {
        heads: 8,
        queries: texts,
        keys,
        documents: Some(texts),
        head_dim: 8,
        ..Dense::default()
    };
    let mut inputs = Inputs::random(&p, &mut Random::new(1));
    let ends = |n: u32| (0..=texts).map(|d| (d * n / texts) as i32).collect::<Vec<_>>();
    inputs.tensors.cu_seqlens_q = Some(ends(texts));
    inputs.tensors.cu_seqlens_k = Some(ends(keys));
    for p in [p.clone(), Dense { alibi: true, ..p }] {
        inputs.tensors.alibi_slopes = p.alibi.then(|| vec![1e-4; 8]);
        check_on("texts", &gpu, &p, &inputs, &Tuning::default(), &Hooks::default());
    }
}
