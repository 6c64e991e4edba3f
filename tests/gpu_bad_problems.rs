//! Problems and tiles with mistakes, and devices too small for them: each has its own clear error, none panics or
//! reaches wgpu's validation, and the device works afterwards.

mod common;

use common::mistakes::{assert_says, assert_unharmed, good, strided, watched};
use wgpu_attention::dense::portable::{DecodeTile, PrefillTile};
use wgpu_attention::dense::tile::{KernelChoice, Tuning};
use wgpu_attention::{Bias, Broadcast, Custom, CustomData, CustomElement, Dense, Merge, Tier, Weighting};

#[test]
fn problems_that_make_no_sense() {
    let Some((gpu, complaints)) = watched() else { return };
    let sigmoid = Weighting::Sigmoid { bias: None };
    let far = 1 << 29;
    let bad: Vec<(&str, Dense, &[&str])> = vec![
        ("batch 0", Dense { batch: 0, ..good() }, &["`batch` is 0", "1 to"]),
        ("heads 0", Dense { heads: 0, ..good() }, &["`heads` is 0", "1 to"]),
        (
            "kv_heads 0",
            Dense {
                kv_heads: Some(0),
                ..good()
            },
            &["`kv_heads` is 0", "divisor"],
        ),
        (
            "H no multiple of Hkv",
            Dense {
                kv_heads: Some(3),
                ..good()
            },
            &["`kv_heads` is 3", "divisor", "4"],
        ),
        ("queries 0", Dense { queries: 0, ..good() }, &["`queries` is 0", "1 to"]),
        ("keys 0", Dense { keys: 0, ..good() }, &["`keys` is 0", "1 to"]),
        (
            "too many keys",
            Dense { keys: far, ..good() },
            &["`keys`", "1 to 268435456"],
        ),
        (
            "D = 0",
            Dense { head_dim: 0, ..good() },
            &["`head_dim` is 0", "1 to 256"],
        ),
        (
            "D = 257",
            Dense {
                head_dim: 257,
                ..good()
            },
            &["`head_dim` is 257", "1 to 256"],
        ),
        (
            "Dv = 0",
            Dense {
                value_dim: Some(0),
                ..good()
            },
            &["`value_dim` is 0", "1 to 256"],
        ),
        (
            "Dv = 300",
            Dense {
                value_dim: Some(300),
                ..good()
            },
            &["`value_dim` is 300", "1 to 256"],
        ),
        (
            "NaN scale",
            Dense {
                scale: Some(f32::NAN),
                ..good()
            },
            &["`scale` is NaN", "finite"],
        ),
        (
            "infinite scale",
            Dense {
                scale: Some(f32::INFINITY),
                ..good()
            },
            &["`scale` is inf", "finite"],
        ),
        (
            "softcap 0",
            Dense {
                softcap: Some(0.0),
                ..good()
            },
            &["`softcap` is 0", "above 0"],
        ),
        (
            "negative softcap",
            Dense {
                softcap: Some(-1.0),
                ..good()
            },
            &["`softcap` is -1", "above 0"],
        ),
        (
            "NaN softcap",
            Dense {
                softcap: Some(f32::NAN),
                ..good()
            },
            &["`softcap` is NaN", "above 0"],
        ),
        (
            "NaN sigmoid bias",
            Dense {
                weighting: Weighting::Sigmoid { bias: Some(f32::NAN) },
                ..good()
            },
            &["`weighting.bias` is NaN", "finite"],
        ),
        (
            "q_offset",
            Dense {
                q_offset: Some(i32::MIN),
                ..good()
            },
            &["`q_offset` is -2147483648", "268435456"],
        ),
        (
            "sink_tokens",
            Dense {
                sink_tokens: far,
                ..good()
            },
            &["`sink_tokens`", "0 to"],
        ),
        ("prefix", Dense { prefix: far, ..good() }, &["`prefix`", "0 to"]),
        (
            "sigmoid sinks",
            Dense {
                weighting: sigmoid,
                sinks: true,
                ..good()
            },
            &["`sinks` is true", "sigmoid"],
        ),
        (
            "sigmoid lse",
            Dense {
                weighting: sigmoid,
                lse: true,
                ..good()
            },
            &["`lse` is true", "sigmoid"],
        ),
        (
            "documents in a batch",
            Dense {
                documents: Some(2),
                ..good()
            },
            &["`batch` is 2", "documents"],
        ),
        (
            "no documents",
            Dense {
                batch: 1,
                documents: Some(0),
                ..good()
            },
            &["`documents` is 0", "1 to"],
        ),
        (
            "o's rows overlap",
            Dense {
                o_layout: strided(96, 24, 7),
                ..good()
            },
            &["`o_layout`", "place of its own"],
        ),
        (
            "o's heads overlap",
            Dense {
                o_layout: strided(96, 0, 8),
                ..good()
            },
            &["`o_layout`", "place of its own"],
        ),
        (
            "strides without end",
            Dense {
                k_layout: strided(u64::MAX, 8, 8),
                ..good()
            },
            &["`k_layout`", "48 bits"],
        ),
        (
            "a bias without end",
            Dense {
                batch: 1 << 20,
                keys: 1 << 28,
                queries: 1 << 20,
                head_dim: 1,
                k_layout: strided(0, 0, 0),
                v_layout: strided(0, 0, 0),
                bias: Some(Bias {
                    dtype: Default::default(),
                    shape: Broadcast::FULL,
                }),
                ..good()
            },
            &["`bias`", "elements"],
        ),
    ];
    for (what, problem, words) in &bad {
        assert_says(what, problem.plan(&gpu), "Invalid", words);
    }
    assert!(bad.len() >= 28);
    assert_unharmed(&gpu, &complaints);
}

