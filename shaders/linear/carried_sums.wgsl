// O on its way to storage that is not of f16, in `linear/carried_elements.wgsl`: a strip's block at a time, in f32, for which there is
// no room to keep it. This piece and `carried_halves` declare the same.
const SUM_PITCH = EDGE_WORDS + 1u;
const O_SUMS = STRIPS * EDGE * SUM_PITCH;
const WHOLE_ROWS = false;

// Eights of a block that an invocation takes care of.
const EDGE_EIGHTS = EDGE / 8u;
const BLOCK_STORES = (EDGE * EDGE_EIGHTS + LANES - 1u) / LANES;

// Block b of a strip, of rows r.
fn put_output(block: MatrixC, strip: u32, r: u32, b: u32) {
    coopStoreT(block, &sums[(strip * EDGE * SUM_PITCH) * WORD], SUM_PITCH * WORD);
}

// The same to storage, from a token on, of which there are `count` with those after it.
fn store_block(base: u32, token: u32, count: u32, strip: u32, r: u32, b: u32, lane: u32) {
    #unroll if MATRICES_WRITTEN_OUT
    for (var u = 0u; u < BLOCK_STORES; u++) {
        let e = lane + u * LANES;
        let row = r * EDGE + e / EDGE_EIGHTS;
        let column = (strip * STRIP_BLOCKS + b) * EDGE + e % EDGE_EIGHTS * 8u;
        if ((EDGE * EDGE_EIGHTS % LANES == 0u || e < EDGE * EDGE_EIGHTS) && row < count) {
            let at = (strip * EDGE + e / EDGE_EIGHTS) * SUM_PITCH + e % EDGE_EIGHTS * 2u;
            store_o8(base + (token + row) * params.o_seq + column, get_sums(at), get_sums(at + 1u));
        }
    }
}

fn store_rows_of(base: u32, token: u32, count: u32, thread: u32) {}
