// Outputs of linear attention over the segments of a sequence on cooperative matrices whose elements a shader gets at.
//
// As `linear/segment_cooperative.wgsl`, whose header has the formulas, the order of dispatches and the powers of two, but scores and
// weights never leave the registers, as in `dense/prefill_elements.wgsl`, whose header has strips and elements:
//
//   φ(Q)·φ(K)ᵀ   sums of matrices → weights, element by element → factors
//   O += W·V     in matrices, where it stays until the end
//
// Weights need no maximum here, and nothing is multiplied by what it changes by, so that a step is that and no more: S, weights,
// W·V. KEYS = EDGE, and workgroup memory has room for two key tiles: strips meet once a step.
//
// Workgroup memory (pitches in words of four elements):
//   factors, f16   twice φ(k) [KEYS][HEAD_PITCH] and v [KEYS][VALUE_PITCH]
//                  before that φ(q), EDGE rows of each strip, in Q_PARTS parts of its columns, and then S, in S_PARTS parts of its rows
//                  at the end a block of O of each strip on its way to be written (`output_halves`)
//   sums, f32      or that (`output_sums`)
//   places         0 … EDGE − 1: loaded with a stride of 0, an element's row or column
//   row_factors    sums of rows' weights, later what rows are multiplied by, where they are normalised
//
// Range. Powers of two for weights are a strip's own here: what bounds them is the largest of its scores, |w_ij| ≤ |s_ij|.
//
// Tile sizes. On an NVIDIA H200, N = 16384, 32 heads, f16, outputs and what comes before them took in one session
//   D = 64, segments of 128                             D = 128, segments of 256
//   4 strips of one block of rows   248 µs              8 strips of two blocks   629 µs
//   8 strips of one                 275                 16 of one                652
//   4 strips of two                 260                 4 of two                 683
//   the other kernel                327
#import shared/output
#import linear/outside
#import linear/segment_matrices
#import shared/strip_elements

const ROW_CLASSES = ROW_BLOCKS * CLASSES;

// In words of four elements.
const FACTORS = max(max(2u * STAGE, STRIPS * EDGE * Q_PITCH), O_FACTORS);
const SUMS = O_SUMS;

const_assert KEYS == EDGE && STAGES == 2u;

