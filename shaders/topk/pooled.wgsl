// What stands for the blocks of keys, by `topk/pool.wgsl`.
@group(0) @binding(2) var<storage, read> pooled: array<vec4<f32>>;
