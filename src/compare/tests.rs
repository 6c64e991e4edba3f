//! Every comparison is shown to fail: a comparator that always passes would hide every wrong kernel.

mod topk;

use super::*;

const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// `[rows, 8]` without symmetry of any kind: row r, column c.
fn expected() -> Vec<f64> {
    (0..48)
        .map(|i| ((i * i) as f64 * 0.37).sin() + 0.1 * (i / 8) as f64)
        .collect()
}

/// lse of several sizes, and two rows that see nothing.
fn expected_lse() -> Vec<f64> {
    vec![0.25, -3.0, 1000.0, f64::NEG_INFINITY, 2.0, f64::NEG_INFINITY]
}

fn narrow(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&v| v as f32).collect()
}

/// Compares `expected()` with itself after `corrupt`.
fn corrupted(dtype: DType, corrupt: impl FnOnce(&mut Vec<f32>)) -> Comparison {
    let mut actual = narrow(&expected());
    corrupt(&mut actual);
    output(&actual, &expected(), &Tolerance::for_dtype(dtype))
}

fn corrupted_lse(dtype: DType, corrupt: impl FnOnce(&mut Vec<f32>)) -> Comparison {
    let mut actual = narrow(&expected_lse());
    corrupt(&mut actual);
    lse(&actual, &expected_lse(), &Tolerance::for_dtype(dtype))
}

fn max_abs() -> f64 {
    expected().iter().fold(0.0, |a: f64, b| a.max(b.abs()))
}

#[test]
fn rounding_passes() {
    for dtype in DTYPES {
        assert!(corrupted(dtype, |_| ()).passed());
        assert!(corrupted_lse(dtype, |_| ()).passed());
    }
}

#[test]
fn bounds_are_those_of_the_case_format() {
    let bounds = DTYPES
        .map(Tolerance::for_dtype)
        .map(|t| (t.rms, t.max, t.lse, t.lse_relative));
    assert_eq!(
        bounds,
        [
            (1e-5, 2e-5, 1e-5, 1e-5),
            (2e-3, 4e-3, 5e-3, 0.0),
            (1e-2, 2e-2, 5e-3, 0.0)
        ]
    );
}

#[test]
fn one_element_off_by_five_tolerances_fails() {
    for dtype in DTYPES {
        let bound = Tolerance::for_dtype(dtype).max;
        let result = corrupted(dtype, |o| o[17] += (5.0 * bound * max_abs()) as f32);
        assert!(!result.passed());
        assert_eq!((result.over, result.worst.map(|w| w.index)), (1, Some(17)));
        assert!((result.max / bound - 5.0).abs() < 0.05, "{result}");
        let result = corrupted(dtype, |o| o[17] += (0.5 * bound * max_abs()) as f32);
        assert!(result.passed(), "{result}");
    }
}

#[test]
fn many_small_errors_fail_by_rms_alone() {
    for dtype in DTYPES {
        let tolerance = Tolerance::for_dtype(dtype);
        let rms = (expected().iter().map(|e| e * e).sum::<f64>() / 48.0).sqrt();
        let result = corrupted(dtype, |o| {
            o.iter_mut().for_each(|o| *o += (1.2 * tolerance.rms * rms) as f32)
        });
        assert!(!result.passed());
        assert!(result.over == 0 && result.max <= result.max_bound, "{result}");
    }
}

#[test]
fn values_that_are_not_finite_fail() {
    for dtype in DTYPES {
        for poison in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let result = corrupted(dtype, |o| o[40] = poison);
            assert!(!result.passed());
            assert_eq!((result.max, result.rms, result.over), (f64::INFINITY, f64::INFINITY, 1));
            assert_eq!(result.worst.map(|w| w.index), Some(40));
            assert!(!corrupted_lse(dtype, |lse| lse[1] = poison).passed());
        }
        assert!(!corrupted_lse(dtype, |lse| lse[3] = f32::NAN).passed());
        assert!(!corrupted_lse(dtype, |lse| lse[3] = f32::INFINITY).passed());
    }
}

#[test]
fn nan_in_what_is_expected_fails() {
    let tolerance = Tolerance::for_dtype(DType::F32);
    assert!(!output(&[f32::NAN, 1.0], &[f64::NAN, 1.0], &tolerance).passed());
    assert!(!lse(&[f32::NAN, 1.0], &[f64::NAN, 1.0], &tolerance).passed());
}

#[test]
fn swapped_rows_fail() {
    for dtype in DTYPES {
        let swap = |o: &mut Vec<f32>| {
            let (first, second) = o.split_at_mut(8);
            first.swap_with_slice(&mut second[..8]);
        };
        let result = corrupted(dtype, swap);
        assert!(!result.passed());
        assert_eq!((result.over, result.first.len()), (16, SHOWN));
    }
}

