//! Whether the result of a top-k problem is right, whichever of equally good entries it kept.

use std::fmt;

use super::{Comparison, DenseComparison, Tolerance, Unit, dense, ratio};
use crate::error::Result;
use crate::ops::dense::reference::Hooks;
use crate::ops::dense::{Dense, DenseOutput};
use crate::ops::selection::Selection;
use crate::ops::topk::{Select, TopK, TopKInputs, TopKOutput, reference, rules};

/// Scores that differ by less than this part of the range of their list's scores are a tie: what f32 arithmetic cannot
/// tell apart.
pub const NEAR_TIE: f64 = 1e-5;

/// The outcome of comparing a top-k problem's outputs; displays as one line.
#[derive(Clone, Debug, PartialEq)]
pub struct TopKComparison {
    /// o.
    pub o: Comparison,
    /// lse, where either side has one.
    pub lse: Option<Comparison>,
    /// The lists. Elements are their words, what is expected is the exact choice, and the error of a word is how far
    /// the score of its entry is from being good enough, [`NEAR_TIE`] of the list's range being 1; what no tie excuses
    /// is infinite.
    pub selection: Comparison,
    /// The keys that each row attends to, against those that a case file has; errors as those of the lists.
    pub selected: Option<Comparison>,
}

impl TopKComparison {
    /// Whether everything is within bounds.
    pub fn passed(&self) -> bool {
        self.all().all(Comparison::passed)
    }

    /// Every tensor that was compared, o first.
    pub fn all(&self) -> impl Iterator<Item = &Comparison> {
        let others = [self.lse.as_ref(), Some(&self.selection), self.selected.as_ref()];
        std::iter::once(&self.o).chain(others.into_iter().flatten())
    }
}

