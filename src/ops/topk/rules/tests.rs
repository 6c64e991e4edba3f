//! Every mistake in a problem, with its own message.

use super::*;
use crate::ops::dense::Dense;
use crate::ops::selection::Selection;
use crate::tensor::{Layout, Strides};

/// H = 4, Hkv = 2, Nq = 10, Nk = 50 in 13 blocks of 4.
fn good() -> TopK {
    TopK {
        attention: Dense {
            heads: 4,
            kv_heads: Some(2),
            queries: 10,
            keys: 50,
            ..Default::default()
        },
        top_k: 6,
        block_size: 4,
        query_block: 8,
        per_kv_head: true,
        scoring: Scoring::Bound,
        first: 1,
        last: 2,
        diagonal: true,
        pooled: true,
        ..Default::default()
    }
}

#[track_caller]
fn refused(result: Result<()>, message: &str) {
    assert_eq!(result.map_err(|error| error.to_string()), Err(message.to_string()));
}

fn top_k(change: impl FnOnce(&mut TopK)) -> Result<()> {
    let mut problem = good();
    change(&mut problem);
    check(&problem)
}

#[test]
fn what_is_right_passes() {
    assert_eq!(check(&TopK::default()), Ok(()));
    assert_eq!(check(&good()), Ok(()));
    assert_eq!(top_k(|p| p.room = MAX_POSITION - 6), Ok(()));
    assert_eq!(top_k(|p| (p.scoring, p.pooled) = (Scoring::Keys, false)), Ok(()));
    assert_eq!(
        top_k(|p| (p.block_size, p.diagonal, p.attention.softcap) = (1, false, Some(2.0))),
        Ok(())
    );
    assert_eq!(check_pool(&Pool::default()), Ok(()));
    assert_eq!(check_select(&Select::default()), Ok(()));
    assert_eq!(check_hierarchical(&Hierarchical::default()), Ok(()));
}

#[test]
fn mistakes_in_a_top_k_problem_are_named() {
    let selection = Selection {
        block_size: 4,
        query_block: 1,
        per_kv_head: false,
        capacity: 3,
    };
    refused(
        top_k(|p| p.attention.selection = Some(selection)),
        "`attention.selection` is given; allowed: `None`: the selection is what is sought",
    );
    refused(top_k(|p| p.attention.keys = 0), "`keys` is 0; allowed: 1 to 268435456");
    refused(top_k(|p| p.top_k = 0), "`top_k` is 0; allowed: 1 to 268435456");
    refused(
        top_k(|p| p.block_size = 0),
        "`block_size` is 0; allowed: 1 to 268435456",
    );
    refused(
        top_k(|p| p.query_block = 0),
        "`query_block` is 0; allowed: 1 to 268435456",
    );
    refused(
        top_k(|p| p.room = MAX_POSITION - 5),
        "`room` is 268435451; allowed: 0 to 268435450",
    );
    refused(
        top_k(|p| p.scoring = Scoring::Keys),
        "`pooled` is true; allowed: false with `Scoring::Keys`, which reads the keys themselves",
    );
    refused(
        top_k(|p| p.top_k = 4),
        "`top_k` is 4; allowed: at least `first` + `last`, 1 + 2, + the 2 entries that the rows of a list may stand in",
    );
    refused(
        top_k(|p| (p.diagonal, p.first, p.last) = (false, u32::MAX, 3)),
        "`top_k` is 6; allowed: at least `first` + `last`, 4294967295 + 3",
    );
}

#[test]
fn problems_of_absurd_size_are_refused() {
    let many = |p: &mut TopK| {
        (p.attention.heads, p.attention.kv_heads) = (1 << 20, Some(1));
        (p.attention.queries, p.query_block, p.per_kv_head, p.diagonal) = (1 << 12, 1, false, false);
    };
    refused(
        top_k(many),
        "`query_block` is 1; allowed: so many that [1, 1048576, ⌈Nq/query_block⌉] lists are fewer than 2^32",
    );
    let wide = |p: &mut TopK| {
        many(p);
        (p.attention.queries, p.attention.keys, p.block_size) = (1 << 10, 1 << 20, 1);
    };
    refused(
        top_k(wide),
        "`block_size` is that of a tensor of shape [1073741824, 1048576]; allowed: fewer than 2^48 elements",
    );
    // Keys that lie in one place are pooled into tensors of their own.
    let apart = |p: &mut TopK| {
        (p.attention.batch, p.attention.keys, p.block_size) = (1 << 14, MAX_POSITION, 1);
        (p.attention.queries, p.diagonal) = (1, false);
        let still = Layout::Strided(Strides {
            batch: 0,
            head: 0,
            seq: 0,
        });
        (p.attention.k_layout, p.attention.v_layout) = (still, still);
    };
    refused(
        top_k(apart),
        "`room` is that of a tensor of shape [16384, 2, 268435456, 128]; allowed: fewer than 2^48 elements",
    );
}

