// Four neighbouring elements of row j of k and v, for cooperative matrices: rounded to f16, whatever their storage.
fn k_four(base: u32, j: u32, vec: u32) -> Held {
    return words_of(k4(base + j * params.k_seq + vec * 4u, HEAD_DIM - vec * 4u));
}

fn v_four(base: u32, j: u32, vec: u32) -> Held {
    return words_of(v4(base + j * params.v_seq + vec * 4u, VALUE_DIM - vec * 4u));
}
