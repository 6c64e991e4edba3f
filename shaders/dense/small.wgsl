// The short vectors (kv_len, cu_seqlens, ALiBi slopes, sinks): one buffer of 32-bit words, each vector at an offset
// from `params`. A single vector is bound where the caller has it; several are first brought together by
// `shared/copy_words.wgsl`, so that all options at once stay within eight storage buffers.
@group(0) @binding(8) var<storage, read> small: array<u32>;

fn small_word(index: u32) -> u32 {
    return small[index];
}
