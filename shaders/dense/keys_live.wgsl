// Which keys a tile of rows visits: those of the tiles that masks leave, found by `dense/live.wgsl`. A list's entries are
// tiles of BLOCK_SIZE keys, each ENTRY_TILES of the kernel's own. A place is a key.
//
//   lists      u32 [batch or 1, heads or KV heads or 1, row tiles, a count, then as many entries]
#import dense/live_entry

@group(0) @binding(9) var<storage, read> lists: array<u32>;

struct List {
    // Index of the entry count.
    at: u32,
    count: u32,
}

fn list_of(b: u32, h: u32, i: u32, row_tile: u32) -> List {
    let at = params.list_base + (b - params.first_batch) * params.list_batch
        + (h / params.list_group - params.first_head / params.list_group) * params.list_head + row_tile * params.list_row;
    return List(at, lists[at]);
}

fn tiles_to_visit(list: List, first: Row, last: Row, one_document: bool, tile: u32) -> Tiles {
    return Tiles(0u, 0u, 0u, list.count * ENTRY_TILES);
}

// The entry of a tile, or, for one or two past the end, of which kernels load what they do not use, any word: a list has
// room for two entries more than there are tiles.
fn entry_of(list: List, t: u32) -> u32 {
    return lists[list.at + 1u + t / ENTRY_TILES];
}

fn place_of(list: List, t: u32, tile: u32) -> u32 {
    return (entry_of(list, t) & TILE_NUMBER) * BLOCK_SIZE + t % ENTRY_TILES * tile;
}

fn key_at(list: List, place: u32) -> u32 {
    return place;
}

fn whole_tile(list: List, clean: bool, first: Row, last: Row, one_document: bool, t: u32, p0: u32, p1: u32) -> bool {
    let seen_by_all = (entry_of(list, t) & WHOLE) != 0u;
    return seen_by_all || (!ELEMENT_MASK && one_document && sees_all(first, last, i32(p0), i32(p1)));
}
