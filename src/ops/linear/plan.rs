//! From a linear problem to recorded dispatches.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::ops::call::{self, Dispatch, Need, Uniforms, Window};
use crate::ops::dense::tile::DeviceClass;
use crate::ops::linear::params::Params;
use crate::ops::linear::tensors::LinearTensors;
use crate::ops::linear::tile::{self, Form, LinearTuning};
use crate::ops::linear::variant::{
    Chunk, ChunkState, ChunkTile, Inputs, LinearVariant, Scan, Start, Step, StepTile, TotalDecay,
};
use crate::ops::linear::{Decay, FeatureMap, Linear, feature, rules};
use crate::ops::parts::{self, Bounds, Geometry, Part};
use crate::shader::{Pipeline, Variant};
use crate::tensor::{Layout, Strides, Tensor};

/// Invocations of a workgroup of `linear/scan.wgsl`.
pub(super) const SCAN_THREADS: u32 = 64;

/// Channels of a workgroup of `linear/total_decay.wgsl`.
const TOTAL_CHANNELS: u32 = 16;

/// A linear problem on a device: kernels chosen and compiled, ready to encode any number of times.
///
/// Independent of the buffers it will be given, `Send + Sync`, and cheap to encode. Plans of the same variants share
/// their pipelines, so that planning a problem that differs only in sizes compiles nothing.
#[derive(Debug)]
pub struct LinearPlan {
    gpu: Gpu,
    problem: Linear,
    form: Form,
    label: String,
    kernels: Kernels,
    totals: Option<Arc<Pipeline>>,
    parts: Vec<Part>,
    geometry: Vec<Geometry>,
    needs: Vec<Need>,
    workspace_bytes: u64,
    uniforms: Uniforms,
}

#[derive(Debug)]
enum Kernels {
    One(Arc<Pipeline>),
    Three {
        state: Arc<Pipeline>,
        scan: Arc<Pipeline>,
        output: Arc<Pipeline>,
    },
}

impl Linear {
    /// Checks the problem, chooses form and tile for the device, and compiles or fetches the pipelines.
    ///
    /// # Errors
    /// [`Error::Invalid`] names a field that is wrong, [`Error::Snippet`] a line of custom code,
    /// [`Error::Limit`] a limit of the device that even parts of the problem exceed.
    pub fn plan(&self, gpu: &Gpu) -> Result<LinearPlan> {
        self.plan_with(gpu, &LinearTuning::default())
    }

    /// As [`Linear::plan`], with the form given: for measurements and tests.
    ///
    /// # Errors
    /// As [`Linear::plan`]; [`Error::Invalid`] if the form cannot serve the problem, [`Error::Limit`] if its tile does
    /// not fit the device.
    pub fn plan_with(&self, gpu: &Gpu, tuning: &LinearTuning) -> Result<LinearPlan> {
        rules::check(self)?;
        let device = DeviceClass::of(gpu.limits(), gpu.info().device_type);
        let form = match tuning.form {
            Some(form) => check_form(self, form)?,
            None => planned_form(self, &device, gpu)?,
        };
        tile::check_loops(self, form, &device)?;
        let variants = variants_of(self, form);
        for variant in &variants {
            check_device(self, form, variant, gpu)?;
        }
        let geometry = geometry(self, form);
        let parts = parts::split(whole(self), &geometry, &bounds(self, form, gpu))?;
        check_grid(self, form, gpu)?;
        let workspace_bytes = parts
            .iter()
            .map(|part| workspace(self, form, part).bytes)
            .max()
            .unwrap_or(0);
        if workspace_bytes > 0 {
            gpu.workspace(workspace_bytes)?;
        }
        let pipelines = pipelines(self, gpu, &variants)?;
        let totals = match self.total_decay {
            true => Some(gpu.pipeline(&Variant::Linear(LinearVariant::TotalDecay(TotalDecay {
                head_dim: self.head_dim,
                decay: self.decay,
                documents: self.documents.is_some(),
            })))?),
            false => None,
        };
        let label = variants.last().map_or(String::new(), |v| v.spec().label());
        let kernels = match <[_; 3]>::try_from(pipelines) {
            Ok([state, scan, output]) => Kernels::Three { state, scan, output },
            Err(mut one) => Kernels::One(one.swap_remove(0)),
        };
        Ok(LinearPlan {
            label,
            kernels,
            totals,
            needs: needs(self, &geometry),
            parts,
            geometry,
            form,
            workspace_bytes,
            uniforms: Uniforms::default(),
            gpu: gpu.clone(),
            problem: self.clone(),
        })
    }
}

