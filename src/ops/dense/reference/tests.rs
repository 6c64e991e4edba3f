//! Tiny problems with answers worked out by hand.

use super::*;
use crate::ops::dense::{Bias, Custom};
use crate::tensor::DType;

/// D = 1, so that the default scale is 1 and a score is a product of two numbers.
const TINY: Dense = Dense {
    batch: 1,
    heads: 1,
    kv_heads: None,
    queries: 1,
    keys: 1,
    head_dim: 1,
    value_dim: None,
    dtype: DType::F32,
    output_dtype: None,
    reduced_precision: false,
    weighting: Weighting::Softmax,
    scale: None,
    softcap: None,
    causal: false,
    q_offset: None,
    window_left: None,
    window_right: None,
    sink_tokens: 0,
    prefix: 0,
    bias: None,
    mask: None,
    kv_len: false,
    documents: None,
    alibi: false,
    sinks: false,
    selection: None,
    custom: None,
    lse: true,
    q_layout: crate::Layout::Bhnd,
    k_layout: crate::Layout::Bhnd,
    v_layout: crate::Layout::Bhnd,
    o_layout: crate::Layout::Bhnd,
    unaligned: false,
};

const NO_BIAS: Weighting = Weighting::Sigmoid { bias: Some(0.0) };

fn solve(problem: &Dense, inputs: &DenseInputs<'_>) -> DenseOutput<f64> {
    dense(problem, inputs, &Hooks::default()).unwrap()
}

/// The weights `[B·H·Nq][Nk]` of a problem of which only sizes and masks matter (q = k = 0): the values are the
/// identity, so that o is the weights.
fn weights(problem: &Dense, inputs: &DenseInputs<'_>, hooks: &Hooks<'_>) -> Vec<Vec<f64>> {
    let n = problem.keys as usize;
    let problem = Dense {
        value_dim: Some(problem.keys),
        ..problem.clone()
    };
    let slices = (problem.batch * problem.kv_heads()) as usize;
    let identity: Vec<f32> = (0..slices * n * n)
        .map(|i| f32::from(u8::from(i / n % n == i % n)))
        .collect();
    let q = vec![0.0; (problem.batch * problem.heads * problem.queries) as usize];
    let k = vec![0.0; slices * n];
    let inputs = DenseInputs {
        q: &q,
        k: &k,
        v: &identity,
        ..*inputs
    };
    let output = dense(&problem, &inputs, hooks).unwrap();
    output.o.chunks(n).map(<[f64]>::to_vec).collect()
}

/// Which keys each row sees.
fn seen_with(problem: &Dense, inputs: &DenseInputs<'_>) -> Vec<Vec<usize>> {
    let rows = weights(problem, inputs, &Hooks::default());
    let seen = |row: Vec<f64>| (0..row.len()).filter(|&j| row[j] != 0.0).collect();
    rows.into_iter().map(seen).collect()
}

fn seen(problem: &Dense) -> Vec<Vec<usize>> {
    seen_with(problem, &DenseInputs::default())
}

/// The score of the only pair of a problem with one query and one key: its log-sum-exp.
fn only_score(problem: &Dense, q: f32, inputs: &DenseInputs<'_>, hooks: &Hooks<'_>) -> f64 {
    let inputs = DenseInputs {
        q: &[q],
        k: &[1.0],
        v: &[1.0],
        ..*inputs
    };
    dense(problem, &inputs, hooks).unwrap().lse.unwrap()[0]
}

fn near(actual: f64, expected: f64) {
    assert!(
        (actual - expected).abs() <= 1e-7 * expected.abs().max(1.0),
        "{actual} instead of {expected}"
    );
}

fn all_near(actual: &[f64], expected: &[f64]) {
    assert_eq!(actual.len(), expected.len());
    actual.iter().zip(expected).for_each(|(&a, &e)| near(a, e));
}

