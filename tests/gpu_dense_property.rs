//! Random problems over the whole option space, against the float64 reference.
//!
//! A pipeline takes a software GPU half a second to compile, so that each drawn set of options that needs one serves
//! several sizes and masks. `WGPU_ATTENTION_PROBLEMS` (default 300) and `WGPU_ATTENTION_SEED` change the draw. A
//! problem that fails is written to a case file, which `wgpu-attention run` replays.

mod common;

use common::{Inputs, Random, draw, property};
use wgpu_attention::case::{Case, Op};
use wgpu_attention::compare;
use wgpu_attention::dense::tile::Tuning;
use wgpu_attention::{DType, Dense, DenseOutput, Gpu};

/// Problems that share a set of options, hence a pipeline.
const SIZES_AN_OPTION_SET: u32 = 4;

/// The reference's answer, with the twins of the custom code.
fn truth(p: &Dense, inputs: &Inputs) -> DenseOutput<f64> {
    draw::with_twins(p, inputs, |hooks| common::truth(p, inputs, hooks))
}

/// A failing problem as a file, with how to see it fail again.
fn write_case(name: &str, p: &Dense, inputs: &Inputs, expected: &DenseOutput<f64>) -> String {
    let case = inputs.with(|inputs| Case::dense(name, "the float64 reference", p, inputs, expected));
    property::write(name, &case)
}

/// One problem; what went wrong with it, if anything.
fn attempt(gpu: &Gpu, name: &str, p: &Dense, inputs: &Inputs, tuning: &Tuning) -> Result<(), String> {
    let expected = truth(p, inputs);
    let output = common::run(gpu, p, inputs, tuning);
    let what = match &output {
        Ok(output) => {
            let result = compare::dense(output, &expected, &common::tolerance(p));
            if result.passed() {
                return Ok(());
            }
            result.to_string()
        }
        Err(error) => error.to_string(),
    };
    let replay = write_case(name, p, inputs, &expected);
    Err(format!("{name}: {what}\n  {replay}\n  {tuning:?}\n  {p:?}"))
}

fn share(number: u64, of: u64) {
    property::share(number, of, |gpu, name, r| {
        let tuning = draw::tuning(gpu, r);
        let options = draw::options(r);
        let one = |size| {
            let p = draw::sizes(&options, draw::edges(&tuning), r);
            let splits = r.one_in(2).then(|| r.pick(&[1, 2, 3, 5]));
            let inputs = draw::inputs(&p, r);
            attempt(
                gpu,
                &format!("property-{name}-{size}"),
                &p,
                &inputs,
                &Tuning { splits, ..tuning },
            )
        };
        (0..SIZES_AN_OPTION_SET).map(one).collect()
    });
}

#[test]
fn random_problems_first_half() {
    share(0, 2);
}

#[test]
fn random_problems_second_half() {
    share(1, 2);
}

#[test]
fn a_failure_is_written_and_fails_again_when_replayed() {
    let Some(gpu) = common::gpu() else { return };
    let p = Dense {
        heads: 2,
        queries: 5,
        keys: 9,
        head_dim: 4,
        dtype: DType::F16,
        causal: true,
        lse: true,
        ..Dense::default()
    };
    let inputs = Inputs::random(&p, &mut Random::new(3));
    let right = truth(&p, &inputs);
    let mut broken = right.clone();
    broken.o[7] += 1.0;
    for (expected, passes) in [(right, true), (broken, false)] {
        let message = write_case("replayed", &p, &inputs, &expected);
        let path = message.strip_prefix("replay: wgpu-attention run ").unwrap();
        let case = Case::load(path).unwrap();
        let Op::Dense(attention) = &case.op else {
            panic!("not dense")
        };
        assert_eq!(attention.problem, p);
        let output = p.plan(&gpu).unwrap().run_blocking(&attention.inputs()).unwrap();
        let result = compare::dense(&output, &attention.expected(), &common::tolerance(&p));
        assert_eq!(result.passed(), passes, "{result}");
        if !passes {
            assert_eq!(result.o.worst.map(|e| e.index), Some(7));
        }
        std::fs::remove_file(path).unwrap();
    }
}
