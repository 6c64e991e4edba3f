// e^g − 1 for four rows of the state, each with a log-decay of its own.
#import linear/decay_floor
@group(0) @binding(7) var<storage, read> log_decay: array<f32>;

fn decay_change(batch: u32, head: u32, t: u32, quad: u32) -> vec4<f32> {
    let at = params.decay_base + batch * params.decay_batch + head * params.decay_head + t * params.decay_seq;
    var g = vec4<f32>();
    for (var x = 0u; x < 4u; x++) {
        if (quad * 4u + x < HEAD_DIM) {
            g[x] = max(log_decay[at + quad * 4u + x], DECAY_FLOOR);
        }
    }
    return expm1(g);
}
