//! Which keys a query attends to, as lists on the device: what a search for them writes, and what dense attention
//! reads in place of all keys ([`Dense::selection`]).
//!
//! A selection is a tensor like any other, in a buffer of the caller's: take it in one layer and use it in the next
//! ones, extend it by the tokens generated since ([`Extend`](crate::topk::Extend)), or write one of your own.
//!
//! ```
//! use wgpu_attention::{Dense, Selection};
//!
//! // Lists of blocks of 64 keys, one for each tile of 64 queries of a KV head, with room for 8 entries.
//! let selection = Selection { block_size: 64, query_block: 64, per_kv_head: true, capacity: 8 };
//! let attention = Dense { heads: 8, kv_heads: Some(2), queries: 1000, keys: 1000, ..Default::default() };
//! assert_eq!(selection.dims(&attention), [1, 2, 16, 9]);
//!
//! // The same on the host: an entry count, the entries, and whatever fills the room that is left.
//! let mut lists = vec![0; selection.words(&attention) as usize];
//! lists[..3].copy_from_slice(&[2, 0, 15]);
//! selection.check(&attention, &lists)?;
//! lists[2] = 16;
//! let error = selection.check(&attention, &lists).unwrap_err();
//! assert_eq!(
//!     error.to_string(),
//!     "input `selection`: entry 1 of list [0, 0, 0] is 16; needed: below ⌈Nk/block_size⌉ = 16"
//! );
//! # Ok::<(), wgpu_attention::Error>(())
//! ```

use std::ops::Range;

use crate::error::{Error, Result};
use crate::ops::dense::Dense;
use crate::ops::dense::check::{MAX_POSITION, within};

#[cfg(test)]
mod tests;

/// The shape of a selection: u32 `[B, H|Hkv, ⌈Nq/query_block⌉, 1 + capacity]`, contiguous. Each list is the number of
/// its entries, then the entries, ascending; what lies behind them is not read.
///
/// An entry e stands for the keys e·block_size to (e + 1)·block_size − 1, as far as there are any. They are attended to
/// as far as the problem's masks leave them visible; keys in no entry are not.
///
/// Lists on the device are not trusted: an entry that is out of range or not greater than the one before it, whether
/// that was skipped or not, is skipped, and an entry count above `capacity` reads as `capacity`
/// ([`Selection::visible_entries`]). Lists on the host are refused then ([`Selection::check`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Selection {
    /// Keys of an entry, at least 1: 1 for tokens.
    pub block_size: u32,
    /// Query rows that share a list, at least 1: list l serves rows l·query_block to (l + 1)·query_block − 1.
    pub query_block: u32,
    /// One list for all query heads of a KV head, instead of one for each query head.
    pub per_kv_head: bool,
    /// Entries that a list has room for, at least 1.
    pub capacity: u32,
}

impl Selection {
    /// Lists of a batch entry: `[heads, lists of a head]`.
    pub(crate) fn lists(&self, p: &Dense) -> [u32; 2] {
        let heads = if self.per_kv_head { p.kv_heads() } else { p.heads };
        [heads, p.queries.div_ceil(self.query_block)]
    }

    /// Entries there may be: ⌈Nk/block_size⌉.
    pub fn entries(&self, problem: &Dense) -> u32 {
        problem.keys.div_ceil(self.block_size)
    }

    /// `[B, H|Hkv, ⌈Nq/query_block⌉, 1 + capacity]` for a problem.
    pub fn dims(&self, problem: &Dense) -> [u32; 4] {
        let [heads, lists] = self.lists(problem);
        [problem.batch, heads, lists, 1 + self.capacity]
    }

    /// 32-bit words of the tensor.
    pub fn words(&self, problem: &Dense) -> u64 {
        self.dims(problem).iter().fold(1u64, |n, &d| n.saturating_mul(d.into()))
    }

    /// Where in the tensor the list of a query row lies, entry count and room included; `head` is a query head.
    ///
    /// ```
    /// use wgpu_attention::{Dense, Selection};
    ///
    /// let selection = Selection { block_size: 1, query_block: 2, per_kv_head: true, capacity: 9 };
    /// let attention = Dense { heads: 4, kv_heads: Some(2), queries: 6, keys: 20, ..Default::default() };
    /// // Heads 2 and 3 share KV head 1, rows 4 and 5 list 2.
    /// assert_eq!(selection.list_of(&attention, 0, 3, 5), 50..60);
    /// ```
    pub fn list_of(&self, problem: &Dense, batch: u32, head: u32, query: u32) -> Range<usize> {
        let [heads, lists] = self.lists(problem).map(|n| n as usize);
        let head = if self.per_kv_head {
            head / (problem.heads / problem.kv_heads())
        } else {
            head
        };
        let list = (batch as usize * heads + head as usize) * lists + (query / self.query_block) as usize;
        let words = 1 + self.capacity as usize;
        list * words..(list + 1) * words
    }

