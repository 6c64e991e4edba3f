//! The hierarchical search by hand.

use super::super::hierarchical::{initial_group, split};
use super::*;
use crate::ops::selection::Selection;
use crate::ops::topk::Hierarchical;

/// D = 1; one tile of one row over 16 keys in blocks of two, of which the search keeps two.
fn tiny() -> Hierarchical {
    Hierarchical {
        attention: Dense {
            keys: 16,
            head_dim: 1,
            ..Default::default()
        },
        query_block: 4,
        block_size: 2,
        top_k: 2,
        window: 0,
        sink_tokens: 0,
    }
}

/// The entries of the lists, one after another.
fn found(problem: &Hierarchical, q: &[f32], k: &[f32]) -> Vec<Vec<u32>> {
    let lists = hierarchical(problem, q, k).unwrap();
    let selection = problem.selection();
    selection.check(&problem.attention, &lists).unwrap();
    let lists = lists.chunks(1 + selection.capacity as usize);
    lists
        .map(|list| {
            let (entries, room) = list[1..].split_at(list[0] as usize);
            assert!(room.iter().all(|&word| word == 0));
            entries.to_vec()
        })
        .collect()
}

/// Keys that are alike in each block of two.
fn blocks(values: [f32; 8]) -> Vec<f32> {
    values.iter().flat_map(|&value| [value, value]).collect()
}

#[test]
fn groups_cover_all_blocks_once() {
    let groups = |blocks, count| (0..count).map(|i| initial_group(i, blocks, count)).collect::<Vec<_>>();
    assert_eq!(groups(8, 2), [0..4, 4..8]);
    assert_eq!(groups(7, 3), [0..2, 2..4, 4..7]);
    assert_eq!(groups(3, 3), [0..1, 1..2, 2..3]);
    assert_eq!(initial_group(511, 1 << 28, 512).end, 1 << 28);
    assert_eq!(split(&(4..8)), [4..6, 6..8]);
    assert_eq!(split(&(4..7)), [4..5, 5..7]);
    assert_eq!(split(&(4..5)), [4..4, 4..5]);
}

#[test]
fn the_search_goes_where_first_blocks_score_best() {
    // 0..4 and 4..8 split into 0..2, 2..4, 4..6 and 6..8, which begin with 1, 5, 2 and 3; the best two are 2..4, 6..8.
    let k = blocks([1.0, 9.0, 5.0, 6.0, 2.0, 8.0, 3.0, 4.0]);
    assert_eq!(found(&tiny(), &[1.0], &k), [[2, 3]]);
    // Ties go to the lower start.
    assert_eq!(found(&tiny(), &[0.0], &k), [[0, 1]]);
    // The best key of a block speaks for it, and scores have the sign of the scale.
    let mut problem = tiny();
    problem.attention.scale = Some(-1.0);
    let mut k = blocks([1.0, 9.0, 5.0, 6.0, 2.0, 8.0, 3.0, 4.0]);
    k[13] = -7.0;
    assert_eq!(found(&problem, &[1.0], &k), [[0, 6]]);
}

#[test]
fn a_group_of_one_waits_for_the_others() {
    // Seven blocks in three groups: 0..2, 2..4 and 4..7.
    let mut problem = tiny();
    (problem.top_k, problem.window) = (3, 1);
    // First 0, 1, 2, 3, 4 and 5..7 with 1, 2, 9, 3, 4 and 8: 2, 4 and 5..7 are best; then 2, 4, 5 and 6 are compared.
    let k = blocks([1.0, 2.0, 9.0, 3.0, 4.0, 8.0, 7.0, 0.0]);
    assert_eq!(found(&problem, &[1.0], &k), [[2, 5, 6, 7]]);
}

#[test]
fn few_blocks_are_all_kept() {
    let mut problem = tiny();
    problem.top_k = 8;
    let all: Vec<_> = (0..8).collect();
    assert_eq!(found(&problem, &[1.0], &blocks([0.0; 8])), [all]);
}

#[test]
fn window_and_sinks_are_kept_besides() {
    let mut problem = tiny();
    (problem.window, problem.sink_tokens) = (3, 3);
    // 13 keys lie before the window, six whole blocks; of those, 4 and 5 are found.
    let k = blocks([0.0, 0.0, 0.0, 1.0, 5.0, 4.0, 0.0, 0.0]);
    assert_eq!(found(&problem, &[1.0], &k), [[0, 1, 4, 5, 6, 7]]);
    // A window beyond the first key leaves nothing to search, and the sinks lie in it.
    problem.window = 100;
    let all: Vec<_> = (0..8).collect();
    assert_eq!(found(&problem, &[1.0], &k), [all]);
    // Sinks end where the keys do.
    (problem.window, problem.sink_tokens) = (0, 100);
    let all: Vec<_> = (0..8).collect();
    assert_eq!(found(&problem, &[1.0], &k), [all]);
}

