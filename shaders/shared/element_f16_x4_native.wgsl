// Storage elements: f16 as the device has it, four to an access.
alias Unit = vec4<f16>;
const UNIT_SHIFT = 2u;

fn widen(unit: Unit) -> vec4<f32> {
    return vec4<f32>(unit);
}
