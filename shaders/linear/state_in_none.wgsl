// The state begins at zero.
fn state_in4(index: u32, count: u32) -> vec4<f32> {
    return vec4<f32>();
}

fn state_in1(index: u32) -> f32 {
    return 0.0;
}
