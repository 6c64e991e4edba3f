// Four neighbouring elements of φ(q) or φ(k). Elements past the end of the row are 0, whatever φ(0) is.
//
//   base    element index of token 0's row
//   head    query head, or KV head counted from the first of the part
//   vec     which four of the row
//
// φ(q) is multiplied by the scale, unless it says unscaled.
const HEAD_QUADS = (HEAD_DIM + 3u) / 4u;

fn without_padding(x: vec4<f32>, count: u32) -> vec4<f32> {
    if (HEAD_DIM % 4u == 0u) {
        return x;
    }
    return select(vec4<f32>(), x, vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(count));
}

fn unscaled_feature_q(base: u32, head: u32, token: u32, vec: u32) -> vec4<f32> {
    let count = HEAD_DIM - vec * 4u;
    let x = q4(base + token * params.q_seq + vec * 4u, count);
    return without_padding(feature4(x, Channel(head, token, vec * 4u, true)), count);
}

fn feature_q(base: u32, head: u32, token: u32, vec: u32) -> vec4<f32> {
    return unscaled_feature_q(base, head, token, vec) * params.scale;
}

fn feature_k(base: u32, head: u32, token: u32, vec: u32) -> vec4<f32> {
    let count = HEAD_DIM - vec * 4u;
    let x = k4(base + token * params.k_seq + vec * 4u, count);
    return without_padding(feature4(x, Channel(head, token, vec * 4u, false)), count);
}
