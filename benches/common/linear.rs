//! What the benches of linear attention share: a kernel checked before it is timed, buffers, and what a problem costs.

use wgpu_attention::linear::reference::{Hooks, linear};
use wgpu_attention::linear::tile::{Form, LinearTuning};
use wgpu_attention::{DType, Decay, Gpu, Linear, LinearInputs, LinearPlan, LinearTensors, compare};

use super::random;

/// The plan of a problem, if its kernels give the right answer on a small problem of the same variants: a wrong kernel
/// gets no number.
pub fn checked_plan(gpu: &Gpu, problem: &Linear, tuning: &LinearTuning) -> Result<LinearPlan, String> {
    let plan = problem.plan_with(gpu, tuning).map_err(|e| e.to_string())?;
    let form = plan.form();
    check(gpu, &small(problem, form), form)?;
    Ok(plan)
}

/// A problem of the same variants that the reference answers at once, with several chunks, the last of them ragged.
pub fn small(problem: &Linear, form: Form) -> Linear {
    let group = problem.heads / problem.kv_heads();
    let tokens = match form {
        Form::Step(_) => problem.tokens,
        Form::Serial(tile) | Form::Split { tile, .. } => 3 * tile.rows() + 5,
    };
    Linear {
        batch: 2,
        heads: 2 * group,
        kv_heads: Some(2),
        tokens,
        ..problem.clone()
    }
}

/// Whether the kernels of a form give the right answer; a split is made to have several segments.
pub fn check(gpu: &Gpu, problem: &Linear, form: Form) -> Result<(), String> {
    let form = match form {
        Form::Split { tile, .. } => Form::Split {
            tile,
            segment: tile.rows(),
        },
        form => form,
    };
    let tuning = LinearTuning { form: Some(form) };
    let inputs = Inputs::random(problem);
    let plan = problem.plan_with(gpu, &tuning).map_err(|e| e.to_string())?;
    let output = plan.run_blocking(&inputs.host()).map_err(|e| e.to_string())?;
    let expected = linear(problem, &inputs.host(), &Hooks::default()).map_err(|e| e.to_string())?;
    let compared = |name, actual: &[f32], expected: &[f64], dtype| {
        let result = compare::output(actual, expected, &compare::Tolerance::for_dtype(dtype));
        if result.passed() {
            return Ok(());
        }
        Err(format!("WRONG {name} {result}"))
    };
    compared("o", &output.o, &expected.o, problem.output_dtype())?;
    compared(
        "final state",
        &output.final_state.unwrap_or_default(),
        &expected.final_state.unwrap_or_default(),
        DType::F32,
    )
}

/// Inputs on the host, already rounded to the problem's storage type.
pub struct Inputs {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    log_decay: Option<Vec<f32>>,
    initial_state: Option<Vec<f32>>,
}

/// Log-decays down to this: a state that remembers some dozens of tokens.
const STRONGEST: f32 = -0.1;

/// A number from −1 to 1 as a log-decay.
fn decay(x: f32) -> f32 {
    STRONGEST * 0.5 * (1.0 + x)
}

/// Numbers that lean to the positive, so that sums over thousands of tokens do not cancel.
fn lean(x: f32) -> f32 {
    0.5 * x + 0.25
}

impl Inputs {
    pub fn random(p: &Linear) -> Self {
        let count = |heads: u32, d: u32| p.batch as usize * heads as usize * p.tokens as usize * d as usize;
        let rounded = |seed, n| {
            let numbers = random(seed, n).into_iter().map(lean);
            numbers
                .map(|x| match p.dtype {
                    DType::F32 => x,
                    DType::F16 => half::f16::from_f32(x).to_f32(),
                    DType::BF16 => half::bf16::from_f32(x).to_f32(),
                })
                .collect()
        };
        let decays = |n| Some(random(5, n).into_iter().map(decay).collect());
        Inputs {
            q: rounded(1, count(p.heads, p.head_dim)),
            k: rounded(2, count(p.kv_heads(), p.head_dim)),
            v: rounded(3, count(p.kv_heads(), p.value_dim())),
            log_decay: match p.decay {
                Decay::None => None,
                Decay::Head => decays(p.heads as usize),
                Decay::Token => decays(count(p.heads, 1)),
                Decay::Channel => decays(count(p.heads, p.head_dim)),
            },
            initial_state: p
                .initial_state
                .then(|| random(6, p.state_len() as usize).into_iter().map(lean).collect()),
        }
    }

    pub fn host(&self) -> LinearInputs<'_> {
        LinearInputs {
            q: &self.q,
            k: &self.k,
            v: &self.v,
            log_decay: self.log_decay.as_deref(),
            initial_state: self.initial_state.as_deref(),
            ..Default::default()
        }
    }
}

/// Device buffers for timing, filled with random numbers: zeros can be faster than real data.
pub struct Buffers {
    q: wgpu::Buffer,
    k: wgpu::Buffer,
    v: wgpu::Buffer,
    o: wgpu::Buffer,
    log_decay: Option<wgpu::Buffer>,
    initial_state: Option<wgpu::Buffer>,
    final_state: Option<wgpu::Buffer>,
}

