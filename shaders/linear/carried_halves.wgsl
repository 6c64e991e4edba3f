// Blocks of O on their way to storage of f16, in `linear/carried_elements.wgsl`: as f16 where a strip's v was, which is in matrices by
// then. This piece and `carried_sums` declare the same.
const O_SUMS = 1u;

// A strip's block.
fn put_output(block: MatrixC, strip: u32) {
    coopStoreT(factors_of(elements_of(block)), &factors[(strip * STRIP_V) * WORD], EDGE_WORDS * WORD);
}

// Word w of it.
fn output_word(strip: u32, w: u32) -> vec4<f32> {
    return vec4<f32>(get_factors(strip * STRIP_V + w));
}
