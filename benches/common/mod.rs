//! What the benches share: the device, inputs, and what a problem costs.
#![allow(dead_code)]

use wgpu_attention::dense::reference::{Hooks, dense};
use wgpu_attention::dense::tile::Tuning;
use wgpu_attention::{DType, Dense, DenseInputs, DensePlan, DenseTensors, Gpu, GpuOptions, compare};

pub mod host_cost;
pub mod linear;
pub mod problems;
mod random;
pub mod tiers;
pub mod topk;

pub use random::random;

/// The device that `WGPU_ATTENTION_BACKEND` and `WGPU_ATTENTION_ADAPTER` name, or the fastest.
pub fn gpu() -> Gpu {
    let options = GpuOptions::from_env().expect("environment");
    Gpu::request_blocking(&options).expect("a device")
}

/// Whether the device is a processor that emulates a GPU: problems are smaller there.
pub fn is_software(gpu: &Gpu) -> bool {
    gpu.info().device_type == wgpu::DeviceType::Cpu
}

/// Adapter and driver, in a line.
pub fn device_line(gpu: &Gpu) -> String {
    let info = gpu.info();
    let clock = match is_software(gpu) || !gpu.features().contains(wgpu::Features::TIMESTAMP_QUERY) {
        true => "the host's",
        false => "the device's",
    };
    format!(
        "{} on {}, driver {} {}; timed by {clock} clock",
        info.name, info.backend, info.driver, info.driver_info
    )
}

/// The plan of a problem, if the kernel it runs gives the right answer on a small problem of the same variant: a wrong
/// kernel gets no number.
pub fn checked_plan(gpu: &Gpu, problem: &Dense, tuning: &Tuning) -> Result<DensePlan, String> {
    let plan = problem.plan_with(gpu, tuning).map_err(|e| e.to_string())?;
    check(gpu, &problems::small(problem), &same_kernel(&plan))?;
    Ok(plan)
}

/// The very kernel of a plan, for another problem.
fn same_kernel(plan: &DensePlan) -> Tuning {
    Tuning {
        kernel: Some(plan.kernel()),
        splits: Some(plan.splits()),
        live: Some(plan.skips_masked_tiles()),
    }
}

/// Whether a kernel gives the right answer.
pub fn check(gpu: &Gpu, problem: &Dense, tuning: &Tuning) -> Result<(), String> {
    let inputs = Inputs::random(problem);
    let plan = problem.plan_with(gpu, tuning).map_err(|e| e.to_string())?;
    let output = plan.run_blocking(&inputs.host()).map_err(|e| e.to_string())?;
    let expected = dense(problem, &inputs.host(), &Hooks::default()).map_err(|e| e.to_string())?;
    let result = compare::dense(&output, &expected, &compare::Tolerance::for_dtype(problem.dtype));
    if result.passed() {
        return Ok(());
    }
    Err(format!("WRONG {result}"))
}

/// Inputs on the host, already rounded to the problem's storage type.
pub struct Inputs {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    mask: Option<Vec<u8>>,
}

impl Inputs {
    pub fn random(p: &Dense) -> Self {
        let count = |heads: u32, n: u32, d: u32| p.batch as usize * heads as usize * n as usize * d as usize;
        let rounded = |seed, n| random(seed, n).into_iter().map(|x| stored(x, p.dtype)).collect();
        Inputs {
            q: rounded(1, count(p.heads, p.queries, p.head_dim)),
            k: rounded(2, count(p.kv_heads(), p.keys, p.head_dim)),
            v: rounded(3, count(p.kv_heads(), p.keys, p.value_dim())),
            // Of what a scan for masked tiles finds there is some of each kind.
            mask: p.mask.map(|_| problems::MaskContent::Blocks(2).bytes(p)),
        }
    }

    pub fn host(&self) -> DenseInputs<'_> {
        DenseInputs {
            q: &self.q,
            k: &self.k,
            v: &self.v,
            mask: self.mask.as_deref(),
            ..Default::default()
        }
    }
}

