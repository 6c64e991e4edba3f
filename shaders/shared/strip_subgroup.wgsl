// What the invocations of a strip of rows tell each other, where a strip is exactly a subgroup's.
fn strip_start(thread: u32) {}

// What was written to workgroup memory before is there for the strip's other invocations.
fn strip_barrier() {
    subgroupBarrier();
}

// Before a barrier: whether x holds here, in round t.
fn strip_tell(x: bool, t: u32) {}

// After that barrier: whether it holds for any.
fn strip_told(x: bool, t: u32) -> bool {
    return subgroupAny(x);
}

// The words of workgroup memory that an invocation takes care of, of as many for each strip, strip after strip: some of
// its strip's.
struct Words {
    first: u32,
    end: u32,
    step: u32,
}

fn strip_words(strip: u32, lane: u32, subgroup_size: u32, thread: u32, count: u32) -> Words {
    return Words(strip * count + lane, (strip + 1u) * count, subgroup_size);
}
