//! Top-k attention under criterion, timed by the device's own clock where it has one: each step apart, the whole call, and
//! dense attention beside it.
//!
//! ```text
//! cargo bench --features bench --bench topk                          everything
//! cargo bench --features bench --bench topk -- "prefill.*D64/N8192"  part of it; names as `--list` shows them
//! ```
//! `WGPU_ATTENTION_BACKEND`, `WGPU_ATTENTION_ADAPTER` choose the device. Inputs are warm: each problem runs over the
//! same buffers again and again. `benches/report.rs` prints tables instead, `benches/tune_topk.rs` times one problem.

use std::time::Duration;

use criterion::{BenchmarkGroup, Criterion, SamplingMode, criterion_group, criterion_main, measurement::WallTime};
use wgpu_attention::Gpu;
use wgpu_attention::bench::Failure;
use wgpu_attention::dense::tile::Tuning;
use wgpu_attention::measure::Clock;

#[path = "common/mod.rs"]
mod common;

use common::problems;
use common::topk::{Hip, Run, Step};

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

/// One measurement. The set-up runs only if criterion's filter wants it.
fn measured<R>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    gpu: &Gpu,
    name: &str,
    set_up: impl Fn() -> Result<R, Failure>,
    record: impl Fn(&R, &mut wgpu::ComputePass<'_>) -> wgpu_attention::Result<()>,
) {
    let mut ready = None;
    group.bench_function(name, |bencher| {
        let (run, clock) = ready.get_or_insert_with(|| (set_up().expect(name), Clock::new(gpu).expect("a clock")));
        bencher.iter_custom(|runs| {
            let one = |_| clock.run(|pass| record(run, pass)).expect(name);
            Duration::from_secs_f64((0..runs).map(one).sum())
        });
    });
}

/// Every problem of the report's table.
fn steps(criterion: &mut Criterion) {
    let gpu = common::gpu();
    println!("{}", common::device_line(&gpu));
    let mut group = group(criterion, "topk");
    for problems::NamedTopK { name, problem: p } in problems::top_k(common::is_software(&gpu)) {
        let name = format!("{name}/D{}/N{}", p.attention.head_dim, p.attention.keys);
        let steps = [Step::Pool, Step::Score, Step::Select, Step::Gather, Step::Whole];
        for step in steps.into_iter().filter(|&s| s != Step::Pool || p.pool().is_some()) {
            let name = format!("{name}/{step:?}");
            measured(
                &mut group,
                &gpu,
                &name,
                || Run::new(&gpu, &p),
                |run, pass| run.record(pass, step),
            );
        }
        let dense = || {
            let plan = common::checked_plan(&gpu, &p.attention, &Tuning::default())?;
            Ok((plan, common::Buffers::zeroless(&gpu, &p.attention)?))
        };
        measured(
            &mut group,
            &gpu,
            &format!("{name}/dense"),
            dense,
            |(plan, buffers), pass| plan.encode_in(pass, &buffers.tensors()),
        );
    }
}

/// The hierarchical search beside the exact one.
fn searches(criterion: &mut Criterion) {
    let gpu = common::gpu();
    let mut group = group(criterion, "search");
    for (search, exact) in problems::top_k_searches(common::is_software(&gpu)) {
        let n = search.attention.keys;
        let name = format!("hierarchical/N{n}");
        measured(
            &mut group,
            &gpu,
            &name,
            || Hip::new(&gpu, &search),
            |hip, pass| hip.record(pass),
        );
        let name = format!("exact/N{n}");
        measured(
            &mut group,
            &gpu,
            &name,
            || Run::new(&gpu, &exact),
            |run, pass| run.record(pass, Step::Search),
        );
    }
}

criterion_group!(benches, steps, searches);
criterion_main!(benches);
