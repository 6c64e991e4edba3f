// A linear layer, with the activation of BERT's feed-forward layers if `gelu` is not 0:
//
//     y[t, o] = f(Σ_i x[t, i] · weight[i, o] + bias[o])
//     f(a) = a, or a·Φ(a), Φ being the normal distribution's cumulative function
//
// Weights lie with neighbouring outputs side by side, so that neighbouring invocations read neighbouring addresses. Each
// invocation keeps ROWS × 4 outputs in registers and shares nothing: grid (⌈outputs / 32⌉, ⌈rows / (8·ROWS)⌉) of 8 × 8.

const ROWS: u32 = 8u;

struct Params {
    rows: u32,
    // Vectors of four in a row of x, and of y.
    inputs: u32,
    outputs: u32,
    gelu: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var<storage, read> weight: array<vec4f>;
@group(0) @binding(3) var<storage, read> bias: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> y: array<vec4f>;

@compute @workgroup_size(8, 8)
fn main(@builtin(global_invocation_id) at: vec3u) {
    let column = at.x;
    let first = at.y * ROWS;
    if column >= p.outputs || first >= p.rows {
        return;
    }
    var sums: array<vec4f, ROWS>;
    for (var r = 0u; r < ROWS; r++) {
        sums[r] = bias[column];
    }
    for (var i = 0u; i < p.inputs; i++) {
        let w = 4u * i * p.outputs + column;
        let w0 = weight[w];
        let w1 = weight[w + p.outputs];
        let w2 = weight[w + 2u * p.outputs];
        let w3 = weight[w + 3u * p.outputs];
        for (var r = 0u; r < ROWS; r++) {
            // Rows behind the last one are worked out as the last one, and not stored.
            let a = x[min(first + r, p.rows - 1u) * p.inputs + i];
            sums[r] += a.x * w0 + a.y * w1 + a.z * w2 + a.w * w3;
        }
    }
    for (var r = 0u; r < ROWS; r++) {
        if first + r < p.rows {
            y[(first + r) * p.outputs + column] = activation(sums[r]);
        }
    }
}

fn activation(a: vec4f) -> vec4f {
    if p.gelu == 0u {
        return a;
    }
    let half = sqrt(0.5);
    return 0.5 * a * (1.0 + vec4f(erf(half * a.x), erf(half * a.y), erf(half * a.z), erf(half * a.w)));
}

// The error function to 1e-7: polynomials of its own near 0, and of ln(1 − erf) beyond, after N. Juffa's `erff`.
fn erf(x: f32) -> f32 {
    // From 4 on it is 1 in f32.
    let t = min(abs(x), 4.0);
    let s = t * t;
    if t < 0.927734375 {
        var r = fma(-5.96761703e-4, s, 4.99119423e-3);
        r = fma(r, s, -2.67681349e-2);
        r = fma(r, s, 1.12819925e-1);
        r = fma(r, s, -3.76125336e-1);
        r = fma(r, s, 1.28379166e-1);
        return fma(r, x, x);
    }
    var r = fma(-1.72853470e-5, t, 3.83197126e-4);
    r = fma(r, s, fma(-3.88396438e-3, t, 2.42546219e-2));
    r = fma(r, t, -1.06777877e-1);
    r = fma(r, t, -6.34846687e-1);
    r = fma(r, t, -1.28717512e-1);
    r = fma(r, t, -t);
    return sign(x) * (1.0 - exp(r));
}
