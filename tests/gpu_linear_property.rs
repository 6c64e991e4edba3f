//! Random linear problems over the whole option space, against the float64 reference.
//!
//! A pipeline takes a software GPU a quarter of a second to compile, so that each drawn set of options that needs one
//! serves several sizes. `WGPU_ATTENTION_PROBLEMS` (default 300) and `WGPU_ATTENTION_SEED` change the draw. A problem
//! that fails is written to a case file, which `wgpu-attention run` replays.

mod common;

use common::linear::{self, DECAYS, Strength, feature_maps, judge};
use common::{Random, property, tiles};
use wgpu_attention::case::{Case, LinearCaseInputs, Op};
use wgpu_attention::linear::tile::{Form, LinearTuning};
use wgpu_attention::linear::variant::{ChunkTile, StepTile};
use wgpu_attention::{DType, Decay, FeatureMap, Gpu, Layout, Linear, LinearOutput, Strides};

/// Problems that share a set of options, hence pipelines.
const SIZES_AN_OPTION_SET: u32 = 4;

const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// Which kernels compute an option set's problems; segment lengths are drawn with sizes.
#[derive(Clone, Copy, Debug)]
enum Kernels {
    Planner,
    Step(StepTile),
    Serial(ChunkTile),
    Split(ChunkTile),
}

/// Small tiles compile fast and make a tile's edges easy to meet.
fn draw_tile(head_dim: u32, r: &mut Random) -> ChunkTile {
    let uneven = ChunkTile {
        row_groups: 2,
        row_regs: 6,
        lanes: 3,
        key_regs: 4,
        value_vecs: 1,
        chunk: 1,
        tokens: 12,
        unroll: 3,
    };
    match (head_dim, r.below(4)) {
        (65.., _) | (_, 0) => tiles::TALL,
        (_, 1) => tiles::WIDE,
        (33.., _) | (_, 2) => tiles::SMALL,
        _ => uneven,
    }
}

fn dim(r: &mut Random) -> u32 {
    match r.below(10) {
        0 => 1 + r.below(8),
        1 => 1 + r.below(64),
        2 => r.pick(&[65, 80, 96, 127]),
        3 if r.one_in(3) => r.pick(&[128, 200, 255, 256]),
        _ => r.pick(&[4, 8, 12, 16, 20, 32]),
    }
}

/// What pipelines depend on.
fn draw_options(r: &mut Random) -> (Linear, Kernels) {
    let head_dim = dim(r);
    let value_dim = r.one_in(3).then(|| dim(r));
    let mut p = Linear {
        head_dim,
        value_dim,
        dtype: r.pick(&DTYPES),
        output_dtype: r.one_in(4).then(|| r.pick(&DTYPES)),
        feature_map: feature_maps()[r.pick(&[0usize, 0, 0, 1, 2, 3, 4])].clone(),
        decay: r.pick(&DECAYS),
        normalize: r.one_in(3).then_some(1e-6),
        causal: !r.one_in(6),
        documents: r.one_in(4).then_some(1),
        initial_state: r.one_in(2),
        final_state: r.one_in(2),
        total_decay: r.one_in(3),
        state_only: r.one_in(10),
        unaligned: r.one_in(8),
        ..Linear::default()
    };
    // What the rules forbid goes.
    if !p.causal {
        p.decay = Decay::None;
    }
    if p.decay == Decay::None {
        p.total_decay = false;
    }
    if p.state_only {
        (p.causal, p.normalize, p.initial_state, p.final_state) = (true, None, true, false);
    }
    p.in_place = p.initial_state && p.final_state && r.one_in(2);
    let kernels = draw_kernels(&p, r);
    (p, kernels)
}

