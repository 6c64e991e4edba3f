// What each segment of a sequence adds to the state, from zero: the first of the three dispatches in which segments
// are computed side by side; `linear/scan.wgsl` is the second, `linear/chunk.wgsl` with SPLIT the third.
//
//   S_p = Σ_j e^{Γ − G_j} φ(k_j) v_jᵀ        over the tokens j of segment p, G their running log-decay, Γ = G at the end
//
// One workgroup owns the columns VALUE_PITCH·tile and following of one segment's state and takes a chunk of tokens at a
// time; `linear/update.wgsl` has the work split. With STATE_ONLY the segment adds nothing and only its total log-decay
// matters. A total is written for every segment of the grid, by the first column tile.
#import linear/params
#import linear/span
#import linear/update

@group(0) @binding(9) var<storage, read_write> totals: array<f32>;

const UPDATE_AT = 0u;
const TOTAL_QUADS = select(1u, HEAD_QUADS, CHANNEL_DECAY);

var<workgroup> tile: array<vec4<f32>, UPDATE_WORDS>;
var<workgroup> total: array<vec4<f32>, TOTAL_QUADS>;

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
    let k_from = params.k_base + batch * params.k_batch + kv * params.k_head;
    let v_from = params.v_base + batch * params.v_batch + kv * params.v_head;
    begin_decay(batch, workgroup.y);

    var state: array<vec4<f32>, STATE_VECS>;
    if (NORMALIZE) {
        for (var vec = thread; vec < HEAD_QUADS; vec += THREADS) {
            normalizer[vec] = vec4<f32>();
        }
    }
    for (var vec = thread; vec < TOTAL_QUADS; vec += THREADS) {
        total[vec] = vec4<f32>();
    }
    for (var t0 = span.start; t0 < span.end; t0 += CHUNK_TOKENS) {
        let count = min(CHUNK_TOKENS, span.end - t0);
        begin_chunk(t0, count, thread);
        for (var vec = thread; vec < TOTAL_QUADS; vec += THREADS) {
            total[vec] += chunk_decay(count, vec);
        }
        if (!STATE_ONLY) {
            decay_state(&state, count, group);
            var keys = load_keys(k_from, kv, t0, count, 0u, thread);
            var values = load_values(v_from, t0, count, 0u, first_vec, thread);
            for (var c = 0u; c * TOKENS < count; c++) {
                workgroupBarrier();
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
                        add_token(&state, quad * 4u + 0u, group, lane);
                        add_token(&state, quad * 4u + 1u, group, lane);
                        add_token(&state, quad * 4u + 2u, group, lane);
                        add_token(&state, quad * 4u + 3u, group, lane);
                    }
                }
            }
        }
        workgroupBarrier();
    }

    let sequence = select(span.sequence, 0u, DOCUMENTS);
    let out_from = params.out_base + sequence * params.out_sequence + workgroup.y * params.out_head + span.slot * params.out_segment;
    store_state(&state, out_from, first_vec, group, lane);
    workgroupBarrier();
    if (first_vec == 0u) {
        store_normalizer(out_from, thread);
        let to = params.total_base + sequence * params.total_sequence + workgroup.y * params.total_head + span.slot * params.total_segment;
        for (var d = thread; d < select(1u, HEAD_DIM, CHANNEL_DECAY); d += THREADS) {
            totals[to + d] = total[d / 4u][d % 4u];
        }
    }
}
