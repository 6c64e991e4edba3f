//! Dense attention, whose second form is written here, as whole matrices.

use std::path::PathBuf;

use wgpu_attention::case::{Case, DenseCase, DenseCaseInputs, Op};
use wgpu_attention::compare::{self, Tolerance};
use wgpu_attention::dense::reference::{Hooks, Position, dense};
use wgpu_attention::{Bias, Broadcast, Custom, DType, Dense, DenseInputs, DenseOutput, Weighting};

use crate::{Random, agree, golden};

fn narrow(output: &DenseOutput<f64>) -> DenseOutput<f32> {
    let narrow = |values: &Vec<f64>| values.iter().map(|&v| v as f32).collect();
    DenseOutput {
        o: narrow(&output.o),
        lse: output.lse.as_ref().map(narrow),
    }
}

/// A golden dense case and the reference's answer to it.
fn solve(path: &PathBuf) -> (Case, DenseCase, DenseOutput<f32>) {
    let case = Case::load(path).unwrap();
    let Op::Dense(attention) = case.op.clone() else {
        panic!("{} is not dense", path.display())
    };
    let output = dense(&attention.problem, &attention.inputs(), &Hooks::default()).unwrap();
    (case, attention, narrow(&output))
}

#[test]
fn reference_passes_every_golden_case() {
    let files = golden("dense");
    assert_eq!(files.len(), 34);
    let mut failed = 0;
    for path in &files {
        let (case, attention, output) = solve(path);
        // The inputs in the file are the rounded ones, so that the answer is right to f32 whatever their type.
        let result = compare::dense(&output, &attention.expected(), &Tolerance::for_dtype(DType::F32));
        println!(
            "{} {} {}: {result}",
            if result.passed() { "ok  " } else { "FAIL" },
            case.name,
            case.dtype
        );
        failed += usize::from(!result.passed());
    }
    assert_eq!(failed, 0);
}

#[test]
fn no_golden_case_passes_with_a_row_zeroed() {
    for path in golden("dense") {
        let (case, attention, mut output) = solve(&path);
        let row = output
            .o
            .chunks_mut(attention.problem.value_dim() as usize)
            .rev()
            .find(|row| row.iter().any(|&o| o != 0.0));
        row.expect("a row that sees something").fill(0.0);
        let result = compare::dense(&output, &attention.expected(), &Tolerance::for_dtype(case.dtype));
        assert!(!result.passed(), "{}", case.name);
    }
}

#[test]
fn golden_cases_are_written_back_the_same() {
    for path in golden("dense") {
        let case = Case::load(&path).unwrap();
        assert_eq!(Case::from_bytes(&case.name, &case.to_bytes().unwrap()).unwrap(), case);
    }
}

impl Random {
    fn broadcast(&mut self) -> Broadcast {
        Broadcast {
            per_batch: self.one_in(2),
            per_head: self.one_in(2),
            per_query: self.one_in(2),
        }
    }

