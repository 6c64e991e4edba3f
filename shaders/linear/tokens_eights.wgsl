// As `linear/tokens_fours.wgsl`, from storage of f16 eight elements at a time, where φ is the identity: D, Dv and all rows are
// multiples of eight. Decays are rounded to f16 here.
#import linear/cooperative_tile
#import shared/eights

const HEAD_EIGHTS = HEAD_WORDS / 2u;
const VALUE_EIGHTS = VALUE_WORDS / 2u;
const TOKEN_LOADS = (ROWS * HEAD_EIGHTS + THREADS - 1u) / THREADS;
const VALUE_LOADS = (ROWS * VALUE_EIGHTS + THREADS - 1u) / THREADS;
const TOKENS_EVEN = ROWS * HEAD_EIGHTS % THREADS == 0u;
const VALUES_EVEN = ROWS * VALUE_EIGHTS % THREADS == 0u;

alias HeldKeys = array<Eight, TOKEN_LOADS>;
alias HeldValues = array<Eight, VALUE_LOADS>;

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
            put_eight(K_AT + row * HEAD_PITCH + w % HEAD_EIGHTS * 2u, loaded[u], by);
        }
    }
}

fn store_values(loaded: HeldValues, thread: u32) {
    #unroll if MATRICES_WRITTEN_OUT
    for (var u = 0u; u < VALUE_LOADS; u++) {
        let w = thread + u * THREADS;
        if (VALUES_EVEN || w < ROWS * VALUE_EIGHTS) {
            put_eight(V_AT + (w / VALUE_EIGHTS) * VALUE_PITCH + w % VALUE_EIGHTS * 2u, loaded[u], 1.0);
        }
    }
}
