// As `shared/lanes_subgroup.wgsl`, for more LANES than the device's smallest subgroups have invocations. Where the
// subgroups of a run turn out to hold them, values go through subgroups; else, those that leave SUBGROUP_LEAST
// neighbours go through workgroup memory, and every call is a barrier, which all invocations of a workgroup must reach.
struct Invocation {
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_size) size: u32,
    @builtin(subgroup_invocation_id) index: u32,
}

var<workgroup> exchanged: array<f32, THREADS>;
var<workgroup> subgroups_hold_lanes: u32;

var<private> own_place: u32;
var<private> own_thread: u32;

fn thread_of(invocation: Invocation) -> u32 {
    own_place = invocation.index;
    own_thread = min(invocation.subgroup * invocation.size + invocation.index, THREADS - 1u);
    if (own_thread == 0u) {
        subgroups_hold_lanes = u32(invocation.size >= LANES);
    }
    workgroupBarrier();
    return own_thread;
}

fn through_subgroup() -> bool {
    return LANES <= SUBGROUP_MOST && subgroups_hold_lanes != 0u;
}

fn through_memory(value: f32, source: u32) -> f32 {
    exchanged[own_thread] = value;
    workgroupBarrier();
    let fetched = exchanged[source];
    workgroupBarrier();
    return fetched;
}

fn exchange(value: f32, mask: u32) -> f32 {
    if (mask < SUBGROUP_LEAST || through_subgroup()) {
        return subgroupShuffleXor(value, mask);
    }
    return through_memory(value, own_thread ^ mask);
}

fn fetch(value: f32, source: u32) -> f32 {
    if (through_subgroup()) {
        return subgroupShuffle(value, (own_place & ~(LANES - 1u)) | source);
    }
    return through_memory(value, (own_thread & ~(LANES - 1u)) | source);
}

// All of a workgroup reach the barriers behind it.
fn any_lane(value: bool) -> bool {
    return true;
}
