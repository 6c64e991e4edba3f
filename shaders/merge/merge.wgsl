// Joins partial attention results over disjoint sets of keys.
//
//   softmax:  m = max_p lse_p,  o = Σ_p e^(lse_p − m) o_p / Σ_p e^(lse_p − m),  lse = m + ln Σ_p e^(lse_p − m)
//   additive: o = Σ_p o_p       (sigmoid and other weightings without a normaliser)
//
// One invocation takes four neighbouring elements of one row; x runs over the vectors of a row, then the rows, in a
// grid of two dimensions where one is too short. A row none of whose parts saw a key gives o = 0, lse = −inf.
//
//   parts_o     [parts, batch, heads, queries, dim], rows contiguous
//   parts_lse   [parts, batch, heads, queries], as bits: −inf is compared as such
#import shared/numerics

struct Params {
    rows: u32,
    part_rows: u32,
    parts: u32,
    heads: u32,

    queries: u32,
    o_batch: u32,
    o_head: u32,
    o_seq: u32,

    o_base: u32,
    lse_base: u32,
    parts_o_base: u32,
    parts_lse_base: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> parts_o: array<Unit>;
@group(0) @binding(4) var<storage, read_write> o: array<OutputUnit>;

const THREADS = 64u;
const VECS = (DIM + 3u) / 4u;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(local_invocation_index) thread: u32) {
    let index = (workgroup.y * grid.x + workgroup.x) * THREADS + thread;
    let row = index / VECS;
    let vec = index % VECS;
    if (row >= params.rows) {
        return;
    }
    var top = MASKED;
    if (!ADDITIVE) {
        for (var p = 0u; p < params.parts; p++) {
            top = max(top, part_lse(params.parts_lse_base + p * params.part_rows + row));
        }
    }
    var sum = 0.0;
    var value = vec4<f32>();
    for (var p = 0u; p < params.parts; p++) {
        var w = 1.0;
        if (!ADDITIVE) {
            let lse = part_lse(params.parts_lse_base + p * params.part_rows + row);
            w = select(exp2((lse - top) * LOG2_E), 0.0, lse < MASKED_BELOW);
        }
        sum += w;
        // A part that saw nothing is not read: what it holds may be anything. One that is not a number makes the row so.
        if (w != 0.0) {
            value += w * part_o4(params.parts_o_base + (p * params.part_rows + row) * DIM + vec * 4u, DIM - vec * 4u);
        }
    }
    if (!ADDITIVE) {
        value *= select(1.0 / sum, 0.0, sum <= 0.0);
        if (vec == 0u) {
            let lse = top + log2(select(sum, 1.0, sum <= 0.0)) * LN_2;
            store_lse(params.lse_base + row, select(bitcast<u32>(lse), NEGATIVE_INFINITY_BITS, sum <= 0.0));
        }
    }
    let i = row % params.queries;
    let h = (row / params.queries) % params.heads;
    let b = row / (params.queries * params.heads);
    store_o4(params.o_base + b * params.o_batch + h * params.o_head + i * params.o_seq + vec * 4u, value, DIM - vec * 4u);
}
