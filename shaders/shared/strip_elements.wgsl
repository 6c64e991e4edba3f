// What kernels whose weights stay in registers do for a strip of rows: scores, and rows multiplied.
#import shared/elements
#import shared/strip_tile

// Scores, before scale and hooks, of the strip's rows with the keys of a stage.
fn scores_of(q: ptr<function, array<MatrixA, QUERIES>>, stage: u32) -> array<Elements, ROW_BLOCKS> {
    var s: array<MatrixC, ROW_BLOCKS>;
    #unroll if MATRICES_WRITTEN_OUT
    for (var r = 0u; r < ROW_BLOCKS; r++) {
        s[r] = MatrixC();
    }
    #unroll if MATRICES_WRITTEN_OUT
    for (var d = 0u; d < HEAD_BLOCKS; d++) {
        let keys = coopLoad<MatrixB>(&factors[(stage + d * EDGE_WORDS) * WORD], HEAD_PITCH * WORD);
        #unroll if MATRICES_WRITTEN_OUT
        for (var r = 0u; r < ROW_BLOCKS; r++) {
            s[r] = coopMultiplyAdd((*q)[r * HEAD_BLOCKS + d], keys, s[r]);
        }
    }
    var scores: array<Elements, ROW_BLOCKS>;
    #unroll if MATRICES_WRITTEN_OUT
    for (var r = 0u; r < ROW_BLOCKS; r++) {
        scores[r] = elements_of(s[r]);
    }
    return scores;
}

// A matrix with each row times the factor of its class.
fn rows_times(sums: MatrixC, by_class: array<f32, CLASSES>) -> MatrixC {
    var by = by_class;
    var x = elements_of(sums);
    #unroll if MATRICES_WRITTEN_OUT
    for (var e = 0u; e < ELEMENTS; e++) {
        x[e] *= by[e / RUN % CLASSES];
    }
    return sums_of(x);
}
