//! Host slices to device tensors and back: what the one-call conveniences and the tests use.

use futures::channel::oneshot;
use half::{bf16, f16};

use crate::error::{Result, check_limit};
use crate::gpu::{Gpu, lost};
use crate::tensor::{DType, Strides};

/// Shape and strides of a `[batch, heads, seq, dim]` tensor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub batch: u32,
    pub heads: u32,
    pub seq: u32,
    pub dim: u32,
    pub strides: Strides,
}

impl Shape {
    fn rows(self) -> impl Iterator<Item = usize> {
        let s = self.strides;
        (0..self.batch).flat_map(move |b| {
            (0..self.heads).flat_map(move |h| {
                (0..self.seq)
                    .map(move |i| (u64::from(b) * s.batch + u64::from(h) * s.head + u64::from(i) * s.seq) as usize)
            })
        })
    }

    /// Elements from the first to one past the last.
    pub fn extent(self) -> usize {
        self.rows().max().unwrap_or(0) + self.dim as usize
    }

    /// Contiguous values in their places; the gaps are 0.
    pub fn scatter(self, values: &[f32]) -> Vec<f32> {
        let dim = self.dim as usize;
        let mut out = vec![0.0; self.extent()];
        for (at, row) in self.rows().zip(values.chunks_exact(dim)) {
            out[at..at + dim].copy_from_slice(row);
        }
        out
    }

    /// The reverse of `scatter`.
    pub fn gather(self, values: &[f32]) -> Vec<f32> {
        let dim = self.dim as usize;
        self.rows()
            .flat_map(|at| values[at..at + dim].iter().copied())
            .collect()
    }
}

/// Values in their storage type, rounded to nearest, padded to whole words.
pub(crate) fn to_bytes(values: &[f32], dtype: DType) -> Vec<u8> {
    let mut bytes: Vec<u8> = match dtype {
        DType::F32 => bytemuck::cast_slice(values).to_vec(),
        DType::F16 => values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
        DType::BF16 => values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(),
    };
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// The reverse of `to_bytes`.
pub(crate) fn from_bytes(bytes: &[u8], dtype: DType) -> Vec<f32> {
    let halves = bytes.chunks_exact(2).map(|b| [b[0], b[1]]);
    match dtype {
        DType::F32 => bytemuck::pod_collect_to_vec(bytes),
        DType::F16 => halves.map(|b| f16::from_le_bytes(b).to_f32()).collect(),
        DType::BF16 => halves.map(|b| bf16::from_le_bytes(b).to_f32()).collect(),
    }
}

/// A storage buffer with these contents, which can be copied from.
pub(crate) fn upload(gpu: &Gpu, label: &str, bytes: &[u8]) -> Result<wgpu::Buffer> {
    let size = (bytes.len() as u64).next_multiple_of(4).max(4);
    let most = gpu.limits().max_buffer_size;
    check_limit(format_args!("tensor `{label}`"), size, "max_buffer_size", most)?;
    let buffer = gpu.guarded(|device| {
        device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: true,
        })
    })?;
    let mut range = buffer
        .get_mapped_range_mut(..)
        .map_err(|e| lost(format_args!("writing `{label}`"), e))?;
    range.slice(..bytes.len()).copy_from_slice(bytes);
    drop(range);
    buffer.unmap();
    Ok(buffer)
}

/// An output buffer, every byte of it 0xff: NaN in every storage type, so that an element left unwritten shows.
pub(crate) fn poisoned(gpu: &Gpu, label: &str, bytes: u64) -> Result<wgpu::Buffer> {
    upload(gpu, label, &vec![0xff; bytes.next_multiple_of(4) as usize])
}

/// Submits what was recorded.
pub(crate) fn submit(gpu: &Gpu, encoder: wgpu::CommandEncoder) -> Result<()> {
    gpu.caught(|_| gpu.queue().submit([encoder.finish()]))
        .map_err(|e| lost("submitting", e))?;
    Ok(())
}

/// Submits what was recorded, after copying the named buffers out, and waits for their contents.
pub(crate) async fn submit_and_read(
    gpu: &Gpu,
    mut encoder: wgpu::CommandEncoder,
    buffers: &[(&'static str, &wgpu::Buffer)],
) -> Result<Vec<Vec<u8>>> {
    let mut staged = Vec::with_capacity(buffers.len());
    for (name, buffer) in buffers {
        let size = buffer.size();
        let staging = gpu.guarded(|device| {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: Some(&format!("wgpu-attention read back of `{name}`")),
                size,
                usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        })?;
        encoder.copy_buffer_to_buffer(buffer, 0, &staging, 0, size);
        staged.push((name, staging));
    }
    submit(gpu, encoder)?;
    let mut contents = Vec::with_capacity(staged.len());
    for (name, staging) in &staged {
        let reading = format!("reading `{name}` back");
        let (sender, receiver) = oneshot::channel();
        gpu.caught(|_| {
            staging.map_async(wgpu::MapMode::Read, .., move |result| {
                let _ = sender.send(result);
            });
        })
        .map_err(|e| lost(&reading, e))?;
        // On native targets this waits; in a browser the event loop completes the mapping.
        gpu.device()
            .poll(wgpu::PollType::wait_indefinitely())
            .map_err(|e| lost(&reading, e))?;
        receiver
            .await
            .map_err(|e| lost(&reading, e))?
            .map_err(|e| lost(&reading, e))?;
        let range = staging.get_mapped_range(..).map_err(|e| lost(&reading, e))?;
        contents.push(range.to_vec());
    }
    Ok(contents)
}
