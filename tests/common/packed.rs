//! Tensors inside larger buffers, byte by byte.

use wgpu_attention::{DType, Gpu};

/// A buffer of a storage type, in which tensors lie at element offsets.
pub struct Packed {
    pub bytes: Vec<u8>,
    pub dtype: DType,
}

impl Packed {
    pub fn put(&mut self, at: u64, value: f32) {
        let bytes = match self.dtype {
            DType::F32 => value.to_le_bytes().to_vec(),
            DType::F16 => half::f16::from_f32(value).to_le_bytes().to_vec(),
            DType::BF16 => half::bf16::from_f32(value).to_le_bytes().to_vec(),
        };
        self.bytes[(at * self.dtype.size()) as usize..][..bytes.len()].copy_from_slice(&bytes);
    }

    pub fn get(&self, at: u64) -> f32 {
        let b = &self.bytes[(at * self.dtype.size()) as usize..];
        match self.dtype {
            DType::F32 => f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
            DType::F16 => half::f16::from_le_bytes([b[0], b[1]]).to_f32(),
            DType::BF16 => half::bf16::from_le_bytes([b[0], b[1]]).to_f32(),
        }
    }

    pub fn upload(&self, gpu: &Gpu) -> wgpu::Buffer {
        let buffer = gpu.device().create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: self.bytes.len() as u64,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        gpu.queue().write_buffer(&buffer, 0, &self.bytes);
        buffer
    }
}

/// The contents of a buffer.
pub fn read(gpu: &Gpu, buffer: &wgpu::Buffer) -> Vec<u8> {
    let staging = gpu.device().create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: buffer.size(),
        usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    encoder.copy_buffer_to_buffer(buffer, 0, &staging, 0, buffer.size());
    gpu.queue().submit([encoder.finish()]);
    staging.map_async(wgpu::MapMode::Read, .., |result| result.unwrap());
    gpu.device().poll(wgpu::PollType::wait_indefinitely()).unwrap();
    staging.get_mapped_range(..).unwrap().to_vec()
}