#[test]
fn unwritten_poison_fails() {
    for dtype in DTYPES {
        for poison in [-7.0e30f32, 0.0, f32::from_bits(0x7fc0_dead)] {
            let result = corrupted(dtype, |o| o[47] = poison);
            assert!(!result.passed(), "{poison}: {result}");
            assert!(!corrupted_lse(dtype, |lse| lse[4] = poison).passed());
        }
    }
}

#[test]
fn wrong_length_fails() {
    for dtype in DTYPES {
        for change in [
            |o: &mut Vec<f32>| o.truncate(5),
            |o: &mut Vec<f32>| o.push(0.0),
            |o: &mut Vec<f32>| o.clear(),
        ] {
            assert!(!corrupted(dtype, change).passed());
            assert!(!corrupted_lse(dtype, change).passed());
        }
    }
    let result = corrupted(DType::F32, |o| o.truncate(47));
    assert_eq!(result.to_string(), "o: 47 elements instead of 48");
}

#[test]
fn minus_infinity_matches_itself_only() {
    for dtype in DTYPES {
        assert!(!corrupted_lse(dtype, |lse| lse[3] = -1.0e30).passed());
        assert!(!corrupted_lse(dtype, |lse| lse[3] = f32::MIN).passed());
        assert!(!corrupted_lse(dtype, |lse| lse[0] = f32::NEG_INFINITY).passed());
    }
}

#[test]
fn lse_is_absolute_and_in_f32_relative_above_one() {
    let off = |dtype, index, by| corrupted_lse(dtype, |lse| lse[index] += by).passed();
    assert!(off(DType::F32, 0, 0.8e-5) && !off(DType::F32, 0, 1.2e-5));
    assert!(off(DType::F32, 2, 0.8e-2) && !off(DType::F32, 2, 1.2e-2));
    for dtype in [DType::F16, DType::BF16] {
        assert!(off(dtype, 1, 4e-3) && !off(dtype, 1, 6e-3));
        assert!(off(dtype, 2, 4e-3) && !off(dtype, 2, 6e-3));
    }
}

#[test]
fn expected_zeros_must_be_zeros() {
    let tolerance = Tolerance::for_dtype(DType::BF16);
    assert!(output(&[0.0, -0.0], &[0.0, 0.0], &tolerance).passed());
    let result = output(&[0.0, 1e-30], &[0.0, 0.0], &tolerance);
    assert!(!result.passed());
    assert_eq!((result.max, result.over), (f64::INFINITY, 1));
}

#[test]
fn dense_needs_both_outputs_right() {
    let good = DenseOutput {
        o: narrow(&expected()),
        lse: Some(narrow(&expected_lse())),
    };
    let wanted = DenseOutput {
        o: expected(),
        lse: Some(expected_lse()),
    };
    let passes =
        |actual: &DenseOutput<f32>, expected| dense(actual, expected, &Tolerance::for_dtype(DType::F32)).passed();
    assert!(passes(&good, &wanted));

    let mut bad = good.clone();
    bad.o[3] = 9.0;
    assert!(!passes(&bad, &wanted));
    let mut bad = good.clone();
    bad.lse = Some(vec![0.0; 6]);
    assert!(!passes(&bad, &wanted));
    bad.lse = None;
    assert!(!passes(&bad, &wanted));
    let wanted = DenseOutput {
        lse: None,
        ..wanted.clone()
    };
    assert!(!passes(&good, &wanted));
    assert!(passes(&bad, &wanted));
}

/// Two heads, D = 2, Dv = 3, with a normaliser much larger than the state.
fn linear_case() -> (Linear, LinearOutput<f32>, LinearOutput<f64>) {
    let problem = Linear {
        heads: 2,
        head_dim: 2,
        value_dim: Some(3),
        normalize: Some(0.0),
        ..Default::default()
    };
    let head = [1.0, -2.0, 3.0, -4.0, 5.0, -6.0, 1e4, 2e4];
    let expected = LinearOutput {
        o: expected(),
        final_state: Some(head.repeat(2)),
        total_decay: Some(vec![-3.0, f64::NEG_INFINITY]),
    };
    let actual = LinearOutput {
        o: narrow(&expected.o),
        final_state: expected.final_state.as_deref().map(narrow),
        total_decay: expected.total_decay.as_deref().map(narrow),
    };
    (problem, actual, expected)
}

/// The outcome for `linear_case` after `corrupt`.
fn corrupted_linear(corrupt: impl FnOnce(&mut LinearOutput<f32>)) -> LinearComparison {
    let (problem, mut actual, expected) = linear_case();
    corrupt(&mut actual);
    linear(&problem, &actual, &expected, &Tolerance::for_dtype(DType::F32))
}

