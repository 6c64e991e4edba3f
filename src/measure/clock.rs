//! How long a submission takes.

use std::time::{Duration, Instant};

use super::probe::ProbeRun;
use crate::error::Result;
use crate::gpu::{Gpu, lost};
use crate::ops::host;

/// Times single submissions: two timestamps around a pass where the device has them, the host's clock around the
/// submission elsewhere.
#[derive(Debug)]
pub struct Clock {
    gpu: Gpu,
    queries: Option<(wgpu::QuerySet, wgpu::Buffer)>,
    /// What the device does right before each run.
    filler: Option<ProbeRun>,
}

/// Seconds of multiply-adds before each run of [`Clock::busy`], at least.
const FILL: f64 = 1e-3;

/// How long a device is at them before their number is settled, so that its clocks have risen.
const RISING: Duration = Duration::from_millis(100);

impl Clock {
    /// The clock of a device.
    ///
    /// # Errors
    /// [`crate::Error::Device`] if the device is lost.
    pub fn new(gpu: &Gpu) -> Result<Self> {
        // A software GPU runs on the processor whose clock the host reads; its timestamps bracket the recording.
        let device_clock =
            gpu.features().contains(wgpu::Features::TIMESTAMP_QUERY) && gpu.info().device_type != wgpu::DeviceType::Cpu;
        let create = |device: &wgpu::Device| {
            let set = device.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("wgpu-attention timestamps"),
                ty: wgpu::QueryType::Timestamp,
                count: 2,
            });
            let buffer = device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("wgpu-attention timestamps"),
                size: 16,
                usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
                mapped_at_creation: false,
            });
            (set, buffer)
        };
        Ok(Clock {
            queries: if device_clock { Some(gpu.guarded(create)?) } else { None },
            gpu: gpu.clone(),
            filler: None,
        })
    }

    /// The clock of a device that is kept at work: on a GPU that is not a software one, multiply-adds of a millisecond or two
    /// go before each run, in a submission of their own, which is complete before the run begins.
    ///
    /// A GPU's clocks fall also between short runs, because it waits most of the time for the next: on an NVIDIA H100
    /// (driver 580.159.04) from 1980 to between 405 and 750 MHz in some processes and not in others, so that the same step of
    /// 18 µs took up to 49.
    ///
    /// # Errors
    /// [`crate::Error::Device`] if the device is lost or out of memory.
    pub fn busy(gpu: &Gpu) -> Result<Self> {
        let clock = Self::new(gpu)?;
        let filler = if clock.on_device() { Some(filler(&clock)?) } else { None };
        Ok(Clock { filler, ..clock })
    }

    /// Whether it is the device's own clock, not the host's.
    pub fn on_device(&self) -> bool {
        self.queries.is_some()
    }

    /// Seconds that what `record` puts into a compute pass takes, submitted by itself.
    ///
    /// # Errors
    /// Those of `record`, and [`crate::Error::Device`] if the device is lost.
    pub fn run(&self, record: impl FnOnce(&mut wgpu::ComputePass<'_>) -> Result<()>) -> Result<f64> {
        let gpu = &self.gpu;
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        let timestamp_writes = self.queries.as_ref().map(|(set, _)| wgpu::ComputePassTimestampWrites {
            query_set: set,
            beginning_of_pass_write_index: Some(0),
            end_of_pass_write_index: Some(1),
        });
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                label: Some("wgpu-attention timed"),
                timestamp_writes,
            });
            record(&mut pass)?;
        }
        let Some((set, buffer)) = &self.queries else {
            let commands = encoder.finish();
            let start = Instant::now();
            gpu.queue().submit([commands]);
            gpu.device()
                .poll(wgpu::PollType::wait_indefinitely())
                .map_err(|e| lost("waiting for a timed run", e))?;
            return Ok(start.elapsed().as_secs_f64());
        };
        encoder.resolve_query_set(set, 0..2, buffer, 0);
        if let Some(filler) = &self.filler {
            self.fill(filler)?;
        }
        let read = pollster::block_on(host::submit_and_read(gpu, encoder, &[("timestamps", buffer)]))?;
        let ticks: Vec<u64> = bytemuck::pod_collect_to_vec(&read[0]);
        Ok(ticks[1].wrapping_sub(ticks[0]) as f64 * f64::from(gpu.queue().get_timestamp_period()) * 1e-9)
    }

    fn fill(&self, filler: &ProbeRun) -> Result<()> {
        let mut encoder = self.gpu.device().create_command_encoder(&Default::default());
        filler.record(&mut encoder.begin_compute_pass(&Default::default()));
        host::submit(&self.gpu, encoder)
    }
}

/// Multiply-adds that take the device [`FILL`] seconds or more, by the clock, after [`RISING`]; as many as one dispatch has where
/// those take less.
fn filler(clock: &Clock) -> Result<ProbeRun> {
    let most = clock.gpu.limits().max_compute_workgroups_per_dimension / 2;
    let start = Instant::now();
    let mut workgroups = 64;
    let mut filler = ProbeRun::fma(&clock.gpu, workgroups)?;
    loop {
        let seconds = clock.run(|pass| {
            filler.record(pass);
            Ok(())
        })?;
        if seconds < FILL && workgroups <= most {
            workgroups *= 2;
            filler = ProbeRun::fma(&clock.gpu, workgroups)?;
        } else if start.elapsed() >= RISING {
            return Ok(filler);
        }
    }
}
