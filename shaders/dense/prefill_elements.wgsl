// Tiled attention over many queries on cooperative matrices whose elements a shader gets at.
//
//   o_i = Σ_j w(s_ij) v_j,   s_ij = hooks(scale · q_i·k_j),   w = softmax or sigmoid
//
// As `dense/prefill_cooperative.wgsl`, but scores and weights never leave the registers (Dao, "FlashAttention-2", 2023):
//
//   S = Q·Kᵀ    sums of matrices → weights, element by element → factors
//   O += P·V    in matrices, where it stays until the end
//
// One workgroup owns a tile of ROWS queries of one head and walks the keys that its mask or its list leaves, KEYS = EDGE at a
// time; factors are f16, sums f32.
//
// Strips. A subgroup owns a strip of ROW_BLOCKS·EDGE rows: its part of Q and all of O's columns stay in its registers.
//
// Order. A step of the walk is S of these keys, P·V of those before, then weights of these (Shah et al., "FlashAttention-3",
// 2024, do so within a group of threads). So v is stored a step later than k. In milliseconds (NVIDIA H200, driver 580.159.04, 32
// heads, N = 4096, D = 128, no masks), where in one session this with scores kept took 0.913 and weights in workgroup memory 1.09:
//   S, weights, P·V in this order                                                    1.06
//   stores and loads behind the branch that multiplies O: NVIDIA's compiler moves
//   half of O to other registers before what follows that branch, and back           1.00
//   without that branch, for comparison                                              0.89
//   stores and loads at the start of a step                                          1.19
//   O multiplied before P·V of the next step                                         1.05
//   two steps to a barrier                                                           1.05
//   a loop without masks, and another for the rest                                   1.36
// Hooks, and O times what its rows shrink by, stand where they are needed: with a function for either, D = 64 takes 0.58 for 0.52.
//
// Key tiles. Workgroup memory has room for two: while one is worked on the next is stored, and strips meet once a step. Loads
// are on their way meanwhile, for a whole step. They are held as words, because halves in registers were taken apart and put
// together again (NVIDIA's compiler, driver 580.159.04), which made every step wait for them.
//
// Weights. An invocation has elements of CLASSES rows of a block.
//   m, l   for each, the reference that weights are relative to, and its part of the sum of 2^(t_ij − m_i) over the keys so far
// m is not the maximum, because changing it means multiplying O. It is set HEADROOM below the first maximum a row meets, so that
// the largest weight is 2^HEADROOM, and stays until weights that one invocation adds up exceed LARGEST; f16 holds that, and of
// weights it holds all that matter: those down to 2^(−14 − HEADROOM) of the largest with full precision. No maximum is looked for
// until then: the sums, which are needed anyway, tell. What exceeds f32, as the weights of a row's first scores do, counts as
// exceeding, whatever the device makes of it: this comparison alone relies on that.
// Sigmoid has no reference, and its weights, which may all be as small as 1/Nk, are multiplied by LARGEST.
//
// Workgroup memory (pitches in words of four elements):
//   factors, f16   twice k [KEYS][HEAD_PITCH] and v [KEYS][VALUE_PITCH]
//                  at the start q, EDGE rows of each strip, in Q_PARTS parts of its columns
//   sums, f32      a block of O on its way to be written, by columns, [STRIPS][EDGE][S_PITCH]
//   places         0 … EDGE − 1: loaded with a stride of 0, an element's row or column
// Pitches are 16 bytes longer than what they hold, so that eight rows of a matrix fall into different banks.
//
// Tile sizes. As there: with two blocks of rows both meet each loaded block of k and v, and at D = 128 a subgroup of 32 has no
// registers for more. At D = 64 three blocks of rows to a strip are a little better than two (0.52 for 0.58 ms).
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
#import shared/strip_elements
#import dense/prefill_matrices
#import shared/staged_keys

const ROW_CLASSES = ROW_BLOCKS * CLASSES;

