//! Scores of keys or blocks, a row of them for each list: the first step of [`TopK`].
//!
//! ```no_run
//! use wgpu_attention::topk::ScoreTensors;
//! use wgpu_attention::{Dense, Scoring, TopK};
//! # use wgpu_attention::{Gpu, Result, wgpu};
//! # fn f(gpu: &Gpu, encoder: &mut wgpu::CommandEncoder, [q, pooled, scores]: [&wgpu::Buffer; 3]) -> Result<()> {
//! // Upper bounds of one query's scores in each page of 16 keys, from the bounds that a cache keeps.
//! let attention = Dense { heads: 8, keys: 100_000, head_dim: 128, ..Default::default() };
//! let pages = TopK { attention, block_size: 16, scoring: Scoring::Bound, pooled: true, top_k: 64, ..Default::default() };
//! assert_eq!(pages.score_dims(), [1, 8, 1, 6250]);
//! let tensors = ScoreTensors { pooled: Some(pooled.into()), ..ScoreTensors::new(q, scores) };
//! pages.plan_scores(gpu)?.encode(encoder, &tensors)?;
//! # Ok(())
//! # }
//! ```

pub mod tile;
pub mod variant;

use std::sync::Arc;

use self::tile::{ScoreTile, Shape};
use self::variant::ScoreVariant;
use crate::error::Result;
use crate::gpu::Gpu;
use crate::ops::call::{self, Dispatch, Need, Uniforms};
use crate::ops::dense::encode::{Binder, Small, params};
use crate::ops::dense::geometry::{geometry, needs, whole};
use crate::ops::dense::plan::{PackedSmall, options_of, packed_small, prepared};
use crate::ops::dense::tile::DeviceClass;
use crate::ops::dense::{Dense, DenseTensors};
use crate::ops::parts::{self, Bounds, Geometry, Part};
use crate::ops::topk::variant::TopKVariant;
use crate::ops::topk::{Pooling, Scoring, TopK, rules};
use crate::shader::{Pipeline, Variant};
use crate::tensor::{DType, Strides, Tensor};

/// The tensors of scoring. Optional ones must be there exactly where the problem says so.
#[derive(Clone, Copy, Debug)]
pub struct ScoreTensors<'a> {
    /// Queries.
    pub q: Tensor<'a>,
    /// Keys, where they are scored themselves ([`Scoring::Keys`]).
    pub k: Option<Tensor<'a>>,
    /// The blocks' means or bounds, where they are scored; see [`Pool`](crate::Pool).
    pub pooled: Option<Tensor<'a>>,
    /// The scores, f32 `[B, H|Hkv, ⌈Nq/query_block⌉, ⌈Nk/block_size⌉]`, contiguous; every one is written. −∞ where no row
    /// of the list sees the entry, +∞ where [`TopK::diagonal`] keeps it in any case.
    pub scores: Tensor<'a>,
    /// As in [`DenseTensors`]; scores of blocks need none.
    pub bias: Option<Tensor<'a>>,
    /// As in [`DenseTensors`]; scores of blocks need none.
    pub mask: Option<Tensor<'a>>,
    /// As in [`DenseTensors`].
    pub kv_len: Option<Tensor<'a>>,
    /// As in [`DenseTensors`].
    pub cu_seqlens_q: Option<Tensor<'a>>,
    /// As in [`DenseTensors`].
    pub cu_seqlens_k: Option<Tensor<'a>>,
    /// As in [`DenseTensors`]; scores of blocks need none.
    pub alibi_slopes: Option<Tensor<'a>>,
    /// As in [`DenseTensors`]; scores of blocks need none.
    pub custom_data: &'a [Tensor<'a>],
}

impl<'a> ScoreTensors<'a> {
    /// Queries and scores, and nothing else.
    pub fn new(q: impl Into<Tensor<'a>>, scores: impl Into<Tensor<'a>>) -> Self {
        ScoreTensors {
            q: q.into(),
            k: None,
            pooled: None,
            scores: scores.into(),
            bias: None,
            mask: None,
            kv_len: None,
            cu_seqlens_q: None,
            cu_seqlens_k: None,
            alibi_slopes: None,
            custom_data: &[],
        }
    }

    /// As the dense op's machinery takes them; what scoring has no use for is never bound.
    fn as_dense(&self) -> DenseTensors<'a> {
        DenseTensors {
            bias: self.bias,
            mask: self.mask,
            kv_len: self.kv_len,
            cu_seqlens_q: self.cu_seqlens_q,
            cu_seqlens_k: self.cu_seqlens_k,
            alibi_slopes: self.alibi_slopes,
            custom_data: self.custom_data,
            ..DenseTensors::new(self.q, self.k.unwrap_or(self.q), self.q, self.scores)
        }
    }
}

