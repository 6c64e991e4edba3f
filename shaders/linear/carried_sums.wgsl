// Blocks of O on their way to storage, in `linear/carried_elements.wgsl`: as f32.
const O_PITCH = EDGE_WORDS + 1u;
const O_SUMS = STRIPS * EDGE * O_PITCH;

// A strip's block.
fn put_output(block: MatrixC, strip: u32) {
    coopStoreT(block, &sums[(strip * EDGE * O_PITCH) * WORD], O_PITCH * WORD);
}

// Word w of it.
fn output_word(strip: u32, w: u32) -> vec4<f32> {
    return get_sums((strip * EDGE + w / EDGE_WORDS) * O_PITCH + w % EDGE_WORDS);
}
