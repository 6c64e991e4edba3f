// What the two kernels of segments on cooperative matrices share, `linear/segment_cooperative.wgsl` and
// `linear/segment_elements.wgsl`, whose headers have the meaning of each size: sizes that follow from the tile, powers of two that
// keep factors inside f16, φ(q) on its way to matrices, and rows of S.
#import linear/params
#import linear/features
#import linear/causal_weights
#import linear/normalizer
#import linear/span
#import shared/strip_tile
#import shared/staged_keys
#import shared/subgroup_top

const KEY_BLOCKS = KEYS / EDGE;
const HEAD_VECS = HEAD_QUADS;
const VALUE_VECS = (VALUE_DIM + 3u) / 4u;
const VALUE_VECS_ALL = VALUE_VECS;
const STAGING_WRITTEN_OUT = MATRICES_WRITTEN_OUT;

// Places are in words of four elements.
const V_AT = K_SLICE;
const STAGE = K_SLICE + V_SLICE;

// Rows of S are staged in S_PARTS parts, as many at once as workgroup memory and registers have room for.
const S_BLOCKS = HEAD_BLOCKS / S_PARTS;

// Words of a part of φ(q), and of a part of S, that an invocation loads.
const Q_LOADS = (STRIPS * EDGE * Q_WORDS + THREADS - 1u) / THREADS;
const STATE_LOADS = (S_BLOCKS * EDGE * VALUE_WORDS + THREADS - 1u) / THREADS;

const_assert KEYS % EDGE == 0u;
const_assert HEAD_BLOCKS % S_PARTS == 0u && S_BLOCKS * EDGE * VALUE_PITCH <= FACTORS;

// Heads, for feature maps.
var<private> head: u32;
var<private> kv_head: u32;

// Keys are counted from the segment's first token.
alias List = u32;

fn key_at(first: u32, p: u32) -> u32 {
    return first + p;
}

// Bits of the largest magnitudes of a tile, which are ordered as the numbers are. Of three rounds: one that is read while the next
// one's is written by those who are ahead, and one made ready. The fourth is the kernel's.
var<workgroup> told: array<atomic<u32>, 4>;

// Before a barrier: the largest magnitude that this invocation has met.
fn tell(top: f32, lane: u32, lanes: u32, slot: u32) {
    let all = subgroup_top(top, lanes);
    if (lane == 0u) {
        atomicMax(&told[slot], bitcast<u32>(all));
    }
}

// After that barrier: the largest of all.
fn told_of(slot: u32) -> f32 {
    return bitcast<f32>(atomicLoad(&told[slot]));
}

// The same, of a round.
fn all_told(thread: u32, round: u32) -> f32 {
    // Read before the barrier, and written to behind the next one.
    if (thread == 0u) {
        atomicStore(&told[(round + 2u) % 3u], 0u);
    }
    return told_of(round % 3u);
}

fn largest_of(four: vec4<f32>) -> f32 {
    let all = abs(four);
    return max(max(all.x, all.y), max(all.z, all.w));
}

// The least power of two so far, and what the one in use may exceed it by: 2^80. Factors times their power are below 2^16, so that what
// they summed up to is below 2^48, and stays below 2^128 when it is multiplied by that.
var<private> least_power: f32 = 1.0;
const MOST_RISE = 1208925819614629174706176.0;

// A power of two for what is bounded so: the one so far, where f16 has room for it and does not lose much.
fn power_after(power: f32, bound: f32) -> f32 {
    if (leaves_halves(power, bound)) {
        let next = min(power_for(bound), least_power * MOST_RISE);
        least_power = min(least_power, next);
        return next;
    }
    return power;
}

// A workgroup's tile of a segment.
struct Tile {
    // Its first token, counted from the segment's.
    i0: u32,
    // The segment, and its tokens.
    span: Span,
    count: u32,
    kv: u32,
    q_from: u32,
    k_from: u32,
    v_from: u32,
    o_from: u32,
}

