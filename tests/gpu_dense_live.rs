//! Key tiles that boolean masks, biases and custom masks empty: found, skipped, and the rest still right.

mod common;

use common::{Inputs, Random, check_on, gpu, gpu_with, rounded};
use wgpu_attention::dense::portable::{DecodeTile, PrefillTile};
use wgpu_attention::dense::reference::{Hooks, Position};
use wgpu_attention::dense::serial::{SerialPrefillTile, SerialTile};
use wgpu_attention::dense::tile::{KernelChoice, Tuning};
use wgpu_attention::{
    Bias, Broadcast, Custom, CustomData, CustomElement, DType, Dense, Error, Gpu, Selection, Weighting,
};

/// 4 × 16.
const PREFILL: KernelChoice = KernelChoice::Prefill(PrefillTile {
    row_groups: 4,
    row_regs: 1,
    lanes: 4,
    key_regs: 4,
    chunk: 2,
    value_chunk: 4,
    prefetch: true,
    unroll: 2,
    alternate: true,
});

/// 2 × 8.
const DECODE: KernelChoice = KernelChoice::Decode(DecodeTile {
    rows: 2,
    lanes: 2,
    slots: 8,
    key_regs: 1,
    value_lanes: 4,
    prefetch: true,
});

/// 2 × 1, listed by 16.
const SERIAL: KernelChoice = KernelChoice::DecodeSerial(SerialTile { rows: 2, threads: 8 });

/// Those above, and the serial one of prefill where the device's subgroups allow it: listed by 32.
fn kernels(gpu: &Gpu) -> Vec<KernelChoice> {
    let mut kernels = vec![PREFILL, DECODE, SERIAL];
    if let Some((least, most)) = gpu.abilities().subgroups
        && least == most
    {
        kernels.push(KernelChoice::PrefillSerial(SerialPrefillTile {
            row_regs: 1,
            keys: 4,
            threads: least,
        }));
    }
    kernels
}

fn live(kernel: KernelChoice) -> Tuning {
    Tuning {
        kernel: Some(kernel),
        splits: None,
        live: Some(true),
    }
}

/// What masks look like.
#[derive(Clone, Copy, Debug)]
enum Structure {
    /// Blocks along the diagonal.
    Blocks(u32),
    /// Keys from a number on are padding, another for each batch entry.
    Padding,
    /// Keys close to the row's.
    Band(i32),
    /// Blocks of 16 × 16, some of them.
    Scattered,
    /// One element of a row in 7.
    Sparse,
    Nothing,
    Everything,
    /// All but a single element.
    AllButOne,
    /// One element in all.
    OneElement,
}

const STRUCTURES: [Structure; 9] = [
    Structure::Blocks(3),
    Structure::Padding,
    Structure::Band(9),
    Structure::Scattered,
    Structure::Sparse,
    Structure::Nothing,
    Structure::Everything,
    Structure::AllButOne,
    Structure::OneElement,
];

impl Structure {
    fn keeps(self, p: &Dense, [b, h, i, j]: [u32; 4]) -> bool {
        // Another pattern in each slice, or rows and heads could be confused unseen.
        let slice = b + 2 * h;
        match self {
            Structure::Blocks(n) => i * n / p.queries == (j * n / p.keys + slice) % n,
            Structure::Padding => j < (p.keys / 2 + 17 * slice).min(p.keys),
            Structure::Band(reach) => {
                let place = (i * p.keys / p.queries) as i32 + slice as i32;
                (place - j as i32).abs() <= reach
            }
            Structure::Scattered => (i / 16 * 7 + j / 16 * 5 + slice) % 4 == 0,
            Structure::Sparse => j == (i * 31 + slice) % p.keys && i % 7 == slice % 7,
            Structure::Nothing => false,
            Structure::Everything => true,
            Structure::AllButOne => (i, j) != (p.queries / 3 % p.queries, p.keys / 2),
            Structure::OneElement => (i, j) == (p.queries / 3 % p.queries, p.keys / 2),
        }
    }

    /// The elements of a tensor `[B|1, H|1, Nq|1, Nk]`: whether each keeps its key.
    fn elements(self, p: &Dense, shape: Broadcast) -> Vec<bool> {
        let [batch, heads, queries, keys] = shape.dims(p);
        let mut all = vec![];
        for b in 0..batch {
            for h in 0..heads {
                for i in 0..queries {
                    all.extend((0..keys).map(|j| self.keeps(p, [b, h, i, j])));
                }
            }
        }
        all
    }
}

