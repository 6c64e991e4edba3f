//! Joining segments.

use crate::error::Result;
use crate::ops::linear::{Decay, Join, JoinInputs, JoinOutput};

/// Joins segments in float64: P_0 is `initial_state` or zero, P_{p+1} = e^{Γ_p} ⊙ P_p + S_p; the state before each
/// segment, and the one after the last where [`Join::final_state`] asks for it. A normaliser z behind a state decays
/// as its rows do.
///
/// # Errors
/// As [`JoinInputs::check`].
///
/// ```
/// use wgpu_attention::linear::reference::join;
/// use wgpu_attention::{Decay, Join, JoinInputs};
///
/// // Three segments with states 1, 2 and 3 of one number; across each, what came before is wiped out or kept.
/// let problem = Join { segments: 3, head_dim: 1, decay: Decay::Head, final_state: true, ..Default::default() };
/// let decay = [0.0, 0.0, f32::NEG_INFINITY];
/// let inputs = JoinInputs { states: &[1.0, 2.0, 3.0], total_decay: Some(&decay), ..Default::default() };
/// let output = join(&problem, &inputs)?;
/// assert_eq!(output.states, [0.0, 1.0, 3.0]);
/// assert_eq!(output.final_state, Some(vec![3.0]));
/// # Ok::<(), wgpu_attention::Error>(())
/// ```
pub fn join(join: &Join, inputs: &JoinInputs<'_>) -> Result<JoinOutput<f64>> {
    inputs.check(join)?;
    let head = join.head_state_len() as usize;
    let heads = join.sequences as usize * join.heads as usize;
    let mut state: Vec<f64> = match inputs.initial_state {
        Some(initial) => initial.iter().map(|&s| s.into()).collect(),
        None => vec![0.0; heads * head],
    };
    let mut states = Vec::new();
    for (p, segment) in inputs.states.chunks(heads * head).enumerate() {
        states.extend_from_slice(&state);
        for (index, (state, &added)) in state.iter_mut().zip(segment).enumerate() {
            let at = (p * heads + index / head, state_row(join, index % head));
            *state = log_decay(join, inputs, at).exp() * *state + f64::from(added);
        }
    }
    let final_state = join.final_state.then_some(state);
    Ok(JoinOutput { states, final_state })
}

/// d, for the number of a head's state at `index`: D rows of Dv, then z.
fn state_row(join: &Join, index: usize) -> usize {
    let (d, dv) = (join.head_dim as usize, join.value_dim() as usize);
    if index < d * dv { index / dv } else { index - d * dv }
}

/// Γ_p for row d of a head's state; 0 without decay.
fn log_decay(join: &Join, inputs: &JoinInputs<'_>, (head, d): (usize, usize)) -> f64 {
    match (join.decay, inputs.total_decay) {
        (Decay::None, _) | (_, None) => 0.0,
        (Decay::Head | Decay::Token, Some(total)) => total[head].into(),
        (Decay::Channel, Some(total)) => total[head * join.head_dim as usize + d].into(),
    }
}
