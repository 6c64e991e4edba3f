// o_ic = Σ_j w_ij v_jc, one invocation an element. weights: [H, N, N]; v, o: [H, N, D].
struct Params { n: u32, d: u32, causal: u32, scale: f32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> weights: array<f32>;
@group(0) @binding(2) var<storage, read> v: array<f32>;
@group(0) @binding(3) var<storage, read_write> o: array<f32>;

@compute @workgroup_size(16, 16)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let c = id.x;
    let i = id.y;
    let head = id.z;
    if i >= params.n || c >= params.d {
        return;
    }
    let row = (head * params.n + i) * params.n;
    let visible = select(params.n, i + 1u, params.causal != 0u);
    var sum = 0.0;
    for (var j = 0u; j < visible; j++) {
        sum += weights[row + j] * v[(head * params.n + j) * params.d + c];
    }
    o[(head * params.n + i) * params.d + c] = sum;
}