/// Random inputs, with the structure in the mask and in the bias, as far as there are such.
fn inputs_of(p: &Dense, structure: Structure) -> Inputs {
    let mut r = Random::new(11);
    let mut inputs = Inputs::random(p, &mut r);
    if let (Some(mask), Some(shape)) = (&mut inputs.tensors.mask, p.mask) {
        let kept = structure.elements(p, shape);
        *mask = kept
            .iter()
            .map(|kept| if *kept { r.pick(&[1, 255, 16]) } else { 0 })
            .collect();
    }
    if let (Some(values), Some(bias)) = (&mut inputs.tensors.bias, p.bias) {
        let kept = structure.elements(p, bias.shape);
        let value = |kept: bool, r: &mut Random| if kept { r.float(-2.0, 2.0) } else { f32::NEG_INFINITY };
        *values = kept
            .iter()
            .map(|kept| rounded(value(*kept, &mut r), bias.dtype))
            .collect();
    }
    inputs
}

/// Ragged in every dimension, with rows of keys that start anywhere in a word.
fn problem() -> Dense {
    Dense {
        batch: 2,
        heads: 4,
        kv_heads: Some(2),
        queries: 37,
        keys: 131,
        head_dim: 12,
        lse: true,
        ..Dense::default()
    }
}

fn broadcasts() -> impl Iterator<Item = Broadcast> {
    (0..8).map(|n| Broadcast {
        per_batch: n & 1 != 0,
        per_head: n & 2 != 0,
        per_query: n & 4 != 0,
    })
}

/// With the lists and without.
fn check_both(name: &str, gpu: &Gpu, p: &Dense, inputs: &Inputs, kernel: KernelChoice, hooks: &Hooks<'_>) {
    check_on(name, gpu, p, inputs, &live(kernel), hooks);
    let without = Tuning {
        live: Some(false),
        ..live(kernel)
    };
    assert!(!p.plan_with(gpu, &without).unwrap().skips_masked_tiles());
    check_on(name, gpu, p, inputs, &without, hooks);
}

fn check_structures(name: &str, gpu: &Gpu, p: &Dense, kernel: KernelChoice) {
    for structure in STRUCTURES {
        let inputs = inputs_of(p, structure);
        let name = format!("{name}, {structure:?}");
        check_on(&name, gpu, p, &inputs, &live(kernel), &Hooks::default());
    }
}

#[test]
fn boolean_masks_of_every_shape_and_structure() {
    let Some(gpu) = gpu() else { return };
    for shape in broadcasts() {
        let p = Dense {
            mask: Some(shape),
            ..problem()
        };
        for kernel in kernels(&gpu) {
            check_structures(&format!("{shape:?}"), &gpu, &p, kernel);
        }
    }
}

#[test]
fn keys_in_whole_words_and_around() {
    let Some(gpu) = gpu() else { return };
    for keys in [1, 2, 3, 4, 5, 15, 16, 17, 63, 64, 65, 128] {
        for queries in [1, 3, 4, 5] {
            let p = Dense {
                queries,
                keys,
                mask: Some(Broadcast::FULL),
                ..problem()
            };
            for kernel in kernels(&gpu) {
                for structure in [Structure::Scattered, Structure::Everything, Structure::AllButOne] {
                    let inputs = inputs_of(&p, structure);
                    let name = format!("{queries} × {keys}, {structure:?}");
                    check_on(&name, &gpu, &p, &inputs, &live(kernel), &Hooks::default());
                }
            }
        }
    }
}

#[test]
fn biases_of_every_type_and_shape() {
    let Some(gpu) = gpu() else { return };
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for shape in broadcasts().filter(|s| dtype == DType::F16 || s.per_head == s.per_batch) {
            let p = Dense {
                bias: Some(Bias { dtype, shape }),
                ..problem()
            };
            for kernel in kernels(&gpu) {
                check_structures(&format!("{dtype:?} {shape:?}"), &gpu, &p, kernel);
            }
        }
    }
}

