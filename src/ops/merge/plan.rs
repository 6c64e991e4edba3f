//! From a merge to its recorded dispatch.

use std::sync::Arc;

use bytemuck::{Pod, Zeroable};

use super::Merge;
use super::variant::{MergeVariant, PART_BATCH, THREADS};
use crate::error::{Error, Result, check_limit};
use crate::gpu::Gpu;
use crate::ops::call::{self, Dispatch, Need, Uniforms, Window};
use crate::ops::dense::check::{MAX_DIM, MAX_POSITION, extent, overlaps};
use crate::ops::dense::tile::{DeviceClass, looped};
use crate::shader::{Pipeline, Variant};
use crate::tensor::Tensor;

/// Twin of `struct Params` in `shaders/merge/merge.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub(crate) struct Params {
    rows: u32,
    part_rows: u32,
    parts: u32,
    heads: u32,
    queries: u32,
    o_batch: u32,
    o_head: u32,
    o_seq: u32,
    o_base: u32,
    lse_base: u32,
    parts_o_base: u32,
    parts_lse_base: u32,
}

/// A merge on a device, without checks of the caller's tensors: what plans that split their keys use.
#[derive(Debug)]
pub(crate) struct Joiner {
    merge: Merge,
    pipeline: Arc<Pipeline>,
    grid: [u32; 3],
}

impl Joiner {
    pub fn new(gpu: &Gpu, merge: &Merge) -> Result<Self> {
        check(merge)?;
        let limits = gpu.limits();
        let parts_lse = u64::from(merge.parts).saturating_mul(rows(merge) * 4);
        let tensors = [
            ("parts_o", parts_o_bytes(merge)),
            ("parts_lse", if merge.additive { 0 } else { parts_lse }),
            ("o", o_bytes(merge)),
        ];
        for (name, bytes) in tensors {
            check_limit(
                format_args!("tensor `{name}` of a merge"),
                bytes.saturating_add(limits.min_storage_buffer_offset_alignment.into()),
                "max_storage_buffer_binding_size",
                limits.max_storage_buffer_binding_size,
            )?;
        }
        let iterations = u64::from(looped(merge.parts.div_ceil(PART_BATCH * lanes(merge)), 0));
        DeviceClass::of_gpu(gpu).check_loops("a merge of so many parts", iterations)?;
        let pipeline = gpu.pipeline(&variant(merge))?;
        let grid = grid(merge, limits.max_compute_workgroups_per_dimension)?;
        Ok(Joiner {
            merge: merge.clone(),
            pipeline,
            grid,
        })
    }

    /// Bytes of a workspace that holds the parts: parts_o, then parts_lse at an aligned place.
    pub fn parts_bytes(&self) -> u64 {
        lse_at(&self.merge) + lse_bytes(&self.merge)
    }

    /// The parts inside a workspace.
    pub fn parts_tensors<'a>(&self, buffer: &'a wgpu::Buffer) -> (Tensor<'a>, Option<Tensor<'a>>) {
        let lse = (!self.merge.additive).then(|| Tensor::at(buffer, lse_at(&self.merge)));
        (Tensor::at(buffer, 0), lse)
    }

    pub fn dispatch<'a>(
        &'a self,
        gpu: &Gpu,
        parts_o: Tensor<'a>,
        parts_lse: Option<Tensor<'a>>,
        o: Tensor<'a>,
        lse: Option<Tensor<'a>>,
    ) -> Dispatch<'a> {
        let m = &self.merge;
        let rows = rows(m);
        let strides = m.o_layout.strides(m.heads, m.queries, m.value_dim);
        let from = Window::over(gpu, parts_o, (0, parts_o_bytes(m) / m.dtype.size()), m.dtype.size());
        let size = output_dtype(m).size();
        let to = Window::over(gpu, o, (0, o_bytes(m) / size), size);
        let mut bindings = vec![(1, from), (4, to)];
        let mut params = Params {
            rows: rows as u32,
            part_rows: rows as u32,
            parts: m.parts,
            heads: m.heads,
            queries: m.queries,
            o_batch: strides.batch as u32,
            o_head: strides.head as u32,
            o_seq: strides.seq as u32,
            o_base: to.base,
            parts_o_base: from.base,
            ..Params::default()
        };
        if let Some(parts_lse) = parts_lse {
            let window = Window::over(gpu, parts_lse, (0, rows * u64::from(m.parts)), 4);
            params.parts_lse_base = window.base;
            bindings.push((2, window));
        }
        if let Some(lse) = lse {
            let window = Window::over(gpu, lse, (0, rows), 4);
            params.lse_base = window.base;
            bindings.push((5, window));
        }
        Dispatch {
            pipeline: &self.pipeline,
            params: bytemuck::bytes_of(&params).to_vec(),
            bindings,
            grid: self.grid,
        }
    }
}

