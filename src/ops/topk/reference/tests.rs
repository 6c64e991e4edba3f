//! Tiny problems with answers worked out by hand.

mod hierarchical;

use super::*;
use crate::ops::dense::{Broadcast, Custom, Weighting};
use crate::ops::topk::{Extend, Pool, Pooling, Select};

const NONE: f64 = f64::NEG_INFINITY;

/// D = 1 and a scale of 1, so that a score is a product of two numbers.
fn tiny(queries: u32, keys: u32) -> TopK {
    TopK {
        attention: Dense {
            queries,
            keys,
            head_dim: 1,
            lse: true,
            ..Default::default()
        },
        ..Default::default()
    }
}

fn given<'a>(q: &'a [f32], k: &'a [f32], v: &'a [f32]) -> TopKInputs<'a> {
    let attention = DenseInputs {
        q,
        k,
        v,
        ..Default::default()
    };
    TopKInputs {
        attention,
        pooled: None,
    }
}

/// Scores of a problem whose values play no part.
fn scored(problem: &TopK, q: &[f32], k: &[f32]) -> Vec<f64> {
    scores(problem, &given(q, k, k), &Hooks::default()).unwrap()
}

#[test]
fn keys_are_scored_by_the_rows_of_their_list() {
    let mut problem = tiny(3, 4);
    problem.attention.causal = true;
    // Rows stand at 1, 2 and 3.
    let (q, k) = ([1.0, -2.0, 3.0], [1.0, 2.0, -3.0, 4.0]);
    assert_eq!(
        scored(&problem, &q, &k),
        [1.0, 2.0, NONE, NONE, -2.0, -4.0, 6.0, NONE, 3.0, 6.0, -9.0, 12.0]
    );
    problem.query_block = 2;
    assert_eq!(scored(&problem, &q, &k), [1.0, 2.0, 6.0, NONE, 3.0, 6.0, -9.0, 12.0]);
    problem.block_size = 3;
    assert_eq!(scored(&problem, &q, &k), [6.0, NONE, 6.0, 12.0]);
}

#[test]
fn query_heads_share_a_list_where_they_are_told_to() {
    let mut problem = tiny(1, 2);
    (problem.attention.heads, problem.attention.kv_heads) = (4, Some(2));
    let (q, k) = ([1.0, -1.0, 2.0, 3.0], [5.0, -7.0, 11.0, 13.0]);
    assert_eq!(scored(&problem, &q, &k), [5.0, -7.0, -5.0, 7.0, 22.0, 26.0, 33.0, 39.0]);
    problem.per_kv_head = true;
    assert_eq!(scored(&problem, &q, &k), [5.0, 7.0, 33.0, 39.0]);
}

#[test]
fn keys_have_the_scores_of_dense_attention() {
    let mut problem = tiny(1, 3);
    problem.attention.scale = Some(0.5);
    problem.attention.softcap = Some(2.0);
    problem.attention.alibi = true;
    problem.attention.mask = Some(Broadcast::FULL);
    problem.attention.custom = Some(Custom {
        score: Some("in Rust".into()),
        mask: Some("in Rust".into()),
        data: Vec::new(),
    });
    let mut inputs = given(&[4.0], &[1.0, 2.0, 3.0], &[0.0; 3]);
    inputs.attention.alibi_slopes = Some(&[0.25]);
    inputs.attention.mask = Some(&[1, 0, 1]);
    let hooks = Hooks {
        score: Some(&|s, _| 10.0 * s),
        mask: Some(&|at| at.key < 2),
    };
    let scores = scores(&problem, &inputs, &hooks).unwrap();
    assert_eq!(scores, [10.0 * (2.0 * 1f64.tanh() - 0.5), NONE, NONE]);
}

#[test]
fn blocks_are_scored_by_their_mean_or_bound() {
    let mut problem = tiny(2, 5);
    (problem.block_size, problem.scoring) = (2, Scoring::Mean);
    (problem.attention.scale, problem.attention.softcap) = (Some(-2.0), Some(0.1));
    let (q, k) = ([1.0, -3.0], [1.0, 5.0, -2.0, 8.0, 7.0]);
    assert_eq!(scored(&problem, &q, &k), [-6.0, -6.0, -14.0, 18.0, 18.0, 42.0]);
    problem.scoring = Scoring::Bound;
    assert_eq!(scored(&problem, &q, &k), [-2.0, 4.0, -14.0, 30.0, 48.0, 42.0]);
    problem.query_block = 2;
    assert_eq!(scored(&problem, &q, &k), [30.0, 48.0, 42.0]);
}

