//! From a pooling to its recorded dispatches.

use std::sync::Arc;

use bytemuck::{Pod, Zeroable};

use super::variant::PoolVariant;
use super::{Pool, PoolInputs, Pooling};
use crate::error::{Result, check_limit};
use crate::gpu::Gpu;
use crate::ops::call::{self, Dispatch, Need, Uniforms, Window};
use crate::ops::dense::tile::DeviceClass;
use crate::ops::host::{Shape, from_bytes, poisoned, submit_and_read, to_bytes, upload};
use crate::ops::parts::{self, Bounds, Geometry, Part};
use crate::ops::topk::rules;
use crate::ops::topk::variant::TopKVariant;
use crate::shader::{Pipeline, Variant};
use crate::tensor::{DType, Strides, Tensor};

/// Twin of `struct Params` in `shaders/topk/pool.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
struct Params {
    first_block: u32,
    block_count: u32,
    block_size: u32,
    keys: u32,
    k_base: u32,
    k_batch: u32,
    k_head: u32,
    k_seq: u32,
    pooled_base: u32,
    pooled_batch: u32,
    pooled_head: u32,
    kv_len_base: u32,
}

/// Invocations of a workgroup of the shader.
const THREADS: u64 = 64;

/// Keys of a sum of its own, and those added up at once, in the shader.
const RUN: u64 = 64;
const LANES: u64 = 4;

/// A pooling on a device, without checks of the caller's tensors: what plans that pool on their way use.
#[derive(Debug)]
pub(crate) struct Pooler {
    pool: Pool,
    pipeline: Arc<Pipeline>,
    parts: Vec<Part>,
    geometry: [Geometry; 2],
    workgroups: u32,
}

impl Pooler {
    pub fn new(gpu: &Gpu, pool: &Pool) -> Result<Self> {
        rules::check_pool(pool)?;
        let limits = gpu.limits();
        let geometry = [k_geometry(pool), pooled_geometry(pool)];
        let most = limits.max_compute_workgroups_per_dimension;
        let workgroups = workgroups(pool).min(most.into()) as u32;
        let device = DeviceClass::of_gpu(gpu);
        device.check_loops("pooling blocks of so many keys", loop_iterations(pool, workgroups))?;
        if pool.kv_len {
            check_limit(
                "tensor `kv_len`",
                u64::from(pool.batch) * 4 + u64::from(limits.min_storage_buffer_offset_alignment),
                "max_storage_buffer_binding_size",
                limits.max_storage_buffer_binding_size,
            )?;
        }
        // The blocks of a head are never cut: one long dimension, gone through in rounds where the grid is too short.
        let whole = Part {
            batch: (0, pool.batch),
            head: (0, pool.kv_heads),
            query: (0, 1),
        };
        let parts = parts::split(whole, &geometry, &Bounds::of(limits, 1, 1, 1))?;
        Ok(Pooler {
            pipeline: gpu.pipeline(&Variant::TopK(TopKVariant::Pool(variant_of(pool))))?,
            pool: pool.clone(),
            parts,
            geometry,
            workgroups,
        })
    }

    /// The dispatches that write `out`, which begins at a multiple of 16 bytes.
    pub fn dispatches<'a>(
        &'a self,
        gpu: &Gpu,
        k: Tensor<'a>,
        kv_len: Option<Tensor<'a>>,
        out: Tensor<'a>,
    ) -> Vec<Dispatch<'a>> {
        let parts = self.parts.iter();
        parts.map(|part| self.dispatch(gpu, part, k, kv_len, out)).collect()
    }

    fn dispatch<'a>(
        &'a self,
        gpu: &Gpu,
        part: &Part,
        k: Tensor<'a>,
        kv_len: Option<Tensor<'a>>,
        out: Tensor<'a>,
    ) -> Dispatch<'a> {
        let p = &self.pool;
        let [from, to] = &self.geometry;
        let (k, out) = (
            Window::over(gpu, k, from.range(part), from.size),
            Window::over(gpu, out, to.range(part), to.size),
        );
        let [k_batch, k_head, _] = from.strides_in(part);
        let [pooled_batch, pooled_head, _] = to.strides_in(part);
        let blocks = changed_blocks(p);
        let mut params = Params {
            first_block: blocks.0,
            block_count: blocks.1 - blocks.0,
            block_size: p.block_size,
            keys: p.keys,
            k_base: k.base,
            k_batch,
            k_head,
            k_seq: p.k_layout.strides(p.kv_heads, p.keys, p.head_dim).seq as u32,
            pooled_base: out.base,
            pooled_batch,
            pooled_head,
            kv_len_base: 0,
        };
        let mut bindings = vec![(2, k), (4, out)];
        if let Some(kv_len) = kv_len {
            let window = Window::over(gpu, kv_len, (part.batch.0.into(), part.batch.1.into()), 4);
            params.kv_len_base = window.base;
            bindings.push((3, window));
        }
        Dispatch {
            pipeline: &self.pipeline,
            params: bytemuck::bytes_of(&params).to_vec(),
            bindings,
            grid: [self.workgroups, part.head.1 - part.head.0, part.batch.1 - part.batch.0],
        }
    }
}

