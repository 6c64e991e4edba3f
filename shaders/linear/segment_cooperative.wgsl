// Outputs of linear attention over the segments of a sequence on cooperative matrices, where all tokens and channels of a head decay
// alike. The last of three dispatches: `linear/chunk_state_cooperative.wgsl` and `linear/scan.wgsl` have left the state S that
// stands before each segment.
//
//   O = 2^b (Σ_{j≤i} w_ij v_j + e^{G_i} φ(q_i)ᵀ S),   w_ij = e^{G_i − G_j} φ(q_i)·φ(k_j),   j the segment's tokens
//   o_i = 2^−b scale · O_i,   normalised divided by scale · (Σ_j w_ij + e^{G_i} φ(q_i)·z) + ε
//
// One workgroup owns a tile of ROWS tokens of a segment and all columns. It goes through the rows of S, a part at a time, which are to
// φ(q) what values are to weights, and decays what came of that, row by row. Then it goes through the segment's tokens up to its own,
// KEYS at a time, as `dense/prefill_cooperative.wgsl` does, whose header explains strips, key tiles, pitches and tile sizes: both are
// one algorithm, but that weights here are products and not their exponentials. Products run on matrices of EDGE × EDGE, factors
// f16, sums f32. Loads are issued long before they are needed: a workgroup is at work for a few of their latencies only.
//
// A segment's length weighs products of weights, which grow with it, against states that are written, scanned and read once for each
// segment: around 2·D both take about as long.
//
// Range. f16 ends at 65504 and loses bits below 6e-5. So b is a whole number for each key tile, and for each part of S, that takes
//   |w_ij| ≤ D · max|φ(q)| · max|φ(k)|     of the workgroup's rows and the tile's keys
//   |S|    ≤ its largest element           of the rows
// to below 2^15; O is multiplied by what b changes by, a power of two, whenever it has to, or where it is small by now.
//
// Workgroup memory, rows and pitches (in words of four elements):
//   factors, f16   STAGES times φ(k) [KEYS][HEAD_PITCH] and v [KEYS][VALUE_PITCH]; w [ROWS][P_PITCH]
//                  before that φ(q), EDGE rows of each strip, in Q_PARTS parts of its columns, and then S, in S_PARTS parts of its rows
//   sums, f32      φ(q)·φ(k) [ROWS][S_PITCH]; a block of O's columns on its way to be decayed or written
//
// Non-causal, there is the state only, of the whole sequence. Tokens outside every document give 0.
#import shared/output
#import linear/outside
#import linear/segment_matrices

// Rows whose weights an invocation works out, and four scores at a time of each.
const ROWS_EACH = (ROWS * ROW_LANES + THREADS - 1u) / THREADS;
const ALL_ROWS = ROWS * ROW_LANES % THREADS == 0u;
const ROW_VECS = KEYS / 4u / ROW_LANES;

const P_PITCH = select(KEYS / 4u, KEYS / 4u + 2u, KEYS > 16u);
const S_PITCH = KEYS / 4u + 1u;
const P_AT = STAGES * STAGE;
// There is no room behind the last row of P.
const FACTORS = max(P_AT + ROWS * P_PITCH - (P_PITCH - KEYS / 4u), STRIPS * EDGE * Q_PITCH);
const SUMS = ROWS * S_PITCH;

const_assert KEYS / 4u % ROW_LANES == 0u;

// What the rows of O are to be multiplied by, where they are normalised; at least 16 bytes (`shared/staged_x4.wgsl`).
var<workgroup> row_factors: array<f32, select(4u, ROWS, NORMALIZE)>;

// Where the largest magnitude of the queries is told.
const OF_QUERIES = 3u;

fn largest_held(held: Held) -> f32 {
    return largest_of(vec4<f32>(unpack2x16float(held.x), unpack2x16float(held.y)));
}

fn largest_key(held: array<Held, K_LOADS>) -> f32 {
    var top = 0.0;
    #unroll if STAGING_WRITTEN_OUT
    for (var u = 0u; u < K_LOADS; u++) {
        top = max(top, largest_held(held[u]));
    }
    return top;
}

