// Four neighbouring elements of q, k and v as factors of cooperative matrices: rounded to f16, whatever their storage.
fn q_factors(at: u32, vec: u32) -> vec4<f16> {
    return vec4<f16>(q4(at + vec * 4u, HEAD_DIM - vec * 4u));
}

fn k_factors(at: u32, vec: u32) -> vec4<f16> {
    return vec4<f16>(k4(at + vec * 4u, HEAD_DIM - vec * 4u));
}

fn v_factors(at: u32, vec: u32) -> vec4<f16> {
    return vec4<f16>(v4(at + vec * 4u, VALUE_DIM - vec * 4u));
}
