//! From a plan and a call's tensors to recorded dispatches.

use crate::error::{Error, Result, check_limit};
use crate::ops::call::{self, Dispatch, Need, Window};
use crate::ops::dense::DensePlan;
use crate::ops::dense::geometry::small_vectors;
use crate::ops::dense::params::Params;
use crate::ops::dense::tensors::DenseTensors;
use crate::ops::dense::tile::KernelChoice;
use crate::ops::dense::variant::{FIRST_CUSTOM_BINDING, LIST_BINDING};
use crate::ops::merge;
use crate::ops::parts::Part;
use crate::tensor::Tensor;

/// Unlimited reach of a window or of causality, in positions: more than lies between any two.
const UNLIMITED: u32 = 1 << 30;

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
        if let Some(selection) = tensors.selection {
            (params.list_base, [params.list_batch, params.list_head, params.list_row]) =
                bind(LIST_BINDING, "selection", selection);
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
            bindings.push((FIRST_CUSTOM_BINDING + n as u32, window));
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
                let shares = (queries * group).div_ceil(t.rows) * self.splits;
                [shares.div_ceil(t.threads), heads / group, batch]
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
            list_group: p
                .selection
                .map_or(1, |s| if s.per_kv_head { p.heads / p.kv_heads() } else { 1 }),
            list_capacity: p.selection.map_or(0, |s| s.capacity),
            list_entries: p.selection.map_or(0, |s| s.entries(p)),
            query_block: p.selection.map_or(1, |s| s.query_block),
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
        call::check_presence("selection", t.selection.is_some(), p.selection.is_some())?;
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
            check_limit(
                "an array of `custom_data`, from its offset to its buffer's end,",
                data.buffer.size() - data.offset,
                "max_storage_buffer_binding_size",
                self.gpu.limits().max_storage_buffer_binding_size,
            )?;
        }
        Ok(())
    }
}

/// The tensor of that name, where the call has it.
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
        "selection" => t.selection,
        _ => None,
    }
}
