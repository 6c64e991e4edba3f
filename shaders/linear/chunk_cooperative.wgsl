// Causal linear attention in one pass over a sequence on cooperative matrices: the algorithm of `linear/chunk.wgsl`, where all
// tokens and channels of a head decay alike. Products run on matrices of EDGE × EDGE, factors f16, sums f32.
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
#import linear/tokens_fours
#import linear/cooperative_state
#import linear/cooperative_weights
#import linear/outside
#import shared/subgroup_top

// Matrices of the output that a subgroup has.
const OUTPUTS = ROW_BLOCKS * VALUE_BLOCKS;

const W_PITCH = ROWS / 4u + 2u;
const S_PITCH = ROWS / 4u + 1u;
const STATE_AT = ROWS * HEAD_PITCH;
const K_AT = STATE_AT;
const V_AT = K_AT + ROWS * HEAD_PITCH;
const W_AT = V_AT + ROWS * VALUE_PITCH;
const FACTORS = max(STATE_AT + HEAD_ROWS * VALUE_PITCH, W_AT + ROWS * W_PITCH);
const SUMS = max(SUBGROUPS * max(STATES_STAGED, OUTPUTS_STAGED) * MATRIX, ROWS * S_PITCH);

const_assert OUTPUTS % OUTPUTS_STAGED == 0u;

// Bits of the largest magnitudes, which are in the order of the numbers.
const OF_QUERIES = 0u;
const OF_KEYS = 1u;
const OF_VALUES = 2u;
const OF_STATE = 3u;
var<workgroup> largest: array<atomic<u32>, 4>;
// The invocation in its subgroup, and how many it has.
var<private> subgroup_lane: u32;
var<private> subgroup_lanes: u32;
// What a row's sums are multiplied by, for outputs that are normalised.
var<workgroup> row_factors: array<f32, select(4u, ROWS, NORMALIZE)>;

fn note_largest(kind: u32, four: vec4<f32>) {
    let top = subgroup_top(max(max(four.x, four.y), max(four.z, four.w)), subgroup_lanes);
    if (subgroup_lane == 0u) {
        atomicMax(&largest[kind], bitcast<u32>(top));
    }
}

fn largest_of(kind: u32) -> f32 {
    return bitcast<f32>(atomicLoad(&largest[kind]));
}

// The initial state.
fn load_state(state: ptr<function, array<MatrixC, STATES>>, base: u32, first_vec: u32, subgroup: u32, thread: u32) {
    var top = vec4<f32>();
    #unroll if MATRICES_WRITTEN_OUT
    for (var round = 0u; round < STATES / STATES_STAGED; round++) {
        for (var w = thread; w < SUBGROUPS * STATES_STAGED * MATRIX_WORDS; w += THREADS) {
            let place = place_of(w, round, STATES_STAGED, STATE_BLOCKS);
            let vec = first_vec + place.word;
            var four = vec4<f32>();
            if (place.row < HEAD_DIM && vec < VALUE_VECS_ALL) {
                four = state_in4(base + place.row * VALUE_DIM + vec * 4u, VALUE_DIM - vec * 4u);
            }
            put_sums(place.at, four);
            top = max(top, abs(four));
        }
        workgroupBarrier();
        #unroll if MATRICES_WRITTEN_OUT
        for (var x = 0u; x < STATES_STAGED; x++) {
            (*state)[round * STATES_STAGED + x] = coopLoadT<MatrixC>(&sums[((subgroup * STATES_STAGED + x) * MATRIX) * WORD], MATRIX_PITCH * WORD);
        }
        workgroupBarrier();
    }
    note_largest(OF_STATE, top);
}

// 2^a S to `factors`.
fn state_to_factors(state: ptr<function, array<MatrixC, STATES>>, power: f32, subgroup: u32, thread: u32) {
    #unroll if MATRICES_WRITTEN_OUT
    for (var round = 0u; round < STATES / STATES_STAGED; round++) {
        stage_state(state, round, subgroup);
        workgroupBarrier();
        for (var w = thread; w < SUBGROUPS * STATES_STAGED * MATRIX_WORDS; w += THREADS) {
            let place = place_of(w, round, STATES_STAGED, STATE_BLOCKS);
            put_factors(STATE_AT + place.row * VALUE_PITCH + place.word, vec4<f16>(get_sums(place.at) * power));
        }
        workgroupBarrier();
    }
}

