//! One call from host slices to host vectors.

use crate::error::Result;
use crate::gpu::Gpu;
use crate::ops::host::{Shape, from_bytes, poisoned, submit_and_read, to_bytes, upload};
use crate::ops::linear::{Decay, Linear, LinearInputs, LinearOutput, LinearPlan, LinearTensors};
use crate::tensor::{DType, Layout};

/// A problem's tensors on the device, uploaded from the host, with outputs to fill.
#[derive(Debug)]
pub struct LinearBuffers {
    q: wgpu::Buffer,
    k: wgpu::Buffer,
    v: wgpu::Buffer,
    o: wgpu::Buffer,
    log_decay: Option<wgpu::Buffer>,
    cu_seqlens: Option<wgpu::Buffer>,
    initial_state: Option<wgpu::Buffer>,
    final_state: Option<wgpu::Buffer>,
    total_decay: Option<wgpu::Buffer>,
    problem: Linear,
}

impl LinearBuffers {
    /// Checks and uploads the inputs, in the problem's storage types and layouts; outputs are filled with NaN, but for a
    /// state that is updated in place and an o that is added to.
    ///
    /// # Errors
    /// [`crate::Error::Data`] names an input that does not fit the problem.
    pub fn upload(gpu: &Gpu, problem: &Linear, inputs: &LinearInputs<'_>) -> Result<Self> {
        inputs.check(problem)?;
        let p = problem;
        let (hkv, dv) = (p.kv_heads(), p.value_dim());
        let rows = |name, values, layout: Layout, heads, dim, dtype| {
            let shape = shape(p, heads, dim, layout);
            upload(gpu, name, &to_bytes(&shape.scatter(values), dtype))
        };
        let floats = |name, values: &[f32]| upload(gpu, name, bytemuck::cast_slice(values));
        let log_decay = match (inputs.log_decay, p.decay) {
            (Some(values), Decay::Token) => Some(rows("log_decay", values, p.decay_layout, p.heads, 1, DType::F32)?),
            (Some(values), Decay::Channel) => Some(rows(
                "log_decay",
                values,
                p.decay_layout,
                p.heads,
                p.head_dim,
                DType::F32,
            )?),
            (Some(values), _) => Some(floats("log_decay", values)?),
            (None, _) => None,
        };
        let o = match inputs.o {
            Some(values) => rows("o", values, p.o_layout, p.heads, dv, p.output_dtype())?,
            None => poisoned(gpu, "o", output_shape(p).extent() as u64 * p.output_dtype().size())?,
        };
        let (initial_state, final_state) = match (inputs.initial_state, p.in_place, p.final_state) {
            (Some(values), true, _) => (None, Some(floats("final_state", values)?)),
            (initial, _, keep) => (
                initial.map(|values| floats("initial_state", values)).transpose()?,
                keep.then(|| poisoned(gpu, "final_state", p.state_len() * 4))
                    .transpose()?,
            ),
        };
        let total = u64::from(p.sequences()) * u64::from(p.heads) * p.decay.total_len(p.head_dim);
        Ok(LinearBuffers {
            q: rows("q", inputs.q, p.q_layout, p.heads, p.head_dim, p.dtype)?,
            k: rows("k", inputs.k, p.k_layout, hkv, p.head_dim, p.dtype)?,
            v: rows("v", inputs.v, p.v_layout, hkv, dv, p.dtype)?,
            o,
            log_decay,
            cu_seqlens: inputs
                .cu_seqlens
                .map(|v| upload(gpu, "cu_seqlens", bytemuck::cast_slice(v)))
                .transpose()?,
            initial_state,
            final_state,
            total_decay: p
                .total_decay
                .then(|| poisoned(gpu, "total_decay", total * 4))
                .transpose()?,
            problem: p.clone(),
        })
    }

    /// The tensors, as `encode` takes them.
    pub fn tensors(&self) -> LinearTensors<'_> {
        LinearTensors {
            log_decay: self.log_decay.as_ref().map(Into::into),
            cu_seqlens: self.cu_seqlens.as_ref().map(Into::into),
            initial_state: self.initial_state.as_ref().map(Into::into),
            final_state: self.final_state.as_ref().map(Into::into),
            total_decay: self.total_decay.as_ref().map(Into::into),
            ..LinearTensors::new(&self.q, &self.k, &self.v, &self.o)
        }
    }

    /// Submits the encoder, waits, and brings the outputs back, contiguous.
    ///
    /// # Errors
    /// [`crate::Error::Device`] if the device is lost.
    pub async fn submit_and_read(&self, gpu: &Gpu, encoder: wgpu::CommandEncoder) -> Result<LinearOutput<f32>> {
        let p = &self.problem;
        let outputs: Vec<(&str, &wgpu::Buffer)> = [
            Some(("o", &self.o)),
            self.final_state.as_ref().map(|b| ("final_state", b)),
            self.total_decay.as_ref().map(|b| ("total_decay", b)),
        ]
        .into_iter()
        .flatten()
        .collect();
        let mut contents = submit_and_read(gpu, encoder, &outputs).await?.into_iter();
        let mut next = |dtype| {
            contents
                .next()
                .map(|bytes| from_bytes(&bytes, dtype))
                .unwrap_or_default()
        };
        let o = output_shape(p).gather(&next(p.output_dtype()));
        let final_state = p.final_state.then(|| next(DType::F32));
        let total_decay = p.total_decay.then(|| next(DType::F32));
        Ok(LinearOutput {
            o,
            final_state,
            total_decay,
        })
    }
}

impl LinearPlan {
    /// Uploads the inputs, runs, and brings the outputs back: the convenience for data that lives on the host.
    ///
    /// # Errors
    /// [`crate::Error::Data`] names an input that does not fit; [`crate::Error::Device`] if the device is lost.
    pub async fn run(&self, inputs: &LinearInputs<'_>) -> Result<LinearOutput<f32>> {
        let gpu = self.gpu();
        let buffers = LinearBuffers::upload(gpu, self.problem(), inputs)?;
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        self.encode(&mut encoder, &buffers.tensors())?;
        buffers.submit_and_read(gpu, encoder).await
    }

    /// [`LinearPlan::run`], blocking. Not for browsers, where nothing may block.
    ///
    /// # Errors
    /// As [`LinearPlan::run`].
    pub fn run_blocking(&self, inputs: &LinearInputs<'_>) -> Result<LinearOutput<f32>> {
        pollster::block_on(self.run(inputs))
    }
}

fn shape(p: &Linear, heads: u32, dim: u32, layout: Layout) -> Shape {
    Shape {
        batch: p.batch,
        heads,
        seq: p.tokens,
        dim,
        strides: layout.strides(heads, p.tokens, dim),
    }
}

fn output_shape(p: &Linear) -> Shape {
    shape(p, p.heads, p.value_dim(), p.o_layout)
}
