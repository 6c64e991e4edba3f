//! Kernels that measure the device itself.

use std::sync::Arc;

use super::{Effort, Times, time};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::ops::host;
use crate::shader::{Binding, BindingKind, Constant, Pipeline, Spec, Variant};
use crate::tier::{MatrixElements, Tier};

/// A kernel that measures the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Probe {
    /// `measure/fma.wgsl`
    Fma,
    /// `measure/fma_half.wgsl`
    FmaHalf,
    /// `measure/multiply.wgsl`
    Multiply {
        /// Rows and columns of a matrix, 8 or 16.
        edge: u32,
        /// Invocations of a workgroup: for each of its [`MULTIPLY_SUBGROUPS`] as many as the largest on the device has.
        threads: u32,
    },
    /// `measure/places.wgsl`
    Places {
        /// Rows and columns of a matrix, 8 or 16.
        edge: u32,
        /// Invocations of a subgroup.
        threads: u32,
    },
    /// `measure/copy.wgsl`
    Copy,
    /// `measure/read.wgsl`
    Read,
}

/// Subgroups of a workgroup of `measure/multiply.wgsl`.
pub const MULTIPLY_SUBGROUPS: u32 = 4;

/// Rounds of `measure/fma.wgsl`.
pub const FMA_ROUNDS: u32 = 512;

/// Rounds of `measure/fma_half.wgsl`. Counting up by ones, its chains stay below 2048, up to where f16 holds every whole
/// number.
pub const FMA_HALF_ROUNDS: u32 = 128;

/// Rounds of `measure/multiply.wgsl`.
pub const MULTIPLY_ROUNDS: u32 = 256;

/// 16-byte words an invocation of the read kernel.
const READ_WORDS: u32 = 16;

/// Factors that `measure/multiply.wgsl` has in workgroup memory: two on the left, four on the right.
const MULTIPLY_FACTORS: u32 = 6;
const MULTIPLY_SUMS: u32 = 8;

impl Spec for Probe {
    fn label(&self) -> String {
        match self {
            Probe::Multiply { edge, .. } | Probe::Places { edge, .. } => format!("{} {edge}x{edge}", self.kernel()),
            _ => self.kernel().into(),
        }
    }

    fn kernel(&self) -> &'static str {
        match self {
            Probe::Fma => "measure/fma",
            Probe::FmaHalf => "measure/fma_half",
            Probe::Multiply { .. } => "measure/multiply",
            Probe::Places { .. } => "measure/places",
            Probe::Copy => "measure/copy",
            Probe::Read => "measure/read",
        }
    }

    fn constants(&self) -> Vec<(&'static str, Constant)> {
        use Constant::Count;
        match *self {
            Probe::Fma => vec![("ROUNDS", Count(FMA_ROUNDS))],
            Probe::FmaHalf => vec![("ROUNDS", Count(FMA_HALF_ROUNDS))],
            Probe::Multiply { threads, .. } => vec![
                ("ROUNDS", Count(MULTIPLY_ROUNDS)),
                ("THREADS", Count(threads)),
                ("SUBGROUPS", Count(MULTIPLY_SUBGROUPS)),
            ],
            Probe::Places { edge, threads } => {
                let each = edge * edge / threads;
                // As if each element were of a row of its own; the kernel makes no use of it.
                vec![
                    ("THREADS", Count(threads)),
                    ("ELEMENTS", Count(each)),
                    ("SHARERS", Count(0)),
                ]
            }
            Probe::Copy => vec![],
            Probe::Read => vec![("WORDS", Count(READ_WORDS))],
        }
    }

    fn pieces(&self) -> Vec<&'static str> {
        match self {
            Probe::Multiply { edge: 8, .. } | Probe::Places { edge: 8, .. } => vec!["shared/matrix_8"],
            Probe::Multiply { .. } | Probe::Places { .. } => vec!["shared/matrix_16"],
            _ => vec![],
        }
    }

    fn custom(&self) -> Option<String> {
        None
    }

    fn bindings(&self) -> Vec<Binding> {
        use BindingKind::{Read, Write};
        [(1, Read), (4, Write)]
            .map(|(number, kind)| Binding { number, kind })
            .to_vec()
    }

    fn workgroup_bytes(&self) -> u32 {
        match self {
            Probe::Multiply { edge, .. } => MULTIPLY_FACTORS * edge * edge * 2,
            Probe::Places { edge, .. } => edge * edge * (4 + 2 + 2) + edge * (4 + 2),
            _ => 0,
        }
    }

    fn tier(&self) -> Tier {
        match self {
            Probe::FmaHalf => Tier::Subgroup,
            Probe::Multiply { .. } | Probe::Places { .. } => Tier::Cooperative,
            _ => Tier::Portable,
        }
    }

    fn enables(&self) -> Vec<&'static str> {
        match self {
            Probe::FmaHalf => vec!["f16"],
            Probe::Multiply { .. } | Probe::Places { .. } => vec!["f16", "wgpu_cooperative_matrix"],
            _ => vec![],
        }
    }
}

