//! Timing kernels and measuring what the device itself can do, so that a result can be given in percent of it.
//!
//! ```no_run
//! use wgpu_attention::measure::{Ceilings, Effort, time};
//! # use wgpu_attention::{DensePlan, DenseTensors, Gpu, Result};
//! # fn f(gpu: &Gpu, plan: &DensePlan, tensors: &DenseTensors<'_>, flops: f64) -> Result<()> {
//! let times = time(gpu, &Effort::default(), |pass, _run| plan.encode_in(pass, tensors))?;
//! let ceilings = Ceilings::measure(gpu)?;
//! let share = flops / times.median() / ceilings.f32_flops;
//! println!("{:.3} ms, {:.0} % of what the device can do", times.median() * 1e3, share * 100.0);
//! # Ok(())
//! # }
//! ```

use std::sync::Arc;
use std::time::Instant;

use crate::error::Result;
use crate::gpu::{Gpu, lost};
use crate::ops::host;
use crate::shader::{Binding, BindingKind, Constant, Pipeline, Spec, Variant};

/// Seconds of repeated runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Times {
    /// Each run, sorted.
    pub seconds: Vec<f64>,
    /// Measured by the device's own clock, not the host's.
    pub on_device: bool,
}

impl Times {
    /// The middle one.
    pub fn median(&self) -> f64 {
        self.seconds[self.seconds.len() / 2]
    }

    /// (third quartile − first quartile) / median.
    pub fn spread(&self) -> f64 {
        let n = self.seconds.len();
        (self.seconds[n * 3 / 4] - self.seconds[n / 4]) / self.median()
    }
}

/// How often to run.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Timed runs at least.
    pub runs: usize,
    /// Seconds of timed runs at least.
    pub seconds: f64,
    /// Runs at most.
    pub most: usize,
    /// Seconds of timed runs after which no other begins, even if there were fewer than `runs`.
    pub patience: f64,
}

impl Default for Effort {
    fn default() -> Self {
        Effort {
            runs: 5,
            seconds: 0.3,
            most: 200,
            patience: 20.0,
        }
    }
}

/// A run that takes this many seconds needs no second one to warm up.
const LONG_RUN: f64 = 0.5;

impl Effort {
    /// Calls `run` with its number until there are enough timed runs; it returns its seconds. The first two, or the
    /// first if it takes long, warm caches and clocks up and are marked as such by `false`.
    fn repeat(&self, mut run: impl FnMut(usize, bool) -> Result<f64>) -> Result<()> {
        let mut warm = 0;
        if run(0, false)? < LONG_RUN {
            run(1, false)?;
            warm = 1;
        }
        let mut total = 0.0;
        for timed in 1..=self.most {
            total += run(warm + timed, true)?;
            if total >= self.patience || (timed >= self.runs && total >= self.seconds) {
                break;
            }
        }
        Ok(())
    }
}

