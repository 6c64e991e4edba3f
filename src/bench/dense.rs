//! Dense attention: inputs, checks, and what a problem costs.

use crate::bench::Failure;
use crate::bench::inputs::{Repeated, random, stored};
use crate::bench::problems::small;
use crate::bench::sample::{self, Sample};
use crate::compare::{self, Comparison, Tolerance};
use crate::error::Result;
use crate::gpu::Gpu;
use crate::ops::dense::reference::{Hooks, dense};
use crate::ops::dense::tile::Tuning;
use crate::ops::dense::{Dense, DenseInputs, DensePlan, DenseTensors};
use crate::ops::host::upload;

/// The plan of a problem, if the kernel it runs gives the right answer on a small problem of the same variant: a wrong
/// kernel gets no number.
///
/// # Errors
/// [`Failure::Refused`] with the planner's error, [`Failure::Wrong`].
pub fn checked_plan(gpu: &Gpu, problem: &Dense, tuning: &Tuning) -> Result<DensePlan, Failure> {
    let plan = problem.plan_with(gpu, tuning)?;
    check(gpu, &small(problem), &same_kernel(&plan))?;
    Ok(plan)
}

/// The very kernel of a plan, for another problem.
fn same_kernel(plan: &DensePlan) -> Tuning {
    Tuning {
        kernel: Some(plan.kernel()),
        splits: Some(plan.splits()),
        live: Some(plan.skips_masked_tiles()),
    }
}

/// Whether a kernel gives the right answer; the bounds are those of the golden cases.
///
/// # Errors
/// As [`checked_plan`].
pub fn check(gpu: &Gpu, problem: &Dense, tuning: &Tuning) -> Result<(), Failure> {
    let inputs = Inputs::random(problem);
    let output = problem.plan_with(gpu, tuning)?.run_blocking(&inputs.host())?;
    let expected = dense(problem, &inputs.host(), &Hooks::default())?;
    let result = compare::dense(&output, &expected, &Tolerance::for_dtype(problem.dtype));
    match result.passed() {
        true => Ok(()),
        false => Err(Failure::Wrong(result.to_string())),
    }
}

/// Inputs on the host, already rounded to the problem's storage type.
#[derive(Clone, Debug)]
pub struct Inputs {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    mask: Option<Vec<u8>>,
}

impl Inputs {
    /// Random ones.
    pub fn random(p: &Dense) -> Self {
        let rounded = |seed, n| stored(&random(seed, n as usize), p.dtype);
        let [q, k, v, _] = elements(p);
        Inputs {
            q: rounded(1, q),
            k: rounded(2, k),
            v: rounded(3, v),
            // Of what a scan for masked tiles finds there is some of each kind.
            mask: p.mask.map(|_| MaskContent::Blocks(2).bytes(p)),
        }
    }

    /// As a plan takes them.
    pub fn host(&self) -> DenseInputs<'_> {
        DenseInputs {
            q: &self.q,
            k: &self.k,
            v: &self.v,
            mask: self.mask.as_deref(),
            ..Default::default()
        }
    }
}

/// What a boolean mask lets through.
#[derive(Clone, Copy, Debug)]
pub enum MaskContent {
    /// So many blocks along the diagonal.
    Blocks(u32),
    /// All of it.
    Everything,
}

impl MaskContent {
    /// `[1, 1, Nq, Nk]`.
    pub fn bytes(self, p: &Dense) -> Vec<u8> {
        let sees = |i: u32, j: u32| match self {
            MaskContent::Blocks(n) => i * n / p.queries == j * n / p.keys,
            MaskContent::Everything => true,
        };
        let rows = (0..p.queries).flat_map(|i| (0..p.keys).map(move |j| u8::from(sees(i, j))));
        rows.collect()
    }
}

