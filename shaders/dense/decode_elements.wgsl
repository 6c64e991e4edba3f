// Attention of few queries over many keys, on cooperative matrices whose elements a shader gets at.
//
//   o_i = Σ_j w(s_ij) v_j,   s_ij = hooks(scale · q_i·k_j),   w = softmax or sigmoid
//
// As `dense/decode_cooperative.wgsl`, whose rows, shares of the keys and strips these are; but keys and values are loaded to where the
// matrices have them, and scores and weights stay there. So a strip, which is a subgroup, walks its keys without any barrier, and
// workgroup memory is used at the start, for queries, and at the end, where strips meet.
//
//   S = Q·Kᵀ    sums of matrices → weights, element by element → factors
//   O += P·V    in matrices, where it stays until the end
//
// What is loaded where. Of each of its COLUMNS columns of a right factor an invocation has DEPTH rows. A load takes four
// neighbouring elements of a key or a value, and matrices come in any order in which both factors agree:
//   K   an invocation has, of each of its keys (columns), DEPTH elements in each of HEAD_MATRICES matrices: HEAD_OWN vectors of the
//       key. The invocations that share the key take turns, vector by vector, so that they load what lies side by side. Queries are
//       put into the same order when they are staged.
//   V   of each of its keys (rows), COLUMNS elements in each of VALUE_MATRICES matrices: VALUE_OWN vectors of the value, in turns
//       with the invocations that share the rows. Columns of O come out in that order, and are put back where strips meet.
// Keys of a block of EDGE are those of the columns of S, in their own order.
//
// Keys and values of the next AHEAD blocks are on their way in registers all the while: as soon as those of this one have been used,
// those of the AHEAD-th after it are loaded. With AHEAD = 2 blocks go by twos, and where they are odd in number the last is walked
// again, masked.
//
// Weights. As in `dense/prefill_elements.wgsl`, which has the reasons:
//   m, l   for each class of rows, the reference that weights are relative to, HEADROOM below a maximum, and an invocation's part of
//          the sum of 2^(t_ij − m_i) over the keys so far
//
// Workgroup memory (pitches in words of four elements):
//   factors, f16   q [ROWS][Q_PITCH]
//   sums, f32      OUT_BLOCKS blocks of O's columns of each strip, [STRIPS][OWN_ROWS][OUT_PITCH]
//   row_tops, row_sums   of each strip's rows, m and l
//   row_bits             of rows of q, the largest magnitude, where factors are scaled (`dense/right_scaled.wgsl`, for bf16)
//
// Tile sizes. What is on its way on a processor sets the pace, and registers set what that is: at D = 64 12 strips with one block on
// its way, at D = 128 8. On an NVIDIA H200, 8 KV heads of 8 rows, f16, 131 072 keys: D = 64 80.1 µs, of which launch, start, merge and
// end are some 13 and the rest reads at the device's rate of reading; `decode_cooperative` takes 85.5.
//
// Rows past the end repeat the last one and are not written. A row that sees no key gives o = 0, lse = −inf.

#import shared/numerics
#import dense/params
#import shared/output
#import dense/position
#import dense/visibility
#import dense/score
#import dense/share
#import shared/matrix_sizes
#import shared/elements
#import shared/right_elements

const KEYS = STRIPS * EDGE;
const ROWS = ROW_BLOCKS * EDGE;
const ROW_CLASSES = ROW_BLOCKS * CLASSES;
const LANES = THREADS / STRIPS;

const HEAD_VECS = (HEAD_DIM + 3u) / 4u;
const VALUE_VECS = (VALUE_DIM + 3u) / 4u;

// Rows of a right factor that an invocation has of each of its columns; invocations that share a column, and that share rows.
const DEPTH = ELEMENTS / COLUMNS;
const COLUMN_SHARERS = RIGHT_SHARERS + 1u;
const ROW_SHARERS = LANES / COLUMN_SHARERS;
// Matrices, so many that there are whole vectors of an invocation.
const HEAD_MATRICES = (HEAD_BLOCKS * DEPTH + 3u) / 4u * 4u / DEPTH;
const HEAD_OWN = HEAD_MATRICES * DEPTH / 4u;
const VALUE_MATRICES = (VALUE_BLOCKS * COLUMNS + 3u) / 4u * 4u / COLUMNS;
const VALUE_OWN = VALUE_MATRICES * COLUMNS / 4u;
const HEAD_WHOLE = HEAD_OWN * COLUMN_SHARERS == HEAD_VECS;
const VALUE_WHOLE = VALUE_OWN * ROW_SHARERS == VALUE_VECS;
const K_LOADS = COLUMNS * HEAD_OWN;
const V_LOADS = DEPTH * VALUE_OWN;

