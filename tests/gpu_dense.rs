//! Dense attention on a device: golden cases, views, kernels forced against the planner's choice.

mod common;

use common::{Inputs, Random, check, check_on, gpu, gpu_with, golden};
use wgpu_attention::case::{Case, Op};
use wgpu_attention::compare::{self, Tolerance};
use wgpu_attention::dense::reference::Hooks;
use wgpu_attention::dense::tile::Tuning;
use wgpu_attention::{Dense, DType, Error, Gpu};

/// Runs every golden case; `tuning` may override the planner.
fn run_golden(gpu: &Gpu, tuning: impl Fn(&Gpu, &Dense) -> Tuning) {
    let files = golden("dense");
    let (mut ran, mut unsupported, mut failed) = (0, 0, vec![]);
    for path in &files {
        let case = Case::load(path).unwrap();
        let Op::Dense(attention) = &case.op else {
            panic!("{} is not dense", path.display())
        };
        let problem = &attention.problem;
        let result = problem
            .plan_with(gpu, &tuning(gpu, problem))
            .and_then(|plan| Ok((plan.label().to_string(), plan.run_blocking(&attention.inputs())?)));
        match result {
            Ok((label, output)) => {
                let result = compare::dense(&output, &attention.expected(), &Tolerance::for_dtype(case.dtype));
                println!("{:36} {result}  [{label}]", case.name);
                ran += 1;
                if !result.passed() {
                    failed.push(format!("{}: {result}", case.name));
                }
            }
            Err(error @ (Error::Unsupported { .. } | Error::Limit { .. })) => {
                println!("{:36} unsupported: {error}", case.name);
                unsupported += 1;
                if !common::on_unsupported_list(gpu, &case.name) {
                    failed.push(format!("{}: {error}, and not on tests/unsupported.txt", case.name));
                }
            }
            Err(error) => failed.push(format!("{}: {error}", case.name)),
        }
    }
    println!("{}: {ran} ran, {unsupported} unsupported", common::describe(gpu));
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert_eq!(ran + unsupported, files.len());
    assert_eq!(files.len(), 34);
}

#[test]
fn golden_cases() {
    let Some(gpu) = gpu() else { return };
    run_golden(&gpu, |_, _| Tuning::default());
}

#[test]
fn golden_cases_on_the_kernel_the_planner_does_not_pick() {
    let Some(gpu) = gpu() else { return };
    run_golden(&gpu, common::other);
}

#[test]
fn golden_cases_with_driver_checks() {
    let Some(gpu) = gpu_with(|o| o.checked = true) else { return };
    run_golden(&gpu, |_, _| Tuning::default());
}

#[test]
fn golden_cases_on_a_minimal_device() {
    let Some(gpu) = gpu_with(|o| o.minimal = true) else { return };
    run_golden(&gpu, |_, _| Tuning::default());
    run_golden(&gpu, common::other);
}
