// Storage elements: f32, four to an access.
alias Unit = vec4<f32>;
const UNIT_SHIFT = 2u;

fn widen(unit: Unit) -> vec4<f32> {
    return unit;
}
