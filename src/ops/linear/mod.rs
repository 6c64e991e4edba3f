//! Linear attention with decay: Lightning Attention, RetNet, simple GLA, Mamba-2's SSD, GLA, and normalised kernel
//! attention.
//!
//! For token t of a sequence (a batch entry, or a packed document) and query head h, which reads KV head ⌊h·Hkv/H⌋:
//!
//! ```text
//! S_t = e^{g_t} ⊙ S_{t−1} + φ(k_t) v_tᵀ        state [D, Dv]; g_t ≤ 0 is the log-decay
//! o_t = scale · φ(q_t)ᵀ S_t                     output
//! ```
//!
//! with e^{g_t} one number for the state or one for each of its D rows. With a normaliser
//!
//! ```text
//! z_t = e^{g_t} ⊙ z_{t−1} + φ(k_t)              [D]
//! o_t = scale · φ(q_t)ᵀ S_t / (scale · φ(q_t)·z_t + ε)
//! ```
//!
//! Non-causal, every token sees the sums over the whole sequence, without decay.
//!
//! The state begins at zero, or where `initial_state` says, and can be had at the end: a sequence fed in segments of any
//! lengths, each beginning with the state the last one left, gives what one call gives, and a decode step is a
//! segment of one token. Time is linear in the number of tokens; memory beyond inputs and outputs does not grow with
//! it, or only by a state for every few hundred tokens where a device needs the parallelism.
//!
//! Formulas: "Lightning Attention-2" (Qin et al., 2024), "Retentive Network" (Sun et al., 2023), "Gated Linear Attention
//! Transformers with Hardware-Efficient Training" (Yang et al., 2023), "Transformers are SSMs" (Dao & Gu, 2024),
//! "Transformers are RNNs" (Katharopoulos et al., 2020).

pub mod carried;
pub mod cooperative;
mod encode;
mod feature;
mod geometry;
pub mod host;
mod inputs;
mod join;
mod params;
mod plan;
pub mod reference;
pub(crate) mod rules;
pub mod segments;
pub mod slopes;
mod tensors;
pub mod tile;
pub mod variant;

pub use inputs::{JoinInputs, JoinOutput, LinearInputs, LinearOutput};
pub use join::{JoinPlan, JoinTensors};
pub use plan::{LinearPlan, variants_of};
pub use tensors::LinearTensors;

pub(crate) use inputs::split_states;
#[cfg(feature = "tuned")]
pub(crate) use plan::{adapted, planned};

use crate::tensor::{DType, Layout};

/// The shape of `log_decay`, f32, each ≤ 0. Everything below −104 acts as −104, which f32 cannot tell from a state
/// wiped out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "tuned", derive(serde::Serialize, serde::Deserialize))]
pub enum Decay {
    /// There is none: S_t = S_{t−1} + φ(k_t) v_tᵀ.
    #[default]
    None,
    /// `[H]`, one for all tokens of a head (Lightning Attention, RetNet).
    Head,
    /// `[B, H, N]`, one a token (simple GLA, Mamba-2's SSD).
    Token,
    /// `[B, H, N, D]`, one a token and row of the state (GLA).
    Channel,
}

impl Decay {
    /// Numbers of a sequence's or a segment's total log-decay: one, or one a channel.
    pub(crate) fn total_len(self, head_dim: u32) -> u64 {
        match self {
            Decay::Channel => head_dim.into(),
            Decay::None | Decay::Head | Decay::Token => 1,
        }
    }

    /// As a segment has it: a total for each, be the decay constant or not.
    pub(crate) fn of_segments(self) -> Decay {
        match self {
            Decay::Head => Decay::Token,
            decay => decay,
        }
    }
}

/// φ, applied to every element of q and k.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum FeatureMap {
    /// φ(x) = x
    #[default]
    Identity,
    /// φ(x) = x·σ(x)
    Silu,
    /// φ(x) = max(x, 0)
    Relu,
    /// φ(x) = elu(x) + 1: x + 1 above 0, e^x below
    Elu1,
    /// WGSL of the caller's own: a `fn feature(x: f32, at: Channel) -> f32`.
    ///
    /// `Channel` has the fields `head` (query or KV head, as `is_query` says), `token` (position in q or k),
    /// `channel` (`u32`, 0..D) and `is_query` (`bool`). Helper functions and constants may stand beside it.
    ///
    /// ```wgsl
    /// fn feature(x: f32, at: Channel) -> f32 { return x * x; }
    /// ```
    Custom(String),
}

