//! Op `linear`: round trips, and every mistake with its own message.

use super::*;
use crate::ops::linear::reference::{Hooks, linear};
use crate::ops::linear::{Decay, FeatureMap};

/// S = 2 documents, H = 4, Hkv = 2, N = 5, D = 3, Dv = 2, with everything that goes together.
fn rich() -> Case {
    let problem = Linear {
        heads: 4,
        kv_heads: Some(2),
        tokens: 5,
        head_dim: 3,
        value_dim: Some(2),
        dtype: DType::F16,
        scale: Some(0.1),
        decay: Decay::Channel,
        feature_map: FeatureMap::Elu1,
        normalize: Some(0.3),
        documents: Some(2),
        initial_state: true,
        final_state: true,
        total_decay: true,
        ..Default::default()
    };
    let mut log_decay: Vec<_> = (0..60).map(|i| -0.01 * i as f32).collect();
    log_decay[7] = f32::NEG_INFINITY;
    let tensors = LinearCaseInputs {
        q: ramp(60, 0.25),
        k: ramp(30, 0.125),
        v: ramp(20, -0.5),
        log_decay: Some(log_decay),
        cu_seqlens: Some(vec![0, 2, 5]),
        initial_state: Some((0..2 * 4 * 9).map(|i| 1.0 + i as f32).collect()),
        o: None,
    };
    solved(&problem, &tensors)
}

fn ramp(n: usize, step: f32) -> Vec<f32> {
    (0..n).map(|i| step * (i as f32 - 3.0)).collect()
}

fn solved(problem: &Linear, tensors: &LinearCaseInputs) -> Case {
    let inputs = tensors.inputs();
    let expected = linear(problem, &inputs, &Hooks::default()).unwrap();
    Case::linear("rich", "the float64 reference", problem, &inputs, &expected)
}

/// Two tokens, D = Dv = 1, nothing optional.
fn plain() -> (Linear, LinearCaseInputs) {
    let problem = Linear {
        tokens: 2,
        head_dim: 1,
        ..Default::default()
    };
    let tensors = LinearCaseInputs {
        q: vec![1.0, 2.0],
        k: vec![3.0, 4.0],
        v: vec![5.0, 6.0],
        ..Default::default()
    };
    (problem, tensors)
}

fn linear_case(case: &mut Case) -> &mut LinearCase {
    match &mut case.op {
        Op::Linear(case) => case,
        other => panic!("{other:?}"),
    }
}

/// The error of `rich()` after `spoil`.
fn spoilt(spoil: impl FnOnce(&mut Parts)) -> String {
    let mut parts = Parts::of(&rich());
    spoil(&mut parts);
    let error = parts.load().unwrap_err();
    let Error::File { file, message } = error else {
        panic!("{error}")
    };
    assert_eq!(file, "bad");
    message
}

#[test]
fn a_case_reads_back_to_the_bit() {
    let case = rich();
    assert_eq!(Case::from_bytes("rich", &case.to_bytes().unwrap()).unwrap(), case);

    let (problem, tensors) = plain();
    let changes: [fn(&mut Linear, &mut LinearCaseInputs); 8] = [
        |_, _| (),
        |p, _| (p.causal, p.final_state, p.feature_map) = (false, true, FeatureMap::Relu),
        |p, _| (p.normalize, p.feature_map) = (Some(0.0), FeatureMap::Silu),
        |p, t| (p.decay, t.log_decay) = (Decay::Head, Some(vec![-0.5])),
        |p, t| (p.decay, p.total_decay, t.log_decay) = (Decay::Token, true, Some(vec![-0.5, -0.0])),
        |p, t| (p.decay, t.log_decay, p.dtype) = (Decay::Channel, Some(vec![-0.3, -0.7]), DType::BF16),
        |p, t| (p.initial_state, p.final_state, t.initial_state) = (true, true, Some(vec![0.1])),
        |p, t| {
            (p.state_only, p.initial_state) = (true, true);
            (t.initial_state, t.o) = (Some(vec![0.1]), Some(vec![0.2, 0.3]));
        },
    ];
    for change in changes {
        let (mut problem, mut tensors) = (problem.clone(), tensors.clone());
        change(&mut problem, &mut tensors);
        let case = solved(&problem, &tensors);
        assert_eq!(Case::from_bytes("rich", &case.to_bytes().unwrap()).unwrap(), case);
    }
}

