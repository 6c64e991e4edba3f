//! Attention on a device, in buffers and in a command encoder that are the caller's own, as in a program that runs
//! the rest of a model there too. `cargo run --example quickstart`

use wgpu_attention::compare::{self, Tolerance};
use wgpu_attention::dense::reference;
use wgpu_attention::{Dense, DenseInputs, DenseTensors, Gpu};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    pollster::block_on(run())
}

async fn run() -> Result<(), Box<dyn std::error::Error>> {
    // A device, made the ordinary way. No feature and no raised limit is needed.
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapter = instance.request_adapter(&Default::default()).await?;
    let (device, queue) = adapter.request_device(&Default::default()).await?;

    // Once: what to compute, and a plan for this device. Eight query heads share two heads of keys and values.
    let problem = Dense {
        heads: 8,
        kv_heads: Some(2),
        queries: 300,
        keys: 300,
        head_dim: 64,
        causal: true,
        ..Default::default()
    };
    let gpu = Gpu::new(&device, &queue);
    let plan = problem.plan(&gpu)?;

    // Buffers, as the layers before and after would have them.
    let q = numbers(1, 8 * 300 * 64);
    let k = numbers(2, 2 * 300 * 64);
    let v = numbers(3, 2 * 300 * 64);
    let (q_buffer, k_buffer, v_buffer) = (upload(&device, &q), upload(&device, &k), upload(&device, &v));
    let o_buffer = buffer(
        &device,
        q_buffer.size(),
        wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC,
    );

    // As often as needed: record a call among the other work, and submit it all.
    let mut encoder = device.create_command_encoder(&Default::default());
    let tensors = DenseTensors::new(&q_buffer, &k_buffer, &v_buffer, &o_buffer);
    plan.encode(&mut encoder, &tensors)?;
    let readable = buffer(
        &device,
        o_buffer.size(),
        wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
    );
    encoder.copy_buffer_to_buffer(&o_buffer, 0, &readable, 0, o_buffer.size());
    queue.submit([encoder.finish()]);

    // A model would go on with `o_buffer`. Here it comes back, to be held against the float64 reference.
    readable.map_async(wgpu::MapMode::Read, .., |_| ());
    device.poll(wgpu::PollType::wait_indefinitely())?;
    let o: Vec<f32> = bytemuck::pod_collect_to_vec(&readable.get_mapped_range(..)?);
    let inputs = DenseInputs {
        q: &q,
        k: &k,
        v: &v,
        ..Default::default()
    };
    let expected = reference::dense(&problem, &inputs, &Default::default())?;
    let comparison = compare::output(&o, &expected.o, &Tolerance::for_dtype(problem.dtype));
    println!("{} on {}", plan.label(), gpu.info().name);
    println!("{comparison}");
    match comparison.passed() {
        true => Ok(()),
        false => Err("the result is wrong".into()),
    }
}

fn buffer(device: &wgpu::Device, size: u64, usage: wgpu::BufferUsages) -> wgpu::Buffer {
    device.create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size,
        usage,
        mapped_at_creation: false,
    })
}

fn upload(device: &wgpu::Device, values: &[f32]) -> wgpu::Buffer {
    use wgpu::util::DeviceExt;
    device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
        label: None,
        contents: bytemuck::cast_slice(values),
        usage: wgpu::BufferUsages::STORAGE,
    })
}

/// Pseudo-random numbers from −1 to 1.
fn numbers(seed: u32, n: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}
