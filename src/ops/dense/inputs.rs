//! Host-side inputs and outputs of a dense problem: what the reference reads, and the one-call convenience.

use super::{Broadcast, Dense, check};
use crate::error::{Error, Result};

/// The inputs of a dense problem as host slices, contiguous in the order of their shapes (layouts and storage types
/// of the problem play no part here: values are f32, already rounded if that matters).
#[derive(Clone, Copy, Debug, Default)]
pub struct DenseInputs<'a> {
    /// `[B, H, Nq, D]`
    pub q: &'a [f32],
    /// `[B, Hkv, Nk, D]`
    pub k: &'a [f32],
    /// `[B, Hkv, Nk, Dv]`
    pub v: &'a [f32],
    /// `[B|1, H|1, Nq|1, Nk]`, where the problem has a bias.
    pub bias: Option<&'a [f32]>,
    /// `[B|1, H|1, Nq|1, Nk]`, nonzero = may attend, where the problem has a mask.
    pub mask: Option<&'a [u8]>,
    /// `[B]`, each 0..=Nk.
    pub kv_len: Option<&'a [i32]>,
    /// `[S + 1]`, non-decreasing, from 0 or more to at most Nq.
    pub cu_seqlens_q: Option<&'a [i32]>,
    /// `[S + 1]`, non-decreasing, from 0 or more to at most Nk.
    pub cu_seqlens_k: Option<&'a [i32]>,
    /// `[H]`
    pub alibi_slopes: Option<&'a [f32]>,
    /// `[H]`
    pub sinks: Option<&'a [f32]>,
    /// Lists of keys, where the problem has a [`Selection`](crate::Selection), which has their shape.
    pub selection: Option<&'a [u32]>,
    /// The arrays that custom code names, in its order, as raw 32-bit words.
    pub custom_data: &'a [&'a [u32]],
}

/// The outputs of a dense problem on the host, contiguous.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DenseOutput<T> {
    /// `[B, H, Nq, Dv]`
    pub o: Vec<T>,
    /// `[B, H, Nq]`, natural log, where the problem asks for it.
    pub lse: Option<Vec<T>>,
}

impl Broadcast {
    /// `[B|1, H|1, Nq|1, Nk]`, the shape of a tensor that is broadcast so, in `problem`.
    ///
    /// ```
    /// use wgpu_attention::{Broadcast, Dense};
    ///
    /// let problem = Dense { batch: 2, heads: 4, queries: 10, keys: 20, ..Default::default() };
    /// let shape = Broadcast { per_head: false, ..Broadcast::FULL };
    /// assert_eq!(shape.dims(&problem), [2, 1, 10, 20]);
    /// ```
    pub fn dims(&self, problem: &Dense) -> [u32; 4] {
        let pick = |there: bool, size: u32| if there { size } else { 1 };
        [
            pick(self.per_batch, problem.batch),
            pick(self.per_head, problem.heads),
            pick(self.per_query, problem.queries),
            problem.keys,
        ]
    }
}

