// Outputs of linear attention over segments of a sequence, with the state carried along in cooperative matrices
// (lightning attention: Qin et al., 2024, "Various Lengths, Constant Speed: Efficient Language Modeling with Lightning Attention").
// Decays are none or a number a head, λ = e^g. The last of three dispatches, after `linear/chunk_state_cooperative.wgsl` and
// `linear/scan.wgsl`, as `linear/segment_elements.wgsl` is. There every tile of outputs finds the state before its segment in memory;
// here a segment has many chunks of ROWS tokens, so that few states go through memory. For each chunk, i and j counted from its first
// token,
//
//   o_i = scale·(λ^{i+1} q_iᵀ S + Σ_{j≤i} λ^{i−j} (q_i·k_j) v_j)
//   S  ← λ^ROWS S + Σ_j λ^{ROWS−1−j} k_j v_jᵀ
//
// One workgroup owns a segment, each of its STRIPS subgroups STRIP_BLOCKS·EDGE columns of v, o and S. A subgroup has its part of S
// transposed, Sᵀ [columns, D], in sums of f32 that never leave the registers: where the device has elements of right factors where
// those of sums are, with row and column exchanged, Sᵀ as halves is S as a right factor, which is what q·S takes. A chunk takes
//
//   1  q and k to workgroup memory
//   2  weights, blocks of EDGE × EDGE of the lower triangle, dealt out to the subgroups: q·kᵀ, times decays, to workgroup memory
//      q·S, of all rows and the strip's columns
//   3  v to where q was
//   4  S ← λ^ROWS S + (decays · vᵀ)·k, and o = decays of rows · q·S + weights · v
//      o of f16 to where the strip's columns of v were, other o through `sums` to storage, a block at a time
//   5  o of f16 to storage, whole rows
//
// with a barrier between any two. v is a right factor of weights · v, and vᵀ the left one of vᵀ·k: loaded once, since an invocation has
// the same elements of either (`turned_over`). v is loaded at the start of 1, the next chunk's q and k at the start of 3, once v has
// left its registers: they are on their way for half a chunk's time, and all are held for a moment only. Loads stay where they are
// written (`loads_stay` in `src/ops/linear/carried.rs`).
//
// Workgroup memory (pitches in words of four elements):
//   factors, f16   q [ROWS][HEAD_PITCH], later v and at last o [ROWS][VALUE_PITCH] (`carried_halves`)
//                  k [ROWS][HEAD_PITCH]
//                  weights, PAIRS blocks [EDGE][WEIGHT_PITCH]
//   units          what undoes the power of two of each block of weights
//   sums, f32      a block of O of each strip where it does not leave as f16 (`carried_sums`)
//
// Range. Each block of weights is multiplied by a power of two that f16 has room for (`linear/powers.wgsl`); what comes of it is
// multiplied by what undoes it, in f32, before anything is added to it.
//
// A strip's part of S is kept times `power`, as are the decays of values. What would be products of all elements of S, to bring them to
// where f16 has room and to decay them, is one product so: as S is decayed by λ^ROWS `power` grows by as much, and only when it has
// grown by MOST_GROWTH since the state was brought to the middle (`settled`), or to MOST_POWER, are elements multiplied. Three things
// tell that f16 has no room for a chunk:
//
//   - o is not finite. A half of S that is infinite leaves no row of its column finite (found by trying, `measure/places.wgsl`), so that
//     one row of o is looked at.
//   - Of one element of each matrix of S none comes to LEAST_OF_STATE: the largest may not either.
//   - An invocation's sum of values is above USUAL_VALUES.
//
// Then all strips take the chunk again, with care: the largest element of S is looked for, and brought to between 2^MIDDLE and twice
// that where a power of two up to 2^88 can; and if it was for values, `power` is 1/2 when they are added, at which none leaves f16. A
// segment begins with care, as it does not know its state, and goes on with it after MOST_MISHAPS, or where λ^ROWS leaves nothing that
// could be taken again. (On an NVIDIA H200 the time of a chunk goes with its instructions: two products, and a look, for each element
// were a fifth of them at D = 128.)
//
// Halves of S are off by 2^-11 of themselves, or by 2^-27 of the largest where that is more. A value x is off by 2^-10 of what it is
// decayed to and by 2^-25·(1 + |x|) / `power`, which is LEAST_POWER at least. A device that takes subnormal halves for 0 loses elements
// below 2^-16 of the largest and decays below 2^-14 / `power`.
//
// Tile sizes. On an NVIDIA H200 all workgroups of a processor together have some 50 KB of workgroup memory, whatever its hardware has
// (two of 23.9 KB are at work side by side, of 24.9 KB one), and registers for 16 subgroups if they take 128 at most. Chunks of 32
// tokens at D = Dv = 64 take 11.6 KB and 127 registers: four workgroups. What keeps it waiting then is the unit that all accesses to
// memory go through, of workgroups and of buffers: a turn for each line of a cache that a subgroup's load or store touches, four for
// 16 bytes an invocation of workgroup memory. Times for N = 16384, 32 heads, f16, of this dispatch alone, at D = 64 with segments of
// 1024 and at D = 128 with segments of 2048:
//   32 tokens, 4 strips of one block, of two                              93 µs, 213 µs (without decay 93, 210)
//   the next q and k on their way before v is stored                      101, 240 (without decay 104, 242)
//   behind the barrier after it                                           94, 217
//   the state looked at for care where q and k are stored                 93, 225
//   registers of the next q and k loaded anew where a chunk is taken again    93, 214
//   without care (wrong)                                                  92, 207
//   the state multiplied at a chunk's start only (wrong where λ^ROWS is small)    93, 230
//   8 strips of one block                                                 269 at D = 128
// where products of all elements bring the state to the middle and decay it, beside 90 µs and 232 µs,
//   weights after q·S                                                     92, 237
//   all halves of the state made before q·S                               89, 242 (after it, weights: 92, 233)
//   the loop around q·S unrolled by the driver                            131, 356
//   state and outputs a block of the chunk's tokens after the other       94, 231
//   v loaded before o is stored, not after it                             97, 269
//   two heads a workgroup, 16 subgroups of 128 registers                  264 at D = 128
// before these, beside 91 µs and 229 µs,
//   o of a chunk on its way to storage at the start of the next           94, 228
//   v loaded, and o stored, by strips, each its own columns               102, 244
//   v twice, as either factor, rows without room between                  104, 255
//   halves of the state made in two places                                104, 264
// and at D = 64 before all these, beside 104 µs,
//   loads as late as the driver likes                                     131
//   all loads at the start of 2 (148 registers)                           133
//   q and k loaded at the end of 2                                        120
//   outputs before the state's update                                     106 to 112
//   v and decayed k beside q and k (23.9 KB), loads late                  163 (beside 122)
// Of all three dispatches, when they took 138 µs and 312 µs:
//   32 tokens, 2 strips of two blocks, 8 of one                           155, 361
//   16 tokens, 4 strips of one block                                      186
//   64 tokens, 4 strips of one block, 8 of one                            225, 358
#import linear/params
#import linear/features
#import linear/powers
#import linear/expm1
#import linear/span
#import shared/output
#import linear/outside
#import shared/matrix_sizes
#import shared/elements
#import shared/right_factors
#import shared/subgroup_top
#import shared/eights

