// Attention of few queries over many keys, bound by the reading of K and V.
//
//   o_i = Σ_j w(s_ij) v_j,   s_ij = hooks(scale · q_i·k_j),   w = softmax or sigmoid
//
// The rows of a KV head are all its query heads times all queries; a workgroup takes ROWS of them, so that every key
// read serves the whole group, and one of `params.splits` equal shares of the key tiles. With one split it writes the
// result; with several it writes partial outputs and their log-sum-exp, which `merge/merge.wgsl` joins. Where keys are
// listed, the rows of a workgroup share a list.
//
//   m, l       running maximum and sum of a (row, key group)
//   acc        output rows relative to the m of the invocation's key group
//
// Work split, THREADS = SLOTS × LANES invocations, a tile of KEYS = SLOTS × KEY_REGS keys, in three steps:
//   1. q·k: invocation (slot, lane) multiplies HEAD_REGS vectors of KEY_REGS keys with its share of all rows, which
//      stays in registers. Neighbouring lanes read neighbouring vectors. The LANES partial sums meet in workgroup memory.
//   2. weights: one score an invocation; then the maximum over a key group only, since the groups have accumulators
//      of their own and meet once, at the end.
//   3. P·V: invocation (group, value lane) adds its group's keys to its VALUE_REGS vectors of every row.
//
// Rows past the end repeat the last one and are not written. A row that sees no key gives o = 0, lse = −inf.

#import shared/numerics
#import dense/params
#import shared/output
#import dense/position
#import dense/visibility
#import dense/score
#import dense/share
#import dense/decode_loads

const THREADS = SLOTS * LANES;
const KEYS = SLOTS * KEY_REGS;
const HEAD_VECS = (HEAD_DIM + 3u) / 4u;
const HEAD_REGS = (HEAD_VECS + LANES - 1u) / LANES;
const VALUE_VECS_ALL = (VALUE_DIM + 3u) / 4u;
const VALUE_REGS = (VALUE_VECS_ALL + VALUE_LANES - 1u) / VALUE_LANES;
const GROUPS = THREADS / VALUE_LANES;
const GROUP_KEYS = KEYS / GROUPS;
const PARTIAL_PITCH = LANES + 1u;

const_assert THREADS % VALUE_LANES == 0u;
const_assert KEYS % GROUPS == 0u;
const_assert ROWS <= VALUE_LANES;

