// The state to begin with, four elements to an access.
@group(0) @binding(5) var<storage, read> state_in: array<vec4<f32>>;

fn state_in4(index: u32, count: u32) -> vec4<f32> {
    return state_in[index / 4u];
}

fn state_in1(index: u32) -> f32 {
    return state_in[index / 4u][index % 4u];
}
