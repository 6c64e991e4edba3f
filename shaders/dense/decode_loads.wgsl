// What a decode kernel loads: an invocation's share of the queries, and of a tile's keys and values.
//
// LANES invocations share a row of queries and the KEY_REGS keys of a slot, HEAD_REGS vectors each; VALUE_LANES share the
// GROUP_KEYS values of a group, VALUE_REGS vectors each. Neighbouring lanes load neighbouring vectors.
//
// Keys and values are on their way in registers. With PREFETCH the values of a tile and the keys of the next one are
// loaded while the scores are worked out, so that memory is never idle.
const HEAD_EVEN = HEAD_VECS % LANES == 0u;
const VALUE_EVEN = VALUE_VECS_ALL % VALUE_LANES == 0u;

// Scaled. Rows past the end repeat the last one.
fn load_queries(workgroup: vec3<u32>, row0: u32, last_row: u32, lane: u32) -> array<vec4<f32>, ROWS * HEAD_REGS> {
    var queries: array<vec4<f32>, ROWS * HEAD_REGS>;
    #unroll
    for (var r = 0u; r < ROWS; r++) {
        let row = min(row0 + r, last_row);
        let base = params.q_base + workgroup.z * params.q_batch
            + (workgroup.y * params.group + row % params.group) * params.q_head + (row / params.group) * params.q_seq;
        #unroll
        for (var x = 0u; x < HEAD_REGS; x++) {
            let vec = lane + x * LANES;
            var value = vec4<f32>();
            if (vec < HEAD_VECS) {
                value = q4(base + vec * 4u, HEAD_DIM - vec * 4u) * params.q_scale;
            }
            queries[r * HEAD_REGS + x] = value;
        }
    }
    return queries;
}

fn load_k(base: u32, list: List, p0: u32, last_key: u32, slot: u32, lane: u32) -> array<vec4<f32>, KEY_REGS * HEAD_REGS> {
    var loaded: array<vec4<f32>, KEY_REGS * HEAD_REGS>;
    #unroll
    for (var y = 0u; y < KEY_REGS; y++) {
        let j = min(key_at(list, p0 + slot + y * SLOTS), last_key);
        #unroll
        for (var x = 0u; x < HEAD_REGS; x++) {
            let vec = lane + x * LANES;
            if (HEAD_EVEN || vec < HEAD_VECS) {
                loaded[y * HEAD_REGS + x] = k4(base + j * params.k_seq + vec * 4u, HEAD_DIM - vec * 4u);
            }
        }
    }
    return loaded;
}

fn load_v(base: u32, list: List, p0: u32, last_key: u32, group: u32, value_lane: u32) -> array<vec4<f32>, GROUP_KEYS * VALUE_REGS> {
    var loaded: array<vec4<f32>, GROUP_KEYS * VALUE_REGS>;
    #unroll
    for (var x = 0u; x < GROUP_KEYS; x++) {
        let j = min(key_at(list, p0 + group + x * GROUPS), last_key);
        #unroll
        for (var y = 0u; y < VALUE_REGS; y++) {
            let vec = value_lane + y * VALUE_LANES;
            if (VALUE_EVEN || vec < VALUE_VECS_ALL) {
                loaded[x * VALUE_REGS + y] = v4(base + j * params.v_seq + vec * 4u, VALUE_DIM - vec * 4u);
            }
        }
    }
    return loaded;
}
