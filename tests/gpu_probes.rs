//! That the probes do the work that is counted: what they write, against the same worked out here.

mod common;

use wgpu_attention::measure::ProbeRun;
use wgpu_attention::measure::probe::{
    FMA_HALF_ROUNDS, FMA_ROUNDS, MULTIPLY_ROUNDS, MULTIPLY_SUBGROUPS, multiply_factors,
};
use wgpu_attention::{Error, Gpu};

/// The device, with the driver's checks and without.
fn devices() -> impl Iterator<Item = Gpu> {
    [false, true]
        .into_iter()
        .filter_map(|checked| common::gpu_with(|options| options.checked = checked))
}

fn written(gpu: &Gpu, run: &ProbeRun) -> Vec<f32> {
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    run.record(&mut encoder.begin_compute_pass(&Default::default()));
    let bytes = gpu.submit_and_read_blocking(encoder, run.output()).unwrap();
    bytemuck::pod_collect_to_vec(&bytes)
}

#[test]
fn fma_does_every_multiply_add() {
    for gpu in devices() {
        let found = written(&gpu, &ProbeRun::fma(&gpu, 3).unwrap());
        assert_eq!(found.len(), 3 * 64);
        // Drivers may round the product first.
        let fused = |x: f32| x.mul_add(0.999, 0.001);
        let apart = |x: f32| x * 0.999 + 0.001;
        let sum = |id: usize, step: &dyn Fn(f32) -> f32| -> f32 {
            let chain = |x: f32| (0..FMA_ROUNDS * 8).fold(x, |x, _| step(x));
            (0..8).map(|c| chain((id + c) as f32)).sum()
        };
        for (id, found) in found.iter().enumerate() {
            let expected = [sum(id, &fused), sum(id, &apart)];
            // One step more or fewer changes what is left of a large start by 1/1000.
            let right = expected
                .iter()
                .any(|expected| (found - expected).abs() < 1e-6 * expected);
            assert!(right, "{id}: {found} instead of {expected:?}");
        }
    }
}

#[test]
fn fma_half_does_every_multiply_add() {
    for gpu in devices() {
        if !gpu.abilities().half {
            eprintln!("nothing to test: no f16 in shaders");
            continue;
        }
        let found = written(&gpu, &ProbeRun::fma_half(&gpu, 3).unwrap());
        assert_eq!(found.len(), 3 * 64);
        for (id, found) in found.iter().enumerate() {
            // Every chain counts up by one a step.
            let chains = (0..8).flat_map(|c| [id % 64 + c, id % 64 + c + 1]);
            let expected: usize = chains.map(|start| start + FMA_HALF_ROUNDS as usize * 8).sum();
            assert_eq!(*found, expected as f32, "{id}");
        }
    }
}

#[test]
fn multiply_does_every_product() {
    for gpu in devices() {
        let Some(edge) = gpu.abilities().matrices else {
            let error = ProbeRun::multiply(&gpu, 1).unwrap_err();
            assert!(matches!(error, Error::Unsupported { .. }), "{error}");
            continue;
        };
        let found = written(&gpu, &ProbeRun::multiply(&gpu, 2).unwrap());
        let n = edge as usize;
        assert_eq!(found.len(), 2 * MULTIPLY_SUBGROUPS as usize * n * n);
        let factors = multiply_factors(edge);
        let sum = |range: std::ops::Range<usize>, at: usize| -> f64 {
            range.map(|factor| f64::from(factors[factor * n * n + at])).sum()
        };
        for (at, found) in found.iter().enumerate() {
            let (i, j) = (at / n % n, at % n);
            let product: f64 = (0..n).map(|k| sum(0..2, i * n + k) * sum(2..6, k * n + j)).sum();
            // Multiples of 1/64 below 2¹⁷: exact in f32.
            assert_eq!(
                f64::from(*found),
                product * f64::from(MULTIPLY_ROUNDS),
                "row {i}, column {j}"
            );
        }
    }
}
