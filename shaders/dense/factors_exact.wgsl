// Four neighbouring elements of row j of k and v, for cooperative matrices: as f32, to be sliced when they are stored.
fn k_four(base: u32, j: u32, vec: u32) -> Held {
    return k4(base + j * params.k_seq + vec * 4u, HEAD_DIM - vec * 4u);
}

fn v_four(base: u32, j: u32, vec: u32) -> Held {
    return v4(base + j * params.v_seq + vec * 4u, VALUE_DIM - vec * 4u);
}
