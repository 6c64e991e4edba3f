//! Tiles that were measured on a device, in a file: what `wgpu-attention tune` writes and a plan can be given.
//!
//! ```no_run
//! use wgpu_attention::tuned::Tuned;
//! # use wgpu_attention::{Dense, DensePlan, Gpu, Linear, LinearPlan, Result, TopK, TopKPlan};
//! # fn f(gpu: &Gpu, problem: &Dense, linear: &Linear, topk: &TopK) -> Result<(DensePlan, LinearPlan, TopKPlan)> {
//! let tuned = Tuned::load("tuned.json")?;
//! tuned.check(gpu)?;
//! // The tile that was fastest on the nearest problem measured; the planner's own where there is none.
//! let plan = problem.plan_with(gpu, &tuned.dense(gpu, problem))?;
//! let linear_plan = linear.plan_with(gpu, &tuned.linear(gpu, linear))?;
//! let topk_plan = topk.plan_with(gpu, &tuned.topk(gpu, topk))?;
//! # Ok((plan, linear_plan, topk_plan))
//! # }
//! ```

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::ops::dense::tile::{KernelChoice, Tuning};
use crate::ops::dense::{self, Dense};
use crate::ops::linear::tile::{Form, LinearTuning};
use crate::ops::linear::{self, Decay, Linear};
use crate::ops::topk::score::tile::ScoreTile;
use crate::ops::topk::select::variant::SelectTile;
use crate::ops::topk::{self, Scoring, TopK, TopKTuning};

/// What the first field of a file says.
const FORMAT: &str = "wgpu-attention-tuned/2";

/// Tiles that were measured on one device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tuned {
    format: String,
    /// Name of the adapter.
    pub adapter: String,
    /// Its back end and driver.
    pub driver: String,
    /// The fastest tile of each dense problem that was measured.
    pub dense: Vec<TunedDense>,
    /// The fastest form of each linear problem that was measured.
    #[serde(default)]
    pub linear: Vec<TunedLinear>,
    /// The fastest tiles of each top-k problem that was measured.
    #[serde(default)]
    pub topk: Vec<TunedTopK>,
}

/// The fastest tile of a dense problem.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TunedDense {
    /// Nq.
    pub queries: u32,
    /// Nk.
    pub keys: u32,
    /// D.
    pub head_dim: u32,
    /// Dv.
    pub value_dim: u32,
    /// Query heads of a KV head.
    pub group: u32,
    /// Query heads of all batch entries; 0 in files of before they were kept.
    #[serde(default)]
    pub heads: u64,
    /// Storage type, by its name.
    pub dtype: String,
    /// The kernel and its tile.
    pub kernel: KernelChoice,
    /// Seconds that it took: the planner's times what pairs of runs say of the two.
    pub seconds: f64,
    /// Seconds that the planner's own choice took.
    pub planner_seconds: f64,
}

/// How far a dense problem may be from the one measured, in powers of two of keys, queries and heads together: tiles for long
/// prompts leave a device idle with short ones.
const FARTHEST: f64 = 2.5;

/// Queries up to which a problem is decode, whose tiles say nothing about prefill.
const DECODE_QUERIES: u32 = 16;

impl TunedDense {
    /// The kernel that was fastest on a problem.
    pub fn new(problem: &Dense, kernel: KernelChoice, seconds: f64, planner_seconds: f64) -> Self {
        TunedDense {
            queries: problem.queries,
            keys: problem.keys,
            head_dim: problem.head_dim,
            value_dim: problem.value_dim(),
            group: problem.heads / problem.kv_heads(),
            heads: all_heads(problem.batch, problem.heads),
            dtype: problem.dtype.to_string(),
            kernel,
            seconds,
            planner_seconds,
        }
    }

