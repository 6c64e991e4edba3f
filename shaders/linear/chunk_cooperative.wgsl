// Linear attention over a sequence, or a segment of one, on cooperative matrices: the algorithm of `linear/chunk.wgsl`, where
// all tokens and channels of a head decay alike. Products run on matrices of EDGE × EDGE, factors f16, sums f32.
//
//   O = 2^(b−a) (e^{G_i} φ(q_i))ᵀ (2^a S) + Σ_{j≤i} (2^b w_ij) v_j,   w_ij = e^{G_i − G_j} φ(q_i)·φ(k_j)
//   S ← e^{G_m} S + Σ_j (e^{G_m − G_j} φ(k_j)) v_jᵀ
//   o_i = 2^−b scale · O_i,   normalised divided by scale · (φ(q_i)·(…) + Σ_j w_ij) + ε
//
// One workgroup owns COLUMNS columns of a head's state, which stay in matrices from the first chunk of ROWS tokens to the
// last. As a factor it is rounded to f16, through workgroup memory; so are the weights w.
//
// Range. f16 ends at 65504 and loses bits below 6e-5, and neither states nor weights keep to that: a state without decay
// grows with the sequence. a and b are whole numbers for each chunk, so that bounds of |S| and |w| come to about 2^15:
//   |w_ij| ≤ D · max|φ(q)| · max|φ(k)|         of the chunk
//   |S|    ≤ M,   M ← e^{G_m} M + m · max|φ(k)| · max|v|, at first the largest element of the initial state
// That uses some of f16's 30 powers of two for what bounds are larger than values: half of log2(N) for a state of random
// signs. Rounding is relative, so that down to 2^−29 of the bound elements keep their 11 bits. Weights of decays alone need
// no scale: what is too small for f16 is added to much larger ones.
//
// Strips. SHARES subgroups own a strip of rows together: of O STRIP_ROWS tokens, of S STATE_BLOCKS·EDGE channels; each has
// a share of the columns. Of φ(q)·φ(k) a share takes every KEY_SHARES-th block of keys. The workgroup is made for the
// largest subgroups that the device may use; if they turn out smaller, those left over do what others do already.
//
// Workgroup memory, rows and pitches (in words of four elements); what stands in one line takes turns with what is below it:
//   factors, f16   φ(q) [ROWS][HEAD_PITCH]
//                  S [HEAD_ROWS][VALUE_PITCH]
//                  φ(k) [ROWS][HEAD_PITCH], v [ROWS][VALUE_PITCH], weights [ROWS][W_PITCH]
//   sums, f32      φ(q)·φ(k) [ROWS][S_PITCH]
//                  matrices on their way between subgroups and storage or `factors`, STAGED of each subgroup
// Pitches are 16 bytes longer than the rows, so that eight rows of a matrix fall into different banks.
//
// Tokens outside every document give 0.
#import linear/params
#import shared/output
#import linear/span
#import linear/features
#import linear/expm1
#import linear/cooperative_tokens
#import linear/cooperative_state
#import linear/cooperative_weights

// Bits of the largest magnitudes, which are in the order of the numbers.
const OF_QUERIES = 0u;
const OF_KEYS = 1u;
const OF_VALUES = 2u;
const OF_STATE = 3u;
var<workgroup> largest: array<atomic<u32>, 4>;
// The invocation in its subgroup.
var<private> subgroup_lane: u32;
// z, and what a row's sums are multiplied by, for outputs that are normalised.
var<workgroup> normalizer: array<vec4<f32>, select(1u, HEAD_QUADS, NORMALIZE)>;
var<workgroup> row_factors: array<f32, select(1u, ROWS, NORMALIZE)>;

// The power of two that takes a bound to between 2^14 and 2^15.
fn power_for(bound: f32) -> f32 {
    if (bound > 0.0 && bound < 3e38) {
        return ldexp(1.0, i32(clamp(14.0 - floor(log2(bound)), -60.0, 60.0)));
    }
    return 1.0;
}

fn note_largest(kind: u32, four: vec4<f32>) {
    let top = subgroupMax(max(max(four.x, four.y), max(four.z, four.w)));
    if (subgroup_lane == 0u) {
        atomicMax(&largest[kind], bitcast<u32>(top));
    }
}

fn largest_of(kind: u32) -> f32 {
    return bitcast<f32>(atomicLoad(&largest[kind]));
}

// Rows that belong to no sequence.
fn clear(from_token: u32, to_token: u32, base: u32, first_vec: u32, thread: u32) {
    for (var w = from_token * VALUE_WORDS + thread; w < to_token * VALUE_WORDS; w += THREADS) {
        let vec = first_vec + w % VALUE_WORDS;
        if (vec < VALUE_VECS_ALL) {
            store_o4(base + (w / VALUE_WORDS) * params.o_seq + vec * 4u, vec4<f32>(), VALUE_DIM - vec * 4u);
        }
    }
}

