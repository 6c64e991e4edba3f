//! Blocks of keys made small: their means, or their bounds.

use crate::tensor::{DType, Layout};

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
/// The last block may be short; it stands for the keys it has. Blocks without keys (behind `kv_len`) are 0.
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
}
