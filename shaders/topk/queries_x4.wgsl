// Four neighbouring elements of a row of q, as f32; every row starts at a multiple of four.
fn q4(index: u32, count: u32) -> vec4<f32> {
    return widen(q[index >> UNIT_SHIFT]);
}
