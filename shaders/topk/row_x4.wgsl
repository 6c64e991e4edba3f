// A row of scores, as bits, read four at a time: every row starts at a multiple of four.
@group(0) @binding(1) var<storage, read> scores: array<vec4<u32>>;

// Columns 4·quad to 4·quad + 3 of the row that starts at element `base`; −∞ past its end.
fn row_quad(base: u32, quad: u32) -> vec4<u32> {
    let last = params.columns / 4u - 1u;
    return select(vec4<u32>(NEGATIVE_INFINITY_BITS), scores[base / 4u + min(quad, last)], quad <= last);
}
