// Eight neighbouring elements of q_i, k_j and v_j, for cooperative matrices: stored f16, as it is, where φ is the identity. Every row
// starts at a multiple of eight elements.
fn q_eight(base: u32, i: u32, eight: u32) -> vec4<u32> {
    return q[(base >> UNIT_SHIFT) + i * (params.q_seq >> UNIT_SHIFT) + eight];
}

fn k_eight(base: u32, j: u32, eight: u32) -> vec4<u32> {
    return k[(base >> UNIT_SHIFT) + j * (params.k_seq >> UNIT_SHIFT) + eight];
}

fn v_eight(base: u32, j: u32, eight: u32) -> vec4<u32> {
    return v[(base >> UNIT_SHIFT) + j * (params.v_seq >> UNIT_SHIFT) + eight];
}
