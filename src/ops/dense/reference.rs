//! What the dense kernels compute, in float64 and in the plainest form: one score at a time, straight from the
//! formula, no tiles. The kernels are tested against it; read it to learn what they do.
//!
//! For each query row there are three steps, each a function below: which keys it may see (`listed_keys`, `visible`),
//! their scores (`score`), and from scores to weights (`softmax`, `sigmoid`). The output row is the weighted sum of the values.
//!
//! Softmax attention is "Attention Is All You Need" (Vaswani et al., 2017); sigmoid attention is "Theory, Analysis,
//! and Best Practices for Sigmoid Self-Attention" (Ramapuram et al., 2024); ALiBi is "Train Short, Test Long" (Press
//! et al., 2021); the sink that takes part in the denominator is "Efficient Streaming Language Models with Attention
//! Sinks" (Xiao et al., 2023) in its learned form.
//!
//! ```
//! use wgpu_attention::dense::reference::{Hooks, dense};
//! use wgpu_attention::{Dense, DenseInputs};
//!
//! // One query between two keys that score alike: the mean of the values, and ln 2 as log-sum-exp.
//! let problem = Dense { keys: 2, head_dim: 1, lse: true, ..Default::default() };
//! let inputs = DenseInputs { q: &[1.0], k: &[0.0, 0.0], v: &[1.0, 3.0], ..Default::default() };
//! let output = dense(&problem, &inputs, &Hooks::default())?;
//! assert_eq!(output.o, [2.0]);
//! assert_eq!(output.lse.as_deref(), Some(&[2f64.ln()][..]));
//! # Ok::<(), wgpu_attention::Error>(())
//! ```

use std::fmt;
use std::ops::Range;

use super::{Broadcast, Dense, DenseInputs, DenseOutput, Weighting};
use crate::error::{Error, Result};

#[cfg(test)]
mod tests;

/// Where a score stands: the fields of `Position` in the WGSL of [`Custom`](super::Custom).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Position {
    /// b, 0..B.
    pub batch: u32,
    /// h, 0..H.
    pub head: u32,
    /// ⌊h·Hkv/H⌋, 0..Hkv.
    pub kv_head: u32,
    /// Row of q, 0..Nq, counted over all documents.
    pub query: u32,
    /// Row of k and v, 0..Nk, counted over all documents.
    pub key: u32,
    /// a, the query's position inside its own document, `q_offset` applied; may be negative.
    pub query_pos: i32,
    /// j, the key's position inside its own document.
    pub key_pos: i32,
}

/// A custom score in Rust: the score so far, and where it stands.
pub type Score<'a> = dyn Fn(f64, &Position) -> f64 + 'a;

/// A custom mask in Rust; true keeps the key.
pub type Mask<'a> = dyn Fn(&Position) -> bool + 'a;

/// The CPU twin of the WGSL in [`Dense::custom`]: one function here for each one there.
#[derive(Clone, Copy, Default)]
pub struct Hooks<'a> {
    /// Twin of [`Custom::score`](super::Custom::score).
    pub score: Option<&'a Score<'a>>,
    /// Twin of [`Custom::mask`](super::Custom::mask).
    pub mask: Option<&'a Mask<'a>>,
}

impl fmt::Debug for Hooks<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks")
            .field("score", &self.score.is_some())
            .field("mask", &self.mask.is_some())
            .finish()
    }
}

impl Hooks<'_> {
    /// A twin missing, or without a counterpart, would compare two different problems.
    pub(crate) fn check(&self, problem: &Dense) -> Result<()> {
        let custom = problem.custom.as_ref();
        let pairs = [
            (
                "hooks.score",
                self.score.is_some(),
                custom.is_some_and(|custom| custom.score.is_some()),
            ),
            (
                "hooks.mask",
                self.mask.is_some(),
                custom.is_some_and(|custom| custom.mask.is_some()),
            ),
        ];
        for (input, given, wanted) in pairs {
            if given != wanted {
                let (found, needed) = match wanted {
                    true => ("None", "the CPU twin of the problem's custom WGSL"),
                    false => ("a function", "None, since the problem has no such custom WGSL"),
                };
                return Err(Error::Data {
                    input,
                    found: found.into(),
                    needed: needed.into(),
                });
            }
        }
        Ok(())
    }
}

