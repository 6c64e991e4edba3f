//! Op `topk`: round trips, and every mistake with its own message.

use super::*;
use crate::ops::topk::Scoring;
use crate::ops::topk::reference::top_k;

/// B = 1, H = 4, Hkv = 2, Nq = 3, Nk = 5 in three blocks of 2, D = 4, Dv = 2, with everything that goes together.
fn rich() -> Case {
    let problem = TopK {
        attention: Dense {
            heads: 4,
            kv_heads: Some(2),
            queries: 3,
            keys: 5,
            head_dim: 4,
            value_dim: Some(2),
            dtype: DType::F16,
            scale: Some(0.1),
            causal: true,
            q_offset: Some(1),
            lse: true,
            ..Default::default()
        },
        top_k: 5,
        block_size: 2,
        query_block: 2,
        per_kv_head: true,
        scoring: Scoring::Bound,
        first: 1,
        last: 1,
        diagonal: true,
        room: 2,
        pooled: true,
        pooled_room: None,
        keep: true,
    };
    let tensors = DenseCaseInputs {
        q: ramp(48, 0.25),
        k: ramp(40, 0.125),
        v: ramp(20, -0.5),
        ..Default::default()
    };
    solved(&problem, &tensors, Some(&ramp(2 * 3 * 8, 0.3)))
}

fn ramp(n: usize, step: f32) -> Vec<f32> {
    (0..n).map(|i| step * (i as f32 - 3.0)).collect()
}

fn solved(problem: &TopK, tensors: &DenseCaseInputs, pooled: Option<&[f32]>) -> Case {
    let inputs = TopKInputs {
        attention: tensors.inputs(),
        pooled,
    };
    let expected = top_k(problem, &inputs, &Hooks::default()).unwrap();
    Case::topk("rich", "the float64 reference", problem, &inputs, &expected).unwrap()
}

/// One query, four keys, D = Dv = 1, nothing optional.
fn plain() -> (TopK, DenseCaseInputs) {
    let problem = TopK {
        attention: Dense {
            keys: 4,
            head_dim: 1,
            ..Default::default()
        },
        top_k: 2,
        keep: true,
        ..Default::default()
    };
    let tensors = DenseCaseInputs {
        q: vec![1.0],
        k: vec![3.0, 1.0, 4.0, 1.5],
        v: vec![5.0, 6.0, 7.0, 8.0],
        ..Default::default()
    };
    (problem, tensors)
}

