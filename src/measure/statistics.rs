//! The median of repeated runs, and how sure it is.

use std::cmp::Ordering;

/// An interval that holds the median of what was sampled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// Its lower end.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
    /// The share of such intervals that hold the true median.
    pub confidence: f64,
}

impl Interval {
    /// Half its width, relative to a value.
    pub fn half_width(&self, relative_to: f64) -> f64 {
        (self.high - self.low) / 2.0 / relative_to
    }
}

/// The middle one of sorted values, or the mean of the middle two; NaN of none.
pub fn median(sorted: &[f64]) -> f64 {
    match sorted.len() {
        0 => f64::NAN,
        n => (sorted[(n - 1) / 2] + sorted[n / 2]) / 2.0,
    }
}

/// The narrowest interval between two of the sorted values, equally many of them outside on either side, that holds the
/// median of what they were drawn from with at least this confidence, whatever its distribution; with less where there
/// are too few values for it, all of them being inside then. `None` of no values.
///
/// The k-th of n values from below exceeds the median if fewer than k are below it, whose number is binomial, so the
/// interval from there to the k-th from above has the confidence 1 − 2·P(B(n, ½) < k) (W. J. Conover, "Practical
/// Nonparametric Statistics", 3rd edition, section 3.2).
///
/// ```
/// use wgpu_attention::measure::median_interval;
///
/// let ten = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0];
/// let interval = median_interval(&ten, 0.95).unwrap();
/// assert_eq!((interval.low, interval.high), (2.0, 9.0));
/// assert!((interval.confidence - 0.978_515_625).abs() < 1e-12);
/// ```
pub fn median_interval(sorted: &[f64], confidence: f64) -> Option<Interval> {
    let n = sorted.len();
    if n == 0 {
        return None;
    }
    // P(B = k), and P(B ≤ k), for k outside on one side.
    let mut probability = 0.5f64.powi(n as i32);
    let mut tail = probability;
    let mut outside = 0;
    let mut reached = 1.0 - 2.0 * tail;
    for k in 1..n.div_ceil(2) {
        probability *= (n + 1 - k) as f64 / k as f64;
        tail += probability;
        if 1.0 - 2.0 * tail < confidence {
            break;
        }
        (outside, reached) = (k, 1.0 - 2.0 * tail);
    }
    Some(Interval {
        low: sorted[outside],
        high: sorted[n - 1 - outside],
        confidence: reached,
    })
}

/// Standard deviations from which ranks tell two halves apart, for so many values: by chance in 1 % of cases where there are
/// few (two times five reach it only where all of one half are below all of the other), in 0.1 % where there are more, whose
/// halves are compared again and again.
fn apart(values: usize) -> f64 {
    if values < 20 { 2.58 } else { 3.29 }
}

/// Whether values, in the order they came, changed their level half-way: the medians of the two halves are further apart than
/// this share of the later one's, and so many values of one half exceed values of the other as halves of one distribution
/// rarely have (H. B. Mann and D. R. Whitney, "On a test of whether one of two random variables is stochastically larger than
/// the other", 1947; the normal approximation).
pub(super) fn drifted(in_order: &[f64], share: f64) -> bool {
    let (first, second) = in_order.split_at(in_order.len() / 2);
    let [earlier, later] = [first, second].map(|half| {
        let mut sorted = half.to_vec();
        sorted.sort_by(f64::total_cmp);
        median(&sorted)
    });
    let of_pair = |a: &f64, b: &f64| match a.total_cmp(b) {
        Ordering::Less => 0.0,
        Ordering::Equal => 0.5,
        Ordering::Greater => 1.0,
    };
    let exceeding: f64 = first
        .iter()
        .flat_map(|a| second.iter().map(move |b| of_pair(a, b)))
        .sum();
    let (m, n) = (first.len() as f64, second.len() as f64);
    let deviation = (m * n * (m + n + 1.0) / 12.0).sqrt();
    (earlier - later).abs() > share * later && (exceeding - m * n / 2.0).abs() > apart(in_order.len()) * deviation
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_level_half_way_is_told_from_noise() {
        let step = [4.8, 4.7, 4.9, 4.8, 4.7, 1.0, 1.1, 1.0, 1.0, 1.1];
        assert!(drifted(&step, 0.04));
        let up: Vec<f64> = step.iter().rev().copied().collect();
        assert!(drifted(&up, 0.04));
        // Too small a step to matter.
        let small = [1.03, 1.03, 1.03, 1.03, 1.03, 1.0, 1.0, 1.0, 1.0, 1.0];
        assert!(!drifted(&small, 0.04) && drifted(&small, 0.02));
        // Medians that are as far apart by chance.
        assert!(!drifted(&[4.8, 1.0, 4.8, 1.0, 4.8, 1.0, 4.8, 1.0, 4.8, 1.0], 0.04));
        // No more than a few values can tell.
        assert!(!drifted(&[2.0, 1.0], 0.04) && !drifted(&[1.0], 0.04) && !drifted(&[], 0.04));
    }

    fn ranks(n: usize, confidence: f64) -> (usize, usize, f64) {
        let values: Vec<f64> = (1..=n).map(|i| i as f64).collect();
        let interval = median_interval(&values, confidence).unwrap();
        (interval.low as usize, interval.high as usize, interval.confidence)
    }

    /// Ranks and levels as tables of the sign test's interval have them.
    #[test]
    fn intervals_are_those_of_the_tables() {
        let table = [
            (6, 1, 6, 0.9688),
            (9, 2, 8, 0.9609),
            (10, 2, 9, 0.9785),
            (15, 4, 12, 0.9648),
            (20, 6, 15, 0.9586),
            (25, 8, 18, 0.9567),
            (30, 10, 21, 0.9572),
        ];
        for (n, low, high, level) in table {
            let (l, h, c) = ranks(n, 0.95);
            assert_eq!((l, h), (low, high), "n = {n}");
            assert!((c - level).abs() < 5e-5, "n = {n}: {c}");
        }
        assert_eq!(ranks(10, 0.99).0, 1);
    }

    #[test]
    fn too_few_values_have_less_confidence() {
        assert_eq!(ranks(5, 0.95), (1, 5, 0.9375));
        assert_eq!(ranks(2, 0.95), (1, 2, 0.5));
        assert_eq!(ranks(1, 0.95), (1, 1, 0.0));
        assert_eq!(median_interval(&[], 0.95), None);
    }

    /// 1000 values, whose powers of two are far below what tables have.
    #[test]
    fn many_values_are_as_the_normal_distribution_says() {
        let (low, high, confidence) = ranks(1000, 0.95);
        // 500 − 1.96·√250 = 469.01.
        assert_eq!((low, high), (469, 532));
        assert!(confidence > 0.95 && confidence < 0.955);
    }

    #[test]
    fn the_median_of_an_even_number_is_between_the_middle_two() {
        assert_eq!(median(&[1.0, 2.0, 5.0, 9.0]), 3.5);
        assert_eq!(median(&[1.0, 2.0, 9.0]), 2.0);
        assert!(median(&[]).is_nan());
    }
}
