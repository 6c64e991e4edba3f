// Additive bias, f32. Infinities are taken apart by their bits: shaders may assume that no number is one.
@group(0) @binding(6) var<storage, read> bias: array<u32>;

fn bias_at(index: u32) -> f32 {
    let bits = bias[index];
    if (bits == NEGATIVE_INFINITY_BITS) {
        return MASKED;
    }
    return bitcast<f32>(bits);
}
