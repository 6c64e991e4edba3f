//! From a top-k problem to recorded dispatches: pool, score, select, gather.

use crate::error::{Error, Result, check_limit};
use crate::gpu::{Gpu, Workspace};
use crate::ops::call::{self, Need, Uniforms, Window};
use crate::ops::dense::encode::{Binder, Lists, Small};
use crate::ops::dense::geometry::{small_vectors, whole};
use crate::ops::dense::plan::bounds;
use crate::ops::dense::tile::{KernelChoice, Tuning};
use crate::ops::dense::{Dense, DensePlan, DenseTensors};
use crate::ops::parts::{self, Bounds, Geometry, Part, gcd};
use crate::ops::topk::pool::plan::Pooler;
use crate::ops::topk::score::tile::ScoreTile;
use crate::ops::topk::score::{SCORES_BINDING, Scorer, scores_geometry};
use crate::ops::topk::select::plan::Selector;
use crate::ops::topk::select::variant::SelectTile;
use crate::ops::topk::{Select, TopK, rules};
use crate::tensor::Tensor;
use crate::tier::Tier;

/// Bytes of scores that are held at a time, unless one list's are more: longer calls run in parts.
const SCORE_BYTES: u64 = 64 << 20;

/// What follows something else in a workspace begins at a multiple of the largest offset alignment there is.
const ALIGNMENT: u64 = 256;

/// Overrides of what the planner would choose, for measurements and tests. `None` leaves the choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TopKTuning {
    /// Kernel, tile and splits of the gather.
    pub gather: Tuning,
    /// Kernel and tile of the scoring.
    pub score: Option<ScoreTile>,
    /// Tile of the selection.
    pub select: Option<SelectTile>,
    /// Bytes of scores that are held at a time.
    pub score_bytes: Option<u64>,
}

/// The tensors of one call. Optional ones must be there exactly where the problem says so.
#[derive(Clone, Copy, Debug)]
pub struct TopKTensors<'a> {
    /// Those of the attention; its own `selection` is `None`.
    pub attention: DenseTensors<'a>,
    /// The blocks' means or bounds, where the problem is given them; see [`Pool`](crate::Pool).
    pub pooled: Option<Tensor<'a>>,
    /// Where the selection is to be kept, u32 of the shape of [`TopK::selection`]; every word is written.
    pub selection: Option<Tensor<'a>>,
}

impl<'a> TopKTensors<'a> {
    /// Those of the attention, and nothing else.
    pub fn new(attention: DenseTensors<'a>) -> Self {
        TopKTensors {
            attention,
            pooled: None,
            selection: None,
        }
    }
}

/// A top-k problem on a device: kernels chosen and compiled, ready to encode any number of times.
///
/// Independent of the buffers it will be given, `Send + Sync`, and cheap to encode. Scores, lists and what stands for
/// blocks lie in a workspace that the plans of a [`Gpu`] share; of scores there are 64 MiB at a time, or those of the
/// fewest query rows that can be told apart, and longer calls run in [`TopKPlan::parts`].
#[derive(Debug)]
pub struct TopKPlan {
    gpu: Gpu,
    problem: TopK,
    gather: DensePlan,
    pooler: Option<Pooler>,
    scorer: Scorer,
    selector: Selector,
    score_geometry: Vec<Geometry>,
    parts: Vec<Part>,
    needs: Vec<Need>,
    partial_bytes: u64,
    scores_at: u64,
    lists_at: u64,
    list_bytes: u64,
    uniforms: Uniforms,
}

impl TopK {
    /// Checks the problem, chooses kernels and tiles for the device, and compiles or fetches the pipelines.
    ///
    /// # Errors
    /// [`Error::Invalid`] names a field that is wrong, [`Error::Snippet`] a line of custom code, [`Error::Limit`] a limit
    /// of the device that even parts of the problem exceed, [`Error::Unsupported`] what a software GPU cannot run, or a forced
    /// tier has no kernel for; [`Error::Device`] if a driver's compiler fails, or the device is lost or out of memory.
    pub fn plan(&self, gpu: &Gpu) -> Result<TopKPlan> {
        self.plan_with(gpu, &TopKTuning::default())
    }