#[test]
fn the_entries_that_rows_stand_in_are_counted() {
    let count = |change: fn(&mut TopK)| {
        let mut problem = good();
        change(&mut problem);
        diagonal_entries(&problem)
    };
    // Rows 0 to 7 stand at 40 to 47, which is entries 10 and 11; one row further it is three.
    assert_eq!(count(|p| p.attention.q_offset = Some(40)), 2);
    assert_eq!(count(|p| p.attention.q_offset = Some(41)), 3);
    assert_eq!(count(|p| p.attention.q_offset = Some(-3)), 3);
    assert_eq!(count(|p| p.attention.q_offset = None), 2);
    assert_eq!(count(|p| p.attention.keys = 51), 3);
    // A length known on the device alone, or lists that begin at several places: the worst that may be.
    assert_eq!(count(|p| p.attention.kv_len = true), 3);
    assert_eq!(count(|p| p.query_block = 6), 3);
    assert_eq!(count(|p| p.query_block = 5), 2);
    assert_eq!(count(|p| p.query_block = 1), 1);
    // Documents of 2, 2 and 4 rows may stand in two entries each.
    assert_eq!(count(|p| p.attention.documents = Some(3)), 6);
    assert_eq!(count(|p| p.attention.documents = Some(9)), 8);
    assert_eq!(count(|p| (p.query_block, p.attention.documents) = (2, Some(9))), 2);
    // There are no more than there are.
    assert_eq!(count(|p| (p.attention.keys, p.block_size) = (3, 1)), 3);
    assert_eq!(count(|p| p.block_size = 1), 8);
}

#[test]
fn no_list_stands_in_more_entries_than_counted() {
    for (offset, queries, query_block, block_size) in every_small() {
        let mut problem = good();
        (problem.attention.q_offset, problem.attention.queries) = (Some(offset), queries);
        (problem.query_block, problem.block_size) = (query_block, block_size);
        let bound = diagonal_entries(&problem);
        let rows: Vec<_> = (0..queries)
            .map(|row| (row as i32 + offset).div_euclid(block_size as i32))
            .collect();
        let most = rows
            .chunks(query_block as usize)
            .map(|rows| rows.last().unwrap() - rows[0] + 1)
            .max()
            .unwrap();
        assert!(most as u32 <= bound, "{offset} {queries} {query_block} {block_size}");
        let is_exact = query_block.is_multiple_of(block_size);
        assert!(
            !is_exact || most as u32 == bound,
            "{offset} {queries} {query_block} {block_size}"
        );
    }
}

fn every_small() -> impl Iterator<Item = (i32, u32, u32, u32)> {
    (0..9).flat_map(|offset| {
        (1..9).flat_map(move |queries| {
            (1..9).flat_map(move |query_block| (1..5).map(move |size| (offset, queries, query_block, size)))
        })
    })
}

#[test]
fn mistakes_in_a_pooling_are_named() {
    let pool = |change: fn(&mut Pool)| {
        let mut problem = Pool {
            keys: 10,
            block_size: 4,
            ..Default::default()
        };
        change(&mut problem);
        check_pool(&problem)
    };
    assert_eq!(pool(|p| (p.room, p.from_key) = (Some(3), 9)), Ok(()));
    refused(pool(|p| p.batch = 0), "`batch` is 0; allowed: 1 to 268435456");
    refused(pool(|p| p.kv_heads = 0), "`kv_heads` is 0; allowed: 1 to 268435456");
    refused(pool(|p| p.keys = 0), "`keys` is 0; allowed: 1 to 268435456");
    refused(pool(|p| p.head_dim = 257), "`head_dim` is 257; allowed: 1 to 256");
    refused(pool(|p| p.block_size = 0), "`block_size` is 0; allowed: 1 to 268435456");
    refused(pool(|p| p.room = Some(2)), "`room` is 2; allowed: 3 to 268435456");
    refused(pool(|p| p.from_key = 10), "`from_key` is 10; allowed: 0 to 9");
    let far = |p: &mut Pool| {
        p.k_layout = Layout::Strided(Strides {
            batch: 0,
            head: 0,
            seq: 1 << 47,
        });
    };
    refused(
        pool(far),
        "`k_layout` is Strides { batch: 0, head: 0, seq: 140737488355328 }; allowed: strides whose last element's \
         index fits 48 bits",
    );
    refused(
        pool(|p| (p.batch, p.room) = (1 << 14, Some(MAX_POSITION))),
        "`room` is that of a tensor of shape [16384, 1, 268435456, 64]; allowed: fewer than 2^48 elements",
    );
}