const ROWS = ROW_BLOCKS * EDGE;
// Invocations of a subgroup.
const LANES = THREADS / STRIPS;
const VALUE_VECS = VALUE_DIM / 4u;
const VALUE_VECS_ALL = VALUE_VECS;
const STATES = STRIP_BLOCKS * HEAD_BLOCKS;
const OUTPUTS = ROW_BLOCKS * STRIP_BLOCKS;

// Blocks of weights, row by row of the lower triangle, and those of a subgroup.
const PAIRS = ROW_BLOCKS * (ROW_BLOCKS + 1u) / 2u;
const PAIRS_EACH = (PAIRS + STRIPS - 1u) / STRIPS;

// Places in words of four elements. v lies where q was.
const STRIP_WORDS = STRIP_BLOCKS * EDGE_WORDS;
const WEIGHT_PITCH = EDGE_WORDS + 2u;
const K_SLICE = ROWS * HEAD_PITCH;
const K_AT = max(K_SLICE, ROWS * VALUE_PITCH);
const WEIGHTS_AT = K_AT + K_SLICE;
const FACTORS = WEIGHTS_AT + PAIRS * EDGE * WEIGHT_PITCH;
const SUMS = O_SUMS;

// Eights of q and of k, and of v and of o, that an invocation takes care of: whole rows one after the other, so that what a subgroup
// loads or stores at a time lies in few lines of a cache.
const HEAD_EIGHTS = HEAD_WORDS / 2u;
const VALUE_EIGHTS = VALUE_VECS / 2u;
const LOADS = (ROWS * HEAD_EIGHTS + THREADS - 1u) / THREADS;
const VALUE_LOADS = (ROWS * VALUE_EIGHTS + THREADS - 1u) / THREADS;
const EVEN = ROWS * HEAD_EIGHTS % THREADS == 0u;
const VALUES_EVEN = ROWS * VALUE_EIGHTS % THREADS == 0u;

