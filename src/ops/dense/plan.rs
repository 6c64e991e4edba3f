//! From a problem to a plan: kernel, tile, splits, parts and pipelines.

use std::sync::Arc;

use crate::error::{Error, Result, check_limit};
use crate::gpu::{Gpu, Workspace};
use crate::ops::call::{self, Need, Uniforms};
use crate::ops::dense::cooperative;
use crate::ops::dense::cooperative_decode;
use crate::ops::dense::geometry::{geometry, needs, small_vectors, vector_inputs, vector_output, whole};
use crate::ops::dense::live::{self, Live, LiveLists};
use crate::ops::dense::subgroup::Subgroup;
use crate::ops::dense::tile::{self, DeviceClass, KernelChoice, Tuning};
use crate::ops::dense::variant::{Attend, DenseVariant, Visits, WeightingKind};
use crate::ops::dense::{Dense, Weighting, check, custom};
use crate::ops::merge;
use crate::ops::parts::{self, Bounds, Geometry, Part};
use crate::shader::{Pipeline, Spec, Variant};
use crate::tensor::DType;
use crate::tier::Tier;

/// Shares of the keys at most.
const MAX_SPLITS: u32 = 65535;

/// A dense problem on a device: kernels chosen and compiled, ready to encode any number of times.
///
/// Independent of the buffers it will be given, `Send + Sync`, and cheap to encode. Plans of the same variant share
/// their pipelines: planning a problem that differs from an earlier one in sizes compiles something only where those decide
/// about kernel or tile, as numbers of queries and keys do in some places ([`Dense::compile`] does that ahead of time).
#[derive(Debug)]
pub struct DensePlan {
    pub(crate) gpu: Gpu,
    pub(crate) problem: Dense,
    pub(crate) choice: KernelChoice,
    pub(crate) label: String,
    pub(crate) tier: Tier,
    pub(crate) pipeline: Arc<Pipeline>,
    pub(crate) parts: Vec<Part>,
    pub(crate) geometry: Vec<Geometry>,
    pub(crate) needs: Vec<Need>,
    pub(crate) splits: u32,
    pub(crate) merge: Option<merge::plan::Joiner>,
    pub(crate) small: Option<PackedSmall>,
    pub(crate) live: Option<Box<Live>>,
    pub(crate) partial_bytes: u64,
    pub(crate) uniforms: Uniforms,
}

/// Where several short vectors are brought together.
#[derive(Debug)]
pub(crate) struct PackedSmall {
    pub copy: Arc<Pipeline>,
    pub buffer: wgpu::Buffer,
}

impl Dense {
    /// Checks the problem, chooses kernel and tile for the device, and compiles or fetches the pipelines.
    ///
    /// # Errors
    /// [`Error::Invalid`] names a field that is wrong, [`Error::Snippet`] a line of custom code,
    /// [`Error::Limit`] a limit of the device that even parts of the problem exceed; [`Error::Unsupported`] where a forced tier
    /// has no kernel for it, or a software GPU would leave its loops; [`Error::Device`] if a driver's compiler fails, or the
    /// device is lost or out of memory.
    pub fn plan(&self, gpu: &Gpu) -> Result<DensePlan> {
        self.plan_with(gpu, &Tuning::default())
    }

    /// As [`Dense::plan`], with kernel, tile or splits given: for measurements and tests.
    ///
    /// # Errors
    /// As [`Dense::plan`]; [`Error::Limit`] if a given tile does not fit the device.
    pub fn plan_with(&self, gpu: &Gpu, tuning: &Tuning) -> Result<DensePlan> {
        let Chosen {
            choice,
            splits,
            geometry,
            parts,
            lists,
            variant,
        } = choose(self, gpu, tuning)?;
        let pipeline = prepared(self, gpu, &variant)?;
        let live = lists
            .map(|lists| Live::new(self, gpu, lists).map(Box::new))
            .transpose()?;
        let merge = if splits > 1 {
            Some(merge::plan::Joiner::new(gpu, &merge_of(self, splits))?)
        } else {
            None
        };
        let partial_bytes = merge.as_ref().map_or(0, |m| m.parts_bytes());
        if partial_bytes > 0 {
            gpu.workspace(Workspace::Partials, partial_bytes)?;
        }
        Ok(DensePlan {
            choice,
            label: variant.spec().label(),
            tier: variant.spec().tier(),
            pipeline,
            parts,
            needs: needs(self, &geometry),
            geometry,
            splits,
            merge,
            small: packed_small(self, gpu)?,
            live,
            partial_bytes,
            uniforms: Uniforms::default(),
            gpu: gpu.clone(),
            problem: self.clone(),
        })
    }
}

