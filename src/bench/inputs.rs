//! Numbers for inputs, and device buffers full of them.

use crate::error::Result;
use crate::gpu::{Gpu, lost};
use crate::ops::host::{from_bytes, to_bytes};
use crate::tensor::DType;

/// Pseudo-random numbers from −1 to 1, asymmetric in every index.
pub fn random(seed: u32, n: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2654435761).wrapping_add(12345);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as f32 / u32::MAX as f32 * 2.0 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// Numbers as a storage type has them.
pub fn stored(values: &[f32], dtype: DType) -> Vec<f32> {
    let mut stored = from_bytes(&to_bytes(values, dtype), dtype);
    stored.truncate(values.len());
    stored
}

/// Elements of a block of random numbers: twice a prime, lest heads, which have powers of two of elements, be the same. Then a
/// row of another head would pass for the right one. Even, because buffers are written by words.
const BLOCK: u64 = 2 * 524_287;

/// Bytes that wgpu may hold back for a buffer: what is written waits in memory until something is submitted.
const MOST_HELD: u64 = 128 << 20;

/// A buffer of so many elements, the block over and over.
///
/// # Errors
/// [`crate::Error::Device`] if the device is lost or out of memory.
pub fn filled(gpu: &Gpu, elements: u64, block: &[f32], dtype: DType) -> Result<wgpu::Buffer> {
    let buffer = gpu.guarded(|device| {
        device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("bench"),
            size: (elements * dtype.size()).next_multiple_of(4),
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        })
    })?;
    // Short blocks many at once, as far as they are needed.
    let wanted = elements.min(BLOCK) as usize;
    let block = block.repeat((wanted / block.len()).max(1));
    let bytes = to_bytes(&block, dtype);
    let (mut at, mut held) = (0, 0);
    while at < buffer.size() {
        let n = (buffer.size() - at).min(bytes.len() as u64);
        gpu.guarded(|_| gpu.queue().write_buffer(&buffer, at, &bytes[..n as usize]))?;
        (at, held) = (at + n, held + n);
        if held >= MOST_HELD {
            gpu.guarded(|_| gpu.queue().submit([]))?;
            let waited = gpu.device().poll(wgpu::PollType::wait_indefinitely());
            waited.map_err(|e| lost("filling a buffer", e))?;
            held = 0;
        }
    }
    Ok(buffer)
}

/// A tensor `[rows, dim]` of random numbers that is too large to be kept on the host: one block, over and over.
#[derive(Clone, Debug)]
pub struct Repeated {
    block: Vec<f32>,
    dtype: DType,
    elements: u64,
}

impl Repeated {
    /// So many elements.
    pub fn new(seed: u32, elements: u64, dtype: DType) -> Self {
        Repeated {
            block: stored(&random(seed, elements.min(BLOCK) as usize), dtype),
            dtype,
            elements,
        }
    }

    /// The tensor on the device.
    ///
    /// # Errors
    /// As [`filled`].
    pub fn upload(&self, gpu: &Gpu) -> Result<wgpu::Buffer> {
        filled(gpu, self.elements, &self.block, self.dtype)
    }

    /// So many elements of it, from `first` on.
    pub fn slice(&self, first: u64, len: u64) -> Vec<f32> {
        let block = self.block.len() as u64;
        (first..first + len).map(|i| self.block[(i % block) as usize]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_goes_on_at_the_blocks_end() {
        let tensor = Repeated::new(3, BLOCK + 10, DType::F16);
        let across = tensor.slice(BLOCK - 2, 4);
        let block = stored(&random(3, BLOCK as usize), DType::F16);
        assert_eq!(
            across,
            [block[BLOCK as usize - 2], block[BLOCK as usize - 1], block[0], block[1]]
        );
        assert!(across.iter().all(|x| x.abs() <= 1.0) && across[0] != across[2]);
    }

    #[test]
    fn heads_of_a_large_tensor_differ() {
        for head in [1 << 20, 1 << 21, 1 << 24, (1 << 20) * 96] {
            let tensor = Repeated::new(3, 64 * head, DType::F32);
            let starts: Vec<_> = (0..64).map(|h| tensor.slice(h * head, 4)).collect();
            for (h, start) in starts.iter().enumerate() {
                assert!(!starts[..h].contains(start), "head {h} of {head} elements");
            }
        }
    }

    #[test]
    fn numbers_are_rounded_to_their_storage_type() {
        assert_eq!(stored(&[0.1, 1.0, 1.0 + 1e-6], DType::F16), [0.099_975_586, 1.0, 1.0]);
        assert_eq!(stored(&[0.1], DType::F32), [0.1]);
    }
}