/// The other masks and hooks, each combined with a boolean mask.
fn combinations() -> Vec<(&'static str, Dense)> {
    let masked = Dense {
        mask: Some(Broadcast::FULL),
        ..problem()
    };
    let with = |change: fn(&mut Dense)| {
        let mut p = masked.clone();
        change(&mut p);
        p
    };
    vec![
        ("causal", with(|p| p.causal = true)),
        (
            "window, sinks",
            with(|p| {
                (p.window_left, p.window_right) = (Some(20), Some(3));
                (p.sink_tokens, p.sinks) = (5, true);
            }),
        ),
        ("causal, prefix", with(|p| (p.causal, p.prefix) = (true, 30))),
        (
            "documents",
            with(|p| (p.batch, p.documents, p.causal) = (1, Some(4), true)),
        ),
        ("kv_len", with(|p| (p.kv_len, p.causal) = (true, true))),
        (
            "kv_len, shared mask",
            with(|p| {
                p.kv_len = true;
                p.mask = Some(Broadcast {
                    per_batch: false,
                    per_head: false,
                    per_query: true,
                });
            }),
        ),
        (
            "bias",
            with(|p| {
                p.bias = Some(Bias {
                    dtype: DType::F32,
                    shape: Broadcast::FULL,
                })
            }),
        ),
        ("softcap, ALiBi", with(|p| (p.softcap, p.alibi) = (Some(4.0), true))),
        (
            "sigmoid, one KV head",
            with(|p| {
                (p.weighting, p.lse) = (Weighting::Sigmoid { bias: None }, false);
                p.kv_heads = Some(1);
            }),
        ),
        ("f16", with(|p| p.dtype = DType::F16)),
    ]
}

#[test]
fn masks_beside_all_that_positions_decide() {
    let Some(gpu) = gpu() else { return };
    for (name, p) in combinations() {
        for kernel in kernels(&gpu) {
            for structure in [Structure::Blocks(3), Structure::Scattered, Structure::Everything] {
                let inputs = inputs_of(&p, structure);
                let name = format!("{name}, {structure:?}");
                check_both(&name, &gpu, &p, &inputs, kernel, &Hooks::default());
            }
        }
    }
}

#[test]
fn shares_of_the_keys_count_what_is_left() {
    let Some(gpu) = gpu() else { return };
    let p = Dense {
        queries: 3,
        mask: Some(Broadcast::FULL),
        ..problem()
    };
    for kernel in [DECODE, SERIAL] {
        for splits in [1, 2, 5, 40] {
            for structure in STRUCTURES {
                let tuning = Tuning {
                    splits: Some(splits),
                    ..live(kernel)
                };
                let inputs = inputs_of(&p, structure);
                let name = format!("{splits} splits, {structure:?}");
                check_on(&name, &gpu, &p, &inputs, &tuning, &Hooks::default());
            }
        }
    }
}

/// A mask of the caller's own, in WGSL and in Rust, with and without data.
#[test]
fn custom_masks() {
    let Some(gpu) = gpu() else { return };
    let blocks = "fn mask(at: Position) -> bool { return (at.key / 32u + at.head) % 3u == at.query / 16u; }";
    let by_data = "fn mask(at: Position) -> bool { return keep[at.key / 8u] == (at.batch + at.query / 8u) % 4u; }";
    let keep: Vec<u32> = (0..17).map(|n| n * n % 4).collect();
    let in_blocks = |at: &Position| (at.key / 32 + at.head) % 3 == at.query / 16;
    let in_data = |at: &Position| keep[at.key as usize / 8] == (at.batch + at.query / 8) % 4;
    for with_data in [false, true] {
        let data = CustomData {
            name: "keep".into(),
            element: CustomElement::U32,
        };
        let p = Dense {
            custom: Some(Custom {
                score: with_data.then(|| "fn score(s: f32, at: Position) -> f32 { return 0.5 * s; }".into()),
                mask: Some(if with_data { by_data } else { blocks }.into()),
                data: if with_data { vec![data] } else { vec![] },
            }),
            causal: with_data,
            ..problem()
        };
        let half = |s: f64, _: &Position| 0.5 * s;
        let hooks = match with_data {
            true => Hooks {
                score: Some(&half),
                mask: Some(&in_data),
            },
            false => Hooks {
                score: None,
                mask: Some(&in_blocks),
            },
        };
        let mut inputs = Inputs::random(&p, &mut Random::new(3));
        if with_data {
            inputs.custom_data = vec![keep.clone()];
        }
        for kernel in kernels(&gpu) {
            check_both(&format!("custom, data {with_data}"), &gpu, &p, &inputs, kernel, &hooks);
        }
    }
}