/// Solves `problem` in float64: o `[B, H, Nq, Dv]` and, where [`Dense::lse`] asks for it, lse `[B, H, Nq]` (natural
/// log, the sink included).
///
/// Inputs are taken as they are: rounding to the problem's storage types and its layouts play no part. Inputs and
/// the problem's f32 numbers are widened to f64 before the first operation. A key that a row does not see is never
/// read, so a NaN there does no harm. A row that sees nothing gives o = 0 and lse = −inf, or the sink's logit.
///
/// Time is proportional to B·H·Nq·Nk·(D + Dv), on one thread: some 10⁹ such products a second.
///
/// # Errors
/// As [`DenseInputs::check`], and [`Error::Data`] where custom WGSL and `hooks` do not pair up.
pub fn dense(problem: &Dense, inputs: &DenseInputs<'_>, hooks: &Hooks<'_>) -> Result<DenseOutput<f64>> {
    inputs.check(problem)?;
    hooks.check(problem)?;
    let oracle = Oracle { problem, inputs, hooks };
    let mut o = Vec::new();
    let mut lse = Vec::new();
    let mut scores = Vec::new();
    for batch in 0..problem.batch {
        for head in 0..problem.heads {
            for query in 0..problem.queries {
                oracle.row_scores(batch, head, query, &mut scores);
                lse.push(oracle.weigh(head, &mut scores));
                o.extend(oracle.weighted_values(batch, head, &scores));
            }
        }
    }
    let lse = problem.lse.then_some(lse);
    Ok(DenseOutput { o, lse })
}

/// A visible key and its score, later its weight.
pub(crate) type Scored = (u32, f64);

/// The keys that belong to a query row's document (or all of them), and the row's position in it.
pub(crate) struct Span {
    pub(crate) keys: Range<u32>,
    pub(crate) query_pos: i64,
}

/// A problem with what it is about: whether a row sees a key, and how it scores it.
pub(crate) struct Oracle<'a> {
    pub(crate) problem: &'a Dense,
    pub(crate) inputs: &'a DenseInputs<'a>,
    pub(crate) hooks: &'a Hooks<'a>,
}