// Places and pitches are in words of four elements.
const Q_WORDS = HEAD_MATRICES * EDGE_WORDS;
const Q_PITCH = Q_WORDS + 2u;
const FACTORS = ROWS * Q_PITCH;
const OUT_WORDS = OUT_BLOCKS * EDGE_WORDS;
const OUT_PITCH = OUT_WORDS + 1u;
const SUMS = STRIPS * OWN_ROWS * OUT_PITCH;

// Blocks of keys that a round of the walk has.
const TURNS = max(AHEAD, 1u);

const HEADROOM = 7.0;
const LARGEST = 32768.0;

const_assert f32(ELEMENTS / CLASSES) * 128.0 <= LARGEST;
const_assert ROW_SHARERS * COLUMNS == EDGE && COLUMN_SHARERS * DEPTH == EDGE;
const_assert VALUE_MATRICES % OUT_BLOCKS == 0u && OUT_BLOCKS * COLUMNS % 4u == 0u;
const_assert OWN_ROWS <= ROWS;

var<workgroup> row_tops: array<f32, STRIPS * ROWS>;
var<workgroup> row_sums: array<f32, STRIPS * ROWS>;
// Bits of the largest magnitudes of rows of q, where factors are scaled.
var<workgroup> row_bits: array<atomic<u32>, select(4u, ROWS, SCALED)>;
// The matrix column that the n-th element of q or k in a block of EDGE is in; and the place of a matrix's column among O's.
var<workgroup> head_columns: array<u32, EDGE>;
var<workgroup> value_columns: array<u32, EDGE>;

// What numbers are multiplied by, and what undoes it (`dense/right_scaled.wgsl`).
struct Factor {
    by: f32,
    unit: f32,
}

// Of an invocation's elements of right factors.
struct Own {
    columns: array<u32, COLUMNS>,
    rows: array<u32, DEPTH>,
    // Its number among those that share its columns, and among those that share its rows.
    column_sharer: u32,
    row_sharer: u32,
}

fn load_k(base: u32, list: List, p0: u32, last_key: u32, own: Own) -> array<Held, K_LOADS> {
    var given = own;
    var held: array<Held, K_LOADS>;
    #unroll if MATRICES_WRITTEN_OUT
    for (var c = 0u; c < COLUMNS; c++) {
        let j = min(key_at(list, p0 + given.columns[c]), last_key);
        #unroll if MATRICES_WRITTEN_OUT
        for (var n = 0u; n < HEAD_OWN; n++) {
            let vec = n * COLUMN_SHARERS + own.column_sharer;
            if (HEAD_WHOLE || vec < HEAD_VECS) {
                held[c * HEAD_OWN + n] = k_four(base, j, vec);
            }
        }
    }
    return held;
}

fn load_v(base: u32, list: List, p0: u32, last_key: u32, own: Own) -> array<Held, V_LOADS> {
    var given = own;
    var held: array<Held, V_LOADS>;
    #unroll if MATRICES_WRITTEN_OUT
    for (var x = 0u; x < DEPTH; x++) {
        let j = min(key_at(list, p0 + given.rows[x]), last_key);
        #unroll if MATRICES_WRITTEN_OUT
        for (var n = 0u; n < VALUE_OWN; n++) {
            let vec = n * ROW_SHARERS + own.row_sharer;
            if (VALUE_WHOLE || vec < VALUE_VECS) {
                held[x * VALUE_OWN + n] = v_four(base, j, vec);
            }
        }
    }
    return held;
}

// Of an element of a right factor its class, and its place among those of the class.
fn column_class(e: u32) -> u32 {
    return e / RIGHT_RUN % COLUMNS;
}

fn depth_of(e: u32) -> u32 {
    return e / (RIGHT_RUN * COLUMNS) * RIGHT_RUN + e % RIGHT_RUN;
}