/// Keys and values that no row sees are NaN for whole tiles: read, they would spoil every row, whatever their weight.
#[test]
fn what_fills_whole_tiles_unseen_is_never_used() {
    let Some(gpu) = gpu() else { return };
    let seen = |j: u32| j / 32 % 2 == 1;
    let full = Broadcast::FULL;
    let masked = Dense {
        mask: Some(full),
        ..problem()
    };
    let biased = Dense {
        bias: Some(Bias {
            dtype: DType::BF16,
            shape: full,
        }),
        ..problem()
    };
    let custom = Dense {
        custom: Some(Custom {
            mask: Some("fn mask(at: Position) -> bool { return at.key / 32u % 2u == 1u; }".into()),
            ..Default::default()
        }),
        ..problem()
    };
    for (name, p) in [("mask", masked), ("bias", biased), ("custom mask", custom)] {
        let mut inputs = Inputs::random(&p, &mut Random::new(5));
        let keys = p.keys as usize;
        for (at, byte) in inputs.tensors.mask.iter_mut().flatten().enumerate() {
            *byte = u8::from(seen((at % keys) as u32));
        }
        for (at, value) in inputs.tensors.bias.iter_mut().flatten().enumerate() {
            *value = if seen((at % keys) as u32) {
                0.25
            } else {
                f32::NEG_INFINITY
            };
        }
        let mask = |at: &Position| seen(at.key);
        let hooks = Hooks {
            mask: p.custom.is_some().then_some(&mask as _),
            ..Default::default()
        };
        let truth = common::truth(&p, &inputs, &hooks);
        let dim = p.head_dim as usize;
        let Inputs { tensors, .. } = &mut inputs;
        for (at, x) in tensors.k.iter_mut().chain(&mut tensors.v).enumerate() {
            if !seen((at / dim % keys) as u32) {
                *x = f32::NAN;
            }
        }
        for kernel in kernels(&gpu) {
            let result = common::run(&gpu, &p, &inputs, &live(kernel)).unwrap();
            let result = wgpu_attention::compare::dense(&result, &truth, &common::tolerance(&p));
            assert!(result.passed(), "{name}: {result}, {kernel:?}");
            let without = Tuning {
                live: Some(false),
                ..live(kernel)
            };
            let result = common::run(&gpu, &p, &inputs, &without).unwrap();
            assert!(
                result.o.iter().any(|x| x.is_nan()),
                "{name}: NaN does not show, {kernel:?}"
            );
        }
    }
}

/// A device with bindings of so many bytes and so many workgroups in a dimension.
#[test]
fn parts_have_lists_of_their_own() {
    let Some(limits) = common::limits() else { return };
    for (binding, workgroups) in [(16 << 10, 65535), (1 << 20, 3)] {
        let mut limits = limits.clone();
        limits.max_storage_buffer_binding_size = binding;
        limits.max_compute_workgroups_per_dimension = workgroups;
        let Some(gpu) = gpu_with(|o| o.limits = Some(limits)) else {
            return;
        };
        for shape in broadcasts() {
            let p = Dense {
                batch: 4,
                heads: 8,
                mask: Some(shape),
                ..problem()
            };
            for kernel in kernels(&gpu) {
                let parts = p.plan_with(&gpu, &live(kernel)).unwrap().parts();
                assert!(parts > 1, "one part only: {kernel:?}");
                for structure in [Structure::Blocks(3), Structure::Padding] {
                    let name = format!("{parts} parts, {shape:?}, {structure:?}");
                    let inputs = inputs_of(&p, structure);
                    check_on(&name, &gpu, &p, &inputs, &live(kernel), &Hooks::default());
                }
            }
        }
    }
}

#[test]
fn checked_and_minimal_devices() {
    let Some(checked) = gpu_with(|o| o.checked = true) else {
        return;
    };
    let Some(minimal) = gpu_with(|o| o.minimal = true) else {
        return;
    };
    for gpu in [checked, minimal] {
        for (name, p) in combinations() {
            for kernel in kernels(&gpu) {
                let inputs = inputs_of(&p, Structure::Scattered);
                check_on(name, &gpu, &p, &inputs, &live(kernel), &Hooks::default());
            }
        }
    }
}

#[test]
fn the_same_input_gives_the_same_bits() {
    let Some(gpu) = gpu() else { return };
    for (_, p) in combinations() {
        let inputs = inputs_of(&p, Structure::Scattered);
        for kernel in kernels(&gpu) {
            let plan = p.plan_with(&gpu, &live(kernel)).unwrap();
            let bits = || -> Vec<u32> {
                let output = inputs.with(|i| plan.run_blocking(i)).unwrap();
                let lse = output.lse.unwrap_or_default();
                output.o.iter().chain(&lse).map(|x| x.to_bits()).collect()
            };
            assert_eq!(bits(), bits());
        }
    }
}

