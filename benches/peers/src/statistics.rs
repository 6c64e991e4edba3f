//! Medians and how sure they are.

use serde::Serialize;

/// The median of some runs, with an interval from order statistics, which supposes nothing of how times are distributed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Median {
    pub median: f64,
    pub low: f64,
    pub high: f64,
    /// How often such an interval holds the true median, at least: 0.95, or less where there were fewer than six runs.
    pub confidence: f64,
    pub runs: usize,
}

const CONFIDENCE: f64 = 0.95;

impl Median {
    /// Of at least one value.
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let n = values.len();
        let (below, coverage) = interval(n);
        Median {
            median: (values[(n - 1) / 2] + values[n / 2]) / 2.0,
            low: values[below],
            high: values[n - 1 - below],
            confidence: coverage.min(CONFIDENCE),
            runs: n,
        }
    }

    /// Half the width of the interval, relative to the median.
    pub fn spread(&self) -> f64 {
        (self.high - self.low) / 2.0 / self.median
    }
}

/// How many sorted values lie below the interval, as many as above, and the probability that it holds the median: that of
/// n fair coins at least so many, and one more, show either face.
fn interval(n: usize) -> (usize, f64) {
    let coin = 0.5f64.powi(n as i32);
    let (mut below, mut coverage) = (0, 1.0 - 2.0 * coin);
    let (mut choose, mut tail) = (1.0, 1.0);
    for k in 1..n.div_ceil(2) {
        choose *= (n + 1 - k) as f64 / k as f64;
        tail += choose;
        let narrower = 1.0 - 2.0 * tail * coin;
        if narrower < CONFIDENCE {
            break;
        }
        (below, coverage) = (k, narrower);
    }
    (below, coverage)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against the usual tables of ranks for a 95 % interval of the median.
    #[test]
    fn ranks_are_those_of_the_tables() {
        for (n, ranks) in [
            (6, (1, 6)),
            (8, (1, 8)),
            (9, (2, 8)),
            (10, (2, 9)),
            (20, (6, 15)),
            (30, (10, 21)),
        ] {
            let (below, coverage) = interval(n);
            assert_eq!((below + 1, n - below), ranks, "{n}");
            assert!(coverage >= 0.95, "{n}");
        }
    }

    #[test]
    fn few_runs_say_how_little_they_tell() {
        assert_eq!(Median::of(vec![3.0]).confidence, 0.0);
        let five = Median::of(vec![5.0, 1.0, 4.0, 2.0, 3.0]);
        assert_eq!((five.low, five.median, five.high), (1.0, 3.0, 5.0));
        assert_eq!(five.confidence, 0.9375);
    }

    #[test]
    fn an_even_number_of_runs_has_its_median_between_two() {
        let all = Median::of((1..=10).map(f64::from).collect());
        assert_eq!((all.low, all.median, all.high), (2.0, 5.5, 9.0));
        assert_eq!(all.confidence, 0.95);
    }
}
