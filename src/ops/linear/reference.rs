//! What the linear kernels compute, in float64 and in the plainest form. The kernels are tested against it; read it to
//! learn what they do.
//!
//! There are two forms, which share nothing but the reading of their inputs, and check each other:
//!
//! - [`linear`], the recurrence: one state, carried from token to token. Time is proportional to N.
//! - [`masked_matrix`], the matrix: every pair of tokens by itself, as in softmax attention without the softmax. Time
//!   is proportional to N².
//!
//! Neither forms e^{G_i}·e^{−G_j} from sums G of log-decays, whose second factor overflows where decay is strong.
//!
//! [`join`] is the third function here: states of segments that were computed apart.
//!
//! ```
//! use wgpu_attention::linear::reference::{Hooks, linear, masked_matrix};
//! use wgpu_attention::{Decay, Linear, LinearInputs};
//!
//! // The state halves before each of three tokens is added: 1, 1/2 + 1, 3/4 + 1.
//! let problem = Linear { tokens: 3, head_dim: 1, decay: Decay::Head, ..Default::default() };
//! let (ones, half) = ([1.0; 3], [0.5f32.ln()]);
//! let inputs = LinearInputs { q: &ones, k: &ones, v: &ones, log_decay: Some(&half), ..Default::default() };
//! for form in [linear, masked_matrix] {
//!     let output = form(&problem, &inputs, &Hooks::default())?;
//!     assert!(output.o.iter().zip([1.0, 1.5, 1.75]).all(|(o, expected)| (o - expected).abs() < 1e-7));
//! }
//! # Ok::<(), wgpu_attention::Error>(())
//! ```

mod joining;
mod matrix;
mod recurrence;

#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::Range;

use super::{Decay, FeatureMap, Linear, LinearInputs, LinearOutput};
use crate::error::{Error, Result};

pub use joining::join;

/// Where an element of q or k stands: the fields of `Channel` in the WGSL of [`FeatureMap::Custom`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Channel {
    /// Query head, 0..H, or KV head, 0..Hkv, as `is_query` says.
    pub head: u32,
    /// Row of q or k, 0..N, counted over all documents.
    pub token: u32,
    /// Element of the row, 0..D.
    pub channel: u32,
    /// An element of q; otherwise of k.
    pub is_query: bool,
}

/// A custom feature map in Rust: the element, and where it stands.
pub type Feature<'a> = dyn Fn(f64, &Channel) -> f64 + 'a;

/// The CPU twin of the WGSL in [`FeatureMap::Custom`].
#[derive(Clone, Copy, Default)]
pub struct Hooks<'a> {
    /// Twin of `fn feature`.
    pub feature: Option<&'a Feature<'a>>,
}

impl fmt::Debug for Hooks<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks")
            .field("feature", &self.feature.is_some())
            .finish()
    }
}

impl Hooks<'_> {
    /// A twin missing, or without a counterpart, would compare two different problems.
    fn check(&self, problem: &Linear) -> Result<()> {
        let wanted = matches!(problem.feature_map, FeatureMap::Custom(_));
        let (found, needed) = match (self.feature.is_some(), wanted) {
            (true, true) | (false, false) => return Ok(()),
            (false, true) => ("None", "the CPU twin of the problem's custom WGSL"),
            (true, false) => ("a function", "None, since the problem's feature map is not custom"),
        };
        Err(Error::Data {
            input: "hooks.feature",
            found: found.into(),
            needed: needed.into(),
        })
    }
}