    /// How far a problem is from the one measured, in powers of two; `None` where its tile cannot be compared, or it is too far.
    fn distance(&self, problem: &Dense) -> Option<f64> {
        let decode = |queries: u32| queries <= DECODE_QUERIES;
        let alike = self.head_dim == problem.head_dim
            && self.value_dim == problem.value_dim()
            && self.dtype == problem.dtype.to_string()
            && decode(self.queries) == decode(problem.queries)
            && (!decode(self.queries) || self.group == problem.heads / problem.kv_heads());
        let heads = match self.heads {
            0 => 0.0,
            known => apart(known as f64, all_heads(problem.batch, problem.heads) as f64),
        };
        let distance = apart(self.keys, problem.keys) + apart(self.queries, problem.queries) + heads;
        (alike && distance <= FARTHEST).then_some(distance)
    }
}

/// Heads of all batch entries.
fn all_heads(batch: u32, heads: u32) -> u64 {
    u64::from(batch) * u64::from(heads)
}

/// How far two sizes are from each other, in powers of two.
fn apart(a: impl Into<f64>, b: impl Into<f64>) -> f64 {
    (a.into() / b.into()).log2().abs()
}

/// The fastest form of a linear problem of many tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TunedLinear {
    /// B.
    pub batch: u32,
    /// H.
    pub heads: u32,
    /// N.
    pub tokens: u32,
    /// D.
    pub head_dim: u32,
    /// Dv.
    pub value_dim: u32,
    /// Storage type, by its name.
    pub dtype: String,
    /// Token t sees tokens up to t.
    pub causal: bool,
    /// Shape of the log-decay.
    pub decay: Decay,
    /// Outputs are normalised.
    pub normalize: bool,
    /// The form with its tile.
    pub form: Form,
    /// The planner's own.
    pub planner: Form,
    /// Seconds that the form took: the planner's times what pairs of runs say of the two.
    pub seconds: f64,
    /// Seconds that the planner's own took.
    pub planner_seconds: f64,
}

impl TunedLinear {
    /// The form that was fastest on a problem, and the planner's own, each with its seconds.
    pub fn new(problem: &Linear, (form, seconds): (Form, f64), (planner, planner_seconds): (Form, f64)) -> Self {
        TunedLinear {
            batch: problem.batch,
            heads: problem.heads,
            tokens: problem.tokens,
            head_dim: problem.head_dim,
            value_dim: problem.value_dim(),
            dtype: problem.dtype.to_string(),
            causal: problem.causal,
            decay: problem.decay,
            normalize: problem.normalize.is_some(),
            form,
            planner,
            seconds,
            planner_seconds,
        }
    }

    /// How far a problem, for which the planner has this form, is from the one measured, in powers of two; `None` where their
    /// forms cannot be compared. What one pass over each sequence took says nothing about segments side by side.
    fn distance(&self, problem: &Linear, planned: Form) -> Option<f64> {
        let alike = self.head_dim == problem.head_dim
            && self.value_dim == problem.value_dim()
            && self.dtype == problem.dtype.to_string()
            && self.causal == problem.causal
            && self.decay == problem.decay
            && self.normalize == problem.normalize.is_some()
            && self.planner.segment().is_some() == planned.segment().is_some();
        let rows = all_heads(problem.batch, problem.heads);
        alike.then(|| apart(self.tokens, problem.tokens) + apart(self.rows() as f64, rows as f64))
    }

    /// Heads of all sequences.
    fn rows(&self) -> u64 {
        all_heads(self.batch, self.heads)
    }
}

/// The fastest tiles of a top-k problem; `None` where the planner's own were.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TunedTopK {
    /// Query heads of all batch entries.
    pub heads: u64,
    /// Query heads of a KV head.
    pub group: u32,
    /// Nq.
    pub queries: u32,
    /// Nk.
    pub keys: u32,
    /// D.
    pub head_dim: u32,
    /// Dv.
    pub value_dim: u32,
    /// Storage type, by its name.
    pub dtype: String,
    /// Entries of a list.
    pub top_k: u32,
    /// Keys of an entry.
    pub block_size: u32,
    /// Queries that share a list.
    pub query_block: u32,
    /// Query heads of a KV head share lists.
    pub per_kv_head: bool,
    /// What entries are scored by.
    pub scoring: Scoring,
    /// Kernel and tile of the scoring.
    pub score: Option<ScoreTile>,
    /// Tile of the selection.
    pub select: Option<SelectTile>,
    /// Kernel and tile of the gather.
    pub gather: Option<KernelChoice>,
    /// Seconds that they took together: the planner's times what pairs of runs say of the two.
    pub seconds: f64,
    /// Seconds that the planner's own choice took.
    pub planner_seconds: f64,
}

