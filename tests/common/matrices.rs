//! What the tests of kernels on cooperative matrices share: the device, what f16 factors allow, and one checked run.

use wgpu_attention::compare::{self, Tolerance};
use wgpu_attention::dense::reference;
use wgpu_attention::dense::tile::Tuning;
use wgpu_attention::{DType, Dense, DenseInputs, DenseOutput, Error, Gpu, GpuOptions, Tier, gpu};

use super::{Inputs, Random, draw, property};

/// The device with what its matrices and subgroups are; `None` where it has no matrices, and is seen to refuse the tier.
pub fn matrices(gpu: &Gpu) -> Option<(u32, (u32, u32))> {
    let abilities = gpu.abilities();
    let Some(edge) = abilities.matrices else {
        let error = gpu.with_tier(Tier::Cooperative).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
        println!("{}: no cooperative matrices", super::describe(gpu));
        return None;
    };
    println!("{}: matrices of {edge}", super::describe(gpu));
    Some((edge, abilities.subgroups.expect("matrices come with subgroups")))
}

/// The device without what kernels get at elements of matrices by; `None` where it has no such thing anyway.
pub fn without_elements(gpu: &Gpu) -> Option<Gpu> {
    gpu.abilities().elements?;
    let adapters = pollster::block_on(gpu::adapters(&GpuOptions::from_env().unwrap())).unwrap();
    let mut descriptor = gpu::device_descriptor(&adapters[0]);
    descriptor.required_features.remove(wgpu::Features::PASSTHROUGH_SHADERS);
    let (device, queue) = pollster::block_on(adapters[0].request_device(&descriptor)).unwrap();
    let without = Gpu::of_adapter(&adapters[0], &device, &queue);
    assert_eq!(without.abilities().elements, None);
    assert_eq!(without.abilities().matrices, gpu.abilities().matrices);
    Some(without)
}

/// Whether a processor emulates the matrices: loops over them need not be written out then, and had better not be.
pub fn emulated(gpu: &Gpu) -> bool {
    gpu.info().device_type == wgpu::DeviceType::Cpu
}

/// A share of the random problems (`property::share`): a smaller one where matrices are emulated, because each option set compiles
/// a kernel there for several seconds.
pub fn share(set: impl Fn(&Gpu, &str, &mut Random) -> Vec<Result<(), String>>) {
    let Some(gpu) = super::gpu() else { return };
    if matrices(&gpu).is_none() {
        return;
    }
    property::share(0, if emulated(&gpu) { 15 } else { 6 }, set);
}

/// Whether matrices load from arrays of scalars as they should. The planner makes use of that on Metal only; an NVIDIA driver
/// (580.159.04) gives wrong results.
pub fn scalars_work(gpu: &Gpu) -> bool {
    gpu.info().backend == wgpu::Backend::Metal || emulated(gpu)
}

/// Where f16 factors may be used, they set the bounds.
pub fn tolerance(p: &Dense) -> Tolerance {
    match p.dtype {
        DType::F32 if p.reduced_precision => Tolerance::for_dtype(match p.output_dtype() {
            DType::F32 => DType::F16,
            other => other,
        }),
        _ => super::tolerance(p),
    }
}

/// As [`tolerance`], of a run on random inputs, against the reference.
pub fn check(name: &str, gpu: &Gpu, p: &Dense, inputs: &Inputs, tuning: &Tuning) -> DenseOutput<f32> {
    let plan = p
        .plan_with(gpu, tuning)
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(plan.tier(), Tier::Cooperative, "{name}");
    let output = inputs.with(|inputs| plan.run_blocking(inputs)).unwrap();
    let result = compare::dense(&output, &super::truth(p, inputs, &Default::default()), &tolerance(p));
    println!("{name}: {result}");
    assert!(result.passed(), "{name}: {result}\n{p:?}\n{tuning:?}");
    output
}

/// The reference's answer with q, k and v as f16 has them.
pub fn of_rounded(p: &Dense, inputs: &DenseInputs<'_>) -> DenseOutput<f64> {
    let [q, k, v] = [inputs.q, inputs.k, inputs.v].map(|values| {
        let rounded = values.iter().map(|x| super::rounded(*x, DType::F16));
        rounded.collect::<Vec<_>>()
    });
    let rounded = DenseInputs {
        q: &q,
        k: &k,
        v: &v,
        ..*inputs
    };
    reference::dense(p, &rounded, &Default::default()).unwrap()
}

/// Four problems of these options, of sizes around a tile's rows and keys, against the reference: how each went.
pub fn drawn(
    gpu: &Gpu,
    name: &str,
    options: &Dense,
    edges: (u32, u32),
    tuning: &Tuning,
    r: &mut Random,
) -> Vec<Result<(), String>> {
    let one = |size| {
        let p = draw::sizes(options, edges, r);
        let inputs = draw::inputs(&p, r);
        let expected = draw::with_twins(&p, &inputs, |hooks| super::truth(&p, &inputs, hooks));
        let output = super::run(gpu, &p, &inputs, tuning).map_err(|e| format!("{name}-{size}: {e}\n{p:?}"))?;
        let result = compare::dense(&output, &expected, &tolerance(&p));
        if result.passed() {
            return Ok(());
        }
        Err(format!("{name}-{size}: {result}\n  {tuning:?}\n  {p:?}"))
    };
    (0..4).map(one).collect()
}