/// The pipelines. Code of the caller's own is part of the cache's key, so that what is found there was checked before.
fn pipelines(p: &Linear, gpu: &Gpu, variants: &[LinearVariant]) -> Result<Vec<Arc<Pipeline>>> {
    let variants: Vec<_> = variants.iter().cloned().map(Variant::Linear).collect();
    if let FeatureMap::Custom(text) = &p.feature_map
        && variants.iter().any(|v| gpu.cached_pipeline(v).is_none())
    {
        let modules: Vec<_> = variants.iter().map(Variant::wgsl).collect();
        feature::check(text, &modules)?;
    }
    variants.iter().map(|v| gpu.pipeline(v)).collect()
}

/// Whether q, k and v, o, and states are accessed four elements at a time.
fn vector_access(p: &Linear) -> (bool, bool, bool) {
    let (d, dv) = (p.head_dim, p.value_dim());
    let x4 = |layout: Layout, heads: u32, dim: u32| {
        let s = layout.strides(heads, p.tokens, dim);
        dim.is_multiple_of(4) && [s.batch, s.head, s.seq].iter().all(|n| n.is_multiple_of(4)) && !p.unaligned
    };
    let inputs = x4(p.q_layout, p.heads, d) && x4(p.k_layout, p.kv_heads(), d) && x4(p.v_layout, p.kv_heads(), dv);
    let state = dv.is_multiple_of(4) && p.head_state_len().is_multiple_of(4) && !p.unaligned;
    (inputs, x4(p.o_layout, p.heads, dv), state)
}

/// The kernels of a form, in the order of their dispatches.
pub fn variants_of(p: &Linear, form: Form) -> Vec<LinearVariant> {
    let (vector, vector_output, vector_state) = vector_access(p);
    let inputs = Inputs {
        head_dim: p.head_dim,
        value_dim: p.value_dim(),
        dtype: p.dtype,
        vector,
        feature_map: p.feature_map.clone(),
        decay: p.decay,
        normalize: p.normalize.is_some(),
        vector_state,
    };
    let start = match (p.initial_state, p.in_place) {
        (_, true) => Start::InPlace,
        (true, false) => Start::Read,
        (false, false) => Start::Zero,
    };
    let chunk = |tile: ChunkTile, split: bool| {
        LinearVariant::Chunk(Chunk {
            inputs: inputs.clone(),
            output_dtype: p.output_dtype(),
            vector_output,
            causal: p.causal,
            state_only: p.state_only,
            documents: p.documents.is_some(),
            split,
            start: if split { Start::Read } else { start },
            writes_state: p.final_state && !split,
            tile,
        })
    };
    match form {
        Form::Step(tile) => vec![LinearVariant::Step(Step {
            output_dtype: p.output_dtype(),
            vector_output,
            start,
            writes_state: p.final_state,
            tile,
            inputs,
        })],
        Form::Serial(tile) => vec![chunk(tile, false)],
        Form::Split { tile, .. } => vec![
            LinearVariant::ChunkState(ChunkState {
                inputs: inputs.clone(),
                state_only: p.state_only,
                documents: p.documents.is_some(),
                tile,
            }),
            LinearVariant::Scan(Scan {
                head_dim: p.head_dim,
                value_dim: p.value_dim(),
                normalize: p.normalize.is_some(),
                causal: p.causal,
                documents: p.documents.is_some(),
                decay: match p.decay {
                    Decay::Head => Decay::Token,
                    decay => decay,
                },
                start,
                writes_state: p.final_state,
            }),
            chunk(tile, true),
        ],
    }
}

/// The planner's form. Where the call must be cut into parts, it is the parts that have to fill the device.
fn planned_form(p: &Linear, device: &DeviceClass, gpu: &Gpu) -> Result<Form> {
    let form = fitting(p, tile::choose(p, device)?, gpu);
    let parts = parts::split(whole(p), &geometry(p, form), &bounds(p, form, gpu))?;
    let sequences = |part: &Part| p.documents.unwrap_or(part.batch.1 - part.batch.0);
    let rows = |part: &Part| u64::from(sequences(part)) * u64::from(part.head.1 - part.head.0);
    match parts.iter().map(rows).max() {
        Some(rows) if parts.len() > 1 => Ok(fitting(p, tile::choose_for(p, device, rows)?, gpu)),
        _ => Ok(form),
    }
}

