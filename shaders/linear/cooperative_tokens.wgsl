// Queries, keys and values of a chunk as factors of cooperative matrices: from storage to registers, a word of four elements
// at a time, and from there to `factors`. Workgroup memory is that of `linear/chunk_cooperative.wgsl`.
#import linear/cooperative_tile

const TOKEN_LOADS = (ROWS * HEAD_WORDS + THREADS - 1u) / THREADS;
const VALUE_LOADS = (ROWS * VALUE_WORDS + THREADS - 1u) / THREADS;
const TOKENS_EVEN = ROWS * HEAD_WORDS % THREADS == 0u;
const VALUES_EVEN = ROWS * VALUE_WORDS % THREADS == 0u;

// Rows past the chunk's `count` repeat its last one: they are not written, and what they would see weighs nothing.
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

fn load_keys(base: u32, head: u32, t0: u32, count: u32, thread: u32) -> array<vec4<f16>, TOKEN_LOADS> {
    var loaded: array<vec4<f16>, TOKEN_LOADS>;
    #unroll if MATRICES_WRITTEN_OUT
    for (var u = 0u; u < TOKEN_LOADS; u++) {
        let w = thread + u * THREADS;
        if (HEAD_WORDS == HEAD_QUADS || w % HEAD_WORDS < HEAD_QUADS) {
            loaded[u] = vec4<f16>(feature_k(base, head, t0 + min(w / HEAD_WORDS, count - 1u), w % HEAD_WORDS));
        }
    }
    return loaded;
}

fn load_values(base: u32, t0: u32, count: u32, first_vec: u32, thread: u32) -> array<vec4<f16>, VALUE_LOADS> {
    var loaded: array<vec4<f16>, VALUE_LOADS>;
    #unroll if MATRICES_WRITTEN_OUT
    for (var u = 0u; u < VALUE_LOADS; u++) {
        let w = thread + u * THREADS;
        let vec = first_vec + w % VALUE_WORDS;
        if (vec < VALUE_VECS_ALL) {
            let j = min(w / VALUE_WORDS, count - 1u);
            loaded[u] = vec4<f16>(v4(base + (t0 + j) * params.v_seq + vec * 4u, VALUE_DIM - vec * 4u));
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

// As they are, or decayed to the chunk's end, which has tokens up to `count` only.
fn store_keys(loaded: array<vec4<f16>, TOKEN_LOADS>, decayed: bool, count: u32, thread: u32) {
    #unroll if MATRICES_WRITTEN_OUT
    for (var u = 0u; u < TOKEN_LOADS; u++) {
        let w = thread + u * THREADS;
        if (TOKENS_EVEN || w < ROWS * HEAD_WORDS) {
            let row = w / HEAD_WORDS;
            var four = loaded[u];
            if (decayed) {
                if (row < count) {
                    four = vec4<f16>(vec4<f32>(four) * decay_to_end(row, count, w % HEAD_WORDS));
                } else {
                    four = vec4<f16>();
                }
            }
            put_factors(K_AT + row * HEAD_PITCH + w % HEAD_WORDS, four);
        }
    }
}

fn store_values(loaded: array<vec4<f16>, VALUE_LOADS>, thread: u32) {
    #unroll if MATRICES_WRITTEN_OUT
    for (var u = 0u; u < VALUE_LOADS; u++) {
        let w = thread + u * THREADS;
        if (VALUES_EVEN || w < ROWS * VALUE_WORDS) {
            put_factors(V_AT + (w / VALUE_WORDS) * VALUE_PITCH + w % VALUE_WORDS, loaded[u]);
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
