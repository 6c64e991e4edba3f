//! Tensors as this library sees them: a buffer the caller owns, an offset into it, and strides.
//!
//! ```
//! use wgpu_attention::{Layout, Strides};
//!
//! // The same [batch, heads, sequence, dim] tensor with 4 heads, 10 positions and 64 elements, three ways.
//! assert_eq!(Layout::Bhnd.strides(4, 10, 64), Strides { batch: 2560, head: 640, seq: 64 });
//! assert_eq!(Layout::Bnhd.strides(4, 10, 64), Strides { batch: 2560, head: 64, seq: 256 });
//! // One third of a fused QKV projection.
//! assert_eq!(Layout::packed(10, 3 * 4 * 64, 64).strides(4, 10, 64), Strides { batch: 7680, head: 64, seq: 768 });
//! ```

use std::fmt;

/// Storage type of a tensor's elements.
///
/// All three work on every device: where the hardware has no 16-bit storage, two elements travel in one
/// 32-bit word. Arithmetic is always accumulated in f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE 754 binary32.
    #[default]
    F32,
    /// IEEE 754 binary16.
    F16,
    /// bfloat16: the upper half of a binary32.
    BF16,
}

impl DType {
    /// Bytes of one element.
    pub const fn size(self) -> u64 {
        match self {
            DType::F32 => 4,
            DType::F16 | DType::BF16 => 2,
        }
    }

    /// The lower-case name used in case files, shader labels and reports.
    pub const fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::BF16 => "bf16",
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Distances, in elements, between neighbours along each dimension but the last, which is contiguous.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Strides {
    /// From one batch entry to the next.
    pub batch: u64,
    /// From one head to the next.
    pub head: u64,
    /// From one position of the sequence to the next.
    pub seq: u64,
}

impl Strides {
    /// Whether every row starts at a multiple of four elements.
    pub(crate) fn in_fours(&self) -> bool {
        self.in_multiples_of(4)
    }

    /// Whether every row starts at a multiple of eight elements.
    pub(crate) fn in_eights(&self) -> bool {
        self.in_multiples_of(8)
    }

    fn in_multiples_of(&self, count: u64) -> bool {
        [self.batch, self.head, self.seq]
            .iter()
            .all(|n| n.is_multiple_of(count))
    }
}

/// How a `[batch, heads, sequence, dim]` tensor lies in its buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Layout {
    /// Contiguous `[B, H, N, D]`.
    #[default]
    Bhnd,
    /// Contiguous `[B, N, H, D]`, as a projection writes it.
    Bnhd,
    /// Anything else with a contiguous last dimension, e.g. one third of a packed QKV projection.
    Strided(Strides),
}

impl Layout {
    /// One of the tensors inside a packed projection `[B, N, width]`, where `width` counts all the elements of
    /// one position (`3·H·D` for a fused QKV projection). The byte offset of the first element goes into
    /// [`Tensor::offset`].
    pub const fn packed(seq_len: u32, width: u32, dim: u32) -> Self {
        Layout::Strided(Strides {
            batch: seq_len as u64 * width as u64,
            head: dim as u64,
            seq: width as u64,
        })
    }

    /// The strides for a tensor of the given shape. A stride that no 64 bits hold is `u64::MAX`.
    pub const fn strides(self, heads: u32, seq: u32, dim: u32) -> Strides {
        let (h, n, d) = (heads as u64, seq as u64, dim as u64);
        let batch = (h * n).saturating_mul(d);
        match self {
            Layout::Bhnd => Strides {
                batch,
                head: n * d,
                seq: d,
            },
            Layout::Bnhd => Strides {
                batch,
                head: d,
                seq: h * d,
            },
            Layout::Strided(s) => s,
        }
    }
}

/// A tensor on the device: the caller's buffer and the byte offset of its first element.
///
/// Shape and strides belong to the problem, so that everything about *how* to run is settled when it is
/// planned, and the same plan serves any number of buffers.
#[derive(Clone, Copy, Debug)]
pub struct Tensor<'a> {
    /// The buffer, with usage `STORAGE`.
    pub buffer: &'a wgpu::Buffer,
    /// Bytes from the start of the buffer to the first element.
    pub offset: u64,
}

impl<'a> Tensor<'a> {
    /// The tensor that starts `offset` bytes into `buffer`.
    pub const fn at(buffer: &'a wgpu::Buffer, offset: u64) -> Self {
        Tensor { buffer, offset }
    }
}

impl<'a> From<&'a wgpu::Buffer> for Tensor<'a> {
    fn from(buffer: &'a wgpu::Buffer) -> Self {
        Tensor { buffer, offset: 0 }
    }
}