    /// The entries of one list that are not skipped, in its order; `list` is its entry count and what follows, and
    /// `entries` how many there may be ([`Selection::entries`]). Of a list that [`Selection::check`] accepts, all.
    ///
    /// ```
    /// use wgpu_attention::Selection;
    ///
    /// let selection = Selection { block_size: 1, query_block: 1, per_kv_head: false, capacity: 5 };
    /// // 2 is not greater than 7, 99 out of range.
    /// assert_eq!(selection.visible_entries(&[5, 1, 7, 2, 8, 99], 10), [1, 7, 8]);
    /// ```
    pub fn visible_entries(&self, list: &[u32], entries: u32) -> Vec<u32> {
        let Some((&count, list)) = list.split_first() else {
            return Vec::new();
        };
        let count = count.min(self.capacity) as usize;
        let list = &list[..count.min(list.len())];
        let ascends = |n: usize| n == 0 || list[n - 1] < list[n];
        let is_read = |&n: &usize| list[n] < entries && ascends(n);
        (0..list.len()).filter(is_read).map(|n| list[n]).collect()
    }

    /// The keys of an entry; none behind the last key.
    pub fn keys_of(&self, problem: &Dense, entry: u32) -> Range<u32> {
        let start = entry.saturating_mul(self.block_size).min(problem.keys);
        start..start.saturating_add(self.block_size).min(problem.keys)
    }

    /// The rules of a selection by itself.
    pub(crate) fn check_shape(&self, p: &Dense) -> Result<()> {
        within("selection.block_size", self.block_size, 1, MAX_POSITION)?;
        within("selection.query_block", self.query_block, 1, MAX_POSITION)?;
        within("selection.capacity", self.capacity, 1, MAX_POSITION)?;
        // Shaders count places in 32 bits, and go up to a tile beyond.
        let most = (u32::MAX - 1023) / self.block_size.min(p.keys);
        within("selection.capacity", self.capacity, 1, most)?;
        if self.words(p) >= 1 << 48 {
            return Err(Error::Invalid {
                field: "selection",
                value: format!("a tensor of shape {:?}", self.dims(p)),
                allowed: "fewer than 2^48 elements".into(),
            });
        }
        Ok(())
    }

    /// Checks lists on the host: length, entry counts, and entries that ascend and are in range.
    ///
    /// # Errors
    /// [`Error::Data`] names the list, by batch entry, head and number, and what is wrong with it.
    pub fn check(&self, problem: &Dense, lists: &[u32]) -> Result<()> {
        let dims = self.dims(problem);
        let names = "[B, H|Hkv, ⌈Nq/query_block⌉, 1 + capacity]";
        crate::ops::dense::inputs::check_len("selection", names, &dims, lists.len())?;
        let entries = self.entries(problem);
        for (n, list) in lists.chunks_exact(dims[3] as usize).enumerate() {
            let n = n as u32;
            let at = [n / (dims[1] * dims[2]), n / dims[2] % dims[1], n % dims[2]];
            self.check_list(at, list[0], &list[1..], entries)?;
        }
        Ok(())
    }

    fn check_list(&self, at: [u32; 3], count: u32, list: &[u32], entries: u32) -> Result<()> {
        let error = |found: String, needed: String| {
            let input = "selection";
            Err(Error::Data { input, found, needed })
        };
        if count > self.capacity {
            let found = format!("list {at:?} has {count} entries");
            return error(found, format!("at most `capacity`, {}", self.capacity));
        }
        let list = &list[..count as usize];
        if let Some(n) = list.iter().position(|&e| e >= entries) {
            let found = format!("entry {n} of list {at:?} is {}", list[n]);
            return error(found, format!("below ⌈Nk/block_size⌉ = {entries}"));
        }
        if let Some(n) = list.windows(2).position(|pair| pair[0] >= pair[1]) {
            let found = format!("list {at:?} has {} and then {}", list[n], list[n + 1]);
            return error(found, "entries that ascend, each once".into());
        }
        Ok(())
    }
}
