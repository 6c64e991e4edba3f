// The state to begin with lies where the final one goes.
fn state_in4(index: u32, count: u32) -> vec4<f32> {
    return stored_state4(index, count);
}

fn state_in1(index: u32) -> f32 {
    return stored_state1(index);
}
