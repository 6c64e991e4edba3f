//! The device tensors that one call reads and writes.

use crate::error::{Error, Result, check_limit};
use crate::gpu::Gpu;
use crate::ops::call::{Need, check_presence, check_tensor};
use crate::ops::dense::Dense;
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
    /// The arrays that custom code names, in its order. Each begins at a multiple of `min_storage_buffer_offset_alignment` bytes
    /// and goes to the end of its buffer, all of which must fit a binding.
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

    /// The tensor of that name, where the call has it.
    pub(crate) fn named(&self, name: &str) -> Option<Tensor<'a>> {
        match name {
            "q" => Some(self.q),
            "k" => Some(self.k),
            "v" => Some(self.v),
            "o" => Some(self.o),
            "lse" => self.lse,
            "bias" => self.bias,
            "mask" => self.mask,
            "kv_len" => self.kv_len,
            "cu_seqlens_q" => self.cu_seqlens_q,
            "cu_seqlens_k" => self.cu_seqlens_k,
            "alibi_slopes" => self.alibi_slopes,
            "sinks" => self.sinks,
            "selection" => self.selection,
            _ => None,
        }
    }

    /// That what decides about scores beside q and k is there exactly where the problem says so.
    pub(crate) fn check_hooks(&self, p: &Dense) -> Result<()> {
        check_presence("bias", self.bias.is_some(), p.bias.is_some())?;
        check_presence("mask", self.mask.is_some(), p.mask.is_some())?;
        check_presence("kv_len", self.kv_len.is_some(), p.kv_len)?;
        check_presence("cu_seqlens_q", self.cu_seqlens_q.is_some(), p.documents.is_some())?;
        check_presence("cu_seqlens_k", self.cu_seqlens_k.is_some(), p.documents.is_some())?;
        check_presence("alibi_slopes", self.alibi_slopes.is_some(), p.alibi)
    }

    /// That the arrays are those that the problem's custom code declares.
    pub(crate) fn check_custom_data(&self, p: &Dense, gpu: &Gpu) -> Result<()> {
        let wanted = p.custom.as_ref().map_or(0, |c| c.data.len());
        if self.custom_data.len() != wanted {
            return Err(Error::Tensor {
                tensor: "custom_data",
                found: format!("{} arrays are given", self.custom_data.len()),
                needed: format!("{wanted}, as the problem's custom code declares"),
            });
        }
        for data in self.custom_data {
            // Bound at its very offset: the code counts from the array's first element.
            let need = Need {
                name: "custom_data",
                bytes: 4,
                alignment: gpu.limits().min_storage_buffer_offset_alignment.into(),
            };
            check_tensor(&need, data)?;
            check_limit(
                "an array of `custom_data`, from its offset to its buffer's end,",
                data.buffer.size() - data.offset,
                "max_storage_buffer_binding_size",
                gpu.limits().max_storage_buffer_binding_size,
            )?;
        }
        Ok(())
    }
}
