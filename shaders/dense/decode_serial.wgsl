// Attention of few queries over many keys, without barriers or workgroup memory: for software GPUs, where a barrier
// suspends every invocation and makes each of its loads several times as dear.
//
//   o_i = Σ_j w(s_ij) v_j,   s_ij = hooks(scale · q_i·k_j),   w = softmax or sigmoid
//
// One invocation takes ROWS rows of a KV head (its query heads times all queries) and one of `params.splits` equal
// shares of the keys, one key after the other; neighbouring invocations take neighbouring shares, then neighbouring rows.
// Where keys are listed, the rows of an invocation share a list. Partial outputs and their log-sum-exp are joined by `merge/merge.wgsl`, unless there is one share.
//
//   m, l       running maximum and sum of a row
//   acc        output rows relative to m; rescaled only when m grows, which soon becomes rare
//
// A row that sees no key gives o = 0, lse = −inf.

#import shared/numerics
#import dense/params
#import shared/output
#import dense/position
#import dense/visibility
#import dense/score

const HEAD_VECS = (HEAD_DIM + 3u) / 4u;
const VALUE_VECS = (VALUE_DIM + 3u) / 4u;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let index = workgroup.x * THREADS + thread;
    let split = index % params.splits;
    let b = params.first_batch + workgroup.z;
    let kv_head = params.first_head / params.group + workgroup.y;
    // Row r of the KV head is query r / group of query head kv_head·group + r % group.
    let row_count = (params.end_query - params.first_query) * params.group;
    let row0 = (index / params.splits) * ROWS;
    if (row0 >= row_count) {
        return;
    }
    let last_row = min(row0 + ROWS, row_count) - 1u;
    let k_from = params.k_base + workgroup.z * params.k_batch + workgroup.y * params.k_head;
    let v_from = params.v_base + workgroup.z * params.v_batch + workgroup.y * params.v_head;

    let first = row_of(b, params.first_query + row0 / params.group);
    let last = row_of(b, params.first_query + last_row / params.group);
    let one_document = !HAS_DOCUMENTS || (first.lo == last.lo && first.hi == last.hi);
    // Tiles of one key.
    let h0 = kv_head * params.group + row0 % params.group;
    let list = list_of(b, h0, params.first_query + row0 / params.group, index / params.splits);
    let tiles = tiles_to_visit(list, first, last, one_document, 1u);
    let last_key = u32(max(keys_of(b), 1) - 1);
    let all_keys = tile_count(tiles);
    let share = (all_keys + params.splits - 1u) / params.splits;
    let from_key = min(split * share, all_keys);
    let to_key = min(from_key + share, all_keys);

    var queries: array<vec4<f32>, ROWS * HEAD_VECS>;
    var acc: array<vec4<f32>, ROWS * VALUE_VECS>;
    var m: array<f32, ROWS>;
    var l: array<f32, ROWS>;
    #unroll
    for (var r = 0u; r < ROWS; r++) {
        let row = min(row0 + r, last_row);
        let base = params.q_base + workgroup.z * params.q_batch
            + (workgroup.y * params.group + row % params.group) * params.q_head + (row / params.group) * params.q_seq;
        #unroll
        for (var x = 0u; x < HEAD_VECS; x++) {
            queries[r * HEAD_VECS + x] = q4(base + x * 4u, HEAD_DIM - x * 4u) * params.q_scale;
        }
        #unroll
        for (var y = 0u; y < VALUE_VECS; y++) {
            acc[r * VALUE_VECS + y] = vec4<f32>();
        }
        m[r] = MASKED;
        l[r] = 0.0;
        if (HAS_SINKS && split == 0u) {
            m[r] = bitcast<f32>(small_word(params.sinks_at + kv_head * params.group + row % params.group)) * LOG2_E;
            l[r] = 1.0;
        }
    }

    for (var n = from_key; n < to_key; n++) {
        let t = tile_at(tiles, n);
        let place = place_of(list, t, 1u);
        let whole = whole_tile(list, false, first, last, one_document, t, place, place + 1u);
        let j = key_at(list, place);
        // A place without a key is masked; what is read for it does not matter.
        let stored = min(j, last_key);

        var s: array<f32, ROWS>;
        #unroll
        for (var r = 0u; r < ROWS; r++) {
            s[r] = 0.0;
        }
        #unroll
        for (var x = 0u; x < HEAD_VECS; x++) {
            let key = k4(k_from + stored * params.k_seq + x * 4u, HEAD_DIM - x * 4u);
            #unroll
            for (var r = 0u; r < ROWS; r++) {
                let query = queries[r * HEAD_VECS + x];
                s[r] = fma(query.x, key.x, s[r]);
                s[r] = fma(query.y, key.y, s[r]);
                s[r] = fma(query.z, key.z, s[r]);
                s[r] = fma(query.w, key.w, s[r]);
            }
        }

        // From scores to weights, in place.
        #unroll
        for (var r = 0u; r < ROWS; r++) {
            if (SCORE_HOOKS || !whole) {
                let row = min(row0 + r, last_row);
                let h = kv_head * params.group + row % params.group;
                let i = params.first_query + row / params.group;
                s[r] = masked_score(s[r], whole, b, h, i, j, row_of(b, i));
            }
            if (NORMALIZED && s[r] > m[r]) {
                let shrink = exp2(m[r] - s[r]);
                m[r] = s[r];
                l[r] *= shrink;
                #unroll
                for (var y = 0u; y < VALUE_VECS; y++) {
                    acc[r * VALUE_VECS + y] *= shrink;
                }
            }
            s[r] = select(weight(s[r], m[r]), 0.0, s[r] < MASKED_BELOW);
            l[r] += s[r];
        }

        #unroll
        for (var y = 0u; y < VALUE_VECS; y++) {
            let value = v4(v_from + stored * params.v_seq + y * 4u, VALUE_DIM - y * 4u);
            #unroll
            for (var r = 0u; r < ROWS; r++) {
                acc[r * VALUE_VECS + y] = fma(vec4<f32>(s[r]), value, acc[r * VALUE_VECS + y]);
            }
        }
    }

    #unroll
    for (var r = 0u; r < ROWS; r++) {
        let row = row0 + r;
        if (row <= last_row) {
            var factor = 1.0;
            if (NORMALIZED) {
                factor = select(0.0, 1.0 / l[r], l[r] > 0.0);
                if (HAS_LSE) {
                    let h = kv_head * params.group + row % params.group;
                    let at = params.lse_base + split * params.rows
                        + (workgroup.z * params.heads + h - params.first_head) * params.queries + row / params.group;
                    store_lse(at, lse_bits(m[r], l[r]));
                }
            }
            let base = params.o_base + split * params.rows * VALUE_DIM + workgroup.z * params.o_batch
                + (workgroup.y * params.group + row % params.group) * params.o_head + (row / params.group) * params.o_seq;
            #unroll
            for (var y = 0u; y < VALUE_VECS; y++) {
                store_o4(base + y * 4u, acc[r * VALUE_VECS + y] * factor, VALUE_DIM - y * 4u);
            }
        }
    }
}