/// Device buffers for timing, filled with random numbers: zeros can be faster than real data.
#[derive(Debug)]
pub struct Buffers {
    q: wgpu::Buffer,
    k: wgpu::Buffer,
    v: wgpu::Buffer,
    o: wgpu::Buffer,
    mask: Option<wgpu::Buffer>,
}

impl Buffers {
    /// For problems without a mask tensor.
    ///
    /// # Errors
    /// [`crate::Error::Device`] if the device is lost or out of memory.
    pub fn zeroless(gpu: &Gpu, p: &Dense) -> Result<Self> {
        let [q, k, v] = tensors(p);
        let o = Repeated::new(4, elements(p)[3], p.output_dtype());
        Ok(Buffers {
            q: q.upload(gpu)?,
            k: k.upload(gpu)?,
            v: v.upload(gpu)?,
            o: o.upload(gpu)?,
            mask: None,
        })
    }

    /// With a mask of that content.
    ///
    /// # Errors
    /// As [`Buffers::zeroless`].
    pub fn masked(gpu: &Gpu, p: &Dense, content: MaskContent) -> Result<Self> {
        Ok(Buffers {
            mask: Some(upload(gpu, "bench mask", &content.bytes(p))?),
            ..Buffers::zeroless(gpu, p)?
        })
    }

    /// As a plan takes them.
    pub fn tensors(&self) -> DenseTensors<'_> {
        DenseTensors {
            mask: self.mask.as_ref().map(Into::into),
            ..DenseTensors::new(&self.q, &self.k, &self.v, &self.o)
        }
    }

    pub(super) fn o(&self) -> &wgpu::Buffer {
        &self.o
    }
}

/// What q, k and v of [`Buffers`] hold.
pub(super) fn tensors(p: &Dense) -> [Repeated; 3] {
    let [q, k, v, _] = elements(p);
    [(1, q), (2, k), (3, v)].map(|(seed, n)| Repeated::new(seed, n, p.dtype))
}

/// Elements of q, k, v and o.
fn elements(p: &Dense) -> [u64; 4] {
    let count = |heads: u32, n: u32, d: u32| [p.batch, heads, n, d].iter().map(|&x| u64::from(x)).product();
    [
        count(p.heads, p.queries, p.head_dim),
        count(p.kv_heads(), p.keys, p.head_dim),
        count(p.kv_heads(), p.keys, p.value_dim()),
        count(p.heads, p.queries, p.value_dim()),
    ]
}

/// Runs a plan once, and compares some rows of its output with the reference.
///
/// # Errors
/// [`Failure::Refused`] if the device fails, [`Failure::Wrong`].
pub(super) fn check_rows(gpu: &Gpu, plan: &DensePlan, buffers: &Buffers) -> Result<Comparison, Failure> {
    let p = plan.problem();
    let [q, k, v] = tensors(p);
    let (d, dv) = (u64::from(p.head_dim), u64::from(p.value_dim()));
    let rows = sample::rows(p, u64::from(p.keys) * (d + dv));
    let mut sample = Sample::new(gpu, &buffers.o, p.output_dtype());
    let mut expected = vec![];
    for row in &rows {
        sample.add(row.query_row(p) * dv, dv);
        let alone = sample::alone(p, 1, row.query, 1);
        let first_key = row.key_row(p);
        let (q, k, v) = (
            q.slice(row.query_row(p) * d, d),
            k.slice(first_key * d, u64::from(alone.keys) * d),
            v.slice(first_key * dv, u64::from(alone.keys) * dv),
        );
        let inputs = DenseInputs {
            q: &q,
            k: &k,
            v: &v,
            ..Default::default()
        };
        expected.push(dense(&alone, &inputs, &Hooks::default())?.o);
    }
    let actual = sample.run(|pass| plan.encode_in(pass, &buffers.tensors()))?;
    sample::judge(&actual, &expected, p.dtype)
}

/// Floating-point operations of the two products over the visible (query, key) pairs.
pub fn flops(p: &Dense) -> f64 {
    2.0 * pairs(p) * (p.head_dim + p.value_dim()) as f64 * p.heads as f64 * p.batch as f64
}