/// A merge on a device, ready to encode any number of times.
#[derive(Debug)]
pub struct MergePlan {
    gpu: Gpu,
    joiner: Joiner,
    uniforms: Uniforms,
}

/// The tensors of a merge.
#[derive(Clone, Copy, Debug)]
pub struct MergeTensors<'a> {
    /// `[P, B, H, Nq, Dv]`, contiguous.
    pub parts_o: Tensor<'a>,
    /// `[P, B, H, Nq]`, f32, contiguous; none with `additive`.
    pub parts_lse: Option<Tensor<'a>>,
    /// Output.
    pub o: Tensor<'a>,
    /// Log-sum-exp output, f32, where the merge asks for it.
    pub lse: Option<Tensor<'a>>,
}

impl Merge {
    /// Checks the merge and compiles or fetches its pipeline.
    ///
    /// # Errors
    /// [`Error::Invalid`] names a field that is wrong, [`Error::Limit`] a limit of the device.
    pub fn plan(&self, gpu: &Gpu) -> Result<MergePlan> {
        Ok(MergePlan {
            joiner: Joiner::new(gpu, self)?,
            gpu: gpu.clone(),
            uniforms: Uniforms::default(),
        })
    }
}

impl MergePlan {
    /// Records the merge into an encoder, as a compute pass of its own.
    ///
    /// # Errors
    /// [`Error::Tensor`] names a tensor that does not fit; [`Error::Device`] if the device is lost or out of memory. Nothing is
    /// recorded then.
    pub fn encode(&self, encoder: &mut wgpu::CommandEncoder, tensors: &MergeTensors<'_>) -> Result<()> {
        self.check_tensors(tensors)?;
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
            label: Some("wgpu-attention merge"),
            timestamp_writes: None,
        });
        self.record(&mut pass, tensors)
    }

    /// Records the merge into a compute pass of the caller's, whose pipeline and bind group 0 it replaces.
    ///
    /// # Errors
    /// As [`MergePlan::encode`].
    pub fn encode_in(&self, pass: &mut wgpu::ComputePass<'_>, tensors: &MergeTensors<'_>) -> Result<()> {
        self.check_tensors(tensors)?;
        self.record(pass, tensors)
    }

    fn record(&self, pass: &mut wgpu::ComputePass<'_>, t: &MergeTensors<'_>) -> Result<()> {
        let dispatch = self.joiner.dispatch(&self.gpu, t.parts_o, t.parts_lse, t.o, t.lse);
        call::record(&self.gpu, &self.uniforms, pass, &[dispatch])
    }

    fn check_tensors(&self, t: &MergeTensors<'_>) -> Result<()> {
        let m = &self.joiner.merge;
        call::check_presence("parts_lse", t.parts_lse.is_some(), !m.additive)?;
        call::check_presence("lse", t.lse.is_some(), m.lse)?;
        let variant = variant_of(m);
        let element = |x4: bool, size: u64| if x4 { 4 * size } else { size };
        let need = |name, bytes, alignment| Need { name, bytes, alignment };
        let size = output_dtype(m).size();
        let parts_o = need(
            "parts_o",
            parts_o_bytes(m),
            element(variant.vector_inputs, m.dtype.size()),
        );
        call::check_tensor(&parts_o, &t.parts_o)?;
        call::check_tensor(&need("o", o_bytes(m), element(variant.vector_output, size)), &t.o)?;
        let mut inputs = vec![("parts_o", t.parts_o)];
        let mut outputs = vec![("o", t.o)];
        if let Some(lse) = t.parts_lse {
            call::check_tensor(&need("parts_lse", lse_bytes(m), 4), &lse)?;
            inputs.push(("parts_lse", lse));
        }
        if let Some(lse) = t.lse {
            call::check_tensor(&need("lse", rows(m) * 4, 4), &lse)?;
            outputs.push(("lse", lse));
        }
        call::check_aliasing(&outputs, &inputs)
    }
}

