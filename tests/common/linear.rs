//! What the tests of the linear op share: random problems' inputs, and one checked run.

use wgpu_attention::case::LinearCaseInputs;
use wgpu_attention::compare::{self, LinearComparison, Tolerance};
use wgpu_attention::linear::reference::{self, Channel, Hooks};
use wgpu_attention::linear::tile::{Form, LinearTuning};
use wgpu_attention::{DType, Decay, FeatureMap, Gpu, Linear, LinearInputs, LinearOutput, Result, Tier};

use super::{Random, rounded, tiles};

pub const DECAYS: [Decay; 4] = [Decay::None, Decay::Head, Decay::Token, Decay::Channel];

/// How strong decays are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strength {
    /// States remember a thousand tokens.
    Weak,
    /// States remember a few.
    Medium,
    /// States forget most of it with every token.
    Strong,
    /// Token by token: none, little, much, and everything at once.
    Mixed,
}

impl Strength {
    pub fn draw(self, r: &mut Random) -> f32 {
        match self {
            Strength::Weak => r.float(-2e-3, 0.0),
            Strength::Medium => r.float(-0.5, 0.0),
            Strength::Strong => r.float(-8.0, -2.0),
            Strength::Mixed => match r.below(12) {
                0 => 0.0,
                1 => -1e-6,
                2 => r.float(-30.0, -8.0),
                3 if r.one_in(4) => r.pick(&[-104.0, -300.0, f32::NEG_INFINITY]),
                _ => r.float(-0.5, 0.0),
            },
        }
    }
}

/// Random inputs for everything the problem asks for. Values lean to the positive, so that no output is a small
/// difference of large numbers and a relative error means something; with a normaliser they are positive, so that the
/// denominators are far from zero.
pub fn random(p: &Linear, strength: Strength, r: &mut Random) -> LinearCaseInputs {
    let tokens = p.batch as usize * p.tokens as usize;
    let count = |heads: u32, d: u32| tokens * heads as usize * d as usize;
    let (low, high) = if p.normalize.is_some() { (0.1, 1.5) } else { (-1.0, 1.5) };
    let mut tensor = |n: usize, low: f32, high: f32, dtype: DType| -> Vec<f32> {
        (0..n).map(|_| rounded(r.float(low, high), dtype)).collect()
    };
    let q = tensor(count(p.heads, p.head_dim), low, high, p.dtype);
    let k = tensor(count(p.kv_heads(), p.head_dim), low, high, p.dtype);
    let v = tensor(count(p.kv_heads(), p.value_dim()), -0.5, 1.5, p.dtype);
    let initial_state = p
        .initial_state
        .then(|| tensor(p.state_len() as usize, 0.1, 1.5, DType::F32));
    let o = p
        .state_only
        .then(|| tensor(count(p.heads, p.value_dim()), -0.5, 1.5, p.output_dtype()));
    let decays = match p.decay {
        Decay::None => None,
        Decay::Head => Some(p.heads as usize),
        Decay::Token => Some(count(p.heads, 1)),
        Decay::Channel => Some(count(p.heads, p.head_dim)),
    };
    LinearCaseInputs {
        q,
        k,
        v,
        log_decay: decays.map(|n| (0..n).map(|_| strength.draw(r)).collect()),
        cu_seqlens: p.documents.map(|s| super::offsets(s, p.tokens, r)),
        initial_state,
        o,
    }
}

/// Numbers times another, as their storage type has them.
pub fn multiply(values: &mut [f32], by: f32, dtype: DType) {
    values.iter_mut().for_each(|x| *x = rounded(*x * by, dtype));
}

/// A custom feature map that is positive and depends on all it is told.
pub const FEATURE: &str = "fn feature(x: f32, at: Channel) -> f32 {
    let place = at.head + 2u * at.token + 3u * at.channel + select(0u, 1u, at.is_query);
    return 0.2 + x * x * f32(1u + place % 5u);
}";

/// Its twin.
fn feature(x: f64, at: &Channel) -> f64 {
    let place = at.head + 2 * at.token + 3 * at.channel + u32::from(at.is_query);
    0.2 + x * x * f64::from(1 + place % 5)
}

/// Every feature map.
pub fn feature_maps() -> [FeatureMap; 5] {
    use FeatureMap::{Custom, Elu1, Identity, Relu, Silu};
    [Identity, Silu, Relu, Elu1, Custom(FEATURE.into())]
}

/// The reference's answer.
pub fn truth(p: &Linear, inputs: &LinearInputs<'_>) -> LinearOutput<f64> {
    let hooks = Hooks {
        feature: matches!(p.feature_map, FeatureMap::Custom(_)).then_some(&feature),
    };
    reference::linear(p, inputs, &hooks).unwrap_or_else(|error| panic!("{error}: {p:?}"))
}