fn top_k_case(case: &mut Case) -> &mut TopKCase {
    match &mut case.op {
        Op::TopK(case) => case,
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
    let changes: [fn(&mut TopK, &mut DenseCaseInputs); 8] = [
        |_, _| (),
        |p, _| p.scoring = Scoring::Mean,
        |p, _| p.block_size = 2,
        |p, _| (p.block_size, p.scoring) = (3, Scoring::Mean),
        |p, _| (p.block_size, p.scoring) = (3, Scoring::Bound),
        |p, _| p.attention.weighting = Weighting::Sigmoid { bias: Some(0.5) },
        |p, t| (p.attention.kv_len, t.kv_len) = (true, Some(vec![3])),
        |p, _| (p.first, p.last, p.attention.dtype) = (1, 1, DType::BF16),
    ];
    for change in changes {
        let (mut problem, mut tensors) = (problem.clone(), tensors.clone());
        change(&mut problem, &mut tensors);
        let case = solved(&problem, &tensors, None);
        assert_eq!(Case::from_bytes("rich", &case.to_bytes().unwrap()).unwrap(), case);
        let read = top_k_case(&mut case.clone()).problem.clone();
        assert_eq!(read, problem);
    }
}

#[test]
fn params_have_their_defaults() {
    let (problem, tensors) = plain();
    let mut parts = Parts::of(&solved(&problem, &tensors, None));
    assert_eq!(
        parts.metadata["params"],
        r#"{"granularity":"token","top_k":2,"weighting":"softmax"}"#
    );
    let read = |parts: &Parts| top_k_case(&mut parts.load().unwrap()).problem.clone();
    assert_eq!(read(&parts), problem);
    parts.meta("params", r#"{"granularity": "block", "top_k": 2, "block_size": 2}"#);
    let blocks = TopK {
        block_size: 2,
        scoring: Scoring::Mean,
        ..problem.clone()
    };
    assert_eq!(read(&parts), blocks);
    parts.meta(
        "params",
        r#"{"granularity": "token", "top_k": 2, "block_size": 1, "score": "mean"}"#,
    );
    let means = TopK {
        scoring: Scoring::Mean,
        ..problem
    };
    assert_eq!(read(&parts), means);
}

#[test]
fn what_is_kept_is_told_by_key() {
    let (problem, tensors) = plain();
    let mut case = solved(&problem, &tensors, None);
    assert_eq!(top_k_case(&mut case).expected_selected, [1, 0, 1, 0]);
    // Row 0 of the first KV head's heads stands at 1, row 2 at 3: what a row does not see is not kept.
    let mut case = rich();
    let selected = &top_k_case(&mut case).expected_selected;
    assert_eq!(selected[..15], [1, 1, 0, 0, 0, 1, 1, 1, 0, 0, 1, 1, 1, 1, 0]);
}

#[test]
fn what_was_saved_still_passes_and_what_is_wrong_does_not() {
    let (mut problem, mut tensors) = plain();
    problem.attention.lse = true;
    tensors.k[3] = 3.00001;
    let mut case = solved(&problem, &tensors, None);
    let case = top_k_case(&mut case);
    let tolerance = Tolerance::for_dtype(DType::F32);
    let narrow = |values: &Vec<f64>| values.iter().map(|&v| v as f32).collect();
    let output = top_k(&case.problem, &case.inputs(), &Hooks::default()).unwrap();
    assert_eq!(output.selection, [2, 2, 3]);
    let good = TopKOutput {
        o: narrow(&output.o),
        lse: output.lse.as_ref().map(narrow),
        selection: output.selection,
    };
    let result = case.compare(&good, &tolerance).unwrap();
    assert!(result.passed(), "{result}");
    assert_eq!(
        result.all().map(|c| c.name).collect::<Vec<_>>(),
        ["o", "lse", "selection", "selected"]
    );

    // The other of a near tie, with its own attention: its keys are not the file's, but as good.
    let attended = |lists: Vec<u32>| {
        let inputs = case.inputs();
        let output = crate::ops::topk::reference::attend(&case.problem, &inputs, &Hooks::default(), &lists).unwrap();
        TopKOutput {
            o: narrow(&output.o),
            lse: output.lse.as_ref().map(narrow),
            selection: lists,
        }
    };
    let result = case.compare(&attended(vec![2, 0, 2]), &tolerance).unwrap();
    assert!(result.passed(), "{result}");
    let selected = result.selected.unwrap();
    assert!(selected.max > 0.1 && selected.max < 1.0, "{selected}");
    // No tie.
    let result = case.compare(&attended(vec![2, 1, 2]), &tolerance).unwrap();
    assert!(result.o.passed() && !result.selection.passed(), "{result}");
    assert!(!result.selected.unwrap().passed());

    // Where the keys are those of the file, so must the outputs be.
    case.expected_o[0] += 0.1;
    assert!(!case.compare(&good, &tolerance).unwrap().o.passed());
    case.expected_o[0] -= 0.1;
    // And a file that is wrong about the keys is found out.
    case.expected_selected = vec![0, 1, 0, 1];
    let result = case.compare(&good, &tolerance).unwrap();
    assert!(result.selection.passed() && !result.passed(), "{result}");
}

#[test]
fn mistaken_params_are_refused() {
    let refused = [
        (r#"{"top_k": 3}"#, "no param `granularity`"),
        (
            r#"{"granularity": "page", "top_k": 3}"#,
            "param `granularity` is `page`, expected token or block",
        ),
        (r#"{"granularity": "token"}"#, "no param `top_k`"),
        (
            r#"{"granularity": "token", "top_k": 3, "block_size": 2}"#,
            "param `block_size` is 2, expected 1 for tokens",
        ),
        (
            r#"{"granularity": "block", "top_k": 3}"#,
            "no param `block_size`, which blocks need",
        ),
        (
            r#"{"granularity": "block", "top_k": 3, "block_size": 2, "score": "max"}"#,
            "param `score` is `max`, expected keys, mean or bound",
        ),
        (
            r#"{"granularity": "block", "top_k": 3, "block_size": 2, "score": "keys"}"#,
            "`pooled` is true; allowed: false with `Scoring::Keys`, which reads the keys themselves",
        ),
        (
            r#"{"granularity": "block", "top_k": 0, "block_size": 2}"#,
            "`top_k` is 0; allowed: 1 to 268435456",
        ),
        (
            r#"{"granularity": "block", "top_k": 3, "block_size": 2, "first": 4}"#,
            "`top_k` is 3; allowed: at least `first` + `last`, 4 + 0",
        ),
        (
            r#"{"granularity": "block", "top_k": 3, "block_size": 2, "shared": 1}"#,
            "param `shared` is 1, expected true or false",
        ),
        (
            r#"{"granularity": "block", "top_k": 3, "block_size": 3}"#,
            "tensor `pooled` has shape [1, 2, 3, 8], expected [1, 2, 3, 4]",
        ),
        (
            r#"{"granularity": "block", "top_k": 3, "block_size": 2, "score": "bound", "k": 3}"#,
            "unknown param `k` of its op",
        ),
    ];
    for (params, message) in refused {
        assert_eq!(spoilt(|p| p.meta("params", params)), message);
    }
}

#[test]
fn mistaken_tensors_are_refused() {
    type Spoil = fn(&mut Parts);
    #[rustfmt::skip]
    let refused: [(Spoil, &str); 8] = [
        (|p| { p.tensors.remove("k"); }, "no tensor `k`"),
        (|p| { p.tensors.remove("expected.selected"); }, "no tensor `expected.selected`"),
        (|p| p.tensor("pooled", Dtype::F16, &[1, 2, 3, 8]), "tensor `pooled` is f16, expected f32"),
        (|p| p.tensor("expected.selected", Dtype::BOOL, &[1, 4, 3, 5]),
            "tensor `expected.selected` is BOOL, expected U8"),
        (|p| p.tensor("expected.selected", Dtype::U8, &[1, 4, 5, 3]),
            "tensor `expected.selected` has shape [1, 4, 5, 3], expected [1, 4, 3, 5]"),
        (|p| p.tensors.get_mut("expected.selected").unwrap().2[7] = 2, "the expected selected has 2 at 7, not 0 or 1"),
        (|p| p.tensor("expected.lse", Dtype::F32, &[1, 4, 3, 1]),
            "tensor `expected.lse` has shape [1, 4, 3, 1], expected [1, 4, 3]"),
        (|p| p.tensor("selection", Dtype::I32, &[1]), "unknown tensor `selection` of its op"),
    ];
    for (spoil, message) in refused {
        assert_eq!(spoilt(spoil), message);
    }
}

#[test]
fn what_the_format_cannot_hold_is_not_written() {
    let refused = |change: fn(&mut TopKCase)| {
        let mut case = rich();
        change(top_k_case(&mut case));
        case.to_bytes().unwrap_err().to_string()
    };
    let message = refused(|c| c.problem.attention.custom = Some(Custom::default()));
    assert_eq!(message, "file rich: a case file cannot hold custom code");
    let message = refused(|c| c.problem.attention.lse = false);
    assert_eq!(message, "file rich: `lse` is false, but an expected lse is given");
    let message = refused(|c| c.problem.attention.dtype = DType::F32);
    assert_eq!(message, "file rich: the case's dtype is f16, its problem's f32");
    let message = refused(|c| c.expected_selected.truncate(3));
    assert_eq!(message, "file rich: the expected selected has 3 elements, not 60");
    let message = refused(|c| c.pooled = None);
    assert!(message.starts_with("file rich: input `pooled`: not given"), "{message}");

    let (mut problem, tensors) = plain();
    let inputs = TopKInputs {
        attention: tensors.inputs(),
        pooled: None,
    };
    let mut answer = top_k(&problem, &inputs, &Hooks::default()).unwrap();
    answer.selection[1] = 9;
    let write = |problem: &TopK, answer: &TopKOutput<f64>| {
        let case = Case::topk("rich", "nowhere", problem, &inputs, answer);
        case.unwrap_err().to_string()
    };
    assert_eq!(
        write(&problem, &answer),
        "file rich: input `selection`: entry 0 of list [0, 0, 0] is 9; needed: below ⌈Nk/block_size⌉ = 4"
    );
    problem.attention.custom = Some(Custom::default());
    assert_eq!(
        write(&problem, &answer),
        "file rich: a case file cannot hold custom code"
    );
}
