// Tiled attention over many queries on cooperative matrices.
//
//   o_i = Σ_j w(s_ij) v_j,   s_ij = hooks(scale · q_i·k_j),   w = softmax or sigmoid
//
// One workgroup owns a tile of ROWS queries of one head and walks the keys that its mask or its list leaves, KEYS at a
// time. Both products run on matrices of EDGE × EDGE, factors f16, sums f32:
//
//   S = Q·Kᵀ    matrices → workgroup memory → weights, a row to an invocation → workgroup memory as f16
//   O += P·V    in matrices, where it stays until the end
//
// Strips. A subgroup owns a strip of ROW_BLOCKS·EDGE rows, in both products: its part of Q and of O stays in registers.
// There are STRIPS of them and at least as many subgroups: the workgroup is made for the largest subgroups that the
// device may use, and if they turn out smaller, those left over only help with the loads and the weights.
//
// Weights. Matrices have no elements one could get at, so scores go through workgroup memory, where one invocation takes a
// row: its maximum and its sum need no reduction.
//   m_i, l_i   the reference that weights of row i are relative to, and the sum of 2^(t_ij − m_i) over the keys so far
// m is not the maximum, because changing it means taking O out of the matrices and back. It is set HEADROOM below the
// first maximum a row meets, so that the largest weight is 2^HEADROOM, and stays until a score exceeds it by more than
// LIMIT; f16 holds 2^LIMIT, and of weights it holds all that matter: those down to 2^(−14 − HEADROOM) of the largest
// with full precision. Then O's rows are scaled through workgroup memory, for all rows of the tile at once.
// Sigmoid has neither, and its weights, which may all be as small as 1/Nk, are stored times 2^LIMIT.
//
// Between two barriers (t: this key tile)
//   S(t) to `sums`, v(t) to registers  |  weights of t, v(t) and k(t + 1) to `factors`, k(t + 1) having been on its way
//   since the barrier  |  O += P·V
//
// Workgroup memory, in elements:
//   factors, f16   k [KEYS][HEAD_PITCH], v [KEYS][VALUE_PITCH], P [ROWS][P_PITCH]; at the start q, EDGE rows of each strip
//   sums, f32      S [ROWS][S_PITCH]; O on its way to be rescaled or written
// Pitches are 16 bytes longer than the rows, so that eight rows of a matrix fall into different banks.
//
// Loops over matrices are written out (MATRICES_WRITTEN_OUT), so that those live in registers; where matrices are emulated
// in memory that would only make the code long.
//
// A row that sees no key keeps l = 0 and gives o = 0, lse = −inf.

#import shared/numerics
#import dense/params
#import shared/output
#import dense/position
#import dense/visibility
#import dense/score

const HEAD_BLOCKS = (HEAD_DIM + EDGE - 1u) / EDGE;
const VALUE_BLOCKS = (VALUE_DIM + EDGE - 1u) / EDGE;
const KEY_BLOCKS = KEYS / EDGE;
const STRIP_ROWS = ROW_BLOCKS * EDGE;
const ROWS = STRIPS * STRIP_ROWS;
const ROWS_EACH = (ROWS + THREADS - 1u) / THREADS;

const HEAD_VECS = (HEAD_DIM + 3u) / 4u;
const VALUE_VECS = (VALUE_DIM + 3u) / 4u;
const HEAD_WORDS = HEAD_BLOCKS * EDGE / 4u;
const VALUE_WORDS = VALUE_BLOCKS * EDGE / 4u;

const HEAD_PITCH = HEAD_BLOCKS * EDGE + 8u;
const VALUE_PITCH = VALUE_BLOCKS * EDGE + 8u;
const P_PITCH = KEYS + 8u;
const S_PITCH = KEYS + 4u;
const V_AT = KEYS * HEAD_PITCH;
const P_AT = V_AT + KEYS * VALUE_PITCH;
const FACTORS = max(P_AT + ROWS * P_PITCH, STRIPS * EDGE * HEAD_PITCH);
const SUMS = ROWS * S_PITCH;

const_assert KEYS % EDGE == 0u;
const_assert VALUE_BLOCKS % OUT_BLOCKS == 0u && OUT_BLOCKS <= KEY_BLOCKS;

const HEADROOM = 7.0;
const LIMIT = 15.0;
const LARGEST = 32768.0;

// What each row's share of O is to be multiplied by.
var<workgroup> row_factors: array<f32, ROWS>;
// One more than the number of the last tile at which a reference changed.
var<workgroup> changed: u32;