/// The first key that causality and windows let a query see, and the one behind the last.
fn span(p: &Dense, query: u32) -> (i64, i64) {
    let keys = i64::from(p.keys);
    let at = i64::from(query) + keys - i64::from(p.queries);
    let end = if p.causal { at + 1 } else { keys };
    let end = p.window_right.map_or(end, |r| end.min(at + 1 + i64::from(r))).min(keys);
    let first = p.window_left.map_or(0, |l| (at - i64::from(l)).max(0));
    (first, end.max(first))
}

/// The number of keys that causality and windows let a query see.
pub(super) fn visible(p: &Dense, query: u32) -> f64 {
    let (first, end) = span(p, query);
    (end - first) as f64
}

/// The (query, key) pairs of a head that causality and windows leave visible.
pub fn pairs(p: &Dense) -> f64 {
    (0..p.queries).map(|query| visible(p, query)).sum()
}

/// Keys of a head from the first that some query sees to the last.
pub(super) fn keys_seen(p: &Dense) -> f64 {
    (span(p, p.queries - 1).1 - span(p, 0).0).max(0) as f64
}

/// Bytes of q, o, and the rows of k and v that some query sees, each once.
pub fn bytes(p: &Dense) -> f64 {
    let [q, ..] = elements(p);
    (q * p.dtype.size()) as f64 + kv_bytes(p) + written_bytes(p)
}

/// Bytes of o.
pub fn written_bytes(p: &Dense) -> f64 {
    let [.., o] = elements(p);
    (o * p.output_dtype().size()) as f64
}

/// Bytes of the rows of K and V that some query sees.
pub fn kv_bytes(p: &Dense) -> f64 {
    let [_, k, v, _] = elements(p);
    ((k + v) * p.dtype.size()) as f64 * keys_seen(p) / f64::from(p.keys)
}

/// Bytes of q, k, v and o as they are stored.
pub(super) fn stored_bytes(p: &Dense) -> f64 {
    let [q, k, v, o] = elements(p);
    ((q + k + v) * p.dtype.size() + o * p.output_dtype().size()) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_those_of_what_is_visible() {
        let full = Dense {
            batch: 2,
            heads: 4,
            kv_heads: Some(2),
            queries: 3,
            keys: 5,
            head_dim: 8,
            ..Default::default()
        };
        assert_eq!(flops(&full), f64::from(2 * 15 * 16 * 4 * 2));
        // q and o 2·4·3·8, k and v 2·2·5·8, four bytes each.
        assert_eq!(bytes(&full), f64::from((2 * 192 + 2 * 160) * 4));
        assert_eq!(kv_bytes(&full), f64::from(2 * 160 * 4));
        let causal = Dense {
            causal: true,
            ..full.clone()
        };
        assert_eq!(pairs(&causal), f64::from(3 + 4 + 5));
        let window = Dense {
            window_left: Some(1),
            ..causal.clone()
        };
        assert_eq!(pairs(&window), 6.0);
        // The first query is the third of five: it sees keys 1 and 2, the last 3 and 4.
        assert_eq!(kv_bytes(&window), f64::from(2 * 4 * 2 * 2 * 8 * 4));
        assert_eq!(bytes(&window), f64::from(2 * 192 * 4) + kv_bytes(&window));
        assert_eq!(stored_bytes(&window), bytes(&full));
        let step = Dense {
            queries: 1,
            keys: 65536,
            window_left: Some(255),
            ..causal.clone()
        };
        assert_eq!(kv_bytes(&step), f64::from(2 * 256 * 2 * 2 * 8 * 4));
        // With more queries than keys the first see nothing.
        let more_queries = Dense {
            queries: 7,
            keys: 4,
            ..causal
        };
        assert_eq!((pairs(&more_queries), keys_seen(&more_queries)), (10.0, 4.0));
    }
}
