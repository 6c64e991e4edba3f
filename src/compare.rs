//! Whether a kernel's result is right: error bounds by storage type, and a report that says where it is wrong.
//!
//! An output passes if both RMS(result − expected)/RMS(expected) and max|result − expected|/max|expected| are within
//! bounds. The first finds many small errors, the second a few large ones. A log-sum-exp is compared absolutely.
//! States of linear attention are outputs too; S and z are each compared with their own kind.
//! Of equally good choices of a top-k problem any passes, see [`topk()`].
//! A value that is not finite passes only where exactly it was expected (−inf, for a row that sees nothing); NaN
//! never does, and where the expected output is zero throughout, so must the result be.
//!
//! ```
//! use wgpu_attention::{DType, compare::{self, Tolerance}};
//!
//! let expected = [1.0, -2.0, 0.5];
//! let tolerance = Tolerance::for_dtype(DType::F32);
//! assert!(compare::output(&[1.0, -2.0, 0.500001], &expected, &tolerance).passed());
//!
//! let swapped = compare::output(&[-2.0, 1.0, 0.5], &expected, &tolerance);
//! assert!(!swapped.passed());
//! println!("{swapped}");
//! ```

use std::fmt;

use crate::ops::dense::DenseOutput;
use crate::ops::linear::{Linear, LinearOutput, split_states};
use crate::tensor::DType;

mod topk;

#[cfg(test)]
mod tests;

#[cfg(feature = "cases")]
pub(crate) use topk::{Known, topk_case};
pub use topk::{NEAR_TIE, TopKComparison, topk};

/// Error bounds of a comparison.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// Bound on RMS(result − expected)/RMS(expected) of an output.
    pub rms: f64,
    /// Bound on max|result − expected|/max|expected| of an output.
    pub max: f64,
    /// Bound on |result − expected| of a log-sum-exp.
    pub lse: f64,
    /// A bound relative to |expected|, which holds for a log-sum-exp where it is larger than `lse`; 0 for none.
    pub lse_relative: f64,
}

impl Tolerance {
    /// The bounds of the case format: f32 1e-5 and 2e-5, f16 2e-3 and 4e-3, bf16 1e-2 and 2e-2; lse
    /// 1e-5·max(1, |lse|) for f32, 5e-3 for the others.
    pub const fn for_dtype(dtype: DType) -> Self {
        let (rms, max, lse, lse_relative) = match dtype {
            DType::F32 => (1e-5, 2e-5, 1e-5, 1e-5),
            DType::F16 => (2e-3, 4e-3, 5e-3, 0.0),
            DType::BF16 => (1e-2, 2e-2, 5e-3, 0.0),
        };
        Tolerance {
            rms,
            max,
            lse,
            lse_relative,
        }
    }
}

/// One element of a comparison.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Element {
    /// Index into the tensor, flat.
    pub index: usize,
    /// The result.
    pub actual: f32,
    /// What it should be.
    pub expected: f64,
}

/// What the errors of a [`Comparison`] are relative to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// The size of what is expected: RMS to RMS, maximum to maximum, over the whole tensor.
    Expected,
    /// Each element's own bound, so that 1 is as much as is allowed.
    Bound,
}

/// The outcome of comparing one tensor; displays as one line.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// `"o"`, `"lse"`, `"final_state"`, `"final_normalizer"`, `"total_decay"`, `"selection"` or `"selected"`.
    pub name: &'static str,
    /// Elements of the result.
    pub actual_len: usize,
    /// Elements expected. Where the two differ nothing else is compared.
    pub expected_len: usize,
    /// What `rms` and `max` are relative to.
    pub unit: Unit,
    /// An output: RMS(result − expected)/RMS(expected). An lse or total decay: RMS of error/bound. Infinite if an
    /// element that should be finite is not, or the reverse.
    pub rms: f64,
    /// Bound on `rms`.
    pub rms_bound: f64,
    /// An output: max|result − expected|/max|expected|. An lse or total decay: the largest error/bound. Infinite as
    /// above.
    pub max: f64,
    /// Bound on `max`.
    pub max_bound: f64,
    /// How many elements exceed the bound on `max` by themselves.
    pub over: usize,
    /// The element with the largest error, the first of them; `None` if there is no error at all.
    pub worst: Option<Element>,
    /// The first few elements over the bound.
    pub first: Vec<Element>,
}

/// How many elements over the bound a report shows.
const SHOWN: usize = 4;

impl Comparison {
    /// Whether lengths agree and all errors are within bounds.
    pub fn passed(&self) -> bool {
        self.actual_len == self.expected_len
            && self.over == 0
            && self.rms <= self.rms_bound
            && self.max <= self.max_bound
    }

