// Scores of keys or blocks for lists of few rows, without barriers or workgroup memory: for software GPUs, where a barrier
// makes each load several times as dear.
//
//   s_e = max over the list's rows i, and over the places p of entry e, of  score(i, p)
//
// One invocation takes ROWS rows, whose queries stay in registers, and every `params.splits`-th entry; neighbouring
// invocations take neighbouring entries, then neighbouring rows. With ROW_LISTS every row is a list of its own; otherwise
// the rows are one list, all of it. Places and entries: `topk/score.wgsl`.

#import shared/numerics
#import dense/params
#import dense/position
#import dense/visibility
#import topk/rows

const SCORE_UNIT = 1.0;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let index = workgroup.x * THREADS + thread;
    let b = params.first_batch + workgroup.z;
    let head = workgroup.y;
    let all_rows = (params.end_query - params.first_query) * heads_in_turn();
    let list_rows = select(params.query_block * heads_in_turn(), ROWS, ROW_LISTS);
    let row0 = index / params.splits * list_rows;
    if (row0 >= all_rows) {
        return;
    }
    let last_row = min(row0 + list_rows, all_rows) - 1u;
    let q_from = params.q_base + workgroup.z * params.q_batch;
    let k_from = params.k_base + workgroup.z * params.k_batch
        + (head_of(head, 0u) / params.group - params.first_head / params.group) * params.k_head;
    let first = row_of(b, query_of(row0));
    let last = row_of(b, query_of(last_row));
    let one_document = !HAS_DOCUMENTS || (first.lo == last.lo && first.hi == last.hi);

    var queries: array<vec4<f32>, ROWS * HEAD_VECS>;
    #unroll
    for (var r = 0u; r < ROWS; r++) {
        let at = query_at(q_from, head, min(row0 + r, last_row));
        #unroll
        for (var x = 0u; x < HEAD_VECS; x++) {
            queries[r * HEAD_VECS + x] = q_vec(at, x);
        }
    }

    for (var entry = index % params.splits; entry < params.list_entries; entry += params.splits) {
        var best: array<f32, ROWS>;
        #unroll
        for (var r = 0u; r < ROWS; r++) {
            best[r] = MASKED;
        }
        let end = min((entry + 1u) * BLOCK_SIZE, u32(max(keys_of(b), 0)));
        let end_place = (end + PLACE_KEYS - 1u) / PLACE_KEYS;
        for (var place = entry * ENTRY_PLACES; place < end_place; place++) {
            var s: array<f32, ROWS>;
            #unroll
            for (var r = 0u; r < ROWS; r++) {
                s[r] = 0.0;
            }
            #unroll
            for (var x = 0u; x < HEAD_VECS; x++) {
                let key = k_vec(k_from + place * params.k_seq, x);
                #unroll
                for (var r = 0u; r < ROWS; r++) {
                    let query = queries[r * HEAD_VECS + x];
                    s[r] = fma(query.x, key.x, s[r]);
                    s[r] = fma(query.y, key.y, s[r]);
                    s[r] = fma(query.z, key.z, s[r]);
                    s[r] = fma(query.w, key.w, s[r]);
                }
            }
            let begin = i32(place * PLACE_KEYS);
            let whole = one_document && !ELEMENT_MASK && sees_all(first, last, begin, begin + i32(PLACE_KEYS));
            #unroll
            for (var r = 0u; r < ROWS; r++) {
                let row_index = min(row0 + r, last_row);
                let i = query_of(row_index);
                let row = row_of(b, i);
                let score = place_score(s[r], whole, b, head_of(head, row_index), i, place, row);
                best[r] = max(best[r], or_kept(score, place, row));
            }
        }

        if (ROW_LISTS) {
            #unroll
            for (var r = 0u; r < ROWS; r++) {
                if (row0 + r <= last_row) {
                    store_score(scores_at(b, head_of(head, row0 + r), query_of(row0 + r)) + entry, best[r]);
                }
            }
        } else {
            var top = best[0];
            #unroll
            for (var r = 1u; r < ROWS; r++) {
                top = max(top, best[r]);
            }
            store_score(scores_at(b, head_of(head, row0), query_of(row0)) + entry, top);
        }
    }
}
