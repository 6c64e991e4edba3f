// Packed documents: i32 [documents + 1]. Whatever it holds, no token outside 0..tokens is touched.
@group(0) @binding(8) var<storage, read> cu_seqlens: array<i32>;

fn document_start(n: u32) -> u32 {
    return u32(clamp(cu_seqlens[params.cu_base + n], 0, i32(params.tokens)));
}
