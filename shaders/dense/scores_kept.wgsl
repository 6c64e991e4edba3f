// Scores for a rescale, in `dense/prefill_elements.wgsl`: kept in registers.
//
// This piece and `scores_anew` declare the same: VALUES_AHEAD blocks of v's columns that are loaded before hooks and masks, their
// part of P·V, and scores for a rescale.
const VALUES_AHEAD = 0u;

alias ValuesAhead = u32;

fn load_values_ahead(at: u32) -> ValuesAhead {
    return 0u;
}

fn add_values_ahead(o_sums: ptr<function, array<MatrixC, OUTPUTS>>, p: ptr<function, array<MatrixA, ROW_BLOCKS>>, values: ValuesAhead) {}

fn scores_again(scores: ptr<function, array<Elements, ROW_BLOCKS>>, q: ptr<function, array<MatrixA, QUERIES>>, stage: u32, scale: f32, whole: bool, list: List, b: u32, h: u32, first_row: u32, p0: u32) {}
