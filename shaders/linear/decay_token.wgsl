// A log-decay g_t for each token: the decay from token j to token i is e^{G_i − G_j}, G the running sum inside the
// chunk. Each sum is kept as two numbers whose exact sum it is, so that a strong decay early in the chunk (G far from
// 0) leaves the differences after it as accurate as they would be without.
#import linear/decay_same
#import shared/numerics
#import linear/decay_floor
#import linear/two_sum
@group(0) @binding(7) var<storage, read> log_decay: array<f32>;

var<workgroup> token_decays: array<vec4<f32>, CHUNK_TOKENS / 4u>;
var<workgroup> running: array<vec2<f32>, CHUNK_TOKENS>;
var<private> decay_row: u32;

fn begin_decay(batch: u32, head: u32) {
    decay_row = params.decay_base + batch * params.decay_batch + head * params.decay_head;
}

fn begin_chunk(t0: u32, count: u32, thread: u32) {
    for (var quad = thread; quad < CHUNK_TOKENS / 4u; quad += THREADS) {
        var value = vec4<f32>();
        for (var n = 0u; n < 4u; n++) {
            let t = quad * 4u + n;
            if (t < count) {
                value[n] = max(log_decay[decay_row + (t0 + t) * params.decay_seq], DECAY_FLOOR);
            }
        }
        token_decays[quad] = value;
    }
    workgroupBarrier();
    for (var i = thread; i < CHUNK_TOKENS; i += THREADS) {
        var sum = vec2<f32>();
        for (var quad = 0u; quad <= i / 4u; quad++) {
            let value = select(vec4<f32>(), token_decays[quad], vec4<u32>(0u, 1u, 2u, 3u) + quad * 4u <= vec4<u32>(i));
            sum = add_exactly(sum, value.x);
            sum = add_exactly(sum, value.y);
            sum = add_exactly(sum, value.z);
            sum = add_exactly(sum, value.w);
        }
        running[i] = sum;
    }
    workgroupBarrier();
}

fn decay_between(i: u32, j: u32) -> f32 {
    let d = running[i] - running[j];
    return exp2((d.x + d.y) * LOG2_E);
}

fn decay_from_start(i: u32) -> f32 {
    return exp2((running[i].x + running[i].y) * LOG2_E);
}

fn decay_to_end(j: u32, count: u32, vec: u32) -> vec4<f32> {
    let d = running[count - 1u] - running[j];
    return vec4<f32>(exp2((d.x + d.y) * LOG2_E));
}

fn chunk_decay(count: u32, vec: u32) -> vec4<f32> {
    return vec4<f32>(running[count - 1u].x + running[count - 1u].y);
}
