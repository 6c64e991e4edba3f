//! What the top-k kernels compute, in float64 and in the plainest form: every score of every list, a sort, and dense
//! attention over what is kept. The kernels are tested against it; read it to learn what they do.
//!
//! The steps are functions of their own: [`pool`] makes blocks small, [`scores`] scores entries, [`select`] keeps the
//! best, [`attend`] attends to them, and [`top_k`] is all of it. [`extend`] adds tokens to lists, [`hierarchical`] finds
//! lists another way, and [`recall`] says how much of the exact ones it found.
//!
//! Bounds of blocks are those of "Quest: Query-Aware Sparsity for Efficient Long-Context LLM Inference" (Tang et al.,
//! 2024), the search that of "HiP Attention" (Lee et al., 2024).
//!
//! ```
//! use wgpu_attention::dense::reference::Hooks;
//! use wgpu_attention::topk::reference::top_k;
//! use wgpu_attention::{Dense, DenseInputs, TopK, TopKInputs};
//!
//! // One query that attends to the two keys of four that score highest.
//! let attention = Dense { keys: 4, head_dim: 1, ..Default::default() };
//! let problem = TopK { attention, top_k: 2, ..Default::default() };
//! let attention = DenseInputs { q: &[1.0], k: &[5.0, 0.0, 5.0, 4.0], v: &[1.0, 10.0, 3.0, 20.0], ..Default::default() };
//! let output = top_k(&problem, &TopKInputs { attention, pooled: None }, &Hooks::default())?;
//! assert_eq!(output.selection, [2, 0, 2]);
//! assert_eq!(output.o, [2.0]);
//! # Ok::<(), wgpu_attention::Error>(())
//! ```

mod hierarchical;
mod pool;
mod select;

#[cfg(test)]
mod tests;

pub use hierarchical::{hierarchical, recall};
pub use pool::pool;
pub(crate) use select::{candidates, is_forced};
pub use select::{extend, select};

use crate::error::Result;
use crate::ops::dense::reference::{Hooks, Oracle, Span, dense};
use crate::ops::dense::{Dense, DenseInputs, DenseOutput};
use crate::ops::topk::{Scoring, TopK, TopKInputs, TopKOutput, rules};

/// Solves `problem` in float64: [`scores`], [`select`], [`attend`].
///
/// Inputs are taken as they are: rounding to the problem's storage types and its layouts play no part.
///
/// # Errors
/// As [`TopKInputs::check`], and [`Error::Data`](crate::Error::Data) where custom WGSL and `hooks` do not pair up.
pub fn top_k(problem: &TopK, inputs: &TopKInputs<'_>, hooks: &Hooks<'_>) -> Result<TopKOutput<f64>> {
    let scores = scores(problem, inputs, hooks)?;
    let selection = select(&rules::select_of(problem), &scores)?;
    let DenseOutput { o, lse } = attend(problem, inputs, hooks, &selection)?;
    Ok(TopKOutput { o, lse, selection })
}

/// The last step alone: dense attention over `lists`, which have the shape of [`TopK::selection`].
///
/// # Errors
/// As [`top_k`], and as [`Selection::check`](crate::Selection::check) for `lists`.
pub fn attend(problem: &TopK, inputs: &TopKInputs<'_>, hooks: &Hooks<'_>, lists: &[u32]) -> Result<DenseOutput<f64>> {
    inputs.check(problem)?;
    let (attention, inputs) = over_lists(problem, inputs, lists);
    dense(&attention, &inputs, hooks)
}

/// The dense problem of the last step.
fn over_lists<'a>(problem: &TopK, inputs: &TopKInputs<'a>, lists: &'a [u32]) -> (Dense, DenseInputs<'a>) {
    let attention = Dense {
        selection: Some(problem.selection()),
        ..problem.attention.clone()
    };
    let inputs = DenseInputs {
        selection: Some(lists),
        ..inputs.attention
    };
    (attention, inputs)
}

