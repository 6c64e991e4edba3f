// As `linear/tokens_fours.wgsl`, from storage of f16 eight elements at a time, where φ is the identity: D, Dv and all rows are
// multiples of eight.
#import linear/cooperative_tile

const HEAD_EIGHTS = HEAD_WORDS / 2u;
const VALUE_EIGHTS = VALUE_WORDS / 2u;
const TOKEN_LOADS = (ROWS * HEAD_EIGHTS + THREADS - 1u) / THREADS;
const VALUE_LOADS = (ROWS * VALUE_EIGHTS + THREADS - 1u) / THREADS;
const TOKENS_EVEN = ROWS * HEAD_EIGHTS % THREADS == 0u;
const VALUES_EVEN = ROWS * VALUE_EIGHTS % THREADS == 0u;

alias HeldKeys = array<vec4<u32>, TOKEN_LOADS>;
alias HeldValues = array<vec4<u32>, VALUE_LOADS>;

// Rows past the chunk's `count` repeat its last one.
fn load_keys(base: u32, head: u32, t0: u32, count: u32, thread: u32) -> HeldKeys {
    var loaded: HeldKeys;
    #unroll if MATRICES_WRITTEN_OUT
    for (var u = 0u; u < TOKEN_LOADS; u++) {
        let w = thread + u * THREADS;
        if (HEAD_EIGHTS == HEAD_DIM / 8u || w % HEAD_EIGHTS < HEAD_DIM / 8u) {
            loaded[u] = k_eight(base, t0 + min(w / HEAD_EIGHTS, count - 1u), w % HEAD_EIGHTS);
        }
    }
    return loaded;
}

fn load_values(base: u32, t0: u32, count: u32, first_vec: u32, thread: u32) -> HeldValues {
    var loaded: HeldValues;
    #unroll if MATRICES_WRITTEN_OUT
    for (var u = 0u; u < VALUE_LOADS; u++) {
        let w = thread + u * THREADS;
        let eight = first_vec / 2u + w % VALUE_EIGHTS;
        if (eight < VALUE_DIM / 8u) {
            loaded[u] = v_eight(base, t0 + min(w / VALUE_EIGHTS, count - 1u), eight);
        }
    }
    return loaded;
}

fn four_of(words: vec2<u32>) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(words.x), unpack2x16float(words.y));
}

// As they are, or decayed to the chunk's end, which has tokens up to `count` only.
fn store_keys(loaded: HeldKeys, decayed: bool, count: u32, thread: u32) {
    #unroll if MATRICES_WRITTEN_OUT
    for (var u = 0u; u < TOKEN_LOADS; u++) {
        let w = thread + u * THREADS;
        if (TOKENS_EVEN || w < ROWS * HEAD_EIGHTS) {
            let row = w / HEAD_EIGHTS;
            var by = 1.0;
            if (decayed) {
                by = select(0.0, decay_to_end(row, count, 0u).x, row < count);
            }
            let at = K_AT + row * HEAD_PITCH + w % HEAD_EIGHTS * 2u;
            put_factors(at, vec4<f16>(four_of(loaded[u].xy) * by));
            put_factors(at + 1u, vec4<f16>(four_of(loaded[u].zw) * by));
        }
    }
}

fn store_values(loaded: HeldValues, thread: u32) {
    #unroll if MATRICES_WRITTEN_OUT
    for (var u = 0u; u < VALUE_LOADS; u++) {
        let w = thread + u * THREADS;
        if (VALUES_EVEN || w < ROWS * VALUE_EIGHTS) {
            let at = V_AT + (w / VALUE_EIGHTS) * VALUE_PITCH + w % VALUE_EIGHTS * 2u;
            put_factors(at, vec4<f16>(four_of(loaded[u].xy)));
            put_factors(at + 1u, vec4<f16>(four_of(loaded[u].zw)));
        }
    }
}
