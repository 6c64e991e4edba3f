// Attention of few queries over many keys, in subgroups.
//
//   o_i = Σ_j w(s_ij) v_j,   s_ij = hooks(scale · q_i·k_j),   w = softmax or sigmoid
//
// Rows, splits, key tiles and what is written are those of `dense/decode.wgsl`. But the LANES invocations of a slot work
// alone: they have a running maximum, a sum and output rows of their own for the keys that fall to their slot, hand
// numbers to each other in a subgroup, and meet the other slots once, at the end. So nothing waits between one tile and
// the next but for memory.
//
//   m, l       running maximum of a row in a slot, and the invocation's part of its sum
//   acc        output rows of a slot, relative to its m
//
// Work split, THREADS = SLOTS × LANES invocations, a tile of KEYS = SLOTS × KEY_REGS keys:
//   1. q·k: an invocation multiplies HEAD_REGS vectors of its slot's KEY_REGS keys with its share of all rows, which
//      gives SCORES = ROWS × KEY_REGS partial sums. Lanes add them up by halves: a lane keeps one half of the sums and
//      gives the other away for what it keeps, then a half of the half, …, until the OWN scores that are left are whole.
//      Score e = row · KEY_REGS + key is then with lane e / OWN · REPLICAS and REPLICAS − 1 more, which hold the same
//      where there are fewer scores than lanes. ROW_LANES lanes have the scores of one row.
//   2. weights: hooks, masks and exponentials of an invocation's OWN scores.
//   3. P·V: an invocation fetches all weights of its slot, and adds the slot's keys to VALUE_REGS vectors of every row.
//
// LANES, KEY_REGS and ROWS are powers of two, ROWS no greater than LANES. Output rows meet in workgroup memory, OUT_ROWS
// at a time.
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
const VALUE_LANES = LANES;
const VALUE_REGS = (VALUE_VECS_ALL + LANES - 1u) / LANES;
const VALUE_PITCH = VALUE_REGS * LANES;
const GROUPS = SLOTS;
const GROUP_KEYS = KEY_REGS;
const SCORES = ROWS * KEY_REGS;
const OWN = max(SCORES / LANES, 1u);
const REPLICAS = max(LANES / SCORES, 1u);
const ROW_LANES = LANES / ROWS;

const_assert ROWS <= LANES;

var<workgroup> slot_max: array<f32, SLOTS * ROWS>;
var<workgroup> slot_sum: array<f32, SLOTS * ROWS>;
var<workgroup> sums: array<vec4<f32>, SLOTS * OUT_ROWS * VALUE_PITCH>;

// A lane's partial sums of all scores of a slot, in the order of the header.
fn partial_scores(queries: array<vec4<f32>, ROWS * HEAD_REGS>, keys: array<vec4<f32>, KEY_REGS * HEAD_REGS>) -> array<f32, SCORES> {
    var dots: array<f32, SCORES>;
    #unroll
    for (var y = 0u; y < KEY_REGS; y++) {
        #unroll
        for (var r = 0u; r < ROWS; r++) {
            var dot = 0.0;
            #unroll
            for (var x = 0u; x < HEAD_REGS; x++) {
                let query = queries[r * HEAD_REGS + x];
                let key = keys[y * HEAD_REGS + x];
                dot = fma(query.x, key.x, dot);
                dot = fma(query.y, key.y, dot);
                dot = fma(query.z, key.z, dot);
                dot = fma(query.w, key.w, dot);
            }
            dots[r * KEY_REGS + y] = dot;
        }
    }
    return dots;
}