// Sums of rows' weights, and then what the rows of O are to be multiplied by, where they are normalised; at least 16 bytes.
var<workgroup> row_factors: array<f32, select(4u, ROWS, NORMALIZE)>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(subgroup_id) subgroup: u32,
        @builtin(subgroup_size) subgroup_size: u32, @builtin(subgroup_invocation_id) lane: u32) {
    // Neighbours by this number are neighbours in a subgroup, which by the invocation index they need not be.
    let thread = subgroup * subgroup_size + lane;
    let strip = subgroup % STRIPS;
    // Words of a block of O that this invocation takes care of.
    let block_words = strip_words(strip, lane, subgroup_size, thread, EDGE * EDGE_WORDS);
    let tile = tile_of(workgroup);
    let i0 = tile.i0;
    let span = tile.span;
    let count = tile.count;
    let strip_row = i0 + strip * STRIP_ROWS;

    if (i0 == 0u) {
        clear_outside(span, tile.o_from, 0u, VALUE_VECS, thread);
    }
    // A loop in place of a branch: naga takes what is behind a return for control flow that invocations part in.
    for (var any = i0 < count; any; any = false) {
        let state = begin_tile(tile, workgroup, thread);
        fill_places(thread);
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
        var o: array<MatrixC, OUTPUTS>;
        #unroll if MATRICES_WRITTEN_OUT
        for (var e = 0u; e < OUTPUTS; e++) {
            o[e] = MatrixC();
        }

        // What the state contributes.
        var power = add_state(&o, &q, s_first, s_second, state.at, state.known, &round, lane, subgroup_size, thread);
        // Of this invocation's elements of a block: rows, and rows less columns.
        var rows = element_rows();
        var columns = element_columns();
        var apart: Elements;
        // Decay over so many tokens and EDGE − 1.
        var near: Elements;
        #unroll if MATRICES_WRITTEN_OUT
        for (var e = 0u; e < ELEMENTS; e++) {
            apart[e] = rows[e / RUN % CLASSES * RUN] - columns[e];
            near[e] = decay_over(vec4<f32>(apart[e] + f32(EDGE - 1u))).x;
        }
        if (DECAYS) {
            #unroll if MATRICES_WRITTEN_OUT
            for (var r = 0u; r < ROW_BLOCKS; r++) {
                var decays: array<f32, CLASSES>;
                #unroll if MATRICES_WRITTEN_OUT
                for (var c = 0u; c < CLASSES; c++) {
                    decays[c] = decay_from_start(strip_row + r * EDGE + u32(rows[c * RUN]));
                }
                #unroll if MATRICES_WRITTEN_OUT
                for (var d = 0u; d < VALUE_BLOCKS; d++) {
                    o[r * VALUE_BLOCKS + d] = rows_times(o[r * VALUE_BLOCKS + d], decays);
                }
            }
        }

        // What the segment's own tokens contribute.
        // This invocation's part of the sums of its rows' weights.
        var sums_of_weights: array<f32, ROW_CLASSES>;
        if (CAUSAL) {
            let end = min(i0 + ROWS, count);
            var stage = 0u;
            workgroupBarrier();
            store_k(k_held, 1.0, thread, 0u);
            store_v(v_held, 1.0, thread, V_AT);
            k_held = load_k(tile.k_from, span.start, KEYS, last_key, thread);
            v_held = load_v(tile.v_from, span.start, KEYS, last_key, thread);
            for (var p0 = 0u; p0 < end; p0 += KEYS) {
                let other = STAGE - stage;
                workgroupBarrier();
                // Strips whose rows are all before the tile's keys only meet the others.
                for (var sees = subgroupAny(p0 < strip_row + STRIP_ROWS); sees; sees = false) {
                    var scores = scores_of(&q, stage);
                    let next_power = power_after(power, largest_score(scores));
                    scale_output(&o, next_power / power);
                    power = next_power;
                    var p: array<MatrixA, ROW_BLOCKS>;
                    #unroll if MATRICES_WRITTEN_OUT
                    for (var r = 0u; r < ROW_BLOCKS; r++) {
                        p[r] = factors_of(weights_of(scores[r], apart, near, f32(strip_row + r * EDGE) - f32(p0), power, r, &sums_of_weights));
                    }
                    #unroll if MATRICES_WRITTEN_OUT
                    for (var d = 0u; d < VALUE_BLOCKS; d++) {
                        let values = coopLoadT<MatrixB>(&factors[(stage + V_AT + d * EDGE_WORDS) * WORD], VALUE_PITCH * WORD);
                        #unroll if MATRICES_WRITTEN_OUT
                        for (var r = 0u; r < ROW_BLOCKS; r++) {
                            o[r * VALUE_BLOCKS + d] = coopMultiplyAdd(p[r], values, o[r * VALUE_BLOCKS + d]);
                        }
                    }
                }
                store_k(k_held, 1.0, thread, other);
                store_v(v_held, 1.0, thread, other + V_AT);
                k_held = load_k(tile.k_from, span.start, p0 + 2u * KEYS, last_key, thread);
                v_held = load_v(tile.v_from, span.start, p0 + 2u * KEYS, last_key, thread);
                stage = other;
            }
        }

        if (NORMALIZE) {
            #unroll if MATRICES_WRITTEN_OUT
            for (var n = 0u; n < ROW_CLASSES; n++) {
                let sum = sharers_sum(sums_of_weights[n]);
                if ((lane & SHARERS) == 0u) {
                    row_factors[strip * STRIP_ROWS + n / CLASSES * EDGE + u32(rows[n % CLASSES * RUN])] = sum;
                }
            }
            workgroupBarrier();
            for (var row = thread; row < ROWS; row += THREADS) {
                let i = min(i0 + row, count - 1u);
                var of_state = 0.0;
                for (var vec = 0u; vec < HEAD_QUADS; vec++) {
                    of_state += dot(unscaled_feature_q(tile.q_from, head, span.start + i, vec), normalizer[vec]);
                }
                let sum = fma(of_state, decay_from_start(i), row_factors[row]);
                row_factors[row] = params.scale / (params.scale * sum + params.epsilon);
            }
        }

        // The output, a block at a time.
        workgroupBarrier();
        #unroll if MATRICES_WRITTEN_OUT
        for (var r = 0u; r < ROW_BLOCKS; r++) {
            var by: array<f32, CLASSES>;
            #unroll if MATRICES_WRITTEN_OUT
            for (var c = 0u; c < CLASSES; c++) {
                by[c] = params.scale / power;
                if (NORMALIZE) {
                    by[c] = row_factors[strip * STRIP_ROWS + r * EDGE + u32(rows[c * RUN])] / power;
                }
            }
            #unroll if MATRICES_WRITTEN_OUT
            for (var d = 0u; d < VALUE_BLOCKS; d++) {
                strip_barrier();
                put_output(rows_times(o[r * VALUE_BLOCKS + d], by), strip);
                strip_barrier();
                for (var w = block_words.first; w < block_words.end; w += block_words.step) {
                    let i = i0 + w / EDGE_WORDS / EDGE * STRIP_ROWS + r * EDGE + w / EDGE_WORDS % EDGE;
                    let column = d * EDGE + w % EDGE_WORDS * 4u;
                    if (i < count && column < VALUE_DIM) {
                        store_o4(tile.o_from + (span.start + i) * params.o_seq + column, output_word(w), VALUE_DIM - column);
                    }
                }
            }
        }
    }
}

