//! Hierarchical selection (HiP): a tree search for the key blocks that matter, without scoring all of them.
//!
//! For each tile of `query_block` rows of a query head, with e the end of what its last row sees and B the whole blocks
//! before e − `window`:
//!
//! ```text
//! group i = blocks ⌊i·B/G⌋ to ⌊(i + 1)·B/G⌋ − 1,  i < G                       all of them where B ≤ G
//! while a group has two blocks or more:
//!     each is cut in the middle;  score of a half = max over sampled rows i, keys j of its first block of scale · q_i·k_j
//!     the G halves of the greatest scores are kept, ties to the lower block
//! list = kept blocks ∪ blocks from B on, before e ∪ blocks that hold the first `sink_tokens` keys
//! ```
//!
//! Sampled are the odd rows of the tile (1, 3, …), row 0 where it has but one; where causal, a row's score counts only
//! over keys it sees. The cost of a tile grows with log₂(B/G) · G, not with its keys.
//!
//! ```no_run
//! use wgpu_attention::topk::HierarchicalTensors;
//! use wgpu_attention::{Dense, Hierarchical};
//! # use wgpu_attention::{Gpu, Result, wgpu};
//! # fn f(gpu: &Gpu, encoder: &mut wgpu::CommandEncoder, q: &wgpu::Buffer, k: &wgpu::Buffer, lists: &wgpu::Buffer) -> Result<()> {
//! let attention = Dense { heads: 8, queries: 32768, keys: 32768, causal: true, ..Default::default() };
//! let search = Hierarchical { attention, ..Default::default() };
//! search.plan(gpu)?.encode(encoder, &HierarchicalTensors { q: q.into(), k: k.into(), selection: lists.into() })?;
//! // Dense attention over what was found takes the lists as they are.
//! let sparse = Dense { selection: Some(search.selection()), ..search.attention.clone() };
//! # Ok(())
//! # }
//! ```

pub(crate) mod plan;
pub mod tile;
pub mod variant;

use crate::error::Result;
use crate::ops::dense::Dense;
use crate::ops::dense::inputs::check_len;
use crate::ops::selection::Selection;
use crate::ops::topk::rules;

pub use plan::{HierarchicalPlan, HierarchicalTensors, variant_of};

/// The search of "HiP Attention" (Lee et al., 2024), one for each tile of queries of a query head.
#[derive(Clone, Debug, PartialEq)]
pub struct Hierarchical {
    /// The attention that the selection is for: shapes, types, layouts, scale and causality of q and k are used.
    pub attention: Dense,
    /// Query rows of a tile, 1 to 1024.
    pub query_block: u32,
    /// Keys of a block, 1 to 64.
    pub block_size: u32,
    /// G, blocks that the search keeps, 1 to 512.
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

/// The inputs of a search on the host, contiguous.
#[derive(Clone, Copy, Debug, Default)]
pub struct HierarchicalInputs<'a> {
    /// `[B, H, Nq, D]`
    pub q: &'a [f32],
    /// `[B, Hkv, Nk, D]`
    pub k: &'a [f32],
}

impl HierarchicalInputs<'_> {
    /// Checks that these are the inputs of `problem`.
    ///
    /// # Errors
    /// [`crate::Error::Invalid`] for a field of the problem, [`crate::Error::Data`] for an input.
    pub fn check(&self, problem: &Hierarchical) -> Result<()> {
        rules::check_hierarchical(problem)?;
        let a = &problem.attention;
        let q = [a.batch, a.heads, a.queries, a.head_dim];
        check_len("q", "[B, H, Nq, D]", &q, self.q.len())?;
        let k = [a.batch, a.kv_heads(), a.keys, a.head_dim];
        check_len("k", "[B, Hkv, Nk, D]", &k, self.k.len())
    }
}
