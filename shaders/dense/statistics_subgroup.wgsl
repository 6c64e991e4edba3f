// Maxima and sums of rows over the LANES = 2^LANE_STEPS invocations that share them, in subgroups: every step halves the
// number of those that differ. Behind `row_maxima` all invocations have passed a barrier.
fn row_maxima(own: array<f32, ROW_REGS>, thread: u32) -> array<f32, ROW_REGS> {
    var tops: array<f32, ROW_REGS>;
    #unroll
    for (var r = 0u; r < ROW_REGS; r++) {
        var top = own[r];
        #unroll
        for (var step = 0u; step < LANE_STEPS; step++) {
            top = max(top, exchange(top, 1u << step));
        }
        tops[r] = top;
    }
    workgroupBarrier();
    return tops;
}

fn row_sums(own: array<f32, ROW_REGS>, thread: u32) -> array<f32, ROW_REGS> {
    var sums: array<f32, ROW_REGS>;
    #unroll
    for (var r = 0u; r < ROW_REGS; r++) {
        var sum = own[r];
        #unroll
        for (var step = 0u; step < LANE_STEPS; step++) {
            sum += exchange(sum, 1u << step);
        }
        sums[r] = sum;
    }
    return sums;
}
