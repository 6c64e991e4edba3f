// The device's rate of multiply-adds in cooperative matrices: two factors by four, eight independent sums in registers,
// ROUNDS times. 2·8·EDGE³·ROUNDS operations a subgroup, of which SUBGROUPS work in each workgroup: it is made for the
// largest that the device may use, and if they turn out smaller, the rest has nothing to do.
//
// The factors go through workgroup memory once. Each subgroup writes the total of its sums, so that nothing can be
// dropped: ROUNDS · (A0 + A1) · (B0 + B1 + B2 + B3), the factors one after the other in memory, by rows.
@group(0) @binding(1) var<storage, read> words_in: array<f32>;
@group(0) @binding(4) var<storage, read_write> words_out: array<f32>;

const ELEMENTS = EDGE * EDGE;
const FACTORS = 6u * ELEMENTS;

var<workgroup> factors: array<f16, FACTORS>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) thread: u32,
        @builtin(subgroup_id) subgroup: u32) {
    for (var n = thread; n < FACTORS; n += THREADS) {
        factors[n] = f16(words_in[n]);
    }
    workgroupBarrier();
    // A loop, because matrices are worked on in control flow that is the same for a whole subgroup, which a branch would
    // have to prove.
    let end = min(subgroup + 1u, SUBGROUPS);
    for (var strip = subgroup; strip < end; strip++) {
        let a0 = coopLoadT<MatrixA>(&factors[0], EDGE);
        let a1 = coopLoadT<MatrixA>(&factors[ELEMENTS], EDGE);
        let b0 = coopLoadT<MatrixB>(&factors[2u * ELEMENTS], EDGE);
        let b1 = coopLoadT<MatrixB>(&factors[3u * ELEMENTS], EDGE);
        let b2 = coopLoadT<MatrixB>(&factors[4u * ELEMENTS], EDGE);
        let b3 = coopLoadT<MatrixB>(&factors[5u * ELEMENTS], EDGE);
        var c00 = MatrixC();
        var c01 = MatrixC();
        var c02 = MatrixC();
        var c03 = MatrixC();
        var c10 = MatrixC();
        var c11 = MatrixC();
        var c12 = MatrixC();
        var c13 = MatrixC();
        for (var n = 0u; n < ROUNDS; n++) {
            c00 = coopMultiplyAdd(a0, b0, c00);
            c01 = coopMultiplyAdd(a0, b1, c01);
            c02 = coopMultiplyAdd(a0, b2, c02);
            c03 = coopMultiplyAdd(a0, b3, c03);
            c10 = coopMultiplyAdd(a1, b0, c10);
            c11 = coopMultiplyAdd(a1, b1, c11);
            c12 = coopMultiplyAdd(a1, b2, c12);
            c13 = coopMultiplyAdd(a1, b3, c13);
        }
        let total = ((c00 + c01) + (c02 + c03)) + ((c10 + c11) + (c12 + c13));
        coopStoreT(total, &words_out[(workgroup.x * SUBGROUPS + strip) * ELEMENTS], EDGE);
    }
}
