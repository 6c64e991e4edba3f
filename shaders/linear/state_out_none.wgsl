// The final state is not kept.
fn store_state4(index: u32, value: vec4<f32>, count: u32) {}

fn store_state1(index: u32, value: f32) {}

fn stored_state4(index: u32, count: u32) -> vec4<f32> {
    return vec4<f32>();
}

fn stored_state1(index: u32) -> f32 {
    return 0.0;
}
