// Sums over the invocations of a workgroup, through workgroup memory: a barrier for every doubling.
#import shared/invocation

var<workgroup> partials: array<u32, 2u * THREADS>;

// Sums of `value` over the invocations before this one, and over all. Before the next call there must be a barrier.
fn scan(value: u32, thread: u32) -> vec2<u32> {
    var sum = value;
    var half = 0u;
    partials[thread] = sum;
    workgroupBarrier();
    for (var step = 1u; step < THREADS; step *= 2u) {
        if (thread >= step) {
            sum += partials[half + thread - step];
        }
        half = THREADS - half;
        partials[half + thread] = sum;
        workgroupBarrier();
    }
    return vec2<u32>(sum - value, partials[half + THREADS - 1u]);
}
