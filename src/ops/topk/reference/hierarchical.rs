//! The hierarchical search (HiP), in integer arithmetic but for the scores, and how good what it finds is.

use std::collections::BTreeSet;
use std::ops::Range;

use crate::error::{Error, Result};
use crate::ops::dense::Dense;
use crate::ops::dense::inputs::check_len;
use crate::ops::dense::reference::dot;
use crate::ops::selection::Selection;
use crate::ops::topk::{Hierarchical, rules};

/// Searches the blocks of each tile of queries, from q `[B, H, Nq, D]` and k `[B, Hkv, Nk, D]`, contiguous: lists of
/// the shape of [`Hierarchical::selection`], what lies behind a list's entries being 0.
///
/// A tile sees the keys before `end`: one past its last row's position if causal, at most Nk; else all Nk. The whole
/// blocks that lie before `end − window`, B of them, are searched; what follows up to `end` is kept, and so are the
/// blocks of the sink tokens before `end`.
///
/// 1. If B ≤ G, all of them are kept. Else they make G groups, group i being ⌊i·B/G⌋ to ⌊(i + 1)·B/G⌋ − 1.
/// 2. While a group has more than one block, each splits at ⌊(start + end)/2⌋ into two children, of which empty ones
///    go, and the G children of the greatest score are kept, ties to the lower start.
///
/// A child's score is the greatest scale·q·k of the tile's odd rows (counted from 0; row 0 where it has one row only)
/// with the keys of the child's first block that each sees; −∞ where there is none.
///
/// # Errors
/// [`Error::Invalid`] for the problem, [`Error::Data`] for an input of the wrong length.
///
/// ```
/// use wgpu_attention::topk::reference::hierarchical;
/// use wgpu_attention::{Dense, Hierarchical};
///
/// // One query, eight keys in blocks of one, of which the search may keep two, beside the last.
/// let attention = Dense { keys: 8, head_dim: 1, ..Default::default() };
/// let problem = Hierarchical { attention, query_block: 1, block_size: 1, top_k: 2, window: 1, sink_tokens: 0 };
/// let k = [0.0, 1.0, 5.0, 9.0, 0.0, 6.0, 7.0, 0.0];
/// // Groups 0..3 and 3..7 split into 0, 1..3, 3..5 and 5..7, which begin with 0, 1, 9 and 6. The two best split again
/// // into 3 and 4, 5 and 6, of which 3 and 6 are the best.
/// assert_eq!(hierarchical(&problem, &[1.0], &k)?, [3, 3, 6, 7, 0]);
/// # Ok::<(), wgpu_attention::Error>(())
/// ```
pub fn hierarchical(problem: &Hierarchical, q: &[f32], k: &[f32]) -> Result<Vec<u32>> {
    rules::check_hierarchical(problem)?;
    let p = &problem.attention;
    check_len(
        "q",
        "[B, H, Nq, D]",
        &[p.batch, p.heads, p.queries, p.head_dim],
        q.len(),
    )?;
    check_len(
        "k",
        "[B, Hkv, Nk, D]",
        &[p.batch, p.kv_heads(), p.keys, p.head_dim],
        k.len(),
    )?;
    let (dim, group) = (p.head_dim as usize, (p.heads / p.kv_heads()) as usize);
    let k_heads: Vec<_> = k.chunks_exact(p.keys as usize * dim).collect();
    let mut lists = Vec::new();
    // Query head h of batch entry b reads KV head ⌊h·Hkv/H⌋ of b: also in one count over batch entries and heads.
    for (head, q) in q.chunks_exact(p.queries as usize * dim).enumerate() {
        for first in (0..p.queries).step_by(problem.query_block as usize) {
            let rows = first..(first + problem.query_block).min(p.queries);
            let tile = Tile {
                problem,
                q,
                k: k_heads[head / group],
                rows,
            };
            write_list(&tile.found(), problem.selection().capacity, &mut lists);
        }
    }
    Ok(lists)
}

fn write_list(entries: &BTreeSet<u32>, capacity: u32, lists: &mut Vec<u32>) {
    lists.push(entries.len() as u32);
    lists.extend(entries);
    lists.extend(std::iter::repeat_n(0, capacity as usize - entries.len()));
}

/// Group `i` of the `groups` that `blocks` blocks are divided into.
pub(crate) fn initial_group(i: u32, blocks: u32, groups: u32) -> Range<u32> {
    let start = |i: u32| (u64::from(i) * u64::from(blocks) / u64::from(groups)) as u32;
    start(i)..start(i + 1)
}

/// The children of a group; the first is empty where the group has one block.
pub(crate) fn split(group: &Range<u32>) -> [Range<u32>; 2] {
    let middle = (group.start + group.end) / 2;
    [group.start..middle, middle..group.end]
}

/// A tile of queries of one head, with that head's rows of q and k.
struct Tile<'a> {
    problem: &'a Hierarchical,
    q: &'a [f32],
    k: &'a [f32],
    rows: Range<u32>,
}