/// A planner's split with segments long enough that the states between them fit the device.
fn fitting(p: &Linear, form: Form, gpu: &Gpu) -> Form {
    let Form::Split { tile, mut segment } = form else {
        return form;
    };
    let one_head = Part {
        batch: (0, 1),
        head: (0, 1),
        query: (0, 1),
    };
    let limits = gpu.limits();
    let most = limits.max_storage_buffer_binding_size.min(limits.max_buffer_size / 2);
    let tiles = p.value_dim().div_ceil(tile.columns());
    loop {
        let form = Form::Split { tile, segment };
        let groups = u64::from(segments(p, segment)) * u64::from(tiles);
        let fits = workspace(p, form, &one_head).bytes <= most / 2
            && groups <= limits.max_compute_workgroups_per_dimension.into();
        if fits || segment >= p.tokens {
            return form;
        }
        segment *= 2;
    }
}

/// Segments of a sequence; of all documents together, if packed: each may have one that is not full.
fn segments(p: &Linear, segment: u32) -> u32 {
    p.tokens.div_ceil(segment) + p.documents.unwrap_or(0)
}

/// Where the states between segments and the segments' log-decays lie in the workspace.
struct Workspace {
    totals_at: u64,
    bytes: u64,
}

fn workspace(p: &Linear, form: Form, part: &Part) -> Workspace {
    let Form::Split { segment, .. } = form else {
        return Workspace { totals_at: 0, bytes: 0 };
    };
    let heads = u64::from(part.batch.1 - part.batch.0) * u64::from(part.head.1 - part.head.0);
    let slots = heads * u64::from(segments(p, segment));
    let totals_at = (slots * p.head_state_len() * 4).next_multiple_of(256);
    Workspace {
        totals_at,
        bytes: totals_at + slots * total_len(p) * 4,
    }
}

/// Numbers of a total log-decay.
fn total_len(p: &Linear) -> u64 {
    if tile::channel_totals(p.decay) {
        p.head_dim.into()
    } else {
        1
    }
}

fn check_form(p: &Linear, form: Form) -> Result<Form> {
    let invalid = |allowed: &str| {
        Err(Error::Invalid {
            field: "tuning.form",
            value: format!("{form:?}"),
            allowed: allowed.into(),
        })
    };
    let sound = |tile: &ChunkTile| tile.is_sound(p.head_dim);
    match form {
        Form::Step(StepTile { lanes, groups }) => {
            let all_columns = lanes >= p.value_dim().div_ceil(4);
            if !tile::steps_at_all(p) {
                return invalid(
                    "a step only where causal, without documents and `state_only`, and with a final state where there \
                     are several tokens",
                );
            }
            if !(1..=256).contains(&lanes) || !(1..=256).contains(&groups) {
                return invalid("1 to 256 lanes and groups");
            }
            if p.normalize.is_some() && !all_columns {
                return invalid("with `normalize`, at least as many lanes as there are vectors of four columns");
            }
        }
        Form::Serial(tile) | Form::Split { tile, .. } if !sound(&tile) => {
            return invalid("a tile that keeps to the rules beside its fields, each of which is 1 to 256");
        }
        Form::Serial(tile) => {
            if !p.causal {
                return invalid("a split where not causal: every token needs the whole sequence's state first");
            }
            if p.normalize.is_some() && p.in_place && p.value_dim() > tile.columns() {
                return invalid("with `normalize` and `in_place`, a tile with all the columns, or a split");
            }
        }
        Form::Split { tile, segment } => {
            if segment == 0 || !segment.is_multiple_of(tile.rows()) {
                return invalid("segments of a multiple of the tile's rows");
            }
        }
    }
    Ok(form)
}

