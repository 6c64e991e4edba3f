//! Attention as people write it first: three dispatches in f32 with the scores in memory between them. Plain wgpu with
//! its defaults; what the tiled kernel is compared with.
#![allow(dead_code)]

use bytemuck::{Pod, Zeroable};
use wgpu::util::DeviceExt;
use wgpu_attention::dense::reference::{Hooks, dense};
use wgpu_attention::{Dense, DenseOutput, Gpu, Weighting, compare};

use crate::common::{Inputs, problems, random};

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    n: u32,
    d: u32,
    causal: u32,
    scale: f32,
}

/// The three dispatches of one problem with their buffers.
pub struct Baseline {
    steps: [Step; 3],
    output: wgpu::Buffer,
}

struct Step {
    pipeline: wgpu::ComputePipeline,
    group: wgpu::BindGroup,
    grid: [u32; 3],
}

impl Baseline {
    /// The dispatches for a problem, if they give the right answer on a small one.
    pub fn checked(gpu: &Gpu, problem: &Dense) -> Result<Self, String> {
        let small = Dense {
            keys: 150,
            ..problems::small(problem)
        };
        let inputs = Inputs::random(&small);
        let host = inputs.host();
        let o = Baseline::new(gpu, &small, [host.q, host.k, host.v])?.output(gpu)?;
        let expected = dense(&small, &host, &Hooks::default()).map_err(|e| e.to_string())?;
        let tolerance = compare::Tolerance::for_dtype(small.dtype);
        let result = compare::dense(&DenseOutput { o, lse: None }, &expected, &tolerance);
        if !result.passed() {
            return Err(format!("WRONG baseline: {result}"));
        }
        let count = (problem.heads * problem.queries * problem.head_dim) as usize;
        let [q, k, v] = [1, 2, 3].map(|seed| random(seed, count));
        Baseline::new(gpu, problem, [&q, &k, &v])
    }

    fn new(gpu: &Gpu, p: &Dense, inputs: [&[f32]; 3]) -> Result<Self, String> {
        let plain = Dense {
            batch: 1,
            heads: p.heads,
            queries: p.queries,
            keys: p.queries,
            head_dim: p.head_dim,
            causal: p.causal,
            kv_heads: p.kv_heads,
            ..Default::default()
        };
        if *p != plain || p.weighting != Weighting::Softmax || p.kv_heads() != p.heads {
            return Err("the baseline knows plain softmax attention only".into());
        }
        let score_bytes = u64::from(p.heads) * u64::from(p.queries) * u64::from(p.queries) * 4;
        if score_bytes > gpu.limits().max_storage_buffer_binding_size {
            return Err(format!("the baseline's scores, {score_bytes} bytes, exceed a binding"));
        }
        let device = gpu.device();
        let upload = |bytes: &[u8], usage| {
            device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
                label: Some("baseline"),
                contents: bytes,
                usage,
            })
        };
        let storage = |size| {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("baseline"),
                size,
                usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC,
                mapped_at_creation: false,
            })
        };
        let params = Params {
            n: p.queries,
            d: p.head_dim,
            causal: p.causal.into(),
            scale: p.scale(),
        };
        let params = upload(bytemuck::bytes_of(&params), wgpu::BufferUsages::UNIFORM);
        let [q, k, v] = inputs.map(|x| upload(bytemuck::cast_slice(x), wgpu::BufferUsages::STORAGE));
        let scores = storage(score_bytes);
        let output = storage(v.size());
        let (rows, columns) = (p.queries.div_ceil(16), p.head_dim.div_ceil(16));
        let steps = [
            Step::new(
                device,
                include_str!("scores.wgsl"),
                &[&params, &q, &k, &scores],
                [rows, rows, p.heads],
            ),
            Step::new(
                device,
                include_str!("softmax.wgsl"),
                &[&params, &scores],
                [p.queries.div_ceil(64), p.heads, 1],
            ),
            Step::new(
                device,
                include_str!("weighted_sum.wgsl"),
                &[&params, &scores, &v, &output],
                [columns, rows, p.heads],
            ),
        ];
        Ok(Baseline { steps, output })
    }

    /// Records the three dispatches.
    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>) {
        for step in &self.steps {
            pass.set_pipeline(&step.pipeline);
            pass.set_bind_group(0, &step.group, &[]);
            let [x, y, z] = step.grid;
            pass.dispatch_workgroups(x, y, z);
        }
    }

    fn output(&self, gpu: &Gpu) -> Result<Vec<f32>, String> {
        let device = gpu.device();
        let staging = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("baseline"),
            size: self.output.size(),
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let mut encoder = device.create_command_encoder(&Default::default());
        self.record(&mut encoder.begin_compute_pass(&Default::default()));
        encoder.copy_buffer_to_buffer(&self.output, 0, &staging, 0, staging.size());
        gpu.queue().submit([encoder.finish()]);
        staging.map_async(wgpu::MapMode::Read, .., |_| ());
        device
            .poll(wgpu::PollType::wait_indefinitely())
            .map_err(|e| e.to_string())?;
        let bytes = staging.get_mapped_range(..).map_err(|e| e.to_string())?;
        Ok(bytemuck::pod_collect_to_vec(&bytes))
    }
}

impl Step {
    fn new(device: &wgpu::Device, source: &str, buffers: &[&wgpu::Buffer], grid: [u32; 3]) -> Self {
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some("baseline"),
            source: wgpu::ShaderSource::Wgsl(source.into()),
        });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some("baseline"),
            layout: None,
            module: &module,
            entry_point: Some("main"),
            compilation_options: Default::default(),
            cache: None,
        });
        let entries: Vec<_> = (0..)
            .zip(buffers)
            .map(|(binding, buffer)| wgpu::BindGroupEntry {
                binding,
                resource: buffer.as_entire_binding(),
            })
            .collect();
        let group = device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some("baseline"),
            layout: &pipeline.get_bind_group_layout(0),
            entries: &entries,
        });
        Step { pipeline, group, grid }
    }
}
