// Softmax: w(s) = e^s / Σ e^s, as 2^(t − m) with t = s·log2 e, m the running row maximum, and the division left to
// the end (Milakov & Gimelshein, "Online normalizer calculation for softmax", 2018).
const NORMALIZED = true;

// Scores are in base 2.
const SCORE_UNIT = LOG2_E;

// t is the score in base 2; m is at least t.
fn weight(t: f32, m: f32) -> f32 {
    return exp2(t - m);
}