#[test]
fn pooled_blocks_are_used_where_they_are_given() {
    let mut problem = tiny(1, 3);
    (problem.block_size, problem.scoring, problem.pooled) = (2, Scoring::Mean, true);
    let mut inputs = given(&[3.0], &[1.0, 1.0, 1.0], &[0.0; 3]);
    assert!(scores(&problem, &inputs, &Hooks::default()).is_err());
    inputs.pooled = Some(&[2.0, 9.0, 9.0, 9.0, -4.0, 9.0, 9.0, 9.0]);
    assert_eq!(scores(&problem, &inputs, &Hooks::default()).unwrap(), [6.0, -12.0]);
    problem.scoring = Scoring::Bound;
    inputs.pooled = Some(&[
        2.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, -4.0, 0.0, 0.0, 0.0, -5.0, 0.0, 0.0, 0.0,
    ]);
    assert_eq!(scores(&problem, &inputs, &Hooks::default()).unwrap(), [6.0, -12.0]);
}

/// Which of the four blocks of two of eight keys are candidates for a row at 3, whatever they are scored by.
fn candidates_of(change: impl FnOnce(&mut Dense), inputs: DenseInputs<'_>) -> Vec<usize> {
    let mut problem = tiny(1, 8);
    (problem.block_size, problem.scoring, problem.attention.q_offset) = (2, Scoring::Mean, Some(3));
    change(&mut problem.attention);
    let attention = DenseInputs {
        q: &[1.0],
        k: &[1.0; 8],
        v: &[1.0; 8],
        ..inputs
    };
    let inputs = TopKInputs {
        attention,
        pooled: None,
    };
    let scores = scores(&problem, &inputs, &Hooks::default()).unwrap();
    (0..4).filter(|&block| scores[block] > NONE).collect()
}

#[test]
fn positions_decide_what_is_a_candidate() {
    let none = DenseInputs::default();
    assert_eq!(candidates_of(|_| (), none), [0, 1, 2, 3]);
    assert_eq!(candidates_of(|p| p.causal = true, none), [0, 1]);
    assert_eq!(
        candidates_of(|p| (p.causal, p.q_offset) = (true, Some(4)), none),
        [0, 1, 2]
    );
    assert_eq!(
        candidates_of(|p| (p.window_left, p.window_right) = (Some(1), Some(0)), none),
        [1]
    );
    assert_eq!(
        candidates_of(|p| (p.window_left, p.window_right) = (Some(2), Some(1)), none),
        [0, 1, 2]
    );
    assert_eq!(
        candidates_of(|p| (p.window_left, p.sink_tokens) = (Some(0), 1), none),
        [0, 1, 2, 3]
    );
    let narrow = |p: &mut Dense| (p.causal, p.window_left, p.sink_tokens) = (true, Some(0), 1);
    assert_eq!(candidates_of(narrow, none), [0, 1]);
    assert_eq!(candidates_of(|p| (p.causal, p.prefix) = (true, 5), none), [0, 1, 2]);
    let kv_len = DenseInputs {
        kv_len: Some(&[3]),
        ..none
    };
    assert_eq!(candidates_of(|p| p.kv_len = true, kv_len), [0, 1]);
    // The only row's document has keys 3 to 6; it stands at 3 of them, which is key 6.
    let packed = DenseInputs {
        cu_seqlens_q: Some(&[0, 1]),
        cu_seqlens_k: Some(&[3, 6]),
        ..none
    };
    assert_eq!(candidates_of(|p| p.documents = Some(1), packed), [1, 2]);
    // What a tensor hides is no matter of positions.
    let masked = DenseInputs {
        mask: Some(&[0; 8]),
        ..none
    };
    assert_eq!(candidates_of(|p| p.mask = Some(Broadcast::FULL), masked), [0, 1, 2, 3]);
}

