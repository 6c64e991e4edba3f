// What changes from call to call. Written by `src/ops/dense/params.rs`, whose test compares every offset.
//
// A call too large for one dispatch or one binding runs as several parts; a part is a box of batch entries, query
// heads and query rows. Buffers are bound at the part's own window, so `*_base` and the strides address from there
// with indices counted from `first_batch` and `first_head`, while positions, biases and masks use whole indices.
// All strides and bases are in elements of the tensor.
struct Params {
    first_batch: u32,
    first_head: u32,
    first_query: u32,
    end_query: u32,

    queries: u32,
    keys: u32,
    heads: u32,
    group: u32,

    q_base: u32,
    q_batch: u32,
    q_head: u32,
    q_seq: u32,

    k_base: u32,
    k_batch: u32,
    k_head: u32,
    k_seq: u32,

    v_base: u32,
    v_batch: u32,
    v_head: u32,
    v_seq: u32,

    o_base: u32,
    o_batch: u32,
    o_head: u32,
    o_seq: u32,

    bias_base: u32,
    bias_batch: u32,
    bias_head: u32,
    bias_query: u32,

    mask_base: u32,
    mask_batch: u32,
    mask_head: u32,
    mask_query: u32,

    lse_base: u32,
    kv_len_at: u32,
    cu_q_at: u32,
    cu_k_at: u32,

    alibi_at: u32,
    sinks_at: u32,
    documents: u32,
    q_offset_given: u32,

    q_offset: i32,
    left: i32,
    right: i32,
    ahead: i32,

    sink_tokens: i32,
    prefix: i32,
    q_scale: f32,
    softcap: f32,

    weight_bias: f32,
    splits: u32,
    rows: u32,
    list_base: u32,

    list_batch: u32,
    list_head: u32,
    list_row: u32,
    list_group: u32,

    list_capacity: u32,
    list_entries: u32,
    query_block: u32,
    // 0, which only the host knows.
    zero: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
