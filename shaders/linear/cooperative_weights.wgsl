// Scores and weights inside a chunk. Workgroup memory is that of `linear/chunk_cooperative.wgsl`.
#import linear/cooperative_tile
#import linear/causal_weights

// Rows whose weights an invocation works out, and four at a time of each.
const ROWS_EACH = (ROWS * ROW_LANES + THREADS - 1u) / THREADS;
const ALL_ROWS = ROWS * ROW_LANES % THREADS == 0u;
const ROW_VECS = ROWS / 4u / ROW_LANES;

// Blocks of keys of a share.
const SHARE_KEYS = KEY_BLOCKS / KEY_SHARES;

const_assert ROWS / 4u % ROW_LANES == 0u;
const_assert KEY_BLOCKS % KEY_SHARES == 0u && KEY_SHARES <= SHARES;

// Weights of the scores in `sums`, times 2^b, and what rows are to be multiplied by.
fn weigh(power: f32, thread: u32) {
    let lane = thread % ROW_LANES;
    #unroll if MATRICES_WRITTEN_OUT
    for (var n = 0u; n < ROWS_EACH; n++) {
        let i = (thread + n * THREADS) / ROW_LANES;
        var sum = 0.0;
        if (ALL_ROWS || i < ROWS) {
            for (var c = 0u; c < ROW_VECS; c++) {
                let vec = lane * ROW_VECS + c;
                let w = causal_weights(get_sums(i * S_PITCH + vec), i, vec * 4u);
                sum += (w.x + w.y) + (w.z + w.w);
                put_factors(W_AT + i * W_PITCH + vec, vec4<f16>(w * power));
            }
            if (NORMALIZE) {
                var of_state = 0.0;
                for (var vec = lane; vec < HEAD_QUADS; vec += ROW_LANES) {
                    of_state += dot(vec4<f32>(get_factors(i * HEAD_PITCH + vec)), normalizer[vec]);
                }
                sum = fma(of_state, decay_from_start(i), sum);
            }
        }
        if (NORMALIZE) {
            sum = lanes_sum(sum);
            if ((ALL_ROWS || i < ROWS) && lane == 0u) {
                row_factors[i] = params.scale / (params.scale * sum + params.epsilon);
            }
        }
    }
}

fn row_factor(i: u32) -> f32 {
    if (NORMALIZE) {
        return row_factors[i];
    }
    return params.scale;
}

// φ(q)·φ(k) to `sums`.
fn score(strip: u32, share: u32) {
    let q_matrices = strip * STRIP_ROWS * HEAD_PITCH;
    let k_matrices = K_AT + (share % KEY_SHARES) * EDGE * HEAD_PITCH;
    let s_matrices = strip * STRIP_ROWS * S_PITCH + (share % KEY_SHARES) * EDGE_WORDS;
    var s: array<MatrixC, ROW_BLOCKS * SHARE_KEYS>;
    #unroll if MATRICES_WRITTEN_OUT
    for (var e = 0u; e < ROW_BLOCKS * SHARE_KEYS; e++) {
        s[e] = MatrixC();
    }
    #unroll if MATRICES_WRITTEN_OUT
    for (var d = 0u; d < HEAD_BLOCKS; d++) {
        var queries: array<MatrixA, ROW_BLOCKS>;
        #unroll if MATRICES_WRITTEN_OUT
        for (var r = 0u; r < ROW_BLOCKS; r++) {
            queries[r] = coopLoadT<MatrixA>(&factors[(q_matrices + (r * EDGE * HEAD_PITCH + d * EDGE_WORDS)) * WORD], HEAD_PITCH * WORD);
        }
        #unroll if MATRICES_WRITTEN_OUT
        for (var n = 0u; n < SHARE_KEYS; n++) {
            let keys = coopLoad<MatrixB>(&factors[(k_matrices + (n * KEY_SHARES * EDGE * HEAD_PITCH + d * EDGE_WORDS)) * WORD], HEAD_PITCH * WORD);
            #unroll if MATRICES_WRITTEN_OUT
            for (var r = 0u; r < ROW_BLOCKS; r++) {
                s[r * SHARE_KEYS + n] = coopMultiplyAdd(queries[r], keys, s[r * SHARE_KEYS + n]);
            }
        }
    }
    #unroll if MATRICES_WRITTEN_OUT
    for (var r = 0u; r < ROW_BLOCKS; r++) {
        #unroll if MATRICES_WRITTEN_OUT
        for (var n = 0u; n < SHARE_KEYS; n++) {
            coopStoreT(s[r * SHARE_KEYS + n], &sums[(s_matrices + (r * EDGE * S_PITCH + n * KEY_SHARES * EDGE_WORDS)) * WORD], S_PITCH * WORD);
        }
    }
}