    fn of_lengths(name: &'static str, actual: usize, expected: usize, unit: Unit, bounds: (f64, f64)) -> Self {
        Comparison {
            name,
            actual_len: actual,
            expected_len: expected,
            unit,
            rms: 0.0,
            rms_bound: bounds.0,
            max: 0.0,
            max_bound: bounds.1,
            over: 0,
            worst: None,
            first: Vec::new(),
        }
    }

    /// Fills in the errors, each measured in `units(expected)`: what its maximum and what its RMS is relative to.
    fn measure(self, actual: &[f32], expected: &[f64], units: impl Fn(f64) -> (f64, f64)) -> Self {
        let errors = actual.iter().zip(expected).map(|(&actual, &expected)| {
            let error = difference(f64::from(actual), expected);
            let (max_unit, rms_unit) = units(expected);
            (ratio(error, max_unit), ratio(error, rms_unit))
        });
        self.fill(actual, expected, errors)
    }

    /// Fills in the errors, one an element: by what its maximum and by what its RMS is relative to.
    fn fill(mut self, actual: &[f32], expected: &[f64], errors: impl IntoIterator<Item = (f64, f64)>) -> Self {
        if actual.len() != expected.len() {
            return self;
        }
        let mut squares = 0.0;
        for (index, (error, rms_error)) in errors.into_iter().enumerate() {
            squares += rms_error.powi(2);
            let element = Element {
                index,
                actual: actual[index],
                expected: expected[index],
            };
            if error > self.max {
                self.max = error;
                self.worst = Some(element);
            }
            if error > self.max_bound {
                self.over += 1;
                if self.first.len() < SHOWN {
                    self.first.push(element);
                }
            }
        }
        self.rms = (squares / expected.len().max(1) as f64).sqrt();
        self
    }
}

/// |actual − expected|; 0 for the same infinity, infinite for NaN on either side or an infinity on one.
fn difference(actual: f64, expected: f64) -> f64 {
    if actual == expected {
        return 0.0;
    }
    let error = (actual - expected).abs();
    if error.is_nan() { f64::INFINITY } else { error }
}

/// error/unit; no error is 0 in any unit, any error is infinite in a unit of 0, and an infinite one in any unit.
fn ratio(error: f64, unit: f64) -> f64 {
    if error == 0.0 || error.is_infinite() {
        error
    } else {
        error / unit
    }
}

/// Compares an output, [`Tolerance::rms`] and [`Tolerance::max`] being the bounds.
pub fn output(actual: &[f32], expected: &[f64], tolerance: &Tolerance) -> Comparison {
    named_output("o", actual, expected, tolerance)
}

fn named_output(name: &'static str, actual: &[f32], expected: &[f64], tolerance: &Tolerance) -> Comparison {
    let finite = || expected.iter().map(|e| e.abs()).filter(|e| e.is_finite());
    let max = finite().fold(0.0, f64::max);
    let rms = (finite().map(|e| e * e).sum::<f64>() / expected.len().max(1) as f64).sqrt();
    let bounds = (tolerance.rms, tolerance.max);
    Comparison::of_lengths(name, actual.len(), expected.len(), Unit::Expected, bounds)
        .measure(actual, expected, |_| (max, rms))
}

/// Compares log-sum-exps, element by element; errors are in units of each element's bound.
pub fn lse(actual: &[f32], expected: &[f64], tolerance: &Tolerance) -> Comparison {
    logarithms("lse", actual, expected, tolerance)
}

fn logarithms(name: &'static str, actual: &[f32], expected: &[f64], tolerance: &Tolerance) -> Comparison {
    let bound = |expected: f64| f64::max(tolerance.lse, tolerance.lse_relative * expected.abs());
    Comparison::of_lengths(name, actual.len(), expected.len(), Unit::Bound, (1.0, 1.0)).measure(
        actual,
        expected,
        |expected| (bound(expected), bound(expected)),
    )
}

/// Compares sums of log-decays, element by element; errors are in units of each element's bound,
/// 1e-5·max(1, |expected|) whatever the storage type, since log-decays are always f32. What is below −104 counts as
/// −104 on either side, −∞ included: e to any of them is nothing in f32.
pub fn total_decay(actual: &[f32], expected: &[f64]) -> Comparison {
    // Not `max`, which would make a number of a NaN.
    let actual: Vec<f32> = actual.iter().map(|&g| if g < -104.0 { -104.0 } else { g }).collect();
    let expected: Vec<f64> = expected.iter().map(|&g| if g < -104.0 { -104.0 } else { g }).collect();
    logarithms("total_decay", &actual, &expected, &Tolerance::for_dtype(DType::F32))
}

