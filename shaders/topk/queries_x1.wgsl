// Four neighbouring elements of a row of q, as f32, read one by one; 0 past the end of the row.
fn q1(index: u32) -> f32 {
    return widen_one(q[index >> UNIT_SHIFT], index);
}

fn q4(index: u32, count: u32) -> vec4<f32> {
    var r = vec4<f32>(q1(index), 0.0, 0.0, 0.0);
    if (count > 1u) { r.y = q1(index + 1u); }
    if (count > 2u) { r.z = q1(index + 2u); }
    if (count > 3u) { r.w = q1(index + 3u); }
    return r;
}