    /// As [`TopK::plan`], with some choices given: for measurements and tests.
    ///
    /// # Errors
    /// As [`TopK::plan`] and [`Dense::plan_with`].
    pub fn plan_with(&self, gpu: &Gpu, tuning: &TopKTuning) -> Result<TopKPlan> {
        rules::check(self)?;
        let gather = self.gathered().plan_with(gpu, &tuning.gather)?;
        let scorer = Scorer::new(gpu, self, tuning.score)?;
        let pool = rules::pool_of(self).filter(|_| !self.pooled);
        let pooler = pool.as_ref().map(|pool| Pooler::new(gpu, pool)).transpose()?;

        let score_geometry = scorer.geometry_with(scores_geometry(self));
        let (parts, widest) = self.parts(&gather, &scorer, &score_geometry, tuning, gpu)?;
        let select = Select {
            rows: widest as u32,
            ..self.select()
        };
        let selector = Selector::new(gpu, &select, tuning.select)?;
        let pooled_bytes = pool.filter(|_| pooler.is_some()).map_or(0, |p| p.words() * 4);
        let lists_at = pooled_bytes.next_multiple_of(ALIGNMENT);
        let list_bytes = if self.keep {
            0
        } else {
            widest * u64::from(1 + self.selection().capacity) * 4
        };
        let score_bytes = widest * u64::from(self.selection().entries(&self.attention)) * 4;
        // Partial results of one part outlive the scores of the next.
        let scores_at = match gather.merge {
            Some(_) if parts.len() > 1 => gather.workspace_bytes().next_multiple_of(ALIGNMENT),
            _ => 0,
        };
        let partial_bytes = gather.workspace_bytes().max(scores_at + score_bytes);
        gpu.workspace(Workspace::Partials, partial_bytes)?;
        if lists_at + list_bytes > 0 {
            gpu.workspace(Workspace::Lists, lists_at + list_bytes)?;
        }
        Ok(TopKPlan {
            needs: self.needs(&score_geometry),
            gpu: gpu.clone(),
            problem: self.clone(),
            gather,
            pooler,
            scorer,
            selector,
            score_geometry,
            parts,
            partial_bytes,
            scores_at,
            lists_at,
            list_bytes,
            uniforms: Uniforms::default(),
        })
    }

    /// The last step: attention over the keys of the lists.
    pub fn gathered(&self) -> Dense {
        Dense {
            selection: Some(self.selection()),
            ..self.attention.clone()
        }
    }

    /// The parts of a call, each of whole lists, and the most lists of one.
    fn parts(
        &self,
        gather: &DensePlan,
        scorer: &Scorer,
        score_geometry: &[Geometry],
        tuning: &TopKTuning,
        gpu: &Gpu,
    ) -> Result<(Vec<Part>, u64)> {
        let p = &gather.problem;
        let group = p.heads / p.kv_heads();
        let attend = bounds(p, gather.choice, gather.splits, gpu);
        let score = scorer.bounds();
        let unit = [attend.unit, score.unit, self.query_block.min(p.queries)]
            .into_iter()
            .fold(1u64, |n, m| lcm(n, m.into()))
            .min(p.queries.into()) as u32;
        // A KV head's queries stay together.
        let together = |b: Bounds| Bounds {
            heads: group,
            rows: b.rows * (group / b.heads),
            unit,
            ..b
        };
        let mut geometry = gather.geometry.clone();
        geometry.extend_from_slice(score_geometry);
        self.bound_scores(&mut geometry, tuning, group, unit);
        let mut parts = vec![];
        for part in parts::split(whole(p), &geometry, &together(attend))? {
            parts.extend(parts::split(part, &geometry, &together(score))?);
        }
        for part in &parts {
            check_limit(
                "the heads of a part",
                part.head.1 - part.head.0,
                "max_compute_workgroups_per_dimension",
                gpu.limits().max_compute_workgroups_per_dimension,
            )?;
        }
        let widest = parts.iter().map(|part| self.lists_of(part).iter().product()).max();
        Ok((parts, widest.unwrap_or(0)))
    }

    /// Scores of a part are bounded; but those of the fewest rows of the fewest heads there may be in one, at least.
    fn bound_scores(&self, geometry: &mut [Geometry], tuning: &TopKTuning, group: u32, unit: u32) {
        let least = Part {
            batch: (0, 1),
            head: (0, group),
            query: (0, unit),
        };
        for g in geometry.iter_mut().filter(|g| g.name == "scores") {
            let (first, end) = g.range(&least);
            let wanted = tuning.score_bytes.unwrap_or(SCORE_BYTES);
            g.most = wanted.max((end - first) * g.size) + ALIGNMENT;
        }
    }

    /// Batch entries, heads of lists, and lists of a head in a part.
    fn lists_of(&self, part: &Part) -> [u64; 3] {
        let lists = |(from, to): (u32, u32), each: u32| u64::from(to.div_ceil(each) - from / each);
        [
            u64::from(part.batch.1 - part.batch.0),
            lists(part.head, self.heads_of_a_list()),
            lists(part.query, self.query_block),
        ]
    }

    /// Query heads that share lists.
    fn heads_of_a_list(&self) -> u32 {
        let p = &self.attention;
        if self.per_kv_head { p.heads / p.kv_heads() } else { 1 }
    }