impl Oracle<'_> {
    /// Collects the visible keys of a row, in order, each with its score.
    pub(crate) fn row_scores(&self, batch: u32, head: u32, query: u32, scores: &mut Vec<Scored>) {
        scores.clear();
        let Some(span) = self.span(batch, query) else {
            return;
        };
        for key in self.listed_keys(&span, batch, head, query) {
            let at = self.position(&span, [batch, head, query, key]);
            if self.visible(&at) {
                scores.push((key, self.score(&at)));
            }
        }
    }

    /// The keys of a row's span that are in its list; all of them in a problem without a selection.
    fn listed_keys(&self, span: &Span, batch: u32, head: u32, query: u32) -> Vec<u32> {
        let p = self.problem;
        let (Some(selection), Some(lists)) = (p.selection, self.inputs.selection) else {
            return span.keys.clone().collect();
        };
        let list = &lists[selection.list_of(p, batch, head, query)];
        let entries = selection.visible_entries(list, selection.entries(p));
        let keys = entries.into_iter().flat_map(|entry| selection.keys_of(p, entry));
        keys.filter(|key| span.keys.contains(key)).collect()
    }

    /// Where the score of a query row for a key of its span stands.
    pub(crate) fn position(&self, span: &Span, [batch, head, query, key]: [u32; 4]) -> Position {
        Position {
            batch,
            head,
            kv_head: self.kv_head(head),
            query,
            key,
            query_pos: span.query_pos as i32,
            key_pos: (key - span.keys.start) as i32,
        }
    }

    /// Query head h reads KV head ⌊h·Hkv/H⌋.
    fn kv_head(&self, head: u32) -> u32 {
        head / (self.problem.heads / self.problem.kv_heads())
    }

    /// The row's own document; `None` for a row outside every document.
    pub(crate) fn span(&self, batch: u32, query: u32) -> Option<Span> {
        let (queries, keys, key_count) = match (self.inputs.cu_seqlens_q, self.inputs.cu_seqlens_k) {
            (Some(starts_q), Some(starts_k)) => {
                let document = starts_q
                    .windows(2)
                    .position(|d| d[0] as u32 <= query && query < d[1] as u32)?;
                let queries = starts_q[document] as u32..starts_q[document + 1] as u32;
                let keys = starts_k[document] as u32..starts_k[document + 1] as u32;
                let key_count = keys.len();
                (queries, keys, key_count)
            }
            _ => {
                let key_count = match self.inputs.kv_len {
                    Some(kv_len) => kv_len[batch as usize] as usize,
                    None => self.problem.keys as usize,
                };
                (0..self.problem.queries, 0..self.problem.keys, key_count)
            }
        };
        // Without an offset of its own, the last query stands at the last key.
        let offset = match self.problem.q_offset {
            Some(offset) => i64::from(offset),
            None => key_count as i64 - queries.len() as i64,
        };
        let query_pos = i64::from(query - queries.start) + offset;
        Some(Span { keys, query_pos })
    }

    /// Whether a row sees a key of its own document: one in its reach, as far as the mask tensor and the caller's own
    /// mask let it; and a bias of −inf masks too.
    pub(crate) fn visible(&self, at: &Position) -> bool {
        self.in_reach(at)
            && self.mask(at)
            && self.bias(at) != f64::NEG_INFINITY
            && self.hooks.mask.is_none_or(|mask| mask(at))
    }

    /// ((window ∪ sink tokens) ∩ causal ∪ prefix) ∩ `kv_len`: what the positions alone decide.
    pub(crate) fn in_reach(&self, at: &Position) -> bool {
        let problem = self.problem;
        let (a, j) = (i64::from(at.query_pos), i64::from(at.key_pos));
        let in_window = problem.window_left.is_none_or(|left| a - j <= i64::from(left))
            && problem.window_right.is_none_or(|right| j - a <= i64::from(right));
        let is_sink_token = j < i64::from(problem.sink_tokens);
        let is_causal = !problem.causal || j <= a;
        let is_prefix = j < i64::from(problem.prefix);
        let is_there = self
            .inputs
            .kv_len
            .is_none_or(|kv_len| i64::from(at.key) < i64::from(kv_len[at.batch as usize]));

        ((in_window || is_sink_token) && is_causal || is_prefix) && is_there
    }

    /// Scale, softcap, bias and ALiBi, custom score, in this order.
    pub(crate) fn score(&self, at: &Position) -> f64 {
        let mut s = f64::from(self.problem.scale()) * dot(self.q_row(at), self.k_row(at));
        if let Some(cap) = self.problem.softcap.map(f64::from) {
            s = cap * (s / cap).tanh();
        }
        s += self.bias(at);
        if let Some(slopes) = self.inputs.alibi_slopes {
            let distance = (i64::from(at.query_pos) - i64::from(at.key_pos)).abs();
            s -= f64::from(slopes[at.head as usize]) * distance as f64;
        }
        match self.hooks.score {
            Some(score) => score(s, at),
            None => s,
        }
    }

    /// Turns scores into weights and returns the row's log-sum-exp (of no meaning for sigmoid).
    fn weigh(&self, head: u32, scores: &mut [Scored]) -> f64 {
        match self.problem.weighting {
            Weighting::Softmax => {
                let sink = self.inputs.sinks.map(|sinks| f64::from(sinks[head as usize]));
                softmax(scores, sink)
            }
            Weighting::Sigmoid { .. } => {
                let bias = self.problem.sigmoid_bias().map_or(0.0, f64::from);
                for (_, s) in scores {
                    *s = sigmoid(*s + bias);
                }
                f64::NEG_INFINITY
            }
        }
    }

    /// Σ_j w_j v_j, a row of o.
    fn weighted_values(&self, batch: u32, head: u32, weights: &[Scored]) -> Vec<f64> {
        let p = self.problem;
        let mut o = vec![0.0; p.value_dim() as usize];
        for &(key, weight) in weights {
            let index = row_index(batch, p.kv_heads(), self.kv_head(head), p.keys, key);
            for (o, &v) in o.iter_mut().zip(row(self.inputs.v, index, p.value_dim())) {
                *o += weight * f64::from(v);
            }
        }
        o
    }

    pub(crate) fn q_row(&self, at: &Position) -> &[f32] {
        let p = self.problem;
        row(
            self.inputs.q,
            row_index(at.batch, p.heads, at.head, p.queries, at.query),
            p.head_dim,
        )
    }

    fn k_row(&self, at: &Position) -> &[f32] {
        let p = self.problem;
        row(
            self.inputs.k,
            row_index(at.batch, p.kv_heads(), at.kv_head, p.keys, at.key),
            p.head_dim,
        )
    }

    /// The additive bias; 0 where the problem has none.
    fn bias(&self, at: &Position) -> f64 {
        match (self.problem.bias, self.inputs.bias) {
            (Some(bias), Some(values)) => f64::from(values[self.broadcast_index(bias.shape, at)]),
            _ => 0.0,
        }
    }

    fn mask(&self, at: &Position) -> bool {
        match (self.problem.mask, self.inputs.mask) {
            (Some(shape), Some(values)) => values[self.broadcast_index(shape, at)] != 0,
            _ => true,
        }
    }

    /// Index into a `[B|1, H|1, Nq|1, Nk]` tensor; every dimension of 1 is read at 0.
    fn broadcast_index(&self, shape: Broadcast, at: &Position) -> usize {
        let [_, heads, queries, keys] = shape.dims(self.problem);
        let pick = |there: bool, index: u32| if there { index } else { 0 };
        let batch = pick(shape.per_batch, at.batch);
        let head = pick(shape.per_head, at.head);
        let query = pick(shape.per_query, at.query);
        row_index(batch, heads, head, queries, query) * keys as usize + at.key as usize
    }
}