    pub fn dense_problem(&mut self) -> Dense {
        let kv_heads = 1 + self.below(2);
        let documents = self.maybe(3, |r| 1 + r.below(4));
        let sigmoid = self.one_in(4);
        let custom = self.maybe(4, |r| Custom {
            score: r.maybe(2, |_| "half_by_parity".into()),
            mask: r.maybe(2, |_| "two_of_three".into()),
            data: Vec::new(),
        });
        // Custom code with neither is none.
        let custom = custom.filter(|c| c.score.is_some() || c.mask.is_some());
        Dense {
            batch: if documents.is_some() { 1 } else { 1 + self.below(3) },
            heads: kv_heads * (1 + self.below(3)),
            kv_heads: Some(kv_heads),
            queries: 1 + self.below(19),
            keys: 1 + self.below(23),
            head_dim: 1 + self.below(20),
            value_dim: self.maybe(2, |r| 1 + r.below(9)),
            weighting: match sigmoid {
                true => Weighting::Sigmoid {
                    bias: self.maybe(2, Self::number),
                },
                false => Weighting::Softmax,
            },
            scale: self.maybe(3, Self::number),
            softcap: self.maybe(3, |r| 0.5 + r.number().abs()),
            causal: self.one_in(2),
            q_offset: self.maybe(3, |r| r.below(40) as i32 - 20),
            window_left: self.maybe(3, |r| r.below(9)),
            window_right: self.maybe(3, |r| r.below(9)),
            sink_tokens: self.maybe(3, |r| r.below(6)).unwrap_or(0),
            prefix: self.maybe(4, |r| r.below(12)).unwrap_or(0),
            bias: self.maybe(3, |r| Bias {
                dtype: DType::F32,
                shape: r.broadcast(),
            }),
            mask: self.maybe(3, Self::broadcast),
            kv_len: self.one_in(3),
            documents,
            alibi: self.one_in(3),
            sinks: !sigmoid && self.one_in(3),
            custom,
            lse: !sigmoid,
            ..Default::default()
        }
    }

    pub fn dense_tensors(&mut self, p: &Dense) -> DenseCaseInputs {
        let bias = p.bias.map(|bias| {
            let mut values = self.numbers(&bias.shape.dims(p));
            values
                .iter_mut()
                .for_each(|b| *b = if self.one_in(6) { f32::NEG_INFINITY } else { *b });
            values
        });
        let mask = p.mask.map(|shape| {
            (0..shape.dims(p).iter().product())
                .map(|_| self.below(4) as u8)
                .collect()
        });
        DenseCaseInputs {
            q: self.numbers(&[p.batch, p.heads, p.queries, p.head_dim]),
            k: self.numbers(&[p.batch, p.kv_heads(), p.keys, p.head_dim]),
            v: self.numbers(&[p.batch, p.kv_heads(), p.keys, p.value_dim()]),
            bias,
            mask,
            kv_len: p
                .kv_len
                .then(|| (0..p.batch).map(|_| self.below(p.keys + 1) as i32).collect()),
            cu_seqlens_q: p.documents.map(|s| self.offsets(s, p.queries)),
            cu_seqlens_k: p.documents.map(|s| self.offsets(s, p.keys)),
            alibi_slopes: p.alibi.then(|| self.numbers(&[p.heads])),
            sinks: p.sinks.then(|| self.numbers(&[p.heads])),
        }
    }
}

pub fn half_by_parity(s: f64, at: &Position) -> f64 {
    let parity = (at.batch + at.head + at.kv_head + at.query + at.key) % 2;
    if parity == 0 {
        s
    } else {
        0.5 * s - 0.01 * f64::from(at.query_pos - 2 * at.key_pos)
    }
}

pub fn two_of_three(at: &Position) -> bool {
    (i64::from(at.query_pos) + i64::from(at.key_pos) + i64::from(at.head)).rem_euclid(3) != 0
}

/// A matrix of any element, by rows.
#[derive(Clone)]
pub struct Matrix<T> {
    pub cols: usize,
    cells: Vec<T>,
}

impl<T: Copy> Matrix<T> {
    fn from_fn(rows: usize, cols: usize, cell: impl Fn(usize, usize) -> T) -> Self {
        let cells = (0..rows * cols).map(|i| cell(i / cols, i % cols)).collect();
        Matrix { cols, cells }
    }

    pub fn at(&self, row: usize, col: usize) -> T {
        self.cells[row * self.cols + col]
    }

    pub fn rows(&self) -> usize {
        self.cells.len() / self.cols
    }

    fn with<U: Copy, V: Copy>(&self, other: &Matrix<U>, join: impl Fn(T, U) -> V) -> Matrix<V> {
        let cells = self.cells.iter().zip(&other.cells).map(|(&a, &b)| join(a, b)).collect();
        Matrix { cols: self.cols, cells }
    }
}

