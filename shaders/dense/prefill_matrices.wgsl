// What the two kernels of prefill on cooperative matrices share, `dense/prefill_cooperative.wgsl` and
// `dense/prefill_elements.wgsl`, which have the meaning of each size: sizes that follow from the tile, and q on its way to
// workgroup memory.
//
// A kernel declares `q_factor`: what a row of the tile is multiplied by when it is staged, where `sign` is that of q's scale.
#import shared/strip_tile

const HEAD_VECS = (HEAD_DIM + 3u) / 4u;
const VALUE_VECS = (VALUE_DIM + 3u) / 4u;
const STAGING_WRITTEN_OUT = 1u;

// Places are in words of four elements.
const STAGE = SLICES * (K_SLICE + V_SLICE);
const Q_SLICE = STRIPS * EDGE * Q_PITCH;
const Q_PART = STRIPS * EDGE * Q_WORDS;
// Loads of a part, in batches of up to 16 that are on their way together.
const Q_LOADS = (Q_PART + THREADS - 1u) / THREADS;
const Q_BATCHES = (Q_LOADS + 15u) / 16u;
const Q_BATCH = (Q_LOADS + Q_BATCHES - 1u) / Q_BATCHES;

fn q_row(base: u32, i: u32) -> u32 {
    return base + (min(i, params.end_query - 1u) - params.first_query) * params.q_seq;
}

// The row of the tile that is a row of what is staged of q for blocks r: EDGE rows of each strip.
fn q_tile_row(row: u32, r: u32) -> u32 {
    return (row / EDGE) * STRIP_ROWS + r * EDGE + row % EDGE;
}

// Stores blocks r of all strips, a part of their columns, at the start of the factors.
fn stage_q(base: u32, i0: u32, r: u32, part: u32, sign: f32, thread: u32) {
    #unroll if MATRICES_WRITTEN_OUT
    for (var batch = 0u; batch < Q_BATCHES; batch++) {
        var loaded: array<vec4<f32>, Q_BATCH>;
        #unroll if MATRICES_WRITTEN_OUT
        for (var u = 0u; u < Q_BATCH; u++) {
            let w = thread + (batch * Q_BATCH + u) * THREADS;
            let vec = part * Q_WORDS + w % Q_WORDS;
            if (HEAD_WORDS == HEAD_VECS || vec < HEAD_VECS) {
                loaded[u] = q4(q_row(base, i0 + q_tile_row(w / Q_WORDS, r)) + vec * 4u, HEAD_DIM - vec * 4u);
            }
        }
        #unroll if MATRICES_WRITTEN_OUT
        for (var u = 0u; u < Q_BATCH; u++) {
            let w = thread + (batch * Q_BATCH + u) * THREADS;
            if (Q_PART % (Q_BATCH * THREADS) == 0u || w < Q_PART) {
                let factor = q_factor(q_tile_row(w / Q_WORDS, r), sign);
                put_slices((w / Q_WORDS) * Q_PITCH + w % Q_WORDS, loaded[u] * factor, Q_SLICE);
            }
        }
    }
}