/// Solves `problem` in float64, token by token:
///
/// ```text
/// S_t = e^{g_t} ⊙ S_{t−1} + φ(k_t) v_tᵀ,  z_t = e^{g_t} ⊙ z_{t−1} + φ(k_t)
/// o_t = scale · φ(q_t)ᵀ S_t, with a normaliser divided by scale · φ(q_t)·z_t + ε
/// ```
///
/// from `initial_state` or zero. Not causal, the sums over the whole sequence (and `initial_state`) come first, every
/// token reads them, and they are the final state. `state_only` leaves out k and v, and adds to the o that is given.
/// Tokens outside every document give o = 0 (with `state_only`, what o held); an empty document ends with the state
/// it began with, and a total decay of 0.
///
/// Inputs are taken as they are: rounding to the problem's storage types and its layouts play no part, nor does
/// `in_place`, since outputs are new vectors. Inputs and the problem's f32 numbers are widened to f64 before the first
/// operation. Log-decays act by their value, also below −104, the difference being out of f32's reach. A denominator
/// of zero, which ε = 0 permits, is divided by: the result is what IEEE 754 says.
///
/// Time is proportional to B·H·N·D·Dv, on one thread: some 10⁹ such products a second.
///
/// # Errors
/// As [`LinearInputs::check`], and [`Error::Data`] where custom WGSL and `hooks` do not pair up.
pub fn linear(problem: &Linear, inputs: &LinearInputs<'_>, hooks: &Hooks<'_>) -> Result<LinearOutput<f64>> {
    Ok(recurrence::solve(&View::new(problem, inputs, hooks)?))
}

/// Solves `problem` in float64, pair by pair:
///
/// ```text
/// o_i = scale · Σ_{j ≤ i} w_ij v_j + scale · (φ(q_i) ⊙ e^{g_0 + … + g_i})ᵀ S
/// w_ij = Σ_d φ(q_id) φ(k_jd) e^{g_{j+1,d} + … + g_{i,d}}
/// ```
///
/// with S the initial state; the denominators of a normaliser are the same with 1 for v_j and z for S. Everything else
/// is as in [`linear`].
///
/// Time is proportional to B·H·N²·(D + Dv): for small problems.
///
/// # Errors
/// As [`linear`].
pub fn masked_matrix(problem: &Linear, inputs: &LinearInputs<'_>, hooks: &Hooks<'_>) -> Result<LinearOutput<f64>> {
    Ok(matrix::solve(&View::new(problem, inputs, hooks)?))
}

/// The inputs as the formulas name them.
struct View<'a> {
    problem: &'a Linear,
    inputs: &'a LinearInputs<'a>,
    hooks: &'a Hooks<'a>,
}

/// A batch entry or a document.
struct Sequence {
    batch: usize,
    tokens: Range<usize>,
}

/// One head of one sequence.
#[derive(Clone, Copy)]
struct Head {
    batch: usize,
    head: usize,
    /// Index among all sequences and heads, `[sequences, H]`.
    index: usize,
}

impl<'a> View<'a> {
    fn new(problem: &'a Linear, inputs: &'a LinearInputs<'a>, hooks: &'a Hooks<'a>) -> Result<Self> {
        inputs.check(problem)?;
        hooks.check(problem)?;
        Ok(View { problem, inputs, hooks })
    }

    fn heads(&self) -> usize {
        self.problem.heads as usize
    }

    fn head_dim(&self) -> usize {
        self.problem.head_dim as usize
    }

    fn value_dim(&self) -> usize {
        self.problem.value_dim() as usize
    }

    fn scale(&self) -> f64 {
        self.problem.scale().into()
    }

    fn sequences(&self) -> Vec<Sequence> {
        match self.inputs.cu_seqlens {
            Some(offsets) => offsets
                .windows(2)
                .map(|ends| Sequence {
                    batch: 0,
                    tokens: ends[0] as usize..ends[1] as usize,
                })
                .collect(),
            None => (0..self.problem.batch as usize)
                .map(|batch| Sequence {
                    batch,
                    tokens: 0..self.problem.tokens as usize,
                })
                .collect(),
        }
    }

    /// Every head of every sequence, in the order of the states.
    fn each_head(&self, mut with: impl FnMut(Head, Range<usize>)) {
        for (s, sequence) in self.sequences().into_iter().enumerate() {
            for head in 0..self.heads() {
                let at = Head {
                    batch: sequence.batch,
                    head,
                    index: s * self.heads() + head,
                };
                with(at, sequence.tokens.clone());
            }
        }
    }

    /// Index of a token's row in a contiguous `[B, H, N, …]` tensor.
    fn row(&self, at: Head, token: usize) -> usize {
        (at.batch * self.heads() + at.head) * self.problem.tokens as usize + token
    }