// O += A·B, A of `blocks` blocks beside one another from `a_matrices` on, B of as many below one another from `b_matrices` on.
fn add_product(o: ptr<function, array<MatrixC, OUTPUTS>>, a_matrices: u32, a_pitch: u32, b_matrices: u32, blocks: u32) {
    for (var d = 0u; d < blocks; d++) {
        var a: array<MatrixA, ROW_BLOCKS>;
        #unroll if MATRICES_WRITTEN_OUT
        for (var r = 0u; r < ROW_BLOCKS; r++) {
            a[r] = coopLoadT<MatrixA>(&factors[(a_matrices + (r * EDGE * a_pitch + d * EDGE_WORDS)) * WORD], a_pitch * WORD);
        }
        #unroll if MATRICES_WRITTEN_OUT
        for (var n = 0u; n < VALUE_BLOCKS; n++) {
            let b = coopLoadT<MatrixB>(&factors[(b_matrices + (d * EDGE * VALUE_PITCH + n * EDGE_WORDS)) * WORD], VALUE_PITCH * WORD);
            #unroll if MATRICES_WRITTEN_OUT
            for (var r = 0u; r < ROW_BLOCKS; r++) {
                (*o)[r * VALUE_BLOCKS + n] = coopMultiplyAdd(a[r], b, (*o)[r * VALUE_BLOCKS + n]);
            }
        }
    }
}

// S += φ(k)ᵀ V, of the decayed keys in `factors`.
fn add_tokens(state: ptr<function, array<MatrixC, STATES>>, strip: u32, share: u32) {
    let k_matrices = K_AT + strip * STATE_BLOCKS * EDGE_WORDS;
    let v_matrices = V_AT + share * VALUE_BLOCKS * EDGE_WORDS;
    for (var j = 0u; j < KEY_BLOCKS; j++) {
        var values: array<MatrixB, VALUE_BLOCKS>;
        #unroll if MATRICES_WRITTEN_OUT
        for (var n = 0u; n < VALUE_BLOCKS; n++) {
            values[n] = coopLoadT<MatrixB>(&factors[(v_matrices + (j * EDGE * VALUE_PITCH + n * EDGE_WORDS)) * WORD], VALUE_PITCH * WORD);
        }
        #unroll if MATRICES_WRITTEN_OUT
        for (var m = 0u; m < STATE_BLOCKS; m++) {
            let keys = coopLoad<MatrixA>(&factors[(k_matrices + (j * EDGE * HEAD_PITCH + m * EDGE_WORDS)) * WORD], HEAD_PITCH * WORD);
            #unroll if MATRICES_WRITTEN_OUT
            for (var n = 0u; n < VALUE_BLOCKS; n++) {
                (*state)[m * VALUE_BLOCKS + n] = coopMultiplyAdd(keys, values[n], (*state)[m * VALUE_BLOCKS + n]);
            }
        }
    }
}

