// The sum of each sequence's log-decays, [sequences, H] or [sequences, H, D].
//
// One workgroup takes one head of one sequence, or 16 channels of it with CHANNEL_TOTALS. SHARES invocations share the
// tokens of each channel, STRETCH of them at a time, and join their sums in pairs. Sums are exact to rounding at the
// end: thousands of equal decays would round alike.
#import linear/params
#import linear/decay_floor
#import linear/two_sum
#import linear/span

@group(0) @binding(7) var<storage, read> log_decay: array<f32>;
@group(0) @binding(9) var<storage, read_write> totals: array<f32>;

const THREADS = 64u;
const CHANNELS = select(1u, 16u, CHANNEL_TOTALS);
const SHARES = THREADS / CHANNELS;
const STRETCH = 16u;

var<workgroup> shares: array<vec2<f32>, THREADS>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let span = span_of(workgroup.z, 0u);
    let batch = select(workgroup.z, 0u, DOCUMENTS);
    let channel = workgroup.x * CHANNELS + thread % CHANNELS;
    let share = thread / CHANNELS;
    let from_row = params.decay_base + batch * params.decay_batch + workgroup.y * params.decay_head + channel;
    let to = params.total_base + workgroup.z * params.total_sequence + workgroup.y * params.total_head + channel;
    let known = channel < select(1u, HEAD_DIM, CHANNEL_TOTALS);
    if (HEAD_DECAY) {
        if (thread == 0u) {
            totals[to] = max(log_decay[from_row], DECAY_FLOOR) * f32(span.end - span.start);
        }
        return;
    }
    var sum = vec2<f32>();
    for (var t0 = span.start + share; t0 < span.end; t0 += SHARES * STRETCH) {
        #unroll
        for (var n = 0u; n < STRETCH; n++) {
            let t = t0 + n * SHARES;
            if (known && t < span.end) {
                sum = add_exactly(sum, max(log_decay[from_row + t * params.decay_seq], DECAY_FLOOR));
            }
        }
    }
    shares[thread] = sum;
    for (var half = SHARES / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (share < half) {
            let other = shares[thread + half * CHANNELS];
            sum = add_exactly(add_exactly(sum, other.x), other.y);
            shares[thread] = sum;
        }
    }
    if (share == 0u && known) {
        totals[to] = sum.x + sum.y;
    }
}
