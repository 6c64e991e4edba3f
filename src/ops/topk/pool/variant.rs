//! The typed spec behind `shaders/topk/pool.wgsl`.
//!
//! ```
//! use wgpu_attention::DType;
//! use wgpu_attention::shader::{Spec, Variant};
//! use wgpu_attention::topk::pool::variant::PoolVariant;
//! use wgpu_attention::topk::variant::TopKVariant;
//!
//! let variant = PoolVariant { head_dim: 64, dtype: DType::F16, vector: true, bounds: false, kv_len: false };
//! assert_eq!(variant.label(), "topk/pool mean d64 f16");
//! assert!(Variant::TopK(TopKVariant::Pool(variant)).wgsl().contains("fn main"));
//! ```

use crate::ops::dense::variant::element_piece;
use crate::shader::{Binding, BindingKind, Constant, Spec};
use crate::tensor::DType;

/// What the pooling's code depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PoolVariant {
    /// D.
    pub head_dim: u32,
    /// Storage type of k.
    pub dtype: DType,
    /// k is read four elements at a time.
    pub vector: bool,
    /// Bounds instead of means.
    pub bounds: bool,
    /// There is a `kv_len`.
    pub kv_len: bool,
}

impl Spec for PoolVariant {
    fn label(&self) -> String {
        let kind = if self.bounds { "bounds" } else { "mean" };
        let len = if self.kv_len { " kv_len" } else { "" };
        let read = if self.vector { "" } else { " unaligned" };
        format!("topk/pool {kind} d{} {}{len}{read}", self.head_dim, self.dtype)
    }

    fn kernel(&self) -> &'static str {
        "topk/pool"
    }

    fn constants(&self) -> Vec<(&'static str, Constant)> {
        vec![
            ("HEAD_DIM", Constant::Count(self.head_dim)),
            ("BOUNDS", Constant::Flag(self.bounds)),
        ]
    }

    fn pieces(&self) -> Vec<&'static str> {
        vec![
            element_piece(self.dtype, self.vector),
            if self.vector { "shared/k_x4" } else { "shared/k_x1" },
            if self.kv_len {
                "topk/pool_len"
            } else {
                "topk/pool_len_none"
            },
        ]
    }

    fn custom(&self) -> Option<String> {
        None
    }

    fn bindings(&self) -> Vec<Binding> {
        use BindingKind::{Read, Uniform, Write};
        let mut bindings = vec![(0, Uniform), (2, Read), (4, Write)];
        if self.kv_len {
            bindings.push((3, Read));
        }
        bindings
            .into_iter()
            .map(|(number, kind)| Binding { number, kind })
            .collect()
    }

    fn workgroup_bytes(&self) -> u32 {
        0
    }
}
