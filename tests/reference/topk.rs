//! Top-k attention: golden cases, and scores, lists and attention in a second form each.

use std::path::PathBuf;

use wgpu_attention::case::{Case, DenseCaseInputs, Op, TopKCase};
use wgpu_attention::compare::Tolerance;
use wgpu_attention::dense::reference::{Hooks, dense};
use wgpu_attention::topk::reference::{attend, hierarchical, pool, recall, scores, select, selected, top_k};
use wgpu_attention::{
    Broadcast, DType, Dense, DenseInputs, Hierarchical, Pool, Pooling, Scoring, Select, TopK, TopKInputs, TopKOutput,
};

use crate::dense::{half_by_parity, pairs, scores as key_scores, slice, two_of_three, visibility};
use crate::{Random, agree, golden};

fn narrow(output: &TopKOutput<f64>) -> TopKOutput<f32> {
    let narrow = |values: &Vec<f64>| values.iter().map(|&v| v as f32).collect();
    TopKOutput {
        o: narrow(&output.o),
        lse: output.lse.as_ref().map(narrow),
        selection: output.selection.clone(),
    }
}

/// A golden top-k case and the reference's answer to it.
fn solve(path: &PathBuf) -> (Case, TopKCase, TopKOutput<f32>) {
    let case = Case::load(path).unwrap();
    let Op::TopK(attention) = case.op.clone() else {
        panic!("{} is not top-k", path.display())
    };
    let output = top_k(&attention.problem, &attention.inputs(), &Hooks::default()).unwrap();
    (case, attention, narrow(&output))
}

#[test]
fn reference_passes_every_golden_case() {
    let files = golden("topk");
    assert_eq!(files.len(), 10);
    let mut failed = 0;
    for path in &files {
        let (case, attention, output) = solve(path);
        // The inputs in the file are the rounded ones, so that the answer is right to f32 whatever their type.
        let result = attention.compare(&output, &Tolerance::for_dtype(DType::F32)).unwrap();
        let keys = selected(
            &attention.problem,
            &attention.inputs(),
            &Hooks::default(),
            &output.selection,
        )
        .unwrap();
        let passed = result.passed() && keys == attention.expected_selected;
        println!(
            "{} {} {}: {result}",
            if passed { "ok  " } else { "FAIL" },
            case.name,
            case.dtype
        );
        failed += usize::from(!passed);
    }
    assert_eq!(failed, 0);
}

#[test]
fn no_golden_case_passes_with_a_row_zeroed_or_a_list_changed() {
    let mut changed = 0;
    for path in golden("topk") {
        let (case, attention, output) = solve(&path);
        let tolerance = Tolerance::for_dtype(case.dtype);
        let mut bad = output.clone();
        bad.o
            .rchunks_mut(attention.problem.attention.value_dim() as usize)
            .next()
            .expect("a row")
            .fill(0.0);
        assert!(!attention.compare(&bad, &tolerance).unwrap().passed(), "{}", case.name);

        let mut bad = output.clone();
        if worsen(&attention, &mut bad.selection) {
            let result = attention.compare(&bad, &tolerance).unwrap();
            assert!(!result.selection.passed(), "{}: {result}", case.name);
            assert!(!result.selected.expect("from a case").passed(), "{}", case.name);
            changed += 1;
        }
    }
    // One case keeps all there is, and in one all scores of that list are alike.
    assert_eq!(changed, 8);
}

/// Puts the worst candidate in place of the best entry of the last list, if there is one that it does not have, and they
/// do not tie.
fn worsen(case: &TopKCase, lists: &mut [u32]) -> bool {
    let problem = &case.problem;
    let scores = scores(problem, &case.inputs(), &Hooks::default()).unwrap();
    let row = &scores[scores.len() - problem.selection().entries(&problem.attention) as usize..];
    let list = lists.len() - 1 - problem.selection().capacity as usize;
    let list = &mut lists[list..];
    let mut kept: Vec<_> = list[1..][..list[0] as usize].to_vec();
    let by_score = |a: &u32, b: &u32| row[*a as usize].total_cmp(&row[*b as usize]);
    let left_out = (0..row.len() as u32).filter(|&e| row[e as usize] > f64::NEG_INFINITY && !kept.contains(&e));
    let Some(worst) = left_out.min_by(by_score) else {
        return false;
    };
    let best = (0..kept.len()).max_by(|&a, &b| by_score(&kept[a], &kept[b])).unwrap();
    if row[worst as usize] == row[kept[best] as usize] {
        return false;
    }
    kept[best] = worst;
    kept.sort();
    list[1..][..kept.len()].copy_from_slice(&kept);
    true
}

