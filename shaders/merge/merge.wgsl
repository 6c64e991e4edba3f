// Joins partial attention results over disjoint sets of keys.
//
//   softmax:  m = max_p lse_p,  o = Σ_p e^(lse_p − m) o_p / Σ_p e^(lse_p − m),  lse = m + ln Σ_p e^(lse_p − m)
//   additive: o = Σ_p o_p       (sigmoid and other weightings without a normaliser)
//
// PART_LANES invocations share four neighbouring elements of one row, each with every PART_LANES-th part, and meet in workgroup
// memory. Each has the loads of PART_BATCH parts on their way at a time: a merge of few rows takes as long as the loads that wait for
// one another. x runs over the vectors of a row, then the rows, in a grid of two dimensions where one is too short. A row none of
// whose parts saw a key gives o = 0, lse = −inf. Weights are relative to the largest lse so far, so that an infinite o of a part whose
// weight comes to nothing against a later one makes the row NaN.
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

const VECS = (DIM + 3u) / 4u;
// Vectors of o that a workgroup takes.
const OUTPUTS = THREADS / PART_LANES;

const_assert THREADS % PART_LANES == 0u;

var<workgroup> tops: array<f32, THREADS>;
var<workgroup> sums: array<f32, THREADS>;
var<workgroup> values: array<vec4<f32>, THREADS>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(local_invocation_index) thread: u32) {
    let index = (workgroup.y * grid.x + workgroup.x) * OUTPUTS + thread % OUTPUTS;
    let row = index / VECS;
    let vec = index % VECS;
    var top = MASKED;
    var sum = 0.0;
    var value = vec4<f32>();
    if (row < params.rows) {
        for (var start = thread / OUTPUTS; start < params.parts; start += PART_BATCH * PART_LANES) {
            var lses: array<f32, PART_BATCH>;
            var loaded: array<vec4<f32>, PART_BATCH>;
            #unroll
            for (var n = 0u; n < PART_BATCH; n++) {
                let p = min(start + n * PART_LANES, params.parts - 1u);
                lses[n] = part_lse(params.parts_lse_base + p * params.part_rows + row);
                loaded[n] = part_o4(params.parts_o_base + (p * params.part_rows + row) * DIM + vec * 4u, DIM - vec * 4u);
            }
            if (!ADDITIVE) {
                var next = top;
                #unroll
                for (var n = 0u; n < PART_BATCH; n++) {
                    next = max(next, lses[n]);
                }
                let shrink = exp2((top - next) * LOG2_E);
                sum *= shrink;
                value *= shrink;
                top = next;
            }
            #unroll
            for (var n = 0u; n < PART_BATCH; n++) {
                var w = 1.0;
                if (!ADDITIVE) {
                    w = select(exp2((lses[n] - top) * LOG2_E), 0.0, lses[n] < MASKED_BELOW);
                }
                w = select(0.0, w, start + n * PART_LANES < params.parts);
                sum += w;
                // What a part holds that saw nothing may be anything. One that is not a number makes the row so.
                value += select(vec4<f32>(), w * loaded[n], w != 0.0);
            }
        }
    }
    if (PART_LANES > 1u) {
        tops[thread] = top;
        sums[thread] = sum;
        values[thread] = value;
        workgroupBarrier();
        sum = 0.0;
        value = vec4<f32>();
        #unroll
        for (var n = 0u; n < PART_LANES; n++) {
            top = max(top, tops[n * OUTPUTS + thread % OUTPUTS]);
        }
        #unroll
        for (var n = 0u; n < PART_LANES; n++) {
            let at = n * OUTPUTS + thread % OUTPUTS;
            let w = exp2((tops[at] - top) * LOG2_E);
            sum += w * sums[at];
            value += w * values[at];
        }
    }
    if (row >= params.rows || thread >= OUTPUTS) {
        return;
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