// Four neighbouring elements of a row of q, 0 where it has none.
fn load_q(workgroup: vec3<u32>, row: u32, vec: u32) -> vec4<f32> {
    if (HEAD_WHOLE || vec < HEAD_VECS) {
        let base = params.q_base + workgroup.z * params.q_batch
            + (workgroup.y * params.group + row % params.group) * params.q_head + (row / params.group) * params.q_seq;
        return q4(base + vec * 4u, HEAD_DIM - vec * 4u);
    }
    return vec4<f32>();
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>,
        @builtin(subgroup_id) subgroup: u32, @builtin(subgroup_size) subgroup_size: u32,
        @builtin(subgroup_invocation_id) lane: u32) {
    // Neighbours by this number are neighbours in a subgroup, which by the invocation index they need not be.
    let thread = subgroup * subgroup_size + lane;
    let strip = subgroup % STRIPS;

    let b = params.first_batch + workgroup.z;
    let kv_head = params.first_head / params.group + workgroup.y;
    let split = workgroup.x % params.splits;
    // Row r of the KV head is query r / group of query head kv_head·group + r % group.
    let row_count = (params.end_query - params.first_query) * params.group;
    let row_tile = workgroup.x / params.splits;
    let row0 = row_tile * OWN_ROWS;
    let last_row = min(row0 + OWN_ROWS, row_count) - 1u;
    let k_from = params.k_base + workgroup.z * params.k_batch + workgroup.y * params.k_head;
    let v_from = params.v_base + workgroup.z * params.v_batch + workgroup.y * params.v_head;

    let first = row_of(b, params.first_query + row0 / params.group);
    let last = row_of(b, params.first_query + last_row / params.group);
    let one_document = !HAS_DOCUMENTS || (first.lo == last.lo && first.hi == last.hi);
    let whole_keys = whole_of(first, last, one_document);
    let h0 = kv_head * params.group + row0 % params.group;
    let list = list_of(b, h0, params.first_query + row0 / params.group, row_tile);
    let tiles = tiles_to_visit(list, first, last, one_document, KEYS);
    // What lies behind `kv_len` in a cache is never read, since it may be anything, NaN included: keys past the end
    // repeat the last one, masked.
    var last_key = u32(max(keys_of(b), 1) - 1);
    if (SCALED && one_document) {
        // Nor what lies behind the last key that any row sees, which would have a part in factors.
        let reach = max(last.position + min(params.right, params.ahead) + 1, last.lo + max(params.prefix, params.sink_tokens));
        last_key = min(last_key, u32(max(min(reach, last.hi), 1) - 1));
    }
    let share = share_of(tiles, split);
    let own_places = strip * EDGE;

    // Which elements are this invocation's.
    fill_places(thread);
    fill_right_places(thread);
    if (SCALED) {
        for (var row = thread; row < ROWS; row += THREADS) {
            atomicStore(&row_bits[row], 0u);
        }
    }
    workgroupBarrier();
    var own: Own;
    own.column_sharer = lane % COLUMN_SHARERS;
    own.row_sharer = lane / COLUMN_SHARERS;
    var right_row = right_rows();
    var right_column = right_columns();
    #unroll if MATRICES_WRITTEN_OUT
    for (var e = 0u; e < ELEMENTS; e++) {
        own.columns[column_class(e)] = u32(right_column[e]);
        own.rows[depth_of(e)] = u32(right_row[e]);
    }

    // The first keys and values, on their way while queries are staged.
    var k_held: array<array<Held, K_LOADS>, TURNS>;
    var v_held: array<array<Held, V_LOADS>, TURNS>;
    #unroll
    for (var u = 0u; u < AHEAD; u++) {
        let p0 = place_of(list, share_tile(tiles, share, u), KEYS) + own_places;
        k_held[u] = load_k(k_from, list, p0, last_key, own);
        v_held[u] = load_v(v_from, list, p0, last_key, own);
    }

    if (subgroup == 0u) {
        if (own.row_sharer == 0u) {
            #unroll if MATRICES_WRITTEN_OUT
            for (var x = 0u; x < DEPTH; x++) {
                head_columns[own.column_sharer * DEPTH + x] = own.rows[x];
            }
        }
        if (own.column_sharer == 0u) {
            #unroll if MATRICES_WRITTEN_OUT
            for (var c = 0u; c < COLUMNS; c++) {
                value_columns[own.columns[c]] = own.row_sharer * COLUMNS + c;
            }
        }
    }
    if (SCALED) {
        for (var w = thread; w < ROWS * Q_WORDS; w += THREADS) {
            let four = abs(load_q(workgroup, min(row0 + w / Q_WORDS, last_row), w % Q_WORDS));
            atomicMax(&row_bits[w / Q_WORDS], bitcast<u32>(max(max(four.x, four.y), max(four.z, four.w))));
        }
    }
    workgroupBarrier();

    // Queries. A negative scale turns their signs, so that the largest product is the largest score.
    let sign = select(1.0, -1.0, params.q_scale < 0.0);
    for (var w = thread; w < ROWS * Q_WORDS; w += THREADS) {
        let vec = w % Q_WORDS;
        var by = sign;
        if (SCALED) {
            by *= factor_of_top(bitcast<f32>(atomicLoad(&row_bits[w / Q_WORDS]))).by;
        }
        var four = load_q(workgroup, min(row0 + w / Q_WORDS, last_row), vec) * by;
        for (var x = 0u; x < 4u; x++) {
            // As keys are loaded.
            let n = vec / COLUMN_SHARERS * 4u + x;
            let column = n / DEPTH * EDGE + head_columns[vec % COLUMN_SHARERS * DEPTH + n % DEPTH];
            put_factor((w / Q_WORDS) * Q_PITCH + column / 4u, column % 4u, f16(four[x]));
        }
    }
    workgroupBarrier();
    var q: array<MatrixA, ROW_BLOCKS * HEAD_MATRICES>;
    var o_sums: array<MatrixC, ROW_BLOCKS * VALUE_MATRICES>;
    #unroll if MATRICES_WRITTEN_OUT
    for (var r = 0u; r < ROW_BLOCKS; r++) {
        #unroll if MATRICES_WRITTEN_OUT
        for (var d = 0u; d < HEAD_MATRICES; d++) {
            q[r * HEAD_MATRICES + d] = coopLoadT<MatrixA>(&factors[(r * EDGE * Q_PITCH + d * EDGE_WORDS) * WORD], Q_PITCH * WORD);
        }
        #unroll if MATRICES_WRITTEN_OUT
        for (var n = 0u; n < VALUE_MATRICES; n++) {
            o_sums[r * VALUE_MATRICES + n] = MatrixC();
        }
    }

    var m: array<f32, ROW_CLASSES>;
    var l: array<f32, ROW_CLASSES>;
    #unroll if MATRICES_WRITTEN_OUT
    for (var n = 0u; n < ROW_CLASSES; n++) {
        // Far above what is masked, so that its weight is 0 also while a row has seen nothing else.
        m[n] = MASKED_BELOW;
        l[n] = 0.0;
    }
    var scale = abs(params.q_scale);
    // Of this invocation's classes of rows, what undoes their factors, times the scale of scores, which is out of range without it
    // where q and k are large.
    var row_units: array<f32, ROW_CLASSES>;
    if (SCALED) {
        var rows = element_rows();
        #unroll if MATRICES_WRITTEN_OUT
        for (var n = 0u; n < ROW_CLASSES; n++) {
            let row = n / CLASSES * EDGE + u32(rows[n % CLASSES * RUN]);
            row_units[n] = factor_of_top(bitcast<f32>(atomicLoad(&row_bits[row]))).unit * scale;
        }
        scale = 1.0;
    }
    var k_factor = factor_of_top(0.0);
    var v_factor = factor_of_top(0.0);

    for (var start = 0u; start < share.count; start += TURNS) {
        #unroll
        for (var u = 0u; u < TURNS; u++) {
            let n = start + u;
            let absent = TURNS > 1u && n >= share.count;
            let t = share_tile(tiles, share, n);
            let p0 = place_of(list, t, KEYS) + own_places;
            let next = place_of(list, share_tile(tiles, share, n + AHEAD), KEYS) + own_places;

            // Scores.
            if (AHEAD == 0u) {
                k_held[u] = load_k(k_from, list, p0, last_key, own);
                v_held[u] = load_v(v_from, list, p0, last_key, own);
            }
            var s: array<MatrixC, ROW_BLOCKS>;
            #unroll if MATRICES_WRITTEN_OUT
            for (var r = 0u; r < ROW_BLOCKS; r++) {
                s[r] = MatrixC();
            }
            if (SCALED) {
                var top = 0.0;
                #unroll if MATRICES_WRITTEN_OUT
                for (var n = 0u; n < K_LOADS; n++) {
                    top = max(top, top_of(k_held[u][n]));
                }
                k_factor = factor_after(k_factor, top);
            }
            #unroll if MATRICES_WRITTEN_OUT
            for (var d = 0u; d < HEAD_MATRICES; d++) {
                var words: RightWords;
                #unroll if MATRICES_WRITTEN_OUT
                for (var w = 0u; w < ELEMENTS / 2u; w++) {
                    let one = column_class(2u * w) * HEAD_OWN + (d * DEPTH + depth_of(2u * w)) / 4u;
                    let other = column_class(2u * w + 1u) * HEAD_OWN + (d * DEPTH + depth_of(2u * w + 1u)) / 4u;
                    words[w] = two_halves(k_held[u][one], (d * DEPTH + depth_of(2u * w)) % 4u,
                        k_held[u][other], (d * DEPTH + depth_of(2u * w + 1u)) % 4u, k_factor.by);
                }
                let keys = right_of(words);
                #unroll if MATRICES_WRITTEN_OUT
                for (var r = 0u; r < ROW_BLOCKS; r++) {
                    s[r] = coopMultiplyAdd(q[r * HEAD_MATRICES + d], keys, s[r]);
                }
            }
            if (AHEAD > 0u) {
                k_held[u] = load_k(k_from, list, next, last_key, own);
            }
            var scores: array<Elements, ROW_BLOCKS>;
            #unroll if MATRICES_WRITTEN_OUT
            for (var r = 0u; r < ROW_BLOCKS; r++) {
                scores[r] = elements_of(s[r]);
                if (SCALED) {
                    #unroll if MATRICES_WRITTEN_OUT
                    for (var e = 0u; e < ELEMENTS; e++) {
                        scores[r][e] *= row_units[r * CLASSES + e / RUN % CLASSES] * k_factor.unit;
                    }
                }
            }

            // Hooks and masks. Keys that every row sees take no mask arithmetic. A loop in place of a branch, because matrices
            // are loaded in control flow that is the same for a whole subgroup, which a branch would have to prove.
            let whole = !absent && is_whole(whole_keys, list, false, t, p0, p0 + EDGE);
            var unit = scale;
            for (var once = SCORE_HOOKS || !whole; once; once = false) {
                var rows = element_rows();
                var columns = element_columns();
                #unroll if MATRICES_WRITTEN_OUT
                for (var r = 0u; r < ROW_BLOCKS; r++) {
                    #unroll if MATRICES_WRITTEN_OUT
                    for (var c = 0u; c < CLASSES; c++) {
                        let own_row = min(row0 + r * EDGE + u32(rows[c * RUN]), last_row);
                        let h = kv_head * params.group + own_row % params.group;
                        let i = params.first_query + own_row / params.group;
                        let row = row_of(b, i);
                        #unroll if MATRICES_WRITTEN_OUT
                        for (var e = 0u; e < ELEMENTS; e++) {
                            if (e / RUN % CLASSES == c) {
                                let j = key_at(list, p0 + u32(columns[e]));
                                scores[r][e] = select(masked_score(scores[r][e] * scale, whole, b, h, i, j, row), MASKED, absent);
                            }
                        }
                    }
                }
                unit = 1.0;
            }

            // Weights.
            var p: array<MatrixA, ROW_BLOCKS>;
            var taken: array<f32, ROW_CLASSES>;
            #unroll if MATRICES_WRITTEN_OUT
            for (var r = 0u; r < ROW_BLOCKS; r++) {
                var w: Elements;
                #unroll if MATRICES_WRITTEN_OUT
                for (var e = 0u; e < ELEMENTS; e++) {
                    if (NORMALIZED) {
                        w[e] = exp2(fma(scores[r][e], unit, -m[r * CLASSES + e / RUN % CLASSES]));
                        taken[r * CLASSES + e / RUN % CLASSES] += w[e];
                    } else {
                        let x = scores[r][e] * unit;
                        w[e] = select(weight(x, 0.0) * LARGEST, 0.0, x < MASKED_BELOW);
                    }
                }
                p[r] = factors_of(w);
            }
            var over = false;
            #unroll if MATRICES_WRITTEN_OUT
            for (var n = 0u; n < ROW_CLASSES; n++) {
                over = over || !(taken[n] <= LARGEST);
            }
            for (var once = NORMALIZED && subgroupAny(over); once; once = false) {
                // For all rows of the subgroup, though those that are not over come out as they were.
                #unroll if MATRICES_WRITTEN_OUT
                for (var r = 0u; r < ROW_BLOCKS; r++) {
                    var tops: array<f32, CLASSES>;
                    #unroll if MATRICES_WRITTEN_OUT
                    for (var c = 0u; c < CLASSES; c++) {
                        tops[c] = scores[r][c * RUN];
                    }
                    #unroll if MATRICES_WRITTEN_OUT
                    for (var e = 0u; e < ELEMENTS; e++) {
                        tops[e / RUN % CLASSES] = max(tops[e / RUN % CLASSES], scores[r][e]);
                    }
                    var shrink: array<f32, CLASSES>;
                    #unroll if MATRICES_WRITTEN_OUT
                    for (var c = 0u; c < CLASSES; c++) {
                        let at = r * CLASSES + c;
                        let row_over = sharers_max(select(1.0, 0.0, taken[at] <= LARGEST)) > 0.0;
                        let then = select(m[at], max(sharers_max(tops[c]) * unit - HEADROOM, MASKED_BELOW), row_over);
                        shrink[c] = select(1.0, exp2(m[at] - then), row_over);
                        m[at] = then;
                        l[at] *= shrink[c];
                        taken[at] = 0.0;
                    }
                    var w: Elements;
                    #unroll if MATRICES_WRITTEN_OUT
                    for (var e = 0u; e < ELEMENTS; e++) {
                        w[e] = exp2(fma(scores[r][e], unit, -m[r * CLASSES + e / RUN % CLASSES]));
                        taken[r * CLASSES + e / RUN % CLASSES] += w[e];
                    }
                    p[r] = factors_of(w);
                    #unroll if MATRICES_WRITTEN_OUT
                    for (var d = 0u; d < VALUE_MATRICES; d++) {
                        var x = elements_of(o_sums[r * VALUE_MATRICES + d]);
                        #unroll if MATRICES_WRITTEN_OUT
                        for (var e = 0u; e < ELEMENTS; e++) {
                            x[e] *= shrink[e / RUN % CLASSES];
                        }
                        o_sums[r * VALUE_MATRICES + d] = sums_of(x);
                    }
                }
            }
            #unroll if MATRICES_WRITTEN_OUT
            for (var n = 0u; n < ROW_CLASSES; n++) {
                l[n] += taken[n];
            }

            // O += P·V
            if (SCALED) {
                var top = 0.0;
                #unroll if MATRICES_WRITTEN_OUT
                for (var n = 0u; n < V_LOADS; n++) {
                    top = max(top, top_of(v_held[u][n]));
                }
                let next_factor = factor_after(v_factor, top);
                // A power of two no larger than 1.
                let change = next_factor.by * v_factor.unit;
                for (var once = change != 1.0; once; once = false) {
                    #unroll if MATRICES_WRITTEN_OUT
                    for (var e = 0u; e < ROW_BLOCKS * VALUE_MATRICES; e++) {
                        o_sums[e] = o_sums[e] * change;
                    }
                }
                v_factor = next_factor;
            }
            #unroll if MATRICES_WRITTEN_OUT
            for (var d = 0u; d < VALUE_MATRICES; d++) {
                var words: RightWords;
                #unroll if MATRICES_WRITTEN_OUT
                for (var w = 0u; w < ELEMENTS / 2u; w++) {
                    let one = depth_of(2u * w) * VALUE_OWN + (d * COLUMNS + column_class(2u * w)) / 4u;
                    let other = depth_of(2u * w + 1u) * VALUE_OWN + (d * COLUMNS + column_class(2u * w + 1u)) / 4u;
                    words[w] = two_halves(v_held[u][one], (d * COLUMNS + column_class(2u * w)) % 4u,
                        v_held[u][other], (d * COLUMNS + column_class(2u * w + 1u)) % 4u, v_factor.by);
                }
                let values = right_of(words);
                #unroll if MATRICES_WRITTEN_OUT
                for (var r = 0u; r < ROW_BLOCKS; r++) {
                    o_sums[r * VALUE_MATRICES + d] = coopMultiplyAdd(p[r], values, o_sums[r * VALUE_MATRICES + d]);
                }
            }
            if (AHEAD > 0u) {
                v_held[u] = load_v(v_from, list, next, last_key, own);
            }
        }
    }

    // The strips meet: each row's own reference and sum, and what a strip's output rows are worth in it.
    var rows = element_rows();
    #unroll if MATRICES_WRITTEN_OUT
    for (var n = 0u; n < ROW_CLASSES; n++) {
        l[n] = sharers_sum(l[n]);
        m[n] = select(MASKED, m[n], l[n] > 0.0);
        if ((lane & SHARERS) == 0u) {
            let at = strip * ROWS + n / CLASSES * EDGE + u32(rows[n % CLASSES * RUN]);
            row_tops[at] = m[n];
            row_sums[at] = l[n];
        }
    }
    workgroupBarrier();
    var worth: array<f32, ROW_CLASSES>;
    #unroll if MATRICES_WRITTEN_OUT
    for (var n = 0u; n < ROW_CLASSES; n++) {
        worth[n] = 1.0 / LARGEST;
        let row = n / CLASSES * EDGE + u32(rows[n % CLASSES * RUN]);
        if (NORMALIZED && row < OWN_ROWS) {
            let own_row = min(row0 + row, last_row);
            let h = kv_head * params.group + own_row % params.group;
            var top = MASKED;
            var total = 0.0;
            if (HAS_SINKS && split == 0u) {
                top = bitcast<f32>(small_word(params.sinks_at + h)) * LOG2_E;
                total = 1.0;
            }
            let sink = top;
            #unroll if MATRICES_WRITTEN_OUT
            for (var g = 0u; g < STRIPS; g++) {
                top = max(top, row_tops[g * ROWS + row]);
            }
            total *= exp2(sink - top);
            #unroll if MATRICES_WRITTEN_OUT
            for (var g = 0u; g < STRIPS; g++) {
                total += row_sums[g * ROWS + row] * exp2(row_tops[g * ROWS + row] - top);
            }
            worth[n] = select(0.0, exp2(m[n] - top) / total, total > 0.0);
            if (HAS_LSE && strip == 0u && (lane & SHARERS) == 0u && row0 + row <= last_row) {
                let at = params.lse_base + split * params.rows
                    + (workgroup.z * params.heads + h - params.first_head) * params.queries + own_row / params.group;
                store_lse(at, lse_bits(top, total));
            }
        }
    }

    #unroll if MATRICES_WRITTEN_OUT
    for (var n = 0u; n < ROW_CLASSES; n++) {
        worth[n] *= v_factor.unit;
    }

    // The output, OUT_BLOCKS blocks of columns at a time, which are put in order on their way through workgroup memory.
    var columns = element_columns();
    #unroll if MATRICES_WRITTEN_OUT
    for (var turn = 0u; turn < VALUE_MATRICES / OUT_BLOCKS; turn++) {
        if (turn > 0u) {
            workgroupBarrier();
        }
        #unroll if MATRICES_WRITTEN_OUT
        for (var e = 0u; e < ELEMENTS; e++) {
            let place = value_columns[u32(columns[e])];
            #unroll if MATRICES_WRITTEN_OUT
            for (var r = 0u; r < ROW_BLOCKS; r++) {
                let row = r * EDGE + u32(rows[e]);
                if (row < OWN_ROWS) {
                    #unroll if MATRICES_WRITTEN_OUT
                    for (var d = 0u; d < OUT_BLOCKS; d++) {
                        var x = elements_of(o_sums[r * VALUE_MATRICES + turn * OUT_BLOCKS + d]);
                        let n = d * COLUMNS + place % COLUMNS;
                        put_sum((strip * OWN_ROWS + row) * OUT_PITCH + n / 4u * ROW_SHARERS + place / COLUMNS, n % 4u,
                            x[e] * worth[r * CLASSES + e / RUN % CLASSES]);
                    }
                }
            }
        }
        workgroupBarrier();
        for (var w = thread; w < OWN_ROWS * OUT_WORDS; w += THREADS) {
            let row = w / OUT_WORDS;
            let out_row = row0 + row;
            let column = (turn * OUT_WORDS + w % OUT_WORDS) * 4u;
            if (out_row <= last_row && column < VALUE_DIM) {
                var value = vec4<f32>();
                #unroll if MATRICES_WRITTEN_OUT
                for (var g = 0u; g < STRIPS; g++) {
                    value += get_sums((g * OWN_ROWS + row) * OUT_PITCH + w % OUT_WORDS);
                }
                let base = params.o_base + split * params.rows * VALUE_DIM + workgroup.z * params.o_batch
                    + (workgroup.y * params.group + out_row % params.group) * params.o_head + (out_row / params.group) * params.o_seq;
                store_o4(base + column, value, VALUE_DIM - column);
            }
        }
    }
}
