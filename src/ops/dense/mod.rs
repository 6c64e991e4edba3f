//! Dense attention: softmax, sigmoid, and what shares their loop over key tiles.
//!
//! For query row i of head h, at absolute position a = i + `q_offset`, and key j of KV head ⌊h·Hkv/H⌋:
//!
//! ```text
//! s_ij = scale · q_i·k_j                      scaled score
//! s_ij = c · tanh(s_ij / c)                   softcap, if any
//! s_ij = s_ij + bias_ij − slope_h·|a − j|     additive bias, ALiBi, if any
//! s_ij = score(s_ij, i, j, …)                 the caller's own code, if any
//! o_i  = Σ_j w(s_ij) v_j                      over the visible keys j
//! ```
//!
//! with w(s) = e^s / (Σ_j e^{s_ij} + e^{sink_h}) for softmax and w(s) = σ(s + b) for sigmoid. A key is visible if
//! it lies in ((window ∪ sink tokens) ∩ causal ∪ prefix) ∩ mask ∩ `kv_len` ∩ own document ∩ the caller's own mask
//! ∩ selection.
//! A row that may attend to nothing gives o = 0, and lse = −inf (or the sink's logit).
//!
//! ```
//! use wgpu_attention::{Dense, Weighting};
//!
//! // A long-context decode step: one query in each of 32 heads, keys and values shared by groups of 4, a window of the
//! // last 4096 keys beside the first 4.
//! let decode = Dense {
//!     heads: 32,
//!     kv_heads: Some(8),
//!     keys: 100_000,
//!     head_dim: 128,
//!     causal: true,
//!     window_left: Some(4095),
//!     sink_tokens: 4,
//!     ..Default::default()
//! };
//! // The last query stands at the last key.
//! assert_eq!((decode.queries, decode.q_offset), (1, None));
//!
//! // Sigmoid attention, with its usual bias of −ln Nk.
//! let sigmoid = Dense { keys: 1000, weighting: Weighting::Sigmoid { bias: None }, ..Default::default() };
//! assert_eq!(sigmoid.sigmoid_bias(), Some(-(1000f32.ln())));
//! ```

mod ahead;
pub(crate) mod check;
pub mod cooperative;
pub mod cooperative_decode;
pub(crate) mod custom;
pub(crate) mod encode;
pub(crate) mod geometry;
pub mod host;
pub(crate) mod inputs;
pub(crate) mod live;
mod params;
pub(crate) mod plan;
pub mod portable;
pub mod reference;
pub mod serial;
pub mod subgroup;
mod tensors;
pub mod tile;
pub mod variant;

pub use inputs::{DenseInputs, DenseOutput};
pub use live::live_variants_of;
pub use plan::{DensePlan, variant_of};
pub use tensors::DenseTensors;

use crate::ops::selection::Selection;
use crate::tensor::{DType, Layout};

/// What turns a score into a weight.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Weighting {
    /// e^s, normalised over the visible keys. One pass, division deferred to the end.
    #[default]
    Softmax,
    /// σ(s + bias), not normalised ("Theory, Analysis, and Best Practices for Sigmoid Self-Attention",
    /// Ramapuram et al., 2024).
    Sigmoid {
        /// Added to every score; `None` is the paper's −ln Nk, Nk being [`Dense::keys`] whatever `kv_len` or documents make of it.
        /// In decoding, where that is the length of the text or the room of the cache, give what the model was trained with.
        bias: Option<f32>,
    },
}

/// Which of the leading dimensions of a `[B|1, H|1, Nq|1, Nk]` tensor are there, the others being 1 and broadcast.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Broadcast {
    /// One slice a batch entry, instead of one for all.
    pub per_batch: bool,
    /// One slice a query head, instead of one for all.
    pub per_head: bool,
    /// One row a query, instead of one for all.
    pub per_query: bool,
}

impl Broadcast {
    /// `[B, H, Nq, Nk]`: nothing is broadcast.
    pub const FULL: Broadcast = Broadcast {
        per_batch: true,
        per_head: true,
        per_query: true,
    };
}

/// The additive bias's storage type and shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Bias {
    /// Storage type, whatever that of q, k and v.
    pub dtype: DType,
    /// Shape.
    pub shape: Broadcast,
}

/// WGSL of the caller's own, run for every score, and the data it reads.
///
/// The portable counterpart of FlexAttention's `score_mod` and `mask_mod`. Either function may be left out.
///
/// ```wgsl
/// fn score(s: f32, at: Position) -> f32 { return s - 0.5 * f32(at.query_pos - at.key_pos); }
/// fn mask(at: Position) -> bool { return at.key % 2u == 0u; }
/// ```
///
/// `Position` has the fields `batch`, `head`, `kv_head`, `query`, `key` (`u32`, indices into the tensors) and
/// `query_pos`, `key_pos` (`i32`, positions inside the own document, with `q_offset` applied). Helper functions and
/// constants may stand beside the two functions; names must not begin with `wa_`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Custom {
    /// A `fn score(s: f32, at: Position) -> f32`, applied after softcap, bias and ALiBi.
    pub score: Option<String>,
    /// A `fn mask(at: Position) -> bool`; true keeps the key. Combined with the masks of the problem.
    pub mask: Option<String>,
    /// Read-only arrays that the code can name.
    pub data: Vec<CustomData>,
}

