// What each segment of a sequence adds to the state, on cooperative matrices: the algorithm of `linear/chunk_state.wgsl`, where all
// tokens and channels of a head decay alike. The first of three dispatches; `linear/scan.wgsl` is the second,
// `linear/segment_cooperative.wgsl`, `linear/segment_elements.wgsl` or `linear/carried_elements.wgsl` the third.
//
//   S_p = Σ_j e^{Γ − G_j} φ(k_j) v_jᵀ        over the tokens j of segment p, G their running log-decay, Γ = G at the end
//
// One workgroup owns COLUMNS columns of one segment's state, in matrices of EDGE × EDGE of f32 sums, and takes ROWS tokens at
// a time, rounded to f16; those that come next are on their way meanwhile. Keys are decayed to the end of their ROWS tokens and
// the state by as many tokens, so that a key is never rounded after more decay than that. Where keys
// of f16 come eight at a time (`linear/tokens_eights.wgsl`) their decays are rounded to f16 too: a key x is off by 2^-10 of what it is
// then and 2^-25·(1 + |x|) at most, elsewhere by 2^-11 and 2^-25. A device that takes subnormal halves for 0 loses decays below 2^-14.
//
// Of a segment whose head decays, only tokens are taken that its end has not forgotten (`linear/forgotten.wgsl`). Heads that forget
// late take longest then, and all wait for them, so that long segments have two SECTIONS, workgroups of their own. The first one's
// sum is decayed to the segment's end, and not there if the second forgets all of it. On an NVIDIA H200, N = 16384, 32 heads with
// log-decays from −0.1 to 0: D = 128, segments of 2048, 81 µs with all tokens, 70 without what is forgotten, 47 in sections (and the
// scan 15 for 11); D = 64, segments of 1024, 45, 37, and 35 in sections (14 for 9), so that those are not cut.
//
// SUBGROUPS = STRIPS·SHARES subgroups own a part of the state each: STATE_BLOCKS·EDGE channels, VALUE_BLOCKS·EDGE columns.
//
// Workgroup memory, rows and pitches (in words of four elements):
//   factors, f16   φ(k) [ROWS][HEAD_PITCH], v [ROWS][VALUE_PITCH]
//   sums, f32      matrices on their way to storage, STATES_STAGED of each subgroup
#import linear/params
#import linear/span
#import linear/features
#import linear/expm1
#import linear/cooperative_state
#import linear/forgotten

const K_AT = 0u;
const V_AT = ROWS * HEAD_PITCH;
const FACTORS = V_AT + ROWS * VALUE_PITCH;
const SUMS = SUBGROUPS * STATES_STAGED * MATRIX;

const_assert SECTIONS == 1u || !NORMALIZE;

@group(0) @binding(9) var<storage, read_write> totals: array<f32>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(subgroup_id) subgroup_id: u32,
        @builtin(subgroup_size) subgroup_size: u32, @builtin(subgroup_invocation_id) lane: u32) {
    // Neighbours by this number are neighbours in a subgroup, which by the invocation index they need not be.
    let thread = subgroup_id * subgroup_size + lane;
    let subgroup = subgroup_id % SUBGROUPS;
    let strip = subgroup / SHARES;
    let share = subgroup % SHARES;
    const TILES = (VALUE_VECS_ALL + VALUE_WORDS - 1u) / VALUE_WORDS;
    let first_vec = (workgroup.x % TILES) * VALUE_WORDS;
    let section = workgroup.x / TILES % SECTIONS;
    let span = span_of(workgroup.z, workgroup.x / TILES / SECTIONS);
    let batch = select(workgroup.z, 0u, DOCUMENTS);
    let head = params.first_head + workgroup.y;
    let kv = head / params.group - params.first_head / params.group;
    let k_from = params.k_base + batch * params.k_batch + kv * params.k_head;
    let v_from = params.v_base + batch * params.v_batch + kv * params.v_head;
    begin_decay(batch, workgroup.y);

    // Tokens of the segment behind the section, its own, and of those the first that counts, in whole rounds.
    let all = span.end - span.start;
    let second = min(all, params.segment / 2u);
    let behind = select(0u, second, section + 1u < SECTIONS);
    let start = select(span.start, span.end - second, section > 0u);
    // As the scan has it, lest it read what is not there.
    let counts = section + 1u == SECTIONS || remembers_first_section(chunk_decay(all, 0u).x);
    let end = select(start, span.end - behind, counts);
    let forgotten = f32(all) - memory();
    var first = start;
    if (!NORMALIZE) {
        first += u32(clamp(forgotten - f32(start - span.start), 0.0, f32(end - start))) / ROWS * ROWS;
    }

    var state: array<MatrixC, STATES>;
    #unroll if MATRICES_WRITTEN_OUT
    for (var e = 0u; e < STATES; e++) {
        state[e] = MatrixC();
    }
    if (NORMALIZE) {
        for (var vec = thread; vec < HEAD_QUADS; vec += THREADS) {
            normalizer[vec] = vec4<f32>();
        }
    }
    var keys: HeldKeys;
    var values: HeldValues;
    if (first < end) {
        let count = min(ROWS, end - first);
        keys = load_keys(k_from, kv, first, count, thread);
        values = load_values(v_from, first, count, first_vec, thread);
    }
    for (var t0 = first; t0 < end; t0 += ROWS) {
        let count = min(ROWS, end - t0);
        let next = min(t0 + ROWS, end - 1u);
        let next_count = min(ROWS, end - next);
        store_keys(keys, true, count, thread);
        store_values(values, thread);
        workgroupBarrier();
        keys = load_keys(k_from, kv, next, next_count, thread);
        values = load_values(v_from, next, next_count, first_vec, thread);
        if (DECAYS) {
            let change = exp_of(chunk_decay(count, 0u).x);
            #unroll if MATRICES_WRITTEN_OUT
            for (var e = 0u; e < STATES; e++) {
                state[e] = state[e] * change;
            }
        }
        add_tokens(&state, strip, share);
        update_normalizer(count, thread);
        workgroupBarrier();
    }

    let sequence = select(span.sequence, 0u, DOCUMENTS);
    let out_from = params.out_base + sequence * params.out_sequence + workgroup.y * params.out_head + span.slot * params.out_segment
        + section * HEAD_DIM * VALUE_DIM;
    if (SECTIONS > 1u) {
        let change = exp_of(chunk_decay(behind, 0u).x);
        #unroll if MATRICES_WRITTEN_OUT
        for (var e = 0u; e < STATES; e++) {
            state[e] = state[e] * change;
        }
    }
    // A loop in place of a branch: naga takes matrices for used where invocations part.
    for (var stored = counts; stored; stored = false) {
        store_matrices(&state, out_from, first_vec, subgroup, thread);
    }
    if (NORMALIZE) {
        // Without tokens nothing was waited for yet.
        workgroupBarrier();
    }
    if (first_vec == 0u && section + 1u == SECTIONS) {
        store_normalizer(out_from, thread);
        if (thread == 0u) {
            let to = params.total_base + sequence * params.total_sequence + workgroup.y * params.total_head + span.slot * params.total_segment;
            totals[to] = chunk_decay(span.end - span.start, 0u).x;
        }
    }
}
