// Tiled attention over many queries on cooperative matrices.
//
//   o_i = Σ_j w(s_ij) v_j,   s_ij = hooks(scale · q_i·k_j),   w = softmax or sigmoid
//
// One workgroup owns a tile of ROWS queries of one head and walks the keys that its mask or its list leaves, KEYS at a
// time. Both products run on matrices of EDGE × EDGE, factors f16, sums f32:
//
//   S = Q·Kᵀ    matrices → workgroup memory → weights, a row to ROW_LANES invocations → workgroup memory as f16
//   O += P·V    in matrices, where it stays until the end
//
// Split products. With SLICES = 2 each factor is the sum of two f16 slices, x = x₁ + u·x₂ with u = 2^-11, and products are
//
//   S = Q₁·K₁ᵀ + u·(Q₁·K₂ᵀ + Q₂·K₁ᵀ)        P·V the same
//
// What is left out is 2^-22 of a product. Rows of q and tiles of k and v are multiplied by powers of two, so that nothing
// overflows and little is lost (`slices_two`); weights are at most LARGEST as it is. Matrix units may cut off where they
// should round when they add up. So products with a second slice have sums of their own, which are added last to S and
// first to P·V; and P·V of a block of keys is summed apart and then added to O, which rounds, lest the error grow with
// the number of keys.
//
// Strips. A subgroup owns a strip of ROW_BLOCKS·EDGE rows: its part of Q and all of O's columns stay in its registers, and
// its rows of S and P are read by nobody else, so that within a key tile it waits for its own invocations only
// (`strip_barrier`). The workgroup is made for the largest subgroups that the device may use; if they can turn out smaller,
// those left over do what others do already, and a strip's barrier is the workgroup's.
//
// Key tiles. With STAGES = 2 there is room for two: while one is worked on the next is stored, and strips meet once a tile.
// Loads are on their way meanwhile: with CARRIED those of the tile after the next, from before one output product to
// before the next one; else those of the next tile, from the score product to behind the output product. With
// STAGES = 1 the next tile is stored when all have left this one, behind the output product. Loads are held as words, because
// halves in registers were taken apart and put together again (NVIDIA's compiler, driver 580.159.04), which made every tile
// wait for them.
// They have to be on their way for most of a tile: the workgroups of a head walk in step, so that the first to ask waits for
// memory. With loads, stores and barriers alone the kernel takes 0.53 ms in place of 1.09, 0.5 µs a tile, and 1.24 to 1.50
// where the compiler put the loads off for half a tile (NVIDIA H100, 32 heads, N = 4096, D = 128).
//
// Weights. Matrices have no elements one could get at, so scores go through workgroup memory, where ROW_LANES neighbouring
// invocations take a row; what they have in common is put together at the end.
//   m_i, l_i   the reference that weights of row i are relative to, and the sum of 2^(t_ij − m_i) over the keys so far
// m seldom changes (`dense/row_weights.wgsl`); then O's rows are scaled through workgroup memory, for all rows of a strip at
// once.
// A negative scale turns the signs of q, so that the largest product is the largest score.
//
// Workgroup memory, rows and pitches (in words of four elements):
//   factors, f16   STAGES times k [SLICES][KEYS][HEAD_PITCH] and v [SLICES][KEYS][VALUE_PITCH]; P [SLICES][ROWS][P_PITCH]
//                  at the start q, EDGE rows of each strip, all slices, in Q_PARTS parts of its columns
//   sums, f32      S by columns, [STRIPS][KEYS][S_PITCH]; a block of O's columns, on its way to be rescaled or written
//   row_factors    f32 [ROWS]
// Pitches are 16 bytes longer than what they hold, so that eight rows of a matrix fall into different banks; P's is not for
// 16 keys or fewer and Dv above 128, so that two workgroups have room on a processor. In a column of S the elements that
// neighbouring invocations have of a matrix lie side by side, and so do the rows that they take for weights. By rows it would be
// fewer and wider accesses, many of them to the same banks: 1.235 ms (P without room between its rows) in place of 1.146 on an
// NVIDIA H200 (32 heads, N = 4096, D = 128).
//
// Tile sizes. Where two blocks of rows fit the registers, both meet each loaded block of k and v: what matrices read from
// workgroup memory bounds the kernel before its products do. At D = 128 that leaves a subgroup of 32 no registers for more;
// 16 keys are what two stages of 256 rows have room for.
//
// Loops over matrices are written out (MATRICES_WRITTEN_OUT), so that those live in registers; where matrices are emulated
// in memory that would only make the code long.
//
// A row that sees no key keeps l = 0 and gives o = 0, lse = −inf.