#[test]
fn the_normaliser_lies_behind_each_state_in_memory_and_apart_in_the_file() {
    let case = rich();
    let parts = Parts::of(&case);
    let numbers = |name: &str| -> Vec<f32> {
        let (dtype, _, data) = &parts.tensors[name];
        assert_eq!(*dtype, Dtype::F32);
        data.as_chunks().0.iter().copied().map(f32::from_le_bytes).collect()
    };
    let shape = |name: &str| parts.tensors[name].1.clone();
    assert_eq!(shape("initial_state"), [2, 4, 3, 2]);
    assert_eq!(shape("initial_normalizer"), [2, 4, 3]);
    // The second head's numbers begin at 10.
    assert_eq!(numbers("initial_state")[6..12], [10.0, 11.0, 12.0, 13.0, 14.0, 15.0]);
    assert_eq!(numbers("initial_normalizer")[3..6], [16.0, 17.0, 18.0]);

    let mut case = case;
    let case = linear_case(&mut case);
    let expected = case.expected().final_state.unwrap();
    assert_eq!(shape("expected.final_state"), [2, 4, 3, 2]);
    assert_eq!(shape("expected.final_normalizer"), [2, 4, 3]);
    let (s, z) = (numbers("expected.final_state"), numbers("expected.final_normalizer"));
    for (head, state) in expected.chunks(9).enumerate() {
        let file = s[6 * head..][..6].iter().chain(&z[3 * head..][..3]);
        assert!(file.map(|&n| f64::from(n)).eq(state.iter().copied()));
    }
    assert_eq!(shape("expected.total_decay"), [2, 4, 3]);
}

#[test]
fn what_was_saved_still_passes_and_what_is_wrong_does_not() {
    let mut case = Case::from_bytes("rich", &rich().to_bytes().unwrap()).unwrap();
    let case = linear_case(&mut case);
    let tolerance = Tolerance::for_dtype(DType::F32);
    let output = linear(&case.problem, &case.inputs(), &Hooks::default()).unwrap();
    let narrow = |values: &Vec<f64>| values.iter().map(|&v| v as f32).collect();
    let good = LinearOutput {
        o: narrow(&output.o),
        final_state: output.final_state.as_ref().map(narrow),
        total_decay: output.total_decay.as_ref().map(narrow),
    };
    assert!(case.compare(&good, &tolerance).passed());
    let spoilt = |index: usize| {
        let mut bad = good.clone();
        bad.final_state.as_mut().unwrap()[index] += 100.0;
        bad
    };
    // S of the second head, and its z.
    for index in [9, 17] {
        assert!(!case.compare(&spoilt(index), &tolerance).passed());
    }
    // A file without z judges all but z.
    case.expected_normalizer = None;
    let result = case.compare(&good, &tolerance);
    assert!(result.passed() && result.final_state.is_some() && result.final_normalizer.is_none());
    assert!(!case.compare(&spoilt(9), &tolerance).passed());
    assert!(case.compare(&spoilt(17), &tolerance).passed());
    let missing = LinearOutput {
        final_state: None,
        ..good
    };
    assert!(!case.compare(&missing, &tolerance).passed());
}

#[test]
fn a_file_without_an_expected_normaliser_reads_back() {
    let mut parts = Parts::of(&rich());
    parts.tensors.remove("expected.final_normalizer");
    let mut case = parts.load().unwrap();
    let linear = linear_case(&mut case);
    assert!(linear.problem.final_state && linear.expected_normalizer.is_none());
    assert_eq!(linear.expected().final_state.map(|s| s.len()), Some(48));
    assert_eq!(Case::from_bytes("bad", &case.to_bytes().unwrap()).unwrap(), case);
}

