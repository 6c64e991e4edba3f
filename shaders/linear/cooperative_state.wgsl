// The state, which cooperative matrices keep, on its way between them, storage and `factors`; and the normaliser z. Workgroup
// memory is that of `linear/chunk_cooperative.wgsl`.
#import linear/cooperative_tile

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

// The initial state, 0 where the workgroup has no sequence.
fn load_state(state: ptr<function, array<MatrixC, STATES>>, base: u32, known: bool, first_vec: u32, subgroup: u32, thread: u32) {
    var top = vec4<f32>();
    #unroll if MATRICES_WRITTEN_OUT
    for (var round = 0u; round < STATES / STATES_STAGED; round++) {
        for (var w = thread; w < SUBGROUPS * STATES_STAGED * MATRIX_WORDS; w += THREADS) {
            let place = place_of(w, round, STATES_STAGED, STATE_BLOCKS);
            let vec = first_vec + place.word;
            var four = vec4<f32>();
            if (known && place.row < HEAD_DIM && vec < VALUE_VECS_ALL) {
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

fn load_normalizer(base: u32, known: bool, thread: u32) {
    if (NORMALIZE) {
        for (var vec = thread; vec < HEAD_QUADS; vec += THREADS) {
            var z = vec4<f32>();
            for (var x = 0u; x < 4u; x++) {
                if (known && vec * 4u + x < HEAD_DIM) {
                    z[x] = state_in1(base + HEAD_DIM * VALUE_DIM + vec * 4u + x);
                }
            }
            normalizer[vec] = z;
        }
    }
}

fn store_normalizer(base: u32, thread: u32) {
    if (NORMALIZE) {
        for (var d = thread; d < HEAD_DIM; d += THREADS) {
            store_state1(base + HEAD_DIM * VALUE_DIM + d, normalizer[d / 4u][d % 4u]);
        }
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