/// Index of row n of head h of batch entry b in a contiguous `[B, H, N, …]` tensor.
fn row_index(batch: u32, heads: u32, head: u32, rows: u32, row: u32) -> usize {
    (batch as usize * heads as usize + head as usize) * rows as usize + row as usize
}

fn row(tensor: &[f32], index: usize, dim: u32) -> &[f32] {
    &tensor[index * dim as usize..][..dim as usize]
}

/// q·k, summed in eight strands, since one chain of dependent additions is what would take the time.
pub(crate) fn dot(q: &[f32], k: &[f32]) -> f64 {
    let mut sums = [0.0; 8];
    for (q, k) in q.chunks(sums.len()).zip(k.chunks(sums.len())) {
        for (sum, (&q, &k)) in sums.iter_mut().zip(q.iter().zip(k)) {
            *sum += f64::from(q) * f64::from(k);
        }
    }
    sums.iter().sum()
}

/// e^s / (Σ e^s + e^sink) in place; returns ln(Σ e^s + e^sink). The maximum is taken out first, so that nothing
/// overflows. No keys and no sink, or nothing but scores of −inf: no weight at all, and −inf.
fn softmax(scores: &mut [Scored], sink: Option<f64>) -> f64 {
    // f64::max would drop a NaN, which has to reach the output.
    let larger = |a: f64, b: f64| if b > a || b.is_nan() { b } else { a };
    let max = scores
        .iter()
        .map(|&(_, s)| s)
        .chain(sink)
        .fold(f64::NEG_INFINITY, larger);
    if max == f64::NEG_INFINITY {
        scores.iter_mut().for_each(|(_, s)| *s = 0.0);
        return max;
    }
    let mut sum = sink.map_or(0.0, |sink| (sink - max).exp());
    for (_, s) in scores.iter_mut() {
        *s = (*s - max).exp();
        sum += *s;
    }
    scores.iter_mut().for_each(|(_, s)| *s /= sum);
    max + sum.ln()
}

/// 1 / (1 + e^−x), with the exponential of a number that is not positive, so that nothing overflows.
fn sigmoid(x: f64) -> f64 {
    let e = (-x.abs()).exp();
    if x >= 0.0 { 1.0 / (1.0 + e) } else { e / (1.0 + e) }
}
