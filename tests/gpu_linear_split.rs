//! Linear problems larger than one binding or one dispatch, on devices made to look small.

mod common;

use common::linear::{self, DECAYS, forced};
use common::tiles;
use wgpu_attention::linear::tile::Form;
use wgpu_attention::{DType, Decay, Gpu, Join, Layout, Linear};

/// A device with bindings of so many bytes and so many workgroups in a dimension.
fn small(binding: u64, workgroups: u32) -> Option<Gpu> {
    let mut limits = common::limits()?;
    limits.max_storage_buffer_binding_size = binding;
    limits.max_compute_workgroups_per_dimension = workgroups;
    common::gpu_with(|o| o.limits = Some(limits))
}

/// Several heads and batch entries, 96 KiB of o in f32.
fn large(decay: Decay) -> Linear {
    Linear {
        batch: 3,
        heads: 6,
        kv_heads: Some(2),
        tokens: 60,
        head_dim: 12,
        value_dim: Some(20),
        decay,
        initial_state: true,
        final_state: true,
        total_decay: decay != Decay::None,
        ..Linear::default()
    }
}

const SERIAL: Form = Form::Serial(tiles::SMALL);

const SPLIT: Form = Form::Split {
    tile: tiles::SMALL,
    segment: 24,
};

/// That the plan has parts, and that these give what the whole would.
fn check_parts(name: &str, gpu: &Gpu, p: &Linear, form: Form) {
    let tuning = forced(form);
    let plan = p
        .plan_with(gpu, &tuning)
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    let whole = match form {
        Form::Split { .. } | Form::CooperativeSplit { .. } | Form::Carried { .. } => 3,
        Form::Serial(_) | Form::Cooperative(_) | Form::Step(_) => 1,
    } + usize::from(p.total_decay);
    println!("{name}: {} dispatches instead of {whole}", plan.dispatches());
    assert!(plan.dispatches() > whole, "{name}: one part only");
    linear::check(name, gpu, p, &tuning);
}

#[test]
fn bindings_of_16_kib() {
    let Some(gpu) = small(16 << 10, 65535) else { return };
    for decay in DECAYS {
        let p = large(decay);
        for form in [SERIAL, SPLIT] {
            check_parts(&format!("{decay:?}"), &gpu, &p, form);
            // Heads apart by less than a binding, batch entries by more.
            let layouts = Linear {
                q_layout: Layout::Bnhd,
                k_layout: Layout::packed(60, 48, 12),
                o_layout: Layout::Bnhd,
                decay_layout: Layout::Bnhd,
                heads: 2,
                ..p.clone()
            };
            check_parts(&format!("{decay:?}, B N H D"), &gpu, &layouts, form);
        }
    }
}

#[test]
fn states_larger_than_a_binding() {
    let Some(gpu) = small(16 << 10, 65535) else { return };
    let p = Linear {
        tokens: 1,
        head_dim: 32,
        value_dim: Some(32),
        ..large(Decay::Channel)
    };
    for in_place in [false, true] {
        let p = Linear { in_place, ..p.clone() };
        check_parts("steps", &gpu, &p, Form::Step(tiles::step(&p)));
        check_parts("chunks", &gpu, &p, SERIAL);
    }
}

#[test]
fn three_workgroups_in_a_dimension() {
    let Some(gpu) = small(1 << 20, 3) else { return };
    for p in [
        large(Decay::Token),
        Linear {
            batch: 7,
            normalize: Some(0.1),
            ..large(Decay::Head)
        },
    ] {
        check_parts("serial", &gpu, &p, SERIAL);
        let p = Linear { tokens: 3, ..p };
        check_parts("steps", &gpu, &p, Form::Step(tiles::step(&p)));
    }
    // One segment with two column tiles; a state is three workgroups of the scan, one element to an invocation.
    let form = Form::Split {
        tile: tiles::SMALL,
        segment: 64,
    };
    let p = Linear {
        value_dim: Some(13),
        ..large(Decay::Token)
    };
    check_parts("a segment", &gpu, &p, form);
    // Four elements to an invocation.
    let p = Linear {
        head_dim: 32,
        value_dim: Some(20),
        ..p
    };
    check_parts("a segment, in fours", &gpu, &p, form);
}

#[test]
fn documents_of_many_heads() {
    // The states of all documents, 36 of 960 bytes, must fit together.
    let Some(gpu) = small(36 << 10, 65535) else { return };
    let p = Linear {
        batch: 1,
        heads: 12,
        documents: Some(3),
        ..large(Decay::Token)
    };
    for form in [SERIAL, SPLIT] {
        check_parts("documents", &gpu, &p, form);
    }
}

#[test]
fn parts_leave_neighbours_alone() {
    // Parts of an f16 output with odd rows share words at their borders.
    let Some(gpu) = small(4 << 10, 2) else { return };
    let p = Linear {
        heads: 5,
        kv_heads: None,
        tokens: 9,
        head_dim: 7,
        value_dim: Some(7),
        dtype: DType::F16,
        ..large(Decay::Head)
    };
    check_parts("odd rows", &gpu, &p, SERIAL);
}

#[test]
fn segments_that_the_planner_picks_fit_the_device() {
    // Few workgroups want many segments, but there are three along a dimension, and states of 16 KiB fill bindings.
    for (binding, workgroups) in [(1 << 20, 3), (64 << 10, 65535)] {
        let Some(gpu) = small(binding, workgroups) else { return };
        let p = Linear {
            tokens: 1500,
            head_dim: 8,
            value_dim: Some(8),
            decay: Decay::Token,
            ..Linear::default()
        };
        let plan = p.plan(&gpu).unwrap();
        let Form::Split { segment, .. } = plan.form() else {
            panic!("{:?}", plan.form())
        };
        assert!(p.tokens.div_ceil(segment) <= workgroups.min(16), "{segment}");
        linear::check("capped", &gpu, &p, &Default::default());
    }
}

#[test]
fn a_state_too_large_for_the_grid_of_a_scan() {
    let Some(gpu) = small(1 << 20, 3) else { return };
    // 240 numbers are four workgroups of 64, where an invocation takes one.
    let form = Form::Split {
        tile: tiles::SMALL,
        segment: 64,
    };
    let p = Linear {
        unaligned: true,
        ..large(Decay::Token)
    };
    let plan = p.plan_with(&gpu, &forced(form));
    let join = Join {
        head_dim: 12,
        value_dim: Some(20),
        ..Join::default()
    };
    for error in [plan.map(|_| ()).unwrap_err(), join.plan(&gpu).map(|_| ()).unwrap_err()] {
        let message = error.to_string();
        assert!(message.contains("max_compute_workgroups_per_dimension"), "{message}");
    }
}

/// Heads are those of the whole problem in every part.
#[test]
fn custom_feature_maps_in_parts() {
    let Some(gpu) = small(16 << 10, 65535) else { return };
    let [.., custom] = linear::feature_maps();
    for kv_heads in [2, 6] {
        let p = Linear {
            kv_heads: Some(kv_heads),
            feature_map: custom.clone(),
            ..large(Decay::Head)
        };
        for form in [SERIAL, SPLIT] {
            check_parts(&format!("{kv_heads} KV heads"), &gpu, &p, form);
        }
        let step = Linear {
            tokens: 1,
            head_dim: 32,
            value_dim: Some(32),
            ..p
        };
        check_parts("steps", &gpu, &step, Form::Step(tiles::step(&step)));
    }
}
