// What the kernels that score share: which rows there are, which lists they belong to, and where their scores go.
//
// Rows are counted over a head, or with INTERLEAVED over a KV head: its query heads, then those of the next query.
// Neighbouring entries' scores of a list lie side by side:
//
//   scores     f32 [batch, heads or KV heads, lists of a head, list_entries], as bits: −∞ for what no row of the list
//              sees, +∞ for what is kept in any case
@group(0) @binding(4) var<storage, read_write> scores: array<u32>;

// A score that stands for +∞, and what counts as it.
const KEPT: f32 = 1e30;
const KEPT_ABOVE: f32 = 5e29;
const POSITIVE_INFINITY_BITS: u32 = 0x7f800000u;

// Query heads that take turns.
fn heads_in_turn() -> u32 {
    return select(1u, params.group, INTERLEAVED);
}

fn query_of(row: u32) -> u32 {
    return params.first_query + row / heads_in_turn();
}

// Of the head or KV head that is number y of the part.
fn head_of(y: u32, row: u32) -> u32 {
    return params.first_head + y * heads_in_turn() + row % heads_in_turn();
}

// Element index of a row's query, in the batch entry that starts at `base`.
fn query_at(base: u32, y: u32, row: u32) -> u32 {
    return base + (head_of(y, row) - params.first_head) * params.q_head
        + (query_of(row) - params.first_query) * params.q_seq;
}

// Index of the first score of the list that a row belongs to.
fn scores_at(b: u32, h: u32, i: u32) -> u32 {
    return params.list_base + (b - params.first_batch) * params.list_batch
        + (h / params.list_group - params.first_head / params.list_group) * params.list_head
        + (i / params.query_block - params.first_query / params.query_block) * params.list_row;
}

// With DIAGONAL, places that hold the row's own position are kept in any case, if they are candidates at all.
fn or_kept(score: f32, place: u32, row: Row) -> f32 {
    let entry = i32(place / ENTRY_PLACES * ENTRY_PLACES * PLACE_KEYS);
    let own = row.position >= entry && row.position < entry + i32(BLOCK_SIZE);
    return select(score, KEPT, DIAGONAL && own && score >= MASKED_BELOW);
}

fn store_score(index: u32, score: f32) {
    var bits = bitcast<u32>(score);
    if (score < MASKED_BELOW) {
        bits = NEGATIVE_INFINITY_BITS;
    }
    if (score > KEPT_ABOVE) {
        bits = POSITIVE_INFINITY_BITS;
    }
    scores[index] = bits;
}
