// What rows on cooperative matrices share in linear attention: weights of tokens up to a row's own, sums over ROW_LANES, and powers
// of two that keep factors inside f16.

// Of four scores of row i, of tokens j to j + 3.
fn causal_weights(scores: vec4<f32>, i: u32, j: u32) -> vec4<f32> {
    let steps = vec4<f32>(f32(i) - f32(j)) - vec4<f32>(0.0, 1.0, 2.0, 3.0);
    return select(vec4<f32>(), scores * decay_over(steps), steps >= vec4<f32>());
}

// Over the lanes of a row.
fn lanes_sum(x: f32) -> f32 {
    var sum = x;
    for (var n = 1u; n < ROW_LANES; n *= 2u) {
        sum += subgroupShuffleXor(sum, n);
    }
    return sum;
}

// The power of two that takes a bound to between 2^14 and 2^15; for bounds below 2^-30 less, lest what was summed up at the power of a
// large state overflow.
fn power_for(bound: f32) -> f32 {
    if (bound > 0.0 && bound < 3e38) {
        return ldexp(1.0, i32(clamp(14.0 - floor(log2(bound)), -114.0, 44.0)));
    }
    return 1.0;
}
