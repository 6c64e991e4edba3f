//! The dense op's variants.

use std::collections::BTreeMap;

use wgpu_attention::dense::tile::{self, DeviceClass, KernelChoice};
use wgpu_attention::dense::{live_variants_of, variant_of};
use wgpu_attention::shader::Variant;
use wgpu_attention::{Bias, Broadcast, Custom, CustomData, CustomElement, DType, Dense, Selection, Weighting};

use crate::{DTYPES, SMALLEST, classes, matrix_classes, subgroup_classes};

type Change = fn(&mut Dense);

/// Options that change the code, one at a time.
const OPTIONS: &[(&str, Change)] = &[
    ("softcap", |p| p.softcap = Some(30.0)),
    ("sigmoid", |p| {
        p.weighting = Weighting::Sigmoid { bias: None };
        p.sinks = false;
        p.lse = false;
    }),
    ("bias f32", |p| p.bias = bias(DType::F32)),
    ("bias f16", |p| p.bias = bias(DType::F16)),
    ("bias bf16", |p| p.bias = bias(DType::BF16)),
    ("mask", |p| p.mask = Some(Broadcast::FULL)),
    ("kv_len", |p| p.kv_len = true),
    ("documents", |p| p.documents = Some(3)),
    ("alibi", |p| p.alibi = true),
    ("sinks", |p| p.sinks = p.weighting == Weighting::Softmax),
    ("lse", |p| p.lse = p.weighting == Weighting::Softmax),
    ("custom score", |p| {
        p.custom.get_or_insert_default().score = Some(SCORE.into())
    }),
    ("custom mask", |p| {
        p.custom.get_or_insert_default().mask = Some(MASK.into())
    }),
    ("custom data", |p| p.custom = Some(custom_data())),
    ("unaligned", |p| p.unaligned = true),
    ("f16", |p| p.dtype = DType::F16),
    ("bf16", |p| p.dtype = DType::BF16),
    ("output f32", |p| p.output_dtype = Some(DType::F32)),
    ("output f16", |p| p.output_dtype = Some(DType::F16)),
    ("output bf16", |p| p.output_dtype = Some(DType::BF16)),
    ("groups", |p| p.kv_heads = Some(2)),
    ("lists of tokens", |p| p.selection = Some(TOKENS)),
    ("lists of blocks", |p| p.selection = Some(BLOCKS)),
];

const TOKENS: Selection = Selection {
    block_size: 1,
    query_block: 1,
    per_kv_head: true,
    capacity: 100,
};

const BLOCKS: Selection = Selection {
    block_size: 24,
    query_block: 64,
    per_kv_head: false,
    capacity: 8,
};

const SCORE: &str = "fn score(s: f32, at: Position) -> f32 { return s - 0.5 * f32(at.query_pos - at.key_pos); }";
const MASK: &str = "fn mask(at: Position) -> bool { return at.key % 2u == 0u; }";

fn bias(dtype: DType) -> Option<Bias> {
    Some(Bias {
        dtype,
        shape: Broadcast::FULL,
    })
}

fn custom_data() -> Custom {
    let elements = [CustomElement::F32, CustomElement::U32, CustomElement::I32];
    Custom {
        score: Some(
            "fn score(s: f32, at: Position) -> f32 { return s + a0[at.head] + f32(a1[at.key]) * f32(a2[0]); }".into(),
        ),
        mask: None,
        data: elements
            .iter()
            .enumerate()
            .map(|(n, element)| CustomData {
                name: format!("a{n}"),
                element: *element,
            })
            .collect(),
    }
}

/// Few and many queries: both kernels.
const QUERIES: [u32; 2] = [1, 300];

fn problem(queries: u32) -> Dense {
    Dense {
        heads: 8,
        queries,
        keys: 300,
        ..Dense::default()
    }
}

fn is_prefill(choice: &KernelChoice) -> bool {
    !choice.extent().interleaved
}

/// The variants of one problem on one kind of device: whole, and one of several splits where that is a thing.
fn add(variants: &mut BTreeMap<String, Variant>, p: &Dense, class: &DeviceClass) {
    let choice = tile::choose(p, class).unwrap_or_else(|error| panic!("{error}: {p:?} on {class:?}"));
    for partial in [false, true] {
        if partial && is_prefill(&choice) {
            continue;
        }
        let variant = Variant::Dense(variant_of(p, choice, partial));
        // Labels leave out what is in the code already; the code is the identity.
        variants.insert(variant.wgsl(), variant);
        add_live(variants, p, &choice, partial, class);
    }
}

