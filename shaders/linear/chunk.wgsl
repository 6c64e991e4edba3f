// Linear attention over a sequence, or a segment of one, a chunk of tokens at a time: Lightning Attention-2's serial
// pass (Qin et al., 2024), with the state on chip.
//
//   o_i = scale · ( e^{G_i} φ(q_i)ᵀ S  +  Σ_{j≤i} e^{G_i − G_j} (φ(q_i)·φ(k_j)) v_j )      inter-block + intra-block
//   S   ← e^{G_m} S + Σ_j e^{G_m − G_j} φ(k_j) v_jᵀ
//
//   i, j   tokens of the chunk, m of them
//   G      running sum of log-decays inside the chunk, from its first token to this one; a number, or with a decay per
//          channel one for each of the D channels, in which case its factors stand inside the products
//   S, z   state before the chunk, and the sum of keys for the normaliser: o_i / (scale·φ(q_i)·(…) + ε)
//
// With SPLIT, one of many segments side by side, each beginning with the state that `linear/chunk_state.wgsl` and
// `linear/scan.wgsl` found for it. Non-causal, S is the state of the whole sequence and the second term is absent.
//
// One workgroup owns one head's columns VALUE_PITCH·tile and following. THREADS = ROW_GROUPS × LANES invocations;
// invocation (group g, lane c) owns the ROW_REGS rows g + r·ROW_GROUPS of the chunk, and of those the keys
// 4·(c + n·LANES) + 0..3 in φ(q)·φ(k) and the columns 4·(c + n·LANES) + 0..3 of the output; its part of the state is in
// `linear/update.wgsl`. So every vector that is read from workgroup memory feeds several multiplications.
//
// Workgroup memory (16-byte words), one array with two uses that alternate between barriers:
//   a part of the head dimension at a time, CHUNK vectors   φ(q) [C][CHUNK + 1], φ(k) [C][CHUNK + 1] (odd pitch: rows
//                                                           fall into different banks), S [4·CHUNK][VALUE_PITCH]
//   TOKENS tokens at a time                                 weights [C][C/4 + 1], then `linear/update.wgsl`'s
// Both products of the first use share φ(q), both of the second share v. The loads of a step are issued while the one
// before is multiplied.
//
// Tokens outside every document give 0.
#import linear/params
#import shared/output
#import linear/span
#import linear/update
#import linear/outside

const ROWS = ROW_GROUPS * ROW_REGS;
const KEYS = LANES * KEY_REGS;
const KEY_VECS = KEY_REGS / 4u;
const PARTS = (HEAD_QUADS + CHUNK - 1u) / CHUNK;
const QK_PITCH = CHUNK + 1u;
const K_AT = ROWS * QK_PITCH;
const S_AT = K_AT + KEYS * QK_PITCH;
const W_PITCH = KEYS / 4u + 1u;
const UPDATE_AT = ROWS * W_PITCH;
const TILE_WORDS = max(S_AT + CHUNK * 4u * VALUE_PITCH, UPDATE_AT + UPDATE_WORDS);

const_assert ROWS == KEYS;
const_assert ROWS == CHUNK_TOKENS;
const_assert KEY_REGS % 4u == 0u;
// The state's registers cover every row that is staged.
const_assert PARTS * CHUNK <= STATE_QUADS * ROW_GROUPS;

const INTRA = CAUSAL && !STATE_ONLY;

var<workgroup> tile: array<vec4<f32>, TILE_WORDS>;

const Q_LOADS = (ROWS * CHUNK + THREADS - 1u) / THREADS;
const Q_EVEN = ROWS * CHUNK % THREADS == 0u;

// Rows past the chunk's `count` repeat its last one: they are not written, and what they would see weighs nothing.
fn load_queries(base: u32, head: u32, t0: u32, count: u32, part: u32, thread: u32) -> array<vec4<f32>, Q_LOADS> {
    var loaded: array<vec4<f32>, Q_LOADS>;
    #unroll
    for (var u = 0u; u < Q_LOADS; u++) {
        let w = thread + u * THREADS;
        let vec = part * CHUNK + w % CHUNK;
        if (HEAD_QUADS % CHUNK == 0u || vec < HEAD_QUADS) {
            loaded[u] = feature_q(base, head, t0 + min(w / CHUNK, count - 1u), vec);
        }
    }
    return loaded;
}