/// The outcome of comparing a dense problem's outputs; displays as one line.
#[derive(Clone, Debug, PartialEq)]
pub struct DenseComparison {
    /// o.
    pub o: Comparison,
    /// lse, where either side has one.
    pub lse: Option<Comparison>,
}

impl DenseComparison {
    /// Whether everything is within bounds.
    pub fn passed(&self) -> bool {
        self.o.passed() && self.lse.as_ref().is_none_or(Comparison::passed)
    }
}

/// Compares the outputs of a dense problem. A log-sum-exp on one side only fails, as one of the wrong length.
pub fn dense(actual: &DenseOutput<f32>, expected: &DenseOutput<f64>, tolerance: &Tolerance) -> DenseComparison {
    let lse = match (&actual.lse, &expected.lse) {
        (None, None) => None,
        (actual, expected) => {
            let (actual, expected) = (actual.as_deref(), expected.as_deref());
            Some(lse(actual.unwrap_or_default(), expected.unwrap_or_default(), tolerance))
        }
    };
    DenseComparison {
        o: output(&actual.o, &expected.o, tolerance),
        lse,
    }
}

/// The outcome of comparing a linear problem's outputs; displays as one line.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearComparison {
    /// o.
    pub o: Comparison,
    /// S of the final state, where either side has one.
    pub final_state: Option<Comparison>,
    /// z of the final state, where either side has one.
    pub final_normalizer: Option<Comparison>,
    /// The sums of log-decays, where either side has them.
    pub total_decay: Option<Comparison>,
}

impl LinearComparison {
    /// Whether everything is within bounds.
    pub fn passed(&self) -> bool {
        self.all().all(Comparison::passed)
    }

    /// Every tensor that was compared, o first.
    pub fn all(&self) -> impl Iterator<Item = &Comparison> {
        let others = [&self.final_state, &self.final_normalizer, &self.total_decay];
        std::iter::once(&self.o).chain(others.into_iter().flatten())
    }
}

/// Compares the outputs of a linear problem. The final state's S and z are compared apart, since an error that is
/// small beside the one may be large beside the other; `problem` says where in the tensor they lie. A tensor on one
/// side only fails, as one of the wrong length.
pub fn linear(
    problem: &Linear,
    actual: &LinearOutput<f32>,
    expected: &LinearOutput<f64>,
    tolerance: &Tolerance,
) -> LinearComparison {
    let has_state = actual.final_state.is_some() || expected.final_state.is_some();
    let (actual_s, actual_z) = split_states(problem, actual.final_state.as_deref().unwrap_or_default());
    let (expected_s, expected_z) = split_states(problem, expected.final_state.as_deref().unwrap_or_default());
    let has_normalizer = has_state && problem.normalize.is_some();
    let has_decay = actual.total_decay.is_some() || expected.total_decay.is_some();
    LinearComparison {
        o: output(&actual.o, &expected.o, tolerance),
        final_state: has_state.then(|| named_output("final_state", &actual_s, &expected_s, tolerance)),
        final_normalizer: has_normalizer.then(|| named_output("final_normalizer", &actual_z, &expected_z, tolerance)),
        total_decay: has_decay.then(|| {
            let (actual, expected) = (actual.total_decay.as_deref(), expected.total_decay.as_deref());
            total_decay(actual.unwrap_or_default(), expected.unwrap_or_default())
        }),
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name;
        if self.actual_len != self.expected_len {
            return write!(
                f,
                "{name}: {} elements instead of {}",
                self.actual_len, self.expected_len
            );
        }
        let (rms, rms_bound, max, max_bound) = (self.rms, self.rms_bound, self.max, self.max_bound);
        match self.unit {
            Unit::Expected => write!(
                f,
                "{name}: rms {rms:.1e} (≤ {rms_bound:.0e}), max {max:.1e} (≤ {max_bound:.0e})"
            )?,
            Unit::Bound => write!(f, "{name}: error rms {rms:.2}, max {max:.2} times what is allowed")?,
        }
        if self.passed() {
            return Ok(());
        }
        write!(f, ", {} of {} over", self.over, self.expected_len)?;
        if let Some(worst) = &self.worst {
            write!(f, ", worst {worst}")?;
        }
        for (i, element) in self.first.iter().enumerate() {
            write!(f, "{}{element}", if i == 0 { ", first " } else { "; " })?;
        }
        Ok(())
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] {:e} instead of {:e}", self.index, self.actual, self.expected)
    }
}

impl fmt::Display for DenseComparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.o)?;
        match &self.lse {
            Some(lse) => write!(f, "; {lse}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for LinearComparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, comparison) in self.all().enumerate() {
            write!(f, "{}{comparison}", if i == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}