// Rows past the chunk's `count` repeat its last one: they are not written.
fn load_queries(base: u32, head: u32, t0: u32, count: u32, thread: u32) -> array<vec4<f16>, TOKEN_LOADS> {
    var loaded: array<vec4<f16>, TOKEN_LOADS>;
    #unroll if MATRICES_WRITTEN_OUT
    for (var u = 0u; u < TOKEN_LOADS; u++) {
        let w = thread + u * THREADS;
        if (HEAD_WORDS == HEAD_QUADS || w % HEAD_WORDS < HEAD_QUADS) {
            loaded[u] = vec4<f16>(unscaled_feature_q(base, head, t0 + min(w / HEAD_WORDS, count - 1u), w % HEAD_WORDS));
        }
    }
    return loaded;
}

// As they are, or decayed from the chunk's start.
fn store_queries(loaded: array<vec4<f16>, TOKEN_LOADS>, decayed: bool, thread: u32) {
    #unroll if MATRICES_WRITTEN_OUT
    for (var u = 0u; u < TOKEN_LOADS; u++) {
        let w = thread + u * THREADS;
        if (TOKENS_EVEN || w < ROWS * HEAD_WORDS) {
            let row = w / HEAD_WORDS;
            var four = loaded[u];
            if (decayed) {
                four = vec4<f16>(vec4<f32>(four) * decay_from_start(row));
            }
            put_factors(row * HEAD_PITCH + w % HEAD_WORDS, four);
        }
    }
}

// Magnitudes of the chunk, for the bounds.
fn note_chunk(queries: array<vec4<f16>, TOKEN_LOADS>, keys: array<vec4<f16>, TOKEN_LOADS>, values: array<vec4<f16>, VALUE_LOADS>) {
    var top_q = vec4<f16>();
    var top_k = vec4<f16>();
    var top_v = vec4<f16>();
    #unroll if MATRICES_WRITTEN_OUT
    for (var u = 0u; u < TOKEN_LOADS; u++) {
        top_q = max(top_q, abs(queries[u]));
        top_k = max(top_k, abs(keys[u]));
    }
    #unroll if MATRICES_WRITTEN_OUT
    for (var u = 0u; u < VALUE_LOADS; u++) {
        top_v = max(top_v, abs(values[u]));
    }
    note_largest(OF_QUERIES, vec4<f32>(top_q));
    note_largest(OF_KEYS, vec4<f32>(top_k));
    note_largest(OF_VALUES, vec4<f32>(top_v));
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
    subgroup_lanes = subgroup_size;
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

    clear_outside(span, o_from, first_vec, VALUE_WORDS, thread);

    begin_decay(batch, workgroup.y);
    if (thread < 4u) {
        atomicStore(&largest[thread], 0u);
    }
    workgroupBarrier();
    let in_from = params.in_base + span.sequence * params.in_sequence + workgroup.y * params.in_head;
    var state: array<MatrixC, STATES>;
    load_state(&state, in_from, first_vec, subgroup, thread);
    load_normalizer(in_from, true, thread);
    workgroupBarrier();
    var state_bound = largest_of(OF_STATE);

    var queries: array<vec4<f16>, TOKEN_LOADS>;
    var keys: array<vec4<f16>, TOKEN_LOADS>;
    var values: array<vec4<f16>, VALUE_LOADS>;
    if (span.start < span.end) {
        let count = min(ROWS, span.end - span.start);
        queries = load_queries(q_from, head, span.start, count, thread);
        keys = load_keys(k_from, kv, span.start, count, thread);
        values = load_values(v_from, span.start, count, first_vec, thread);
    }
    for (var t0 = span.start; t0 < span.end; t0 += ROWS) {
        let count = min(ROWS, span.end - t0);
        let next = min(t0 + ROWS, span.end - 1u);
        let next_count = min(ROWS, span.end - next);

        // What the state contributes.
        let state_power = power_for(state_bound);
        store_queries(queries, DECAYS, thread);
        note_chunk(queries, keys, values);
        state_to_factors(&state, state_power, subgroup, thread);
        var o: array<MatrixC, OUTPUTS>;
        #unroll if MATRICES_WRITTEN_OUT
        for (var e = 0u; e < OUTPUTS; e++) {
            o[e] = MatrixC();
        }
        add_product(&o, strip * STRIP_ROWS * HEAD_PITCH, HEAD_PITCH, STATE_AT + value_matrices, HEAD_BLOCKS);
        workgroupBarrier();
        if (DECAYS) {
            store_queries(queries, false, thread);
        }
        store_keys(keys, false, count, thread);
        workgroupBarrier();

        // What the chunk contributes.
        let top_key = largest_of(OF_KEYS);
        let power = power_for(f32(HEAD_DIM) * largest_of(OF_QUERIES) * top_key);
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
