// Four neighbouring elements of a row of a partial output; every row starts at a multiple of four.
fn part_o4(index: u32, count: u32) -> vec4<f32> {
    return widen(parts_o[index >> UNIT_SHIFT]);
}
