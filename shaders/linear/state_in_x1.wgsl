// The state to begin with, one element at a time. `count` is how many of the four the row has.
@group(0) @binding(5) var<storage, read> state_in: array<f32>;

fn state_in4(index: u32, count: u32) -> vec4<f32> {
    var r = vec4<f32>(state_in[index], 0.0, 0.0, 0.0);
    if (count > 1u) { r.y = state_in[index + 1u]; }
    if (count > 2u) { r.z = state_in[index + 2u]; }
    if (count > 3u) { r.w = state_in[index + 3u]; }
    return r;
}

fn state_in1(index: u32) -> f32 {
    return state_in[index];
}
