//! Top-k attention: its steps as runs of their own, checks, and what a problem costs.

use crate::bench::Failure;
use crate::bench::dense::{self, Buffers, Inputs, pairs, tensors};
use crate::bench::inputs::{filled, random};
use crate::bench::problems;
use crate::bench::sample::{self, Sample};
use crate::compare::{self, Comparison, Tolerance};
use crate::error::Result;
use crate::gpu::Gpu;
use crate::ops::dense::reference::Hooks;
use crate::ops::dense::tile::Tuning;
use crate::ops::dense::{Dense, DenseInputs, DensePlan, DenseTensors};
use crate::ops::host;
use crate::ops::topk::{
    PoolPlan, PoolTensors, ScorePlan, ScoreTensors, Scoring, SelectPlan, SelectTensors, TopK, TopKInputs, TopKOutput,
    TopKPlan, TopKTensors, TopKTuning,
};
use crate::tensor::DType;

mod hierarchical;
mod reuse;

pub use hierarchical::{Hip, recall};
pub use reuse::Reuse;

/// What of a top-k call is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// All of it, in the plan's own way.
    Whole,
    /// What stands for blocks.
    Pool,
    /// The scores alone.
    Score,
    /// The selecting alone, from scores made before.
    Select,
    /// The attention alone, over a selection made before.
    Gather,
    /// Pool, score and select: a search.
    Search,
}

/// A top-k call taken apart, with its buffers.
#[derive(Debug)]
pub struct Run {
    buffers: Buffers,
    pooled: Option<wgpu::Buffer>,
    scores: wgpu::Buffer,
    lists: wgpu::Buffer,
    whole: TopKPlan,
    pool: Option<PoolPlan>,
    score: ScorePlan,
    select: SelectPlan,
    gather: DensePlan,
}

impl Run {
    /// Plans and checks; a wrong kernel gets no number.
    ///
    /// # Errors
    /// [`Failure::Refused`] with the planner's error, [`Failure::Wrong`].
    pub fn new(gpu: &Gpu, problem: &TopK) -> Result<Self, Failure> {
        let p = problem;
        let whole = checked_plan(gpu, p, &TopKTuning::default())?;
        let pool = p.pool();
        let given = TopK {
            pooled: pool.is_some(),
            ..p.clone()
        };
        let words = |dims: [u32; 4]| dims.iter().map(|&d| u64::from(d)).product::<u64>();
        let buffer = |elements: u64| filled(gpu, elements, &random(9, 1 << 10), DType::F32);
        let run = Run {
            buffers: Buffers::zeroless(gpu, &p.attention)?,
            pooled: pool.as_ref().map(|pool| buffer(words(pool.dims()))).transpose()?,
            scores: buffer(words(p.score_dims()))?,
            lists: buffer(p.selection().words(&p.attention))?,
            whole,
            pool: pool.map(|pool| pool.plan(gpu)).transpose()?,
            score: given.plan_scores(gpu)?,
            select: p.select().plan(gpu)?,
            gather: p.gathered().plan(gpu)?,
        };
        // Real scores and lists for the steps that begin with them.
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        let mut pass = encoder.begin_compute_pass(&Default::default());
        run.record(&mut pass, Step::Search)?;
        drop(pass);
        host::submit(gpu, encoder)?;
        Ok(run)
    }

    /// The kernels, by their labels.
    pub fn label(&self) -> String {
        self.whole.label()
    }

    /// The lists that the steps apart make and use.
    pub(super) fn lists(&self) -> &wgpu::Buffer {
        &self.lists
    }

    /// Parts of the whole call.
    pub fn parts(&self) -> usize {
        self.whole.parts()
    }

