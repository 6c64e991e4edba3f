// Output elements: f16 or bf16 (`pack_pair` decides), one at a time. Two neighbours share a 32-bit word and may
// belong to different rows, hence to different workgroups: each half is cleared and set by atomic operations that
// leave the other half alone, in whatever order they come.
// count   how many of the four the row has; 4 or more means all
alias OutputUnit = atomic<u32>;

fn store_half(index: u32, value: f32) {
    let shift = (index & 1u) * 16u;
    let bits = pack_pair(vec2<f32>(value, 0.0)) & 0xffffu;
    atomicAnd(&o[index >> 1u], ~(0xffffu << shift));
    atomicOr(&o[index >> 1u], bits << shift);
}

fn store_o4(index: u32, value: vec4<f32>, count: u32) {
    store_half(index, value.x);
    if (count > 1u) { store_half(index + 1u, value.y); }
    if (count > 2u) { store_half(index + 2u, value.z); }
    if (count > 3u) { store_half(index + 3u, value.w); }
}

fn load_half(index: u32) -> f32 {
    return unpack_pair(atomicLoad(&o[index >> 1u]) >> ((index & 1u) * 16u)).x;
}

fn load_o4(index: u32, count: u32) -> vec4<f32> {
    var r = vec4<f32>(load_half(index), 0.0, 0.0, 0.0);
    if (count > 1u) { r.y = load_half(index + 1u); }
    if (count > 2u) { r.z = load_half(index + 2u); }
    if (count > 3u) { r.w = load_half(index + 3u); }
    return r;
}