#[test]
fn softmax_weighs_by_exponentials() {
    let problem = Dense { keys: 2, ..TINY };
    let inputs = DenseInputs {
        q: &[1.0],
        k: &[0.0, 3f32.ln()],
        v: &[8.0, 4.0],
        ..Default::default()
    };
    let output = solve(&problem, &inputs);
    all_near(&output.o, &[0.25 * 8.0 + 0.75 * 4.0]);
    all_near(&output.lse.unwrap(), &[4f64.ln()]);
    let problem = Dense { lse: false, ..problem };
    assert_eq!(solve(&problem, &inputs).lse, None);
}

#[test]
fn scale_is_one_over_root_d_unless_given() {
    let problem = Dense { head_dim: 4, ..TINY };
    let inputs = DenseInputs {
        q: &[1.0, 2.0, 3.0, 4.0],
        k: &[1.0, 10.0, 100.0, 1000.0],
        v: &[0.0; 4],
        ..Default::default()
    };
    assert_eq!(solve(&problem, &inputs).lse.unwrap(), [4321.0 / 2.0]);
    let scale = Some(-0.25);
    assert_eq!(
        solve(&Dense { scale, ..problem }, &inputs).lse.unwrap(),
        [4321.0 / -4.0]
    );
}

#[test]
fn dot_takes_every_element_of_a_ragged_row() {
    for len in 1..20 {
        let q: Vec<f32> = (0..len).map(|i| 1.0 + i as f32).collect();
        assert_eq!(dot(&q, &vec![1.0; len]), (len * (len + 1)) as f64 / 2.0);
    }
}

#[test]
fn large_scores_do_not_overflow() {
    let problem = Dense { keys: 2, ..TINY };
    let inputs = DenseInputs {
        q: &[1e4],
        k: &[1.0, -1.0],
        v: &[3.0, 5.0],
        ..Default::default()
    };
    let output = solve(&problem, &inputs);
    assert_eq!((output.o, output.lse), (vec![3.0], Some(vec![1e4])));
}

#[test]
fn value_dim_may_differ() {
    let problem = Dense {
        keys: 2,
        value_dim: Some(3),
        ..TINY
    };
    let inputs = DenseInputs {
        q: &[0.0],
        k: &[0.0, 0.0],
        v: &[1.0, 2.0, 3.0, 5.0, 6.0, 9.0],
        ..Default::default()
    };
    assert_eq!(solve(&problem, &inputs).o, [3.0, 4.0, 6.0]);
}

#[test]
fn causal_aligns_the_last_query_with_the_last_key() {
    let problem = Dense {
        queries: 2,
        keys: 4,
        causal: true,
        ..TINY
    };
    assert_eq!(seen(&problem), [vec![0, 1, 2], vec![0, 1, 2, 3]]);
    let q_offset = Some(0);
    assert_eq!(seen(&Dense { q_offset, ..problem }), [vec![0], vec![0, 1]]);
}

#[test]
fn rows_before_the_first_key_see_nothing() {
    let problem = Dense {
        queries: 4,
        keys: 2,
        causal: true,
        ..TINY
    };
    assert_eq!(seen(&problem), [vec![], vec![], vec![0], vec![0, 1]]);
    let inputs = DenseInputs {
        q: &[1.0; 4],
        k: &[1.0; 2],
        v: &[7.0; 2],
        ..Default::default()
    };
    let output = solve(&problem, &inputs);
    all_near(&output.o, &[0.0, 0.0, 7.0, 7.0]);
    assert_eq!(output.lse.unwrap()[..3], [f64::NEG_INFINITY, f64::NEG_INFINITY, 1.0]);
}

