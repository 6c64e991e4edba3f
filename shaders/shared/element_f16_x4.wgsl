// Storage elements: IEEE binary16, four to an access (two 32-bit words), without the f16 feature.
alias Unit = vec2<u32>;
const UNIT_SHIFT = 2u;

fn widen(unit: Unit) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(unit.x), unpack2x16float(unit.y));
}
