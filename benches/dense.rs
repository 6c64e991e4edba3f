//! Dense attention under criterion, timed by the device's own clock where it has one.
//!
//! ```text
//! cargo bench --features bench --bench dense                               everything
//! cargo bench --features bench --bench dense -- prefill/D64/causal         part of it; names as `--list` shows them
//! ```
//! `WGPU_ATTENTION_BACKEND`, `WGPU_ATTENTION_ADAPTER` choose the device. Inputs are warm: each problem runs over the
//! same buffers again and again. `benches/report.rs` prints tables instead.

use std::time::Duration;

use criterion::{
    BenchmarkGroup, Criterion, SamplingMode, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use wgpu_attention::dense::tile::Tuning;
use wgpu_attention::measure::Clock;
use wgpu_attention::{Dense, Gpu};

mod baseline;
#[path = "common/mod.rs"]
mod common;

use common::host_cost::{Loop, Step};
use common::problems;

type Group<'a> = BenchmarkGroup<'a, WallTime>;

/// A group with few and short samples; a sample of a long problem is one run.
fn group<'a>(criterion: &'a mut Criterion, name: &str) -> Group<'a> {
    let mut group = criterion.benchmark_group(name);
    group
        .sample_size(10)
        .sampling_mode(SamplingMode::Flat)
        // Until a GPU's clocks have risen, see `measure`.
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_millis(500));
    group
}

/// Sums the seconds of as many runs as criterion asks for.
fn total(runs: u64, mut run: impl FnMut() -> f64) -> Duration {
    Duration::from_secs_f64((0..runs).map(|_| run()).sum())
}

/// One problem. The set-up runs only if criterion's filter wants it.
fn attention(group: &mut Group<'_>, gpu: &Gpu, p: &Dense) {
    let mut ready = None;
    let name = problems::dense_name(p);
    group.bench_function(&name, |bencher| {
        let (plan, buffers, clock) = ready.get_or_insert_with(|| {
            let plan = common::checked_plan(gpu, p, &Tuning::default()).expect(&name);
            let buffers = common::Buffers::zeroless(gpu, p).expect(&name);
            (plan, buffers, Clock::new(gpu).expect("a clock"))
        });
        bencher.iter_custom(|runs| {
            total(runs, || {
                clock.run(|pass| plan.encode_in(pass, &buffers.tensors())).expect(&name)
            })
        });
    });
}

/// Throughput is in floating-point operations: `Gelem/s` reads GFLOP/s.
fn prefill(criterion: &mut Criterion) {
    let gpu = common::gpu();
    println!("{}", common::device_line(&gpu));
    let mut group = group(criterion, "prefill");
    for p in problems::prefill(common::is_software(&gpu)) {
        group.throughput(Throughput::Elements(common::flops(&p) as u64));
        attention(&mut group, &gpu, &p);
    }
}

/// Throughput is in bytes of K and V.
fn decode(criterion: &mut Criterion) {
    let gpu = common::gpu();
    let mut group = group(criterion, "decode");
    for p in problems::decode(common::is_software(&gpu)) {
        group.throughput(Throughput::Bytes(common::kv_bytes(&p) as u64));
        attention(&mut group, &gpu, &p);
    }
}

/// The three dispatches that the tiled kernel is compared with.
fn three_dispatches(criterion: &mut Criterion) {
    let gpu = common::gpu();
    let clock = Clock::new(&gpu).expect("a clock");
    let mut group = group(criterion, "baseline");
    for p in common::ratios::baseline(common::is_software(&gpu)) {
        let mut ready = None;
        group.throughput(Throughput::Elements(common::flops(&p) as u64));
        group.bench_function(problems::dense_name(&p), |bencher| {
            let baseline =
                ready.get_or_insert_with(|| baseline::Baseline::checked(&gpu, &p).expect("a correct baseline"));
            bencher.iter_custom(|runs| {
                let run = |pass: &mut wgpu::ComputePass<'_>| {
                    baseline.record(pass);
                    Ok(())
                };
                total(runs, || clock.run(run).expect("a run"))
            });
        });
    }
}

/// Time of the processor, not of the device.
fn host(criterion: &mut Criterion) {
    let gpu = common::gpu();
    let mut group = group(criterion, "host");
    type Part = fn(&Step) -> f64;
    let parts: [(&str, bool, Part); 5] = [
        ("plan", true, |s| s.plan),
        ("encode", false, |s| s.encode),
        ("encode_in", true, |s| s.encode),
        ("finish", false, |s| s.finish),
        ("plan + encode + finish", false, Step::sum),
    ];
    for (name, in_pass, part) in parts {
        let mut ready = None;
        group.bench_function(name, |bencher| {
            let steps = ready.get_or_insert_with(|| Loop::new(&gpu, in_pass).expect("a loop"));
            bencher.iter_custom(|runs| {
                let times = steps.run(runs as usize).expect("a step");
                let mut times = times.iter().map(part);
                total(runs, || times.next().expect("a step"))
            });
        });
    }
}

criterion_group!(benches, prefill, decode, three_dispatches, host);
criterion_main!(benches);