impl TopK {
    /// `[B, H|Hkv, ⌈Nq/query_block⌉, ⌈Nk/block_size⌉]`, the shape of the scores.
    pub fn score_dims(&self) -> [u32; 4] {
        let selection = self.selection();
        let [batch, heads, lists, _] = selection.dims(&self.attention);
        [batch, heads, lists, selection.entries(&self.attention)]
    }

    /// What blocks are scored by, if they are.
    pub fn pooling(&self) -> Option<Pooling> {
        match self.scoring {
            Scoring::Keys => None,
            Scoring::Mean => Some(Pooling::Mean),
            Scoring::Bound => Some(Pooling::Bounds),
        }
    }

    /// The attention as far as it decides about scores: blocks are scored without what belongs to single keys.
    pub(crate) fn scored(&self) -> Dense {
        let all = Dense {
            sinks: false,
            lse: false,
            ..self.attention.clone()
        };
        match self.scoring {
            Scoring::Keys => all,
            Scoring::Mean | Scoring::Bound => Dense {
                softcap: None,
                bias: None,
                mask: None,
                alibi: false,
                custom: None,
                ..all
            },
        }
    }

    /// Plans the scores alone.
    ///
    /// # Errors
    /// As [`TopK::plan`].
    pub fn plan_scores(&self, gpu: &Gpu) -> Result<ScorePlan> {
        self.plan_scores_with(gpu, None)
    }

    /// As [`TopK::plan_scores`], with kernel and tile given: for measurements and tests.
    ///
    /// # Errors
    /// As [`TopK::plan`].
    pub fn plan_scores_with(&self, gpu: &Gpu, tile: Option<ScoreTile>) -> Result<ScorePlan> {
        rules::check(self)?;
        let scorer = Scorer::new(gpu, self, tile)?;
        let geometry = scorer.geometry_with(scores_geometry(self));
        let part = whole(&self.attention);
        let parts = parts::split(part, &geometry, &scorer.bounds())?;
        let small = packed_small(&scorer.scored, gpu)?;
        Ok(ScorePlan {
            needs: score_needs(self, &scorer, &geometry),
            gpu: gpu.clone(),
            scorer,
            geometry,
            parts,
            small,
            uniforms: Uniforms::default(),
        })
    }
}

/// The scoring of a top-k problem on a device, ready to encode any number of times.
#[derive(Debug)]
pub struct ScorePlan {
    gpu: Gpu,
    scorer: Scorer,
    geometry: Vec<Geometry>,
    parts: Vec<Part>,
    needs: Vec<Need>,
    small: Option<PackedSmall>,
    uniforms: Uniforms,
}

impl ScorePlan {
    /// Records the scoring into an encoder, as a compute pass of its own.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`] names a tensor that does not fit the plan; [`crate::Error::Device`] if the device is
    /// lost or out of memory. Nothing is recorded then.
    pub fn encode(&self, encoder: &mut wgpu::CommandEncoder, tensors: &ScoreTensors<'_>) -> Result<()> {
        self.check_tensors(tensors)?;
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
            label: Some(&self.scorer.label),
            timestamp_writes: None,
        });
        self.record(&mut pass, tensors)
    }

    /// Records the scoring into a compute pass of the caller's, whose pipeline and bind group 0 it replaces.
    ///
    /// # Errors
    /// As [`ScorePlan::encode`].
    pub fn encode_in(&self, pass: &mut wgpu::ComputePass<'_>, tensors: &ScoreTensors<'_>) -> Result<()> {
        self.check_tensors(tensors)?;
        self.record(pass, tensors)
    }

    /// Kernel, options and tile, as pipelines are labelled.
    pub fn label(&self) -> &str {
        &self.scorer.label
    }

    /// The kernel and tile chosen.
    pub fn tile(&self) -> ScoreTile {
        self.scorer.tile
    }

    /// Dispatches that a call is cut into.
    pub fn parts(&self) -> usize {
        self.parts.len()
    }

    fn record(&self, pass: &mut wgpu::ComputePass<'_>, tensors: &ScoreTensors<'_>) -> Result<()> {
        let dense = tensors.as_dense();
        let mut dispatches = Vec::with_capacity(self.parts.len() + 1);
        let small = Small::gather(
            &self.gpu,
            &self.scorer.scored,
            self.small.as_ref(),
            &dense,
            &mut dispatches,
        );
        for part in &self.parts {
            let mut binder = Binder::new(&self.gpu, &self.geometry, part);
            let (base, strides) = binder.bind(SCORES_BINDING, "scores", tensors.scores);
            dispatches.push(
                self.scorer
                    .dispatch(part, binder, base, strides, &dense, tensors.pooled, &small),
            );
        }
        call::record(&self.gpu, &self.uniforms, pass, &dispatches)
    }

    fn check_tensors(&self, t: &ScoreTensors<'_>) -> Result<()> {
        let p = &self.scorer.scored;
        let by_keys = self.scorer.problem.scoring == Scoring::Keys;
        call::check_presence("k", t.k.is_some(), by_keys)?;
        call::check_presence("pooled", t.pooled.is_some(), !by_keys)?;
        let dense = t.as_dense();
        dense.check_hooks(p)?;
        dense.check_custom_data(p, &self.gpu)?;
        let mut inputs = vec![];
        let mut outputs = vec![];
        for need in &self.needs {
            let tensor = match need.name {
                "pooled" => t.pooled,
                "scores" => Some(t.scores),
                name => dense.named(name),
            };
            let Some(tensor) = tensor else { continue };
            call::check_tensor(need, &tensor)?;
            let list = if need.name == "scores" {
                &mut outputs
            } else {
                &mut inputs
            };
            list.push((need.name, tensor));
        }
        inputs.extend(t.custom_data.iter().map(|d| ("custom_data", *d)));
        call::check_aliasing(&outputs, &inputs)
    }
}

