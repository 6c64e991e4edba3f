// Rows of o that belong to no document.

// 0 to the tokens of o from `from_token` on, of `width` vectors of columns from `first_vec` on.
fn clear(from_token: u32, to_token: u32, base: u32, first_vec: u32, width: u32, thread: u32) {
    for (var w = from_token * width + thread; w < to_token * width; w += THREADS) {
        let vec = first_vec + w % width;
        if (vec < VALUE_VECS_ALL) {
            store_o4(base + (w / width) * params.o_seq + vec * 4u, vec4<f32>(), VALUE_DIM - vec * 4u);
        }
    }
}

// The workgroups of the first document's first span clear what is before it, those of the last document's last span what
// is behind it.
fn clear_outside(span: Span, base: u32, first_vec: u32, width: u32, thread: u32) {
    if (DOCUMENTS) {
        if (span.sequence == 0u && span.slot == span.first) {
            clear(0u, span.start, base, first_vec, width, thread);
        }
        let end = max(document_start(params.documents), span.end);
        if (span.sequence + 1u == params.documents && (!SPLIT || span.end == end)) {
            clear(end, params.tokens, base, first_vec, width, thread);
        }
    }
}