#[test]
fn golden_cases_are_written_back_the_same() {
    for path in golden("topk") {
        let case = Case::load(&path).unwrap();
        assert_eq!(Case::from_bytes(&case.name, &case.to_bytes().unwrap()).unwrap(), case);
    }
}

impl Random {
    fn top_k_problem(&mut self) -> TopK {
        let attention = self.dense_problem();
        let query_block = 1 + self.below(6);
        let diagonal = self.one_in(3);
        let (first, last) = (self.maybe(3, |r| r.below(3)), self.maybe(3, |r| r.below(3)));
        let (first, last) = (first.unwrap_or(0), last.unwrap_or(0));
        let forced = first + last + if diagonal { query_block } else { 0 };
        TopK {
            top_k: forced + self.below(8) + u32::from(forced == 0),
            block_size: 1 + self.maybe(2, |r| r.below(5)).unwrap_or(0),
            query_block,
            per_kv_head: self.one_in(2),
            scoring: match self.below(4) {
                0 | 1 => Scoring::Keys,
                2 => Scoring::Mean,
                _ => Scoring::Bound,
            },
            first,
            last,
            diagonal,
            room: self.maybe(3, |r| r.below(3)).unwrap_or(0),
            attention,
            ..Default::default()
        }
    }

    fn lists(&mut self, problem: &TopK) -> Vec<u32> {
        let selection = problem.selection();
        let [b, h, lists, words] = selection.dims(&problem.attention);
        let mut tensor = Vec::new();
        for _ in 0..b * h * lists {
            let mut entries: Vec<u32> = (0..selection.entries(&problem.attention))
                .filter(|_| self.one_in(2))
                .collect();
            entries.truncate(selection.capacity as usize);
            tensor.push(entries.len() as u32);
            tensor.extend(&entries);
            // What lies behind the entries is not read.
            tensor.extend((entries.len() as u32 + 1..words).map(|_| self.next() as u32));
        }
        tensor
    }
}

/// The CPU twins of what `dense_problem` draws.
fn hooks(p: &Dense) -> Hooks<'static> {
    let custom = p.custom.clone().unwrap_or_default();
    Hooks {
        score: custom.score.is_some().then_some(&half_by_parity),
        mask: custom.mask.is_some().then_some(&two_of_three),
    }
}

fn inputs(tensors: &DenseCaseInputs) -> TopKInputs<'_> {
    TopKInputs {
        attention: tensors.inputs(),
        pooled: None,
    }
}

/// The query heads and rows of list `list` of head `head` of a selection.
fn rows_of(problem: &TopK, head: u32, list: u32) -> Vec<(u32, u32)> {
    let p = &problem.attention;
    let heads = if problem.per_kv_head { p.kv_heads() } else { p.heads };
    let is_own = |h: u32| h * heads / p.heads == head;
    let rows = (0..p.queries).filter(|row| row / problem.query_block == list);
    rows.flat_map(|row| (0..p.heads).filter(|&h| is_own(h)).map(move |h| (h, row)))
        .collect()
}

/// The scores of all lists, from matrices.
fn scores_by_matrices(problem: &TopK, t: &DenseCaseInputs) -> Vec<f64> {
    let [batches, heads, lists, _] = problem.selection().dims(&problem.attention);
    let mut all = Vec::new();
    for b in 0..batches as usize {
        for head in 0..heads {
            for list in 0..lists {
                all.extend(list_by_matrices(problem, t, b, &rows_of(problem, head, list)));
            }
        }
    }
    all
}

/// The scores of one list, whose rows are `(head, row)`.
fn list_by_matrices(problem: &TopK, t: &DenseCaseInputs, b: usize, rows: &[(u32, u32)]) -> Vec<f64> {
    let p = &problem.attention;
    let by_position = Dense {
        mask: None,
        ..p.clone()
    };
    let entries = p.keys.div_ceil(problem.block_size) as usize;
    let mut scores = vec![f64::NEG_INFINITY; entries];
    let mut own = vec![false; entries];
    for &(h, i) in rows {
        let (h, i) = (h as usize, i as usize);
        let (seen, places) = (visibility(&by_position, t, b, h), pairs(p, t, b));
        for (j, &score) in pooled_or_keys(problem, t, b, h, i).iter().enumerate() {
            let entry = j / problem.block_size as usize;
            if !seen.at(i, j) || score == f64::NEG_INFINITY {
                continue;
            }
            scores[entry] = scores[entry].max(score);
            // A row that sees a key of the entry it stands in, be there a key at its own position or not.
            own[entry] |= places.at(i, j).is_some_and(|(a, relative)| {
                let position = j as i64 + a - relative;
                position.div_euclid(problem.block_size.into()) == entry as i64
            });
        }
    }
    let is_on_diagonal = |entry: usize| problem.diagonal && own[entry];
    let scores = scores.into_iter().enumerate();
    scores
        .map(|(entry, score)| if is_on_diagonal(entry) { f64::INFINITY } else { score })
        .collect()
}

