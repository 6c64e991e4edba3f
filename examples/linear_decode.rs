//! Linear attention the way a model uses it: a prompt in one call, which leaves a state, then one token after another, each
//! of which updates that state where it lies. However long the text, a step costs the same.
//!
//! ```text
//! cargo run --example linear_decode
//! ```

use wgpu_attention::linear::host::LinearBuffers;
use wgpu_attention::linear::reference::{Hooks, linear};
use wgpu_attention::linear::slopes;
use wgpu_attention::{Decay, Gpu, GpuOptions, Layout, Linear, LinearInputs, LinearTensors, Result, Tensor, wgpu};

const HEADS: u32 = 4;
const DIM: u32 = 64;
const PROMPT: u32 = 200;
const NEW: u32 = 20;

fn main() -> Result<()> {
    let gpu = Gpu::request_blocking(&GpuOptions::from_env()?)?;
    println!("{}", gpu.info().name);

    // The whole text. A model would make q, k and v of each new token from the last output; here they are given.
    let text = Linear {
        heads: HEADS,
        tokens: PROMPT + NEW,
        head_dim: DIM,
        decay: Decay::Head,
        // Tokens first, so that the first so many of them are one range of the buffer.
        q_layout: Layout::Bnhd,
        k_layout: Layout::Bnhd,
        v_layout: Layout::Bnhd,
        o_layout: Layout::Bnhd,
        ..Default::default()
    };
    let prompt = Linear {
        tokens: PROMPT,
        final_state: true,
        ..text.clone()
    };
    let step = Linear {
        tokens: 1,
        initial_state: true,
        in_place: true,
        ..prompt.clone()
    };

    // Lightning Attention's decays of the first of 24 layers.
    let decays = slopes::lightning(HEADS, 0, 24)?;
    let numbers = |seed: u32| -> Vec<f32> {
        let n = HEADS * (PROMPT + NEW) * DIM;
        (0..n)
            .map(|i| (f64::from(i) * 0.7 + f64::from(seed)).sin() as f32)
            .collect()
    };
    let (q, k, v) = (numbers(1), numbers(2), numbers(3));
    let inputs = LinearInputs {
        q: &q,
        k: &k,
        v: &v,
        log_decay: Some(&decays),
        ..Default::default()
    };

    // Once: plans, and buffers. The state is one of its own.
    let (first, next) = (prompt.plan(&gpu)?, step.plan(&gpu)?);
    let buffers = LinearBuffers::upload(&gpu, &text, &inputs)?;
    let state = gpu.device().create_buffer(&wgpu::BufferDescriptor {
        label: Some("state"),
        size: prompt.state_len() * 4,
        usage: wgpu::BufferUsages::STORAGE,
        mapped_at_creation: false,
    });

    // The prompt, then every step, into one encoder: nothing comes back to the host in between.
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    let whole = LinearTensors {
        final_state: Some((&state).into()),
        ..buffers.tensors()
    };
    first.encode(&mut encoder, &whole)?;
    for token in PROMPT..PROMPT + NEW {
        let at = u64::from(token * HEADS * DIM * 4);
        let tensors = LinearTensors {
            q: Tensor::at(whole.q.buffer, at),
            k: Tensor::at(whole.k.buffer, at),
            v: Tensor::at(whole.v.buffer, at),
            o: Tensor::at(whole.o.buffer, at),
            ..whole
        };
        next.encode(&mut encoder, &tensors)?;
    }
    let output = pollster::block_on(buffers.submit_and_read(&gpu, encoder))?;

    let expected = linear(&text, &inputs, &Hooks::default())?;
    let errors = output.o.iter().zip(&expected.o).map(|(a, b)| (f64::from(*a) - b).abs());
    let largest = expected.o.iter().fold(0.0f64, |m, x| m.max(x.abs()));
    let error = errors.fold(0.0, f64::max) / largest;
    println!("{PROMPT} tokens at once, {NEW} one by one: largest error {error:.1e} of the largest output");
    assert!(error < 2e-5);
    Ok(())
}
