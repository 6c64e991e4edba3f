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

mod clock;
pub mod probe;
mod statistics;

pub use clock::Clock;
pub use probe::{Probe, ProbeRun};
pub use statistics::{Interval, median, median_interval};

use crate::error::Result;
use crate::gpu::Gpu;

/// Seconds of repeated runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Times {
    /// Each run, sorted.
    pub seconds: Vec<f64>,
    /// Measured by the device's own clock, not the host's.
    pub on_device: bool,
}

impl Times {
    /// The middle one, or the mean of the middle two.
    pub fn median(&self) -> f64 {
        median(&self.seconds)
    }

    /// The interval that holds the true median with at least this confidence, see [`median_interval`]; with less where
    /// there were too few runs, which six are not for 0.95.
    pub fn interval(&self, confidence: f64) -> Interval {
        let nothing = Interval {
            low: f64::NAN,
            high: f64::NAN,
            confidence: 0.0,
        };
        median_interval(&self.seconds, confidence).unwrap_or(nothing)
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

/// How sure a median is to be.
#[derive(Clone, Copy, Debug)]
pub struct Precision {
    /// Half the width of the median's interval, relative to the median, at most.
    pub half_width: f64,
    /// Confidence of the interval.
    pub confidence: f64,
    /// Seconds of timed runs after which no other begins, whatever the interval.
    pub patience: f64,
    /// Runs after which no other begins.
    pub most: usize,
}

impl Default for Precision {
    /// 2 % of the median, with a confidence of 95 %; five seconds and a thousand runs at most.
    fn default() -> Self {
        Precision {
            half_width: 0.02,
            confidence: 0.95,
            patience: 5.0,
            most: 1000,
        }
    }
}

/// Seconds of runs that are not counted, at least: clocks that fell while inputs were prepared rise again.
const WARM_UP: f64 = 0.02;

/// Runs before the interval is looked at for the first time. It is looked at again whenever a quarter more were made,
/// not after each: whoever looks often enough sees a narrow interval by chance.
const FIRST_LOOK: usize = 10;

/// Times what `record` puts into a compute pass, as [`time`] does, until the median is as sure as wanted. Runs to warm up
/// take 20 ms at least.
///
/// # Errors
/// As [`time`].
pub fn time_to(
    gpu: &Gpu,
    precision: &Precision,
    mut record: impl FnMut(&mut wgpu::ComputePass<'_>, usize) -> Result<()>,
) -> Result<Times> {
    let clock = Clock::new(gpu)?;
    let mut run = 0;
    let mut next = || {
        let elapsed = clock.run(|pass| record(pass, run));
        run += 1;
        elapsed
    };
    let start = Instant::now();
    if next()? < LONG_RUN {
        next()?;
    }
    while start.elapsed().as_secs_f64() < WARM_UP {
        next()?;
    }
    let mut times = Times {
        seconds: vec![],
        on_device: clock.on_device(),
    };
    let (mut total, mut look) = (0.0, FIRST_LOOK);
    while times.seconds.len() < precision.most && total < precision.patience {
        let elapsed = next()?;
        total += elapsed;
        let at = times.seconds.partition_point(|s| *s < elapsed);
        times.seconds.insert(at, elapsed);
        if times.seconds.len() == look {
            let interval = times.interval(precision.confidence);
            if interval.half_width(times.median()) <= precision.half_width {
                break;
            }
            look += look.div_ceil(4);
        }
    }
    Ok(times)
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

/// What the device can do at most, as measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ceilings {
    /// f32 multiply-adds, two operations each, per second.
    pub f32_flops: f64,
    /// The same of f16, in pairs, where shaders can compute with it.
    pub f16_flops: Option<f64>,
    /// Multiply-adds of cooperative matrices, f16 factors and f32 sums, two operations each, per second, where the
    /// device has them.
    pub cooperative_flops: Option<f64>,
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
        let workgroups = if software { 64 } else { 16384 };
        let abilities = gpu.abilities();
        let rate = |run: ProbeRun| Ok(run.work() / run.time(gpu)?.median());
        let half = abilities.half.then(|| rate(ProbeRun::fma_half(gpu, workgroups)?));
        let matrices = abilities
            .matrices
            .map(|_| rate(ProbeRun::multiply(gpu, workgroups / 8)?));
        Ok(Ceilings {
            f32_flops: rate(ProbeRun::fma(gpu, workgroups)?)?,
            f16_flops: half.transpose()?,
            cooperative_flops: matrices.transpose()?,
            copy_bytes: rate(ProbeRun::copy(gpu, bytes)?)?,
            read_bytes: rate(ProbeRun::read(gpu, bytes)?)?,
        })
    }
}
