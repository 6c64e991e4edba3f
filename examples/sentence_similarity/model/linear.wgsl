// A linear layer, with the activation of BERT's feed-forward layers if `gelu` is not 0:
//
//     y[t, o] = f(Σ_i x[t, i] · weight[i, o] + bias[o])
//     f(a) = a, or a·Φ(a), Φ being the normal distribution's cumulative function
//
// Weights lie with neighbouring outputs side by side, so that neighbouring invocations read neighbouring addresses. Each
// invocation keeps a block of 8 rows by 8 outputs in registers, as four matrices, and shares nothing: grid
// (⌈outputs / 64⌉, ⌈rows / 64⌉) of 8 × 8. Rows and outputs behind the last are worked out as the last, and not stored.

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
    let row = at.y * 8u;
    let column = at.x * 2u;

    // A matrix's columns are rows of y.
    var y00 = biases(column);
    var y01 = biases(column + 1u);
    var y10 = y00;
    var y11 = y01;
    for (var i = 0u; i < p.inputs; i++) {
        let w0 = weights(i, column);
        let w1 = weights(i, column + 1u);
        let x0 = four_rows(row, i);
        let x1 = four_rows(row + 4u, i);
        y00 += w0 * x0;
        y01 += w1 * x0;
        y10 += w0 * x1;
        y11 += w1 * x1;
    }
    store(row, column, y00);
    store(row, column + 1u, y01);
    store(row + 4u, column, y10);
    store(row + 4u, column + 1u, y11);
}

fn biases(column: u32) -> mat4x4f {
    let b = bias[min(column, p.outputs - 1u)];
    return mat4x4f(b, b, b, b);
}

// Four inputs by four outputs, from input 4·i on.
fn weights(i: u32, column: u32) -> mat4x4f {
    let first = 4u * i * p.outputs + min(column, p.outputs - 1u);
    return mat4x4f(
        weight[first],
        weight[first + p.outputs],
        weight[first + 2u * p.outputs],
        weight[first + 3u * p.outputs],
    );
}

// Four inputs of four rows, from input 4·i on.
fn four_rows(row: u32, i: u32) -> mat4x4f {
    let last = p.rows - 1u;
    return mat4x4f(
        x[min(row, last) * p.inputs + i],
        x[min(row + 1u, last) * p.inputs + i],
        x[min(row + 2u, last) * p.inputs + i],
        x[min(row + 3u, last) * p.inputs + i],
    );
}

fn store(row: u32, column: u32, block: mat4x4f) {
    var rows = block;
    for (var r = 0u; r < 4u; r++) {
        if row + r < p.rows && column < p.outputs {
            y[(row + r) * p.outputs + column] = activation(rows[r]);
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
