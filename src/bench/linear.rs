//! Linear attention: inputs, checks, and the floors that times are held against.

use crate::bench::Failure;
use crate::bench::inputs::{Repeated, filled, random, stored};
use crate::bench::sample::{self, Sample};
use crate::compare::{self, Comparison, Tolerance};
use crate::error::Result;
use crate::gpu::Gpu;
use crate::ops::host;
use crate::ops::linear::reference::{Hooks, linear};
use crate::ops::linear::tile::{Form, LinearTuning};
use crate::ops::linear::variant::ChunkTile;
use crate::ops::linear::{Decay, Linear, LinearInputs, LinearPlan, LinearTensors};
use crate::tensor::DType;

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
    /// This one.
    Form(Form),
}

/// The plan of a problem in a form, if it gives the right answer on a small problem: a wrong kernel gets no number.
///
/// # Errors
/// [`Failure::Refused`] with the planner's error, [`Failure::Wrong`].
pub fn checked_plan(gpu: &Gpu, p: &Linear, choice: Choice) -> Result<LinearPlan, Failure> {
    let planned = p.plan(gpu)?.form();
    // Eight segments, where the planner has an opinion on the tile only.
    let split = |tile: ChunkTile| Form::Split {
        tile,
        segment: p.tokens.div_ceil(8).next_multiple_of(tile.rows()),
    };
    let form = match (choice, planned) {
        (Choice::Form(form), _) => form,
        (Choice::Serial | Choice::Other, Form::Split { tile, .. }) => Form::Serial(tile),
        (Choice::Split | Choice::Other, Form::Serial(tile)) => split(tile),
        (Choice::Serial | Choice::Other, Form::CooperativeSplit { state, .. } | Form::Carried { state, .. }) => {
            Form::Cooperative(state)
        }
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
            segment: output.rows(),
        },
        // Several chunks to a segment.
        Form::Carried { .. } => form.with_segment(2 * form.chunk()),
        form => form,
    };
    check(gpu, &small(p), &LinearTuning { form: Some(small_form) })?;
    Ok(p.plan_with(gpu, &LinearTuning { form: Some(form) })?)
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
///
/// # Errors
/// As [`checked_plan`].
pub fn step_after(gpu: &Gpu, tokens: u32) -> Result<(LinearPlan, Buffers), Failure> {
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
    let mut buffers = Buffers::new(gpu, &step)?;
    let segment = in_place(tokens.min(4096));
    let before = segment.plan(gpu)?;
    let text = Buffers::new(gpu, &segment)?;
    for _ in 0..tokens / segment.tokens {
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        before.encode(&mut encoder, &text.tensors())?;
        host::submit(gpu, encoder)?;
    }
    buffers.state = text.state;
    Ok((plan, buffers))
}

/// What q, k and v from −1 to 1 are multiplied by. With the last a state's largest elements are above 10^5, more than f16 holds, and
/// outputs are not.
const MAGNITUDES: [[f32; 3]; 2] = [[1.0, 1.0, 1.0], [1e-3, 1e3, 30.0]];

/// Whether a form gives the right answer, on numbers that f16 has room for and on states that leave it; the bounds are those of the
/// golden cases.
///
/// # Errors
/// As [`checked_plan`].
pub fn check(gpu: &Gpu, problem: &Linear, tuning: &LinearTuning) -> Result<(), Failure> {
    let p = problem;
    let plan = p.plan_with(gpu, tuning)?;
    let decays = decays(p);
    let state: Vec<f32> = random(5, p.state_len() as usize);
    for magnitudes in MAGNITUDES {
        let [q, k, v] = [0, 1, 2].map(|of| {
            let numbers = random(of as u32 + 1, elements(p)[of] as usize);
            let numbers: Vec<f32> = numbers.iter().map(|x| x * magnitudes[of]).collect();
            stored(&numbers, p.dtype)
        });
        let inputs = LinearInputs {
            q: &q,
            k: &k,
            v: &v,
            log_decay: (p.decay != Decay::None).then_some(&decays),
            initial_state: p.initial_state.then_some(&state),
            ..Default::default()
        };
        let output = plan.run_blocking(&inputs)?;
        let expected = linear(p, &inputs, &Hooks::default())?;
        let result = compare::linear(p, &output, &expected, &Tolerance::for_dtype(p.dtype));
        if !result.passed() {
            return Err(Failure::Wrong(result.to_string()));
        }
    }
    Ok(())
}