/// A [`Probe`] with buffers of its own, ready to run.
#[derive(Debug)]
pub struct ProbeRun {
    pipeline: Arc<Pipeline>,
    group: wgpu::BindGroup,
    output: wgpu::Buffer,
    workgroups: u32,
    work: f64,
}

impl ProbeRun {
    /// Multiply-adds of this many workgroups of 64.
    ///
    /// # Errors
    /// [`crate::Error::Device`] if the device is lost or out of memory.
    pub fn fma(gpu: &Gpu, workgroups: u32) -> Result<Self> {
        let input = host::upload(gpu, "probe", bytemuck::cast_slice(&[0.999f32, 0.001, 0.0, 0.0]))?;
        let output = host::poisoned(gpu, "probe", u64::from(workgroups) * 64 * 4)?;
        let work = f64::from(workgroups) * 64.0 * f64::from(FMA_ROUNDS) * 8.0 * 8.0 * 2.0;
        Self::new(gpu, Probe::Fma, [&input, &output], workgroups, work)
    }

    /// f16 multiply-adds of this many workgroups of 64, on a device whose abilities have them.
    ///
    /// # Errors
    /// As [`ProbeRun::fma`].
    pub fn fma_half(gpu: &Gpu, workgroups: u32) -> Result<Self> {
        let input = host::upload(gpu, "probe", bytemuck::cast_slice(&[1.0f32, 1.0, 0.0, 0.0]))?;
        let output = host::poisoned(gpu, "probe", u64::from(workgroups) * 64 * 4)?;
        let work = f64::from(workgroups) * 64.0 * f64::from(FMA_HALF_ROUNDS) * 8.0 * 8.0 * 2.0 * 2.0;
        Self::new(gpu, Probe::FmaHalf, [&input, &output], workgroups, work)
    }

    /// Multiply-adds of cooperative matrices in this many workgroups of [`MULTIPLY_SUBGROUPS`].
    ///
    /// # Errors
    /// [`crate::Error::Unsupported`] if the device has none; else as [`ProbeRun::fma`].
    pub fn multiply(gpu: &Gpu, workgroups: u32) -> Result<Self> {
        let abilities = gpu.abilities();
        let (Some(edge), Some((_, subgroup))) = (abilities.matrices, abilities.subgroups) else {
            return Err(Error::Unsupported {
                what: "a measurement of cooperative matrices".into(),
                why: format!("it takes {}", Tier::Cooperative.needs()),
            });
        };
        let probe = Probe::Multiply {
            edge,
            threads: subgroup * MULTIPLY_SUBGROUPS,
        };
        let elements = edge * edge;
        let input = host::upload(gpu, "probe", bytemuck::cast_slice(&multiply_factors(edge)))?;
        let output = host::poisoned(gpu, "probe", u64::from(workgroups * MULTIPLY_SUBGROUPS * elements) * 4)?;
        let products = f64::from(workgroups * MULTIPLY_SUBGROUPS * MULTIPLY_SUMS) * f64::from(MULTIPLY_ROUNDS);
        let work = products * 2.0 * f64::from(edge * elements);
        Self::new(gpu, probe, [&input, &output], workgroups, work)
    }

    /// A copy of as many bytes, less what does not fill a workgroup or fit one binding and one dispatch; what one workgroup copies
    /// at least.
    ///
    /// # Errors
    /// As [`ProbeRun::fma`].
    pub fn copy(gpu: &Gpu, bytes: u64) -> Result<Self> {
        let (workgroups, bytes) = whole_workgroups(gpu, bytes, COPY_BYTES);
        let (input, output) = (storage(gpu, bytes)?, storage(gpu, bytes)?);
        Self::new(gpu, Probe::Copy, [&input, &output], workgroups, 2.0 * bytes as f64)
    }