    /// What is needed beside the attention's own tensors.
    fn needs(&self, score_geometry: &[Geometry]) -> Vec<Need> {
        let part = whole(&self.attention);
        let pooled = score_geometry.iter().filter(|g| g.name == "pooled");
        let mut needs: Vec<_> = pooled
            .map(|g| Need {
                name: "pooled",
                bytes: g.range(&part).1 * g.size,
                alignment: 16,
            })
            .collect();
        needs.push(Need {
            name: "selection",
            bytes: self.selection().words(&self.attention) * 4,
            alignment: 4,
        });
        needs
    }
}

fn lcm(a: u64, b: u64) -> u64 {
    let common = u64::from(gcd(a as u32, b as u32));
    (a / common).saturating_mul(b).min(u32::MAX.into())
}

/// Whether kernels that were chosen elsewhere run a valid problem on a device.
#[cfg(feature = "tuned")]
pub(crate) fn runs(p: &TopK, tuning: &TopKTuning, gpu: &Gpu) -> bool {
    let device = crate::ops::dense::tile::DeviceClass::of_gpu(gpu);
    let gather = |kernel| crate::ops::dense::plan::runs(&p.gathered(), &kernel, gpu);
    let select = |tile| crate::ops::topk::select::tile::runs(&p.select(), &tile, &device);
    let score = |tile| crate::ops::topk::score::runs(p, tile, gpu);
    tuning.gather.kernel.is_none_or(gather) && tuning.score.is_none_or(score) && tuning.select.is_none_or(select)
}

impl TopKPlan {
    /// The device it was made for.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// The problem it was made for.
    pub fn problem(&self) -> &TopK {
        &self.problem
    }

    /// The kernel and tile of the gather.
    pub fn kernel(&self) -> KernelChoice {
        self.gather.kernel()
    }

    /// Kernel and tile of the scoring.
    pub fn score_tile(&self) -> ScoreTile {
        self.scorer.tile
    }

    /// The tile of the selection.
    pub fn select_tile(&self) -> SelectTile {
        self.selector.tile
    }

    /// The tier of the gather's kernel.
    pub fn tier(&self) -> Tier {
        self.gather.tier()
    }

    /// Kernels, options and tiles of scoring, selection and gather, as their pipelines are labelled.
    pub fn label(&self) -> String {
        format!(
            "{}; {}; {}",
            self.scorer.label,
            self.selector.label,
            self.gather.label()
        )
    }

    /// Shares of the kept keys that are computed apart and merged.
    pub fn splits(&self) -> u32 {
        self.gather.splits()
    }

    /// Parts that a call is cut into; each is a scoring, a selecting and a gather.
    pub fn parts(&self) -> usize {
        self.parts.len()
    }

    /// Bytes of device memory the plan uses between its own dispatches, shared with the other plans of its [`Gpu`].
    pub fn workspace_bytes(&self) -> u64 {
        self.partial_bytes + self.lists_at + self.list_bytes
    }

