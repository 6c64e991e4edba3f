//! Lists are right up to ties, and nothing beyond.

use super::*;
use crate::error::Result;
use crate::ops::dense::reference::Hooks;
use crate::ops::dense::{Broadcast, Custom, Dense, DenseInputs};
use crate::ops::topk::reference::{attend, top_k};
use crate::ops::topk::{TopK, TopKInputs, TopKOutput};

/// Scores of the first query: keys 2 and 3 tie nearly, keys 1 and 4 exactly.
const K: [f32; 8] = [0.0, 5.0, 9.0, 9.00004, 5.0, 7.0, 2.0, 1.0];
const V: [f32; 8] = [1.0, -2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0];

/// Two lists of `top_k` of eight keys, with room for `room` more; the scores of the second query are the first's with
/// the sign changed.
fn problem(top_k: u32, room: u32) -> TopK {
    TopK {
        attention: Dense {
            queries: 2,
            keys: 8,
            head_dim: 1,
            scale: Some(1.0),
            lse: true,
            ..Default::default()
        },
        top_k,
        room,
        ..Default::default()
    }
}

fn inputs(k: &[f32]) -> TopKInputs<'_> {
    let attention = DenseInputs {
        q: &[1.0, -1.0],
        k,
        v: &V,
        ..Default::default()
    };
    TopKInputs {
        attention,
        pooled: None,
    }
}

/// The outputs of a kernel that keeps `lists`.
fn of_lists(problem: &TopK, k: &[f32], lists: &[u32]) -> TopKOutput<f32> {
    let output = attend(problem, &inputs(k), &Hooks::default(), lists).unwrap();
    TopKOutput {
        o: narrow(&output.o),
        lse: output.lse.as_deref().map(narrow),
        selection: lists.to_vec(),
    }
}

fn judge(problem: &TopK, k: &[f32], actual: &TopKOutput<f32>) -> TopKComparison {
    let tolerance = Tolerance::for_dtype(DType::F32);
    topk(problem, &inputs(k), &Hooks::default(), actual, &tolerance).unwrap()
}

/// Judges lists with the attention that belongs to them.
fn judge_lists(problem: &TopK, lists: &[u32]) -> TopKComparison {
    judge(problem, &K, &of_lists(problem, &K, lists))
}

/// The exact choice of three, with room for one more.
const EXACT: [u32; 10] = [3, 2, 3, 5, 0, 3, 0, 6, 7, 0];

fn exact() -> TopKOutput<f32> {
    of_lists(&problem(3, 1), &K, &EXACT)
}

#[test]
fn the_exact_choice_passes() {
    let output = top_k(&problem(3, 1), &inputs(&K), &Hooks::default()).unwrap();
    assert_eq!(output.selection, EXACT);
    let result = judge_lists(&problem(3, 1), &EXACT);
    assert!(result.passed(), "{result}");
    assert_eq!(result.all().count(), 3);
}

#[test]
fn ties_pass_whichever_is_kept() {
    // Keys 2 and 3 differ by 4e-5 of a range of 9, keys 1 and 4 not at all.
    for kept in [2, 3] {
        let result = judge_lists(&problem(1, 0), &[1, kept, 1, 0]);
        assert!(result.passed(), "{kept}: {result}");
    }
    for kept in [[4, 1, 2, 3, 5], [4, 2, 3, 4, 5]] {
        let result = judge_lists(&problem(4, 0), &[kept, [4, 0, 1, 6, 7]].concat());
        assert!(result.passed(), "{result}");
        assert_eq!(result.selection.max, 0.0);
    }
}