/// A read-only array for [`Custom`] code.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CustomData {
    /// The array's name in the WGSL.
    pub name: String,
    /// Its element type.
    pub element: CustomElement,
}

/// Element type of a [`CustomData`] array.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CustomElement {
    /// `f32`
    F32,
    /// `u32`
    U32,
    /// `i32`
    I32,
}

/// A dense attention problem: what to compute, as plain data.
///
/// Shapes: q `[B, H, Nq, D]`, k `[B, Hkv, Nk, D]`, v `[B, Hkv, Nk, Dv]`, o `[B, H, Nq, Dv]`, lse `[B, H, Nq]`.
/// Sizes and counts are at most 2²⁸, so that positions and their differences fit an i32.
///
/// ```
/// use wgpu_attention::Dense;
///
/// let problem = Dense { heads: 32, kv_heads: Some(8), queries: 1000, keys: 1000, head_dim: 128, causal: true, ..Default::default() };
/// assert_eq!(problem.scale(), 1.0 / 128f32.sqrt());
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Dense {
    /// B, at least 1.
    pub batch: u32,
    /// H, query heads, at least 1.
    pub heads: u32,
    /// Hkv, key/value heads; H must be a multiple. `None`: as many as query heads. 1 is multi-query attention.
    pub kv_heads: Option<u32>,
    /// Nq, at least 1.
    pub queries: u32,
    /// Nk, at least 1.
    pub keys: u32,
    /// D, 1 to 256.
    pub head_dim: u32,
    /// Dv, 1 to 256. `None`: D.
    pub value_dim: Option<u32>,
    /// Storage type of q, k and v.
    pub dtype: DType,
    /// Storage type of o. `None`: `dtype`.
    pub output_dtype: Option<DType>,
    /// q, k and v of f32 or bf16 may be rounded to f16 (11 significant bits, 6.1e-5 to 65504 in magnitude; what is larger
    /// becomes infinite, what is smaller loses bits), so that kernels on cooperative matrices can serve; sums stay f32.
    /// A score of size s moves by up to s·2⁻¹⁰, and its weight by as much, relatively; beside that the output's RMS error
    /// is that of f16 tensors, about 3e-4. Weights are rounded to
    /// f16 in those kernels in any case. Has no effect on f16 tensors, nor where a device has no such matrices.
    ///
    /// Without it prefill on matrices serves f32 and bf16, with D and Dv up to 128, by split products, each factor the sum of two f16 ("Recovering single
    /// precision accuracy from Tensor Cores while surpassing the FP32 theoretical peak performance", Ootomo & Yokota, 2022),
    /// which is as precise as f32: about 2⁻²² of each product is left out. Every row of q and every tile of keys and of
    /// values has a scale of its own, so q, k and v may have any size down to 1e-33, as long as scale·|q|·|k| and 2¹⁵·Nk·|v|
    /// are numbers of f32; beside the largest of its row or tile an element is off by at most 2⁻⁴⁰ of that one. A NaN or
    /// infinity makes NaN of all rows of o that meet its tile, in q of its own row; what `kv_len` cuts off may be anything.
    ///
    /// Decode on matrices serves bf16 without it where shaders get at elements of right factors
    /// ([`MatrixElements::right`](crate::tier::MatrixElements)): f16 has room for the bits of bf16, and its range is kept by powers of
    /// two, one for each row of q, one for the keys and one for the values that a subgroup has met so far, masked ones included, but for
    /// those behind the last that a row sees. An element is then exact down to 2⁻³¹ of the largest of those; a NaN or infinity makes NaN
    /// of all rows that meet what shares its power. Weights are rounded to f16 there too, which bf16 does not show; where o is f32, other
    /// kernels serve, unless the tier is forced.
    pub reduced_precision: bool,

    /// What turns a score into a weight.
    pub weighting: Weighting,
    /// Factor on q·k. `None`: 1/√D.
    pub scale: Option<f32>,
    /// c in s ← c·tanh(s/c); positive.
    pub softcap: Option<f32>,
    /// Only keys at or before the query's position, j ≤ a.
    pub causal: bool,
    /// Absolute position of query row 0 (of each document, if packed); may be negative. `None`: the last query
    /// stands at the last key, i.e. `kv_len[b] − Nq` where `kv_len` is given, else `Nk − Nq`, and the same with each
    /// document's own lengths if packed. −2²⁸ to 2²⁸.
    pub q_offset: Option<i32>,
    /// L in a − j ≤ L. `None`: no bound on that side.
    pub window_left: Option<u32>,
    /// R in j − a ≤ R. `None`: no bound on that side.
    pub window_right: Option<u32>,
    /// Keys j < S are inside every window (causality still applies).
    pub sink_tokens: u32,
    /// Keys j < P are visible to every query, also against window and causality (prefix-LM).
    pub prefix: u32,

    /// An additive bias tensor; −inf masks the key, and on the device so does everything below −5e29.
    pub bias: Option<Bias>,
    /// A boolean mask tensor, one byte an element, nonzero = may attend, contiguous `[B|1, H|1, Nq|1, Nk]`.
    pub mask: Option<Broadcast>,
    /// A tensor `kv_len`, i32 `[B]`, is given: keys j ≥ `kv_len[b]` are absent. Values outside 0..=Nk read as the
    /// nearest of the two. The last query then stands at key `kv_len[b] − 1`, unless `q_offset` says otherwise: right for
    /// steps of decoding, and for prompts whose queries end where their keys do. In a batch of prompts padded at the end
    /// queries begin where keys do instead, and `q_offset` is `Some(0)`.
    pub kv_len: bool,
    /// Tensors `cu_seqlens_q`, `cu_seqlens_k`, i32 `[S + 1]`, are given, S being this number (B = 1): packed
    /// documents. Document d owns query rows `cu_seqlens_q[d]..cu_seqlens_q[d+1]` and the keys likewise. Rows outside
    /// every document attend to nothing.
    pub documents: Option<u32>,
    /// A tensor `alibi_slopes`, f32 `[H]`, is given: score − slope·|a − j| ("Train Short, Test Long", Press et al.).
    pub alibi: bool,
    /// A tensor `sinks`, f32 `[H]`, is given: a logit that joins the softmax denominator and has no value.
    pub sinks: bool,
    /// A tensor `selection` is given, lists of the keys to attend to: only those in a row's list are, as far as all of
    /// the above leaves them visible.
    pub selection: Option<Selection>,
    /// Code of the caller's own.
    pub custom: Option<Custom>,

    /// The log-sum-exp of each row's scores, natural log, sinks included, is written too (softmax only), f32.
    pub lse: bool,

    /// Layout of q.
    pub q_layout: Layout,
    /// Layout of k.
    pub k_layout: Layout,
    /// Layout of v.
    pub v_layout: Layout,
    /// Layout of o.
    pub o_layout: Layout,
    /// q, k, v and o may start at any element. Otherwise q, k and v must start at a multiple of four elements where D,
    /// Dv and all their strides are multiples of four, and o where Dv and its strides are: they are then read and
    /// written four at a time.
    pub unaligned: bool,
}