/// What the planner decides on, before anything is compiled.
pub(crate) struct Chosen {
    choice: KernelChoice,
    splits: u32,
    geometry: Vec<Geometry>,
    parts: Vec<Part>,
    lists: Option<LiveLists>,
    variant: Variant,
}

/// What of it decides about pipelines: that of attention, that of a scan for live tiles, and that of a merge.
pub(crate) type Kind = (Variant, Option<Variant>, Option<Variant>);

impl Chosen {
    pub fn kind(&self, p: &Dense) -> Kind {
        let scan = self.lists.as_ref().map(|lists| lists.scan(p));
        let merge = (self.splits > 1).then(|| merge::plan::variant(&merge_of(p, self.splits)));
        (self.variant.clone(), scan, merge)
    }
}

/// Checks a problem and chooses for the device.
pub(crate) fn choose(p: &Dense, gpu: &Gpu, tuning: &Tuning) -> Result<Chosen> {
    check::check(p)?;
    let device = DeviceClass::of_gpu(gpu);
    let choice = match tuning.kernel {
        Some(choice) => choice,
        None => tile::choose(p, &device)?,
    };
    check_choice(p, &choice, gpu)?;
    let splits = match (choice, tuning.splits) {
        (
            KernelChoice::Prefill(_)
            | KernelChoice::PrefillSerial(_)
            | KernelChoice::SubgroupPrefill(_)
            | KernelChoice::Cooperative(_),
            _,
        ) => 1,
        (_, Some(splits)) => check_splits(splits)?,
        (KernelChoice::Decode(t) | KernelChoice::SubgroupDecode(Subgroup { tile: t, .. }), None) => {
            tile::splits(p, &t, &device).min(most_splits(p, gpu.limits()))
        }
        (KernelChoice::CooperativeDecode(t), None) => {
            cooperative_decode::splits(p, &t).min(most_splits(p, gpu.limits()))
        }
        (KernelChoice::DecodeSerial(t), None) => tile::serial_splits(p, &t, &device).min(most_splits(p, gpu.limits())),
    };
    let iterations = tile::loop_iterations(p, &choice, splits);
    device.check_loops("attention over so many keys", iterations)?;
    let attend = variant_of(p, choice, splits > 1);
    check_device(p, attend.spec(), gpu)?;
    let geometry = geometry(p);
    let parts = parts::split(whole(p), &geometry, &bounds(p, choice, splits, gpu))?;
    let lists = live::choose(p, &choice, &attend, &parts, &device, gpu.limits(), tuning.live)?;
    let variant = Variant::Dense(match &lists {
        Some(lists) => attend.visiting(Visits::Live(lists.keys)),
        None => attend,
    });
    call::check_tier(gpu, "this problem", variant.spec().tier())?;
    Ok(Chosen {
        choice,
        splits,
        geometry,
        parts,
        lists,
        variant,
    })
}

/// The pipeline. Code of the caller's own is part of the cache's key, so that what is found there was checked before.
pub(crate) fn prepared(p: &Dense, gpu: &Gpu, variant: &Variant) -> Result<Arc<Pipeline>> {
    if let Some(found) = gpu.cached_pipeline(variant) {
        return Ok(found);
    }
    if let Some(custom) = &p.custom {
        custom::check_code(custom)?;
        custom::check_module(custom, &variant.wgsl())?;
    }
    gpu.pipeline(variant)
}

