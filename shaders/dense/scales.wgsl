// Powers of two that bring the largest of what shares one to between 2^14 and 2^15, where f16 has room for it.

fn largest(four: vec4<f32>) -> f32 {
    let all = abs(four);
    return max(max(all.x, all.y), max(all.z, all.w));
}

// The exponent of the largest as f32 has it. So far from its limits that what undoes a factor is a normal number, also
// times the scale of the scores.
fn exponent_of(top: f32) -> u32 {
    return clamp(bitcast<u32>(top) >> 23u, 32u, 254u);
}

fn factor_for(top: f32) -> f32 {
    return bitcast<f32>((268u - exponent_of(top)) << 23u);
}

// 1 / factor_for(top). Beside an infinity nothing is left of other numbers: all that share its factor become NaN.
fn unit_for(top: f32) -> f32 {
    return bitcast<f32>(select((exponent_of(top) - 14u) << 23u, 0x7fc00000u, bitcast<u32>(top) >= 0x7f800000u));
}
