//! That what was measured reaches plans, and nothing where it could not serve.

mod common;

use wgpu_attention::bench::linear::{check, small};
use wgpu_attention::bench::topk::checked_plan;
use wgpu_attention::dense::portable::PrefillTile;
use wgpu_attention::dense::tile::{DeviceClass, KernelChoice, Tuning};
use wgpu_attention::linear::tile::{Form, alternatives};
use wgpu_attention::topk::score::tile::{ScoreTile, TiledTile};
use wgpu_attention::topk::select::variant::SelectTile;
use wgpu_attention::topk::{TopKTuning, score, select};
use wgpu_attention::tuned::{Tuned, TunedDense, TunedLinear, TunedTopK};
use wgpu_attention::{Decay, Dense, Gpu, Linear, Scoring, Tier, TopK, dense};

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

/// A prompt by blocks, and a step over a cache by tokens.
fn top_k() -> [TopK; 2] {
    let attention = |queries| Dense {
        heads: 2,
        queries,
        keys: 200,
        head_dim: 32,
        causal: true,
        ..Dense::default()
    };
    let blocks = TopK {
        attention: attention(200),
        top_k: 4,
        block_size: 16,
        query_block: 16,
        scoring: Scoring::Mean,
        diagonal: true,
        ..TopK::default()
    };
    let tokens = TopK {
        attention: attention(1),
        top_k: 9,
        ..TopK::default()
    };
    [blocks, tokens]
}

/// As `tune` leaves it, where these tiles were the fastest.
fn tuned_top_k(gpu: &Gpu, problem: &TopK, tuning: &TopKTuning) -> Tuned {
    let mut tuned = Tuned::new(gpu);
    tuned.topk.push(TunedTopK::new(problem, tuning, 1.0, 2.0));
    tuned
}

#[test]
fn every_top_k_tile_that_is_tried_is_right_and_comes_back() {
    let Some(gpu) = common::gpu() else { return };
    let device = DeviceClass::of_gpu(&gpu);
    for problem in top_k() {
        let planned = problem.plan(&gpu).unwrap();
        let scores = score::tile::alternatives(&problem, &device);
        let selects = select::tile::alternatives(&problem.select(), &device);
        assert!(
            scores.contains(&planned.score_tile()) && scores.len() >= 3,
            "{scores:?}"
        );
        assert!(
            selects.contains(&planned.select_tile()) && selects.len() >= 3,
            "{selects:?}"
        );
        let score = scores.into_iter().map(|tile| TopKTuning {
            score: Some(tile),
            ..TopKTuning::default()
        });
        let select = selects.into_iter().map(|tile| TopKTuning {
            select: Some(tile),
            ..TopKTuning::default()
        });
        // Others than the first are dense attention's, which has tests of its own.
        let gather = dense::tile::alternatives(&problem.gathered(), &device)
            .into_iter()
            .take(1);
        let gather = gather.map(|kernel| TopKTuning {
            gather: Tuning {
                kernel: Some(kernel),
                ..Tuning::default()
            },
            ..TopKTuning::default()
        });
        for tuning in score.chain(select).chain(gather) {
            let found = tuned_top_k(&gpu, &problem, &tuning).topk(&gpu, &problem);
            assert_eq!(found, tuning);
            let plan = checked_plan(&gpu, &problem, &found).unwrap_or_else(|e| panic!("{tuning:?}: {e}"));
            assert_eq!(plan.score_tile(), tuning.score.unwrap_or(planned.score_tile()));
            assert_eq!(plan.select_tile(), tuning.select.unwrap_or(planned.select_tile()));
            assert_eq!(plan.kernel(), tuning.gather.kernel.unwrap_or(planned.kernel()));
        }
    }
}

#[test]
fn only_top_k_problems_of_the_same_kind_get_tiles_and_those_that_run() {
    let Some(gpu) = common::gpu() else { return };
    let [problem, step] = top_k();
    let planned = problem.plan(&gpu).unwrap();
    let tuning = TopKTuning {
        select: Some(planned.select_tile()),
        ..TopKTuning::default()
    };
    let tuned = tuned_top_k(&gpu, &problem, &tuning);
    let longer = |queries, keys| TopK {
        attention: Dense {
            queries,
            keys,
            ..problem.attention.clone()
        },
        ..problem.clone()
    };
    assert_eq!(tuned.topk(&gpu, &longer(300, 300)), tuning);
    let others = [
        step,
        longer(4000, 4000),
        TopK {
            block_size: 32,
            ..problem.clone()
        },
        TopK {
            scoring: Scoring::Bound,
            ..problem.clone()
        },
        TopK {
            per_kv_head: !problem.per_kv_head,
            ..problem.clone()
        },
        TopK {
            attention: Dense {
                kv_heads: Some(0),
                ..problem.attention.clone()
            },
            ..problem.clone()
        },
    ];
    for other in others {
        assert_eq!(tuned.topk(&gpu, &other), TopKTuning::default(), "{other:?}");
    }
    let portable = gpu.with_tier(Tier::Portable).unwrap();
    assert_eq!(tuned.topk(&portable, &problem), TopKTuning::default());
    // Files can be written by hand.
    let nothing = TopKTuning {
        select: Some(SelectTile {
            threads: 0,
            ..planned.select_tile()
        }),
        ..TopKTuning::default()
    };
    let none = tuned_top_k(&gpu, &problem, &nothing).topk(&gpu, &problem);
    assert_eq!(none, TopKTuning::default());
    let too_many = TopKTuning {
        select: Some(SelectTile {
            threads: 1 << 30,
            ..planned.select_tile()
        }),
        ..TopKTuning::default()
    };
    let none = tuned_top_k(&gpu, &problem, &too_many).topk(&gpu, &problem);
    assert_eq!(none, TopKTuning::default());
}

#[test]
fn a_score_tile_with_too_many_workgroups_for_one_row_serves_nothing() {
    let Some(gpu) = common::gpu() else { return };
    let [_, step] = top_k();
    let tuning = TopKTuning {
        score: Some(ScoreTile::Tiled(TiledTile {
            row_groups: 8,
            row_regs: 4,
            lanes: 1,
            key_regs: 4,
            chunk: 4,
            unroll: 1,
        })),
        ..TopKTuning::default()
    };
    let long = |keys| TopK {
        attention: Dense {
            keys,
            ..step.attention.clone()
        },
        ..step.clone()
    };
    let most = 4 * gpu.limits().max_compute_workgroups_per_dimension;
    let topk = |keys| tuned_top_k(&gpu, &long(most), &tuning).topk(&gpu, &long(keys));
    assert_eq!(topk(most), tuning);
    assert_eq!(topk(most + 1), TopKTuning::default());
    assert!(long(most + 1).plan_with(&gpu, &tuning).is_err());
}

#[test]
fn an_invalid_problem_gets_nothing() {
    let Some(gpu) = common::gpu() else { return };
    let problem = Dense {
        keys: 300,
        ..Dense::default()
    };
    let kernel = problem.plan(&gpu).unwrap().kernel();
    let mut tuned = Tuned::new(&gpu);
    tuned.dense.push(TunedDense::new(&problem, kernel, 1.0, 2.0));
    assert_eq!(tuned.dense(&gpu, &problem).kernel, Some(kernel));
    let invalid = Dense {
        kv_heads: Some(0),
        ..problem
    };
    assert_eq!(tuned.dense(&gpu, &invalid), Tuning::default());
}
