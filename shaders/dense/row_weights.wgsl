// Weights of a row whose sums are in matrices: from scores to factors of P·V, both in workgroup memory. ROW_LANES
// neighbouring invocations share a row, ROW_VECS vectors each.
//
//   m, l   the reference that weights are relative to, and this invocation's part of the sum of 2^(t_j − m)
//
// m is not the maximum, because changing it means taking output rows out of the matrices and back. It is set HEADROOM below
// the first maximum a row meets, so that the largest weight is 2^HEADROOM, and stays until weights that one invocation adds
// up exceed LARGEST; f16 holds that, and of weights it holds all that matter: those down to 2^(−14 − HEADROOM) of the
// largest with full precision. No maximum is looked for until then: the sums, which are needed anyway, tell. An invocation has
// at most LARGEST / 2^HEADROOM weights, so that then the maximum is more than HEADROOM above m. What exceeds f32, as the weights
// of a row's first scores do, counts as exceeding, whatever the device makes of it: this comparison alone relies on that.
// Sigmoid has no reference, and its weights, which may all be as small as 1/Nk, are stored times LARGEST.
//
// A kernel declares `row_four`: four neighbouring columns of a row of `sums`.
const HEADROOM = 7.0;
const LARGEST = 32768.0;
const_assert f32(ROW_VECS * 4u) * 128.0 <= LARGEST;

struct RowSums {
    m: f32,
    l: f32,
    // What the row's sums so far are to be multiplied by.
    shrink: f32,
    // Whether that is not 1 for a row that has sums.
    grew: bool,
}

// Scores are `unit` times what is found from `s_from` on, masked ones far below all others, `masked` if there may be any;
// weights go to word `p_from` and on.
fn row_weights(s_from: u32, p_from: u32, unit: f32, masked: bool, m: f32, l: f32) -> RowSums {
    var sums = RowSums(m, l, 1.0, false);
    var w: array<vec4<f32>, ROW_VECS>;
    // Far above what is masked, so that its weight is 0 also while a row has seen nothing else.
    let reference = max(m, MASKED_BELOW);
    var sum4 = vec4<f32>();
    #unroll
    for (var c = 0u; c < ROW_VECS; c++) {
        if (NORMALIZED) {
            w[c] = exp2(fma(row_four(s_from, c), vec4<f32>(unit), vec4<f32>(-reference)));
        } else {
            let t4 = row_four(s_from, c) * unit;
            w[c] = vec4<f32>(weight(t4.x, 0.0), weight(t4.y, 0.0), weight(t4.z, 0.0), weight(t4.w, 0.0));
            if (masked) {
                w[c] = select(w[c], vec4<f32>(), t4 < vec4<f32>(MASKED_BELOW));
            }
        }
        sum4 += w[c];
    }
    var sum = (sum4.x + sum4.y) + (sum4.z + sum4.w);
    let over = !(sum <= LARGEST);
    if (NORMALIZED && subgroupAny(over)) {
        // For all rows of the subgroup, though those that are not over come out as they were: a branch for each row took
        // 1.16 ms in place of 1.10 (NVIDIA H100, 32 heads, N = 4096, D = 128).
        var top4 = row_four(s_from, 0u);
        #unroll
        for (var c = 1u; c < ROW_VECS; c++) {
            top4 = max(top4, row_four(s_from, c));
        }
        let top = lanes_max(max(max(top4.x, top4.y), max(top4.z, top4.w))) * unit;
        let row_over = lanes_max(select(0.0, 1.0, over)) > 0.0;
        sums.m = select(m, top - HEADROOM, row_over);
        sums.grew = row_over && m > MASKED_BELOW;
        sums.shrink = select(1.0, exp2(m - sums.m), row_over);
        sums.l *= sums.shrink;
        let then = max(sums.m, MASKED_BELOW);
        sum4 = vec4<f32>();
        #unroll
        for (var c = 0u; c < ROW_VECS; c++) {
            w[c] = exp2(fma(row_four(s_from, c), vec4<f32>(unit), vec4<f32>(-then)));
            sum4 += w[c];
        }
        sum = (sum4.x + sum4.y) + (sum4.z + sum4.w);
    }
    #unroll
    for (var c = 0u; c < ROW_VECS; c++) {
        put_slices(p_from + c, select(w[c] * LARGEST, w[c], NORMALIZED), P_SLICE);
    }
    sums.l += sum;
    return sums;
}

// Over the lanes of a row.
fn lanes_max(x: f32) -> f32 {
    var top = x;
    for (var n = 1u; n < ROW_LANES; n *= 2u) {
        top = max(top, subgroupShuffleXor(top, n));
    }
    return top;
}

fn lanes_sum(x: f32) -> f32 {
    var sum = x;
    for (var n = 1u; n < ROW_LANES; n *= 2u) {
        sum += subgroupShuffleXor(sum, n);
    }
    return sum;
}