#[test]
fn epsilon_has_a_default() {
    let mut parts = Parts::of(&rich());
    parts.meta("params", r#"{"normalize": true}"#);
    let problem = linear_case(&mut parts.load().unwrap()).problem.clone();
    assert_eq!((problem.normalize, problem.scale()), (Some(1e-6), 1.0));
    assert!(problem.causal && problem.feature_map == FeatureMap::Identity);
}

#[test]
fn sixteen_bit_inputs_are_widened_exactly() {
    let mut parts = Parts::of(&rich());
    parts.tensor("log_decay", Dtype::BF16, &[4]);
    parts.tensors.get_mut("log_decay").unwrap().2 = vec![0x80, 0xbf, 0x01, 0x80, 0x80, 0xff, 0x49, 0xc0];
    parts.tensors.remove("expected.total_decay");
    let mut case = parts.load().unwrap();
    let case = linear_case(&mut case);
    let smallest = -f32::from_bits(0x0001_0000);
    assert_eq!(
        case.tensors.log_decay.as_deref(),
        Some(&[-1.0, smallest, f32::NEG_INFINITY, -3.140625][..])
    );
    assert_eq!((case.problem.decay, case.problem.total_decay), (Decay::Head, false));
}

#[test]
fn mistaken_params_are_refused() {
    let refused = [
        (
            r#"{"normalize": true, "epsilonn": 1}"#,
            "unknown param `epsilonn` of its op",
        ),
        (r#"{"normalize": 1}"#, "param `normalize` is 1, expected true or false"),
        (r#"{"epsilon": 1e-6}"#, "param `epsilon` is given, but not `normalize`"),
        (
            r#"{"normalize": true, "epsilon": -1}"#,
            "`normalize` is -1; allowed: a finite number, 0 or above; `None` for outputs that are not normalised",
        ),
        (
            r#"{"normalize": true, "epsilon": "1"}"#,
            "param `epsilon` is \"1\", expected a number in the range of f32",
        ),
        (
            r#"{"feature_map": "exp"}"#,
            "param `feature_map` is `exp`, expected identity, silu, relu or elu1",
        ),
        (
            r#"{"normalize": true, "causal": false}"#,
            "`decay` is Channel; allowed: `Decay::None` where not causal: every token sees the same sums",
        ),
        (
            r#"{"normalize": true, "state_only": true}"#,
            "`state_only` is true; allowed: false with `normalize`: parts of a quotient cannot be added up",
        ),
        ("{}", "tensor `initial_normalizer` is given, but not param `normalize`"),
    ];
    for (params, message) in refused {
        assert_eq!(spoilt(|p| p.meta("params", params)), message);
    }
}

#[test]
fn mistaken_tensors_are_refused() {
    type Spoil = fn(&mut Parts);
    #[rustfmt::skip]
    let refused: [(Spoil, &str); 24] = [
        (|p| { p.tensors.remove("v"); }, "no tensor `v`"),
        (|p| { p.tensors.remove("expected.o"); }, "no tensor `expected.o`"),
        (|p| p.tensor("bias", Dtype::F32, &[3]), "unknown tensor `bias` of its op"),
        (|p| p.tensor("expected.lse", Dtype::F32, &[3]), "unknown tensor `expected.lse` of its op"),
        (|p| p.tensor("q", Dtype::F32, &[1, 4, 5, 3]), "tensor `q` is f32, expected f16"),
        (|p| p.tensor("q", Dtype::F16, &[4, 5, 3]), "tensor `q` has shape [4, 5, 3], expected four dimensions below"),
        (|p| p.tensor("k", Dtype::F16, &[1, 2, 6, 3]), "tensor `k` has shape [1, 2, 6, 3], expected [1, 2, 5, 3]"),
        (|p| p.tensor("v", Dtype::F16, &[1, 4, 5, 2]), "tensor `v` has shape [1, 4, 5, 2], expected [1, 2, 5, 2]"),
        (|p| p.tensor("log_decay", Dtype::F32, &[1, 4, 3]),
            "tensor `log_decay` has shape [1, 4, 3], expected [4], [1, 4, 5] or [1, 4, 5, 3]"),
        (|p| p.tensor("log_decay", Dtype::F32, &[]),
            "tensor `log_decay` has shape [], expected [4], [1, 4, 5] or [1, 4, 5, 3]"),
        (|p| p.tensor("log_decay", Dtype::I32, &[4]), "tensor `log_decay` is I32, expected F32, F16 or BF16"),
        (|p| p.tensor("cu_seqlens", Dtype::I64, &[3]), "tensor `cu_seqlens` is I64, expected I32"),
        (|p| p.tensor("cu_seqlens", Dtype::I32, &[0]), "tensor `cu_seqlens` is empty"),
        (|p| p.tensor("cu_seqlens", Dtype::I32, &[1]),
            "tensor `initial_state` has shape [2, 4, 3, 2], expected [0, 4, 3, 2]"),
        (|p| { p.tensors.remove("cu_seqlens"); },
            "tensor `initial_state` has shape [2, 4, 3, 2], expected [1, 4, 3, 2]"),
        (|p| p.tensor("initial_state", Dtype::F32, &[2, 4, 2, 3]),
            "tensor `initial_state` has shape [2, 4, 2, 3], expected [2, 4, 3, 2]"),
        (|p| p.tensor("initial_normalizer", Dtype::F32, &[2, 4, 2]),
            "tensor `initial_normalizer` has shape [2, 4, 2], expected [2, 4, 3]"),
        (|p| { p.tensors.remove("initial_normalizer"); },
            "tensor `initial_state` without `initial_normalizer`, which normalised outputs need"),
        (|p| { p.tensors.remove("initial_state"); }, "tensor `initial_normalizer` without `initial_state`"),
        (|p| { p.tensors.remove("expected.final_state"); },
            "tensor `expected.final_normalizer` without `expected.final_state`"),
        (|p| p.tensor("expected.final_state", Dtype::F16, &[2, 4, 3, 2]),
            "tensor `expected.final_state` is f16, expected f32"),
        (|p| p.tensor("expected.total_decay", Dtype::F32, &[2, 4]),
            "tensor `expected.total_decay` has shape [2, 4], expected [2, 4, 3]"),
        (|p| p.tensor("o", Dtype::F32, &[1, 4, 5, 2]),
            "input `o`: 40 elements; needed: None, since the problem's `state_only` does not ask for it"),
        (|p| { p.tensors.remove("log_decay"); p.tensor("expected.total_decay", Dtype::F32, &[2, 4]); },
            "`total_decay` is true; allowed: false with `Decay::None`: there is nothing to add up"),
    ];
    for (spoil, message) in refused {
        let found = spoilt(spoil);
        assert!(found.starts_with(message), "{found}, not {message}");
    }
}

#[test]
fn empty_dimensions_are_refused() {
    for dims in [[0, 4, 5, 3], [1, 0, 5, 3], [1, 4, 0, 3], [1, 4, 5, 0]] {
        let mut parts = Parts::of(&rich());
        for name in ["q", "k", "v"] {
            parts.tensor(name, Dtype::F16, &dims);
        }
        parts.tensor("expected.o", Dtype::F32, &dims);
        parts
            .tensors
            .retain(|name, _| matches!(&**name, "q" | "k" | "v" | "expected.o"));
        let message = parts.load().unwrap_err().to_string();
        assert!(message.contains("is 0; allowed: 1 to "), "{message}");
    }
}

#[test]
fn mistaken_values_are_refused() {
    let message = spoilt(|p| p.tensors.get_mut("cu_seqlens").unwrap().2[4] = 7);
    assert_eq!(message, "input `cu_seqlens`: 7 at index 1; needed: 0 to N = 5");
    let message = spoilt(|p| p.tensors.get_mut("log_decay").unwrap().2[4..8].copy_from_slice(&1f32.to_le_bytes()));
    assert_eq!(
        message,
        "input `log_decay`: 1 at index 1; needed: 0 or below, −∞ included"
    );
}

#[test]
fn what_the_format_cannot_hold_is_not_written() {
    type Spoil = fn(&mut LinearCase);
    let cases: [(Spoil, &str); 10] = [
        (
            |c| c.problem.feature_map = FeatureMap::Custom("fn feature".into()),
            "a case file cannot hold custom code",
        ),
        (|c| c.tensors.q[5] = 0.1, "`q`[5] is 0.1, which is no f16 value"),
        (
            |c| c.problem.final_state = false,
            "`final_state` is false, but an expected one is given",
        ),
        (
            |c| c.expected_total_decay = None,
            "`total_decay` is true, but an expected one is missing",
        ),
        (
            |c| (c.problem.final_state, c.expected_state) = (false, None),
            "an expected normalizer is given, but there is no final state that has one",
        ),
        (
            |c| c.problem.dtype = DType::F32,
            "the case's dtype is f16, its problem's f32",
        ),
        (|c| c.expected_o.truncate(3), "the expected o has 3 elements, not 40"),
        (
            |c| c.expected_state = Some(vec![]),
            "the expected final state has 0 elements, not 48",
        ),
        (
            |c| c.expected_normalizer = Some(vec![1.0]),
            "the expected normalizer has 1 elements, not 24",
        ),
        (
            |c| c.tensors.initial_state = None,
            "input `initial_state`: not given; needed: [sequences, H, D·Dv + D] = [2, 4, 9], since the problem's \
             `initial_state` asks for it",
        ),
    ];
    for (change, message) in cases {
        let mut case = rich();
        change(linear_case(&mut case));
        let error = case.to_bytes().unwrap_err().to_string();
        assert_eq!(error, format!("file rich: {message}"));
    }
}