const_assert HEAD_DIM % EDGE == 0u && VALUE_BLOCKS == STRIPS * STRIP_BLOCKS && VALUE_DIM % EDGE == 0u;

// Columns of vᵀ that an invocation has elements of: all classes of elements of a right factor have the same rows, in the same order.
const COLUMNS_EACH = ELEMENTS / COLUMNS;

// Of the state as it is kept: what one of its elements is at least, and the exponent of the middle.
const LEAST_OF_STATE = 4.0;
const MIDDLE = 5;

// Of `power`; the first is that of a state of zeros. MOST_POWER·USUAL_VALUES is what f16 has room for.
const MOST_GROWTH = 32.0;
const FIRST_POWER = 16.0;
const LEAST_POWER = 0.0625;
const MOST_POWER = 256.0;
const USUAL_VALUES = 128.0;

// How often chunks of a segment are taken again before all are taken with care.
const MOST_MISHAPS = 4u;

// What a chunk is taken with care of: of the state, or of it and of values; and bits of what f16 has no room for.
const NOTHING = 0u;
const THE_STATE = 1u;
const VALUES = 2u;
// One word of them: variables take 16 bytes, or multiples.
var<workgroup> no_room: array<atomic<u32>, 4>;

// At least 16 bytes, and a multiple of them.
var<workgroup> units: array<f32, (PAIRS + 3u) / 4u * 4u>;

// Heads, for feature maps.
var<private> head: u32;
var<private> kv_head: u32;

// Row and column of a block of the lower triangle.
struct Pair {
    row: u32,
    column: u32,
}

fn pair_of(n: u32) -> Pair {
    var row = 0u;
    #unroll
    for (var r = 1u; r < ROW_BLOCKS; r++) {
        row += select(0u, 1u, n >= r * (r + 1u) / 2u);
    }
    return Pair(row, n - row * (row + 1u) / 2u);
}

// Rows past the last token repeat it; they are not written, and nothing sees them.
fn load_q(base: u32, first: u32, last: u32, thread: u32) -> array<Eight, LOADS> {
    var loaded: array<Eight, LOADS>;
    #unroll if MATRICES_WRITTEN_OUT
    for (var u = 0u; u < LOADS; u++) {
        let e = thread + u * THREADS;
        loaded[u] = q_eight(base, min(first + e / HEAD_EIGHTS, last), e % HEAD_EIGHTS);
    }
    return loaded;
}

