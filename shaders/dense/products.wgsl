// Scores of a tile of rows and keys, s = Q·Kᵀ, a chunk of the head dimension at a time through workgroup memory.
//
// THREADS = ROW_GROUPS × LANES invocations; invocation (group g, lane c) owns the ROW_REGS rows g + m·ROW_GROUPS, and of
// those the KEY_REGS keys 4·(c + n·LANES) + 0..3, so that all of a row lies in one row group, each workgroup-memory access
// of a row group's lanes is to consecutive 16-byte words, and every loaded vector feeds ROW_REGS or KEY_REGS
// multiplications.
//
// The kernel has `tile`, at least QK_WORDS of workgroup memory, and says what rows and keys are:
//   HEAD_VECS            vectors of four that a product sums over
//   q_row(base, i)       element index of row i's query, i past the end included
//   q_vec(at, vec)       its vector number vec, scaled
//   k_vec(at, vec)       the same of a key
//
// Workgroup memory (16-byte words): q chunk [ROWS][CHUNK + 1], k chunk [KEYS][CHUNK + 1] (odd pitch: rows fall into
// different banks). QK_UNROLL steps of the product are written out, so that the loads of one overlap the arithmetic of the
// one before.
const THREADS = ROW_GROUPS * LANES;
const ROWS = ROW_GROUPS * ROW_REGS;
const KEYS = LANES * KEY_REGS;
const QK_PITCH = CHUNK + 1u;
const K_AT = ROWS * QK_PITCH;
const QK_WORDS = K_AT + KEYS * QK_PITCH;
const CHUNKS = (HEAD_VECS + CHUNK - 1u) / CHUNK;

const_assert KEY_REGS % 4u == 0u;

// A chunk of q or k on its way from storage to workgroup memory, in registers: all loads are issued before the first
// store, and can be a whole product earlier. Rows and keys past the end repeat the last one: their scores are masked and
// their rows not written, and what lies behind `kv_len` in a cache is never read: it may be anything, NaN included.
const HEAD_EVEN = HEAD_VECS % CHUNK == 0u;
const Q_LOADS = (ROWS * CHUNK + THREADS - 1u) / THREADS;
const K_LOADS = (KEYS * CHUNK + THREADS - 1u) / THREADS;
const Q_EVEN = ROWS * CHUNK % THREADS == 0u;
const K_EVEN = KEYS * CHUNK % THREADS == 0u;

fn load_q(base: u32, i0: u32, chunk: u32, thread: u32) -> array<vec4<f32>, Q_LOADS> {
    var values: array<vec4<f32>, Q_LOADS>;
    #unroll
    for (var u = 0u; u < Q_LOADS; u++) {
        let w = thread + u * THREADS;
        let vec = chunk * CHUNK + w % CHUNK;
        if (HEAD_EVEN || vec < HEAD_VECS) {
            values[u] = q_vec(q_row(base, i0 + w / CHUNK), vec);
        }
    }
    return values;
}

fn store_q(values: array<vec4<f32>, Q_LOADS>, thread: u32) {
    #unroll
    for (var u = 0u; u < Q_LOADS; u++) {
        let w = thread + u * THREADS;
        if (Q_EVEN || w < ROWS * CHUNK) {
            tile[(w / CHUNK) * QK_PITCH + w % CHUNK] = values[u];
        }
    }
}

fn load_k(base: u32, list: List, p0: u32, last_key: u32, chunk: u32, thread: u32) -> array<vec4<f32>, K_LOADS> {
    var values: array<vec4<f32>, K_LOADS>;
    #unroll
    for (var u = 0u; u < K_LOADS; u++) {
        let w = thread + u * THREADS;
        let j = min(key_at(list, p0 + w / CHUNK), last_key);
        let vec = chunk * CHUNK + w % CHUNK;
        if (HEAD_EVEN || vec < HEAD_VECS) {
            values[u] = k_vec(base + j * params.k_seq, vec);
        }
    }
    return values;
}

// Key j of the tile goes to the slot where the lanes that own neighbouring keys read neighbouring slots:
// slot of 4·(c + n·LANES) + x is (4·n + x)·LANES + c.
fn store_k(values: array<vec4<f32>, K_LOADS>, thread: u32) {
    #unroll
    for (var u = 0u; u < K_LOADS; u++) {
        let w = thread + u * THREADS;
        let key = w / CHUNK;
        let slot = ((key / (4u * LANES)) * 4u + key % 4u) * LANES + (key / 4u) % LANES;
        if (K_EVEN || w < KEYS * CHUNK) {
            tile[K_AT + slot * QK_PITCH + w % CHUNK] = values[u];
        }
    }
}

// Adds the products of the chunk in workgroup memory.
fn add_products(s: ptr<function, array<f32, ROW_REGS * KEY_REGS>>, group: u32, lane: u32) {
    for (var step = 0u; step < CHUNK / QK_UNROLL; step++) {
        #unroll
        for (var u = 0u; u < QK_UNROLL; u++) {
        let d = step * QK_UNROLL + u;
        var queries: array<vec4<f32>, ROW_REGS>;
        #unroll
        for (var r = 0u; r < ROW_REGS; r++) {
            queries[r] = tile[(group + r * ROW_GROUPS) * QK_PITCH + d];
        }
        #unroll
        for (var n = 0u; n < KEY_REGS; n++) {
            let key = tile[K_AT + (n * LANES + lane) * QK_PITCH + d];
            #unroll
            for (var r = 0u; r < ROW_REGS; r++) {
                let e = r * KEY_REGS + n;
                (*s)[e] = fma(queries[r].x, key.x, (*s)[e]);
                (*s)[e] = fma(queries[r].y, key.y, (*s)[e]);
                (*s)[e] = fma(queries[r].z, key.z, (*s)[e]);
                (*s)[e] = fma(queries[r].w, key.w, (*s)[e]);
            }
        }
        }
    }
}
