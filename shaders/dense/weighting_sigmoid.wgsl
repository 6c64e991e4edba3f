// Sigmoid: w(s) = 1 / (1 + e^−(s + b)). No maximum, no normaliser, and partial results add.
const NORMALIZED = false;

// Scores are in base 2.
const SCORE_UNIT = LOG2_E;

// t is the score in base 2; `params.weight_bias` is b·log2 e. The exponent is bounded so that exp2 stays finite: the
// weight there is below 1e-38, the smallest normal f32.
fn weight(t: f32, m: f32) -> f32 {
    return 1.0 / (1.0 + exp2(min(-(t + params.weight_bias), 126.0)));
}