/// Times what `record` puts into a compute pass, after one or two runs that are not counted. Each timed run is a
/// submission of its own; `record` is told its number, so that it can rotate inputs.
///
/// # Errors
/// Those of `record`, and [`crate::Error::Device`] if the device is lost.
pub fn time(
    gpu: &Gpu,
    effort: &Effort,
    mut record: impl FnMut(&mut wgpu::ComputePass<'_>, usize) -> Result<()>,
) -> Result<Times> {
    let clock = Clock::new(gpu)?;
    let mut seconds = Vec::new();
    effort.repeat(|run, counts| {
        let elapsed = clock.run(|pass| record(pass, run))?;
        seconds.extend(counts.then_some(elapsed));
        Ok(elapsed)
    })?;
    seconds.sort_by(f64::total_cmp);
    Ok(Times {
        seconds,
        on_device: clock.on_device(),
    })
}

/// Seconds of two things that ran in turn.
#[derive(Clone, Debug, PartialEq)]
pub struct Pairs {
    /// Each pair of runs, in the order they ran.
    pub seconds: Vec<[f64; 2]>,
    /// Measured by the device's own clock, not the host's.
    pub on_device: bool,
}

impl Pairs {
    /// The pairs' ratios, first over second, sorted. A disturbance that outlasts a pair slows both and cancels.
    pub fn ratios(&self) -> Vec<f64> {
        let mut ratios: Vec<_> = self.seconds.iter().map(|[a, b]| a / b).collect();
        ratios.sort_by(f64::total_cmp);
        ratios
    }

    /// The middle one of the pairs' ratios.
    pub fn ratio(&self) -> f64 {
        self.ratios()[self.seconds.len() / 2]
    }

    /// The median of the first (0) or the second (1).
    pub fn median(&self, which: usize) -> f64 {
        let mut seconds: Vec<_> = self.seconds.iter().map(|pair| pair[which]).collect();
        seconds.sort_by(f64::total_cmp);
        seconds[seconds.len() / 2]
    }
}

/// Times two things in turn, as [`time`] does one: what a ratio between them should come from. `effort` counts pairs.
///
/// # Errors
/// As [`time`].
pub fn time_pairs(
    gpu: &Gpu,
    effort: &Effort,
    mut first: impl FnMut(&mut wgpu::ComputePass<'_>) -> Result<()>,
    mut second: impl FnMut(&mut wgpu::ComputePass<'_>) -> Result<()>,
) -> Result<Pairs> {
    let clock = Clock::new(gpu)?;
    let mut seconds = Vec::new();
    effort.repeat(|_, counts| {
        let pair = [clock.run(&mut first)?, clock.run(&mut second)?];
        seconds.extend(counts.then_some(pair));
        Ok(pair[0] + pair[1])
    })?;
    Ok(Pairs {
        seconds,
        on_device: clock.on_device(),
    })
}

/// Times single submissions: two timestamps around a pass where the device has them, the host's clock around the
/// submission elsewhere.
#[derive(Debug)]
pub struct Clock {
    gpu: Gpu,
    queries: Option<(wgpu::QuerySet, wgpu::Buffer)>,
}

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
        })
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
        let read = pollster::block_on(host::submit_and_read(gpu, encoder, &[("timestamps", buffer)]))?;
        let ticks: Vec<u64> = bytemuck::pod_collect_to_vec(&read[0]);
        Ok(ticks[1].wrapping_sub(ticks[0]) as f64 * f64::from(gpu.queue().get_timestamp_period()) * 1e-9)
    }
}

/// A kernel that measures the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Probe {
    /// `measure/fma.wgsl`
    Fma,
    /// `measure/copy.wgsl`
    Copy,
    /// `measure/read.wgsl`
    Read,
}

/// Rounds of the multiply-add kernel, 16-byte words an invocation of the read kernel.
const FMA_ROUNDS: u32 = 512;
const READ_WORDS: u32 = 16;

impl Spec for Probe {
    fn label(&self) -> String {
        self.kernel().into()
    }

    fn kernel(&self) -> &'static str {
        match self {
            Probe::Fma => "measure/fma",
            Probe::Copy => "measure/copy",
            Probe::Read => "measure/read",
        }
    }

    fn constants(&self) -> Vec<(&'static str, Constant)> {
        match self {
            Probe::Fma => vec![("ROUNDS", Constant::Count(FMA_ROUNDS))],
            Probe::Copy => vec![],
            Probe::Read => vec![("WORDS", Constant::Count(READ_WORDS))],
        }
    }

    fn pieces(&self) -> Vec<&'static str> {
        vec![]
    }

    fn custom(&self) -> Option<String> {
        None
    }

    fn bindings(&self) -> Vec<Binding> {
        use BindingKind::{Read, Write};
        [(1, Read), (4, Write)]
            .map(|(number, kind)| Binding { number, kind })
            .to_vec()
    }

    fn workgroup_bytes(&self) -> u32 {
        0
    }
}

/// What the device can do at most, as measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ceilings {
    /// f32 multiply-adds, two operations each, per second.
    pub f32_flops: f64,
    /// Bytes read plus bytes written by a copy, per second.
    pub copy_bytes: f64,
    /// Bytes of a plain read, per second.
    pub read_bytes: f64,
}

impl Ceilings {
    /// Measures the device; a second or so.
    ///
    /// # Errors
    /// [`crate::Error::Device`] if the device is lost or out of memory.
    pub fn measure(gpu: &Gpu) -> Result<Self> {
        let software = gpu.info().device_type == wgpu::DeviceType::Cpu;
        // Several times any cache.
        let bytes = if software { 64 << 20 } else { 1 << 30 };
        let rate = |run: ProbeRun| Ok(run.work() / run.time(gpu)?.median());
        Ok(Ceilings {
            f32_flops: rate(ProbeRun::fma(gpu, if software { 64 } else { 16384 })?)?,
            copy_bytes: rate(ProbeRun::copy(gpu, bytes)?)?,
            read_bytes: rate(ProbeRun::read(gpu, bytes)?)?,
        })
    }
}