#[test]
fn linear_needs_every_output_right() {
    assert!(corrupted_linear(|_| ()).passed());
    let failed = |corrupt: fn(&mut LinearOutput<f32>)| {
        let result = corrupted_linear(corrupt);
        let failed = result.all().filter(|c| !c.passed()).map(|c| c.name);
        failed.collect::<Vec<_>>()
    };
    assert_eq!(failed(|a| a.o[3] = 9.0), ["o"]);
    assert_eq!(failed(|a| a.total_decay = Some(vec![-3.1, -200.0])), ["total_decay"]);
    assert_eq!(
        failed(|a| a.total_decay = Some(vec![f32::NAN, -200.0])),
        ["total_decay"]
    );
    assert_eq!(failed(|a| a.total_decay = Some(vec![-3.0])), ["total_decay"]);
    assert_eq!(failed(|a| a.total_decay = None), ["total_decay"]);
    assert_eq!(failed(|a| a.final_state = None), ["final_state", "final_normalizer"]);

    let state = |corrupt: fn(&mut Vec<f32>)| {
        let corrupt = |a: &mut LinearOutput<f32>| corrupt(a.final_state.as_mut().unwrap());
        let result = corrupted_linear(corrupt);
        let failed = result.all().filter(|c| !c.passed()).map(|c| c.name);
        failed.collect::<Vec<_>>()
    };
    assert_eq!(state(|s| s[8] = 1.01), ["final_state"]);
    assert_eq!(state(|s| s[15] += 1.0), ["final_normalizer"]);
    assert_eq!(state(|s| s.truncate(15)), ["final_normalizer"]);
    assert_eq!(state(|s| s.truncate(10)), ["final_state", "final_normalizer"]);
    assert_eq!(state(|s| s.push(0.0)), ["final_state"]);
}

#[test]
fn an_error_of_the_state_does_not_hide_behind_the_normalizer() {
    // 1e-3 of the state, which is 5e-7 of the normaliser.
    let result = corrupted_linear(|a| a.final_state.as_mut().unwrap()[0] += 6e-3);
    assert!(!result.passed());
    assert_eq!(result.final_state.unwrap().worst.unwrap().index, 0);
}

#[test]
fn outputs_that_were_not_asked_for_fail_too() {
    let (problem, actual, mut expected) = linear_case();
    (expected.final_state, expected.total_decay) = (None, None);
    let result = linear(&problem, &actual, &expected, &Tolerance::for_dtype(DType::F32));
    assert!(result.o.passed() && !result.passed());
    assert!(!result.final_state.unwrap().passed() && !result.total_decay.unwrap().passed());
}

#[test]
fn decays_that_leave_nothing_are_alike() {
    assert!(corrupted_linear(|a| a.total_decay = Some(vec![-3.00002, -104.0])).passed());
    assert!(corrupted_linear(|a| a.total_decay = Some(vec![-3.0, -1e5])).passed());
    assert!(!corrupted_linear(|a| a.total_decay = Some(vec![-3.00005, -104.0])).passed());
    assert!(!corrupted_linear(|a| a.total_decay = Some(vec![-3.0, -90.0])).passed());
    assert!(!corrupted_linear(|a| a.total_decay = Some(vec![-3.0, f32::INFINITY])).passed());
}

#[test]
fn a_linear_report_is_one_line() {
    let report = corrupted_linear(|a| a.total_decay = None).to_string();
    let good = "rms 0.0e0 (≤ 1e-5), max 0.0e0 (≤ 2e-5)";
    let expected = format!("; final_state: {good}; final_normalizer: {good}; total_decay: 0 elements instead of 2");
    assert!(report.starts_with("o: rms ") && report.ends_with(&expected), "{report}");
}

#[test]
fn report_is_one_line() {
    let result = output(
        &[1.0, 2.5, f32::NAN, 4.0],
        &[1.0, 2.0, 3.0, 4.0],
        &Tolerance::for_dtype(DType::F32),
    );
    let report = "o: rms inf (≤ 1e-5), max inf (≤ 2e-5), 2 of 4 over, worst [2] NaN instead of 3e0, \
                  first [1] 2.5e0 instead of 2e0; [2] NaN instead of 3e0";
    assert_eq!(result.to_string(), report);
}

#[test]
fn report_of_lse_says_what_its_errors_are_relative_to() {
    // 5e-3 is allowed.
    let of = |actual| lse(&[actual, 2.0], &[1.0, 2.0], &Tolerance::for_dtype(DType::F16)).to_string();
    assert_eq!(of(1.0), "lse: error rms 0.00, max 0.00 times what is allowed");
    assert_eq!(
        of(1.015625),
        "lse: error rms 2.21, max 3.12 times what is allowed, 1 of 2 over, worst [0] 1.015625e0 instead of 1e0, \
         first [0] 1.015625e0 instead of 1e0"
    );
}