/// The variant that serves a problem with a given kernel, visiting what positions or a selection leave. `partial` is one
/// split of several.
pub fn variant_of(p: &Dense, choice: KernelChoice, partial: bool) -> DenseVariant {
    let mut attend = options_of(p);
    if partial {
        attend.output_dtype = DType::F32;
        attend.vector_output = p.value_dim().is_multiple_of(4);
        attend.lse = attend.weighting == WeightingKind::Softmax;
    }
    match choice {
        KernelChoice::Prefill(tile) => DenseVariant::Prefill(attend.with_tile(tile)),
        KernelChoice::Cooperative(tile) => DenseVariant::Cooperative(attend.with_tile(tile)),
        KernelChoice::CooperativeDecode(tile) => DenseVariant::CooperativeDecode(attend.with_tile(tile)),
        KernelChoice::Decode(tile) => DenseVariant::Decode(attend.with_tile(tile)),
        KernelChoice::DecodeSerial(tile) => DenseVariant::DecodeSerial(attend.with_tile(tile)),
        KernelChoice::PrefillSerial(tile) => DenseVariant::PrefillSerial(attend.with_tile(tile)),
        KernelChoice::SubgroupPrefill(tile) => DenseVariant::SubgroupPrefill(attend.with_tile(tile)),
        KernelChoice::SubgroupDecode(tile) => DenseVariant::SubgroupDecode(attend.with_tile(tile)),
    }
}

/// The options of a problem that change its kernels' code.
pub(crate) fn options_of(p: &Dense) -> Attend<()> {
    let geometry = geometry(p);
    Attend {
        head_dim: p.head_dim,
        value_dim: p.value_dim(),
        dtype: p.dtype,
        vector_inputs: vector_inputs(p, &geometry),
        output_dtype: p.output_dtype(),
        vector_output: vector_output(p, &geometry),
        weighting: match p.weighting {
            Weighting::Softmax => WeightingKind::Softmax,
            Weighting::Sigmoid { .. } => WeightingKind::Sigmoid,
        },
        softcap: p.softcap.is_some(),
        bias: p.bias.map(|b| b.dtype),
        mask: p.mask.is_some(),
        kv_len: p.kv_len,
        documents: p.documents.is_some(),
        alibi: p.alibi,
        sinks: p.sinks,
        // A block that is longer than all keys ends where they do.
        visits: p
            .selection
            .map_or(Visits::All, |s| Visits::Listed(s.block_size.min(p.keys))),
        lse: p.lse,
        custom: p.custom.clone(),
        tile: (),
    }
}

/// Whether a kernel that was chosen elsewhere runs a problem on a device.
#[cfg(feature = "tuned")]
pub(crate) fn runs(p: &Dense, choice: &KernelChoice, gpu: &Gpu) -> bool {
    let tuning = Tuning {
        kernel: Some(*choice),
        ..Tuning::default()
    };
    choose(p, gpu, &tuning).is_ok()
}

/// Whether a tile that a caller gives makes sense and has few enough invocations.
fn check_choice(p: &Dense, choice: &KernelChoice, gpu: &Gpu) -> Result<()> {
    let sound = match choice {
        KernelChoice::Prefill(t) => t.is_sound(),
        KernelChoice::Cooperative(t) => t.is_sound(),
        KernelChoice::CooperativeDecode(t) => t.is_sound(),
        KernelChoice::Decode(t) => t.is_sound(),
        KernelChoice::DecodeSerial(t) => t.is_sound(),
        KernelChoice::PrefillSerial(t) => t.is_sound(),
        KernelChoice::SubgroupPrefill(s) => s.is_sound(),
        KernelChoice::SubgroupDecode(s) => s.is_sound(),
    };
    if !sound {
        return Err(Error::Invalid {
            field: "tuning.kernel",
            value: format!("{choice:?}"),
            allowed: "a tile that keeps to the rules beside its fields, each of which is 1 to 256".into(),
        });
    }
    let device = DeviceClass::of_gpu(gpu);
    match choice {
        KernelChoice::Cooperative(t) => check_matrices(p, t, (t.edge, t.slices, t.suits(&gpu.abilities())), gpu)?,
        KernelChoice::CooperativeDecode(t) => {
            if t.scaled && p.dtype != DType::BF16 {
                return Err(Error::Invalid {
                    field: "tuning.kernel",
                    value: format!("{t:?}"),
                    allowed: "`scaled` for bf16 tensors only".into(),
                });
            }
            // bf16 in f16's range is as good as f16.
            let slices = if t.scaled { 2 } else { 1 };
            check_matrices(p, t, (t.edge, slices, t.suits(&gpu.abilities())), gpu)?;
        }
        KernelChoice::PrefillSerial(t) => t.check(&device)?,
        KernelChoice::SubgroupPrefill(s) => s.check(&device)?,
        KernelChoice::SubgroupDecode(s) => s.check(&device)?,
        _ => {}
    }
    if !tile::rows_share_a_list(p, choice) {
        return Err(Error::Invalid {
            field: "tuning.kernel",
            value: format!("{choice:?}"),
            allowed: "a tile whose rows share a list of `selection`".into(),
        });
    }
    check_limit(
        "the tile",
        choice.extent().threads,
        "max_compute_invocations_per_workgroup",
        device.invocations,
    )
}

