// Queries, and in place of keys the means of blocks.
const HEAD_VECS = (HEAD_DIM + 3u) / 4u;

fn q_vec(at: u32, vec: u32) -> vec4<f32> {
    return q4(at + vec * 4u, HEAD_DIM - vec * 4u) * params.q_scale;
}

fn k_vec(at: u32, vec: u32) -> vec4<f32> {
    return pooled[(at >> 2u) + vec];
}