impl DenseInputs<'_> {
    /// Checks that these are the inputs of `problem`: every input that the problem names and no other, lengths, and
    /// the ranges of `kv_len` and `cu_seqlens_*`.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a field of the problem that no plan would accept either (what a device can or cannot do,
    /// and the WGSL of custom code, are the planner's affair alone), [`Error::Data`] for an input.
    ///
    /// ```
    /// use wgpu_attention::{Dense, DenseInputs};
    ///
    /// let problem = Dense { keys: 2, head_dim: 1, ..Default::default() };
    /// let inputs = DenseInputs { q: &[1.0], k: &[1.0, 2.0], v: &[3.0], ..Default::default() };
    /// let error = inputs.check(&problem).unwrap_err();
    /// assert_eq!(error.to_string(), "input `v`: 1 elements; needed: [B, Hkv, Nk, Dv] = [1, 1, 2, 1], 2 elements");
    /// ```
    pub fn check(&self, problem: &Dense) -> Result<()> {
        check::check(problem)?;
        self.check_lengths(problem)?;
        if let Some(kv_len) = self.kv_len {
            check_kv_len(kv_len, problem.keys)?;
        }
        if let Some(offsets) = self.cu_seqlens_q {
            check_offsets("cu_seqlens_q", offsets, "Nq", problem.queries)?;
        }
        if let Some(offsets) = self.cu_seqlens_k {
            check_offsets("cu_seqlens_k", offsets, "Nk", problem.keys)?;
        }
        if let (Some(selection), Some(lists)) = (problem.selection, self.selection) {
            selection.check(problem, lists)?;
        }
        Ok(())
    }

    fn check_lengths(&self, p: &Dense) -> Result<()> {
        let (b, h, hkv) = (p.batch, p.heads, p.kv_heads());
        check_len("q", "[B, H, Nq, D]", &[b, h, p.queries, p.head_dim], self.q.len())?;
        check_len("k", "[B, Hkv, Nk, D]", &[b, hkv, p.keys, p.head_dim], self.k.len())?;
        check_len("v", "[B, Hkv, Nk, Dv]", &[b, hkv, p.keys, p.value_dim()], self.v.len())?;

        const FULL: &str = "[B|1, H|1, Nq|1, Nk]";
        let bias = p.bias.map(|bias| bias.shape.dims(p));
        check_optional("bias", "bias", FULL, bias, self.bias.map(<[f32]>::len))?;
        let mask = p.mask.map(|shape| shape.dims(p));
        check_optional("mask", "mask", FULL, mask, self.mask.map(<[u8]>::len))?;
        let kv_len = p.kv_len.then_some([b]);
        check_optional("kv_len", "kv_len", "[B]", kv_len, self.kv_len.map(<[i32]>::len))?;
        let documents = p.documents.map(|s| [s + 1]);
        let (q, k) = (self.cu_seqlens_q, self.cu_seqlens_k);
        check_optional("cu_seqlens_q", "documents", "[S + 1]", documents, q.map(<[i32]>::len))?;
        check_optional("cu_seqlens_k", "documents", "[S + 1]", documents, k.map(<[i32]>::len))?;
        let slopes = p.alibi.then_some([h]);
        check_optional(
            "alibi_slopes",
            "alibi",
            "[H]",
            slopes,
            self.alibi_slopes.map(<[f32]>::len),
        )?;
        let sinks = p.sinks.then_some([h]);
        check_optional("sinks", "sinks", "[H]", sinks, self.sinks.map(<[f32]>::len))?;
        let lists = p.selection.map(|s| s.dims(p));
        let names = "[B, H|Hkv, ⌈Nq/query_block⌉, 1 + capacity]";
        check_optional("selection", "selection", names, lists, self.selection.map(<[u32]>::len))?;

        let arrays = p.custom.as_ref().map_or(0, |custom| custom.data.len());
        if self.custom_data.len() != arrays {
            return Err(Error::Data {
                input: "custom_data",
                found: format!("{} arrays", self.custom_data.len()),
                needed: format!("{arrays}, as `custom.data` names them"),
            });
        }
        Ok(())
    }
}

/// The number of elements. u128 holds the product of any four u32.
fn elements(dims: &[u32]) -> u128 {
    dims.iter().map(|&dim| u128::from(dim)).product()
}

pub(crate) fn check_len(input: &'static str, names: &str, dims: &[u32], found: usize) -> Result<()> {
    let needed = elements(dims);
    if found as u128 == needed {
        return Ok(());
    }
    Err(Error::Data {
        input,
        found: format!("{found} elements"),
        needed: format!("{names} = {dims:?}, {needed} elements"),
    })
}

/// An input that is there exactly where the problem's `field` says so; `dims` is `None` where it does not.
pub(crate) fn check_optional<const R: usize>(
    input: &'static str,
    field: &str,
    names: &str,
    dims: Option<[u32; R]>,
    found: Option<usize>,
) -> Result<()> {
    match (dims, found) {
        (None, None) => Ok(()),
        (Some(dims), Some(found)) => check_len(input, names, &dims, found),
        (Some(dims), None) => Err(Error::Data {
            input,
            found: "not given".into(),
            needed: format!("{names} = {dims:?}, since the problem's `{field}` asks for it"),
        }),
        (None, Some(found)) => Err(Error::Data {
            input,
            found: format!("{found} elements"),
            needed: format!("None, since the problem's `{field}` does not ask for it"),
        }),
    }
}

pub(crate) fn check_kv_len(kv_len: &[i32], keys: u32) -> Result<()> {
    for (batch, &len) in kv_len.iter().enumerate() {
        if i64::from(len) < 0 || i64::from(len) > i64::from(keys) {
            return Err(Error::Data {
                input: "kv_len",
                found: format!("{len} at batch entry {batch}"),
                needed: format!("0 to Nk = {keys}"),
            });
        }
    }
    Ok(())
}

/// `cu_seqlens_*`: non-decreasing, inside the sequence.
pub(crate) fn check_offsets(input: &'static str, offsets: &[i32], end: &str, len: u32) -> Result<()> {
    for (at, &offset) in offsets.iter().enumerate() {
        if i64::from(offset) < 0 || i64::from(offset) > i64::from(len) {
            return Err(Error::Data {
                input,
                found: format!("{offset} at index {at}"),
                needed: format!("0 to {end} = {len}"),
            });
        }
    }
    match offsets.iter().zip(offsets.iter().skip(1)).position(|(a, b)| a > b) {
        None => Ok(()),
        Some(at) => Err(Error::Data {
            input,
            found: format!("{} at index {at}, then {}", offsets[at], offsets[at + 1]),
            needed: "values that never decrease".into(),
        }),
    }
}
