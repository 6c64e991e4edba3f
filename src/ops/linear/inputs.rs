//! Host-side inputs and outputs of a linear problem: what the reference reads, and the one-call convenience.

use super::{Decay, Join, Linear, rules};
use crate::error::{Error, Result};
use crate::ops::dense::inputs::{check_len, check_offsets, check_optional};

/// The inputs of a linear problem as host slices, contiguous in the order of their shapes (layouts and storage types
/// of the problem play no part here: values are f32, already rounded if that matters).
#[derive(Clone, Copy, Debug, Default)]
pub struct LinearInputs<'a> {
    /// `[B, H, N, D]`
    pub q: &'a [f32],
    /// `[B, Hkv, N, D]`; given, although not read, where the problem is `state_only`.
    pub k: &'a [f32],
    /// `[B, Hkv, N, Dv]`; as k.
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

/// The inputs of a [`Join`] as host slices, contiguous.
#[derive(Clone, Copy, Debug, Default)]
pub struct JoinInputs<'a> {
    /// The final state of each segment, computed from zero state: `[P, sequences, H]` of
    /// [`Linear::head_state_len`] numbers.
    pub states: &'a [f32],
    /// Each segment's log-decays added up, each ≤ 0: `[P, sequences, H]`, or `[P, sequences, H, D]` with
    /// [`Decay::Channel`]; not with [`Decay::None`].
    pub total_decay: Option<&'a [f32]>,
    /// P_0, `[sequences, H]` states, where the joining has an `initial_state`.
    pub initial_state: Option<&'a [f32]>,
}

/// The outputs of a [`Join`] on the host, contiguous.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JoinOutput<T> {
    /// The state before each segment, in the shape of [`JoinInputs::states`].
    pub states: Vec<T>,
    /// The state after the last segment, `[sequences, H]` states, where the joining asks for it.
    pub final_state: Option<Vec<T>>,
}

impl LinearInputs<'_> {
    /// Checks that these are the inputs of `problem`: a problem that makes sense, every input that it names and no
    /// other, lengths, log-decays that are ≤ 0, and the range and order of `cu_seqlens`.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a field of the problem for which no inputs could be right (what a device can or
    /// cannot do is the planner's affair), [`Error::Data`] for an input.
    ///
    /// ```
    /// use wgpu_attention::{Decay, Linear, LinearInputs};
    ///
    /// let problem = Linear { tokens: 2, head_dim: 1, decay: Decay::Head, ..Default::default() };
    /// let tokens = [1.0, 2.0];
    /// let inputs = LinearInputs { q: &tokens, k: &tokens, v: &tokens, log_decay: Some(&[0.5]), ..Default::default() };
    /// let error = inputs.check(&problem).unwrap_err();
    /// assert_eq!(error.to_string(), "input `log_decay`: 0.5 at index 0; needed: 0 or below, −∞ included");
    /// ```
    pub fn check(&self, problem: &Linear) -> Result<()> {
        rules::check(problem)?;
        self.check_lengths(problem)?;
        if let Some(log_decay) = self.log_decay {
            check_decays("log_decay", log_decay)?;
        }
        match self.cu_seqlens {
            Some(offsets) => check_offsets("cu_seqlens", offsets, "N", problem.tokens),
            None => Ok(()),
        }
    }

    fn check_lengths(&self, p: &Linear) -> Result<()> {
        let (b, h, hkv, n, d, dv) = (p.batch, p.heads, p.kv_heads(), p.tokens, p.head_dim, p.value_dim());
        check_len("q", "[B, H, N, D]", &[b, h, n, d], self.q.len())?;
        check_len("k", "[B, Hkv, N, D]", &[b, hkv, n, d], self.k.len())?;
        check_len("v", "[B, Hkv, N, Dv]", &[b, hkv, n, dv], self.v.len())?;

        let log_decay = self.log_decay.map(<[f32]>::len);
        match p.decay {
            Decay::None => check_optional::<0>("log_decay", "decay", "", None, log_decay)?,
            Decay::Head => check_optional("log_decay", "decay", "[H]", Some([h]), log_decay)?,
            Decay::Token => check_optional("log_decay", "decay", "[B, H, N]", Some([b, h, n]), log_decay)?,
            Decay::Channel => check_optional("log_decay", "decay", "[B, H, N, D]", Some([b, h, n, d]), log_decay)?,
        }
        let documents = p.documents.map(|s| [s + 1]);
        let cu_seqlens = self.cu_seqlens.map(<[i32]>::len);
        check_optional("cu_seqlens", "documents", "[S + 1]", documents, cu_seqlens)?;
        // At most 256 · 257.
        let state = p.initial_state.then_some([p.sequences(), h, p.head_state_len() as u32]);
        let names = match p.normalize {
            None => "[sequences, H, D·Dv]",
            Some(_) => "[sequences, H, D·Dv + D]",
        };
        let initial_state = self.initial_state.map(<[f32]>::len);
        check_optional("initial_state", "initial_state", names, state, initial_state)?;
        let o = p.state_only.then_some([b, h, n, dv]);
        check_optional("o", "state_only", "[B, H, N, Dv]", o, self.o.map(<[f32]>::len))
    }
}