#[test]
fn window_is_two_sided_around_the_position() {
    let problem = Dense {
        queries: 4,
        keys: 4,
        ..TINY
    };
    let sides = |window_left, window_right| {
        seen(&Dense {
            window_left,
            window_right,
            ..problem.clone()
        })
    };
    assert_eq!(sides(None, None), vec![vec![0, 1, 2, 3]; 4]);
    assert_eq!(
        sides(Some(1), None),
        [vec![0, 1, 2, 3], vec![0, 1, 2, 3], vec![1, 2, 3], vec![2, 3]]
    );
    assert_eq!(
        sides(None, Some(0)),
        [vec![0], vec![0, 1], vec![0, 1, 2], vec![0, 1, 2, 3]]
    );
    assert_eq!(sides(Some(0), Some(1)), [vec![0, 1], vec![1, 2], vec![2, 3], vec![3]]);
    assert_eq!(sides(Some(u32::MAX), Some(u32::MAX)), vec![vec![0, 1, 2, 3]; 4]);
}

#[test]
fn sink_tokens_are_in_every_window_but_stay_causal() {
    let problem = Dense {
        queries: 4,
        keys: 4,
        causal: true,
        window_left: Some(0),
        sink_tokens: 2,
        ..TINY
    };
    assert_eq!(seen(&problem), [vec![0], vec![0, 1], vec![0, 1, 2], vec![0, 1, 3]]);
}

#[test]
fn sink_tokens_without_a_window_add_nothing() {
    let problem = Dense {
        queries: 2,
        keys: 2,
        causal: true,
        sink_tokens: 2,
        ..TINY
    };
    assert_eq!(seen(&problem), [vec![0], vec![0, 1]]);
}

#[test]
fn prefix_overrides_causality_and_window_but_not_the_mask() {
    let problem = Dense {
        queries: 4,
        keys: 4,
        causal: true,
        prefix: 2,
        ..TINY
    };
    assert_eq!(
        seen(&problem),
        [vec![0, 1], vec![0, 1], vec![0, 1, 2], vec![0, 1, 2, 3]]
    );
    let problem = Dense {
        window_left: Some(0),
        mask: Some(Broadcast {
            per_batch: false,
            per_head: false,
            per_query: false,
        }),
        ..problem
    };
    let inputs = DenseInputs {
        mask: Some(&[0, 255, 1, 1]),
        ..Default::default()
    };
    assert_eq!(seen_with(&problem, &inputs), [vec![1], vec![1], vec![1, 2], vec![1, 3]]);
}

#[test]
fn mask_and_bias_broadcast_over_leading_dimensions() {
    let problem = Dense {
        batch: 2,
        heads: 2,
        keys: 2,
        mask: Some(Broadcast {
            per_head: false,
            ..Broadcast::FULL
        }),
        bias: Some(Bias {
            dtype: DType::F32,
            shape: Broadcast {
                per_batch: false,
                ..Broadcast::FULL
            },
        }),
        ..TINY
    };
    let inputs = DenseInputs {
        mask: Some(&[1, 1, 0, 1]),
        bias: Some(&[0.0, f32::NEG_INFINITY, f32::NEG_INFINITY, 0.0]),
        ..Default::default()
    };
    assert_eq!(seen_with(&problem, &inputs), [vec![0], vec![1], vec![], vec![1]]);
}

#[test]
fn bias_is_added_and_minus_infinity_masks() {
    let problem = Dense {
        queries: 2,
        keys: 3,
        bias: Some(Bias {
            dtype: DType::F32,
            shape: Broadcast::FULL,
        }),
        ..TINY
    };
    const NONE: f32 = f32::NEG_INFINITY;
    let inputs = DenseInputs {
        bias: Some(&[0.0, NONE, 3f32.ln(), NONE, NONE, NONE]),
        ..Default::default()
    };
    let rows = weights(&problem, &inputs, &Hooks::default());
    all_near(&rows[0], &[0.25, 0.0, 0.75]);
    assert_eq!(rows[1], [0.0; 3]);
}

