// The upper bound Σ_d max(q_d·min_d, q_d·max_d) as a product of vectors twice as long:
//   (max(q, 0), min(q, 0)) · (max, min)
const QUERY_VECS = (HEAD_DIM + 3u) / 4u;
const HEAD_VECS = 2u * QUERY_VECS;

fn q_vec(at: u32, vec: u32) -> vec4<f32> {
    let v = vec % QUERY_VECS;
    let value = q4(at + v * 4u, HEAD_DIM - v * 4u) * params.q_scale;
    if (vec < QUERY_VECS) {
        return max(value, vec4<f32>());
    }
    return min(value, vec4<f32>());
}

fn k_vec(at: u32, vec: u32) -> vec4<f32> {
    return pooled[(at >> 2u) + vec];
}
