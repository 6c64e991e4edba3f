//! The products and norms between attentions, which are not what the library is for: small plain WGSL kernels, so that
//! nothing leaves the device between two layers.

use bytemuck::{NoUninit, Pod, Zeroable};
use wgpu_attention::{Gpu, wgpu};

use super::Result;
use super::weights::{LinearWeights, NormWeights};

/// The compiled kernels.
#[derive(Debug)]
pub struct Kernels {
    embed: wgpu::ComputePipeline,
    linear: wgpu::ComputePipeline,
    layer_norm: wgpu::ComputePipeline,
    pool: wgpu::ComputePipeline,
}

/// One dispatch, with its buffers.
#[derive(Debug)]
pub struct Step {
    pipeline: wgpu::ComputePipeline,
    bindings: wgpu::BindGroup,
    grid: [u32; 2],
}

impl Step {
    /// Records it.
    pub fn encode_in(&self, pass: &mut wgpu::ComputePass<'_>) {
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.bindings, &[]);
        pass.dispatch_workgroups(self.grid[0], self.grid[1], 1);
    }
}

/// `Params` of linear.wgsl. The other kernels' are beginnings of [`RowParams`].
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct LinearParams {
    rows: u32,
    inputs: u32,
    outputs: u32,
    gelu: u32,
}

/// `Params` of layer_norm.wgsl, and as far as it goes of embed.wgsl and pool.wgsl.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct RowParams {
    columns: u32,
    epsilon: f32,
}

/// Rows, and outputs, of a workgroup of linear.wgsl.
const TILE: u32 = 64;

/// Vectors of four in a row that a workgroup of embed.wgsl takes.
const LANES: u32 = 64;

impl Kernels {
    /// Compiles them.
    pub fn new(gpu: &Gpu) -> Self {
        Kernels {
            embed: compile(gpu, "embed", include_str!("embed.wgsl")),
            linear: compile(gpu, "linear", include_str!("linear.wgsl")),
            layer_norm: compile(
                gpu,
                "layer norm",
                concat!(include_str!("reduce.wgsl"), include_str!("layer_norm.wgsl")),
            ),
            pool: compile(
                gpu,
                "pool",
                concat!(include_str!("reduce.wgsl"), include_str!("pool.wgsl")),
            ),
        }
    }

    /// Words and kinds into `hidden`, positions into `update`, both `[rows, columns]`.
    ///
    /// `read`: tokens `[rows, 2]`, then the embeddings of words, positions and kinds.
    pub fn embed(
        &self,
        gpu: &Gpu,
        [rows, columns]: [u32; 2],
        read: [&wgpu::Buffer; 4],
        hidden: &wgpu::Buffer,
        update: &wgpu::Buffer,
    ) -> Result<Step> {
        let params = RowParams {
            columns: columns / 4,
            epsilon: 0.0,
        };
        let [tokens, word, place, kind] = read;
        let buffers = [tokens, word, place, kind, hidden, update];
        step(
            gpu,
            &self.embed,
            &params,
            &buffers,
            [(columns / 4).div_ceil(LANES), rows],
        )
    }

    /// y = f(x · weight + bias), with `gelu` for f or nothing; x `[rows, inputs]`, y `[rows, outputs]`.
    pub fn linear(
        &self,
        gpu: &Gpu,
        rows: u32,
        weights: &LinearWeights,
        gelu: bool,
        x: &wgpu::Buffer,
        y: &wgpu::Buffer,
    ) -> Result<Step> {
        let params = LinearParams {
            rows,
            inputs: weights.inputs / 4,
            outputs: weights.outputs / 4,
            gelu: gelu.into(),
        };
        let grid = [weights.outputs.div_ceil(TILE), rows.div_ceil(TILE)];
        step(
            gpu,
            &self.linear,
            &params,
            &[x, &weights.weight, &weights.bias, y],
            grid,
        )
    }

    /// hidden = norm(hidden + update), both `[rows, columns]`.
    pub fn layer_norm(
        &self,
        gpu: &Gpu,
        [rows, columns]: [u32; 2],
        epsilon: f32,
        weights: &NormWeights,
        update: &wgpu::Buffer,
        hidden: &wgpu::Buffer,
    ) -> Result<Step> {
        let params = RowParams {
            columns: columns / 4,
            epsilon,
        };
        let buffers = [update, &weights.weight, &weights.bias, hidden];
        step(gpu, &self.layer_norm, &params, &buffers, [1, rows])
    }