/// Limits that depend on the variant.
fn check_device(p: &Linear, form: Form, variant: &LinearVariant, gpu: &Gpu) -> Result<()> {
    let limits = gpu.limits();
    let limit = |what: String, needed: u32, limit: &'static str, available: u32| {
        if needed <= available {
            return Ok(());
        }
        Err(Error::Limit {
            what,
            needed: needed.into(),
            limit,
            available: available.into(),
        })
    };
    let storage = variant.spec().bindings().len() as u32 - 1;
    limit(
        "this combination of tensors".into(),
        storage,
        "max_storage_buffers_per_shader_stage",
        limits.max_storage_buffers_per_shader_stage,
    )?;
    limit(
        format!("the tile for D = {}, Dv = {}", p.head_dim, p.value_dim()),
        variant.spec().workgroup_bytes(),
        "max_compute_workgroup_storage_size",
        limits.max_compute_workgroup_storage_size,
    )?;
    let threads = match form {
        Form::Step(tile) => tile.threads(),
        Form::Serial(tile) | Form::Split { tile, .. } => tile.threads(),
    };
    limit(
        "the tile".into(),
        threads,
        "max_compute_invocations_per_workgroup",
        limits
            .max_compute_invocations_per_workgroup
            .min(limits.max_compute_workgroup_size_x),
    )
}

/// Documents are one dimension of the grid of several kernels, the elements of a state one of the scan's.
fn check_grid(p: &Linear, form: Form, gpu: &Gpu) -> Result<()> {
    let most = gpu.limits().max_compute_workgroups_per_dimension;
    if matches!(form, Form::Split { .. }) {
        check_scan(p.head_state_len(), most)?;
    }
    match p.documents {
        Some(documents) if documents > most => Err(Error::Limit {
            what: "`documents`".into(),
            needed: documents.into(),
            limit: "max_compute_workgroups_per_dimension",
            available: most.into(),
        }),
        _ => Ok(()),
    }
}

/// Whether a scan's grid has room for a head's state.
pub(super) fn check_scan(head_state_len: u64, most: u32) -> Result<()> {
    let needed = head_state_len.div_ceil(SCAN_THREADS.into());
    if needed <= most.into() {
        return Ok(());
    }
    Err(Error::Limit {
        what: "the scan of a head's state".into(),
        needed,
        limit: "max_compute_workgroups_per_dimension",
        available: most.into(),
    })
}

fn whole(p: &Linear) -> Part {
    Part {
        batch: (0, p.batch),
        head: (0, p.heads),
        query: (0, 1),
    }
}

fn bounds(p: &Linear, form: Form, gpu: &Gpu) -> Bounds {
    let limits = gpu.limits();
    let tiles = |columns: u32| p.value_dim().div_ceil(columns);
    let workgroups = match form {
        Form::Step(tile) => tiles(4 * tile.lanes),
        Form::Serial(tile) => tiles(tile.columns()),
        Form::Split { tile, segment } => segments(p, segment).saturating_mul(tiles(tile.columns())),
    };
    Bounds {
        // Shaders count elements in 32 bits.
        binding: limits.max_storage_buffer_binding_size.min(u32::MAX.into()),
        alignment: limits.min_storage_buffer_offset_alignment.into(),
        workgroups: limits.max_compute_workgroups_per_dimension,
        rows: 1,
        heads: 1,
        splits: workgroups,
    }
}

