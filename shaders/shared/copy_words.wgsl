// Copies 32-bit words from one buffer to another: short vectors that a kernel wants in one binding. A buffer copy
// would do, but needs a usage flag that a caller's buffers may not have.
struct Params {
    start: u32,
    to: u32,
    count: u32,
    padding: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> words_in: array<u32>;
@group(0) @binding(4) var<storage, read_write> words_out: array<u32>;

const THREADS = 64u;

@compute @workgroup_size(THREADS)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>) {
    for (var n = id.x; n < params.count; n += grid.x * THREADS) {
        words_out[params.to + n] = words_in[params.start + n];
    }
}
