// The device's f16 multiply-add rate, in pairs: as fma.wgsl, each of the eight chains two numbers wide. 2·2·64·ROUNDS·8·8
// operations a workgroup of 64.
@group(0) @binding(1) var<storage, read> words_in: array<f32>;
@group(0) @binding(4) var<storage, read_write> words_out: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let a = vec2<f16>(f16(words_in[0]));
    let b = vec2<f16>(f16(words_in[1]));
    // Small whole numbers, which f16 holds exactly.
    let start = f16(id.x % 64u);
    var x0 = vec2<f16>(start, start + 1.0h);
    var x1 = x0 + 1.0h;
    var x2 = x0 + 2.0h;
    var x3 = x0 + 3.0h;
    var x4 = x0 + 4.0h;
    var x5 = x0 + 5.0h;
    var x6 = x0 + 6.0h;
    var x7 = x0 + 7.0h;
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
    let low = (vec2<f32>(x0) + vec2<f32>(x1)) + (vec2<f32>(x2) + vec2<f32>(x3));
    let high = (vec2<f32>(x4) + vec2<f32>(x5)) + (vec2<f32>(x6) + vec2<f32>(x7));
    words_out[id.x] = (low.x + low.y) + (high.x + high.y);
}
