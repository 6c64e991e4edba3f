// Blocks of O on their way to storage of f16, in `linear/segment_elements.wgsl`: as f16 through `factors`, which is free by then, so
// that sums take no workgroup memory and more workgroups are at work on a processor. This piece and `output_sums` declare the same.
const O_PITCH = EDGE_WORDS + 2u;
const O_FACTORS = STRIPS * EDGE * O_PITCH;
const O_SUMS = 1u;

// Rows of matrices in workgroup memory are multiples of 16 bytes apart.
const_assert O_PITCH % 2u == 0u;

// A strip's block.
fn put_output(block: MatrixC, strip: u32) {
    coopStoreT(factors_of(elements_of(block)), &factors[(strip * EDGE * O_PITCH) * WORD], O_PITCH * WORD);
}

// Word w of all strips' blocks.
fn output_word(w: u32) -> vec4<f32> {
    return vec4<f32>(get_factors(w / EDGE_WORDS * O_PITCH + w % EDGE_WORDS));
}
