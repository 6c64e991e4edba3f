// Four neighbouring elements of a row of k, as f32, read one by one; 0 past the end of the row.
fn k1(index: u32) -> f32 {
    return widen_one(k[index >> UNIT_SHIFT], index);
}

fn k4(index: u32, count: u32) -> vec4<f32> {
    var r = vec4<f32>(k1(index), 0.0, 0.0, 0.0);
    if (count > 1u) { r.y = k1(index + 1u); }
    if (count > 2u) { r.z = k1(index + 2u); }
    if (count > 3u) { r.w = k1(index + 3u); }
    return r;
}
