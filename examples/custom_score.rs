//! A mechanism of the caller's own, as two functions in WGSL: a learned bias by distance, one table a head, and a
//! mask that keeps every key nearby and every fourth one farther off. Checked against the CPU reference, which takes
//! the same two functions in Rust. `cargo run --example custom_score`

use wgpu_attention::compare::{self, Tolerance};
use wgpu_attention::dense::reference::{self, Hooks, Position};
use wgpu_attention::{Custom, CustomData, CustomElement, Dense, DenseInputs, Gpu, GpuOptions};

/// Distances the table tells apart; all beyond share the last.
const DISTANCES: u32 = 32;

const SCORE: &str = "
const DISTANCES: u32 = 32u;

fn score(s: f32, at: Position) -> f32 {
    let distance = min(u32(abs(at.query_pos - at.key_pos)), DISTANCES - 1u);
    return s + distance_bias[at.head * DISTANCES + distance];
}";

const MASK: &str = "
fn mask(at: Position) -> bool {
    return abs(at.query_pos - at.key_pos) < 16 || at.key_pos % 4 == 0;
}";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let problem = Dense {
        heads: 4,
        queries: 200,
        keys: 200,
        head_dim: 32,
        causal: true,
        custom: Some(Custom {
            score: Some(SCORE.into()),
            mask: Some(MASK.into()),
            data: vec![CustomData {
                name: "distance_bias".into(),
                element: CustomElement::F32,
            }],
        }),
        ..Default::default()
    };

    let [q, k, v] = [1, 2, 3].map(|seed| numbers(seed, 4 * 200 * 32));
    let table = numbers(4, (problem.heads * DISTANCES) as usize);
    let inputs = DenseInputs {
        q: &q,
        k: &k,
        v: &v,
        custom_data: &[bytemuck::cast_slice(&table)],
        ..Default::default()
    };

    let gpu = Gpu::request_blocking(&GpuOptions::from_env()?)?;
    let plan = problem.plan(&gpu)?;
    let output = plan.run_blocking(&inputs)?;

    let score = |s: f64, at: &Position| {
        let distance = at.query_pos.abs_diff(at.key_pos).min(DISTANCES - 1);
        s + f64::from(table[(at.head * DISTANCES + distance) as usize])
    };
    let mask = |at: &Position| at.query_pos.abs_diff(at.key_pos) < 16 || at.key_pos % 4 == 0;
    let hooks = Hooks {
        score: Some(&score),
        mask: Some(&mask),
    };
    let expected = reference::dense(&problem, &inputs, &hooks)?;
    let comparison = compare::dense(&output, &expected, &Tolerance::for_dtype(problem.dtype));
    println!("{} on {}", plan.label(), gpu.info().name);
    println!("{comparison}");
    match comparison.passed() {
        true => Ok(()),
        false => Err("the result is wrong".into()),
    }
}

/// Pseudo-random numbers from −1 to 1.
fn numbers(seed: u32, n: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}
