//! The device tensors that one call reads and writes.

use crate::tensor::Tensor;

/// The tensors of one call. Optional ones must be there exactly where the problem says so.
///
/// ```no_run
/// # use wgpu_attention::LinearTensors;
/// # fn f(q: &wgpu::Buffer, k: &wgpu::Buffer, v: &wgpu::Buffer, o: &wgpu::Buffer, state: &wgpu::Buffer) {
/// // A decode step: the state is updated where it lies (`in_place`).
/// let tensors = LinearTensors { final_state: Some(state.into()), ..LinearTensors::new(q, k, v, o) };
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct LinearTensors<'a> {
    /// Queries.
    pub q: Tensor<'a>,
    /// Keys.
    pub k: Tensor<'a>,
    /// Values.
    pub v: Tensor<'a>,
    /// Output, every element of which is written.
    pub o: Tensor<'a>,
    /// f32 `[H]`, `[B, H, N]` or `[B, H, N, D]`.
    pub log_decay: Option<Tensor<'a>>,
    /// i32 `[S + 1]`.
    pub cu_seqlens: Option<Tensor<'a>>,
    /// f32, [`crate::Linear::state_len`] of them, contiguous.
    pub initial_state: Option<Tensor<'a>>,
    /// f32, [`crate::Linear::state_len`] of them, contiguous.
    pub final_state: Option<Tensor<'a>>,
    /// f32 `[sequences, H]` or `[sequences, H, D]`, contiguous, output.
    pub total_decay: Option<Tensor<'a>>,
}

impl<'a> LinearTensors<'a> {
    /// Queries, keys, values and output, and nothing else.
    pub fn new(
        q: impl Into<Tensor<'a>>,
        k: impl Into<Tensor<'a>>,
        v: impl Into<Tensor<'a>>,
        o: impl Into<Tensor<'a>>,
    ) -> Self {
        LinearTensors {
            q: q.into(),
            k: k.into(),
            v: v.into(),
            o: o.into(),
            log_decay: None,
            cu_seqlens: None,
            initial_state: None,
            final_state: None,
            total_decay: None,
        }
    }
}
