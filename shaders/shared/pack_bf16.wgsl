// The bfloat16 nearest to an f32, ties to even, in the lower half of a word. NaN stays NaN.
fn bf16_bits(x: f32) -> u32 {
    let bits = bitcast<u32>(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        return (bits >> 16u) | 0x40u;
    }
    return (bits + 0x7fffu + ((bits >> 16u) & 1u)) >> 16u;
}

// Two of them in one word, the first in the lower half.
fn pack_pair(pair: vec2<f32>) -> u32 {
    return bf16_bits(pair.x) | (bf16_bits(pair.y) << 16u);
}

fn unpack_pair(word: u32) -> vec2<f32> {
    return bitcast<vec2<f32>>(vec2<u32>(word << 16u, word & 0xffff0000u));
}