fn tile_of(workgroup: vec3<u32>) -> Tile {
    // Tiles of a segment, the last ones, which see most, first.
    let tiles = params.segment / ROWS;
    let i0 = (tiles - 1u - workgroup.x % tiles) * ROWS;
    let span = span_of(workgroup.z, workgroup.x / tiles);
    let count = span.end - span.start;
    let batch = select(workgroup.z, 0u, DOCUMENTS);
    head = params.first_head + workgroup.y;
    let kv = head / params.group - params.first_head / params.group;
    return Tile(i0, span, count, kv,
        params.q_base + batch * params.q_batch + workgroup.y * params.q_head,
        params.k_base + batch * params.k_batch + kv * params.k_head,
        params.v_base + batch * params.v_batch + kv * params.v_head,
        params.o_base + batch * params.o_batch + workgroup.y * params.o_head);
}

// Where the state before the segment is, and whether there is one.
struct State {
    at: u32,
    known: bool,
}

// For a tile that has tokens; before a barrier.
fn begin_tile(tile: Tile, workgroup: vec3<u32>, thread: u32) -> State {
    begin_decay(select(workgroup.z, 0u, DOCUMENTS), workgroup.y);
    kv_head = tile.kv;
    // Non-causal, every segment meets the whole sequence's state, which lies where its first segment's would.
    let slot = select(tile.span.first, tile.span.slot, CAUSAL);
    let in_from = params.in_base + select(tile.span.sequence, 0u, DOCUMENTS) * params.in_sequence + workgroup.y * params.in_head
        + slot * params.in_segment;
    let known = !DOCUMENTS || tile.span.sequence < params.documents;
    load_normalizer(in_from, known, thread);
    if (thread < 4u) {
        atomicStore(&told[thread], 0u);
    }
    strip_start(thread);
    return State(in_from, known);
}

fn scale_output(o: ptr<function, array<MatrixC, OUTPUTS>>, factor: f32) {
    // A loop in place of a branch, because matrices are worked on in control flow that is the same for a whole subgroup, which a
    // branch would have to prove.
    for (var change = subgroupAny(factor != 1.0); change; change = false) {
        #unroll if MATRICES_WRITTEN_OUT
        for (var e = 0u; e < OUTPUTS; e++) {
            (*o)[e] = (*o)[e] * factor;
        }
    }
}

// What an invocation takes care of, `words` of STRIPS · EDGE · Q_WORDS, of all parts of the queries: a part is EDGE rows of each strip,
// Q_WORDS of each row.
fn load_queries(base: u32, start: u32, i0: u32, count: u32, words: Words) -> array<Held, ROW_BLOCKS * Q_PARTS * Q_LOADS> {
    var loaded: array<Held, ROW_BLOCKS * Q_PARTS * Q_LOADS>;
    #unroll if MATRICES_WRITTEN_OUT
    for (var part = 0u; part < ROW_BLOCKS * Q_PARTS; part++) {
        #unroll if MATRICES_WRITTEN_OUT
        for (var u = 0u; u < Q_LOADS; u++) {
            let w = words.first + u * words.step;
            let row = w / Q_WORDS;
            let vec = part % Q_PARTS * Q_WORDS + w % Q_WORDS;
            // Rows past the end repeat the last one and are not written.
            let i = min(i0 + (row / EDGE) * STRIP_ROWS + part / Q_PARTS * EDGE + row % EDGE, count - 1u);
            if (HEAD_WORDS == HEAD_VECS || vec < HEAD_VECS) {
                loaded[part * Q_LOADS + u] = q_four(base, start + i, vec);
            }
        }
    }
    return loaded;
}

