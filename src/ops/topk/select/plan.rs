//! From a selection to its recorded dispatches, and from host slices to host vectors.

use std::sync::Arc;

use bytemuck::{Pod, Zeroable};

use super::Select;
use super::tile::{self, SelectTuning};
use super::variant::{SelectTile, SelectVariant};
use crate::error::Result;
use crate::gpu::Gpu;
use crate::ops::call::{self, Dispatch, Need, Uniforms, Window};
use crate::ops::dense::inputs::check_len;
use crate::ops::dense::tile::DeviceClass;
use crate::ops::host::{poisoned, submit_and_read, upload};
use crate::ops::topk::rows::Cut;
use crate::ops::topk::rules;
use crate::ops::topk::variant::TopKVariant;
use crate::shader::{Pipeline, Variant};
use crate::tensor::Tensor;

/// Twin of `struct Params` in `shaders/topk/select.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub(crate) struct Params {
    rows: u32,
    columns: u32,
    top_k: u32,
    first: u32,
    last: u32,
    capacity: u32,
    scores_base: u32,
    lists_base: u32,
}

/// A selection on a device, without checks of the caller's tensors: what plans that score and select use.
#[derive(Debug)]
pub(crate) struct Selector {
    select: Select,
    pub tile: SelectTile,
    pipeline: Arc<Pipeline>,
    /// As the pipeline is labelled.
    pub label: String,
    cut: Cut,
}

impl Selector {
    pub fn new(gpu: &Gpu, select: &Select, tile: Option<SelectTile>) -> Result<Self> {
        rules::check_select(select)?;
        let device = DeviceClass::of_gpu(gpu);
        let tile = match tile {
            Some(tile) => tile,
            None => tile::choose(select.columns, select.rows, &device)?,
        };
        tile::check(&tile, &device)?;
        tile::check_loops(select, &tile, &device)?;
        let [scores, lists] = select.row_bytes();
        let cut = Cut::new(
            gpu.limits(),
            1,
            &[
                ("a row of tensor `scores`", scores),
                ("a list of tensor `lists`", lists),
            ],
        )?;
        let variant = Variant::TopK(TopKVariant::Select(SelectVariant {
            subgroups: tile::subgroups(select.columns, &device),
            ..variant_of(select, tile)
        }));
        Ok(Selector {
            pipeline: gpu.pipeline(&variant)?,
            label: variant.spec().label(),
            select: select.clone(),
            tile,
            cut,
        })
    }

    /// Bytes that the first score's place must be a multiple of.
    pub fn scores_alignment(&self) -> u64 {
        if vector(&self.select) { 16 } else { 4 }
    }

    /// The dispatches for the first `rows` rows of these tensors, at most as many as were planned.
    pub fn dispatch<'a>(&'a self, gpu: &Gpu, scores: Tensor<'a>, lists: Tensor<'a>, rows: u32) -> Vec<Dispatch<'a>> {
        let s = &self.select;
        let [columns, list] = s.row_bytes().map(|bytes| bytes / 4);
        let part = |(first, end): (u32, u32)| {
            let range = |row: u64| (u64::from(first) * row, u64::from(end) * row);
            let from = Window::over(gpu, scores, range(columns), 4);
            let to = Window::over(gpu, lists, range(list), 4);
            let params = Params {
                rows: end - first,
                columns: s.columns,
                top_k: s.top_k,
                first: s.first,
                last: s.last,
                capacity: s.capacity(),
                scores_base: from.base,
                lists_base: to.base,
            };
            Dispatch {
                pipeline: &self.pipeline,
                params: bytemuck::bytes_of(&params).to_vec(),
                bindings: vec![(1, from), (4, to)],
                grid: self.cut.grid(end - first),
            }
        };
        self.cut.parts(rows).map(part).collect()
    }
}

/// The kernel of a selection.
fn variant_of(s: &Select, tile: SelectTile) -> SelectVariant {
    SelectVariant {
        tile,
        vector: vector(s),
        forced: s.first + s.last > 0,
        subgroups: None,
    }
}

/// Whether every row starts at a multiple of four scores.
fn vector(s: &Select) -> bool {
    s.columns.is_multiple_of(4)
}

/// A selection on a device, ready to encode any number of times.
#[derive(Debug)]
pub struct SelectPlan {
    gpu: Gpu,
    selector: Selector,
    uniforms: Uniforms,
}

/// The tensors of a selection.
#[derive(Clone, Copy, Debug)]
pub struct SelectTensors<'a> {
    /// f32 `[rows, columns]`, contiguous; at a multiple of 16 bytes where `columns` is a multiple of 4.
    pub scores: Tensor<'a>,
    /// u32 `[rows, 1 + capacity]`, contiguous, output; every word of it is written.
    pub lists: Tensor<'a>,
}

