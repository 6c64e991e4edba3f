// From what each segment adds to the state to the state that stands before each segment.
//
//   P_0 = initial state or 0,   P_{p+1} = e^{Γ_p} ⊙ P_p + S_p
//
//   slots    in: S_p, out: P_p, for every segment of a sequence in order; one number for each element of a head's state
//            and then, with a normaliser, of z
//   totals   Γ_p, the segment's total log-decay; one for each row of the state with CHANNEL_TOTALS
//
// S_p may be in two SECTIONS, one behind the other, whose sum it is; of the first there is nothing where the second forgets it
// (`linear/chunk_state_cooperative.wgsl`).
//
// Of a causal sequence without a final state the last segment's S and Γ are not worked out, and may be anything: they only reach what
// stands after it, which goes nowhere.
//
// One invocation takes WIDTH neighbouring elements of one head's state through all segments of a sequence, so that neighbouring
// invocations read neighbouring elements: four (`scan_x4`) where states lie so, because each change by decay is worked out once for
// them, or one (`scan_x1`). The loads of STRETCH segments are issued together; 4 and 16 instead of 8 take 1.04 and 1.01 times as long
// (NVIDIA H200, one element each, 32 heads, D = 64, 128 segments). Non-causal, what stands after the last segment is what every token
// sees: it is left where the first segment's state would be.
#import linear/params
#import linear/expm1
#import linear/span
#import linear/forgotten

const THREADS = 64u;
const STRETCH = 8u;
const OF_STATE = HEAD_DIM * VALUE_DIM;
const ELEMENTS = OF_STATE + select(0u, HEAD_DIM, NORMALIZE);

// e^Γ − 1 for elements of a head from this one on, whose segment's totals are here.
fn change_of(element: u32, total: u32) -> Own {
    if (CHANNEL_TOTALS && element >= OF_STATE) {
        return change_of_rows(total + element - OF_STATE);
    }
    return Own(expm1(vec4<f32>(total_at(total + select(0u, element / VALUE_DIM, CHANNEL_TOTALS)))).x);
}

const_assert SECTIONS == 1u || !NORMALIZE;

const LAST_SECTION = (SECTIONS - 1u) * OF_STATE;

@compute @workgroup_size(THREADS)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let element = id.x * WIDTH;
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
    let total = params.total_base + batch * params.total_sequence + id.y * params.total_head + first * params.total_segment;
    let out = params.out_base + sequence * params.out_sequence + id.y * params.out_head + element;

    var carry = own_in(params.start_base + sequence * params.out_sequence + id.y * params.out_head + element);
    for (var p = 0u; p < count; p += STRETCH) {
        var added: array<Own, STRETCH>;
        var change: array<Own, STRETCH>;
        #unroll
        for (var n = 0u; n < STRETCH; n++) {
            if (p + n < count) {
                let at = slot + (p + n) * params.in_segment;
                let of_segment = total + (p + n) * params.total_segment;
                added[n] = slots[(at + LAST_SECTION) / WIDTH];
                if (DECAYS) {
                    change[n] = change_of(element, of_segment);
                }
                if (SECTIONS > 1u && remembers_first_section(total_at(of_segment))) {
                    added[n] += slots[at / WIDTH];
                }
            }
        }
        #unroll
        for (var n = 0u; n < STRETCH; n++) {
            if (p + n < count) {
                slots[(slot + (p + n) * params.in_segment) / WIDTH] = carry;
                carry = fma(carry, change[n], carry) + added[n];
            }
        }
    }
    if (!CAUSAL && count > 0u) {
        slots[slot / WIDTH] = carry;
    }
    store_own(out, carry);
}