fn check(m: &Merge) -> Result<()> {
    let within = |field, value: u32, high: u32| {
        if (1..=high).contains(&value) {
            return Ok(());
        }
        Err(Error::Invalid {
            field,
            value: value.to_string(),
            allowed: format!("1 to {high}"),
        })
    };
    within("parts", m.parts, MAX_POSITION)?;
    within("batch", m.batch, MAX_POSITION)?;
    within("heads", m.heads, MAX_POSITION)?;
    within("queries", m.queries, MAX_POSITION)?;
    within("value_dim", m.value_dim, MAX_DIM)?;
    if m.additive && m.lse {
        return Err(Error::Invalid {
            field: "lse",
            value: "true".into(),
            allowed: "false where parts add, which have no log-sum-exp".into(),
        });
    }
    let s = m.o_layout.strides(m.heads, m.queries, m.value_dim);
    let sane = extent(s, m.batch, m.heads, m.queries, m.value_dim).is_some();
    if !sane || overlaps(s, m.batch, m.heads, m.queries, m.value_dim) {
        return Err(Error::Invalid {
            field: "o_layout",
            value: format!("{s:?}"),
            allowed: "strides that give every element of o a place of its own, with an index of at most 48 bits".into(),
        });
    }
    Ok(())
}

/// Its pipeline's.
pub(crate) fn variant(m: &Merge) -> Variant {
    Variant::Merge(variant_of(m))
}

fn variant_of(m: &Merge) -> MergeVariant {
    let s = m.o_layout.strides(m.heads, m.queries, m.value_dim);
    let x4 = m.value_dim.is_multiple_of(4) && !m.unaligned;
    MergeVariant {
        dim: m.value_dim,
        dtype: m.dtype,
        vector_inputs: x4,
        output_dtype: output_dtype(m),
        vector_output: x4 && s.in_fours(),
        additive: m.additive,
        lse: m.lse,
        lanes: lanes(m),
    }
}

fn output_dtype(m: &Merge) -> crate::tensor::DType {
    m.output_dtype.unwrap_or(m.dtype)
}

fn rows(m: &Merge) -> u64 {
    u64::from(m.batch) * u64::from(m.heads) * u64::from(m.queries)
}

fn parts_o_bytes(m: &Merge) -> u64 {
    // Far beyond any device where it saturates.
    (u64::from(m.parts) * u64::from(m.value_dim) * m.dtype.size()).saturating_mul(rows(m))
}

fn o_bytes(m: &Merge) -> u64 {
    let s = m.o_layout.strides(m.heads, m.queries, m.value_dim);
    let elements = extent(s, m.batch, m.heads, m.queries, m.value_dim).unwrap_or(u64::MAX >> 8);
    elements * output_dtype(m).size()
}

fn lse_bytes(m: &Merge) -> u64 {
    if m.additive {
        0
    } else {
        u64::from(m.parts) * rows(m) * 4
    }
}

/// parts_lse in a workspace begins at a multiple of the largest offset alignment there is.
fn lse_at(m: &Merge) -> u64 {
    parts_o_bytes(m).next_multiple_of(256)
}

/// Invocations that share the parts: more than one where their loads would wait for one another.
fn lanes(m: &Merge) -> u32 {
    if m.parts > 4 { 4 } else { 1 }
}

/// Workgroups of a merge, over both dimensions of its grid.
pub(crate) fn workgroups(m: &Merge) -> u64 {
    (rows(m) * u64::from(m.value_dim.div_ceil(4))).div_ceil(u64::from(THREADS / lanes(m)))
}

/// One invocation, or a few, for four elements, in two dimensions where one is too short.
fn grid(m: &Merge, most: u32) -> Result<[u32; 3]> {
    let workgroups = workgroups(m);
    let y = workgroups.div_ceil(most.into());
    check_limit(
        "a merge, in both dimensions of its grid,",
        y,
        "max_compute_workgroups_per_dimension",
        most,
    )?;
    Ok([workgroups.div_ceil(y) as u32, y as u32, 1])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shader::layout;

    #[test]
    fn fields_lie_where_the_shader_has_them() {
        let variant = Variant::Merge(variant_of(&Merge::default()));
        layout::assert_same(&Params::default(), &variant.wgsl());
    }
}