    /// A plain read of as many bytes, less what does not fill a workgroup or fit one binding and one dispatch; what one workgroup
    /// reads at least.
    ///
    /// # Errors
    /// As [`ProbeRun::fma`].
    pub fn read(gpu: &Gpu, bytes: u64) -> Result<Self> {
        let (workgroups, bytes) = whole_workgroups(gpu, bytes, READ_BYTES);
        let output = storage(gpu, u64::from(workgroups) * 256 * 4)?;
        Self::new(
            gpu,
            Probe::Read,
            [&storage(gpu, bytes)?, &output],
            workgroups,
            bytes as f64,
        )
    }

    /// How the device's invocations have elements of its matrices, where shaders get at those.
    pub(crate) fn places(gpu: &Gpu) -> Option<MatrixElements> {
        let abilities = gpu.abilities();
        let (edge, (least, most)) = (abilities.matrices?, abilities.subgroups?);
        let spirv =
            gpu.info().backend == wgpu::Backend::Vulkan && gpu.features().contains(wgpu::Features::PASSTHROUGH_SHADERS);
        if !spirv || least != most || !(edge * edge).is_multiple_of(most) {
            return None;
        }
        let run = || {
            let input = host::upload(gpu, "probe", &[0; 4])?;
            let output = host::poisoned(gpu, "probe", u64::from(MatrixElements::PARTS * edge * edge) * 4)?;
            let run = Self::new(gpu, Probe::Places { edge, threads: most }, [&input, &output], 1, 0.0)?;
            let mut encoder = gpu.device().create_command_encoder(&Default::default());
            run.record(&mut encoder.begin_compute_pass(&Default::default()));
            gpu.submit_and_read_blocking(encoder, run.output())
        };
        // A driver that cannot do this has kernels that do without.
        let numbers: Vec<f32> = bytemuck::pod_collect_to_vec(&run().ok()?);
        MatrixElements::found(&numbers, edge, most)
    }

    fn new(gpu: &Gpu, kind: Probe, buffers: [&wgpu::Buffer; 2], workgroups: u32, work: f64) -> Result<Self> {
        let pipeline = gpu.pipeline(&Variant::Probe(kind))?;
        let [input, output] = buffers;
        let group = gpu.guarded(|device| {
            device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some("probe"),
                layout: &pipeline.layout,
                entries: &[(1, input), (4, output)].map(|(binding, buffer)| wgpu::BindGroupEntry {
                    binding,
                    resource: buffer.as_entire_binding(),
                }),
            })
        })?;
        Ok(ProbeRun {
            pipeline,
            group,
            output: output.clone(),
            workgroups,
            work,
        })
    }

    /// What a run writes.
    pub fn output(&self) -> &wgpu::Buffer {
        &self.output
    }

    /// What a run does: floating-point operations, or bytes read plus bytes written.
    pub fn work(&self) -> f64 {
        self.work
    }

    /// Records a run.
    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>) {
        pass.set_pipeline(&self.pipeline.pipeline);
        pass.set_bind_group(0, &self.group, &[]);
        pass.dispatch_workgroups(self.workgroups, 1, 1);
    }

    /// Times so many runs in one pass, each of which waits for the one before, since it writes the same.
    pub(super) fn time(&self, gpu: &Gpu, runs: u32) -> Result<Times> {
        time(gpu, &Effort::default(), |pass, _| {
            for _ in 0..runs {
                self.record(pass);
            }
            Ok(())
        })
    }
}

/// The factors of `measure/multiply.wgsl`, one after the other, by rows: multiples of 1/8 from −1 to 1, which f16 holds
/// exactly, and asymmetric, so that a transposed one gives another product.
pub fn multiply_factors(edge: u32) -> Vec<f32> {
    let number = |n: u32| ((n * 7 + n / edge * 3) % 17) as f32 / 8.0 - 1.0;
    (0..MULTIPLY_FACTORS * edge * edge).map(number).collect()
}

/// Bytes of a workgroup of the copy and of the read kernel.
const COPY_BYTES: u64 = 1024 * 16;
const READ_BYTES: u64 = 256 * 16 * READ_WORDS as u64;

/// Workgroups that move at most so many bytes, and the bytes they move.
fn whole_workgroups(gpu: &Gpu, bytes: u64, per_workgroup: u64) -> (u32, u64) {
    let limits = gpu.limits();
    let workgroups = (bytes.min(limits.max_storage_buffer_binding_size) / per_workgroup)
        .min(limits.max_compute_workgroups_per_dimension.into())
        .max(1);
    (workgroups as u32, workgroups * per_workgroup)
}

fn storage(gpu: &Gpu, size: u64) -> Result<wgpu::Buffer> {
    gpu.guarded(|device| {
        device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("probe"),
            size,
            usage: wgpu::BufferUsages::STORAGE,
            mapped_at_creation: false,
        })
    })
}
