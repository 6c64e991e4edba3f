//! One call from host slices to host vectors.
//!
//! ```no_run
//! use wgpu_attention::dense::host::DenseBuffers;
//! # use wgpu_attention::{DenseInputs, DensePlan, Result};
//! # async fn f(plan: &DensePlan, inputs: &DenseInputs<'_>) -> Result<()> {
//! // What `DensePlan::run` does, step by step: e.g. to run many times on inputs uploaded once.
//! let gpu = plan.gpu();
//! let buffers = DenseBuffers::upload(gpu, plan.problem(), inputs)?;
//! let mut encoder = gpu.device().create_command_encoder(&Default::default());
//! buffers.with_tensors(|tensors| plan.encode(&mut encoder, tensors))?;
//! let output = buffers.submit_and_read(gpu, encoder).await?;
//! # Ok(())
//! # }
//! ```

use crate::error::Result;
use crate::gpu::Gpu;
use crate::ops::dense::{Dense, DenseInputs, DenseOutput, DensePlan, DenseTensors};
use crate::ops::host::{Shape, from_bytes, poisoned, submit_and_read, to_bytes, upload};
use crate::tensor::{DType, Layout, Tensor};

/// A problem's tensors on the device, uploaded from the host, with outputs to fill.
#[derive(Debug)]
pub struct DenseBuffers {
    q: wgpu::Buffer,
    k: wgpu::Buffer,
    v: wgpu::Buffer,
    o: wgpu::Buffer,
    lse: Option<wgpu::Buffer>,
    bias: Option<wgpu::Buffer>,
    mask: Option<wgpu::Buffer>,
    kv_len: Option<wgpu::Buffer>,
    cu_seqlens_q: Option<wgpu::Buffer>,
    cu_seqlens_k: Option<wgpu::Buffer>,
    alibi_slopes: Option<wgpu::Buffer>,
    sinks: Option<wgpu::Buffer>,
    selection: Option<wgpu::Buffer>,
    custom_data: Vec<wgpu::Buffer>,
    problem: Dense,
}

impl DenseBuffers {
    /// Checks and uploads the inputs, in the problem's storage types and layouts; outputs are filled with NaN.
    ///
    /// # Errors
    /// [`crate::Error::Data`] names an input that does not fit the problem.
    pub fn upload(gpu: &Gpu, problem: &Dense, inputs: &DenseInputs<'_>) -> Result<Self> {
        inputs.check(problem)?;
        let p = problem;
        let (hkv, dv) = (p.kv_heads(), p.value_dim());
        let rows = |name, values, layout: Layout, heads, seq, dim| {
            let shape = shape(p.batch, heads, seq, dim, layout);
            upload(gpu, name, &to_bytes(&shape.scatter(values), p.dtype))
        };
        let words =
            |name, values: Option<&[i32]>| values.map(|v| upload(gpu, name, bytemuck::cast_slice(v))).transpose();
        let floats =
            |name, values: Option<&[f32]>, dtype| values.map(|v| upload(gpu, name, &to_bytes(v, dtype))).transpose();
        let o = output_shape(p).extent() as u64 * p.output_dtype().size();
        let lse = u64::from(p.batch) * u64::from(p.heads) * u64::from(p.queries) * 4;
        Ok(DenseBuffers {
            q: rows("q", inputs.q, p.q_layout, p.heads, p.queries, p.head_dim)?,
            k: rows("k", inputs.k, p.k_layout, hkv, p.keys, p.head_dim)?,
            v: rows("v", inputs.v, p.v_layout, hkv, p.keys, dv)?,
            o: poisoned(gpu, "o", o)?,
            lse: p.lse.then(|| poisoned(gpu, "lse", lse)).transpose()?,
            bias: floats("bias", inputs.bias, p.bias.map_or(DType::F32, |b| b.dtype))?,
            mask: inputs.mask.map(|m| upload(gpu, "mask", m)).transpose()?,
            kv_len: words("kv_len", inputs.kv_len)?,
            cu_seqlens_q: words("cu_seqlens_q", inputs.cu_seqlens_q)?,
            cu_seqlens_k: words("cu_seqlens_k", inputs.cu_seqlens_k)?,
            alibi_slopes: floats("alibi_slopes", inputs.alibi_slopes, DType::F32)?,
            sinks: floats("sinks", inputs.sinks, DType::F32)?,
            selection: inputs
                .selection
                .map(|s| upload(gpu, "selection", bytemuck::cast_slice(s)))
                .transpose()?,
            custom_data: inputs
                .custom_data
                .iter()
                .map(|d| upload(gpu, "custom_data", bytemuck::cast_slice(d)))
                .collect::<Result<_>>()?,
            problem: p.clone(),
        })
    }

