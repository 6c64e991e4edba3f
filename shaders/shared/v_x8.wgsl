// Four neighbouring elements of a row of values, as f32, of storage that is accessed eight at a time. Every row starts at a multiple of
// eight elements and its length is one, so no access is ragged.
//
// index   element index of the first of the four
// count   how many of them the row has; always 4 here
@group(0) @binding(3) var<storage, read> v: array<Unit>;

fn v4(index: u32, count: u32) -> vec4<f32> {
    return widen_part(v[index >> UNIT_SHIFT], index);
}
