//! From a problem to recorded dispatches.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::ops::call::{self, Dispatch, Need, Uniforms, Window};
use crate::ops::dense::check;
use crate::ops::dense::params::Params;
use crate::ops::dense::tensors::DenseTensors;
use crate::ops::dense::tile::{self, DeviceClass, KernelChoice, Tuning};
use crate::ops::dense::variant::{Attend, DenseVariant, WeightingKind};
use crate::ops::dense::{Broadcast, Dense, Weighting, custom};
use crate::ops::merge;
use crate::ops::parts::{self, Bounds, Geometry, Part};
use crate::shader::{Pipeline, Spec, Variant};
use crate::tensor::{DType, Strides, Tensor};

/// Unlimited reach of a window or of causality, in positions: more than lies between any two.
const UNLIMITED: u32 = 1 << 30;

/// Shares of the keys at most.
const MAX_SPLITS: u32 = 65535;

/// A dense problem on a device: kernels chosen and compiled, ready to encode any number of times.
///
/// Independent of the buffers it will be given, `Send + Sync`, and cheap to encode. Plans of the same variant share
/// their pipelines, so that planning a problem that differs only in sizes compiles nothing.
#[derive(Debug)]
pub struct DensePlan {
    gpu: Gpu,
    problem: Dense,
    choice: KernelChoice,
    label: String,
    pipeline: Arc<Pipeline>,
    parts: Vec<Part>,
    geometry: Vec<Geometry>,
    needs: Vec<Need>,
    splits: u32,
    merge: Option<merge::plan::Joiner>,
    small: Option<PackedSmall>,
    workspace_bytes: u64,
    uniforms: Uniforms,
}

/// Where several short vectors are brought together.
#[derive(Debug)]
struct PackedSmall {
    copy: Arc<Pipeline>,
    buffer: wgpu::Buffer,
}

impl Dense {
    /// Checks the problem, chooses kernel and tile for the device, and compiles or fetches the pipelines.
    ///
    /// # Errors
    /// [`Error::Invalid`] names a field that is wrong, [`Error::Snippet`] a line of custom code,
    /// [`Error::Limit`] a limit of the device that even parts of the problem exceed.
    pub fn plan(&self, gpu: &Gpu) -> Result<DensePlan> {
        self.plan_with(gpu, &Tuning::default())
    }

    /// As [`Dense::plan`], with kernel, tile or splits given: for measurements and tests.
    ///
    /// # Errors
    /// As [`Dense::plan`]; [`Error::Limit`] if a given tile does not fit the device.
    pub fn plan_with(&self, gpu: &Gpu, tuning: &Tuning) -> Result<DensePlan> {
        check::check(self)?;
        let device = DeviceClass::of(gpu.limits(), gpu.info().device_type);
        let choice = match tuning.kernel {
            Some(choice) => choice,
            None => tile::choose(self, &device)?,
        };
        check_choice(&choice, gpu)?;
        let splits = match (choice, tuning.splits) {
            (KernelChoice::Prefill(_), _) => 1,
            (_, Some(splits)) => check_splits(splits)?,
            (KernelChoice::Decode(t), None) => tile::splits(self, &t, &device).min(most_splits(self, gpu.limits())),
            (KernelChoice::DecodeSerial(t), None) => {
                tile::serial_splits(self, &t, &device).min(most_splits(self, gpu.limits()))
            }
        };
        let variant = Variant::Dense(variant_of(self, choice, splits > 1));
        check_device(self, variant.spec(), gpu)?;
        let geometry = geometry(self);
        let parts = parts::split(whole(self), &geometry, &bounds(self, choice, splits, gpu))?;
        let pipeline = pipeline(self, gpu, &variant)?;
        let merge = if splits > 1 {
            Some(merge::plan::Joiner::new(gpu, &merge_of(self, splits))?)
        } else {
            None
        };
        let workspace_bytes = merge.as_ref().map_or(0, |m| m.parts_bytes());
        if workspace_bytes > 0 {
            gpu.workspace(workspace_bytes)?;
        }
        Ok(DensePlan {
            choice,
            label: variant.spec().label(),
            pipeline,
            parts,
            needs: needs(self, &geometry),
            geometry,
            splits,
            merge,
            small: packed_small(self, gpu)?,
            workspace_bytes,
            uniforms: Uniforms::default(),
            gpu: gpu.clone(),
            problem: self.clone(),
        })
    }
}

