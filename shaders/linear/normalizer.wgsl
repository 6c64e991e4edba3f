// z, what outputs are normalised with: in storage behind the state.
var<workgroup> normalizer: array<vec4<f32>, select(1u, HEAD_QUADS, NORMALIZE)>;

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
