// Numbers that stand in for infinity. Shaders may assume that neither infinity nor NaN occurs, so a masked score is
// a large finite negative, and whatever is below half of it counts as masked.
const MASKED: f32 = -1e30;
const MASKED_BELOW: f32 = -5e29;
const LOG2_E: f32 = 1.4426950408889634;
const LN_2: f32 = 0.6931471805599453;
const NEGATIVE_INFINITY_BITS: u32 = 0xff800000u;