/// The keys that each query row attends to by `lists`, `[B, H, Nq, Nk]`: 1 for those of its list's entries that it
/// sees, 0 for the others.
///
/// # Errors
/// As [`attend`].
pub fn selected(problem: &TopK, inputs: &TopKInputs<'_>, hooks: &Hooks<'_>, lists: &[u32]) -> Result<Vec<u8>> {
    inputs.check(problem)?;
    hooks.check(&problem.attention)?;
    let (attention, inputs) = over_lists(problem, inputs, lists);
    inputs.check(&attention)?;
    let oracle = Oracle {
        problem: &attention,
        inputs: &inputs,
        hooks,
    };
    let mut selected = Vec::new();
    let mut seen = Vec::new();
    for [batch, head, query] in every_row(&attention) {
        oracle.row_scores(batch, head, query, &mut seen);
        let row = selected.len();
        selected.resize(row + attention.keys as usize, 0);
        seen.iter().for_each(|&(key, _)| selected[row + key as usize] = 1);
    }
    Ok(selected)
}

/// Every query row, `[batch, head, query]`.
pub(crate) fn every_row(p: &Dense) -> impl Iterator<Item = [u32; 3]> {
    let (heads, queries) = (p.heads, p.queries);
    (0..p.batch)
        .flat_map(move |batch| (0..heads).flat_map(move |head| (0..queries).map(move |query| [batch, head, query])))
}

/// The score of each entry for each list, `[B, H|Hkv, ⌈Nq/query_block⌉, ⌈Nk/block_size⌉]`: the greatest of those that
/// the list's rows give it, and −∞ where it is a candidate for none of them.
///
/// An entry is a candidate for a row that sees one of its keys as far as positions decide: causality, windows, sink
/// tokens, prefix, `kv_len`, documents. With [`Scoring::Keys`] its score is the greatest of the keys that the row does
/// see, the mask tensor and the custom mask included, and −∞ if those hide them all. With [`TopK::diagonal`], an entry
/// to which a row that stands in it gives a score has +∞. A score that is NaN counts for nothing.
///
/// # Errors
/// As [`top_k`].
pub fn scores(problem: &TopK, inputs: &TopKInputs<'_>, hooks: &Hooks<'_>) -> Result<Vec<f64>> {
    inputs.check(problem)?;
    hooks.check(&problem.attention)?;
    let scorer = Scorer {
        problem,
        oracle: Oracle {
            problem: &problem.attention,
            inputs: &inputs.attention,
            hooks,
        },
        blocks: blocks(problem, inputs)?,
    };
    let [batches, heads, lists, _] = problem.selection().dims(&problem.attention);
    let mut scores = Vec::new();
    for batch in 0..batches {
        for head in 0..heads {
            for list in 0..lists {
                scores.extend(scorer.list_scores(batch, head, list));
            }
        }
    }
    Ok(scores)
}

/// What stands for each block, if not its keys.
fn blocks(problem: &TopK, inputs: &TopKInputs<'_>) -> Result<Vec<f64>> {
    match (rules::pool_of(problem), inputs.pooled) {
        (None, _) => Ok(Vec::new()),
        (Some(_), Some(given)) => Ok(given.iter().map(|&x| x.into()).collect()),
        (Some(pooling), None) => pool(&pooling, inputs.attention.k, inputs.attention.kv_len),
    }
}

struct Scorer<'a> {
    problem: &'a TopK,
    oracle: Oracle<'a>,
    /// `[B, Hkv, ⌈Nk/block_size⌉, P]`; empty with [`Scoring::Keys`].
    blocks: Vec<f64>,
}

