// e^x − 1 for x ≤ 0, accurate relative to itself. A state is multiplied by e^x as S + S·(e^x − 1): where x is small, the
// rounding of e^x itself, always in the same direction for a constant decay, would add up over thousands of steps.
fn expm1(x: vec4<f32>) -> vec4<f32> {
    // Taylor's series, whose remainder below 0.5 is 1e-8 of the result.
    var sum = 1.0 + x * (1.0 / 8.0);
    sum = 1.0 + x * (1.0 / 7.0) * sum;
    sum = 1.0 + x * (1.0 / 6.0) * sum;
    sum = 1.0 + x * (1.0 / 5.0) * sum;
    sum = 1.0 + x * (1.0 / 4.0) * sum;
    sum = 1.0 + x * (1.0 / 3.0) * sum;
    sum = 1.0 + x * (1.0 / 2.0) * sum;
    return select(exp(x) - 1.0, x * sum, x > vec4<f32>(-0.5));
}

// e^x for x ≤ 0, accurate relative to itself, and rounded to nearest where it is near 1.
fn exp_of(x: f32) -> f32 {
    return select(exp(x), 1.0 + expm1(vec4<f32>(x)).x, x > -0.5);
}
