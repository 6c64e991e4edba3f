// Sampled rows in workgroup memory, which all invocations read at once.
var<workgroup> staged: array<vec4<f32>, ROWS * VECS>;

fn take_rows(tile: Tile, first: u32, thread: u32) {
    // The rows before may still be in use.
    workgroupBarrier();
    for (var n = thread; n < ROWS * VECS; n += THREADS) {
        let x = n % VECS;
        let base = tile.q_from + sampled_row(tile, first + n / VECS) * params.q_seq;
        staged[n] = q4(base + x * 4u, HEAD_DIM - x * 4u);
    }
    workgroupBarrier();
}

// The greatest score of the rows taken and a block's keys.
fn best_score(tile: Tile, first: u32, block: u32) -> f32 {
    var best = MASKED;
    for (var step = 0u; step < KEY_STEPS; step++) {
        var s: array<f32, ROWS * KEYS>;
        #unroll
        for (var r = 0u; r < ROWS * KEYS; r++) {
            s[r] = 0.0;
        }
        for (var x = 0u; x < VECS; x++) {
            #unroll
            for (var y = 0u; y < KEYS; y++) {
                // The block's last key again, where there are no more.
                let j = block * BLOCK_SIZE + min(step * KEYS + y, BLOCK_SIZE - 1u);
                let key = k4(tile.k_from + j * params.k_seq + x * 4u, HEAD_DIM - x * 4u);
                #unroll
                for (var r = 0u; r < ROWS; r++) {
                    s[r * KEYS + y] += dot(staged[r * VECS + x], key);
                }
            }
        }
        #unroll
        for (var r = 0u; r < ROWS; r++) {
            let last = sight(tile, sampled_row(tile, first + r));
            #unroll
            for (var y = 0u; y < KEYS; y++) {
                let j = block * BLOCK_SIZE + min(step * KEYS + y, BLOCK_SIZE - 1u);
                best = max(best, select(MASKED, s[r * KEYS + y] * params.scale, i32(j) <= last));
            }
        }
    }
    return best;
}
