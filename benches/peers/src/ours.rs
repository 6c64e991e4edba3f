//! This library's side of a comparison.

use std::time::Instant;

use wgpu_attention::measure;
use wgpu_attention::{Dense, DensePlan, DenseTensors, Gpu, wgpu};

use crate::inputs::{Inputs, from_bytes, to_bytes};
use crate::problems::elements;
use crate::protocol::Clock;

/// A problem ready to run.
pub struct Ours {
    gpu: Gpu,
    clock: measure::Clock,
    pub plan: DensePlan,
    /// q, k, v and o.
    buffers: [wgpu::Buffer; 4],
}

/// Whether this library can read the device's clock. A software GPU's timestamps do not bracket its work.
pub fn has_device_clock(gpu: &Gpu) -> bool {
    measure::Clock::new(gpu).is_ok_and(|clock| clock.on_device())
}

impl Ours {
    pub fn prepare(gpu: &Gpu, problem: &Dense, inputs: &Inputs) -> Result<Self, String> {
        let plan = problem.plan(gpu).map_err(|e| e.to_string())?;
        let upload = |numbers: &[f32]| {
            let bytes = to_bytes(numbers, problem.dtype);
            let buffer = buffer(gpu, bytes.len() as u64);
            gpu.queue().write_buffer(&buffer, 0, &bytes);
            buffer
        };
        let output = elements(problem)[3] * problem.dtype.size();
        Ok(Ours {
            clock: measure::Clock::new(gpu).map_err(|e| e.to_string())?,
            buffers: [
                upload(&inputs.q),
                upload(&inputs.k),
                upload(&inputs.v),
                buffer(gpu, output),
            ],
            gpu: gpu.clone(),
            plan,
        })
    }

    /// Runs once.
    pub fn output(&self) -> Result<Vec<f32>, String> {
        let mut encoder = self.gpu.device().create_command_encoder(&Default::default());
        self.plan
            .encode(&mut encoder, &self.tensors())
            .map_err(|e| e.to_string())?;
        let bytes = self.gpu.submit_and_read_blocking(encoder, &self.buffers[3]);
        Ok(from_bytes(
            &bytes.map_err(|e| e.to_string())?,
            self.plan.problem().dtype,
        ))
    }

    /// Seconds of one run, of so many in a row.
    pub fn time(&self, repeats: u32, clock: Clock) -> Result<f64, String> {
        let seconds = match clock {
            Clock::Device => self.clock.run(|pass| self.record(pass, repeats)),
            Clock::Host => self.host_seconds(repeats),
        };
        Ok(seconds.map_err(|e| e.to_string())? / f64::from(repeats))
    }

    /// From the first command recorded to the end of waiting: what a caller pays.
    fn host_seconds(&self, repeats: u32) -> wgpu_attention::Result<f64> {
        let start = Instant::now();
        let mut encoder = self.gpu.device().create_command_encoder(&Default::default());
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            self.record(&mut pass, repeats)?;
        }
        self.gpu.queue().submit([encoder.finish()]);
        let waited = self.gpu.device().poll(wgpu::PollType::wait_indefinitely());
        waited.map_err(|e| wgpu_attention::Error::Device { message: e.to_string() })?;
        Ok(start.elapsed().as_secs_f64())
    }

    fn record(&self, pass: &mut wgpu::ComputePass<'_>, repeats: u32) -> wgpu_attention::Result<()> {
        (0..repeats).try_for_each(|_| self.plan.encode_in(pass, &self.tensors()))
    }

    fn tensors(&self) -> DenseTensors<'_> {
        let [q, k, v, o] = &self.buffers;
        DenseTensors::new(q, k, v, o)
    }
}

fn buffer(gpu: &Gpu, size: u64) -> wgpu::Buffer {
    gpu.device().create_buffer(&wgpu::BufferDescriptor {
        label: Some("peers"),
        size,
        usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC,
        mapped_at_creation: false,
    })
}
