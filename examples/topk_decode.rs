//! Decoding over keys that are chosen once and used again: one layer scores its whole cache and keeps its selection, the
//! next layer attends to the same tokens, and so do both at the following steps, each new token joining the selection.
//! `cargo run --example topk_decode`

use wgpu::util::DeviceExt;
use wgpu_attention::compare::{self, Tolerance};
use wgpu_attention::dense::reference;
use wgpu_attention::{
    Dense, DenseInputs, DenseTensors, Extend, Gpu, GpuOptions, Layout, Strides, Tensor, TopK, TopKTensors, wgpu,
};

const HEADS: u32 = 8;
const KV_HEADS: u32 = 2;
const DIM: u32 = 64;
/// Tokens in the cache, tokens to come, and how many of the former are kept.
const CACHED: u32 = 3000;
const NEW: u32 = 5;
const KEPT: u32 = 100;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let gpu = Gpu::request_blocking(&GpuOptions::from_env()?)?;
    println!("{}", gpu.info().name);

    // Keys and values of two layers, with room for what is to come. A model would write each new token's; here they are
    // there from the start, and `keys` says how many count.
    let room = CACHED + NEW;
    let cache = Layout::Strided(Strides {
        batch: u64::from(KV_HEADS * room * DIM),
        head: u64::from(room * DIM),
        seq: u64::from(DIM),
    });
    let rows = |seed, n: u32| numbers(seed, (n * DIM) as usize);
    let layers = [1, 2].map(|l| (rows(10 * l, KV_HEADS * room), rows(10 * l + 1, KV_HEADS * room)));
    let buffers = [0, 1].map(|l: usize| (upload(&gpu, &layers[l].0), upload(&gpu, &layers[l].1)));
    let queries = rows(5, (NEW + 1) * HEADS);
    let (q, o) = (upload(&gpu, &queries), upload(&gpu, &rows(6, HEADS)));

    // The first step: of each KV head's cache the best tokens, the first four and the last sixteen in any case.
    let step = |keys| Dense {
        heads: HEADS,
        kv_heads: Some(KV_HEADS),
        keys,
        head_dim: DIM,
        causal: true,
        k_layout: cache,
        v_layout: cache,
        ..Default::default()
    };
    let choice = TopK {
        attention: step(CACHED),
        top_k: KEPT,
        per_kv_head: true,
        first: 4,
        last: 16,
        room: NEW,
        keep: true,
        ..Default::default()
    };
    let selection = choice.selection();
    let lists = buffer(
        &gpu,
        selection.words(&choice.attention) * 4,
        wgpu::BufferUsages::STORAGE,
    );

    // Everything goes into one encoder; nothing comes back in between.
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    let tensors = |layer: usize, token: u32| {
        let q = Tensor::at(&q, u64::from(token * HEADS * DIM * 4));
        DenseTensors::new(q, &buffers[layer].0, &buffers[layer].1, &o)
    };
    let first = TopKTensors {
        selection: Some((&lists).into()),
        ..TopKTensors::new(tensors(0, 0))
    };
    choice.plan(&gpu)?.encode(&mut encoder, &first)?;
    for token in 0..=NEW {
        let keys = CACHED + token;
        if token > 0 {
            let extend = Extend {
                lists: KV_HEADS,
                capacity: selection.capacity,
                held: KEPT + token - 1,
                from: keys - 1,
                to: keys,
            };
            extend.plan(&gpu)?.encode(&mut encoder, (&lists).into())?;
        }
        let attend = Dense {
            selection: Some(selection),
            ..step(keys)
        };
        let plan = attend.plan(&gpu)?;
        for layer in 0..2 {
            let tensors = DenseTensors {
                selection: Some((&lists).into()),
                ..tensors(layer, token)
            };
            plan.encode(&mut encoder, &tensors)?;
        }
    }

    // The lists and the last output, to be held against the float64 reference.
    let (lists, o): (Vec<u32>, Vec<f32>) = {
        let (a, b) = (staged(&gpu, &mut encoder, &lists), staged(&gpu, &mut encoder, &o));
        gpu.queue().submit([encoder.finish()]);
        let a = read(&gpu, &a)?;
        (
            bytemuck::pod_collect_to_vec(&a),
            bytemuck::pod_collect_to_vec(&read(&gpu, &b)?),
        )
    };
    let last = Dense {
        selection: Some(selection),
        k_layout: Layout::Bhnd,
        v_layout: Layout::Bhnd,
        ..step(room)
    };
    let inputs = DenseInputs {
        q: &queries[(NEW * HEADS * DIM) as usize..],
        k: &layers[1].0,
        v: &layers[1].1,
        selection: Some(&lists),
        ..Default::default()
    };
    let expected = reference::dense(&last, &inputs, &Default::default())?;
    let comparison = compare::output(&o, &expected.o, &Tolerance::for_dtype(last.dtype));
    println!(
        "{} of {room} tokens, {NEW} of them new since they were chosen: {comparison}",
        lists[0]
    );
    match comparison.passed() && lists[0] == KEPT + NEW {
        true => Ok(()),
        false => Err("the result is wrong".into()),
    }
}

fn buffer(gpu: &Gpu, size: u64, usage: wgpu::BufferUsages) -> wgpu::Buffer {
    gpu.device().create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size,
        usage: usage | wgpu::BufferUsages::COPY_SRC,
        mapped_at_creation: false,
    })
}

fn upload(gpu: &Gpu, values: &[f32]) -> wgpu::Buffer {
    gpu.device().create_buffer_init(&wgpu::util::BufferInitDescriptor {
        label: None,
        contents: bytemuck::cast_slice(values),
        usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC,
    })
}

/// A copy that can be read once the encoder's work is done.
fn staged(gpu: &Gpu, encoder: &mut wgpu::CommandEncoder, from: &wgpu::Buffer) -> wgpu::Buffer {
    let copy = gpu.device().create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: from.size(),
        usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    encoder.copy_buffer_to_buffer(from, 0, &copy, 0, from.size());
    copy
}

fn read(gpu: &Gpu, staged: &wgpu::Buffer) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    staged.map_async(wgpu::MapMode::Read, .., |_| ());
    gpu.device().poll(wgpu::PollType::wait_indefinitely())?;
    Ok(staged.get_mapped_range(..)?.to_vec())
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