#[test]
fn what_is_no_tie_fails() {
    // Key 1 in place of 5: a score of 5 in place of 7.
    let result = judge_lists(&problem(3, 1), &[3, 1, 2, 3, 0, 3, 0, 6, 7, 0]);
    assert!(!result.passed() && result.o.passed(), "{result}");
    let error = 2.0 / (NEAR_TIE * f64::from(9.00004f32));
    assert!((result.selection.max / error - 1.0).abs() < 1e-6, "{result}");
    assert_eq!(result.selection.over, 1);
    assert!(
        result.to_string().ends_with(
            "times what is allowed, 1 of 10 over, worst [1] 1e0 instead of 2e0, first [1] 1e0 instead of 2e0"
        ),
        "{result}"
    );
    // Key 2 is left out for what ties with the worst that belongs in the list.
    let result = judge_lists(&problem(4, 0), &[4, 1, 3, 4, 5, 4, 0, 1, 6, 7]);
    assert!(!result.selection.passed() && result.o.passed(), "{result}");
    assert_eq!(result.selection.worst.map(|worst| worst.index), Some(2));
}

#[test]
fn a_difference_of_two_ties_fails() {
    for (ties, passes) in [(0.5, true), (2.0, false)] {
        let mut k = K;
        k[4] = 7.0 - (ties * NEAR_TIE * 9.0) as f32;
        let kept = of_lists(&problem(3, 1), &k, &[3, 2, 3, 4, 0, 3, 0, 6, 7, 0]);
        let result = judge(&problem(3, 1), &k, &kept);
        assert_eq!(result.passed(), passes, "{result}");
        assert!((result.selection.max - ties).abs() < 0.05, "{result}");
    }
}

#[test]
fn lists_that_are_not_well_formed_fail() {
    let wrong: [(&str, [u32; 10]); 9] = [
        ("too few", [2, 2, 3, 0, 0, 3, 0, 6, 7, 0]),
        ("too many", [4, 2, 3, 5, 6, 3, 0, 6, 7, 0]),
        ("more than there is room for", [5, 2, 3, 5, 0, 3, 0, 6, 7, 0]),
        ("out of range", [3, 2, 3, 8, 0, 3, 0, 6, 7, 0]),
        ("not ascending", [3, 3, 2, 5, 0, 3, 0, 6, 7, 0]),
        ("twice", [3, 2, 2, 5, 0, 3, 0, 6, 7, 0]),
        ("room that is not 0", [3, 2, 3, 5, 6, 3, 0, 6, 7, 0]),
        ("none", [0; 10]),
        ("poison", [u32::MAX; 10]),
    ];
    let with_lists = |lists: &[u32]| {
        let actual = TopKOutput {
            selection: lists.to_vec(),
            ..exact()
        };
        judge(&problem(3, 1), &K, &actual)
    };
    assert!(with_lists(&EXACT).passed());
    for (what, lists) in wrong {
        let result = with_lists(&lists);
        assert!(!result.passed(), "{what}");
        assert_eq!(result.selection.max, f64::INFINITY, "{what}: {result}");
    }
    let result = with_lists(&EXACT[..9]);
    assert_eq!(result.selection.to_string(), "selection: 9 elements instead of 10");
    assert!(!result.passed());
}

#[test]
fn what_is_kept_in_any_case_must_be_there() {
    let problem = TopK {
        first: 1,
        last: 1,
        ..problem(3, 1)
    };
    let result = judge_lists(&problem, &[3, 0, 3, 7, 0, 3, 0, 6, 7, 0]);
    assert!(result.passed(), "{result}");
    // Better scores are no excuse.
    for lists in [[3, 2, 3, 7, 0, 3, 0, 6, 7, 0], [3, 0, 2, 3, 0, 3, 0, 6, 7, 0]] {
        let result = judge_lists(&problem, &lists);
        assert_eq!(result.selection.max, f64::INFINITY, "{result}");
        assert!(!result.passed());
    }
    // The one that is left to choose is chosen by score, ties aside.
    let result = judge_lists(&problem, &[3, 0, 5, 7, 0, 3, 0, 6, 7, 0]);
    assert!(!result.passed() && result.selection.max.is_finite(), "{result}");
    let result = judge_lists(&problem, &[3, 0, 2, 7, 0, 3, 0, 6, 7, 0]);
    assert!(result.passed(), "{result}");
}