impl Join {
    /// f32 numbers of one head's state, as [`Linear::head_state_len`].
    pub fn head_state_len(&self) -> u64 {
        let (d, dv) = (u64::from(self.head_dim), u64::from(self.value_dim()));
        d * dv + if self.normalize { d } else { 0 }
    }
}

impl JoinInputs<'_> {
    /// Checks that these are the inputs of `join`: a joining that makes sense, every input that it names and no
    /// other, lengths, and log-decays that are ≤ 0.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a field of the joining, [`Error::Data`] for an input.
    pub fn check(&self, join: &Join) -> Result<()> {
        rules::check_join(join)?;
        let (p, s, h, d) = (join.segments, join.sequences, join.heads, join.head_dim);
        // At most 256 · 257.
        let state = join.head_state_len() as u32;
        let (states, initial) = match join.normalize {
            false => ("[P, sequences, H, D·Dv]", "[sequences, H, D·Dv]"),
            true => ("[P, sequences, H, D·Dv + D]", "[sequences, H, D·Dv + D]"),
        };
        check_len("states", states, &[p, s, h, state], self.states.len())?;
        let initial_state = self.initial_state.map(<[f32]>::len);
        let dims = join.initial_state.then_some([s, h, state]);
        check_optional("initial_state", "initial_state", initial, dims, initial_state)?;

        let decay = self.total_decay.map(<[f32]>::len);
        match join.decay {
            Decay::None => check_optional::<0>("total_decay", "decay", "", None, decay)?,
            Decay::Head | Decay::Token => {
                check_optional("total_decay", "decay", "[P, sequences, H]", Some([p, s, h]), decay)?
            }
            Decay::Channel => {
                let dims = Some([p, s, h, d]);
                check_optional("total_decay", "decay", "[P, sequences, H, D]", dims, decay)?;
            }
        }
        match self.total_decay {
            Some(decays) => check_decays("total_decay", decays),
            None => Ok(()),
        }
    }
}

/// A state tensor taken apart: S of every head, `[sequences, H, D, Dv]`, and z, `[sequences, H, D]`, empty without a
/// normaliser. Of a tensor of the wrong length, so will one of them be.
pub(crate) fn split_states<T: Copy>(problem: &Linear, states: &[T]) -> (Vec<T>, Vec<T>) {
    let s_len = problem.head_dim as usize * problem.value_dim() as usize;
    let heads = states.chunks(problem.head_state_len().max(1) as usize);
    let (s, z): (Vec<_>, Vec<_>) = heads.map(|head| head.split_at(s_len.min(head.len()))).unzip();
    (s.concat(), z.concat())
}

/// Log-decays: a state may shrink to nothing, but not grow.
fn check_decays(input: &'static str, decays: &[f32]) -> Result<()> {
    match decays.iter().position(|&g| g > 0.0 || g.is_nan()) {
        None => Ok(()),
        Some(at) => Err(Error::Data {
            input,
            found: format!("{} at index {at}", decays[at]),
            needed: "0 or below, −∞ included".into(),
        }),
    }
}
