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

use std::time::Instant;

use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::ops::host;
use crate::shader::{Binding, BindingKind, Constant, Spec, Variant};

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
}

impl Default for Effort {
    fn default() -> Self {
        Effort {
            runs: 5,
            seconds: 0.3,
            most: 200,
        }
    }
}

/// Times what `record` puts into a compute pass, after two runs that are not counted. Each timed run is a submission
/// of its own; `record` is told its number, so that it can rotate inputs.
///
/// # Errors
/// Those of `record`, and [`Error::Device`] if the device is lost.
pub fn time(
    gpu: &Gpu,
    effort: &Effort,
    mut record: impl FnMut(&mut wgpu::ComputePass<'_>, usize) -> Result<()>,
) -> Result<Times> {
    let clock = Clock::new(gpu)?;
    let mut seconds = Vec::new();
    let mut total = 0.0;
    for run in 0.. {
        let elapsed = clock.run(gpu, run, &mut record)?;
        if run < 2 {
            continue;
        }
        seconds.push(elapsed);
        total += elapsed;
        if seconds.len() >= effort.most || (seconds.len() >= effort.runs && total >= effort.seconds) {
            break;
        }
    }
    seconds.sort_by(f64::total_cmp);
    Ok(Times {
        seconds,
        on_device: clock.queries.is_some(),
    })
}

/// Two timestamps around a pass where the device has them, the host's clock around the submission elsewhere.
struct Clock {
    queries: Option<(wgpu::QuerySet, wgpu::Buffer)>,
}

impl Clock {
    fn new(gpu: &Gpu) -> Result<Self> {
        // A software GPU runs on the processor whose clock the host reads; its timestamps bracket the recording.
        let device_clock =
            gpu.features().contains(wgpu::Features::TIMESTAMP_QUERY) && gpu.info().device_type != wgpu::DeviceType::Cpu;
        if !device_clock {
            return Ok(Clock { queries: None });
        }
        let queries = gpu.guarded(|device| {
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
        })?;
        Ok(Clock { queries: Some(queries) })
    }

    fn run(
        &self,
        gpu: &Gpu,
        run: usize,
        record: &mut impl FnMut(&mut wgpu::ComputePass<'_>, usize) -> Result<()>,
    ) -> Result<f64> {
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
            record(&mut pass, run)?;
        }
        let Some((set, buffer)) = &self.queries else {
            let commands = encoder.finish();
            let start = Instant::now();
            gpu.queue().submit([commands]);
            gpu.device()
                .poll(wgpu::PollType::wait_indefinitely())
                .map_err(|e| Error::Device { message: e.to_string() })?;
            return Ok(start.elapsed().as_secs_f64());
        };
        encoder.resolve_query_set(set, 0..2, buffer, 0);
        let read = pollster::block_on(host::submit_and_read(gpu, encoder, &[buffer]))?;
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
    /// [`Error::Device`] if the device is lost or out of memory.
    pub fn measure(gpu: &Gpu) -> Result<Self> {
        let software = gpu.info().device_type == wgpu::DeviceType::Cpu;
        // Several times any cache, within one binding.
        let most = gpu.limits().max_storage_buffer_binding_size;
        let bytes = (if software { 64 << 20 } else { 1 << 30u64 }).min(most) / (1 << 20) * (1 << 20);
        Ok(Ceilings {
            f32_flops: flops(gpu, if software { 64 } else { 16384 })?,
            copy_bytes: 2.0 * bandwidth(gpu, Probe::Copy, bytes, 1024 * 16)?,
            read_bytes: bandwidth(gpu, Probe::Read, bytes, 256 * 16 * u64::from(READ_WORDS))?,
        })
    }
}

fn flops(gpu: &Gpu, workgroups: u32) -> Result<f64> {
    let input = host::upload(gpu, "probe", bytemuck::cast_slice(&[0.999f32, 0.001, 0.0, 0.0]))?;
    let output = host::poisoned(gpu, "probe", u64::from(workgroups) * 64 * 4)?;
    let seconds = probe(gpu, Probe::Fma, &input, &output, workgroups)?;
    Ok(f64::from(workgroups) * 64.0 * f64::from(FMA_ROUNDS) * 8.0 * 8.0 * 2.0 / seconds)
}

fn bandwidth(gpu: &Gpu, kind: Probe, bytes: u64, per_workgroup: u64) -> Result<f64> {
    let create = |usage| {
        gpu.guarded(|device| {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("probe"),
                size: bytes,
                usage,
                mapped_at_creation: false,
            })
        })
    };
    let input = create(wgpu::BufferUsages::STORAGE)?;
    let output = create(wgpu::BufferUsages::STORAGE)?;
    let workgroups = (bytes / per_workgroup).min(gpu.limits().max_compute_workgroups_per_dimension.into());
    let seconds = probe(gpu, kind, &input, &output, workgroups as u32)?;
    Ok((workgroups * per_workgroup) as f64 / seconds)
}

fn probe(gpu: &Gpu, kind: Probe, input: &wgpu::Buffer, output: &wgpu::Buffer, workgroups: u32) -> Result<f64> {
    let pipeline = gpu.pipeline(&Variant::Probe(kind))?;
    let group = gpu.device().create_bind_group(&wgpu::BindGroupDescriptor {
        label: Some("probe"),
        layout: &pipeline.layout,
        entries: &[(1, input), (4, output)].map(|(binding, buffer)| wgpu::BindGroupEntry {
            binding,
            resource: buffer.as_entire_binding(),
        }),
    });
    let times = time(gpu, &Effort::default(), |pass, _| {
        pass.set_pipeline(&pipeline.pipeline);
        pass.set_bind_group(0, &group, &[]);
        pass.dispatch_workgroups(workgroups, 1, 1);
        Ok(())
    })?;
    Ok(times.median())
}
