// Four neighbouring elements of row j of k and v, for cooperative matrices: stored bf16, as it is, where rows start anywhere.
fn bf16_words(four: vec4<f32>) -> Held {
    let bits = bitcast<vec4<u32>>(four);
    return vec2<u32>(bits.x >> 16u, bits.z >> 16u) | (bits.yw & vec2<u32>(0xffff0000u));
}

fn k_four(base: u32, j: u32, vec: u32) -> Held {
    return bf16_words(k4(base + j * params.k_seq + vec * 4u, HEAD_DIM - vec * 4u));
}

fn v_four(base: u32, j: u32, vec: u32) -> Held {
    return bf16_words(v4(base + j * params.v_seq + vec * 4u, VALUE_DIM - vec * 4u));
}
