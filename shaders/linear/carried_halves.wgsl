// O on its way to storage of f16, in `linear/carried_elements.wgsl`: as f16 where v was, which is in matrices by then, and from there
// whole rows at a time. This piece and `carried_sums` declare the same.
const O_SUMS = 1u;
const WHOLE_ROWS = true;

// Block b of a strip, of rows r.
fn put_output(block: MatrixC, strip: u32, r: u32, b: u32) {
    let at = r * EDGE * VALUE_PITCH + strip * STRIP_WORDS + b * EDGE_WORDS;
    coopStoreT(factors_of(elements_of(block)), &factors[at * WORD], VALUE_PITCH * WORD);
}

fn store_block(base: u32, token: u32, count: u32, strip: u32, r: u32, b: u32, lane: u32) {}

// All rows of a chunk from a token on, of which there are `count` with those after it.
fn store_rows_of(base: u32, token: u32, count: u32, thread: u32) {
    #unroll if MATRICES_WRITTEN_OUT
    for (var u = 0u; u < VALUE_LOADS; u++) {
        let e = thread + u * THREADS;
        let row = e / VALUE_EIGHTS;
        let eight = e % VALUE_EIGHTS;
        if ((VALUES_EVEN || e < ROWS * VALUE_EIGHTS) && row < count) {
            let at = row * VALUE_PITCH + eight * 2u;
            store_o8(base + (token + row) * params.o_seq + eight * 8u, vec4<f32>(get_factors(at)), vec4<f32>(get_factors(at + 1u)));
        }
    }
}