/// A pooling on a device, ready to encode any number of times.
#[derive(Debug)]
pub struct PoolPlan {
    gpu: Gpu,
    pooler: Pooler,
    uniforms: Uniforms,
}

/// The tensors of a pooling.
#[derive(Clone, Copy, Debug)]
pub struct PoolTensors<'a> {
    /// `[B, Hkv, Nk, D]`
    pub k: Tensor<'a>,
    /// i32 `[B]`, where the problem asks for it. Values outside 0..=Nk read as the nearest of the two.
    pub kv_len: Option<Tensor<'a>>,
    /// Output, f32 `[B, Hkv, room, P]`, contiguous, from a multiple of 16 bytes on.
    pub pooled: Tensor<'a>,
}

impl Pool {
    /// Checks the problem and compiles or fetches its pipeline.
    ///
    /// # Errors
    /// [`crate::Error::Invalid`] names a field that is wrong, [`crate::Error::Limit`] a limit of the device that even
    /// one head exceeds, [`crate::Error::Unsupported`] says where a software GPU cannot go through a block.
    pub fn plan(&self, gpu: &Gpu) -> Result<PoolPlan> {
        Ok(PoolPlan {
            pooler: Pooler::new(gpu, self)?,
            gpu: gpu.clone(),
            uniforms: Uniforms::default(),
        })
    }
}

impl PoolPlan {
    /// The pooling that was planned.
    pub fn problem(&self) -> &Pool {
        &self.pooler.pool
    }

    /// Records the pooling into an encoder, as a compute pass of its own.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`] names a tensor that does not fit; [`crate::Error::Device`] if the device is
    /// lost or out of memory. Nothing is recorded then.
    pub fn encode(&self, encoder: &mut wgpu::CommandEncoder, tensors: &PoolTensors<'_>) -> Result<()> {
        self.check_tensors(tensors)?;
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
            label: Some("wgpu-attention pool"),
            timestamp_writes: None,
        });
        self.record(&mut pass, tensors)
    }

    /// Records the pooling into a compute pass of the caller's, whose pipeline and bind group 0 it replaces.
    ///
    /// # Errors
    /// As [`PoolPlan::encode`].
    pub fn encode_in(&self, pass: &mut wgpu::ComputePass<'_>, tensors: &PoolTensors<'_>) -> Result<()> {
        self.check_tensors(tensors)?;
        self.record(pass, tensors)
    }

    fn record(&self, pass: &mut wgpu::ComputePass<'_>, t: &PoolTensors<'_>) -> Result<()> {
        let dispatches = self.pooler.dispatches(&self.gpu, t.k, t.kv_len, t.pooled);
        call::record(&self.gpu, &self.uniforms, pass, &dispatches)
    }

    fn check_tensors(&self, t: &PoolTensors<'_>) -> Result<()> {
        let p = self.problem();
        call::check_presence("kv_len", t.kv_len.is_some(), p.kv_len)?;
        let need = |name, elements: u64, size: u64, alignment| Need {
            name,
            bytes: elements * size,
            alignment,
        };
        let element = p.dtype.size();
        let alignment = if variant_of(p).vector { 4 * element } else { element };
        call::check_tensor(&need("k", k_elements(p), element, alignment), &t.k)?;
        call::check_tensor(&need("pooled", p.words(), 4, 16), &t.pooled)?;
        let mut inputs = vec![("k", t.k)];
        if let Some(kv_len) = t.kv_len {
            call::check_tensor(&need("kv_len", p.batch.into(), 4, 4), &kv_len)?;
            inputs.push(("kv_len", kv_len));
        }
        call::check_aliasing(&[("pooled", t.pooled)], &inputs)
    }

    /// Uploads the inputs, runs, and brings the result back: the convenience for data that lives on the host. Blocks
    /// that the call leaves as they are, before `from_key` and behind the last key, come back as NaN.
    ///
    /// # Errors
    /// [`crate::Error::Data`] names an input that does not fit; [`crate::Error::Device`] if the device is lost.
    pub async fn run(&self, inputs: &PoolInputs<'_>) -> Result<Vec<f32>> {
        let p = self.problem();
        inputs.check(p)?;
        let gpu = &self.gpu;
        let shape = Shape {
            batch: p.batch,
            heads: p.kv_heads,
            seq: p.keys,
            dim: p.head_dim,
            strides: p.k_layout.strides(p.kv_heads, p.keys, p.head_dim),
        };
        let k = upload(gpu, "k", &to_bytes(&shape.scatter(inputs.k), p.dtype))?;
        let words = |values: &[i32]| upload(gpu, "kv_len", bytemuck::cast_slice(values));
        let kv_len = inputs.kv_len.map(words).transpose()?;
        let pooled = poisoned(gpu, "pooled", p.words() * 4)?;
        let tensors = PoolTensors {
            k: (&k).into(),
            kv_len: kv_len.as_ref().map(Into::into),
            pooled: (&pooled).into(),
        };
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        self.encode(&mut encoder, &tensors)?;
        let contents = submit_and_read(gpu, encoder, &[("pooled", &pooled)]).await?;
        Ok(from_bytes(&contents[0], DType::F32))
    }

    /// [`PoolPlan::run`], blocking. Not for browsers, where nothing may block.
    ///
    /// # Errors
    /// As [`PoolPlan::run`].
    pub fn run_blocking(&self, inputs: &PoolInputs<'_>) -> Result<Vec<f32>> {
        pollster::block_on(self.run(inputs))
    }
}