impl fmt::Display for TopKComparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, comparison) in self.all().enumerate() {
            write!(f, "{}{comparison}", if i == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

/// Compares the outputs of a top-k problem with the reference's.
///
/// A list is right if it is well formed (entries in range, ascending, once each, the room behind them 0), has as many
/// entries as the exact one and all that are kept whatever their score, and if no entry in it has a score below that of
/// the worst that belongs in it, and none that was left out one above that, by more than [`NEAR_TIE`] of the range of
/// the list's finite scores. The scores are the reference's, in float64.
///
/// o and lse are compared with the reference's attention over the lists that were returned, so that an entry kept in
/// place of its equal is no error there; over the exact lists if those returned are not well formed.
///
/// # Errors
/// As [`reference::top_k`].
///
/// ```
/// use wgpu_attention::compare::{self, Tolerance};
/// use wgpu_attention::dense::reference::Hooks;
/// use wgpu_attention::{DType, Dense, DenseInputs, TopK, TopKInputs, TopKOutput};
///
/// let attention = Dense { keys: 4, head_dim: 1, ..Default::default() };
/// let problem = TopK { attention, top_k: 1, ..Default::default() };
/// let attention = DenseInputs { q: &[1.0], k: &[2.0, 0.0, 2.0, 1.0], v: &[1.0, 2.0, 3.0, 4.0], ..Default::default() };
/// let inputs = TopKInputs { attention, pooled: None };
/// let judge = |entry, o| {
///     let output = TopKOutput { o: vec![o], lse: None, selection: vec![1, entry] };
///     compare::topk(&problem, &inputs, &Hooks::default(), &output, &Tolerance::for_dtype(DType::F32))
/// };
/// // Keys 0 and 2 tie; key 3 is worse than either, and each has its own value.
/// assert!(judge(0, 1.0)?.passed() && judge(2, 3.0)?.passed());
/// assert!(!judge(3, 4.0)?.passed() && !judge(2, 1.0)?.passed());
/// # Ok::<(), wgpu_attention::Error>(())
/// ```
pub fn topk(
    problem: &TopK,
    inputs: &TopKInputs<'_>,
    hooks: &Hooks<'_>,
    actual: &TopKOutput<f32>,
    tolerance: &Tolerance,
) -> Result<TopKComparison> {
    judge(problem, inputs, hooks, actual, None, tolerance)
}

/// What a case file says that a problem gives.
pub(crate) struct Known<'a> {
    /// o and lse, from the exact choice.
    pub(crate) output: DenseOutput<f64>,
    /// `[B, H, Nq, Nk]`, the keys that each row attends to, 0 or 1.
    pub(crate) selected: &'a [u8],
}

/// As [`topk()`], against what a case file has: the keys that each row attends to, and, where those are the same, o
/// and lse.
#[cfg(feature = "cases")]
pub(crate) fn topk_case(
    problem: &TopK,
    inputs: &TopKInputs<'_>,
    actual: &TopKOutput<f32>,
    known: &Known<'_>,
    tolerance: &Tolerance,
) -> Result<TopKComparison> {
    judge(problem, inputs, &Hooks::default(), actual, Some(known), tolerance)
}

fn judge(
    problem: &TopK,
    inputs: &TopKInputs<'_>,
    hooks: &Hooks<'_>,
    actual: &TopKOutput<f32>,
    known: Option<&Known<'_>>,
    tolerance: &Tolerance,
) -> Result<TopKComparison> {
    let judges = Judges::new(problem, inputs, hooks)?;
    let lists = &actual.selection;
    let is_sound = problem.selection().check(&problem.attention, lists).is_ok();
    let attended = if is_sound { lists } else { &judges.exact };
    let seen = reference::selected(problem, inputs, hooks, attended)?;
    let expected = match known {
        Some(known) if known.selected == seen => known.output.clone(),
        _ => reference::attend(problem, inputs, hooks, attended)?,
    };
    let output = DenseOutput {
        o: actual.o.clone(),
        lse: actual.lse.clone(),
    };
    let DenseComparison { o, lse } = dense(&output, &expected, tolerance);
    Ok(TopKComparison {
        o,
        lse,
        selection: judges.compare(lists),
        selected: known.map(|known| judges.compare_keys(&problem.attention, &seen, known.selected)),
    })
}

fn of_errors(name: &'static str, actual: &[f32], expected: &[f64], errors: &[f64]) -> Comparison {
    Comparison::of_lengths(name, actual.len(), expected.len(), Unit::Bound, (1.0, 1.0)).fill(
        actual,
        expected,
        errors.iter().map(|&error| (error, error)),
    )
}

/// What every list of a problem is judged by.
struct Judges {
    select: Select,
    selection: Selection,
    /// `[lists, entries]`
    scores: Vec<f64>,
    /// `[lists, 1 + capacity]`, the exact choice.
    exact: Vec<u32>,
}

impl Judges {
    fn new(problem: &TopK, inputs: &TopKInputs<'_>, hooks: &Hooks<'_>) -> Result<Self> {
        let scores = reference::scores(problem, inputs, hooks)?;
        let select = rules::select_of(problem);
        Ok(Judges {
            exact: reference::select(&select, &scores)?,
            selection: problem.selection(),
            select,
            scores,
        })
    }

    fn of_list(&self, list: usize) -> Judge<'_> {
        let (columns, words) = (self.select.columns as usize, 1 + self.selection.capacity as usize);
        let scores = &self.scores[list * columns..][..columns];
        Judge::new(&self.select, scores, &self.exact[list * words..][..words])
    }

    /// Compares the keys that each row attends to: where they differ, the score of the key's entry must be that of the
    /// worst that belongs in the list, near ties aside.
    fn compare_keys(&self, p: &Dense, actual: &[u8], expected: &[u8]) -> Comparison {
        let keys = p.keys as usize;
        let rows = actual.chunks_exact(keys).zip(expected.chunks_exact(keys));
        let mut errors = Vec::new();
        for ([batch, head, query], (actual, expected)) in reference::every_row(p).zip(rows) {
            let words = self.selection.list_of(p, batch, head, query);
            let judge = self.of_list(words.start / words.len());
            errors.extend(
                (0..p.keys).map(|key| match actual[key as usize] == expected[key as usize] {
                    true => 0.0,
                    false => judge.distance(key / self.selection.block_size),
                }),
            );
        }
        let narrow: Vec<f32> = actual.iter().map(|&key| key.into()).collect();
        let wide: Vec<f64> = expected.iter().map(|&key| key.into()).collect();
        of_errors("selected", &narrow, &wide, &errors)
    }