var<workgroup> partials: array<f32, ROWS * KEYS * PARTIAL_PITCH>;
var<workgroup> weights: array<f32, KEYS * ROWS>;
var<workgroup> factors: array<f32, GROUPS * ROWS>;
var<workgroup> group_max: array<f32, GROUPS * ROWS>;
var<workgroup> group_sum: array<f32, GROUPS * ROWS>;
var<workgroup> sums: array<vec4<f32>, THREADS>;
var<workgroup> rows: array<Row, ROWS>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let lane = thread % LANES;
    let slot = thread / LANES;
    let value_lane = thread % VALUE_LANES;
    let group = thread / VALUE_LANES;

    let b = params.first_batch + workgroup.z;
    let kv_head = params.first_head / params.group + workgroup.y;
    let split = workgroup.x % params.splits;
    // Row r of the KV head is query r / group of query head kv_head·group + r % group.
    let row_count = (params.end_query - params.first_query) * params.group;
    let row0 = (workgroup.x / params.splits) * ROWS;
    let last_row = min(row0 + ROWS, row_count) - 1u;
    let k_from = params.k_base + workgroup.z * params.k_batch + workgroup.y * params.k_head;
    let v_from = params.v_base + workgroup.z * params.v_batch + workgroup.y * params.v_head;

    for (var r = thread; r < ROWS; r += THREADS) {
        rows[r] = row_of(b, params.first_query + min(row0 + r, last_row) / params.group);
    }
    let first = row_of(b, params.first_query + row0 / params.group);
    let last = row_of(b, params.first_query + last_row / params.group);
    let one_document = !HAS_DOCUMENTS || (first.lo == last.lo && first.hi == last.hi);
    let h0 = kv_head * params.group + row0 % params.group;
    let list = list_of(b, h0, params.first_query + row0 / params.group, workgroup.x / params.splits);
    let tiles = tiles_to_visit(list, first, last, one_document, KEYS);
    // What lies behind `kv_len` in a cache is never read, since it may be anything, NaN included: keys past the end
    // repeat the last one, masked.
    let last_key = u32(max(keys_of(b), 1) - 1);
    let share = share_of(tiles, split);

    let queries = load_queries(workgroup, row0, last_row, lane);
    var acc: array<vec4<f32>, ROWS * VALUE_REGS>;
    #unroll
    for (var e = 0u; e < ROWS * VALUE_REGS; e++) {
        acc[e] = vec4<f32>();
    }
    // Statistics of row thread % ROWS and key group thread / ROWS, for the first GROUPS × ROWS invocations.
    var m = MASKED;
    var l = 0.0;

    var k_values: array<vec4<f32>, KEY_REGS * HEAD_REGS>;
    var v_values: array<vec4<f32>, GROUP_KEYS * VALUE_REGS>;
    if (PREFETCH) {
        k_values = load_k(k_from, list, place_of(list, share_tile(tiles, share, 0u), KEYS), last_key, slot, lane);
    }
    for (var n = 0u; n < share.count; n++) {
        let t = share_tile(tiles, share, n);
        let p0 = place_of(list, t, KEYS);

        // 1. Partial dot products. The values are on their way meanwhile.
        if (!PREFETCH) {
            k_values = load_k(k_from, list, p0, last_key, slot, lane);
        }
        if (PREFETCH) {
            v_values = load_v(v_from, list, p0, last_key, group, value_lane);
        }
        #unroll
        for (var y = 0u; y < KEY_REGS; y++) {
            let key = slot + y * SLOTS;
            var dots: array<f32, ROWS>;
            #unroll
            for (var r = 0u; r < ROWS; r++) {
                dots[r] = 0.0;
            }
            #unroll
            for (var x = 0u; x < HEAD_REGS; x++) {
                let value = k_values[y * HEAD_REGS + x];
                #unroll
                for (var r = 0u; r < ROWS; r++) {
                    let query = queries[r * HEAD_REGS + x];
                    dots[r] = fma(query.x, value.x, dots[r]);
                    dots[r] = fma(query.y, value.y, dots[r]);
                    dots[r] = fma(query.z, value.z, dots[r]);
                    dots[r] = fma(query.w, value.w, dots[r]);
                }
            }
            #unroll
            for (var r = 0u; r < ROWS; r++) {
                partials[(r * KEYS + key) * PARTIAL_PITCH + lane] = dots[r];
            }
        }
        if (PREFETCH) {
            k_values = load_k(k_from, list, place_of(list, share_tile(tiles, share, n + 1u), KEYS), last_key, slot, lane);
        }
        workgroupBarrier();

        // 2. Scores, hooks, masks.
        let whole = whole_tile(list, false, first, last, one_document, t, p0, p0 + KEYS);
        for (var e = thread; e < ROWS * KEYS; e += THREADS) {
            let r = e / KEYS;
            let key = e % KEYS;
            var s = 0.0;
            for (var x = 0u; x < LANES; x++) {
                s += partials[e * PARTIAL_PITCH + x];
            }
            if (SCORE_HOOKS || !whole) {
                let row = min(row0 + r, last_row);
                let h = kv_head * params.group + row % params.group;
                let i = params.first_query + row / params.group;
                s = masked_score(s, whole, b, h, i, key_at(list, p0 + key), rows[r]);
            }
            if (!NORMALIZED) {
                s = select(weight(s, 0.0), 0.0, s < MASKED_BELOW);
            }
            weights[key * ROWS + r] = s;
        }
        workgroupBarrier();
        if (NORMALIZED) {
            if (thread < GROUPS * ROWS) {
                let r = thread % ROWS;
                let g = thread / ROWS;
                var top = m;
                for (var x = 0u; x < GROUP_KEYS; x++) {
                    top = max(top, weights[(g + x * GROUPS) * ROWS + r]);
                }
                let shrink = exp2(m - top);
                m = top;
                l *= shrink;
                factors[g * ROWS + r] = shrink;
                for (var x = 0u; x < GROUP_KEYS; x++) {
                    let at = (g + x * GROUPS) * ROWS + r;
                    let s = weights[at];
                    let w = select(weight(s, m), 0.0, s < MASKED_BELOW);
                    l += w;
                    weights[at] = w;
                }
            }
            workgroupBarrier();
        }

        // 3. Output product.
        if (NORMALIZED) {
            #unroll
            for (var r = 0u; r < ROWS; r++) {
                let shrink = factors[group * ROWS + r];
                #unroll
                for (var y = 0u; y < VALUE_REGS; y++) {
                    acc[r * VALUE_REGS + y] *= shrink;
                }
            }
        }
        if (!PREFETCH) {
            v_values = load_v(v_from, list, p0, last_key, group, value_lane);
        }
        #unroll
        for (var x = 0u; x < GROUP_KEYS; x++) {
            let key = group + x * GROUPS;
            #unroll
            for (var r = 0u; r < ROWS; r++) {
                let w = vec4<f32>(weights[key * ROWS + r]);
                #unroll
                for (var y = 0u; y < VALUE_REGS; y++) {
                    acc[r * VALUE_REGS + y] = fma(w, v_values[x * VALUE_REGS + y], acc[r * VALUE_REGS + y]);
                }
            }
        }
    }

    // The key groups meet: each row's own maximum and sum, and what a group's accumulators are worth in it.
    workgroupBarrier();
    if (NORMALIZED) {
        if (thread < GROUPS * ROWS) {
            group_max[thread] = m;
            group_sum[thread] = l;
        }
        workgroupBarrier();
        if (thread < GROUPS * ROWS) {
            let r = thread % ROWS;
            let row = min(row0 + r, last_row);
            let h = kv_head * params.group + row % params.group;
            var top = MASKED;
            var total = 0.0;
            if (HAS_SINKS && split == 0u) {
                top = bitcast<f32>(small_word(params.sinks_at + h)) * LOG2_E;
                total = 1.0;
            }
            for (var g = 0u; g < GROUPS; g++) {
                let next = max(top, group_max[g * ROWS + r]);
                total = total * exp2(top - next) + group_sum[g * ROWS + r] * exp2(group_max[g * ROWS + r] - next);
                top = next;
            }
            factors[thread] = select(0.0, exp2(m - top) / total, total > 0.0);
            if (HAS_LSE && thread < ROWS && row0 + r <= last_row) {
                let at = params.lse_base + split * params.rows
                    + (workgroup.z * params.heads + h - params.first_head) * params.queries + row / params.group;
                store_lse(at, lse_bits(top, total));
            }
        }
        workgroupBarrier();
    }
    #unroll
    for (var r = 0u; r < ROWS; r++) {
        #unroll
        for (var y = 0u; y < VALUE_REGS; y++) {
            var value = acc[r * VALUE_REGS + y];
            if (NORMALIZED) {
                value *= factors[group * ROWS + r];
            }
            sums[thread] = value;
            workgroupBarrier();
            let vec = value_lane + y * VALUE_LANES;
            if (group == 0u && row0 + r <= last_row && vec < VALUE_VECS_ALL) {
                for (var g = 1u; g < GROUPS; g++) {
                    value += sums[g * VALUE_LANES + value_lane];
                }
                let row = row0 + r;
                let base = params.o_base + split * params.rows * VALUE_DIM + workgroup.z * params.o_batch
                    + (workgroup.y * params.group + row % params.group) * params.o_head + (row / params.group) * params.o_seq;
                store_o4(base + vec * 4u, value, VALUE_DIM - vec * 4u);
            }
            workgroupBarrier();
        }
    }
}