/// The pipeline. Code of the caller's own is part of the cache's key, so that what is found there was checked before.
fn pipeline(p: &Dense, gpu: &Gpu, variant: &Variant) -> Result<Arc<Pipeline>> {
    if let Some(found) = gpu.cached_pipeline(variant) {
        return Ok(found);
    }
    if let Some(custom) = &p.custom {
        custom::check_code(custom)?;
        custom::check_module(custom, &variant.wgsl())?;
    }
    gpu.pipeline(variant)
}

/// The variant that serves a problem with a given kernel. `partial` is one split of several.
pub fn variant_of(p: &Dense, choice: KernelChoice, partial: bool) -> DenseVariant {
    let softmax = matches!(p.weighting, Weighting::Softmax);
    let geometry = geometry(p);
    let attend = Attend {
        head_dim: p.head_dim,
        value_dim: p.value_dim(),
        dtype: p.dtype,
        vector_inputs: vector_inputs(p, &geometry),
        output_dtype: if partial { DType::F32 } else { p.output_dtype() },
        vector_output: if partial {
            p.value_dim().is_multiple_of(4)
        } else {
            vector_output(p, &geometry)
        },
        weighting: if softmax {
            WeightingKind::Softmax
        } else {
            WeightingKind::Sigmoid
        },
        softcap: p.softcap.is_some(),
        bias: p.bias.map(|b| b.dtype),
        mask: p.mask.is_some(),
        kv_len: p.kv_len,
        documents: p.documents.is_some(),
        alibi: p.alibi,
        sinks: p.sinks,
        lse: if partial { softmax } else { p.lse },
        custom: p.custom.clone(),
        tile: (),
    };
    match choice {
        KernelChoice::Prefill(tile) => DenseVariant::Prefill(attend.with_tile(tile)),
        KernelChoice::Decode(tile) => DenseVariant::Decode(attend.with_tile(tile)),
        KernelChoice::DecodeSerial(tile) => DenseVariant::DecodeSerial(attend.with_tile(tile)),
    }
}

/// Whether q, k and v can be read four elements at a time.
fn vector_inputs(p: &Dense, geometry: &[Geometry]) -> bool {
    let dims = p.head_dim.is_multiple_of(4) && p.value_dim().is_multiple_of(4);
    dims && !p.unaligned && geometry[..3].iter().all(is_x4)
}

/// Whether o can be written four elements at a time.
fn vector_output(p: &Dense, geometry: &[Geometry]) -> bool {
    p.value_dim().is_multiple_of(4) && !p.unaligned && is_x4(&geometry[3])
}

fn is_x4(tensor: &Geometry) -> bool {
    let s = tensor.strides;
    [s.batch, s.head, s.seq].iter().all(|n| n.is_multiple_of(4))
}

/// Whether a tile that a caller gives makes sense and has few enough invocations.
fn check_choice(choice: &KernelChoice, gpu: &Gpu) -> Result<()> {
    let (sound, threads) = match choice {
        KernelChoice::Prefill(t) => (t.is_sound(), t.threads()),
        KernelChoice::Decode(t) => (t.is_sound(), t.threads()),
        KernelChoice::DecodeSerial(t) => (t.is_sound(), t.threads),
    };
    if !sound {
        return Err(Error::Invalid {
            field: "tuning.kernel",
            value: format!("{choice:?}"),
            allowed: "a tile that keeps to the rules beside its fields, each of which is 1 to 256".into(),
        });
    }
    let limits = gpu.limits();
    let most = limits
        .max_compute_invocations_per_workgroup
        .min(limits.max_compute_workgroup_size_x);
    if threads > most {
        return Err(Error::Limit {
            what: "the tile".into(),
            needed: threads.into(),
            limit: "max_compute_invocations_per_workgroup",
            available: most.into(),
        });
    }
    Ok(())
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
    // Partial outputs and log-sum-exps are one buffer, at most twice the former, rounded up to a power of two.
    let by_buffer = limits.max_buffer_size / one / 4;
    let by_grid: u64 = limits.max_compute_workgroups_per_dimension.into();
    if merge::plan::workgroups(&merge_of(p, 1)) > by_grid * by_grid {
        return 1;
    }
    by_binding.min(by_buffer).min(by_grid).clamp(1, MAX_SPLITS.into()) as u32
}

