//! Linear attention under criterion, timed by the device's own clock where it has one.
//!
//! ```text
//! cargo bench --features bench --bench linear                                   everything
//! cargo bench --features bench --bench linear -- 'sequence/D64/.*B1H1'             part of it; names as `--list` shows them
//! ```
//! `WGPU_ATTENTION_BACKEND`, `WGPU_ATTENTION_ADAPTER` choose the device. Inputs are warm: each problem runs over the
//! same buffers again and again. Throughput is in tokens of a head: `Melem/s` reads millions of them a second.
//! `benches/report.rs` prints tables instead, `benches/tune_linear.rs` compares tiles.

use std::time::Duration;

use criterion::{
    BenchmarkGroup, Criterion, SamplingMode, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use wgpu_attention::measure::Clock;
use wgpu_attention::{Decay, FeatureMap, Gpu, Linear};

#[path = "common/mod.rs"]
mod common;

use common::linear::{self, Buffers, Choice};
use common::problems;

/// A group with few and short samples; a sample of a long problem is one run.
fn group<'a>(criterion: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group
        .sample_size(10)
        .sampling_mode(SamplingMode::Flat)
        // Until a GPU's clocks have risen, see `measure`.
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_millis(500));
    group
}

/// One problem. The set-up runs only if criterion's filter wants it.
fn attention(group: &mut BenchmarkGroup<'_, WallTime>, gpu: &Gpu, name: &str, p: &Linear) {
    let mut ready = None;
    group.throughput(Throughput::Elements(linear::tokens(p) as u64));
    group.bench_function(name, |bencher| {
        let (plan, buffers, clock) = ready.get_or_insert_with(|| {
            let plan = linear::checked_plan(gpu, p, Choice::Planner).expect(name);
            (
                plan,
                Buffers::new(gpu, p).expect(name),
                Clock::new(gpu).expect("a clock"),
            )
        });
        bencher.iter_custom(|runs| {
            let run = |_| clock.run(|pass| plan.encode_in(pass, &buffers.tensors())).expect(name);
            Duration::from_secs_f64((0..runs).map(run).sum())
        });
    });
}

/// Every length, head size and number of heads.
fn sequences(criterion: &mut Criterion) {
    let gpu = common::gpu();
    println!("{}", common::device_line(&gpu));
    let mut group = group(criterion, "sequence");
    for p in problems::linear(common::is_software(&gpu)) {
        attention(&mut group, &gpu, &problems::linear_name(&p), &p);
    }
}

/// What a decay, a feature map and a normaliser cost.
fn options(criterion: &mut Criterion) {
    let gpu = common::gpu();
    let mut group = group(criterion, "option");
    let heads = if common::is_software(&gpu) { 4 } else { 32 };
    for d in problems::HEAD_DIMS {
        let plain = problems::sequence(2048, d, heads);
        let with_decay = |decay| Linear { decay, ..plain.clone() };
        let kernel = Linear {
            feature_map: FeatureMap::Elu1,
            normalize: Some(1e-6),
            ..with_decay(Decay::None)
        };
        let options = [
            ("no decay", with_decay(Decay::None)),
            ("decay of a head", with_decay(Decay::Head)),
            ("decay of a token", with_decay(Decay::Token)),
            ("decay of a channel", with_decay(Decay::Channel)),
            ("elu1, normalised", kernel.clone()),
            (
                "elu1, normalised, not causal",
                Linear {
                    causal: false,
                    ..kernel
                },
            ),
        ];
        for (name, p) in options {
            attention(&mut group, &gpu, &format!("D{d}/{name}"), &p);
        }
    }
}

/// A step of decoding, the state updated in place.
fn steps(criterion: &mut Criterion) {
    let gpu = common::gpu();
    let mut group = group(criterion, "step");
    for p in problems::linear_steps() {
        attention(&mut group, &gpu, &problems::linear_name(&p), &p);
    }
}

criterion_group!(benches, sequences, options, steps);
criterion_main!(benches);
