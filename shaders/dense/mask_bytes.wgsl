// Boolean mask, a byte an element, four to a word.
@group(0) @binding(7) var<storage, read> mask_bytes: array<u32>;

// The bytes from `index` to `last`, four at most, the first one lowest; 0 behind `last`. They may start anywhere in a word.
fn mask_four(index: u32, last: u32) -> u32 {
    let shift = (index & 3u) * 8u;
    let end = min(index + 3u, last);
    var four = mask_bytes[index >> 2u] >> shift;
    if ((index >> 2u) != (end >> 2u)) {
        four |= mask_bytes[end >> 2u] << (32u - shift);
    }
    return four & (0xffffffffu >> ((index + 3u - end) * 8u));
}

fn mask_at(index: u32) -> bool {
    return ((mask_bytes[index >> 2u] >> ((index & 3u) * 8u)) & 0xffu) != 0u;
}
