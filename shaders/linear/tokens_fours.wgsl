// Keys and values of a chunk as factors of cooperative matrices: from storage to registers, a word of four elements at a time,
// and from there to `factors`, keys from K_AT on, values from V_AT on. This piece and `tokens_eights` declare the same.
#import linear/cooperative_tile

const TOKEN_LOADS = (ROWS * HEAD_WORDS + THREADS - 1u) / THREADS;
const VALUE_LOADS = (ROWS * VALUE_WORDS + THREADS - 1u) / THREADS;
const TOKENS_EVEN = ROWS * HEAD_WORDS % THREADS == 0u;
const VALUES_EVEN = ROWS * VALUE_WORDS % THREADS == 0u;

alias HeldKeys = array<vec4<f16>, TOKEN_LOADS>;
alias HeldValues = array<vec4<f16>, VALUE_LOADS>;

// Rows past the chunk's `count` repeat its last one.
fn load_keys(base: u32, head: u32, t0: u32, count: u32, thread: u32) -> HeldKeys {
    var loaded: HeldKeys;
    #unroll if MATRICES_WRITTEN_OUT
    for (var u = 0u; u < TOKEN_LOADS; u++) {
        let w = thread + u * THREADS;
        if (HEAD_WORDS == HEAD_QUADS || w % HEAD_WORDS < HEAD_QUADS) {
            loaded[u] = vec4<f16>(feature_k(base, head, t0 + min(w / HEAD_WORDS, count - 1u), w % HEAD_WORDS));
        }
    }
    return loaded;
}

fn load_values(base: u32, t0: u32, count: u32, first_vec: u32, thread: u32) -> HeldValues {
    var loaded: HeldValues;
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

// As they are, or decayed to the chunk's end, which has tokens up to `count` only.
fn store_keys(loaded: HeldKeys, decayed: bool, count: u32, thread: u32) {
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

fn store_values(loaded: HeldValues, thread: u32) {
    #unroll if MATRICES_WRITTEN_OUT
    for (var u = 0u; u < VALUE_LOADS; u++) {
        let w = thread + u * THREADS;
        if (VALUES_EVEN || w < ROWS * VALUE_WORDS) {
            put_factors(V_AT + (w / VALUE_WORDS) * VALUE_PITCH + w % VALUE_WORDS, loaded[u]);
        }
    }
}