#[test]
fn the_planner_looks_where_there_is_something_to_find() {
    let Some(gpu) = gpu() else { return };
    let skips = |p: &Dense| p.plan(&gpu).unwrap().skips_masked_tiles();
    let large = Dense {
        queries: 1000,
        keys: 1000,
        mask: Some(Broadcast::FULL),
        ..Dense::default()
    };
    assert!(skips(&large));
    assert!(large.plan(&gpu).unwrap().workspace_bytes() > 0);
    assert!(!skips(&Dense {
        mask: None,
        causal: true,
        ..large.clone()
    }));
    let custom_score = Custom {
        score: Some("fn score(s: f32, at: Position) -> f32 { return s; }".into()),
        ..Default::default()
    };
    assert!(!skips(&Dense {
        mask: None,
        custom: Some(custom_score),
        ..large.clone()
    }));
    let one_tile = Dense { keys: 16, ..large };
    assert!(!skips(&one_tile));
}

#[test]
fn lists_that_cannot_be_had_are_refused_by_name() {
    let Some(gpu) = gpu() else { return };
    let says = |p: &Dense, part: &str| {
        let error = p.plan_with(&gpu, &live(PREFILL)).unwrap_err();
        assert!(
            matches!(
                error,
                Error::Invalid {
                    field: "tuning.live",
                    ..
                }
            ),
            "{error}"
        );
        assert!(error.to_string().contains(part), "{error}");
    };
    says(&problem(), "custom mask");
    let selection = Selection {
        block_size: 16,
        query_block: 4,
        per_kv_head: false,
        capacity: 2,
    };
    says(
        &Dense {
            selection: Some(selection),
            mask: Some(Broadcast::FULL),
            ..problem()
        },
        "selection",
    );
}

#[test]
fn where_tensors_leave_no_buffer_all_tiles_are_visited() {
    let Some(mut limits) = common::limits() else { return };
    limits.max_storage_buffers_per_shader_stage = 8;
    let Some(gpu) = gpu_with(|o| o.limits = Some(limits)) else {
        return;
    };
    let shape = Broadcast::FULL;
    let p = Dense {
        mask: Some(shape),
        bias: Some(Bias {
            dtype: DType::F32,
            shape,
        }),
        kv_len: true,
        ..problem()
    };
    // q, k, v, o, lse, bias, mask and kv_len: eight.
    let tuning = common::forced(PREFILL);
    assert!(!p.plan_with(&gpu, &tuning).unwrap().skips_masked_tiles());
    let inputs = inputs_of(&p, Structure::Scattered);
    check_on("eight tensors", &gpu, &p, &inputs, &tuning, &Hooks::default());
    let error = p.plan_with(&gpu, &live(PREFILL)).unwrap_err();
    assert!(error.to_string().contains("storage buffer"), "{error}");
}

/// A bias that is not a number is one that is seen, whether its tile is looked at before or not.
#[test]
fn a_bias_that_is_no_number_spoils_its_rows() {
    let Some(gpu) = gpu() else { return };
    let p = Dense {
        bias: Some(Bias {
            dtype: DType::F32,
            shape: Broadcast::FULL,
        }),
        lse: true,
        ..problem()
    };
    let mut inputs = Inputs::random(&p, &mut Random::new(11));
    let keys = p.keys as usize;
    let bias = inputs.tensors.bias.as_mut().unwrap();
    let spoilt_row = 3 * p.queries as usize + 20;
    // Where it is, nobody sees anything else.
    bias.chunks_exact_mut(keys)
        .for_each(|row| row[..96].fill(f32::NEG_INFINITY));
    bias[spoilt_row * keys + 5] = f32::NAN;
    let shared = |kernel| matches!(kernel, KernelChoice::Decode(_) | KernelChoice::DecodeSerial(_));
    for kernel in kernels(&gpu) {
        // Whole, and in shares that are merged.
        let splits = if shared(kernel) {
            &[Some(1), Some(3)][..]
        } else {
            &[None]
        };
        for (live, splits) in splits.iter().flat_map(|s| [(true, *s), (false, *s)]) {
            let tuning = Tuning {
                live: Some(live),
                splits,
                ..self::live(kernel)
            };
            let plan = p.plan_with(&gpu, &tuning).unwrap();
            let output = inputs.with(|i| plan.run_blocking(i)).unwrap();
            let o = &output.o;
            let spoilt = |row: usize| {
                o[row * p.head_dim as usize..][..p.head_dim as usize]
                    .iter()
                    .all(|x| x.is_nan())
            };
            let rows: Vec<usize> = (0..o.len() / p.head_dim as usize).filter(|row| spoilt(*row)).collect();
            assert_eq!(rows, [spoilt_row], "{kernel:?}, {live}, {splits:?}");
            let lse = output.lse.unwrap();
            let rows: Vec<usize> = (0..lse.len()).filter(|row| lse[*row].is_nan()).collect();
            assert_eq!(rows, [spoilt_row], "lse, {kernel:?}, {live}, {splits:?}");
        }
    }
}
