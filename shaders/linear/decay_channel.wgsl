// A log-decay g_td for each token and channel: inside the product φ(q_i)·φ(k_j), channel d is multiplied by
// e^{G_id − G_jd}, G the running sum inside the chunk. Never e^{G_i}·e^{−G_j}, the second of which overflows.
//
// Each sum is one f32: after a decay of −8 early in the chunk the weights of later tokens are accurate to 1e-6, after one
// that wipes the channel out (−104) to 1e-5 for every such token in the chunk.
#import shared/numerics
#import linear/decay_floor
@group(0) @binding(7) var<storage, read> log_decay: array<f32>;

const CHANNEL_DECAY = true;

var<workgroup> running: array<vec4<f32>, CHUNK_TOKENS * HEAD_QUADS>;
var<private> decay_row: u32;

fn begin_decay(batch: u32, head: u32) {
    decay_row = params.decay_base + batch * params.decay_batch + head * params.decay_head;
}

fn begin_chunk(t0: u32, count: u32, thread: u32) {
    // The chunk before may still be read.
    workgroupBarrier();
    for (var d = thread; d < HEAD_QUADS * 4u; d += THREADS) {
        var sum = 0.0;
        for (var t = 0u; t < CHUNK_TOKENS; t++) {
            if (t < count && d < HEAD_DIM) {
                sum += max(log_decay[decay_row + (t0 + t) * params.decay_seq + d], DECAY_FLOOR);
            }
            running[t * HEAD_QUADS + d / 4u][d % 4u] = sum;
        }
    }
    workgroupBarrier();
}

fn decay_between_channels(i: u32, j: u32, vec: u32) -> vec4<f32> {
    return exp2(min(running[i * HEAD_QUADS + vec] - running[j * HEAD_QUADS + vec], vec4<f32>()) * LOG2_E);
}

fn decay_from_start_channels(i: u32, vec: u32) -> vec4<f32> {
    return exp2(running[i * HEAD_QUADS + vec] * LOG2_E);
}

fn decay_to_end(j: u32, count: u32, vec: u32) -> vec4<f32> {
    return exp2((running[(count - 1u) * HEAD_QUADS + vec] - running[j * HEAD_QUADS + vec]) * LOG2_E);
}

fn chunk_decay(count: u32, vec: u32) -> vec4<f32> {
    return running[(count - 1u) * HEAD_QUADS + vec];
}

// Decay is inside the products already.
fn decay_between(i: u32, j: u32) -> f32 {
    return 1.0;
}

fn decay_from_start(i: u32) -> f32 {
    return 1.0;
}