fn load_k(base: u32, first: u32, last: u32, thread: u32) -> array<Eight, LOADS> {
    var loaded: array<Eight, LOADS>;
    #unroll if MATRICES_WRITTEN_OUT
    for (var u = 0u; u < LOADS; u++) {
        let e = thread + u * THREADS;
        loaded[u] = k_eight(base, min(first + e / HEAD_EIGHTS, last), e % HEAD_EIGHTS);
    }
    return loaded;
}

fn load_v(base: u32, first: u32, last: u32, thread: u32) -> array<Eight, VALUE_LOADS> {
    var loaded: array<Eight, VALUE_LOADS>;
    #unroll if MATRICES_WRITTEN_OUT
    for (var u = 0u; u < VALUE_LOADS; u++) {
        let e = thread + u * THREADS;
        loaded[u] = v_eight(base, min(first + e / VALUE_EIGHTS, last), e % VALUE_EIGHTS);
    }
    return loaded;
}

fn store_rows(loaded: array<Eight, LOADS>, at: u32, thread: u32) {
    #unroll if MATRICES_WRITTEN_OUT
    for (var u = 0u; u < LOADS; u++) {
        let e = thread + u * THREADS;
        if (EVEN || e < ROWS * HEAD_EIGHTS) {
            put_eight(at + e / HEAD_EIGHTS * HEAD_PITCH + e % HEAD_EIGHTS * 2u, loaded[u], 1.0);
        }
    }
}

fn store_v(loaded: array<Eight, VALUE_LOADS>, thread: u32) {
    #unroll if MATRICES_WRITTEN_OUT
    for (var u = 0u; u < VALUE_LOADS; u++) {
        let e = thread + u * THREADS;
        if (VALUES_EVEN || e < ROWS * VALUE_EIGHTS) {
            put_eight(e / VALUE_EIGHTS * VALUE_PITCH + e % VALUE_EIGHTS * 2u, loaded[u], 1.0);
        }
    }
}

