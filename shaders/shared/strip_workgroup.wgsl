// What the invocations of a strip of rows tell each other, where subgroups may turn out smaller than a strip: all that
// the workgroup's do.

// One more than the last round in which one was told, padded to 16 bytes (`shared/staged_x4.wgsl`).
var<workgroup> strip_round: vec4<u32>;

fn strip_start(thread: u32) {
    if (thread == 0u) {
        strip_round.x = 0u;
    }
}

// What was written to workgroup memory before is there for the strip's other invocations.
fn strip_barrier() {
    workgroupBarrier();
}

// Before a barrier: whether x holds here, in round t, which is greater than those before.
fn strip_tell(x: bool, t: u32) {
    if (x) {
        strip_round.x = t + 1u;
    }
}

// After that barrier: whether it holds for any.
fn strip_told(x: bool, t: u32) -> bool {
    return strip_round.x == t + 1u;
}

// The words of workgroup memory that an invocation takes care of, of as many for each strip, strip after strip: some of
// all.
struct Words {
    first: u32,
    end: u32,
    step: u32,
}

fn strip_words(strip: u32, lane: u32, subgroup_size: u32, thread: u32, count: u32) -> Words {
    return Words(thread, STRIPS * count, THREADS);
}
