// Four neighbouring elements of q, and of row j of k and v, for cooperative matrices: stored f16, as it is. Every row starts
// at a multiple of four elements.
fn q_factors(at: u32, vec: u32) -> vec4<f16> {
    return vec4<f16>(widen(q[(at >> UNIT_SHIFT) + vec]));
}

fn k_words(base: u32, j: u32, vec: u32) -> vec2<u32> {
    return k[(base >> UNIT_SHIFT) + j * (params.k_seq >> UNIT_SHIFT) + vec];
}

fn v_words(base: u32, j: u32, vec: u32) -> vec2<u32> {
    return v[(base >> UNIT_SHIFT) + j * (params.v_seq >> UNIT_SHIFT) + vec];
}
