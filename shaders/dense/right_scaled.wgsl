// Factors of `dense/decode_elements.wgsl` for bf16, whose 8 bits f16 has room for, but not for its range: numbers are multiplied by
// powers of two, so that f16 has them exactly, down to 2^-31 of the largest that share a factor; smaller ones are off by 2^-38 of it
// at most.
//
// A strip's keys share a factor, masked ones included, its values another, and each row of q has its own: the power of two for the
// largest so far, which changes only when that grows beyond what f16 has room for. What undoes a factor of values is applied at the
// end, and O is multiplied when it changes.
#import dense/scales
#import shared/subgroup_top

const SCALED = true;

// Four bf16 in two words, as they are stored.
alias Held = vec2<u32>;

// What the largest is brought to at most; the largest f16 is 65504.
const ROOM = 61440.0;

// Of numbers of which the largest has this magnitude; the largest factor of all for 0.
fn factor_of_top(top: f32) -> Factor {
    return Factor(factor_for(top), unit_for(top));
}

// Of a strip whose next elements have this largest magnitude in an invocation.
fn factor_after(factor: Factor, top: f32) -> Factor {
    if (subgroupAny(!(top * factor.by <= ROOM))) {
        return factor_of_top(subgroup_top(top, LANES));
    }
    return factor;
}

fn element_of(held: Held, n: u32) -> f32 {
    let word = held[n / 2u];
    return bitcast<f32>(select(word << 16u, word & 0xffff0000u, n % 2u == 1u));
}

fn top_of(held: Held) -> f32 {
    return largest(vec4<f32>(element_of(held, 0u), element_of(held, 1u), element_of(held, 2u), element_of(held, 3u)));
}

// The a-th element of one and the b-th of another as a word of halves.
fn two_halves(one: Held, a: u32, other: Held, b: u32, by: f32) -> u32 {
    return pack2x16float(vec2<f32>(element_of(one, a), element_of(other, b)) * by);
}