/// Whether a device has the matrices and subgroups that a given tile is made for, and its factors are precise enough.
fn check_matrices(p: &Dense, tile: &impl std::fmt::Debug, made_for: (u32, u32, bool), gpu: &Gpu) -> Result<()> {
    let (edge, slices, suits) = made_for;
    let abilities = gpu.abilities();
    let subgroups = abilities.subgroups.unwrap_or_default();
    let allowed = match abilities.matrices {
        Some(own) if own != edge => format!("matrices of {own}, which this device has"),
        Some(_) if !suits => format!(
            "{} invocations for each strip, at most {} lanes to a row, and barriers of their own only for strips that are \
             exactly a subgroup's",
            subgroups.1, subgroups.0
        ),
        Some(_) if !cooperative::precise_enough(p, slices) => {
            "two slices, or f16 tensors, or `reduced_precision`".into()
        }
        Some(_) => return Ok(()),
        None => "no such kernel: this device has no cooperative matrices that could serve".into(),
    };
    Err(Error::Invalid {
        field: "tuning.kernel",
        value: format!("{tile:?}"),
        allowed,
    })
}

fn check_splits(splits: u32) -> Result<u32> {
    if (1..=MAX_SPLITS).contains(&splits) {
        return Ok(splits);
    }
    Err(Error::Invalid {
        field: "tuning.splits",
        value: splits.to_string(),
        allowed: format!("1 to {MAX_SPLITS}"),
    })
}

/// Shares of the keys for which the device can hold and merge the partial results; 1 where it cannot merge at all,
/// because a merge needs the whole output in one binding and one dispatch.
fn most_splits(p: &Dense, limits: &wgpu::Limits) -> u32 {
    let alignment = u64::from(limits.min_storage_buffer_offset_alignment);
    let most = limits.max_storage_buffer_binding_size.saturating_sub(alignment);
    let o = &geometry(p)[3];
    if o.range(&whole(p)).1 * o.size > most {
        return 1;
    }
    // The product fits: o's strides give every element a place of its own below 2^48.
    let one = u64::from(p.batch) * u64::from(p.heads) * u64::from(p.queries) * u64::from(p.value_dim()) * 4;
    let by_binding = most / one;
    // Partial outputs and log-sum-exps are one buffer, at most twice the former.
    let by_buffer = limits.max_buffer_size / one / 2;
    let by_grid: u64 = limits.max_compute_workgroups_per_dimension.into();
    if merge::plan::workgroups(&merge_of(p, 1)) > by_grid * by_grid {
        return 1;
    }
    by_binding.min(by_buffer).min(by_grid).clamp(1, MAX_SPLITS.into()) as u32
}

/// Limits that depend on the variant.
fn check_device(p: &Dense, spec: &dyn Spec, gpu: &Gpu) -> Result<()> {
    let what = "this combination of tensors (custom data arrays included)";
    call::check_variant(spec, what, (p.head_dim, p.value_dim()), gpu)
}

/// What bounds a part.
pub(crate) fn bounds(p: &Dense, choice: KernelChoice, splits: u32, gpu: &Gpu) -> Bounds {
    let group = p.heads / p.kv_heads();
    let extent = choice.extent();
    // With interleaved rows, workgroups along x are row tiles times splits, along y KV heads.
    let heads = if extent.interleaved { group } else { 1 };
    Bounds::of(gpu.limits(), extent.rows, heads, splits)
}

