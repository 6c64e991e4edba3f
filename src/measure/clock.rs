//! How long a submission takes.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::probe::ProbeRun;
use crate::error::{Error, Result};
use crate::gpu::{Gpu, lost};
use crate::ops::host;

/// Times single submissions: two timestamps around a pass where the device has them, the host's clock around the
/// submission elsewhere.
#[derive(Debug)]
pub struct Clock {
    gpu: Gpu,
    queries: Option<(wgpu::QuerySet, wgpu::Buffer)>,
    filler: Option<Mutex<Filler>>,
}

/// What the device does right before each run.
#[derive(Debug)]
struct Filler {
    work: ProbeRun,
    workgroups: u32,
}

/// Seconds of multiply-adds before each run of [`Clock::busy`], at least. Where they took less, the next run gets twice as many.
const FILL: f64 = 1e-3;

/// Workgroups of multiply-adds before the first run.
const FIRST_FILL: u32 = 64;

/// Timestamps: of a run, and of what goes before it.
const TIMESTAMPS: u32 = 4;

/// How often a run is made whose timestamps do not go forward, as where they wrap around.
const TRIES: usize = 3;

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
                count: TIMESTAMPS,
            });
            let buffer = device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("wgpu-attention timestamps"),
                size: u64::from(TIMESTAMPS) * 8,
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
        let filler = match clock.on_device() {
            true => Some(Mutex::new(Filler {
                work: ProbeRun::fma(gpu, FIRST_FILL)?,
                workgroups: FIRST_FILL,
            })),
            false => None,
        };
        Ok(Clock { filler, ..clock })
    }

    /// Whether it is the device's own clock, not the host's.
    pub fn on_device(&self) -> bool {
        self.queries.is_some()
    }

    /// Seconds that what `record` puts into a compute pass takes, submitted by itself. It may be recorded and run a few times, where
    /// the device's timestamps do not go forward.
    ///
    /// # Errors
    /// Those of `record`, and [`Error::Device`] if the device is lost, or its clock too coarse for the run.
    pub fn run(&self, mut record: impl FnMut(&mut wgpu::ComputePass<'_>) -> Result<()>) -> Result<f64> {
        let Some((set, buffer)) = &self.queries else {
            return self.run_by_host(record);
        };
        for _ in 0..TRIES {
            let seconds = self.run_by_device(set, buffer, &mut record)?;
            if seconds > 0.0 {
                return Ok(seconds);
            }
        }
        Err(Error::Device {
            message: format!(
                "in {TRIES} runs the timestamps behind were not later than those before: the device's clock is too coarse"
            ),
        })
    }

    fn run_by_host(&self, record: impl FnOnce(&mut wgpu::ComputePass<'_>) -> Result<()>) -> Result<f64> {
        let device = self.gpu.device();
        let mut encoder = device.create_command_encoder(&Default::default());
        record(&mut encoder.begin_compute_pass(&Default::default()))?;
        let commands = encoder.finish();
        let start = Instant::now();
        self.gpu.queue().submit([commands]);
        device
            .poll(wgpu::PollType::wait_indefinitely())
            .map_err(|e| lost("waiting for a timed run", e))?;
        Ok(start.elapsed().as_secs_f64())
    }

    /// Nothing or less, where timestamps do not go forward.
    fn run_by_device(
        &self,
        set: &wgpu::QuerySet,
        buffer: &wgpu::Buffer,
        record: impl FnOnce(&mut wgpu::ComputePass<'_>) -> Result<()>,
    ) -> Result<f64> {
        let gpu = &self.gpu;
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        {
            let mut pass = encoder.begin_compute_pass(&timed("wgpu-attention timed", set, 0));
            record(&mut pass)?;
        }
        let mut filler = self
            .filler
            .as_ref()
            .map(|f| f.lock().unwrap_or_else(PoisonError::into_inner));
        if let Some(filler) = &filler {
            self.fill(set, filler)?;
        }
        let count = if filler.is_some() { TIMESTAMPS } else { 2 };
        encoder.resolve_query_set(set, 0..count, buffer, 0);
        let read = pollster::block_on(host::submit_and_read(gpu, encoder, &[("timestamps", buffer)]))?;
        let ticks: Vec<u64> = bytemuck::pod_collect_to_vec(&read[0]);
        let period = f64::from(gpu.queue().get_timestamp_period()) * 1e-9;
        let seconds = |first: usize| ticks[first + 1].wrapping_sub(ticks[first]) as i64 as f64 * period;
        if let Some(filler) = &mut filler {
            self.resize(filler, seconds(2))?;
        }
        Ok(seconds(0))
    }

    fn fill(&self, set: &wgpu::QuerySet, filler: &Filler) -> Result<()> {
        let device = self.gpu.device();
        let mut encoder = device.create_command_encoder(&Default::default());
        filler
            .work
            .record(&mut encoder.begin_compute_pass(&timed("wgpu-attention filler", set, 2)));
        host::submit(&self.gpu, encoder)?;
        if self.gpu.info().backend == wgpu::Backend::Metal {
            // Command buffers that share nothing may overlap there. Clocks do not fall in the time that this takes.
            device
                .poll(wgpu::PollType::wait_indefinitely())
                .map_err(|e| lost("waiting for a GPU at work", e))?;
        }
        Ok(())
    }

    /// Twice as much to do where it took too little, as after clocks have risen; as much as one dispatch has at most.
    fn resize(&self, filler: &mut Filler, seconds: f64) -> Result<()> {
        let most = self.gpu.limits().max_compute_workgroups_per_dimension / 2;
        if seconds < FILL && filler.workgroups <= most {
            filler.workgroups *= 2;
            filler.work = ProbeRun::fma(&self.gpu, filler.workgroups)?;
        }
        Ok(())
    }
}

/// A pass between two timestamps.
fn timed<'a>(label: &'a str, set: &'a wgpu::QuerySet, first: u32) -> wgpu::ComputePassDescriptor<'a> {
    wgpu::ComputePassDescriptor {
        label: Some(label),
        timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
            query_set: set,
            beginning_of_pass_write_index: Some(first),
            end_of_pass_write_index: Some(first + 1),
        }),
    }
}
