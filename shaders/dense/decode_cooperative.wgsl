// Attention of few queries over many keys, on cooperative matrices.
//
//   o_i = Σ_j w(s_ij) v_j,   s_ij = hooks(scale · q_i·k_j),   w = softmax or sigmoid
//
// Rows, splits and what is written are those of `dense/decode.wgsl`: a workgroup has up to ROWS rows of one KV head, the query
// heads of its group taking turns, and a share of the keys. Both products run on matrices of EDGE × EDGE, factors f16, sums
// f32, as in `dense/prefill_cooperative.wgsl`. Matrices have ROWS rows though only OWN_ROWS of them are
// in use: memory sets the pace, and every key is read once for all rows.
//
// Strips. A tile has KEYS keys, STRIP_KEYS of them for each of STRIPS subgroups, which work alone: a subgroup has the queries
// and output rows of its own keys in registers, scores and weights in a part of workgroup memory that nobody else looks at,
// and waits for its own invocations only (`strip_barrier`). Strips meet once, at the end. The workgroup is made for the
// largest subgroups that the device may use; if they can turn out smaller, those left over do what others do already, and
// a strip's barrier is the workgroup's.
//
// Within a tile
//   1. S = Q·Kᵀ   a strip's keys go through workgroup memory, which the matrices read; of each block of scores two sums
//                 are under way at a time, since a product waits for the one before that it adds to
//   2. weights    as in prefill: `dense/row_weights.wgsl`
//   3. O += P·V   values take the place of the keys
// Keys and values of the next AHEAD tiles are on their way in registers all the while: as soon as those of this one are
// stored, those of the AHEAD-th after it are loaded. With AHEAD = 0 they are loaded when they are needed, which takes half the
// registers of AHEAD = 1. With AHEAD = 2 tiles go by twos, and where they are odd in number the last is walked again, masked.
//
//   m, l       reference of a row in a strip, and the invocation's part of its sum
//
// Workgroup memory, rows and pitches (in words of four elements):
//   factors, f16   a strip's k [STRIP_KEYS][HEAD_PITCH] or v [STRIP_KEYS][VALUE_PITCH], and its P [ROWS][P_PITCH];
//                  at the start q [ROWS][HEAD_PITCH]
//   sums, f32      a strip's S [ROWS][S_PITCH]; a block of O's columns on its way to be rescaled, OUT_BLOCKS of them on their
//                  way to be written
//
// Tile sizes. 16 rows are a GQA group of 8 or 16, or the few queries of speculative decoding. What is on its way on a
// processor sets the pace: with 16 keys a strip 48 KiB hold 6 strips at D = 128, and 8 where rows of S and P lie close
// (PADDED = false), which costs less than it brings. At D = 64 half as much is on its way, so 8 strips go two tiles ahead. Where a
// workgroup has few tiles, its start and its end set the pace: 4 strips, which leave room for 4 blocks of O's columns.
//
// Rows past the end repeat the last one and are not written. A row that sees no key gives o = 0, lse = −inf.

#import shared/numerics
#import dense/params
#import shared/output
#import dense/position
#import dense/visibility
#import dense/score
#import dense/share
#import dense/row_weights
#import shared/matrix_sizes
#import shared/staged_keys

const KEY_BLOCKS = STRIP_KEYS / EDGE;
const KEYS = STRIPS * STRIP_KEYS;
const ROWS = ROW_BLOCKS * EDGE;

// Invocations of a strip, and rows whose weights each works out.
const LANES = THREADS / STRIPS;
const ROWS_EACH = (ROWS * ROW_LANES + LANES - 1u) / LANES;
const ALL_ROWS = ROWS * ROW_LANES % LANES == 0u;
const ROW_VECS = STRIP_KEYS / 4u / ROW_LANES;

const HEAD_VECS = (HEAD_DIM + 3u) / 4u;
const VALUE_VECS = (VALUE_DIM + 3u) / 4u;
const STAGED_KEYS = STRIP_KEYS;
const STAGERS = LANES;
const STAGING_WRITTEN_OUT = MATRICES_WRITTEN_OUT;

