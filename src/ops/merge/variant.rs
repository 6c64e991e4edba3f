//! The typed spec behind `shaders/merge/merge.wgsl`.
//!
//! ```
//! use wgpu_attention::DType;
//! use wgpu_attention::merge::variant::MergeVariant;
//! use wgpu_attention::shader::{Spec, Variant};
//!
//! let variant = MergeVariant {
//!     dim: 64,
//!     dtype: DType::F32,
//!     vector_inputs: true,
//!     output_dtype: DType::F16,
//!     vector_output: true,
//!     additive: false,
//!     lse: false,
//!     lanes: 4,
//! };
//! assert_eq!(variant.label(), "merge/merge softmax d64 f32->f16");
//! assert!(Variant::Merge(variant).wgsl().contains("fn main"));
//! ```

use crate::ops::dense::variant::{element_piece, output_pieces};
use crate::shader::{Binding, BindingKind, Constant, Spec};
use crate::tensor::DType;

/// What the merge's code depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MergeVariant {
    /// Elements of a row.
    pub dim: u32,
    /// Storage type of the parts.
    pub dtype: DType,
    /// The parts are read four elements at a time.
    pub vector_inputs: bool,
    /// Storage type of the result.
    pub output_dtype: DType,
    /// The result is written four elements at a time.
    pub vector_output: bool,
    /// Parts simply add.
    pub additive: bool,
    /// The log-sum-exp of the result is written.
    pub lse: bool,
    /// Invocations that share the parts: a power of two up to 64.
    pub lanes: u32,
}

/// Invocations of a workgroup.
pub(crate) const THREADS: u32 = 64;
/// Parts whose loads an invocation has on their way at a time.
pub(crate) const PART_BATCH: u32 = 4;

impl Spec for MergeVariant {
    fn label(&self) -> String {
        let kind = if self.additive { "additive" } else { "softmax" };
        format!("merge/merge {kind} d{} {}->{}", self.dim, self.dtype, self.output_dtype)
    }

    fn kernel(&self) -> &'static str {
        "merge/merge"
    }

    fn constants(&self) -> Vec<(&'static str, Constant)> {
        vec![
            ("DIM", Constant::Count(self.dim)),
            ("ADDITIVE", Constant::Flag(self.additive)),
            ("THREADS", Constant::Count(THREADS)),
            ("PART_LANES", Constant::Count(self.lanes)),
            ("PART_BATCH", Constant::Count(PART_BATCH)),
        ]
    }

    fn pieces(&self) -> Vec<&'static str> {
        let mut pieces = vec!["shared/numerics", element_piece(self.dtype, self.vector_inputs)];
        pieces.push(if self.vector_inputs {
            "merge/parts_x4"
        } else {
            "merge/parts_x1"
        });
        pieces.push(if self.additive {
            "merge/parts_lse_none"
        } else {
            "merge/parts_lse"
        });
        pieces.extend(output_pieces(self.output_dtype, self.vector_output));
        pieces.push(if self.lse { "shared/lse" } else { "shared/lse_none" });
        pieces
    }

    fn custom(&self) -> Option<String> {
        None
    }

    fn bindings(&self) -> Vec<Binding> {
        use BindingKind::{Read, Uniform, Write};
        let mut bindings = vec![(0, Uniform), (1, Read), (4, Write)];
        if !self.additive {
            bindings.push((2, Read));
        }
        if self.lse {
            bindings.push((5, Write));
        }
        bindings
            .into_iter()
            .map(|(number, kind)| Binding { number, kind })
            .collect()
    }

    fn workgroup_bytes(&self) -> u32 {
        THREADS * (4 + 4 + 16)
    }
}
