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
// Strips. SHARES subgroups own a strip of ROW_BLOCKS·EDGE rows together. Of Q·Kᵀ each takes every SHARES-th block of keys,
// of P·V a share of the columns of O, so that a loaded block of k or v meets all of a strip's rows, and a subgroup's part
// of Q and of O fits its registers. The workgroup is made for the largest subgroups that the device may use; if they turn
// out smaller, those left over do what others do already.
//
// Weights. Matrices have no elements one could get at, so scores go through workgroup memory, where ROW_LANES neighbouring
// invocations take a row: its maximum takes log2(ROW_LANES) shuffles, and its sums wait until the end.
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
// Workgroup memory, rows and pitches (in words of four elements):
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
const SHARE_KEYS = KEY_BLOCKS / SHARES;
const SHARE_VALUES = VALUE_BLOCKS / SHARES;

// Rows whose weights an invocation works out, and four scores at a time of each.
const ROWS_EACH = (ROWS * ROW_LANES + THREADS - 1u) / THREADS;
const ALL_ROWS = ROWS * ROW_LANES % THREADS == 0u;
const ROW_VECS = KEYS / 4u / ROW_LANES;

// Words of four in a row of `sums` that hold output.
const OUT_WORDS = SHARES * OUT_BLOCKS * EDGE / 4u;

const HEAD_VECS = (HEAD_DIM + 3u) / 4u;
const VALUE_VECS = (VALUE_DIM + 3u) / 4u;
const HEAD_WORDS = HEAD_BLOCKS * EDGE / 4u;
const VALUE_WORDS = VALUE_BLOCKS * EDGE / 4u;

// From here on places and pitches are in words of four elements.
const EDGE_WORDS = EDGE / 4u;
const HEAD_PITCH = HEAD_WORDS + 2u;
const VALUE_PITCH = VALUE_WORDS + 2u;
const P_PITCH = KEYS / 4u + 2u;
const S_PITCH = KEYS / 4u + 1u;
const V_AT = KEYS * HEAD_PITCH;
const P_AT = V_AT + KEYS * VALUE_PITCH;
const FACTORS = max(P_AT + ROWS * P_PITCH, STRIPS * EDGE * HEAD_PITCH);
const SUMS = ROWS * S_PITCH;

const_assert KEYS % EDGE == 0u;
const_assert KEY_BLOCKS % SHARES == 0u && VALUE_BLOCKS % SHARES == 0u;
const_assert SHARE_VALUES % OUT_BLOCKS == 0u && OUT_BLOCKS <= SHARE_KEYS;
const_assert KEYS / 4u % ROW_LANES == 0u;

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

// Keys and values are staged a word to an invocation, all keys of a tile in some turns. Where the words of a row divide
// the invocations, each stays with its word, and what it needs for a turn is a constant away from the first.
const HEAD_FILLS = THREADS % HEAD_WORDS == 0u;
const VALUE_FILLS = THREADS % VALUE_WORDS == 0u;
const K_LOADS = (KEYS * HEAD_WORDS + THREADS - 1u) / THREADS;
const V_LOADS = (KEYS * VALUE_WORDS + THREADS - 1u) / THREADS;
const K_EVEN = KEYS * HEAD_WORDS % THREADS == 0u;
const V_EVEN = KEYS * VALUE_WORDS % THREADS == 0u;

// Row and word of a turn.
struct Turn {
    row: u32,
    word: u32,
}

fn k_turn(thread: u32, u: u32) -> Turn {
    if (HEAD_FILLS) {
        return Turn(thread / HEAD_WORDS + u * (THREADS / HEAD_WORDS), thread % HEAD_WORDS);
    }
    return Turn((thread + u * THREADS) / HEAD_WORDS, (thread + u * THREADS) % HEAD_WORDS);
}

fn v_turn(thread: u32, u: u32) -> Turn {
    if (VALUE_FILLS) {
        return Turn(thread / VALUE_WORDS + u * (THREADS / VALUE_WORDS), thread % VALUE_WORDS);
    }
    return Turn((thread + u * THREADS) / VALUE_WORDS, (thread + u * THREADS) % VALUE_WORDS);
}

