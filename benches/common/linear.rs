//! What the benches of linear attention share: inputs, checks, and the floors that times are held against.
#![allow(dead_code)]

use wgpu_attention::compare::{self, Tolerance};
use wgpu_attention::linear::reference::{Hooks, linear};
use wgpu_attention::linear::tile::{Form, LinearTuning};
use wgpu_attention::{DType, Decay, Gpu, Linear, LinearInputs, LinearPlan, LinearTensors};

use super::{filled, random, stored};

/// Which form.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Choice {
    /// The planner's.
    Planner,
    /// One dispatch.
    Serial,
    /// Three.
    Split,
    /// The one of these two that the planner does not choose.
    Other,
}

/// The plan of a problem in a form, if it gives the right answer on a small problem: a wrong kernel gets no number.
pub fn checked_plan(gpu: &Gpu, p: &Linear, choice: Choice) -> Result<LinearPlan, String> {
    let planned = p.plan(gpu).map_err(|e| e.to_string())?.form();
    // Eight segments, where the planner has an opinion on the tile only.
    let split = |tile: wgpu_attention::linear::variant::ChunkTile| Form::Split {
        tile,
        segment: p.tokens.div_ceil(8).next_multiple_of(tile.rows()),
    };
    let form = match (choice, planned) {
        (Choice::Serial | Choice::Other, Form::Split { tile, .. }) => Form::Serial(tile),
        (Choice::Split | Choice::Other, Form::Serial(tile)) => split(tile),
        (Choice::Serial | Choice::Other, Form::CooperativeSplit { output, .. }) => Form::Cooperative(output),
        (_, form) => form,
    };
    let small_form = match form {
        Form::Split { tile, .. } => Form::Split {
            tile,
            segment: 2 * tile.rows(),
        },
        Form::CooperativeSplit { state, output, .. } => Form::CooperativeSplit {
            state,
            output,
            segment: state.rows().max(output.rows()),
        },
        form => form,
    };
    check(gpu, &small(p), &LinearTuning { form: Some(small_form) })?;
    p.plan_with(gpu, &LinearTuning { form: Some(form) })
        .map_err(|e| e.to_string())
}

/// A problem of the same variants that the reference answers at once.
pub fn small(p: &Linear) -> Linear {
    Linear {
        batch: 1,
        heads: 2,
        tokens: p.tokens.min(300),
        ..p.clone()
    }
}

/// A decoding step with its buffers, the state being that after so many tokens.
pub fn step_after(gpu: &Gpu, tokens: u32) -> Result<(LinearPlan, Buffers), String> {
    let in_place = |tokens: u32| Linear {
        heads: 8,
        tokens,
        decay: Decay::Head,
        initial_state: true,
        final_state: true,
        in_place: true,
        ..Default::default()
    };
    let step = in_place(1);
    let plan = checked_plan(gpu, &step, Choice::Planner)?;
    let mut buffers = Buffers::new(gpu, &step);
    let segment = in_place(tokens.min(4096));
    let before = segment.plan(gpu).map_err(|e| e.to_string())?;
    let text = Buffers::new(gpu, &segment);
    for _ in 0..tokens / segment.tokens {
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        before
            .encode(&mut encoder, &text.tensors())
            .map_err(|e| e.to_string())?;
        gpu.queue().submit([encoder.finish()]);
    }
    buffers.state = text.state;
    Ok((plan, buffers))
}

/// Whether a form gives the right answer; the bounds are those of the golden cases.
pub fn check(gpu: &Gpu, problem: &Linear, tuning: &LinearTuning) -> Result<(), String> {
    let p = problem;
    let rows = |seed: u32, heads: u32, dim: u32| -> Vec<f32> {
        let n = p.batch as usize * heads as usize * p.tokens as usize * dim as usize;
        random(seed, n).into_iter().map(|x| stored(x, p.dtype)).collect()
    };
    let (q, k, v) = (
        rows(1, p.heads, p.head_dim),
        rows(2, p.kv_heads(), p.head_dim),
        rows(3, p.kv_heads(), p.value_dim()),
    );
    let decays = decays(p);
    let state: Vec<f32> = random(5, p.state_len() as usize);
    let inputs = LinearInputs {
        q: &q,
        k: &k,
        v: &v,
        log_decay: (p.decay != Decay::None).then_some(&decays),
        initial_state: p.initial_state.then_some(&state),
        ..Default::default()
    };
    let plan = p.plan_with(gpu, tuning).map_err(|e| e.to_string())?;
    let output = plan.run_blocking(&inputs).map_err(|e| e.to_string())?;
    let expected = linear(p, &inputs, &Hooks::default()).map_err(|e| e.to_string())?;
    let result = compare::linear(p, &output, &expected, &Tolerance::for_dtype(p.dtype));
    match result.passed() {
        true => Ok(()),
        false => Err(format!("WRONG {result}")),
    }
}

