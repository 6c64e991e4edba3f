//! Whether a problem of the top-k family makes sense, before any data or device is asked.

use crate::error::Result;
use crate::ops::dense::check::{self as dense, MAX_DIM, MAX_POSITION, extent, invalid, within};
use crate::ops::dense::geometry::{geometry, vector_inputs};
use crate::ops::topk::{Extend, Hierarchical, Pool, Pooling, Scoring, Select, TopK};

#[cfg(test)]
mod tests;

/// Tensors have fewer elements than this, so that every index and byte offset is far from the end of a u64.
const MAX_ELEMENTS: u64 = 1 << 48;

/// Query rows of a tile of the hierarchical search, at most.
pub(crate) const MAX_TILE_ROWS: u32 = 1024;

/// Keys of a block of the hierarchical search, at most.
pub(crate) const MAX_TILE_KEYS: u32 = 64;

/// Blocks that a hierarchical search keeps, at most: twice as many are held in workgroup memory.
pub(crate) const MAX_SEARCHED: u32 = 512;

/// Every rule that concerns the problem alone.
pub(crate) fn check(p: &TopK) -> Result<()> {
    check_no_selection(p.attention.selection.is_some())?;
    dense::check(&p.attention)?;
    within("top_k", p.top_k, 1, MAX_POSITION)?;
    within("block_size", p.block_size, 1, MAX_POSITION)?;
    within("query_block", p.query_block, 1, MAX_POSITION)?;
    // The room of a list is one number.
    within("room", p.room, 0, MAX_POSITION - p.top_k)?;
    check_forced(p)?;
    if p.pooled && p.scoring == Scoring::Keys {
        let allowed = "false with `Scoring::Keys`, which reads the keys themselves";
        return Err(invalid("pooled", true, allowed));
    }
    if let (Some(room), false) = (p.pooled_room, p.pooled) {
        return Err(invalid(
            "pooled_room",
            room,
            "`None` unless blocks are given, with `pooled`",
        ));
    }
    p.selection().check_shape(&p.attention)?;
    check_lists(p)?;
    pool_of(p).map_or(Ok(()), |pool| check_pool(&pool))
}

/// Every rule that concerns the pooling alone.
pub(crate) fn check_pool(p: &Pool) -> Result<()> {
    within("batch", p.batch, 1, MAX_POSITION)?;
    within("kv_heads", p.kv_heads, 1, MAX_POSITION)?;
    within("keys", p.keys, 1, MAX_POSITION)?;
    within("head_dim", p.head_dim, 1, MAX_DIM)?;
    within("block_size", p.block_size, 1, MAX_POSITION)?;
    if let Some(room) = p.room {
        within("room", room, p.keys.div_ceil(p.block_size), MAX_POSITION)?;
    }
    within("from_key", p.from_key, 0, p.keys - 1)?;
    let strides = p.k_layout.strides(p.kv_heads, p.keys, p.head_dim);
    if extent(strides, p.batch, p.kv_heads, p.keys, p.head_dim).is_none() {
        let allowed = "strides whose last element's index fits 48 bits";
        return Err(invalid("k_layout", format!("{strides:?}"), allowed));
    }
    fits("room", &p.dims())
}

/// Every rule that concerns the selecting alone.
pub(crate) fn check_select(s: &Select) -> Result<()> {
    within("rows", s.rows, 1, MAX_POSITION)?;
    within("columns", s.columns, 1, MAX_POSITION)?;
    within("top_k", s.top_k, 1, MAX_POSITION)?;
    within("first", s.first, 0, s.top_k)?;
    if s.last > s.top_k - s.first {
        let allowed = format!("at most `top_k` − `first`, {}", s.top_k - s.first);
        return Err(invalid("last", s.last, allowed));
    }
    if !(s.top_k..=MAX_POSITION).contains(&s.capacity()) {
        let allowed = format!("`top_k`, {}, to {MAX_POSITION}", s.top_k);
        return Err(invalid("capacity", s.capacity(), allowed));
    }
    fits("columns", &[s.rows, s.columns])?;
    fits("capacity", &[s.rows, 1 + s.capacity()])
}

/// Every rule that concerns the lengthening of lists alone.
pub(crate) fn check_extend(e: &Extend) -> Result<()> {
    within("lists", e.lists, 1, MAX_POSITION)?;
    within("capacity", e.capacity, 1, MAX_POSITION)?;
    within("to", e.to, 1, MAX_POSITION)?;
    if e.from >= e.to {
        return Err(invalid("from", e.from, format!("below `to`, {}", e.to)));
    }
    let added = e.to - e.from;
    if e.held > e.capacity.saturating_sub(added) || added > e.capacity {
        let allowed = format!(
            "at most `capacity` − (`to` − `from`), {} − {added}, where that is not negative",
            e.capacity
        );
        return Err(invalid("held", e.held, allowed));
    }
    fits("capacity", &[e.lists, 1 + e.capacity])
}

