// Boolean mask, a byte an element, four to a word.
@group(0) @binding(7) var<storage, read> mask_bytes: array<u32>;

fn mask_at(index: u32) -> bool {
    return ((mask_bytes[index >> 2u] >> ((index & 3u) * 8u)) & 0xffu) != 0u;
}
