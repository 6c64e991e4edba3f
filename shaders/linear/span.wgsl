// The tokens that a workgroup works on: a sequence (a batch entry or a packed document), or one of the segments into
// which sequences are cut when they are computed side by side (SPLIT).
//
//   sequence   its index
//   start, end tokens, counted over all documents
//   slot       the segment's index among the sequence's (among those of all documents, if packed)
//   first      that of the sequence's first segment
struct Span {
    sequence: u32,
    start: u32,
    end: u32,
    slot: u32,
    first: u32,
}

// Segments of a document: one at least, so that an empty one hands its state on too.
fn segments_of(tokens: u32) -> u32 {
    return max((tokens + params.segment - 1u) / params.segment, 1u);
}

// `batch` is the workgroup's batch entry, or its document where documents are not cut.
fn span_of(batch: u32, segment: u32) -> Span {
    if (!DOCUMENTS) {
        let start = segment * params.segment;
        return Span(batch, start, min(start + params.segment, params.tokens), segment, 0u);
    }
    if (!SPLIT) {
        let start = document_start(batch);
        return Span(batch, start, max(document_start(batch + 1u), start), 0u, 0u);
    }
    // Documents cut into segments: the document that has this one.
    var first = 0u;
    for (var n = 0u; n < params.documents; n++) {
        let start = document_start(n);
        let end = max(document_start(n + 1u), start);
        let own = segments_of(end - start);
        if (segment < first + own) {
            let from_token = start + (segment - first) * params.segment;
            return Span(n, from_token, min(from_token + params.segment, end), segment, first);
        }
        first += own;
    }
    // Beyond the last one: nothing to do.
    return Span(params.documents, params.tokens, params.tokens, segment, first);
}
