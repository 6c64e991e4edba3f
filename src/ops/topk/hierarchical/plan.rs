//! From a search to its recorded dispatches.

use std::sync::Arc;

use bytemuck::{Pod, Zeroable};

use super::tile::{choose, loop_iterations};
use super::variant::{HierarchicalTile, HierarchicalVariant};
use super::{Hierarchical, HierarchicalInputs};
use crate::error::{Result, check_limit};
use crate::gpu::Gpu;
use crate::ops::call::{self, Dispatch, Need, Uniforms, Window};
use crate::ops::dense::Dense;
use crate::ops::dense::check::invalid;
use crate::ops::dense::tile::DeviceClass;
use crate::ops::host::{Shape, poisoned, submit_and_read, to_bytes, upload};
use crate::ops::parts::{self, Bounds, Geometry, Part};
use crate::ops::topk::rules;
use crate::ops::topk::variant::TopKVariant;
use crate::shader::{Pipeline, Spec, Variant};
use crate::tensor::{Layout, Strides, Tensor};

/// Twin of `struct Params` in `shaders/topk/hierarchical.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
struct Params {
    queries: u32,
    keys: u32,
    query_block: u32,
    first_tile: u32,
    window: u32,
    sink_blocks: u32,
    capacity: u32,
    q_offset: i32,
    first_head: u32,
    group: u32,
    causal: u32,
    scale: f32,
    q_base: u32,
    q_batch: u32,
    q_head: u32,
    q_seq: u32,
    k_base: u32,
    k_batch: u32,
    k_head: u32,
    k_seq: u32,
    lists_base: u32,
    lists_batch: u32,
    lists_head: u32,
    padding: u32,
}

/// A search on a device, ready to encode any number of times.
#[derive(Debug)]
pub struct HierarchicalPlan {
    gpu: Gpu,
    problem: Hierarchical,
    label: String,
    pipeline: Arc<Pipeline>,
    parts: Vec<Part>,
    geometry: [Geometry; 3],
    uniforms: Uniforms,
}

/// The tensors of a search.
#[derive(Clone, Copy, Debug)]
pub struct HierarchicalTensors<'a> {
    /// `[B, H, Nq, D]`
    pub q: Tensor<'a>,
    /// `[B, Hkv, Nk, D]`
    pub k: Tensor<'a>,
    /// Output, u32 of [`Hierarchical::selection`]'s shape, contiguous.
    pub selection: Tensor<'a>,
}

impl Hierarchical {
    /// Checks the problem, chooses the tile for the device, and compiles or fetches the pipeline.
    ///
    /// # Errors
    /// [`crate::Error::Invalid`] names a field that is wrong, [`crate::Error::Limit`] a limit of the device that even
    /// one head exceeds, [`crate::Error::Unsupported`] says where a software GPU cannot search so long.
    pub fn plan(&self, gpu: &Gpu) -> Result<HierarchicalPlan> {
        rules::check_hierarchical(self)?;
        let device = DeviceClass::of_gpu(gpu);
        self.plan_with(gpu, choose(self, &device)?)
    }

    /// As [`Hierarchical::plan`], with the tile given: for measurements and tests.
    ///
    /// # Errors
    /// As [`Hierarchical::plan`]; [`crate::Error::Limit`] if the tile does not fit the device.
    pub fn plan_with(&self, gpu: &Gpu, tile: HierarchicalTile) -> Result<HierarchicalPlan> {
        rules::check_hierarchical(self)?;
        check_tile(self, &tile)?;
        let limits = gpu.limits();
        let device = DeviceClass::of_gpu(gpu);
        check_limit(
            "the tile",
            tile.threads,
            "max_compute_invocations_per_workgroup",
            device.invocations,
        )?;
        device.check_loops("a search with so large tiles", loop_iterations(self, &tile))?;
        let variant = Variant::TopK(TopKVariant::Hierarchical(variant_of(self, tile)));
        let spec: &dyn Spec = variant.spec();
        let d = self.attention.head_dim;
        call::check_variant(spec, "this search", (d, d), gpu)?;
        let geometry = geometry(self);
        let parts = parts::split(whole(self), &geometry, &Bounds::of(limits, 1, 1, 1))?;
        Ok(HierarchicalPlan {
            label: spec.label(),
            pipeline: gpu.pipeline(&variant)?,
            parts,
            geometry,
            uniforms: Uniforms::default(),
            gpu: gpu.clone(),
            problem: self.clone(),
        })
    }
}

impl HierarchicalPlan {
    /// The search that was planned.
    pub fn problem(&self) -> &Hierarchical {
        &self.problem
    }

