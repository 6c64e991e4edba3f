//! From a plan and a call's tensors to recorded dispatches.

use crate::error::Result;
use crate::gpu::{Gpu, Workspace};
use crate::ops::call::{self, Dispatch, Window};
use crate::ops::dense::geometry::small_vectors;
use crate::ops::dense::live::Live;
use crate::ops::dense::params::Params;
use crate::ops::dense::plan::PackedSmall;
use crate::ops::dense::tensors::DenseTensors;
use crate::ops::dense::variant::{FIRST_CUSTOM_BINDING, LIST_BINDING};
use crate::ops::dense::{Dense, DensePlan};
use crate::ops::merge;
use crate::ops::parts::{Geometry, Part};
use crate::tensor::Tensor;

/// Unlimited reach of a window or of causality, in positions: more than lies between any two.
const UNLIMITED: u32 = 1 << 30;

/// The buffer of short vectors for one call, and where each begins in it.
#[derive(Default)]
pub(crate) struct Small<'a> {
    window: Option<Window<'a>>,
    at: Vec<(&'static str, u32)>,
}

impl<'a> Small<'a> {
    fn at(&self, name: &str) -> u32 {
        self.at.iter().find(|(n, _)| *n == name).map_or(0, |(_, at)| *at)
    }

    /// The short vectors of a call: bound where they are if there is one, else brought together first.
    pub(crate) fn gather(
        gpu: &Gpu,
        problem: &Dense,
        packed: Option<&'a PackedSmall>,
        tensors: &DenseTensors<'a>,
        dispatches: &mut Vec<Dispatch<'a>>,
    ) -> Self {
        let mut small = Small::default();
        let mut to = 0u32;
        for (name, words) in small_vectors(problem) {
            let Some(tensor) = tensors.named(name) else { continue };
            let from = Window::over(gpu, tensor, (0, words), 4);
            let Some(packed) = packed else {
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

    /// Binds it, where there is one.
    pub(crate) fn bind(&self, params: &mut Params, bindings: &mut Vec<(u32, Window<'a>)>) {
        let Some(window) = self.window else { return };
        bindings.push((8, window));
        params.kv_len_at = self.at("kv_len");
        params.cu_q_at = self.at("cu_seqlens_q");
        params.cu_k_at = self.at("cu_seqlens_k");
        params.alibi_at = self.at("alibi_slopes");
        params.sinks_at = self.at("sinks");
    }
}

/// A tensor and its name.
pub(crate) type Named<'a> = (&'static str, Tensor<'a>);

/// The lists of a part: where they are, and how far apart in words.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lists<'a> {
    pub window: Window<'a>,
    pub strides: [u32; 3],
}

impl<'a> Lists<'a> {
    /// Those in the tensor of a whole problem.
    pub(crate) fn of_tensor(gpu: &Gpu, geometry: &[Geometry], part: &Part, tensor: Tensor<'a>) -> Self {
        let mut binder = Binder::new(gpu, geometry, part);
        let (_, strides) = binder.bind(LIST_BINDING, "selection", tensor);
        Lists {
            window: binder.bindings[0].1,
            strides,
        }
    }
}

/// The bindings of one dispatch, as they come together.
pub(crate) struct Binder<'a, 'p> {
    gpu: &'p Gpu,
    geometry: &'p [Geometry],
    part: &'p Part,
    pub bindings: Vec<(u32, Window<'a>)>,
}

impl<'a, 'p> Binder<'a, 'p> {
    pub fn new(gpu: &'p Gpu, geometry: &'p [Geometry], part: &'p Part) -> Self {
        Binder {
            gpu,
            geometry,
            part,
            bindings: Vec::with_capacity(10),
        }
    }

    /// Binds a part's window of a tensor: its base and strides.
    pub fn bind(&mut self, number: u32, name: &str, tensor: Tensor<'a>) -> (u32, [u32; 3]) {
        let geometry = self.geometry.iter().find(|g| g.name == name);
        let geometry = geometry.expect("every bound tensor has a geometry");
        let window = Window::over(self.gpu, tensor, geometry.range(self.part), geometry.size);
        self.bindings.push((number, window));
        (window.base, geometry.strides_in(self.part))
    }

    /// Binds what decides about scores beside q and k: bias, mask, short vectors, custom data.
    pub fn bind_hooks(&mut self, params: &mut Params, tensors: &DenseTensors<'a>, small: &Small<'a>) {
        if let Some(bias) = tensors.bias {
            let (base, strides) = self.bind(6, "bias", bias);
            params.bias_base = base;
            [params.bias_batch, params.bias_head, params.bias_query] = strides;
        }
        if let Some(mask) = tensors.mask {
            let (base, strides) = self.bind(7, "mask", mask);
            params.mask_base = base;
            [params.mask_batch, params.mask_head, params.mask_query] = strides;
        }
        small.bind(params, &mut self.bindings);
        for (n, data) in tensors.custom_data.iter().enumerate() {
            let words = (data.buffer.size() - data.offset) / 4;
            let window = Window::over(self.gpu, *data, (0, words), 4);
            self.bindings.push((FIRST_CUSTOM_BINDING + n as u32, window));
        }
    }
}

impl DensePlan {
    /// Records the call into an encoder, as a compute pass of its own. Nothing is submitted, read back or waited for.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`] names a tensor that does not fit the plan; [`crate::Error::Limit`] if custom data is more than a
    /// binding holds; [`crate::Error::Device`] if the device is
    /// lost or out of memory. Nothing is recorded then.
    pub fn encode(&self, encoder: &mut wgpu::CommandEncoder, tensors: &DenseTensors<'_>) -> Result<()> {
        self.check_tensors(tensors)?;
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
            label: Some(&self.label),
            timestamp_writes: None,
        });
        self.record(&mut pass, tensors)
    }

    /// Records the call into a compute pass of the caller's, whose pipeline and bind group 0 it replaces.
    ///
    /// # Errors
    /// As [`DensePlan::encode`].
    pub fn encode_in(&self, pass: &mut wgpu::ComputePass<'_>, tensors: &DenseTensors<'_>) -> Result<()> {
        self.check_tensors(tensors)?;
        self.record(pass, tensors)
    }

    fn record(&self, pass: &mut wgpu::ComputePass<'_>, tensors: &DenseTensors<'_>) -> Result<()> {
        let mut dispatches = Vec::with_capacity(2 * self.parts.len() + 2);
        let small = Small::gather(&self.gpu, &self.problem, self.small.as_ref(), tensors, &mut dispatches);
        let workspace = match &self.merge {
            Some(joiner) => Some((self.gpu.workspace(Workspace::Partials, self.partial_bytes)?, joiner)),
            None => None,
        };
        let live = match &self.live {
            Some(live) => Some((self.gpu.workspace(Workspace::Lists, live.lists.bytes)?, live)),
            None => None,
        };
        for part in &self.parts {
            let partial = workspace.as_ref().map(|(buffer, joiner)| (buffer, *joiner));
            let lists = match (tensors.selection, &live) {
                (Some(selection), _) => Some(Lists::of_tensor(&self.gpu, &self.geometry, part, selection)),
                (None, Some((buffer, live))) => {
                    let lists = live.lists.of_part(&self.gpu, part, buffer);
                    dispatches.push(self.find_live(part, live, lists, tensors, &small));
                    Some(lists)
                }
                (None, None) => None,
            };
            dispatches.push(self.attend(part, tensors, &small, lists, partial));
        }
        if let Some((buffer, joiner)) = &workspace {
            let (o, lse) = joiner.parts_tensors(buffer);
            dispatches.push(joiner.dispatch(&self.gpu, o, lse, tensors.o, tensors.lse));
        }
        call::record(&self.gpu, &self.uniforms, pass, &dispatches)
    }

    /// The attention kernel over one part. `lists` are those of the part, where keys are listed.
    pub(crate) fn attend<'a>(
        &'a self,
        part: &Part,
        tensors: &DenseTensors<'a>,
        small: &Small<'a>,
        lists: Option<Lists<'a>>,
        partial: Option<(&'a wgpu::Buffer, &'a merge::plan::Joiner)>,
    ) -> Dispatch<'a> {
        let mut params = self.params(part);
        let mut binder = Binder::new(&self.gpu, &self.geometry, part);
        (params.q_base, [params.q_batch, params.q_head, params.q_seq]) = binder.bind(1, "q", tensors.q);
        (params.k_base, [params.k_batch, params.k_head, _]) = binder.bind(2, "k", tensors.k);
        (params.v_base, [params.v_batch, params.v_head, _]) = binder.bind(3, "v", tensors.v);
        binder.bind_hooks(&mut params, tensors, small);
        if let Some(lists) = lists {
            binder.bindings.push((LIST_BINDING, lists.window));
            params.list_base = lists.window.base;
            [params.list_batch, params.list_head, params.list_row] = lists.strides;
        }
        if let Some(live) = &self.live {
            params.list_group = live.lists.heads_of_a_list();
        }
        match partial {
            None => {
                (params.o_base, [params.o_batch, params.o_head, params.o_seq]) = binder.bind(4, "o", tensors.o);
                if let Some(lse) = tensors.lse {
                    params.lse_base = binder.bind(5, "lse", lse).0;
                }
            }
            Some((buffer, joiner)) => {
                self.bind_partial(part, &mut params, &mut binder.bindings, buffer, joiner);
            }
        }
        Dispatch {
            pipeline: &self.pipeline,
            params: bytemuck::bytes_of(&params).to_vec(),
            bindings: binder.bindings,
            grid: self.grid(part),
        }
    }

