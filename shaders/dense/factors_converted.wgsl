// Four neighbouring elements of row j of k and v, for cooperative matrices: rounded to f16, whatever their storage.
fn k_four(base: u32, j: u32, vec: u32) -> Held {
    return words_of(k4(base + j * params.k_seq + vec * 4u, HEAD_DIM - vec * 4u));
}

fn v_four(base: u32, j: u32, vec: u32) -> Held {
    return words_of(v4(base + j * params.v_seq + vec * 4u, VALUE_DIM - vec * 4u));
}

// Rounded before they are packed, because packing may round in any way.
fn words_of(four: vec4<f32>) -> Held {
    let rounded = vec4<f32>(vec4<f16>(four));
    return vec2<u32>(pack2x16float(rounded.xy), pack2x16float(rounded.zw));
}
