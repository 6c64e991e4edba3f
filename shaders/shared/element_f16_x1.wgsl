// Storage elements: IEEE binary16, one at a time out of the word that holds it.
alias Unit = u32;
const UNIT_SHIFT = 1u;

fn widen_one(unit: Unit, index: u32) -> f32 {
    return unpack2x16float(unit >> ((index & 1u) * 16u)).x;
}
