//! The k greatest of each row, as a list of their columns: exact, and the same on every device.
//!
//! A radix select on the scores' bits: no sort, no rounding, nothing left to the order of execution. Up to four
//! histograms of one digit each find the k-th greatest score; what lies above it, and as many as there is room for of what
//! equals it, goes to the list in the order of the columns. See `shaders/topk/select.wgsl`.
//!
//! ```no_run
//! use wgpu_attention::{Select, SelectTensors};
//! # use wgpu_attention::{Gpu, Result, wgpu};
//! # fn f(gpu: &Gpu, encoder: &mut wgpu::CommandEncoder, scores: &wgpu::Buffer, lists: &wgpu::Buffer) -> Result<()> {
//! // Of each of 8 rows of 65536 scores the 2048 greatest, the first four columns and the last 64 always among them.
//! let select = Select { rows: 8, columns: 65536, top_k: 2048, first: 4, last: 64, ..Default::default() };
//! select.plan(gpu)?.encode(encoder, &SelectTensors { scores: scores.into(), lists: lists.into() })?;
//!
//! // Or from host to host: the number of entries, the entries, zeros.
//! let lists = Select { columns: 4, top_k: 2, ..Default::default() }.plan(gpu)?.run_blocking(&[0.5, 2.0, -1.0, 2.0])?;
//! assert_eq!(lists, [2, 1, 3]);
//! # Ok(())
//! # }
//! ```

pub(crate) mod plan;
pub mod tile;
pub mod variant;

pub use plan::{SelectPlan, SelectTensors};

/// Exact top-k of each row: scores f32 `[rows, columns]` to lists u32 `[rows, 1 + capacity]` (the number of entries,
/// then the column numbers, ascending, then zeros), both contiguous.
///
/// A score of −∞ or NaN is no candidate; +∞ comes before every number; −0 equals 0. Of equal scores the lower
/// column is kept. Where a row has fewer than k candidates, all of them are kept.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Select {
    /// Rows, at least 1.
    pub rows: u32,
    /// Columns, at least 1.
    pub columns: u32,
    /// k, at least 1.
    pub top_k: u32,
    /// Candidates among the first so many columns are kept whatever their score; `first + last` is at most k.
    pub first: u32,
    /// Candidates among the last so many columns, counted back from the row's last candidate, are kept whatever their
    /// score.
    pub last: u32,
    /// Entries that a list has room for, at least k. `None`: k.
    pub capacity: Option<u32>,
}

impl Default for Select {
    /// The greatest of one.
    fn default() -> Self {
        Select {
            rows: 1,
            columns: 1,
            top_k: 1,
            first: 0,
            last: 0,
            capacity: None,
        }
    }
}

impl Select {
    /// Entries that a list has room for.
    pub fn capacity(&self) -> u32 {
        self.capacity.unwrap_or(self.top_k)
    }

    /// Bytes of a row of scores and of a list.
    pub(crate) fn row_bytes(&self) -> [u64; 2] {
        [4 * u64::from(self.columns), 4 * (1 + u64::from(self.capacity()))]
    }
}
