// From what each segment adds to the state to the state that stands before each segment.
//
//   P_0 = initial state or 0,   P_{p+1} = e^{Γ_p} ⊙ P_p + S_p
//
//   slots    in: S_p, out: P_p, for every segment of a sequence in order; one number for each element of a head's state
//            and then, with a normaliser, of z
//   totals   Γ_p, the segment's total log-decay; one for each row of the state with CHANNEL_TOTALS
//
// One invocation takes one element of one head's state through all segments of a sequence, so that neighbouring
// invocations read neighbouring elements. The loads of STRETCH segments are issued together. Non-causal, what stands
// after the last segment is what every token sees: it is left where the first segment's state would be.
#import linear/params
#import linear/expm1
#import linear/span

@group(0) @binding(10) var<storage, read_write> slots: array<f32>;

const THREADS = 64u;
const STRETCH = 8u;
const ELEMENTS = HEAD_DIM * VALUE_DIM + select(0u, HEAD_DIM, NORMALIZE);

@compute @workgroup_size(THREADS)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let element = id.x;
    if (element >= ELEMENTS) {
        return;
    }
    let sequence = id.z;
    var first = 0u;
    var count = params.segments;
    if (DOCUMENTS) {
        for (var n = 0u; n < sequence; n++) {
            let start = document_start(n);
            first += segments_of(max(document_start(n + 1u), start) - start);
        }
        let start = document_start(sequence);
        count = segments_of(max(document_start(sequence + 1u), start) - start);
        // Documents that overlap would have more segments than there is room for.
        first = min(first, params.segments);
        count = min(count, params.segments - first);
    }
    let batch = select(sequence, 0u, DOCUMENTS);
    let slot = params.in_base + batch * params.in_sequence + id.y * params.in_head + first * params.in_segment + element;
    var total = params.total_base + batch * params.total_sequence + id.y * params.total_head + first * params.total_segment;
    if (CHANNEL_TOTALS) {
        total += select(element - HEAD_DIM * VALUE_DIM, element / VALUE_DIM, element < HEAD_DIM * VALUE_DIM);
    }
    let out = params.out_base + sequence * params.out_sequence + id.y * params.out_head + element;

    var carry = state_in1(params.start_base + sequence * params.out_sequence + id.y * params.out_head + element);
    for (var p = 0u; p < count; p += STRETCH) {
        var added: array<f32, STRETCH>;
        var change: array<f32, STRETCH>;
        #unroll
        for (var n = 0u; n < STRETCH; n++) {
            if (p + n < count) {
                added[n] = slots[slot + (p + n) * params.in_segment];
                if (DECAYS) {
                    change[n] = expm1(vec4<f32>(total_at(total + (p + n) * params.total_segment))).x;
                }
            }
        }
        #unroll
        for (var n = 0u; n < STRETCH; n++) {
            if (p + n < count) {
                slots[slot + (p + n) * params.in_segment] = carry;
                carry = fma(carry, change[n], carry) + added[n];
            }
        }
    }
    if (!CAUSAL && count > 0u) {
        slots[slot] = carry;
    }
    store_state1(out, carry);
}
