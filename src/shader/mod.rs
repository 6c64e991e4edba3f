//! Shaders: sources, assembly into one module, variants and the pipelines made of them.
//!
//! A shader is a header of `const` lines written from a typed spec, the pieces that the spec chooses, and the kernel
//! with what it `#import`s, each piece once. A loop marked `#unroll` is written out. There is no other preprocessing:
//! a flag is a `const` and an ordinary `if`. The spec is the pipeline cache's key.
//!
//! ```
//! use wgpu_attention::measure::Probe;
//! use wgpu_attention::shader::{SOURCES, Variant};
//!
//! let module = Variant::Probe(Probe::Read).wgsl();
//! assert!(module.starts_with("const WORDS: u32 = 16u;"));
//! assert!(SOURCES.iter().any(|(name, _)| *name == "measure/read"));
//! ```

mod elements;
#[cfg(test)]
pub(crate) mod layout;
pub(crate) mod snippet;
mod sources;
mod unroll;

use std::fmt::Write;

use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::measure::Probe;
use crate::ops::dense::variant::DenseVariant;
use crate::ops::linear::variant::LinearVariant;
use crate::ops::merge::variant::MergeVariant;
use crate::ops::topk::variant::TopKVariant;
use crate::tier::Tier;

pub use sources::SOURCES;

/// Every kind of shader the library can make.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Variant {
    /// A kernel of the dense op.
    Dense(DenseVariant),
    /// A kernel of the linear op.
    Linear(LinearVariant),
    /// A kernel of the top-k family.
    TopK(TopKVariant),
    /// The merge of partial results.
    Merge(MergeVariant),
    /// `shared/copy_words.wgsl`
    CopyWords,
    /// A kernel that measures the device.
    Probe(Probe),
}

/// What a kind of shader has to say for itself.
pub trait Spec {
    /// The pipeline's label: the kernel's stem and what tells this variant from others.
    fn label(&self) -> String;
    /// The kernel's file, without `shaders/` and `.wgsl`.
    fn kernel(&self) -> &'static str;
    /// The header's constants, in order.
    fn constants(&self) -> Vec<(&'static str, Constant)>;
    /// Pieces that depend on the spec.
    fn pieces(&self) -> Vec<&'static str>;
    /// The caller's own code, ready to stand at module scope.
    fn custom(&self) -> Option<String>;
    /// Bindings of group 0.
    fn bindings(&self) -> Vec<Binding>;
    /// Workgroup memory in bytes.
    fn workgroup_bytes(&self) -> u32;
    /// What it asks of a device.
    fn tier(&self) -> Tier {
        Tier::Portable
    }
    /// The WGSL extensions it enables.
    fn enables(&self) -> Vec<&'static str> {
        vec![]
    }
    /// Of kernels with elements of matrices: whether loads from storage happen between the barriers that they are written between.
    /// A driver is free to put the load of what nothing writes off until the value is used, across barriers, and one does (that of
    /// an NVIDIA H200): what was to be on its way meanwhile comes too late. It costs registers, and kernels that have none left are
    /// faster without.
    fn loads_stay(&self) -> bool {
        false
    }
}

/// A value in the header.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Constant {
    /// `u32`
    Count(u32),
    /// `bool`
    Flag(bool),
}

/// One binding of group 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// Its number.
    pub number: u32,
    /// Its kind.
    pub kind: BindingKind,
}

/// Kinds of binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BindingKind {
    /// Uniform buffer.
    Uniform,
    /// Read-only storage buffer.
    Read,
    /// Writable storage buffer.
    Write,
}

/// Brings short vectors together in one buffer.
struct CopyWords;

impl Spec for CopyWords {
    fn label(&self) -> String {
        "shared/copy_words".into()
    }

    fn kernel(&self) -> &'static str {
        "shared/copy_words"
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
        use BindingKind::{Read, Uniform, Write};
        [(0, Uniform), (1, Read), (4, Write)]
            .map(|(number, kind)| Binding { number, kind })
            .to_vec()
    }

    fn workgroup_bytes(&self) -> u32 {
        0
    }
}

/// A compiled variant.
#[derive(Debug)]
pub(crate) struct Pipeline {
    pub pipeline: wgpu::ComputePipeline,
    pub layout: wgpu::BindGroupLayout,
}

impl Variant {
    /// The spec behind it.
    pub fn spec(&self) -> &dyn Spec {
        match self {
            Variant::Dense(v) => v.spec(),
            Variant::Linear(v) => v.spec(),
            Variant::TopK(v) => v.spec(),
            Variant::Merge(v) => v,
            Variant::CopyWords => &CopyWords,
            Variant::Probe(p) => p,
        }
    }

    /// The whole WGSL module.
    ///
    /// # Panics
    /// If a kernel imports a piece that does not exist or marks a loop that cannot be unrolled, which the test over all
    /// variants excludes.
    pub fn wgsl(&self) -> String {
        assemble(self.spec())
    }
}

