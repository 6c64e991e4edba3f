// Four neighbouring elements of q, k and v as factors of cooperative matrices: stored f16, as it is.
fn q_factors(at: u32, vec: u32) -> vec4<f16> {
    return q[(at + vec * 4u) >> UNIT_SHIFT];
}

fn k_factors(at: u32, vec: u32) -> vec4<f16> {
    return k[(at + vec * 4u) >> UNIT_SHIFT];
}

fn v_factors(at: u32, vec: u32) -> vec4<f16> {
    return v[(at + vec * 4u) >> UNIT_SHIFT];
}
