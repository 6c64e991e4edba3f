// A state in cooperative matrices: tokens added to it, its way to storage, and the normaliser z. Keys are in `factors` from K_AT
// on, values from V_AT on.
#import linear/cooperative_tile
#import linear/normalizer

// A word of the matrices that pass through `sums`, `staged` of each subgroup in a round: its place there, and its row and
// word of all of S or O, of which a strip has `blocks` blocks of rows.
struct Place {
    at: u32,
    row: u32,
    word: u32,
}

fn place_of(w: u32, round: u32, staged: u32, blocks: u32) -> Place {
    let matrix = w / MATRIX_WORDS;
    let row = w % MATRIX_WORDS / EDGE_WORDS;
    let word = w % EDGE_WORDS;
    let e = round * staged + matrix % staged;
    let owner = matrix / staged;
    return Place(
        matrix * MATRIX + row * MATRIX_PITCH + word,
        ((owner / SHARES) * blocks + e / VALUE_BLOCKS) * EDGE + row,
        ((owner % SHARES) * VALUE_BLOCKS + e % VALUE_BLOCKS) * EDGE_WORDS + word,
    );
}

// A round of the state's matrices to `sums`.
fn stage_state(state: ptr<function, array<MatrixC, STATES>>, round: u32, subgroup: u32) {
    #unroll if MATRICES_WRITTEN_OUT
    for (var x = 0u; x < STATES_STAGED; x++) {
        coopStoreT((*state)[round * STATES_STAGED + x], &sums[((subgroup * STATES_STAGED + x) * MATRIX) * WORD], MATRIX_PITCH * WORD);
    }
}

fn store_state(state: ptr<function, array<MatrixC, STATES>>, base: u32, first_vec: u32, subgroup: u32, thread: u32) {
    #unroll if MATRICES_WRITTEN_OUT
    for (var round = 0u; round < STATES / STATES_STAGED; round++) {
        stage_state(state, round, subgroup);
        workgroupBarrier();
        for (var w = thread; w < SUBGROUPS * STATES_STAGED * MATRIX_WORDS; w += THREADS) {
            let place = place_of(w, round, STATES_STAGED, STATE_BLOCKS);
            let vec = first_vec + place.word;
            if (place.row < HEAD_DIM && vec < VALUE_VECS_ALL) {
                store_state4(base + place.row * VALUE_DIM + vec * 4u, get_sums(place.at), VALUE_DIM - vec * 4u);
            }
        }
        workgroupBarrier();
    }
}

// z ← e^{G_m} z + Σ_j e^{G_m − G_j} φ(k_j), of the decayed keys in `factors`.
fn update_normalizer(count: u32, thread: u32) {
    if (NORMALIZE) {
        for (var vec = thread; vec < HEAD_QUADS; vec += THREADS) {
            var z = normalizer[vec];
            z = fma(z, expm1(chunk_decay(count, vec)), z);
            for (var t = 0u; t < ROWS; t++) {
                z += vec4<f32>(get_factors(K_AT + t * HEAD_PITCH + vec));
            }
            normalizer[vec] = z;
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
