// Four neighbouring elements of a row of keys, as f32, of storage that is accessed eight at a time. Every row starts at a multiple of
// eight elements and its length is one, so no access is ragged.
//
// index   element index of the first of the four
// count   how many of them the row has; always 4 here
@group(0) @binding(2) var<storage, read> k: array<Unit>;

fn k4(index: u32, count: u32) -> vec4<f32> {
    return widen_part(k[index >> UNIT_SHIFT], index);
}
