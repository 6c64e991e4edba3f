//! Blocks of keys made small: their means, or their bounds.
//!
//! ```text
//! mean_e = Σ_j k_j / n        high_e = max_j k_j,  low_e = min_j k_j        over the n keys j of block e
//! ```
//!
//! A query's product with the mean is the mean of its products with the block's keys; Σ_d max(q_d·high_d, q_d·low_d)
//! is at least each of them ("Quest: Query-Aware Sparsity", Tang et al., 2024).
//!
//! ```no_run
//! use wgpu_attention::topk::PoolTensors;
//! use wgpu_attention::{Pool, Pooling};
//! # use wgpu_attention::{Gpu, Result, wgpu};
//! # fn f(gpu: &Gpu, encoder: &mut wgpu::CommandEncoder, k: &wgpu::Buffer, pooled: &wgpu::Buffer) -> Result<()> {
//! // The bounds of pages of 16 keys of a cache that has grown to 1000 keys, the last of them new.
//! let pages = Pool { kv_heads: 8, keys: 1000, block_size: 16, pooling: Pooling::Bounds, room: Some(256), from_key: 999, ..Default::default() };
//! assert_eq!(pages.dims(), [1, 8, 256, 128]);
//! let tensors = PoolTensors { k: k.into(), kv_len: None, pooled: pooled.into() };
//! pages.plan(gpu)?.encode(encoder, &tensors)?;
//! # Ok(())
//! # }
//! ```

pub(crate) mod plan;
pub mod variant;

use crate::error::Result;
use crate::ops::dense::inputs::{check_kv_len, check_len, check_optional};
use crate::ops::topk::rules;
use crate::tensor::{DType, Layout};

pub use plan::{PoolPlan, PoolTensors};

/// What stands for a block of keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Pooling {
    /// The mean of the block's keys.
    #[default]
    Mean,
    /// The maximum and the minimum of each component over the block's keys (Quest).
    Bounds,
}

/// Works out what stands for each block of keys: k `[B, Hkv, Nk, D]` to f32 `[B, Hkv, room, P]`, contiguous, with
/// D4 = D rounded up to a multiple of 4 and P = D4 (means) or 2·D4 (maxima, then minima); components from D on are 0.
///
/// The last block may be short; it stands for the keys it has. Blocks without keys (behind `kv_len`) are 0. What `room`
/// leaves behind the blocks of Nk keys is not written.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    /// B, at least 1.
    pub batch: u32,
    /// Hkv, at least 1.
    pub kv_heads: u32,
    /// Nk, at least 1.
    pub keys: u32,
    /// D, 1 to 256.
    pub head_dim: u32,
    /// Storage type of k.
    pub dtype: DType,
    /// Layout of k.
    pub k_layout: Layout,
    /// k may start at any element.
    pub unaligned: bool,
    /// Keys of a block, at least 1.
    pub block_size: u32,
    /// Means or bounds.
    pub pooling: Pooling,
    /// A tensor `kv_len`, i32 `[B]`, is given: keys j ≥ `kv_len[b]` are absent.
    pub kv_len: bool,
    /// Blocks that a head has room for in the output. `None`: ⌈Nk/block_size⌉.
    pub room: Option<u32>,
    /// The first key that has changed since the last call, below Nk: earlier blocks are left as they are.
    pub from_key: u32,
}

impl Default for Pool {
    /// The mean of one key of 64 f32.
    fn default() -> Self {
        Pool {
            batch: 1,
            kv_heads: 1,
            keys: 1,
            head_dim: 64,
            dtype: DType::F32,
            k_layout: Layout::Bhnd,
            unaligned: false,
            block_size: 1,
            pooling: Pooling::Mean,
            kv_len: false,
            room: None,
            from_key: 0,
        }
    }
}

impl Pool {
    /// P, numbers that stand for a block.
    pub fn width(&self) -> u32 {
        let dim = self.head_dim.next_multiple_of(4);
        match self.pooling {
            Pooling::Mean => dim,
            Pooling::Bounds => 2 * dim,
        }
    }

    /// `[B, Hkv, room, P]`
    pub fn dims(&self) -> [u32; 4] {
        let room = self.room.unwrap_or(self.keys.div_ceil(self.block_size.max(1)));
        [self.batch, self.kv_heads, room, self.width()]
    }

    /// 32-bit words of the output.
    pub(crate) fn words(&self) -> u64 {
        self.dims().iter().fold(1u64, |n, &d| n.saturating_mul(d.into()))
    }
}

/// The inputs of a pooling on the host, contiguous.
#[derive(Clone, Copy, Debug, Default)]
pub struct PoolInputs<'a> {
    /// `[B, Hkv, Nk, D]`
    pub k: &'a [f32],
    /// `[B]`, each 0..=Nk.
    pub kv_len: Option<&'a [i32]>,
}

impl PoolInputs<'_> {
    /// Checks that these are the inputs of `problem`.
    ///
    /// # Errors
    /// [`crate::Error::Invalid`] for a field of the problem, [`crate::Error::Data`] for an input.
    pub fn check(&self, problem: &Pool) -> Result<()> {
        let p = problem;
        rules::check_pool(p)?;
        let dims = [p.batch, p.kv_heads, p.keys, p.head_dim];
        check_len("k", "[B, Hkv, Nk, D]", &dims, self.k.len())?;
        let kv_len = p.kv_len.then_some([p.batch]);
        check_optional("kv_len", "kv_len", "[B]", kv_len, self.kv_len.map(<[i32]>::len))?;
        self.kv_len.map_or(Ok(()), |kv_len| check_kv_len(kv_len, p.keys))
    }
}
