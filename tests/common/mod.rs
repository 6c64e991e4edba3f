//! What the tests on a device share: the device, random problems' inputs, and one checked run.
#![allow(dead_code)]

pub mod draw;
pub mod linear;
pub mod matrices;
pub mod mistakes;
pub mod packed;
pub mod property;
pub mod tiles;
pub mod topk;

use std::path::PathBuf;
use std::sync::OnceLock;

use half::{bf16, f16};
use wgpu_attention::case::DenseCaseInputs;
use wgpu_attention::compare::{self, DenseComparison, Tolerance};
use wgpu_attention::dense::reference::{self, Hooks};
use wgpu_attention::dense::tile::{self, DeviceClass, KernelChoice, Tuning};
use wgpu_attention::{
    Broadcast, DType, Dense, DenseInputs, DenseOutput, Error, Gpu, GpuOptions, Result, Tier, Weighting,
};

/// The device that `WGPU_ATTENTION_BACKEND` and `WGPU_ATTENTION_ADAPTER` name, shared by the tests of a file.
///
/// `None`, with a loud line, where there is no adapter: the only reason for which a test may do nothing. With
/// `WGPU_ATTENTION_REQUIRE_GPU=1` that is a failure.
pub fn gpu() -> Option<Gpu> {
    static GPU: OnceLock<Option<Gpu>> = OnceLock::new();
    GPU.get_or_init(|| gpu_with(|_| {})).clone()
}

/// As [`gpu`], a device of its own, with other options.
pub fn gpu_with(change: impl FnOnce(&mut GpuOptions)) -> Option<Gpu> {
    let mut options = GpuOptions::from_env().expect("environment");
    change(&mut options);
    match Gpu::request_blocking(&options) {
        Ok(gpu) => {
            println!("{}", describe(&gpu));
            Some(gpu)
        }
        Err(Error::NoAdapter { message }) if std::env::var("WGPU_ATTENTION_REQUIRE_GPU").as_deref() != Ok("1") => {
            eprintln!("\n*** NOT TESTED: no adapter ({message}); WGPU_ATTENTION_REQUIRE_GPU=1 makes this fail ***\n");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// The limits that the device in use would get, to make smaller ones of.
pub fn limits() -> Option<wgpu::Limits> {
    gpu().map(|gpu| gpu.limits().clone())
}

/// Adapter, driver and back end in one line.
pub fn describe(gpu: &Gpu) -> String {
    let i = gpu.info();
    format!(
        "adapter {} ({:?}, driver {} {})",
        i.name, i.backend, i.driver, i.driver_info
    )
}

/// The golden case files of an op.
pub fn golden(op: &str) -> Vec<PathBuf> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/cases").join(op);
    let entries = std::fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// Whether `tests/unsupported.txt` says that this device cannot run `what`.
///
/// Lines `backend, part of the adapter's name, part of the driver's description, what: reason`.
pub fn on_unsupported_list(gpu: &Gpu, what: &str) -> bool {
    let info = gpu.info();
    let lines = include_str!("../unsupported.txt").lines();
    lines
        .filter(|l| !l.starts_with('#') && !l.trim().is_empty())
        .any(|line| {
            let (who, _reason) = line.split_once(": ").expect("a reason after a colon");
            let fields: Vec<_> = who.split(',').map(str::trim).collect();
            let [backend, adapter, driver, name] = fields[..] else {
                panic!("tests/unsupported.txt: four fields and a reason, not `{line}`")
            };
            format!("{:?}", info.backend).eq_ignore_ascii_case(backend)
                && info.name.contains(adapter)
                && info.driver_info.contains(driver)
                && what == name
        })
}

/// SplitMix64: seeded, the same on every machine.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 to n − 1.
    pub fn below(&mut self, n: u32) -> u32 {
        (self.next() % u64::from(n)) as u32
    }

    /// low to high, both included.
    pub fn range(&mut self, low: i32, high: i32) -> i32 {
        low + self.below((high - low + 1) as u32) as i32
    }

    /// True one time in n.
    pub fn one_in(&mut self, n: u32) -> bool {
        self.below(n) == 0
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u32) as usize]
    }

    pub fn float(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * (self.next() >> 40) as f32 / (1u64 << 24) as f32
    }

    pub fn floats(&mut self, n: usize, low: f32, high: f32) -> Vec<f32> {
        (0..n).map(|_| self.float(low, high)).collect()
    }
}

