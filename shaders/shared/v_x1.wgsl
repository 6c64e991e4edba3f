// Four neighbouring elements of a row of values, as f32, read one by one: rows may start anywhere and have any length.
// Elements past the end of the row are 0.
//
// index   element index of the first of the four
// count   how many of them the row has; 4 or more means all
@group(0) @binding(3) var<storage, read> v: array<Unit>;

fn v1(index: u32) -> f32 {
    return widen_one(v[index >> UNIT_SHIFT], index);
}

fn v4(index: u32, count: u32) -> vec4<f32> {
    var r = vec4<f32>(v1(index), 0.0, 0.0, 0.0);
    if (count > 1u) { r.y = v1(index + 1u); }
    if (count > 2u) { r.z = v1(index + 2u); }
    if (count > 3u) { r.w = v1(index + 3u); }
    return r;
}