#[test]
fn the_diagonal_must_be_there() {
    let problem = TopK {
        diagonal: true,
        ..problem(1, 0)
    };
    // Rows stand at 6 and 7.
    assert!(judge_lists(&problem, &[1, 6, 1, 7]).passed());
    for lists in [[1, 3, 1, 7], [1, 6, 1, 0]] {
        let result = judge_lists(&problem, &lists);
        assert_eq!(result.selection.max, f64::INFINITY, "{result}");
    }
}

#[test]
fn an_entry_that_is_no_candidate_fails() {
    let mut problem = problem(3, 1);
    // Rows see keys 0 and 1, and key 2.
    (problem.attention.causal, problem.attention.q_offset) = (true, Some(1));
    assert!(judge_lists(&problem, &[2, 0, 1, 0, 0, 3, 0, 1, 2, 0]).passed());
    let result = judge_lists(&problem, &[2, 0, 2, 0, 0, 3, 0, 1, 2, 0]);
    assert_eq!(result.selection.max, f64::INFINITY, "{result}");
}

#[test]
fn a_corrupted_output_fails_beside_right_lists() {
    for row in [0, 1] {
        let mut bad = exact();
        bad.o[row] += 0.01;
        let result = judge(&problem(3, 1), &K, &bad);
        assert!(!result.o.passed() && result.selection.passed(), "{row}: {result}");
        assert!(!result.passed());
        let mut bad = exact();
        bad.lse.as_mut().unwrap()[row] = f32::NAN;
        let result = judge(&problem(3, 1), &K, &bad);
        assert!(!result.passed() && result.o.passed(), "{row}: {result}");
    }
    let bad = TopKOutput { lse: None, ..exact() };
    assert!(!judge(&problem(3, 1), &K, &bad).passed());
    // The attention of the exact lists beside others that are as good.
    let four = problem(4, 0);
    let bad = TopKOutput {
        selection: vec![4, 2, 3, 4, 5, 4, 0, 1, 6, 7],
        ..of_lists(&four, &K, &[4, 1, 2, 3, 5, 4, 0, 1, 6, 7])
    };
    let result = judge(&four, &K, &bad);
    assert!(result.selection.passed() && !result.o.passed(), "{result}");
}

#[test]
fn scores_that_are_all_alike_are_one_tie() {
    let mut problem = problem(3, 1);
    problem.attention.scale = Some(0.0);
    assert!(judge_lists(&problem, &[3, 1, 4, 6, 0, 3, 5, 6, 7, 0]).passed());
    assert!(!judge_lists(&problem, &[2, 1, 4, 0, 0, 3, 5, 6, 7, 0]).passed());
}

#[test]
fn hooks_and_masks_take_part() -> Result<()> {
    let mut problem = problem(3, 1);
    problem.attention.mask = Some(Broadcast {
        per_batch: false,
        per_head: false,
        per_query: false,
    });
    problem.attention.custom = Some(Custom {
        score: Some("in Rust".into()),
        mask: None,
        data: Vec::new(),
    });
    let mut inputs = inputs(&K);
    inputs.attention.mask = Some(&[1, 1, 0, 1, 1, 1, 1, 1]);
    let hooks = Hooks {
        score: Some(&|s, at| if at.key == 5 { -100.0 } else { s }),
        mask: None,
    };
    let output = top_k(&problem, &inputs, &hooks)?;
    assert_eq!(output.selection[..5], [3, 1, 3, 4, 0]);
    let actual = TopKOutput {
        o: narrow(&output.o),
        lse: output.lse.as_deref().map(narrow),
        selection: output.selection,
    };
    let tolerance = Tolerance::for_dtype(DType::F32);
    assert!(topk(&problem, &inputs, &hooks, &actual, &tolerance)?.passed());
    assert!(topk(&problem, &inputs, &Hooks::default(), &actual, &tolerance).is_err());
    Ok(())
}
