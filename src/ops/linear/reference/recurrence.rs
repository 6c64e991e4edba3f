//! The recurrence: one state, carried from token to token.

use super::{Head, LinearOutput, View};

pub(super) fn solve(view: &View<'_>) -> LinearOutput<f64> {
    let problem = view.problem;
    let mut o = view.output();
    let (mut final_state, mut total_decay) = (Vec::new(), Vec::new());
    view.each_head(|at, tokens| {
        let mut state = State::before(view, at);
        let mut total = vec![0.0; view.decay_len()];
        if problem.causal {
            for token in tokens {
                for (d, total) in total.iter_mut().enumerate() {
                    *total += view.log_decay(at, token, d);
                }
                state.decay(view, at, token);
                if !problem.state_only {
                    state.add(view, at, token);
                }
                state.read(view, at, token, &mut o);
            }
        } else {
            tokens.clone().for_each(|token| state.add(view, at, token));
            tokens.for_each(|token| state.read(view, at, token, &mut o));
        }
        final_state.extend(state.numbers());
        total_decay.extend(total);
    });
    LinearOutput {
        o,
        final_state: problem.final_state.then_some(final_state),
        total_decay: problem.total_decay.then_some(total_decay),
    }
}

/// S, by rows, and z.
struct State {
    s: Vec<Vec<f64>>,
    z: Option<Vec<f64>>,
}

impl State {
    /// The state before the first token.
    fn before(view: &View<'_>, at: Head) -> Self {
        let (d, dv) = (view.head_dim(), view.value_dim());
        let widen = |row: &[f32]| row.iter().map(|&s| s.into()).collect::<Vec<f64>>();
        let (s, z) = match view.initial(at) {
            Some((s, z)) => (s.chunks(dv).map(widen).collect(), widen(z)),
            None => (vec![vec![0.0; dv]; d], vec![0.0; d]),
        };
        let z = view.problem.normalize.is_some().then_some(z);
        State { s, z }
    }

    /// S ← e^g ⊙ S, z ← e^g ⊙ z
    fn decay(&mut self, view: &View<'_>, at: Head, token: usize) {
        for (d, row) in self.s.iter_mut().enumerate() {
            let factor = view.log_decay(at, token, d).exp();
            row.iter_mut().for_each(|s| *s *= factor);
            if let Some(z) = &mut self.z {
                z[d] *= factor;
            }
        }
    }

    /// S ← S + φ(k) vᵀ, z ← z + φ(k)
    fn add(&mut self, view: &View<'_>, at: Head, token: usize) {
        let value = view.value(at, token);
        for (d, k) in view.key(at, token).into_iter().enumerate() {
            for (s, &v) in self.s[d].iter_mut().zip(value) {
                *s += k * f64::from(v);
            }
            if let Some(z) = &mut self.z {
                z[d] += k;
            }
        }
    }

    /// Adds scale · φ(q)ᵀ S, divided by scale · φ(q)·z + ε where there is a z, to the token's row of o.
    fn read(&self, view: &View<'_>, at: Head, token: usize, o: &mut [f64]) {
        let query = view.query(at, token);
        let mut row = vec![0.0; view.value_dim()];
        for (q, s) in query.iter().zip(&self.s) {
            for (o, s) in row.iter_mut().zip(s) {
                *o += view.scale() * q * s;
            }
        }
        if let (Some(z), Some(epsilon)) = (&self.z, view.problem.normalize) {
            let dot: f64 = query.iter().zip(z).map(|(q, z)| q * z).sum();
            let denominator = view.scale() * dot + f64::from(epsilon);
            row.iter_mut().for_each(|o| *o /= denominator);
        }
        let start = view.row(at, token) * row.len();
        for (o, row) in o[start..].iter_mut().zip(row) {
            *o += row;
        }
    }

    /// In the order of a state tensor.
    fn numbers(&self) -> Vec<f64> {
        let z = self.z.iter().flatten();
        self.s.iter().flatten().chain(z).copied().collect()
    }
}