#[test]
fn score_is_scaled_capped_biased_and_then_custom() {
    let problem = Dense {
        scale: Some(0.5),
        softcap: Some(2.0),
        bias: Some(Bias {
            dtype: DType::F32,
            shape: Broadcast::FULL,
        }),
        alibi: true,
        q_offset: Some(3),
        custom: Some(Custom {
            score: Some("twin below".into()),
            ..Default::default()
        }),
        ..TINY
    };
    let inputs = DenseInputs {
        bias: Some(&[10.0]),
        alibi_slopes: Some(&[0.25]),
        ..Default::default()
    };
    let double = |s: f64, _: &Position| 2.0 * s;
    let hooks = Hooks {
        score: Some(&double),
        mask: None,
    };
    let expected = 2.0 * (2.0 * (0.5 * 6.0 / 2.0f64).tanh() + 10.0 - 0.25 * 3.0);
    near(only_score(&problem, 6.0, &inputs, &hooks), expected);
}

#[test]
fn softcap_bounds_the_score() {
    let problem = Dense {
        softcap: Some(2.0),
        ..TINY
    };
    let score = |q| only_score(&problem, q, &DenseInputs::default(), &Hooks::default());
    near(score(3.0), 2.0 * 1.5f64.tanh());
    near(score(-1e6), -2.0);
}

#[test]
fn alibi_counts_distance_on_both_sides() {
    let problem = Dense {
        heads: 2,
        kv_heads: Some(1),
        keys: 3,
        q_offset: Some(1),
        alibi: true,
        ..TINY
    };
    let (half, quarter) = (2f32.ln(), 4f32.ln());
    let inputs = DenseInputs {
        alibi_slopes: Some(&[half, quarter]),
        ..Default::default()
    };
    let rows = weights(&problem, &inputs, &Hooks::default());
    all_near(&rows[0], &[0.25, 0.5, 0.25]);
    all_near(&rows[1], &[1.0 / 6.0, 4.0 / 6.0, 1.0 / 6.0]);
}

#[test]
fn sinks_join_the_denominator_only() {
    let problem = Dense {
        heads: 2,
        queries: 2,
        keys: 1,
        causal: true,
        sinks: true,
        ..TINY
    };
    // Row 0 of each head stands at position −1 and sees nothing; row 1 sees the one key, which scores 0.
    let inputs = DenseInputs {
        q: &[0.0; 4],
        k: &[0.0; 2],
        v: &[8.0, 8.0],
        sinks: Some(&[0.0, 3f32.ln()]),
        ..Default::default()
    };
    let output = solve(&problem, &inputs);
    all_near(&output.o, &[0.0, 4.0, 0.0, 2.0]);
    all_near(&output.lse.unwrap(), &[0.0, 2f64.ln(), 3f64.ln(), 4f64.ln()]);
}

#[test]
fn query_heads_share_kv_heads_in_groups() {
    let problem = Dense {
        batch: 2,
        heads: 4,
        kv_heads: Some(2),
        ..TINY
    };
    let inputs = DenseInputs {
        q: &[0.0; 8],
        k: &[0.0; 4],
        v: &[1.0, 2.0, 3.0, 4.0],
        ..Default::default()
    };
    assert_eq!(solve(&problem, &inputs).o, [1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 4.0, 4.0]);
}

#[test]
fn kv_len_hides_keys_and_moves_the_default_offset() {
    let problem = Dense {
        batch: 3,
        queries: 2,
        keys: 3,
        causal: true,
        kv_len: true,
        ..TINY
    };
    let inputs = DenseInputs {
        kv_len: Some(&[1, 3, 0]),
        ..Default::default()
    };
    let rows = [vec![], vec![0], vec![0, 1], vec![0, 1, 2], vec![], vec![]];
    assert_eq!(seen_with(&problem, &inputs), rows);
    let q_offset = Some(1);
    let rows = [vec![0], vec![0], vec![0, 1], vec![0, 1, 2], vec![], vec![]];
    assert_eq!(seen_with(&Dense { q_offset, ..problem }, &inputs), rows);
}

