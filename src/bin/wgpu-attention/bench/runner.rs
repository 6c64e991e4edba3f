//! Measures one problem after another: checked, then timed, and held against the ceiling that bounds it.

use std::collections::HashMap;

use wgpu_attention::bench::{self, Prepared, Problem};
use wgpu_attention::measure::{Ceilings, Precision, ProbeRun, time_to};
use wgpu_attention::{Error, Gpu, Tier};

use super::format::{ProblemSize, Row, RowError, Seconds, Settings};
use super::suites::Entry;
use crate::duration;

/// Runs that an interval at 95 % takes at least.
const FEWEST_RUNS: f64 = 6.0;

/// The share of its bound that a problem reaches, where nothing like it was measured before.
const GUESS: f64 = 0.2;

pub struct Runner {
    settings: Settings,
    ceilings: Ceilings,
    /// Rows without a kernel are kept, to say so.
    states_unsupported: bool,
    /// The share that the last row of a kind reached of what [`Runner::guessed_bound`] says of it.
    reached: HashMap<Kind, f64>,
}

/// Rows whose times predict each other's.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Kind {
    suite: &'static str,
    tier: Option<Tier>,
    op: &'static str,
    dims: (u32, u32),
    dtype: &'static str,
    mask: String,
}

/// What came of a problem.
pub enum Verdict {
    /// A row, with a number or the reason why there is none.
    Measured(Row),
    /// A row whose kernel is wrong.
    Wrong(Row),
    /// A row at which the device failed for good.
    Failed(Row),
    /// The tier has no kernel for it.
    LeftOut,
}

/// The ceiling that a problem comes to first, and the seconds that it takes at it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bound {
    pub name: &'static str,
    pub seconds: f64,
}

/// What a problem costs at least.
#[derive(Clone, Copy, Debug)]
struct Cost {
    flops: f64,
    /// Read and written.
    bytes: f64,
    written: f64,
}

impl Cost {
    fn of(problem: &Problem) -> Self {
        Cost {
            flops: problem.flops(),
            bytes: problem.bytes(),
            written: problem.written_bytes(),
        }
    }
}

/// The share of its bytes that a problem writes at most, to be held against plain reading where that is faster than copying.
const HARDLY_WRITES: f64 = 0.1;

impl Bound {
    /// By kernels of a tier: those with cooperative matrices compute on them, the others in f32 whatever the storage.
    fn new(cost: Cost, tier: Tier, ceilings: &Ceilings) -> Self {
        let (name, rate) = match (tier, ceilings.cooperative_flops) {
            (Tier::Cooperative, Some(rate)) => ("cooperative", rate),
            _ => ("f32", ceilings.f32_flops),
        };
        let compute = Bound {
            name,
            seconds: cost.flops / rate,
        };
        let reads = cost.written < HARDLY_WRITES * cost.bytes && ceilings.read_bytes > ceilings.copy_bytes;
        let (name, rate) = match reads {
            true => ("read", ceilings.read_bytes),
            false => ("copy", ceilings.copy_bytes),
        };
        let memory = Bound {
            name,
            seconds: cost.bytes / rate,
        };
        if compute.seconds >= memory.seconds {
            compute
        } else {
            memory
        }
    }
}

impl Runner {
    pub fn new(settings: Settings, ceilings: Ceilings, states_unsupported: bool) -> Self {
        Runner {
            settings,
            ceilings,
            states_unsupported,
            reached: HashMap::new(),
        }
    }

    /// Measures a problem in the tier that the device has forced on it, or that the planner picks.
    pub fn measure(&mut self, gpu: &Gpu, entry: &Entry) -> Verdict {
        let mut row = row(gpu, entry);
        if let Some(seconds) = self.too_long(gpu, entry) {
            row.failure = Some(format!(
                "left out: {FEWEST_RUNS} runs of about {} exceed the budget of {}",
                duration(seconds),
                duration(self.settings.budget_seconds)
            ));
            return Verdict::Measured(row);
        }
        let prepared = match Prepared::new(gpu, &entry.problem, self.settings.rotation_bytes) {
            Ok(prepared) => prepared,
            Err(bench::Failure::Refused(Error::Unsupported { .. })) if !self.states_unsupported => {
                return Verdict::LeftOut;
            }
            Err(failure) => {
                row.failure = Some(failure.to_string());
                return match failure {
                    bench::Failure::Wrong(_) => Verdict::Wrong(row),
                    bench::Failure::Refused(error) => refused(gpu, &error, row),
                };
            }
        };
        match self.time(gpu, entry, &prepared, &mut row) {
            Ok(()) => Verdict::Measured(row),
            Err(error) => {
                row.failure = Some(error.to_string());
                refused(gpu, &error, row)
            }
        }
    }

