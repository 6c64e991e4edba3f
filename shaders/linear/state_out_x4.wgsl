// The final state, four elements to an access.
@group(0) @binding(6) var<storage, read_write> state_out: array<vec4<f32>>;

fn store_state4(index: u32, value: vec4<f32>, count: u32) {
    state_out[index / 4u] = value;
}

fn store_state1(index: u32, value: f32) {
    state_out[index / 4u][index % 4u] = value;
}

fn stored_state4(index: u32, count: u32) -> vec4<f32> {
    return state_out[index / 4u];
}

fn stored_state1(index: u32) -> f32 {
    return state_out[index / 4u][index % 4u];
}
