//! What every op does when it encodes: check the caller's tensors, bind windows of them, write parameters, dispatch.

use std::sync::{Mutex, PoisonError};

use crate::error::{Error, Result, check_limit};
use crate::gpu::{Gpu, lost};
use crate::shader::{Pipeline, Spec};
use crate::tensor::Tensor;
use crate::tier::Tier;

/// Bytes between the parameter blocks of successive dispatches: the largest alignment a device may ask for.
const PARAMS_STRIDE: usize = 256;

/// Parameter buffers of a plan. Their contents never change once written, so any number of encoders may refer to
/// them; a call with the same offsets as one before finds its buffer here.
#[derive(Debug, Default)]
pub(crate) struct Uniforms {
    kept: Mutex<Vec<(Vec<u8>, wgpu::Buffer)>>,
}

/// Buffers kept. A plan sees few distinct sets of offsets; one that sees more makes new buffers.
const UNIFORMS_KEPT: usize = 16;

impl Uniforms {
    fn get(&self, gpu: &Gpu, bytes: &[u8]) -> Result<wgpu::Buffer> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, buffer)) = kept.iter().find(|(b, _)| b == bytes) {
            return Ok(buffer.clone());
        }
        let buffer = gpu.guarded(|device| {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("wgpu-attention parameters"),
                size: bytes.len() as u64,
                usage: wgpu::BufferUsages::UNIFORM,
                mapped_at_creation: true,
            })
        })?;
        match buffer.get_mapped_range_mut(..) {
            Ok(mut range) => range.copy_from_slice(bytes),
            Err(e) => return Err(lost("writing parameters", e)),
        }
        buffer.unmap();
        if kept.len() == UNIFORMS_KEPT {
            kept.remove(0);
        }
        kept.push((bytes.to_vec(), buffer.clone()));
        Ok(buffer)
    }
}

/// A range of a buffer to bind, and how far into it the tensor's first element lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window<'a> {
    pub buffer: &'a wgpu::Buffer,
    pub offset: u64,
    pub size: u64,
    /// Elements from `offset` to the first element.
    pub base: u32,
}

impl<'a> Window<'a> {
    /// The window over elements `first..end` of a tensor.
    pub fn over(gpu: &Gpu, tensor: Tensor<'a>, (first, end): (u64, u64), element: u64) -> Self {
        let alignment = u64::from(gpu.limits().min_storage_buffer_offset_alignment);
        let start = tensor.offset + first * element;
        let offset = start / alignment * alignment;
        Window {
            buffer: tensor.buffer,
            offset,
            size: (tensor.offset + end * element - offset).next_multiple_of(4),
            base: ((start - offset) / element) as u32,
        }
    }
}

/// One dispatch, ready to record.
pub(crate) struct Dispatch<'a> {
    pub pipeline: &'a Pipeline,
    pub params: Vec<u8>,
    pub bindings: Vec<(u32, Window<'a>)>,
    pub grid: [u32; 3],
}

/// Records dispatches, in order, into a pass.
pub(crate) fn record(
    gpu: &Gpu,
    uniforms: &Uniforms,
    pass: &mut wgpu::ComputePass<'_>,
    dispatches: &[Dispatch<'_>],
) -> Result<()> {
    let mut bytes = vec![0; dispatches.len() * PARAMS_STRIDE];
    for (slot, dispatch) in bytes.chunks_exact_mut(PARAMS_STRIDE).zip(dispatches) {
        slot[..dispatch.params.len()].copy_from_slice(&dispatch.params);
    }
    let params = uniforms.get(gpu, &bytes)?;
    let groups = gpu.guarded(|device| bind_groups(device, &params, dispatches))?;
    for (group, dispatch) in groups.iter().zip(dispatches) {
        pass.set_pipeline(&dispatch.pipeline.pipeline);
        pass.set_bind_group(0, group, &[]);
        let [x, y, z] = dispatch.grid;
        pass.dispatch_workgroups(x, y, z);
    }
    Ok(())
}

/// All of a call's bind groups, before anything is recorded: a buffer that the caller destroyed shows here.
fn bind_groups(device: &wgpu::Device, params: &wgpu::Buffer, dispatches: &[Dispatch<'_>]) -> Vec<wgpu::BindGroup> {
    let group = |(n, dispatch): (usize, &Dispatch<'_>)| {
        let mut entries = Vec::with_capacity(dispatch.bindings.len() + 1);
        entries.push(entry(
            0,
            params,
            (n * PARAMS_STRIDE) as u64,
            dispatch.params.len() as u64,
        ));
        for (number, w) in &dispatch.bindings {
            entries.push(entry(*number, w.buffer, w.offset, w.size));
        }
        device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &dispatch.pipeline.layout,
            entries: &entries,
        })
    };
    dispatches.iter().enumerate().map(group).collect()
}

