//! Problems larger than one binding or one dispatch, on devices made to look small.

mod common;

use common::{Inputs, Random, check, forced};
use wgpu_attention::dense::portable::{DecodeTile, PrefillTile};
use wgpu_attention::dense::reference::Hooks;
use wgpu_attention::dense::tile::{KernelChoice, Tuning};
use wgpu_attention::{Bias, Broadcast, DType, Dense, Error, Gpu, Layout, Weighting};

/// A device with bindings of so many bytes and so many workgroups in a dimension.
fn small(binding: u64, workgroups: u32) -> Option<Gpu> {
    let mut limits = common::limits()?;
    limits.max_storage_buffer_binding_size = binding;
    limits.max_compute_workgroups_per_dimension = workgroups;
    common::gpu_with(|o| o.limits = Some(limits))
}

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

const DECODE: KernelChoice = KernelChoice::Decode(DecodeTile {
    rows: 2,
    lanes: 2,
    slots: 8,
    key_regs: 1,
    value_lanes: 4,
    prefetch: true,
});

/// That the plan has parts, and that these give what the whole would.
fn check_parts(name: &str, gpu: &Gpu, p: &Dense, tuning: &Tuning) {
    let plan = p
        .plan_with(gpu, tuning)
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    println!("{name}: {} parts, {} splits", plan.parts(), plan.splits());
    assert!(plan.parts() > 1, "{name}: one part only");
    check(name, gpu, p, tuning);
}

/// Several heads and batch entries, 44 KiB of q in f32.
fn large() -> Dense {
    Dense {
        batch: 2,
        heads: 6,
        kv_heads: Some(2),
        queries: 60,
        keys: 70,
        head_dim: 16,
        causal: true,
        lse: true,
        ..Dense::default()
    }
}

#[test]
fn bindings_of_16_kib() {
    let Some(gpu) = small(16 << 10, 65535) else { return };
    for kernel in [PREFILL, DECODE] {
        let tuning = forced(kernel);
        check_parts("plain", &gpu, &large(), &tuning);
        let options = Dense {
            bias: Some(Bias {
                dtype: DType::F16,
                shape: Broadcast {
                    per_batch: false,
                    // The decode kernel takes the heads of a group together, so that their biases must fit together.
                    per_head: kernel == PREFILL,
                    per_query: true,
                },
            }),
            mask: Some(Broadcast::FULL),
            window_left: Some(30),
            alibi: true,
            sinks: true,
            kv_len: true,
            dtype: DType::F16,
            ..large()
        };
        check_parts("f16, bias, mask, window, ALiBi, sinks, kv_len", &gpu, &options, &tuning);
        let layouts = Dense {
            q_layout: Layout::Bnhd,
            o_layout: Layout::Bnhd,
            k_layout: Layout::packed(70, 48, 16),
            dtype: DType::F16,
            ..large()
        };
        check_parts("B N H D", &gpu, &layouts, &tuning);
        let odd = Dense {
            head_dim: 13,
            dtype: DType::BF16,
            ..large()
        };
        check_parts("odd D in bf16", &gpu, &odd, &tuning);
    }
}

#[test]
fn three_workgroups_in_a_dimension() {
    let Some(gpu) = small(1 << 20, 3) else { return };
    let p = Dense {
        batch: 5,
        heads: 8,
        queries: 30,
        ..large()
    };
    check_parts("prefill", &gpu, &p, &forced(PREFILL));
    check_parts("decode", &gpu, &p, &forced(DECODE));
    let sigmoid = Dense {
        weighting: Weighting::Sigmoid { bias: None },
        lse: false,
        ..p.clone()
    };
    check_parts("sigmoid", &gpu, &sigmoid, &forced(DECODE));
    // More rows than one dispatch takes, in each of several splits.
    for splits in [1, 2, 3] {
        let tuning = Tuning {
            kernel: Some(DECODE),
            splits: Some(splits),
            live: None,
        };
        // A merge is one dispatch: it must fit 3 × 3 workgroups of 64.
        let p = Dense {
            batch: 2,
            heads: 2,
            kv_heads: Some(1),
            queries: 20,
            keys: 100,
            head_dim: 4,
            ..p.clone()
        };
        check_parts("decode with splits", &gpu, &p, &tuning);
    }
}

#[test]
fn splits_that_the_planner_picks_fit_the_device() {
    let Some(gpu) = small(1 << 20, 3) else { return };
    // One row wants many splits, but there are three workgroups along a dimension.
    let p = Dense {
        keys: 4000,
        head_dim: 4,
        lse: true,
        ..Dense::default()
    };
    assert!((2..=3).contains(&p.plan(&gpu).unwrap().splits()));
    check("capped", &gpu, &p, &Tuning::default());
}

#[test]
fn what_cannot_be_cut_is_refused_with_the_limit() {
    let Some(gpu) = small(16 << 10, 65535) else { return };
    let limit = |p: &Dense, tuning: &Tuning| match p.plan_with(&gpu, tuning) {
        Err(Error::Limit {
            limit,
            needed,
            available,
            what,
        }) => {
            assert!(needed > available && !what.is_empty());
            println!("{what} {needed} > {limit} {available}");
            limit
        }
        other => panic!("{other:?}"),
    };
    // Every query needs all the keys of its head: 400 rows of 64 bytes.
    let keys = Dense { keys: 400, ..large() };
    assert_eq!(limit(&keys, &forced(PREFILL)), "max_storage_buffer_binding_size");
    let splits = Tuning {
        kernel: Some(DECODE),
        splits: Some(8),
        live: None,
    };
    assert_eq!(limit(&large(), &splits), "max_storage_buffer_binding_size");
    let documents = Dense {
        batch: 1,
        documents: Some(10_000),
        ..large()
    };
    assert_eq!(limit(&documents, &forced(PREFILL)), "max_storage_buffer_binding_size");
    let Some(gpu) = small(1 << 20, 2) else { return };
    let plan = large().plan_with(
        &gpu,
        &Tuning {
            kernel: Some(DECODE),
            splits: Some(8),
            live: None,
        },
    );
    assert!(
        matches!(
            plan,
            Err(Error::Limit {
                limit: "max_compute_workgroups_per_dimension",
                ..
            })
        ),
        "{plan:?}"
    );
}

#[test]
fn parts_leave_neighbours_alone() {
    // Parts of an f16 output with odd rows share words at their borders.
    let Some(gpu) = small(4 << 10, 2) else { return };
    let p = Dense {
        queries: 9,
        heads: 5,
        kv_heads: None,
        keys: 20,
        head_dim: 7,
        dtype: DType::F16,
        lse: false,
        ..large()
    };
    let inputs = Inputs::random(&p, &mut Random::new(5));
    for kernel in [PREFILL, DECODE] {
        assert!(p.plan_with(&gpu, &forced(kernel)).unwrap().parts() > 4);
        common::check_on("odd rows", &gpu, &p, &inputs, &forced(kernel), &Hooks::default());
    }
}
