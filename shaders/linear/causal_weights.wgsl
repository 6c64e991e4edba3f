// What rows on cooperative matrices share in linear attention: weights of tokens up to a row's own, sums over ROW_LANES, and powers
// of two.
#import linear/powers

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
