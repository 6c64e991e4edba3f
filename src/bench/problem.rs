//! A problem of any op, as the benchmark names and counts it.

use super::{dense, linear, problems, topk};
use crate::gpu::Gpu;
use crate::ops::dense::{Dense, Weighting};
use crate::ops::linear::{Decay, Linear};
use crate::ops::topk::TopK;
use crate::tensor::DType;

/// A problem of any op.
#[derive(Clone, Debug, PartialEq)]
pub enum Problem {
    /// Dense attention.
    Dense(Dense),
    /// Linear attention.
    Linear(Linear),
    /// Top-k attention.
    TopK(TopK),
}

impl Problem {
    /// `"dense"`, `"linear"` or `"topk"`.
    pub fn op(&self) -> &'static str {
        match self {
            Problem::Dense(_) => "dense",
            Problem::Linear(_) => "linear",
            Problem::TopK(_) => "topk",
        }
    }

    /// Its numbers and options, with `/` between them.
    pub fn name(&self) -> String {
        match self {
            Problem::Dense(p) => problems::dense_name(p),
            Problem::Linear(p) => problems::linear_name(p),
            Problem::TopK(p) => problems::top_k_name(p),
        }
    }

    /// Storage of q, k and v.
    pub fn dtype(&self) -> DType {
        match self {
            Problem::Dense(p) => p.dtype,
            Problem::Linear(p) => p.dtype,
            Problem::TopK(p) => p.attention.dtype,
        }
    }

    /// Batch entries.
    pub fn batch(&self) -> u32 {
        match self {
            Problem::Dense(p) => p.batch,
            Problem::Linear(p) => p.batch,
            Problem::TopK(p) => p.attention.batch,
        }
    }

    /// Query heads and KV heads.
    pub fn heads(&self) -> (u32, u32) {
        match self {
            Problem::Dense(p) => (p.heads, p.kv_heads()),
            Problem::Linear(p) => (p.heads, p.kv_heads()),
            Problem::TopK(p) => (p.attention.heads, p.attention.kv_heads()),
        }
    }

    /// Queries and keys; of linear attention, tokens.
    pub fn lengths(&self) -> (u32, u32) {
        match self {
            Problem::Dense(p) => (p.queries, p.keys),
            Problem::Linear(p) => (p.tokens, p.tokens),
            Problem::TopK(p) => (p.attention.queries, p.attention.keys),
        }
    }

    /// D and Dv.
    pub fn dims(&self) -> (u32, u32) {
        match self {
            Problem::Dense(p) => (p.head_dim, p.value_dim()),
            Problem::Linear(p) => (p.head_dim, p.value_dim()),
            Problem::TopK(p) => (p.attention.head_dim, p.attention.value_dim()),
        }
    }

    /// `"full"`, `"causal"`, or `"window 256"`.
    pub fn mask(&self) -> String {
        match self {
            Problem::Dense(p) => problems::mask_name(p),
            Problem::Linear(p) => if p.causal { "causal" } else { "full" }.into(),
            Problem::TopK(p) => problems::mask_name(&p.attention),
        }
    }

    /// `"softmax"` or `"sigmoid"`; linear attention has none.
    pub fn weighting(&self) -> Option<&'static str> {
        let dense = match self {
            Problem::Dense(p) => p,
            Problem::TopK(p) => &p.attention,
            Problem::Linear(_) => return None,
        };
        Some(match dense.weighting {
            Weighting::Softmax => "softmax",
            Weighting::Sigmoid { .. } => "sigmoid",
        })
    }

    /// Keys that a list of a top-k problem keeps.
    pub fn kept(&self) -> Option<u32> {
        match self {
            Problem::TopK(p) => Some(topk::kept(p) as u32),
            _ => None,
        }
    }

    /// The decay of linear attention.
    pub fn decay(&self) -> Option<Decay> {
        match self {
            Problem::Linear(p) => Some(p.decay),
            _ => None,
        }
    }

    /// The kernels that the planner picks on a device, by their labels.
    ///
    /// # Errors
    /// Those of planning.
    pub fn planned_kernels(&self, gpu: &Gpu) -> crate::error::Result<String> {
        let gpu = &gpu.with_any_tier();
        match self {
            Problem::Dense(p) => p.plan(gpu).map(|plan| plan.label().into()),
            Problem::Linear(p) => p.plan(gpu).map(|plan| plan.label().into()),
            Problem::TopK(p) => p.plan(gpu).map(|plan| plan.label()),
        }
    }

    /// Floating-point operations that no kernel can do without: [`dense::flops`], [`linear::flops`], [`topk::flops`].
    pub fn flops(&self) -> f64 {
        match self {
            Problem::Dense(p) => dense::flops(p),
            Problem::Linear(p) => linear::flops(p),
            Problem::TopK(p) => topk::flops(p),
        }
    }

    /// Bytes that every kernel moves at least: [`dense::bytes`], [`linear::bytes`], [`topk::bytes`].
    pub fn bytes(&self) -> f64 {
        match self {
            Problem::Dense(p) => dense::bytes(p),
            Problem::Linear(p) => linear::bytes(p),
            Problem::TopK(p) => topk::bytes(p),
        }
    }

    /// Those of them that are written.
    pub fn written_bytes(&self) -> f64 {
        match self {
            Problem::Dense(p) => dense::written_bytes(p),
            Problem::Linear(p) => linear::written_bytes(p),
            Problem::TopK(p) => dense::written_bytes(&p.attention),
        }
    }

    /// Bytes of memory that they are moved to and from, each once.
    pub(super) fn touched_bytes(&self) -> f64 {
        match self {
            Problem::Linear(p) => linear::stored_bytes(p),
            _ => self.bytes(),
        }
    }

    /// Bytes of inputs and outputs.
    pub(super) fn stored_bytes(&self) -> f64 {
        match self {
            Problem::Dense(p) => dense::stored_bytes(p),
            Problem::Linear(p) => linear::stored_bytes(p),
            Problem::TopK(p) => dense::stored_bytes(&p.attention),
        }
    }
}
