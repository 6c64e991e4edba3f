//! Is it right? Everyone's output is held against something before anything is timed.

use wgpu_attention::compare::{Comparison, Tolerance, output};
use wgpu_attention::dense::reference::{Hooks, dense};
use wgpu_attention::{Dense, Gpu};

use crate::inputs::{Folder, Inputs};
use crate::ours::Ours;
use crate::peers::Peer;
use crate::problems::{Named, small};
use crate::protocol::Task;

/// A problem that this library solved, with what the others are held against.
pub struct Solved {
    pub ours: Ours,
    /// RMS of this library's error on the small problem, relative to that of the answer.
    pub rms: f64,
    problem: Dense,
    inputs: Inputs,
    answer: Vec<f64>,
    small: Dense,
    small_inputs: Inputs,
    small_answer: Vec<f64>,
}

/// What a peer said of a problem it got right.
pub struct Right {
    pub kernel: Option<String>,
    /// As [`Solved::rms`].
    pub rms: f64,
}

impl Solved {
    /// By this library.
    pub fn new(gpu: &Gpu, named: &Named) -> Result<Self, String> {
        let problem = named.problem.clone();
        let small = small(&problem);
        let small_inputs = Inputs::random(&small);
        let reference = dense(&small, &small_inputs.host(), &Hooks::default()).map_err(|e| e.to_string())?;
        let ours = Ours::prepare(gpu, &small, &small_inputs)?;
        let rms = judge(&ours.output()?, &reference.o, &small)?;
        let inputs = Inputs::random(&problem);
        let ours = Ours::prepare(gpu, &problem, &inputs)?;
        let answer = ours.output()?.into_iter().map(f64::from).collect();
        Ok(Solved {
            ours,
            rms,
            problem,
            inputs,
            answer,
            small,
            small_inputs,
            small_answer: reference.o,
        })
    }

    /// By a peer, which then has the large problem loaded.
    pub fn check(&self, peer: &mut Peer, folder: &Folder) -> Result<Right, String> {
        let (_, rms) = run(peer, folder, &self.small, &self.small_inputs, &self.small_answer)
            .map_err(|e| format!("small problem: {e}"))?;
        let (kernel, _) = run(peer, folder, &self.problem, &self.inputs, &self.answer)?;
        Ok(Right { kernel, rms })
    }
}

fn run(
    peer: &mut Peer,
    folder: &Folder,
    problem: &Dense,
    inputs: &Inputs,
    expected: &[f64],
) -> Result<(Option<String>, f64), String> {
    folder.fill(inputs, problem.dtype)?;
    let kernel = peer.prepare(&Task::new(problem, folder.path()))?;
    let rms = judge(&folder.output(problem.dtype)?, expected, problem)?;
    Ok((kernel, rms))
}

/// The RMS error, if all is within the bounds of the problem's storage type.
fn judge(actual: &[f32], expected: &[f64], problem: &Dense) -> Result<f64, String> {
    let found: Comparison = output(actual, expected, &Tolerance::for_dtype(problem.dtype));
    match found.passed() {
        true => Ok(found.rms),
        false => Err(format!("WRONG {found}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_output_gets_no_number() {
        let p = Dense {
            queries: 2,
            keys: 2,
            ..Default::default()
        };
        let expected = [0.5, -0.25, 0.125, 1.0];
        let right = expected.map(|x| x as f32);
        assert_eq!(judge(&right, &expected, &p), Ok(0.0));
        for wrong in [
            vec![0.5, -0.25, 0.125, 0.999],
            vec![-0.25, 0.5, 0.125, 1.0],
            vec![f32::NAN; 4],
            vec![0.5; 3],
        ] {
            assert!(
                judge(&wrong, &expected, &p).unwrap_err().starts_with("WRONG"),
                "{wrong:?}"
            );
        }
    }
}
