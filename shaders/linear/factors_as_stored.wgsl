// Four neighbouring elements of q_i, k_j and v_j, for cooperative matrices: stored f16, as it is, where φ is the identity. Every row
// starts at a multiple of four elements.
fn q_four(base: u32, i: u32, vec: u32) -> Held {
    return q[(base >> UNIT_SHIFT) + i * (params.q_seq >> UNIT_SHIFT) + vec];
}

fn k_four(base: u32, j: u32, vec: u32) -> Held {
    return k[(base >> UNIT_SHIFT) + j * (params.k_seq >> UNIT_SHIFT) + vec];
}

fn v_four(base: u32, j: u32, vec: u32) -> Held {
    return v[(base >> UNIT_SHIFT) + j * (params.v_seq >> UNIT_SHIFT) + vec];
}