/// The binding of the scores.
pub(super) const SCORES_BINDING: u32 = 4;

/// Scoring on a device, without checks of the caller's tensors: what plans that go on to select use.
#[derive(Debug)]
pub(crate) struct Scorer {
    pub problem: TopK,
    /// The attention as far as it decides about scores.
    pub scored: Dense,
    pub label: String,
    pub tile: ScoreTile,
    shape: Shape,
    splits: u32,
    limits: wgpu::Limits,
    pipeline: Arc<Pipeline>,
}

impl Scorer {
    pub fn new(gpu: &Gpu, problem: &TopK, tile: Option<ScoreTile>) -> Result<Self> {
        let device = DeviceClass::of_gpu(gpu);
        let tile = match tile {
            Some(tile) => tile::check(problem, tile, &device)?,
            None => tile::choose(problem, &device)?,
        };
        let entries = problem.selection().entries(&problem.attention);
        let splits = tile::serial_splits(problem, entries, &device);
        tile::check_loops(problem, &tile, &device)?;
        let scored = problem.scored();
        let variant = Variant::TopK(TopKVariant::Score(variant_of(problem, tile)));
        let what = "this combination of tensors (custom data arrays included)";
        call::check_variant(variant.spec(), what, (scored.head_dim, scored.value_dim()), gpu)?;
        Ok(Scorer {
            label: variant.spec().label(),
            pipeline: prepared(&scored, gpu, &variant)?,
            problem: problem.clone(),
            shape: Shape::of(problem),
            scored,
            tile,
            splits,
            limits: gpu.limits().clone(),
        })
    }

    /// q, k or what stands for its blocks, and what hooks read; then the scores.
    pub fn geometry_with(&self, scores: Geometry) -> Vec<Geometry> {
        let by_keys = self.problem.scoring == Scoring::Keys;
        let mut all: Vec<_> = geometry(&self.scored)
            .into_iter()
            .filter(|g| !matches!(g.name, "v" | "o" | "lse" | "selection") && (by_keys || g.name != "k"))
            .collect();
        if !by_keys {
            all.push(pooled_geometry(&self.problem));
        }
        all.push(scores);
        all
    }

    /// What bounds a part.
    pub fn bounds(&self) -> Bounds {
        bounds_of(&self.problem, self.tile, self.splits, &self.limits)
    }

    fn grid(&self, part: &Part) -> [u32; 3] {
        let bounds = self.bounds();
        let rows = (part.query.1 - part.query.0) * self.shape.heads;
        let tiles = rows.div_ceil(bounds.rows) * bounds.splits;
        let x = match self.tile {
            ScoreTile::Tiled(_) => tiles,
            ScoreTile::Serial(t) => tiles.div_ceil(t.threads),
        };
        let heads = (part.head.1 - part.head.0).div_ceil(self.shape.heads);
        [x, heads, part.batch.1 - part.batch.0]
    }