// Places and pitches are in words of four elements.
const P_PITCH = STRIP_KEYS / 4u + select(0u, 2u, PADDED && STRIP_KEYS > 16u);
const S_PITCH = STRIP_KEYS / 4u + select(0u, 1u, PADDED);
const STAGE = STRIP_KEYS * max(HEAD_PITCH, VALUE_PITCH);
const P_AT = STRIPS * STAGE;
const FACTORS = max(P_AT + STRIPS * ROWS * P_PITCH, ROWS * HEAD_PITCH);
// Rows of OUT_BLOCKS blocks of columns of O.
const OUT_WORDS = OUT_BLOCKS * EDGE_WORDS;
const OUT_PITCH = OUT_WORDS + select(0u, 1u, PADDED);
const SUMS = STRIPS * ROWS * max(S_PITCH, OUT_PITCH);

// Tiles that a round of the walk has.
const TURNS = max(AHEAD, 1u);
// Loads of q that are on their way together.
const Q_BATCH = 3u;

// Factors are single slices.
const K_SLICE = 0u;
const V_SLICE = 0u;
const P_SLICE = 0u;
const Q_SLICE = 0u;

const_assert OWN_ROWS <= ROWS;
const_assert VALUE_BLOCKS % OUT_BLOCKS == 0u;
const_assert STRIP_KEYS % EDGE == 0u;
const_assert STRIP_KEYS / 4u % ROW_LANES == 0u;
const_assert THREADS % STRIPS == 0u;

// Of each strip's rows: while keys are walked, what O is to be multiplied by; then references and sums.
var<workgroup> row_factors: array<f32, STRIPS * ROWS>;
var<workgroup> row_sums: array<f32, STRIPS * ROWS>;

