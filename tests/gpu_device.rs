//! What a device holds for plans: pipelines, memory between dispatches; and what it was requested with.

mod common;

use common::{Random, gpu_with};
use wgpu_attention::dense::tile::Tuning;
use wgpu_attention::{
    Broadcast, Dense, DenseTensors, Gpu, GpuOptions, Join, JoinInputs, JoinTensors, Merge, MergeTensors, gpu,
};

fn buffer(gpu: &Gpu, values: &[f32]) -> wgpu::Buffer {
    let buffer = gpu.device().create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: values.len() as u64 * 4,
        usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC,
        mapped_at_creation: false,
    });
    gpu.queue().write_buffer(&buffer, 0, bytemuck::cast_slice(values));
    buffer
}

fn random(gpu: &Gpu, seed: u64, n: usize) -> wgpu::Buffer {
    let mut r = Random::new(seed);
    buffer(gpu, &(0..n).map(|_| r.float(-1.0, 1.0)).collect::<Vec<_>>())
}

fn encoder(gpu: &Gpu) -> wgpu::CommandEncoder {
    gpu.device().create_command_encoder(&Default::default())
}

#[test]
fn memory_that_was_let_go_of_is_taken_anew() {
    let Some(gpu) = gpu_with(|_| {}) else { return };
    let problem = Dense {
        heads: 2,
        keys: 500,
        ..Default::default()
    };
    let tuning = Tuning {
        splits: Some(4),
        ..Default::default()
    };
    let [q, k, v] = [(1, 128), (2, 64_000), (3, 64_000)].map(|(seed, n)| random(&gpu, seed, n));
    let outputs = [(); 3].map(|()| buffer(&gpu, &[f32::NAN; 128]));
    assert_eq!(gpu.workspace_bytes(), 0);
    let plan = problem.plan_with(&gpu, &tuning).unwrap();
    assert!(gpu.workspace_bytes() >= plan.workspace_bytes() && plan.workspace_bytes() > 0);

    // One call runs before, one is recorded before and runs after, one comes after.
    let call = |o| {
        let mut encoder = encoder(&gpu);
        let tensors = DenseTensors::new(&q, &k, &v, o);
        plan.encode(&mut encoder, &tensors).unwrap();
        encoder
    };
    gpu.queue().submit([call(&outputs[0]).finish()]);
    let recorded = call(&outputs[1]);
    gpu.trim();
    assert_eq!(gpu.workspace_bytes(), 0);
    gpu.queue().submit([recorded.finish()]);
    gpu.queue().submit([call(&outputs[2]).finish()]);
    assert!(gpu.workspace_bytes() >= plan.workspace_bytes());
    let [a, b, c] = outputs.map(|o| gpu.submit_and_read_blocking(encoder(&gpu), &o).unwrap());
    assert!(
        bytemuck::pod_collect_to_vec::<u8, f32>(&a)
            .iter()
            .all(|x| x.is_finite())
    );
    assert!(a == b && a == c);
}

#[test]
fn no_step_of_decoding_waits_for_a_compiler() {
    let Some(gpu) = gpu_with(|_| {}) else { return };
    let step = Dense {
        heads: 8,
        kv_heads: Some(2),
        head_dim: 32,
        causal: true,
        ..Default::default()
    };
    let masked = Dense {
        mask: Some(Broadcast {
            per_batch: false,
            per_head: false,
            per_query: false,
        }),
        ..step.clone()
    };
    let few = Dense {
        queries: 3,
        window_left: Some(100),
        ..step.clone()
    };
    for problem in [step, masked, few] {
        let kinds = problem.compile(&gpu, 3..=700).unwrap();
        let compiled = gpu.pipeline_count();
        assert!(0 < kinds && kinds <= compiled, "{kinds} of {compiled}");
        for keys in 3..=700 {
            let plan = Dense {
                keys,
                ..problem.clone()
            }
            .plan(&gpu)
            .unwrap();
            assert_eq!(gpu.pipeline_count(), compiled, "{keys} keys: {}", plan.label());
        }
    }
}

#[test]
fn ranges_without_a_plan_are_refused() {
    let Some(gpu) = gpu_with(|_| {}) else { return };
    #[expect(clippy::reversed_empty_ranges)]
    let error = Dense::default().compile(&gpu, 5..=4).unwrap_err().to_string();
    assert_eq!(error, "`keys` is 5..=4; allowed: a range with at least one number");
    let error = Dense::default().compile(&gpu, 0..=4).unwrap_err().to_string();
    assert!(error.starts_with("`keys` is 0"), "{error}");
}