    /// Which kernel and tile it runs.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Records the search into an encoder, as a compute pass of its own.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`] names a tensor that does not fit; [`crate::Error::Device`] if the device is
    /// lost or out of memory. Nothing is recorded then.
    pub fn encode(&self, encoder: &mut wgpu::CommandEncoder, tensors: &HierarchicalTensors<'_>) -> Result<()> {
        self.check_tensors(tensors)?;
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
            label: Some(&self.label),
            timestamp_writes: None,
        });
        self.record(&mut pass, tensors)
    }

    /// Records the search into a compute pass of the caller's, whose pipeline and bind group 0 it replaces.
    ///
    /// # Errors
    /// As [`HierarchicalPlan::encode`].
    pub fn encode_in(&self, pass: &mut wgpu::ComputePass<'_>, tensors: &HierarchicalTensors<'_>) -> Result<()> {
        self.check_tensors(tensors)?;
        self.record(pass, tensors)
    }

    fn record(&self, pass: &mut wgpu::ComputePass<'_>, tensors: &HierarchicalTensors<'_>) -> Result<()> {
        let dispatches: Vec<_> = self.parts.iter().map(|part| self.dispatch(part, tensors)).collect();
        call::record(&self.gpu, &self.uniforms, pass, &dispatches)
    }

    fn dispatch<'a>(&'a self, part: &Part, t: &HierarchicalTensors<'a>) -> Dispatch<'a> {
        let mut params = params(&self.problem, part);
        let ends = ends(&self.geometry, &self.problem);
        let mut bindings = Vec::with_capacity(3);
        let mut bind = |number: u32, n: usize, tensor: Tensor<'a>| {
            let geometry = &self.geometry[n];
            // The last tile may be short.
            let (first, end) = geometry.range(part);
            let window = Window::over(&self.gpu, tensor, (first, end.min(ends[n])), geometry.size);
            bindings.push((number, window));
            let [batch, head, _] = geometry.strides_in(part);
            (window.base, batch, head)
        };
        (params.q_base, params.q_batch, params.q_head) = bind(1, 0, t.q);
        (params.k_base, params.k_batch, params.k_head) = bind(2, 1, t.k);
        (params.lists_base, params.lists_batch, params.lists_head) = bind(4, 2, t.selection);
        Dispatch {
            pipeline: &self.pipeline,
            params: bytemuck::bytes_of(&params).to_vec(),
            bindings,
            grid: [part.query, part.head, part.batch].map(|(first, end)| end - first),
        }
    }

    fn check_tensors(&self, t: &HierarchicalTensors<'_>) -> Result<()> {
        let ends = ends(&self.geometry, &self.problem);
        let vectors = if vector_access(&self.problem.attention) { 4 } else { 1 };
        let tensors = [t.q, t.k, t.selection];
        for ((g, end), tensor) in self.geometry.iter().zip(ends).zip(&tensors) {
            let need = Need {
                name: g.name,
                bytes: end * g.size,
                alignment: if g.name == "selection" { 4 } else { vectors * g.size },
            };
            call::check_tensor(&need, tensor)?;
        }
        call::check_aliasing(&[("selection", t.selection)], &[("q", t.q), ("k", t.k)])
    }

    /// Uploads the inputs, runs, and brings the lists back: the convenience for data that lives on the host.
    ///
    /// # Errors
    /// [`crate::Error::Data`] names an input that does not fit; [`crate::Error::Device`] if the device is lost.
    pub async fn run(&self, inputs: &HierarchicalInputs<'_>) -> Result<Vec<u32>> {
        inputs.check(&self.problem)?;
        let (gpu, a) = (&self.gpu, &self.problem.attention);
        let rows = |name, values, layout: Layout, heads, seq| {
            let shape = Shape {
                batch: a.batch,
                heads,
                seq,
                dim: a.head_dim,
                strides: layout.strides(heads, seq, a.head_dim),
            };
            upload(gpu, name, &to_bytes(&shape.scatter(values), a.dtype))
        };
        let q = rows("q", inputs.q, a.q_layout, a.heads, a.queries)?;
        let k = rows("k", inputs.k, a.k_layout, a.kv_heads(), a.keys)?;
        let selection = poisoned(gpu, "selection", self.problem.selection().words(a) * 4)?;
        let tensors = HierarchicalTensors {
            q: (&q).into(),
            k: (&k).into(),
            selection: (&selection).into(),
        };
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        self.encode(&mut encoder, &tensors)?;
        let contents = submit_and_read(gpu, encoder, &[("selection", &selection)]).await?;
        Ok(bytemuck::pod_collect_to_vec(&contents[0]))
    }

    /// [`HierarchicalPlan::run`], blocking. Not for browsers, where nothing may block.
    ///
    /// # Errors
    /// As [`HierarchicalPlan::run`].
    pub fn run_blocking(&self, inputs: &HierarchicalInputs<'_>) -> Result<Vec<u32>> {
        pollster::block_on(self.run(inputs))
    }
}

fn check_tile(p: &Hierarchical, tile: &HierarchicalTile) -> Result<()> {
    let fields = [tile.threads, tile.rows, tile.keys];
    if fields.iter().all(|n| (1..=256).contains(n)) && tile.keys <= p.block_size {
        return Ok(());
    }
    let allowed = "1 to 256 invocations, rows and keys, and no more keys than a block has";
    Err(invalid("tile", format!("{tile:?}"), allowed))
}

