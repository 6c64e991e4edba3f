// Attention over many queries without barriers or workgroup memory: for software GPUs, where a load whose address differs
// between invocations is made one invocation after the other, and a subgroup is one vector register.
//
//   o_i = Σ_j w(s_ij) v_j,   s_ij = hooks(scale · q_i·k_j),   w = softmax or sigmoid
//
// A workgroup is one subgroup of THREADS invocations, each of which owns ROWS queries of one head. All walk the same keys,
// KEYS at a time, as vectors of four elements: of a tile's keys, then of its values, every invocation loads one vector of
// each THREADS and hands it to the others, so that an element is loaded once for all rows of the workgroup.
//
//   m, l       running maximum and sum of a row
//   acc        output rows relative to m; divided by l once, at the end
//
// A row that sees no key keeps l = 0 and gives o = 0, lse = −inf.

#import shared/numerics
#import dense/params
#import shared/output
#import dense/position
#import dense/query_tile
#import dense/visibility
#import dense/score
#import dense/vectors

const VALUE_VECS = (VALUE_DIM + 3u) / 4u;
const K_LOADS = (KEYS * HEAD_VECS + THREADS - 1u) / THREADS;
const V_LOADS = (KEYS * VALUE_VECS + THREADS - 1u) / THREADS;

// An invocation's share of the keys from place p0 on. What is past the tile repeats its last key. A place without a key
// is masked; what is read for it does not matter.
fn load_k(base: u32, list: List, p0: u32, last_key: u32, lane: u32) -> array<vec4<f32>, K_LOADS> {
    var loaded: array<vec4<f32>, K_LOADS>;
    #unroll
    for (var u = 0u; u < K_LOADS; u++) {
        let w = lane + u * THREADS;
        let j = min(key_at(list, p0 + min(w / HEAD_VECS, KEYS - 1u)), last_key);
        loaded[u] = k_vec(base + j * params.k_seq, w % HEAD_VECS);
    }
    return loaded;
}

// The same of the values.
fn load_v(base: u32, list: List, p0: u32, last_key: u32, lane: u32) -> array<vec4<f32>, V_LOADS> {
    var loaded: array<vec4<f32>, V_LOADS>;
    #unroll
    for (var u = 0u; u < V_LOADS; u++) {
        let w = lane + u * THREADS;
        let j = min(key_at(list, p0 + min(w / VALUE_VECS, KEYS - 1u)), last_key);
        let vec = w % VALUE_VECS;
        loaded[u] = v4(base + j * params.v_seq + vec * 4u, VALUE_DIM - vec * 4u);
    }
    return loaded;
}

// The keys that a row sees, worked out before it meets them: those of [lo, head_end) and of [start, end).
struct Span {
    lo: i32,
    head_end: i32,
    start: i32,
    end: i32,
}

fn span_of(row: Row) -> Span {
    let after = row.position + params.ahead + 1;
    let head = max(min(row.lo + params.sink_tokens, after), row.lo + params.prefix);
    let end = min(row.position + params.right + 1, after);
    return Span(row.lo, min(head, row.hi), max(row.position - params.left, row.lo), min(end, row.hi));
}

