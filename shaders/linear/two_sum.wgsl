// A sum kept as two numbers whose exact sum it is.
//
// The rounding error of a sum is the difference between what was added and what arrived (Knuth's two-sum). Compilers
// know that (a + b) − a is b, which is what must not be used here: a value that they cannot see through stands between.
fn opaque(x: f32) -> f32 {
    return bitcast<f32>(bitcast<u32>(x) ^ params.zero);
}

fn add_exactly(sum: vec2<f32>, x: f32) -> vec2<f32> {
    let high = opaque(sum.x + x);
    let part = opaque(high - sum.x);
    let error = (sum.x - opaque(high - part)) + (x - part);
    return vec2<f32>(high, sum.y + error);
}