/// What each key says about its entry's score for one row: its own score, or what stands for its block.
fn pooled_or_keys(problem: &TopK, t: &DenseCaseInputs, b: usize, h: usize, i: usize) -> Vec<f64> {
    let p = &problem.attention;
    if problem.scoring == Scoring::Keys {
        let scores = key_scores(p, t, b, h);
        return (0..scores.cols).map(|j| scores.at(i, j)).collect();
    }
    let q = slice(&t.q, p.heads, b, h, p.queries, p.head_dim);
    let k = slice(
        &t.k,
        p.kv_heads(),
        b,
        h * p.kv_heads() as usize / p.heads as usize,
        p.keys,
        p.head_dim,
    );
    let there = t.kv_len.as_ref().map_or(k.rows(), |kv_len| kv_len[b] as usize);
    let product = |j: usize, d: usize| f64::from(p.scale()) * q.at(i, d) * k.at(j, d);
    let products: Vec<Vec<f64>> = (0..there)
        .map(|j| (0..q.cols).map(|d| product(j, d)).collect())
        .collect();
    let size = problem.block_size as usize;
    let of_block = |block: &[Vec<f64>]| match problem.scoring {
        // The mean of the products is the product with the mean.
        Scoring::Mean => block.iter().flatten().sum::<f64>() / block.len() as f64,
        _ => (0..q.cols)
            .map(|d| {
                block
                    .iter()
                    .map(|products| products[d])
                    .fold(f64::NEG_INFINITY, f64::max)
            })
            .sum(),
    };
    let mut scores: Vec<f64> = products
        .chunks(size)
        .flat_map(|block| vec![of_block(block); size])
        .collect();
    scores.resize(p.keys as usize, f64::NEG_INFINITY);
    scores
}

#[test]
fn scores_agree_with_those_from_matrices() {
    let mut random = Random(40);
    let (mut infinite, mut diagonal) = (0, 0);
    for seed in 0..1500 {
        let problem = random.top_k_problem();
        let tensors = random.dense_tensors(&problem.attention);
        let loops = scores(&problem, &inputs(&tensors), &hooks(&problem.attention)).unwrap();
        let matrices = scores_by_matrices(&problem, &tensors);
        assert!(agree(&loops, &matrices), "problem {seed}: {problem:?}");
        infinite += loops.iter().filter(|s| **s == f64::NEG_INFINITY).count();
        diagonal += loops.iter().filter(|s| **s == f64::INFINITY).count();
    }
    assert!(
        infinite > 1000 && diagonal > 1000,
        "{infinite} {diagonal}: the draw misses what it is for"
    );
}

/// Takes the best column that is left, one at a time, those kept in any case first.
fn select_by_taking(problem: &Select, scores: &[f64]) -> Vec<u32> {
    let mut lists = Vec::new();
    for row in scores.chunks(problem.columns as usize) {
        let mut left: Vec<u32> = (0..problem.columns)
            .filter(|&c| row[c as usize] > f64::NEG_INFINITY)
            .collect();
        let end = left.last().map_or(0, |last| last + 1);
        let mut kept: Vec<u32> = left.clone();
        kept.retain(|&c| c < problem.first || c >= end.saturating_sub(problem.last));
        left.retain(|c| !kept.contains(c));
        while kept.len() < problem.top_k as usize && !left.is_empty() {
            let best = left.iter().map(|&c| row[c as usize]).fold(f64::NEG_INFINITY, f64::max);
            let at = left.iter().position(|&c| row[c as usize] == best).unwrap();
            kept.push(left.remove(at));
        }
        kept.sort();
        lists.push(kept.len() as u32);
        lists.extend(&kept);
        lists.resize(lists.len() + problem.capacity() as usize - kept.len(), 0);
    }
    lists
}

