// e^g − 1 for four rows of the state, which have the head's log-decay in common.
#import linear/decay_floor
@group(0) @binding(7) var<storage, read> log_decay: array<f32>;

fn decay_change(batch: u32, head: u32, t: u32, quad: u32) -> vec4<f32> {
    return expm1(vec4<f32>(max(log_decay[params.decay_base + head * params.decay_head], DECAY_FLOOR)));
}