fn load_k(base: u32, list: List, p0: u32, last_key: u32, thread: u32) -> array<vec4<f16>, K_LOADS> {
    var values: array<vec4<f16>, K_LOADS>;
    #unroll
    for (var u = 0u; u < K_LOADS; u++) {
        let turn = k_turn(thread, u);
        if (HEAD_WORDS == HEAD_VECS || turn.word < HEAD_VECS) {
            let j = min(key_at(list, p0 + turn.row), last_key);
            values[u] = k_factors(base + j * params.k_seq, turn.word);
        }
    }
    return values;
}

fn store_k(values: array<vec4<f16>, K_LOADS>, thread: u32) {
    let at = (thread / HEAD_WORDS) * HEAD_PITCH + thread % HEAD_WORDS;
    #unroll
    for (var u = 0u; u < K_LOADS; u++) {
        if (K_EVEN || thread + u * THREADS < KEYS * HEAD_WORDS) {
            if (HEAD_FILLS) {
                put_factors(at + u * (THREADS / HEAD_WORDS) * HEAD_PITCH, values[u]);
            } else {
                let turn = k_turn(thread, u);
                put_factors(turn.row * HEAD_PITCH + turn.word, values[u]);
            }
        }
    }
}

fn load_v(base: u32, list: List, p0: u32, last_key: u32, thread: u32) -> array<vec4<f16>, V_LOADS> {
    var values: array<vec4<f16>, V_LOADS>;
    #unroll
    for (var u = 0u; u < V_LOADS; u++) {
        let turn = v_turn(thread, u);
        if (VALUE_WORDS == VALUE_VECS || turn.word < VALUE_VECS) {
            let j = min(key_at(list, p0 + turn.row), last_key);
            values[u] = v_factors(base + j * params.v_seq, turn.word);
        }
    }
    return values;
}