fn draw_kernels(p: &Linear, r: &mut Random) -> Kernels {
    let tile = draw_tile(p.head_dim, r);
    let serial = p.causal && !(p.normalize.is_some() && p.in_place && p.value_dim() > tile.columns());
    let step = p.causal && p.documents.is_none() && !p.state_only;
    match r.below(10) {
        0 => Kernels::Planner,
        1..=3 if step => Kernels::Step(tiles::step(p)),
        4..=6 if serial => Kernels::Serial(tile),
        _ => Kernels::Split(tile),
    }
}

/// What pipelines do not depend on.
fn draw_sizes(options: &Linear, kernels: Kernels, r: &mut Random) -> (Linear, LinearTuning) {
    let kv_heads = r.pick(&[1, 1, 2, 3]);
    let group = r.pick(&[1, 1, 2, 3, 4]);
    let documents = options.documents.map(|_| r.pick(&[1, 2, 3, 7]));
    let (tokens, form) = match kernels {
        Kernels::Planner => (1 + r.below(200), None),
        Kernels::Step(tile) if options.final_state => (1 + r.below(9), Some(Form::Step(tile))),
        Kernels::Step(tile) => (1, Some(Form::Step(tile))),
        Kernels::Serial(tile) => (length(tile.rows(), r), Some(Form::Serial(tile))),
        Kernels::Split(tile) => {
            let segment = tile.rows() * r.pick(&[1, 1, 2, 3, 5]);
            (length(segment, r), Some(Form::Split { tile, segment }))
        }
    };
    let mut p = Linear {
        batch: if documents.is_some() { 1 } else { r.pick(&[1, 1, 2, 3]) },
        heads: kv_heads * group,
        kv_heads: (group > 1).then_some(kv_heads),
        tokens,
        documents,
        scale: r.one_in(2).then(|| r.float(0.05, 0.4)),
        normalize: options.normalize.map(|_| r.pick(&[0.0, 1e-6, 0.1])),
        ..options.clone()
    };
    if p.output_dtype() == DType::F16 {
        // Sums over all tokens and channels stay in the type's range.
        p.scale = Some(r.float(0.1, 0.5) / p.head_dim as f32);
    }
    let (h, hkv, n, d, dv) = (p.heads, p.kv_heads(), p.tokens, p.head_dim, p.value_dim());
    p.q_layout = layout(h, n, d, r);
    p.k_layout = layout(hkv, n, d, r);
    p.v_layout = layout(hkv, n, dv, r);
    p.o_layout = layout(h, n, dv, r);
    p.decay_layout = layout(h, n, if p.decay == Decay::Channel { d } else { 1 }, r);
    (p, LinearTuning { form })
}

fn length(edge: u32, r: &mut Random) -> u32 {
    let n = match r.below(6) {
        0 => 1,
        1 => edge - 1,
        2 => edge,
        3 => edge + 1,
        4 => 2 * edge + r.below(3) - 1,
        _ => 1 + r.below(200),
    };
    n.clamp(1, 200)
}

fn layout(heads: u32, seq: u32, dim: u32, r: &mut Random) -> Layout {
    match r.below(6) {
        0 => Layout::Bnhd,
        1 => {
            // Rows apart from one another, heads innermost, gaps everywhere.
            let row = u64::from(dim) + 4;
            Layout::Strided(Strides {
                batch: row * u64::from(heads) * u64::from(seq) + 8,
                head: row,
                seq: row * u64::from(heads),
            })
        }
        _ => Layout::Bhnd,
    }
}

/// A failing problem as a file, with how to see it fail again.
fn write_case(name: &str, p: &Linear, inputs: &LinearCaseInputs, expected: &LinearOutput<f64>) -> String {
    let case = Case::linear(name, "the float64 reference", p, &inputs.inputs(), expected);
    property::write(name, &case)
}