/// Log-decays from −0.1 to 0, in the problem's shape.
fn decays(p: &Linear) -> Vec<f32> {
    let rows = p.batch as usize * p.heads as usize * p.tokens as usize;
    let n = match p.decay {
        Decay::None => 0,
        Decay::Head => p.heads as usize,
        Decay::Token => rows,
        Decay::Channel => rows * p.head_dim as usize,
    };
    random(4, n).into_iter().map(|x| -0.05 * (x + 1.0)).collect()
}

/// Elements of q, k, v and o.
fn elements(p: &Linear) -> [u64; 4] {
    let count = |heads: u32, dim: u32| [p.batch, heads, p.tokens, dim].iter().map(|&x| u64::from(x)).product();
    [
        count(p.heads, p.head_dim),
        count(p.kv_heads(), p.head_dim),
        count(p.kv_heads(), p.value_dim()),
        count(p.heads, p.value_dim()),
    ]
}

/// Device buffers for timing, filled with random numbers.
#[derive(Debug)]
pub struct Buffers {
    q: wgpu::Buffer,
    k: wgpu::Buffer,
    v: wgpu::Buffer,
    o: wgpu::Buffer,
    log_decay: Option<wgpu::Buffer>,
    state: Option<wgpu::Buffer>,
}

impl Buffers {
    /// For problems without a state, or with one updated in place.
    ///
    /// # Errors
    /// [`crate::Error::Device`] if the device is lost or out of memory.
    pub fn new(gpu: &Gpu, p: &Linear) -> Result<Self> {
        let [q, k, v] = tensors(p);
        let decays = decays(p);
        let decays = (p.decay != Decay::None).then(|| filled(gpu, decays.len() as u64, &decays, DType::F32));
        let state = p.final_state.then(|| states(p).upload(gpu));
        Ok(Buffers {
            q: q.upload(gpu)?,
            k: k.upload(gpu)?,
            v: v.upload(gpu)?,
            o: Repeated::new(4, elements(p)[3], p.output_dtype()).upload(gpu)?,
            log_decay: decays.transpose()?,
            state: state.transpose()?,
        })
    }

    /// As a plan takes them.
    pub fn tensors(&self) -> LinearTensors<'_> {
        LinearTensors {
            log_decay: self.log_decay.as_ref().map(Into::into),
            final_state: self.state.as_ref().map(Into::into),
            ..LinearTensors::new(&self.q, &self.k, &self.v, &self.o)
        }
    }
}

/// What q, k and v of [`Buffers`] hold.
fn tensors(p: &Linear) -> [Repeated; 3] {
    let [q, k, v, _] = elements(p);
    [(1, q), (2, k), (3, v)].map(|(seed, n)| Repeated::new(seed, n, p.dtype))
}

/// What the states of [`Buffers`] hold.
fn states(p: &Linear) -> Repeated {
    Repeated::new(5, p.state_len(), DType::F32)
}

/// Multiplications of the reference that a check of rows may cost.
const CHECK_COST: u64 = 1 << 26;

/// Past this the log-decay of a head leaves nothing that f32 could hold of what was before.
const FORGOTTEN: f32 = -40.0;

/// A part of one head's tokens that the reference can answer by itself.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Part {
    batch: u32,
    head: u32,
    first: u32,
    tokens: u32,
    /// Tokens at its end whose rows are compared; those before lead up to them.
    rows: u32,
}

/// The beginning of the first head; the end of another, if it forgets fast enough for its beginning not to matter.
fn parts(p: &Linear) -> Vec<Part> {
    let (d, dv) = (u64::from(p.head_dim), u64::from(p.value_dim()));
    let affordable = (CHECK_COST / (d * dv)).clamp(1, u64::from(p.tokens)) as u32;
    let beginning = Part {
        batch: 0,
        head: 0,
        first: 0,
        tokens: affordable,
        rows: affordable,
    };
    if affordable == p.tokens {
        return vec![
            beginning,
            Part {
                batch: p.batch - 1,
                head: p.heads - 1,
                ..beginning
            },
        ];
    }
    let lead = affordable / 2;
    let forgets = |head: &u32| p.decay == Decay::Head && decays(p)[*head as usize] * lead as f32 <= FORGOTTEN;
    let end = (0..p.heads).rev().find(forgets).map(|head| Part {
        batch: p.batch - 1,
        head,
        first: p.tokens - affordable,
        tokens: affordable,
        rows: affordable - lead,
    });
    std::iter::once(beginning).chain(end).collect()
}

