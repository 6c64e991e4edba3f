// From q·k to the score t = s·SCORE_UNIT, through the masks and the hooks that the variant has. SCORE_UNIT is log2 e where
// weights are powers of two.
//
// q is scaled when it is staged, by scale·SCORE_UNIT, or by scale alone where a hook needs the natural score
// (`NATURAL_SCORE`).

#import dense/element

// t, or MASKED where the row does not see key j. With `whole` the row sees every key of the tile. A kernel need not call
// this where it would change nothing: where `whole` holds and the variant has no SCORE_HOOKS.
fn masked_score(dot: f32, whole: bool, b: u32, h: u32, i: u32, j: u32, row: Row) -> f32 {
    var t = dot;
    var seen = whole || row_sees(row, i32(j));
    if (ELEMENT_MASK && seen && !whole) {
        seen = element_visible(b, h, i, j, row);
    }
    if (seen && SCORE_HOOKS) {
        t = hooked_score(dot, b, h, i, j, row);
    }
    if (!seen) {
        t = MASKED;
    }
    return t;
}

// t of a key that the row sees.
fn hooked_score(dot: f32, b: u32, h: u32, i: u32, j: u32, row: Row) -> f32 {
    var s = dot;
    if (HAS_SOFTCAP) {
        s = params.softcap * soft_tanh(s / params.softcap);
    }
    var extra = 0.0;
    if (HAS_BIAS) {
        extra = bias_at(local_index(params.bias_base, params.bias_batch, params.bias_head, params.bias_query, b, h, i) + j);
        // −inf masks the key for good: no code of the caller's gets to see it.
        if (extra < MASKED_BELOW) {
            return MASKED;
        }
    }
    if (HAS_ALIBI) {
        extra -= bitcast<f32>(small_word(params.alibi_at + h)) * f32(abs(row.position - i32(j)));
    }
    if (CUSTOM_SCORE) {
        s = score(s + extra, position_of(b, h, i, j, row));
        extra = 0.0;
    }
    if (NATURAL_SCORE) {
        return (s + extra) * SCORE_UNIT;
    }
    return s + extra * SCORE_UNIT;
}

// tanh that stays finite where e^2x would not.
fn soft_tanh(x: f32) -> f32 {
    return tanh(clamp(x, -20.0, 20.0));
}
