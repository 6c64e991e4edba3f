// Whether a step of a walk over all keys takes no masks, by bounds that are found once: keys from `start` to `end` − 1, and of
// the document's those below `head_end`, are seen by all rows of a strip (`sees_all` says the same of one step).
struct Whole {
    start: i32,
    end: i32,
    head_start: i32,
    head_end: i32,
}

fn whole_of(first: Row, last: Row, one_document: bool) -> Whole {
    if (ELEMENT_MASK || !one_document) {
        return Whole(1, 0, 1, 0);
    }
    let ahead = first.position + params.ahead + 1;
    let sinks = min(first.lo + params.sink_tokens, ahead);
    return Whole(max(first.lo, last.position - params.left), min(first.hi, min(first.position + params.right + 1, ahead)),
        first.lo, min(first.hi, max(sinks, first.lo + params.prefix)));
}

fn is_whole(whole: Whole, list: List, clean: bool, t: u32, p0: u32, p1: u32) -> bool {
    let j0 = i32(p0);
    let j1 = i32(p1);
    return (j0 >= whole.start && j1 <= whole.end) || (j0 >= whole.head_start && j1 <= whole.head_end);
}