#[test]
fn mistakes_in_a_selecting_are_named() {
    let select = |change: fn(&mut Select)| {
        let mut problem = Select {
            rows: 2,
            columns: 9,
            top_k: 4,
            first: 1,
            last: 3,
            capacity: Some(5),
        };
        change(&mut problem);
        check_select(&problem)
    };
    assert_eq!(select(|_| ()), Ok(()));
    assert_eq!(select(|p| (p.columns, p.capacity) = (1, None)), Ok(()));
    refused(select(|p| p.rows = 0), "`rows` is 0; allowed: 1 to 268435456");
    refused(select(|p| p.columns = 0), "`columns` is 0; allowed: 1 to 268435456");
    refused(select(|p| p.top_k = 0), "`top_k` is 0; allowed: 1 to 268435456");
    refused(
        select(|p| p.last = u32::MAX),
        "`last` is 4294967295; allowed: at most `top_k` − `first`, 3",
    );
    refused(
        select(|p| p.capacity = Some(3)),
        "`capacity` is 3; allowed: `top_k`, 4, to 268435456",
    );
    refused(
        select(|p| (p.rows, p.columns) = (1 << 20, MAX_POSITION)),
        "`columns` is that of a tensor of shape [1048576, 268435456]; allowed: fewer than 2^48 elements",
    );
    refused(
        select(|p| (p.rows, p.capacity) = (1 << 20, Some(MAX_POSITION))),
        "`capacity` is that of a tensor of shape [1048576, 268435457]; allowed: fewer than 2^48 elements",
    );
}

#[test]
fn mistakes_in_a_lengthening_are_named() {
    let extend = |change: fn(&mut Extend)| {
        let mut problem = Extend {
            lists: 3,
            capacity: 9,
            held: 7,
            from: 100,
            to: 102,
        };
        change(&mut problem);
        check_extend(&problem)
    };
    assert_eq!(extend(|_| ()), Ok(()));
    refused(extend(|p| p.lists = 0), "`lists` is 0; allowed: 1 to 268435456");
    refused(extend(|p| p.capacity = 0), "`capacity` is 0; allowed: 1 to 268435456");
    refused(
        extend(|p| p.held = 10),
        "`held` is 10; allowed: at most `capacity` − (`to` − `from`), 9 − 2, where that is not negative",
    );
    refused(
        extend(|p| p.to = u32::MAX),
        "`to` is 4294967295; allowed: 1 to 268435456",
    );
    refused(extend(|p| p.from = 102), "`from` is 102; allowed: below `to`, 102");
    refused(
        extend(|p| p.from = 99),
        "`held` is 7; allowed: at most `capacity` − (`to` − `from`), 9 − 3, where that is not negative",
    );
    refused(
        extend(|p| (p.lists, p.capacity) = (1 << 20, MAX_POSITION)),
        "`capacity` is that of a tensor of shape [1048576, 268435457]; allowed: fewer than 2^48 elements",
    );
}

#[test]
fn mistakes_in_a_search_are_named() {
    let search = |change: fn(&mut Hierarchical)| {
        let mut problem = Hierarchical::default();
        change(&mut problem);
        check_hierarchical(&problem)
    };
    assert_eq!(
        search(|p| (p.query_block, p.block_size, p.top_k) = (1024, 64, 512)),
        Ok(())
    );
    let selection = Hierarchical::default().selection();
    assert_eq!(selection.capacity, 256 + 64 + 1);
    refused(
        search(|p| p.attention.selection = Some(p.selection())),
        "`attention.selection` is given; allowed: `None`: the selection is what is sought",
    );
    refused(
        search(|p| p.attention.heads = 0),
        "`heads` is 0; allowed: 1 to 268435456",
    );
    refused(
        search(|p| p.attention.documents = Some(2)),
        "`attention.documents` is Some(2); allowed: `None`: the search knows one sequence a batch entry",
    );
    refused(
        search(|p| p.attention.kv_len = true),
        "`attention.kv_len` is true; allowed: false: the search goes over all keys of the tensor",
    );
    refused(
        search(|p| p.query_block = 1025),
        "`query_block` is 1025; allowed: 1 to 1024",
    );
    refused(search(|p| p.block_size = 65), "`block_size` is 65; allowed: 1 to 64");
    refused(search(|p| p.top_k = 513), "`top_k` is 513; allowed: 1 to 512");
    refused(
        search(|p| p.window = u32::MAX),
        "`window` is 4294967295; allowed: 0 to 268435456",
    );
    refused(
        search(|p| p.sink_tokens = u32::MAX),
        "`sink_tokens` is 4294967295; allowed: 0 to 268435456",
    );
    refused(
        search(|p| (p.block_size, p.window, p.sink_tokens) = (1, MAX_POSITION, 1)),
        "`selection.capacity` is 268435714; allowed: 1 to 268435456",
    );
}