/// One problem; what went wrong with it, if anything.
fn attempt(gpu: &Gpu, name: &str, p: &Linear, inputs: &LinearCaseInputs, tuning: &LinearTuning) -> Result<(), String> {
    let expected = linear::truth(p, &inputs.inputs());
    let what = match linear::run_judged(gpu, p, &inputs.inputs(), tuning, &expected) {
        Ok(result) => {
            if result.passed() {
                return Ok(());
            }
            result.to_string()
        }
        Err(error) => error.to_string(),
    };
    let replay = write_case(name, p, inputs, &expected);
    Err(format!("{name}: {what}\n  {replay}\n  {tuning:?}\n  {p:?}"))
}

fn share(number: u64, of: u64) {
    property::share(number, of, |gpu, name, r| {
        let (options, kernels) = draw_options(r);
        let one = |size| {
            let (p, tuning) = draw_sizes(&options, kernels, r);
            let strength = r.pick(&[Strength::Weak, Strength::Medium, Strength::Strong, Strength::Mixed]);
            let inputs = linear::random(&p, strength, r);
            attempt(gpu, &format!("linear-{name}-{size}"), &p, &inputs, &tuning)
        };
        (0..SIZES_AN_OPTION_SET).map(one).collect()
    });
}

#[test]
fn random_problems_first_half() {
    share(0, 2);
}

#[test]
fn random_problems_second_half() {
    share(1, 2);
}

#[test]
fn a_failure_is_written_and_fails_again_when_replayed() {
    let Some(gpu) = common::gpu() else { return };
    let p = Linear {
        heads: 2,
        tokens: 9,
        head_dim: 4,
        dtype: DType::F16,
        decay: Decay::Token,
        normalize: Some(0.5),
        final_state: true,
        total_decay: true,
        ..Linear::default()
    };
    let inputs = linear::random(&p, Strength::Medium, &mut Random::new(3));
    let right = linear::truth(&p, &inputs.inputs());
    let mut broken = right.clone();
    broken.o[7] += 1.0;
    for (expected, passes) in [(right, true), (broken, false)] {
        let message = write_case("replayed-linear", &p, &inputs, &expected);
        let path = message.strip_prefix("replay: wgpu-attention run ").unwrap();
        let case = Case::load(path).unwrap();
        let Op::Linear(attention) = &case.op else {
            panic!("not linear")
        };
        assert_eq!(attention.problem, p);
        let output = p.plan(&gpu).unwrap().run_blocking(&attention.inputs()).unwrap();
        let result = judge(&p, &output, &attention.expected());
        assert_eq!(result.passed(), passes, "{result}");
        if !passes {
            assert_eq!(result.o.worst.map(|e| e.index), Some(7));
        }
        std::fs::remove_file(path).unwrap();
    }
}

/// The draw covers what it is for.
#[test]
fn every_option_is_drawn() {
    type Seen = fn(&Linear, &Kernels) -> bool;
    let wanted: [(&str, Seen); 16] = [
        ("planner", |_, k| matches!(k, Kernels::Planner)),
        ("step", |_, k| matches!(k, Kernels::Step(_))),
        ("serial", |_, k| matches!(k, Kernels::Serial(_))),
        ("split", |_, k| matches!(k, Kernels::Split(_))),
        ("not causal", |p, _| !p.causal),
        ("state only", |p, _| p.state_only),
        ("documents", |p, _| p.documents.is_some()),
        ("in place", |p, _| p.in_place),
        ("total decay", |p, _| p.total_decay),
        ("normalised", |p, _| p.normalize.is_some()),
        ("unaligned", |p, _| p.unaligned),
        ("custom", |p, _| matches!(p.feature_map, FeatureMap::Custom(_))),
        ("decay per channel", |p, _| p.decay == Decay::Channel),
        ("large D", |p, _| p.head_dim > 128),
        ("odd Dv", |p, _| p.value_dim() % 2 == 1),
        ("f16", |p, _| p.output_dtype() == DType::F16),
    ];
    let drawn: Vec<_> = (0..150).map(|n| draw_options(&mut Random::new(n))).collect();
    for (name, seen) in wanted {
        assert!(drawn.iter().any(|(p, k)| seen(p, k)), "{name}");
    }
}
