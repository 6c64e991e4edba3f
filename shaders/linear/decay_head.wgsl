// One log-decay g for all tokens of a head: the decay from token j to token i is e^{(i − j)·g}.
#import linear/decay_same
#import shared/numerics
#import linear/decay_floor
#import linear/forgotten
@group(0) @binding(7) var<storage, read> log_decay: array<f32>;

var<private> g: f32;

// `head` is counted from the part's first.
fn begin_decay(batch: u32, head: u32) {
    g = max(log_decay[params.decay_base + head * params.decay_head], DECAY_FLOOR);
}

// Tokens t0 to t0 + count − 1 are next; their places in the chunk count from 0.
fn begin_chunk(t0: u32, count: u32, thread: u32) {}

// From after token j to token i ≥ j of the chunk.
fn decay_between(i: u32, j: u32) -> f32 {
    return exp2(g * LOG2_E * f32(i - j));
}

// The same for four numbers of tokens between two.
fn decay_over(steps: vec4<f32>) -> vec4<f32> {
    return exp2(g * LOG2_E * steps);
}

// From before the chunk to token i.
fn decay_from_start(i: u32) -> f32 {
    return exp2(g * LOG2_E * f32(i + 1u));
}

// From after token j to the chunk's last, for four rows of the state.
fn decay_to_end(j: u32, count: u32, vec: u32) -> vec4<f32> {
    return vec4<f32>(exp2(g * LOG2_E * f32(count - 1u - j)));
}

// The log-decay of the whole chunk, for four rows of the state.
fn chunk_decay(count: u32, vec: u32) -> vec4<f32> {
    return vec4<f32>(g * f32(count));
}

// Tokens after which what was before them is forgotten.
fn memory() -> f32 {
    return FORGOTTEN / min(g, -1e-30);
}