/// Whether q and k are read four elements at a time.
fn vector_access(a: &Dense) -> bool {
    let q = a.q_layout.strides(a.heads, a.queries, a.head_dim);
    let k = a.k_layout.strides(a.kv_heads(), a.keys, a.head_dim);
    a.head_dim.is_multiple_of(4) && q.in_fours() && k.in_fours() && !a.unaligned
}

/// The variant that serves a search with a given tile.
pub fn variant_of(p: &Hierarchical, tile: HierarchicalTile) -> HierarchicalVariant {
    HierarchicalVariant {
        head_dim: p.attention.head_dim,
        dtype: p.attention.dtype,
        vector: vector_access(&p.attention),
        block_size: p.block_size,
        top_k: p.top_k,
        tile,
    }
}

/// The problem as one part, whose rows are tiles.
fn whole(p: &Hierarchical) -> Part {
    Part {
        batch: (0, p.attention.batch),
        head: (0, p.attention.heads),
        query: (0, tiles(p)),
    }
}

fn tiles(p: &Hierarchical) -> u32 {
    p.attention.queries.div_ceil(p.query_block)
}

/// q, k and the lists, by tiles of rows.
fn geometry(p: &Hierarchical) -> [Geometry; 3] {
    let a = &p.attention;
    let dim = u64::from(a.head_dim);
    let q = a.q_layout.strides(a.heads, a.queries, a.head_dim);
    let k = a.k_layout.strides(a.kv_heads(), a.keys, a.head_dim);
    let [_, heads, lists, words] = p.selection().dims(a).map(u64::from);
    let block = u64::from(p.query_block.min(a.queries));
    [
        Geometry {
            name: "q",
            size: a.dtype.size(),
            strides: Strides {
                // Of one tile there is no next one, and the product may be anything.
                seq: q.seq.saturating_mul(p.query_block.into()),
                ..q
            },
            group: 1,
            block: 1,
            row: (block - 1) * q.seq + dim,
            most: u64::MAX,
        },
        // Every tile needs all the keys of its head.
        Geometry {
            name: "k",
            size: a.dtype.size(),
            strides: Strides { seq: 0, ..k },
            group: a.heads / a.kv_heads(),
            block: 1,
            row: u64::from(a.keys - 1) * k.seq + dim,
            most: u64::MAX,
        },
        Geometry {
            name: "selection",
            size: 4,
            strides: Strides {
                batch: heads * lists * words,
                head: lists * words,
                seq: words,
            },
            group: 1,
            block: 1,
            row: words,
            most: u64::MAX,
        },
    ]
}

/// One past the last element of each tensor.
fn ends(geometry: &[Geometry; 3], p: &Hierarchical) -> [u64; 3] {
    let missing = u64::from(tiles(p)) * u64::from(p.query_block) - u64::from(p.attention.queries);
    let [q, k, lists] = geometry.each_ref().map(|g| g.range(&whole(p)).1);
    let seq = p
        .attention
        .q_layout
        .strides(p.attention.heads, p.attention.queries, p.attention.head_dim)
        .seq;
    let missing = if tiles(p) == 1 { 0 } else { missing };
    [q - missing * seq, k, lists]
}

/// Everything but the bases and strides that depend on the call.
fn params(p: &Hierarchical, part: &Part) -> Params {
    let a = &p.attention;
    Params {
        queries: a.queries,
        keys: a.keys,
        query_block: p.query_block,
        first_tile: part.query.0,
        window: p.window,
        sink_blocks: p.sink_tokens.div_ceil(p.block_size),
        capacity: p.selection().capacity,
        // Lengths are at most 2^28.
        q_offset: a.q_offset.unwrap_or(a.keys as i32 - a.queries as i32),
        first_head: part.head.0,
        group: a.heads / a.kv_heads(),
        causal: a.causal.into(),
        scale: a.scale(),
        q_seq: a.q_layout.strides(a.heads, a.queries, a.head_dim).seq as u32,
        k_seq: a.k_layout.strides(a.kv_heads(), a.keys, a.head_dim).seq as u32,
        ..Params::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::dense::tile::DeviceClass;
    use crate::shader::layout;

    #[test]
    fn fields_lie_where_the_shader_has_them() {
        let p = Hierarchical::default();
        let device = DeviceClass::of(&wgpu::Limits::default(), wgpu::DeviceType::Cpu);
        let variant = variant_of(&p, choose(&p, &device).unwrap());
        layout::assert_same(
            &Params::default(),
            &Variant::TopK(TopKVariant::Hierarchical(variant)).wgsl(),
        );
    }

    #[test]
    fn a_short_last_tile_ends_with_its_rows() {
        for (queries, query_block) in [(1, 32), (31, 32), (32, 32), (33, 32), (100, 7)] {
            let attention = Dense {
                queries,
                heads: 3,
                q_layout: Layout::Bnhd,
                ..Dense::default()
            };
            let p = Hierarchical {
                attention,
                query_block,
                ..Hierarchical::default()
            };
            assert_eq!(ends(&geometry(&p), &p)[0], u64::from(queries) * 3 * 64);
        }
    }
}
