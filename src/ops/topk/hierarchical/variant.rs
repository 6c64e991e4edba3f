//! The typed spec behind `shaders/topk/hierarchical.wgsl`.
//!
//! ```
//! use wgpu_attention::DType;
//! use wgpu_attention::shader::{Spec, Variant};
//! use wgpu_attention::topk::hierarchical::variant::{HierarchicalTile, HierarchicalVariant};
//! use wgpu_attention::topk::variant::TopKVariant;
//!
//! let variant = HierarchicalVariant {
//!     head_dim: 64,
//!     dtype: DType::F32,
//!     vector: true,
//!     block_size: 2,
//!     top_k: 256,
//!     tile: HierarchicalTile { threads: 128, rows: 16, keys: 2, held: false },
//! };
//! assert_eq!(variant.label(), "topk/hierarchical d64 f32 blocks of 2 top 256 tile 128t16r2k staged");
//! assert!(Variant::TopK(TopKVariant::Hierarchical(variant)).wgsl().contains("fn main"));
//! ```

use crate::ops::dense::variant::element_piece;
use crate::shader::{Binding, BindingKind, Constant, Spec};
use crate::tensor::DType;

/// How a workgroup goes about a tile of queries. Each number is 1 to 256.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HierarchicalTile {
    /// Invocations.
    pub threads: u32,
    /// Sampled rows that are scored at once.
    pub rows: u32,
    /// Keys of a block that are scored at once, at most as many as it has.
    pub keys: u32,
    /// Rows are held in registers, instead of workgroup memory.
    pub held: bool,
}

impl HierarchicalTile {
    /// Workgroup memory in bytes.
    pub const fn workgroup_bytes(&self, head_dim: u32, top_k: u32) -> u32 {
        let groups = 4 * (4 * top_k).next_multiple_of(16);
        let search = 4 * 32 + (4 * self.threads).next_multiple_of(16);
        let rows = if self.held {
            0
        } else {
            16 * self.rows * head_dim.div_ceil(4)
        };
        groups + search + rows
    }
}

/// What the search's code depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HierarchicalVariant {
    /// D.
    pub head_dim: u32,
    /// Storage type of q and k.
    pub dtype: DType,
    /// q and k are read four elements at a time.
    pub vector: bool,
    /// Keys of a block.
    pub block_size: u32,
    /// G.
    pub top_k: u32,
    /// The tile.
    pub tile: HierarchicalTile,
}

impl Spec for HierarchicalVariant {
    fn label(&self) -> String {
        let HierarchicalTile {
            threads,
            rows,
            keys,
            held,
        } = self.tile;
        let kept = if held { "held" } else { "staged" };
        let read = if self.vector { "" } else { " unaligned" };
        format!(
            "topk/hierarchical d{} {}{read} blocks of {} top {} tile {threads}t{rows}r{keys}k {kept}",
            self.head_dim, self.dtype, self.block_size, self.top_k
        )
    }

    fn kernel(&self) -> &'static str {
        "topk/hierarchical"
    }

    fn constants(&self) -> Vec<(&'static str, Constant)> {
        vec![
            ("HEAD_DIM", Constant::Count(self.head_dim)),
            ("BLOCK_SIZE", Constant::Count(self.block_size)),
            ("TOP_K", Constant::Count(self.top_k)),
            ("THREADS", Constant::Count(self.tile.threads)),
            ("ROWS", Constant::Count(self.tile.rows)),
            ("KEYS", Constant::Count(self.tile.keys)),
        ]
    }

    fn pieces(&self) -> Vec<&'static str> {
        let mut pieces = vec![element_piece(self.dtype, self.vector)];
        pieces.extend(if self.vector {
            ["shared/q_x4", "shared/k_x4"]
        } else {
            ["shared/q_x1", "shared/k_x1"]
        });
        pieces.push(if self.tile.held {
            "topk/hierarchical_held"
        } else {
            "topk/hierarchical_staged"
        });
        pieces
    }

    fn custom(&self) -> Option<String> {
        None
    }

    fn bindings(&self) -> Vec<Binding> {
        use BindingKind::{Read, Uniform, Write};
        [(0, Uniform), (1, Read), (2, Read), (4, Write)]
            .map(|(number, kind)| Binding { number, kind })
            .to_vec()
    }

    fn workgroup_bytes(&self) -> u32 {
        self.tile.workgroup_bytes(self.head_dim, self.top_k)
    }
}