/// Limits that depend on the variant.
fn check_device(p: &Dense, spec: &dyn Spec, gpu: &Gpu) -> Result<()> {
    let limits = gpu.limits();
    let storage = spec.bindings().len() as u32 - 1;
    if storage > limits.max_storage_buffers_per_shader_stage {
        return Err(Error::Limit {
            what: "this combination of tensors (custom data arrays included)".into(),
            needed: storage.into(),
            limit: "max_storage_buffers_per_shader_stage",
            available: limits.max_storage_buffers_per_shader_stage.into(),
        });
    }
    let bytes = spec.workgroup_bytes();
    if bytes > limits.max_compute_workgroup_storage_size {
        return Err(Error::Limit {
            what: format!("the tile for D = {}, Dv = {}", p.head_dim, p.value_dim()),
            needed: bytes.into(),
            limit: "max_compute_workgroup_storage_size",
            available: limits.max_compute_workgroup_storage_size.into(),
        });
    }
    Ok(())
}

fn whole(p: &Dense) -> Part {
    Part {
        batch: (0, p.batch),
        head: (0, p.heads),
        query: (0, p.queries),
    }
}

fn bounds(p: &Dense, choice: KernelChoice, splits: u32, gpu: &Gpu) -> Bounds {
    let limits = gpu.limits();
    let group = p.heads / p.kv_heads();
    let (rows, heads) = match choice {
        KernelChoice::Prefill(t) => (t.rows(), 1),
        // Workgroups along x are row tiles times splits, along y KV heads.
        KernelChoice::Decode(t) => (t.rows, group),
        KernelChoice::DecodeSerial(t) => (t.rows, group),
    };
    Bounds {
        // Shaders count elements in 32 bits.
        binding: limits.max_storage_buffer_binding_size.min(u32::MAX.into()),
        splits,
        alignment: limits.min_storage_buffer_offset_alignment.into(),
        workgroups: limits.max_compute_workgroups_per_dimension,
        rows,
        heads,
    }
}

/// q, k, v, o, then lse, bias and mask where the problem has them.
fn geometry(p: &Dense) -> Vec<Geometry> {
    let (h, hkv, d, dv) = (p.heads, p.kv_heads(), p.head_dim, p.value_dim());
    let group = h / hkv;
    let rows = |name, dtype: DType, strides, dim: u32| Geometry {
        name,
        size: dtype.size(),
        strides,
        group: 1,
        row: dim.into(),
    };
    // Every query row needs all the keys of its head.
    let keys = |name, s: Strides, dim: u32| Geometry {
        name,
        size: p.dtype.size(),
        strides: Strides { seq: 0, ..s },
        group,
        row: u64::from(p.keys - 1) * s.seq + u64::from(dim),
    };
    let mut all = vec![
        rows("q", p.dtype, p.q_layout.strides(h, p.queries, d), d),
        keys("k", p.k_layout.strides(hkv, p.keys, d), d),
        keys("v", p.v_layout.strides(hkv, p.keys, dv), dv),
        rows("o", p.output_dtype(), p.o_layout.strides(h, p.queries, dv), dv),
    ];
    if p.lse {
        let strides = Strides {
            batch: u64::from(h) * u64::from(p.queries),
            head: p.queries.into(),
            seq: 1,
        };
        all.push(rows("lse", DType::F32, strides, 1));
    }
    let scores = |name, size, shape: Broadcast| Geometry {
        name,
        size,
        strides: broadcast_strides(p, shape),
        group: 1,
        row: p.keys.into(),
    };
    all.extend(p.bias.map(|b| scores("bias", b.dtype.size(), b.shape)));
    all.extend(p.mask.map(|shape| scores("mask", 1, shape)));
    all
}

