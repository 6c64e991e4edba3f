// Four neighbouring elements of a row of k, as f32; every row starts at a multiple of four.
fn k4(index: u32, count: u32) -> vec4<f32> {
    return widen(k[index >> UNIT_SHIFT]);
}