/// Slice (b, h) of a contiguous tensor with `heads` heads.
pub fn slice(tensor: &[f32], heads: u32, b: usize, h: usize, rows: u32, cols: u32) -> Matrix<f64> {
    let (rows, cols) = (rows as usize, cols as usize);
    let start = (b * heads as usize + h) * rows * cols;
    Matrix::from_fn(rows, cols, |r, c| f64::from(tensor[start + r * cols + c]))
}

/// A broadcast tensor expanded for (b, h).
fn expanded<T: Copy>(tensor: &[T], shape: Broadcast, p: &Dense, b: usize, h: usize) -> Matrix<T> {
    let [_, heads, queries, keys] = shape.dims(p).map(|dim| dim as usize);
    let b = if shape.per_batch { b } else { 0 };
    let h = if shape.per_head { h } else { 0 };
    Matrix::from_fn(p.queries as usize, keys, |i, j| {
        let i = if shape.per_query { i } else { 0 };
        tensor[b * heads * queries * keys + h * queries * keys + i * keys + j]
    })
}

/// Document and position inside it of every row of one sequence; document −1 for rows of none.
fn places(offsets: Option<&Vec<i32>>, len: u32) -> Vec<(i64, i64)> {
    let Some(offsets) = offsets else {
        return (0..i64::from(len)).map(|i| (0, i)).collect();
    };
    let mut places = vec![(-1, 0); len as usize];
    for (document, ends) in offsets.windows(2).enumerate() {
        for (position, row) in (ends[0]..ends[1]).enumerate() {
            places[row as usize] = (document as i64, position as i64);
        }
    }
    places
}

/// Positions (a, j) of every pair of row and key; `None` across documents.
pub fn pairs(p: &Dense, t: &DenseCaseInputs, b: usize) -> Matrix<Option<(i64, i64)>> {
    let queries = places(t.cu_seqlens_q.as_ref(), p.queries);
    let keys = places(t.cu_seqlens_k.as_ref(), p.keys);
    let count = |places: &[(i64, i64)], document| places.iter().filter(|place| place.0 == document).count() as i64;
    Matrix::from_fn(queries.len(), keys.len(), |i, j| {
        let ((document, row), (key_document, key)) = (queries[i], keys[j]);
        let len_k = match &t.kv_len {
            Some(kv_len) if p.documents.is_none() => i64::from(kv_len[b]),
            _ => count(&keys, document),
        };
        let offset = p.q_offset.map_or(len_k - count(&queries, document), i64::from);
        (document >= 0 && document == key_document).then_some((row + offset, key))
    })
}

/// The whole visibility matrix, as a product of sets.
pub fn visibility(p: &Dense, t: &DenseCaseInputs, b: usize, h: usize) -> Matrix<bool> {
    let pairs = pairs(p, t, b);
    let set = |member: &dyn Fn(i64, i64) -> bool| {
        Matrix::from_fn(pairs.rows(), pairs.cols, |i, j| {
            pairs.at(i, j).is_some_and(|(a, j)| member(a, j))
        })
    };
    let left = set(&|a, j| p.window_left.is_none_or(|left| j >= a - i64::from(left)));
    let right = set(&|a, j| p.window_right.is_none_or(|right| j <= a + i64::from(right)));
    let sinks = set(&|_, j| j < i64::from(p.sink_tokens));
    let causal = set(&|a, j| !p.causal || a >= j);
    let prefix = set(&|_, j| j < i64::from(p.prefix));
    let and = |a: bool, b: bool| a & b;
    let or = |a: bool, b: bool| a | b;
    let mut visible = left
        .with(&right, and)
        .with(&sinks, or)
        .with(&causal, and)
        .with(&prefix, or);
    if let (Some(shape), Some(mask)) = (p.mask, &t.mask) {
        visible = visible.with(&expanded(mask, shape, p, b, h), |seen, mask| seen & (mask > 0));
    }
    if let Some(kv_len) = &t.kv_len {
        let there = Matrix::from_fn(visible.rows(), visible.cols, |_, j| (j as i32) < kv_len[b]);
        visible = visible.with(&there, and);
    }
    visible
}

