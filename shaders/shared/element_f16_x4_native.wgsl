// Storage elements: IEEE binary16, four to an access, with the f16 feature.
alias Unit = vec4<f16>;
const UNIT_SHIFT = 2u;

fn widen(unit: Unit) -> vec4<f32> {
    return vec4<f32>(unit);
}