fn merge_of(p: &Dense, splits: u32) -> merge::Merge {
    merge::Merge {
        parts: splits,
        batch: p.batch,
        heads: p.heads,
        queries: p.queries,
        value_dim: p.value_dim(),
        dtype: DType::F32,
        output_dtype: Some(p.output_dtype()),
        additive: matches!(p.weighting, Weighting::Sigmoid { .. }),
        lse: p.lse,
        o_layout: p.o_layout,
        unaligned: p.unaligned,
    }
}

/// The buffer that several short vectors share; `None` where one vector at most can be bound where it is.
pub(crate) fn packed_small(p: &Dense, gpu: &Gpu) -> Result<Option<PackedSmall>> {
    let vectors = small_vectors(p);
    let words: u64 = vectors.iter().map(|(_, n)| n).sum();
    let limits = gpu.limits();
    let names: Vec<_> = vectors.iter().map(|(name, _)| *name).collect();
    check_limit(
        format_args!("`{}` together", names.join("`, `")),
        words * 4 + u64::from(limits.min_storage_buffer_offset_alignment),
        "max_storage_buffer_binding_size",
        limits.max_storage_buffer_binding_size,
    )?;
    if vectors.len() < 2 {
        return Ok(None);
    }
    let buffer = gpu.guarded(|device| {
        device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("wgpu-attention short vectors"),
            size: words * 4,
            usage: wgpu::BufferUsages::STORAGE,
            mapped_at_creation: false,
        })
    })?;
    let copy = gpu.pipeline(&Variant::CopyWords)?;
    Ok(Some(PackedSmall { copy, buffer }))
}

impl DensePlan {
    /// The device it was made for.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// The problem it was made for.
    pub fn problem(&self) -> &Dense {
        &self.problem
    }

    /// The kernel and tile chosen.
    pub fn kernel(&self) -> KernelChoice {
        self.choice
    }

    /// What the pipeline is called in a graphics debugger.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The tier of that kernel.
    pub fn tier(&self) -> Tier {
        self.tier
    }

    /// Shares of the keys that are computed apart and merged.
    pub fn splits(&self) -> u32 {
        self.splits
    }

    /// Dispatches one call of the attention kernel is cut into.
    pub fn parts(&self) -> usize {
        self.parts.len()
    }

    /// Whether each call looks first for the key tiles that a boolean mask, a bias or a custom mask empties, to skip them,
    /// and for those they leave whole, to do without mask arithmetic there. So it is, unless the device has no storage
    /// buffer to spare for the lists, software GPUs would leave the scan's loops, or there are too few keys for it to pay.
    pub fn skips_masked_tiles(&self) -> bool {
        self.live.is_some()
    }

    /// Bytes of device memory the plan uses between its own dispatches, shared with the other plans of its [`Gpu`].
    pub fn workspace_bytes(&self) -> u64 {
        self.partial_bytes + self.live.as_ref().map_or(0, |live| live.lists.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_are_capped_by_what_a_merge_can_hold() {
        let p = Dense {
            heads: 8,
            queries: 4,
            ..Dense::default()
        };
        // 8 KiB of partial output a split.
        let limits = |binding, workgroups| wgpu::Limits {
            max_storage_buffer_binding_size: binding,
            max_compute_workgroups_per_dimension: workgroups,
            ..Default::default()
        };
        assert_eq!(most_splits(&p, &limits(1 << 20, 65535)), 127);
        assert_eq!(most_splits(&p, &limits(33 << 10, 65535)), 4);
        assert_eq!(most_splits(&p, &limits(1 << 20, 3)), 3);
        assert_eq!(most_splits(&p, &limits(4 << 10, 65535)), 1);
        let far_apart = Dense {
            o_layout: crate::tensor::Layout::packed(4, 1 << 20, 64),
            ..p
        };
        assert_eq!(most_splits(&far_apart, &limits(1 << 20, 65535)), 1);
    }
}
