// Storage elements: f16 as the device has it, one at a time, for rows that do not start at multiples of four elements.
alias Unit = f16;
const UNIT_SHIFT = 0u;

fn widen_one(unit: Unit, index: u32) -> f32 {
    return f32(unit);
}