/// Every rule that concerns the search alone.
pub(crate) fn check_hierarchical(p: &Hierarchical) -> Result<()> {
    check_no_selection(p.attention.selection.is_some())?;
    dense::check(&p.attention)?;
    if let Some(documents) = p.attention.documents {
        let allowed = "`None`: the search knows one sequence a batch entry";
        return Err(invalid("attention.documents", format!("Some({documents})"), allowed));
    }
    if p.attention.kv_len {
        let allowed = "false: the search goes over all keys of the tensor";
        return Err(invalid("attention.kv_len", true, allowed));
    }
    within("query_block", p.query_block, 1, MAX_TILE_ROWS)?;
    within("block_size", p.block_size, 1, MAX_TILE_KEYS)?;
    within("top_k", p.top_k, 1, MAX_SEARCHED)?;
    within("window", p.window, 0, MAX_POSITION)?;
    within("sink_tokens", p.sink_tokens, 0, MAX_POSITION)?;
    p.selection().check_shape(&p.attention)
}

/// The pooling whose result a problem's scores are made from; `None` where they are made from the keys.
pub(crate) fn pool_of(p: &TopK) -> Option<Pool> {
    let pooling = match p.scoring {
        Scoring::Keys => return None,
        Scoring::Mean => Pooling::Mean,
        Scoring::Bound => Pooling::Bounds,
    };
    let a = &p.attention;
    Some(Pool {
        batch: a.batch,
        kv_heads: a.kv_heads(),
        keys: a.keys,
        head_dim: a.head_dim,
        dtype: a.dtype,
        k_layout: a.k_layout,
        // As attention reads k, which begins at a multiple of four elements only where q, k and v are all in fours.
        unaligned: !vector_inputs(a, &geometry(a)),
        block_size: p.block_size,
        pooling,
        kv_len: a.kv_len,
        room: p.pooled_room,
        from_key: 0,
    })
}

/// The selecting that makes a problem's lists from its scores.
pub(crate) fn select_of(p: &TopK) -> Select {
    let selection = p.selection();
    let [batch, heads, lists, _] = selection.dims(&p.attention);
    Select {
        // The rules have it that this is no overflow.
        rows: batch * heads * lists,
        columns: selection.entries(&p.attention),
        top_k: p.top_k,
        first: p.first,
        last: p.last,
        capacity: Some(selection.capacity),
    }
}

/// The most entries that hold the position of a row of one list.
///
/// r rows in a row touch 1 + ⌈(r − 1)/block_size⌉ entries at most. Where they begin at the same place of an entry in
/// every list, it is known how many. Where documents meet in a list, each may begin at the last key of an entry.
pub(crate) fn diagonal_entries(p: &TopK) -> u32 {
    let a = &p.attention;
    let (rows, size) = (u64::from(p.query_block.min(a.queries)), u64::from(p.block_size));
    let runs = u64::from(a.documents.unwrap_or(1));
    let touched = match first_place(p) {
        Some(place) => 1 + (place + rows - 1) / size,
        None if rows <= 2 * runs => rows,
        None => 2 * runs + (rows - 2 * runs) / size,
    };
    touched.min(p.selection().entries(a).into()) as u32
}

/// Where inside an entry the rows of every list begin, if that is one place and known.
fn first_place(p: &TopK) -> Option<u64> {
    let a = &p.attention;
    let one_list = p.query_block >= a.queries;
    if a.documents.is_some() || !(one_list || p.query_block.is_multiple_of(p.block_size)) {
        return None;
    }
    let offset = match a.q_offset {
        Some(offset) => i64::from(offset),
        None if a.kv_len => return None,
        None => i64::from(a.keys) - i64::from(a.queries),
    };
    Some(offset.rem_euclid(p.block_size.into()) as u64)
}

fn check_no_selection(given: bool) -> Result<()> {
    if !given {
        return Ok(());
    }
    let allowed = "`None`: the selection is what is sought";
    Err(invalid("attention.selection", "given", allowed))
}

/// What is kept whatever its score has to fit.
fn check_forced(p: &TopK) -> Result<()> {
    let diagonal = if p.diagonal { diagonal_entries(p) } else { 0 };
    if u64::from(p.first) + u64::from(p.last) + u64::from(diagonal) <= p.top_k.into() {
        return Ok(());
    }
    let mut allowed = format!("at least `first` + `last`, {} + {}", p.first, p.last);
    if p.diagonal {
        allowed += &format!(", + the {diagonal} entries that the rows of a list may stand in");
    }
    Err(invalid("top_k", p.top_k, allowed))
}

/// The number of lists, and the scores of them all.
fn check_lists(p: &TopK) -> Result<()> {
    let [batch, heads, lists, _] = p.selection().dims(&p.attention);
    let rows = [batch, heads, lists].iter().try_fold(1u32, |n, &d| n.checked_mul(d));
    let Some(rows) = rows else {
        let allowed = format!("so many that [{batch}, {heads}, ⌈Nq/query_block⌉] lists are fewer than 2^32");
        return Err(invalid("query_block", p.query_block, allowed));
    };
    fits("block_size", &[rows, p.selection().entries(&p.attention)])
}

/// Whether a tensor has a sane number of elements; if not, that is laid to `field`.
fn fits(field: &'static str, dims: &[u32]) -> Result<()> {
    let elements = dims.iter().try_fold(1u64, |n, &d| n.checked_mul(d.into()));
    if elements.is_some_and(|n| n < MAX_ELEMENTS) {
        return Ok(());
    }
    let value = format!("that of a tensor of shape {dims:?}");
    Err(invalid(field, value, "fewer than 2^48 elements"))
}