/// A linear attention problem: what to compute, as plain data.
///
/// Shapes: q `[B, H, N, D]`, k `[B, Hkv, N, D]`, v `[B, Hkv, N, Dv]`, o `[B, H, N, Dv]`, states
/// `[B, H, D, Dv]` or, with packed documents, `[S, H, D, Dv]`.
///
/// ```
/// use wgpu_attention::{Decay, Linear};
///
/// let problem = Linear { heads: 32, tokens: 4096, head_dim: 128, decay: Decay::Head, ..Default::default() };
/// assert_eq!(problem.state_len(), 32 * 128 * 128);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Linear {
    /// B, at least 1.
    pub batch: u32,
    /// H, query heads, at least 1.
    pub heads: u32,
    /// Hkv, key/value heads; H must be a multiple. `None`: as many as query heads. Every query head has a state of its
    /// own all the same.
    pub kv_heads: Option<u32>,
    /// N, at least 1.
    pub tokens: u32,
    /// D, 1 to 256.
    pub head_dim: u32,
    /// Dv, 1 to 256. `None`: D.
    pub value_dim: Option<u32>,
    /// Storage type of q, k and v. States and decays are stored as f32 whatever it is.
    pub dtype: DType,
    /// Storage type of o. `None`: `dtype`.
    pub output_dtype: Option<DType>,
    /// φ(q), φ(k) and v may be rounded to f16 (11 significant bits, 6.1e-5 to 65504 in magnitude; what is larger becomes
    /// infinite, what is smaller loses bits), so that kernels on cooperative matrices can serve f32 and bf16 tensors and
    /// custom feature maps too; sums stay f32. On inputs of order 1 the RMS error of outputs and final states is then that
    /// of f16 tensors, about 3e-4 relative. With f16 tensors and φ of the library's own, those kernels serve in any case:
    /// φ, decayed keys or values, decays of values, weights and the state as a factor of outputs are rounded to f16, and with
    /// [`Decay::Head`] tokens whose decay at the end of a segment is below 2^-40 add nothing to the state there. Has no effect
    /// where a device has no such matrices, nor with [`Decay::Token`], [`Decay::Channel`] or `state_only`, which they do not serve.
    pub reduced_precision: bool,

    /// Factor on φ(q). `None`: 1.
    pub scale: Option<f32>,
    /// Token t sees tokens up to t. Otherwise every token sees all of them.
    pub causal: bool,
    /// Shape of the log-decay; must be [`Decay::None`] where not causal.
    pub decay: Decay,
    /// φ.
    pub feature_map: FeatureMap,
    /// ε of the normaliser, ≥ 0. `None`: outputs are not normalised.
    pub normalize: Option<f32>,
    /// A tensor `cu_seqlens`, i32 `[S + 1]`, is given, S being this number (B = 1): packed documents, each with a
    /// state of its own. Document d owns tokens `cu_seqlens[d]..cu_seqlens[d+1]`. Tokens outside every document
    /// give o = 0.
    ///
    /// A padded batch goes the same way, as one sequence, with the padding as documents of its own: two texts of 3 and 5
    /// tokens, filled up to 5, are `cu_seqlens` = `[0, 3, 5, 10, 10]`.
    pub documents: Option<u32>,

    /// A tensor `initial_state` is given. Otherwise the state begins at zero.
    pub initial_state: bool,
    /// A tensor `final_state` is written.
    pub final_state: bool,
    /// Both of the above are one tensor, given as `final_state`: read, then overwritten.
    pub in_place: bool,
    /// A tensor `total_decay`, f32 `[sequences, H]` (`[sequences, H, D]` for [`Decay::Channel`]), is written: the sum of
    /// each sequence's log-decays, which is what [`Join`] needs beside its final state. Not with [`Decay::None`].
    pub total_decay: bool,
    /// Only what `initial_state` contributes, o_t += scale · φ(q_t)ᵀ e^{g_0 + … + g_t} S: o is added to instead of
    /// overwritten, and k and v play no part. With it, outputs of a segment that was computed from zero state are
    /// completed once the state before it is known (see [`Join`]). Causal and not normalised only, with
    /// `initial_state` and without `final_state`.
    pub state_only: bool,

    /// Layout of q.
    pub q_layout: Layout,
    /// Layout of k.
    pub k_layout: Layout,
    /// Layout of v.
    pub v_layout: Layout,
    /// Layout of o.
    pub o_layout: Layout,
    /// Layout of `log_decay` where it has tokens: as a tensor `[B, H, N, D]`, or `[B, H, N, 1]`.
    pub decay_layout: Layout,
    /// q, k, v, o and states may start at any element. Otherwise, where D, Dv and all strides are multiples of four,
    /// they must start at multiples of four elements, and are read and written four at a time. Kernels on matrices over segments
    /// access 16 bytes where all these are multiples of eight: q, k and v of f16, where φ is the identity, and o of f16 or bf16, must
    /// start at multiples of that then.
    pub unaligned: bool,
}

