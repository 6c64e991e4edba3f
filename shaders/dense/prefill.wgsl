// Tiled attention over many queries (FlashAttention-2's loop order: Dao, 2023).
//
//   o_i = Σ_j w(s_ij) v_j,   s_ij = hooks(scale · q_i·k_j),   w = softmax or sigmoid
//
// One workgroup owns a tile of ROWS queries of one head and walks the keys that its mask or its list leaves, KEYS at a
// time, keeping the output in registers. No N×N array exists anywhere.
//
//   m_i, l_i   running maximum of row i, and the sum of 2^(t_ij − m_i) over the keys so far
//   acc        the output rows, relative to m_i; divided by l_i once, at the end
//
// Work split. As in `dense/products.wgsl`, an invocation (group g, lane c) owns ROW_REGS rows and KEY_REGS keys in the
// score product Q·Kᵀ; in the output product P·V it owns of the same rows the columns 4·(c + n·LANES) + 0..3, so that
// statistics and output of a row never leave its row group.
//
// Workgroup memory (16-byte words), one array, three uses that alternate between barriers:
//   scores   a chunk of q and of k (`dense/products.wgsl`)
//   weights  P [ROWS][KEYS/4 + 1]                 over the same place
//   values   v chunk [VALUE_CHUNK][VALUE_VECS·LANES]   behind P
// The head dimension is staged CHUNK vectors at a time and the values VALUE_CHUNK keys at a time, so any D and Dv
// fit the 16 KiB every device has; larger chunks mean fewer barriers where there is more. PV_UNROLL steps of the output
// product are written out, as QK_UNROLL are of the score product.
//
// Row maxima and sums over lanes: `dense/statistics_workgroup.wgsl` or `dense/statistics_subgroup.wgsl`.
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
#import dense/products

const KEY_VECS = KEY_REGS / 4u;
const VALUE_VECS_ALL = (VALUE_DIM + 3u) / 4u;
const VALUE_VECS = (VALUE_VECS_ALL + LANES - 1u) / LANES;
const P_PITCH = KEYS / 4u + 1u;
const V_PITCH = VALUE_VECS * LANES;
const P_WORDS = ROWS * P_PITCH;
const V_AT = P_WORDS;
const TILE_WORDS = max(QK_WORDS, P_WORDS + VALUE_CHUNK * V_PITCH);

const_assert KEYS % VALUE_CHUNK == 0u;
const_assert VALUE_CHUNK % 4u == 0u;

var<workgroup> tile: array<vec4<f32>, TILE_WORDS>;
var<workgroup> rows: array<Row, ROWS>;

fn q_row(base: u32, i: u32) -> u32 {
    return base + (min(i, params.end_query - 1u) - params.first_query) * params.q_seq;
}

// A chunk of v on its way, as those of q and k; with PREFETCH all of them a product earlier.
const VALUE_EVEN = VALUE_VECS_ALL % LANES == 0u;
const V_LOADS = (VALUE_CHUNK * V_PITCH + THREADS - 1u) / THREADS;
const V_EVEN = VALUE_CHUNK * V_PITCH % THREADS == 0u;

fn load_v(base: u32, list: List, p0: u32, last_key: u32, thread: u32) -> array<vec4<f32>, V_LOADS> {
    var values: array<vec4<f32>, V_LOADS>;
    #unroll
    for (var u = 0u; u < V_LOADS; u++) {
        let w = thread + u * THREADS;
        let vec = w % V_PITCH;
        let j = min(key_at(list, p0 + w / V_PITCH), last_key);
        if (VALUE_EVEN || vec < VALUE_VECS_ALL) {
            values[u] = v4(base + j * params.v_seq + vec * 4u, VALUE_DIM - vec * 4u);
        }
    }
    return values;
}

