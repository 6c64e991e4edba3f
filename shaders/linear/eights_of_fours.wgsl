// Eight neighbouring elements of φ(q_i), φ(k_j) and v_j, for cooperative matrices, as two times four.
fn q_eight(base: u32, i: u32, eight: u32) -> vec4<u32> {
    return vec4<u32>(q_four(base, i, 2u * eight), q_four(base, i, 2u * eight + 1u));
}

fn k_eight(base: u32, j: u32, eight: u32) -> vec4<u32> {
    return vec4<u32>(k_four(base, j, 2u * eight), k_four(base, j, 2u * eight + 1u));
}

fn v_eight(base: u32, j: u32, eight: u32) -> vec4<u32> {
    return vec4<u32>(v_four(base, j, 2u * eight), v_four(base, j, 2u * eight + 1u));
}
