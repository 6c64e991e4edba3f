// No decay.
#import linear/decay_same
fn begin_decay(batch: u32, head: u32) {}

fn begin_chunk(t0: u32, count: u32, thread: u32) {}

fn decay_between(i: u32, j: u32) -> f32 {
    return 1.0;
}

fn decay_over(steps: vec4<f32>) -> vec4<f32> {
    return vec4<f32>(1.0);
}

fn decay_from_start(i: u32) -> f32 {
    return 1.0;
}

fn decay_to_end(j: u32, count: u32, vec: u32) -> vec4<f32> {
    return vec4<f32>(1.0);
}

fn chunk_decay(count: u32, vec: u32) -> vec4<f32> {
    return vec4<f32>();
}

// Tokens after which what was before them is forgotten: never.
fn memory() -> f32 {
    return 3e38;
}
