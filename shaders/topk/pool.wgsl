// What stands for each block of keys: its mean, or the maximum and the minimum of each component.
//
//   mean_ed = Σ_j k_jd / n      max_ed = max_j k_jd,  min_ed = min_j k_jd
//
// over the n keys j of block e: those from e·block_size on, block_size of them as far as there are keys.
//
// One invocation takes four neighbouring components of one block; x runs over the vectors of a block, then the blocks
// from `first_block` on, round after round where the grid is too short; y over KV heads, z over batch entries.
// A block without keys is 0, and so are the components past the end of a key.
//
//   k        [batch, KV heads, keys, HEAD_DIM], strided
//   pooled   [batch, KV heads, room, VECS or 2·VECS] vectors, contiguous

struct Params {
    first_block: u32,
    block_count: u32,
    block_size: u32,
    keys: u32,

    k_base: u32,
    k_batch: u32,
    k_head: u32,
    k_seq: u32,

    pooled_base: u32,
    pooled_batch: u32,
    pooled_head: u32,
    kv_len_base: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(4) var<storage, read_write> pooled: array<vec4<f32>>;

const THREADS = 64u;
const VECS = (HEAD_DIM + 3u) / 4u;
// Keys added up at once, and keys that share a partial sum: the error of a long block grows with its runs, not with its
// keys.
const LANES = 4u;
const RUN = 64u;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(local_invocation_index) thread: u32) {
    let keys = keys_of(workgroup.z);
    let k_from = params.k_base + workgroup.z * params.k_batch + workgroup.y * params.k_head;
    let to = (params.pooled_base + workgroup.z * params.pooled_batch + workgroup.y * params.pooled_head) / 4u;
    for (var n = workgroup.x * THREADS + thread; n < params.block_count * VECS; n += grid.x * THREADS) {
        let block = params.first_block + n / VECS;
        let vec = n % VECS;
        let start = block * params.block_size;
        let end = min(start + params.block_size, keys);
        if (BOUNDS) {
            let found = bounds(k_from + vec * 4u, vec, start, end);
            pooled[to + block * 2u * VECS + vec] = found.high;
            pooled[to + block * 2u * VECS + VECS + vec] = found.low;
        } else {
            pooled[to + block * VECS + vec] = mean(k_from + vec * 4u, vec, start, end);
        }
    }
}

fn mean(k_from: u32, vec: u32, start: u32, end: u32) -> vec4<f32> {
    if (start >= end) {
        return vec4<f32>();
    }
    var sum = vec4<f32>();
    for (var run = start; run < end; run += RUN) {
        let run_end = min(run + RUN, end);
        var lanes: array<vec4<f32>, LANES>;
        #unroll
        for (var x = 0u; x < LANES; x++) {
            lanes[x] = vec4<f32>();
        }
        for (var j = run; j < run_end; j += LANES) {
            #unroll
            for (var x = 0u; x < LANES; x++) {
                if (j + x < run_end) {
                    lanes[x] += k4(k_from + (j + x) * params.k_seq, HEAD_DIM - vec * 4u);
                }
            }
        }
        sum += (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
    }
    return sum / f32(end - start);
}

struct Bounds {
    high: vec4<f32>,
    low: vec4<f32>,
}

fn bounds(k_from: u32, vec: u32, start: u32, end: u32) -> Bounds {
    if (start >= end) {
        return Bounds(vec4<f32>(), vec4<f32>());
    }
    let first = k4(k_from + start * params.k_seq, HEAD_DIM - vec * 4u);
    var found = Bounds(first, first);
    for (var j = start + 1u; j < end; j += LANES) {
        #unroll
        for (var x = 0u; x < LANES; x++) {
            // The last key again, where there are no more.
            let key = k4(k_from + min(j + x, end - 1u) * params.k_seq, HEAD_DIM - vec * 4u);
            found.high = max(found.high, key);
            found.low = min(found.low, key);
        }
    }
    return found;
}
