// Which keys a tile of rows visits: all that its positions leave. Place n of the walk is key n.
//
// The three pieces of this kind declare the same: `list_of` the batch entry, head, first query and number of a tile of
// rows; the tiles to visit; the first place of a tile; the key at a place; and whether a tile, from place p0 to p1 − 1,
// takes no masks.
alias List = u32;

fn list_of(b: u32, h: u32, i: u32, row_tile: u32) -> List {
    return 0u;
}

fn tiles_to_visit(list: List, first: Row, last: Row, one_document: bool, tile: u32) -> Tiles {
    return tiles_of(first, last, one_document, tile);
}

fn place_of(list: List, t: u32, tile: u32) -> u32 {
    return t * tile;
}

fn key_at(list: List, place: u32) -> u32 {
    return place;
}

// Whether every row from `first` to `last` sees the keys at all places from p0 to p1 − 1.
fn whole_tile(list: List, clean: bool, first: Row, last: Row, one_document: bool, t: u32, p0: u32, p1: u32) -> bool {
    return !ELEMENT_MASK && one_document && sees_all(first, last, i32(p0), i32(p1));
}
