//! The k greatest of each row, and the lengthening of lists.

use std::cmp::Ordering;

use crate::error::{Error, Result};
use crate::ops::dense::inputs::check_len;
use crate::ops::topk::{Extend, Select, rules};

/// Keeps the k greatest of each row of `scores` `[rows, columns]`, as [`Select`] has it, by sorting all of them: lists
/// `[rows, 1 + capacity]`, what lies behind a list's entries being 0.
///
/// # Errors
/// [`Error::Invalid`](crate::Error::Invalid) for the problem, [`Error::Data`](crate::Error::Data) for scores of the
/// wrong length.
///
/// ```
/// use wgpu_attention::Select;
/// use wgpu_attention::topk::reference::select;
///
/// let problem = Select { columns: 5, top_k: 3, capacity: Some(4), ..Default::default() };
/// assert_eq!(select(&problem, &[2.0, 9.0, 2.0, f64::NEG_INFINITY, 7.0])?, [3, 0, 1, 4, 0]);
/// # Ok::<(), wgpu_attention::Error>(())
/// ```
pub fn select(problem: &Select, scores: &[f64]) -> Result<Vec<u32>> {
    rules::check_select(problem)?;
    let dims = [problem.rows, problem.columns];
    check_len("scores", "[rows, columns]", &dims, scores.len())?;
    let mut lists = Vec::new();
    for row in scores.chunks_exact(problem.columns as usize) {
        let kept = best(problem, row);
        let room = problem.capacity() as usize - kept.len();
        lists.push(kept.len() as u32);
        lists.extend(kept);
        lists.extend(std::iter::repeat_n(0, room));
    }
    Ok(lists)
}

/// The columns of a row that are kept, ascending.
fn best(problem: &Select, row: &[f64]) -> Vec<u32> {
    let mut kept = candidates(row);
    let last_candidate = kept.last().copied().unwrap_or(0);
    kept.sort_by(|&a, &b| order(problem, row, last_candidate, a, b));
    kept.truncate(problem.top_k as usize);
    kept.sort();
    kept
}

/// Columns with a score; NaN is none.
pub(crate) fn candidates(row: &[f64]) -> Vec<u32> {
    (0..row.len() as u32)
        .filter(|&column| row[column as usize] > f64::NEG_INFINITY)
        .collect()
}

/// Whether a candidate is kept whatever its score.
pub(crate) fn is_forced(problem: &Select, last_candidate: u32, column: u32) -> bool {
    column < problem.first || u64::from(column) + u64::from(problem.last) > last_candidate.into()
}

/// Which of two candidates comes first: what is kept in any case, then the greater score, then the lower column.
fn order(problem: &Select, row: &[f64], last_candidate: u32, a: u32, b: u32) -> Ordering {
    let forced = |column| is_forced(problem, last_candidate, column);
    let score = |column: u32| row[column as usize];
    let by_score = score(b).partial_cmp(&score(a)).unwrap_or(Ordering::Equal);
    forced(b).cmp(&forced(a)).then(by_score).then(a.cmp(&b))
}

/// Adds new entries to lists `[lists, 1 + capacity]`, as [`Extend`] has it. What lies behind a list's entries stays.
///
/// # Errors
/// [`Error::Invalid`] for the problem, [`Error::Data`] for lists of the wrong length, or one of more than
/// [`Extend::held`] entries.
///
/// ```
/// use wgpu_attention::Extend;
/// use wgpu_attention::topk::reference::extend;
///
/// // Two lists with room for four, to which tokens 7 and 8 are added; the second has 7 already.
/// let problem = Extend { lists: 2, capacity: 4, held: 2, from: 7, to: 9 };
/// let lists = [1, 3, 0, 0, 0, 2, 5, 7, 0, 0];
/// assert_eq!(extend(&problem, &lists)?, [3, 3, 7, 8, 0, 3, 5, 7, 8, 0]);
/// # Ok::<(), wgpu_attention::Error>(())
/// ```
pub fn extend(problem: &Extend, lists: &[u32]) -> Result<Vec<u32>> {
    rules::check_extend(problem)?;
    let names = "[lists, 1 + capacity]";
    check_len("lists", names, &[problem.lists, 1 + problem.capacity], lists.len())?;
    let mut lists = lists.to_vec();
    for (n, list) in lists.chunks_exact_mut(1 + problem.capacity as usize).enumerate() {
        if list[0] > problem.held {
            return Err(Error::Data {
                input: "lists",
                found: format!("list {n} has {} entries", list[0]),
                needed: format!("at most `held`, {}", problem.held),
            });
        }
        for entry in problem.from..problem.to {
            let count = list[0] as usize;
            if count == 0 || list[count] < entry {
                list[count + 1] = entry;
                list[0] += 1;
            }
        }
    }
    Ok(lists)
}
