// Where a score stands, for the caller's own code. `batch`, `head`, `kv_head`, `query` and `key` are indices into
// the tensors; `query_pos` and `key_pos` are positions inside the own document, with `q_offset` applied.
struct Position {
    batch: u32,
    head: u32,
    kv_head: u32,
    query: u32,
    key: u32,
    query_pos: i32,
    key_pos: i32,
}
