// Output elements: f32, one at a time, for rows that do not start at multiples of four elements.
// count   how many of the four the row has; 4 or more means all
alias OutputUnit = f32;

fn store_o4(index: u32, value: vec4<f32>, count: u32) {
    o[index] = value.x;
    if (count > 1u) { o[index + 1u] = value.y; }
    if (count > 2u) { o[index + 2u] = value.z; }
    if (count > 3u) { o[index + 3u] = value.w; }
}