// Four neighbouring columns, the vec-th four, of the row of `sums` that begins at word `start`.
fn row_four(start: u32, vec: u32) -> vec4<f32> {
    return get_sums(start + vec);
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>,
        @builtin(subgroup_id) subgroup: u32, @builtin(subgroup_size) subgroup_size: u32,
        @builtin(subgroup_invocation_id) lane: u32) {
    // Neighbours by this number are neighbours in a subgroup, which by the invocation index they need not be.
    let thread = subgroup * subgroup_size + lane;
    // The strip whose matrices this subgroup has, and the strip whose vectors this invocation takes a share of: the same
    // where a strip is a subgroup's.
    let strip = subgroup % STRIPS;
    let part = thread / LANES;
    let stager = thread % LANES;
    let s_matrices = strip * ROWS * S_PITCH;
    let p_matrices = P_AT + strip * ROWS * P_PITCH;
    let block_words = strip_words(strip, lane, subgroup_size, thread, ROWS * EDGE_WORDS);

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
    let h0 = kv_head * params.group + row0 % params.group;
    let list = list_of(b, h0, params.first_query + row0 / params.group, row_tile);
    let tiles = tiles_to_visit(list, first, last, one_document, KEYS);
    // What lies behind `kv_len` in a cache is never read, since it may be anything, NaN included: keys past the end
    // repeat the last one, masked.
    let last_key = u32(max(keys_of(b), 1) - 1);
    let share = share_of(tiles, split);
    let own_places = part * STRIP_KEYS;

    // The first keys and values, on their way while queries are staged.
    var k_held: array<array<Held, K_LOADS>, TURNS>;
    var v_held: array<array<Held, V_LOADS>, TURNS>;
    #unroll
    for (var u = 0u; u < AHEAD; u++) {
        let p0 = place_of(list, share_tile(tiles, share, u), KEYS) + own_places;
        k_held[u] = load_k(k_from, list, p0, last_key, stager);
        v_held[u] = load_v(v_from, list, p0, last_key, stager);
    }

    // Queries. A negative scale turns their signs, so that the largest product is the largest score.
    let sign = select(1.0, -1.0, params.q_scale < 0.0);
    for (var begin = thread; begin < ROWS * HEAD_WORDS; begin += Q_BATCH * THREADS) {
        var loaded: array<vec4<f32>, Q_BATCH>;
        #unroll
        for (var u = 0u; u < Q_BATCH; u++) {
            let w = begin + u * THREADS;
            let row = min(row0 + w / HEAD_WORDS, last_row);
            let vec = w % HEAD_WORDS;
            if (HEAD_WORDS == HEAD_VECS || vec < HEAD_VECS) {
                let base = params.q_base + workgroup.z * params.q_batch
                    + (workgroup.y * params.group + row % params.group) * params.q_head + (row / params.group) * params.q_seq;
                loaded[u] = q4(base + vec * 4u, HEAD_DIM - vec * 4u) * sign;
            }
        }
        #unroll
        for (var u = 0u; u < Q_BATCH; u++) {
            let w = begin + u * THREADS;
            if (w < ROWS * HEAD_WORDS) {
                put_slices((w / HEAD_WORDS) * HEAD_PITCH + w % HEAD_WORDS, loaded[u], Q_SLICE);
            }
        }
    }
    workgroupBarrier();
    var q: array<MatrixA, ROW_BLOCKS * HEAD_BLOCKS>;
    var o_sums: array<MatrixC, ROW_BLOCKS * VALUE_BLOCKS>;
    #unroll if MATRICES_WRITTEN_OUT
    for (var r = 0u; r < ROW_BLOCKS; r++) {
        #unroll if MATRICES_WRITTEN_OUT
        for (var d = 0u; d < HEAD_BLOCKS; d++) {
            q[r * HEAD_BLOCKS + d] = coopLoadT<MatrixA>(&factors[(r * EDGE * HEAD_PITCH + d * EDGE_WORDS) * WORD], HEAD_PITCH * WORD);
        }
        #unroll if MATRICES_WRITTEN_OUT
        for (var n = 0u; n < VALUE_BLOCKS; n++) {
            o_sums[r * VALUE_BLOCKS + n] = MatrixC();
        }
    }

    // The rows of the strip whose weights are this invocation's, or partly so.
    let row_lane = stager % ROW_LANES;
    var m: array<f32, ROWS_EACH>;
    var l: array<f32, ROWS_EACH>;
    var rows: array<Row, ROWS_EACH>;
    #unroll
    for (var n = 0u; n < ROWS_EACH; n++) {
        m[n] = MASKED;
        l[n] = 0.0;
        rows[n] = row_of(b, params.first_query + min(row0 + (stager + n * LANES) / ROW_LANES, last_row) / params.group);
    }
    strip_start(thread);

    // Queries have been read.
    workgroupBarrier();
    for (var start = 0u; start < share.count; start += TURNS) {
        #unroll
        for (var u = 0u; u < TURNS; u++) {
            let n = start + u;
            let absent = TURNS > 1u && n >= share.count;
            let t = share_tile(tiles, share, n);
            let p0 = place_of(list, t, KEYS);
            let next = place_of(list, share_tile(tiles, share, n + AHEAD), KEYS) + own_places;

            // 1. Scores.
            if (AHEAD == 0u) {
                k_held[u] = load_k(k_from, list, p0 + own_places, last_key, stager);
            }
            store_k(k_held[u], 1.0, stager, part * STAGE);
            if (AHEAD > 0u) {
                k_held[u] = load_k(k_from, list, next, last_key, stager);
            } else {
                v_held[u] = load_v(v_from, list, p0 + own_places, last_key, stager);
            }
            strip_barrier();
            #unroll if MATRICES_WRITTEN_OUT
            for (var c = 0u; c < KEY_BLOCKS; c++) {
                var even: array<MatrixC, ROW_BLOCKS>;
                var odd: array<MatrixC, ROW_BLOCKS>;
                #unroll if MATRICES_WRITTEN_OUT
                for (var r = 0u; r < ROW_BLOCKS; r++) {
                    even[r] = MatrixC();
                    odd[r] = MatrixC();
                }
                #unroll if MATRICES_WRITTEN_OUT
                for (var d = 0u; d < HEAD_BLOCKS / 2u; d++) {
                    let keys = coopLoad<MatrixB>(&factors[(strip * STAGE + c * EDGE * HEAD_PITCH + 2u * d * EDGE_WORDS) * WORD], HEAD_PITCH * WORD);
                    let more = coopLoad<MatrixB>(&factors[(strip * STAGE + c * EDGE * HEAD_PITCH + (2u * d + 1u) * EDGE_WORDS) * WORD], HEAD_PITCH * WORD);
                    #unroll if MATRICES_WRITTEN_OUT
                    for (var r = 0u; r < ROW_BLOCKS; r++) {
                        even[r] = coopMultiplyAdd(q[r * HEAD_BLOCKS + 2u * d], keys, even[r]);
                        odd[r] = coopMultiplyAdd(q[r * HEAD_BLOCKS + 2u * d + 1u], more, odd[r]);
                    }
                }
                #unroll if MATRICES_WRITTEN_OUT
                for (var d = HEAD_BLOCKS / 2u * 2u; d < HEAD_BLOCKS; d++) {
                    let keys = coopLoad<MatrixB>(&factors[(strip * STAGE + c * EDGE * HEAD_PITCH + d * EDGE_WORDS) * WORD], HEAD_PITCH * WORD);
                    #unroll if MATRICES_WRITTEN_OUT
                    for (var r = 0u; r < ROW_BLOCKS; r++) {
                        even[r] = coopMultiplyAdd(q[r * HEAD_BLOCKS + d], keys, even[r]);
                    }
                }
                #unroll if MATRICES_WRITTEN_OUT
                for (var r = 0u; r < ROW_BLOCKS; r++) {
                    coopStoreT(even[r] + odd[r], &sums[(s_matrices + r * EDGE * S_PITCH + c * EDGE_WORDS) * WORD], S_PITCH * WORD);
                }
            }
            strip_barrier();

            // 2. Hooks, masks and weights. A tile that every row sees whole takes no mask arithmetic.
            let whole = !absent && whole_tile(list, false, first, last, one_document, t, p0, p0 + KEYS);
            var grew = false;
            #unroll
            for (var e = 0u; e < ROWS_EACH; e++) {
                let row = (stager + e * LANES) / ROW_LANES;
                if (ALL_ROWS || row < ROWS) {
                    let s_from = (part * ROWS + row) * S_PITCH + row_lane * ROW_VECS;
                    let p_from = P_AT + (part * ROWS + row) * P_PITCH + row_lane * ROW_VECS;
                    var unit = abs(params.q_scale);
                    if (SCORE_HOOKS || !whole) {
                        let own_row = min(row0 + row, last_row);
                        let h = kv_head * params.group + own_row % params.group;
                        let i = params.first_query + own_row / params.group;
                        for (var c = 0u; c < ROW_VECS; c++) {
                            let p = p0 + own_places + (row_lane * ROW_VECS + c) * 4u;
                            var t4 = row_four(s_from, c) * unit;
                            #unroll
                            for (var x = 0u; x < 4u; x++) {
                                t4[x] = select(masked_score(t4[x], whole, b, h, i, key_at(list, p + x), rows[e]), MASKED, absent);
                            }
                            put_sums(s_from + c, t4);
                        }
                        unit = 1.0;
                    }
                    let taken = row_weights(s_from, p_from, unit, SCORE_HOOKS || !whole, m[e], l[e]);
                    m[e] = taken.m;
                    l[e] = taken.l;
                    grew = grew || taken.grew;
                    if (NORMALIZED && row_lane == 0u) {
                        row_factors[part * ROWS + row] = taken.shrink;
                    }
                }
            }
            strip_tell(grew, n);
            store_v(v_held[u], 1.0, stager, part * STAGE);
            if (AHEAD > 0u) {
                v_held[u] = load_v(v_from, list, next, last_key, stager);
            }
            strip_barrier();

            // A loop in place of a branch, because matrices are worked on in control flow that is the same for a whole subgroup,
            // which a branch would have to prove.
            for (var rescale = NORMALIZED && strip_told(grew, n); rescale; rescale = false) {
                #unroll if MATRICES_WRITTEN_OUT
                for (var d = 0u; d < VALUE_BLOCKS; d++) {
                    #unroll if MATRICES_WRITTEN_OUT
                    for (var r = 0u; r < ROW_BLOCKS; r++) {
                        coopStoreT(o_sums[r * VALUE_BLOCKS + d], &sums[(s_matrices + r * EDGE * S_PITCH) * WORD], S_PITCH * WORD);
                    }
                    strip_barrier();
                    for (var w = block_words.first; w < block_words.end; w += block_words.step) {
                        let at = (w / EDGE_WORDS) * S_PITCH + w % EDGE_WORDS;
                        put_sums(at, get_sums(at) * row_factors[w / EDGE_WORDS]);
                    }
                    strip_barrier();
                    #unroll if MATRICES_WRITTEN_OUT
                    for (var r = 0u; r < ROW_BLOCKS; r++) {
                        o_sums[r * VALUE_BLOCKS + d] = coopLoadT<MatrixC>(&sums[(s_matrices + r * EDGE * S_PITCH) * WORD], S_PITCH * WORD);
                    }
                    // Subgroups that do the same must not get ahead of one another.
                    strip_barrier();
                }
            }

            // 3. O += P·V
            #unroll if MATRICES_WRITTEN_OUT
            for (var c = 0u; c < KEY_BLOCKS; c++) {
                var p: array<MatrixA, ROW_BLOCKS>;
                #unroll if MATRICES_WRITTEN_OUT
                for (var r = 0u; r < ROW_BLOCKS; r++) {
                    p[r] = coopLoadT<MatrixA>(&factors[(p_matrices + r * EDGE * P_PITCH + c * EDGE_WORDS) * WORD], P_PITCH * WORD);
                }
                #unroll if MATRICES_WRITTEN_OUT
                for (var d = 0u; d < VALUE_BLOCKS; d++) {
                    let values = coopLoadT<MatrixB>(&factors[(strip * STAGE + c * EDGE * VALUE_PITCH + d * EDGE_WORDS) * WORD], VALUE_PITCH * WORD);
                    #unroll if MATRICES_WRITTEN_OUT
                    for (var r = 0u; r < ROW_BLOCKS; r++) {
                        o_sums[r * VALUE_BLOCKS + d] = coopMultiplyAdd(p[r], values, o_sums[r * VALUE_BLOCKS + d]);
                    }
                }
            }
            strip_barrier();
        }
    }

    // The strips meet: each row's own reference and sum, and what a strip's output rows are worth in it.
    workgroupBarrier();
    #unroll
    for (var e = 0u; e < ROWS_EACH; e++) {
        let row = (stager + e * LANES) / ROW_LANES;
        let sum = lanes_sum(l[e]);
        if ((ALL_ROWS || row < ROWS) && row_lane == 0u) {
            row_factors[part * ROWS + row] = m[e];
            row_sums[part * ROWS + row] = sum;
        }
    }
    workgroupBarrier();
    for (var row = thread; row < ROWS; row += THREADS) {
        if (NORMALIZED) {
            let own_row = min(row0 + row, last_row);
            let h = kv_head * params.group + own_row % params.group;
            var top = MASKED;
            var total = 0.0;
            if (HAS_SINKS && split == 0u) {
                top = bitcast<f32>(small_word(params.sinks_at + h)) * LOG2_E;
                total = 1.0;
            }
            for (var g = 0u; g < STRIPS; g++) {
                let at = g * ROWS + row;
                let next = max(top, row_factors[at]);
                total = total * exp2(top - next) + row_sums[at] * exp2(row_factors[at] - next);
                top = next;
            }
            for (var g = 0u; g < STRIPS; g++) {
                let at = g * ROWS + row;
                row_factors[at] = select(0.0, exp2(row_factors[at] - top) / total, total > 0.0);
            }
            if (HAS_LSE && row0 + row <= last_row) {
                let at = params.lse_base + split * params.rows
                    + (workgroup.z * params.heads + h - params.first_head) * params.queries + own_row / params.group;
                store_lse(at, lse_bits(top, total));
            }
        } else {
            for (var g = 0u; g < STRIPS; g++) {
                row_factors[g * ROWS + row] = 1.0 / LARGEST;
            }
        }
    }

    // The output, OUT_BLOCKS blocks of columns at a time.
    #unroll if MATRICES_WRITTEN_OUT
    for (var turn = 0u; turn < VALUE_BLOCKS / OUT_BLOCKS; turn++) {
        workgroupBarrier();
        #unroll if MATRICES_WRITTEN_OUT
        for (var r = 0u; r < ROW_BLOCKS; r++) {
            #unroll if MATRICES_WRITTEN_OUT
            for (var d = 0u; d < OUT_BLOCKS; d++) {
                coopStoreT(o_sums[r * VALUE_BLOCKS + turn * OUT_BLOCKS + d], &sums[((strip * ROWS + r * EDGE) * OUT_PITCH + d * EDGE_WORDS) * WORD], OUT_PITCH * WORD);
            }
        }
        workgroupBarrier();
        for (var w = thread; w < OWN_ROWS * OUT_WORDS; w += THREADS) {
            let row = w / OUT_WORDS;
            let out_row = row0 + row;
            let column = turn * OUT_BLOCKS * EDGE + w % OUT_WORDS * 4u;
            if (out_row <= last_row && column < VALUE_DIM) {
                var value = vec4<f32>();
                #unroll if MATRICES_WRITTEN_OUT
                for (var g = 0u; g < STRIPS; g++) {
                    value += get_sums((g * ROWS + row) * OUT_PITCH + w % OUT_WORDS) * row_factors[g * ROWS + row];
                }
                let base = params.o_base + split * params.rows * VALUE_DIM + workgroup.z * params.o_batch
                    + (workgroup.y * params.group + out_row % params.group) * params.o_head + (out_row / params.group) * params.o_seq;
                store_o4(base + column, value, VALUE_DIM - column);
            }
        }
    }
}