    /// Records a step.
    ///
    /// # Errors
    /// Those of the plans.
    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>, step: Step) -> Result<()> {
        let attention = self.buffers.tensors();
        let pooled = self.pooled.as_ref().map(Into::into);
        match step {
            Step::Whole => self.whole.encode_in(pass, &TopKTensors::new(attention)),
            Step::Pool => match (&self.pool, &self.pooled) {
                (Some(pool), Some(pooled)) => {
                    let tensors = PoolTensors {
                        k: attention.k,
                        kv_len: None,
                        pooled: pooled.into(),
                    };
                    pool.encode_in(pass, &tensors)
                }
                _ => Ok(()),
            },
            Step::Score => {
                let tensors = ScoreTensors {
                    k: self.pool.is_none().then_some(attention.k),
                    pooled,
                    ..ScoreTensors::new(attention.q, &self.scores)
                };
                self.score.encode_in(pass, &tensors)
            }
            Step::Select => {
                let tensors = SelectTensors {
                    scores: (&self.scores).into(),
                    lists: (&self.lists).into(),
                };
                self.select.encode_in(pass, &tensors)
            }
            Step::Gather => {
                let tensors = DenseTensors {
                    selection: Some((&self.lists).into()),
                    ..attention
                };
                self.gather.encode_in(pass, &tensors)
            }
            Step::Search => {
                self.record(pass, Step::Pool)?;
                self.record(pass, Step::Score)?;
                self.record(pass, Step::Select)
            }
        }
    }
}

/// The plan of a problem, if its kernels and tiles give the right answer on a small problem of the same kind.
///
/// # Errors
/// [`Failure::Refused`] with the planner's error, [`Failure::Wrong`].
pub fn checked_plan(gpu: &Gpu, p: &TopK, tuning: &TopKTuning) -> Result<TopKPlan, Failure> {
    let plan = p.plan_with(gpu, tuning)?;
    let small = TopK {
        attention: problems::small(&p.attention),
        keep: true,
        ..p.clone()
    };
    let tuning = TopKTuning {
        gather: Tuning {
            kernel: Some(plan.kernel()),
            splits: Some(plan.splits()),
            live: None,
        },
        score: Some(plan.score_tile()),
        select: Some(plan.select_tile()),
        score_bytes: None,
    };
    let inputs = Inputs::random(&small.attention);
    let inputs = TopKInputs {
        attention: inputs.host(),
        pooled: None,
    };
    let output = small.plan_with(gpu, &tuning)?.run_blocking(&inputs)?;
    judge(&small, &inputs, &output)?;
    Ok(plan)
}

/// The error of o, if it and the lists are right; the bounds are those of the golden cases.
fn judge(p: &TopK, inputs: &TopKInputs<'_>, output: &TopKOutput<f32>) -> Result<Comparison, Failure> {
    let tolerance = Tolerance::for_dtype(p.attention.dtype);
    let result = compare::topk(p, inputs, &Hooks::default(), output, &tolerance)?;
    match result.passed() {
        true => Ok(result.o),
        false => Err(Failure::Wrong(result.to_string())),
    }
}

