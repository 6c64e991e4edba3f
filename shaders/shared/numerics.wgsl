// Numbers that stand in for infinity. Shaders may assume that neither infinity nor NaN occurs, so a masked score is
// a large finite negative, and whatever is below half of it counts as masked.
const MASKED: f32 = -1e30;
const MASKED_BELOW: f32 = -5e29;
const LOG2_E: f32 = 1.4426950408889634;
const LN_2: f32 = 0.6931471805599453;
const NEGATIVE_INFINITY_BITS: u32 = 0xff800000u;

// Bits of the log-sum-exp of a row whose weights, of base 2 and relative to m, add up to `sum`: −inf where it saw nothing. What
// is not a number stays that, as far as a device keeps it, so that a merge does not take it for nothing.
fn lse_bits(m: f32, sum: f32) -> u32 {
    let nothing = sum <= 0.0;
    return select(bitcast<u32>((m + log2(select(sum, 1.0, nothing))) * LN_2), NEGATIVE_INFINITY_BITS, nothing);
}
