// A row of scores, as bits, read one by one.
@group(0) @binding(1) var<storage, read> scores: array<u32>;

// Columns 4·quad to 4·quad + 3 of the row that starts at element `base`; −∞ past its end.
fn row_quad(base: u32, quad: u32) -> vec4<u32> {
    let last = params.columns - 1u;
    let column = quad * 4u;
    var bits = vec4<u32>(NEGATIVE_INFINITY_BITS);
    #unroll
    for (var c = 0u; c < 4u; c++) {
        bits[c] = select(NEGATIVE_INFINITY_BITS, scores[base + min(column + c, last)], column + c <= last);
    }
    return bits;
}