/// The nearest value of a storage type.
pub fn rounded(x: f32, dtype: DType) -> f32 {
    match dtype {
        DType::F32 => x,
        DType::F16 => f16::from_f32(x).to_f32(),
        DType::BF16 => bf16::from_f32(x).to_f32(),
    }
}

/// A problem's inputs on the host, rounded to its storage types.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    pub tensors: DenseCaseInputs,
    pub custom_data: Vec<Vec<u32>>,
}

impl Inputs {
    /// Random inputs for everything the problem asks for. Values lean to the positive, so that no output is a small
    /// difference of large numbers and a relative error means something. Custom data is left out.
    pub fn random(p: &Dense, r: &mut Random) -> Self {
        let count = |heads: u32, n: u32, d: u32| p.batch as usize * heads as usize * n as usize * d as usize;
        let mut tensor = |n: usize, low: f32, high: f32, dtype: DType| -> Vec<f32> {
            (0..n).map(|_| rounded(r.float(low, high), dtype)).collect()
        };
        let q = tensor(count(p.heads, p.queries, p.head_dim), -1.5, 1.5, p.dtype);
        let k = tensor(count(p.kv_heads(), p.keys, p.head_dim), -1.5, 1.5, p.dtype);
        let v = tensor(count(p.kv_heads(), p.keys, p.value_dim()), -0.5, 1.5, p.dtype);
        let full = |shape: Broadcast| shape.dims(p).iter().map(|&d| d as usize).product::<usize>();
        let bias = p.bias.map(|bias| {
            let mut values = tensor(full(bias.shape), -2.0, 2.0, bias.dtype);
            for value in values.iter_mut().filter(|v| v.abs() > 1.7) {
                *value = f32::NEG_INFINITY;
            }
            values
        });
        let heads = p.heads as usize;
        let alibi_slopes = p.alibi.then(|| {
            // Without a normaliser, or with a sink in it, a steep slope leaves outputs too small for f16.
            let normalized = p.weighting == Weighting::Softmax && !p.sinks;
            let steepest = if normalized { 0.3 } else { 0.01 };
            tensor(heads, 0.001, steepest, DType::F32)
        });
        let sinks = p.sinks.then(|| tensor(heads, -1.0, 2.0, DType::F32));
        let mask = p.mask.map(|shape| {
            let density = r.pick(&[2, 3, 8]);
            (0..full(shape))
                .map(|_| if r.one_in(density) { 0 } else { r.pick(&[1, 255, 16]) })
                .collect()
        });
        let kv_len = p.kv_len.then(|| {
            let keys = p.keys as i32;
            (0..p.batch)
                .map(|_| {
                    if r.one_in(6) {
                        r.pick(&[0, 1, keys])
                    } else {
                        r.range(0, keys)
                    }
                })
                .collect()
        });
        let mut offsets = |end: u32| p.documents.map(|s| offsets(s, end, r));
        let (cu_seqlens_q, cu_seqlens_k) = (offsets(p.queries), offsets(p.keys));
        Inputs {
            tensors: DenseCaseInputs {
                q,
                k,
                v,
                bias,
                mask,
                kv_len,
                cu_seqlens_q,
                cu_seqlens_k,
                alibi_slopes,
                sinks,
            },
            custom_data: vec![],
        }
    }