/// Strides of a contiguous `[B|1, H|1, Nq|1, Nk]`; 0 along what is broadcast.
fn broadcast_strides(p: &Dense, shape: Broadcast) -> Strides {
    let seq = u64::from(p.keys);
    let head = if shape.per_query {
        seq * u64::from(p.queries)
    } else {
        seq
    };
    let batch = if shape.per_head {
        head * u64::from(p.heads)
    } else {
        head
    };
    Strides {
        batch: if shape.per_batch { batch } else { 0 },
        head: if shape.per_head { head } else { 0 },
        seq: if shape.per_query { seq } else { 0 },
    }
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

/// The short vectors of a problem: name, number of words.
fn small_vectors(p: &Dense) -> Vec<(&'static str, u64)> {
    let documents = p.documents.map(|d| u64::from(d) + 1);
    let heads = u64::from(p.heads);
    [
        ("kv_len", p.kv_len.then_some(u64::from(p.batch))),
        ("cu_seqlens_q", documents),
        ("cu_seqlens_k", documents),
        ("alibi_slopes", p.alibi.then_some(heads)),
        ("sinks", p.sinks.then_some(heads)),
    ]
    .into_iter()
    .filter_map(|(name, words)| Some((name, words?)))
    .collect()
}

/// What every tensor of a problem has to be, custom data left out.
fn needs(p: &Dense, geometry: &[Geometry]) -> Vec<Need> {
    let (inputs_x4, output_x4) = (vector_inputs(p, geometry), vector_output(p, geometry));
    let whole = whole(p);
    let mut needs: Vec<_> = geometry
        .iter()
        .map(|g| {
            let vector = match g.name {
                "q" | "k" | "v" => inputs_x4,
                "o" => output_x4,
                _ => false,
            };
            Need {
                name: g.name,
                bytes: g.range(&whole).1 * g.size,
                alignment: if vector { 4 * g.size } else { g.size },
            }
        })
        .collect();
    needs.extend(small_vectors(p).into_iter().map(|(name, words)| Need {
        name,
        bytes: words * 4,
        alignment: 4,
    }));
    needs
}

fn packed_small(p: &Dense, gpu: &Gpu) -> Result<Option<PackedSmall>> {
    let vectors = small_vectors(p);
    let words: u64 = vectors.iter().map(|(_, n)| n).sum();
    let limits = gpu.limits();
    let needed = words * 4 + u64::from(limits.min_storage_buffer_offset_alignment);
    if needed > limits.max_storage_buffer_binding_size {
        let names: Vec<_> = vectors.iter().map(|(name, _)| *name).collect();
        return Err(Error::Limit {
            what: format!("`{}` together", names.join("`, `")),
            needed,
            limit: "max_storage_buffer_binding_size",
            available: limits.max_storage_buffer_binding_size,
        });
    }
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

/// The buffer of short vectors for one call, and where each begins in it.
#[derive(Default)]
struct Small<'a> {
    window: Option<Window<'a>>,
    at: Vec<(&'static str, u32)>,
}

impl Small<'_> {
    fn at(&self, name: &str) -> u32 {
        self.at.iter().find(|(n, _)| *n == name).map_or(0, |(_, at)| *at)
    }
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

    /// Shares of the keys that are computed apart and merged.
    pub fn splits(&self) -> u32 {
        self.splits
    }

    /// Dispatches one call of the attention kernel is cut into.
    pub fn parts(&self) -> usize {
        self.parts.len()
    }

    /// Bytes of device memory the plan uses between its own dispatches, shared with the other plans of its [`Gpu`].
    pub fn workspace_bytes(&self) -> u64 {
        self.workspace_bytes
    }

    /// Records the call into an encoder, as a compute pass of its own. Nothing is submitted, read back or waited for.
    ///
    /// # Errors
    /// [`Error::Tensor`] names a tensor that does not fit the plan; nothing is recorded then.
    pub fn encode(&self, encoder: &mut wgpu::CommandEncoder, tensors: &DenseTensors<'_>) -> Result<()> {
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
    /// As [`DensePlan::encode`].
    pub fn encode_in(&self, pass: &mut wgpu::ComputePass<'_>, tensors: &DenseTensors<'_>) -> Result<()> {
        self.check_tensors(tensors)?;
        self.record(pass, tensors)
    }

    fn record(&self, pass: &mut wgpu::ComputePass<'_>, tensors: &DenseTensors<'_>) -> Result<()> {
        let mut dispatches = Vec::with_capacity(self.parts.len() + 2);
        let small = self.small(tensors, &mut dispatches);
        let workspace = match &self.merge {
            Some(joiner) => Some((self.gpu.workspace(self.workspace_bytes)?, joiner)),
            None => None,
        };
        for part in &self.parts {
            let partial = workspace.as_ref().map(|(buffer, joiner)| (buffer, *joiner));
            dispatches.push(self.attend(part, tensors, &small, partial));
        }
        if let Some((buffer, joiner)) = &workspace {
            let (o, lse) = joiner.parts_tensors(buffer);
            dispatches.push(joiner.dispatch(&self.gpu, o, lse, tensors.o, tensors.lse));
        }
        call::record(&self.gpu, &self.uniforms, pass, &dispatches)
    }

    /// The short vectors: bound where they are if there is one, else brought together first.
    fn small<'a>(&'a self, tensors: &DenseTensors<'a>, dispatches: &mut Vec<Dispatch<'a>>) -> Small<'a> {
        let vectors = small_vectors(&self.problem);
        let mut small = Small::default();
        let mut to = 0u32;
        for (name, words) in vectors {
            let Some(tensor) = named(tensors, name) else { continue };
            let from = Window::over(&self.gpu, tensor, (0, words), 4);
            let Some(packed) = &self.small else {
                small.window = Some(from);
                small.at.push((name, from.base));
                return small;
            };
            small.at.push((name, to));
            let all = Window {
                buffer: &packed.buffer,
                offset: 0,
                size: packed.buffer.size(),
                base: 0,
            };
            small.window = Some(all);
            dispatches.push(Dispatch {
                pipeline: &packed.copy,
                params: bytemuck::bytes_of(&[from.base, to, words as u32, 0]).to_vec(),
                bindings: vec![(1, from), (4, all)],
                grid: [words.div_ceil(64).min(1024) as u32, 1, 1],
            });
            to += words as u32;
        }
        small
    }

    fn attend<'a>(
        &'a self,
        part: &Part,
        tensors: &DenseTensors<'a>,
        small: &Small<'a>,
        partial: Option<(&'a wgpu::Buffer, &'a merge::plan::Joiner)>,
    ) -> Dispatch<'a> {
        let mut params = self.params(part);
        let mut bindings = Vec::with_capacity(9 + tensors.custom_data.len());
        let mut bind = |number: u32, name: &str, tensor: Tensor<'a>| {
            let geometry = self.geometry.iter().find(|g| g.name == name);
            let geometry = geometry.expect("every bound tensor has a geometry");
            let window = Window::over(&self.gpu, tensor, geometry.range(part), geometry.size);
            bindings.push((number, window));
            (window.base, geometry.strides_in(part))
        };
        (params.q_base, [params.q_batch, params.q_head, params.q_seq]) = bind(1, "q", tensors.q);
        (params.k_base, [params.k_batch, params.k_head, _]) = bind(2, "k", tensors.k);
        (params.v_base, [params.v_batch, params.v_head, _]) = bind(3, "v", tensors.v);
        if let Some(bias) = tensors.bias {
            (
                params.bias_base,
                [params.bias_batch, params.bias_head, params.bias_query],
            ) = bind(6, "bias", bias);
        }
        if let Some(mask) = tensors.mask {
            (
                params.mask_base,
                [params.mask_batch, params.mask_head, params.mask_query],
            ) = bind(7, "mask", mask);
        }
        match partial {
            None => {
                (params.o_base, [params.o_batch, params.o_head, params.o_seq]) = bind(4, "o", tensors.o);
                if let Some(lse) = tensors.lse {
                    params.lse_base = bind(5, "lse", lse).0;
                }
            }
            Some((buffer, joiner)) => {
                self.bind_partial(part, &mut params, &mut bindings, buffer, joiner);
            }
        }
        if let Some(window) = small.window {
            bindings.push((8, window));
            params.kv_len_at = small.at("kv_len");
            params.cu_q_at = small.at("cu_seqlens_q");
            params.cu_k_at = small.at("cu_seqlens_k");
            params.alibi_at = small.at("alibi_slopes");
            params.sinks_at = small.at("sinks");
        }
        for (n, data) in tensors.custom_data.iter().enumerate() {
            let words = (data.buffer.size() - data.offset) / 4;
            let window = Window::over(&self.gpu, *data, (0, words), 4);
            bindings.push((super::variant::FIRST_CUSTOM_BINDING + n as u32, window));
        }
        Dispatch {
            pipeline: &self.pipeline,
            params: bytemuck::bytes_of(&params).to_vec(),
            bindings,
            grid: self.grid(part),
        }
    }

    /// Outputs of one part into the workspace: `[splits, B, H, Nq, Dv]` and its log-sum-exp.
    fn bind_partial<'a>(
        &'a self,
        part: &Part,
        params: &mut Params,
        bindings: &mut Vec<(u32, Window<'a>)>,
        buffer: &'a wgpu::Buffer,
        joiner: &merge::plan::Joiner,
    ) {
        let p = &self.problem;
        let (o, lse) = joiner.parts_tensors(buffer);
        let at = (u64::from(part.batch.0) * u64::from(p.heads) + u64::from(part.head.0)) * u64::from(p.queries)
            + u64::from(part.query.0);
        let dim = p.value_dim();
        let rows = u64::from(params.rows) * u64::from(self.splits);
        let window = Window::over(&self.gpu, o, (0, rows * u64::from(dim)), 4);
        bindings.push((4, window));
        params.o_base = window.base + at as u32 * dim;
        params.o_batch = p.heads * p.queries * dim;
        params.o_head = p.queries * dim;
        params.o_seq = dim;
        if let Some(lse) = lse {
            let window = Window::over(&self.gpu, lse, (0, rows), 4);
            bindings.push((5, window));
            params.lse_base = window.base + at as u32;
        }
    }

    fn grid(&self, part: &Part) -> [u32; 3] {
        let queries = part.query.1 - part.query.0;
        let heads = part.head.1 - part.head.0;
        let batch = part.batch.1 - part.batch.0;
        match self.choice {
            KernelChoice::Prefill(t) => [queries.div_ceil(t.rows()), heads, batch],
            KernelChoice::Decode(t) => {
                let group = self.problem.heads / self.problem.kv_heads();
                [(queries * group).div_ceil(t.rows) * self.splits, heads / group, batch]
            }
            KernelChoice::DecodeSerial(t) => {
                let group = self.problem.heads / self.problem.kv_heads();
                let shares = self.splits.div_ceil(t.threads);
                [(queries * group).div_ceil(t.rows) * shares, heads / group, batch]
            }
        }
    }

    /// Everything but the bases and strides, which depend on the call.
    fn params(&self, part: &Part) -> Params {
        let p = &self.problem;
        let reach = |side: Option<u32>| side.map_or(UNLIMITED, |n| n.min(UNLIMITED)) as i32;
        let base_2 = if p.softcap.is_some() || p.custom.as_ref().is_some_and(|c| c.score.is_some()) {
            1.0
        } else {
            std::f32::consts::LOG2_E
        };
        Params {
            first_batch: part.batch.0,
            first_head: part.head.0,
            first_query: part.query.0,
            end_query: part.query.1,
            queries: p.queries,
            keys: p.keys,
            heads: p.heads,
            group: p.heads / p.kv_heads(),
            k_seq: p.k_layout.strides(p.kv_heads(), p.keys, p.head_dim).seq as u32,
            v_seq: p.v_layout.strides(p.kv_heads(), p.keys, p.value_dim()).seq as u32,
            documents: p.documents.unwrap_or(0),
            q_offset_given: p.q_offset.is_some().into(),
            q_offset: p.q_offset.unwrap_or(0),
            left: reach(p.window_left),
            right: reach(p.window_right),
            ahead: if p.causal { 0 } else { UNLIMITED as i32 },
            sink_tokens: p.sink_tokens as i32,
            prefix: p.prefix as i32,
            q_scale: p.scale() * base_2,
            softcap: p.softcap.unwrap_or(1.0),
            weight_bias: p.sigmoid_bias().unwrap_or(0.0) * std::f32::consts::LOG2_E,
            splits: self.splits,
            // Fits wherever it is used, which is between splits; elsewhere it may not.
            rows: p.batch.wrapping_mul(p.heads).wrapping_mul(p.queries),
            ..Params::default()
        }
    }

    /// Checks everything that wgpu would otherwise complain about.
    fn check_tensors(&self, t: &DenseTensors<'_>) -> Result<()> {
        let p = &self.problem;
        call::check_presence("lse", t.lse.is_some(), p.lse)?;
        call::check_presence("bias", t.bias.is_some(), p.bias.is_some())?;
        call::check_presence("mask", t.mask.is_some(), p.mask.is_some())?;
        call::check_presence("kv_len", t.kv_len.is_some(), p.kv_len)?;
        call::check_presence("cu_seqlens_q", t.cu_seqlens_q.is_some(), p.documents.is_some())?;
        call::check_presence("cu_seqlens_k", t.cu_seqlens_k.is_some(), p.documents.is_some())?;
        call::check_presence("alibi_slopes", t.alibi_slopes.is_some(), p.alibi)?;
        call::check_presence("sinks", t.sinks.is_some(), p.sinks)?;
        let mut inputs = vec![];
        let mut outputs = vec![];
        for need in &self.needs {
            let Some(tensor) = named(t, need.name) else { continue };
            call::check_tensor(need, &tensor)?;
            let list = if matches!(need.name, "o" | "lse") {
                &mut outputs
            } else {
                &mut inputs
            };
            list.push((need.name, tensor));
        }
        self.check_custom_data(t)?;
        inputs.extend(t.custom_data.iter().map(|d| ("custom_data", *d)));
        call::check_aliasing(&outputs, &inputs)
    }

    fn check_custom_data(&self, t: &DenseTensors<'_>) -> Result<()> {
        let wanted = self.problem.custom.as_ref().map_or(0, |c| c.data.len());
        if t.custom_data.len() != wanted {
            return Err(Error::Tensor {
                tensor: "custom_data",
                found: format!("{} arrays are given", t.custom_data.len()),
                needed: format!("{wanted}, as the problem's custom code declares"),
            });
        }
        for data in t.custom_data {
            // Bound at its very offset: the code counts from the array's first element.
            let need = Need {
                name: "custom_data",
                bytes: 4,
                alignment: self.gpu.limits().min_storage_buffer_offset_alignment.into(),
            };
            call::check_tensor(&need, data)?;
            let bytes = data.buffer.size() - data.offset;
            let most = self.gpu.limits().max_storage_buffer_binding_size;
            if bytes > most {
                return Err(Error::Limit {
                    what: "an array of `custom_data`, from its offset to its buffer's end,".into(),
                    needed: bytes,
                    limit: "max_storage_buffer_binding_size",
                    available: most,
                });
            }
        }
        Ok(())
    }
}

fn named<'a>(t: &DenseTensors<'a>, name: &str) -> Option<Tensor<'a>> {
    match name {
        "q" => Some(t.q),
        "k" => Some(t.k),
        "v" => Some(t.v),
        "o" => Some(t.o),
        "lse" => t.lse,
        "bias" => t.bias,
        "mask" => t.mask,
        "kv_len" => t.kv_len,
        "cu_seqlens_q" => t.cu_seqlens_q,
        "cu_seqlens_k" => t.cu_seqlens_k,
        "alibi_slopes" => t.alibi_slopes,
        "sinks" => t.sinks,
        _ => None,
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