#[test]
fn a_causal_tile_ends_at_its_last_row() {
    let mut problem = tiny();
    (problem.attention.queries, problem.attention.causal) = (6, true);
    (problem.top_k, problem.window) = (1, 1);
    let k = blocks([0.0, 3.0, 0.0, 0.0, 0.0, 9.0, 0.0, 0.0]);
    // Rows stand at 10 to 15, tiles end at 14 and 16. In 0..6 and 0..7 the search splits at 3, with 0 on either side
    // and a tie, and so on to block 1 or 0.
    assert_eq!(found(&problem, &[1.0; 6], &k), [[1, 6], [1, 7]]);
    // Rows that stand before the first key see nothing, and one past the last no more than all.
    problem.attention.q_offset = Some(-4);
    assert_eq!(found(&problem, &[1.0; 6], &k), [vec![], vec![0]]);
    problem.attention.q_offset = Some(100);
    assert_eq!(found(&problem, &[1.0; 6], &k), [[1, 7], [1, 7]]);
}

#[test]
fn odd_rows_speak_for_a_tile_with_the_keys_they_see() {
    let mut problem = tiny();
    (problem.attention.queries, problem.top_k) = (5, 1);
    let k = blocks([4.0, 0.0, 0.0, 0.0, -5.0, 0.0, 0.0, 0.0]);
    // Of the first tile rows 1 and 3, of the second its only row.
    assert_eq!(found(&problem, &[-9.0, 1.0, -9.0, 1.0, 1.0], &k), [[0], [0]]);
    assert_eq!(found(&problem, &[1.0, -1.0, 1.0, -1.0, -1.0], &k), [[4], [4]]);
    assert_eq!(found(&problem, &[1.0, 1.0, 1.0, -1.0, -1.0], &k), [[4], [4]]);
    // The tile ends at 3 and has block 2, but row 1 stands at 1: −∞ is less than any score.
    problem.attention.causal = true;
    (problem.attention.queries, problem.attention.q_offset) = (3, Some(0));
    (problem.block_size, problem.top_k) = (1, 2);
    let mut k = vec![-4.0, -5.0, 9.0];
    k.resize(16, 0.0);
    assert_eq!(found(&problem, &[1.0; 3], &k), [[0, 1]]);
    problem.attention.q_offset = Some(1);
    assert_eq!(found(&problem, &[1.0; 3], &k), [[0, 2]]);
}

#[test]
fn every_head_searches_the_keys_it_reads() {
    let mut problem = tiny();
    (problem.attention.batch, problem.attention.heads) = (2, 4);
    (problem.attention.kv_heads, problem.top_k) = (Some(2), 1);
    // The best block of each KV head is another, and it begins a group at every split.
    let k: Vec<f32> = [0, 4, 2, 6]
        .iter()
        .flat_map(|&best| {
            let near = move |block: usize| {
                if block == best {
                    9.0
                } else if block == best & 4 {
                    5.0
                } else {
                    0.0
                }
            };
            (0..16).map(move |key| near(key / 2))
        })
        .collect();
    assert_eq!(found(&problem, &[1.0; 8], &k), [[0], [0], [4], [4], [2], [2], [6], [6]]);
}

#[test]
fn recall_is_the_share_of_the_exact_entries() {
    let attention = Dense {
        queries: 2,
        keys: 9,
        ..Default::default()
    };
    let exact = Selection {
        block_size: 1,
        query_block: 1,
        per_kv_head: false,
        capacity: 3,
    };
    let found = Selection { capacity: 4, ..exact };
    let exact_lists = [3, 1, 2, 3, 1, 8, 0, 0];
    let recall_of = |lists: &[u32]| recall(&attention, (&found, lists), (&exact, &exact_lists));
    assert_eq!(recall_of(&[4, 0, 1, 2, 3, 2, 7, 8, 0, 0]), Ok(1.0));
    assert_eq!(recall_of(&[1, 2, 0, 0, 0, 1, 3, 8, 0, 0]), Ok(0.25));
    assert_eq!(recall_of(&[0; 10]), Ok(0.0));
    assert_eq!(recall(&attention, (&exact, &[0; 8]), (&exact, &[0; 8])), Ok(1.0));
    assert!(recall_of(&[0; 8]).is_err());
    let coarse = Selection { block_size: 2, ..found };
    assert!(recall(&attention, (&coarse, &[0; 10]), (&exact, &exact_lists)).is_err());
}