/// Documents of 2 queries on 1 key and of 1 query on 3 keys, after one row and one key that belong to none.
fn two_documents() -> (Dense, DenseInputs<'static>) {
    let problem = Dense {
        queries: 4,
        keys: 5,
        documents: Some(2),
        ..TINY
    };
    let inputs = DenseInputs {
        cu_seqlens_q: Some(&[1, 3, 4]),
        cu_seqlens_k: Some(&[1, 2, 5]),
        ..Default::default()
    };
    (problem, inputs)
}

#[test]
fn documents_see_their_own_keys() {
    let (problem, inputs) = two_documents();
    assert_eq!(seen_with(&problem, &inputs), [vec![], vec![1], vec![1], vec![2, 3, 4]]);
}

#[test]
fn documents_have_their_own_positions() {
    let (problem, inputs) = two_documents();
    let problem = Dense {
        causal: true,
        ..problem
    };
    assert_eq!(seen_with(&problem, &inputs), [vec![], vec![], vec![1], vec![2, 3, 4]]);
    let at_zero = Dense {
        q_offset: Some(0),
        ..problem.clone()
    };
    assert_eq!(seen_with(&at_zero, &inputs), [vec![], vec![1], vec![1], vec![2]]);
    let prefix = Dense { prefix: 2, ..at_zero };
    assert_eq!(seen_with(&prefix, &inputs), [vec![], vec![1], vec![1], vec![2, 3]]);
    let window = Dense {
        window_left: Some(0),
        sink_tokens: 1,
        ..problem
    };
    assert_eq!(seen_with(&window, &inputs), [vec![], vec![], vec![1], vec![2, 4]]);
}

#[test]
fn documents_with_kv_len_count_keys_globally() {
    let (problem, inputs) = two_documents();
    let problem = Dense {
        causal: true,
        kv_len: true,
        ..problem
    };
    let inputs = DenseInputs {
        kv_len: Some(&[4]),
        ..inputs
    };
    assert_eq!(seen_with(&problem, &inputs), [vec![], vec![], vec![1], vec![2, 3]]);
}

#[test]
fn documents_measure_alibi_inside_and_index_bias_globally() {
    let (problem, inputs) = two_documents();
    let problem = Dense {
        alibi: true,
        bias: Some(Bias {
            dtype: DType::F32,
            shape: Broadcast::FULL,
        }),
        ..problem
    };
    let mut bias = [0.0; 20];
    bias[3 * 5 + 3] = f32::NEG_INFINITY;
    let inputs = DenseInputs {
        alibi_slopes: Some(&[0.5 * 3f32.ln()]),
        bias: Some(&bias),
        ..inputs
    };
    let rows = weights(&problem, &inputs, &Hooks::default());
    all_near(&rows[3], &[0.0, 0.0, 0.25, 0.0, 0.75]);
}

#[test]
fn an_empty_document_has_no_rows() {
    let problem = Dense {
        queries: 2,
        keys: 2,
        documents: Some(3),
        ..TINY
    };
    let inputs = DenseInputs {
        cu_seqlens_q: Some(&[0, 1, 1, 2]),
        cu_seqlens_k: Some(&[0, 0, 1, 2]),
        ..Default::default()
    };
    assert_eq!(seen_with(&problem, &inputs), [vec![], vec![1]]);
}

#[test]
fn sigmoid_bias_is_minus_ln_of_all_keys_unless_given() {
    let problem = Dense {
        keys: 3,
        weighting: Weighting::Sigmoid { bias: None },
        kv_len: true,
        lse: false,
        ..TINY
    };
    let inputs = DenseInputs {
        kv_len: Some(&[2]),
        ..Default::default()
    };
    // σ(−ln 3) = 1/4: by Nk, not by the keys that are there.
    all_near(&weights(&problem, &inputs, &Hooks::default())[0], &[0.25, 0.25, 0.0]);
    let problem = Dense {
        weighting: NO_BIAS,
        ..problem
    };
    all_near(&weights(&problem, &inputs, &Hooks::default())[0], &[0.5, 0.5, 0.0]);
}

