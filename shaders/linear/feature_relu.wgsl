// φ(x) = max(x, 0)
fn feature4(x: vec4<f32>, at: Channel) -> vec4<f32> {
    return max(x, vec4<f32>());
}
