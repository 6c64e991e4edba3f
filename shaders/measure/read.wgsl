// Read bandwidth: every invocation adds up WORDS 16-byte words, neighbouring invocations neighbouring words, and
// writes one number, so that nothing can be dropped.
@group(0) @binding(1) var<storage, read> words_in: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> words_out: array<f32>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let first = workgroup.x * 256u * WORDS + thread;
    var sum = vec4<f32>();
    for (var n = 0u; n < WORDS; n++) {
        sum += words_in[first + n * 256u];
    }
    words_out[workgroup.x * 256u + thread] = (sum.x + sum.y) + (sum.z + sum.w);
}