/// The whole matrix of scores, −inf where masked.
pub fn scores(p: &Dense, t: &DenseCaseInputs, b: usize, h: usize) -> Matrix<f64> {
    let group = h * p.kv_heads() as usize / p.heads as usize;
    let q = slice(&t.q, p.heads, b, h, p.queries, p.head_dim);
    let k = slice(&t.k, p.kv_heads(), b, group, p.keys, p.head_dim);
    let scale = f64::from(p.scale());
    let mut s: Matrix<f64> = Matrix::from_fn(q.rows(), k.rows(), |i, j| {
        (0..q.cols).map(|d| scale * q.at(i, d) * k.at(j, d)).sum()
    });
    if let Some(cap) = p.softcap {
        s.cells
            .iter_mut()
            .for_each(|s| *s = (*s / f64::from(cap)).tanh() * f64::from(cap));
    }
    if let (Some(bias), Some(values)) = (p.bias, &t.bias) {
        s = s.with(&expanded(values, bias.shape, p, b, h), |s, bias| s + f64::from(bias));
    }
    let pairs = pairs(p, t, b);
    if let Some(slopes) = &t.alibi_slopes {
        let distance = |(a, j): (i64, i64)| a.abs_diff(j) as f64;
        s = s.with(&pairs, |s, pair| s - f64::from(slopes[h]) * pair.map_or(0.0, distance));
    }
    let position = |i: usize, j: usize, (a, position): (i64, i64)| Position {
        batch: b as u32,
        head: h as u32,
        kv_head: group as u32,
        query: i as u32,
        key: j as u32,
        query_pos: a as i32,
        key_pos: position as i32,
    };
    let custom = p.custom.clone().unwrap_or_default();
    let visible = visibility(p, t, b, h);
    Matrix::from_fn(s.rows(), s.cols, |i, j| {
        let Some(at) = pairs.at(i, j).map(|pair| position(i, j, pair)) else {
            return f64::NEG_INFINITY;
        };
        let hidden =
            !visible.at(i, j) || custom.mask.is_some() && !two_of_three(&at) || s.at(i, j) == f64::NEG_INFINITY;
        match hidden {
            true => f64::NEG_INFINITY,
            false if custom.score.is_some() => half_by_parity(s.at(i, j), &at),
            false => s.at(i, j),
        }
    })
}

/// The whole problem by matrices: scores, weights, product with the values.
fn by_matrices(p: &Dense, t: &DenseCaseInputs) -> DenseOutput<f64> {
    let (mut o, mut lse) = (Vec::new(), Vec::new());
    for b in 0..p.batch as usize {
        for h in 0..p.heads as usize {
            let s = scores(p, t, b, h);
            let sink = t.sinks.as_ref().map_or(0.0, |sinks| f64::from(sinks[h]).exp());
            // Scores of these tests are small: the exponentials do without a maximum.
            let weight = |s: f64| match p.weighting {
                Weighting::Softmax => s.exp(),
                Weighting::Sigmoid { .. } => 1.0 / (1.0 + (-s - f64::from(p.sigmoid_bias().unwrap_or(f32::NAN))).exp()),
            };
            let w = Matrix::from_fn(s.rows(), s.cols, |i, j| weight(s.at(i, j)));
            let sums: Vec<f64> = w
                .cells
                .chunks(w.cols)
                .map(|row| row.iter().sum::<f64>() + sink)
                .collect();
            let v = slice(
                &t.v,
                p.kv_heads(),
                b,
                h / (p.heads / p.kv_heads()) as usize,
                p.keys,
                p.value_dim(),
            );
            let product: Matrix<f64> = Matrix::from_fn(w.rows(), v.cols, |i, d| {
                (0..w.cols).map(|j| w.at(i, j) * v.at(j, d)).sum()
            });
            let normaliser = |i: usize| match p.weighting {
                Weighting::Softmax if sums[i] > 0.0 => sums[i],
                _ => 1.0,
            };
            o.extend(Matrix::from_fn(w.rows(), v.cols, |i, d| product.at(i, d) / normaliser(i)).cells);
            lse.extend(sums.iter().map(|sum| sum.ln()));
        }
    }
    let lse = p.lse.then_some(lse);
    DenseOutput { o, lse }
}

