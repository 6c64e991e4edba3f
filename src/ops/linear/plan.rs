//! From a linear problem to recorded dispatches.

use std::sync::Arc;

use crate::error::{Error, Result, check_limit};
use crate::gpu::{Gpu, Workspace};
use crate::ops::call::{self, Need, Uniforms};
use crate::ops::dense::tile::DeviceClass;
use crate::ops::linear::cooperative::{self, CooperativeTile};
use crate::ops::linear::geometry::{geometry, needs, segments, vector_access, whole, wide_access, workspace};
use crate::ops::linear::tile::{self, Form, LinearTuning};
use crate::ops::linear::variant::{
    Chunk, ChunkState, ChunkTile, Inputs, LinearVariant, Scan, Start, Step, StepTile, TotalDecay,
};
use crate::ops::linear::{FeatureMap, Linear, carried, feature, rules, segments as on_segments};
use crate::ops::parts::{self, Bounds, Geometry, Part};
use crate::shader::{Pipeline, Variant};
use crate::tier::Tier;

/// Invocations of a workgroup of `linear/scan.wgsl`, and segments whose loads it issues together.
const SCAN_THREADS: u32 = 64;
pub(super) const SCAN_STRETCH: u32 = 8;

/// A linear problem on a device: kernels chosen and compiled, ready to encode any number of times.
///
/// Independent of the buffers it will be given, `Send + Sync`, and cheap to encode. Plans of the same variants share
/// their pipelines: planning a problem that differs from an earlier one in sizes compiles something only where those decide
/// about form or tile, as numbers of tokens and heads do in some places.
#[derive(Debug)]
pub struct LinearPlan {
    pub(super) gpu: Gpu,
    pub(super) problem: Linear,
    pub(super) form: Form,
    pub(super) label: String,
    pub(super) tier: Tier,
    pub(super) kernels: Kernels,
    pub(super) totals: Option<Arc<Pipeline>>,
    pub(super) parts: Vec<Part>,
    pub(super) geometry: Vec<Geometry>,
    pub(super) needs: Vec<Need>,
    pub(super) workspace_bytes: u64,
    pub(super) uniforms: Uniforms,
}

/// The pipelines of a form.
#[derive(Debug)]
pub(super) enum Kernels {
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
    /// [`Error::Limit`] a limit of the device that even parts of the problem exceed; [`Error::Unsupported`] where a forced tier
    /// has no kernel for it, or a software GPU would leave its loops; [`Error::Device`] if a driver's compiler fails, or the
    /// device is lost or out of memory.
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
        let device = DeviceClass::of_gpu(gpu);
        let form = match tuning.form {
            Some(form) => check_form(self, form, gpu)?,
            None => planned_form(self, &device, gpu)?,
        };
        tile::check_loops(self, form, &device)?;
        let mut variants = variants_of(self, form);
        if device.reads_half() {
            variants = variants.into_iter().map(LinearVariant::with_half).collect();
        }
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
            gpu.workspace(Workspace::Partials, workspace_bytes)?;
        }
        let tier = variants.iter().map(|v| v.spec().tier()).max().unwrap_or(Tier::Portable);
        call::check_tier(gpu, "this problem", tier)?;
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
            tier,
            kernels,
            totals,
            needs: needs(self, form, &geometry),
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