fn q_row(base: u32, i: u32) -> u32 {
    return base + (min(i, params.end_query - 1u) - params.first_query) * params.q_seq;
}

const K_WORDS = KEYS * HEAD_WORDS;
const K_LOADS = (K_WORDS + THREADS - 1u) / THREADS;
const K_EVEN = K_WORDS % THREADS == 0u;
const V_WORDS = KEYS * VALUE_WORDS;
const V_LOADS = (V_WORDS + THREADS - 1u) / THREADS;
const V_EVEN = V_WORDS % THREADS == 0u;

fn load_k(base: u32, list: List, p0: u32, last_key: u32, thread: u32) -> array<vec4<f16>, K_LOADS> {
    var values: array<vec4<f16>, K_LOADS>;
    #unroll
    for (var u = 0u; u < K_LOADS; u++) {
        let w = thread + u * THREADS;
        let vec = w % HEAD_WORDS;
        if (HEAD_WORDS == HEAD_VECS || vec < HEAD_VECS) {
            let j = min(key_at(list, p0 + w / HEAD_WORDS), last_key);
            values[u] = k_factors(base + j * params.k_seq, vec);
        }
    }
    return values;
}

fn store_k(values: array<vec4<f16>, K_LOADS>, thread: u32) {
    #unroll
    for (var u = 0u; u < K_LOADS; u++) {
        let w = thread + u * THREADS;
        if (K_EVEN || w < K_WORDS) {
            put_factors((w / HEAD_WORDS) * HEAD_PITCH + (w % HEAD_WORDS) * 4u, values[u]);
        }
    }
}

fn load_v(base: u32, list: List, p0: u32, last_key: u32, thread: u32) -> array<vec4<f16>, V_LOADS> {
    var values: array<vec4<f16>, V_LOADS>;
    #unroll
    for (var u = 0u; u < V_LOADS; u++) {
        let w = thread + u * THREADS;
        let vec = w % VALUE_WORDS;
        if (VALUE_WORDS == VALUE_VECS || vec < VALUE_VECS) {
            let j = min(key_at(list, p0 + w / VALUE_WORDS), last_key);
            values[u] = v_factors(base + j * params.v_seq, vec);
        }
    }
    return values;
}