// The largest magnitude of a strip's scores.
fn largest_score(scores: array<Elements, ROW_BLOCKS>) -> f32 {
    var own = scores;
    var top = 0.0;
    #unroll if MATRICES_WRITTEN_OUT
    for (var r = 0u; r < ROW_BLOCKS; r++) {
        #unroll if MATRICES_WRITTEN_OUT
        for (var e = 0u; e < ELEMENTS; e++) {
            top = max(top, abs(own[r][e]));
        }
    }
    return subgroup_top(top, THREADS / STRIPS);
}

// Weights of a block of scores times a power of two: `apart` is what rows and columns of elements are apart in a block, `steps`
// from the block's first key to its first row, which are rows of block r of the strip. Adds what the weights of rows sum up to.
//
// Where all rows see all keys, the decay between two is that over the elements' part of the way, at least 0, times that over the
// rest, so that an exponential is worked out once a block. Neither exceeds 1, and where one is too small for f32 the weight is.
fn weights_of(scores: Elements, apart: Elements, near: Elements, steps: f32, power: f32, r: u32, sums_of_weights: ptr<function, array<f32, ROW_CLASSES>>) -> Elements {
    var own = scores;
    var own_apart = apart;
    var own_near = near;
    var weights: Elements;
    if (steps >= f32(EDGE - 1u)) {
        let far = decay_over(vec4<f32>(steps - f32(EDGE - 1u))).x;
        #unroll if MATRICES_WRITTEN_OUT
        for (var e = 0u; e < ELEMENTS; e++) {
            weights[e] = own[e] * (own_near[e] * far);
        }
    } else {
        #unroll if MATRICES_WRITTEN_OUT
        for (var e = 0u; e < ELEMENTS; e++) {
            let between = steps + own_apart[e];
            weights[e] = select(0.0, own[e] * decay_over(vec4<f32>(between)).x, between >= 0.0);
        }
    }
    #unroll if MATRICES_WRITTEN_OUT
    for (var e = 0u; e < ELEMENTS; e++) {
        if (NORMALIZE) {
            (*sums_of_weights)[r * CLASSES + e / RUN % CLASSES] += weights[e];
        }
        weights[e] *= power;
    }
    return weights;
}