#[test]
fn sigmoid_is_stable_and_zero_for_rows_that_see_nothing() {
    let problem = Dense {
        queries: 3,
        keys: 2,
        weighting: NO_BIAS,
        causal: true,
        lse: false,
        ..TINY
    };
    let inputs = DenseInputs {
        q: &[1.0, 1.0, 1.0],
        k: &[2000.0, -2000.0],
        v: &[3.0, 5.0],
        ..Default::default()
    };
    let output = solve(&problem, &inputs);
    assert_eq!((output.o, output.lse), (vec![0.0, 3.0, 3.0], None));
    near(sigmoid(-3.0), 1.0 / (1.0 + 3f64.exp()));
    near(sigmoid(3.0), 1.0 / (1.0 + (-3f64).exp()));
}

#[test]
fn hooks_see_every_position() {
    let (problem, inputs) = two_documents();
    let problem = Dense {
        heads: 2,
        kv_heads: Some(1),
        custom: Some(Custom {
            score: None,
            mask: Some("twin below".into()),
            data: Vec::new(),
        }),
        ..problem
    };
    let met = std::cell::RefCell::new(Vec::new());
    let even_keys = |at: &Position| {
        met.borrow_mut().push(*at);
        at.key.is_multiple_of(2)
    };
    let hooks = Hooks {
        score: None,
        mask: Some(&even_keys),
    };
    let rows = weights(&problem, &inputs, &hooks);
    assert_eq!(rows[1], [0.0; 5]);
    assert_eq!(rows[4 + 3], [0.0, 0.0, 0.5, 0.0, 0.5]);
    let last = Position {
        batch: 0,
        head: 1,
        kv_head: 0,
        query: 3,
        key: 4,
        query_pos: 2,
        key_pos: 2,
    };
    let met = met.into_inner();
    assert_eq!((met.len(), met.last()), (10, Some(&last)));
    assert_eq!((met[0].query_pos, met[0].key_pos), (-1, 0));
}

#[test]
fn a_custom_score_of_minus_infinity_weighs_nothing() {
    let problem = Dense {
        queries: 2,
        keys: 2,
        custom: Some(Custom {
            score: Some("twin below".into()),
            ..Default::default()
        }),
        ..TINY
    };
    let lower = |s: f64, at: &Position| if at.key < at.query { s } else { f64::NEG_INFINITY };
    let hooks = Hooks {
        score: Some(&lower),
        mask: None,
    };
    assert_eq!(
        weights(&problem, &DenseInputs::default(), &hooks),
        [[0.0, 0.0], [1.0, 0.0]]
    );
}

#[test]
fn nan_reaches_the_rows_that_see_it_and_no_other() {
    let problem = Dense {
        queries: 2,
        keys: 2,
        causal: true,
        ..TINY
    };
    let inputs = DenseInputs {
        q: &[1.0, 1.0],
        k: &[1.0, f32::NAN],
        v: &[2.0, f32::NAN],
        ..Default::default()
    };
    let output = solve(&problem, &inputs);
    let lse = output.lse.unwrap();
    assert_eq!((output.o[0], lse[0]), (2.0, 1.0));
    assert!(output.o[1].is_nan() && lse[1].is_nan());
}

/// The message of the error that `problem` with `inputs` gives.
fn refusal(problem: Dense, inputs: DenseInputs<'_>) -> String {
    dense(&problem, &inputs, &Hooks::default()).unwrap_err().to_string()
}

