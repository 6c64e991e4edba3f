//! Attention kernels in WGSL for every GPU that wgpu reaches.
//!
//! The kernels are tiled in the manner of FlashAttention: the score matrix is never stored, and memory grows with the
//! sequence, not with its square. Those of the portable [`tier`] are plain WGSL with no optional feature, so that they run on
//! any WebGPU-class device; those of the others use subgroups, f16 and cooperative matrices where a device has them. Each is held against a float64 reference ([`dense::reference`], [`linear::reference`], [`topk::reference`]) that is
//! part of the library.
//!
//! # A first call
//!
//! A [`Dense`] problem says what to compute, as plain data with defaults. A plan made from it says how, for one device:
//! kernel and tile are chosen and pipelines compiled. With data on the host, a plan runs in one call.
//!
//! ```no_run
//! use wgpu_attention::{Dense, DenseInputs, Gpu, GpuOptions};
//!
//! let gpu = Gpu::request_blocking(&GpuOptions::default())?;
//! let problem = Dense { heads: 8, queries: 100, keys: 100, head_dim: 64, causal: true, ..Default::default() };
//! let plan = problem.plan(&gpu)?;
//!
//! // [batch, heads, sequence, dim], contiguous.
//! let (q, k, v) = (vec![0.1; 8 * 100 * 64], vec![0.2; 8 * 100 * 64], vec![0.3; 8 * 100 * 64]);
//! let output = plan.run_blocking(&DenseInputs { q: &q, k: &k, v: &v, ..Default::default() })?;
//! assert_eq!(output.o.len(), 8 * 100 * 64);
//! # Ok::<(), wgpu_attention::Error>(())
//! ```
//!
//! [`DensePlan::run`] is the same, async, for browsers, where nothing may block.
//!
//! # Your own device, buffers and encoder
//!
//! A program that runs the rest of a model on wgpu keeps everything on the device. [`Gpu::new`] takes its device and
//! queue; [`DensePlan::encode`] records into its encoder, and submits and waits for nothing.
//! A plan knows no buffers, so it serves every layer of the same shape. `examples/quickstart.rs` is a whole program.
//! [`gpu::device_descriptor`] says what to request of an adapter for the fastest kernels, and [`Gpu::of_adapter`] uses it.
//!
//! ```no_run
//! # use wgpu_attention::{wgpu, Dense, DenseTensors, DType, Gpu, Layout, Result, Tensor};
//! # fn layer(device: &wgpu::Device, queue: &wgpu::Queue, qkv: &wgpu::Buffer, o: &wgpu::Buffer) -> Result<()> {
//! // One projection holds q, k and v: [batch, sequence, 3 · heads · dim]. Nothing is copied apart.
//! let (heads, n, dim) = (12, 512, 64);
//! let packed = Layout::packed(n, 3 * heads * dim, dim);
//! let problem = Dense {
//!     heads,
//!     queries: n,
//!     keys: n,
//!     head_dim: dim,
//!     dtype: DType::F16,
//!     q_layout: packed,
//!     k_layout: packed,
//!     v_layout: packed,
//!     o_layout: Layout::Bnhd,
//!     ..Default::default()
//! };
//! let gpu = Gpu::new(device, queue); // once
//! let plan = problem.plan(&gpu)?; // once
//!
//! let third = u64::from(heads * dim) * problem.dtype.size(); // in bytes
//! let tensors = DenseTensors::new(qkv, Tensor::at(qkv, third), Tensor::at(qkv, 2 * third), o);
//! let mut encoder = device.create_command_encoder(&Default::default());
//! plan.encode(&mut encoder, &tensors)?;
//! queue.submit([encoder.finish()]);
//! # Ok(())
//! # }
//! ```
//!
//! # Decoding with a cache
//!
//! Keys and values lie in buffers with room for more than there are yet. Either a plan is made for each step, with
//! [`Dense::keys`] the number of keys there are and strides that skip the room behind them: planning takes microseconds, and
//! kernels and shares fit the length. Or one plan serves all steps, with `keys` the room and [`Dense::kv_len`] a tensor that
//! says how much of it each batch entry uses: nothing is planned again, lengths may differ, and what lies behind them is never
//! read; kernels and shares are then chosen for the whole room. `examples/decode.rs` has both.
//!
//! ```no_run
//! # use wgpu_attention::{Dense, DType, Gpu, Layout, Result, Strides};
//! # fn f(gpu: &Gpu, length: u32) -> Result<()> {
//! let (kv_heads, room, dim) = (8, 4096, 128);
//! // [kv_heads, room, dim]
//! let cache = Layout::Strided(Strides { batch: u64::from(kv_heads * room * dim), head: u64::from(room * dim), seq: dim.into() });
//! let step = Dense { heads: 32, kv_heads: Some(kv_heads), head_dim: dim, dtype: DType::F16, causal: true,
//!     k_layout: cache, v_layout: cache, ..Default::default() };
//! step.compile(gpu, 1..=room)?; // once: no step waits for a compiler
//!
//! let plan = Dense { keys: length, ..step.clone() }.plan(gpu)?; // each step, or
//! let plan = Dense { keys: room, kv_len: true, ..step }.plan(gpu)?; // once
//! # Ok(())
//! # }
//! ```
//!
//! # Your own score and mask
//!
//! A mechanism that is not in the table below is often two small functions: what to make of a score, and which keys
//! to see. [`Custom`] takes them in WGSL. They are parsed and checked before use, and an error shows your own line.
//! `examples/custom_score.rs` checks such a pair against the reference.
//!
//! ```no_run
//! # use wgpu_attention::{Custom, CustomData, CustomElement, Dense, DenseInputs, Gpu, Result};
//! # fn f(gpu: &Gpu, q: &[f32], k: &[f32], v: &[f32], temperature: &[f32]) -> Result<()> {
//! let problem = Dense {
//!     heads: 8,
//!     queries: 100,
//!     keys: 100,
//!     custom: Some(Custom {
//!         score: Some("fn score(s: f32, at: Position) -> f32 { return s / temperature[at.head]; }".into()),
//!         mask: Some("fn mask(at: Position) -> bool { return at.key_pos % 2 == 0; }".into()),
//!         data: vec![CustomData { name: "temperature".into(), element: CustomElement::F32 }],
//!     }),
//!     ..Default::default()
//! };
//! let words: Vec<u32> = temperature.iter().map(|t| t.to_bits()).collect();
//! let inputs = DenseInputs { q, k, v, custom_data: &[&words], ..Default::default() };
//! let output = problem.plan(gpu)?.run_blocking(&inputs)?;
//! # Ok(())
//! # }
//! ```
//!
//! # Linear attention
//!
//! [`Linear`] has a state in place of keys and values: time grows with the length of the text, memory does not, and a step
//! of decoding costs the same after a million tokens as after ten. `examples/linear_decode.rs` is a whole program.
//!
//! ```no_run
//! # use wgpu_attention::{wgpu, Decay, Gpu, Linear, LinearTensors, Result};
//! # fn f(gpu: &Gpu, encoder: &mut wgpu::CommandEncoder, [q, k, v, o]: [&wgpu::Buffer; 4], decays: &wgpu::Buffer, state: &wgpu::Buffer) -> Result<()> {
//! // Lightning Attention or RetNet over a prompt: a decay for each head, and the state kept for what follows.
//! let prompt = Linear { heads: 16, tokens: 2000, head_dim: 128, decay: Decay::Head, final_state: true, ..Default::default() };
//! // One token more: the state is updated where it lies.
//! let step = Linear { tokens: 1, initial_state: true, in_place: true, ..prompt.clone() };
//! let tensors = LinearTensors { log_decay: Some(decays.into()), final_state: Some(state.into()), ..LinearTensors::new(q, k, v, o) };
//! prompt.plan(gpu)?.encode(encoder, &tensors)?;
//! # Ok(())
//! # }
//! ```
//!
//! Decays may be constant for a head (Lightning Attention, RetNet; [`linear::slopes`] has the published ones), or given for
//! every token (simple GLA, Mamba-2's SSD), or for every token and channel (GLA). [`Join`] puts together segments that
//! were computed apart.
//!
//! # Sparse top-k attention
//!
//! [`TopK`] attends to the keys that matter to each query, chosen on the fly, token by token or in blocks. What it chooses
//! is a [`Selection`], lists on the device that can be kept, used in the next layers by [`Dense::selection`], and extended
//! by new tokens ([`Extend`]). `examples/topk_decode.rs` is a whole program.
//!
//! ```no_run
//! # use wgpu_attention::{wgpu, Dense, DenseTensors, Gpu, Result, TopK, TopKTensors};
//! # fn f(gpu: &Gpu, encoder: &mut wgpu::CommandEncoder, [q, k, v, o]: [&wgpu::Buffer; 4], lists: &wgpu::Buffer) -> Result<()> {
//! // A decoding step over a long cache: the 1024 best of its tokens for each KV head, the first 4 and the last 64 in any case.
//! let attention = Dense { heads: 32, kv_heads: Some(8), keys: 100_000, head_dim: 128, causal: true, ..Default::default() };
//! let chosen = TopK { attention, top_k: 1024, per_kv_head: true, first: 4, last: 64, keep: true, ..Default::default() };
//! let tensors = TopKTensors { selection: Some(lists.into()), ..TopKTensors::new(DenseTensors::new(q, k, v, o)) };
//! chosen.plan(gpu)?.encode(encoder, &tensors)?;
//!
//! // The next layer, with keys and values of its own, attends to the same tokens.
//! let next = Dense { selection: Some(chosen.selection()), ..chosen.attention.clone() };
//! let tensors = DenseTensors { selection: Some(lists.into()), ..DenseTensors::new(q, k, v, o) };
//! next.plan(gpu)?.encode(encoder, &tensors)?;
//! # Ok(())
//! # }
//! ```
//!
//! # What is supported
//!
//! Dense attention:
//!
//! | | |
//! |---|---|
//! | weighting | softmax, sigmoid ([`Weighting`]) |
//! | heads | multi-head, grouped-query, multi-query ([`Dense::kv_heads`]); D and Dv from 1 to 256, not necessarily alike |
//! | masks | causal, sliding window on either side, sink tokens, prefix, `kv_len`, packed documents, boolean tensor |
//! | scores | scale, softcap, additive bias tensor, ALiBi, learned sink logits |
//! | your own | score and mask in WGSL with data arrays ([`Custom`]) |
//! | storage | f32, f16, bf16 ([`DType`]), on every device; arithmetic in f32 |
//! | layouts | `[B, H, N, D]`, `[B, N, H, D]`, packed projections, any strides with a contiguous last dimension ([`Layout`]) |
//! | outputs | o, and the log-sum-exp of softmax, with which partial results can be joined ([`Merge`]) |
//! | kernels | prefill, and decode with split keys for few queries; chosen by the planner |
//!
//! Linear attention:
//!
//! | | |
//! |---|---|
//! | decay | none, one a head, one a token, one a token and channel ([`Decay`]) |
//! | feature map | identity, SiLU, ReLU, ELU + 1, your own in WGSL ([`FeatureMap`]) |
//! | outputs | o, normalised or not; the final state, which can begin the next call, in place or not; total decays |
//! | sequences | causal or not, packed documents with a state for each, segments joined by their states ([`Join`]) |
//! | the rest | heads, sizes, storage types and layouts as above; states and decays are f32 |
//! | forms | one pass with the state on chip; segments side by side in three dispatches; single steps; chosen by the planner |
//! | cooperative matrices | the pass, and the last of the three dispatches, with no decay or one a head: f16 tensors, others with [`Linear::reduced_precision`] |
//!
//! Sparse top-k attention:
//!
//! | | |
//! |---|---|
//! | entries | tokens, or blocks of any size |
//! | scores | of the keys, with all that decides about scores in dense attention; of the means of blocks; upper bounds from the minima and maxima of blocks, as Quest has them ([`Scoring`]); blocks' numbers can be kept in a cache ([`Pool`]) |
//! | lists | for each query or a tile of them, for each query head or a KV head; exact, ties to the lower index; the first and last entries and a row's own kept in any case ([`Select`], [`TopK`]) |
//! | attention | everything of dense attention, over the keys of the lists ([`Dense::selection`]) |
//! | search | hierarchical (HiP), which finds a tile's blocks without scoring all of them ([`Hierarchical`]) |
//!
//! # What is not
//!
//! - Forward only: there are no gradients, and no dropout.
//! - Head sizes end at 256; lengths, windows and offsets at 2²⁸.
//! - Linear attention: the q, k, v and o of one head must each fit one binding. Log-decays below −104 act as −104, which
//!   wipes a state out; with a decay for each channel that costs the next tokens of the same block of 16 accuracy
//!   (1e-5 for each such decay; 7e-5 of the output with eight of them in each block).
//! - The keys of one head, and its values, must each fit one binding of the device (128 MiB by default); everything
//!   else that is larger than a binding or a dispatch is cut into parts. What cannot be is refused with
//!   [`Error::Limit`].
//! - An output must not share its buffer with an input or another output, even in different places: wgpu tracks
//!   whole buffers.
//! - Causality, windows, prefix, lengths and documents skip the key tiles they empty. So do boolean mask tensors, biases
//!   of −∞ and custom masks, which one more dispatch looks at first, unless the problem's tensors leave the device no
//!   storage buffer for its lists, or there are few keys ([`DensePlan::skips_masked_tiles`]).
//! - Top-k attention holds the scores of 64 MiB at a time, or those of the fewest query rows that can be told apart; longer
//!   calls run in parts. Scores of blocks know positions only: a mask tensor, a bias or custom code hides keys inside kept
//!   blocks, and plays no part in which are kept.
//! - In a bias tensor everything below −5·10²⁹ masks.
//! - q, k and v have one storage type; caches are not quantised, and their keys lie at even strides (no page tables), but for
//!   those that a [`Selection`] lists.
//! - A device with eight storage buffers (the default limit) can not take every combination of tensors and
//!   [`Custom::data`]; the planner says so.
//!
//! # Features
//!
//! | feature | for |
//! |---|---|
//! | `vulkan`, `metal`, `dx12`, `gles` | wgpu's back ends, all on by default; choose fewer with `default-features = false` |
//! | `webgpu` | the browser |
//! | `bench` | the module `bench`: what is measured, and the checks before it is |
//! | `tuned` | the module `tuned`: tiles measured on a device, in a file |
//! | `cases` | the module `case`: one problem with its answer in a file, for tests and bug reports |
//! | `cli` | the program `wgpu-attention` |
//! | `similarity` | the example `sentence_similarity` |
//!
//! A program that brings its own device needs only the back ends it enables itself in its own dependency on wgpu, of
//! the same version as [`wgpu`] here.
//!
//! # Where to look
//!
//! [`dense`], [`linear`] and [`topk`] have the formulas and everything about the problems, [`dense::reference`],
//! [`linear::reference`] and [`topk::reference`] the same as code to read, [`topk::selection`] the lists,
//! [`merge`] joins partial results, [`tensor`] has types and layouts, [`gpu`] the device, [`compare`] error bounds,
//! [`measure`] timing, [`error`] what can go wrong, [`shader`] how a module is put together.
#![warn(missing_docs)]