impl Default for Dense {
    /// One batch entry, one head, one query, one key, D = 64, f32, plain softmax over everything.
    fn default() -> Self {
        Dense {
            batch: 1,
            heads: 1,
            kv_heads: None,
            queries: 1,
            keys: 1,
            head_dim: 64,
            value_dim: None,
            dtype: DType::F32,
            output_dtype: None,
            reduced_precision: false,
            weighting: Weighting::Softmax,
            scale: None,
            softcap: None,
            causal: false,
            q_offset: None,
            window_left: None,
            window_right: None,
            sink_tokens: 0,
            prefix: 0,
            bias: None,
            mask: None,
            kv_len: false,
            documents: None,
            alibi: false,
            sinks: false,
            selection: None,
            custom: None,
            lse: false,
            q_layout: Layout::Bhnd,
            k_layout: Layout::Bhnd,
            v_layout: Layout::Bhnd,
            o_layout: Layout::Bhnd,
            unaligned: false,
        }
    }
}

impl Dense {
    /// Hkv.
    pub fn kv_heads(&self) -> u32 {
        self.kv_heads.unwrap_or(self.heads)
    }

    /// Dv.
    pub fn value_dim(&self) -> u32 {
        self.value_dim.unwrap_or(self.head_dim)
    }

    /// The factor on q·k.
    pub fn scale(&self) -> f32 {
        self.scale.unwrap_or(1.0 / (self.head_dim as f32).sqrt())
    }

    /// Storage type of o.
    pub fn output_dtype(&self) -> DType {
        self.output_dtype.unwrap_or(self.dtype)
    }

    /// b in σ(s + b), for sigmoid.
    pub fn sigmoid_bias(&self) -> Option<f32> {
        match self.weighting {
            Weighting::Softmax => None,
            Weighting::Sigmoid { bias } => Some(bias.unwrap_or(-(self.keys as f32).ln())),
        }
    }
}
