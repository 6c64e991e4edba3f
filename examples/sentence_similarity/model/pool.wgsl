// The embedding of a text: the mean of its tokens, divided by its length.
//
//     m[c] = Σ_t hidden[t, c] / tokens
//     embedding[s, c] = m[c] / max(‖m‖, 1e-12)
//
// All rows are `columns` vectors of four. A workgroup takes a text: grid (1, texts).

struct Params {
    columns: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
// The first row of each text and the number of its rows, at least 1.
@group(0) @binding(1) var<storage, read> spans: array<vec2u>;
@group(0) @binding(2) var<storage, read> hidden: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> embedding: array<vec4f>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    let span = spans[group.y];
    let out = group.y * p.columns;

    var squares = 0.0;
    for (var c = lane; c < p.columns; c += LANES) {
        var mean = vec4f();
        for (var t = span.x; t < span.x + span.y; t++) {
            mean += hidden[t * p.columns + c];
        }
        mean /= f32(span.y);
        embedding[out + c] = mean;
        squares += dot(mean, mean);
    }
    let factor = 1.0 / max(sqrt(total(lane, squares)), 1e-12);
    for (var c = lane; c < p.columns; c += LANES) {
        embedding[out + c] *= factor;
    }
}
