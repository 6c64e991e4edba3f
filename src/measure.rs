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
use statistics::drifted;
pub use statistics::{Interval, median, median_interval};

use crate::error::{Error, Result};
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

/// Seconds that runs go on, at least, before one is counted, on a GPU that is not a software one; a first run that takes as
/// long by itself is enough on any. While the processor compiles pipelines or works out reference rows, a GPU's clocks fall:
/// on an NVIDIA H200 (driver 580.159.04) from 1980 to 345 MHz, and the runs that followed took up to 4.7 times as long for up
/// to a quarter of a second, so evenly that their interval was narrow.
const WARM_UP: f64 = 0.5;

/// Seconds of runs before one is counted: [`WARM_UP`]; on a software GPU, which is the processor itself, as many as given.
fn warm_up_on(gpu: &Gpu, software: f64) -> f64 {
    match gpu.info().device_type {
        wgpu::DeviceType::Cpu => software,
        _ => WARM_UP,
    }
}

/// Calls `run` with its number, for its seconds, until so many seconds have passed by `now`, and twice at least; once, if it
/// takes [`WARM_UP`]. What the host did in the first call beside the run, such as sending inputs, does not count. Gives the
/// number of runs.
fn warm_up(seconds: f64, mut run: impl FnMut(usize) -> Result<f64>, now: impl Fn() -> f64) -> Result<usize> {
    let first = run(0)?;
    if first >= WARM_UP {
        return Ok(1);
    }
    let start = now();
    let mut runs = 1;
    while runs < 2 || first + now() - start < seconds {
        run(runs)?;
        runs += 1;
    }
    Ok(runs)
}

/// The host's clock, in seconds.
fn host_clock() -> impl Fn() -> f64 {
    let start = Instant::now();
    move || start.elapsed().as_secs_f64()
}

impl Effort {
    /// Calls `run` with its number until there are enough timed runs; it returns its seconds. Those before, marked by
    /// `false`, are what [`warm_up`] makes of so many seconds by `now`.
    fn repeat(
        &self,
        warm_up_seconds: f64,
        now: impl Fn() -> f64,
        mut run: impl FnMut(usize, bool) -> Result<f64>,
    ) -> Result<()> {
        let warm = warm_up(warm_up_seconds, |n| run(n, false), now)?;
        let mut total = 0.0;
        for timed in 0..self.most {
            total += run(warm + timed, true)?;
            if total >= self.patience || (timed + 1 >= self.runs && total >= self.seconds) {
                break;
            }
        }
        Ok(())
    }
}