fn load_score_keys(base: u32, head: u32, t0: u32, count: u32, part: u32, thread: u32) -> array<vec4<f32>, Q_LOADS> {
    var loaded: array<vec4<f32>, Q_LOADS>;
    if (INTRA) {
        #unroll
        for (var u = 0u; u < Q_LOADS; u++) {
            let w = thread + u * THREADS;
            let vec = part * CHUNK + w % CHUNK;
            if (HEAD_QUADS % CHUNK == 0u || vec < HEAD_QUADS) {
                loaded[u] = feature_k(base, head, t0 + min(w / CHUNK, count - 1u), vec);
            }
        }
    }
    return loaded;
}

// Key 4·(c + n·LANES) + x goes to slot (4·n + x)·LANES + c: lanes that own neighbouring keys read neighbouring slots.
fn store_part(queries: array<vec4<f32>, Q_LOADS>, keys: array<vec4<f32>, Q_LOADS>, thread: u32) {
    #unroll
    for (var u = 0u; u < Q_LOADS; u++) {
        let w = thread + u * THREADS;
        if (Q_EVEN || w < ROWS * CHUNK) {
            let row = w / CHUNK;
            tile[row * QK_PITCH + w % CHUNK] = queries[u];
            if (INTRA) {
                let slot = ((row / (4u * LANES)) * 4u + row % 4u) * LANES + (row / 4u) % LANES;
                tile[K_AT + slot * QK_PITCH + w % CHUNK] = keys[u];
            }
        }
    }
}

