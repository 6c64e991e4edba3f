// The sum of each sequence's log-decays, [sequences, H] or [sequences, H, D].
//
// One workgroup takes one head of one sequence, or 64 channels of it with CHANNEL_TOTALS, in which case each invocation
// has a channel; otherwise the invocations share the tokens and join their sums in pairs.
#import linear/params
#import linear/decay_floor
#import linear/span

@group(0) @binding(7) var<storage, read> log_decay: array<f32>;
@group(0) @binding(9) var<storage, read_write> totals: array<f32>;

const THREADS = 64u;

var<workgroup> shares: array<f32, THREADS>;

fn floored(index: u32) -> f32 {
    return max(log_decay[index], DECAY_FLOOR);
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let span = span_of(workgroup.z, 0u);
    let batch = select(workgroup.z, 0u, DOCUMENTS);
    let from_row = params.decay_base + batch * params.decay_batch + workgroup.y * params.decay_head;
    let to = params.total_base + workgroup.z * params.total_sequence + workgroup.y * params.total_head;
    if (CHANNEL_TOTALS) {
        let d = workgroup.x * THREADS + thread;
        if (d < HEAD_DIM) {
            var sum = 0.0;
            for (var t = span.start; t < span.end; t++) {
                sum += floored(from_row + t * params.decay_seq + d);
            }
            totals[to + d] = sum;
        }
        return;
    }
    if (HEAD_DECAY) {
        if (thread == 0u) {
            totals[to] = floored(from_row) * f32(span.end - span.start);
        }
        return;
    }
    var sum = 0.0;
    for (var t = span.start + thread; t < span.end; t += THREADS) {
        sum += floored(from_row + t * params.decay_seq);
    }
    shares[thread] = sum;
    for (var half = THREADS / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (thread < half) {
            shares[thread] += shares[thread + half];
        }
    }
    if (thread == 0u) {
        totals[to] = shares[0];
    }
}
