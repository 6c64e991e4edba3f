// Four neighbouring elements of row j of k and v, for cooperative matrices: stored f16, as it is. Every row starts at a
// multiple of four elements.
fn k_four(base: u32, j: u32, vec: u32) -> Held {
    return k[(base >> UNIT_SHIFT) + j * (params.k_seq >> UNIT_SHIFT) + vec];
}

fn v_four(base: u32, j: u32, vec: u32) -> Held {
    return v[(base >> UNIT_SHIFT) + j * (params.v_seq >> UNIT_SHIFT) + vec];
}