fn store_v(values: array<vec4<f16>, V_LOADS>, thread: u32) {
    #unroll
    for (var u = 0u; u < V_LOADS; u++) {
        let w = thread + u * THREADS;
        if (V_EVEN || w < V_WORDS) {
            put_factors(V_AT + (w / VALUE_WORDS) * VALUE_PITCH + (w % VALUE_WORDS) * 4u, values[u]);
        }
    }
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(local_invocation_index) thread: u32, @builtin(subgroup_id) subgroup: u32) {
    let b = params.first_batch + workgroup.z;
    let h = params.first_head + workgroup.y;
    // Under causality the last query tile has the most keys. The longest work starts earliest; or, where workgroups are
    // dealt out in advance, long and short ones alternate, so that every share holds as much work as the next.
    var place = grid.x - 1u - workgroup.x;
    if (ALTERNATE) {
        place = select(grid.x - 1u - workgroup.x / 2u, workgroup.x / 2u, workgroup.x % 2u == 1u);
    }
    let i0 = params.first_query + place * ROWS;
    let kv_head = h / params.group - params.first_head / params.group;
    let q_from = params.q_base + workgroup.z * params.q_batch + workgroup.y * params.q_head;
    let k_from = params.k_base + workgroup.z * params.k_batch + kv_head * params.k_head;
    let v_from = params.v_base + workgroup.z * params.v_batch + kv_head * params.v_head;

    let first = row_of(b, i0);
    let last = row_of(b, min(i0 + ROWS, params.end_query) - 1u);
    let one_document = !HAS_DOCUMENTS || (first.lo == last.lo && first.hi == last.hi);
    let list = list_of(b, h, i0, place);
    let clean = list_is_clean(list, thread);
    let tiles = tiles_to_visit(list, first, last, one_document, KEYS);
    let last_key = u32(max(keys_of(b), 1) - 1);

    // A subgroup's strip, if there is one for it. A loop, because matrices are worked on in control flow that is the same
    // for a whole subgroup, which a branch would have to prove.
    let strip_end = min(subgroup + 1u, STRIPS);

    var q: array<MatrixA, ROW_BLOCKS * HEAD_BLOCKS>;
    var o_sums: array<MatrixC, ROW_BLOCKS * VALUE_BLOCKS>;
    #unroll if MATRICES_WRITTEN_OUT
    for (var r = 0u; r < ROW_BLOCKS; r++) {
        workgroupBarrier();
        for (var w = thread; w < STRIPS * EDGE * HEAD_WORDS; w += THREADS) {
            let row = w / HEAD_WORDS;
            let vec = w % HEAD_WORDS;
            var four = vec4<f16>();
            if (HEAD_WORDS == HEAD_VECS || vec < HEAD_VECS) {
                four = q_factors(q_row(q_from, i0 + (row / EDGE) * STRIP_ROWS + r * EDGE + row % EDGE), vec);
            }
            put_factors(row * HEAD_PITCH + vec * 4u, four);
        }
        workgroupBarrier();
        for (var strip = subgroup; strip < strip_end; strip++) {
            #unroll if MATRICES_WRITTEN_OUT
            for (var d = 0u; d < HEAD_BLOCKS; d++) {
                q[r * HEAD_BLOCKS + d] = coopLoadT<MatrixA>(&factors[(strip * EDGE * HEAD_PITCH + d * EDGE) / STAGED], HEAD_PITCH / STAGED);
            }
        }
        #unroll if MATRICES_WRITTEN_OUT
        for (var n = 0u; n < VALUE_BLOCKS; n++) {
            o_sums[r * VALUE_BLOCKS + n] = MatrixC();
        }
    }

    // The rows whose weights are this invocation's.
    var m: array<f32, ROWS_EACH>;
    var l: array<f32, ROWS_EACH>;
    var rows: array<Row, ROWS_EACH>;
    #unroll
    for (var n = 0u; n < ROWS_EACH; n++) {
        m[n] = MASKED;
        l[n] = 0.0;
        if (HAS_SINKS) {
            // The sink's logit is the reference, with weight 1.
            m[n] = bitcast<f32>(small_word(params.sinks_at + h)) * LOG2_E;
            l[n] = 1.0;
        }
        rows[n] = row_of(b, min(i0 + thread + n * THREADS, params.end_query - 1u));
    }
    if (thread == 0u) {
        changed = 0u;
    }

    var k_values = load_k(k_from, list, place_of(list, first_tile(tiles), KEYS), last_key, thread);
    workgroupBarrier();
    store_k(k_values, thread);
    workgroupBarrier();
    for (var t = first_tile(tiles); t < tiles.body_end; t = next_tile(tiles, t)) {
        let p0 = place_of(list, t, KEYS);
        let v_values = load_v(v_from, list, p0, last_key, thread);

        // Scores of this tile.
        for (var strip = subgroup; strip < strip_end; strip++) {
            #unroll if MATRICES_WRITTEN_OUT
            for (var n = 0u; n < KEY_BLOCKS; n++) {
                var s: array<MatrixC, ROW_BLOCKS>;
                #unroll if MATRICES_WRITTEN_OUT
                for (var r = 0u; r < ROW_BLOCKS; r++) {
                    s[r] = MatrixC();
                }
                #unroll if MATRICES_WRITTEN_OUT
                for (var d = 0u; d < HEAD_BLOCKS; d++) {
                    let keys = coopLoad<MatrixB>(&factors[(n * EDGE * HEAD_PITCH + d * EDGE) / STAGED], HEAD_PITCH / STAGED);
                    #unroll if MATRICES_WRITTEN_OUT
                    for (var r = 0u; r < ROW_BLOCKS; r++) {
                        s[r] = coopMultiplyAdd(q[r * HEAD_BLOCKS + d], keys, s[r]);
                    }
                }
                #unroll if MATRICES_WRITTEN_OUT
                for (var r = 0u; r < ROW_BLOCKS; r++) {
                    coopStoreT(s[r], &sums[((strip * STRIP_ROWS + r * EDGE) * S_PITCH + n * EDGE) / STAGED], S_PITCH / STAGED);
                }
            }
        }
        workgroupBarrier();

        // Hooks, masks and weights, a row to an invocation. A tile that every row sees whole takes no mask arithmetic.
        store_v(v_values, thread);
        k_values = load_k(k_from, list, place_of(list, next_tile(tiles, t), KEYS), last_key, thread);
        let whole = whole_tile(list, clean, first, last, one_document, t, p0, p0 + KEYS);
        #unroll
        for (var n = 0u; n < ROWS_EACH; n++) {
            let row = thread + n * THREADS;
            if (ROWS % THREADS == 0u || row < ROWS) {
                let i = min(i0 + row, params.end_query - 1u);
                var top = MASKED;
                if (SCORE_HOOKS || !whole) {
                    for (var c = 0u; c < KEYS; c += 4u) {
                        var t4 = get_sums(row * S_PITCH + c) * params.q_scale;
                        for (var x = 0u; x < 4u; x++) {
                            t4[x] = masked_score(t4[x], whole, b, h, i, key_at(list, p0 + c + x), rows[n]);
                        }
                        put_sums(row * S_PITCH + c, t4);
                        top = max(top, max(max(t4.x, t4.y), max(t4.z, t4.w)));
                    }
                } else if (NORMALIZED) {
                    #unroll
                    for (var c = 0u; c < KEYS / 4u; c++) {
                        let t4 = get_sums(row * S_PITCH + c * 4u) * params.q_scale;
                        top = max(top, max(max(t4.x, t4.y), max(t4.z, t4.w)));
                    }
                }
                if (NORMALIZED) {
                    var shrink = 1.0;
                    if (top > m[n] + LIMIT) {
                        if (m[n] > MASKED_BELOW) {
                            changed = t + 1u;
                        }
                        shrink = exp2(m[n] - (top - HEADROOM));
                        m[n] = top - HEADROOM;
                        l[n] *= shrink;
                    }
                    row_factors[row] = shrink;
                }
                if (SCORE_HOOKS || !whole) {
                    for (var c = 0u; c < KEYS; c += 4u) {
                        let t4 = get_sums(row * S_PITCH + c);
                        var w = vec4<f32>(weight(t4.x, m[n]), weight(t4.y, m[n]), weight(t4.z, m[n]), weight(t4.w, m[n]));
                        w = select(w, vec4<f32>(), t4 < vec4<f32>(MASKED_BELOW));
                        l[n] += (w.x + w.y) + (w.z + w.w);
                        put_factors(P_AT + row * P_PITCH + c, factor_of(w));
                    }
                } else {
                    #unroll
                    for (var c = 0u; c < KEYS / 4u; c++) {
                        let t4 = get_sums(row * S_PITCH + c * 4u) * params.q_scale;
                        let w = vec4<f32>(weight(t4.x, m[n]), weight(t4.y, m[n]), weight(t4.z, m[n]), weight(t4.w, m[n]));
                        l[n] += (w.x + w.y) + (w.z + w.w);
                        put_factors(P_AT + row * P_PITCH + c * 4u, factor_of(w));
                    }
                }
            }
        }
        store_k(k_values, thread);

        if (NORMALIZED) {
            // The barrier here is that of the weights too. A loop again in place of a branch.
            for (var rescale = workgroupUniformLoad(&changed) == t + 1u; rescale; rescale = false) {
                #unroll if MATRICES_WRITTEN_OUT
                for (var n = 0u; n < VALUE_BLOCKS / OUT_BLOCKS; n++) {
                    for (var strip = subgroup; strip < strip_end; strip++) {
                        #unroll if MATRICES_WRITTEN_OUT
                        for (var r = 0u; r < ROW_BLOCKS; r++) {
                            #unroll if MATRICES_WRITTEN_OUT
                            for (var c = 0u; c < OUT_BLOCKS; c++) {
                                coopStoreT(o_sums[r * VALUE_BLOCKS + n * OUT_BLOCKS + c], &sums[((strip * STRIP_ROWS + r * EDGE) * S_PITCH + c * EDGE) / STAGED], S_PITCH / STAGED);
                            }
                        }
                    }
                    workgroupBarrier();
                    for (var w = thread; w < ROWS * OUT_BLOCKS * EDGE / 4u; w += THREADS) {
                        let row = w / (OUT_BLOCKS * EDGE / 4u);
                        let at = row * S_PITCH + (w % (OUT_BLOCKS * EDGE / 4u)) * 4u;
                        put_sums(at, get_sums(at) * row_factors[row]);
                    }
                    workgroupBarrier();
                    for (var strip = subgroup; strip < strip_end; strip++) {
                        #unroll if MATRICES_WRITTEN_OUT
                        for (var r = 0u; r < ROW_BLOCKS; r++) {
                            #unroll if MATRICES_WRITTEN_OUT
                            for (var c = 0u; c < OUT_BLOCKS; c++) {
                                o_sums[r * VALUE_BLOCKS + n * OUT_BLOCKS + c] = coopLoadT<MatrixC>(&sums[((strip * STRIP_ROWS + r * EDGE) * S_PITCH + c * EDGE) / STAGED], S_PITCH / STAGED);
                            }
                        }
                    }
                }
            }
        } else {
            workgroupBarrier();
        }

        // Output product.
        for (var strip = subgroup; strip < strip_end; strip++) {
            #unroll if MATRICES_WRITTEN_OUT
            for (var n = 0u; n < KEY_BLOCKS; n++) {
                var p: array<MatrixA, ROW_BLOCKS>;
                #unroll if MATRICES_WRITTEN_OUT
                for (var r = 0u; r < ROW_BLOCKS; r++) {
                    p[r] = coopLoadT<MatrixA>(&factors[(P_AT + (strip * STRIP_ROWS + r * EDGE) * P_PITCH + n * EDGE) / STAGED], P_PITCH / STAGED);
                }
                #unroll if MATRICES_WRITTEN_OUT
                for (var d = 0u; d < VALUE_BLOCKS; d++) {
                    let values = coopLoadT<MatrixB>(&factors[(V_AT + n * EDGE * VALUE_PITCH + d * EDGE) / STAGED], VALUE_PITCH / STAGED);
                    #unroll if MATRICES_WRITTEN_OUT
                    for (var r = 0u; r < ROW_BLOCKS; r++) {
                        o_sums[r * VALUE_BLOCKS + d] = coopMultiplyAdd(p[r], values, o_sums[r * VALUE_BLOCKS + d]);
                    }
                }
            }
        }
    }

    // What a row's sums have to be multiplied by, and its log-sum-exp.
    #unroll
    for (var n = 0u; n < ROWS_EACH; n++) {
        let row = thread + n * THREADS;
        if (ROWS % THREADS == 0u || row < ROWS) {
            var factor = 1.0 / LARGEST;
            if (NORMALIZED) {
                factor = select(0.0, 1.0 / l[n], l[n] > 0.0);
            }
            row_factors[row] = factor;
            let i = i0 + row;
            if (HAS_LSE && i < params.end_query) {
                let at = params.lse_base + ((b - params.first_batch) * params.heads + h - params.first_head) * params.queries
                    + i - params.first_query;
                let value = (m[n] + log2(max(l[n], 1e-37))) * LN_2;
                store_lse(at, select(NEGATIVE_INFINITY_BITS, bitcast<u32>(value), l[n] > 0.0));
            }
        }
    }

    // The output, OUT_BLOCKS blocks of columns at a time.
    let o_from = params.o_base + (b - params.first_batch) * params.o_batch + (h - params.first_head) * params.o_head;
    #unroll if MATRICES_WRITTEN_OUT
    for (var n = 0u; n < VALUE_BLOCKS / OUT_BLOCKS; n++) {
        workgroupBarrier();
        for (var strip = subgroup; strip < strip_end; strip++) {
            #unroll if MATRICES_WRITTEN_OUT
            for (var r = 0u; r < ROW_BLOCKS; r++) {
                #unroll if MATRICES_WRITTEN_OUT
                for (var c = 0u; c < OUT_BLOCKS; c++) {
                    coopStoreT(o_sums[r * VALUE_BLOCKS + n * OUT_BLOCKS + c], &sums[((strip * STRIP_ROWS + r * EDGE) * S_PITCH + c * EDGE) / STAGED], S_PITCH / STAGED);
                }
            }
        }
        workgroupBarrier();
        for (var w = thread; w < ROWS * OUT_BLOCKS * EDGE / 4u; w += THREADS) {
            let row = w / (OUT_BLOCKS * EDGE / 4u);
            let vec = w % (OUT_BLOCKS * EDGE / 4u);
            let column = n * OUT_BLOCKS * EDGE + vec * 4u;
            let i = i0 + row;
            if (i < params.end_query && column < VALUE_DIM) {
                let values = get_sums(row * S_PITCH + vec * 4u) * row_factors[row];
                store_o4(o_from + (i - params.first_query) * params.o_seq + column, values, VALUE_DIM - column);
            }
        }
    }
}

// A weight as a factor.
fn factor_of(w: vec4<f32>) -> vec4<f16> {
    if (NORMALIZED) {
        return vec4<f16>(w);
    }
    return vec4<f16>(w * LARGEST);
}
