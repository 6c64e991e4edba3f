//! Decoding with caches that have room for more than is in them, both ways: a plan for each step, and one plan for all.
//! `cargo run --example decode`

use wgpu::util::DeviceExt;
use wgpu_attention::compare::{self, Tolerance};
use wgpu_attention::dense::reference;
use wgpu_attention::{Dense, DenseInputs, DenseTensors, Gpu, GpuOptions, Layout, Strides, Tensor, wgpu};

const HEADS: u32 = 8;
const KV_HEADS: u32 = 2;
const DIM: u32 = 64;
/// Tokens of two prompts, tokens to come, and those that a cache has room for.
const PROMPTS: [u32; 2] = [300, 45];
const STEPS: u32 = 4;
const ROOM: u32 = 512;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let gpu = Gpu::request_blocking(&GpuOptions::from_env()?)?;
    println!("{}", gpu.info().name);

    // The caches, [2, KV_HEADS, ROOM, DIM]. A model would write each new token's row; here they are there from the start, and
    // lengths say how many count.
    let k = numbers(1, 2 * KV_HEADS * ROOM * DIM);
    let v = numbers(2, 2 * KV_HEADS * ROOM * DIM);
    let (k_buffer, v_buffer) = (upload(&gpu, &k), upload(&gpu, &v));
    let strides = Strides {
        batch: u64::from(KV_HEADS * ROOM * DIM),
        head: u64::from(ROOM * DIM),
        seq: u64::from(DIM),
    };
    let step = Dense {
        heads: HEADS,
        kv_heads: Some(KV_HEADS),
        head_dim: DIM,
        causal: true,
        k_layout: Layout::Strided(strides),
        v_layout: Layout::Strided(strides),
        ..Default::default()
    };

    // One plan for all steps and both texts: `keys` is the room, and a tensor says how much of it counts.
    let all = Dense {
        batch: 2,
        keys: ROOM,
        kv_len: true,
        ..step.clone()
    };
    let plan_of_all = all.plan(&gpu)?;
    // A plan for each step and text: whatever their number of keys takes is compiled now, not in the midst of a text.
    let kinds = step.compile(&gpu, 1..=ROOM)?;
    println!("caches of 1 to {ROOM} keys take {kinds} kinds of plans");

    for token in 1..=STEPS {
        let lengths = PROMPTS.map(|prompt| prompt + token);
        let q = numbers(10 + token, 2 * HEADS * DIM);
        let q_buffer = upload(&gpu, &q);
        let lengths_buffer = upload(&gpu, &lengths.map(|n| n as i32));
        let outputs = [(); 2].map(|()| upload(&gpu, &vec![f32::NAN; q.len()]));

        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        let tensors = DenseTensors {
            kv_len: Some((&lengths_buffer).into()),
            ..DenseTensors::new(&q_buffer, &k_buffer, &v_buffer, &outputs[0])
        };
        plan_of_all.encode(&mut encoder, &tensors)?;
        for (text, keys) in lengths.into_iter().enumerate() {
            let plan = Dense { keys, ..step.clone() }.plan(&gpu)?;
            let row = |buffer, elements: u64| Tensor::at(buffer, text as u64 * elements * 4);
            let tensors = DenseTensors::new(
                row(&q_buffer, u64::from(HEADS * DIM)),
                row(&k_buffer, strides.batch),
                row(&v_buffer, strides.batch),
                row(&outputs[1], u64::from(HEADS * DIM)),
            );
            plan.encode(&mut encoder, &tensors)?;
        }
        gpu.queue().submit([encoder.finish()]);

        // Both against the float64 reference.
        let kv_len = lengths.map(|n| n as i32);
        let inputs = DenseInputs {
            q: &q,
            k: &k,
            v: &v,
            kv_len: Some(&kv_len),
            ..Default::default()
        };
        let expected = reference::dense(
            &Dense {
                k_layout: Layout::Bhnd,
                v_layout: Layout::Bhnd,
                ..all.clone()
            },
            &inputs,
            &reference::Hooks::default(),
        )?;
        for (way, output) in ["one plan", "a plan a step"].iter().zip(&outputs) {
            let encoder = gpu.device().create_command_encoder(&Default::default());
            let bytes = gpu.submit_and_read_blocking(encoder, output)?;
            let o: Vec<f32> = bytemuck::pod_collect_to_vec(&bytes);
            let found = compare::output(&o, &expected.o, &Tolerance::for_dtype(all.dtype));
            println!("{lengths:?} keys, {way:13}  {found}");
            if !found.passed() {
                return Err(format!("{way} is wrong").into());
            }
        }
    }
    Ok(())
}

/// Numbers from −1 to 1.
fn numbers(seed: u32, n: u32) -> Vec<f32> {
    let number = |i: u32| ((i.wrapping_mul(2_654_435_761).wrapping_add(seed * 7919) >> 8) % 2001) as f32 / 1000.0 - 1.0;
    (0..n).map(number).collect()
}

fn upload<T: bytemuck::Pod>(gpu: &Gpu, values: &[T]) -> wgpu::Buffer {
    gpu.device().create_buffer_init(&wgpu::util::BufferInitDescriptor {
        label: None,
        contents: bytemuck::cast_slice(values),
        usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC,
    })
}
