// Boolean mask, a byte an element, four to a word.
@group(0) @binding(7) var<storage, read> mask_bytes: array<u32>;

// Bytes 4·word to 4·word + 3, the first one lowest.
fn mask_word(word: u32) -> u32 {
    return mask_bytes[word];
}

fn mask_at(index: u32) -> bool {
    return ((mask_bytes[index >> 2u] >> ((index & 3u) * 8u)) & 0xffu) != 0u;
}
