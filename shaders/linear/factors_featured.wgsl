// Four neighbouring elements of φ(q_i), φ(k_j) and v_j, for cooperative matrices: rounded to f16, whatever their storage.
fn q_four(base: u32, i: u32, vec: u32) -> Held {
    return words_of(unscaled_feature_q(base, head, i, vec));
}

fn k_four(base: u32, j: u32, vec: u32) -> Held {
    return words_of(feature_k(base, kv_head, j, vec));
}

fn v_four(base: u32, j: u32, vec: u32) -> Held {
    return words_of(v4(base + j * params.v_seq + vec * 4u, VALUE_DIM - vec * 4u));
}
