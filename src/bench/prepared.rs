//! A problem that was planned and checked, with its inputs, ready to be timed.

use super::dense::{self, Buffers};
use super::inputs::filled;
use super::linear::{self, Choice};
use super::{Failure, Problem, is_software, topk};
use crate::compare::Comparison;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::ops::dense::DensePlan;
use crate::ops::dense::tile::Tuning;
use crate::ops::linear::LinearPlan;
use crate::ops::topk::{TopK, TopKPlan, TopKTensors};
use crate::tensor::DType;
use crate::tier::Tier;

/// Bytes that the inputs and outputs of consecutive runs amount to before one comes again, so that none is found in a
/// cache: twice the largest cache of a GPU that we know of, 256 MB; on a software GPU, 32 MiB.
pub fn rotation_bytes(gpu: &Gpu) -> u64 {
    if is_software(gpu) { 32 << 20 } else { 512 << 20 }
}

/// Sets of inputs at most, and their bytes, unless two sets have more.
const MOST_SETS: f64 = 2048.0;
const MOST_BYTES: f64 = 4e9;

/// A problem ready to be timed.
#[derive(Debug)]
pub struct Prepared {
    work: Work,
    error: Comparison,
    /// Bytes that one set's run moves.
    touched: f64,
}

#[derive(Debug)]
enum Work {
    Dense(Box<DensePlan>, Vec<Buffers>),
    Linear(Box<LinearPlan>, Vec<linear::Buffers>),
    /// With the lists of each set.
    TopK(Box<TopKPlan>, Vec<(Buffers, wgpu::Buffer)>),
}

impl Prepared {
    /// Plans a problem, with the kernels of the tier that the device has forced on it, if one is
    /// ([`Gpu::with_tier`]); checks the kernels on a small problem of the same variants; uploads sets of inputs that
    /// amount to `rotation` bytes, as far as there is memory for them ([`Prepared::rotated_bytes`]), two at least if there is
    /// for two; and checks some rows of the problem itself.
    ///
    /// # Errors
    /// [`Failure::Refused`] with the planner's or the device's error, [`Failure::Wrong`] if a kernel is.
    pub fn new(gpu: &Gpu, problem: &Problem, rotation: u64) -> Result<Self, Failure> {
        let wanted = sets_for(problem, rotation);
        let (work, error) = match problem {
            Problem::Dense(p) => {
                let plan = dense::checked_plan(gpu, p, &Tuning::default())?;
                let sets = sets(wanted, || Buffers::zeroless(gpu, p))?;
                let error = dense::check_rows(gpu, &plan, &sets[0])?;
                (Work::Dense(Box::new(plan), sets), error)
            }
            Problem::Linear(p) => {
                let plan = linear::checked_plan(gpu, p, Choice::Planner)?;
                let sets = sets(wanted, || linear::Buffers::new(gpu, p))?;
                let error = linear::check_rows(gpu, &plan, &sets[0])?;
                (Work::Linear(Box::new(plan), sets), error)
            }
            Problem::TopK(p) => {
                // The lists are an output that the check needs.
                let p = &TopK {
                    keep: true,
                    ..p.clone()
                };
                let plan = topk::checked_plan(gpu, p, &Default::default())?;
                let words = p.selection().words(&p.attention);
                let set = || {
                    Ok((
                        Buffers::zeroless(gpu, &p.attention)?,
                        filled(gpu, words, &[0.0], DType::F32)?,
                    ))
                };
                let sets = sets(wanted, set)?;
                let error = topk::check_rows(gpu, &plan, &sets[0].0, &sets[0].1)?;
                (Work::TopK(Box::new(plan), sets), error)
            }
        };
        Ok(Prepared {
            work,
            error,
            touched: problem.touched_bytes(),
        })
    }

    /// Records a run; its number picks the set of inputs.
    ///
    /// # Errors
    /// Those of the plan.
    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>, run: usize) -> Result<()> {
        match &self.work {
            Work::Dense(plan, sets) => plan.encode_in(pass, &sets[run % sets.len()].tensors()),
            Work::Linear(plan, sets) => plan.encode_in(pass, &sets[run % sets.len()].tensors()),
            Work::TopK(plan, sets) => {
                let (buffers, lists) = &sets[run % sets.len()];
                let tensors = TopKTensors {
                    selection: Some(lists.into()),
                    ..TopKTensors::new(buffers.tensors())
                };
                plan.encode_in(pass, &tensors)
            }
        }
    }

    /// Sets of inputs.
    pub fn sets(&self) -> usize {
        match &self.work {
            Work::Dense(_, sets) => sets.len(),
            Work::Linear(_, sets) => sets.len(),
            Work::TopK(_, sets) => sets.len(),
        }
    }

    /// Bytes that runs move before a set of inputs comes again.
    pub fn rotated_bytes(&self) -> u64 {
        (self.sets() as f64 * self.touched) as u64
    }

    /// The tier of the kernels.
    pub fn tier(&self) -> Tier {
        match &self.work {
            Work::Dense(plan, _) => plan.tier(),
            Work::Linear(plan, _) => plan.tier(),
            Work::TopK(plan, _) => plan.tier(),
        }
    }

    /// The kernels, by their labels.
    pub fn label(&self) -> String {
        match &self.work {
            Work::Dense(plan, _) => plan.label().into(),
            Work::Linear(plan, _) => plan.label().into(),
            Work::TopK(plan, _) => plan.label(),
        }
    }

    /// The error of the rows that were checked, relative to the reference's.
    pub fn error(&self) -> &Comparison {
        &self.error
    }
}

/// Sets of a problem's inputs and outputs that runs can take in turn so that nothing is found in a cache, as far as there is
/// memory for them.
///
/// # Errors
/// Those of the first set, and those of others that are not a lack of memory.
pub fn rotating_sets<T>(gpu: &Gpu, problem: &Problem, new: impl Fn() -> Result<T>) -> Result<Vec<T>> {
    sets(sets_for(problem, rotation_bytes(gpu)), new)
}

/// How many sets amount to so many bytes that are read or written; two at least, and no more than memory is likely to hold.
fn sets_for(problem: &Problem, rotation: u64) -> usize {
    let most = (MOST_BYTES / problem.stored_bytes()).min(MOST_SETS);
    (rotation as f64 / problem.touched_bytes()).ceil().min(most).max(2.0) as usize
}

/// So many sets, or as many as there is memory for.
fn sets<T>(wanted: usize, new: impl Fn() -> Result<T>) -> Result<Vec<T>> {
    let mut sets = vec![new()?];
    while sets.len() < wanted {
        match new() {
            Ok(set) => sets.push(set),
            Err(Error::Device { .. }) => break,
            Err(other) => return Err(other),
        }
    }
    Ok(sets)
}
