// Storage elements: bfloat16, four to an access (two 32-bit words). A bfloat16 is the upper half of an f32.
alias Unit = vec2<u32>;
const UNIT_SHIFT = 2u;

fn widen(unit: Unit) -> vec4<f32> {
    return bitcast<vec4<f32>>(vec4<u32>(
        unit.x << 16u, unit.x & 0xffff0000u,
        unit.y << 16u, unit.y & 0xffff0000u,
    ));
}