fn span_holds(span: Span, j: i32) -> bool {
    return (j >= span.lo && j < span.head_end) || (j >= span.start && j < span.end);
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(subgroup_invocation_id) lane: u32) {
    let b = params.first_batch + workgroup.z;
    let h = params.first_head + workgroup.y;
    let place = query_tile(workgroup.x, grid.x);
    let i0 = params.first_query + place * ROWS * THREADS;
    let last_query = min(i0 + ROWS * THREADS, params.end_query) - 1u;
    let kv_head = h / params.group - params.first_head / params.group;
    let q_from = params.q_base + workgroup.z * params.q_batch + workgroup.y * params.q_head;
    let k_from = params.k_base + workgroup.z * params.k_batch + kv_head * params.k_head;
    let v_from = params.v_base + workgroup.z * params.v_batch + kv_head * params.v_head;

    let first = row_of(b, i0);
    let last = row_of(b, last_query);
    let one_document = !HAS_DOCUMENTS || (first.lo == last.lo && first.hi == last.hi);
    let list = list_of(b, h, i0, place);
    let tiles = tiles_to_visit(list, first, last, one_document, KEYS);
    let last_key = u32(max(keys_of(b), 1) - 1);

    var rows: array<Row, ROWS>;
    var spans: array<Span, ROWS>;
    var queries: array<vec4<f32>, ROWS * HEAD_VECS>;
    var acc: array<vec4<f32>, ROWS * VALUE_VECS>;
    var m: array<f32, ROWS>;
    var l: array<f32, ROWS>;
    #unroll
    for (var r = 0u; r < ROWS; r++) {
        let i = min(i0 + r * THREADS + lane, last_query);
        rows[r] = row_of(b, i);
        spans[r] = span_of(rows[r]);
        #unroll
        for (var x = 0u; x < HEAD_VECS; x++) {
            queries[r * HEAD_VECS + x] = q_vec(q_from + (i - params.first_query) * params.q_seq, x);
        }
        #unroll
        for (var y = 0u; y < VALUE_VECS; y++) {
            acc[r * VALUE_VECS + y] = vec4<f32>();
        }
        m[r] = MASKED;
        l[r] = 0.0;
        if (HAS_SINKS) {
            // The sink's logit is the maximum so far, with weight 1.
            m[r] = bitcast<f32>(small_word(params.sinks_at + h)) * LOG2_E;
            l[r] = 1.0;
        }
    }

    for (var t = first_tile(tiles); t < tiles.body_end; t = next_tile(tiles, t)) {
        let p0 = place_of(list, t, KEYS);

        // Scores of this tile.
        var s: array<f32, ROWS * KEYS>;
        #unroll
        for (var e = 0u; e < ROWS * KEYS; e++) {
            s[e] = 0.0;
        }
        let k_loaded = load_k(k_from, list, p0, last_key, lane);
        #unroll
        for (var x = 0u; x < HEAD_VECS; x++) {
            #unroll
            for (var n = 0u; n < KEYS; n++) {
                let key = subgroupBroadcast(k_loaded[(n * HEAD_VECS + x) / THREADS], (n * HEAD_VECS + x) % THREADS);
                #unroll
                for (var r = 0u; r < ROWS; r++) {
                    let query = queries[r * HEAD_VECS + x];
                    s[r * KEYS + n] = fma(query.x, key.x, s[r * KEYS + n]);
                    s[r * KEYS + n] = fma(query.y, key.y, s[r * KEYS + n]);
                    s[r * KEYS + n] = fma(query.z, key.z, s[r * KEYS + n]);
                    s[r * KEYS + n] = fma(query.w, key.w, s[r * KEYS + n]);
                }
            }
        }

        // Hooks and masks. Masks of positions alone take no branch: llvmpipe goes through what it does not take, too.
        if (SCORE_HOOKS || ELEMENT_MASK) {
            let whole = whole_tile(list, false, first, last, one_document, t, p0, p0 + KEYS);
            #unroll
            for (var n = 0u; n < KEYS; n++) {
                let j = key_at(list, p0 + n);
                #unroll
                for (var r = 0u; r < ROWS; r++) {
                    let i = min(i0 + r * THREADS + lane, last_query);
                    s[r * KEYS + n] = masked_score(s[r * KEYS + n], whole, b, h, i, j, rows[r]);
                }
            }
        } else {
            #unroll
            for (var n = 0u; n < KEYS; n++) {
                let j = i32(key_at(list, p0 + n));
                #unroll
                for (var r = 0u; r < ROWS; r++) {
                    s[r * KEYS + n] = select(MASKED, s[r * KEYS + n], span_holds(spans[r], j));
                }
            }
        }

        // From scores to weights, in place.
        #unroll
        for (var r = 0u; r < ROWS; r++) {
            if (NORMALIZED) {
                var top = m[r];
                #unroll
                for (var n = 0u; n < KEYS; n++) {
                    top = max(top, s[r * KEYS + n]);
                }
                let shrink = exp2(m[r] - top);
                m[r] = top;
                l[r] *= shrink;
                #unroll
                for (var y = 0u; y < VALUE_VECS; y++) {
                    acc[r * VALUE_VECS + y] *= shrink;
                }
            }
            #unroll
            for (var n = 0u; n < KEYS; n++) {
                let score = s[r * KEYS + n];
                s[r * KEYS + n] = select(weight(score, m[r]), 0.0, score < MASKED_BELOW);
                l[r] += s[r * KEYS + n];
            }
        }

        let v_loaded = load_v(v_from, list, p0, last_key, lane);
        #unroll
        for (var y = 0u; y < VALUE_VECS; y++) {
            #unroll
            for (var n = 0u; n < KEYS; n++) {
                let value = subgroupBroadcast(v_loaded[(n * VALUE_VECS + y) / THREADS], (n * VALUE_VECS + y) % THREADS);
                #unroll
                for (var r = 0u; r < ROWS; r++) {
                    acc[r * VALUE_VECS + y] = fma(vec4<f32>(s[r * KEYS + n]), value, acc[r * VALUE_VECS + y]);
                }
            }
        }
    }

    #unroll
    for (var r = 0u; r < ROWS; r++) {
        let i = i0 + r * THREADS + lane;
        if (i <= last_query) {
            var factor = 1.0;
            if (NORMALIZED) {
                factor = select(0.0, 1.0 / l[r], l[r] > 0.0);
                if (HAS_LSE) {
                    let at = params.lse_base + (workgroup.z * params.heads + workgroup.y) * params.queries
                        + i - params.first_query;
                    store_lse(at, lse_bits(m[r], l[r]));
                }
            }
            let base = params.o_base + workgroup.z * params.o_batch + workgroup.y * params.o_head
                + (i - params.first_query) * params.o_seq;
            #unroll
            for (var y = 0u; y < VALUE_VECS; y++) {
                store_o4(base + y * 4u, acc[r * VALUE_VECS + y] * factor, VALUE_DIM - y * 4u);
            }
        }
    }
}