impl TunedTopK {
    /// The tiles that were fastest on a problem.
    pub fn new(problem: &TopK, tuning: &TopKTuning, seconds: f64, planner_seconds: f64) -> Self {
        let a = &problem.attention;
        TunedTopK {
            heads: all_heads(a.batch, a.heads),
            group: a.heads / a.kv_heads(),
            queries: a.queries,
            keys: a.keys,
            head_dim: a.head_dim,
            value_dim: a.value_dim(),
            dtype: a.dtype.to_string(),
            top_k: problem.top_k,
            block_size: problem.block_size,
            query_block: problem.query_block,
            per_kv_head: problem.per_kv_head,
            scoring: problem.scoring,
            score: tuning.score,
            select: tuning.select,
            gather: tuning.gather.kernel,
            seconds,
            planner_seconds,
        }
    }

    /// How far a problem is from the one measured, in powers of two; `None` where its tiles cannot be compared, or it is too far.
    fn distance(&self, problem: &TopK) -> Option<f64> {
        let a = &problem.attention;
        let decode = |queries: u32| queries <= DECODE_QUERIES;
        let alike = self.group == a.heads / a.kv_heads()
            && self.head_dim == a.head_dim
            && self.value_dim == a.value_dim()
            && self.dtype == a.dtype.to_string()
            && self.block_size == problem.block_size
            && self.query_block == problem.query_block
            && self.per_kv_head == problem.per_kv_head
            && self.scoring == problem.scoring
            && decode(self.queries) == decode(a.queries);
        let distance = apart(self.keys, a.keys)
            + apart(self.queries, a.queries)
            + apart(self.top_k, problem.top_k)
            + apart(self.heads as f64, all_heads(a.batch, a.heads) as f64);
        (alike && distance <= FARTHEST).then_some(distance)
    }

    /// What a plan is given.
    fn tuning(&self) -> TopKTuning {
        TopKTuning {
            gather: Tuning {
                kernel: self.gather,
                ..Tuning::default()
            },
            score: self.score,
            select: self.select,
            score_bytes: None,
        }
    }
}

impl Tuned {
    /// For a device, with nothing measured yet.
    pub fn new(gpu: &Gpu) -> Self {
        Tuned {
            format: FORMAT.into(),
            adapter: gpu.info().name.clone(),
            driver: driver(gpu),
            dense: vec![],
            linear: vec![],
            topk: vec![],
        }
    }