/// The kernels of a form, in the order of their dispatches.
pub fn variants_of(p: &Linear, form: Form) -> Vec<LinearVariant> {
    let (vector, vector_output, vector_state) = vector_access(p);
    let inputs = Inputs {
        head_dim: p.head_dim,
        value_dim: p.value_dim(),
        dtype: p.dtype,
        half: false,
        vector,
        wide: false,
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
    let options = |split: bool| Chunk {
        inputs: inputs.clone(),
        output_dtype: p.output_dtype(),
        vector_output,
        wide_output: false,
        causal: p.causal,
        state_only: p.state_only,
        documents: p.documents.is_some(),
        split,
        start: if split { Start::Read } else { start },
        writes_state: p.final_state && !split,
        tile: (),
    };
    let chunk = |tile, split| LinearVariant::Chunk(options(split).with_tile(tile));
    let wide = wide_access(p);
    let states = ChunkState {
        inputs: inputs.clone(),
        state_only: p.state_only,
        documents: p.documents.is_some(),
        sections: form.sections(p),
        tile: (),
    };
    let three = |state, output| {
        let scan = LinearVariant::Scan(Scan {
            head_dim: p.head_dim,
            value_dim: p.value_dim(),
            normalize: p.normalize.is_some(),
            causal: p.causal,
            vector: vector_state,
            documents: p.documents.is_some(),
            decay: p.decay.of_segments(),
            start,
            writes_state: p.final_state,
            sections: form.sections(p),
        });
        vec![state, scan, output]
    };
    match form {
        Form::Step(tile) => vec![LinearVariant::Step(Step {
            output_dtype: p.output_dtype(),
            vector_output,
            start,
            writes_state: p.final_state,
            tile,
            inputs: inputs.clone(),
        })],
        Form::Serial(tile) => vec![chunk(tile, false)],
        Form::Split { tile, .. } => three(LinearVariant::ChunkState(states.with_tile(tile)), chunk(tile, true)),
        Form::Cooperative(tile) => vec![LinearVariant::Cooperative(options(false).with_tile(tile))],
        Form::CooperativeSplit { state, output, .. } => three(
            LinearVariant::CooperativeState(states.with_tile(state).reading_wide(wide.keys)),
            LinearVariant::Segment(options(true).with_tile(output)),
        ),
        Form::Carried { state, output, .. } => three(
            LinearVariant::CooperativeState(states.with_tile(state).reading_wide(wide.keys)),
            LinearVariant::Carried(options(true).with_tile(output).wide(wide.all_inputs(), wide.output)),
        ),
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

/// The planner's form, if it has one.
#[cfg(feature = "tuned")]
pub(crate) fn planned(p: &Linear, gpu: &Gpu) -> Option<Form> {
    rules::check(p).ok()?;
    planned_form(p, &DeviceClass::of_gpu(gpu), gpu).ok()
}

/// A form that was measured on so many heads of all sequences and tokens, for another problem ([`tile::scaled`]); `None` where
/// it cannot serve that, or would be one of segments with one segment.
#[cfg(feature = "tuned")]
pub(crate) fn adapted(p: &Linear, gpu: &Gpu, form: Form, measured: (u64, u32)) -> Option<Form> {
    let device = DeviceClass::of_gpu(gpu);
    let form = check_form(p, form, gpu).ok()?;
    let form = fitting(p, tile::scaled(p, &device, form, measured), gpu);
    tile::check_loops(p, form, &device).ok()?;
    let several = form.segment().is_none_or(|n| n < p.tokens || !p.causal);
    let mut variants = variants_of(p, form).into_iter();
    let runs = variants.all(|v| check_device(p, form, &v, gpu).is_ok());
    (several && runs).then_some(form)
}

/// A planner's split with segments long enough that the states between them fit the device.
fn fitting(p: &Linear, form: Form, gpu: &Gpu) -> Form {
    let Some(mut segment) = form.segment() else {
        return form;
    };
    let one_head = Part {
        batch: (0, 1),
        head: (0, 1),
        query: (0, 1),
    };
    let limits = gpu.limits();
    let most = limits.max_storage_buffer_binding_size.min(limits.max_buffer_size);
    loop {
        let form = form.with_segment(segment);
        let tiles = form.workgroups(p).into_iter().max().unwrap_or(1);
        let groups = u64::from(segments(p, segment)) * u64::from(tiles);
        let fits = workspace(p, form, &one_head).bytes <= most / 2
            && groups <= limits.max_compute_workgroups_per_dimension.into();
        if fits || segment >= p.tokens {
            return form;
        }
        segment *= 2;
    }
}

fn check_form(p: &Linear, form: Form, gpu: &Gpu) -> Result<Form> {
    let invalid = |allowed: &str| Err(wrong_form(form, allowed));
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
        Form::Serial(_) | Form::Cooperative(_) => {
            if !p.causal {
                return invalid("a split where not causal: every token needs the whole sequence's state first");
            }
            if p.normalize.is_some() && p.in_place && p.value_dim() > form.columns() {
                return invalid("with `normalize` and `in_place`, a tile with all the columns, or a split");
            }
        }
        Form::CooperativeSplit { output, segment, .. } => {
            if !on_segments::is_sound(&output) {
                return invalid(
                    "an output tile that keeps to the rules beside its fields, each of which is 1 to 256, with one slice \
                     and `carried`, without `scores_anew`",
                );
            }
            if segment == 0 || !segment.is_multiple_of(output.rows()) {
                return invalid("segments of a multiple of the output tile's rows");
            }
        }
        Form::Carried { output, segment, .. } => {
            if !output.is_sound() || !output.covers(p) || !carried::serves(p, output.edge) {
                return invalid(
                    "an output tile that keeps to the rules beside its fields, whose strips are all of Dv, for a problem that is \
                     causal, without `normalize`, with D and Dv of whole matrices, and tensors that are read four elements at a \
                     time",
                );
            }
            if segment == 0 || !segment.is_multiple_of(output.rows()) {
                return invalid("segments of a multiple of the output tile's rows");
            }
        }
        Form::Split { tile, segment } => {
            if segment == 0 || !segment.is_multiple_of(tile.rows()) {
                return invalid("segments of a multiple of the tile's rows");
            }
        }
    }
    match form {
        Form::Cooperative(tile) => check_matrices(p, form, &tile, None, gpu),
        Form::CooperativeSplit { state, output, .. } => {
            let output = (output.edge, output.suits(&gpu.abilities()));
            check_matrices(p, form, &state, Some(output), gpu)
        }
        Form::Carried { state, output, .. } => {
            let output = (output.edge, output.suits(&gpu.abilities()));
            check_matrices(p, form, &state, Some(output), gpu)
        }
        Form::Step(_) | Form::Serial(_) | Form::Split { .. } => Ok(form),
    }
}

fn wrong_form(form: Form, allowed: &str) -> Error {
    Error::Invalid {
        field: "tuning.form",
        value: format!("{form:?}"),
        allowed: allowed.into(),
    }
}

/// Whether a device has the matrices and subgroups that a given tile is made for, and the problem is one for them. Of a tile of
/// outputs, the edge of its matrices and whether it suits the device.
fn check_matrices(
    p: &Linear,
    form: Form,
    tile: &CooperativeTile,
    output: Option<(u32, bool)>,
    gpu: &Gpu,
) -> Result<Form> {
    let abilities = gpu.abilities();
    let subgroups = abilities.subgroups.unwrap_or_default();
    let allowed = match abilities.matrices {
        None => "no such form: this device has no cooperative matrices that could serve".into(),
        Some(edge) if edge != tile.edge || output.is_some_and(|(of_output, _)| edge != of_output) => {
            format!("matrices of {edge}, which this device has")
        }
        Some(_) if !tile.is_sound() => {
            "a tile that keeps to the rules beside its fields, each of which is 1 to 256".into()
        }
        Some(_) if !tile.suits(subgroups) => format!(
            "{} invocations for each strip and share, and at most {} lanes to a row",
            subgroups.1, subgroups.0
        ),
        Some(_) if output.is_some_and(|(_, suits)| !suits) => format!(
            "{} invocations for each strip of the output tile, at most {} lanes to a row, and barriers of its own only \
             where subgroups all have one size, which is a strip's lanes, and can wait by themselves; elements of matrices \
             as this device has them",
            subgroups.1, subgroups.0
        ),
        Some(_) if !cooperative::serves(p) => {
            "f16 tensors and a feature map that is not custom, or `reduced_precision`; \
             a decay that is none or one a head; not `state_only`"
                .into()
        }
        Some(_) => return Ok(form),
    };
    Err(wrong_form(form, &allowed))
}

/// Limits that depend on the variant.
fn check_device(p: &Linear, form: Form, variant: &LinearVariant, gpu: &Gpu) -> Result<()> {
    let dims = (p.head_dim, p.value_dim());
    call::check_variant(variant.spec(), "this combination of tensors", dims, gpu)?;
    let most = DeviceClass::of_gpu(gpu).invocations;
    check_limit(
        "the tile",
        form.threads(),
        "max_compute_invocations_per_workgroup",
        most,
    )
}

/// Documents are one dimension of the grid of several kernels, the elements of a state one of the scan's.
fn check_grid(p: &Linear, form: Form, gpu: &Gpu) -> Result<()> {
    if form.segment().is_some() {
        check_scan(p.head_state_len(), scan_width(p), gpu)?;
    }
    check_workgroups("`documents`", p.documents.unwrap_or(0).into(), gpu)
}

/// Elements of a state that an invocation of the scan takes.
pub(super) fn scan_width(p: &Linear) -> u32 {
    let (.., vector_state) = vector_access(p);
    if vector_state { 4 } else { 1 }
}

/// Workgroups of a scan for each head, whose invocations take so many elements of its state.
pub(super) fn scan_workgroups(head_state_len: u64, width: u32) -> u64 {
    head_state_len.div_ceil(u64::from(width * SCAN_THREADS))
}

/// Whether a scan's grid has room for a head's state.
pub(super) fn check_scan(head_state_len: u64, width: u32, gpu: &Gpu) -> Result<()> {
    check_workgroups(
        "the scan of a head's state",
        scan_workgroups(head_state_len, width),
        gpu,
    )
}

/// Whether so many workgroups fit one dimension of a grid.
pub(super) fn check_workgroups(what: &str, needed: u64, gpu: &Gpu) -> Result<()> {
    let most = gpu.limits().max_compute_workgroups_per_dimension;
    check_limit(what, needed, "max_compute_workgroups_per_dimension", most)
}

fn bounds(p: &Linear, form: Form, gpu: &Gpu) -> Bounds {
    let tiles = form.workgroups(p).into_iter().max().unwrap_or(1);
    let workgroups = form.segment().map_or(1, |n| segments(p, n)).saturating_mul(tiles);
    Bounds::of(gpu.limits(), 1, 1, workgroups)
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

    /// The highest tier among its kernels.
    pub fn tier(&self) -> Tier {
        self.tier
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
            Kernels::Three { .. } => 2 + usize::from(self.segments_read() > 0),
        };
        self.parts.len() * (each + usize::from(self.totals.is_some()))
    }

    /// Segments of a form that has them whose own states something reads: all but the last of a causal sequence whose final state
    /// is not asked for. Which segments are the last of packed documents is not known here.
    pub(super) fn segments_read(&self) -> u32 {
        let p = &self.problem;
        let all = !p.causal || p.final_state || p.documents.is_some();
        self.segments() - u32::from(!all)
    }

    /// Segments of a sequence, of all documents together; 1 of a form that has none.
    pub(super) fn segments(&self) -> u32 {
        self.form.segment().map_or(1, |n| segments(&self.problem, n))
    }

    /// Bytes of device memory used between the plan's own dispatches, shared by all plans of a [`Gpu`].
    pub fn workspace_bytes(&self) -> u64 {
        self.workspace_bytes
    }
}