/// q, k and v of `TINY`.
const ONES: DenseInputs<'static> = DenseInputs {
    q: &[1.0],
    k: &[1.0],
    v: &[1.0],
    bias: None,
    mask: None,
    kv_len: None,
    cu_seqlens_q: None,
    cu_seqlens_k: None,
    alibi_slopes: None,
    sinks: None,
    selection: None,
    custom_data: &[],
};

#[test]
fn contradictory_problems_are_refused() {
    let sigmoid = Weighting::Sigmoid { bias: None };
    #[rustfmt::skip]
    let refused = [
        (Dense { batch: 0, ..TINY }, "`batch` is 0; allowed: 1 to 268435456"),
        (Dense { heads: 0, ..TINY }, "`heads` is 0; allowed: 1 to 268435456"),
        (Dense { kv_heads: Some(0), ..TINY }, "`kv_heads` is 0; allowed: a divisor of `heads`, 1"),
        (Dense { kv_heads: Some(2), ..TINY }, "`kv_heads` is 2; allowed: a divisor of `heads`, 1"),
        (Dense { keys: u32::MAX, ..TINY }, "`keys` is 4294967295; allowed: 1 to 268435456"),
        (Dense { q_offset: Some(i32::MAX), ..TINY },
            "`q_offset` is 2147483647; allowed: −268435456 to 268435456"),
        (Dense { scale: Some(f32::NAN), ..TINY }, "`scale` is NaN; allowed: a finite number"),
        (Dense { softcap: Some(0.0), ..TINY }, "`softcap` is 0; allowed: a finite number above 0"),
        (Dense { weighting: Weighting::Sigmoid { bias: Some(f32::INFINITY) }, lse: false, ..TINY },
            "`weighting.bias` is inf; allowed: a finite number; `None` for −ln Nk"),
        (Dense { weighting: sigmoid, ..TINY },
            "`lse` is true; allowed: false with sigmoid weighting, which has no normaliser"),
        (Dense { weighting: sigmoid, lse: false, sinks: true, ..TINY },
            "`sinks` is true; allowed: false with sigmoid weighting, which has no denominator"),
        (Dense { batch: 2, documents: Some(1), ..TINY }, "`batch` is 2; allowed: 1 with packed documents"),
        (Dense { documents: Some(0), ..TINY }, "`documents` is 0; allowed: 1 to 268435456"),
        (Dense { head_dim: 257, ..TINY }, "`head_dim` is 257; allowed: 1 to 256"),
        (Dense { custom: Some(Custom::default()), ..TINY },
            "`custom` is neither a score nor a mask; allowed: at least one of `Custom::score` and `Custom::mask`, \
             or no `custom` at all"),
    ];
    for (problem, message) in refused {
        assert_eq!(refusal(problem, ONES), message);
    }
}