    /// From a file.
    ///
    /// # Errors
    /// [`Error::File`] if it cannot be read or is something else.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let wrong = |message: String| Error::File {
            file: path.display().to_string(),
            message,
        };
        let text = std::fs::read_to_string(path).map_err(|e| wrong(e.to_string()))?;
        let tuned: Tuned = serde_json::from_str(&text).map_err(|e| wrong(format!("no file of measured tiles: {e}")))?;
        match tuned.format == FORMAT {
            true => Ok(tuned),
            false => Err(wrong(format!(
                "its format is `{}`; this version reads `{FORMAT}`",
                tuned.format
            ))),
        }
    }

    /// Into a file.
    ///
    /// # Errors
    /// [`Error::File`] if it cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let wrong = |message: String| Error::File {
            file: path.display().to_string(),
            message,
        };
        let text = serde_json::to_string_pretty(self).map_err(|e| wrong(e.to_string()))?;
        std::fs::write(path, text + "\n").map_err(|e| wrong(e.to_string()))
    }

    /// Whether it was measured on this adapter with this driver.
    ///
    /// # Errors
    /// [`Error::Invalid`] with both, if not: tiles from elsewhere may be slower than the planner's own.
    pub fn check(&self, gpu: &Gpu) -> Result<()> {
        let (adapter, driver) = (&gpu.info().name, driver(gpu));
        if (&self.adapter, &self.driver) == (adapter, &driver) {
            return Ok(());
        }
        Err(Error::Invalid {
            field: "tuned",
            value: format!("from {}, {}", self.adapter, self.driver),
            allowed: format!("measurements of this device, {adapter}, {driver}"),
        })
    }

    /// What a plan of the problem is to be given: the tile of the nearest problem of the same head sizes, storage type and
    /// kind that was measured, if it has about as many queries, keys and heads; nothing where there is none, or where a tile
    /// could not serve (a `selection`, a tier that is forced, an invalid problem, matrices that the problem does not allow,
    /// limits or features that this device was requested without).
    pub fn dense(&self, gpu: &Gpu, problem: &Dense) -> Tuning {
        let measured = problem.selection.is_none() && gpu.forced_tier().is_none();
        if !measured || dense::check::check(problem).is_err() {
            return Tuning::default();
        }
        let candidates = self.dense.iter().filter_map(|t| Some((t.distance(problem)?, t.kernel)));
        let nearest = candidates
            .filter(|(_, kernel)| dense::plan::runs(problem, kernel, gpu))
            .min_by(|a, b| a.0.total_cmp(&b.0));
        Tuning {
            kernel: nearest.map(|(_, kernel)| kernel),
            ..Tuning::default()
        }
    }

    /// What a plan of the problem is to be given: the form of the nearest problem that was measured, of the same head sizes,
    /// storage type, decay, direction and normaliser, and like it one that the planner takes in one pass, or in segments. Those
    /// become longer or shorter, for as many workgroups as were measured. Nothing where there is none, or where a form could not
    /// serve (a tier that is forced, documents, `state_only`, the few tokens of a step, more than the device has).
    pub fn linear(&self, gpu: &Gpu, problem: &Linear) -> LinearTuning {
        LinearTuning {
            form: self.linear_form(gpu, problem),
        }
    }

    /// What a plan of the problem is to be given: the tiles of the nearest problem that was measured, of the same head sizes,
    /// group, storage type, scoring and kind of lists, if it has about as many queries, keys, entries and heads. Nothing where
    /// there is none, or where tiles could not serve (a tier that is forced, an invalid problem, more than the device has).
    pub fn topk(&self, gpu: &Gpu, problem: &TopK) -> TopKTuning {
        if gpu.forced_tier().is_some() || topk::rules::check(problem).is_err() {
            return TopKTuning::default();
        }
        let candidates = self
            .topk
            .iter()
            .filter_map(|t| Some((t.distance(problem)?, t.tuning())));
        let nearest = candidates
            .filter(|(_, tuning)| topk::plan::runs(problem, tuning, gpu))
            .min_by(|a, b| a.0.total_cmp(&b.0));
        nearest.map_or_else(TopKTuning::default, |(_, tuning)| tuning)
    }

    fn linear_form(&self, gpu: &Gpu, problem: &Linear) -> Option<Form> {
        let planned = linear::planned(problem, gpu)?;
        let measured = problem.documents.is_none() && !problem.state_only && gpu.forced_tier().is_none();
        if !measured || matches!(planned, Form::Step(_)) {
            return None;
        }
        let candidates = self.linear.iter().filter_map(|t| {
            let distance = t.distance(problem, planned)?;
            Some((distance, linear::adapted(problem, gpu, t.form, (t.rows(), t.tokens))?))
        });
        let nearest = candidates.min_by(|a, b| a.0.total_cmp(&b.0));
        nearest.map(|(_, form)| form)
    }
}