    /// Index of a token's row in k and v: query head h reads KV head ⌊h·Hkv/H⌋.
    fn kv_row(&self, at: Head, token: usize) -> usize {
        let kv_heads = self.problem.kv_heads() as usize;
        (at.batch * kv_heads + self.kv_head(at)) * self.problem.tokens as usize + token
    }

    fn kv_head(&self, at: Head) -> usize {
        at.head / (self.problem.heads / self.problem.kv_heads()) as usize
    }

    /// φ(q_t)
    fn query(&self, at: Head, token: usize) -> Vec<f64> {
        let row = row(self.inputs.q, self.row(at, token), self.head_dim());
        self.features(row, at.head, token, true)
    }

    /// φ(k_t)
    fn key(&self, at: Head, token: usize) -> Vec<f64> {
        let row = row(self.inputs.k, self.kv_row(at, token), self.head_dim());
        self.features(row, self.kv_head(at), token, false)
    }

    /// v_t
    fn value(&self, at: Head, token: usize) -> &[f32] {
        row(self.inputs.v, self.kv_row(at, token), self.value_dim())
    }

    fn features(&self, row: &[f32], head: usize, token: usize, is_query: bool) -> Vec<f64> {
        let place = |channel: usize| Channel {
            head: head as u32,
            token: token as u32,
            channel: channel as u32,
            is_query,
        };
        let each = row.iter().enumerate();
        each.map(|(channel, &x)| self.feature(x.into(), &place(channel)))
            .collect()
    }

    /// φ(x)
    fn feature(&self, x: f64, at: &Channel) -> f64 {
        match &self.problem.feature_map {
            FeatureMap::Identity => x,
            FeatureMap::Silu => x * sigmoid(x),
            // Not f64::max, which would drop a NaN.
            FeatureMap::Relu => {
                if x < 0.0 {
                    0.0
                } else {
                    x
                }
            }
            FeatureMap::Elu1 => {
                if x > 0.0 {
                    x + 1.0
                } else {
                    x.exp()
                }
            }
            // That there is a hook was checked.
            FeatureMap::Custom(_) => self.hooks.feature.map_or(f64::NAN, |feature| feature(x, at)),
        }
    }

    /// g_t for row d of the state; 0 without decay.
    fn log_decay(&self, at: Head, token: usize, d: usize) -> f64 {
        let Some(values) = self.inputs.log_decay else {
            return 0.0;
        };
        let index = match self.problem.decay {
            Decay::None => return 0.0,
            Decay::Head => at.head,
            Decay::Token => self.row(at, token),
            Decay::Channel => self.row(at, token) * self.head_dim() + d,
        };
        values[index].into()
    }

    /// S before the first token, by rows, and z, of no elements where there is none; `None` for zero.
    fn initial(&self, at: Head) -> Option<(&[f32], &[f32])> {
        let state = row(
            self.inputs.initial_state?,
            at.index,
            self.problem.head_state_len() as usize,
        );
        Some(state.split_at(self.head_dim() * self.value_dim()))
    }

    /// What o holds before anything is added to it.
    fn output(&self) -> Vec<f64> {
        let p = self.problem;
        let len = p.batch as usize * self.heads() * p.tokens as usize * self.value_dim();
        match self.inputs.o {
            Some(o) => o.iter().map(|&o| o.into()).collect(),
            None => vec![0.0; len],
        }
    }

    /// Numbers of a head's total decay.
    fn decay_len(&self) -> usize {
        match self.problem.decay {
            Decay::Channel => self.head_dim(),
            _ => 1,
        }
    }
}

fn row(tensor: &[f32], index: usize, len: usize) -> &[f32] {
    &tensor[index * len..][..len]
}

/// 1 / (1 + e^−x), with the exponential of a number that is not positive, so that nothing overflows.
fn sigmoid(x: f64) -> f64 {
    let e = (-x.abs()).exp();
    if x >= 0.0 { 1.0 / (1.0 + e) } else { e / (1.0 + e) }
}