    fn time(&mut self, gpu: &Gpu, entry: &Entry, prepared: &Prepared, row: &mut Row) -> Result<(), Error> {
        let precision = Precision {
            half_width: self.settings.half_width,
            confidence: self.settings.confidence,
            patience: self.settings.budget_seconds,
            ..Default::default()
        };
        let times = time_to(gpu, &precision, |pass, run| prepared.record(pass, run))?;
        let interval = times.interval(self.settings.confidence);
        let bound = Bound::new(Cost::of(&entry.problem), prepared.tier(), &self.ceilings);
        let fraction = bound.seconds / times.median();
        let guessed = self.guessed_bound(gpu, entry).seconds / times.median();
        self.reached.insert(kind(gpu, entry), guessed);
        row.seconds = Some(Seconds {
            median: times.median(),
            low: interval.low,
            high: interval.high,
            confidence: interval.confidence.min(self.settings.confidence),
            runs: times.seconds.len(),
        });
        row.tier = Some(prepared.tier().name().into());
        row.planned = match gpu.forced_tier() {
            None => Some(true),
            // What the planner would pick may not run, for want of memory say, where this did.
            Some(_) => entry
                .problem
                .planned_kernels(gpu)
                .ok()
                .map(|kernels| kernels == prepared.label()),
        };
        row.kernel = Some(prepared.label());
        row.clock = Some(if times.on_device { "device" } else { "host" }.into());
        row.bound = Some(bound.name.into());
        row.fraction_of_bound = Some(fraction);
        row.error = Some(RowError {
            rms: prepared.error().rms,
        });
        row.input_sets = Some(prepared.sets());
        row.rotated_bytes = Some(prepared.rotated_bytes());
        Ok(())
    }

    /// Seconds that a run is going to take, if too many for the budget, as rows like it took.
    fn too_long(&self, gpu: &Gpu, entry: &Entry) -> Option<f64> {
        let bound = self.guessed_bound(gpu, entry);
        let seconds = bound.seconds / self.reached.get(&kind(gpu, entry)).unwrap_or(&GUESS);
        (seconds * FEWEST_RUNS > self.settings.budget_seconds).then_some(seconds)
    }

    /// The bound before it is known which tier the planner picks: the fastest on a GPU, so that nothing is left out that may be
    /// short.
    fn guessed_bound(&self, gpu: &Gpu, entry: &Entry) -> Bound {
        let fastest = match bench::is_software(gpu) {
            true => Tier::Portable,
            false => Tier::Cooperative,
        };
        let tier = gpu.forced_tier().unwrap_or(fastest);
        Bound::new(Cost::of(&entry.problem), tier, &self.ceilings)
    }
}

/// What to make of a problem's error: of one of the device, whether it goes on working.
fn refused(gpu: &Gpu, error: &Error, row: Row) -> Verdict {
    match error {
        Error::Device { .. } if !works(gpu) => Verdict::Failed(row),
        _ => Verdict::Measured(row),
    }
}

/// Whether a device that gave an error, such as that there is no memory, still computes.
fn works(gpu: &Gpu) -> bool {
    let compute = || {
        let probe = ProbeRun::fma(gpu, 1)?;
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        probe.record(&mut encoder.begin_compute_pass(&Default::default()));
        gpu.submit_and_read_blocking(encoder, probe.output())
    };
    compute().is_ok()
}

/// The row of a problem at which the device failed, with what it said.
pub fn failed_row(gpu: &Gpu, entry: &Entry, message: &str) -> Row {
    Row {
        failure: Some(message.into()),
        ..row(gpu, entry)
    }
}

fn kind(gpu: &Gpu, entry: &Entry) -> Kind {
    let p: &Problem = &entry.problem;
    Kind {
        suite: entry.suite,
        tier: gpu.forced_tier(),
        op: p.op(),
        dims: p.dims(),
        dtype: p.dtype().name(),
        mask: p.mask(),
    }
}

/// What is known of a row before it is measured.
fn row(gpu: &Gpu, entry: &Entry) -> Row {
    Row {
        suite: entry.suite.into(),
        name: entry.name.clone(),
        implementation: env!("CARGO_PKG_NAME").into(),
        tier: gpu.forced_tier().map(|tier| tier.name().into()),
        planned: None,
        kernel: None,
        problem: ProblemSize::from(&entry.problem),
        seconds: None,
        clock: None,
        flops: entry.problem.flops(),
        bytes: entry.problem.bytes(),
        bound: None,
        fraction_of_bound: None,
        error: None,
        input_sets: None,
        rotated_bytes: None,
        failure: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CEILINGS: Ceilings = Ceilings {
        f32_flops: 100.0,
        f16_flops: Some(200.0),
        cooperative_flops: Some(1000.0),
        copy_bytes: 10.0,
        read_bytes: 20.0,
        launch_seconds: None,
        dependent_launch_seconds: None,
    };

    #[test]
    fn the_bound_is_the_ceiling_that_takes_longer() {
        let of = |tier, bytes, written| {
            let cost = Cost {
                flops: 1000.0,
                bytes,
                written,
            };
            Bound::new(cost, tier, &CEILINGS)
        };
        let bound = |tier, bytes| of(tier, bytes, bytes / 4.0);
        assert_eq!(
            bound(Tier::Portable, 50.0),
            Bound {
                name: "f32",
                seconds: 10.0
            }
        );
        assert_eq!(
            bound(Tier::Subgroup, 500.0),
            Bound {
                name: "copy",
                seconds: 50.0
            }
        );
        assert_eq!(
            bound(Tier::Cooperative, 5.0),
            Bound {
                name: "cooperative",
                seconds: 1.0
            }
        );
        assert_eq!(
            bound(Tier::Cooperative, 50.0),
            Bound {
                name: "copy",
                seconds: 5.0
            }
        );
        assert_eq!(
            of(Tier::Portable, 500.0, 5.0),
            Bound {
                name: "read",
                seconds: 25.0
            }
        );
        let slow_reads = Ceilings {
            read_bytes: 9.0,
            ..CEILINGS
        };
        let cost = Cost {
            flops: 0.0,
            bytes: 500.0,
            written: 5.0,
        };
        assert_eq!(Bound::new(cost, Tier::Portable, &slow_reads).name, "copy");
    }
}
