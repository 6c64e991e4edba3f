// The sum of one number of each lane of a workgroup, in a fixed order. In front of the kernels that need it.

const LANES: u32 = 64u;

var<workgroup> partial: array<f32, LANES>;

// Every lane must call it, and gets the sum.
fn total(lane: u32, value: f32) -> f32 {
    partial[lane] = value;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if lane < half {
            partial[lane] += partial[lane + half];
        }
        workgroupBarrier();
    }
    let sum = partial[0];
    // The next call writes here.
    workgroupBarrier();
    return sum;
}
