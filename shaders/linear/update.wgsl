// The state in registers, and what the tokens of a chunk do to it:
//
//   S ← e^{G_m} S + Σ_j (e^{G_m − G_j} φ(k_j)) v_jᵀ          (z ← e^{G_m} z + Σ_j e^{G_m − G_j} φ(k_j))
//
// THREADS = ROW_GROUPS × LANES invocations; invocation (group g, lane c) owns of the state the rows
// 4·(g + m·ROW_GROUPS) + 0..3 and of the workgroup's columns the four at c + n·LANES.
//
// Workgroup memory, from UPDATE_AT on (16-byte words), TOKENS tokens at a time:
//   keys    [TOKENS][KEY_PITCH]    decayed to the chunk's end
//   values  [TOKENS][VALUE_PITCH]
#import linear/features
#import linear/expm1

const THREADS = ROW_GROUPS * LANES;
const STATE_QUADS = (HEAD_QUADS + ROW_GROUPS - 1u) / ROW_GROUPS;
const STATE_VECS = STATE_QUADS * 4u * VALUE_VECS;
const VALUE_VECS_ALL = (VALUE_DIM + 3u) / 4u;
const KEY_PITCH = STATE_QUADS * ROW_GROUPS;
const VALUE_PITCH = VALUE_VECS * LANES;
const VALUES_AT = UPDATE_AT + TOKENS * KEY_PITCH;
const UPDATE_WORDS = TOKENS * (KEY_PITCH + VALUE_PITCH);
const STEPS = CHUNK_TOKENS / TOKENS;

const_assert CHUNK_TOKENS % TOKENS == 0u;
const_assert TOKENS % 4u == 0u;

// A step's keys or values on their way from storage to workgroup memory, in registers.
const KEY_LOADS = (TOKENS * KEY_PITCH + THREADS - 1u) / THREADS;
const VALUE_LOADS = (TOKENS * VALUE_PITCH + THREADS - 1u) / THREADS;
const KEYS_EVEN = TOKENS * KEY_PITCH % THREADS == 0u;
const VALUES_EVEN = TOKENS * VALUE_PITCH % THREADS == 0u;

// z, for outputs that are normalised.
var<workgroup> normalizer: array<vec4<f32>, select(1u, HEAD_QUADS, NORMALIZE)>;

// Tokens past the chunk's `count` repeat its last one for values and are 0 for keys.
fn load_keys(base: u32, head: u32, t0: u32, count: u32, step: u32, thread: u32) -> array<vec4<f32>, KEY_LOADS> {
    var loaded: array<vec4<f32>, KEY_LOADS>;
    #unroll
    for (var u = 0u; u < KEY_LOADS; u++) {
        let w = thread + u * THREADS;
        let j = step * TOKENS + w / KEY_PITCH;
        let vec = w % KEY_PITCH;
        if (j < count && (KEY_PITCH == HEAD_QUADS || vec < HEAD_QUADS)) {
            loaded[u] = feature_k(base, head, t0 + j, vec) * decay_to_end(j, count, vec);
        }
    }
    return loaded;
}

fn store_keys(loaded: array<vec4<f32>, KEY_LOADS>, thread: u32) {
    #unroll
    for (var u = 0u; u < KEY_LOADS; u++) {
        let w = thread + u * THREADS;
        if (KEYS_EVEN || w < TOKENS * KEY_PITCH) {
            tile[UPDATE_AT + w] = loaded[u];
        }
    }
}

fn load_values(base: u32, t0: u32, count: u32, step: u32, first_vec: u32, thread: u32) -> array<vec4<f32>, VALUE_LOADS> {
    var loaded: array<vec4<f32>, VALUE_LOADS>;
    #unroll
    for (var u = 0u; u < VALUE_LOADS; u++) {
        let w = thread + u * THREADS;
        let j = min(step * TOKENS + w / VALUE_PITCH, count - 1u);
        let vec = first_vec + w % VALUE_PITCH;
        if (vec < VALUE_VECS_ALL) {
            loaded[u] = v4(base + (t0 + j) * params.v_seq + vec * 4u, VALUE_DIM - vec * 4u);
        }
    }
    return loaded;
}

fn store_values(loaded: array<vec4<f32>, VALUE_LOADS>, thread: u32) {
    #unroll
    for (var u = 0u; u < VALUE_LOADS; u++) {
        let w = thread + u * THREADS;
        if (VALUES_EVEN || w < TOKENS * VALUE_PITCH) {
            tile[VALUES_AT + w] = loaded[u];
        }
    }
}

