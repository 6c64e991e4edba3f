// Whether a step of a walk over listed keys takes no masks: asked for each.
struct Whole {
    first: Row,
    last: Row,
    one_document: bool,
}

fn whole_of(first: Row, last: Row, one_document: bool) -> Whole {
    return Whole(first, last, one_document);
}

fn is_whole(whole: Whole, list: List, clean: bool, t: u32, p0: u32, p1: u32) -> bool {
    return whole_tile(list, clean, whole.first, whole.last, whole.one_document, t, p0, p1);
}
