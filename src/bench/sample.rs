//! Rows of a problem too large for the reference, each by itself.

use super::Failure;
use super::inputs::random;
use crate::compare::{self, Comparison, Tolerance};
use crate::error::Result;
use crate::gpu::Gpu;
use crate::ops::dense::{Dense, Weighting};
use crate::ops::host::from_bytes;
use crate::tensor::DType;

/// A row of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    pub batch: u32,
    pub head: u32,
    pub query: u32,
}

impl Row {
    /// Its number among all rows of q and o, `[B, H, Nq]`.
    pub fn query_row(&self, p: &Dense) -> u64 {
        (u64::from(self.batch) * u64::from(p.heads) + u64::from(self.head)) * u64::from(p.queries)
            + u64::from(self.query)
    }

    /// The number of its head's first row in k and v, `[B, Hkv, Nk]`.
    pub fn key_row(&self, p: &Dense) -> u64 {
        let kv_head = self.head / (p.heads / p.kv_heads());
        (u64::from(self.batch) * u64::from(p.kv_heads()) + u64::from(kv_head)) * u64::from(p.keys)
    }
}

/// The first row, the last, and some between, in heads of all kinds; fewer where a row costs the reference more.
pub fn rows(p: &Dense, cost: u64) -> Vec<Row> {
    let count = ((1 << 23) / cost.max(1)).clamp(3, 8) as usize;
    let draws = random(17, 3 * count);
    let pick = |draw: f32, n: u32| (((draw + 1.0) / 2.0 * n as f32) as u32).min(n - 1);
    let rows = draws.chunks_exact(3).enumerate().map(|(n, draw)| Row {
        batch: pick(draw[0], p.batch),
        head: pick(draw[1], p.heads),
        query: match n {
            0 => 0,
            1 => p.queries - 1,
            _ => pick(draw[2], p.queries),
        },
    });
    // With more queries than keys the first see nothing when causal; a row of zeros tells little.
    rows.filter(|row| !p.causal || p.keys + row.query >= p.queries)
        .collect()
}

/// So many rows from `first` on, of so many heads of one KV head, by themselves. They stand where they stood, and what the
/// whole problem takes from its number of keys stays as it was there. Keys after the last that causality lets the rows see
/// are not there.
pub fn alone(p: &Dense, heads: u32, first: u32, rows: u32) -> Dense {
    let weighting = match p.weighting {
        Weighting::Softmax => Weighting::Softmax,
        Weighting::Sigmoid { .. } => Weighting::Sigmoid { bias: p.sigmoid_bias() },
    };
    let offset = p.keys as i32 - p.queries as i32 + first as i32;
    let seen = (offset + rows as i32).clamp(1, p.keys as i32) as u32;
    Dense {
        batch: 1,
        heads,
        kv_heads: Some(1),
        queries: rows,
        keys: if p.causal { seen } else { p.keys },
        q_offset: Some(offset),
        weighting,
        ..p.clone()
    }
}

/// Pieces of an output, gathered in the submission that fills it.
pub struct Sample<'a> {
    gpu: &'a Gpu,
    output: &'a wgpu::Buffer,
    dtype: DType,
    /// First element and how many.
    pieces: Vec<(u64, u64)>,
}

impl<'a> Sample<'a> {
    pub fn new(gpu: &'a Gpu, output: &'a wgpu::Buffer, dtype: DType) -> Self {
        Sample {
            gpu,
            output,
            dtype,
            pieces: vec![],
        }
    }

    pub fn add(&mut self, first: u64, len: u64) {
        self.pieces.push((first, len));
    }

    /// Runs what is recorded, and brings the pieces back, one after the other.
    pub fn run(&self, record: impl FnOnce(&mut wgpu::ComputePass<'_>) -> Result<()>) -> Result<Vec<f32>> {
        let size = self.dtype.size();
        // Copies take whole words.
        let words = |&(first, len): &(u64, u64)| ((first * size) & !3, ((first + len) * size).next_multiple_of(4));
        let total = self.pieces.iter().map(words).map(|(from, to)| to - from).sum();
        let gathered = self.gpu.guarded(|device| {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("bench sample"),
                size: total,
                usage: wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC,
                mapped_at_creation: false,
            })
        })?;
        let mut encoder = self.gpu.device().create_command_encoder(&Default::default());
        record(&mut encoder.begin_compute_pass(&Default::default()))?;
        let mut at = 0;
        for (from, to) in self.pieces.iter().map(words) {
            encoder.copy_buffer_to_buffer(self.output, from, &gathered, at, to - from);
            at += to - from;
        }
        let bytes = self.gpu.submit_and_read_blocking(encoder, &gathered)?;
        let (mut values, mut rest) = (vec![], &bytes[..]);
        for piece in &self.pieces {
            let (from, to) = words(piece);
            let (own, others) = rest.split_at((to - from) as usize);
            let skipped = (piece.0 * size - from) as usize;
            let wanted = &own[skipped..skipped + (piece.1 * size) as usize];
            values.extend(from_bytes(wanted, self.dtype));
            rest = others;
        }
        Ok(values)
    }
}