fn entry(binding: u32, buffer: &wgpu::Buffer, offset: u64, size: u64) -> wgpu::BindGroupEntry<'_> {
    wgpu::BindGroupEntry {
        binding,
        resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
            buffer,
            offset,
            size: wgpu::BufferSize::new(size),
        }),
    }
}

/// What a plan needs of one tensor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Need {
    pub name: &'static str,
    /// Bytes from the tensor's first element to the end of its last.
    pub bytes: u64,
    /// Bytes the offset must be a multiple of.
    pub alignment: u64,
}

/// Checks a tensor against what the plan needs of it.
pub(crate) fn check_tensor(need: &Need, tensor: &Tensor<'_>) -> Result<()> {
    let error = |found: String, needed: String| {
        Err(Error::Tensor {
            tensor: need.name,
            found,
            needed,
        })
    };
    if !tensor.buffer.usage().contains(wgpu::BufferUsages::STORAGE) {
        return error(
            format!("its buffer has usage {:?}", tensor.buffer.usage()),
            "usage STORAGE".into(),
        );
    }
    if !tensor.offset.is_multiple_of(need.alignment) {
        return error(
            format!("it starts at byte {}", tensor.offset),
            match need.name {
                "q" | "k" | "v" | "o" | "parts_o" => format!(
                    "a multiple of {} bytes (of one element with `unaligned: true` in the problem)",
                    need.alignment
                ),
                _ => format!("a multiple of {} bytes", need.alignment),
            },
        );
    }
    let size = tensor.buffer.size();
    // Bindings come in whole words, so the word that holds the last element must be there.
    let end = tensor.offset.checked_add(need.bytes).map(|e| e.next_multiple_of(4));
    if end.is_none_or(|end| end > size) {
        return error(
            format!("its buffer holds {size} bytes"),
            format!(
                "{} bytes from offset {}, rounded up to whole 32-bit words",
                need.bytes, tensor.offset
            ),
        );
    }
    Ok(())
}

/// Checks what a variant needs against the device: bindings, of `what`, and workgroup memory for D and Dv.
pub(crate) fn check_variant(spec: &dyn Spec, what: &str, (d, dv): (u32, u32), gpu: &Gpu) -> Result<()> {
    let limits = gpu.limits();
    check_limit(
        what,
        spec.bindings().len() as u32 - 1,
        "max_storage_buffers_per_shader_stage",
        limits.max_storage_buffers_per_shader_stage,
    )?;
    check_limit(
        format_args!("the tile for D = {d}, Dv = {dv}"),
        spec.workgroup_bytes(),
        "max_compute_workgroup_storage_size",
        limits.max_compute_workgroup_storage_size,
    )
}

/// Checks that a problem got the tier that the device's owner forces.
pub(crate) fn check_tier(gpu: &Gpu, what: &str, tier: Tier) -> Result<()> {
    match gpu.forced_tier() {
        Some(forced) if forced != tier => Err(Error::Unsupported {
            what: format!("the {forced} tier"),
            why: format!("it has no kernel for {what}; the best up to it is of the {tier} tier"),
        }),
        _ => Ok(()),
    }
}

/// Checks that an optional tensor is there exactly if the problem says so.
pub(crate) fn check_presence(name: &'static str, given: bool, wanted: bool) -> Result<()> {
    match (given, wanted) {
        (true, false) => Err(Error::Tensor {
            tensor: name,
            found: "it is given".into(),
            needed: "none, since the problem was planned without it".into(),
        }),
        (false, true) => Err(Error::Tensor {
            tensor: name,
            found: "it is missing".into(),
            needed: "a tensor, since the problem was planned with it".into(),
        }),
        _ => Ok(()),
    }
}

/// Checks that no output shares its buffer with another tensor: wgpu tracks buffers whole, and refuses one that a
/// dispatch both reads and writes.
pub(crate) fn check_aliasing(
    outputs: &[(&'static str, Tensor<'_>)],
    inputs: &[(&'static str, Tensor<'_>)],
) -> Result<()> {
    for (n, (name, output)) in outputs.iter().enumerate() {
        let others = inputs.iter().chain(&outputs[..n]);
        for (other, tensor) in others {
            if output.buffer == tensor.buffer {
                return Err(Error::Tensor {
                    tensor: name,
                    found: format!("it is in the same buffer as `{other}`"),
                    needed: "a buffer of its own: wgpu tracks whole buffers and refuses one that a dispatch reads and \
                             writes, even in different places"
                        .into(),
                });
            }
        }
    }
    Ok(())
}
