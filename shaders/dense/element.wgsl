// Masks of single elements, and where an element lies in the tensors and for code of the caller's.

// Masks that no row or tile arithmetic can decide.
fn element_visible(b: u32, h: u32, i: u32, j: u32, row: Row) -> bool {
    var seen = true;
    if (HAS_MASK) {
        seen = mask_at(local_index(params.mask_base, params.mask_batch, params.mask_head, params.mask_query, b, h, i) + j);
    }
    if (CUSTOM_MASK) {
        seen = seen && mask(position_of(b, h, i, j, row));
    }
    return seen;
}

// Where the row of batch entry b, head h and query i starts in a tensor bound at this part's window.
fn local_index(base: u32, batch: u32, head: u32, query: u32, b: u32, h: u32, i: u32) -> u32 {
    return base + (b - params.first_batch) * batch + (h - params.first_head) * head + (i - params.first_query) * query;
}

fn position_of(b: u32, h: u32, i: u32, j: u32, row: Row) -> Position {
    return Position(b, h, h / params.group, i, j, row.position - row.origin, i32(j) - row.origin);
}
