//! Bringing a buffer back after recorded work.

mod common;

use wgpu_attention::{Gpu, wgpu};

fn buffer(gpu: &Gpu, size: u64, usage: wgpu::BufferUsages) -> wgpu::Buffer {
    gpu.device().create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size,
        usage,
        mapped_at_creation: false,
    })
}

/// What the encoder holds has run before the contents come back.
#[test]
fn recorded_work_is_in_what_comes_back() {
    let Some(gpu) = common::gpu() else { return };
    let usage = wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
    let (from, to) = (buffer(&gpu, 12, usage), buffer(&gpu, 8, usage));
    let bytes: Vec<u8> = (1..=12).collect();
    gpu.queue().write_buffer(&from, 0, &bytes);
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    encoder.copy_buffer_to_buffer(&from, 4, &to, 0, 8);
    assert_eq!(gpu.submit_and_read_blocking(encoder, &to).unwrap(), bytes[4..]);
}

#[test]
fn buffers_that_cannot_be_copied_are_refused() {
    let Some(gpu) = common::gpu() else { return };
    let refused = |size, usage| {
        let encoder = gpu.device().create_command_encoder(&Default::default());
        let error = gpu
            .submit_and_read_blocking(encoder, &buffer(&gpu, size, usage))
            .unwrap_err();
        error.to_string()
    };
    assert_eq!(
        refused(8, wgpu::BufferUsages::STORAGE),
        "tensor `buffer`: usage BufferUsages(STORAGE); needed: usage `COPY_SRC`"
    );
    assert_eq!(
        refused(6, wgpu::BufferUsages::COPY_SRC),
        "tensor `buffer`: 6 bytes; needed: a multiple of 4"
    );
}

/// What was recorded wrongly is an error, and no panic.
#[test]
fn a_recording_that_wgpu_refuses_is_an_error() {
    let Some(gpu) = common::gpu() else { return };
    let small = buffer(&gpu, 4, wgpu::BufferUsages::COPY_SRC);
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    encoder.copy_buffer_to_buffer(&small, 0, &small, 0, 8);
    let error = gpu.submit_and_read_blocking(encoder, &small).unwrap_err();
    assert!(matches!(error, wgpu_attention::Error::Device { .. }), "{error}");
}