/// Runs a plan once, on buffers as they were made, and compares some rows of its output with the reference.
///
/// # Errors
/// [`Failure::Refused`] if the device fails, [`Failure::Wrong`].
pub(super) fn check_rows(gpu: &Gpu, plan: &LinearPlan, buffers: &Buffers) -> Result<Comparison, Failure> {
    let p = plan.problem();
    let dv = u64::from(p.value_dim());
    let mut sample = Sample::new(gpu, &buffers.o, p.output_dtype());
    let mut expected = vec![];
    for part in parts(p) {
        let last = part.first + part.tokens - part.rows;
        let row = (u64::from(part.batch) * u64::from(p.heads) + u64::from(part.head)) * u64::from(p.tokens);
        sample.add((row + u64::from(last)) * dv, u64::from(part.rows) * dv);
        expected.push(expected_rows(p, &part)?);
    }
    let actual = sample.run(|pass| plan.encode_in(pass, &buffers.tensors()))?;
    sample::judge(&actual, &expected, p.dtype)
}

fn expected_rows(p: &Linear, part: &Part) -> Result<Vec<f64>> {
    let [q, k, v] = tensors(p);
    let (d, dv) = (u64::from(p.head_dim), u64::from(p.value_dim()));
    let row = |heads: u32, head: u32| {
        (u64::from(part.batch) * u64::from(heads) + u64::from(head)) * u64::from(p.tokens) + u64::from(part.first)
    };
    let kv_head = part.head / (p.heads / p.kv_heads());
    let (tokens, query, key) = (
        u64::from(part.tokens),
        row(p.heads, part.head),
        row(p.kv_heads(), kv_head),
    );
    let (q, k, v) = (
        q.slice(query * d, tokens * d),
        k.slice(key * d, tokens * d),
        v.slice(key * dv, tokens * dv),
    );
    let all = decays(p);
    let decays = match p.decay {
        Decay::None => &[][..],
        Decay::Head => &all[part.head as usize..][..1],
        Decay::Token => &all[query as usize..][..tokens as usize],
        Decay::Channel => &all[(query * d) as usize..][..(tokens * d) as usize],
    };
    let len = p.head_state_len();
    let state = states(p).slice(
        (u64::from(part.batch) * u64::from(p.heads) + u64::from(part.head)) * len,
        len,
    );
    let alone = Linear {
        batch: 1,
        heads: 1,
        kv_heads: None,
        tokens: part.tokens,
        initial_state: p.initial_state && part.first == 0,
        ..p.clone()
    };
    let alone = Linear {
        in_place: p.in_place && alone.initial_state,
        ..alone
    };
    let inputs = LinearInputs {
        q: &q,
        k: &k,
        v: &v,
        log_decay: (p.decay != Decay::None).then_some(decays),
        initial_state: alone.initial_state.then_some(&state[..]),
        ..Default::default()
    };
    let mut o = linear(&alone, &inputs, &Hooks::default())?.o;
    Ok(o.split_off((part.tokens - part.rows) as usize * dv as usize))
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

/// Bytes of o and of the final states.
pub fn written_bytes(p: &Linear) -> f64 {
    let o = f64::from(p.value_dim()) * p.output_dtype().size() as f64 * tokens(p);
    o + if p.final_state { p.state_len() as f64 * 4.0 } else { 0.0 }
}

/// Bytes of memory that [`bytes`] are moved to and from: a state in place is one.
pub(super) fn stored_bytes(p: &Linear) -> f64 {
    bytes(p) - if p.in_place { p.state_len() as f64 * 4.0 } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_checked_at_both_ends() {
        let p = Linear {
            batch: 2,
            heads: 3,
            tokens: 100_000,
            head_dim: 64,
            decay: Decay::Head,
            ..Default::default()
        };
        let [beginning, end] = parts(&p)[..] else {
            panic!("two parts")
        };
        assert_eq!((beginning.first, beginning.tokens), (0, 1 << 14));
        assert_eq!((end.first + end.tokens, end.rows), (p.tokens, 1 << 13));
        assert!(decays(&p)[end.head as usize] * 8192.0 <= FORGOTTEN);
        // Nothing is forgotten without a decay.
        assert_eq!(
            parts(&Linear {
                decay: Decay::None,
                ..p.clone()
            })
            .len(),
            1
        );
        let short = parts(&Linear { tokens: 5, ..p });
        assert!(short.iter().all(|part| (part.first, part.rows) == (0, 5)) && short.len() == 2);
    }

    #[test]
    fn costs_count_every_tensor_once() {
        let p = Linear {
            batch: 2,
            heads: 4,
            tokens: 10,
            head_dim: 8,
            decay: Decay::Token,
            ..Default::default()
        };
        assert_eq!(flops(&p), f64::from(4 * 64 * 80));
        assert_eq!(bytes(&p), f64::from(80 * (4 * 8 * 4 + 4)));
    }
}