// Places and pitches are in words of four elements.
const S_PITCH = EDGE_WORDS + 1u;
const FACTORS = max(2u * STAGE, Q_SLICE);
const SUMS = STRIPS * EDGE * S_PITCH;

const HEADROOM = 7.0;
const LARGEST = 32768.0;

const_assert KEYS == EDGE && STAGES == 2u && SLICES == 1u && CARRIED;
const_assert f32(ELEMENTS / CLASSES) * 128.0 <= LARGEST;

// What a row of the tile is multiplied by when it is staged.
fn q_factor(row: u32, sign: f32) -> f32 {
    return sign;
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(subgroup_id) subgroup: u32, @builtin(subgroup_size) subgroup_size: u32,
        @builtin(subgroup_invocation_id) lane: u32) {
    // Neighbours by this number are neighbours in a subgroup, which by the invocation index they need not be.
    let thread = subgroup * subgroup_size + lane;
    let strip = subgroup % STRIPS;
    // Words of a block of O in `sums` that this invocation takes care of.
    let block_words = strip_words(strip, lane, subgroup_size, thread, EDGE * EDGE_WORDS);
    let o_at = strip * EDGE * S_PITCH;
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
    let strip_row = i0 + strip * STRIP_ROWS;
    let strip_first = row_of(b, min(strip_row, params.end_query - 1u));
    let strip_last = row_of(b, min(strip_row + STRIP_ROWS, params.end_query) - 1u);
    let strip_one_document = !HAS_DOCUMENTS || (strip_first.lo == strip_last.lo && strip_first.hi == strip_last.hi);
    let whole_keys = whole_of(strip_first, strip_last, strip_one_document);
    let list = list_of(b, h, i0, place);
    let clean = list_is_clean(list, thread);
    let tiles = tiles_to_visit(list, first, last, one_document, KEYS);
    let last_key = u32(max(keys_of(b), 1) - 1);

    strip_start(thread);
    fill_places(thread);
    var q: array<MatrixA, QUERIES>;
    var o_sums: array<MatrixC, OUTPUTS>;
    let sign = select(1.0, -1.0, params.q_scale < 0.0);
    #unroll if MATRICES_WRITTEN_OUT
    for (var r = 0u; r < ROW_BLOCKS; r++) {
        #unroll if MATRICES_WRITTEN_OUT
        for (var part = 0u; part < Q_PARTS; part++) {
            workgroupBarrier();
            stage_q(q_from, i0, r, part, sign, thread);
            workgroupBarrier();
            #unroll if MATRICES_WRITTEN_OUT
            for (var d = 0u; d < Q_BLOCKS; d++) {
                q[r * HEAD_BLOCKS + part * Q_BLOCKS + d] = coopLoadT<MatrixA>(&factors[(strip * EDGE * Q_PITCH + d * EDGE_WORDS) * WORD], Q_PITCH * WORD);
            }
        }
        #unroll if MATRICES_WRITTEN_OUT
        for (var n = 0u; n < VALUE_BLOCKS; n++) {
            o_sums[r * VALUE_BLOCKS + n] = MatrixC();
        }
    }

    var m: array<f32, ROW_CLASSES>;
    var l: array<f32, ROW_CLASSES>;
    #unroll if MATRICES_WRITTEN_OUT
    for (var n = 0u; n < ROW_CLASSES; n++) {
        // Far above what is masked, so that its weight is 0 also while a row has seen nothing else.
        m[n] = MASKED_BELOW;
        l[n] = 0.0;
        if (HAS_SINKS) {
            // The sink's logit is the first that a row meets, unless it weighs nothing; one of the sharers counts its weight.
            let sink = bitcast<f32>(small_word(params.sinks_at + h)) * LOG2_E - HEADROOM;
            let nothing = sink <= MASKED_BELOW;
            m[n] = select(sink, MASKED_BELOW, nothing);
            l[n] = select(0.0, exp2(HEADROOM), (lane & SHARERS) == 0u && !nothing);
        }
    }
    let scale = abs(params.q_scale);

    var t = first_tile(tiles);
    var stage = 0u;
    // Weights of the step before; before the first they are 0, and so are its values.
    var p: array<MatrixA, ROW_BLOCKS>;
    #unroll if MATRICES_WRITTEN_OUT
    for (var r = 0u; r < ROW_BLOCKS; r++) {
        p[r] = MatrixA();
    }
    var no_values: array<Held, V_LOADS>;
    workgroupBarrier();
    store_k(load_k(k_from, list, place_of(list, t, KEYS), last_key, thread), 1.0, thread, 0u);
    store_v(no_values, 1.0, thread, STAGE + K_SLICE);
    var next = next_tile(tiles, t);
    var k_held = load_k(k_from, list, place_of(list, next, KEYS), last_key, thread);
    var v_held = load_v(v_from, list, place_of(list, t, KEYS), last_key, thread);
    while (t < tiles.body_end) {
        let p0 = place_of(list, t, KEYS);
        let other = STAGE - stage;
        workgroupBarrier();
        var scores = scores_of(&q, stage);
        let values_ahead = load_values_ahead(other + K_SLICE);

        // Hooks and masks. Keys that every row of the strip sees take no mask arithmetic. A loop in place of a branch, because
        // matrices are loaded in control flow that is the same for a whole subgroup, which a branch would have to prove.
        let whole = is_whole(whole_keys, list, clean, t, p0, p0 + KEYS);
        var unit = scale;
        for (var once = SCORE_HOOKS || !whole; once; once = false) {
            var rows = element_rows();
            var columns = element_columns();
            #unroll if MATRICES_WRITTEN_OUT
            for (var r = 0u; r < ROW_BLOCKS; r++) {
                #unroll if MATRICES_WRITTEN_OUT
                for (var c = 0u; c < CLASSES; c++) {
                    let i = min(i0 + strip * STRIP_ROWS + r * EDGE + u32(rows[c * RUN]), params.end_query - 1u);
                    let row = row_of(b, i);
                    #unroll if MATRICES_WRITTEN_OUT
                    for (var e = 0u; e < ELEMENTS; e++) {
                        if (e / RUN % CLASSES == c) {
                            let j = key_at(list, p0 + u32(columns[e]));
                            scores[r][e] = masked_score(scores[r][e] * scale, whole, b, h, i, j, row);
                        }
                    }
                }
            }
            unit = 1.0;
        }

        // O += P·V of the step before.
        add_values_ahead(&o_sums, &p, values_ahead);
        #unroll if MATRICES_WRITTEN_OUT
        for (var d = VALUES_AHEAD; d < VALUE_BLOCKS; d++) {
            let values = coopLoadT<MatrixB>(&factors[(other + K_SLICE + d * EDGE_WORDS) * WORD], VALUE_PITCH * WORD);
            #unroll if MATRICES_WRITTEN_OUT
            for (var r = 0u; r < ROW_BLOCKS; r++) {
                o_sums[r * VALUE_BLOCKS + d] = coopMultiplyAdd(p[r], values, o_sums[r * VALUE_BLOCKS + d]);
            }
        }

        // Weights.
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

        // The next keys and these values are stored, and others on their way.
        store_k(k_held, 1.0, thread, other);
        store_v(v_held, 1.0, thread, stage + K_SLICE);
        v_held = load_v(v_from, list, place_of(list, next, KEYS), last_key, thread);
        t = next;
        next = next_tile(tiles, next);
        k_held = load_k(k_from, list, place_of(list, next, KEYS), last_key, thread);

        var over = false;
        #unroll if MATRICES_WRITTEN_OUT
        for (var n = 0u; n < ROW_CLASSES; n++) {
            over = over || !(taken[n] <= LARGEST);
        }
        for (var once = NORMALIZED && subgroupAny(over); once; once = false) {
            // For all rows of the subgroup, though those that are not over come out as they were.
            scores_again(&scores, &q, stage, scale, whole, list, b, h, strip_row, p0);
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
                for (var d = 0u; d < VALUE_BLOCKS; d++) {
                    var x = elements_of(o_sums[r * VALUE_BLOCKS + d]);
                    #unroll if MATRICES_WRITTEN_OUT
                    for (var e = 0u; e < ELEMENTS; e++) {
                        x[e] *= shrink[e / RUN % CLASSES];
                    }
                    o_sums[r * VALUE_BLOCKS + d] = sums_of(x);
                }
            }
        }
        #unroll if MATRICES_WRITTEN_OUT
        for (var n = 0u; n < ROW_CLASSES; n++) {
            l[n] += taken[n];
        }
        stage = other;
    }

    // O += P·V of the last step.
    workgroupBarrier();
    #unroll if MATRICES_WRITTEN_OUT
    for (var d = 0u; d < VALUE_BLOCKS; d++) {
        let values = coopLoadT<MatrixB>(&factors[(STAGE - stage + K_SLICE + d * EDGE_WORDS) * WORD], VALUE_PITCH * WORD);
        #unroll if MATRICES_WRITTEN_OUT
        for (var r = 0u; r < ROW_BLOCKS; r++) {
            o_sums[r * VALUE_BLOCKS + d] = coopMultiplyAdd(p[r], values, o_sums[r * VALUE_BLOCKS + d]);
        }
    }

    // What a row's sums have to be multiplied by, and its log-sum-exp.
    var scales: array<array<f32, CLASSES>, ROW_BLOCKS>;
    var rows = element_rows();
    #unroll if MATRICES_WRITTEN_OUT
    for (var r = 0u; r < ROW_BLOCKS; r++) {
        #unroll if MATRICES_WRITTEN_OUT
        for (var c = 0u; c < CLASSES; c++) {
            let at = r * CLASSES + c;
            let sum = sharers_sum(l[at]);
            scales[r][c] = 1.0 / LARGEST;
            if (NORMALIZED) {
                scales[r][c] = select(0.0, 1.0 / sum, sum > 0.0);
            }
            let i = i0 + strip * STRIP_ROWS + r * EDGE + u32(rows[c * RUN]);
            if (HAS_LSE && (lane & SHARERS) == 0u && i < params.end_query) {
                let to = params.lse_base + ((b - params.first_batch) * params.heads + h - params.first_head) * params.queries
                    + i - params.first_query;
                store_lse(to, lse_bits(m[at], sum));
            }
        }
    }

    // The output, a block at a time.
    let o_from = params.o_base + (b - params.first_batch) * params.o_batch + (h - params.first_head) * params.o_head;
    #unroll if MATRICES_WRITTEN_OUT
    for (var r = 0u; r < ROW_BLOCKS; r++) {
        #unroll if MATRICES_WRITTEN_OUT
        for (var d = 0u; d < VALUE_BLOCKS; d++) {
            let scaled = rows_times(o_sums[r * VALUE_BLOCKS + d], scales[r]);
            strip_barrier();
            coopStore(scaled, &sums[o_at * WORD], S_PITCH * WORD);
            strip_barrier();
            for (var w = block_words.first; w < block_words.end; w += block_words.step) {
                let row = w / EDGE_WORDS;
                let i = i0 + row / EDGE * STRIP_ROWS + r * EDGE + row % EDGE;
                let column = d * EDGE + w % EDGE_WORDS * 4u;
                if (i < params.end_query && column < VALUE_DIM) {
                    let from_word = row / EDGE * EDGE * S_PITCH + w % EDGE_WORDS * 4u * S_PITCH + row % EDGE / 4u;
                    let part = row % 4u;
                    let values = vec4<f32>(get_sum(from_word, part), get_sum(from_word + S_PITCH, part),
                        get_sum(from_word + 2u * S_PITCH, part), get_sum(from_word + 3u * S_PITCH, part));
                    store_o4(o_from + (i - params.first_query) * params.o_seq + column, values, VALUE_DIM - column);
                }
            }
        }
    }
}