/// The adapter in use, and a device of it requested as the library would, with more features.
fn own_device(more: wgpu::Features) -> Option<(wgpu::Adapter, wgpu::Device, wgpu::Queue)> {
    gpu_with(|_| {})?;
    let adapters = pollster::block_on(gpu::adapters(&GpuOptions::from_env().unwrap())).unwrap();
    let adapter = adapters.into_iter().next().unwrap();
    let mut descriptor = gpu::device_descriptor(&adapter);
    descriptor.required_features |= more & adapter.features();
    let (device, queue) = pollster::block_on(adapter.request_device(&descriptor)).unwrap();
    Some((adapter, device, queue))
}

#[test]
fn a_device_of_ones_own_can_do_as_much() {
    let Some(library) = gpu_with(|_| {}) else { return };
    let Some((adapter, device, queue)) = own_device(wgpu::Features::empty()) else {
        return;
    };
    let own = Gpu::of_adapter(&adapter, &device, &queue);
    assert_eq!(own.info().name, library.info().name);
    assert_eq!(own.abilities(), library.abilities());
    assert_eq!(own.features(), library.features());
    assert_eq!(own.limits(), library.limits());
}

#[test]
fn pipelines_go_through_the_callers_cache() {
    let Some((adapter, device, queue)) = own_device(wgpu::Features::PIPELINE_CACHE) else {
        return;
    };
    if !device.features().contains(wgpu::Features::PIPELINE_CACHE) {
        eprintln!("nothing to test: no pipeline caches");
        return;
    }
    let created = |data: Option<&[u8]>| {
        let descriptor = wgpu::PipelineCacheDescriptor {
            label: None,
            data,
            fallback: true,
        };
        // SAFETY: the data are what `get_data` gave, or none.
        unsafe { device.create_pipeline_cache(&descriptor) }
    };
    let cache = created(None);
    let gpu = Gpu::of_adapter(&adapter, &device, &queue).with_pipeline_cache(&cache);
    let problem = Dense {
        queries: 40,
        keys: 40,
        head_dim: 20,
        ..Default::default()
    };
    let run = |gpu: &Gpu| {
        let values = vec![0.5; 40 * 20];
        let inputs = wgpu_attention::DenseInputs {
            q: &values,
            k: &values,
            v: &values,
            ..Default::default()
        };
        problem.plan(gpu).unwrap().run_blocking(&inputs).unwrap().o
    };
    let o = run(&gpu);
    // Whether it holds more now is the driver's business: llvmpipe's has a header only.
    let data = cache.get_data().expect("a cache");
    // A new `Gpu` has no pipelines yet; those of the saved cache are as good.
    let saved = created(Some(&data));
    let again = Gpu::of_adapter(&adapter, &device, &queue).with_pipeline_cache(&saved);
    assert_eq!(run(&again), o);
    assert!(o.iter().all(|x| (x - 0.5).abs() < 1e-6));
}

/// As in a pass of their own.
#[test]
fn merges_and_joins_share_a_pass() {
    let Some(gpu) = gpu_with(|_| {}) else { return };
    let merge = Merge {
        additive: true,
        parts: 3,
        queries: 5,
        value_dim: 7,
        ..Default::default()
    };
    let join = Join {
        segments: 3,
        head_dim: 4,
        ..Default::default()
    };
    let mut r = Random::new(7);
    let states: Vec<f32> = (0..3 * 16).map(|_| r.float(-1.0, 1.0)).collect();
    let (merge_plan, join_plan) = (merge.plan(&gpu).unwrap(), join.plan(&gpu).unwrap());
    let expected = join_plan
        .run_blocking(&JoinInputs {
            states: &states,
            total_decay: None,
            initial_state: None,
        })
        .unwrap();
    let parts = random(&gpu, 8, 3 * 35);
    let outputs = [(); 2].map(|()| buffer(&gpu, &[f32::NAN; 35]));
    let joined = buffer(&gpu, &states);
    let tensors = |o| MergeTensors {
        parts_o: (&parts).into(),
        parts_lse: None,
        o,
        lse: None,
    };
    let mut together = encoder(&gpu);
    merge_plan
        .encode(&mut together, &tensors((&outputs[0]).into()))
        .unwrap();
    let mut pass = together.begin_compute_pass(&Default::default());
    merge_plan.encode_in(&mut pass, &tensors((&outputs[1]).into())).unwrap();
    let states = JoinTensors {
        states: (&joined).into(),
        total_decay: None,
        initial_state: None,
        final_state: None,
    };
    join_plan.encode_in(&mut pass, &states).unwrap();
    drop(pass);
    let bytes = gpu.submit_and_read_blocking(together, &joined).unwrap();
    assert_eq!(bytemuck::pod_collect_to_vec::<u8, f32>(&bytes), expected.states);
    let [apart, together] = outputs.map(|o| gpu.submit_and_read_blocking(encoder(&gpu), &o).unwrap());
    assert_eq!(apart, together);
    assert!(
        bytemuck::pod_collect_to_vec::<u8, f32>(&apart)
            .iter()
            .all(|x| x.is_finite())
    );
}