fn assemble(spec: &dyn Spec) -> String {
    let mut text = String::with_capacity(32 << 10);
    for extension in spec.enables() {
        let _ = writeln!(text, "enable {extension};");
    }
    for (name, value) in spec.constants() {
        let _ = match value {
            Constant::Count(n) => writeln!(text, "const {name}: u32 = {n}u;"),
            Constant::Flag(f) => writeln!(text, "const {name}: bool = {f};"),
        };
    }
    let mut done = Vec::new();
    for piece in spec.pieces() {
        append(&mut text, piece, &mut done);
    }
    append(&mut text, spec.kernel(), &mut done);
    let mut text = unroll::unroll(&text).unwrap_or_else(|e| panic!("`{}`: {e}", spec.label()));
    if let Some(custom) = spec.custom() {
        text.push_str(&custom);
    }
    text
}

/// Appends a source after everything it imports, unless it is there already.
fn append(text: &mut String, name: &'static str, done: &mut Vec<&'static str>) {
    if done.contains(&name) {
        return;
    }
    done.push(name);
    let source = self::text(name);
    for line in source.lines() {
        if let Some(import) = line.strip_prefix("#import ") {
            append(text, find(import.trim()).0, done);
        }
    }
    for line in source.lines().filter(|l| !l.starts_with("#import ")) {
        text.push_str(line);
        text.push('\n');
    }
}

fn find(name: &str) -> (&'static str, &'static str) {
    *SOURCES
        .iter()
        .find(|(n, _)| *n == name)
        .unwrap_or_else(|| panic!("no shader source `{name}`"))
}

/// The text of one source.
pub(crate) fn text(name: &str) -> &'static str {
    find(name).1
}

/// Compiles a variant on a device.
pub(crate) fn compile(gpu: &Gpu, variant: &Variant) -> Result<Pipeline> {
    let spec = variant.spec();
    let label = spec.label();
    let source = variant.wgsl();
    // Custom code may index its data as it likes, so it keeps every check.
    let trusted = !gpu.checked() && spec.custom().is_none();
    let spirv = elements::wanted(&source)
        .then(|| elements::spirv(&source, &spec.bindings(), spec.loads_stay(), !trusted))
        .transpose()
        .map_err(|message| Error::Device {
            message: format!("shader `{label}`: {message}"),
        })?;
    gpu.guarded(|device| {
        let descriptor = wgpu::ShaderModuleDescriptor {
            label: Some(&label),
            source: wgpu::ShaderSource::Wgsl(source.into()),
        };
        let module = if let Some(words) = spirv {
            let entry = wgpu::PassthroughShaderEntryPoint {
                name: "main".into(),
                workgroup_size: (1, 1, 1),
            };
            let descriptor = wgpu::ShaderModuleDescriptorPassthrough {
                label: Some(&label),
                entry_points: vec![entry].into(),
                spirv: Some(words.into()),
                ..Default::default()
            };
            // SAFETY: naga wrote the module from valid WGSL, as wgpu would have, and what was put into its functions is of their
            // types. For what is not checked in there the same holds as below.
            unsafe { device.create_shader_module_passthrough(descriptor) }
        } else if trusted {
            // SAFETY: every index into a buffer is bounded by lengths that `encode` checked against the buffers, or
            // clamped in the shader where it comes from device data; every index into workgroup or private memory is
            // a compile-time function of loop counters and the invocation's number, which is below the workgroup's size
            // also where it comes from subgroups; every loop has a finite bound. The
            // tests run every variant with the checks on too.
            unsafe { device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked()) }
        } else {
            device.create_shader_module(descriptor)
        };
        let entries: Vec<_> = spec.bindings().iter().map(layout_entry).collect();
        let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some(&label),
            entries: &entries,
        });
        let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(&label),
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(&label),
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions {
                // Kernels write workgroup memory before they read it.
                zero_initialize_workgroup_memory: false,
                ..Default::default()
            },
            cache: gpu.pipeline_cache(),
        });
        Pipeline { pipeline, layout }
    })
    .map_err(|error| match error {
        Error::Device { message } => Error::Device {
            message: format!("shader `{label}`: {message}"),
        },
        other => other,
    })
}

fn layout_entry(binding: &Binding) -> wgpu::BindGroupLayoutEntry {
    let ty = match binding.kind {
        BindingKind::Uniform => wgpu::BufferBindingType::Uniform,
        BindingKind::Read => wgpu::BufferBindingType::Storage { read_only: true },
        BindingKind::Write => wgpu::BufferBindingType::Storage { read_only: false },
    };
    wgpu::BindGroupLayoutEntry {
        binding: binding.number,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer {
            ty,
            has_dynamic_offset: false,
            min_binding_size: None,
        },
        count: None,
    }
}