/// Every tensor of the problem, and the states between segments as `segments`.
fn geometry(p: &Linear, form: Form) -> Vec<Geometry> {
    let (h, hkv, d, dv) = (p.heads, p.kv_heads(), p.head_dim, p.value_dim());
    let group = h / hkv;
    // A sequence is never cut: every token needs what those before it left.
    let rows = |name, size: u64, layout: Layout, heads: u32, group: u32, dim: u32| {
        let s = layout.strides(heads, p.tokens, dim);
        Geometry {
            name,
            size,
            strides: Strides { seq: 0, ..s },
            group,
            row: u64::from(p.tokens - 1) * s.seq + u64::from(dim),
        }
    };
    // One entry for each head of each sequence; documents stay together.
    let per_head = |name, len: u64| {
        let batch = u64::from(h) * len;
        Geometry {
            name,
            size: 4,
            strides: Strides {
                batch,
                head: len,
                seq: 0,
            },
            group: 1,
            row: p.documents.map_or(0, |s| u64::from(s - 1) * batch) + len,
        }
    };
    let input = p.dtype.size();
    let mut all = vec![
        rows("q", input, p.q_layout, h, 1, d),
        rows("k", input, p.k_layout, hkv, group, d),
        rows("v", input, p.v_layout, hkv, group, dv),
        rows("o", p.output_dtype().size(), p.o_layout, h, 1, dv),
    ];
    match p.decay {
        Decay::None => {}
        Decay::Head => all.push(Geometry {
            name: "log_decay",
            size: 4,
            strides: Strides {
                batch: 0,
                head: 1,
                seq: 0,
            },
            group: 1,
            row: 1,
        }),
        Decay::Token => all.push(rows("log_decay", 4, p.decay_layout, h, 1, 1)),
        Decay::Channel => all.push(rows("log_decay", 4, p.decay_layout, h, 1, d)),
    }
    if p.initial_state && !p.in_place {
        all.push(per_head("initial_state", p.head_state_len()));
    }
    if p.final_state {
        all.push(per_head("final_state", p.head_state_len()));
    }
    if p.total_decay {
        all.push(per_head("total_decay", total_len(p)));
    }
    if let Some(documents) = p.documents {
        all.push(Geometry {
            name: "cu_seqlens",
            size: 4,
            strides: Strides {
                batch: 0,
                head: 0,
                seq: 0,
            },
            group: 1,
            row: u64::from(documents) + 1,
        });
    }
    if let Form::Split { segment, .. } = form {
        let len = u64::from(segments(p, segment)) * p.head_state_len();
        all.push(Geometry {
            name: SEGMENTS,
            size: 4,
            strides: Strides {
                batch: u64::from(h) * len,
                head: len,
                seq: 0,
            },
            group: 1,
            row: len,
        });
    }
    all
}

/// The states between segments, as a limit's message names them.
const SEGMENTS: &str = "states between segments";

fn needs(p: &Linear, geometry: &[Geometry]) -> Vec<Need> {
    let (inputs, output, state) = vector_access(p);
    let whole = whole(p);
    let need = |g: &Geometry| {
        let x4 = match g.name {
            "q" | "k" | "v" => inputs,
            "o" => output,
            "initial_state" | "final_state" => state,
            _ => false,
        };
        Need {
            name: g.name,
            bytes: g.range(&whole).1 * g.size,
            alignment: if x4 { 4 * g.size } else { g.size },
        }
    };
    geometry.iter().filter(|g| g.name != SEGMENTS).map(need).collect()
}

impl LinearPlan {
    /// The problem that was planned.
    pub fn problem(&self) -> &Linear {
        &self.problem
    }

    /// The device it was planned for.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Kernel, options and tile, as pipelines are labelled.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// How it will be computed.
    pub fn form(&self) -> Form {
        self.form
    }

    /// Dispatches of one call.
    pub fn dispatches(&self) -> usize {
        let each = match self.kernels {
            Kernels::One(_) => 1,
            Kernels::Three { .. } => 3,
        };
        self.parts.len() * (each + usize::from(self.totals.is_some()))
    }

    /// Bytes of device memory used between the plan's own dispatches, shared by all plans of a [`Gpu`].
    pub fn workspace_bytes(&self) -> u64 {
        self.workspace_bytes
    }