    fn compare(&self, lists: &[u32]) -> Comparison {
        let words = 1 + self.selection.capacity as usize;
        let mut errors = Vec::new();
        // Of a tensor of the wrong length nothing is compared but that.
        if lists.len() == self.exact.len() {
            for (n, list) in lists.chunks_exact(words).enumerate() {
                errors.extend(self.of_list(n).errors(list));
            }
        }
        let narrow: Vec<f32> = lists.iter().map(|&word| word as f32).collect();
        let wide: Vec<f64> = self.exact.iter().map(|&word| word.into()).collect();
        of_errors("selection", &narrow, &wide, &errors)
    }
}

/// What one list is judged by.
struct Judge<'a> {
    select: &'a Select,
    scores: &'a [f64],
    /// The exact list: entry count, entries, zeros.
    exact: &'a [u32],
    last_candidate: u32,
    /// The least score of an entry that belongs in the list for its score: what is better belongs in it, what is
    /// worse does not. +∞ where none does.
    threshold: f64,
    /// Scores this near to each other are a tie.
    tie: f64,
}

impl<'a> Judge<'a> {
    fn new(select: &'a Select, scores: &'a [f64], exact: &'a [u32]) -> Self {
        let candidates = reference::candidates(scores);
        let finite = || scores.iter().copied().filter(|s| s.is_finite());
        let (least, greatest) = (
            finite().fold(f64::INFINITY, f64::min),
            finite().fold(f64::NEG_INFINITY, f64::max),
        );
        let mut judge = Judge {
            select,
            scores,
            exact,
            last_candidate: candidates.last().copied().unwrap_or(0),
            threshold: f64::INFINITY,
            tie: NEAR_TIE * (greatest - least).max(0.0),
        };
        let chosen = exact[1..][..exact[0] as usize].iter().filter(|&&e| !judge.is_forced(e));
        judge.threshold = chosen.map(|&e| judge.score(e)).fold(f64::INFINITY, f64::min);
        judge
    }

    fn score(&self, entry: u32) -> f64 {
        self.scores[entry as usize]
    }

    fn is_candidate(&self, entry: u32) -> bool {
        self.score(entry) > f64::NEG_INFINITY
    }

    fn is_forced(&self, entry: u32) -> bool {
        self.is_candidate(entry) && reference::is_forced(self.select, self.last_candidate, entry)
    }

    /// The error of each word of a list.
    fn errors(&self, list: &[u32]) -> Vec<f64> {
        if !self.is_well_formed(list) {
            let pairs = list.iter().zip(self.exact);
            return pairs.map(|(a, b)| if a == b { 0.0 } else { f64::INFINITY }).collect();
        }
        let kept = &list[1..][..list[0] as usize];
        let mut errors = vec![0.0; list.len()];
        for (error, &entry) in errors[1..].iter_mut().zip(kept) {
            *error = self.too_low(entry);
        }
        // What was left out has no word; the first that is not the exact one stands for it.
        let left_out = (0..self.select.columns).filter(|entry| kept.binary_search(entry).is_err());
        let worst = left_out.map(|entry| self.too_high(entry)).fold(0.0, f64::max);
        if let Some(n) = (0..list.len()).find(|&n| list[n] != self.exact[n]) {
            errors[n] = worst.max(errors[n]);
        }
        errors
    }

    /// Whether a list has the right number of entries, in range and ascending, and zeros behind them.
    fn is_well_formed(&self, list: &[u32]) -> bool {
        if list[0] != self.exact[0] {
            return false;
        }
        let (kept, room) = list[1..].split_at(list[0] as usize);
        kept.iter().all(|&entry| entry < self.select.columns)
            && kept.windows(2).all(|pair| pair[0] < pair[1])
            && room.iter().all(|&word| word == 0)
    }

    /// By how many ties the score of an entry that was kept is too low.
    fn too_low(&self, entry: u32) -> f64 {
        match self.score(entry) {
            _ if !self.is_candidate(entry) => f64::INFINITY,
            s if self.is_forced(entry) || s >= self.threshold => 0.0,
            s => ratio(self.threshold - s, self.tie),
        }
    }

    /// By how many ties the score of an entry that was left out is too high.
    fn too_high(&self, entry: u32) -> f64 {
        match self.score(entry) {
            _ if self.is_forced(entry) => f64::INFINITY,
            s if s > self.threshold => ratio(s - self.threshold, self.tie),
            _ => 0.0,
        }
    }

    /// How many ties an entry's score lies from the threshold: an entry that is in one list and not in another.
    fn distance(&self, entry: u32) -> f64 {
        self.too_low(entry).max(self.too_high(entry))
    }
}
