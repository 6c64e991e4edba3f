// Sums over the invocations of a workgroup: over each subgroup, then over the subgroups' sums, which every subgroup adds
// up for itself. One barrier, whatever the size of a subgroup, which is SUBGROUP_LEAST or more.
//
// Sums of integers are made of the instruction that `shared/subgroup_top.wgsl` speaks of, too; in all 90 places of the variants that
// the tests have, it waits for the right predicate.
//
// Invocations are numbered subgroup by subgroup, as in `shared/lanes_subgroup.wgsl`, so that the order of the numbers is
// that of the sums.
struct Invocation {
    @builtin(subgroup_id) subgroup: u32,
    @builtin(num_subgroups) subgroups: u32,
    @builtin(subgroup_size) size: u32,
    @builtin(subgroup_invocation_id) index: u32,
}

const MOST_SUBGROUPS = (THREADS + SUBGROUP_LEAST - 1u) / SUBGROUP_LEAST;

var<workgroup> subgroup_sums: array<u32, MOST_SUBGROUPS>;

var<private> own: Invocation;

fn thread_of(invocation: Invocation) -> u32 {
    own = invocation;
    // The bound keeps accesses within workgroup memory whatever a driver numbers.
    return min(invocation.subgroup * invocation.size + invocation.index, THREADS - 1u);
}

// Sums of `value` over the invocations before this one, and over all. Before the next call there must be a barrier.
fn scan(value: u32, thread: u32) -> vec2<u32> {
    let before = subgroupExclusiveAdd(value);
    let sum = subgroupAdd(value);
    if (own.index == 0u) {
        subgroup_sums[min(own.subgroup, MOST_SUBGROUPS - 1u)] = sum;
    }
    workgroupBarrier();
    var sums = vec2<u32>(before, 0u);
    for (var first = 0u; first < own.subgroups; first += own.size) {
        let n = first + own.index;
        var part = 0u;
        if (n < min(own.subgroups, MOST_SUBGROUPS)) {
            part = subgroup_sums[n];
        }
        sums += vec2<u32>(subgroupAdd(select(0u, part, n < own.subgroup)), subgroupAdd(part));
    }
    return sums;
}