// S ← e^{G_m} S
fn decay_state(state: ptr<function, array<vec4<f32>, STATE_VECS>>, count: u32, group: u32) {
    #unroll
    for (var m = 0u; m < STATE_QUADS; m++) {
        let change = expm1(chunk_decay(count, min(m * ROW_GROUPS + group, HEAD_QUADS - 1u)));
        #unroll
        for (var x = 0u; x < 4u; x++) {
            #unroll
            for (var n = 0u; n < VALUE_VECS; n++) {
                let e = (m * 4u + x) * VALUE_VECS + n;
                (*state)[e] = fma((*state)[e], vec4<f32>(change[x]), (*state)[e]);
            }
        }
    }
}

// Adds one staged token.
fn add_token(state: ptr<function, array<vec4<f32>, STATE_VECS>>, t: u32, group: u32, lane: u32) {
    #unroll
    for (var m = 0u; m < STATE_QUADS; m++) {
        let key = tile[UPDATE_AT + t * KEY_PITCH + m * ROW_GROUPS + group];
        #unroll
        for (var n = 0u; n < VALUE_VECS; n++) {
            let value = tile[VALUES_AT + t * VALUE_PITCH + n * LANES + lane];
            (*state)[(m * 4u + 0u) * VALUE_VECS + n] = fma(vec4<f32>(key.x), value, (*state)[(m * 4u + 0u) * VALUE_VECS + n]);
            (*state)[(m * 4u + 1u) * VALUE_VECS + n] = fma(vec4<f32>(key.y), value, (*state)[(m * 4u + 1u) * VALUE_VECS + n]);
            (*state)[(m * 4u + 2u) * VALUE_VECS + n] = fma(vec4<f32>(key.z), value, (*state)[(m * 4u + 2u) * VALUE_VECS + n]);
            (*state)[(m * 4u + 3u) * VALUE_VECS + n] = fma(vec4<f32>(key.w), value, (*state)[(m * 4u + 3u) * VALUE_VECS + n]);
        }
    }
}

// Adds the staged tokens to z, or at the first step of a chunk also lets it decay.
fn update_normalizer(first: bool, count: u32, thread: u32) {
    if (NORMALIZE) {
        for (var vec = thread; vec < HEAD_QUADS; vec += THREADS) {
            var z = normalizer[vec];
            if (first) {
                z = fma(z, expm1(chunk_decay(count, vec)), z);
            }
            for (var t = 0u; t < TOKENS; t++) {
                z += tile[UPDATE_AT + t * KEY_PITCH + vec];
            }
            normalizer[vec] = z;
        }
    }
}

// Index of row d, of the four columns `vec`, inside a head's state.
fn state_index(d: u32, vec: u32) -> u32 {
    return d * VALUE_DIM + vec * 4u;
}

fn load_state(base: u32, first_vec: u32, group: u32, lane: u32) -> array<vec4<f32>, STATE_VECS> {
    var state: array<vec4<f32>, STATE_VECS>;
    #unroll
    for (var m = 0u; m < STATE_QUADS; m++) {
        #unroll
        for (var x = 0u; x < 4u; x++) {
            let d = (m * ROW_GROUPS + group) * 4u + x;
            #unroll
            for (var n = 0u; n < VALUE_VECS; n++) {
                let vec = first_vec + n * LANES + lane;
                if (d < HEAD_DIM && vec < VALUE_VECS_ALL) {
                    state[(m * 4u + x) * VALUE_VECS + n] = state_in4(base + state_index(d, vec), VALUE_DIM - vec * 4u);
                }
            }
        }
    }
    return state;
}

fn store_state(state: ptr<function, array<vec4<f32>, STATE_VECS>>, base: u32, first_vec: u32, group: u32, lane: u32) {
    #unroll
    for (var m = 0u; m < STATE_QUADS; m++) {
        #unroll
        for (var x = 0u; x < 4u; x++) {
            let d = (m * ROW_GROUPS + group) * 4u + x;
            #unroll
            for (var n = 0u; n < VALUE_VECS; n++) {
                let vec = first_vec + n * LANES + lane;
                if (d < HEAD_DIM && vec < VALUE_VECS_ALL) {
                    store_state4(base + state_index(d, vec), (*state)[(m * 4u + x) * VALUE_VECS + n], VALUE_DIM - vec * 4u);
                }
            }
        }
    }
}

fn load_normalizer(base: u32, thread: u32) {
    if (NORMALIZE) {
        for (var vec = thread; vec < HEAD_QUADS; vec += THREADS) {
            let at = base + HEAD_DIM * VALUE_DIM + vec * 4u;
            var z = vec4<f32>(state_in1(at), 0.0, 0.0, 0.0);
            if (vec * 4u + 1u < HEAD_DIM) { z.y = state_in1(at + 1u); }
            if (vec * 4u + 2u < HEAD_DIM) { z.z = state_in1(at + 2u); }
            if (vec * 4u + 3u < HEAD_DIM) { z.w = state_in1(at + 3u); }
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