    /// Means of the rows of each span, of length 1; spans `[texts, 2]`, hidden `[rows, columns]`, embeddings
    /// `[texts, columns]`.
    pub fn pool(
        &self,
        gpu: &Gpu,
        [texts, columns]: [u32; 2],
        spans: &wgpu::Buffer,
        hidden: &wgpu::Buffer,
        embeddings: &wgpu::Buffer,
    ) -> Result<Step> {
        let params = RowParams {
            columns: columns / 4,
            epsilon: 0.0,
        };
        step(gpu, &self.pool, &params, &[spans, hidden, embeddings], [1, texts])
    }
}

fn compile(gpu: &Gpu, label: &str, source: &str) -> wgpu::ComputePipeline {
    let module = gpu.device().create_shader_module(wgpu::ShaderModuleDescriptor {
        label: Some(label),
        source: wgpu::ShaderSource::Wgsl(source.into()),
    });
    gpu.device().create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some(label),
        layout: None,
        module: &module,
        entry_point: Some("main"),
        compilation_options: Default::default(),
        cache: None,
    })
}

/// A dispatch of `pipeline` with parameters at binding 0 and buffers from binding 1 on.
fn step(
    gpu: &Gpu,
    pipeline: &wgpu::ComputePipeline,
    params: &impl NoUninit,
    buffers: &[&wgpu::Buffer],
    grid: [u32; 2],
) -> Result<Step> {
    let most = gpu.limits().max_compute_workgroups_per_dimension;
    if let Some(n) = grid.iter().find(|n| **n > most) {
        return Err(format!(
            "a step needs {n} workgroups in a row, but this device's `max_compute_workgroups_per_dimension` is {most}: \
             give fewer texts at once"
        )
        .into());
    }
    let params = with_contents(gpu, "params", bytemuck::bytes_of(params), wgpu::BufferUsages::UNIFORM);
    let buffers = std::iter::once(&params).chain(buffers.iter().copied());
    let entries: Vec<_> = (0..)
        .zip(buffers)
        .map(|(binding, buffer)| wgpu::BindGroupEntry {
            binding,
            resource: buffer.as_entire_binding(),
        })
        .collect();
    Ok(Step {
        pipeline: pipeline.clone(),
        bindings: gpu.device().create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &pipeline.get_bind_group_layout(0),
            entries: &entries,
        }),
        grid,
    })
}

/// A tensor with these contents.
///
/// # Errors
/// If no binding of the device takes it.
pub fn upload(gpu: &Gpu, label: &str, bytes: &[u8]) -> Result<wgpu::Buffer> {
    check_size(gpu, label, bytes.len() as u64)?;
    Ok(with_contents(gpu, label, bytes, wgpu::BufferUsages::STORAGE))
}

/// A tensor of so many f32, to be written.
///
/// # Errors
/// As [`upload`].
pub fn tensor(gpu: &Gpu, label: &str, numbers: u64) -> Result<wgpu::Buffer> {
    check_size(gpu, label, numbers * 4)?;
    Ok(gpu.device().create_buffer(&wgpu::BufferDescriptor {
        label: Some(label),
        size: numbers * 4,
        usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC,
        mapped_at_creation: false,
    }))
}

fn check_size(gpu: &Gpu, label: &str, bytes: u64) -> Result<()> {
    let most = gpu.limits().max_storage_buffer_binding_size;
    if bytes <= most {
        return Ok(());
    }
    Err(format!(
        "`{label}` needs {bytes} bytes, but this device's `max_storage_buffer_binding_size` is {most}: give fewer texts \
         at once"
    )
    .into())
}

fn with_contents(gpu: &Gpu, label: &str, contents: &[u8], usage: wgpu::BufferUsages) -> wgpu::Buffer {
    use wgpu::util::DeviceExt;
    gpu.device().create_buffer_init(&wgpu::util::BufferInitDescriptor {
        label: Some(label),
        contents,
        usage,
    })
}
