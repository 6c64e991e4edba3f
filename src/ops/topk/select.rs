//! The k greatest of each row, and the lengthening of lists by new tokens.

/// Exact top-k of each row: scores f32 `[rows, columns]` to lists u32 `[rows, 1 + capacity]` (the number of entries,
/// then the column numbers, ascending), both contiguous.
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
    /// Entries that a list has room for. `None`: k.
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
}

/// Adds the entries `from..to` to the end of every list of a selection, in place: the tokens generated since it was
/// made. Those not greater than a list's last entry are left out, so that a list stays ascending.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Extend {
    /// Lists: the product of the selection's dimensions but the last.
    pub lists: u32,
    /// Entries that a list has room for.
    pub capacity: u32,
    /// Entries that the lists hold at most before the call; with those added they must fit the capacity.
    pub held: u32,
    /// The first entry to add.
    pub from: u32,
    /// One past the last.
    pub to: u32,
}