#[cfg(feature = "bench")]
pub mod bench;
#[cfg(feature = "cases")]
pub mod case;
pub mod compare;
pub mod error;
pub mod gpu;
pub mod measure;
pub mod ops;
pub mod shader;
pub mod tensor;
pub mod tier;
#[cfg(feature = "tuned")]
pub mod tuned;

pub use error::{Error, Result};
pub use gpu::{Gpu, GpuOptions};
pub use ops::dense::{
    self, Bias, Broadcast, Custom, CustomData, CustomElement, Dense, DenseInputs, DenseOutput, DensePlan, DenseTensors,
    Weighting,
};
pub use ops::linear::{
    self, Decay, FeatureMap, Join, JoinInputs, JoinOutput, JoinPlan, JoinTensors, Linear, LinearInputs, LinearOutput,
    LinearPlan, LinearTensors,
};
pub use ops::merge::{self, Merge, MergePlan, MergeTensors};
pub use ops::topk::{
    self, Extend, ExtendPlan, Hierarchical, HierarchicalInputs, HierarchicalPlan, HierarchicalTensors, Pool,
    PoolInputs, PoolPlan, PoolTensors, Pooling, ScorePlan, ScoreTensors, Scoring, Select, SelectPlan, SelectTensors,
    Selection, TopK, TopKInputs, TopKOutput, TopKPlan, TopKTensors,
};
pub use tensor::{DType, Layout, Strides, Tensor};
pub use tier::Tier;
/// The wgpu whose devices, buffers and encoders this crate takes.
pub use wgpu;

/// The examples of the README compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
