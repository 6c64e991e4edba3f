//! Host-side inputs and outputs of a linear problem: what the reference reads, and the one-call convenience.

/// The inputs of a linear problem as host slices, contiguous in the order of their shapes (layouts and storage types
/// of the problem play no part here: values are f32, already rounded if that matters).
#[derive(Clone, Copy, Debug, Default)]
pub struct LinearInputs<'a> {
    /// `[B, H, N, D]`
    pub q: &'a [f32],
    /// `[B, Hkv, N, D]`
    pub k: &'a [f32],
    /// `[B, Hkv, N, Dv]`
    pub v: &'a [f32],
    /// `[H]`, `[B, H, N]` or `[B, H, N, D]` as the problem's `decay` says, each ≤ 0; −∞ wipes the state out.
    pub log_decay: Option<&'a [f32]>,
    /// `[S + 1]`, non-decreasing, from 0 or more to at most N, where the problem has documents.
    pub cu_seqlens: Option<&'a [i32]>,
    /// [`crate::Linear::state_len`] numbers, where the problem has an `initial_state` (in place or not).
    pub initial_state: Option<&'a [f32]>,
    /// What o holds before, `[B, H, N, Dv]`, where the problem is `state_only`.
    pub o: Option<&'a [f32]>,
}

/// The outputs of a linear problem on the host, contiguous.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LinearOutput<T> {
    /// `[B, H, N, Dv]`
    pub o: Vec<T>,
    /// [`crate::Linear::state_len`] numbers, where the problem asks for it.
    pub final_state: Option<Vec<T>>,
    /// `[sequences, H]` or `[sequences, H, D]`, where the problem asks for it.
    pub total_decay: Option<Vec<T>>,
}