// Through workgroup memory to matrices, which is free.
fn queries_to_matrices(q: ptr<function, array<MatrixA, QUERIES>>, loaded: array<Held, ROW_BLOCKS * Q_PARTS * Q_LOADS>, strip: u32, words: Words) {
    #unroll if MATRICES_WRITTEN_OUT
    for (var part = 0u; part < ROW_BLOCKS * Q_PARTS; part++) {
        strip_barrier();
        #unroll if MATRICES_WRITTEN_OUT
        for (var u = 0u; u < Q_LOADS; u++) {
            let w = words.first + u * words.step;
            if (STRIPS * EDGE * Q_WORDS % THREADS == 0u || w < words.end) {
                put_held((w / Q_WORDS) * Q_PITCH + w % Q_WORDS, loaded[part * Q_LOADS + u], 1.0, 0u);
            }
        }
        strip_barrier();
        #unroll if MATRICES_WRITTEN_OUT
        for (var d = 0u; d < Q_BLOCKS; d++) {
            (*q)[part * Q_BLOCKS + d] = coopLoadT<MatrixA>(&factors[(strip * EDGE * Q_PITCH + d * EDGE_WORDS) * WORD], Q_PITCH * WORD);
        }
    }
}

// A part of the rows of S.
fn load_state_rows(base: u32, known: bool, part: u32, thread: u32) -> array<vec4<f32>, STATE_LOADS> {
    var loaded: array<vec4<f32>, STATE_LOADS>;
    #unroll if MATRICES_WRITTEN_OUT
    for (var u = 0u; u < STATE_LOADS; u++) {
        let w = thread + u * THREADS;
        let row = part * S_BLOCKS * EDGE + w / VALUE_WORDS;
        let vec = w % VALUE_WORDS;
        if (known && row < min((part + 1u) * S_BLOCKS * EDGE, HEAD_DIM) && vec < VALUE_VECS) {
            loaded[u] = state_in4(base + row * VALUE_DIM + vec * 4u, VALUE_DIM - vec * 4u);
        }
    }
    return loaded;
}

// O = φ(q)ᵀ S, its rows not yet decayed, times a power of two, which it returns; the first two parts of S are loaded already.
fn add_state(o: ptr<function, array<MatrixC, OUTPUTS>>, q: ptr<function, array<MatrixA, QUERIES>>, first: array<vec4<f32>, STATE_LOADS>, second: array<vec4<f32>, STATE_LOADS>, base: u32, known: bool, round: ptr<function, u32>, lane: u32, lanes: u32, thread: u32) -> f32 {
    var power = 1.0;
    var s_held = first;
    var s_next = second;
    #unroll if MATRICES_WRITTEN_OUT
    for (var part = 0u; part < S_PARTS; part++) {
        var top = 0.0;
        #unroll if MATRICES_WRITTEN_OUT
        for (var u = 0u; u < STATE_LOADS; u++) {
            top = max(top, largest_of(s_held[u]));
        }
        (*round)++;
        tell(top, lane, lanes, *round % 3u);
        workgroupBarrier();
        let next_power = power_after(power, all_told(thread, *round));
        #unroll if MATRICES_WRITTEN_OUT
        for (var u = 0u; u < STATE_LOADS; u++) {
            let w = thread + u * THREADS;
            if (S_BLOCKS * EDGE * VALUE_WORDS % THREADS == 0u || w < S_BLOCKS * EDGE * VALUE_WORDS) {
                put_factors((w / VALUE_WORDS) * VALUE_PITCH + w % VALUE_WORDS, vec4<f16>(s_held[u] * next_power));
            }
        }
        s_held = s_next;
        if (part + 2u < S_PARTS) {
            s_next = load_state_rows(base, known, part + 2u, thread);
        }
        workgroupBarrier();
        scale_output(o, next_power / power);
        power = next_power;
        #unroll if MATRICES_WRITTEN_OUT
        for (var d = 0u; d < S_BLOCKS; d++) {
            #unroll if MATRICES_WRITTEN_OUT
            for (var n = 0u; n < VALUE_BLOCKS; n++) {
                let rows = coopLoadT<MatrixB>(&factors[(d * EDGE * VALUE_PITCH + n * EDGE_WORDS) * WORD], VALUE_PITCH * WORD);
                #unroll if MATRICES_WRITTEN_OUT
                for (var r = 0u; r < ROW_BLOCKS; r++) {
                    (*o)[r * VALUE_BLOCKS + n] = coopMultiplyAdd((*q)[r * HEAD_BLOCKS + part * S_BLOCKS + d], rows, (*o)[r * VALUE_BLOCKS + n]);
                }
            }
        }
    }
    return power;
}
