// s_ij = scale · q_i·k_j, one invocation a score. q, k: [H, N, D]; scores: [H, N, N].
struct Params { n: u32, d: u32, causal: u32, scale: f32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> q: array<f32>;
@group(0) @binding(2) var<storage, read> k: array<f32>;
@group(0) @binding(3) var<storage, read_write> scores: array<f32>;

@compute @workgroup_size(16, 16)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let j = id.x;
    let i = id.y;
    let head = id.z;
    if i >= params.n || j >= params.n || (params.causal != 0u && j > i) {
        return;
    }
    let q_row = (head * params.n + i) * params.d;
    let k_row = (head * params.n + j) * params.d;
    var dot = 0.0;
    for (var c = 0u; c < params.d; c++) {
        dot += q[q_row + c] * k[k_row + c];
    }
    scores[(head * params.n + i) * params.n + j] = dot * params.scale;
}
