//! One call from host slices to host vectors.
//!
//! ```no_run
//! # use wgpu_attention::{Dense, DenseInputs, Gpu, Result, TopK, TopKInputs};
//! # fn f(gpu: &Gpu, q: &[f32], k: &[f32], v: &[f32]) -> Result<()> {
//! let attention = Dense { heads: 2, queries: 100, keys: 100, causal: true, ..Default::default() };
//! let plan = TopK { attention, top_k: 8, keep: true, ..Default::default() }.plan(gpu)?;
//! let attention = DenseInputs { q, k, v, ..Default::default() };
//! let output = plan.run_blocking(&TopKInputs { attention, pooled: None })?;
//! // The first row sees one key, and keeps it.
//! assert_eq!(output.selection[..2], [1, 0]);
//! # Ok(())
//! # }
//! ```

use crate::error::Result;
use crate::gpu::Gpu;
use crate::ops::dense::host::DenseBuffers;
use crate::ops::host::{poisoned, upload};
use crate::ops::topk::{TopK, TopKInputs, TopKOutput, TopKPlan, TopKTensors};

/// A problem's tensors on the device, uploaded from the host, with outputs to fill.
#[derive(Debug)]
pub struct TopKBuffers {
    attention: DenseBuffers,
    pooled: Option<wgpu::Buffer>,
    selection: Option<wgpu::Buffer>,
}

impl TopKBuffers {
    /// Checks and uploads the inputs, in the problem's storage types and layouts; outputs are filled with NaN, the lists
    /// with what no list may hold.
    ///
    /// # Errors
    /// [`crate::Error::Data`] names an input that does not fit the problem.
    pub fn upload(gpu: &Gpu, problem: &TopK, inputs: &TopKInputs<'_>) -> Result<Self> {
        inputs.check(problem)?;
        let words = problem.selection().words(&problem.attention);
        let pooled = inputs.pooled.map(|p| upload(gpu, "pooled", bytemuck::cast_slice(p)));
        let selection = problem.keep.then(|| poisoned(gpu, "selection", words * 4));
        Ok(TopKBuffers {
            attention: DenseBuffers::upload(gpu, &problem.attention, &inputs.attention)?,
            pooled: pooled.transpose()?,
            selection: selection.transpose()?,
        })
    }

    /// Hands the tensors to `with`, as `encode` takes them.
    pub fn with_tensors<R>(&self, with: impl FnOnce(&TopKTensors<'_>) -> R) -> R {
        self.attention.with_tensors(|attention| {
            with(&TopKTensors {
                attention: *attention,
                pooled: self.pooled.as_ref().map(Into::into),
                selection: self.selection.as_ref().map(Into::into),
            })
        })
    }

    /// Submits the encoder, waits, and brings the outputs back, contiguous.
    ///
    /// # Errors
    /// [`crate::Error::Device`] if the device is lost.
    pub async fn submit_and_read(&self, gpu: &Gpu, encoder: wgpu::CommandEncoder) -> Result<TopKOutput<f32>> {
        let kept: Vec<_> = self.selection.iter().map(|buffer| ("selection", buffer)).collect();
        let (output, lists) = self.attention.submit_and_read_with(gpu, encoder, &kept).await?;
        Ok(TopKOutput {
            o: output.o,
            lse: output.lse,
            selection: lists
                .first()
                .map_or_else(Vec::new, |bytes| bytemuck::pod_collect_to_vec(bytes)),
        })
    }
}

impl TopKPlan {
    /// Uploads the inputs, runs, and brings the outputs back; the selection is empty unless the problem keeps it.
    ///
    /// # Errors
    /// [`crate::Error::Data`] names an input that does not fit; [`crate::Error::Device`] if the device is lost.
    pub async fn run(&self, inputs: &TopKInputs<'_>) -> Result<TopKOutput<f32>> {
        let gpu = self.gpu();
        let buffers = TopKBuffers::upload(gpu, self.problem(), inputs)?;
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        buffers.with_tensors(|tensors| self.encode(&mut encoder, tensors))?;
        buffers.submit_and_read(gpu, encoder).await
    }

    /// [`TopKPlan::run`], blocking. Not for browsers, where nothing may block.
    ///
    /// # Errors
    /// As [`TopKPlan::run`].
    pub fn run_blocking(&self, inputs: &TopKInputs<'_>) -> Result<TopKOutput<f32>> {
        pollster::block_on(self.run(inputs))
    }
}
