//! The device tensors that one call reads and writes.

use crate::tensor::Tensor;

/// The tensors of one call. Optional ones must be there exactly where the problem says so.
///
/// ```no_run
/// # use wgpu_attention::{DenseTensors, Tensor};
/// # fn f(q: &wgpu::Buffer, k: &wgpu::Buffer, v: &wgpu::Buffer, o: &wgpu::Buffer, lse: &wgpu::Buffer) {
/// let tensors = DenseTensors { lse: Some(lse.into()), ..DenseTensors::new(q, k, v, o) };
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct DenseTensors<'a> {
    /// Queries.
    pub q: Tensor<'a>,
    /// Keys.
    pub k: Tensor<'a>,
    /// Values.
    pub v: Tensor<'a>,
    /// Output, every element of which is written.
    pub o: Tensor<'a>,
    /// Log-sum-exp output, f32 `[B, H, Nq]`, contiguous.
    pub lse: Option<Tensor<'a>>,
    /// Additive bias, contiguous.
    pub bias: Option<Tensor<'a>>,
    /// Boolean mask, a byte an element, contiguous.
    pub mask: Option<Tensor<'a>>,
    /// i32 `[B]`.
    pub kv_len: Option<Tensor<'a>>,
    /// i32 `[S + 1]`.
    pub cu_seqlens_q: Option<Tensor<'a>>,
    /// i32 `[S + 1]`.
    pub cu_seqlens_k: Option<Tensor<'a>>,
    /// f32 `[H]`.
    pub alibi_slopes: Option<Tensor<'a>>,
    /// f32 `[H]`.
    pub sinks: Option<Tensor<'a>>,
    /// Lists of keys, as [`Selection`](crate::Selection) has them.
    pub selection: Option<Tensor<'a>>,
    /// The arrays that custom code names, in its order.
    pub custom_data: &'a [Tensor<'a>],
}

impl<'a> DenseTensors<'a> {
    /// Queries, keys, values and output, and nothing else.
    pub fn new(
        q: impl Into<Tensor<'a>>,
        k: impl Into<Tensor<'a>>,
        v: impl Into<Tensor<'a>>,
        o: impl Into<Tensor<'a>>,
    ) -> Self {
        DenseTensors {
            q: q.into(),
            k: k.into(),
            v: v.into(),
            o: o.into(),
            lse: None,
            bias: None,
            mask: None,
            kv_len: None,
            cu_seqlens_q: None,
            cu_seqlens_k: None,
            alibi_slopes: None,
            sinks: None,
            selection: None,
            custom_data: &[],
        }
    }
}