#import shared/numerics
#import dense/params
#import shared/output
#import dense/position
#import dense/query_tile
#import dense/visibility
#import dense/score
#import dense/row_weights
#import dense/prefill_matrices
#import shared/staged_keys

const KEY_BLOCKS = KEYS / EDGE;

// Rows whose weights an invocation works out, and four scores at a time of each.
const ROWS_EACH = (ROWS * ROW_LANES + THREADS - 1u) / THREADS;
const ALL_ROWS = ROWS * ROW_LANES % THREADS == 0u;
const ROW_VECS = KEYS / 4u / ROW_LANES;

// Places and pitches are in words of four elements.
const P_PITCH = select(KEYS / 4u, KEYS / 4u + 2u, KEYS > 16u || VALUE_DIM <= 128u);
const S_PITCH = STRIP_ROWS / 4u + 1u;
const V_AT = SLICES * K_SLICE;
const P_AT = STAGES * STAGE;
const P_SLICE = ROWS * P_PITCH;
// There is no room behind the last row of P.
const FACTORS = max(P_AT + SLICES * P_SLICE - (P_PITCH - KEYS / 4u), SLICES * Q_SLICE);
const SUMS = STRIPS * KEYS * S_PITCH;

const_assert KEYS % EDGE == 0u;
const_assert KEYS / 4u % ROW_LANES == 0u;
const_assert SLICES <= 2u && (SLICES == 1u || STAGES == 1u || CARRIED);

// What each row of O is to be multiplied by; at the start, with two slices, each row of q.
var<workgroup> row_factors: array<f32, ROWS>;

// Where a row of a strip begins in `sums`, its element in column 0, in elements.
fn row_of_sums(row: u32) -> u32 {
    return row / STRIP_ROWS * KEYS * S_PITCH * 4u + row % STRIP_ROWS;
}

// Four neighbouring columns, the vec-th four, of the row that begins at `start`.
fn row_four(start: u32, vec: u32) -> vec4<f32> {
    let at = start / 4u + vec * 4u * S_PITCH;
    let part = start % 4u;
    return vec4<f32>(get_sum(at, part), get_sum(at + S_PITCH, part), get_sum(at + 2u * S_PITCH, part), get_sum(at + 3u * S_PITCH, part));
}

fn put_row_four(start: u32, vec: u32, four: vec4<f32>) {
    let at = start / 4u + vec * 4u * S_PITCH;
    let part = start % 4u;
    put_sum(at, part, four.x);
    put_sum(at + S_PITCH, part, four.y);
    put_sum(at + 2u * S_PITCH, part, four.z);
    put_sum(at + 3u * S_PITCH, part, four.w);
}

