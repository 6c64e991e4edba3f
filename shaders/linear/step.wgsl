// Linear attention of one token or a few per sequence: the recurrence itself, the state read and written once a token.
//
//   S ← e^{g} ⊙ S + φ(k) vᵀ,   o = scale · φ(q)ᵀ S        (z ← e^{g} ⊙ z + φ(k),  o / (scale·φ(q)·z + ε))
//
// One workgroup owns LANES × 4 columns of one head's state, or with a normaliser all of them. Invocation (group g, lane
// c) takes four columns and the rows g, g + GROUPS, …: it reads its part of the state, updates it, writes it and adds up
// its share of the output, which the groups then join through workgroup memory. With one group there is no
// barrier: software GPUs, to which barriers are dear.
//
// After the first token the state is read back from where it was written, each element by the invocation that wrote it:
// where there are several tokens, there must be a final state.
#import linear/params
#import shared/output
#import linear/features
#import linear/expm1

const THREADS = GROUPS * LANES;
const VALUE_VECS_ALL = (VALUE_DIM + 3u) / 4u;
const TILES = (VALUE_VECS_ALL + LANES - 1u) / LANES;

var<workgroup> shares: array<vec4<f32>, THREADS>;
var<workgroup> sums: array<f32, GROUPS>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let lane = thread % LANES;
    let group = thread / LANES;
    let vec = workgroup.x * LANES + lane;
    let owned = vec < VALUE_VECS_ALL;
    let count = VALUE_DIM - vec * 4u;
    let batch = workgroup.z;
    let head = params.first_head + workgroup.y;
    let kv = head / params.group - params.first_head / params.group;
    let q_from = params.q_base + batch * params.q_batch + workgroup.y * params.q_head;
    let k_from = params.k_base + batch * params.k_batch + kv * params.k_head;
    let v_from = params.v_base + batch * params.v_batch + kv * params.v_head + vec * 4u;
    let o_from = params.o_base + batch * params.o_batch + workgroup.y * params.o_head + vec * 4u;
    let in_from = params.in_base + batch * params.in_sequence + workgroup.y * params.in_head;
    let out_from = params.out_base + batch * params.out_sequence + workgroup.y * params.out_head;

    for (var t = 0u; t < params.tokens; t++) {
        var value = vec4<f32>();
        if (owned) {
            value = v4(v_from + t * params.v_seq, count);
        }
        var acc = vec4<f32>();
        var sum = 0.0;
        for (var quad = group; quad < HEAD_QUADS; quad += GROUPS) {
            let query = feature_q(q_from, head, t, quad);
            let key = feature_k(k_from, kv, t, quad);
            let change = decay_change(batch, workgroup.y, t, quad);
            #unroll
            for (var x = 0u; x < 4u; x++) {
                let d = quad * 4u + x;
                if (owned && d < HEAD_DIM) {
                    let at = d * VALUE_DIM + vec * 4u;
                    var s: vec4<f32>;
                    if (t == 0u) {
                        s = state_in4(in_from + at, count);
                    } else {
                        s = stored_state4(out_from + at, count);
                    }
                    s = fma(s, vec4<f32>(change[x]), s);
                    s = fma(vec4<f32>(key[x]), value, s);
                    store_state4(out_from + at, s, count);
                    acc = fma(vec4<f32>(query[x]), s, acc);
                }
                if (NORMALIZE && d < HEAD_DIM) {
                    let at = HEAD_DIM * VALUE_DIM + d;
                    var z: f32;
                    if (t == 0u) {
                        z = state_in1(in_from + at);
                    } else {
                        z = stored_state1(out_from + at);
                    }
                    sum = fma(query[x], fma(z, change[x], z) + key[x], sum);
                }
            }
        }
        if (NORMALIZE) {
            // Every lane has read z; now one writes it.
            storageBarrier();
            for (var d = thread; d < HEAD_DIM; d += THREADS) {
                let quad = d / 4u;
                let at = HEAD_DIM * VALUE_DIM + d;
                var z: f32;
                if (t == 0u) {
                    z = state_in1(in_from + at);
                } else {
                    z = stored_state1(out_from + at);
                }
                let change = decay_change(batch, workgroup.y, t, quad)[d % 4u];
                store_state1(out_from + at, fma(z, change, z) + feature_k(k_from, kv, t, quad)[d % 4u]);
            }
            storageBarrier();
        }
        if (GROUPS > 1u) {
            workgroupBarrier();
            shares[thread] = acc;
            if (NORMALIZE && lane == 0u) {
                sums[group] = sum;
            }
            workgroupBarrier();
            if (group == 0u) {
                for (var g = 1u; g < GROUPS; g++) {
                    acc += shares[g * LANES + lane];
                    if (NORMALIZE) {
                        sum += sums[g];
                    }
                }
            }
        }
        if (group == 0u && owned) {
            let factor = select(1.0, 1.0 / (sum + params.epsilon), NORMALIZE);
            store_o4(o_from + t * params.o_seq, acc * factor, count);
        }
    }
}