/// Times what `record` puts into a compute pass. Each run is a submission of its own; `record` is told its number, so that
/// it can rotate inputs.
///
/// Runs that are not counted come first: for half a second, until the GPU's clocks have risen, or one that takes longer; on a
/// software GPU two, or one that takes half a second. A GPU is kept at work between runs, see [`Clock::busy`].
///
/// # Errors
/// Those of `record`, and [`crate::Error::Device`] if the device is lost.
pub fn time(
    gpu: &Gpu,
    effort: &Effort,
    mut record: impl FnMut(&mut wgpu::ComputePass<'_>, usize) -> Result<()>,
) -> Result<Times> {
    let clock = Clock::busy(gpu)?;
    let mut seconds = Vec::new();
    effort.repeat(warm_up_on(gpu, 0.0), host_clock(), |run, counts| {
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

/// Seconds of runs on a software GPU before [`time_to`] counts one.
const SOFTWARE_WARM_UP: f64 = 0.02;

/// Runs before the interval is looked at for the first time. It is looked at again whenever a quarter more were made,
/// not after each: whoever looks often enough sees a narrow interval by chance.
const FIRST_LOOK: usize = 10;

/// Calls `next` for the seconds of a run until their median is as sure as wanted; what is kept, sorted. Where the earlier half
/// is of another level than the later, as when clocks rise late, it is thrown away, and runs go on.
fn runs_to(precision: &Precision, mut next: impl FnMut() -> Result<f64>) -> Result<Vec<f64>> {
    let mut kept = vec![];
    let (mut total, mut look) = (0.0, FIRST_LOOK);
    for _ in 0..precision.most {
        if total >= precision.patience {
            break;
        }
        let elapsed = next()?;
        total += elapsed;
        kept.push(elapsed);
        if kept.len() < look {
            continue;
        }
        if drifted(&kept, 2.0 * precision.half_width) {
            kept.drain(..kept.len() / 2);
        } else if is_sure(&kept, precision) {
            break;
        }
        look = FIRST_LOOK.max(kept.len() + kept.len().div_ceil(4));
    }
    kept.sort_by(f64::total_cmp);
    Ok(kept)
}

/// Whether the median's interval is as narrow as wanted.
fn is_sure(seconds: &[f64], precision: &Precision) -> bool {
    let mut sorted = seconds.to_vec();
    sorted.sort_by(f64::total_cmp);
    median_interval(&sorted, precision.confidence)
        .is_some_and(|interval| interval.half_width(median(&sorted)) <= precision.half_width)
}

/// Times what `record` puts into a compute pass, as [`time`] does, until the median is as sure as wanted. On a software GPU
/// runs that are not counted take 20 ms at least.
///
/// Where the medians of the earlier and the later half of the runs are further apart than twice the half width wanted, and by
/// more than their noise explains, the earlier half is thrown away, and runs go on within `precision`'s patience.
///
/// # Errors
/// As [`time`].
pub fn time_to(
    gpu: &Gpu,
    precision: &Precision,
    mut record: impl FnMut(&mut wgpu::ComputePass<'_>, usize) -> Result<()>,
) -> Result<Times> {
    let clock = Clock::busy(gpu)?;
    let mut timed = |run: usize| clock.run(|pass| record(pass, run));
    let mut run = warm_up(warm_up_on(gpu, SOFTWARE_WARM_UP), &mut timed, host_clock())?;
    let seconds = runs_to(precision, || {
        run += 1;
        timed(run - 1)
    })?;
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

/// Times two things in turn, as [`time`] does one: what a ratio between them should come from. `effort` counts pairs, and the
/// runs that are not counted are pairs too.
///
/// # Errors
/// As [`time`].
pub fn time_pairs(
    gpu: &Gpu,
    effort: &Effort,
    mut first: impl FnMut(&mut wgpu::ComputePass<'_>) -> Result<()>,
    mut second: impl FnMut(&mut wgpu::ComputePass<'_>) -> Result<()>,
) -> Result<Pairs> {
    let clock = Clock::busy(gpu)?;
    let mut seconds = Vec::new();
    effort.repeat(warm_up_on(gpu, 0.0), host_clock(), |_, counts| {
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
    /// Seconds of a compute pass with one dispatch of one workgroup, which copies 16 KiB; `None` where the device's clock is too
    /// coarse for that.
    pub launch_seconds: Option<f64>,
    /// Seconds that each further one takes which waits for the one before it to have written.
    pub dependent_launch_seconds: Option<f64>,
}

/// Launches that wait for each other, behind a first, in the measurement of one.
const LAUNCHES: u32 = 64;

impl Ceilings {
    /// Measures the device; a few seconds.
    ///
    /// # Errors
    /// [`crate::Error::Device`] if the device is lost or out of memory.
    pub fn measure(gpu: &Gpu) -> Result<Self> {
        let software = gpu.info().device_type == wgpu::DeviceType::Cpu;
        // Several times any cache.
        let bytes = if software { 64 << 20 } else { 1 << 30 };
        let workgroups = if software { 64 } else { 16384 };
        let abilities = gpu.abilities();
        let rate = |run: ProbeRun| Ok(run.work() / run.time(gpu, 1)?.median());
        let memory = |probe: fn(&Gpu, u64) -> Result<ProbeRun>| rate(largest(|bytes| probe(gpu, bytes), bytes)?);
        let launch = ProbeRun::copy(gpu, 0)?;
        // Beside the point where the device itself fails: what follows will tell.
        let launches = |count| launch.time(gpu, count).ok().map(|times| times.median());
        let launch_seconds = launches(1);
        let dependent = |first: f64, all: f64| (all - first) / f64::from(LAUNCHES);
        let half = abilities.half.then(|| rate(ProbeRun::fma_half(gpu, workgroups)?));
        let matrices = abilities
            .matrices
            .map(|_| rate(ProbeRun::multiply(gpu, workgroups / 8)?));
        Ok(Ceilings {
            f32_flops: rate(ProbeRun::fma(gpu, workgroups)?)?,
            f16_flops: half.transpose()?,
            cooperative_flops: matrices.transpose()?,
            copy_bytes: memory(ProbeRun::copy)?,
            read_bytes: memory(ProbeRun::read)?,
            launch_seconds,
            dependent_launch_seconds: launch_seconds
                .zip(launches(1 + LAUNCHES))
                .map(|(first, all)| dependent(first, all)),
        })
    }
}

/// Less than this some caches hold: where the device lacks memory, a measurement of memory becomes no smaller. Limits of the
/// device on a binding may make it so nevertheless.
const FEWEST_BYTES: u64 = 256 << 20;

/// What is made of so many bytes, or of half as many where the device has no memory for them, and so on.
fn largest<T>(make: impl Fn(u64) -> Result<T>, bytes: u64) -> Result<T> {
    match make(bytes) {
        Err(Error::Device { .. }) if bytes > FEWEST_BYTES => largest(make, bytes / 2),
        made => made,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// Numbers of the runs that are not counted and of those that are, where each takes so many seconds, and the host as many
    /// again beside the first.
    fn repeated(effort: &Effort, warm_up_seconds: f64, each: f64) -> (Vec<usize>, Vec<usize>) {
        let clock = Cell::new(0.0);
        let (mut warm, mut timed) = (vec![], vec![]);
        let run = |n: usize, counts: bool| {
            clock.set(clock.get() + if n == 0 { 2.0 * each } else { each });
            if counts {
                timed.push(n)
            } else {
                warm.push(n)
            };
            Ok(each)
        };
        effort.repeat(warm_up_seconds, || clock.get(), run).unwrap();
        (warm, timed)
    }

    #[test]
    fn runs_go_on_for_the_warm_up_before_any_is_counted() {
        let effort = Effort {
            runs: 3,
            seconds: 0.0,
            ..Default::default()
        };
        // Seconds of the warm-up and of a run, runs that are not counted.
        let table = [
            (0.5, 0.125, 4),
            (0.5, 0.3, 2),
            (0.5, 0.5, 1),
            (0.5, 7.0, 1),
            (0.0, 0.001, 2),
            (0.0, 0.49, 2),
            (0.0, 0.5, 1),
            (0.02, 0.0078125, 3),
        ];
        for (seconds, each, expected) in table {
            let (warm, timed) = repeated(&effort, seconds, each);
            assert_eq!(
                warm,
                (0..expected).collect::<Vec<_>>(),
                "{seconds} s in runs of {each} s"
            );
            assert_eq!(timed, (expected..expected + 3).collect::<Vec<_>>());
        }
    }

    #[test]
    fn timed_runs_end_with_their_number_their_seconds_or_patience() {
        let effort = Effort {
            runs: 3,
            seconds: 1.0,
            most: 6,
            patience: 4.0,
        };
        let timed = |effort: &Effort, each: f64| repeated(effort, 0.0, each).1.len();
        assert_eq!(timed(&effort, 0.25), 4);
        assert_eq!(timed(&effort, 0.5), 3);
        assert_eq!(timed(&effort, 0.125), 6);
        assert_eq!(timed(&effort, 2.0), 2);
        assert_eq!(timed(&effort, 5.0), 1);
    }

    /// Noise of up to this share on either side, the same in every test.
    fn noise(most: f64, seed: u64) -> impl FnMut() -> f64 {
        let mut state = seed;
        move || {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            most * ((state >> 40) as f64 / f64::from(1 << 23) - 1.0)
        }
    }

    /// What is kept, and how many runs it took, where the level of a run follows from its number.
    fn kept(precision: &Precision, most: f64, seed: u64, level: impl Fn(usize) -> f64) -> (Vec<f64>, usize) {
        let (mut noise, mut runs) = (noise(most, seed), 0);
        let next = || {
            runs += 1;
            Ok(level(runs - 1) * (1.0 + noise()))
        };
        (runs_to(precision, next).unwrap(), runs)
    }

    #[test]
    fn a_step_down_ends_with_the_low_level() {
        // Nine of the first ten would have a narrow interval already.
        for slow in 0..=8 {
            for seed in 0..50 {
                let step = |n: usize| if n < slow { 4.78e-3 } else { 1.03e-3 };
                let (seconds, runs) = kept(&Precision::default(), 0.005, seed, step);
                let found = median(&seconds);
                assert!((found / 1.03e-3 - 1.0).abs() < 0.005, "{slow} slow runs: {found}");
                // A few are outvoted without.
                let thrown_away = seconds.len() < runs;
                assert!(
                    thrown_away || ![5, 6, 8].contains(&slow),
                    "{slow} slow runs: {runs} kept"
                );
            }
        }
        // Up as well: the earlier runs are not what the device keeps up.
        let (seconds, _) = kept(&Precision::default(), 0.005, 1, |n| {
            if n < 6 { 1.0 / 1024.0 } else { 2.0 / 1024.0 }
        });
        assert!((median(&seconds) * 512.0 - 1.0).abs() < 0.005);
    }

    #[test]
    fn a_step_that_patience_does_not_outlast_leaves_what_there_is() {
        let precision = Precision {
            patience: 0.02,
            ..Default::default()
        };
        let (seconds, runs) = kept(&precision, 0.0, 1, |n| if n < 5 { 0.004 } else { 0.001 });
        assert_eq!((runs, seconds), (5, vec![0.004; 5]));
        let precision = Precision {
            patience: 0.026,
            ..precision
        };
        let (seconds, runs) = kept(&precision, 0.0, 1, |n| if n < 5 { 0.004 } else { 0.001 });
        assert_eq!((runs, seconds), (11, vec![0.001; 6]));
    }

    #[test]
    fn flat_noise_is_kept() {
        let cut = |most: f64| {
            let cuts = (0..1000).filter(|&seed| {
                let (seconds, runs) = kept(&Precision::default(), most, seed, |_| 1e-3);
                seconds.len() < runs
            });
            cuts.count()
        };
        assert_eq!([0.0, 0.01, 0.02].map(cut), [0; 3]);
        // Of larger noise, the halves of some differ by chance.
        let rare = [0.05, 0.1, 0.3].map(cut);
        assert!(rare.iter().all(|&n| n < 40), "{rare:?} of 1000");
    }

    #[test]
    fn a_device_short_of_memory_is_measured_with_less() {
        let with = |memory: u64| {
            largest(
                |bytes| match bytes <= memory {
                    true => Ok(bytes),
                    false => Err(Error::Device {
                        message: "out of memory".into(),
                    }),
                },
                1 << 30,
            )
        };
        assert_eq!(with(u64::MAX).unwrap(), 1 << 30);
        assert_eq!(with((1 << 30) - 1).unwrap(), 1 << 29);
        assert_eq!(with(1 << 28).unwrap(), FEWEST_BYTES);
        assert!(with((1 << 28) - 1).is_err());
    }

    #[test]
    fn runs_end_when_the_median_is_sure() {
        assert_eq!(kept(&Precision::default(), 0.01, 1, |_| 1e-3).1, FIRST_LOOK);
        let most = Precision {
            most: 37,
            ..Default::default()
        };
        assert_eq!(kept(&most, 0.5, 1, |_| 1e-3).1, 37);
    }
}
