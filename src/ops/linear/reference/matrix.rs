//! The masked matrix: every pair of tokens by itself, decayed by the sum of the log-decays between the two.

use std::ops::Range;

use super::{Head, LinearOutput, View};

pub(super) fn solve(view: &View<'_>) -> LinearOutput<f64> {
    let problem = view.problem;
    let mut o = view.output();
    let (mut final_state, mut total_decay) = (Vec::new(), Vec::new());
    view.each_head(|at, tokens| {
        let matrix = Matrix::new(view, at, tokens.clone());
        for token in tokens.clone() {
            let start = view.row(at, token) * view.value_dim();
            let row = matrix.output_row(token);
            o[start..].iter_mut().zip(row).for_each(|(o, row)| *o += row);
        }
        final_state.extend(matrix.state_after());
        for d in 0..view.decay_len() {
            // An empty sequence adds up to 0, not −0.
            total_decay.push(0.0 + tokens.clone().map(|t| view.log_decay(at, t, d)).sum::<f64>());
        }
    });
    LinearOutput {
        o,
        final_state: problem.final_state.then_some(final_state),
        total_decay: problem.total_decay.then_some(total_decay),
    }
}

/// One head of one sequence.
struct Matrix<'a> {
    view: &'a View<'a>,
    at: Head,
    tokens: Range<usize>,
    /// φ(k) of every token.
    keys: Vec<Vec<f64>>,
}

impl<'a> Matrix<'a> {
    fn new(view: &'a View<'a>, at: Head, tokens: Range<usize>) -> Self {
        let keys = tokens.clone().map(|token| view.key(at, token)).collect();
        Matrix { view, at, tokens, keys }
    }

    /// For row d of the state: e^(sum of the log-decays of the tokens after j, up to the last of `seen`) for every j
    /// of `seen`, and what is left of the initial state. The sums grow from their near end, none is a difference.
    fn decays(&self, seen: Range<usize>, d: usize) -> (Vec<f64>, f64) {
        let mut sum = 0.0;
        let mut factors = vec![0.0; seen.len()];
        for (factor, token) in factors.iter_mut().zip(seen).rev() {
            *factor = f64::exp(sum);
            sum += self.view.log_decay(self.at, token, d);
        }
        (factors, sum.exp())
    }

    /// The row of o that belongs to a token, or what is to be added to it.
    fn output_row(&self, token: usize) -> Vec<f64> {
        let view = self.view;
        let end = if view.problem.causal {
            token + 1
        } else {
            self.tokens.end
        };
        let seen = self.tokens.start..end;
        let query = view.query(self.at, token);

        // The row of the matrix, and φ(q) ⊙ e^(sum) for the initial state.
        let mut weights = vec![0.0; seen.len()];
        let mut for_state = query.clone();
        for (d, q) in query.iter().enumerate() {
            let (factors, left) = self.decays(seen.clone(), d);
            for (weight, (key, factor)) in weights.iter_mut().zip(self.keys.iter().zip(factors)) {
                *weight += q * key[d] * factor;
            }
            for_state[d] *= left;
        }
        if view.problem.state_only {
            weights.clear();
        }

        let mut o = vec![0.0; view.value_dim()];
        for (weight, token) in weights.iter().zip(seen) {
            for (o, &v) in o.iter_mut().zip(view.value(self.at, token)) {
                *o += weight * f64::from(v);
            }
        }
        let mut normaliser: f64 = weights.iter().sum();
        if let Some((s, z)) = view.initial(self.at) {
            for (q, row) in for_state.iter().zip(s.chunks(o.len())) {
                o.iter_mut().zip(row).for_each(|(o, &s)| *o += q * f64::from(s));
            }
            normaliser += for_state.iter().zip(z).map(|(q, &z)| q * f64::from(z)).sum::<f64>();
        }
        let scale = view.scale();
        let divisor = match view.problem.normalize {
            Some(epsilon) => scale * normaliser + f64::from(epsilon),
            None => 1.0,
        };
        o.iter().map(|o| scale * o / divisor).collect()
    }

    /// Σ_j e^(sum after j) φ(k_j) v_jᵀ and what is left of the initial state; then z likewise, with 1 for v.
    fn state_after(&self) -> Vec<f64> {
        let view = self.view;
        let columns = view.value_dim();
        let (mut s, mut z) = (Vec::new(), Vec::new());
        for d in 0..view.head_dim() {
            let (factors, left) = self.decays(self.tokens.clone(), d);
            let weights: Vec<f64> = self
                .keys
                .iter()
                .zip(factors)
                .map(|(key, factor)| key[d] * factor)
                .collect();
            for c in 0..columns {
                let values = self
                    .tokens
                    .clone()
                    .map(|token| f64::from(view.value(self.at, token)[c]));
                let sum: f64 = weights.iter().zip(values).map(|(w, v)| w * v).sum();
                let initial = view
                    .initial(self.at)
                    .map_or(0.0, |(s, _)| f64::from(s[d * columns + c]));
                s.push(sum + left * initial);
            }
            if view.problem.normalize.is_some() {
                let initial = view.initial(self.at).map_or(0.0, |(_, z)| f64::from(z[d]));
                z.push(weights.iter().sum::<f64>() + left * initial);
            }
        }
        [s, z].concat()
    }
}
