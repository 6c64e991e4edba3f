// Looks at the whole list once, so that tiles need not ask about each entry.
// What it found, padded to 16 bytes (`shared/staged_x4.wgsl`).
var<workgroup> unsound: array<atomic<u32>, 4>;

// Whether all entries of a list are sound. For all invocations of a workgroup together, before anything else.
fn list_is_clean(list: List, thread: u32) -> bool {
    if (thread == 0u) {
        atomicStore(&unsound[0], 0u);
    }
    workgroupBarrier();
    for (var n = thread; n < list.count; n += THREADS) {
        if (!entry_is_sound(list, n)) {
            atomicStore(&unsound[0], 1u);
        }
    }
    workgroupBarrier();
    return atomicLoad(&unsound[0]) == 0u;
}
