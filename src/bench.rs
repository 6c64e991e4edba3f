//! What is measured, and how it is made sure that it is right: the problems of the benchmark, their inputs, their cost,
//! and the checks before a kernel is timed. The program's `bench` and the criterion benches share it. Feature `bench`.
//!
//! ```no_run
//! use wgpu_attention::bench::{self, Problem, Prepared};
//! use wgpu_attention::measure::{Precision, time_to};
//! use wgpu_attention::{Dense, Gpu, GpuOptions};
//!
//! # fn main() -> Result<(), String> {
//! let gpu = Gpu::request_blocking(&GpuOptions::default()).map_err(|e| e.to_string())?;
//! let problem = Problem::Dense(Dense { heads: 8, queries: 1024, keys: 1024, causal: true, ..Default::default() });
//! // Fails if the kernel is wrong: on a small problem of the same kind, or in one of some rows of this one.
//! let prepared = Prepared::new(&gpu, &problem, bench::rotation_bytes(&gpu))?;
//! let times = time_to(&gpu, &Precision::default(), |pass, run| prepared.record(pass, run)).map_err(|e| e.to_string())?;
//! println!("{}: {:.1} GFLOP/s", problem.name(), problem.flops() / times.median() / 1e9);
//! # Ok(())
//! # }
//! ```

pub mod dense;
mod failure;
pub mod inputs;
pub mod linear;
mod prepared;
mod problem;
pub mod problems;
mod sample;
pub mod topk;

pub use failure::Failure;
pub use prepared::{Prepared, rotating_sets, rotation_bytes};
pub use problem::Problem;

use crate::gpu::Gpu;

/// Whether the device is a processor that emulates a GPU: problems are smaller there.
pub fn is_software(gpu: &Gpu) -> bool {
    gpu.info().device_type == wgpu::DeviceType::Cpu
}