/// Device buffers for timing, filled with random numbers: zeros can be faster than real data.
pub struct Buffers {
    q: wgpu::Buffer,
    k: wgpu::Buffer,
    v: wgpu::Buffer,
    o: wgpu::Buffer,
    mask: Option<wgpu::Buffer>,
}

impl Buffers {
    pub fn zeroless(gpu: &Gpu, p: &Dense) -> Self {
        let make = |seed: u32, heads: u32, n: u32, d: u32| {
            let elements = p.batch as u64 * heads as u64 * n as u64 * d as u64;
            // One block of random numbers, repeated.
            let block = random(seed, (1 << 20).min(elements as usize));
            filled(gpu, elements, &block, p.dtype)
        };
        Buffers {
            q: make(1, p.heads, p.queries, p.head_dim),
            k: make(2, p.kv_heads(), p.keys, p.head_dim),
            v: make(3, p.kv_heads(), p.keys, p.value_dim()),
            o: make(4, p.heads, p.queries, p.value_dim()),
            mask: None,
        }
    }

    /// With a mask of that content.
    pub fn masked(gpu: &Gpu, p: &Dense, content: problems::MaskContent) -> Self {
        let mut bytes = content.bytes(p);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        let mask = gpu.device().create_buffer(&wgpu::BufferDescriptor {
            label: Some("bench"),
            size: bytes.len() as u64,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        gpu.queue().write_buffer(&mask, 0, &bytes);
        Buffers {
            mask: Some(mask),
            ..Buffers::zeroless(gpu, p)
        }
    }

    pub fn tensors(&self) -> DenseTensors<'_> {
        DenseTensors {
            mask: self.mask.as_ref().map(Into::into),
            ..DenseTensors::new(&self.q, &self.k, &self.v, &self.o)
        }
    }
}

/// Floating-point operations of the two products over the visible (query, key) pairs.
pub fn flops(p: &Dense) -> f64 {
    let (nq, nk) = (p.queries as i64, p.keys as i64);
    let pairs: i64 = (0..nq)
        .map(|i| {
            let a = i + nk - nq;
            let high = if p.causal { a } else { nk - 1 };
            let high = p.window_right.map_or(high, |r| high.min(a + i64::from(r))).min(nk - 1);
            let low = p.window_left.map_or(0, |l| (a - i64::from(l)).max(0));
            (high - low + 1).max(0)
        })
        .sum();
    2.0 * pairs as f64 * (p.head_dim + p.value_dim()) as f64 * p.heads as f64 * p.batch as f64
}

/// Bytes of K and V.
pub fn kv_bytes(p: &Dense) -> f64 {
    let row = (p.head_dim + p.value_dim()) as f64 * p.dtype.size() as f64;
    p.batch as f64 * p.kv_heads() as f64 * p.keys as f64 * row
}

/// A number as a storage type has it.
pub fn stored(x: f32, dtype: DType) -> f32 {
    match dtype {
        DType::F32 => x,
        DType::F16 => half::f16::from_f32(x).to_f32(),
        DType::BF16 => half::bf16::from_f32(x).to_f32(),
    }
}

/// A buffer of so many elements, the block over and over.
pub fn filled(gpu: &Gpu, elements: u64, block: &[f32], dtype: DType) -> wgpu::Buffer {
    let buffer = gpu.device().create_buffer(&wgpu::BufferDescriptor {
        label: Some("bench"),
        size: (elements * dtype.size()).next_multiple_of(4),
        usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC,
        mapped_at_creation: false,
    });
    let mut bytes: Vec<u8> = match dtype {
        DType::F32 => bytemuck::cast_slice(block).to_vec(),
        DType::F16 => block
            .iter()
            .flat_map(|x| half::f16::from_f32(*x).to_le_bytes())
            .collect(),
        DType::BF16 => block
            .iter()
            .flat_map(|x| half::bf16::from_f32(*x).to_le_bytes())
            .collect(),
    };
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    let mut at = 0;
    while at < buffer.size() {
        let n = (buffer.size() - at).min(bytes.len() as u64);
        gpu.queue().write_buffer(&buffer, at, &bytes[..n as usize]);
        at += n;
    }
    buffer
}
