//! From a plan and a call's tensors to recorded dispatches.

use crate::error::Result;
use crate::gpu::Workspace;
use crate::ops::call::{self, Dispatch, Window};
use crate::ops::linear::Decay;
use crate::ops::linear::geometry::{slot_len, workspace};
use crate::ops::linear::params::Params;
use crate::ops::linear::plan::{Kernels, LinearPlan, scan_width, scan_workgroups};
use crate::ops::linear::tensors::LinearTensors;
use crate::ops::parts::Part;
use crate::shader::Pipeline;
use crate::tensor::Tensor;

/// Channels of a workgroup of `linear/total_decay.wgsl`.
const TOTAL_CHANNELS: u32 = 16;

impl LinearPlan {
    /// Records the call into an encoder, as a compute pass of its own. Nothing is submitted, read back or waited for.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`] names a tensor that does not fit the plan; [`crate::Error::Device`] if the device is
    /// lost or out of memory. Nothing is recorded then.
    pub fn encode(&self, encoder: &mut wgpu::CommandEncoder, tensors: &LinearTensors<'_>) -> Result<()> {
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
            bytes => Some(self.gpu.workspace(Workspace::Partials, bytes)?),
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

/// The tensor of that name, where the call has it.
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
        match (&self.plan.kernels, self.plan.form) {
            (Kernels::One(pipeline), form) => {
                dispatches.push(self.whole(pipeline, [form.workgroups(p)[0], heads, sequences]));
            }
            (Kernels::Three { state, scan, output }, form) => {
                let segments = self.plan.segments();
                let [of_state, of_output] = form.workgroups(p);
                let read = self.plan.segments_read();
                if read > 0 {
                    dispatches.push(self.segment_states(state, [read * of_state, heads, batch]));
                }
                let of_scan = scan_workgroups(p.head_state_len(), scan_width(p)) as u32;
                dispatches.push(self.scan(scan, [of_scan, heads, sequences]));
                dispatches.push(self.segment_outputs(output, [segments * of_output, heads, batch]));
            }
        }
        if let Some(pipeline) = &self.plan.totals {
            let x = (p.decay.total_len(p.head_dim) as u32).div_ceil(TOTAL_CHANNELS);
            dispatches.push(self.total_decay(pipeline, [x, heads, sequences]));
        }
    }

    /// Everything but bases and strides.
    fn params(&self) -> Params {
        let p = &self.plan.problem;
        Params {
            first_head: self.part.head.0,
            tokens: p.tokens,
            group: p.heads / p.kv_heads(),
            documents: p.documents.unwrap_or(0),
            segment: self.plan.form.segment().unwrap_or(p.tokens),
            segments: self.plan.segments(),
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

    /// Strides, over sequences, heads and segments, of what has `len` numbers for each segment.
    fn per_segment(&self, len: u64, segments: u32) -> [u32; 3] {
        let head = u64::from(segments) * len;
        let sequence = match self.plan.problem.documents {
            // Segments of all documents are one after the other.
            Some(_) => 0,
            None => u64::from(self.part.head.1 - self.part.head.0) * head,
        };
        [sequence, head, len].map(|n| n as u32)
    }

    /// The states between segments at `number`, and their base and strides over sequences, heads and segments.
    fn bind_slots(&self, bindings: &mut Vec<(u32, Window<'a>)>, number: u32, segments: u32) -> [u32; 4] {
        let p = &self.plan.problem;
        let Some(buffer) = self.workspace else { return [0; 4] };
        let size = workspace(p, self.plan.form, self.part).totals_at;
        let window = Window {
            buffer,
            offset: 0,
            size,
            base: 0,
        };
        bindings.push((number, window));
        let [sequence, head, segment] = self.per_segment(slot_len(p, self.plan.form), segments);
        [0, sequence, head, segment]
    }

    fn bind_totals(&self, bindings: &mut Vec<(u32, Window<'a>)>, params: &mut Params) {
        let p = &self.plan.problem;
        let Some(buffer) = self.workspace else { return };
        let layout = workspace(p, self.plan.form, self.part);
        let window = Window {
            buffer,
            offset: layout.totals_at,
            size: layout.bytes - layout.totals_at,
            base: 0,
        };
        bindings.push((9, window));
        [params.total_sequence, params.total_head, params.total_segment] =
            self.per_segment(p.decay.total_len(p.head_dim), params.segments);
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
        ] = self.bind_slots(&mut bindings, 6, params.segments);
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
        [params.in_base, params.in_sequence, params.in_head, params.in_segment] =
            self.bind_slots(&mut bindings, 10, params.segments);
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
        [params.in_base, params.in_sequence, params.in_head, params.in_segment] =
            self.bind_slots(&mut bindings, 5, params.segments);
        dispatch(pipeline, params, bindings, grid)
    }

    fn total_decay(&self, pipeline: &'a Pipeline, grid: [u32; 3]) -> Dispatch<'a> {
        let mut bindings = Vec::with_capacity(3);
        let mut params = self.params();
        params.segment = params.tokens;
        self.bind_decay(&mut bindings, &mut params);
        self.bind_documents(&mut bindings, &mut params);
        let p = &self.plan.problem;
        let (base, strides) = self.bind(&mut bindings, 9, "total_decay");
        params.total_base = base;
        [params.total_sequence, params.total_head] = self.per_sequence(strides, p.decay.total_len(p.head_dim));
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