impl Default for Linear {
    /// One batch entry, one head, one token, D = 64, f32, causal, no decay.
    fn default() -> Self {
        Linear {
            batch: 1,
            heads: 1,
            kv_heads: None,
            tokens: 1,
            head_dim: 64,
            value_dim: None,
            dtype: DType::F32,
            output_dtype: None,
            reduced_precision: false,
            scale: None,
            causal: true,
            decay: Decay::None,
            feature_map: FeatureMap::Identity,
            normalize: None,
            documents: None,
            initial_state: false,
            final_state: false,
            in_place: false,
            total_decay: false,
            state_only: false,
            q_layout: Layout::Bhnd,
            k_layout: Layout::Bhnd,
            v_layout: Layout::Bhnd,
            o_layout: Layout::Bhnd,
            decay_layout: Layout::Bhnd,
            unaligned: false,
        }
    }
}

impl Linear {
    /// Hkv.
    pub fn kv_heads(&self) -> u32 {
        self.kv_heads.unwrap_or(self.heads)
    }

    /// Dv.
    pub fn value_dim(&self) -> u32 {
        self.value_dim.unwrap_or(self.head_dim)
    }

    /// The factor on φ(q).
    pub fn scale(&self) -> f32 {
        self.scale.unwrap_or(1.0)
    }

    /// Storage type of o.
    pub fn output_dtype(&self) -> DType {
        self.output_dtype.unwrap_or(self.dtype)
    }

    /// Independent sequences: documents where packed, else batch entries.
    pub fn sequences(&self) -> u32 {
        self.documents.unwrap_or(self.batch)
    }

    /// f32 numbers of one head's state: D rows of Dv, and with a normaliser z, D numbers, after them.
    pub fn head_state_len(&self) -> u64 {
        let (d, dv) = (u64::from(self.head_dim), u64::from(self.value_dim()));
        d * dv + if self.normalize.is_some() { d } else { 0 }
    }

    /// f32 numbers of `initial_state` and of `final_state`: `[sequences, H]` of [`Linear::head_state_len`].
    pub fn state_len(&self) -> u64 {
        u64::from(self.sequences()) * u64::from(self.heads) * self.head_state_len()
    }
}

/// Joining segments of sequences that were computed apart, each from zero state: sequence parallelism (LASP-2, Sun
/// et al., 2025). For P segments in a row, with local final states S_p and total log-decays Γ_p,
///
/// ```text
/// P_0 = initial state or 0,  P_{p+1} = e^{Γ_p} ⊙ P_p + S_p
/// ```
///
/// P_p is the state that stands before segment p, and P_P the final state. What it adds to the segment's outputs is a
/// [`Linear`] problem with `state_only`; or the segment is computed again with P_p as its `initial_state`.
///
/// Shapes: states `[P, sequences, H]` of [`Linear::head_state_len`], in: S_p, out: P_p; `total_decay` as below.
#[derive(Clone, Debug, PartialEq)]
pub struct Join {
    /// P, at least 1.
    pub segments: u32,
    /// Batch entries or documents, at least 1.
    pub sequences: u32,
    /// H, at least 1.
    pub heads: u32,
    /// D, 1 to 256.
    pub head_dim: u32,
    /// Dv, 1 to 256. `None`: D.
    pub value_dim: Option<u32>,
    /// States have a normaliser z behind them.
    pub normalize: bool,
    /// Shape of `total_decay`: none with [`Decay::None`], `[P, sequences, H, D]` with [`Decay::Channel`], else
    /// `[P, sequences, H]`.
    pub decay: Decay,
    /// A tensor `initial_state`, `[sequences, H]`, is given. Otherwise P_0 is zero.
    pub initial_state: bool,
    /// A tensor `final_state`, `[sequences, H]`, is written.
    pub final_state: bool,
}

impl Default for Join {
    /// Two segments of one sequence with one head, D = 64, no decay.
    fn default() -> Self {
        Join {
            segments: 2,
            sequences: 1,
            heads: 1,
            head_dim: 64,
            value_dim: None,
            normalize: false,
            decay: Decay::None,
            initial_state: false,
            final_state: false,
        }
    }
}

impl Join {
    /// Dv.
    pub fn value_dim(&self) -> u32 {
        self.value_dim.unwrap_or(self.head_dim)
    }
}