/// Runs a plan that keeps its lists once, and compares some lists, and the output of their rows, with the reference.
/// Gives the largest error among them.
///
/// # Errors
/// [`Failure::Refused`] if the device fails, [`Failure::Wrong`].
pub(super) fn check_rows(
    gpu: &Gpu,
    plan: &TopKPlan,
    buffers: &Buffers,
    lists: &wgpu::Buffer,
) -> Result<Comparison, Failure> {
    let p = plan.problem();
    let a = &p.attention;
    let selection = p.selection();
    let words = u64::from(1 + selection.capacity);
    let parts = parts(p);
    let dv = u64::from(a.value_dim());
    let record = |pass: &mut wgpu::ComputePass<'_>| {
        let tensors = TopKTensors {
            selection: Some(lists.into()),
            ..TopKTensors::new(buffers.tensors())
        };
        plan.encode_in(pass, &tensors)
    };
    let mut kept = Sample::new(gpu, lists, DType::F32);
    let mut o = Sample::new(gpu, buffers.o(), a.output_dtype());
    for part in &parts {
        for head in part.lists(p) {
            kept.add(selection.list_of(a, part.batch, head, part.first).start as u64, words);
        }
        for head in part.heads.clone() {
            let row = (u64::from(part.batch) * u64::from(a.heads) + u64::from(head)) * u64::from(a.queries);
            o.add((row + u64::from(part.first)) * dv, u64::from(part.rows) * dv);
        }
    }
    let o = o.run(record)?;
    let kept: Vec<u32> = kept.run(|_| Ok(()))?.into_iter().map(f32::to_bits).collect();
    let (mut o, mut kept) = (&o[..], &kept[..]);
    let mut worst: Option<Comparison> = None;
    for part in &parts {
        let alone = part.alone(p);
        let (own_lists, other_lists) = kept.split_at(selection.words(&alone.attention) as usize);
        let (own_o, other_o) = o.split_at(part.heads.len() * (u64::from(part.rows) * dv) as usize);
        let [q, k, v] = part.inputs(a, &alone.attention);
        let attention = DenseInputs {
            q: &q,
            k: &k,
            v: &v,
            ..Default::default()
        };
        let output = TopKOutput {
            o: own_o.to_vec(),
            lse: None,
            selection: own_lists.to_vec(),
        };
        let error = judge(
            &alone,
            &TopKInputs {
                attention,
                pooled: None,
            },
            &output,
        )?;
        worst = worst.filter(|w| w.rms >= error.rms).or(Some(error));
        (kept, o) = (other_lists, other_o);
    }
    worst.ok_or_else(|| Failure::Wrong("no row to check".into()))
}

/// The rows of one list, by themselves: a tile of queries of one query head, or of the heads of a KV head.
#[derive(Clone, Debug)]
struct Part {
    batch: u32,
    heads: std::ops::Range<u32>,
    first: u32,
    rows: u32,
}

/// A few lists, the last of all among them.
fn parts(p: &TopK) -> Vec<Part> {
    let a = &p.attention;
    let cost = u64::from(a.keys) * u64::from(a.head_dim + a.value_dim()) * u64::from(p.query_block);
    let count = if cost < 1 << 24 { 4 } else { 2 };
    let rows = sample::rows(a, cost);
    let group = a.heads / a.kv_heads();
    let part = |row: &sample::Row| {
        let heads = match p.per_kv_head {
            true => row.head / group * group..(row.head / group + 1) * group,
            false => row.head..row.head + 1,
        };
        let first = row.query / p.query_block * p.query_block;
        Part {
            batch: row.batch,
            heads,
            first,
            rows: p.query_block.min(a.queries - first),
        }
    };
    rows.iter().rev().take(count - 1).chain(rows.get(1)).map(part).collect()
}

impl Part {
    /// A head for each of its lists.
    fn lists(&self, p: &TopK) -> impl Iterator<Item = u32> + use<> {
        let step = if p.per_kv_head { self.heads.len() } else { 1 };
        self.heads.clone().step_by(step)
    }

    /// Its problem.
    fn alone(&self, p: &TopK) -> TopK {
        let attention = sample::alone(&p.attention, self.heads.len() as u32, self.first, self.rows);
        TopK { attention, ..p.clone() }
    }

    /// Its q, k and v.
    fn inputs(&self, p: &Dense, alone: &Dense) -> [Vec<f32>; 3] {
        let [q, k, v] = tensors(p);
        let (d, dv, keys) = (u64::from(p.head_dim), u64::from(p.value_dim()), u64::from(alone.keys));
        let row = |head| sample::Row {
            batch: self.batch,
            head,
            query: self.first,
        };
        let queries = |head| q.slice(row(head).query_row(p) * d, u64::from(self.rows) * d);
        let first = row(self.heads.start).key_row(p);
        [
            self.heads.clone().flat_map(queries).collect(),
            k.slice(first * d, keys * d),
            v.slice(first * dv, keys * dv),
        ]
    }
}

