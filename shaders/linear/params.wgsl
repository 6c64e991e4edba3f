// What changes from call to call. Written by `src/ops/linear/params.rs`, whose test compares every offset.
//
// A call too large for one binding or one dispatch runs as several parts, each some batch entries and heads. Buffers
// are bound at the part's own window, so bases and strides address from there, with heads counted from
// `first_head`. All strides and bases are in elements of the tensor.
struct Params {
    first_head: u32,
    tokens: u32,
    group: u32,

    documents: u32,
    // Tokens of a segment, and segments of a sequence (of all documents together, if packed).
    segment: u32,
    segments: u32,

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

    decay_base: u32,
    decay_batch: u32,
    decay_head: u32,
    decay_seq: u32,

    // The state each sequence begins with, or each segment where they are computed side by side.
    in_base: u32,
    in_sequence: u32,
    in_head: u32,
    in_segment: u32,

    // The state each sequence ends with.
    // and, where they differ, where the initial one lies.
    out_base: u32,
    out_sequence: u32,
    out_head: u32,
    out_segment: u32,

    // Total log-decays of segments.
    total_base: u32,
    total_sequence: u32,
    total_head: u32,
    total_segment: u32,

    cu_base: u32,
    start_base: u32,
    scale: f32,
    epsilon: f32,
    // 0, which only the host knows.
    zero: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
