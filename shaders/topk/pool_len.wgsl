// Keys that a batch entry has: `kv_len`, a word each, inside 0..=keys whatever it holds.
@group(0) @binding(3) var<storage, read> kv_len: array<i32>;

fn keys_of(b: u32) -> u32 {
    return u32(clamp(kv_len[params.kv_len_base + b], 0, i32(params.keys)));
}