#[test]
fn selecting_is_taking_the_best_until_there_are_enough() {
    let mut random = Random(41);
    for _ in 0..3000 {
        let (first, last) = (random.below(4), random.below(4));
        let top_k = 1 + first + last + random.below(9);
        let problem = Select {
            rows: 1 + random.below(3),
            columns: 1 + random.below(30),
            top_k,
            first,
            last,
            capacity: random.maybe(2, |r| top_k + r.below(4)),
        };
        // Few values, so that there are many ties.
        let values = [
            f64::NEG_INFINITY,
            f64::NAN,
            -1.0,
            -0.0,
            0.0,
            2.0,
            f64::INFINITY,
            1.0,
            1.0,
            3.0,
        ];
        let scores: Vec<f64> = (0..problem.rows * problem.columns)
            .map(|_| values[random.below(values.len() as u32) as usize])
            .collect();
        assert_eq!(
            select(&problem, &scores).unwrap(),
            select_by_taking(&problem, &scores),
            "{problem:?} {scores:?}"
        );
    }
}

/// A mask tensor that hides what `lists` do not have, beside what the problem's own hides.
fn mask_of(problem: &TopK, t: &DenseCaseInputs, lists: &[u32]) -> Vec<u8> {
    let p = &problem.attention;
    let [batches, heads, count, words] = problem.selection().dims(p);
    let at = |b: u32, h: u32, i: u32, j: u32| (((b * p.heads + h) * p.queries + i) * p.keys + j) as usize;
    let mut mask = vec![0; at(p.batch, 0, 0, 0)];
    for n in 0..batches * heads * count {
        let list = &lists[(n * words) as usize..][..words as usize];
        let (b, head, list_of_head) = (n / (heads * count), n / count % heads, n % count);
        for (h, i) in rows_of(problem, head, list_of_head) {
            for j in 0..p.keys {
                let is_listed = list[1..][..list[0] as usize].contains(&(j / problem.block_size));
                mask[at(b, h, i, j)] = u8::from(is_listed && own_mask(p, t, [b, h, i, j]));
            }
        }
    }
    mask
}

/// What the problem's own mask tensor says.
fn own_mask(p: &Dense, t: &DenseCaseInputs, [b, h, i, j]: [u32; 4]) -> bool {
    let (Some(shape), Some(mask)) = (p.mask, &t.mask) else {
        return true;
    };
    let [_, heads, queries, keys] = shape.dims(p);
    let b = if shape.per_batch { b } else { 0 };
    let h = if shape.per_head { h } else { 0 };
    let i = if shape.per_query { i } else { 0 };
    mask[(((b * heads + h) * queries + i) * keys + j) as usize] != 0
}

#[test]
fn attention_over_lists_is_attention_with_a_mask() {
    let mut random = Random(42);
    let mut different = 0;
    for seed in 0..1500 {
        let problem = random.top_k_problem();
        let p = &problem.attention;
        let tensors = random.dense_tensors(p);
        let lists = random.lists(&problem);
        let by_lists = attend(&problem, &inputs(&tensors), &hooks(p), &lists).unwrap();
        let masked = Dense {
            mask: Some(Broadcast::FULL),
            ..p.clone()
        };
        let mask = mask_of(&problem, &tensors, &lists);
        let by_mask = DenseInputs {
            mask: Some(&mask),
            ..tensors.inputs()
        };
        let by_mask = dense(&masked, &by_mask, &hooks(p)).unwrap();
        assert_eq!(by_lists, by_mask, "problem {seed}: {problem:?}");
        different += usize::from(by_lists != dense(p, &tensors.inputs(), &hooks(p)).unwrap());
    }
    assert!(different > 1000, "{different}: the draw misses what it is for");
}

#[test]
fn all_entries_are_dense_attention() {
    let mut random = Random(43);
    for seed in 0..500 {
        let mut problem = random.top_k_problem();
        problem.top_k += problem.attention.keys;
        let p = &problem.attention;
        let tensors = random.dense_tensors(p);
        let sparse = top_k(&problem, &inputs(&tensors), &hooks(p)).unwrap();
        let dense = dense(p, &tensors.inputs(), &hooks(p)).unwrap();
        assert_eq!(
            (sparse.o, sparse.lse),
            (dense.o, dense.lse),
            "problem {seed}: {problem:?}"
        );
    }
}

#[test]
fn pooled_blocks_may_be_given_or_worked_out() {
    let mut random = Random(44);
    for seed in 0..500 {
        let mut problem = random.top_k_problem();
        problem.scoring = if random.one_in(2) {
            Scoring::Mean
        } else {
            Scoring::Bound
        };
        let p = problem.attention.clone();
        let mut tensors = random.dense_tensors(&p);
        // Few bits each, so that means are exact in f32.
        tensors.k.iter_mut().for_each(|k| *k = (*k * 16.0).round() * 60.0);
        let pooling = Pool {
            batch: p.batch,
            kv_heads: p.kv_heads(),
            keys: p.keys,
            head_dim: p.head_dim,
            block_size: problem.block_size,
            pooling: if problem.scoring == Scoring::Mean {
                Pooling::Mean
            } else {
                Pooling::Bounds
            },
            kv_len: p.kv_len,
            ..Default::default()
        };
        let blocks = pool(&pooling, &tensors.k, tensors.kv_len.as_deref()).unwrap();
        let blocks: Vec<f32> = blocks.iter().map(|&x| x as f32).collect();
        let worked_out = top_k(&problem, &inputs(&tensors), &hooks(&p)).unwrap();
        problem.pooled = true;
        let given = TopKInputs {
            pooled: Some(&blocks),
            ..inputs(&tensors)
        };
        let given = top_k(&problem, &given, &hooks(&p)).unwrap();
        assert_eq!(given, worked_out, "problem {seed}: {problem:?}");
    }
}

