// Four neighbouring elements of q, and of row j of k and v, for cooperative matrices: stored f16, as it is. Every row starts
// at a multiple of four elements. Places in k and v are counted in fours, and grow with j by the same amount.
fn q_factors(at: u32, vec: u32) -> vec4<f16> {
    return vec4<f16>(widen(q[(at >> UNIT_SHIFT) + vec]));
}

fn k_place(base: u32, j: u32, vec: u32) -> u32 {
    return (base >> UNIT_SHIFT) + j * (params.k_seq >> UNIT_SHIFT) + vec;
}

fn k_words(place: u32, vec: u32) -> vec2<u32> {
    return k[place];
}

fn v_place(base: u32, j: u32, vec: u32) -> u32 {
    return (base >> UNIT_SHIFT) + j * (params.v_seq >> UNIT_SHIFT) + vec;
}

fn v_words(place: u32, vec: u32) -> vec2<u32> {
    return v[place];
}