    /// Hands the tensors to `with`, as `encode` takes them.
    pub fn with_tensors<R>(&self, with: impl FnOnce(&DenseTensors<'_>) -> R) -> R {
        let custom_data: Vec<Tensor<'_>> = self.custom_data.iter().map(Into::into).collect();
        let tensors = DenseTensors {
            lse: self.lse.as_ref().map(Into::into),
            bias: self.bias.as_ref().map(Into::into),
            mask: self.mask.as_ref().map(Into::into),
            kv_len: self.kv_len.as_ref().map(Into::into),
            cu_seqlens_q: self.cu_seqlens_q.as_ref().map(Into::into),
            cu_seqlens_k: self.cu_seqlens_k.as_ref().map(Into::into),
            alibi_slopes: self.alibi_slopes.as_ref().map(Into::into),
            sinks: self.sinks.as_ref().map(Into::into),
            selection: self.selection.as_ref().map(Into::into),
            custom_data: &custom_data,
            ..DenseTensors::new(&self.q, &self.k, &self.v, &self.o)
        };
        with(&tensors)
    }

    /// Submits the encoder, waits, and brings the outputs back, contiguous.
    ///
    /// # Errors
    /// [`crate::Error::Device`] if the device is lost.
    pub async fn submit_and_read(&self, gpu: &Gpu, encoder: wgpu::CommandEncoder) -> Result<DenseOutput<f32>> {
        let (output, _) = self.submit_and_read_with(gpu, encoder, &[]).await?;
        Ok(output)
    }

    /// As [`DenseBuffers::submit_and_read`], with the contents of other buffers too.
    pub(crate) async fn submit_and_read_with(
        &self,
        gpu: &Gpu,
        encoder: wgpu::CommandEncoder,
        others: &[(&'static str, &wgpu::Buffer)],
    ) -> Result<(DenseOutput<f32>, Vec<Vec<u8>>)> {
        let p = &self.problem;
        let lse = self.lse.as_ref().map(|lse| ("lse", lse));
        let outputs: Vec<_> = others.iter().copied().chain([("o", &self.o)]).chain(lse).collect();
        let mut contents = submit_and_read(gpu, encoder, &outputs).await?;
        let own = contents.split_off(others.len());
        let o = from_bytes(&own[0], p.output_dtype());
        let lse = own.get(1).map(|bytes| from_bytes(bytes, DType::F32));
        let o = output_shape(p).gather(&o);
        Ok((DenseOutput { o, lse }, contents))
    }
}

impl DensePlan {
    /// Uploads the inputs, runs, and brings the outputs back: the convenience for data that lives on the host.
    ///
    /// # Errors
    /// [`crate::Error::Data`] names an input that does not fit; [`crate::Error::Device`] if the device is lost.
    pub async fn run(&self, inputs: &DenseInputs<'_>) -> Result<DenseOutput<f32>> {
        let gpu = self.gpu();
        let buffers = DenseBuffers::upload(gpu, self.problem(), inputs)?;
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        buffers.with_tensors(|tensors| self.encode(&mut encoder, tensors))?;
        buffers.submit_and_read(gpu, encoder).await
    }

    /// [`DensePlan::run`], blocking. Not for browsers, where nothing may block.
    ///
    /// # Errors
    /// As [`DensePlan::run`].
    pub fn run_blocking(&self, inputs: &DenseInputs<'_>) -> Result<DenseOutput<f32>> {
        pollster::block_on(self.run(inputs))
    }
}

fn shape(batch: u32, heads: u32, seq: u32, dim: u32, layout: Layout) -> Shape {
    Shape {
        batch,
        heads,
        seq,
        dim,
        strides: layout.strides(heads, seq, dim),
    }
}

fn output_shape(p: &Dense) -> Shape {
    shape(p.batch, p.heads, p.queries, p.value_dim(), p.o_layout)
}
