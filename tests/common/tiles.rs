//! Tiles that tests of the linear op force: they compile fast, and short sequences meet all their edges.

use wgpu_attention::Linear;
use wgpu_attention::linear::variant::{ChunkTile, StepTile};

/// Chunks of 8 tokens, 8 columns.
pub const SMALL: ChunkTile = ChunkTile {
    row_groups: 4,
    row_regs: 2,
    lanes: 2,
    key_regs: 4,
    value_vecs: 1,
    chunk: 2,
    tokens: 4,
    unroll: 1,
};

/// Chunks of 16 tokens, 32 columns, two steps of each product written out.
pub const WIDE: ChunkTile = ChunkTile {
    row_groups: 8,
    row_regs: 2,
    lanes: 4,
    key_regs: 4,
    value_vecs: 2,
    chunk: 4,
    tokens: 8,
    unroll: 2,
};

/// Chunks of 16 tokens, 8 columns, the rows of the state shared by so many invocations that large head sizes compile
/// fast too.
pub const TALL: ChunkTile = ChunkTile {
    row_groups: 16,
    row_regs: 1,
    lanes: 2,
    key_regs: 8,
    value_vecs: 1,
    chunk: 4,
    tokens: 4,
    unroll: 1,
};

/// Two groups, and columns in several workgroups where they need not be in one.
pub fn step(p: &Linear) -> StepTile {
    let vecs = p.value_dim().div_ceil(4);
    StepTile {
        lanes: if p.normalize.is_some() { vecs } else { vecs.min(2) },
        groups: 2,
    }
}