/// A form instead of the planner's.
pub fn forced(form: Form) -> LinearTuning {
    LinearTuning { form: Some(form) }
}

/// Plans, runs and brings back.
pub fn run(gpu: &Gpu, p: &Linear, inputs: &LinearInputs<'_>, tuning: &LinearTuning) -> Result<LinearOutput<f32>> {
    p.plan_with(gpu, tuning)?.run_blocking(inputs)
}

/// o within the bounds of its storage type, and what is f32 whatever the storage type within those of f32: inputs are
/// exact, and all arithmetic is f32.
pub fn judge(p: &Linear, actual: &LinearOutput<f32>, expected: &LinearOutput<f64>) -> LinearComparison {
    judge_on(Tier::Portable, p, actual, expected)
}

/// As [`judge`], of kernels of a tier: those on cooperative matrices have factors of f16, whatever the storage type.
pub fn judge_on(tier: Tier, p: &Linear, actual: &LinearOutput<f32>, expected: &LinearOutput<f64>) -> LinearComparison {
    let (o, states) = match (tier, p.output_dtype()) {
        (Tier::Cooperative, DType::F32) => (DType::F16, DType::F16),
        (Tier::Cooperative, dtype) => (dtype, DType::F16),
        (_, dtype) => (dtype, DType::F32),
    };
    LinearComparison {
        o: compare::output(&actual.o, &expected.o, &Tolerance::for_dtype(o)),
        ..compare::linear(p, actual, expected, &Tolerance::for_dtype(states))
    }
}

/// Plans, runs and judges.
pub fn run_judged(
    gpu: &Gpu,
    p: &Linear,
    inputs: &LinearInputs<'_>,
    tuning: &LinearTuning,
    expected: &LinearOutput<f64>,
) -> Result<LinearComparison> {
    let plan = p.plan_with(gpu, tuning)?;
    let output = plan.run_blocking(inputs)?;
    Ok(judge_on(plan.tier(), p, &output, expected))
}

/// Runs and compares, asserting that it passes.
pub fn check_on(name: &str, gpu: &Gpu, p: &Linear, inputs: &LinearInputs<'_>, tuning: &LinearTuning) {
    let result = run_judged(gpu, p, inputs, tuning, &truth(p, inputs));
    let result = result.unwrap_or_else(|error| panic!("{name}: {error}\n{p:?}\n{tuning:?}"));
    println!("{name}: {result}");
    assert!(result.passed(), "{name}: {result}\n{p:?}\n{tuning:?}");
}

/// As [`check_on`], on random inputs with decays of medium strength.
pub fn check(name: &str, gpu: &Gpu, p: &Linear, tuning: &LinearTuning) {
    let inputs = random(p, Strength::Medium, &mut Random::new(7));
    check_on(name, gpu, p, &inputs.inputs(), tuning);
}

/// Checks a form of segments without a final state, where an earlier call, begun with a state of NaN, left nothing else between its
/// dispatches: the last segment's own state is not worked out then, and nothing may come of what lies in its place.
pub fn check_unread_states(gpu: &Gpu, p: &Linear, form: Form) {
    let several = form.segment().unwrap() < p.tokens;
    let inputs = random(p, Strength::Medium, &mut Random::new(3));
    let with_final = Linear {
        initial_state: true,
        final_state: true,
        ..p.clone()
    };
    let plan = with_final.plan_with(gpu, &forced(form)).unwrap();
    assert_eq!(plan.dispatches(), 3, "{p:?} {form:?}");
    let nan = vec![f32::NAN; with_final.state_len() as usize];
    let of_nan = LinearInputs {
        initial_state: Some(&nan),
        ..inputs.inputs()
    };
    let output = plan.run_blocking(&of_nan).unwrap();
    assert!(output.final_state.unwrap().iter().all(|x| x.is_nan()));
    let without = Linear {
        final_state: false,
        ..p.clone()
    };
    let plan = without.plan_with(gpu, &forced(form)).unwrap();
    assert_eq!(plan.dispatches(), if several { 3 } else { 2 }, "{p:?} {form:?}");
    check_on("unread states", gpu, &without, &inputs.inputs(), &forced(form));
}

/// Every form that can serve the problem, small tiles, segments of one chunk and of several.
pub fn forms(p: &Linear) -> Vec<Form> {
    let split = |chunks| Form::Split {
        tile: tiles::SMALL,
        segment: chunks * tiles::SMALL.rows(),
    };
    let mut forms = vec![split(1), split(3)];
    let kept_apart = p.normalize.is_some() && p.in_place;
    if p.causal && !kept_apart {
        forms.extend([tiles::SMALL, tiles::WIDE].map(Form::Serial));
    }
    let steps = p.causal && p.documents.is_none() && !p.state_only && (p.tokens == 1 || p.final_state);
    if steps {
        forms.push(Form::Step(tiles::step(p)));
    }
    forms
}
