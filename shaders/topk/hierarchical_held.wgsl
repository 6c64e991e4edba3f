// Sampled rows in registers: for software GPUs, where a load costs as much as dozens of products, and registers are
// memory that is near. Products are written out, so that they choose no register at run time; the rows come in a loop,
// since every load that is written out costs such a device's compiler dear.
var<private> held: array<vec4<f32>, ROWS * VECS>;

fn take_rows(tile: Tile, first: u32, thread: u32) {
    for (var n = 0u; n < ROWS * VECS; n++) {
        let x = n % VECS;
        let base = tile.q_from + sampled_row(tile, first + n / VECS) * params.q_seq;
        held[n] = q4(base + x * 4u, HEAD_DIM - x * 4u);
    }
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
        #unroll
        for (var x = 0u; x < VECS; x++) {
            var keys: array<vec4<f32>, KEYS>;
            #unroll
            for (var y = 0u; y < KEYS; y++) {
                // The block's last key again, where there are no more.
                let j = block * BLOCK_SIZE + min(step * KEYS + y, BLOCK_SIZE - 1u);
                keys[y] = k4(tile.k_from + j * params.k_seq + x * 4u, HEAD_DIM - x * 4u);
            }
            #unroll
            for (var r = 0u; r < ROWS; r++) {
                let query = held[r * VECS + x];
                #unroll
                for (var y = 0u; y < KEYS; y++) {
                    let key = keys[y];
                    s[r * KEYS + y] = fma(query.x, key.x, s[r * KEYS + y]);
                    s[r * KEYS + y] = fma(query.y, key.y, s[r * KEYS + y]);
                    s[r * KEYS + y] = fma(query.z, key.z, s[r * KEYS + y]);
                    s[r * KEYS + y] = fma(query.w, key.w, s[r * KEYS + y]);
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