#[test]
fn random_problems_are_written_and_read_back() {
    let mut random = Random(45);
    for _ in 0..300 {
        let mut problem = random.top_k_problem();
        problem.attention.custom = None;
        let tensors = random.dense_tensors(&problem.attention);
        let output = top_k(&problem, &inputs(&tensors), &Hooks::default()).unwrap();
        let case = Case::topk("random", "the reference", &problem, &inputs(&tensors), &output).unwrap();
        let back = Case::from_bytes("random", &case.to_bytes().unwrap()).unwrap();
        let Op::TopK(read) = &back.op else { panic!("not top-k") };
        assert_eq!(read.tensors, tensors);
        let again = top_k(&read.problem, &read.inputs(), &Hooks::default()).unwrap();
        assert_eq!(again, output, "{problem:?}");
        let result = read
            .compare(&narrow(&again), &Tolerance::for_dtype(DType::F32))
            .unwrap();
        assert!(result.passed(), "{result}: {problem:?}");
        assert_eq!(Case::from_bytes("random", &back.to_bytes().unwrap()).unwrap(), back);
    }
}

#[test]
fn a_search_that_may_keep_all_is_dense_attention_and_one_that_may_not_keeps_what_it_must() {
    let mut random = Random(46);
    let mut searched = 0;
    for seed in 0..500 {
        let mut problem = Hierarchical {
            attention: Dense {
                batch: 1 + random.below(2),
                heads: 2,
                kv_heads: Some(1 + random.below(2)),
                queries: 1 + random.below(20),
                keys: 1 + random.below(60),
                head_dim: 3,
                causal: random.one_in(2),
                q_offset: random.maybe(3, |r| r.below(40) as i32 - 10),
                ..Default::default()
            },
            query_block: 1 + random.below(6),
            block_size: 1 + random.below(4),
            top_k: 60,
            window: random.below(9),
            sink_tokens: random.below(5),
        };
        let tensors = random.dense_tensors(&problem.attention);
        let run = |problem: &Hierarchical| hierarchical(problem, &tensors.q, &tensors.k).unwrap();
        let over = |problem: &Hierarchical, lists: &[u32]| {
            let attention = Dense {
                selection: Some(problem.selection()),
                ..problem.attention.clone()
            };
            let inputs = DenseInputs {
                selection: Some(lists),
                ..tensors.inputs()
            };
            dense(&attention, &inputs, &Hooks::default()).unwrap()
        };
        let whole = dense(&problem.attention, &tensors.inputs(), &Hooks::default()).unwrap();
        let (all, lists) = (problem.selection(), run(&problem));
        assert_eq!(over(&problem, &lists), whole, "problem {seed}: {problem:?}");

        problem.top_k = 1 + random.below(5);
        let few = run(&problem);
        // Whatever is found is in sight, and no more than there is room for.
        let share = recall(&problem.attention, (&problem.selection(), &few), (&all, &lists)).unwrap();
        let back = recall(&problem.attention, (&all, &lists), (&problem.selection(), &few)).unwrap();
        assert!(back == 1.0 && share <= 1.0, "problem {seed}: {problem:?}");
        searched += usize::from(share < 1.0);
        for (few, all) in few
            .chunks(1 + problem.selection().capacity as usize)
            .zip(lists.chunks(1 + all.capacity as usize))
        {
            let kept = |e: &u32| few[1..][..few[0] as usize].contains(e);
            let (all, end) = (&all[1..][..all[0] as usize], all[0]);
            let must = all.iter().filter(|&&e| e * problem.block_size < problem.sink_tokens);
            assert!(must.into_iter().all(kept), "problem {seed}: {problem:?}");
            let window = problem.window.div_ceil(problem.block_size).min(end);
            assert!(
                all[(end - window) as usize..].iter().all(kept),
                "problem {seed}: {problem:?}"
            );
        }
    }
    assert!(searched > 100, "{searched}: the draw misses what it is for");
}
