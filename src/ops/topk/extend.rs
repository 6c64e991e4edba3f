//! Lists that grow with the text: new tokens are added to a selection made earlier.
//!
//! ```no_run
//! use wgpu_attention::{Extend, Tensor};
//! # use wgpu_attention::{Gpu, Result, wgpu};
//! # fn f(gpu: &Gpu, encoder: &mut wgpu::CommandEncoder, lists: &wgpu::Buffer) -> Result<()> {
//! // Lists of 32 heads hold 256 tokens and have room for 64 more: token 1000 is added to each.
//! let extend = Extend { lists: 32, capacity: 320, held: 256, from: 1000, to: 1001 };
//! extend.plan(gpu)?.encode(encoder, Tensor::at(lists, 0))?;
//! # Ok(())
//! # }
//! ```

use std::sync::Arc;

use bytemuck::{Pod, Zeroable};

use crate::error::Result;
use crate::gpu::Gpu;
use crate::ops::call::{self, Dispatch, Need, Uniforms, Window};
use crate::ops::dense::tile::{DeviceClass, looped};
use crate::ops::topk::rows::Cut;
use crate::ops::topk::rules;
use crate::ops::topk::variant::TopKVariant;
use crate::shader::{Binding, BindingKind, Constant, Pipeline, Spec, Variant};
use crate::tensor::Tensor;

/// Adds the entries `from..to` to the end of every list of a selection, in place: the tokens generated since it was
/// made. Those not greater than a list's last entry are left out, so that a list stays ascending.
///
/// On the device, an entry count above `capacity` reads as `capacity`, and a list that holds more than `held` takes as
/// many entries as it has room for; nothing outside the lists is written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Extend {
    /// Lists: the product of the selection's dimensions but the last.
    pub lists: u32,
    /// Entries that a list has room for.
    pub capacity: u32,
    /// Entries that the lists hold at most before the call; with those added they must fit the capacity.
    pub held: u32,
    /// The first entry to add.
    pub from: u32,
    /// One past the last.
    pub to: u32,
}

/// Twin of `struct Params` in `shaders/topk/extend.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
struct Params {
    lists: u32,
    capacity: u32,
    from_entry: u32,
    to_entry: u32,
    lists_base: u32,
    padding_0: u32,
    padding_1: u32,
    padding_2: u32,
}

/// Invocations of a workgroup of the shader, one for a list.
const THREADS: u32 = 64;

/// The spec behind `shaders/topk/extend.wgsl`, which has no options.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ExtendVariant;

impl Spec for ExtendVariant {
    fn label(&self) -> String {
        "topk/extend".into()
    }

    fn kernel(&self) -> &'static str {
        "topk/extend"
    }

    fn constants(&self) -> Vec<(&'static str, Constant)> {
        vec![]
    }

    fn pieces(&self) -> Vec<&'static str> {
        vec![]
    }

    fn custom(&self) -> Option<String> {
        None
    }

    fn bindings(&self) -> Vec<Binding> {
        use BindingKind::{Uniform, Write};
        [(0, Uniform), (4, Write)]
            .map(|(number, kind)| Binding { number, kind })
            .to_vec()
    }

    fn workgroup_bytes(&self) -> u32 {
        0
    }
}

/// An extension on a device, ready to encode any number of times.
#[derive(Debug)]
pub struct ExtendPlan {
    gpu: Gpu,
    extend: Extend,
    pipeline: Arc<Pipeline>,
    cut: Cut,
    uniforms: Uniforms,
}

impl Extend {
    /// Checks the extension and compiles or fetches its pipeline.
    ///
    /// # Errors
    /// [`crate::Error::Invalid`] names a field that is wrong, [`crate::Error::Limit`] a limit of the device that even one
    /// list exceeds, [`crate::Error::Unsupported`] more entries at once than a software GPU can add.
    pub fn plan(&self, gpu: &Gpu) -> Result<ExtendPlan> {
        rules::check_extend(self)?;
        let device = DeviceClass::of_gpu(gpu);
        device.check_loops("adding so many entries at once", looped(self.to - self.from, 0).into())?;
        Ok(ExtendPlan {
            cut: Cut::new(
                gpu.limits(),
                THREADS,
                &[("a list of tensor `lists`", self.list_bytes())],
            )?,
            pipeline: gpu.pipeline(&Variant::TopK(TopKVariant::Extend(ExtendVariant)))?,
            extend: self.clone(),
            gpu: gpu.clone(),
            uniforms: Uniforms::default(),
        })
    }

    fn list_bytes(&self) -> u64 {
        4 * (1 + u64::from(self.capacity))
    }
}

impl ExtendPlan {
    /// The extension that was planned.
    pub fn problem(&self) -> &Extend {
        &self.extend
    }

    /// Dispatches of a call: more than one where the lists are larger than a binding.
    pub fn parts(&self) -> usize {
        self.cut.parts(self.extend.lists).count()
    }

    /// Records the extension into an encoder, as a compute pass of its own. `lists`: u32 `[lists, 1 + capacity]`,
    /// contiguous, changed in place.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`] if `lists` does not fit; [`crate::Error::Device`] if the device is
    /// lost or out of memory. Nothing is recorded then.
    pub fn encode(&self, encoder: &mut wgpu::CommandEncoder, lists: Tensor<'_>) -> Result<()> {
        self.check_tensor(&lists)?;
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
            label: Some("wgpu-attention extend"),
            timestamp_writes: None,
        });
        self.record(&mut pass, lists)
    }

    /// Records the extension into a compute pass of the caller's, whose pipeline and bind group 0 it replaces.
    ///
    /// # Errors
    /// As [`ExtendPlan::encode`].
    pub fn encode_in(&self, pass: &mut wgpu::ComputePass<'_>, lists: Tensor<'_>) -> Result<()> {
        self.check_tensor(&lists)?;
        self.record(pass, lists)
    }

    fn check_tensor(&self, lists: &Tensor<'_>) -> Result<()> {
        let need = Need {
            name: "lists",
            bytes: self.extend.list_bytes() * u64::from(self.extend.lists),
            alignment: 4,
        };
        call::check_tensor(&need, lists)
    }

    fn record(&self, pass: &mut wgpu::ComputePass<'_>, lists: Tensor<'_>) -> Result<()> {
        let parts = self.cut.parts(self.extend.lists);
        let dispatches: Vec<_> = parts.map(|part| self.dispatch(lists, part)).collect();
        call::record(&self.gpu, &self.uniforms, pass, &dispatches)
    }

    fn dispatch<'a>(&'a self, lists: Tensor<'a>, (first, end): (u32, u32)) -> Dispatch<'a> {
        let e = &self.extend;
        let words = e.list_bytes() / 4;
        let window = Window::over(&self.gpu, lists, (u64::from(first) * words, u64::from(end) * words), 4);
        let params = Params {
            lists: end - first,
            capacity: e.capacity,
            from_entry: e.from,
            to_entry: e.to,
            lists_base: window.base,
            ..Params::default()
        };
        Dispatch {
            pipeline: &self.pipeline,
            params: bytemuck::bytes_of(&params).to_vec(),
            bindings: vec![(4, window)],
            grid: self.cut.grid(end - first),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shader::layout;

    #[test]
    fn fields_lie_where_the_shader_has_them() {
        let variant = Variant::TopK(TopKVariant::Extend(ExtendVariant));
        layout::assert_same(&Params::default(), &variant.wgsl());
    }
}
