// Log-sum-exp of the parts.
@group(0) @binding(2) var<storage, read> parts_lse: array<u32>;

fn part_lse(index: u32) -> f32 {
    let bits = parts_lse[index];
    if (bits == NEGATIVE_INFINITY_BITS) {
        return MASKED;
    }
    return bitcast<f32>(bits);
}