    /// The scan that fills a part's lists of live tiles.
    fn find_live<'a>(
        &'a self,
        part: &Part,
        live: &'a Live,
        lists: Lists<'a>,
        tensors: &DenseTensors<'a>,
        small: &Small<'a>,
    ) -> Dispatch<'a> {
        let mut params = self.params(part);
        let mut binder = Binder::new(&self.gpu, &self.geometry, part);
        binder.bind_hooks(&mut params, tensors, small);
        binder.bindings.push((LIST_BINDING, lists.window));
        params.list_base = lists.window.base;
        [params.list_batch, params.list_head, params.list_row] = lists.strides;
        Dispatch {
            pipeline: &live.pipeline,
            params: bytemuck::bytes_of(&params).to_vec(),
            bindings: binder.bindings,
            grid: live.lists.dims(part),
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
        let extent = self.choice.extent();
        if !extent.interleaved {
            return [queries.div_ceil(extent.rows), heads, batch];
        }
        let group = self.problem.heads / self.problem.kv_heads();
        let shares = (queries * group).div_ceil(extent.rows) * self.splits;
        [shares.div_ceil(extent.shares), heads / group, batch]
    }

    /// Everything but the bases and strides, which depend on the call.
    fn params(&self, part: &Part) -> Params {
        params(&self.problem, part, self.splits)
    }

    /// Checks everything that wgpu would otherwise complain about.
    fn check_tensors(&self, t: &DenseTensors<'_>) -> Result<()> {
        call::check_presence("selection", t.selection.is_some(), self.problem.selection.is_some())?;
        let (outputs, inputs) = self.checked(t)?;
        call::check_aliasing(&outputs, &inputs)
    }

    /// Checks the tensors one by one; a selection only if there is one. Outputs and inputs by their names.
    pub(crate) fn checked<'a>(&self, t: &DenseTensors<'a>) -> Result<(Vec<Named<'a>>, Vec<Named<'a>>)> {
        let p = &self.problem;
        call::check_presence("lse", t.lse.is_some(), p.lse)?;
        t.check_hooks(p)?;
        call::check_presence("sinks", t.sinks.is_some(), p.sinks)?;
        let mut inputs = vec![];
        let mut outputs = vec![];
        for need in &self.needs {
            let Some(tensor) = t.named(need.name) else { continue };
            call::check_tensor(need, &tensor)?;
            let list = if matches!(need.name, "o" | "lse") {
                &mut outputs
            } else {
                &mut inputs
            };
            list.push((need.name, tensor));
        }
        t.check_custom_data(p, &self.gpu)?;
        inputs.extend(t.custom_data.iter().map(|d| ("custom_data", *d)));
        Ok((outputs, inputs))
    }
}

/// Everything about a part but the bases and strides, which depend on the call.
pub(crate) fn params(p: &Dense, part: &Part, splits: u32) -> Params {
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
        splits,
        // Fits wherever it is used, which is between splits; elsewhere it may not.
        rows: p.batch.wrapping_mul(p.heads).wrapping_mul(p.queries),
        list_group: p
            .selection
            .map_or(1, |s| if s.per_kv_head { p.heads / p.kv_heads() } else { 1 }),
        list_capacity: p.selection.map_or(0, |s| s.capacity),
        list_entries: p.selection.map_or(0, |s| s.entries(p)),
        query_block: p.selection.map_or(1, |s| s.query_block),
        ..Params::default()
    }
}