impl Tile<'_> {
    fn found(&self) -> BTreeSet<u32> {
        let (p, end) = (self.problem, self.end());
        let blocks = end.div_ceil(p.block_size);
        let searched = end.saturating_sub(p.window) / p.block_size;
        let sinks = p.sink_tokens.div_ceil(p.block_size).min(blocks);
        let best = self.search(searched).into_iter().map(|group| group.start);
        best.chain(searched..blocks).chain(0..sinks).collect()
    }

    /// The best of so many blocks, each as a group of one.
    fn search(&self, blocks: u32) -> Vec<Range<u32>> {
        let count = self.problem.top_k.min(blocks);
        let mut groups: Vec<_> = (0..count).map(|i| initial_group(i, blocks, count)).collect();
        while groups.iter().any(|group| group.len() > 1) {
            let children = groups.iter().flat_map(split).filter(|child| !child.is_empty());
            groups = self.best(children.collect(), count as usize);
        }
        groups
    }

    /// The children of the greatest scores, in ascending order.
    fn best(&self, children: Vec<Range<u32>>, count: usize) -> Vec<Range<u32>> {
        let mut scored: Vec<_> = children
            .into_iter()
            .map(|child| (self.score(child.start), child))
            .collect();
        // A stable sort: of equal scores the lower start stays in front.
        scored.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        scored.truncate(count);
        scored.sort_by_key(|(_, child)| child.start);
        scored.into_iter().map(|(_, child)| child).collect()
    }

    /// The greatest score of the rows that speak for the tile with the keys of a block.
    fn score(&self, block: u32) -> f64 {
        let scale = f64::from(self.problem.attention.scale());
        let first = block * self.problem.block_size;
        let keys = first..first.saturating_add(self.problem.block_size);
        let mut best = f64::NEG_INFINITY;
        for row in self.speakers() {
            for key in keys.start..keys.end.min(self.sight(row)) {
                // + 0, so that −0 and 0 are equal to a total order.
                best = best.max(scale * dot(self.row(self.q, row), self.row(self.k, key)) + 0.0);
            }
        }
        best
    }

    /// The odd rows of the tile, or its only row.
    fn speakers(&self) -> impl Iterator<Item = u32> {
        let skipped = usize::from(self.rows.len() > 1);
        self.rows.clone().skip(skipped).step_by(2)
    }

    fn row<'t>(&self, tensor: &'t [f32], row: u32) -> &'t [f32] {
        let dim = self.problem.attention.head_dim as usize;
        &tensor[row as usize * dim..][..dim]
    }

    /// One past the last key that the tile sees.
    fn end(&self) -> u32 {
        self.sight(self.rows.end - 1)
    }

    /// One past the last key that a row sees.
    fn sight(&self, row: u32) -> u32 {
        let p = &self.problem.attention;
        let keys = i64::from(p.keys);
        if !p.causal {
            return p.keys;
        }
        let offset = p.q_offset.map_or(keys - i64::from(p.queries), i64::from);
        (i64::from(row) + offset + 1).clamp(0, keys) as u32
    }
}

/// The share of the entries of the exact lists that the found lists have as well; 1 where the exact lists are empty.
/// Each are lists of `problem` with their shape; the two may have room for different numbers of entries.
///
/// # Errors
/// [`Error::Invalid`] where the shapes differ in anything but their room, and as [`Selection::check`].
///
/// ```
/// use wgpu_attention::topk::reference::recall;
/// use wgpu_attention::{Dense, Selection};
///
/// let attention = Dense { keys: 9, ..Default::default() };
/// let four = Selection { block_size: 1, query_block: 1, per_kv_head: false, capacity: 4 };
/// let two = Selection { capacity: 2, ..four };
/// assert_eq!(recall(&attention, (&two, &[2, 3, 5]), (&four, &[4, 1, 3, 6, 7]))?, 0.25);
/// # Ok::<(), wgpu_attention::Error>(())
/// ```
pub fn recall(problem: &Dense, found: (&Selection, &[u32]), exact: (&Selection, &[u32])) -> Result<f64> {
    let same_room = Selection {
        capacity: exact.0.capacity,
        ..*found.0
    };
    if same_room != *exact.0 {
        return Err(Error::Invalid {
            field: "selection",
            value: format!("{:?}", found.0),
            allowed: format!("the same as {:?} but for `capacity`", exact.0),
        });
    }
    found.0.check(problem, found.1)?;
    exact.0.check(problem, exact.1)?;
    let entries = |(selection, lists): (&Selection, &[u32])| -> Vec<BTreeSet<u32>> {
        let lists = lists.chunks_exact(1 + selection.capacity as usize);
        lists
            .map(|list| list[1..][..list[0] as usize].iter().copied().collect())
            .collect()
    };
    let (mut shared, mut all) = (0, 0);
    for (found, exact) in entries(found).iter().zip(entries(exact)) {
        shared += exact.intersection(found).count();
        all += exact.len();
    }
    Ok(if all == 0 { 1.0 } else { shared as f64 / all as f64 })
}
