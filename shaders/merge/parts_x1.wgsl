// Four neighbouring elements of a row of a partial output, read one by one; 0 past the end of the row.
fn part_o1(index: u32) -> f32 {
    return widen_one(parts_o[index >> UNIT_SHIFT], index);
}

fn part_o4(index: u32, count: u32) -> vec4<f32> {
    var r = vec4<f32>(part_o1(index), 0.0, 0.0, 0.0);
    if (count > 1u) { r.y = part_o1(index + 1u); }
    if (count > 2u) { r.z = part_o1(index + 2u); }
    if (count > 3u) { r.w = part_o1(index + 3u); }
    return r;
}
