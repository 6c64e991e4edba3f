// Layer norm of a sum ("Layer Normalization", Ba et al., 2016), in place: x = hidden + update, and with the mean μ and the
// variance σ² of a row
//
//     hidden[t, c] = (x[t, c] − μ_t) / √(σ²_t + ε) · weight[c] + bias[c]
//
// All rows are `columns` vectors of four. A workgroup takes a row: grid (1, rows).

struct Params {
    columns: u32,
    epsilon: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> update: array<vec4f>;
@group(0) @binding(2) var<storage, read> weight: array<vec4f>;
@group(0) @binding(3) var<storage, read> bias: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> hidden: array<vec4f>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    let row = group.y * p.columns;
    let n = f32(p.columns * 4u);

    var sum = 0.0;
    for (var c = lane; c < p.columns; c += LANES) {
        let x = hidden[row + c] + update[row + c];
        hidden[row + c] = x;
        sum += dot(x, vec4f(1.0));
    }
    let mean = total(lane, sum) / n;

    // From the deviations, not from a sum of squares, which would cancel.
    var squares = 0.0;
    for (var c = lane; c < p.columns; c += LANES) {
        let d = hidden[row + c] - mean;
        squares += dot(d, d);
    }
    let factor = 1.0 / sqrt(total(lane, squares) / n + p.epsilon);

    for (var c = lane; c < p.columns; c += LANES) {
        hidden[row + c] = (hidden[row + c] - mean) * factor * weight[c] + bias[c];
    }
}
