// The largest of what the invocations of a subgroup have, none of it negative: all `lanes` of them come here, and get it.
//
// Not by `subgroupMax`. Of integers an NVIDIA driver (580.159.04, on an H200) makes one instruction, for where all invocations are
// active, beside many for where they are not, and in some kernels the one waits for a predicate that holds something else: the result
// is what its register held. Of f32 it takes registers (`linear/carried_elements.wgsl` as it was then, D = 64: 134 µs, with this 92).
fn subgroup_top(x: f32, lanes: u32) -> f32 {
    // Bits of magnitudes are ordered as they are, and those of what is no number are above all others.
    var bits = bitcast<u32>(x);
    for (var bit = 1u; bit < lanes; bit *= 2u) {
        bits = max(bits, subgroupShuffleXor(bits, bit));
    }
    // Which tells a compiler that it is the same for all: what follows from it takes one register then, not one of each invocation
    // (then D = 128: 233 µs for 236).
    return bitcast<f32>(subgroupBroadcastFirst(bits));
}
