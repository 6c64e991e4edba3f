// Softmax of each row of scores [H, N, N] in place, one invocation a row.
struct Params { n: u32, d: u32, causal: u32, scale: f32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> scores: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let i = id.x;
    let head = id.y;
    if i >= params.n {
        return;
    }
    let row = (head * params.n + i) * params.n;
    let visible = select(params.n, i + 1u, params.causal != 0u);
    var highest = scores[row];
    for (var j = 1u; j < visible; j++) {
        highest = max(highest, scores[row + j]);
    }
    var sum = 0.0;
    for (var j = 0u; j < visible; j++) {
        let e = exp(scores[row + j] - highest);
        scores[row + j] = e;
        sum += e;
    }
    for (var j = 0u; j < visible; j++) {
        scores[row + j] /= sum;
    }
}