/// The variant that serves a pooling.
pub(crate) fn variant_of(p: &Pool) -> PoolVariant {
    let strides = p.k_layout.strides(p.kv_heads, p.keys, p.head_dim);
    PoolVariant {
        head_dim: p.head_dim,
        dtype: p.dtype,
        vector: p.head_dim.is_multiple_of(4) && strides.in_fours() && !p.unaligned,
        bounds: p.pooling == Pooling::Bounds,
        kv_len: p.kv_len,
    }
}

/// Blocks that are written: from that of `from_key` to the last one with a key.
fn changed_blocks(p: &Pool) -> (u32, u32) {
    (p.from_key / p.block_size, p.keys.div_ceil(p.block_size))
}

/// Workgroups that take one vector of one block in each invocation.
fn workgroups(p: &Pool) -> u64 {
    let (first, end) = changed_blocks(p);
    (u64::from(end - first) * u64::from(p.head_dim.div_ceil(4))).div_ceil(THREADS)
}

/// Iterations of all loops of an invocation, at most.
fn loop_iterations(p: &Pool, workgroup_count: u32) -> u64 {
    let keys = u64::from(p.block_size.min(p.keys));
    let runs = keys.div_ceil(RUN);
    // Finding a loop's end counts as an iteration.
    let block = runs * (RUN.min(keys).div_ceil(LANES) + 2) + 1;
    workgroups(p).div_ceil(workgroup_count.into()) * (block + 1) + 1
}

fn k_geometry(p: &Pool) -> Geometry {
    let s = p.k_layout.strides(p.kv_heads, p.keys, p.head_dim);
    Geometry {
        name: "k",
        size: p.dtype.size(),
        strides: Strides { seq: 0, ..s },
        group: 1,
        block: 1,
        row: u64::from(p.keys - 1) * s.seq + u64::from(p.head_dim),
        most: u64::MAX,
    }
}

fn pooled_geometry(p: &Pool) -> Geometry {
    let [_, heads, room, width] = p.dims().map(u64::from);
    Geometry {
        name: "pooled",
        size: 4,
        strides: Strides {
            batch: heads * room * width,
            head: room * width,
            seq: 0,
        },
        group: 1,
        block: 1,
        row: room * width,
        most: u64::MAX,
    }
}

/// Elements from the first of k to the end of its last row.
fn k_elements(p: &Pool) -> u64 {
    let whole = Part {
        batch: (0, p.batch),
        head: (0, p.kv_heads),
        query: (0, 1),
    };
    k_geometry(p).range(&whole).1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shader::layout;

    #[test]
    fn fields_lie_where_the_shader_has_them() {
        let variant = Variant::TopK(TopKVariant::Pool(variant_of(&Pool::default())));
        layout::assert_same(&Params::default(), &variant.wgsl());
    }

    #[test]
    fn a_short_grid_and_long_blocks_count_as_loops() {
        let p = Pool {
            keys: 1 << 20,
            block_size: 2,
            ..Pool::default()
        };
        // 2^19 blocks of 16 vectors, 64 to a workgroup.
        assert_eq!(workgroups(&p), 1 << 17);
        let one = loop_iterations(&p, 1 << 17);
        assert!(loop_iterations(&p, 1 << 16) >= 2 * (one - 1));
        let long = Pool {
            block_size: 1 << 20,
            ..p
        };
        assert!(loop_iterations(&long, 1) >= (1 << 20) / LANES);
    }
}
