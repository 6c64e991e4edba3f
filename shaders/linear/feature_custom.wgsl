// The caller's own φ, element by element. KV heads come counted from the first of the part, and are told as those of the problem.
fn feature4(x: vec4<f32>, place: Channel) -> vec4<f32> {
    var at = place;
    if (!at.is_query) {
        at.head += params.first_head / params.group;
    }
    var next = at;
    var y = vec4<f32>(feature(x.x, at), 0.0, 0.0, 0.0);
    if (at.channel + 1u < HEAD_DIM) {
        next.channel = at.channel + 1u;
        y.y = feature(x.y, next);
    }
    if (at.channel + 2u < HEAD_DIM) {
        next.channel = at.channel + 2u;
        y.z = feature(x.z, next);
    }
    if (at.channel + 3u < HEAD_DIM) {
        next.channel = at.channel + 3u;
        y.w = feature(x.w, next);
    }
    return y;
}
