// Scores for a rescale, in `dense/prefill_elements.wgsl`: by the same products again, so that no registers hold them while weights
// are made. Where they are kept, NVIDIA's compiler moves part of O to other registers and back in every step. What is loaded of v
// ahead is on its way while the last products with keys are worked on; the compiler moves no load across hooks and masks. In
// milliseconds (NVIDIA H200, driver 580.159.04, 32 heads, N = 4096, f16):
//                    D = 128: full   causal   softcap   window of 256     D = 64: full   causal
//   this                     0.883    0.626     1.530           0.220            0.603    0.405
//   scores kept              0.907    0.641     1.475           0.198            0.527    0.361
// So it is for many keys without hooks. With none, one or three blocks of values ahead full takes 0.925, 0.918 and 0.924.
// The lesser of VALUE_BLOCKS and 2.
const VALUES_AHEAD = VALUE_BLOCKS + 2u - max(VALUE_BLOCKS, 2u);

alias ValuesAhead = array<MatrixB, VALUES_AHEAD>;

fn load_values_ahead(at: u32) -> ValuesAhead {
    var values: ValuesAhead;
    #unroll if MATRICES_WRITTEN_OUT
    for (var d = 0u; d < VALUES_AHEAD; d++) {
        values[d] = coopLoadT<MatrixB>(&factors[(at + d * EDGE_WORDS) * WORD], VALUE_PITCH * WORD);
    }
    return values;
}

fn add_values_ahead(o_sums: ptr<function, array<MatrixC, OUTPUTS>>, p: ptr<function, array<MatrixA, ROW_BLOCKS>>, values: ValuesAhead) {
    var ahead = values;
    #unroll if MATRICES_WRITTEN_OUT
    for (var d = 0u; d < VALUES_AHEAD; d++) {
        #unroll if MATRICES_WRITTEN_OUT
        for (var r = 0u; r < ROW_BLOCKS; r++) {
            (*o_sums)[r * VALUE_BLOCKS + d] = coopMultiplyAdd((*p)[r], ahead[d], (*o_sums)[r * VALUE_BLOCKS + d]);
        }
    }
}

// What the kernel has written out (see its header), scale, hooks and masks: of rows from `first_row` on of batch entry b and head h, and
// the keys at places from p0 on.
fn apply_hooks(scores: ptr<function, array<Elements, ROW_BLOCKS>>, scale: f32, whole: bool, list: List, b: u32, h: u32, first_row: u32, p0: u32) {
    var rows = element_rows();
    var columns = element_columns();
    #unroll if MATRICES_WRITTEN_OUT
    for (var r = 0u; r < ROW_BLOCKS; r++) {
        #unroll if MATRICES_WRITTEN_OUT
        for (var c = 0u; c < CLASSES; c++) {
            let i = min(first_row + r * EDGE + u32(rows[c * RUN]), params.end_query - 1u);
            let row = row_of(b, i);
            #unroll if MATRICES_WRITTEN_OUT
            for (var e = 0u; e < ELEMENTS; e++) {
                if (e / RUN % CLASSES == c) {
                    let j = key_at(list, p0 + u32(columns[e]));
                    (*scores)[r][e] = masked_score((*scores)[r][e] * scale, whole, b, h, i, j, row);
                }
            }
        }
    }
}

fn scores_again(scores: ptr<function, array<Elements, ROW_BLOCKS>>, q: ptr<function, array<MatrixA, QUERIES>>, stage: u32, scale: f32, whole: bool, list: List, b: u32, h: u32, first_row: u32, p0: u32) {
    // A loop of one turn changes nothing; with it this is to the instruction what was measured.
    for (var anew = true; anew; anew = false) {
        *scores = scores_of(q, stage);
        for (var once = SCORE_HOOKS || !whole; once; once = false) {
            apply_hooks(scores, scale, whole, list, b, h, first_row, p0);
        }
    }
}