#[test]
fn tiles_that_make_no_sense() {
    let Some((gpu, complaints)) = watched() else { return };
    let prefill = PrefillTile {
        row_groups: 8,
        row_regs: 2,
        lanes: 8,
        key_regs: 4,
        chunk: 4,
        value_chunk: 4,
        prefetch: true,
        unroll: 2,
        alternate: true,
    };
    let decode = DecodeTile {
        rows: 2,
        lanes: 2,
        slots: 16,
        key_regs: 1,
        value_lanes: 4,
        prefetch: true,
    };
    let unsound = [
        KernelChoice::Prefill(PrefillTile { row_regs: 0, ..prefill }),
        KernelChoice::Prefill(PrefillTile { key_regs: 3, ..prefill }),
        KernelChoice::Prefill(PrefillTile {
            value_chunk: 12,
            ..prefill
        }),
        KernelChoice::Prefill(PrefillTile {
            chunk: u32::MAX,
            ..prefill
        }),
        KernelChoice::Decode(DecodeTile { lanes: 0, ..decode }),
        KernelChoice::Decode(DecodeTile {
            value_lanes: 3,
            ..decode
        }),
        KernelChoice::Decode(DecodeTile { rows: 8, ..decode }),
    ];
    for kernel in unsound {
        let plan = good().plan_with(
            &gpu,
            &Tuning {
                kernel: Some(kernel),
                splits: None,
                live: None,
            },
        );
        assert_says("an unsound tile", plan, "Invalid", &["tuning.kernel", "rules"]);
    }
    let many = KernelChoice::Prefill(PrefillTile {
        row_groups: 256,
        row_regs: 1,
        lanes: 64,
        ..prefill
    });
    let plan = good().plan_with(
        &gpu,
        &Tuning {
            kernel: Some(many),
            splits: None,
            live: None,
        },
    );
    assert_says(
        "too many invocations",
        plan,
        "Limit",
        &["max_compute_invocations_per_workgroup"],
    );
    let large = KernelChoice::Prefill(PrefillTile {
        row_groups: 8,
        row_regs: 256,
        ..prefill
    });
    let plan = good().plan_with(
        &gpu,
        &Tuning {
            kernel: Some(large),
            splits: None,
            live: None,
        },
    );
    assert_says(
        "too much memory",
        plan,
        "Limit",
        &["max_compute_workgroup_storage_size"],
    );
    for splits in [0, 1 << 30] {
        let tuning = Tuning {
            kernel: Some(KernelChoice::Decode(decode)),
            splits: Some(splits),
            live: None,
        };
        assert_says(
            "splits",
            good().plan_with(&gpu, &tuning),
            "Invalid",
            &["tuning.splits", "1 to"],
        );
    }
    assert_unharmed(&gpu, &complaints);
}

#[test]
fn merges_that_make_no_sense() {
    let Some((gpu, complaints)) = watched() else { return };
    let m = Merge::default();
    let bad: Vec<(&str, Merge, &str, &[&str])> = vec![
        (
            "no parts",
            Merge { parts: 0, ..m.clone() },
            "Invalid",
            &["`parts` is 0", "1 to"],
        ),
        (
            "Dv = 0",
            Merge {
                value_dim: 0,
                ..m.clone()
            },
            "Invalid",
            &["`value_dim` is 0", "1 to 256"],
        ),
        (
            "additive lse",
            Merge {
                additive: true,
                lse: true,
                ..m.clone()
            },
            "Invalid",
            &["`lse` is true", "false"],
        ),
        (
            "overlap",
            Merge {
                queries: 2,
                o_layout: strided(0, 0, 1),
                ..m.clone()
            },
            "Invalid",
            &["`o_layout`"],
        ),
        (
            "too large",
            Merge {
                parts: 1 << 28,
                batch: 1 << 14,
                heads: 1 << 14,
                queries: 1 << 12,
                ..m.clone()
            },
            "Limit",
            &["max_storage_buffer_binding_size", "parts_o"],
        ),
    ];
    for (what, merge, kind, words) in &bad {
        assert_says(what, merge.plan(&gpu), kind, words);
    }
    assert_unharmed(&gpu, &complaints);
}

#[test]
fn more_storage_buffers_than_the_device_has() {
    let Some(gpu) = common::gpu_with(|o| o.minimal = true) else {
        return;
    };
    let most = gpu.limits().max_storage_buffers_per_shader_stage;
    let p = Dense {
        custom: Some(Custom {
            score: Some("fn score(s: f32, at: Position) -> f32 { return s; }".into()),
            mask: None,
            data: (0..most)
                .map(|n| CustomData {
                    name: format!("array{n}"),
                    element: CustomElement::U32,
                })
                .collect(),
        }),
        ..good()
    };
    let words = ["max_storage_buffers_per_shader_stage", "custom data"];
    assert_says("too many buffers", p.plan(&gpu), "Limit", &words);
}

#[test]
fn workgroup_memory_that_is_too_small() {
    let Some(mut limits) = common::limits() else { return };
    limits.max_compute_workgroup_storage_size = 2048;
    let Some(gpu) = common::gpu_with(|o| o.limits = Some(limits)) else {
        return;
    };
    // Software GPUs with subgroups have a kernel that needs none.
    let portable = gpu.with_tier(Tier::Portable).unwrap();
    let many = Dense { queries: 100, ..good() };
    assert_says(
        "2 KiB",
        many.plan(&portable),
        "Limit",
        &["max_compute_workgroup_storage_size", "2048"],
    );
}
