// A state in cooperative matrices to storage, of any sizes: through workgroup memory.
#import linear/cooperative_state

fn store_matrices(state: ptr<function, array<MatrixC, STATES>>, base: u32, first_vec: u32, subgroup: u32, thread: u32) {
    store_state(state, base, first_vec, subgroup, thread);
}