#[test]
fn both_forms_agree_on_random_problems() {
    let mut random = Random(20);
    let (mut empty_rows, mut hooked) = (0, 0);
    for seed in 0..3000 {
        let problem = random.dense_problem();
        let tensors = random.dense_tensors(&problem);
        let custom = problem.custom.clone().unwrap_or_default();
        let hooks = Hooks {
            score: custom.score.is_some().then_some(&half_by_parity),
            mask: custom.mask.is_some().then_some(&two_of_three),
        };
        let loops = dense(&problem, &tensors.inputs(), &hooks).unwrap();
        let matrices = by_matrices(&problem, &tensors);
        assert!(agree(&loops.o, &matrices.o), "o of problem {seed}: {problem:?}");
        let (a, b) = (loops.lse.unwrap_or_default(), matrices.lse.unwrap_or_default());
        assert!(agree(&a, &b), "lse of problem {seed}: {problem:?}");
        empty_rows += a.iter().filter(|lse| **lse == f64::NEG_INFINITY).count();
        hooked += usize::from(hooks.score.is_some() || hooks.mask.is_some());
    }
    println!("{empty_rows} rows saw nothing, {hooked} problems with hooks");
    assert!(
        empty_rows > 100 && hooked > 100,
        "{empty_rows} {hooked}: the draw misses what it is for"
    );
}

#[test]
fn random_problems_are_written_and_read_back() {
    let mut random = Random(21);
    for _ in 0..200 {
        let problem = Dense {
            custom: None,
            ..random.dense_problem()
        };
        let tensors = random.dense_tensors(&problem);
        let output = dense(&problem, &tensors.inputs(), &Hooks::default()).unwrap();
        let case = Case::dense("random", "the reference", &problem, &tensors.inputs(), &output);
        let back = Case::from_bytes("random", &case.to_bytes().unwrap()).unwrap();
        let Op::Dense(read) = &back.op else { panic!("not dense") };
        assert_eq!(read.tensors, tensors);
        assert_eq!(
            dense(&read.problem, &read.inputs(), &Hooks::default()).unwrap(),
            output,
            "{problem:?}"
        );
        assert_eq!(Case::from_bytes("random", &back.to_bytes().unwrap()).unwrap(), back);
    }
}

#[test]
fn a_changed_option_changes_the_answer() {
    let (_, attention, _) = solve(
        &golden("dense")
            .into_iter()
            .find(|p| p.ends_with("softmax_causal.safetensors"))
            .unwrap(),
    );
    let inputs: DenseInputs<'_> = attention.inputs();
    let changes: [fn(&mut Dense); 7] = [
        |p| p.causal = false,
        |p| p.scale = Some(0.1),
        |p| p.softcap = Some(1.0),
        |p| p.q_offset = Some(-1),
        |p| p.window_left = Some(3),
        |p| p.prefix = 10,
        |p| (p.weighting, p.lse) = (Weighting::Sigmoid { bias: None }, false),
    ];
    for (i, change) in changes.iter().enumerate() {
        let mut problem = attention.problem.clone();
        change(&mut problem);
        let output = narrow(&dense(&problem, &inputs, &Hooks::default()).unwrap());
        assert!(
            !compare::output(&output.o, &attention.expected().o, &Tolerance::for_dtype(DType::F32)).passed(),
            "{i}"
        );
    }
}