impl Scorer<'_> {
    fn list_scores(&self, batch: u32, head: u32, list: u32) -> Vec<f64> {
        let entries = self.problem.selection().entries(&self.problem.attention);
        let mut scores = vec![f64::NEG_INFINITY; entries as usize];
        for (row, span) in self.rows(batch, head, list) {
            for entry in (0..entries).filter(|&entry| self.is_candidate(row, &span, entry)) {
                let mut score = self.score(row, &span, entry);
                if self.problem.diagonal && self.stands_in(&span, entry) && score > f64::NEG_INFINITY {
                    score = f64::INFINITY;
                }
                let best = &mut scores[entry as usize];
                *best = best.max(score);
            }
        }
        scores
    }

    /// The rows that share a list, each as `[batch, query head, query]` with the keys it may see; rows outside every
    /// document have none.
    fn rows(&self, batch: u32, head: u32, list: u32) -> Vec<([u32; 3], Span)> {
        let p = &self.problem.attention;
        let heads = match self.problem.per_kv_head {
            true => {
                let group = p.heads / p.kv_heads();
                head * group..(head + 1) * group
            }
            false => head..head + 1,
        };
        let first = list * self.problem.query_block;
        let queries = first..first.saturating_add(self.problem.query_block).min(p.queries);
        let rows = heads.flat_map(|head| queries.clone().map(move |query| [batch, head, query]));
        rows.filter_map(|row| Some((row, self.oracle.span(batch, row[2])?)))
            .collect()
    }

    /// The keys of an entry that belong to the row's document.
    fn keys(&self, span: &Span, entry: u32) -> impl Iterator<Item = u32> {
        let keys = self.problem.selection().keys_of(&self.problem.attention, entry);
        keys.start.max(span.keys.start)..keys.end.min(span.keys.end)
    }

    fn is_candidate(&self, [batch, head, query]: [u32; 3], span: &Span, entry: u32) -> bool {
        let oracle = &self.oracle;
        self.keys(span, entry)
            .any(|key| oracle.in_reach(&oracle.position(span, [batch, head, query, key])))
    }

    /// Whether a row's own position is one of an entry's, be there a key at it or not.
    fn stands_in(&self, span: &Span, entry: u32) -> bool {
        let position = i64::from(span.keys.start) + span.query_pos;
        position.div_euclid(self.problem.block_size.into()) == i64::from(entry)
    }

    fn score(&self, row: [u32; 3], span: &Span, entry: u32) -> f64 {
        match self.problem.scoring {
            Scoring::Keys => self.best_key(row, span, entry),
            Scoring::Mean => self.pooled_score(row, span, entry, mean_score),
            Scoring::Bound => self.pooled_score(row, span, entry, bound_score),
        }
    }

    /// The greatest score of the keys that the row sees.
    fn best_key(&self, [batch, head, query]: [u32; 3], span: &Span, entry: u32) -> f64 {
        let at = self
            .keys(span, entry)
            .map(|key| self.oracle.position(span, [batch, head, query, key]));
        let scores = at.filter(|at| self.oracle.visible(at)).map(|at| self.oracle.score(&at));
        scores.fold(f64::NEG_INFINITY, f64::max)
    }

    /// The score of what stands for a block, by the scaled query row and the block's numbers.
    fn pooled_score(&self, [batch, head, query]: [u32; 3], span: &Span, entry: u32, score: PooledScore) -> f64 {
        let p = &self.problem.attention;
        let at = self.oracle.position(span, [batch, head, query, span.keys.start]);
        let scale = f64::from(p.scale());
        let q: Vec<f64> = self.oracle.q_row(&at).iter().map(|&q| scale * f64::from(q)).collect();
        let room = self.problem.pooled_room.unwrap_or(self.problem.selection().entries(p)) as usize;
        let width = self.blocks.len() / (p.batch * p.kv_heads()) as usize / room;
        let block = (batch * p.kv_heads() + at.kv_head) as usize * room + entry as usize;
        score(&q, &self.blocks[block * width..][..width])
    }
}

type PooledScore = fn(&[f64], &[f64]) -> f64;

/// q'·mean
fn mean_score(q: &[f64], mean: &[f64]) -> f64 {
    q.iter().zip(mean).map(|(q, mean)| q * mean).sum()
}

/// Σ_d max(q'_d·max_d, q'_d·min_d); `bounds` are the maxima, then the minima.
fn bound_score(q: &[f64], bounds: &[f64]) -> f64 {
    let (max, min) = bounds.split_at(bounds.len() / 2);
    let ends = max.iter().zip(min);
    q.iter().zip(ends).map(|(q, (max, min))| (q * max).max(q * min)).sum()
}
