// Copy bandwidth: every invocation moves four 16-byte words, neighbouring invocations neighbouring words.
@group(0) @binding(1) var<storage, read> words_in: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read_write> words_out: array<vec4<u32>>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let at = workgroup.x * 1024u + thread;
    let w0 = words_in[at];
    let w1 = words_in[at + 256u];
    let w2 = words_in[at + 512u];
    let w3 = words_in[at + 768u];
    words_out[at] = w0;
    words_out[at + 256u] = w1;
    words_out[at + 512u] = w2;
    words_out[at + 768u] = w3;
}