// What a row of the tile is multiplied by when it is staged.
fn q_factor(row: u32, sign: f32) -> f32 {
    if (SLICES > 1u) {
        return row_factors[row];
    }
    return sign;
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(subgroup_id) subgroup: u32, @builtin(subgroup_size) subgroup_size: u32,
        @builtin(subgroup_invocation_id) lane: u32) {
    // Neighbours by this number are neighbours in a subgroup, which by the invocation index they need not be.
    let thread = subgroup * subgroup_size + lane;
    let strip = subgroup % STRIPS;
    // Where this subgroup's matrices are; those of one loop lie constants apart.
    let s_matrices = strip * KEYS * S_PITCH;
    let p_matrices = P_AT + strip * STRIP_ROWS * P_PITCH;
    // Words of a block of columns of O in `sums` that this invocation takes care of.
    let block_words = strip_words(strip, lane, subgroup_size, thread, STRIP_ROWS * EDGE_WORDS);
    let b = params.first_batch + workgroup.z;
    let h = params.first_head + workgroup.y;
    let place = query_tile(workgroup.x, grid.x);
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

    tell_start(thread);
    var q: array<MatrixA, SLICES * ROW_BLOCKS * HEAD_BLOCKS>;
    var o_sums: array<MatrixC, ROW_BLOCKS * VALUE_BLOCKS>;
    let sign = select(1.0, -1.0, params.q_scale < 0.0);
    let row_lane = thread % ROW_LANES;
    // What makes scores of products, for each row.
    var units: array<f32, ROWS_EACH>;
    if (SLICES > 1u) {
        #unroll
        for (var n = 0u; n < ROWS_EACH; n++) {
            let row = (thread + n * THREADS) / ROW_LANES;
            var top = 0.0;
            for (var vec = row_lane; vec < HEAD_VECS; vec += ROW_LANES) {
                top = max(top, largest(q4(q_row(q_from, i0 + row) + vec * 4u, HEAD_DIM - vec * 4u)));
            }
            top = lanes_max(top);
            units[n] = unit_for(top) * abs(params.q_scale);
            if ((ALL_ROWS || row < ROWS) && row_lane == 0u) {
                row_factors[row] = factor_for(top) * sign;
            }
        }
    }
    #unroll if MATRICES_WRITTEN_OUT
    for (var r = 0u; r < ROW_BLOCKS; r++) {
        #unroll if MATRICES_WRITTEN_OUT
        for (var part = 0u; part < Q_PARTS; part++) {
            workgroupBarrier();
            stage_q(q_from, i0, r, part, sign, thread);
            workgroupBarrier();
            #unroll
            for (var x = 0u; x < SLICES; x++) {
                #unroll if MATRICES_WRITTEN_OUT
                for (var d = 0u; d < Q_BLOCKS; d++) {
                    q[(x * ROW_BLOCKS + r) * HEAD_BLOCKS + part * Q_BLOCKS + d] = coopLoadT<MatrixA>(&factors[(x * Q_SLICE + strip * EDGE * Q_PITCH + d * EDGE_WORDS) * WORD], Q_PITCH * WORD);
                }
            }
        }
        #unroll if MATRICES_WRITTEN_OUT
        for (var n = 0u; n < VALUE_BLOCKS; n++) {
            o_sums[r * VALUE_BLOCKS + n] = MatrixC();
        }
    }

    // The rows whose weights are this invocation's, or partly so.
    var m: array<f32, ROWS_EACH>;
    var l: array<f32, ROWS_EACH>;
    var rows: array<Row, ROWS_EACH>;
    #unroll
    for (var n = 0u; n < ROWS_EACH; n++) {
        m[n] = MASKED;
        l[n] = 0.0;
        if (HAS_SINKS) {
            // The sink's logit is the first that a row meets; one lane counts its weight.
            m[n] = bitcast<f32>(small_word(params.sinks_at + h)) * LOG2_E - HEADROOM;
            l[n] = select(0.0, exp2(HEADROOM), row_lane == 0u);
        }
        rows[n] = row_of(b, min(i0 + (thread + n * THREADS) / ROW_LANES, params.end_query - 1u));
    }
    strip_start(thread);

    var t = first_tile(tiles);
    var stage = 0u;
    var round = 0u;
    var k_held = load_k(k_from, list, place_of(list, t, KEYS), last_key, thread);
    var v_held = load_v(v_from, list, place_of(list, t, KEYS), last_key, thread);
    tell_largest(k_held, v_held, lane, subgroup_size, round);
    workgroupBarrier();
    var scales = scales_told(thread, round);
    var next_scales = scales;
    store_k(k_held, scales.k, thread, 0u);
    store_v(v_held, scales.v, thread, V_AT);
    if (CARRIED) {
        let next = place_of(list, next_tile(tiles, t), KEYS);
        k_held = load_k(k_from, list, next, last_key, thread);
        v_held = load_v(v_from, list, next, last_key, thread);
    }
    for (; t < tiles.body_end; t = next_tile(tiles, t)) {
        let p0 = place_of(list, t, KEYS);
        let other = STAGE - stage;
        round++;
        if (STAGES == 2u) {
            tell_largest(k_held, v_held, lane, subgroup_size, round);
        }
        workgroupBarrier();
        if (!CARRIED) {
            let next = place_of(list, next_tile(tiles, t), KEYS);
            k_held = load_k(k_from, list, next, last_key, thread);
            v_held = load_v(v_from, list, next, last_key, thread);
        }

        // Scores of this tile.
        #unroll if MATRICES_WRITTEN_OUT
        for (var n = 0u; n < KEY_BLOCKS; n++) {
            var s: array<MatrixC, SLICES * ROW_BLOCKS>;
            #unroll if MATRICES_WRITTEN_OUT
            for (var r = 0u; r < SLICES * ROW_BLOCKS; r++) {
                s[r] = MatrixC();
            }
            #unroll if MATRICES_WRITTEN_OUT
            for (var d = 0u; d < HEAD_BLOCKS; d++) {
                #unroll
                for (var y = 0u; y < SLICES; y++) {
                    let keys = coopLoad<MatrixB>(&factors[(stage + y * K_SLICE + n * EDGE * HEAD_PITCH + d * EDGE_WORDS) * WORD], HEAD_PITCH * WORD);
                    #unroll
                    for (var x = 0u; x < SLICES - y; x++) {
                        #unroll if MATRICES_WRITTEN_OUT
                        for (var r = 0u; r < ROW_BLOCKS; r++) {
                            s[(x + y) * ROW_BLOCKS + r] = coopMultiplyAdd(q[(x * ROW_BLOCKS + r) * HEAD_BLOCKS + d], keys, s[(x + y) * ROW_BLOCKS + r]);
                        }
                    }
                }
            }
            #unroll if MATRICES_WRITTEN_OUT
            for (var r = 0u; r < ROW_BLOCKS; r++) {
                #unroll
                for (var second = 1u; second < SLICES; second++) {
                    s[r] = s[r] + s[second * ROW_BLOCKS + r] * SECOND_UNIT;
                }
                coopStore(s[r], &sums[(s_matrices + n * EDGE * S_PITCH + r * EDGE_WORDS) * WORD], S_PITCH * WORD);
            }
        }
        strip_barrier();

        // Hooks, masks and weights. A tile that every row sees whole takes no mask arithmetic.
        let whole = whole_tile(list, clean, first, last, one_document, t, p0, p0 + KEYS);
        var grew = false;
        #unroll
        for (var n = 0u; n < ROWS_EACH; n++) {
            let row = (thread + n * THREADS) / ROW_LANES;
            if (ALL_ROWS || row < ROWS) {
                let s_from = row_of_sums(row) + row_lane * ROW_VECS * S_PITCH * 16u;
                let p_from = P_AT + row * P_PITCH + row_lane * ROW_VECS;
                var unit = abs(params.q_scale);
                if (SLICES > 1u) {
                    unit = units[n] * scales.k_unit;
                }
                if (SCORE_HOOKS || !whole) {
                    if (STAGES == 2u && !CARRIED) {
                        // Stored here too, to no effect but that a compiler does not put the loads off until they are needed.
                        store_k(k_held, next_scales.k, thread, other);
                        store_v(v_held, next_scales.v, thread, other + V_AT);
                    }
                    let i = min(i0 + row, params.end_query - 1u);
                    for (var c = 0u; c < ROW_VECS; c++) {
                        let p = p0 + (row_lane * ROW_VECS + c) * 4u;
                        var t4 = row_four(s_from, c) * unit;
                        #unroll
                        for (var x = 0u; x < 4u; x++) {
                            t4[x] = masked_score(t4[x], whole, b, h, i, key_at(list, p + x), rows[n]);
                        }
                        put_row_four(s_from, c, t4);
                    }
                    unit = 1.0;
                }
                let taken = row_weights(s_from, p_from, unit, SCORE_HOOKS || !whole, m[n], l[n]);
                m[n] = taken.m;
                l[n] = taken.l;
                grew = grew || taken.grew;
                if (NORMALIZED && row_lane == 0u) {
                    row_factors[row] = taken.shrink;
                }
            }
        }
        strip_tell(grew, t);
        if (STAGES == 2u && CARRIED) {
            next_scales = scales_told(thread, round);
            store_k(k_held, next_scales.k, thread, other);
            store_v(v_held, next_scales.v, thread, other + V_AT);
            let next = place_of(list, next_tile(tiles, next_tile(tiles, t)), KEYS);
            k_held = load_k(k_from, list, next, last_key, thread);
            v_held = load_v(v_from, list, next, last_key, thread);
        }
        strip_barrier();

        // A loop in place of a branch, because matrices are worked on in control flow that is the same for a whole subgroup,
        // which a branch would have to prove.
        for (var rescale = NORMALIZED && strip_told(grew, t); rescale; rescale = false) {
            #unroll if MATRICES_WRITTEN_OUT
            for (var d = 0u; d < VALUE_BLOCKS; d++) {
                #unroll if MATRICES_WRITTEN_OUT
                for (var r = 0u; r < ROW_BLOCKS; r++) {
                    coopStore(o_sums[r * VALUE_BLOCKS + d], &sums[(s_matrices + r * EDGE_WORDS) * WORD], S_PITCH * WORD);
                }
                strip_barrier();
                for (var w = block_words.first; w < block_words.end; w += block_words.step) {
                    let row = w / EDGE_WORDS;
                    let start = row_of_sums(row);
                    put_row_four(start, w % EDGE_WORDS, row_four(start, w % EDGE_WORDS) * row_factors[row]);
                }
                strip_barrier();
                #unroll if MATRICES_WRITTEN_OUT
                for (var r = 0u; r < ROW_BLOCKS; r++) {
                    o_sums[r * VALUE_BLOCKS + d] = coopLoad<MatrixC>(&sums[(s_matrices + r * EDGE_WORDS) * WORD], S_PITCH * WORD);
                }
                // Subgroups that do the same must not get ahead of one another.
                strip_barrier();
            }
        }

        // O += P·V
        #unroll if MATRICES_WRITTEN_OUT
        for (var n = 0u; n < KEY_BLOCKS; n++) {
            var p: array<MatrixA, SLICES * ROW_BLOCKS>;
            #unroll
            for (var x = 0u; x < SLICES; x++) {
                #unroll if MATRICES_WRITTEN_OUT
                for (var r = 0u; r < ROW_BLOCKS; r++) {
                    p[x * ROW_BLOCKS + r] = coopLoadT<MatrixA>(&factors[(p_matrices + x * P_SLICE + r * EDGE * P_PITCH + n * EDGE_WORDS) * WORD], P_PITCH * WORD);
                }
            }
            #unroll if MATRICES_WRITTEN_OUT
            for (var d = 0u; d < VALUE_BLOCKS; d++) {
                let values = coopLoadT<MatrixB>(&factors[(stage + V_AT + n * EDGE * VALUE_PITCH + d * EDGE_WORDS) * WORD], VALUE_PITCH * WORD);
                #unroll
                for (var one = SLICES; one < 2u; one++) {
                    #unroll if MATRICES_WRITTEN_OUT
                    for (var r = 0u; r < ROW_BLOCKS; r++) {
                        o_sums[r * VALUE_BLOCKS + d] = coopMultiplyAdd(p[r], values, o_sums[r * VALUE_BLOCKS + d]);
                    }
                }
                #unroll
                for (var second = 1u; second < SLICES; second++) {
                    let rest = coopLoadT<MatrixB>(&factors[(stage + V_AT + V_SLICE + n * EDGE * VALUE_PITCH + d * EDGE_WORDS) * WORD], VALUE_PITCH * WORD);
                    #unroll if MATRICES_WRITTEN_OUT
                    for (var r = 0u; r < ROW_BLOCKS; r++) {
                        var sum = coopMultiplyAdd(p[ROW_BLOCKS + r], values, MatrixC());
                        sum = coopMultiplyAdd(p[r], rest, sum);
                        sum = coopMultiplyAdd(p[r], values, sum * SECOND_UNIT);
                        o_sums[r * VALUE_BLOCKS + d] = o_sums[r * VALUE_BLOCKS + d] + sum * scales.v_unit;
                    }
                }
            }
        }
        if (STAGES == 2u) {
            if (!CARRIED) {
                store_k(k_held, next_scales.k, thread, other);
                store_v(v_held, next_scales.v, thread, other + V_AT);
            }
            stage = other;
            scales = next_scales;
        } else {
            tell_largest(k_held, v_held, lane, subgroup_size, round);
            workgroupBarrier();
            scales = scales_told(thread, round);
            store_k(k_held, scales.k, thread, 0u);
            store_v(v_held, scales.v, thread, V_AT);
            if (CARRIED) {
                let next = place_of(list, next_tile(tiles, next_tile(tiles, t)), KEYS);
                k_held = load_k(k_from, list, next, last_key, thread);
                v_held = load_v(v_from, list, next, last_key, thread);
            }
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
                store_lse(at, lse_bits(m[n], sum));
            }
        }
    }

    // The output, a block of columns at a time.
    let o_from = params.o_base + (b - params.first_batch) * params.o_batch + (h - params.first_head) * params.o_head;
    #unroll if MATRICES_WRITTEN_OUT
    for (var d = 0u; d < VALUE_BLOCKS; d++) {
        strip_barrier();
        #unroll if MATRICES_WRITTEN_OUT
        for (var r = 0u; r < ROW_BLOCKS; r++) {
            coopStore(o_sums[r * VALUE_BLOCKS + d], &sums[(s_matrices + r * EDGE_WORDS) * WORD], S_PITCH * WORD);
        }
        strip_barrier();
        for (var w = block_words.first; w < block_words.end; w += block_words.step) {
            let row = w / EDGE_WORDS;
            let i = i0 + row;
            let column = d * EDGE + w % EDGE_WORDS * 4u;
            if (i < params.end_query && column < VALUE_DIM) {
                let values = row_four(row_of_sums(row), w % EDGE_WORDS) * row_factors[row];
                store_o4(o_from + (i - params.first_query) * params.o_seq + column, values, VALUE_DIM - column);
            }
        }
    }
}
