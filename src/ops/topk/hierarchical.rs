//! Hierarchical selection (HiP): a tree search for the key blocks that matter, without scoring all of them.

use crate::ops::dense::Dense;
use crate::ops::selection::Selection;

/// The search of "HiP Attention" (Lee et al., 2024), one for each tile of queries of a query head.
#[derive(Clone, Debug, PartialEq)]
pub struct Hierarchical {
    /// The attention that the selection is for: shapes, types, layouts, scale and causality of q and k are used.
    pub attention: Dense,
    /// Query rows of a tile.
    pub query_block: u32,
    /// Keys of a block.
    pub block_size: u32,
    /// G, blocks that the search keeps.
    pub top_k: u32,
    /// Keys before the end of a tile's sight that are always kept.
    pub window: u32,
    /// Keys at the start that are always kept.
    pub sink_tokens: u32,
}

impl Default for Hierarchical {
    /// The paper's: tiles of 32 queries, 256 blocks of 2 keys (512 keys), and the last 128 keys.
    fn default() -> Self {
        Hierarchical {
            attention: Dense::default(),
            query_block: 32,
            block_size: 2,
            top_k: 256,
            window: 128,
            sink_tokens: 0,
        }
    }
}

impl Hierarchical {
    /// The selection that the search writes, as [`Dense::selection`] takes it.
    pub fn selection(&self) -> Selection {
        let blocks = |keys: u32| keys.div_ceil(self.block_size.max(1));
        Selection {
            block_size: self.block_size,
            query_block: self.query_block,
            per_kv_head: false,
            // A window that begins inside a block reaches one block further.
            capacity: self
                .top_k
                .saturating_add(blocks(self.window))
                .saturating_add(1)
                .saturating_add(blocks(self.sink_tokens)),
        }
    }
}
