// A state in cooperative matrices to storage, where D and Dv are multiples of EDGE: each matrix as it is.
#import linear/cooperative_tile

fn store_matrices(state: ptr<function, array<MatrixC, STATES>>, base: u32, first_vec: u32, subgroup: u32, thread: u32) {
    let row = (subgroup / SHARES) * STATE_BLOCKS * EDGE;
    let vec = first_vec + (subgroup % SHARES) * VALUE_BLOCKS * EDGE_WORDS;
    #unroll if MATRICES_WRITTEN_OUT
    for (var m = 0u; m < STATE_BLOCKS; m++) {
        #unroll if MATRICES_WRITTEN_OUT
        for (var n = 0u; n < VALUE_BLOCKS; n++) {
            // Loops in place of branches: matrices are worked on in control flow that is the same for a whole subgroup.
            for (var own = subgroupAny(row + m * EDGE < HEAD_DIM && vec + n * EDGE_WORDS < VALUE_VECS_ALL); own; own = false) {
                let at = (base + (row + m * EDGE) * VALUE_DIM) / 4u + vec + n * EDGE_WORDS;
                coopStoreT((*state)[m * VALUE_BLOCKS + n], &state_out[at], VALUE_DIM / 4u);
            }
        }
    }
}