fn store_v(values: array<vec4<f32>, V_LOADS>, thread: u32) {
    #unroll
    for (var u = 0u; u < V_LOADS; u++) {
        let w = thread + u * THREADS;
        if (V_EVEN || w < VALUE_CHUNK * V_PITCH) {
            tile[V_AT + w] = values[u];
        }
    }
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        invocation: Invocation) {
    let thread = thread_of(invocation);
    let lane = thread % LANES;
    let group = thread / LANES;
    let b = params.first_batch + workgroup.z;
    let h = params.first_head + workgroup.y;
    let place = query_tile(workgroup.x, grid.x);
    let i0 = params.first_query + place * ROWS;
    let kv_head = h / params.group - params.first_head / params.group;
    let q_from = params.q_base + workgroup.z * params.q_batch + workgroup.y * params.q_head;
    let k_from = params.k_base + workgroup.z * params.k_batch + kv_head * params.k_head;
    let v_from = params.v_base + workgroup.z * params.v_batch + kv_head * params.v_head;

    for (var r = thread; r < ROWS; r += THREADS) {
        rows[r] = row_of(b, min(i0 + r, params.end_query - 1u));
    }
    let first = row_of(b, i0);
    let last = row_of(b, min(i0 + ROWS, params.end_query) - 1u);
    let one_document = !HAS_DOCUMENTS || (first.lo == last.lo && first.hi == last.hi);
    let list = list_of(b, h, i0, place);
    let clean = list_is_clean(list, thread);
    let tiles = tiles_to_visit(list, first, last, one_document, KEYS);
    let last_key = u32(max(keys_of(b), 1) - 1);

    var acc: array<vec4<f32>, ROW_REGS * VALUE_VECS>;
    var m: array<f32, ROW_REGS>;
    var l: array<f32, ROW_REGS>;
    #unroll
    for (var r = 0u; r < ROW_REGS; r++) {
        m[r] = MASKED;
        l[r] = 0.0;
        if (HAS_SINKS) {
            // The sink's logit is the maximum so far, with weight 1, counted by one lane.
            m[r] = bitcast<f32>(small_word(params.sinks_at + h)) * LOG2_E;
            l[r] = select(0.0, 1.0, lane == 0u);
        }
        #unroll
        for (var n = 0u; n < VALUE_VECS; n++) {
            acc[r * VALUE_VECS + n] = vec4<f32>();
        }
    }

    var q_values: array<vec4<f32>, Q_LOADS>;
    var k_values: array<vec4<f32>, K_LOADS>;
    var v_values: array<vec4<f32>, V_LOADS>;
    if (PREFETCH) {
        q_values = load_q(q_from, i0, 0u, thread);
        k_values = load_k(k_from, list, place_of(list, first_tile(tiles), KEYS), last_key, 0u, thread);
    }
    for (var t = first_tile(tiles); t < tiles.body_end; t = next_tile(tiles, t)) {
        let p0 = place_of(list, t, KEYS);

        // Scores of this tile: s = Q·Kᵀ, a chunk of the head dimension at a time.
        var s: array<f32, ROW_REGS * KEY_REGS>;
        #unroll
        for (var e = 0u; e < ROW_REGS * KEY_REGS; e++) {
            s[e] = 0.0;
        }
        for (var chunk = 0u; chunk < CHUNKS; chunk++) {
            workgroupBarrier();
            if (!PREFETCH) {
                q_values = load_q(q_from, i0, chunk, thread);
                k_values = load_k(k_from, list, p0, last_key, chunk, thread);
            }
            store_q(q_values, thread);
            store_k(k_values, thread);
            workgroupBarrier();
            if (PREFETCH && chunk + 1u < CHUNKS) {
                q_values = load_q(q_from, i0, chunk + 1u, thread);
                k_values = load_k(k_from, list, p0, last_key, chunk + 1u, thread);
            }
            if (PREFETCH && chunk + 1u == CHUNKS) {
                v_values = load_v(v_from, list, p0, last_key, thread);
            }
            add_products(&s, group, lane);
        }

        // Hooks and masks. A tile that every row sees whole takes no mask arithmetic.
        let whole = whole_tile(list, clean, first, last, one_document, t, p0, p0 + KEYS);
        if (SCORE_HOOKS || !whole) {
            var keys: array<u32, KEY_REGS>;
            #unroll
            for (var n = 0u; n < KEY_REGS; n++) {
                keys[n] = key_at(list, p0 + 4u * (lane + (n / 4u) * LANES) + n % 4u);
            }
            #unroll
            for (var r = 0u; r < ROW_REGS; r++) {
                let row = rows[group + r * ROW_GROUPS];
                let i = min(i0 + group + r * ROW_GROUPS, params.end_query - 1u);
                #unroll
                for (var n = 0u; n < KEY_REGS; n++) {
                    let e = r * KEY_REGS + n;
                    s[e] = masked_score(s[e], whole, b, h, i, keys[n], row);
                }
            }
        }

        // Row maxima over this tile, behind which nobody reads the staged q and k any more.
        var tops: array<f32, ROW_REGS>;
        if (NORMALIZED) {
            #unroll
            for (var r = 0u; r < ROW_REGS; r++) {
                tops[r] = s[r * KEY_REGS];
                #unroll
                for (var n = 1u; n < KEY_REGS; n++) {
                    tops[r] = max(tops[r], s[r * KEY_REGS + n]);
                }
            }
            tops = row_maxima(tops, thread);
        } else {
            workgroupBarrier();
        }

        // Weights, over the place of the staged q and k; the sums stay apart by lane until the end.
        #unroll
        for (var r = 0u; r < ROW_REGS; r++) {
            let row = group + r * ROW_GROUPS;
            if (NORMALIZED) {
                let top = max(m[r], tops[r]);
                let shrink = exp2(m[r] - top);
                m[r] = top;
                l[r] *= shrink;
                #unroll
                for (var n = 0u; n < VALUE_VECS; n++) {
                    acc[r * VALUE_VECS + n] *= shrink;
                }
            }
            #unroll
            for (var n = 0u; n < KEY_VECS; n++) {
                let e = r * KEY_REGS + 4u * n;
                var w = vec4<f32>(weight(s[e], m[r]), weight(s[e + 1u], m[r]), weight(s[e + 2u], m[r]), weight(s[e + 3u], m[r]));
                if (SCORE_HOOKS || !whole) {
                    let t4 = vec4<f32>(s[e], s[e + 1u], s[e + 2u], s[e + 3u]);
                    w = select(w, vec4<f32>(), t4 < vec4<f32>(MASKED_BELOW));
                }
                if (NORMALIZED) {
                    l[r] += (w.x + w.y) + (w.z + w.w);
                }
                tile[row * P_PITCH + n * LANES + lane] = w;
            }
        }

        // Output product, VALUE_CHUNK keys at a time.
        for (var c = 0u; c < KEYS / VALUE_CHUNK; c++) {
            if (c > 0u) {
                workgroupBarrier();
            }
            if (!PREFETCH) {
                v_values = load_v(v_from, list, p0 + c * VALUE_CHUNK, last_key, thread);
            }
            store_v(v_values, thread);
            workgroupBarrier();
            if (PREFETCH && c + 1u < KEYS / VALUE_CHUNK) {
                v_values = load_v(v_from, list, p0 + (c + 1u) * VALUE_CHUNK, last_key, thread);
            }
            if (PREFETCH && c + 1u == KEYS / VALUE_CHUNK) {
                q_values = load_q(q_from, i0, 0u, thread);
                k_values = load_k(k_from, list, place_of(list, next_tile(tiles, t), KEYS), last_key, 0u, thread);
            }
            for (var step = 0u; step < VALUE_CHUNK / 4u / PV_UNROLL; step++) {
                #unroll
                for (var u = 0u; u < PV_UNROLL; u++) {
                let j = step * PV_UNROLL + u;
                var w: array<vec4<f32>, ROW_REGS>;
                #unroll
                for (var r = 0u; r < ROW_REGS; r++) {
                    w[r] = tile[(group + r * ROW_GROUPS) * P_PITCH + c * (VALUE_CHUNK / 4u) + j];
                }
                #unroll
                for (var n = 0u; n < VALUE_VECS; n++) {
                    let at = V_AT + j * 4u * V_PITCH + n * LANES + lane;
                    let v0 = tile[at];
                    let v1 = tile[at + V_PITCH];
                    let v2 = tile[at + 2u * V_PITCH];
                    let v3 = tile[at + 3u * V_PITCH];
                    #unroll
                    for (var r = 0u; r < ROW_REGS; r++) {
                        let e = r * VALUE_VECS + n;
                        acc[e] = fma(vec4<f32>(w[r].x), v0, acc[e]);
                        acc[e] = fma(vec4<f32>(w[r].y), v1, acc[e]);
                        acc[e] = fma(vec4<f32>(w[r].z), v2, acc[e]);
                        acc[e] = fma(vec4<f32>(w[r].w), v3, acc[e]);
                    }
                }
                }
            }
        }
    }

    // Row sums over the lanes, then the one division.
    if (NORMALIZED) {
        l = row_sums(l, thread);
    }
    #unroll
    for (var r = 0u; r < ROW_REGS; r++) {
        let i = i0 + group + r * ROW_GROUPS;
        if (i < params.end_query) {
            var factor = 1.0;
            if (NORMALIZED) {
                factor = select(0.0, 1.0 / l[r], l[r] > 0.0);
                if (HAS_LSE && lane == 0u) {
                    let at = params.lse_base + ((b - params.first_batch) * params.heads + h - params.first_head) * params.queries
                        + i - params.first_query;
                    store_lse(at, lse_bits(m[r], l[r]));
                }
            }
            let base = params.o_base + (b - params.first_batch) * params.o_batch + (h - params.first_head) * params.o_head
                + (i - params.first_query) * params.o_seq;
            #unroll
            for (var n = 0u; n < VALUE_VECS; n++) {
                let vec = n * LANES + lane;
                if (vec < VALUE_VECS_ALL) {
                    store_o4(base + vec * 4u, acc[r * VALUE_VECS + n] * factor, VALUE_DIM - vec * 4u);
                }
            }
        }
    }
}