/// The same over lists of live tiles, where something may mask, with the scan that writes them.
fn add_live(
    variants: &mut BTreeMap<String, Variant>,
    p: &Dense,
    choice: &KernelChoice,
    partial: bool,
    class: &DeviceClass,
) {
    let masks = p.mask.is_some() || p.bias.is_some() || p.custom.as_ref().is_some_and(|c| c.mask.is_some());
    if !masks || p.selection.is_some() {
        return;
    }
    let attend = variant_of(p, *choice, partial);
    for variant in live_variants_of(p, choice, &attend, class).map(Variant::Dense) {
        variants.insert(variant.wgsl(), variant);
    }
}

/// Everything the planner can reach, up to options in threes.
pub fn reachable() -> BTreeMap<String, Variant> {
    let mut variants = BTreeMap::new();
    add_cooperative(&mut variants);
    for queries in QUERIES {
        for class in subgroup_classes() {
            for (head_dim, dtype) in [(1, DType::F16), (64, DType::F32), (65, DType::F16), (256, DType::BF16)] {
                let p = Dense {
                    head_dim,
                    dtype,
                    ..problem(queries)
                };
                add(&mut variants, &p, &class);
            }
        }
        for class in classes() {
            for head_dim in [1, 3, 4, 40, 64, 65, 128, 256] {
                for dtype in DTYPES {
                    add(
                        &mut variants,
                        &Dense {
                            head_dim,
                            dtype,
                            ..problem(queries)
                        },
                        &class,
                    );
                }
            }
        }
        for ((_, option), class) in OPTIONS.iter().zip(subgroup_classes().iter().cycle()) {
            for head_dim in [40, 65] {
                let mut p = Dense {
                    head_dim,
                    ..problem(queries)
                };
                option(&mut p);
                add(&mut variants, &p, class);
            }
        }
        for (n, (_, first)) in OPTIONS.iter().enumerate() {
            for (_, second) in &OPTIONS[n..] {
                for head_dim in [40, 65] {
                    let mut p = Dense {
                        head_dim,
                        ..problem(queries)
                    };
                    first(&mut p);
                    second(&mut p);
                    if p.weighting != Weighting::Softmax {
                        (p.sinks, p.lse) = (false, false);
                    }
                    add(&mut variants, &p, &SMALLEST);
                }
            }
        }
        add(
            &mut variants,
            &Dense {
                head_dim: 64,
                value_dim: Some(96),
                ..problem(queries)
            },
            &SMALLEST,
        );
    }
    variants
}

/// A problem that matrices serve, with an option.
fn on_matrices(head_dim: u32, option: Option<Change>) -> Dense {
    let mut p = Dense {
        head_dim,
        dtype: DType::F16,
        ..problem(300)
    };
    if let Some(option) = option {
        option(&mut p);
    }
    p.reduced_precision = p.dtype != DType::F16;
    p
}

/// The same for split products.
fn split(p: Dense) -> Dense {
    Dense {
        dtype: if p.dtype == DType::F16 { DType::F32 } else { p.dtype },
        reduced_precision: false,
        ..p
    }
}

/// The same over a long cache.
fn cached(p: Dense) -> Dense {
    Dense {
        queries: 1,
        keys: 131_072,
        q_offset: p.q_offset.map(|_| 131_071),
        ..few(p)
    }
}

/// bf16 whose range is kept.
fn bf16(head_dim: u32) -> Dense {
    Dense {
        dtype: DType::BF16,
        reduced_precision: false,
        ..on_matrices(head_dim, None)
    }
}

/// The same for few queries of grouped heads.
fn few(p: Dense) -> Dense {
    Dense {
        queries: 3,
        kv_heads: Some(2),
        ..p
    }
}