    /// Borrows them as `run` takes them.
    pub fn with<R>(&self, f: impl FnOnce(&DenseInputs<'_>) -> R) -> R {
        let custom: Vec<&[u32]> = self.custom_data.iter().map(Vec::as_slice).collect();
        f(&DenseInputs {
            custom_data: &custom,
            ..self.tensors.inputs()
        })
    }
}

/// Document boundaries: mostly the whole sequence, sometimes with rows outside at either end; empty ones happen.
pub fn offsets(documents: u32, end: u32, r: &mut Random) -> Vec<i32> {
    let end = end as i32;
    let first = if r.one_in(4) { r.range(0, end / 3) } else { 0 };
    let last = if r.one_in(4) { r.range(first, end) } else { end };
    let mut inner: Vec<i32> = (1..documents).map(|_| r.range(first, last)).collect();
    inner.sort_unstable();
    if inner.len() > 1 && r.one_in(3) {
        inner[1] = inner[0];
    }
    [vec![first], inner, vec![last]].concat()
}

/// The less precise of the two storage types sets the bounds.
pub fn tolerance(p: &Dense) -> Tolerance {
    let rank = |d: DType| [DType::F32, DType::F16, DType::BF16].iter().position(|x| *x == d);
    Tolerance::for_dtype(if rank(p.dtype) > rank(p.output_dtype()) {
        p.dtype
    } else {
        p.output_dtype()
    })
}

/// Plans, runs and brings back.
pub fn run(gpu: &Gpu, p: &Dense, inputs: &Inputs, tuning: &Tuning) -> Result<DenseOutput<f32>> {
    let plan = p.plan_with(gpu, tuning)?;
    inputs.with(|inputs| plan.run_blocking(inputs))
}

/// The reference's answer.
pub fn truth(p: &Dense, inputs: &Inputs, hooks: &Hooks<'_>) -> DenseOutput<f64> {
    inputs.with(|inputs| reference::dense(p, inputs, hooks)).unwrap()
}

/// Runs on the device and compares with the reference.
pub fn compared(gpu: &Gpu, p: &Dense, inputs: &Inputs, tuning: &Tuning, hooks: &Hooks<'_>) -> Result<DenseComparison> {
    let actual = run(gpu, p, inputs, tuning)?;
    Ok(compare::dense(&actual, &truth(p, inputs, hooks), &tolerance(p)))
}

/// As [`compared`], on random inputs, asserting that it passes.
pub fn check(name: &str, gpu: &Gpu, p: &Dense, tuning: &Tuning) {
    let inputs = Inputs::random(p, &mut Random::new(7));
    check_on(name, gpu, p, &inputs, tuning, &Hooks::default());
}

/// As [`check`], on these inputs.
pub fn check_on(name: &str, gpu: &Gpu, p: &Dense, inputs: &Inputs, tuning: &Tuning, hooks: &Hooks<'_>) {
    let result = compared(gpu, p, inputs, tuning, hooks).unwrap_or_else(|error| panic!("{name}: {error}"));
    println!("{name}: {result}");
    assert!(result.passed(), "{name}: {result}\n{p:?}\n{tuning:?}");
}

/// The device, its plans held to the subgroup tier, where it has that.
pub fn in_subgroups() -> Option<Gpu> {
    let gpu = gpu()?;
    match gpu.abilities().serve(Tier::Subgroup) {
        true => Some(gpu.with_tier(Tier::Subgroup).unwrap()),
        false => {
            assert!(gpu.with_tier(Tier::Subgroup).is_err());
            None
        }
    }
}

/// The device as tile choice sees it.
pub fn class(gpu: &Gpu) -> DeviceClass {
    DeviceClass::of_gpu(gpu)
}

/// Whether a kernel is one for many queries.
pub fn is_prefill(choice: &KernelChoice) -> bool {
    !choice.extent().interleaved
}

/// The decode kernel, with the tile that few queries of this problem would get.
pub fn decode(gpu: &Gpu, p: &Dense) -> KernelChoice {
    let few = Dense {
        queries: p.queries.min(16),
        ..p.clone()
    };
    let choice = tile::choose(&few, &class(gpu)).unwrap();
    assert!(!is_prefill(&choice));
    choice
}

/// The prefill kernel, with the tile that many queries of this problem would get.
pub fn prefill(gpu: &Gpu, p: &Dense) -> KernelChoice {
    let many = Dense {
        queries: p.queries.max(1000),
        ..p.clone()
    };
    let portable = DeviceClass {
        tier: gpu.forced_tier().or(Some(Tier::Subgroup)),
        ..class(gpu)
    };
    let choice = tile::choose(&many, &portable).unwrap();
    assert!(is_prefill(&choice));
    choice
}

/// The kernel that the planner would not pick.
pub fn other(gpu: &Gpu, p: &Dense) -> Tuning {
    let kernel = match tile::choose(p, &class(gpu)).unwrap() {
        choice if is_prefill(&choice) => decode(gpu, p),
        _ => prefill(gpu, p),
    };
    Tuning {
        kernel: Some(kernel),
        splits: None,
        live: None,
    }
}

/// One kernel or the other.
pub fn forced(kernel: KernelChoice) -> Tuning {
    Tuning {
        kernel: Some(kernel),
        splits: None,
        live: None,
    }
}
