// The final state, one element at a time. `count` is how many of the four the row has.
@group(0) @binding(6) var<storage, read_write> state_out: array<f32>;

fn store_state4(index: u32, value: vec4<f32>, count: u32) {
    state_out[index] = value.x;
    if (count > 1u) { state_out[index + 1u] = value.y; }
    if (count > 2u) { state_out[index + 2u] = value.z; }
    if (count > 3u) { state_out[index + 3u] = value.w; }
}

fn store_state1(index: u32, value: f32) {
    state_out[index] = value;
}

fn stored_state4(index: u32, count: u32) -> vec4<f32> {
    var r = vec4<f32>(state_out[index], 0.0, 0.0, 0.0);
    if (count > 1u) { r.y = state_out[index + 1u]; }
    if (count > 2u) { r.z = state_out[index + 2u]; }
    if (count > 3u) { r.w = state_out[index + 3u]; }
    return r;
}

fn stored_state1(index: u32) -> f32 {
    return state_out[index];
}