/// Every tile on cooperative matrices, and every option on one of them.
fn add_cooperative(variants: &mut BTreeMap<String, Variant>) {
    for (n, class) in matrix_classes().into_iter().enumerate() {
        for head_dim in [3, 40, 64, 80, 128, 256] {
            add(variants, &on_matrices(head_dim, None), &class);
            add(variants, &split(on_matrices(head_dim, None)), &class);
            add(variants, &few(on_matrices(head_dim, None)), &class);
            add(variants, &few(bf16(head_dim)), &class);
            add(variants, &cached(on_matrices(head_dim, None)), &class);
            add(variants, &cached(bf16(head_dim)), &class);
        }
        // Rows that begin anywhere.
        add(variants, &few(bf16(33)), &class);
        let long = Dense {
            heads: 256,
            queries: 4096,
            keys: 4096,
            ..on_matrices(128, None)
        };
        add(variants, &long, &class);
        if class.abilities.matrices == Some(16) && class.abilities.elements.is_some() {
            let anew = |choice| matches!(choice, KernelChoice::Cooperative(tile) if tile.scores_anew);
            assert!(
                anew(tile::choose(&long, &class).unwrap()),
                "scores are kept on {class:?}"
            );
        }
        for (_, option) in OPTIONS {
            add(variants, &on_matrices(40, Some(*option)), &class);
            // The options' code does not depend on the class of the device, but on its elements.
            if n < 2 {
                add(variants, &cached(on_matrices(40, Some(*option))), &class);
            }
            if n == 0 {
                add(variants, &split(on_matrices(40, Some(*option))), &class);
                add(variants, &few(on_matrices(40, Some(*option))), &class);
            }
        }
    }
}

#[test]
fn matrices_serve_every_head_size_in_32_kib() {
    for class in matrix_classes() {
        for head_dim in [1, 8, 16, 17, 64, 65, 100, 128, 200, 256] {
            for value_dim in [1, 16, 40, 64, 80, 128, 255, 256] {
                let p = Dense {
                    value_dim: Some(value_dim),
                    ..on_matrices(head_dim, None)
                };
                let KernelChoice::Cooperative(t) = tile::choose(&p, &class).unwrap() else {
                    panic!("not on matrices: {head_dim}, {value_dim}, {class:?}")
                };
                let bytes = t.workgroup_bytes(head_dim, value_dim);
                assert!(bytes <= class.workgroup_memory && t.threads <= 1024, "{bytes}: {t:?}");
                let KernelChoice::CooperativeDecode(t) = tile::choose(&few(p), &class).unwrap() else {
                    panic!("decode is not on matrices: {head_dim}, {value_dim}, {class:?}")
                };
                let bytes = t.workgroup_bytes(head_dim, value_dim);
                assert!(bytes <= class.workgroup_memory && t.threads <= 1024, "{bytes}: {t:?}");
            }
        }
    }
}

#[test]
fn the_smallest_device_runs_every_head_size() {
    for head_dim in 1..=256 {
        for value_dim in 1..=256 {
            for queries in QUERIES {
                for (heads, selection) in [(1, None), (8, None), (8, Some(BLOCKS))] {
                    let p = Dense {
                        head_dim,
                        value_dim: Some(value_dim),
                        heads,
                        kv_heads: Some(1),
                        selection,
                        ..problem(queries)
                    };
                    let choice = tile::choose(&p, &SMALLEST).unwrap_or_else(|error| panic!("{error}: {p:?}"));
                    let (bytes, threads) = match choice {
                        // The verdict on a list takes 16 more.
                        KernelChoice::Prefill(t) => (t.workgroup_bytes(value_dim) + 16, t.threads()),
                        KernelChoice::PrefillSerial(_) => unreachable!("it has no subgroups"),
                        KernelChoice::Cooperative(_) | KernelChoice::CooperativeDecode(_) => {
                            unreachable!("it has no matrices")
                        }
                        KernelChoice::Decode(t) => (t.workgroup_bytes(), t.threads()),
                        KernelChoice::DecodeSerial(t) => (0, t.threads),
                        KernelChoice::SubgroupPrefill(s) => (s.workgroup_bytes(value_dim) + 16, s.tile.threads()),
                        KernelChoice::SubgroupDecode(s) => (s.workgroup_bytes(value_dim), s.tile.threads()),
                    };
                    let most = if selection.is_some() { 16 << 10 } else { (16 << 10) + 16 };
                    assert!(
                        bytes <= most && threads <= 256,
                        "{bytes} bytes, {threads} threads: {choice:?}"
                    );
                }
            }
        }
    }
}
