// Maxima and sums of rows over the LANES invocations that share them, through workgroup memory. Behind
// `row_maxima` all invocations have passed a barrier.
#import shared/invocation

var<workgroup> row_scratch: array<f32, ROWS * (LANES + 1u)>;
var<workgroup> row_result: array<f32, ROWS>;

fn share_rows(own: array<f32, ROW_REGS>, thread: u32) {
    #unroll
    for (var r = 0u; r < ROW_REGS; r++) {
        row_scratch[(thread / LANES + r * ROW_GROUPS) * (LANES + 1u) + thread % LANES] = own[r];
    }
    workgroupBarrier();
}

fn row_maxima(own: array<f32, ROW_REGS>, thread: u32) -> array<f32, ROW_REGS> {
    share_rows(own, thread);
    for (var r = thread; r < ROWS; r += THREADS) {
        var top = row_scratch[r * (LANES + 1u)];
        for (var c = 1u; c < LANES; c++) {
            top = max(top, row_scratch[r * (LANES + 1u) + c]);
        }
        row_result[r] = top;
    }
    workgroupBarrier();
    var tops: array<f32, ROW_REGS>;
    #unroll
    for (var r = 0u; r < ROW_REGS; r++) {
        tops[r] = row_result[thread / LANES + r * ROW_GROUPS];
    }
    return tops;
}

fn row_sums(own: array<f32, ROW_REGS>, thread: u32) -> array<f32, ROW_REGS> {
    share_rows(own, thread);
    var sums: array<f32, ROW_REGS>;
    #unroll
    for (var r = 0u; r < ROW_REGS; r++) {
        var sum = 0.0;
        for (var c = 0u; c < LANES; c++) {
            sum += row_scratch[(thread / LANES + r * ROW_GROUPS) * (LANES + 1u) + c];
        }
        sums[r] = sum;
    }
    return sums;
}