// The chunk's output, OUTPUTS_STAGED matrices of each subgroup at a time.
fn store_output(o: ptr<function, array<MatrixC, OUTPUTS>>, factor: f32, base: u32, count: u32, first_vec: u32, subgroup: u32, thread: u32) {
    #unroll if MATRICES_WRITTEN_OUT
    for (var round = 0u; round < OUTPUTS / OUTPUTS_STAGED; round++) {
        #unroll if MATRICES_WRITTEN_OUT
        for (var x = 0u; x < OUTPUTS_STAGED; x++) {
            coopStoreT((*o)[round * OUTPUTS_STAGED + x], &sums[((subgroup * OUTPUTS_STAGED + x) * MATRIX) * WORD], MATRIX_PITCH * WORD);
        }
        workgroupBarrier();
        for (var w = thread; w < SUBGROUPS * OUTPUTS_STAGED * MATRIX_WORDS; w += THREADS) {
            let place = place_of(w, round, OUTPUTS_STAGED, ROW_BLOCKS);
            let vec = first_vec + place.word;
            if (place.row < count && vec < VALUE_VECS_ALL) {
                let four = get_sums(place.at) * (factor * row_factor(place.row));
                store_o4(base + place.row * params.o_seq + vec * 4u, four, VALUE_DIM - vec * 4u);
            }
        }
        workgroupBarrier();
    }
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(subgroup_id) subgroup_id: u32,
        @builtin(subgroup_size) subgroup_size: u32, @builtin(subgroup_invocation_id) lane: u32) {
    // Neighbours by this number are neighbours in a subgroup, which by the invocation index they need not be.
    let thread = subgroup_id * subgroup_size + lane;
    subgroup_lane = lane;
    let subgroup = subgroup_id % SUBGROUPS;
    let strip = subgroup / SHARES;
    let share = subgroup % SHARES;
    let value_matrices = share * VALUE_BLOCKS * EDGE_WORDS;
    const TILES = (VALUE_VECS_ALL + VALUE_WORDS - 1u) / VALUE_WORDS;
    let first_vec = (workgroup.x % TILES) * VALUE_WORDS;
    let span = span_of(workgroup.z, workgroup.x / TILES);
    let batch = select(workgroup.z, 0u, DOCUMENTS);
    let head = params.first_head + workgroup.y;
    let kv = head / params.group - params.first_head / params.group;
    let q_from = params.q_base + batch * params.q_batch + workgroup.y * params.q_head;
    let k_from = params.k_base + batch * params.k_batch + kv * params.k_head;
    let v_from = params.v_base + batch * params.v_batch + kv * params.v_head;
    let o_from = params.o_base + batch * params.o_batch + workgroup.y * params.o_head;

    if (DOCUMENTS) {
        if (span.sequence == 0u && span.slot == span.first) {
            clear(0u, span.start, o_from, first_vec, thread);
        }
        let end = max(document_start(params.documents), span.end);
        if (span.sequence + 1u == params.documents && (!SPLIT || span.end == end)) {
            clear(end, params.tokens, o_from, first_vec, thread);
        }
    }

    begin_decay(batch, workgroup.y);
    if (thread < 4u) {
        atomicStore(&largest[thread], 0u);
    }
    workgroupBarrier();
    // Non-causal, every segment meets the whole sequence's state, which lies where its first segment's would.
    let slot = select(span.first, span.slot, CAUSAL);
    let in_from = params.in_base + select(span.sequence, 0u, SPLIT && DOCUMENTS) * params.in_sequence
        + workgroup.y * params.in_head + select(0u, slot * params.in_segment, SPLIT);
    let known = !DOCUMENTS || span.sequence < params.documents;
    var state: array<MatrixC, STATES>;
    load_state(&state, in_from, known, first_vec, subgroup, thread);
    load_normalizer(in_from, known, thread);
    workgroupBarrier();
    var state_bound = largest_of(OF_STATE);
    if (!CAUSAL) {
        state_to_factors(&state, power_for(state_bound), subgroup, thread);
    }

    var queries: array<vec4<f16>, TOKEN_LOADS>;
    var keys: array<vec4<f16>, TOKEN_LOADS>;
    var values: array<vec4<f16>, VALUE_LOADS>;
    if (span.start < span.end) {
        let count = min(ROWS, span.end - span.start);
        queries = load_queries(q_from, head, span.start, count, thread);
        if (CAUSAL) {
            keys = load_keys(k_from, kv, span.start, count, thread);
            values = load_values(v_from, span.start, count, first_vec, thread);
        }
    }
    for (var t0 = span.start; t0 < span.end; t0 += ROWS) {
        let count = min(ROWS, span.end - t0);
        let next = min(t0 + ROWS, span.end - 1u);
        let next_count = min(ROWS, span.end - next);

        // What the state contributes.
        let state_power = power_for(state_bound);
        store_queries(queries, DECAYS, thread);
        if (CAUSAL) {
            note_chunk(queries, keys, values);
            state_to_factors(&state, state_power, subgroup, thread);
        } else {
            queries = load_queries(q_from, head, next, next_count, thread);
            workgroupBarrier();
            weigh(1.0, thread);
        }
        var o: array<MatrixC, OUTPUTS>;
        #unroll if MATRICES_WRITTEN_OUT
        for (var e = 0u; e < OUTPUTS; e++) {
            o[e] = MatrixC();
        }
        add_product(&o, strip * STRIP_ROWS * HEAD_PITCH, HEAD_PITCH, STATE_AT + value_matrices, HEAD_BLOCKS);
        var power = state_power;
        if (CAUSAL) {
            workgroupBarrier();
            if (DECAYS) {
                store_queries(queries, false, thread);
            }
            store_keys(keys, false, count, thread);
            workgroupBarrier();

            // What the chunk contributes.
            let top_key = largest_of(OF_KEYS);
            power = power_for(f32(HEAD_DIM) * largest_of(OF_QUERIES) * top_key);
            let change = 1.0 + expm1(chunk_decay(count, 0u)).x;
            state_bound = fma(state_bound, change, f32(count) * top_key * largest_of(OF_VALUES));
            score(strip, share);
            workgroupBarrier();
            if (thread < OF_STATE) {
                atomicStore(&largest[thread], 0u);
            }
            weigh(power, thread);
            store_keys(keys, true, count, thread);
            store_values(values, thread);
            queries = load_queries(q_from, head, next, next_count, thread);
            keys = load_keys(k_from, kv, next, next_count, thread);
            values = load_values(v_from, next, next_count, first_vec, thread);
            workgroupBarrier();
            #unroll if MATRICES_WRITTEN_OUT
            for (var e = 0u; e < OUTPUTS; e++) {
                o[e] = o[e] * (power / state_power);
            }
            add_product(&o, W_AT + strip * STRIP_ROWS * W_PITCH, W_PITCH, V_AT + value_matrices, KEY_BLOCKS);

            if (DECAYS) {
                #unroll if MATRICES_WRITTEN_OUT
                for (var e = 0u; e < STATES; e++) {
                    state[e] = state[e] * change;
                }
            }
            add_tokens(&state, strip, share);
            update_normalizer(count, thread);
        }
        store_output(&o, 1.0 / power, o_from + t0 * params.o_seq, count, first_vec, subgroup, thread);
    }

    if (WRITES_STATE) {
        let out_from = params.out_base + span.sequence * params.out_sequence + workgroup.y * params.out_head;
        store_state(&state, out_from, first_vec, subgroup, thread);
        if (first_vec == 0u) {
            store_normalizer(out_from, thread);
        }
    }
}