    /// Records the call into an encoder, as a compute pass of its own. Nothing is submitted, read back or waited for.
    ///
    /// # Errors
    /// [`Error::Tensor`] names a tensor that does not fit the plan; nothing is recorded then.
    pub fn encode(&self, encoder: &mut wgpu::CommandEncoder, tensors: &LinearTensors<'_>) -> Result<()> {
        self.check_tensors(tensors)?;
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
            label: Some(&self.label),
            timestamp_writes: None,
        });
        self.record(&mut pass, tensors)
    }

    /// Records the call into a compute pass of the caller's.
    ///
    /// # Errors
    /// As [`LinearPlan::encode`].
    pub fn encode_in(&self, pass: &mut wgpu::ComputePass<'_>, tensors: &LinearTensors<'_>) -> Result<()> {
        self.check_tensors(tensors)?;
        self.record(pass, tensors)
    }

    fn check_tensors(&self, t: &LinearTensors<'_>) -> Result<()> {
        let p = &self.problem;
        call::check_presence("log_decay", t.log_decay.is_some(), p.decay != Decay::None)?;
        call::check_presence("cu_seqlens", t.cu_seqlens.is_some(), p.documents.is_some())?;
        call::check_presence(
            "initial_state",
            t.initial_state.is_some(),
            p.initial_state && !p.in_place,
        )?;
        call::check_presence("final_state", t.final_state.is_some(), p.final_state)?;
        call::check_presence("total_decay", t.total_decay.is_some(), p.total_decay)?;
        let mut inputs = vec![];
        let mut outputs = vec![];
        for need in &self.needs {
            let Some(tensor) = named(t, need.name) else { continue };
            call::check_tensor(need, &tensor)?;
            let list = match need.name {
                "o" | "final_state" | "total_decay" => &mut outputs,
                _ => &mut inputs,
            };
            list.push((need.name, tensor));
        }
        call::check_aliasing(&outputs, &inputs)
    }

    fn record(&self, pass: &mut wgpu::ComputePass<'_>, tensors: &LinearTensors<'_>) -> Result<()> {
        let workspace = match self.workspace_bytes {
            0 => None,
            bytes => Some(self.gpu.workspace(bytes)?),
        };
        let mut dispatches = Vec::with_capacity(self.dispatches());
        for part in &self.parts {
            let call = Call {
                plan: self,
                part,
                tensors,
                workspace: workspace.as_ref(),
            };
            call.dispatches(&mut dispatches);
        }
        call::record(&self.gpu, &self.uniforms, pass, &dispatches)
    }
}

fn named<'a>(t: &LinearTensors<'a>, name: &str) -> Option<Tensor<'a>> {
    match name {
        "q" => Some(t.q),
        "k" => Some(t.k),
        "v" => Some(t.v),
        "o" => Some(t.o),
        "log_decay" => t.log_decay,
        "cu_seqlens" => t.cu_seqlens,
        "initial_state" => t.initial_state,
        "final_state" => t.final_state,
        "total_decay" => t.total_decay,
        _ => None,
    }
}

/// One part of one call.
struct Call<'p, 'a> {
    plan: &'a LinearPlan,
    part: &'p Part,
    tensors: &'p LinearTensors<'a>,
    workspace: Option<&'a wgpu::Buffer>,
}

