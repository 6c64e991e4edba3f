//! Joining segments: from the problem to its recorded dispatch.

use std::sync::Arc;

use super::params::Params;
use super::plan::{SCAN_STRETCH, check_scan, check_workgroups, scan_workgroups};
use super::variant::{LinearVariant, Scan, Start};
use super::{Decay, Join, JoinInputs, JoinOutput, rules};
use crate::error::{Result, check_limit};
use crate::gpu::Gpu;
use crate::ops::call::{self, Dispatch, Need, Uniforms, Window};
use crate::ops::dense::tile::{DeviceClass, looped};
use crate::ops::host::{from_bytes, poisoned, submit_and_read, upload};
use crate::shader::{Pipeline, Variant};
use crate::tensor::{DType, Tensor};

/// A join on a device, ready to encode any number of times.
#[derive(Debug)]
pub struct JoinPlan {
    gpu: Gpu,
    join: Join,
    pipeline: Arc<Pipeline>,
    needs: Vec<Need>,
    uniforms: Uniforms,
}

/// The tensors of a join, all f32 and contiguous. Optional ones must be there exactly where the problem says so.
#[derive(Clone, Copy, Debug)]
pub struct JoinTensors<'a> {
    /// `[P, sequences, H]` states: what each segment leaves from zero; then what stands before each.
    pub states: Tensor<'a>,
    /// `[P, sequences, H]` or `[P, sequences, H, D]`.
    pub total_decay: Option<Tensor<'a>>,
    /// `[sequences, H]` states.
    pub initial_state: Option<Tensor<'a>>,
    /// `[sequences, H]` states, output.
    pub final_state: Option<Tensor<'a>>,
}

impl Join {
    /// Checks the problem and compiles or fetches its pipeline.
    ///
    /// # Errors
    /// [`crate::Error::Invalid`] names a field that is wrong, [`crate::Error::Limit`] a limit of the device,
    /// [`crate::Error::Unsupported`] more segments than a software GPU goes through.
    pub fn plan(&self, gpu: &Gpu) -> Result<JoinPlan> {
        rules::check_join(self)?;
        let needs = needs(self);
        let limits = gpu.limits();
        let alignment = u64::from(limits.min_storage_buffer_offset_alignment);
        // Shaders count elements in 32 bits.
        let most = limits.max_storage_buffer_binding_size.min(u32::MAX.into());
        for need in &needs {
            check_limit(
                format_args!("tensor `{}` of a join", need.name),
                need.bytes.saturating_add(alignment),
                "max_storage_buffer_binding_size",
                most,
            )?;
        }
        check_scan(self.head_state_len(), 1, gpu)?;
        let iterations = looped(self.segments.div_ceil(SCAN_STRETCH), 0);
        DeviceClass::of_gpu(gpu).check_loops("a join of so many segments", iterations.into())?;
        for workgroups in [self.heads, self.sequences] {
            check_workgroups("a join of so many heads or sequences", workgroups.into(), gpu)?;
        }
        Ok(JoinPlan {
            pipeline: gpu.pipeline(&Variant::Linear(LinearVariant::Scan(variant_of_join(self))))?,
            needs,
            join: self.clone(),
            gpu: gpu.clone(),
            uniforms: Uniforms::default(),
        })
    }

    /// Heads of all sequences.
    fn rows(&self) -> u64 {
        u64::from(self.sequences) * u64::from(self.heads)
    }
}

/// The scan that a join runs.
pub(crate) fn variant_of_join(join: &Join) -> Scan {
    Scan {
        head_dim: join.head_dim,
        value_dim: join.value_dim(),
        normalize: join.normalize,
        causal: true,
        vector: false,
        documents: false,
        decay: join.decay.of_segments(),
        start: if join.initial_state { Start::Read } else { Start::Zero },
        writes_state: join.final_state,
        sections: 1,
    }
}

fn needs(j: &Join) -> Vec<Need> {
    // Rules keep the products far below 2^64.
    let states = j.rows() * j.head_state_len() * 4;
    let segments = u64::from(j.segments);
    let sizes = [
        ("states", Some(states * segments)),
        (
            "total_decay",
            (j.decay != Decay::None).then(|| j.rows() * segments * j.decay.total_len(j.head_dim) * 4),
        ),
        ("initial_state", j.initial_state.then_some(states)),
        ("final_state", j.final_state.then_some(states)),
    ];
    let need = |(name, bytes): (&'static str, Option<u64>)| {
        Some(Need {
            name,
            bytes: bytes?,
            alignment: 4,
        })
    };
    sizes.into_iter().filter_map(need).collect()
}

impl JoinPlan {
    /// The join that was planned.
    pub fn join(&self) -> &Join {
        &self.join
    }

