// Storage elements: IEEE binary16, eight to an access (four 32-bit words), without the f16 feature. Accesses cost a device much more
// than what they move where each is checked against its buffer's end: on an NVIDIA H200 some 18 instructions each.
#import shared/eights
alias Unit = Eight;
const UNIT_SHIFT = 3u;

// The four from element `index` on of the unit that has them.
fn widen_part(unit: Unit, index: u32) -> vec4<f32> {
    return four_of(select(unit.xy, unit.zw, (index & 4u) != 0u));
}