#[test]
fn inputs_that_do_not_fit_are_refused() {
    let bias = Bias {
        dtype: DType::F16,
        shape: Broadcast::FULL,
    };
    let packed = |q, k| DenseInputs {
        cu_seqlens_q: Some(q),
        cu_seqlens_k: Some(k),
        ..ONES
    };
    let documents = Dense {
        documents: Some(2),
        ..TINY
    };
    let custom = Dense {
        custom: Some(Custom {
            mask: Some("twin below".into()),
            ..Default::default()
        }),
        ..TINY
    };
    #[rustfmt::skip]
    let refused = [
        (TINY, DenseInputs { q: &[], ..ONES },
            "input `q`: 0 elements; needed: [B, H, Nq, D] = [1, 1, 1, 1], 1 elements"),
        (TINY, DenseInputs { k: &[1.0; 2], ..ONES },
            "input `k`: 2 elements; needed: [B, Hkv, Nk, D] = [1, 1, 1, 1], 1 elements"),
        (Dense { value_dim: Some(3), ..TINY }, ONES,
            "input `v`: 1 elements; needed: [B, Hkv, Nk, Dv] = [1, 1, 1, 3], 3 elements"),
        (Dense { bias: Some(bias), ..TINY }, ONES,
            "input `bias`: not given; needed: [B|1, H|1, Nq|1, Nk] = [1, 1, 1, 1], \
             since the problem's `bias` asks for it"),
        (TINY, DenseInputs { mask: Some(&[1]), ..ONES },
            "input `mask`: 1 elements; needed: None, since the problem's `mask` does not ask for it"),
        (Dense { mask: Some(Broadcast::FULL), ..TINY }, DenseInputs { mask: Some(&[1, 1]), ..ONES },
            "input `mask`: 2 elements; needed: [B|1, H|1, Nq|1, Nk] = [1, 1, 1, 1], 1 elements"),
        (Dense { kv_len: true, ..TINY }, DenseInputs { kv_len: Some(&[2]), ..ONES },
            "input `kv_len`: 2 at batch entry 0; needed: 0 to Nk = 1"),
        (Dense { kv_len: true, ..TINY }, DenseInputs { kv_len: Some(&[-1]), ..ONES },
            "input `kv_len`: -1 at batch entry 0; needed: 0 to Nk = 1"),
        (documents.clone(), ONES,
            "input `cu_seqlens_q`: not given; needed: [S + 1] = [3], since the problem's `documents` asks for it"),
        (documents.clone(), packed(&[0, 1], &[0, 0, 1]),
            "input `cu_seqlens_q`: 2 elements; needed: [S + 1] = [3], 3 elements"),
        (documents.clone(), packed(&[0, 1, 0], &[0, 0, 1]),
            "input `cu_seqlens_q`: 1 at index 1, then 0; needed: values that never decrease"),
        (documents.clone(), packed(&[0, 0, 1], &[0, 0, 2]), "input `cu_seqlens_k`: 2 at index 2; needed: 0 to Nk = 1"),
        (documents, packed(&[-1, 0, 1], &[0, 0, 1]), "input `cu_seqlens_q`: -1 at index 0; needed: 0 to Nq = 1"),
        (Dense { alibi: true, ..TINY }, DenseInputs { alibi_slopes: Some(&[]), ..ONES },
            "input `alibi_slopes`: 0 elements; needed: [H] = [1], 1 elements"),
        (TINY, DenseInputs { sinks: Some(&[0.0]), ..ONES },
            "input `sinks`: 1 elements; needed: None, since the problem's `sinks` does not ask for it"),
        (custom, DenseInputs { custom_data: &[&[]], ..ONES },
            "input `custom_data`: 1 arrays; needed: 0, as `custom.data` names them"),
    ];
    for (problem, inputs, message) in refused {
        assert_eq!(refusal(problem, inputs), message);
    }
}

#[test]
fn sizes_beyond_memory_are_refused_without_arithmetic_overflow() {
    let large = Dense {
        batch: 1 << 20,
        heads: 1 << 20,
        ..TINY
    };
    assert!(refusal(large, ONES).contains("1099511627776 elements"));
    let largest = Dense {
        batch: 1 << 28,
        heads: 1 << 28,
        queries: 1 << 28,
        keys: 1 << 28,
        head_dim: 256,
        ..TINY
    };
    assert!(refusal(largest, ONES).contains("`q_layout`"));
}

#[test]
fn hooks_must_pair_with_custom_code() {
    let score = |s: f64, _: &Position| s;
    let hooks = Hooks {
        score: Some(&score),
        mask: None,
    };
    let error = dense(&TINY, &ONES, &hooks).unwrap_err().to_string();
    assert_eq!(
        error,
        "input `hooks.score`: a function; needed: None, since the problem has no such custom WGSL"
    );
    let custom = Some(Custom {
        mask: Some("fn mask(at: Position) -> bool { return true; }".into()),
        ..Default::default()
    });
    let message = "input `hooks.mask`: None; needed: the CPU twin of the problem's custom WGSL";
    assert_eq!(refusal(Dense { custom, ..TINY }, ONES), message);
}
