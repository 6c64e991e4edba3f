// The caller's own φ, element by element.
fn feature4(x: vec4<f32>, at: Channel) -> vec4<f32> {
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