    /// Records the join into an encoder, as a compute pass of its own.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`] names a tensor that does not fit; [`crate::Error::Device`] if the device is lost or out of
    /// memory. Nothing is recorded then.
    pub fn encode(&self, encoder: &mut wgpu::CommandEncoder, tensors: &JoinTensors<'_>) -> Result<()> {
        self.check_tensors(tensors)?;
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
            label: Some("wgpu-attention join"),
            timestamp_writes: None,
        });
        self.record(&mut pass, tensors)
    }

    /// Records the join into a compute pass of the caller's, whose pipeline and bind group 0 it replaces.
    ///
    /// # Errors
    /// As [`JoinPlan::encode`].
    pub fn encode_in(&self, pass: &mut wgpu::ComputePass<'_>, tensors: &JoinTensors<'_>) -> Result<()> {
        self.check_tensors(tensors)?;
        self.record(pass, tensors)
    }

    fn record(&self, pass: &mut wgpu::ComputePass<'_>, tensors: &JoinTensors<'_>) -> Result<()> {
        call::record(&self.gpu, &self.uniforms, pass, &[self.dispatch(tensors)])
    }

    fn check_tensors(&self, t: &JoinTensors<'_>) -> Result<()> {
        let j = &self.join;
        call::check_presence("total_decay", t.total_decay.is_some(), j.decay != Decay::None)?;
        call::check_presence("initial_state", t.initial_state.is_some(), j.initial_state)?;
        call::check_presence("final_state", t.final_state.is_some(), j.final_state)?;
        let mut inputs = vec![];
        let mut outputs = vec![];
        for need in &self.needs {
            let (tensor, list) = match need.name {
                "states" => (Some(t.states), &mut outputs),
                "total_decay" => (t.total_decay, &mut inputs),
                "initial_state" => (t.initial_state, &mut inputs),
                _ => (t.final_state, &mut outputs),
            };
            let Some(tensor) = tensor else { continue };
            call::check_tensor(need, &tensor)?;
            list.push((need.name, tensor));
        }
        call::check_aliasing(&outputs, &inputs)
    }

    fn dispatch<'a>(&'a self, t: &JoinTensors<'a>) -> Dispatch<'a> {
        let j = &self.join;
        let len = j.head_state_len();
        let total = j.decay.total_len(j.head_dim);
        let heads = u64::from(j.heads);
        let mut bindings = Vec::with_capacity(4);
        let mut bind = |number: u32, tensor: Option<Tensor<'a>>, elements: u64| {
            let Some(tensor) = tensor else { return 0 };
            let window = Window::over(&self.gpu, tensor, (0, elements), 4);
            bindings.push((number, window));
            window.base
        };
        let segments = u64::from(j.segments);
        // The shader's `in` is what it scans, `start` and `out` the states at both ends.
        let params = Params {
            segments: j.segments,
            in_base: bind(10, Some(t.states), j.rows() * segments * len),
            in_sequence: (heads * len) as u32,
            in_head: len as u32,
            in_segment: (j.rows() * len) as u32,
            total_base: bind(9, t.total_decay, j.rows() * segments * total),
            total_sequence: (heads * total) as u32,
            total_head: total as u32,
            total_segment: (j.rows() * total) as u32,
            start_base: bind(5, t.initial_state, j.rows() * len),
            out_base: bind(6, t.final_state, j.rows() * len),
            out_sequence: (heads * len) as u32,
            out_head: len as u32,
            ..Params::default()
        };
        Dispatch {
            pipeline: &self.pipeline,
            params: bytemuck::bytes_of(&params).to_vec(),
            bindings,
            grid: [scan_workgroups(len, 1) as u32, j.heads, j.sequences],
        }
    }

    /// Uploads the inputs, runs, and brings the outputs back: the convenience for data that lives on the host.
    ///
    /// # Errors
    /// [`crate::Error::Data`] names an input that does not fit; [`crate::Error::Device`] if the device is lost.
    pub async fn run(&self, inputs: &JoinInputs<'_>) -> Result<JoinOutput<f32>> {
        inputs.check(&self.join)?;
        let gpu = &self.gpu;
        let floats = |name, values: &[f32]| upload(gpu, name, bytemuck::cast_slice(values));
        let states = floats("states", inputs.states)?;
        let total_decay = inputs.total_decay.map(|v| floats("total_decay", v)).transpose()?;
        let initial_state = inputs.initial_state.map(|v| floats("initial_state", v)).transpose()?;
        let bytes = self.join.rows() * self.join.head_state_len() * 4;
        let final_state = self
            .join
            .final_state
            .then(|| poisoned(gpu, "final_state", bytes))
            .transpose()?;
        let tensors = JoinTensors {
            states: (&states).into(),
            total_decay: total_decay.as_ref().map(Into::into),
            initial_state: initial_state.as_ref().map(Into::into),
            final_state: final_state.as_ref().map(Into::into),
        };
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        self.encode(&mut encoder, &tensors)?;
        let final_output = final_state.as_ref().map(|b| ("final_state", b));
        let outputs: Vec<_> = std::iter::once(("states", &states)).chain(final_output).collect();
        let contents = submit_and_read(gpu, encoder, &outputs).await?;
        Ok(JoinOutput {
            states: from_bytes(&contents[0], DType::F32),
            final_state: contents.get(1).map(|bytes| from_bytes(bytes, DType::F32)),
        })
    }

    /// [`JoinPlan::run`], blocking. Not for browsers, where nothing may block.
    ///
    /// # Errors
    /// As [`JoinPlan::run`].
    pub fn run_blocking(&self, inputs: &JoinInputs<'_>) -> Result<JoinOutput<f32>> {
        pollster::block_on(self.run(inputs))
    }
}