impl Select {
    /// Checks the selection and compiles or fetches its pipeline.
    ///
    /// # Errors
    /// [`crate::Error::Invalid`] names a field that is wrong, [`crate::Error::Limit`] a limit of the device that even one
    /// row exceeds, [`crate::Error::Unsupported`] rows too long for a software GPU.
    pub fn plan(&self, gpu: &Gpu) -> Result<SelectPlan> {
        Ok(SelectPlan::of(gpu, Selector::new(gpu, self, None)?))
    }

    /// As [`Select::plan`], with the tile given: for measurements and tests.
    ///
    /// # Errors
    /// As [`Select::plan`]; [`crate::Error::Invalid`] if the kernel is not made for such a tile, [`crate::Error::Limit`]
    /// if it does not fit the device.
    pub fn plan_with(&self, gpu: &Gpu, tuning: &SelectTuning) -> Result<SelectPlan> {
        Ok(SelectPlan::of(gpu, Selector::new(gpu, self, tuning.tile)?))
    }
}

impl SelectPlan {
    fn of(gpu: &Gpu, selector: Selector) -> Self {
        SelectPlan {
            selector,
            gpu: gpu.clone(),
            uniforms: Uniforms::default(),
        }
    }

    /// The selection that was planned.
    pub fn problem(&self) -> &Select {
        &self.selector.select
    }

    /// How a workgroup takes a row.
    pub fn tile(&self) -> SelectTile {
        self.selector.tile
    }

    /// Dispatches of a call: more than one where a tensor is larger than a binding.
    pub fn parts(&self) -> usize {
        self.selector.cut.parts(self.problem().rows).count()
    }

    /// Records the selection into an encoder, as a compute pass of its own.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`] names a tensor that does not fit; [`crate::Error::Device`] if the device is
    /// lost or out of memory. Nothing is recorded then.
    pub fn encode(&self, encoder: &mut wgpu::CommandEncoder, tensors: &SelectTensors<'_>) -> Result<()> {
        self.check_tensors(tensors)?;
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
            label: Some("wgpu-attention select"),
            timestamp_writes: None,
        });
        self.record(&mut pass, tensors)
    }

    /// Records the selection into a compute pass of the caller's, whose pipeline and bind group 0 it replaces.
    ///
    /// # Errors
    /// As [`SelectPlan::encode`].
    pub fn encode_in(&self, pass: &mut wgpu::ComputePass<'_>, tensors: &SelectTensors<'_>) -> Result<()> {
        self.check_tensors(tensors)?;
        self.record(pass, tensors)
    }

    fn record(&self, pass: &mut wgpu::ComputePass<'_>, t: &SelectTensors<'_>) -> Result<()> {
        let dispatches = self
            .selector
            .dispatch(&self.gpu, t.scores, t.lists, self.problem().rows);
        call::record(&self.gpu, &self.uniforms, pass, &dispatches)
    }

    fn check_tensors(&self, t: &SelectTensors<'_>) -> Result<()> {
        let [scores, lists] = self
            .problem()
            .row_bytes()
            .map(|row| row * u64::from(self.problem().rows));
        let need = |name, bytes, alignment| Need { name, bytes, alignment };
        call::check_tensor(&need("scores", scores, self.selector.scores_alignment()), &t.scores)?;
        call::check_tensor(&need("lists", lists, 4), &t.lists)?;
        call::check_aliasing(&[("lists", t.lists)], &[("scores", t.scores)])
    }

    /// Uploads the scores, runs, and brings the lists back: the convenience for data that lives on the host.
    ///
    /// # Errors
    /// [`crate::Error::Data`] if there are not `rows · columns` scores; [`crate::Error::Device`] if the device is lost.
    pub async fn run(&self, scores: &[f32]) -> Result<Vec<u32>> {
        let (s, gpu) = (self.problem(), &self.gpu);
        check_len("scores", "[rows, columns]", &[s.rows, s.columns], scores.len())?;
        let scores = upload(gpu, "scores", bytemuck::cast_slice(scores))?;
        let lists = poisoned(gpu, "lists", s.row_bytes()[1] * u64::from(s.rows))?;
        let tensors = SelectTensors {
            scores: (&scores).into(),
            lists: (&lists).into(),
        };
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        self.encode(&mut encoder, &tensors)?;
        let contents = submit_and_read(gpu, encoder, &[("lists", &lists)]).await?;
        Ok(bytemuck::pod_collect_to_vec(&contents[0]))
    }

    /// [`SelectPlan::run`], blocking. Not for browsers, where nothing may block.
    ///
    /// # Errors
    /// As [`SelectPlan::run`].
    pub fn run_blocking(&self, scores: &[f32]) -> Result<Vec<u32>> {
        pollster::block_on(self.run(scores))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shader::layout;

    #[test]
    fn fields_lie_where_the_shader_has_them() {
        let tile = SelectTile {
            threads: 64,
            radix_bits: 8,
            replicas: 1,
            mask_quads: 1,
            unroll: 1,
        };
        let variant = TopKVariant::Select(variant_of(&Select::default(), tile));
        layout::assert_same(&Params::default(), &Variant::TopK(variant).wgsl());
    }
}