/// A [`Probe`] with buffers of its own, ready to run.
#[derive(Debug)]
pub struct ProbeRun {
    pipeline: Arc<Pipeline>,
    group: wgpu::BindGroup,
    workgroups: u32,
    work: f64,
}

impl ProbeRun {
    /// Multiply-adds of this many workgroups of 64.
    ///
    /// # Errors
    /// [`crate::Error::Device`] if the device is lost or out of memory.
    pub fn fma(gpu: &Gpu, workgroups: u32) -> Result<Self> {
        let input = host::upload(gpu, "probe", bytemuck::cast_slice(&[0.999f32, 0.001, 0.0, 0.0]))?;
        let output = host::poisoned(gpu, "probe", u64::from(workgroups) * 64 * 4)?;
        let work = f64::from(workgroups) * 64.0 * f64::from(FMA_ROUNDS) * 8.0 * 8.0 * 2.0;
        Self::new(gpu, Probe::Fma, [&input, &output], workgroups, work)
    }

    /// A copy of as many bytes, less what does not fill a workgroup or fit one binding and one dispatch.
    ///
    /// # Errors
    /// As [`ProbeRun::fma`].
    pub fn copy(gpu: &Gpu, bytes: u64) -> Result<Self> {
        let (workgroups, bytes) = whole_workgroups(gpu, bytes, COPY_BYTES);
        let (input, output) = (storage(gpu, bytes)?, storage(gpu, bytes)?);
        Self::new(gpu, Probe::Copy, [&input, &output], workgroups, 2.0 * bytes as f64)
    }

    /// A plain read of as many bytes, less what does not fill a workgroup or fit one binding and one dispatch.
    ///
    /// # Errors
    /// As [`ProbeRun::fma`].
    pub fn read(gpu: &Gpu, bytes: u64) -> Result<Self> {
        let (workgroups, bytes) = whole_workgroups(gpu, bytes, READ_BYTES);
        let output = storage(gpu, u64::from(workgroups) * 256 * 4)?;
        Self::new(
            gpu,
            Probe::Read,
            [&storage(gpu, bytes)?, &output],
            workgroups,
            bytes as f64,
        )
    }

    fn new(gpu: &Gpu, kind: Probe, buffers: [&wgpu::Buffer; 2], workgroups: u32, work: f64) -> Result<Self> {
        let pipeline = gpu.pipeline(&Variant::Probe(kind))?;
        let [input, output] = buffers;
        let group = gpu.device().create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some("probe"),
            layout: &pipeline.layout,
            entries: &[(1, input), (4, output)].map(|(binding, buffer)| wgpu::BindGroupEntry {
                binding,
                resource: buffer.as_entire_binding(),
            }),
        });
        Ok(ProbeRun {
            pipeline,
            group,
            workgroups,
            work,
        })
    }

    /// What a run does: floating-point operations, or bytes read plus bytes written.
    pub fn work(&self) -> f64 {
        self.work
    }

    /// Records a run.
    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>) {
        pass.set_pipeline(&self.pipeline.pipeline);
        pass.set_bind_group(0, &self.group, &[]);
        pass.dispatch_workgroups(self.workgroups, 1, 1);
    }

    fn time(&self, gpu: &Gpu) -> Result<Times> {
        time(gpu, &Effort::default(), |pass, _| {
            self.record(pass);
            Ok(())
        })
    }
}

/// Bytes of a workgroup of the copy and of the read kernel.
const COPY_BYTES: u64 = 1024 * 16;
const READ_BYTES: u64 = 256 * 16 * READ_WORDS as u64;

/// Workgroups that move at most so many bytes, and the bytes they move.
fn whole_workgroups(gpu: &Gpu, bytes: u64, per_workgroup: u64) -> (u32, u64) {
    let limits = gpu.limits();
    let workgroups = (bytes.min(limits.max_storage_buffer_binding_size) / per_workgroup)
        .min(limits.max_compute_workgroups_per_dimension.into())
        .max(1);
    (workgroups as u32, workgroups * per_workgroup)
}

fn storage(gpu: &Gpu, size: u64) -> Result<wgpu::Buffer> {
    gpu.guarded(|device| {
        device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("probe"),
            size,
            usage: wgpu::BufferUsages::STORAGE,
            mapped_at_creation: false,
        })
    })
}
