// The device's f32 multiply-add rate: eight independent chains an invocation, enough to cover the latency of one, each
// ROUNDS × 8 long. 2·64·ROUNDS·8·8 operations a workgroup of 64. The multiplier is read from memory so that nothing can
// be folded, and the result is written so that nothing can be dropped.
@group(0) @binding(1) var<storage, read> words_in: array<f32>;
@group(0) @binding(4) var<storage, read_write> words_out: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let a = words_in[0];
    let b = words_in[1];
    var x0 = f32(id.x);
    var x1 = x0 + 1.0;
    var x2 = x0 + 2.0;
    var x3 = x0 + 3.0;
    var x4 = x0 + 4.0;
    var x5 = x0 + 5.0;
    var x6 = x0 + 6.0;
    var x7 = x0 + 7.0;
    for (var n = 0u; n < ROUNDS; n++) {
        for (var u = 0u; u < 8u; u++) {
            x0 = fma(x0, a, b);
            x1 = fma(x1, a, b);
            x2 = fma(x2, a, b);
            x3 = fma(x3, a, b);
            x4 = fma(x4, a, b);
            x5 = fma(x5, a, b);
            x6 = fma(x6, a, b);
            x7 = fma(x7, a, b);
        }
    }
    words_out[id.x] = ((x0 + x1) + (x2 + x3)) + ((x4 + x5) + (x6 + x7));
}