impl<'a> Call<'_, 'a> {
    fn dispatches(&self, dispatches: &mut Vec<Dispatch<'a>>) {
        let p = &self.plan.problem;
        let (batch, heads) = (
            self.part.batch.1 - self.part.batch.0,
            self.part.head.1 - self.part.head.0,
        );
        let sequences = p.documents.unwrap_or(batch);
        let tiles = |columns: u32| p.value_dim().div_ceil(columns);
        match (&self.plan.kernels, self.plan.form) {
            (Kernels::One(pipeline), Form::Step(tile)) => {
                dispatches.push(self.whole(pipeline, [tiles(4 * tile.lanes), heads, sequences]));
            }
            (Kernels::One(pipeline), Form::Serial(tile)) => {
                dispatches.push(self.whole(pipeline, [tiles(tile.columns()), heads, sequences]));
            }
            (Kernels::Three { state, scan, output }, Form::Split { tile, segment }) => {
                let grid = [segments(p, segment) * tiles(tile.columns()), heads, batch];
                dispatches.push(self.segment_states(state, grid));
                let elements = p.head_state_len() as u32;
                dispatches.push(self.scan(scan, [elements.div_ceil(SCAN_THREADS), heads, sequences]));
                dispatches.push(self.segment_outputs(output, grid));
            }
            // A plan's kernels are those of its form.
            (Kernels::One(_) | Kernels::Three { .. }, _) => {}
        }
        if let Some(pipeline) = &self.plan.totals {
            let x = (total_len(p) as u32).div_ceil(TOTAL_CHANNELS);
            dispatches.push(self.total_decay(pipeline, [x, heads, sequences]));
        }
    }

    /// Everything but bases and strides.
    fn params(&self) -> Params {
        let p = &self.plan.problem;
        let (segment, segments) = match self.plan.form {
            Form::Split { segment, .. } => (segment, segments(p, segment)),
            _ => (p.tokens, 1),
        };
        Params {
            first_batch: self.part.batch.0,
            first_head: self.part.head.0,
            tokens: p.tokens,
            group: p.heads / p.kv_heads(),
            documents: p.documents.unwrap_or(0),
            segment,
            segments,
            heads: p.heads,
            q_seq: p.q_layout.strides(p.heads, p.tokens, p.head_dim).seq as u32,
            k_seq: p.k_layout.strides(p.kv_heads(), p.tokens, p.head_dim).seq as u32,
            v_seq: p.v_layout.strides(p.kv_heads(), p.tokens, p.value_dim()).seq as u32,
            o_seq: p.o_layout.strides(p.heads, p.tokens, p.value_dim()).seq as u32,
            decay_seq: match p.decay {
                Decay::Token => p.decay_layout.strides(p.heads, p.tokens, 1).seq as u32,
                Decay::Channel => p.decay_layout.strides(p.heads, p.tokens, p.head_dim).seq as u32,
                Decay::None | Decay::Head => 0,
            },
            scale: p.scale(),
            epsilon: p.normalize.unwrap_or(0.0),
            ..Params::default()
        }
    }

    /// Binds a tensor of the caller's at `number`: its base and strides in this part; zeros if there is none.
    fn bind(&self, bindings: &mut Vec<(u32, Window<'a>)>, number: u32, name: &str) -> (u32, [u32; 3]) {
        let geometry = self.plan.geometry.iter().find(|g| g.name == name);
        let (Some(geometry), Some(tensor)) = (geometry, named(self.tensors, name)) else {
            return (0, [0; 3]);
        };
        let window = Window::over(&self.plan.gpu, tensor, geometry.range(self.part), geometry.size);
        bindings.push((number, window));
        (window.base, geometry.strides_in(self.part))
    }

    fn bind_inputs(&self, bindings: &mut Vec<(u32, Window<'a>)>, params: &mut Params) {
        (params.k_base, [params.k_batch, params.k_head, _]) = self.bind(bindings, 2, "k");
        (params.v_base, [params.v_batch, params.v_head, _]) = self.bind(bindings, 3, "v");
        (params.q_base, [params.q_batch, params.q_head, _]) = self.bind(bindings, 1, "q");
        self.bind_decay(bindings, params);
        self.bind_documents(bindings, params);
    }

    fn bind_decay(&self, bindings: &mut Vec<(u32, Window<'a>)>, params: &mut Params) {
        (params.decay_base, [params.decay_batch, params.decay_head, _]) = self.bind(bindings, 7, "log_decay");
    }

    fn bind_documents(&self, bindings: &mut Vec<(u32, Window<'a>)>, params: &mut Params) {
        (params.cu_base, _) = self.bind(bindings, 8, "cu_seqlens");
    }

    /// Strides of something with `len` numbers a head, over sequences and heads of this part.
    fn per_sequence(&self, strides: [u32; 3], len: u64) -> [u32; 2] {
        let p = &self.plan.problem;
        match p.documents {
            Some(_) => [(u64::from(p.heads) * len) as u32, strides[1]],
            None => [strides[0], strides[1]],
        }
    }

    /// The caller's initial and final states.
    fn bind_states(&self, bindings: &mut Vec<(u32, Window<'a>)>, params: &mut Params) {
        let len = self.plan.problem.head_state_len();
        let (base, strides) = self.bind(bindings, 5, "initial_state");
        params.in_base = base;
        [params.in_sequence, params.in_head] = self.per_sequence(strides, len);
        let (base, strides) = self.bind(bindings, 6, "final_state");
        params.out_base = base;
        [params.out_sequence, params.out_head] = self.per_sequence(strides, len);
        if self.plan.problem.in_place {
            (params.in_base, params.in_sequence, params.in_head) =
                (params.out_base, params.out_sequence, params.out_head);
        }
    }

    /// A kernel that does all there is to do.
    fn whole(&self, pipeline: &'a Pipeline, grid: [u32; 3]) -> Dispatch<'a> {
        let mut bindings = Vec::with_capacity(9);
        let mut params = self.params();
        self.bind_inputs(&mut bindings, &mut params);
        (params.o_base, [params.o_batch, params.o_head, _]) = self.bind(&mut bindings, 4, "o");
        self.bind_states(&mut bindings, &mut params);
        dispatch(pipeline, params, bindings, grid)
    }

    /// The states between segments at `number`, and their strides over sequences, heads and segments.
    fn bind_slots(&self, bindings: &mut Vec<(u32, Window<'a>)>, number: u32) -> [u32; 4] {
        let p = &self.plan.problem;
        let segments = u64::from(self.params().segments);
        let heads = u64::from(self.part.head.1 - self.part.head.0);
        let len = p.head_state_len();
        let Some(buffer) = self.workspace else { return [0; 4] };
        let size = workspace(p, self.plan.form, self.part).totals_at;
        let window = Window {
            buffer,
            offset: 0,
            size,
            base: 0,
        };
        bindings.push((number, window));
        let sequence = if p.documents.is_some() {
            0
        } else {
            heads * segments * len
        };
        [0, sequence as u32, (segments * len) as u32, len as u32]
    }

    fn bind_totals(&self, bindings: &mut Vec<(u32, Window<'a>)>, params: &mut Params) {
        let p = &self.plan.problem;
        let segments = u64::from(params.segments);
        let heads = u64::from(self.part.head.1 - self.part.head.0);
        let Some(buffer) = self.workspace else { return };
        let layout = workspace(p, self.plan.form, self.part);
        let window = Window {
            buffer,
            offset: layout.totals_at,
            size: layout.bytes - layout.totals_at,
            base: 0,
        };
        bindings.push((9, window));
        let len = total_len(p);
        params.total_sequence = if p.documents.is_some() {
            0
        } else {
            (heads * segments * len) as u32
        };
        params.total_head = (segments * len) as u32;
        params.total_segment = len as u32;
    }

    fn segment_states(&self, pipeline: &'a Pipeline, grid: [u32; 3]) -> Dispatch<'a> {
        let mut bindings = Vec::with_capacity(8);
        let mut params = self.params();
        self.bind_inputs(&mut bindings, &mut params);
        [
            params.out_base,
            params.out_sequence,
            params.out_head,
            params.out_segment,
        ] = self.bind_slots(&mut bindings, 6);
        self.bind_totals(&mut bindings, &mut params);
        dispatch(pipeline, params, bindings, grid)
    }

    fn scan(&self, pipeline: &'a Pipeline, grid: [u32; 3]) -> Dispatch<'a> {
        let mut bindings = Vec::with_capacity(6);
        let mut params = self.params();
        self.bind_documents(&mut bindings, &mut params);
        self.bind_states(&mut bindings, &mut params);
        params.start_base = params.in_base;
        if !self.plan.problem.final_state {
            [params.out_sequence, params.out_head] = [params.in_sequence, params.in_head];
        }
        [params.in_base, params.in_sequence, params.in_head, params.in_segment] = self.bind_slots(&mut bindings, 10);
        if self.plan.problem.decay != Decay::None {
            self.bind_totals(&mut bindings, &mut params);
        }
        dispatch(pipeline, params, bindings, grid)
    }

    fn segment_outputs(&self, pipeline: &'a Pipeline, grid: [u32; 3]) -> Dispatch<'a> {
        let mut bindings = Vec::with_capacity(8);
        let mut params = self.params();
        self.bind_inputs(&mut bindings, &mut params);
        (params.o_base, [params.o_batch, params.o_head, _]) = self.bind(&mut bindings, 4, "o");
        [params.in_base, params.in_sequence, params.in_head, params.in_segment] = self.bind_slots(&mut bindings, 5);
        dispatch(pipeline, params, bindings, grid)
    }

    fn total_decay(&self, pipeline: &'a Pipeline, grid: [u32; 3]) -> Dispatch<'a> {
        let mut bindings = Vec::with_capacity(3);
        let mut params = self.params();
        params.segment = params.tokens;
        self.bind_decay(&mut bindings, &mut params);
        self.bind_documents(&mut bindings, &mut params);
        let (base, strides) = self.bind(&mut bindings, 9, "total_decay");
        params.total_base = base;
        [params.total_sequence, params.total_head] = self.per_sequence(strides, total_len(&self.plan.problem));
        dispatch(pipeline, params, bindings, grid)
    }
}

fn dispatch<'a>(
    pipeline: &'a Pipeline,
    params: Params,
    bindings: Vec<(u32, Window<'a>)>,
    grid: [u32; 3],
) -> Dispatch<'a> {
    Dispatch {
        pipeline,
        params: bytemuck::bytes_of(&params).to_vec(),
        bindings,
        grid,
    }
}