/// The largest errors among pieces that are right, each by itself: rows over many keys are small, and beside one over few any
/// error of theirs would be. The bounds are those of the golden cases.
pub fn judge(actual: &[f32], expected: &[Vec<f64>], dtype: DType) -> Result<Comparison, Failure> {
    let mut rest = actual;
    let mut worst: Option<Comparison> = None;
    for (n, piece) in expected.iter().enumerate() {
        let (own, others) = rest.split_at(piece.len().min(rest.len()));
        let result = compare::output(own, piece, &Tolerance::for_dtype(dtype));
        if !result.passed() {
            let of = expected.len();
            return Err(Failure::Wrong(format!("sampled rows, {} of {of}: {result}", n + 1)));
        }
        worst = worst.filter(|w| w.rms >= result.rms).or(Some(result));
        rest = others;
    }
    worst.ok_or_else(|| Failure::Wrong("no row to check".into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::dense::{Inputs, tensors};
    use crate::ops::dense::DenseInputs;
    use crate::ops::dense::reference::{Hooks, dense};

    /// Every row by itself is what the reference gives it among the others.
    fn assert_rows_stand_alone(p: &Dense) {
        let inputs = Inputs::random(p);
        let whole = dense(p, &inputs.host(), &Hooks::default()).unwrap().o;
        let [q, k, v] = tensors(p);
        let (d, dv) = (u64::from(p.head_dim), u64::from(p.value_dim()));
        for n in 0..p.batch * p.heads * p.queries {
            let row = Row {
                batch: n / p.queries / p.heads,
                head: n / p.queries % p.heads,
                query: n % p.queries,
            };
            let alone = alone(p, 1, row.query, 1);
            let keys = u64::from(alone.keys);
            let (q, k, v) = (
                q.slice(row.query_row(p) * d, d),
                k.slice(row.key_row(p) * d, keys * d),
                v.slice(row.key_row(p) * dv, keys * dv),
            );
            let inputs = DenseInputs {
                q: &q,
                k: &k,
                v: &v,
                ..Default::default()
            };
            let o = dense(&alone, &inputs, &Hooks::default()).unwrap().o;
            let at = n as usize * dv as usize;
            assert_eq!(o, whole[at..at + dv as usize], "{row:?}");
        }
    }

    #[test]
    fn rows_by_themselves_stand_where_they_stood() {
        let full = Dense {
            batch: 2,
            heads: 4,
            kv_heads: Some(2),
            queries: 7,
            keys: 9,
            head_dim: 3,
            value_dim: Some(2),
            ..Default::default()
        };
        let causal = Dense {
            causal: true,
            ..full.clone()
        };
        let window = Dense {
            window_left: Some(2),
            ..causal.clone()
        };
        let sigmoid = Dense {
            weighting: Weighting::Sigmoid { bias: None },
            ..causal.clone()
        };
        let more_queries = Dense {
            queries: 9,
            keys: 4,
            ..causal.clone()
        };
        for p in [full, causal, window, sigmoid, more_queries] {
            assert_rows_stand_alone(&p);
        }
    }

    #[test]
    fn rows_are_inside_and_the_last_is_among_them() {
        let p = Dense {
            batch: 3,
            heads: 5,
            queries: 1000,
            keys: 10,
            causal: true,
            ..Default::default()
        };
        let rows = rows(&p, 1);
        assert!(
            rows.iter()
                .all(|r| r.batch < 3 && r.head < 5 && (990..1000).contains(&r.query))
        );
        assert!(rows.iter().any(|r| r.query == 999));
    }

    #[test]
    fn a_wrong_row_is_noticed() {
        let expected = [vec![1.0, -2.0, 0.5], vec![1e-3, 2e-3]];
        let judged = |actual: &[f32]| judge(actual, &expected, DType::F32);
        assert!(judged(&[1.0, -2.0, 0.5, 1e-3, 2e-3]).is_ok());
        // The last is beside its own row only.
        for wrong in [
            &[1.0, -2.0, 0.5001, 1e-3, 2e-3][..],
            &[1.0, -2.0, 0.5, 1e-3, 2.001e-3],
            &[1.0, -2.0, 0.5],
        ] {
            assert!(matches!(judged(wrong), Err(Failure::Wrong(_))), "{wrong:?}");
        }
        assert!(matches!(judge(&[], &[], DType::F32), Err(Failure::Wrong(_))));
    }
}