// The lane's own scores, from the partial sums of all lanes.
fn own_scores(partial: array<f32, SCORES>, lane: u32) -> array<f32, OWN> {
    var dots = partial;
    #unroll
    for (var step = 0u; step < HALVINGS; step++) {
        let upper = (lane & (LANES >> (step + 1u))) != 0u;
        #unroll
        for (var e = 0u; e < (SCORES >> (step + 1u)); e++) {
            let low = dots[e];
            let high = dots[e + (SCORES >> (step + 1u))];
            dots[e] = select(low, high, upper) + exchange(select(high, low, upper), LANES >> (step + 1u));
        }
    }
    #unroll
    for (var step = 0u; step < REPLICA_STEPS; step++) {
        dots[0] += exchange(dots[0], 1u << step);
    }
    var own: array<f32, OWN>;
    #unroll
    for (var n = 0u; n < OWN; n++) {
        own[n] = dots[n];
    }
    return own;
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, invocation: Invocation) {
    let thread = thread_of(invocation);
    let lane = thread % LANES;
    let slot = thread / LANES;

    let b = params.first_batch + workgroup.z;
    let kv_head = params.first_head / params.group + workgroup.y;
    let split = workgroup.x % params.splits;
    // Row r of the KV head is query r / group of query head kv_head·group + r % group.
    let row_count = (params.end_query - params.first_query) * params.group;
    let row0 = (workgroup.x / params.splits) * ROWS;
    let last_row = min(row0 + ROWS, row_count) - 1u;
    let k_from = params.k_base + workgroup.z * params.k_batch + workgroup.y * params.k_head;
    let v_from = params.v_base + workgroup.z * params.v_batch + workgroup.y * params.v_head;

    // The row and the keys of the invocation's own scores.
    let own_row = row0 + lane / ROW_LANES;
    let h = kv_head * params.group + min(own_row, last_row) % params.group;
    let i = params.first_query + min(own_row, last_row) / params.group;
    let row = row_of(b, i);
    let own_key = slot + lane / REPLICAS * OWN % KEY_REGS * SLOTS;

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
    var m = MASKED;
    var l = 0.0;

    var k_values: array<vec4<f32>, KEY_REGS * HEAD_REGS>;
    var v_values: array<vec4<f32>, KEY_REGS * VALUE_REGS>;
    if (PREFETCH) {
        k_values = load_k(k_from, list, place_of(list, share_tile(tiles, share, 0u), KEYS), last_key, slot, lane);
    }
    for (var n = 0u; n < share.count; n++) {
        let t = share_tile(tiles, share, n);
        let p0 = place_of(list, t, KEYS);

        // 1. The invocation's own scores. The values are on their way meanwhile.
        if (!PREFETCH) {
            k_values = load_k(k_from, list, p0, last_key, slot, lane);
        }
        if (PREFETCH) {
            v_values = load_v(v_from, list, p0, last_key, slot, lane);
        }
        let partial = partial_scores(queries, k_values);
        if (PREFETCH) {
            k_values = load_k(k_from, list, place_of(list, share_tile(tiles, share, n + 1u), KEYS), last_key, slot, lane);
        }
        var weights = own_scores(partial, lane);

        // 2. Hooks, masks, weights.
        let whole = whole_tile(list, false, first, last, one_document, t, p0, p0 + KEYS);
        var top = m;
        #unroll
        for (var x = 0u; x < OWN; x++) {
            var s = weights[x];
            if (SCORE_HOOKS || !whole) {
                s = masked_score(s, whole, b, h, i, key_at(list, p0 + own_key + x * SLOTS), row);
            }
            if (!NORMALIZED) {
                s = select(weight(s, 0.0), 0.0, s < MASKED_BELOW);
            }
            weights[x] = s;
            top = max(top, s);
        }
        if (NORMALIZED) {
            #unroll
            for (var step = 0u; step < ROW_STEPS; step++) {
                top = max(top, exchange(top, REPLICAS << step));
            }
            let shrink = exp2(m - top);
            m = top;
            l *= shrink;
            #unroll
            for (var x = 0u; x < OWN; x++) {
                let w = select(weight(weights[x], m), 0.0, weights[x] < MASKED_BELOW);
                l += w;
                weights[x] = w;
            }
            // Maxima soon stop to grow.
            if (any_lane(shrink != 1.0)) {
                #unroll
                for (var r = 0u; r < ROWS; r++) {
                    let row_shrink = fetch(shrink, r * ROW_LANES);
                    #unroll
                    for (var y = 0u; y < VALUE_REGS; y++) {
                        acc[r * VALUE_REGS + y] *= row_shrink;
                    }
                }
            }
        }

        // 3. Output product.
        if (!PREFETCH) {
            v_values = load_v(v_from, list, p0, last_key, slot, lane);
        }
        #unroll
        for (var x = 0u; x < KEY_REGS; x++) {
            #unroll
            for (var r = 0u; r < ROWS; r++) {
                let w = vec4<f32>(fetch(weights[(r * KEY_REGS + x) % OWN], (r * KEY_REGS + x) / OWN * REPLICAS));
                #unroll
                for (var y = 0u; y < VALUE_REGS; y++) {
                    acc[r * VALUE_REGS + y] = fma(w, v_values[x * VALUE_REGS + y], acc[r * VALUE_REGS + y]);
                }
            }
        }
    }

    // The slots meet: each row's own maximum and sum, and what a slot's output rows are worth in it.
    var factor = 1.0;
    if (NORMALIZED) {
        #unroll
        for (var step = 0u; step < ROW_STEPS; step++) {
            l += exchange(l, REPLICAS << step);
        }
        if (lane % ROW_LANES == 0u) {
            slot_max[slot * ROWS + lane / ROW_LANES] = m;
            slot_sum[slot * ROWS + lane / ROW_LANES] = l;
        }
        workgroupBarrier();
        var top = MASKED;
        var total = 0.0;
        if (HAS_SINKS && split == 0u) {
            top = bitcast<f32>(small_word(params.sinks_at + h)) * LOG2_E;
            total = 1.0;
        }
        for (var g = 0u; g < SLOTS; g++) {
            let at = g * ROWS + lane / ROW_LANES;
            let next = max(top, slot_max[at]);
            total = total * exp2(top - next) + slot_sum[at] * exp2(slot_max[at] - next);
            top = next;
        }
        factor = select(0.0, exp2(m - top) / total, total > 0.0);
        if (HAS_LSE && slot == 0u && lane % ROW_LANES == 0u && own_row <= last_row) {
            let at = params.lse_base + split * params.rows
                + (workgroup.z * params.heads + h - params.first_head) * params.queries + i - params.first_query;
            store_lse(at, lse_bits(top, total));
        }
    }
    #unroll
    for (var c = 0u; c < ROWS / OUT_ROWS; c++) {
        #unroll
        for (var r = 0u; r < OUT_ROWS; r++) {
            var row_factor = 1.0;
            if (NORMALIZED) {
                row_factor = fetch(factor, (c * OUT_ROWS + r) * ROW_LANES);
            }
            #unroll
            for (var y = 0u; y < VALUE_REGS; y++) {
                sums[(slot * OUT_ROWS + r) * VALUE_PITCH + lane + y * LANES]
                    = acc[(c * OUT_ROWS + r) * VALUE_REGS + y] * row_factor;
            }
        }
        workgroupBarrier();
        for (var n = thread; n < OUT_ROWS * VALUE_VECS_ALL; n += THREADS) {
            let vec = n % VALUE_VECS_ALL;
            let out_row = row0 + c * OUT_ROWS + n / VALUE_VECS_ALL;
            if (out_row <= last_row) {
                var value = vec4<f32>();
                for (var g = 0u; g < SLOTS; g++) {
                    value += sums[(g * OUT_ROWS + n / VALUE_VECS_ALL) * VALUE_PITCH + vec];
                }
                let base = params.o_base + split * params.rows * VALUE_DIM + workgroup.z * params.o_batch
                    + (workgroup.y * params.group + out_row % params.group) * params.o_head + (out_row / params.group) * params.o_seq;
                store_o4(base + vec * 4u, value, VALUE_DIM - vec * 4u);
            }
        }
        workgroupBarrier();
    }
}