/// Log-decays from −0.1 to 0, in the problem's shape.
fn decays(p: &Linear) -> Vec<f32> {
    let tokens = p.batch as usize * p.heads as usize * p.tokens as usize;
    let n = match p.decay {
        Decay::None => 0,
        Decay::Head => p.heads as usize,
        Decay::Token => tokens,
        Decay::Channel => tokens * p.head_dim as usize,
    };
    random(4, n).into_iter().map(|x| -0.05 * (x + 1.0)).collect()
}

/// Device buffers for timing, filled with random numbers.
pub struct Buffers {
    q: wgpu::Buffer,
    k: wgpu::Buffer,
    v: wgpu::Buffer,
    o: wgpu::Buffer,
    log_decay: Option<wgpu::Buffer>,
    state: Option<wgpu::Buffer>,
}

impl Buffers {
    pub fn new(gpu: &Gpu, p: &Linear) -> Self {
        let rows = |heads: u32, dim: u32| u64::from(p.batch) * u64::from(heads) * u64::from(p.tokens) * u64::from(dim);
        let make = |seed: u32, elements: u64, dtype: DType| {
            let block = random(seed, (1 << 20).min(elements as usize));
            filled(gpu, elements, &block, dtype)
        };
        let decays = decays(p);
        Buffers {
            q: make(1, rows(p.heads, p.head_dim), p.dtype),
            k: make(2, rows(p.kv_heads(), p.head_dim), p.dtype),
            v: make(3, rows(p.kv_heads(), p.value_dim()), p.dtype),
            o: make(4, rows(p.heads, p.value_dim()), p.output_dtype()),
            log_decay: (p.decay != Decay::None).then(|| filled(gpu, decays.len() as u64, &decays, DType::F32)),
            state: p.final_state.then(|| make(5, p.state_len(), DType::F32)),
        }
    }

    /// For problems without a state, or with one updated in place.
    pub fn tensors(&self) -> LinearTensors<'_> {
        LinearTensors {
            log_decay: self.log_decay.as_ref().map(Into::into),
            final_state: self.state.as_ref().map(Into::into),
            ..LinearTensors::new(&self.q, &self.k, &self.v, &self.o)
        }
    }
}

/// Operations that no form can do without: every token multiplies a key with a value into the state and a query with the
/// state, 2·D·Dv multiplications and as many additions. Chunks trade some of it for products of queries and keys.
pub fn flops(p: &Linear) -> f64 {
    4.0 * f64::from(p.head_dim) * f64::from(p.value_dim()) * tokens(p)
}

/// Tokens of all heads.
pub fn tokens(p: &Linear) -> f64 {
    f64::from(p.batch) * f64::from(p.heads) * f64::from(p.tokens)
}

/// Bytes that every form moves at least: q, k, v and the decays read once, o written once, states read and written.
pub fn bytes(p: &Linear) -> f64 {
    let kv = f64::from(p.kv_heads()) / f64::from(p.heads);
    let (d, dv) = (f64::from(p.head_dim), f64::from(p.value_dim()));
    let decay = match p.decay {
        Decay::None | Decay::Head => 0.0,
        Decay::Token => 4.0,
        Decay::Channel => 4.0 * d,
    };
    let size = p.dtype.size() as f64;
    let row = (d + kv * (d + dv)) * size + dv * p.output_dtype().size() as f64 + decay;
    let states = f64::from(u8::from(p.initial_state) + u8::from(p.final_state)) * p.state_len() as f64 * 4.0;
    row * tokens(p) + states
}
