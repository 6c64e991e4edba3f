//! What the benches share: the device, and the promised ratios. The rest is the library's module `bench`.
#![allow(dead_code, unused_imports)]

use wgpu_attention::{Gpu, GpuOptions};

pub mod host_cost;
pub mod ratios;
pub mod tiers;

pub use wgpu_attention::bench::dense::{Buffers, Inputs, check, checked_plan, flops, kv_bytes};
pub use wgpu_attention::bench::inputs::{filled, random};
pub use wgpu_attention::bench::{is_software, linear, problems, topk};

/// The device that `WGPU_ATTENTION_BACKEND` and `WGPU_ATTENTION_ADAPTER` name, or the fastest.
pub fn gpu() -> Gpu {
    let options = GpuOptions::from_env().expect("environment");
    Gpu::request_blocking(&options).expect("a device")
}

/// Adapter and driver, in a line.
pub fn device_line(gpu: &Gpu) -> String {
    let info = gpu.info();
    let clock = match is_software(gpu) || !gpu.features().contains(wgpu::Features::TIMESTAMP_QUERY) {
        true => "the host's",
        false => "the device's",
    };
    format!(
        "{} on {}, driver {} {}; timed by {clock} clock",
        info.name, info.backend, info.driver, info.driver_info
    )
}
