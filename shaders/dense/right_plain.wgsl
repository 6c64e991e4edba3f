// Factors of `dense/decode_elements.wgsl` as they are: f16, or rounded to f16 when they are loaded.
//
// This piece and `right_scaled` declare the same: how k and v are held until they are matrices, and what a strip's keys or values are
// multiplied by.
#import shared/halves

const SCALED = false;

fn factor_of_top(top: f32) -> Factor {
    return Factor(1.0, 1.0);
}

fn factor_after(factor: Factor, top: f32) -> Factor {
    return factor;
}

fn top_of(held: Held) -> f32 {
    return 0.0;
}

// The a-th element of one and the b-th of another as a word of halves.
fn two_halves(one: Held, a: u32, other: Held, b: u32, by: f32) -> u32 {
    let low = one[a / 2u];
    let high = other[b / 2u];
    return select(low & 0xffffu, low >> 16u, a % 2u == 1u) | select(high << 16u, high & 0xffff0000u, b % 2u == 1u);
}