    /// Records the call into an encoder, as a compute pass of its own. Nothing is submitted, read back or waited for.
    ///
    /// # Errors
    /// [`Error::Tensor`] names a tensor that does not fit the plan; [`Error::Device`] if the device is
    /// lost or out of memory. Nothing is recorded then.
    pub fn encode(&self, encoder: &mut wgpu::CommandEncoder, tensors: &TopKTensors<'_>) -> Result<()> {
        self.check_tensors(tensors)?;
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
            label: Some("wgpu-attention top-k"),
            timestamp_writes: None,
        });
        self.record(&mut pass, tensors)
    }

    /// Records the call into a compute pass of the caller's, whose pipeline and bind group 0 it replaces.
    ///
    /// # Errors
    /// As [`TopKPlan::encode`].
    pub fn encode_in(&self, pass: &mut wgpu::ComputePass<'_>, tensors: &TopKTensors<'_>) -> Result<()> {
        self.check_tensors(tensors)?;
        self.record(pass, tensors)
    }

    fn record(&self, pass: &mut wgpu::ComputePass<'_>, t: &TopKTensors<'_>) -> Result<()> {
        let gpu = &self.gpu;
        let gather = &self.gather;
        let partials = gpu.workspace(Workspace::Partials, self.partial_bytes)?;
        let lists = match self.lists_at + self.list_bytes {
            0 => None,
            bytes => Some(gpu.workspace(Workspace::Lists, bytes)?),
        };
        let mut dispatches = Vec::with_capacity(3 * self.parts.len() + 3);
        let packed = gather.small.as_ref();
        let small = Small::gather(gpu, &gather.problem, packed, &t.attention, &mut dispatches);
        let none = Small::default();
        let score_small = match small_vectors(&self.scorer.scored).is_empty() {
            true => &none,
            false => &small,
        };
        let mut pooled = t.pooled;
        if let (Some(pooler), Some(buffer)) = (&self.pooler, &lists) {
            let out = Tensor::at(buffer, 0);
            dispatches.extend(pooler.dispatches(gpu, t.attention.k, t.attention.kv_len, out));
            pooled = Some(out);
        }
        let joiner = gather.merge.as_ref().map(|joiner| (&partials, joiner));
        for part in &self.parts {
            let [batch, heads, each] = self.problem.lists_of(part);
            let count = batch * heads * each;
            let entries = u64::from(self.problem.selection().entries(&self.problem.attention));

            let scores = Tensor::at(&partials, self.scores_at);
            let window = Window::over(gpu, scores, (0, count * entries), 4);
            let mut binder = Binder::new(gpu, &self.score_geometry, part);
            binder.bindings.push((SCORES_BINDING, window));
            let strides = [heads * each * entries, each * entries, entries].map(|n| n as u32);
            let (base, tensors) = (window.base, &t.attention);
            dispatches.push(
                self.scorer
                    .dispatch(part, binder, base, strides, tensors, pooled, score_small),
            );

            let lists = match (t.selection, &lists) {
                (Some(kept), _) => {
                    for (list, scores, rows) in self.runs(part, scores, kept) {
                        dispatches.extend(self.selector.dispatch(gpu, scores, list, rows));
                    }
                    Lists::of_tensor(gpu, &gather.geometry, part, kept)
                }
                (None, Some(buffer)) => {
                    let chosen = Tensor::at(buffer, self.lists_at);
                    dispatches.extend(self.selector.dispatch(gpu, scores, chosen, count as u32));
                    let words = u64::from(1 + self.problem.selection().capacity);
                    Lists {
                        window: Window::over(gpu, chosen, (0, count * words), 4),
                        strides: [heads * each * words, each * words, words].map(|n| n as u32),
                    }
                }
                (None, None) => unreachable!("lists that are not kept have a workspace"),
            };
            dispatches.push(gather.attend(part, &t.attention, &small, Some(lists), joiner));
        }
        if let Some((buffer, joiner)) = joiner {
            let (o, lse) = joiner.parts_tensors(buffer);
            dispatches.push(joiner.dispatch(gpu, o, lse, t.attention.o, t.attention.lse));
        }
        call::record(gpu, &self.uniforms, pass, &dispatches)
    }

    /// The lists of a part that lie side by side in the tensor of all lists: where they begin, where their scores do, and
    /// how many they are. A part has all queries of several heads, whose lists are neighbours, or some of one KV head's,
    /// and then each head's lists lie by themselves.
    fn runs<'a>(&self, part: &Part, scores: Tensor<'a>, kept: Tensor<'a>) -> Vec<(Tensor<'a>, Tensor<'a>, u32)> {
        let p = &self.problem;
        let [_, all_heads, all_lists, words] = p.selection().dims(&p.attention).map(u64::from);
        let entries = u64::from(p.selection().entries(&p.attention));
        let [batch, heads, each] = p.lists_of(part);
        let runs = if each == all_lists { 1 } else { batch * heads };
        let rows = batch * heads * each / runs;
        let head = u64::from(part.batch.0) * all_heads + u64::from(part.head.0 / p.heads_of_a_list());
        let first = head * all_lists + u64::from(part.query.0 / p.query_block);
        let run = |n: u64| {
            let list = Tensor::at(kept.buffer, kept.offset + (first + n * all_lists) * words * 4);
            let scores = Tensor::at(scores.buffer, scores.offset + n * rows * entries * 4);
            (list, scores, rows as u32)
        };
        (0..runs).map(run).collect()
    }

    fn check_tensors(&self, t: &TopKTensors<'_>) -> Result<()> {
        if t.attention.selection.is_some() {
            return Err(Error::Tensor {
                tensor: "attention.selection",
                found: "it is given".into(),
                needed: "none: where the selection is to be kept is `selection`, beside `attention`".into(),
            });
        }
        call::check_presence("pooled", t.pooled.is_some(), self.problem.pooled)?;
        call::check_presence("selection", t.selection.is_some(), self.problem.keep)?;
        let (mut outputs, mut inputs) = self.gather.checked(&t.attention)?;
        for need in &self.needs {
            let (tensor, list) = match need.name {
                "pooled" => (t.pooled, &mut inputs),
                _ => (t.selection, &mut outputs),
            };
            let Some(tensor) = tensor else { continue };
            call::check_tensor(need, &tensor)?;
            list.push((need.name, tensor));
        }
        call::check_aliasing(&outputs, &inputs)
    }
}
