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
