//! Joining partial attention results over disjoint sets of keys, by their log-sum-exp.
//!
//! ```text
//! softmax:   m = max_p lse_p,  o = Σ_p e^(lse_p − m) o_p / Σ_p e^(lse_p − m),  lse = m + ln Σ_p e^(lse_p − m)
//! additive:  o = Σ_p o_p
//! ```
//!
//! The first is exact for softmax whatever the split (Milakov & Gimelshein, 2018; used for split keys in
//! Flash-Decoding and ring attention), the second for weightings without a normaliser, such as sigmoid.
//!
//! ```no_run
//! use wgpu_attention::{Merge, MergeTensors};
//! # use wgpu_attention::{Gpu, Result, wgpu};
//! # fn f(gpu: &Gpu, encoder: &mut wgpu::CommandEncoder, parts_o: &wgpu::Buffer, parts_lse: &wgpu::Buffer, o: &wgpu::Buffer) -> Result<()> {
//! // Four quarters of a sequence's keys, attended to apart (each with `lse: true`), become one result.
//! let plan = Merge { parts: 4, heads: 8, queries: 100, value_dim: 64, ..Default::default() }.plan(gpu)?;
//! let tensors = MergeTensors { parts_o: parts_o.into(), parts_lse: Some(parts_lse.into()), o: o.into(), lse: None };
//! plan.encode(encoder, &tensors)?;
//! # Ok(())
//! # }
//! ```

pub(crate) mod plan;
pub mod variant;

use crate::tensor::{DType, Layout};

pub use plan::{MergePlan, MergeTensors};

/// A merge: shapes parts_o `[P, B, H, Nq, Dv]` and parts_lse `[P, B, H, Nq]` (f32), both contiguous;
/// o `[B, H, Nq, Dv]`, lse `[B, H, Nq]` (f32).
///
/// A part that saw no key has lse = −inf and weighs nothing, whatever its o holds; a row none of whose parts saw a key
/// gives o = 0, lse = −inf.
#[derive(Clone, Debug, PartialEq)]
pub struct Merge {
    /// P, at least 1.
    pub parts: u32,
    /// B, at least 1.
    pub batch: u32,
    /// H, at least 1.
    pub heads: u32,
    /// Nq, at least 1.
    pub queries: u32,
    /// Dv, 1 to 256.
    pub value_dim: u32,
    /// Storage type of parts_o.
    pub dtype: DType,
    /// Storage type of o. `None`: `dtype`.
    pub output_dtype: Option<DType>,
    /// Parts simply add, and have no lse.
    pub additive: bool,
    /// The joint lse is written too; not with `additive`.
    pub lse: bool,
    /// Layout of o.
    pub o_layout: Layout,
    /// parts_o and o may start at any element, instead of multiples of four.
    pub unaligned: bool,
}

impl Default for Merge {
    /// Two parts of one row of 64 f32.
    fn default() -> Self {
        Merge {
            parts: 2,
            batch: 1,
            heads: 1,
            queries: 1,
            value_dim: 64,
            dtype: DType::F32,
            output_dtype: None,
            additive: false,
            lse: false,
            o_layout: Layout::Bhnd,
            unaligned: false,
        }
    }
}