/// Floating-point operations that no form can do without: a product of each query with every entry it may see, two for a
/// block's bounds, and the two products of attention over the kept keys.
pub fn flops(p: &TopK) -> f64 {
    let a = &p.attention;
    let (heads, pairs) = (f64::from(a.batch * a.heads), pairs(a));
    let products = if p.scoring == Scoring::Bound { 2.0 } else { 1.0 };
    let entries = match p.scoring {
        Scoring::Keys => 1.0,
        Scoring::Mean | Scoring::Bound => f64::from(p.block_size),
    };
    let score = 2.0 * products * f64::from(a.head_dim) * pairs / entries;
    let attend = 2.0 * f64::from(a.head_dim + a.value_dim()) * kept_pairs(p);
    heads * (score + attend)
}

/// The (query, key) pairs of a head that are attended to, at most. A query sees its own block, where that is kept, up to its own
/// place.
fn kept_pairs(p: &TopK) -> f64 {
    let a = &p.attention;
    let of = |query: u32| {
        let (visible, size) = (dense::visible(a, query), f64::from(p.block_size));
        let own_block = p.diagonal && a.causal && a.window_left.is_none() && visible > 0.0;
        let hidden = if own_block { (size - visible % size) % size } else { 0.0 };
        visible.min(f64::from(p.top_k) * size - hidden)
    };
    (0..a.queries).map(of).sum()
}

/// Bytes of q, k and o, each once, and of those rows of v that are kept, all at most.
pub fn bytes(p: &TopK) -> f64 {
    let a = &p.attention;
    let rows = |heads: u32, n: f64, dim: u32| f64::from(a.batch) * f64::from(heads) * n * f64::from(dim);
    let kv = a.kv_heads();
    let lists =
        f64::from(a.queries.div_ceil(p.query_block)) * if p.per_kv_head { 1.0 } else { f64::from(a.heads / kv) };
    let values = (lists * kept(p)).min(dense::keys_seen(a));
    let size = a.dtype.size() as f64;
    let q = rows(a.heads, f64::from(a.queries), a.head_dim) * size;
    let k = rows(kv, dense::keys_seen(a), a.head_dim) * size;
    let v = rows(kv, values, a.value_dim()) * size;
    let o = rows(a.heads, f64::from(a.queries), a.value_dim()) * a.output_dtype().size() as f64;
    q + k + v + o
}

/// Keys of a full list, at most all.
pub fn kept(p: &TopK) -> f64 {
    (f64::from(p.top_k) * f64::from(p.block_size)).min(f64::from(p.attention.keys))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_sees_its_own_block_up_to_its_own_place() {
        let p = problems::blocks(false, 1024, 64);
        // Seven whole blocks, and of its own 32.5 keys in the mean; all that there are, as long as they are fewer.
        let late = (1024.0 - 512.0) * (7.0 * 64.0 + 32.5);
        assert_eq!(kept_pairs(&p), 512.0 * 513.0 / 2.0 + late);
        let anywhere = TopK {
            diagonal: false,
            ..p.clone()
        };
        assert_eq!(kept_pairs(&anywhere), 512.0 * 513.0 / 2.0 + 512.0 * 512.0);
        // The product with each block's mean, and two over the keys kept.
        let means = pairs(&p.attention) / 64.0;
        assert_eq!(flops(&p), 32.0 * 128.0 * (means + 2.0 * kept_pairs(&p)));
        let step = problems::tokens(false, 1000, 128, 8, 10);
        assert_eq!(kept_pairs(&step), 10.0);
        // The last block ends with the keys.
        let ragged = TopK {
            top_k: 2,
            ..problems::blocks(false, 100, 64)
        };
        assert_eq!(kept_pairs(&ragged), 50.0 * 101.0);
    }

    #[test]
    fn no_more_values_are_read_than_seen() {
        let step = problems::tokens(false, 1000, 128, 8, 10);
        let windowed = |top_k| TopK {
            top_k,
            attention: crate::Dense {
                causal: true,
                window_left: Some(255),
                ..step.attention.clone()
            },
            ..step.clone()
        };
        assert_eq!(bytes(&windowed(900)), bytes(&windowed(256)));
        assert!(bytes(&windowed(8)) < bytes(&windowed(16)));
    }
}