    /// The dispatch for a part, to scores that are bound already, at `base` with these strides of batch entry, list head
    /// and list.
    #[allow(clippy::too_many_arguments, reason = "each is something else")]
    pub fn dispatch<'a>(
        &'a self,
        part: &Part,
        mut binder: Binder<'a, '_>,
        base: u32,
        strides: [u32; 3],
        tensors: &DenseTensors<'a>,
        pooled: Option<Tensor<'a>>,
        small: &Small<'a>,
    ) -> Dispatch<'a> {
        let p = &self.problem;
        let selection = p.selection();
        let mut params = params(&self.scored, part, self.splits);
        params.q_scale = self.scored.scale();
        (params.q_base, [params.q_batch, params.q_head, params.q_seq]) = binder.bind(1, "q", tensors.q);
        match pooled {
            None => (params.k_base, [params.k_batch, params.k_head, _]) = binder.bind(2, "k", tensors.k),
            Some(pooled) => {
                (params.k_base, [params.k_batch, params.k_head, _]) = binder.bind(2, "pooled", pooled);
                params.k_seq = pooled_width(p);
            }
        }
        // What scores of blocks have no use for, the attention may have.
        let hooks = match p.scoring {
            Scoring::Keys => *tensors,
            Scoring::Mean | Scoring::Bound => DenseTensors {
                bias: None,
                mask: None,
                custom_data: &[],
                ..*tensors
            },
        };
        binder.bind_hooks(&mut params, &hooks, small);
        params.list_base = base;
        [params.list_batch, params.list_head, params.list_row] = strides;
        let group = p.attention.heads / p.attention.kv_heads();
        params.list_group = if p.per_kv_head { group } else { 1 };
        params.list_entries = selection.entries(&p.attention);
        // No further than rows go, so that the number of a list's rows is no overflow.
        params.query_block = p.query_block.min(p.attention.queries);
        Dispatch {
            pipeline: &self.pipeline,
            params: bytemuck::bytes_of(&params).to_vec(),
            bindings: binder.bindings,
            grid: self.grid(part),
        }
    }
}

/// What bounds a part where a tile scores; `splits` are the serial kernel's.
fn bounds_of(p: &TopK, tile: ScoreTile, splits: u32, limits: &wgpu::Limits) -> Bounds {
    let shape = Shape::of(p);
    let (rows, splits) = match tile {
        ScoreTile::Tiled(t) => {
            let entries = p.selection().entries(&p.attention);
            (t.rows(), entries.div_ceil(t.entries(shape.entry_places)))
        }
        ScoreTile::Serial(t) => (t.rows, splits),
    };
    let rows = if shape.row_lists { rows } else { shape.list_rows };
    Bounds::of(limits, rows, shape.heads, splits)
}

/// Whether a tile that was chosen elsewhere runs a problem on a device.
#[cfg(feature = "tuned")]
pub(crate) fn runs(p: &TopK, tile: ScoreTile, gpu: &Gpu) -> bool {
    let device = DeviceClass::of_gpu(gpu);
    let fits = |splits| parts::split(whole(&p.attention), &[], &bounds_of(p, tile, splits, gpu.limits())).is_ok();
    let entries = p.selection().entries(&p.attention);
    tile::runs(p, tile, &device) && fits(tile::serial_splits(p, entries, &device))
}

/// The variant that scores for a problem with a given tile.
pub fn variant_of(p: &TopK, tile: ScoreTile) -> ScoreVariant {
    ScoreVariant {
        options: options_of(&p.scored()),
        scoring: p.scoring,
        block_size: p.block_size,
        diagonal: p.diagonal,
        shape: Shape::of(p),
        tile,
    }
}

/// P of [`Pool`](crate::Pool).
fn pooled_width(p: &TopK) -> u32 {
    p.attention.head_dim.next_multiple_of(4) * if p.scoring == Scoring::Bound { 2 } else { 1 }
}

fn pooled_geometry(p: &TopK) -> Geometry {
    let room = p.pooled_room.unwrap_or(p.selection().entries(&p.attention));
    let head = u64::from(room) * u64::from(pooled_width(p));
    Geometry {
        name: "pooled",
        size: 4,
        strides: Strides {
            batch: head * u64::from(p.attention.kv_heads()),
            head,
            seq: 0,
        },
        group: p.attention.heads / p.attention.kv_heads(),
        block: 1,
        row: head,
        most: u64::MAX,
    }
}

/// The scores of a whole problem.
pub(crate) fn scores_geometry(p: &TopK) -> Geometry {
    let [_, heads, lists, entries] = p.score_dims().map(u64::from);
    Geometry {
        name: "scores",
        size: DType::F32.size(),
        strides: Strides {
            batch: heads * lists * entries,
            head: lists * entries,
            seq: entries,
        },
        group: p.attention.heads / heads as u32,
        block: p.query_block,
        row: entries,
        most: u64::MAX,
    }
}

fn score_needs(p: &TopK, scorer: &Scorer, geometry: &[Geometry]) -> Vec<Need> {
    let part = whole(&p.attention);
    let mut all = needs(&scorer.scored, &self::geometry(&scorer.scored));
    all.retain(|n| geometry.iter().any(|g| g.name == n.name) || n.alignment == 4 && is_short_vector(n.name));
    for name in ["pooled", "scores"] {
        if let Some(g) = geometry.iter().find(|g| g.name == name) {
            all.push(Need {
                name,
                bytes: g.range(&part).1 * g.size,
                alignment: if name == "pooled" { 16 } else { 4 },
            });
        }
    }
    all
}

fn is_short_vector(name: &str) -> bool {
    matches!(
        name,
        "kv_len" | "cu_seqlens_q" | "cu_seqlens_k" | "alibi_slopes" | "sinks"
    )
}