#[test]
fn the_diagonal_has_infinite_scores() {
    let mut problem = tiny(4, 8);
    (problem.top_k, problem.block_size, problem.query_block) = (3, 2, 3);
    (problem.attention.causal, problem.diagonal) = (true, true);
    let (q, k) = ([1.0; 4], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
    let inf = f64::INFINITY;
    // Rows stand at 4, 5, 6 and 7.
    assert_eq!(scored(&problem, &q, &k), [2.0, 4.0, inf, inf, 2.0, 4.0, 6.0, inf]);
    // From −1 on, the first row stands at no key; from 6 on, the last two do not.
    problem.attention.q_offset = Some(-1);
    assert_eq!(scored(&problem, &q, &k), [inf, NONE, NONE, NONE, 2.0, inf, NONE, NONE]);
    problem.attention.q_offset = Some(6);
    assert_eq!(scored(&problem, &q, &k), [2.0, 4.0, 6.0, inf, 2.0, 4.0, 6.0, 8.0]);
    // A window that ends before the row leaves its own block no candidate.
    problem.attention.q_offset = None;
    (problem.attention.causal, problem.attention.sink_tokens) = (false, 1);
    (problem.query_block, problem.attention.window_left) = (1, Some(0));
    problem.attention.window_right = Some(0);
    assert_eq!(
        scored(&problem, &q, &k)[..8],
        [1.0, NONE, inf, NONE, 1.0, NONE, inf, NONE]
    );
}

#[test]
fn the_diagonal_is_not_kept_where_a_mask_hides_it() {
    let mut problem = tiny(2, 4);
    (problem.top_k, problem.block_size, problem.diagonal) = (2, 2, true);
    problem.attention.mask = Some(Broadcast::FULL);
    let mut inputs = given(&[1.0, 1.0], &[1.0, 2.0, 3.0, 4.0], &[1.0; 4]);
    // Rows stand at 2 and 3, in the second block, of which the first row sees nothing and the second one key.
    inputs.attention.mask = Some(&[1, 1, 0, 0, 1, 0, 1, 0]);
    let (inf, hooks) = (f64::INFINITY, Hooks::default());
    assert_eq!(scores(&problem, &inputs, &hooks).unwrap(), [2.0, NONE, 1.0, inf]);
    // Blocks are scored without the mask.
    problem.scoring = Scoring::Mean;
    assert_eq!(scores(&problem, &inputs, &hooks).unwrap(), [1.5, inf, 1.5, inf]);
    // What another row of the list sees of it is no reason.
    (problem.scoring, problem.query_block) = (Scoring::Keys, 2);
    problem.attention.q_offset = Some(0);
    inputs.attention.mask = Some(&[0, 0, 1, 1, 0, 0, 1, 1]);
    assert_eq!(scores(&problem, &inputs, &hooks).unwrap(), [NONE, 4.0]);
}

#[test]
fn blocks_that_are_given_may_have_room_behind_them() {
    let mut problem = tiny(1, 4);
    (problem.block_size, problem.scoring, problem.pooled) = (2, Scoring::Mean, true);
    (problem.attention.heads, problem.pooled_room) = (2, Some(3));
    let mut inputs = given(&[1.0, 10.0], &[0.0; 8], &[0.0; 8]);
    let blocks: Vec<f32> = [1.0, 2.0, 9.0, 3.0, 4.0, 9.0]
        .iter()
        .flat_map(|&x| [x, 0.0, 0.0, 0.0])
        .collect();
    inputs.pooled = Some(&blocks);
    assert_eq!(
        scores(&problem, &inputs, &Hooks::default()).unwrap(),
        [1.0, 2.0, 30.0, 40.0]
    );
}

#[test]
fn the_diagonal_of_a_document_counts_from_its_first_key() {
    let mut problem = tiny(3, 7);
    (problem.top_k, problem.diagonal, problem.query_block) = (3, true, 2);
    problem.attention.documents = Some(2);
    let mut inputs = given(&[1.0; 3], &[1.0; 7], &[1.0; 7]);
    // Rows 0 and 1 stand at the last of the keys 1 to 3 and 3 to 6, and row 2 at none.
    inputs.attention.cu_seqlens_q = Some(&[0, 1, 2]);
    inputs.attention.cu_seqlens_k = Some(&[1, 3, 6]);
    let (inf, none) = (f64::INFINITY, NONE);
    assert_eq!(
        scores(&problem, &inputs, &Hooks::default()).unwrap(),
        [
            none, 1.0, inf, 1.0, 1.0, inf, none, none, none, none, none, none, none, none
        ]
    );
}

#[test]
fn select_keeps_the_greatest_and_of_equal_ones_the_first() {
    let problem = Select {
        columns: 6,
        top_k: 3,
        ..Default::default()
    };
    let keep = |row: [f64; 6]| select(&problem, &row).unwrap();
    assert_eq!(keep([1.0, 6.0, 2.0, 5.0, 3.0, 4.0]), [3, 1, 3, 5]);
    assert_eq!(keep([1.0, 2.0, 2.0, 2.0, 2.0, 1.0]), [3, 1, 2, 3]);
    assert_eq!(keep([0.0, -0.0, 0.0, -1.0, -0.0, 0.0]), [3, 0, 1, 2]);
    assert_eq!(keep([-5.0, f64::INFINITY, 2.0, 1.0, f64::INFINITY, 9.0]), [3, 1, 4, 5]);
    assert_eq!(keep([NONE, f64::NAN, -9.0, NONE, f64::NAN, -8.0]), [2, 2, 5, 0]);
    assert_eq!(keep([NONE; 6]), [0; 4]);
}

#[test]
fn select_keeps_what_is_forced() {
    let problem = Select {
        rows: 2,
        columns: 6,
        top_k: 3,
        first: 1,
        last: 1,
        capacity: Some(4),
    };
    let rows = [1.0, 6.0, 7.0, 5.0, 2.0, 3.0, NONE, 6.0, 5.0, 7.0, 1.0, NONE];
    assert_eq!(select(&problem, &rows).unwrap(), [3, 0, 2, 5, 0, 3, 1, 3, 4, 0]);
    // Those that are no candidates are not kept, and those that are forced twice are one.
    let problem = Select { last: 2, ..problem };
    let rows = [4.0, NONE, 3.0, NONE, 9.0, 9.0, 1.0, NONE, 3.0, NONE, NONE, NONE];
    assert_eq!(select(&problem, &rows).unwrap(), [3, 0, 4, 5, 0, 2, 0, 2, 0, 0]);
    let problem = Select {
        first: 3,
        last: 0,
        ..problem
    };
    assert_eq!(select(&problem, &rows).unwrap(), [3, 0, 2, 4, 0, 2, 0, 2, 0, 0]);
}

#[test]
fn lists_are_extended_by_what_they_do_not_have() {
    let problem = Extend {
        lists: 3,
        capacity: 4,
        held: 2,
        from: 4,
        to: 6,
    };
    let lists = [0, 7, 7, 7, 7, 2, 1, 4, 7, 7, 1, 9, 7, 7, 7];
    assert_eq!(
        extend(&problem, &lists).unwrap(),
        [2, 4, 5, 7, 7, 3, 1, 4, 5, 7, 1, 9, 7, 7, 7]
    );
    let error = extend(&problem, &[2, 1, 2, 0, 0, 3, 1, 2, 3, 0, 0, 0, 0, 0, 0]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "input `lists`: list 1 has 3 entries; needed: at most `held`, 2"
    );
}

#[test]
fn blocks_behind_a_length_are_zero_and_the_last_is_short() {
    let mut problem = Pool {
        batch: 2,
        keys: 5,
        head_dim: 1,
        block_size: 2,
        kv_len: true,
        room: Some(4),
        from_key: 4,
        ..Default::default()
    };
    let k = [1.0, 3.0, 5.0, 7.0, 9.0, 2.0, 4.0, 6.0, 8.0, 10.0];
    let firsts = |problem: &Pool| -> Vec<f64> {
        let blocks = pool(problem, &k, Some(&[3, 5])).unwrap();
        assert!(blocks.chunks(4).all(|block| block[1..] == [0.0; 3]));
        blocks.chunks(4).map(|block| block[0]).collect()
    };
    assert_eq!(firsts(&problem), [2.0, 5.0, 0.0, 0.0, 3.0, 7.0, 10.0, 0.0]);
    problem.pooling = Pooling::Bounds;
    assert_eq!(
        firsts(&problem),
        [
            3.0, 1.0, 5.0, 5.0, 0.0, 0.0, 0.0, 0.0, 4.0, 2.0, 8.0, 6.0, 10.0, 10.0, 0.0, 0.0
        ]
    );
    let error = pool(&problem, &k, Some(&[6, 5])).unwrap_err();
    assert_eq!(
        error.to_string(),
        "input `kv_len`: 6 at batch entry 0; needed: 0 to Nk = 5"
    );
}

#[test]
fn attention_is_over_what_is_kept_and_seen() {
    let mut problem = tiny(2, 4);
    (problem.top_k, problem.block_size, problem.query_block) = (1, 2, 2);
    problem.attention.causal = true;
    // Rows stand at 2 and 3; both keep the second block, of which the first row sees one key.
    let inputs = given(&[0.0, 0.0], &[0.0; 4], &[1.0, 2.0, 4.0, 8.0]);
    let lists = [1, 1];
    let output = attend(&problem, &inputs, &Hooks::default(), &lists).unwrap();
    assert_eq!(output.o, [4.0, 6.0]);
    assert_eq!(output.lse.unwrap(), [0.0, 2f64.ln()]);
    let output = top_k(&problem, &inputs, &Hooks::default()).unwrap();
    assert_eq!(output.selection, [1, 0]);
    assert_eq!(output.o, [1.5, 1.5]);
    // An empty list attends to nothing.
    let output = attend(&problem, &inputs, &Hooks::default(), &[0, 1]).unwrap();
    assert_eq!(output.o, [0.0, 0.0]);
    assert_eq!(output.lse.unwrap(), [NONE, NONE]);
    assert!(attend(&problem, &inputs, &Hooks::default(), &[1, 2]).is_err());
}

#[test]
fn sigmoid_attention_is_over_what_is_kept() {
    let mut problem = tiny(1, 3);
    problem.attention.weighting = Weighting::Sigmoid { bias: Some(0.0) };
    (problem.attention.lse, problem.top_k, problem.room) = (false, 2, 1);
    let inputs = given(&[1.0], &[1.0, 0.0, 0.0], &[0.0, 2.0, 4.0]);
    let output = top_k(&problem, &inputs, &Hooks::default()).unwrap();
    assert_eq!(output.selection, [2, 0, 1, 0]);
    assert_eq!((output.o, output.lse), (vec![1.0], None));
}