fn store_v(values: array<vec4<f16>, V_LOADS>, thread: u32) {
    let at = V_AT + (thread / VALUE_WORDS) * VALUE_PITCH + thread % VALUE_WORDS;
    #unroll
    for (var u = 0u; u < V_LOADS; u++) {
        if (V_EVEN || thread + u * THREADS < KEYS * VALUE_WORDS) {
            if (VALUE_FILLS) {
                put_factors(at + u * (THREADS / VALUE_WORDS) * VALUE_PITCH, values[u]);
            } else {
                let turn = v_turn(thread, u);
                put_factors(V_AT + turn.row * VALUE_PITCH + turn.word, values[u]);
            }
        }
    }
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(subgroup_id) subgroup: u32, @builtin(subgroup_size) subgroup_size: u32,
        @builtin(subgroup_invocation_id) lane: u32) {
    // Neighbours by this number are neighbours in a subgroup, which by the invocation index they need not be.
    let thread = subgroup * subgroup_size + lane;
    let strip = subgroup / SHARES % STRIPS;
    let share = subgroup % SHARES;
    // Where this subgroup's matrices are; those of one loop lie constants apart.
    let k_matrices = share * EDGE * HEAD_PITCH;
    let s_matrices = strip * STRIP_ROWS * S_PITCH + share * EDGE_WORDS;
    let p_matrices = P_AT + strip * STRIP_ROWS * P_PITCH;
    let v_matrices = V_AT + share * SHARE_VALUES * EDGE_WORDS;
    let o_matrices = strip * STRIP_ROWS * S_PITCH + share * OUT_BLOCKS * EDGE_WORDS;
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

    var q: array<MatrixA, ROW_BLOCKS * HEAD_BLOCKS>;
    var o_sums: array<MatrixC, ROW_BLOCKS * SHARE_VALUES>;
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
            put_factors(row * HEAD_PITCH + vec, four);
        }
        workgroupBarrier();
        #unroll if MATRICES_WRITTEN_OUT
        for (var d = 0u; d < HEAD_BLOCKS; d++) {
            q[r * HEAD_BLOCKS + d] = coopLoadT<MatrixA>(&factors[(strip * EDGE * HEAD_PITCH + d * EDGE_WORDS) * WORD], HEAD_PITCH * WORD);
        }
        #unroll if MATRICES_WRITTEN_OUT
        for (var n = 0u; n < SHARE_VALUES; n++) {
            o_sums[r * SHARE_VALUES + n] = MatrixC();
        }
    }

    // The rows whose weights are this invocation's, or partly so.
    let row_lane = thread % ROW_LANES;
    var m: array<f32, ROWS_EACH>;
    var l: array<f32, ROWS_EACH>;
    var rows: array<Row, ROWS_EACH>;
    #unroll
    for (var n = 0u; n < ROWS_EACH; n++) {
        m[n] = MASKED;
        l[n] = 0.0;
        if (HAS_SINKS) {
            // The sink's logit is the reference, with weight 1, counted by one lane.
            m[n] = bitcast<f32>(small_word(params.sinks_at + h)) * LOG2_E;
            l[n] = select(0.0, 1.0, row_lane == 0u);
        }
        rows[n] = row_of(b, min(i0 + (thread + n * THREADS) / ROW_LANES, params.end_query - 1u));
    }
    if (thread == 0u) {
        changed = 0u;
    }

    var k_values = load_k(k_from, list, place_of(list, first_tile(tiles), KEYS), last_key, thread);
    workgroupBarrier();
    store_k(k_values, thread);
    workgroupBarrier();
    var t = first_tile(tiles);
    var v_values = load_v(v_from, list, place_of(list, t, KEYS), last_key, thread);
    // The walk inside stops before the output product of a tile at which a reference changed; so the common path has no
    // code that changes O but that product.
    for (; t < tiles.body_end; t = next_tile(tiles, t)) {
        for (; t < tiles.body_end; t = next_tile(tiles, t)) {
            let p0 = place_of(list, t, KEYS);

            // Scores of this tile.
            #unroll if MATRICES_WRITTEN_OUT
            for (var n = 0u; n < SHARE_KEYS; n++) {
                var s: array<MatrixC, ROW_BLOCKS>;
                #unroll if MATRICES_WRITTEN_OUT
                for (var r = 0u; r < ROW_BLOCKS; r++) {
                    s[r] = MatrixC();
                }
                #unroll if MATRICES_WRITTEN_OUT
                for (var d = 0u; d < HEAD_BLOCKS; d++) {
                    let keys = coopLoad<MatrixB>(&factors[(k_matrices + (n * SHARES * EDGE * HEAD_PITCH + d * EDGE_WORDS)) * WORD], HEAD_PITCH * WORD);
                    #unroll if MATRICES_WRITTEN_OUT
                    for (var r = 0u; r < ROW_BLOCKS; r++) {
                        s[r] = coopMultiplyAdd(q[r * HEAD_BLOCKS + d], keys, s[r]);
                    }
                }
                #unroll if MATRICES_WRITTEN_OUT
                for (var r = 0u; r < ROW_BLOCKS; r++) {
                    coopStoreT(s[r], &sums[(s_matrices + (r * EDGE * S_PITCH + n * SHARES * EDGE_WORDS)) * WORD], S_PITCH * WORD);
                }
            }
            workgroupBarrier();

            // Hooks, masks and weights. A tile that every row sees whole takes no mask arithmetic.
            store_v(v_values, thread);
            let next = place_of(list, next_tile(tiles, t), KEYS);
            k_values = load_k(k_from, list, next, last_key, thread);
            v_values = load_v(v_from, list, next, last_key, thread);
            let whole = whole_tile(list, clean, first, last, one_document, t, p0, p0 + KEYS);
            #unroll
            for (var n = 0u; n < ROWS_EACH; n++) {
                let row = (thread + n * THREADS) / ROW_LANES;
                if (ALL_ROWS || row < ROWS) {
                    let s_from = row * S_PITCH + row_lane * ROW_VECS;
                    let p_from = P_AT + row * P_PITCH + row_lane * ROW_VECS;
                    var unit = params.q_scale;
                    if (SCORE_HOOKS || !whole) {
                        let i = min(i0 + row, params.end_query - 1u);
                        for (var c = 0u; c < ROW_VECS; c++) {
                            let p = p0 + (row_lane * ROW_VECS + c) * 4u;
                            var t4 = get_sums(s_from + c) * params.q_scale;
                            #unroll
                            for (var x = 0u; x < 4u; x++) {
                                t4[x] = masked_score(t4[x], whole, b, h, i, key_at(list, p + x), rows[n]);
                            }
                            put_sums(s_from + c, t4);
                        }
                        unit = 1.0;
                    }
                    var scores: array<vec4<f32>, ROW_VECS>;
                    #unroll
                    for (var c = 0u; c < ROW_VECS; c++) {
                        scores[c] = get_sums(s_from + c) * unit;
                    }
                    if (NORMALIZED) {
                        var top4 = scores[0];
                        #unroll
                        for (var c = 1u; c < ROW_VECS; c++) {
                            top4 = max(top4, scores[c]);
                        }
                        let top = lanes_max(max(max(top4.x, top4.y), max(top4.z, top4.w)));
                        var shrink = 1.0;
                        if (top > m[n] + LIMIT) {
                            if (m[n] > MASKED_BELOW) {
                                changed = t + 1u;
                            }
                            shrink = exp2(m[n] - (top - HEADROOM));
                            m[n] = top - HEADROOM;
                            l[n] *= shrink;
                        }
                        if (row_lane == 0u) {
                            row_factors[row] = shrink;
                        }
                    }
                    var sum4 = vec4<f32>();
                    #unroll
                    for (var c = 0u; c < ROW_VECS; c++) {
                        let t4 = scores[c];
                        var w = vec4<f32>(weight(t4.x, m[n]), weight(t4.y, m[n]), weight(t4.z, m[n]), weight(t4.w, m[n]));
                        if (SCORE_HOOKS || !whole) {
                            w = select(w, vec4<f32>(), t4 < vec4<f32>(MASKED_BELOW));
                        }
                        sum4 += w;
                        put_factors(p_from + c, factor_of(w));
                    }
                    l[n] += (sum4.x + sum4.y) + (sum4.z + sum4.w);
                }
            }
            store_k(k_values, thread);
            workgroupBarrier();

            if (NORMALIZED && changed == t + 1u) {
                break;
            }
            add_values(&o_sums, p_matrices, v_matrices);
        }
        // A loop in place of a branch, because matrices are worked on in control flow that is the same for a whole subgroup,
        // which a branch would have to prove.
        for (var rescale = NORMALIZED && t < tiles.body_end; rescale; rescale = false) {
            #unroll if MATRICES_WRITTEN_OUT
            for (var n = 0u; n < SHARE_VALUES / OUT_BLOCKS; n++) {
                #unroll if MATRICES_WRITTEN_OUT
                for (var r = 0u; r < ROW_BLOCKS; r++) {
                    #unroll if MATRICES_WRITTEN_OUT
                    for (var c = 0u; c < OUT_BLOCKS; c++) {
                        coopStoreT(o_sums[r * SHARE_VALUES + n * OUT_BLOCKS + c], &sums[(o_matrices + (r * EDGE * S_PITCH + c * EDGE_WORDS)) * WORD], S_PITCH * WORD);
                    }
                }
                workgroupBarrier();
                for (var w = thread; w < ROWS * OUT_WORDS; w += THREADS) {
                    let at = (w / OUT_WORDS) * S_PITCH + w % OUT_WORDS;
                    put_sums(at, get_sums(at) * row_factors[w / OUT_WORDS]);
                }
                workgroupBarrier();
                #unroll if MATRICES_WRITTEN_OUT
                for (var r = 0u; r < ROW_BLOCKS; r++) {
                    #unroll if MATRICES_WRITTEN_OUT
                    for (var c = 0u; c < OUT_BLOCKS; c++) {
                        o_sums[r * SHARE_VALUES + n * OUT_BLOCKS + c] = coopLoadT<MatrixC>(&sums[(o_matrices + (r * EDGE * S_PITCH + c * EDGE_WORDS)) * WORD], S_PITCH * WORD);
                    }
                }
                // Subgroups that do the same must not get ahead of one another.
                workgroupBarrier();
            }
            add_values(&o_sums, p_matrices, v_matrices);
        }
    }

    // What a row's sums have to be multiplied by, and its log-sum-exp.
    #unroll
    for (var n = 0u; n < ROWS_EACH; n++) {
        let row = (thread + n * THREADS) / ROW_LANES;
        let sum = lanes_sum(l[n]);
        if ((ALL_ROWS || row < ROWS) && row_lane == 0u) {
            var factor = 1.0 / LARGEST;
            if (NORMALIZED) {
                factor = select(0.0, 1.0 / sum, sum > 0.0);
            }
            row_factors[row] = factor;
            let i = i0 + row;
            if (HAS_LSE && i < params.end_query) {
                let at = params.lse_base + ((b - params.first_batch) * params.heads + h - params.first_head) * params.queries
                    + i - params.first_query;
                let value = (m[n] + log2(max(sum, 1e-37))) * LN_2;
                store_lse(at, select(NEGATIVE_INFINITY_BITS, bitcast<u32>(value), sum > 0.0));
            }
        }
    }

    // The output, OUT_BLOCKS blocks of each share's columns at a time.
    let o_from = params.o_base + (b - params.first_batch) * params.o_batch + (h - params.first_head) * params.o_head;
    #unroll if MATRICES_WRITTEN_OUT
    for (var n = 0u; n < SHARE_VALUES / OUT_BLOCKS; n++) {
        workgroupBarrier();
        #unroll if MATRICES_WRITTEN_OUT
        for (var r = 0u; r < ROW_BLOCKS; r++) {
            #unroll if MATRICES_WRITTEN_OUT
            for (var c = 0u; c < OUT_BLOCKS; c++) {
                coopStoreT(o_sums[r * SHARE_VALUES + n * OUT_BLOCKS + c], &sums[(o_matrices + (r * EDGE * S_PITCH + c * EDGE_WORDS)) * WORD], S_PITCH * WORD);
            }
        }
        workgroupBarrier();
        for (var w = thread; w < ROWS * OUT_WORDS; w += THREADS) {
            let row = w / OUT_WORDS;
            let word = w % OUT_WORDS;
            let of_share = word / (OUT_WORDS / SHARES);
            let column = (of_share * SHARE_VALUES + n * OUT_BLOCKS) * EDGE + word % (OUT_WORDS / SHARES) * 4u;
            let i = i0 + row;
            if (i < params.end_query && column < VALUE_DIM) {
                let values = get_sums(row * S_PITCH + word) * row_factors[row];
                store_o4(o_from + (i - params.first_query) * params.o_seq + column, values, VALUE_DIM - column);
            }
        }
    }
}