fn driver(gpu: &Gpu) -> String {
    let info = gpu.info();
    format!("{:?}, {} {}", info.backend, info.driver, info.driver_info)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::dense::serial::SerialTile;
    use crate::ops::dense::tile::DeviceClass;
    use crate::ops::linear::variant::ChunkTile;
    use crate::tensor::DType;

    fn entry(queries: u32, keys: u32, rows: u32) -> TunedDense {
        let problem = Dense {
            queries,
            keys,
            ..Dense::default()
        };
        TunedDense::new(
            &problem,
            KernelChoice::DecodeSerial(SerialTile { rows, threads: 8 }),
            1.0,
            2.0,
        )
    }

    const TILE: ChunkTile = ChunkTile {
        row_groups: 8,
        row_regs: 4,
        lanes: 8,
        key_regs: 4,
        value_vecs: 1,
        chunk: 4,
        tokens: 8,
        unroll: 4,
    };

    const SEGMENTS: Form = Form::Split {
        tile: TILE,
        segment: 256,
    };

    /// One pass, which was faster than the planner's segments.
    fn linear_entry(heads: u32, tokens: u32) -> TunedLinear {
        let problem = Linear {
            heads,
            tokens,
            ..Linear::default()
        };
        TunedLinear::new(&problem, (Form::Serial(TILE), 1.0), (SEGMENTS, 2.0))
    }

    #[test]
    fn the_nearest_linear_problem_of_the_same_kind_counts() {
        let entries = [linear_entry(1, 1000), linear_entry(1, 16000), linear_entry(32, 1000)];
        let nearest = |p: &Linear, planned: Form| {
            let distances = entries
                .iter()
                .filter_map(|e| Some((e.distance(p, planned)?, e.heads, e.tokens)));
            let nearest = distances.min_by(|a, b| a.0.total_cmp(&b.0));
            nearest.map(|(_, heads, tokens)| (heads, tokens))
        };
        let p = |heads, tokens| Linear {
            heads,
            tokens,
            ..Linear::default()
        };
        assert_eq!(nearest(&p(1, 3000), SEGMENTS), Some((1, 1000)));
        assert_eq!(nearest(&p(1, 5000), SEGMENTS), Some((1, 16000)));
        assert_eq!(nearest(&p(16, 2000), SEGMENTS), Some((32, 1000)));
        // Heads of a batch are as many heads.
        let batch = Linear { batch: 4, ..p(8, 1000) };
        assert_eq!(entries[2].distance(&batch, SEGMENTS), Some(0.0));
        // Where the planner takes one pass, segments were not what the form had to be faster than.
        assert_eq!(nearest(&p(1, 3000), Form::Serial(TILE)), None);
        let others = [
            Linear {
                dtype: DType::F16,
                ..p(1, 1000)
            },
            Linear {
                decay: Decay::Head,
                ..p(1, 1000)
            },
            Linear {
                causal: false,
                ..p(1, 1000)
            },
            Linear {
                normalize: Some(1e-6),
                ..p(1, 1000)
            },
            Linear {
                value_dim: Some(32),
                ..p(1, 1000)
            },
            Linear {
                head_dim: 32,
                value_dim: Some(64),
                ..p(1, 1000)
            },
        ];
        for other in others {
            assert_eq!(nearest(&other, SEGMENTS), None, "{other:?}");
        }
    }

    /// Files of before linear attention was measured.
    #[test]
    fn a_file_without_linear_problems_is_read() {
        let text = format!(r#"{{"format": "{FORMAT}", "adapter": "a", "driver": "d", "dense": []}}"#);
        let tuned: Tuned = serde_json::from_str(&text).unwrap();
        assert!(tuned.linear.is_empty());
    }

    #[test]
    fn the_nearest_problem_of_the_same_kind_counts() {
        let entries = [entry(1, 1000, 1), entry(1, 16000, 2), entry(500, 3000, 4)];
        let nearest = |p: &Dense| {
            let distances = entries.iter().filter_map(|e| Some((e.distance(p)?, e.keys)));
            distances.min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, keys)| keys)
        };
        let p = |queries, keys| Dense {
            queries,
            keys,
            ..Dense::default()
        };
        assert_eq!(nearest(&p(1, 3000)), Some(1000));
        assert_eq!(nearest(&p(1, 5000)), Some(16000));
        assert_eq!(nearest(&p(300, 2000)), Some(3000));
        // Too far from any.
        assert_eq!(nearest(&p(100, 1000)), None);
        assert_eq!(nearest(&p(1, 100_000)), None);
        let heads = |heads| Dense { heads, ..p(1, 1000) };
        assert_eq!((nearest(&heads(4)), nearest(&heads(32))), (Some(1000), None));
        let before = TunedDense {
            heads: 0,
            ..entry(1, 1000, 1)
        };
        assert_eq!(before.distance(&heads(32)), Some(0.0));
        let other = Dense {
            dtype: DType::F16,
            ..p(1, 1000)
        };
        assert_eq!(nearest(&other), None);
        let grouped = Dense {
            heads: 8,
            kv_heads: Some(1),
            ..p(1, 1000)
        };
        assert_eq!(nearest(&grouped), None);
    }

    fn topk_problem(heads: u32, keys: u32, top_k: u32) -> TopK {
        TopK {
            attention: Dense {
                heads,
                keys,
                ..Dense::default()
            },
            top_k,
            ..TopK::default()
        }
    }

    /// Tiles of every kernel.
    fn topk_entry(heads: u32, keys: u32, top_k: u32) -> TunedTopK {
        let problem = topk_problem(heads, keys, top_k);
        let device = DeviceClass::of(&wgpu::Limits::default(), wgpu::DeviceType::Cpu);
        let tuning = TopKTuning {
            gather: Tuning {
                kernel: Some(entry(1, 1, 1).kernel),
                ..Tuning::default()
            },
            score: topk::score::tile::alternatives(&problem, &device).first().copied(),
            select: topk::select::tile::alternatives(&problem.select(), &device)
                .first()
                .copied(),
            score_bytes: None,
        };
        assert!(tuning.score.is_some() && tuning.select.is_some());
        TunedTopK::new(&problem, &tuning, 1.0, 2.0)
    }

    #[test]
    fn a_top_k_problem_is_as_far_as_its_heads_keys_and_entries() {
        let entry = topk_entry(2, 4096, 64);
        let distance = |heads, keys, top_k| entry.distance(&topk_problem(heads, keys, top_k));
        assert_eq!(distance(2, 4096, 64), Some(0.0));
        assert_eq!(distance(4, 4096, 64), Some(1.0));
        assert_eq!(distance(2, 2048, 32), Some(2.0));
        assert_eq!(distance(4, 8192, 128), None);
        let batch = |p: TopK| TopK {
            attention: Dense {
                batch: 2,
                ..p.attention
            },
            ..p
        };
        assert_eq!(entry.distance(&batch(topk_problem(1, 4096, 64))), Some(0.0));
    }

    #[test]
    fn files_come_back_as_they_were_and_others_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tuned.json");
        let tuned = Tuned {
            format: FORMAT.into(),
            adapter: "a".into(),
            driver: "d".into(),
            dense: vec![entry(1, 1000, 1)],
            linear: vec![linear_entry(2, 4096)],
            topk: vec![topk_entry(2, 4096, 64)],
        };
        tuned.save(&path).unwrap();
        assert_eq!(Tuned::load(&path).unwrap(), tuned);
        for (text, part) in [("{}", "missing field"), ("no json", "expected")] {
            std::fs::write(&path, text).unwrap();
            let error = Tuned::load(&path).unwrap_err().to_string();
            assert!(error.contains(part) && error.contains("tuned.json"), "{error}");
        }
        let other = Tuned {
            format: "wgpu-attention-tuned/9".into(),
            ..tuned
        };
        other.save(&path).unwrap();
        assert!(Tuned::load(&path).unwrap_err().to_string().contains(FORMAT));
        folder.close().unwrap();
        assert!(Tuned::load(&path).is_err());
    }
}