// Halves of a part of the state.
fn state_words(part: MatrixC) -> RightWords {
    var own = elements_of(part);
    var words: RightWords;
    #unroll if MATRICES_WRITTEN_OUT
    for (var w = 0u; w < ELEMENTS / 2u; w++) {
        words[w] = pack2x16float(vec2<f32>(own[2u * w], own[2u * w + 1u]));
    }
    return words;
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(subgroup_id) subgroup: u32,
        @builtin(subgroup_size) subgroup_size: u32, @builtin(subgroup_invocation_id) lane: u32) {
    // Neighbours by this number are neighbours in a subgroup, which by the invocation index they need not be.
    let thread = subgroup * subgroup_size + lane;
    let strip = subgroup % STRIPS;
    let span = span_of(workgroup.z, workgroup.x);
    let count = span.end - span.start;
    let batch = select(workgroup.z, 0u, DOCUMENTS);
    head = params.first_head + workgroup.y;
    let kv = head / params.group - params.first_head / params.group;
    kv_head = kv;
    let q_from = params.q_base + batch * params.q_batch + workgroup.y * params.q_head;
    let k_from = params.k_base + batch * params.k_batch + kv * params.k_head;
    let v_from = params.v_base + batch * params.v_batch + kv * params.v_head;
    let o_from = params.o_base + batch * params.o_batch + workgroup.y * params.o_head;
    clear_outside(span, o_from, 0u, VALUE_VECS, thread);
    // A loop in place of a branch: naga takes what is behind a return for control flow that invocations part in.
    for (var any = count > 0u; any; any = false) {
        let last = span.end - 1u;
        var q_held = load_q(q_from, span.start, last, thread);
        var k_held = load_k(k_from, span.start, last, thread);
        begin_decay(batch, workgroup.y);
        fill_places(thread);
        // Sᵀ before the segment. A segment that has tokens is a sequence's, so that there is one.
        let state_from = params.in_base + select(span.sequence, 0u, DOCUMENTS) * params.in_sequence + workgroup.y * params.in_head
            + span.slot * params.in_segment;
        var state: array<MatrixC, STATES>;
        #unroll if MATRICES_WRITTEN_OUT
        for (var b = 0u; b < STRIP_BLOCKS; b++) {
            #unroll if MATRICES_WRITTEN_OUT
            for (var d = 0u; d < HEAD_BLOCKS; d++) {
                let at = (state_from + d * EDGE * VALUE_DIM) / 4u + (strip * STRIP_BLOCKS + b) * EDGE_WORDS;
                state[b * HEAD_BLOCKS + d] = coopLoad<MatrixC>(&state_in[at], VALUE_DIM / 4u);
            }
        }
        // What it is multiplied by, and what that was in the middle.
        var power = 1.0;
        var settled = 1.0;
        var care = THE_STATE;
        var again = false;
        var mishaps = 0u;
        workgroupBarrier();

        // What does not change from chunk to chunk: decays of this invocation's elements of weights, of its rows of O, and of its columns
        // of vᵀ, which are tokens.
        var own_rows = element_rows();
        var own_columns = element_columns();
        var between: array<Elements, PAIRS_EACH>;
        var powers: array<f32, PAIRS_EACH>;
        #unroll if MATRICES_WRITTEN_OUT
        for (var n = 0u; n < PAIRS_EACH; n++) {
            let pair = pair_of(strip + n * STRIPS);
            powers[n] = 1.0;
            #unroll if MATRICES_WRITTEN_OUT
            for (var e = 0u; e < ELEMENTS; e++) {
                let steps = f32(pair.row * EDGE) - f32(pair.column * EDGE) + own_rows[e] - own_columns[e];
                between[n][e] = select(0.0, decay_over(vec4<f32>(steps)).x, steps >= 0.0);
            }
        }
        var from_start: array<f32, ROW_BLOCKS * CLASSES>;
        #unroll if MATRICES_WRITTEN_OUT
        for (var r = 0u; r < ROW_BLOCKS; r++) {
            #unroll if MATRICES_WRITTEN_OUT
            for (var c = 0u; c < CLASSES; c++) {
                from_start[r * CLASSES + c] = params.scale * decay_from_start(r * EDGE + u32(own_rows[c * RUN]));
            }
        }
        var to_end: array<f32, ROW_BLOCKS * COLUMNS_EACH>;
        #unroll if MATRICES_WRITTEN_OUT
        for (var j = 0u; j < ROW_BLOCKS; j++) {
            #unroll if MATRICES_WRITTEN_OUT
            for (var c = 0u; c < COLUMNS_EACH; c++) {
                let column = own_columns[c / RIGHT_RUN * RIGHT_RUN * COLUMNS + c % RIGHT_RUN];
                to_end[j * COLUMNS_EACH + c] = decay_to_end(j * EDGE + u32(column), ROWS, 0u).x;
            }
        }
        let change = exp_of(chunk_decay(ROWS, 0u).x);
        let growth = 1.0 / change;
        // What is left of the state is too little to take a chunk again with it.
        if (change < 1e-18) {
            care = VALUES;
            mishaps = MOST_MISHAPS + 1u;
        }

        for (var p0 = 0u; p0 < count;) {
            for (var look = care != NOTHING; look; look = false) {
                var top = 0.0;
                #unroll if MATRICES_WRITTEN_OUT
                for (var s = 0u; s < STATES; s++) {
                    var own = elements_of(state[s]);
                    #unroll if MATRICES_WRITTEN_OUT
                    for (var e = 0u; e < ELEMENTS; e++) {
                        top = max(top, abs(own[e]));
                    }
                }
                top = subgroup_top(top, LANES);
                let near = power_to(MIDDLE, top);
                let by = near * power_to(MIDDLE, top * near);
                #unroll if MATRICES_WRITTEN_OUT
                for (var s = 0u; s < STATES; s++) {
                    state[s] = state[s] * by;
                }
                power = select(power * by, FIRST_POWER, top == 0.0);
            }
            if (thread == 0u) {
                atomicStore(&no_room[0], 0u);
            }
            let v_held = load_v(v_from, span.start + p0, last, thread);
            store_rows(q_held, 0u, thread);
            store_rows(k_held, K_AT, thread);
            // In place of those of the chunk behind it, which are the same invocations'.
            for (var anew = again; anew; anew = false) {
                store_rows(load_q(q_from, span.start + p0, last, thread), 0u, thread);
                store_rows(load_k(k_from, span.start + p0, last, thread), K_AT, thread);
            }
            workgroupBarrier();

            // Weights.
            #unroll if MATRICES_WRITTEN_OUT
            for (var n = 0u; n < PAIRS_EACH; n++) {
                let number = strip + n * STRIPS;
                // A loop in place of a branch, as above.
                for (var own = PAIRS % STRIPS == 0u || subgroupAny(number < PAIRS); own; own = false) {
                    let pair = pair_of(number);
                    var scores = MatrixC();
                    #unroll if MATRICES_WRITTEN_OUT
                    for (var d = 0u; d < HEAD_BLOCKS; d++) {
                        let queries = coopLoadT<MatrixA>(&factors[(pair.row * EDGE * HEAD_PITCH + d * EDGE_WORDS) * WORD], HEAD_PITCH * WORD);
                        let keys = coopLoad<MatrixB>(&factors[(K_AT + pair.column * EDGE * HEAD_PITCH + d * EDGE_WORDS) * WORD], HEAD_PITCH * WORD);
                        scores = coopMultiplyAdd(queries, keys, scores);
                    }
                    var weights = elements_of(scores);
                    var top = 0.0;
                    #unroll if MATRICES_WRITTEN_OUT
                    for (var e = 0u; e < ELEMENTS; e++) {
                        // What a row does not see may be anything, infinite too.
                        weights[e] = select(0.0, weights[e] * between[n][e], between[n][e] > 0.0);
                        top = max(top, abs(weights[e]));
                    }
                    powers[n] = power_near(powers[n], top);
                    #unroll if MATRICES_WRITTEN_OUT
                    for (var e = 0u; e < ELEMENTS; e++) {
                        weights[e] *= powers[n];
                    }
                    coopStoreT(factors_of(weights), &factors[(WEIGHTS_AT + number * EDGE * WEIGHT_PITCH) * WORD], WEIGHT_PITCH * WORD);
                    if (lane == 0u) {
                        units[number] = params.scale / powers[n];
                    }
                }
            }

            // What the state contributes.
            var o: array<MatrixC, OUTPUTS>;
            #unroll if MATRICES_WRITTEN_OUT
            for (var e = 0u; e < OUTPUTS; e++) {
                o[e] = MatrixC();
            }
            #unroll if MATRICES_WRITTEN_OUT
            for (var d = 0u; d < HEAD_BLOCKS; d++) {
                var channels: array<MatrixB, STRIP_BLOCKS>;
                #unroll if MATRICES_WRITTEN_OUT
                for (var b = 0u; b < STRIP_BLOCKS; b++) {
                    channels[b] = right_of(state_words(state[b * HEAD_BLOCKS + d]));
                }
                #unroll if MATRICES_WRITTEN_OUT
                for (var r = 0u; r < ROW_BLOCKS; r++) {
                    let queries = coopLoadT<MatrixA>(&factors[(r * EDGE * HEAD_PITCH + d * EDGE_WORDS) * WORD], HEAD_PITCH * WORD);
                    #unroll if MATRICES_WRITTEN_OUT
                    for (var b = 0u; b < STRIP_BLOCKS; b++) {
                        o[r * STRIP_BLOCKS + b] = coopMultiplyAdd(queries, channels[b], o[r * STRIP_BLOCKS + b]);
                    }
                }
            }
            // Whether f16 had room for it.
            var finite = true;
            #unroll if MATRICES_WRITTEN_OUT
            for (var b = 0u; b < STRIP_BLOCKS; b++) {
                var own = elements_of(o[b]);
                #unroll if MATRICES_WRITTEN_OUT
                for (var e = 0u; e < ELEMENTS; e++) {
                    if (e / RUN % CLASSES == 0u) {
                        finite = finite & (abs(own[e]) < 3e38);
                    }
                }
            }
            var some = 0.0;
            #unroll if MATRICES_WRITTEN_OUT
            for (var s = 0u; s < STATES; s++) {
                var own = elements_of(state[s]);
                some = max(some, abs(own[s % ELEMENTS]));
            }
            if (!subgroupAny(some >= LEAST_OF_STATE) || !subgroupAll(finite)) {
                atomicOr(&no_room[0], THE_STATE);
            }
            workgroupBarrier();

            // The state decays.
            let unit = 1.0 / power;
            let grown = power * growth;
            settled = select(settled, power, care != NOTHING);
            settled = clamp(settled, LEAST_POWER, MOST_POWER);
            var next_power = select(settled, grown, grown <= min(settled * MOST_GROWTH, MOST_POWER));
            next_power = select(select(next_power, settled, care == THE_STATE), 0.5, care == VALUES);
            let by = change * (next_power / power);
            for (var falls = next_power != grown; falls; falls = false) {
                #unroll if MATRICES_WRITTEN_OUT
                for (var s = 0u; s < STATES; s++) {
                    state[s] = state[s] * by;
                }
            }
            power = next_power;

            // v, where q was.
            store_v(v_held, thread);
            var magnitudes = 0u;
            #unroll if MATRICES_WRITTEN_OUT
            for (var u = 0u; u < VALUE_LOADS; u++) {
                #unroll if MATRICES_WRITTEN_OUT
                for (var w = 0u; w < 4u; w++) {
                    magnitudes = magnitudes_plus(v_held[u][w], magnitudes);
                }
            }
            let bounds = unpack2x16float(magnitudes);
            // Where they lie depends on v, though it makes no difference, sums of magnitudes never being negative: a driver that has their
            // loads before v is stored holds up the store, which all wait for.
            let next = span.start + p0 + ROWS + select(0u, 1u, max(bounds.x, bounds.y) < 0.0);
            q_held = load_q(q_from, next, last, thread);
            k_held = load_k(k_from, next, last, thread);
            // Each by itself: of a number and of what is none the maximum may be the number.
            if (!((bounds.x <= USUAL_VALUES) & (bounds.y <= USUAL_VALUES))) {
                atomicOr(&no_room[0], VALUES);
            }
            workgroupBarrier();

            // Whether there was room for all that no care was taken of.
            let found = subgroupBroadcastFirst(atomicLoad(&no_room[0]));
            again = care < VALUES && (found >> care) != 0u;
            mishaps += u32(again);
            care = select(NOTHING, select(THE_STATE, VALUES, found >= VALUES), again);
            care = select(care, VALUES, mishaps > MOST_MISHAPS);
            if (again) {
                // The state is the one before the chunk; what it is multiplied by is another.
                power *= change;
            }
            let chunk = p0;
            p0 += select(ROWS, 0u, again);
            for (var goes_on = !again; goes_on; goes_on = false) {
                var values: array<MatrixB, OUTPUTS>;
                var turned: array<MatrixA, OUTPUTS>;
                #unroll if MATRICES_WRITTEN_OUT
                for (var j = 0u; j < ROW_BLOCKS; j++) {
                    var decays: Elements;
                    #unroll if MATRICES_WRITTEN_OUT
                    for (var e = 0u; e < ELEMENTS; e++) {
                        decays[e] = power * to_end[j * COLUMNS_EACH + e / (RIGHT_RUN * COLUMNS) * RIGHT_RUN + e % RIGHT_RUN];
                    }
                    let all = factors_of(decays);
                    #unroll if MATRICES_WRITTEN_OUT
                    for (var b = 0u; b < STRIP_BLOCKS; b++) {
                        let at = j * EDGE * VALUE_PITCH + strip * STRIP_WORDS + b * EDGE_WORDS;
                        values[j * STRIP_BLOCKS + b] = coopLoadT<MatrixB>(&factors[at * WORD], VALUE_PITCH * WORD);
                        turned[j * STRIP_BLOCKS + b] = factors_times(turned_over(values[j * STRIP_BLOCKS + b]), all);
                    }
                }

                // The chunk's tokens, to the state.
                #unroll if MATRICES_WRITTEN_OUT
                for (var j = 0u; j < ROW_BLOCKS; j++) {
                    #unroll if MATRICES_WRITTEN_OUT
                    for (var d = 0u; d < HEAD_BLOCKS; d++) {
                        let keys = coopLoadT<MatrixB>(&factors[(K_AT + j * EDGE * HEAD_PITCH + d * EDGE_WORDS) * WORD], HEAD_PITCH * WORD);
                        #unroll if MATRICES_WRITTEN_OUT
                        for (var b = 0u; b < STRIP_BLOCKS; b++) {
                            state[b * HEAD_BLOCKS + d] = coopMultiplyAdd(turned[j * STRIP_BLOCKS + b], keys, state[b * HEAD_BLOCKS + d]);
                        }
                    }
                }

                // And the chunk's own tokens. The strip's columns of v make room for those of o of f16.
                strip_barrier();
                #unroll if MATRICES_WRITTEN_OUT
                for (var r = 0u; r < ROW_BLOCKS; r++) {
                    var weights: array<MatrixA, ROW_BLOCKS>;
                    #unroll if MATRICES_WRITTEN_OUT
                    for (var j = 0u; j < r + 1u; j++) {
                        let number = r * (r + 1u) / 2u + j;
                        weights[j] = coopLoadT<MatrixA>(&factors[(WEIGHTS_AT + number * EDGE * WEIGHT_PITCH) * WORD], WEIGHT_PITCH * WORD);
                    }
                    #unroll if MATRICES_WRITTEN_OUT
                    for (var b = 0u; b < STRIP_BLOCKS; b++) {
                        var block = elements_of(o[r * STRIP_BLOCKS + b]);
                        #unroll if MATRICES_WRITTEN_OUT
                        for (var e = 0u; e < ELEMENTS; e++) {
                            block[e] *= from_start[r * CLASSES + e / RUN % CLASSES] * unit;
                        }
                        #unroll if MATRICES_WRITTEN_OUT
                        for (var j = 0u; j < r + 1u; j++) {
                            var added = elements_of(coopMultiplyAdd(weights[j], values[j * STRIP_BLOCKS + b], MatrixC()));
                            let unit = units[r * (r + 1u) / 2u + j];
                            #unroll if MATRICES_WRITTEN_OUT
                            for (var e = 0u; e < ELEMENTS; e++) {
                                block[e] = fma(added[e], unit, block[e]);
                            }
                        }
                        put_output(sums_of(block), strip, r, b);
                        if (!WHOLE_ROWS) {
                            strip_barrier();
                            store_block(o_from, span.start + chunk, count - chunk, strip, r, b, lane);
                            strip_barrier();
                        }
                    }
                }
                if (WHOLE_ROWS) {
                    workgroupBarrier();
                    store_rows_of(o_from, span.start + chunk, count - chunk, thread);
                }
            }
            workgroupBarrier();
        }
    }
}

// A power of two for what a subgroup has that is at most `top` in this invocation: the one so far, where f16 has room for it and does
// not lose much (as `leaves_halves`, told by votes). Of 0 it is 1.
fn power_near(power: f32, top: f32) -> f32 {
    let scaled = top * power;
    if (subgroupAny(scaled > MOST_OF_HALVES) || !subgroupAny(scaled >= LEAST_OF_HALVES)) {
        return power_for(subgroup_top(top, LANES));
    }
    return power;
}
