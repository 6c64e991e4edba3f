// Additive bias, f16: two to a word. Infinities as for f32.
@group(0) @binding(6) var<storage, read> bias: array<u32>;

fn bias_at(index: u32) -> f32 {
    let bits = (bias[index >> 1u] >> ((index & 1u) * 16u)) & 0xffffu;
    if (bits == 0xfc00u) {
        return MASKED;
    }
    return unpack2x16float(bits).x;
}