// Rows of the state that the part's queries meet, by the invocations that own them.
fn store_state_part(state: ptr<function, array<vec4<f32>, STATE_VECS>>, part: u32, group: u32, lane: u32) {
    #unroll
    for (var m = 0u; m < STATE_QUADS; m++) {
        let quad = m * ROW_GROUPS + group;
        if (quad / CHUNK == part) {
            #unroll
            for (var x = 0u; x < 4u; x++) {
                #unroll
                for (var n = 0u; n < VALUE_VECS; n++) {
                    tile[S_AT + ((quad % CHUNK) * 4u + x) * VALUE_PITCH + n * LANES + lane] = (*state)[(m * 4u + x) * VALUE_VECS + n];
                }
            }
        }
    }
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let lane = thread % LANES;
    let group = thread / LANES;
    const TILES = (VALUE_VECS_ALL + VALUE_PITCH - 1u) / VALUE_PITCH;
    let first_vec = (workgroup.x % TILES) * VALUE_PITCH;
    let span = span_of(workgroup.z, workgroup.x / TILES);
    let batch = select(workgroup.z, 0u, DOCUMENTS);
    let head = params.first_head + workgroup.y;
    let kv = head / params.group - params.first_head / params.group;
    let q_from = params.q_base + batch * params.q_batch + workgroup.y * params.q_head;
    let k_from = params.k_base + batch * params.k_batch + kv * params.k_head;
    let v_from = params.v_base + batch * params.v_batch + kv * params.v_head;
    let o_from = params.o_base + batch * params.o_batch + workgroup.y * params.o_head;

    if (!STATE_ONLY) {
        clear_outside(span, o_from, first_vec, VALUE_PITCH, thread);
    }

    begin_decay(batch, workgroup.y);
    // Non-causal, every segment meets the whole sequence's state, which lies where its first segment's would.
    let slot = select(span.first, span.slot, CAUSAL);
    let in_from = params.in_base + select(span.sequence, 0u, SPLIT && DOCUMENTS) * params.in_sequence
        + workgroup.y * params.in_head + select(0u, slot * params.in_segment, SPLIT);
    var state: array<vec4<f32>, STATE_VECS>;
    if (!DOCUMENTS || span.sequence < params.documents) {
        state = load_state(in_from, first_vec, group, lane);
        load_normalizer(in_from, thread);
    }

    for (var t0 = span.start; t0 < span.end; t0 += ROWS) {
        let count = min(ROWS, span.end - t0);
        begin_chunk(t0, count, thread);

        // φ(q)·φ(k) and φ(q)ᵀ S, a part of the head dimension at a time.
        var s: array<f32, ROW_REGS * KEY_REGS>;
        var acc: array<vec4<f32>, ROW_REGS * VALUE_VECS>;
        var sum: array<f32, ROW_REGS>;
        #unroll
        for (var e = 0u; e < ROW_REGS * KEY_REGS; e++) {
            s[e] = 0.0;
        }
        #unroll
        for (var e = 0u; e < ROW_REGS * VALUE_VECS; e++) {
            acc[e] = vec4<f32>();
        }
        #unroll
        for (var r = 0u; r < ROW_REGS; r++) {
            sum[r] = 0.0;
        }
        var queries = load_queries(q_from, head, t0, count, 0u, thread);
        var score_keys = load_score_keys(k_from, kv, t0, count, 0u, thread);
        var keys: array<vec4<f32>, KEY_LOADS>;
        var values: array<vec4<f32>, VALUE_LOADS>;
        for (var part = 0u; part < PARTS; part++) {
            workgroupBarrier();
            store_part(queries, score_keys, thread);
            store_state_part(&state, part, group, lane);
            workgroupBarrier();
            if (part + 1u < PARTS) {
                queries = load_queries(q_from, head, t0, count, part + 1u, thread);
                score_keys = load_score_keys(k_from, kv, t0, count, part + 1u, thread);
            } else if (INTRA) {
                keys = load_keys(k_from, kv, t0, count, 0u, thread);
                values = load_values(v_from, t0, count, 0u, first_vec, thread);
            }
            for (var step = 0u; step < CHUNK / PART_UNROLL; step++) {
                #unroll
                for (var u = 0u; u < PART_UNROLL; u++) {
                    let d = step * PART_UNROLL + u;
                    // Past the end of the head, queries are 0.
                    let vec = min(part * CHUNK + d, HEAD_QUADS - 1u);
                    var row: array<vec4<f32>, ROW_REGS>;
                    #unroll
                    for (var r = 0u; r < ROW_REGS; r++) {
                        row[r] = tile[(group + r * ROW_GROUPS) * QK_PITCH + d];
                    }
                    if (INTRA) {
                        #unroll
                        for (var n = 0u; n < KEY_REGS; n++) {
                            let key = tile[K_AT + (n * LANES + lane) * QK_PITCH + d];
                            #unroll
                            for (var r = 0u; r < ROW_REGS; r++) {
                                let e = r * KEY_REGS + n;
                                var query = row[r];
                                if (CHANNEL_DECAY) {
                                    let j = 4u * (lane + (n / 4u) * LANES) + n % 4u;
                                    query *= decay_between_channels(group + r * ROW_GROUPS, j, vec);
                                }
                                s[e] = fma(query.x, key.x, s[e]);
                                s[e] = fma(query.y, key.y, s[e]);
                                s[e] = fma(query.z, key.z, s[e]);
                                s[e] = fma(query.w, key.w, s[e]);
                            }
                        }
                    }
                    if (CHANNEL_DECAY) {
                        #unroll
                        for (var r = 0u; r < ROW_REGS; r++) {
                            row[r] *= decay_from_start_channels(group + r * ROW_GROUPS, vec);
                        }
                    }
                    #unroll
                    for (var n = 0u; n < VALUE_VECS; n++) {
                        let s0 = tile[S_AT + (d * 4u + 0u) * VALUE_PITCH + n * LANES + lane];
                        let s1 = tile[S_AT + (d * 4u + 1u) * VALUE_PITCH + n * LANES + lane];
                        let s2 = tile[S_AT + (d * 4u + 2u) * VALUE_PITCH + n * LANES + lane];
                        let s3 = tile[S_AT + (d * 4u + 3u) * VALUE_PITCH + n * LANES + lane];
                        #unroll
                        for (var r = 0u; r < ROW_REGS; r++) {
                            let e = r * VALUE_VECS + n;
                            acc[e] = fma(vec4<f32>(row[r].x), s0, acc[e]);
                            acc[e] = fma(vec4<f32>(row[r].y), s1, acc[e]);
                            acc[e] = fma(vec4<f32>(row[r].z), s2, acc[e]);
                            acc[e] = fma(vec4<f32>(row[r].w), s3, acc[e]);
                        }
                    }
                    if (NORMALIZE) {
                        let z = normalizer[vec];
                        #unroll
                        for (var r = 0u; r < ROW_REGS; r++) {
                            sum[r] += dot(row[r], z);
                        }
                    }
                }
            }
        }
        #unroll
        for (var r = 0u; r < ROW_REGS; r++) {
            let decay = decay_from_start(group + r * ROW_GROUPS);
            sum[r] *= decay;
            #unroll
            for (var n = 0u; n < VALUE_VECS; n++) {
                acc[r * VALUE_VECS + n] *= decay;
            }
        }

        if (CAUSAL) {
            decay_state(&state, count, group);
            if (INTRA) {
                // Weights, over the place of what was staged.
                workgroupBarrier();
                #unroll
                for (var r = 0u; r < ROW_REGS; r++) {
                    let i = group + r * ROW_GROUPS;
                    #unroll
                    for (var n = 0u; n < KEY_VECS; n++) {
                        let j = 4u * (lane + n * LANES);
                        let e = r * KEY_REGS + 4u * n;
                        var w = vec4<f32>();
                        if (j <= i) { w.x = s[e] * decay_between(i, j); }
                        if (j + 1u <= i) { w.y = s[e + 1u] * decay_between(i, j + 1u); }
                        if (j + 2u <= i) { w.z = s[e + 2u] * decay_between(i, j + 2u); }
                        if (j + 3u <= i) { w.w = s[e + 3u] * decay_between(i, j + 3u); }
                        tile[i * W_PITCH + n * LANES + lane] = w;
                    }
                }
                // The intra-block product and the state, TOKENS tokens at a time.
                for (var c = 0u; c * TOKENS < count; c++) {
                    if (c > 0u) {
                        workgroupBarrier();
                    }
                    store_keys(keys, thread);
                    store_values(values, thread);
                    workgroupBarrier();
                    if ((c + 1u) * TOKENS < count) {
                        keys = load_keys(k_from, kv, t0, count, c + 1u, thread);
                        values = load_values(v_from, t0, count, c + 1u, first_vec, thread);
                    }
                    update_normalizer(c == 0u, count, thread);
                    for (var step = 0u; step < TOKENS / 4u / TOKEN_UNROLL; step++) {
                        #unroll
                        for (var u = 0u; u < TOKEN_UNROLL; u++) {
                            let quad = step * TOKEN_UNROLL + u;
                            var w: array<vec4<f32>, ROW_REGS>;
                            #unroll
                            for (var r = 0u; r < ROW_REGS; r++) {
                                w[r] = tile[(group + r * ROW_GROUPS) * W_PITCH + c * (TOKENS / 4u) + quad];
                                if (NORMALIZE) {
                                    sum[r] += (w[r].x + w[r].y) + (w[r].z + w[r].w);
                                }
                            }
                            #unroll
                            for (var n = 0u; n < VALUE_VECS; n++) {
                                let v0 = tile[VALUES_AT + (quad * 4u + 0u) * VALUE_PITCH + n * LANES + lane];
                                let v1 = tile[VALUES_AT + (quad * 4u + 1u) * VALUE_PITCH + n * LANES + lane];
                                let v2 = tile[VALUES_AT + (quad * 4u + 2u) * VALUE_PITCH + n * LANES + lane];
                                let v3 = tile[VALUES_AT + (quad * 4u + 3u) * VALUE_PITCH + n * LANES + lane];
                                #unroll
                                for (var r = 0u; r < ROW_REGS; r++) {
                                    let e = r * VALUE_VECS + n;
                                    acc[e] = fma(vec4<f32>(w[r].x), v0, acc[e]);
                                    acc[e] = fma(vec4<f32>(w[r].y), v1, acc[e]);
                                    acc[e] = fma(vec4<f32>(w[r].z), v2, acc[e]);
                                    acc[e] = fma(vec4<f32>(w[r].w), v3, acc[e]);
                                }
                            }
                            add_token(&state, quad * 4u + 0u, group, lane);
                            add_token(&state, quad * 4u + 1u, group, lane);
                            add_token(&state, quad * 4u + 2u, group, lane);
                            add_token(&state, quad * 4u + 3u, group, lane);
                        }
                    }
                }
            }
        }

        #unroll
        for (var r = 0u; r < ROW_REGS; r++) {
            let i = group + r * ROW_GROUPS;
            if (i < count) {
                let factor = select(1.0, 1.0 / (sum[r] + params.epsilon), NORMALIZE);
                #unroll
                for (var n = 0u; n < VALUE_VECS; n++) {
                    let vec = first_vec + n * LANES + lane;
                    if (vec < VALUE_VECS_ALL) {
                        let at = o_from + (t0 + i) * params.o_seq + vec * 4u;
                        var value = acc[r * VALUE_VECS + n] * factor;
                        if (STATE_ONLY) {
                            value += load_o4(at, VALUE_DIM - vec * 4u);
                        }
                        store_o4(at, value, VALUE_DIM - vec * 4u);
                    }
                }
            }
        }
    }

    if (WRITES_STATE) {
        let out_from = params.out_base + span.sequence * params.out_sequence + workgroup.y * params.out_head;
        store_state(&state, out_from, first_vec, group, lane);
        workgroupBarrier();
        if (first_vec == 0u) {
            store_normalizer(out_from, thread);
        }
    }
}
