//! What the tests of mistakes share: a good problem to spoil, a device that is watched, and what an error must say.

use std::sync::{Arc, Mutex};

use wgpu_attention::dense::tile::Tuning;
use wgpu_attention::{Dense, DenseTensors, Gpu, Layout, Result, Strides};

/// A small good problem, for mistakes to be made in.
pub fn good() -> Dense {
    Dense {
        batch: 2,
        heads: 4,
        kv_heads: Some(2),
        queries: 3,
        keys: 5,
        head_dim: 8,
        ..Dense::default()
    }
}

/// A device on which anything that wgpu itself has to complain about is kept.
pub fn watched() -> Option<(Gpu, Arc<Mutex<Vec<String>>>)> {
    let gpu = super::gpu_with(|_| {})?;
    let complaints = Arc::new(Mutex::new(vec![]));
    let kept = complaints.clone();
    gpu.device()
        .on_uncaptured_error(Arc::new(move |error| kept.lock().unwrap().push(error.to_string())));
    Some((gpu, complaints))
}

/// That nothing reached wgpu's validation, and that the device still computes.
pub fn assert_unharmed(gpu: &Gpu, complaints: &Mutex<Vec<String>>) {
    gpu.device().poll(wgpu::PollType::wait_indefinitely()).unwrap();
    assert_eq!(*complaints.lock().unwrap(), Vec::<String>::new());
    super::check("after the mistakes", gpu, &good(), &Tuning::default());
    assert_eq!(*complaints.lock().unwrap(), Vec::<String>::new());
}

/// That an error is of the wanted kind and its message says all of `words`.
pub fn assert_says<T>(what: &str, result: Result<T>, kind: &str, words: &[&str]) {
    let error = match result {
        Ok(_) => panic!("{what}: accepted"),
        Err(error) => error,
    };
    let found = format!("{error:?}");
    assert!(found.starts_with(kind), "{what}: {found}, expected {kind}");
    let message = error.to_string();
    for word in words {
        assert!(message.contains(word), "{what}: `{message}` does not say `{word}`");
    }
    println!("{what}: {message}");
}

pub fn strided(batch: u64, head: u64, seq: u64) -> Layout {
    Layout::Strided(Strides { batch, head, seq })
}

pub fn buffer(gpu: &Gpu, size: u64) -> wgpu::Buffer {
    buffer_for(gpu, size, wgpu::BufferUsages::STORAGE)
}

pub fn buffer_for(gpu: &Gpu, size: u64, usage: wgpu::BufferUsages) -> wgpu::Buffer {
    gpu.device().create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size,
        usage,
        mapped_at_creation: false,
    })
}

/// What `encode` says to these tensors; the encoder is submitted, so that what it recorded is validated.
pub fn encode(gpu: &Gpu, problem: &Dense, tensors: &DenseTensors<'_>) -> Result<()> {
    let plan = problem.plan(gpu).unwrap();
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    let result = plan.encode(&mut encoder, tensors);
    gpu.queue().submit([encoder.finish()]);
    result
}
