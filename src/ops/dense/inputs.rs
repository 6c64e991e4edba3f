//! Host-side inputs and outputs of a dense problem: what the reference reads, and the one-call convenience.

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
