// Output elements: f32, one at a time, for rows that do not start at multiples of four elements.
// count   how many of the four the row has; 4 or more means all
alias OutputUnit = f32;

fn store_o4(index: u32, value: vec4<f32>, count: u32) {
    o[index] = value.x;
    if (count > 1u) { o[index + 1u] = value.y; }
    if (count > 2u) { o[index + 2u] = value.z; }
    if (count > 3u) { o[index + 3u] = value.w; }
}

fn load_o4(index: u32, count: u32) -> vec4<f32> {
    var r = vec4<f32>(o[index], 0.0, 0.0, 0.0);
    if (count > 1u) { r.y = o[index + 1u]; }
    if (count > 2u) { r.z = o[index + 2u]; }
    if (count > 3u) { r.w = o[index + 3u]; }
    return r;
}