// Of the workgroup's rows, and of words behind them that are not staged.
fn largest_query(held: array<Held, ROW_BLOCKS * Q_PARTS * Q_LOADS>) -> f32 {
    var top = 0.0;
    #unroll if STAGING_WRITTEN_OUT
    for (var u = 0u; u < ROW_BLOCKS * Q_PARTS * Q_LOADS; u++) {
        top = max(top, largest_held(held[u]));
    }
    return top;
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(subgroup_id) subgroup: u32,
        @builtin(subgroup_size) subgroup_size: u32, @builtin(subgroup_invocation_id) lane: u32) {
    // Neighbours by this number are neighbours in a subgroup, which by the invocation index they need not be.
    let thread = subgroup * subgroup_size + lane;
    let strip = subgroup % STRIPS;
    // Where this subgroup's matrices are; those of one loop lie constants apart.
    let s_matrices = strip * STRIP_ROWS * S_PITCH;
    let p_matrices = P_AT + strip * STRIP_ROWS * P_PITCH;
    // Words of a block of columns of O in `sums` that this invocation takes care of.
    let block_words = strip_words(strip, lane, subgroup_size, thread, STRIP_ROWS * EDGE_WORDS);
    let tile = tile_of(workgroup);
    let i0 = tile.i0;
    let span = tile.span;
    let count = tile.count;

    if (i0 == 0u) {
        clear_outside(span, tile.o_from, 0u, VALUE_VECS, thread);
    }
    // A loop in place of a branch: naga takes what is behind a return for control flow that invocations part in.
    for (var any = i0 < count; any; any = false) {
        let state = begin_tile(tile, workgroup, thread);
        let last_key = span.end - 1u;
        let q_words = strip_words(strip, lane, subgroup_size, thread, EDGE * Q_WORDS);
        let q_held = load_queries(tile.q_from, span.start, i0, count, q_words);
        let s_first = load_state_rows(state.at, state.known, 0u, thread);
        var s_second: array<vec4<f32>, STATE_LOADS>;
        if (S_PARTS > 1u) {
            s_second = load_state_rows(state.at, state.known, 1u, thread);
        }
        var k_held: array<Held, K_LOADS>;
        var v_held: array<Held, V_LOADS>;
        if (CAUSAL) {
            k_held = load_k(tile.k_from, span.start, 0u, last_key, thread);
            v_held = load_v(tile.v_from, span.start, 0u, last_key, thread);
        }
        var q: array<MatrixA, QUERIES>;
        var round = 0u;
        // What `begin_tile` wrote is there for those who tell.
        workgroupBarrier();
        queries_to_matrices(&q, q_held, strip, q_words);
        tell(largest_query(q_held), lane, subgroup_size, OF_QUERIES);
        var o: array<MatrixC, OUTPUTS>;
        #unroll if MATRICES_WRITTEN_OUT
        for (var e = 0u; e < OUTPUTS; e++) {
            o[e] = MatrixC();
        }

        // What the state contributes.
        var power = add_state(&o, &q, s_first, s_second, state.at, state.known, &round, lane, subgroup_size, thread);
        if (DECAYS) {
            #unroll if MATRICES_WRITTEN_OUT
            for (var d = 0u; d < VALUE_BLOCKS; d++) {
                #unroll if MATRICES_WRITTEN_OUT
                for (var r = 0u; r < ROW_BLOCKS; r++) {
                    coopStoreT(o[r * VALUE_BLOCKS + d], &sums[(s_matrices + r * EDGE * S_PITCH) * WORD], S_PITCH * WORD);
                }
                strip_barrier();
                for (var w = block_words.first; w < block_words.end; w += block_words.step) {
                    let at = (w / EDGE_WORDS) * S_PITCH + w % EDGE_WORDS;
                    put_sums(at, get_sums(at) * decay_from_start(i0 + w / EDGE_WORDS));
                }
                strip_barrier();
                #unroll if MATRICES_WRITTEN_OUT
                for (var r = 0u; r < ROW_BLOCKS; r++) {
                    o[r * VALUE_BLOCKS + d] = coopLoadT<MatrixC>(&sums[(s_matrices + r * EDGE * S_PITCH) * WORD], S_PITCH * WORD);
                }
                // Subgroups that do the same must not get ahead of one another.
                strip_barrier();
            }
        }

        // What the segment's own tokens contribute.
        let row_lane = thread % ROW_LANES;
        // This invocation's part of the sums of its rows' weights.
        var sums_of_weights: array<f32, ROWS_EACH>;
        if (CAUSAL) {
            let bound_of_key = f32(HEAD_DIM) * told_of(OF_QUERIES);
            let end = min(i0 + ROWS, count);
            var stage = 0u;
            round++;
            tell(largest_key(k_held), lane, subgroup_size, round % 3u);
            workgroupBarrier();
            var top_key = all_told(thread, round);
            store_k(k_held, 1.0, thread, 0u);
            store_v(v_held, 1.0, thread, V_AT);
            k_held = load_k(tile.k_from, span.start, KEYS, last_key, thread);
            v_held = load_v(tile.v_from, span.start, KEYS, last_key, thread);
            for (var p0 = 0u; p0 < end; p0 += KEYS) {
                let other = STAGE - stage;
                round++;
                if (STAGES == 2u) {
                    tell(largest_key(k_held), lane, subgroup_size, round % 3u);
                }
                workgroupBarrier();
                let next_power = power_after(power, bound_of_key * top_key);
                scale_output(&o, next_power / power);
                power = next_power;

                // Strips whose rows are all before the tile's keys only meet the others.
                let sees = subgroupAny(p0 < i0 + (strip + 1u) * STRIP_ROWS);
                for (var once = sees; once; once = false) {
                    #unroll if MATRICES_WRITTEN_OUT
                    for (var n = 0u; n < KEY_BLOCKS; n++) {
                        var s: array<MatrixC, ROW_BLOCKS>;
                        #unroll if MATRICES_WRITTEN_OUT
                        for (var r = 0u; r < ROW_BLOCKS; r++) {
                            s[r] = MatrixC();
                        }
                        #unroll if MATRICES_WRITTEN_OUT
                        for (var d = 0u; d < HEAD_BLOCKS; d++) {
                            let keys = coopLoad<MatrixB>(&factors[(stage + n * EDGE * HEAD_PITCH + d * EDGE_WORDS) * WORD], HEAD_PITCH * WORD);
                            #unroll if MATRICES_WRITTEN_OUT
                            for (var r = 0u; r < ROW_BLOCKS; r++) {
                                s[r] = coopMultiplyAdd(q[r * HEAD_BLOCKS + d], keys, s[r]);
                            }
                        }
                        #unroll if MATRICES_WRITTEN_OUT
                        for (var r = 0u; r < ROW_BLOCKS; r++) {
                            coopStoreT(s[r], &sums[(s_matrices + r * EDGE * S_PITCH + n * EDGE_WORDS) * WORD], S_PITCH * WORD);
                        }
                    }
                }
                strip_barrier();
                #unroll
                for (var n = 0u; n < ROWS_EACH; n++) {
                    let row = (thread + n * THREADS) / ROW_LANES;
                    let strip_end = i0 + (row / STRIP_ROWS + 1u) * STRIP_ROWS;
                    if ((ALL_ROWS || row < ROWS) && p0 < strip_end) {
                        #unroll
                        for (var c = 0u; c < ROW_VECS; c++) {
                            let vec = row_lane * ROW_VECS + c;
                            let w = causal_weights(get_sums(row * S_PITCH + vec), i0 + row, p0 + vec * 4u);
                            sums_of_weights[n] += (w.x + w.y) + (w.z + w.w);
                            put_factors(P_AT + row * P_PITCH + vec, vec4<f16>(w * power));
                        }
                    }
                }
                if (STAGES == 2u) {
                    top_key = all_told(thread, round);
                    store_k(k_held, 1.0, thread, other);
                    store_v(v_held, 1.0, thread, other + V_AT);
                    k_held = load_k(tile.k_from, span.start, p0 + 2u * KEYS, last_key, thread);
                    v_held = load_v(tile.v_from, span.start, p0 + 2u * KEYS, last_key, thread);
                }
                strip_barrier();

                for (var once = sees; once; once = false) {
                    #unroll if MATRICES_WRITTEN_OUT
                    for (var n = 0u; n < KEY_BLOCKS; n++) {
                        var p: array<MatrixA, ROW_BLOCKS>;
                        #unroll if MATRICES_WRITTEN_OUT
                        for (var r = 0u; r < ROW_BLOCKS; r++) {
                            p[r] = coopLoadT<MatrixA>(&factors[(p_matrices + r * EDGE * P_PITCH + n * EDGE_WORDS) * WORD], P_PITCH * WORD);
                        }
                        #unroll if MATRICES_WRITTEN_OUT
                        for (var d = 0u; d < VALUE_BLOCKS; d++) {
                            let values = coopLoadT<MatrixB>(&factors[(stage + V_AT + n * EDGE * VALUE_PITCH + d * EDGE_WORDS) * WORD], VALUE_PITCH * WORD);
                            #unroll if MATRICES_WRITTEN_OUT
                            for (var r = 0u; r < ROW_BLOCKS; r++) {
                                o[r * VALUE_BLOCKS + d] = coopMultiplyAdd(p[r], values, o[r * VALUE_BLOCKS + d]);
                            }
                        }
                    }
                }
                if (STAGES == 2u) {
                    stage = other;
                } else {
                    tell(largest_key(k_held), lane, subgroup_size, round % 3u);
                    workgroupBarrier();
                    top_key = all_told(thread, round);
                    store_k(k_held, 1.0, thread, 0u);
                    store_v(v_held, 1.0, thread, V_AT);
                    k_held = load_k(tile.k_from, span.start, p0 + 2u * KEYS, last_key, thread);
                    v_held = load_v(tile.v_from, span.start, p0 + 2u * KEYS, last_key, thread);
                }
            }
        }

        if (NORMALIZE) {
            #unroll
            for (var n = 0u; n < ROWS_EACH; n++) {
                let row = (thread + n * THREADS) / ROW_LANES;
                let i = min(i0 + row, count - 1u);
                var of_state = 0.0;
                for (var vec = row_lane; vec < HEAD_QUADS; vec += ROW_LANES) {
                    of_state += dot(unscaled_feature_q(tile.q_from, head, span.start + i, vec), normalizer[vec]);
                }
                let sum = lanes_sum(fma(of_state, decay_from_start(i), sums_of_weights[n]));
                if ((ALL_ROWS || row < ROWS) && row_lane == 0u) {
                    row_factors[row] = params.scale / (params.scale * sum + params.epsilon);
                }
            }
        }

        // The output, a block of columns at a time.
        #unroll if MATRICES_WRITTEN_OUT
        for (var d = 0u; d < VALUE_BLOCKS; d++) {
            strip_barrier();
            #unroll if MATRICES_WRITTEN_OUT
            for (var r = 0u; r < ROW_BLOCKS; r++) {
                coopStoreT(o[r * VALUE_BLOCKS + d], &sums[(s_matrices + r * EDGE * S_PITCH) * WORD], S_PITCH * WORD);
            }
            strip_barrier();
            for (var w = block_words.first; w < block_words.end; w += block_words.step) {
                let row = w / EDGE_WORDS;
                let i = i0 + row;
                let column = d * EDGE + w % EDGE_WORDS * 4u;
                if (i < count && column < VALUE_DIM) {
                    var factor = params.scale / power;
                    if (NORMALIZE) {
                        factor = row_factors[row] / power;
                    }
                    store_o4(tile.o_from + (span.start + i) * params.o_seq + column, get_sums(row * S_PITCH + w % EDGE_WORDS) * factor, VALUE_DIM - column);
                }
            }
        }
    }
}
