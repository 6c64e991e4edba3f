//! That what was measured of linear attention reaches plans, and nothing where it could not serve.

mod common;

use wgpu_attention::bench::linear::{check, small};
use wgpu_attention::dense::portable::PrefillTile;
use wgpu_attention::dense::tile::{DeviceClass, KernelChoice};
use wgpu_attention::linear::tile::{Form, alternatives};
use wgpu_attention::tuned::{Tuned, TunedDense, TunedLinear};
use wgpu_attention::{Decay, Dense, Gpu, Linear, Tier, dense};

/// One head, which every device but one of a single processor cuts into segments; and more than any has workgroups for.
fn problems() -> [Linear; 2] {
    [1, 128].map(|heads| Linear {
        heads,
        tokens: 1000,
        head_dim: 32,
        decay: Decay::Head,
        ..Linear::default()
    })
}

/// As `tune` leaves it, where this form was the fastest.
fn tuned(gpu: &Gpu, problem: &Linear, form: Form) -> Tuned {
    let mut tuned = Tuned::new(gpu);
    let planner = problem.plan(gpu).unwrap().form();
    tuned
        .linear
        .push(TunedLinear::new(problem, (form, 1.0), (planner, 2.0)));
    tuned
}

#[test]
fn every_form_that_is_tried_is_right_and_comes_back() {
    let Some(gpu) = common::gpu() else { return };
    for problem in problems() {
        let all = alternatives(&problem, &DeviceClass::of_gpu(&gpu));
        assert!(all.len() >= 3, "{all:?}");
        for form in all {
            let tuning = tuned(&gpu, &problem, form).linear(&gpu, &problem);
            assert_eq!(tuning.form, Some(form));
            let plan = problem.plan_with(&gpu, &tuning).unwrap();
            assert_eq!(plan.form(), form);
            let few = Linear {
                heads: 1,
                tokens: 1000,
                ..small(&problem)
            };
            check(&gpu, &few, &tuning).unwrap_or_else(|e| panic!("{form:?}: {e}"));
        }
    }
}

#[test]
fn only_problems_of_the_same_kind_get_a_form() {
    let Some(gpu) = common::gpu() else { return };
    let [problem, many] = problems();
    let planned = |p: &Linear| p.plan(&gpu).unwrap().form().segment().is_some();
    let all = alternatives(&problem, &DeviceClass::of_gpu(&gpu));
    let serial = all.into_iter().find(|form| form.segment().is_none()).unwrap();
    let tuned = tuned(&gpu, &problem, serial);
    let form = |gpu: &Gpu, p: &Linear| tuned.linear(gpu, p).form;

    let longer = Linear {
        tokens: 1200,
        ..problem.clone()
    };
    assert_eq!(form(&gpu, &longer), Some(serial));
    let step = Linear {
        tokens: 1,
        ..problem.clone()
    };
    let documents = Linear {
        documents: Some(3),
        ..problem.clone()
    };
    let both_ways = Linear {
        causal: false,
        decay: Decay::None,
        ..problem.clone()
    };
    let invalid = Linear {
        tokens: 0,
        ..problem.clone()
    };
    for other in [step, documents, both_ways, invalid] {
        assert_eq!(form(&gpu, &other), None, "{other:?}");
    }
    if planned(&problem) && !planned(&many) {
        assert_eq!(form(&gpu, &many), None);
    }
    let portable = gpu.with_tier(Tier::Portable).unwrap();
    assert_eq!(form(&portable, &problem), None);
}

/// Files can be written by hand.
#[test]
fn a_form_that_cannot_be_serves_nothing() {
    let Some(gpu) = common::gpu() else { return };
    let [problem, _] = problems();
    let all = alternatives(&problem, &DeviceClass::of_gpu(&gpu));
    let Some(Form::Serial(tile)) = all.into_iter().find(|form| matches!(form, Form::Serial(_))) else {
        panic!("no pass")
    };
    let nothing = wgpu_attention::linear::variant::ChunkTile { row_groups: 0, ..tile };
    let forms = [
        Form::Serial(nothing),
        Form::Split {
            tile: nothing,
            segment: 64,
        },
        Form::Split { tile, segment: 0 },
        Form::Split {
            tile,
            segment: tile.rows() + 1,
        },
    ];
    for form in forms {
        assert_eq!(
            tuned(&gpu, &problem, form).linear(&gpu, &problem).form,
            None,
            "{form:?}"
        );
    }
}

/// A tile that was measured on a device with more memory for workgroups than this one was requested with.
#[test]
fn a_dense_tile_that_does_not_fit_serves_nothing() {
    let Some(gpu) = common::gpu() else { return };
    let problem = Dense {
        queries: 300,
        keys: 300,
        ..Dense::default()
    };
    let device = DeviceClass::of_gpu(&gpu);
    let fitting = dense::tile::alternatives(&problem, &device);
    let first = *fitting.first().expect("a tile");
    let too_large = KernelChoice::Prefill(PrefillTile {
        row_groups: 16,
        lanes: 16,
        row_regs: 16,
        key_regs: 16,
        chunk: 8,
        value_chunk: 256,
        prefetch: false,
        unroll: 1,
        alternate: false,
    });
    let unsound = KernelChoice::Prefill(PrefillTile {
        row_groups: 0,
        ..match too_large {
            KernelChoice::Prefill(tile) => tile,
            _ => unreachable!(),
        }
    });
    let tuned = |kernel| {
        let mut tuned = Tuned::new(&gpu);
        tuned.dense.push(TunedDense::new(&problem, kernel, 1.0, 2.0));
        tuned.dense(&gpu, &problem).kernel
    };
    assert_eq!(tuned(first), Some(first));
    assert_eq!(tuned(too_large), None);
    assert_eq!(tuned(unsound), None);
}