impl Buffers {
    pub fn zeroless(gpu: &Gpu, p: &Linear) -> Self {
        let rows = u64::from(p.batch) * u64::from(p.tokens);
        let tensor =
            |seed, heads: u32, d: u32, dtype| filled(gpu, seed, rows * u64::from(heads) * u64::from(d), dtype, lean);
        let state = |seed| filled(gpu, seed, p.state_len(), DType::F32, lean);
        let decays = |n| Some(filled(gpu, 5, n, DType::F32, decay));
        let heads = u64::from(p.heads);
        Buffers {
            q: tensor(1, p.heads, p.head_dim, p.dtype),
            k: tensor(2, p.kv_heads(), p.head_dim, p.dtype),
            v: tensor(3, p.kv_heads(), p.value_dim(), p.dtype),
            o: tensor(4, p.heads, p.value_dim(), p.output_dtype()),
            log_decay: match p.decay {
                Decay::None => None,
                Decay::Head => decays(heads),
                Decay::Token => decays(rows * heads),
                Decay::Channel => decays(rows * heads * u64::from(p.head_dim)),
            },
            initial_state: (p.initial_state && !p.in_place).then(|| state(6)),
            final_state: p.final_state.then(|| state(7)),
        }
    }

    pub fn tensors(&self) -> LinearTensors<'_> {
        LinearTensors {
            log_decay: self.log_decay.as_ref().map(Into::into),
            initial_state: self.initial_state.as_ref().map(Into::into),
            final_state: self.final_state.as_ref().map(Into::into),
            ..LinearTensors::new(&self.q, &self.k, &self.v, &self.o)
        }
    }
}

/// A buffer of one block of random numbers, repeated.
fn filled(gpu: &Gpu, seed: u32, elements: u64, dtype: DType, map: impl Fn(f32) -> f32) -> wgpu::Buffer {
    let buffer = gpu.device().create_buffer(&wgpu::BufferDescriptor {
        label: Some("bench"),
        size: (elements * dtype.size()).next_multiple_of(4),
        usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    // Not a power of two, so that heads and sequences do not repeat each other; even, so that it ends with a word.
    let block = random(seed, 1_000_002.min(elements.next_multiple_of(2) as usize));
    let block: Vec<f32> = block.into_iter().map(map).collect();
    let bytes: Vec<u8> = match dtype {
        DType::F32 => bytemuck::cast_slice(&block).to_vec(),
        DType::F16 => block
            .iter()
            .flat_map(|x| half::f16::from_f32(*x).to_le_bytes())
            .collect(),
        DType::BF16 => block
            .iter()
            .flat_map(|x| half::bf16::from_f32(*x).to_le_bytes())
            .collect(),
    };
    let mut at = 0;
    while at < buffer.size() {
        let n = (buffer.size() - at).min(bytes.len() as u64);
        gpu.queue().write_buffer(&buffer, at, &bytes[..n as usize]);
        at += n;
    }
    buffer
}

/// Floating-point operations of a causal problem for each token and head, in chunks of this many tokens:
///
/// ```text
/// (C + 1)·(D + Dv) + 4·D·Dv
/// ```
///
/// of which the first is φ(q)·φ(k) and its product with v over the (C + 1)/2 tokens of its chunk that a token sees on
/// average, the second φ(q)ᵀ S and the update of S. With C = 0, the recurrence: 4·D·Dv.
pub fn flops_per_token(p: &Linear, chunk: u32) -> f64 {
    let (d, dv) = (f64::from(p.head_dim), f64::from(p.value_dim()));
    let inside = match (p.causal, chunk) {
        (true, 1..) => f64::from(chunk + 1) * (d + dv),
        _ => 0.0,
    };
    inside + 4.0 * d * dv
}

/// Tokens times query heads, of all batch entries.
pub fn tokens_and_heads(p: &Linear) -> f64 {
    f64::from(p.batch) * f64::from(p.heads) * f64::from(p.tokens)
}

/// Bytes that any kernel must move: q, k, v, o and log-decays once, the first and the last state once.
pub fn bytes(p: &Linear) -> f64 {
    let rows = f64::from(p.batch) * f64::from(p.tokens);
    let (h, hkv) = (f64::from(p.heads), f64::from(p.kv_heads()));
    let (d, dv) = (f64::from(p.head_dim), f64::from(p.value_dim()));
    let inputs = rows * (h * d + hkv * (d + dv)) * p.dtype.size() as f64;
    let output = rows * h * dv * p.output_dtype().size() as f64;
    let decays = 4.0
        * match p.decay {
            Decay::None => 0.0,
            Decay::Head => h,
            Decay::Token => rows * h,
            Decay::Channel => rows * h * d,
        };
    let states = f64::from(u8::from(p.initial_state) + u8::from(p.final_state)) * p.state_len() as f64 * 4.0;
    inputs + output + decays + states
}
