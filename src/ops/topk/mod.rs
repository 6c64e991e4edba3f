//! Sparse attention over the keys that matter, chosen on the fly: score, select, gather.
//!
//! For each list of a [`Selection`], which one or more query rows share:
//!
//! ```text
//! s_e = max over the list's rows i of  score(i, e)      e a key, or a block of keys
//! keep the k entries of the greatest s_e, ties to the lower e; all of them where fewer are visible
//! o_i = softmax or sigmoid attention of row i over the kept keys that it sees
//! ```
//!
//! with score(i, e) by [`Scoring`]: the scaled q·k with everything that dense attention makes of it, the scaled product
//! with the mean of a block's keys, or an upper bound of every product in a block. An entry is a candidate if a row of
//! the list sees one of its keys as far as positions decide (causality, windows, prefix, lengths, documents); keys that
//! a row does not see stay hidden inside a kept block.
//!
//! Each of the steps is an op of its own: [`Pool`] (means or bounds of blocks, which a cache can keep), the scores
//! ([`TopK::plan_scores`]), [`Select`], and the gather, which is [`Dense`] with [`Dense::selection`]. [`TopK`] joins them. [`Extend`] adds tokens to
//! a selection, and [`Hierarchical`] finds one without scoring all blocks.
//!
//! Background: "Quest: Query-Aware Sparsity" (Tang et al., 2024), "TidalDecode" (Yang et al., 2024), "Recycled
//! Attention" (Xu et al., 2024), "HiP Attention" (Lee et al., 2024).

pub mod extend;
pub mod hierarchical;
pub mod host;
mod inputs;
pub(crate) mod plan;
pub mod pool;
pub mod reference;
pub(crate) mod rows;
pub(crate) mod rules;
pub mod score;
pub mod select;
pub mod variant;

pub use crate::ops::selection::{self, Selection};
pub use extend::{Extend, ExtendPlan};
pub use hierarchical::{Hierarchical, HierarchicalInputs, HierarchicalPlan, HierarchicalTensors};
pub use plan::{TopKPlan, TopKTensors, TopKTuning};
pub use pool::{Pool, PoolInputs, PoolPlan, PoolTensors, Pooling};
pub use score::{ScorePlan, ScoreTensors};
pub use select::{Select, SelectPlan, SelectTensors};

use crate::ops::dense::Dense;

/// What an entry of a list is scored by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "tuned", derive(serde::Serialize, serde::Deserialize))]
pub enum Scoring {
    /// The scores of its keys, with softcap, bias, ALiBi, masks and custom code, as dense attention has them before
    /// weighting; the greatest of them in a block. Exact, and as dear as the scores of dense attention.
    #[default]
    Keys,
    /// scale · q · mean of the block's keys.
    Mean,
    /// Σ_d max(q'_d·max_d, q'_d·min_d) over the block's bounds, with q' = scale·q: at least every scaled q·k in it
    /// (Quest).
    Bound,
}

/// A top-k attention problem.
///
/// ```
/// use wgpu_attention::{Dense, Scoring, TopK};
///
/// // A prompt of 8192 tokens: each tile of 64 queries of a KV head attends to 8 blocks of 64 keys, its own among them.
/// let attention = Dense { heads: 32, kv_heads: Some(8), queries: 8192, keys: 8192, causal: true, ..Default::default() };
/// let prompt = TopK {
///     attention,
///     top_k: 8,
///     block_size: 64,
///     query_block: 64,
///     per_kv_head: true,
///     scoring: Scoring::Mean,
///     diagonal: true,
///     ..Default::default()
/// };
/// assert_eq!(prompt.selection().dims(&prompt.attention), [1, 8, 128, 9]);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct TopK {
    /// The attention over what is kept: shapes, types, weighting, masks, layouts. Its own `selection` must be `None`.
    pub attention: Dense,
    /// k, entries kept, at least 1.
    pub top_k: u32,
    /// Keys of an entry: 1 for tokens, else blocks.
    pub block_size: u32,
    /// Query rows that share a list.
    pub query_block: u32,
    /// Whether the query heads of a KV head share a list.
    pub per_kv_head: bool,
    /// What entries are scored by; [`Scoring::Keys`] for tokens.
    pub scoring: Scoring,
    /// The first so many entries are kept whatever their score, where they are candidates.
    pub first: u32,
    /// The last so many candidates' places are kept whatever their score.
    pub last: u32,
    /// The entries that hold the positions of the list's own rows are kept whatever their score, where they are
    /// candidates for those rows and, with [`Scoring::Keys`], one of their keys is not hidden.
    pub diagonal: bool,
    /// Room for entries that [`Extend`] adds later.
    pub room: u32,
    /// A tensor of the blocks' means or bounds is given ([`Pool`]), instead of worked out in each call.
    pub pooled: bool,
    /// Blocks that a head has room for in the tensor that is given, as in a cache that grows. `None`: ⌈Nk/block_size⌉.
    pub pooled_room: Option<u32>,
    /// The selection is written to a tensor of the caller's, to be used again.
    pub keep: bool,
}

impl Default for TopK {
    /// One key for one query.
    fn default() -> Self {
        TopK {
            attention: Dense::default(),
            top_k: 1,
            block_size: 1,
            query_block: 1,
            per_kv_head: false,
            scoring: Scoring::Keys,
            first: 0,
            last: 0,
            diagonal: false,
            room: 0,
            pooled: false,
            pooled_room: None,
            keep: false,
        }
    }
}

impl TopK {
    /// The selection that the call makes, as [`Dense::selection`] takes it.
    pub fn selection(&self) -> Selection {
        Selection {
            block_size: self.block_size,
            query_block: self.query_block,
            per_kv_head: self.per_kv_head,
            capacity: self.top_k.saturating_add(self.room),
        }
    }

    /// The pooling whose result scores are made from; `None` where they are made from the keys.
    pub fn pool(&self) -> Option<Pool> {
        rules::pool_of(self)
    }

    /// The selecting that makes the lists from the scores.
    pub fn select(&self) -> Select {
        rules::select_of(self)
    }
}

/// The inputs of a top-k problem on the host.
#[derive(Clone, Copy, Debug, Default)]
pub struct TopKInputs<'a> {
    /// Those of the attention.
    pub attention: crate::DenseInputs<'a>,
    /// `[B, Hkv, ⌈Nk/block_size⌉, P]`, where the problem is given them; see [`Pool`].
    pub pooled: Option<&'a [f32]>,
}

/// The outputs of a top-k problem on the host.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TopKOutput<T> {
    /// `[B, H, Nq, Dv]`
    pub o: Vec<T>,
    /// `[B, H, Nq]`, natural log, where the problem asks for it.
    pub lse: Option<Vec<T>>,
    /// The lists, as [`Selection`] has them; what lies behind a list's entries is 0.
    pub selection: Vec<u32>,
}
