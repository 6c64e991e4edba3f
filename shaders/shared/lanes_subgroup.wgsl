// Values from one invocation to another of the same LANES, all of which lie in one subgroup: LANES is a power of two and
// no greater than any subgroup the device makes.
//
//   thread_of      an invocation's number in its workgroup
//   exchange       the value of the invocation whose lane is this one's ^ mask
//   fetch          the value of lane `source`
//   any_lane       whether some invocation's value is true, of those that may not skip what it is asked for
//
// Invocations are numbered subgroup by subgroup, which makes LANES neighbours one aligned piece of a subgroup whatever
// invocations a device puts into it. (No back end promises that local_invocation_index is such a number.) Workgroups
// are of one dimension and their subgroups full but for the last, so that the numbers are those below the workgroup's
// size.
struct Invocation {
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_size) size: u32,
    @builtin(subgroup_invocation_id) index: u32,
}

var<private> own_place: u32;

fn thread_of(invocation: Invocation) -> u32 {
    own_place = invocation.index;
    // The bound keeps accesses within workgroup memory whatever a driver numbers.
    return min(invocation.subgroup * invocation.size + invocation.index, THREADS - 1u);
}

fn exchange(value: f32, mask: u32) -> f32 {
    return subgroupShuffleXor(value, mask);
}

fn fetch(value: f32, source: u32) -> f32 {
    return subgroupShuffle(value, (own_place & ~(LANES - 1u)) | source);
}

fn any_lane(value: bool) -> bool {
    return subgroupAny(value);
}