// O += P·V of the tile in workgroup memory.
fn add_values(o_sums: ptr<function, array<MatrixC, ROW_BLOCKS * SHARE_VALUES>>, p_matrices: u32, v_matrices: u32) {
    #unroll if MATRICES_WRITTEN_OUT
    for (var n = 0u; n < KEY_BLOCKS; n++) {
        var p: array<MatrixA, ROW_BLOCKS>;
        #unroll if MATRICES_WRITTEN_OUT
        for (var r = 0u; r < ROW_BLOCKS; r++) {
            p[r] = coopLoadT<MatrixA>(&factors[(p_matrices + (r * EDGE * P_PITCH + n * EDGE_WORDS)) * WORD], P_PITCH * WORD);
        }
        #unroll if MATRICES_WRITTEN_OUT
        for (var d = 0u; d < SHARE_VALUES; d++) {
            let values = coopLoadT<MatrixB>(&factors[(v_matrices + (n * EDGE * VALUE_PITCH + d * EDGE_WORDS)) * WORD], VALUE_PITCH * WORD);
            #unroll if MATRICES_WRITTEN_OUT
            for (var r = 0u; r < ROW_BLOCKS; r++) {
                (*o_sums)[r * SHARE_VALUES + d] = coopMultiplyAdd(p[r], values, (*o_sums)[r * SHARE_VALUES + d]);
            }
        }
    }
}

// Over the lanes of a row.
fn lanes_max(x: f32) -> f32 {
    var top = x;
    for (var n = 1u; n < ROW_LANES; n *= 2u) {
        top = max(top, subgroupShuffleXor(top, n));
    }
    return top;
}

fn lanes_sum(x: f32) -> f32 {
    var sum = x;
    for (var n = 1u; n < ROW_LANES; n *= 2u) {
        sum += subgroupShuffleXor(sum, n);
    }
    return sum;
}

// A weight as a factor.
fn factor_of(w: vec4<f32>) -> vec4<f16> {
    if (NORMALIZED) {
        return vec4<f16>(w);
    }
    return vec4<f16>(w * LARGEST);
}
